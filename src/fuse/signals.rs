//! Signals of the keeper and of its workers.
//!
//! 1. The keeper has them blocked and reads them from a descriptor: nothing in it is interrupted.
//! 2. Programs that keeper or worker start get none of it: the mask is emptied for them, and handlers (unlike
//!    ignored signals) end at exec.

use crate::vocab::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

const WATCHED: [i32; 4] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The watched signals of this process, as a descriptor.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks and watches SIGCHLD, SIGTERM, SIGINT and SIGHUP. To be called before there are other threads.
    pub fn watch() -> Result<Self> {
        let failed = || Error::io(std::io::Error::last_os_error(), "can't watch signals");
        // SAFETY: a zeroed sigset_t is a place to make an empty set in; all calls get valid pointers.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in WATCHED {
                libc::sigaddset(&mut set, signal);
            }
            if libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
                return Err(failed());
            }
            let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(failed());
            }
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// The next signal that has come, if any.
    pub fn next(&self) -> Option<i32> {
        let mut bytes = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut bytes) {
            Ok(n) if n == bytes.len() => {
                // The signal's number is the first word.
                let [a, b, c, d, ..] = bytes;
                i32::try_from(u32::from_ne_bytes([a, b, c, d])).ok()
            }
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Unblocks all signals. Safe between fork and exec.
pub fn unblock_all() {
    // SAFETY: as above.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

static TERMINATED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(signal: libc::c_int) {
    if signal != libc::SIGHUP {
        TERMINATED.store(true, Ordering::Relaxed);
    }
}

/// For a worker: SIGTERM and the like are the keeper's business (a terminal and systemd send them to both).
pub fn leave_to_the_keeper() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Whether this worker was sent SIGTERM or SIGINT.
pub fn was_terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}

/// Lets the kernel kill this process with `signal` when its parent dies; 0: not any more.
pub fn die_with_parent(signal: i32) {
    // SAFETY: takes numbers only.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong);
    }
}
