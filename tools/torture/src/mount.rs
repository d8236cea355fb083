//! A daemon of its own: keeper, worker, store and mount.

use crate::Result;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Mount {
    program: PathBuf,
    name: &'static str,
    store: PathBuf,
    root: PathBuf,
    log: PathBuf,
    keeper: Child,
}

impl Mount {
    /// A site of this name, with store and mount below `work`; it listens for a peer on loopback.
    pub fn start(program: &Path, work: &Path, name: &'static str) -> Result<Self> {
        let at = |what: &str| work.join(format!("{name}-{what}"));
        let (store, root, log) = (at("store"), at("mount"), at("log"));
        std::fs::create_dir(&root)?;
        let keeper = spawn(program, name, &store, &root, &log)?;
        let mut mount = Self { program: program.into(), name, store, root, log, keeper };
        mount.wait()?;
        Ok(mount)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a VM, made where it is missing.
    pub fn vm(&self, name: &str) -> Result<PathBuf> {
        let vm = self.root.join("disks").join(name);
        if !vm.exists() {
            std::fs::create_dir(&vm)?;
        }
        Ok(vm)
    }

    /// What `standbyctl` prints.
    pub fn control(&self, arguments: &[&str]) -> Result<String> {
        let tool = self.program.with_file_name("standbyctl");
        let output = Command::new(tool).arg("--mount").arg(&self.root).args(arguments).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("standbyctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Protects a VM to another site, and waits until that has everything.
    pub fn protect(&self, vm: &str, target: &Mount) -> Result<()> {
        let made = target.control(&["pair", "create"])?;
        let token = made.split_whitespace().max_by_key(|word| word.len()).unwrap_or_default();
        self.control(&["pair", "accept", token])?;
        self.control(&["protect", vm])?;
        let end = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(self.root.join("vms").join(vm).join("status"))?
            .lines()
            .any(|line| line == "state: protected")
        {
            if Instant::now() > end {
                return Err(format!("{vm} isn't protected after {PATIENCE:?}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The worker that serves now, if there is one.
    pub fn worker(&self) -> Option<i32> {
        let keeper = self.keeper.id();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Kills the worker. False if there was none.
    pub fn kill_worker(&self) -> bool {
        self.worker().is_some_and(|pid| kill(pid, libc::SIGKILL))
    }

    /// Kills keeper and worker, the keeper first so that it starts no other, and takes the dead mount away.
    pub fn kill_all(&mut self) -> Result<()> {
        let worker = self.worker();
        kill(self.keeper.id() as i32, libc::SIGKILL);
        if let Some(worker) = worker {
            kill(worker, libc::SIGKILL);
        }
        self.keeper.wait()?;
        self.unmount();
        Ok(())
    }

    /// Mounts again after [`Self::kill_all`].
    pub fn again(&mut self) -> Result<()> {
        self.keeper = spawn(&self.program, self.name, &self.store, &self.root, &self.log)?;
        self.wait()
    }

    /// Unmounts in order, and looks at the store as `standbyfs inspect` does.
    pub fn end(&mut self) -> Result<()> {
        kill(self.keeper.id() as i32, libc::SIGTERM);
        let status = self.keeper.wait()?;
        if !status.success() {
            return Err(format!("the daemon ended with {status}: see {}", self.log.display()).into());
        }
        let inspect = Command::new(&self.program).arg("inspect").arg(&self.store).arg("--verify").output()?;
        if !inspect.status.success() {
            return Err(format!("inspect finds damage: {}", String::from_utf8_lossy(&inspect.stdout)).into());
        }
        println!("inspect --verify finds no damage");
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let below = std::fs::metadata(self.root.parent().unwrap_or(Path::new("/")))?.dev();
        let end = Instant::now() + PATIENCE;
        loop {
            if std::fs::metadata(&self.root).is_ok_and(|m| m.dev() != below)
                && std::fs::metadata(self.root.join("disks")).is_ok()
            {
                return Ok(());
            }
            if let Some(status) = self.keeper.try_wait()? {
                return Err(format!("the daemon ended: {status}: see {}", self.log.display()).into());
            }
            if Instant::now() > end {
                return Err(format!("nothing is mounted at {}", self.root.display()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn unmount(&self) {
        let path = std::ffi::CString::new(self.root.as_os_str().as_encoded_bytes()).unwrap_or_default();
        // Also a mount whose processes are dead counts as one until it is taken away.
        while unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } == 0 {}
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if matches!(self.keeper.try_wait(), Ok(None)) {
            let _ = self.kill_all();
        }
        self.unmount();
    }
}

fn spawn(program: &Path, name: &str, store: &Path, root: &Path, log: &Path) -> Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(program);
    command.args(["mount", "--foreground", "--name", name, "--listen", "127.0.0.1:0", "--store"]);
    command.arg(store).arg(root);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?)
}

fn kill(pid: i32, signal: i32) -> bool {
    unsafe { libc::kill(pid, signal) == 0 }
}
