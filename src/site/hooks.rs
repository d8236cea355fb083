//! Stopping and starting a VM: by a configured executable, else by virsh where it is there, else not at all.
//!
//! H1. A hook ends: after its time-out its whole process group is ended, first by TERM, five seconds later by
//!     KILL. No caller waits for ever.
//! H2. What it says goes into the job's log, at most [`OUTPUT_MAX`] bytes; more is counted and dropped, and a hook
//!     that writes without end isn't held up by it.
//! H3. A stop has succeeded only if the VM is known to be off; that it was asked to shut down isn't enough.
//! H4. Without a hook and without virsh nothing is claimed: `disks-writable, vm-not-started`.

use crate::site::domain::Rendered;
use crate::vocab::{Error, Kind, Result};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Output of one hook that is kept, in bytes.
pub const OUTPUT_MAX: usize = 256 << 10;
const GRACE: Duration = Duration::from_secs(5);

/// What to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Stops a VM.
    pub stop: Option<PathBuf>,
    /// Starts a VM.
    pub start: Option<PathBuf>,
    /// virsh; `None`: it isn't there.
    pub virsh: Option<PathBuf>,
    /// libvirt's URI.
    pub uri: String,
    /// Longest time for a hook, and for a guest to shut down.
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            stop: None,
            start: None,
            virsh: None,
            uri: "qemu:///system".into(),
            timeout: Duration::from_secs(180),
        }
    }
}

/// The VM concerned, for the hook's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Its name in the mount: `STANDBYFS_VM`.
    pub vm: String,
    /// The domain's name, if it has an XML: `STANDBYFS_DOMAIN`.
    pub domain: Option<String>,
    /// Its directory in the mount: `STANDBYFS_DIR`.
    pub dir: PathBuf,
    /// What it is for: `failover`, `planned-failover`, `test-failover` …: `STANDBYFS_REASON`.
    pub reason: String,
    /// Further variables.
    pub more: Vec<(String, String)>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, by what is named.
    Done(&'static str),
    /// There is nothing that could do it.
    NoMeans,
    /// It was tried and failed: why.
    Failed(String),
}

impl Outcome {
    /// A job's outcome after a failover whose start of the VM came to this.
    pub fn after_start(&self) -> String {
        match self {
            Self::Done(by) => format!("vm-started ({by})"),
            Self::NoMeans => {
                "disks-writable, vm-not-started: neither libvirt nor a start hook is here".to_owned()
            }
            Self::Failed(why) => format!("disks-writable, vm-not-started: {why}"),
        }
    }
}

/// virsh in `PATH`.
pub fn find_virsh() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("virsh")).find(|file| file.is_file())
}

