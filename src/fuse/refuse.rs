//! What the keeper answers by itself when no worker stays alive: an errno, so that nobody waits for ever.
//!
//! 1. Whatever carries bytes to a disk or makes them durable gets ENOSPC: with default options QEMU pauses the
//!    machine on it, and the guest sees nothing. All else gets EIO.
//! 2. Nothing is invented: no read is answered with data, no write with success.

use super::abi::{self, Head, REQUEST_MAX, opcode};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Refuses requests as long as it lives; no worker may read from the device meanwhile.
#[derive(Debug)]
pub struct Refusing {
    buffer: Vec<u8>,
}

impl Refusing {
    /// Begins: also what the last worker took and didn't answer is refused.
    pub fn new(device: &OwnedFd) -> Self {
        set_blocking(device, false);
        if let Err(error) = rustix::io::write(device, &abi::notify_resend()) {
            tracing::error!(%error, "what was in flight can't be refused: its callers hang");
        }
        Self { buffer: vec![0; REQUEST_MAX] }
    }

    /// Refuses what has come.
    pub fn refuse(&mut self, device: &OwnedFd) {
        loop {
            match rustix::io::read(device, &mut self.buffer[..]) {
                Ok(n) => {
                    if let Some(answer) = Head::of(&self.buffer[..n]).and_then(answer)
                        && let Err(error) = rustix::io::write(device, &answer)
                    {
                        tracing::debug!(%error, "a refusal didn't reach its caller");
                    }
                }
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(_) => return,
            }
        }
    }

    /// Ends: the device is as workers expect it.
    pub fn end(self, device: &OwnedFd) {
        set_blocking(device, true);
    }
}

fn set_blocking(device: &OwnedFd, blocking: bool) {
    let set = rustix::fs::fcntl_getfl(device).and_then(|mut flags| {
        flags.set(OFlags::NONBLOCK, !blocking);
        rustix::fs::fcntl_setfl(device, flags)
    });
    if let Err(error) = set {
        tracing::error!(%error, "can't change the mode of the device");
    }
}

fn answer(head: Head) -> Option<[u8; 16]> {
    let errno = match head.opcode {
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => return None,
        opcode::WRITE | opcode::FSYNC | opcode::FLUSH | opcode::FALLOCATE => libc::ENOSPC,
        opcode::DESTROY => 0,
        _ => libc::EIO,
    };
    Some(abi::answer(head.unique, errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_a_disk_gets_enospc_and_nothing_else_succeeds() {
        let errno = |opcode| {
            answer(Head { opcode, unique: 3 }).map(|a| -i32::from_ne_bytes([a[4], a[5], a[6], a[7]]))
        };
        for opcode in 0..60 {
            let expected = match opcode {
                opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => None,
                opcode::WRITE | opcode::FSYNC | opcode::FLUSH | opcode::FALLOCATE => Some(libc::ENOSPC),
                opcode::DESTROY => Some(0),
                _ => Some(libc::EIO),
            };
            assert_eq!(errno(opcode), expected, "opcode {opcode}");
        }
    }
}
