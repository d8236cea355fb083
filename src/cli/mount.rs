//! A mount, used by its files and by nothing else.

use super::exit::{Exit, Failure};
use super::sheet::Sheet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The environment variable that names the mount.
pub const MOUNT_VARIABLE: &str = "STANDBYFS_MOUNT";
/// No file of the mount but images is larger than this: events are the longest.
const TEXT_MAX: usize = 128 << 20;

/// What came of a line written to a control file.
#[derive(Debug)]
pub struct Exchange {
    /// What write(2) said.
    pub written: io::Result<()>,
    /// What the same handle showed afterwards.
    pub shown: String,
}

/// Writes a line to a control file and reads the answer on the same handle.
pub trait Control {
    /// One command: one open, one write.
    fn exchange(&self, path: &Path, line: &str) -> io::Result<Exchange>;
}

/// The files as they are.
pub struct Files;

impl Control for Files {
    fn exchange(&self, path: &Path, line: &str) -> io::Result<Exchange> {
        let mut file = File::options().read(true).write(true).open(path)?;
        // One write: the first one decides, so it must hold the whole line. The same line again, after an
        // interruption, gets the same answer.
        let bytes = format!("{line}\n");
        let written = loop {
            match file.write(bytes.as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(count) if count < bytes.len() => {
                    break Err(io::Error::new(io::ErrorKind::WriteZero, "the line was taken in part only"));
                }
                other => break other.map(|_| ()),
            }
        };
        let shown = match (&written, read_whole(&file)) {
            (_, Ok(shown)) => shown,
            // The refusal is what counts.
            (Err(_), Err(_)) => String::new(),
            (Ok(()), Err(error)) => {
                let what = format!("the command was accepted, but its answer can't be read: {error}");
                return Err(io::Error::new(error.kind(), what));
            }
        };
        Ok(Exchange { written, shown })
    }
}

/// Reads to the end whatever the size says.
fn read_whole(file: &File) -> io::Result<String> {
    let mut bytes = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        match file.read_at(&mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if length >= TEXT_MAX {
            break;
        }
        if length == bytes.len() {
            bytes.resize(length * 2, 0);
        }
    }
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// A mount.
pub struct Mount {
    root: PathBuf,
    control: Box<dyn Control>,
}

impl Mount {
    /// The mount with this root.
    pub fn new(root: impl Into<PathBuf>, control: Box<dyn Control>) -> Self {
        Self { root: root.into(), control }
    }

    /// The mount to use: the one named, else the one that the working directory lies in, else the only one there is.
    pub fn find(named: Option<&Path>, here: &Path, mounts: &str) -> Result<Self, Failure> {
        let of = |root: &Path| Self::new(root, Box::new(Files));
        if let Some(root) = named {
            return if is_mount(root) {
                Ok(of(root))
            } else {
                let what = format!("{} is no standbyfs mount: it has no site/status", root.display());
                Err(Failure::new(Exit::NotFound, what))
            };
        }
        if let Some(root) = here.ancestors().find(|dir| is_mount(dir)) {
            return Ok(of(root));
        }
        match mounted(mounts).as_slice() {
            [root] => Ok(of(root)),
            [] => Err(Failure::new(
                Exit::NotFound,
                format!("no standbyfs is mounted here; name one with --mount or {MOUNT_VARIABLE}"),
            )),
            several => {
                let list: Vec<String> = several.iter().map(|m| m.display().to_string()).collect();
                let what = format!("several are mounted ({}); choose one with --mount", list.join(", "));
                Err(Failure::new(Exit::Usage, what))
            }
        }
    }

    /// The path of a file in it.
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.root.join(file)
    }

    /// The text of a file.
    pub fn read(&self, file: impl AsRef<Path>) -> Result<String, Failure> {
        let path = self.path(file);
        File::open(&path).and_then(|f| read_whole(&f)).map_err(|e| Failure::io(&e, path.display()))
    }

    /// A file of `key: value` lines.
    pub fn sheet(&self, file: impl AsRef<Path>) -> Result<Sheet, Failure> {
        Ok(Sheet::parse(&self.read(file)?))
    }

    /// Names in a directory, sorted; a missing directory is empty.
    pub fn list(&self, dir: impl AsRef<Path>) -> Result<Vec<String>, Failure> {
        let path = self.path(dir);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::io(&error, path.display())),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Failure::io(&e, path.display()))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// The directory of a VM or a group: `vms/<name>` or `groups/<name>`.
    pub fn item(&self, name: &str) -> Result<String, Failure> {
        let plain = !name.is_empty() && !name.contains('/') && !matches!(name, "." | "..");
        for kind in ["vms", "groups"] {
            let dir = format!("{kind}/{name}");
            if plain && self.path(&dir).is_dir() {
                return Ok(dir);
            }
        }
        let mut known = self.list("vms")?;
        known.extend(self.list("groups")?);
        let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
        Err(Failure::new(Exit::NotFound, format!("there is no VM or group `{name}`; known: {known}")))
    }

    /// Writes a line to a control file and says what came of it.
    pub fn command(&self, file: &str, line: &str) -> Result<Answer, Failure> {
        let path = self.path(file);
        let exchange =
            self.control.exchange(&path, line).map_err(|error| Failure::io(&error, path.display()))?;
        let sheet = Sheet::parse(&exchange.shown);
        let text = |key: &str| sheet.get(key).unwrap_or_default().to_owned();
        if let Err(error) = exchange.written {
            return Err(match sheet.get("outcome-refusal") {
                Some(name) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EPERM);
                    Failure::refused(name, &text("outcome-why"), &text("outcome-do"), errno)
                }
                None => Failure::io(&error, path.display()),
            });
        }
        match sheet.get("outcome") {
            Some("accepted") => Ok(Answer::Job(text("outcome-job"))),
            Some("dry-run") => {
                let steps = sheet.rows("outcome-step").filter_map(|row| row.get("does").map(str::to_owned));
                Ok(Answer::WouldDo { steps: steps.collect(), outage: text("outcome-outage") })
            }
            _ => Ok(Answer::Done(text("outcome-says"))),
        }
    }
}

