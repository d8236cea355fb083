//! The controls of a mount, by its files and by `standbyctl`, as people and scripts use them.

mod import;
mod lines;
mod patterns;
mod sites;
mod tool;

use crate::fuse::harness::{Mount, PATIENCE, until};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A mount of a new store with a VM of one disk.
fn site() -> Mount {
    let mount = Mount::with(|options| options.store = Some(options.root.join("store")));
    fs::create_dir(mount.path("disks/web")).unwrap();
    fs::write(mount.path("disks/web/d.raw"), vec![1; 65536]).unwrap();
    mount
}

/// What came of a line: the errno, and what the same handle shows.
struct Told {
    errno: Option<i32>,
    shown: String,
}

impl Told {
    fn get(&self, key: &str) -> Option<&str> {
        let line = self.shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        line.map(str::trim)
    }

    /// The name of the refusal; none: it was accepted.
    fn refusal(&self) -> Option<&str> {
        assert_eq!(
            self.errno.is_some(),
            self.get("outcome-refusal").is_some(),
            "{:?} {}",
            self.errno,
            self.shown
        );
        self.get("outcome-refusal")
    }

    fn job(&self) -> String {
        assert_eq!(self.errno, None, "{}", self.shown);
        self.get("outcome-job").unwrap_or_else(|| panic!("no job: {}", self.shown)).to_owned()
    }
}

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

/// Writes a line to a file of the mount and reads on the same handle.
fn tell(path: &Path, line: &str) -> Told {
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    let errno = file.write(line.as_bytes()).err().map(|e| errno(&e));
    Told { errno, shown: shown(&file) }
}

/// What a handle shows, from the beginning.
fn shown(file: &File) -> String {
    let mut bytes = vec![0; 1 << 16];
    let mut length = 0;
    loop {
        match file.read_at(&mut bytes[length..], length as u64).unwrap() {
            0 => return String::from_utf8(bytes[..length].to_vec()).unwrap(),
            count => length += count,
        }
    }
}

/// Waits for the end of a job; its `status`.
fn ended(mount: &Mount, job: &str) -> String {
    let path = mount.path(&format!("jobs/{job}/status"));
    let mut status = String::new();
    until("the job ends", PATIENCE, || {
        status = fs::read_to_string(&path).unwrap();
        ["succeeded", "failed", "cancelled"].iter().any(|s| status.contains(&format!("\nstate: {s}\n")))
    });
    status
}

fn jobs(mount: &Mount) -> usize {
    fs::read_dir(mount.path("jobs")).unwrap().count()
}

/// The value of a line of a file.
fn value(mount: &Mount, file: &str, key: &str) -> String {
    let text = fs::read_to_string(mount.path(file)).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    found.unwrap_or_else(|| panic!("no {key} in {file}:\n{text}")).to_owned()
}

fn state(mount: &Mount) -> String {
    value(mount, "vms/web/status", "state")
}

/// What `standbyctl` printed, and its exit code.
fn standbyctl(mount: &Mount, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new("timeout")
        .arg("60")
        .arg(env!("CARGO_BIN_EXE_standbyctl"))
        .arg("--mount")
        .arg(&mount.options.mount)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}
