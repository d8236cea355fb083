//! The few bytes of the kernel's protocol that are handled here and not by the FUSE library: the head of a
//! request, answers without a body, notifications, and what an INIT request offers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Set in the unique id of a request that the kernel sends again.
pub const RESEND_BIT: u64 = 1 << 63;
/// Largest payload of a write request, in bytes.
pub const WRITE_MAX: u32 = 1 << 20;
/// Room that a read from the device needs for any request, in bytes.
pub const REQUEST_MAX: usize = WRITE_MAX as usize + 4096;

const HEADER: usize = 40;
const ANSWER: usize = 16;

/// Numbers of the operations that are told apart here.
pub mod opcode {
    /// Lookups dropped; has no answer.
    pub const FORGET: u32 = 2;
    /// Write.
    pub const WRITE: u32 = 16;
    /// fsync.
    pub const FSYNC: u32 = 20;
    /// close of a descriptor.
    pub const FLUSH: u32 = 25;
    /// The handshake.
    pub const INIT: u32 = 26;
    /// Of a request; its answer is optional.
    pub const INTERRUPT: u32 = 36;
    /// The end.
    pub const DESTROY: u32 = 38;
    /// Several FORGETs; has no answer.
    pub const BATCH_FORGET: u32 = 42;
    /// Discard, zeroes, room.
    pub const FALLOCATE: u32 = 43;
}

/// The head of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// What is asked.
    pub opcode: u32,
    /// Names the request, with the resend bit.
    pub unique: u64,
}

impl Head {
    /// The head of the request in these bytes, if they are one.
    pub fn of(request: &[u8]) -> Option<Self> {
        if request.len() < HEADER || number(request, 0)? as usize > request.len() {
            return None;
        }
        let unique = u64::from_ne_bytes(request.get(8..16)?.try_into().ok()?);
        Some(Self { opcode: number(request, 4)?, unique })
    }
}

/// An answer without a body: success (0) or an errno.
pub fn answer(unique: u64, errno: i32) -> [u8; ANSWER] {
    let mut out = [0; ANSWER];
    out[0..4].copy_from_slice(&(ANSWER as u32).to_ne_bytes());
    out[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    out[8..16].copy_from_slice(&unique.to_ne_bytes());
    out
}

/// Asks the kernel to send again every request that was taken and not answered (Linux 6.9).
pub fn notify_resend() -> Vec<u8> {
    notification(7, &[])
}

/// Drops the kernel's cached attributes of an inode, and its pages if `content`.
pub fn notify_inode(ino: u64, content: bool) -> Vec<u8> {
    let mut body = [0; 24];
    body[0..8].copy_from_slice(&ino.to_ne_bytes());
    // From offset 0 to the end (length 0); a negative offset leaves the pages alone.
    body[8..16].copy_from_slice(&(if content { 0i64 } else { -1 }).to_ne_bytes());
    notification(2, &body)
}

/// Drops the kernel's cached name in a directory.
pub fn notify_name(parent: u64, name: &OsStr) -> Vec<u8> {
    let name = name.as_bytes();
    let mut body = Vec::with_capacity(17 + name.len());
    body.extend_from_slice(&parent.to_ne_bytes());
    body.extend_from_slice(&(name.len() as u32).to_ne_bytes());
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(name);
    body.push(0);
    notification(3, &body)
}

fn notification(code: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ANSWER + body.len());
    out.extend_from_slice(&((ANSWER + body.len()) as u32).to_ne_bytes());
    out.extend_from_slice(&code.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(body);
    out
}

/// What the kernel offers, out of its INIT request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Version of the protocol.
    pub protocol: (u32, u32),
    /// O_DIRECT clients get more than one request in flight.
    pub async_direct_io: bool,
    /// mmap of files that are opened for direct I/O (Linux 6.6).
    pub direct_io_mmap: bool,
    /// Requests that were in flight when a process died are sent again (Linux 6.9). Without it the callers of
    /// those requests hang after a crash.
    pub resend: bool,
}

impl Features {
    /// Out of the bytes of an INIT request.
    pub fn of(init: &[u8]) -> Option<Self> {
        if Head::of(init)?.opcode != opcode::INIT {
            return None;
        }
        let low = number(init, HEADER + 12)?;
        let extended = low & (1 << 30) != 0;
        let high = if extended { number(init, HEADER + 16).unwrap_or(0) } else { 0 };
        Some(Self {
            protocol: (number(init, HEADER)?, number(init, HEADER + 4)?),
            async_direct_io: low & (1 << 15) != 0,
            direct_io_mmap: high & (1 << (36 - 32)) != 0,
            resend: high & (1 << (39 - 32)) != 0,
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, unique: u64, body: &[u32]) -> Vec<u8> {
        let mut out = ((HEADER + body.len() * 4) as u32).to_ne_bytes().to_vec();
        out.extend_from_slice(&opcode.to_ne_bytes());
        out.extend_from_slice(&unique.to_ne_bytes());
        out.resize(HEADER, 0);
        body.iter().for_each(|word| out.extend_from_slice(&word.to_ne_bytes()));
        out
    }

    #[test]
    fn heads_are_read_and_fragments_refused() {
        let bytes = request(opcode::WRITE, 42 | RESEND_BIT, &[0; 10]);
        assert_eq!(Head::of(&bytes), Some(Head { opcode: opcode::WRITE, unique: 42 | RESEND_BIT }));
        assert_eq!(Head::of(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Head::of(&[]), None);
    }

    #[test]
    fn features_are_read_from_both_words() {
        let old = request(opcode::INIT, 2, &[7, 31, 0, 1 << 15]);
        let features = Features::of(&old).unwrap();
        assert_eq!(features.protocol, (7, 31));
        assert!(features.async_direct_io && !features.resend && !features.direct_io_mmap);
        let new = request(opcode::INIT, 2, &[7, 44, 0, 1 << 30, (1 << 7) | (1 << 4)]);
        let features = Features::of(&new).unwrap();
        assert!(!features.async_direct_io && features.resend && features.direct_io_mmap);
        let not_extended = request(opcode::INIT, 2, &[7, 44, 0, 0, (1 << 7) | (1 << 4)]);
        assert!(!Features::of(&not_extended).unwrap().resend);
        assert_eq!(Features::of(&request(opcode::WRITE, 2, &[7, 44, 0, 0])), None);
    }

    #[test]
    fn notifications_have_their_length_and_code() {
        for (bytes, code) in
            [(notify_resend(), 7), (notify_inode(5, true), 2), (notify_name(1, OsStr::new("web01")), 3)]
        {
            assert_eq!(number(&bytes, 0), Some(bytes.len() as u32));
            assert_eq!(number(&bytes, 4), Some(code));
            assert_eq!(bytes[8..16], [0; 8]);
        }
        assert_eq!(answer(9, libc::ENOSPC)[4..8], (-libc::ENOSPC).to_ne_bytes());
    }
}