/// What came of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// A job carries it out.
    Job(String),
    /// It is done.
    Done(String),
    /// What would happen.
    WouldDo {
        /// The steps.
        steps: Vec<String>,
        /// The expected outage.
        outage: String,
    },
}

fn is_mount(dir: &Path) -> bool {
    dir.join("site/status").is_file() && dir.join("vms").is_dir()
}

/// Mount points of standbyfs in the text of `/proc/self/mounts`.
fn mounted(mounts: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        if let (Some(point), Some("fuse.standbyfs")) = (fields.nth(1), fields.next()) {
            let point = PathBuf::from(unescaped(point));
            if !found.contains(&point) {
                found.push(point);
            }
        }
    }
    found
}

/// Blanks, tabs, line ends and backslashes are written as three octal digits there.
fn unescaped(field: &str) -> String {
    let mut out = field.to_owned();
    for (code, c) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        fs::create_dir_all(root.join("site")).unwrap();
        fs::create_dir_all(root.join("vms/web01")).unwrap();
        let found = |named: Option<&Path>, here: &Path, mounts: &str| {
            Mount::find(named, here, mounts).map(|m| m.root).map_err(|f| f.exit)
        };
        assert_eq!(found(Some(&root), dir.path(), ""), Err(Exit::NotFound), "no site/status yet");
        fs::write(root.join("site/status"), "site: x\n").unwrap();
        assert_eq!(found(Some(&root), dir.path(), ""), Ok(root.clone()));
        assert_eq!(found(None, &root.join("vms/web01"), ""), Ok(root.clone()));
        assert_eq!(found(None, dir.path(), "proc /proc proc rw 0 0\n"), Err(Exit::NotFound));
        let one = "store /mnt/a\\040b fuse.standbyfs rw 0 0\n";
        assert_eq!(found(None, dir.path(), one), Ok(PathBuf::from("/mnt/a b")));
        assert_eq!(found(None, dir.path(), &format!("{one}{one}")), Ok(PathBuf::from("/mnt/a b")));
        let two = format!("{one}store /mnt/b fuse.standbyfs rw 0 0\n");
        assert_eq!(found(None, dir.path(), &two), Err(Exit::Usage));
    }

    #[test]
    fn one_write_holds_the_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        fs::write(&path, "").unwrap();
        let exchange = Files.exchange(&path, "latest id=1").unwrap();
        assert!(exchange.written.is_ok());
        assert_eq!(exchange.shown, "latest id=1\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "latest id=1\n");
        let missing = Files.exchange(&dir.path().join("nothing"), "x").unwrap_err();
        assert_eq!(Failure::io(&missing, "x").exit, Exit::NotFound);
    }

    #[test]
    fn long_files_are_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let text = "line\n".repeat(100_000);
        fs::write(dir.path().join("events"), &text).unwrap();
        let mount = Mount::new(dir.path(), Box::new(Files));
        assert_eq!(mount.read("events").unwrap(), text);
        assert_eq!(mount.read("nothing").unwrap_err().exit, Exit::NotFound);
        assert_eq!(mount.list("nothing").unwrap(), Vec::<String>::new());
    }
}
