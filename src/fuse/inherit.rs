//! What a keeper hands to a worker: descriptors by number and a few words in the environment.
//!
//! 1. The words count for the keeper's own child only: what a worker starts inherits them and isn't a worker.
//! 2. A worker takes the descriptors before it does anything else and closes them on exec.

use crate::vocab::{Error, Kind, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

const WORDS: &str = "STANDBYFS_WORKER";
const POINT: &str = "STANDBYFS_MOUNT_POINT";

/// What a worker got.
#[derive(Debug)]
pub struct Inheritance {
    /// /dev/fuse.
    pub device: OwnedFd,
    /// The shared memory of the mount.
    pub record: OwnedFd,
    /// The socket to the keeper.
    pub control: OwnedFd,
    /// The how-manieth worker of the mount this is, from 1.
    pub start: u64,
    /// Where the mount is.
    pub point: PathBuf,
}

/// Makes `command` hand over these descriptors.
pub fn bequeath(
    command: &mut Command,
    [device, record, control]: [BorrowedFd<'_>; 3],
    start: u64,
    point: &std::path::Path,
) {
    let numbers = [device.as_raw_fd(), record.as_raw_fd(), control.as_raw_fd()];
    let [d, r, c] = numbers;
    let keeper = std::process::id();
    command.env(WORDS, format!("{keeper} {d} {r} {c} {start}")).env(POINT, point);
    // SAFETY: between fork and exec only calls that are safe there: fcntl and sigmask.
    unsafe {
        command.pre_exec(move || {
            for number in numbers {
                if libc::fcntl(number, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            super::signals::unblock_all();
            Ok(())
        });
    }
}

/// What this process got, if a keeper started it as its worker. Takes effect once: the descriptors are owned
/// by the first answer.
pub fn inherited() -> Result<Option<Inheritance>> {
    let Ok(words) = std::env::var(WORDS) else { return Ok(None) };
    let numbers: Vec<u64> = words.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [keeper, device, record, control, start] = numbers[..] else {
        return Err(Error::new(Kind::Invalid, format!("{WORDS} is set to something else: `{words}`"))
            .advice("Unset it: it is for workers only"));
    };
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get() as u64);
    if parent != Some(keeper) {
        return Ok(None);
    }
    Ok(Some(Inheritance {
        device: take(device)?,
        record: take(record)?,
        control: take(control)?,
        start,
        point: std::env::var_os(POINT).unwrap_or_default().into(),
    }))
}

/// Whether the words are for this process.
pub fn is_worker() -> bool {
    let keeper = std::env::var(WORDS).ok().and_then(|words| words.split(' ').next()?.parse::<i32>().ok());
    keeper.is_some() && keeper == rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get())
}

fn take(number: u64) -> Result<OwnedFd> {
    let number = RawFd::try_from(number).unwrap_or(-1);
    // SAFETY: F_SETFD on a number that isn't open fails.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(Error::new(Kind::Invalid, "the keeper handed over a descriptor that isn't open"));
    }
    // SAFETY: open, and the keeper gave it to this process to own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
