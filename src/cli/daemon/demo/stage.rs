//! Where a demo plays: directories, the daemon, commands that are shown as they are run.

use crate::vocab::{Error, Kind, Result};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(30);

/// An error of the system about a path.
pub fn failed(error: std::io::Error, what: &str, path: &Path) -> Error {
    Error::io(error, what).at(path)
}

/// Makes the directory of a demo: it must be empty or not there.
pub fn make_dir(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).map_err(|e| failed(e, "can't make the directory", dir))?;
    let dir = dir.canonicalize().map_err(|e| failed(e, "can't look at the directory", dir))?;
    if fs::read_dir(&dir).map_err(|e| failed(e, "can't list", &dir))?.next().is_some() {
        return Err(Error::refused("not-empty", format!("{} holds something already", dir.display()))
            .advice("Choose an empty directory, or one that doesn't exist yet"));
    }
    Ok(dir)
}

/// A site: a directory with a store, a mount and its daemon.
pub struct Stage {
    dir: PathBuf,
    name: &'static str,
    keeper: Option<Child>,
}

impl Stage {
    /// A site of this name below the directory of a demo.
    pub fn new(dir: &Path, name: &'static str) -> Result<Self> {
        let stage = Self { dir: dir.join(name), name, keeper: None };
        let mount = stage.mount();
        fs::create_dir_all(&mount).map_err(|e| failed(e, "can't make the directory", &mount))?;
        Ok(stage)
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
        let listen = format!("127.0.0.1:{}", free_port()?);
        println!(
            "   $ standbyfs mount --foreground --name {} --listen {listen} --store {} {}",
            self.name,
            store.display(),
            mount.display()
        );
        let output = File::create(&log).map_err(|e| failed(e, "can't make the log", &log))?;
        let errors = output.try_clone().map_err(|e| failed(e, "can't make the log", &log))?;
        let mut command = Command::new(program);
        command
            .args(["mount", "--foreground", "--name", self.name, "--listen", &listen, "--store"])
            .args([&store, &mount])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        // A demo that is killed runs no destructor: then the kernel tells the keeper to unmount and to end.
        // SAFETY: between fork and exec only this one system call is made.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let child = command.spawn().map_err(|e| Error::io(e, "can't start the daemon"))?;
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

    /// The process that serves, a child of the keeper.
    fn worker(&self) -> Result<Pid> {
        let Some(keeper) = &self.keeper else { return Err(Error::new(Kind::NotFound, "no daemon runs")) };
        let keeper = keeper.id();
        let path = PathBuf::from(format!("/proc/{keeper}/task/{keeper}/children"));
        let begun = Instant::now();
        loop {
            let children = fs::read_to_string(&path).map_err(|e| failed(e, "can't list children", &path))?;
            let worker = children.split_whitespace().next().and_then(|n| n.parse::<i32>().ok());
            if let Some(pid) = worker.and_then(Pid::from_raw) {
                return Ok(pid);
            }
            if begun.elapsed() > START {
                return Err(Error::new(Kind::NotFound, "the daemon has no worker"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL to the worker.
    pub fn kill_worker(&self) -> Result<()> {
        let pid = self.worker()?;
        println!("   $ kill -9 {}", pid.as_raw_nonzero());
        kill_process(pid, Signal::KILL).map_err(|e| Error::io(e.into(), "can't kill the worker"))
    }

    /// SIGKILL to keeper and worker: as if the machine were gone. What is left of the mount is taken away.
    pub fn kill_all(&mut self) -> Result<()> {
        let worker = self.worker()?;
        let Some(mut keeper) = self.keeper.take() else { return Ok(()) };
        println!("   $ kill -9 {} {}", keeper.id(), worker.as_raw_nonzero());
        // The keeper first: it would start another worker.
        let killed = keeper.kill().and_then(|()| keeper.wait().map(drop));
        // A worker ends by itself when its keeper is gone; it is not waited for.
        let _ = kill_process(worker, Signal::KILL);
        killed.map_err(|e| Error::io(e, "can't kill the daemon"))?;
        self.clear();
        Ok(())
    }

    fn clear(&self) {
        if self.is_mounted() {
            let _ = Command::new("umount").arg("-l").arg(self.mount()).status();
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
}

/// A port of this machine that nobody listens on now.
fn free_port() -> Result<u16> {
    let found = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    found.map(|at| at.port()).map_err(|e| Error::io(e, "can't find a free port"))
}

/// Runs a command, shows it, and gives what it prints. Its exit code must be 0.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    run_for(&[0], program, arguments).map(|(_, said)| said)
}

/// Runs a command whose exit code must be one of these.
pub fn run_for(codes: &[i32], program: &str, arguments: &[&str]) -> Result<(i32, String)> {
    let typed = |word: &&str| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() };
    println!("   $ {program} {}", arguments.iter().map(typed).collect::<Vec<_>>().join(" "));
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
    if let Some(code) = output.status.code().filter(|code| codes.contains(code)) {
        return Ok((code, String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(Error::new(Kind::Io, format!("{program} ended with {}: {said}", output.status)))
}

/// SIGTERM, and SIGKILL to one that doesn't mind.
fn end(keeper: &mut Child) -> Option<std::process::ExitStatus> {
    if let Some(pid) = Pid::from_raw(keeper.id() as i32) {
        let _ = kill_process(pid, Signal::TERM);
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
        self.clear();
    }
}
