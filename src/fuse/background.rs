//! Going into the background: the caller returns when the mount is usable, or with the reason why it isn't.

use crate::vocab::{Error, Kind, Result};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The caller: the other one has begun its work.
    Caller,
    /// The one that stays.
    Background(Reporter),
}

/// Tells the caller how the start went. Dropped unused: that it failed.
#[derive(Debug)]
pub struct Reporter(PipeWriter);

impl Reporter {
    /// The start went well, or failed with this error. The caller may be gone; nobody minds.
    pub fn report<T>(mut self, outcome: &Result<T>) {
        let text = match outcome {
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("error:{error}"),
        };
        let _ = self.0.write_all(text.as_bytes());
    }
}

/// Splits off a process in a session of its own, with nothing on its standard streams but `log`. To be called
/// while this process has one thread.
pub fn detach(log: Option<&Path>) -> Result<Side> {
    let failed = |e: rustix::io::Errno| Error::io(e.into(), "can't go into the background");
    let log = match log {
        Some(path) => {
            let options = File::options().append(true).create(true).open(path);
            Some(options.map_err(|e| Error::io(e, "can't open the log").at(path))?)
        }
        None => None,
    };
    let (reader, writer) = std::io::pipe().map_err(|e| Error::io(e, "can't go into the background"))?;
    // SAFETY: one thread, so the child may go on as if nothing had happened.
    match unsafe { libc::fork() } {
        -1 => Err(Error::io(std::io::Error::last_os_error(), "can't go into the background")),
        0 => {
            drop(reader);
            rustix::process::setsid().map_err(failed)?;
            redirect(log)?;
            Ok(Side::Background(Reporter(writer)))
        }
        _ => {
            drop(writer);
            await_report(reader)
        }
    }
}

fn await_report(mut reader: PipeReader) -> Result<Side> {
    let mut text = String::new();
    let read = reader.read_to_string(&mut text);
    if read.is_ok() && text == "ok" {
        return Ok(Side::Caller);
    }
    match text.strip_prefix("error:") {
        Some(reason) => Err(Error::new(Kind::Refused, reason)),
        None => Err(Error::new(Kind::Io, "the process in the background died while it started")
            .advice("Start it in the foreground to see why")),
    }
}

fn redirect(log: Option<File>) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(e, "can't leave the terminal");
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let output = log.as_ref().unwrap_or(&null);
    for (stream, file) in [(0, &null), (1, output), (2, output)] {
        // SAFETY: both numbers are open or may be closed; dup2 takes numbers only.
        if unsafe { libc::dup2(file.as_raw_fd(), stream) } < 0 {
            return Err(failed(std::io::Error::last_os_error()));
        }
    }
    Ok(())
}