impl Hooks {
    /// Stops a VM and makes sure that it is off. `log` gets what is done and said.
    pub fn stop(&self, target: &Target, log: &mut dyn FnMut(&str)) -> Outcome {
        if let Some(hook) = &self.stop {
            return self.hook(hook, "stop", target, None, log);
        }
        let Some((virsh, domain)) = self.virsh.as_ref().zip(target.domain.as_deref()) else {
            return Outcome::NoMeans;
        };
        match self.shut_down(virsh, domain, log) {
            Ok(()) => Outcome::Done("virsh"),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    /// Defines and starts a VM from a rendered XML.
    pub fn start(&self, target: &Target, xml: Option<&Rendered>, log: &mut dyn FnMut(&str)) -> Outcome {
        if let Some(hook) = &self.start {
            return self.hook(hook, "start", target, xml, log);
        }
        let Some((virsh, xml)) = self.virsh.as_ref().zip(xml) else {
            return Outcome::NoMeans;
        };
        match self.define_and_start(virsh, xml, log) {
            Ok(()) => Outcome::Done("virsh"),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    fn hook(
        &self,
        hook: &Path,
        event: &str,
        target: &Target,
        xml: Option<&Rendered>,
        log: &mut dyn FnMut(&str),
    ) -> Outcome {
        let mut command = Command::new(hook);
        command
            .arg(event)
            .arg(&target.vm)
            .env("STANDBYFS_EVENT", event)
            .env("STANDBYFS_VM", &target.vm)
            .env("STANDBYFS_DIR", &target.dir)
            .env("STANDBYFS_REASON", &target.reason)
            .env("STANDBYFS_DOMAIN", target.domain.as_deref().unwrap_or_default())
            .envs(target.more.iter().map(|(key, value)| (key, value)));
        let result = (|| {
            let file = xml.map(|rendered| temporary(&rendered.xml)).transpose()?;
            if let Some(file) = &file {
                command.env("STANDBYFS_XML", file.path());
            }
            run(command, self.timeout, log)
        })();
        let name = if event == "stop" { "stop hook" } else { "start hook" };
        match result {
            Ok((0, _)) => Outcome::Done(name),
            Ok((code, _)) => Outcome::Failed(format!("the {name} {} ended with {code}", hook.display())),
            Err(error) => Outcome::Failed(format!("the {name} failed: {error}")),
        }
    }

    fn virsh(&self, virsh: &Path, args: &[&str], log: &mut dyn FnMut(&str)) -> Result<(i32, String)> {
        let mut command = Command::new(virsh);
        command.args(["--connect", &self.uri]).args(args).env("LC_ALL", "C");
        log(&format!("virsh {}", args.join(" ")));
        run(command, self.timeout.min(Duration::from_secs(60)), log)
    }

    fn must(&self, virsh: &Path, args: &[&str], log: &mut dyn FnMut(&str)) -> Result<String> {
        let (code, said) = self.virsh(virsh, args, log)?;
        if code == 0 {
            return Ok(said);
        }
        let said = said.lines().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing").to_owned();
        Err(Error::new(Kind::Io, format!("virsh {} ended with {code}: {said}", args.join(" "))))
    }

    /// H3. A domain that libvirt doesn't know isn't running under it.
    fn is_off(&self, virsh: &Path, domain: &str, log: &mut dyn FnMut(&str)) -> Result<bool> {
        let (code, said) = self.virsh(virsh, &["domstate", domain], log)?;
        if code == 0 {
            return Ok(matches!(said.trim(), "shut off" | "crashed"));
        }
        if said.contains("failed to get domain") || said.contains("Domain not found") {
            return Ok(true);
        }
        Err(Error::new(Kind::Io, format!("virsh doesn't say whether `{domain}` runs: {}", said.trim())))
    }

    fn shut_down(&self, virsh: &Path, domain: &str, log: &mut dyn FnMut(&str)) -> Result<()> {
        if self.is_off(virsh, domain, log)? {
            return Ok(());
        }
        let until = Instant::now() + self.timeout;
        self.must(virsh, &["shutdown", domain], log)?;
        let mut pause = Duration::from_millis(50);
        loop {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(2));
            if self.is_off(virsh, domain, &mut |_| {})? {
                return Ok(());
            }
            if Instant::now() >= until {
                let what = format!(
                    "`{domain}` still runs {} s after it was asked to shut down",
                    self.timeout.as_secs()
                );
                return Err(Error::new(Kind::Busy, what).advice("Shut the guest down, or `virsh destroy` it"));
            }
        }
    }

    fn define_and_start(&self, virsh: &Path, xml: &Rendered, log: &mut dyn FnMut(&str)) -> Result<()> {
        for network in &xml.without {
            log(&format!("the interface on `{network}` is left out: it has no counterpart here"));
        }
        let file = temporary(&xml.xml)?;
        self.must(virsh, &["define", &file.path().display().to_string()], log)?;
        // Started by a person meanwhile, or by an earlier run of this job.
        if !self.is_off(virsh, &xml.name, log)? {
            log("it runs already");
            return Ok(());
        }
        self.must(virsh, &["start", &xml.name], log).map(|_| ())
    }
}

fn temporary(xml: &str) -> Result<tempfile::NamedTempFile> {
    let made = tempfile::Builder::new().prefix("standbyfs-").suffix(".xml").tempfile();
    let written = made.and_then(|mut file| file.write_all(xml.as_bytes()).map(|()| file));
    written.map_err(|e| Error::io(e, "can't write the domain XML for libvirt"))
}

/// H1, H2. Runs a command; its exit code (128 + signal if it was ended) and what it said.
fn run(mut command: Command, timeout: Duration, log: &mut dyn FnMut(&str)) -> Result<(i32, String)> {
    let shown = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|e| Error::io(e, format!("can't run {shown}")))?;
    let (send, said) = mpsc::channel::<(usize, Vec<u8>)>();
    let pipes: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|p| Box::new(p) as _), child.stderr.take().map(|p| Box::new(p) as _)];
    for (number, pipe) in pipes.into_iter().enumerate() {
        let Some(pipe) = pipe else { continue };
        listen(number, pipe, send.clone())?;
    }
    drop(send);
    let mut output = Output::default();
    let until = Instant::now() + timeout;
    let mut ended = None;
    // The pipes may stay open in a grandchild; the command's own end is what counts.
    while ended.is_none() && Instant::now() < until {
        match said.recv_timeout(Duration::from_millis(20)) {
            Ok(piece) => output.take(piece, log),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(5)),
        }
        ended = child.try_wait().map_err(|e| Error::io(e, format!("can't wait for {shown}")))?;
    }
    let late = ended.is_none();
    let status = match ended {
        Some(status) => status,
        None => end(&mut child).map_err(|e| Error::io(e, format!("can't end {shown}")))?,
    };
    // What it said just before its end.
    let rest = Instant::now() + Duration::from_millis(200);
    while let Ok(piece) = said.recv_timeout(rest.saturating_duration_since(Instant::now())) {
        output.take(piece, log);
    }
    output.flush(log);
    if late {
        return Err(Error::new(Kind::Busy, format!("{shown} was ended after {} s", timeout.as_secs())));
    }
    use std::os::unix::process::ExitStatusExt;
    Ok((status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)), output.text))
}

