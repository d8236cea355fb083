//! The keeper's side of a worker: the program, its process, what it says.

use super::inherit;
use super::takeover::{MESSAGE_MAX, word};
use crate::vocab::{Error, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Instant;

/// A program that can be started again after its file was replaced or removed.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    file: File,
}

impl Program {
    /// The program of this process, as it was started.
    pub fn own() -> Result<Self> {
        let failed = |e| Error::io(e, "can't find the own program");
        let file = File::open("/proc/self/exe").map_err(failed)?;
        let path = std::fs::read_link("/proc/self/exe").map_err(failed)?;
        // The kernel's mark of a file whose name is gone; an upgrade puts a new file under the name.
        let name = path.as_os_str().as_bytes();
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        Ok(Self { path: PathBuf::from(OsString::from_vec(name.to_vec())), file })
    }

    /// The program that is under the same path now.
    pub fn newest(&self) -> Result<Self> {
        let file =
            File::open(&self.path).map_err(|e| Error::io(e, "can't open the new program").at(&self.path))?;
        Ok(Self { path: self.path.clone(), file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A worker that was started.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    control: OwnedFd,
    /// Its number, from 1.
    pub start: u64,
    /// When it was started.
    pub since: Instant,
    /// It serves.
    pub ready: bool,
    /// Why it said that it can't.
    pub failed: Option<String>,
}

impl Worker {
    /// Starts `program` with `arguments` as worker number `start`.
    pub fn spawn(
        program: &Program,
        arguments: &[OsString],
        device: BorrowedFd<'_>,
        record: BorrowedFd<'_>,
        start: u64,
        point: &Path,
    ) -> Result<Self> {
        let failed = |e: rustix::io::Errno| Error::io(e.into(), "can't make a socket for the worker");
        let (control, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(failed)?;
        let mut command = Command::new(format!("/proc/self/fd/{}", program.file.as_raw_fd()));
        command.arg0(&program.path).args(arguments);
        inherit::bequeath(&mut command, [device, record, theirs.as_fd()], start, point);
        let child = command.spawn().map_err(|e| Error::io(e, "can't start a worker").at(&program.path))?;
        Ok(Self { child, control, start, since: Instant::now(), ready: false, failed: None })
    }

    /// The socket to it.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Takes what it has said, without waiting. False: it says nothing more.
    pub fn hear(&mut self) -> bool {
        let mut bytes = vec![0; MESSAGE_MAX];
        loop {
            match rustix::net::recv(self.control.as_fd(), &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return false,
                Ok((n, _)) => {
                    let message = &bytes[..n.min(MESSAGE_MAX)];
                    if message == word::READY {
                        self.ready = true;
                    } else if let Some(reason) = message.strip_prefix(word::FAILED) {
                        self.failed = Some(String::from_utf8_lossy(reason).into_owned());
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Tells it something; a worker that has died doesn't hear it.
    pub fn tell(&self, order: &[u8]) {
        if let Err(error) = rustix::net::send(self.control.as_fd(), order, SendFlags::NOSIGNAL) {
            tracing::debug!(%error, "the worker doesn't hear");
        }
    }

    /// Its end, if it has come to it. All its writes have ended then.
    pub fn reap(&mut self) -> Option<ExitStatus> {
        match self.child.try_wait() {
            Ok(status) => status,
            Err(error) => {
                tracing::error!(%error, "can't wait for the worker");
                None
            }
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        if let Err(error) = self.child.kill() {
            tracing::debug!(%error, "can't kill the worker");
        }
        if let Err(error) = self.child.wait() {
            tracing::error!(%error, "can't wait for the worker");
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}
