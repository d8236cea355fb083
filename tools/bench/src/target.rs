//! What is compared: files on mounts that are made here and go with the comparison.

use crate::{Compare, Result, null};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// A disk to run jobs on.
pub struct Target {
    pub name: String,
    pub disk: PathBuf,
    /// Where standbyfs tells how many records and batches there were.
    status: Option<PathBuf>,
    #[expect(dead_code, reason = "ends with the target")]
    server: Option<Server>,
    /// A disk that was made in a mount that stays.
    #[expect(dead_code, reason = "goes with the target")]
    made: Option<Made>,
}

/// A file to remove at the end.
struct Made(PathBuf);

/// A process that mounts in the foreground and unmounts on SIGTERM.
struct Server(Child);

impl Target {
    /// All targets that are wanted and possible here, in the order in which they run.
    pub fn all(options: &Compare, work: &Path) -> Result<Vec<Self>> {
        let wanted = |name: &str| !options.without.iter().any(|out| out == name);
        let mut targets = Vec::new();
        if wanted("raw") {
            targets.push(Self::plain("raw", work.join("raw.img")));
        }
        for threads in &options.threads {
            let suffix = if options.threads.len() > 1 { format!("/{threads}") } else { String::new() };
            let common = [OsString::from("--threads"), threads.to_string().into()];
            if wanted("null") {
                let mount = directory(work, &format!("null-{threads}"))?;
                let size = [OsString::from("--size"), options.size.to_string().into()];
                let server = Server::own(&mount, &[&common[..], &size].concat())?;
                let disk = mount.join(null::NAME);
                targets.push(Self { server: Some(server), ..Self::plain(&format!("null{suffix}"), disk) });
            }
            if wanted("passthrough") {
                let below = directory(work, &format!("below-{threads}"))?;
                let mount = directory(work, &format!("passthrough-{threads}"))?;
                let shown = [OsString::from("--directory"), below.into()];
                let server = Server::own(&mount, &[&common[..], &shown].concat())?;
                let name = format!("passthrough{suffix}");
                targets.push(Self { server: Some(server), ..Self::plain(&name, mount.join("disk.img")) });
            }
        }
        if wanted("qemu") {
            match Self::qemu(work, options.size) {
                Ok(target) => targets.push(target),
                Err(error) => eprintln!("without QEMU's export: {error}"),
            }
        }
        if let Some(directory) = &options.mount {
            std::fs::create_dir_all(directory)?;
            let disk = directory.join("bench.raw");
            targets.push(Self { made: Some(Made(disk.clone())), ..Self::plain("standbyfs", disk) });
        }
        for (number, command) in options.start.iter().enumerate() {
            let (name, command) = match command.split_once(": ") {
                Some((name, command)) if name.chars().all(|c| c.is_alphanumeric() || c == '-') => {
                    (name, command)
                }
                _ => ("standbyfs", command.as_str()),
            };
            let store = directory(work, &format!("store-{number}"))?;
            let mount = directory(work, &format!("mount-{number}"))?;
            let command = command
                .replace("{store}", &store.display().to_string())
                .replace("{mount}", &mount.display().to_string());
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("exec {command}")]);
            let server = Server::start(shell, &mount)?;
            let within = mount.join(&options.within);
            std::fs::create_dir_all(&within)?;
            let status = within.file_name().map(|vm| mount.join("vms").join(vm).join("status"));
            let plain = Self::plain(name, within.join("bench.raw"));
            targets.push(Self { server: Some(server), status, ..plain });
        }
        Ok(targets)
    }

    /// Records and batches of a journal so far.
    pub fn appended(&self) -> Option<(u64, u64)> {
        let text = std::fs::read_to_string(self.status.as_ref()?).ok()?;
        let number = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok());
        Some((number("records:")?, number("batches:")?))
    }

    fn plain(name: &str, disk: PathBuf) -> Self {
        Self { name: name.into(), disk, status: None, server: None, made: None }
    }

    fn qemu(work: &Path, mebibytes: u64) -> Result<Self> {
        let (image, point) = (work.join("qemu.img"), work.join("qemu-export"));
        std::fs::File::create(&image)?.set_len(mebibytes << 20)?;
        std::fs::File::create(&point)?;
        let mut command = Command::new("qemu-storage-daemon");
        let file = image.display();
        command
            .args([
                "--blockdev",
                &format!("driver=file,node-name=f,filename={file},cache.direct=on,aio=native"),
            ])
            .args([
                "--export",
                &format!("type=fuse,id=e,node-name=f,mountpoint={},writable=on", point.display()),
            ]);
        let server = Server::start(command, &point)?;
        Ok(Self { server: Some(server), ..Self::plain("qemu", point) })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            eprintln!("can't remove {}: {error}", self.0.display());
        }
    }
}

impl Server {
    fn own(mount: &Path, arguments: &[OsString]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg(mount).args(arguments);
        Self::start(command, mount)
    }

    /// Starts it and waits until something is mounted at `point`.
    fn start(mut command: Command, point: &Path) -> Result<Self> {
        let parent = point.parent().ok_or("a mount point without a parent")?;
        let below = std::fs::metadata(parent)?.dev();
        unsafe {
            // Also when this program is killed nothing stays mounted.
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as libc::c_ulong);
                Ok(())
            });
        }
        let mut server = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = server.0.try_wait()? {
                return Err(format!("the server of {} ended: {status}", point.display()).into());
            }
            if std::fs::metadata(point).is_ok_and(|m| m.dev() != below) {
                return Ok(server);
            }
            if Instant::now() > end {
                return Err(format!("nothing is mounted at {}", point.display()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        if let Err(error) = self.0.wait() {
            eprintln!("a server doesn't end: {error}");
        }
    }
}

fn directory(work: &Path, name: &str) -> Result<PathBuf> {
    let path = work.join(name);
    std::fs::create_dir(&path)?;
    Ok(path)
}