fn listen(number: usize, mut pipe: Box<dyn Read + Send>, to: mpsc::Sender<(usize, Vec<u8>)>) -> Result<()> {
    let work = move || {
        let (mut buf, mut sent) = ([0; 4096], 0);
        while let Ok(got @ 1..) = pipe.read(&mut buf) {
            // Read on without keeping: a hook isn't stopped by a full pipe.
            sent += got;
            if sent <= OUTPUT_MAX && to.send((number, buf[..got].to_vec())).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("standbyfs-hook".into()).spawn(work);
    thread.map(|_| ()).map_err(|e| Error::io(e, "can't read what a hook says"))
}

/// Ends a process group.
fn end(child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
    use rustix::process::{Pid, Signal, kill_process_group};
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map_or(Ok(()), |group| kill_process_group(group, signal));
    let _ = signal(Signal::TERM);
    let until = Instant::now() + GRACE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            let _ = signal(Signal::KILL);
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = signal(Signal::KILL);
    child.wait()
}

#[derive(Default)]
struct Output {
    text: String,
    /// What each of the two pipes has said of a line that hasn't ended: they come piece by piece and side by side.
    lines: [Vec<u8>; 2],
}

impl Output {
    fn take(&mut self, (pipe, piece): (usize, Vec<u8>), log: &mut dyn FnMut(&str)) {
        for byte in piece {
            if byte == b'\n' {
                self.end_line(pipe, log);
            } else {
                self.lines[pipe].push(byte);
            }
        }
    }

    fn flush(&mut self, log: &mut dyn FnMut(&str)) {
        (0..self.lines.len()).for_each(|pipe| self.end_line(pipe, log));
    }

    fn end_line(&mut self, pipe: usize, log: &mut dyn FnMut(&str)) {
        if !self.lines[pipe].is_empty() {
            let line = String::from_utf8_lossy(&self.lines[pipe]).into_owned();
            log(&line);
            self.text.push_str(&line);
            self.text.push('\n');
            self.lines[pipe].clear();
        }
    }
}

#[cfg(test)]
mod tests;
