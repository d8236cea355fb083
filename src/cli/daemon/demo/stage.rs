//! Where a demo plays: directories, the daemon, commands that are shown as they are run.

use crate::vocab::{Error, Kind, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(30);

/// An error of the system about a path.
pub fn failed(error: std::io::Error, what: &str, path: &Path) -> Error {
    Error::io(error, what).at(path)
}

/// A directory with a store, a mount and its daemon.
pub struct Stage {
    dir: PathBuf,
    keeper: Option<Child>,
}

impl Stage {
    /// Below a directory that is empty or not there.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|e| failed(e, "can't make the directory", dir))?;
        let dir = dir.canonicalize().map_err(|e| failed(e, "can't look at the directory", dir))?;
        if fs::read_dir(&dir).map_err(|e| failed(e, "can't list", &dir))?.next().is_some() {
            return Err(Error::refused("not-empty", format!("{} holds something already", dir.display()))
                .advice("Choose an empty directory, or one that doesn't exist yet"));
        }
        let stage = Self { dir, keeper: None };
        fs::create_dir(stage.mount()).map_err(|e| failed(e, "can't make the directory", &stage.mount()))?;
        Ok(stage)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// The mount.
    pub fn mount(&self) -> PathBuf {
        self.dir.join("mount")
    }

    /// Starts the daemon and waits until the mount answers.
    pub fn start(&mut self) -> Result<()> {
        let program = std::env::current_exe().map_err(|e| Error::io(e, "can't find the own program"))?;
        let log = self.dir.join("daemon.log");
        let (store, mount) = (self.store(), self.mount());
        println!("   $ standbyfs mount --foreground --store {} {}", store.display(), mount.display());
        let output = File::create(&log).map_err(|e| failed(e, "can't make the log", &log))?;
        let errors = output.try_clone().map_err(|e| failed(e, "can't make the log", &log))?;
        let child = Command::new(program)
            .args(["mount", "--foreground", "--store"])
            .args([&store, &mount])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|e| Error::io(e, "can't start the daemon"))?;
        let keeper = self.keeper.insert(child);
        let begun = Instant::now();
        while !mount.join("disks").is_dir() {
            let ended = keeper.try_wait().map_err(|e| Error::io(e, "can't look after the daemon"))?;
            if ended.is_some() || begun.elapsed() > START {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(Error::new(Kind::Io, format!("the daemon doesn't come up: {}", said.trim())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("   up after {} ms", begun.elapsed().as_millis());
        Ok(())
    }

    /// SIGKILL to the worker: the process that serves, a child of the keeper.
    pub fn kill_worker(&self) -> Result<()> {
        let Some(keeper) = &self.keeper else { return Err(Error::new(Kind::NotFound, "no daemon runs")) };
        let keeper = keeper.id();
        let path = PathBuf::from(format!("/proc/{keeper}/task/{keeper}/children"));
        let begun = Instant::now();
        loop {
            let children = fs::read_to_string(&path).map_err(|e| failed(e, "can't list children", &path))?;
            let worker = children.split_whitespace().next().and_then(|n| n.parse::<i32>().ok());
            if let Some(pid) = worker.and_then(rustix::process::Pid::from_raw) {
                println!("   $ kill -9 {}", pid.as_raw_nonzero());
                return rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                    .map_err(|e| Error::io(e.into(), "can't kill the worker"));
            }
            if begun.elapsed() > START {
                return Err(Error::new(Kind::NotFound, "the daemon has no worker"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the daemon in order.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut keeper) = self.keeper.take() else { return Ok(()) };
        println!("   $ umount {}", self.mount().display());
        let ended = end(&mut keeper);
        if self.is_mounted() {
            return Err(Error::new(Kind::Busy, "the mount didn't go").at(self.mount()));
        }
        match ended {
            Some(status) if status.success() => Ok(()),
            other => Err(Error::new(Kind::Io, format!("the daemon ended with {other:?}"))),
        }
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let point = self.mount().display().to_string();
        mounts.lines().any(|line| line.split(' ').nth(1) == Some(point.as_str()))
    }

    /// Runs a command, shows it, and gives what it prints. Its exit code must be 0.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        println!("   $ {program} {}", arguments.join(" "));
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new(program)
            .args(arguments)
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| {
                Error::io(e, format!("can't run {program}")).advice("tools/setup installs what is missing")
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Err(Error::new(Kind::Io, format!("{program} ended with {}: {said}", output.status)))
    }
}

/// SIGTERM, and SIGKILL to one that doesn't mind.
fn end(keeper: &mut Child) -> Option<std::process::ExitStatus> {
    if let Some(pid) = rustix::process::Pid::from_raw(keeper.id() as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let begun = Instant::now();
    while begun.elapsed() < START {
        if let Ok(Some(status)) = keeper.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = keeper.kill();
    keeper.wait().ok()
}

impl Drop for Stage {
    /// D1.
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            end(&mut keeper);
        }
        if self.is_mounted() {
            let _ = Command::new("umount").arg("-l").arg(self.mount()).status();
        }
    }
}
