//! Memory that O_DIRECT takes, and the check that both storages make before direct I/O.
//!
//! The check is made where the filesystem would not have minded, too, so that a misaligned caller is found
//! on every machine and in simulation, not first on a disk with 4096-byte sectors.

use crate::vocab::{Error, GRANULE, Kind, Result};
use std::fmt;
use std::io::IoSlice;
use std::ops::{Deref, DerefMut};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
struct Block([u8; GRANULE as usize]);

const _: () = assert!(size_of::<Block>() == 4096 && align_of::<Block>() == 4096);

/// Zeroed bytes whose address is a multiple of 4096.
#[derive(Clone)]
pub struct AlignedBuf {
    blocks: Vec<Block>,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let count = len.div_ceil(GRANULE as usize);
        let mut blocks = Vec::with_capacity(count);
        blocks.resize_with(count, Block::new_zeroed);
        Self { blocks, len }
    }

    /// A copy of `bytes`, followed by zeros up to a multiple of 4096.
    pub fn padded(bytes: &[u8]) -> Self {
        let mut out = Self::zeroed(bytes.len().next_multiple_of(GRANULE as usize));
        out[..bytes.len()].copy_from_slice(bytes);
        out
    }

    /// Sets the length; what is new is zero. Keeps the content before it.
    pub fn resize(&mut self, len: usize) {
        if len < self.len {
            let old = self.len;
            self[len..old].fill(0);
        }
        self.blocks.resize_with(len.div_ceil(GRANULE as usize), Block::new_zeroed);
        self.len = len;
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.blocks.as_bytes()[..self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.blocks.as_mut_bytes()[..self.len]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({})", self.len)
    }
}

/// Refuses (`Invalid`) an offset, lengths or addresses that direct I/O can't take.
pub(super) fn check_buffers(bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
    bufs.iter().try_for_each(|buf| check_buffer(buf, offset))
}

/// As [`check_buffers`], for one buffer.
pub(super) fn check_buffer(buf: &[u8], offset: u64) -> Result<()> {
    let granule = GRANULE as usize;
    if !offset.is_multiple_of(GRANULE)
        || !buf.len().is_multiple_of(granule)
        || !buf.as_ptr().addr().is_multiple_of(granule)
    {
        let what = format!("direct I/O of {} bytes isn't aligned to {GRANULE}", buf.len());
        return Err(Error::new(Kind::Invalid, what).offset(offset));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_resizable() {
        let mut buf = AlignedBuf::padded(b"abc");
        assert_eq!((buf.len(), &buf[..4]), (4096, &b"abc\0"[..]));
        assert!(check_buffer(&buf, 8192).is_ok());
        buf.resize(2);
        buf.resize(9000);
        assert_eq!(&buf[..4], b"ab\0\0");
        assert_eq!((buf.len(), buf[8999]), (9000, 0));
    }

    #[test]
    fn misaligned_is_refused() {
        let buf = AlignedBuf::zeroed(8192);
        for (slice, offset) in [(&buf[..], 512), (&buf[..100], 0), (&buf[1..4097], 0)] {
            assert_eq!(check_buffer(slice, offset).unwrap_err().kind(), Kind::Invalid);
        }
    }
}
