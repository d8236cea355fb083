//! A mount for a test. Whatever happens in the test, nothing stays: no mount, no process.

use super::server::{ARGUMENTS, OPTIONS, ServerOptions};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct Mount {
    pub options: ServerOptions,
    keeper: Child,
    dir: TempDir,
    /// Held as long as the test runs: the watchdog waits for its end.
    _alive: Sender<()>,
}

/// A test whose requests are never answered would wait for ever; after this its server is killed, and what
/// waits fails.
fn watchdog() -> Duration {
    Duration::from_secs(if full() { 3600 } else { 180 })
}

/// Whether the long runs are asked for.
pub fn full() -> bool {
    std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full")
}

pub fn require_fuse() {
    assert!(
        Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root(),
        "these tests need /dev/fuse and root: in a container --device /dev/fuse --cap-add SYS_ADMIN"
    );
}

/// Waits until `condition` holds.
pub fn until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < end, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const PREFIX: &str = "standbyfs-test-";
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A command that must succeed; its output.
pub fn sh(command: &str) -> String {
    let output = sh_output(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command}\n{out}\n{err}");
    out.into_owned()
}

pub fn sh_output(command: &str) -> Output {
    Command::new("timeout").args(["120", "bash", "-c", command]).stdin(Stdio::null()).output().unwrap()
}

/// Options of a server with everything in `dir`.
pub fn options(dir: &Path) -> ServerOptions {
    ServerOptions {
        mount: dir.join("mnt"),
        root: dir.join("root"),
        trace: Some(dir.join("trace")),
        threads: 2,
        background: false,
        allow_other: true,
        slow_writes_ms: None,
        ttl_ms: 1000,
        retry_ms: 300,
        busy_grace_ms: 500,
        store: None,
        name: "here".into(),
        control: None,
        listen: None,
        refuse: dir.join("refuse"),
        poison: dir.join("poison"),
    }
}

pub fn temp() -> TempDir {
    let dir = tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap();
    fs::create_dir(dir.path().join("mnt")).unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    dir
}

/// The command that starts a server, in a process group of its own. `program`: a copy of this test binary.
pub fn server(options: &ServerOptions, program: Option<&Path>) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(program.unwrap_or(&own));
    command.args(ARGUMENTS).env(OPTIONS, serde_json::to_string(options).unwrap());
    command.process_group(0).stdin(Stdio::null());
    unsafe {
        command.pre_exec(|| {
            // The test harness has a thread beside the keeper's: it must not take the keeper's signals.
            let mut set: libc::sigset_t = std::mem::zeroed();
            for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            Ok(())
        });
    }
    command
}

impl Mount {
    /// A mount with default options.
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// A mount with other options.
    pub fn with(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let dir = temp();
        let mut options = options(dir.path());
        change(&mut options);
        Self::start(dir, options, None)
    }

    /// A mount served by a copy of this program, which a test may replace.
    pub fn with_copy() -> (Self, PathBuf) {
        let dir = temp();
        let options = options(dir.path());
        let program = dir.path().join("program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        (Self::start(dir, options, Some(&program)), program)
    }

    pub fn start(dir: TempDir, options: ServerOptions, program: Option<&Path>) -> Self {
        require_fuse();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = server(&options, program);
        let keeper = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let (alive, ended) = channel::<()>();
        let keeper_group = -(keeper.id() as i32);
        std::thread::spawn(move || {
            if ended.recv_timeout(watchdog()) == Err(RecvTimeoutError::Timeout) {
                eprintln!("a test hangs: its server is killed");
                unsafe { libc::kill(keeper_group, libc::SIGKILL) };
            }
        });
        let mut mount = Self { options, keeper, dir, _alive: alive };
        until("the mount is there", PATIENCE, || {
            assert!(mount.keeper.try_wait().unwrap().is_none(), "the server ended:\n{}", mount.log());
            is_mounted(&mount.options.mount)
        });
        // Waits for the first answer.
        fs::metadata(&mount.options.mount).unwrap();
        mount
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.options.mount.join(name)
    }

    pub fn below(&self, name: &str) -> PathBuf {
        self.options.root.join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// What the server was asked, a line each: worker, operation, ` again` if sent again, about.
    pub fn trace(&self) -> String {
        fs::read_to_string(self.dir.path().join("trace")).unwrap_or_default()
    }

    pub fn forget_trace(&self) {
        fs::File::options().write(true).open(self.dir.path().join("trace")).unwrap().set_len(0).unwrap();
    }

    pub fn keeper(&self) -> u32 {
        self.keeper.id()
    }

    pub fn worker(&self) -> Option<u32> {
        children(self.keeper.id()).into_iter().next()
    }

    pub fn signal_keeper(&self, signal: i32) {
        unsafe { libc::kill(self.keeper.id() as i32, signal) };
    }

    /// Kills the worker; false if there is none at the moment.
    pub fn kill_worker(&self) -> bool {
        self.worker().is_some_and(|pid| unsafe { libc::kill(pid as i32, libc::SIGKILL) } == 0)
    }

    /// Waits for the keeper's end and answers whether it was a success.
    pub fn wait_for_the_end(&mut self) -> bool {
        let mut status = None;
        until("the keeper ends", PATIENCE, || {
            status = self.keeper.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().success()
    }

    /// The same mount, served anew: unmounted in order and mounted again.
    pub fn remount(mut self) -> Self {
        self.signal_keeper(libc::SIGTERM);
        assert!(self.wait_for_the_end(), "{}", self.log());
        let dir = std::mem::replace(&mut self.dir, temp());
        let options = self.options.clone();
        // What is dropped here must not clear the new mount away.
        self.options.mount = self.dir.path().join("mnt");
        Self::start(dir, options, None)
    }

    /// Ends the server as an administrator would, and looks that nothing is left.
    pub fn stop(mut self) {
        self.signal_keeper(libc::SIGTERM);
        assert!(self.wait_for_the_end(), "{}", self.log());
        assert!(!is_mounted(&self.options.mount), "a mount is left:\n{}", self.log());
        let left = group(self.keeper.id());
        assert!(left.is_empty(), "processes are left: {left:?}\n{}", self.log());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the server:\n{}", self.log());
        }
        unsafe { libc::kill(-(self.keeper.id() as i32), libc::SIGKILL) };
        let _ = self.keeper.wait();
        clear(&self.options.mount);
    }
}

/// Takes what a test has mounted at `point` out of the tree: in a test's own directory and nothing else. A
/// test that gets a path wrong must not be able to unmount anything of the machine that it runs on.
pub fn clear(point: &Path) {
    assert!(point.starts_with(std::env::temp_dir()) && point.to_string_lossy().contains(PREFIX), "{point:?}");
    while is_mounted(point) {
        if rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).is_err() {
            break;
        }
    }
}

pub fn is_mounted(point: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == point.to_str())
}

pub fn children(of: u32) -> Vec<u32> {
    processes(|fields| fields[1] == of.to_string())
}

/// Processes of a group that have not ended.
pub fn group(of: u32) -> Vec<u32> {
    processes(|fields| fields[2] == of.to_string())
}

/// Processes by state, parent, group.
fn processes(choose: impl Fn(&[&str]) -> bool) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        if fields[0] != "Z" && choose(&fields) {
            found.push(pid);
        }
    }
    found
}

/// A server in the background; ended with the test.
pub struct Background {
    pub output: Output,
    /// None if it didn't start.
    pub keeper: Option<u32>,
    mount: PathBuf,
}

impl Background {
    pub fn start(mut command: Command, options: &ServerOptions) -> Self {
        require_fuse();
        assert!(options.background);
        let output = command.output().unwrap();
        let mount = options.mount.clone();
        Self { keeper: keeper_of(&mount), output, mount }
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Ends it in order.
    pub fn stop(self) {
        let keeper = self.keeper.expect("it has not started");
        unsafe { libc::kill(keeper as i32, libc::SIGTERM) };
        until("the keeper ends", PATIENCE, || group(keeper).is_empty());
        assert!(!is_mounted(&self.mount), "a mount is left");
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper {
            unsafe { libc::kill(-(keeper as i32), libc::SIGKILL) };
        }
        clear(&self.mount);
    }
}

/// The keeper of the mount at `point`, found by its worker's environment; it leads a group of its own.
fn keeper_of(point: &Path) -> Option<u32> {
    let word = format!("STANDBYFS_MOUNT_POINT={}", point.display());
    let workers = processes(|_| true).into_iter().filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == word.as_bytes())
    });
    let keepers = workers.filter_map(|worker| {
        let own = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let fields = |stat: String| -> Option<Vec<u32>> {
            let (_, rest) = stat.rsplit_once(") ")?;
            Some(rest.split(' ').skip(1).take(2).filter_map(|field| field.parse().ok()).collect())
        };
        // Parent and group of the worker are the keeper; a worker whose keeper has died has another parent.
        let [parent, group] = fields(own(worker)?)?[..] else { return None };
        (parent == group && parent > 1).then_some(parent)
    });
    keepers.collect::<Vec<_>>().first().copied()
}
