//! One file of a real filesystem. See `real.rs` for the rules.

use crate::seam::aligned::{AlignedBuf, check_buffer, check_buffers};
use crate::seam::real::{failed, retry};
use crate::seam::watch;
use crate::seam::{Access, Durability, File};
use crate::vocab::{Error, GRANULE, Result};
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use std::fmt;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are written at once where zeros have to stand for a hole.
const ZEROS_BYTES: usize = 256 << 10;

/// A file below a [`DirStorage`](crate::seam::DirStorage).
pub(super) struct DirFile {
    fd: OwnedFd,
    access: Access,
    /// Whether O_DIRECT is set on the descriptor now.
    direct: AtomicBool,
    /// Set for the whole tree once the filesystem refused O_DIRECT.
    direct_refused: Arc<AtomicBool>,
    shown: PathBuf,
}

impl DirFile {
    pub(super) fn new(
        fd: OwnedFd,
        access: Access,
        direct: bool,
        direct_refused: Arc<AtomicBool>,
        shown: PathBuf,
    ) -> Self {
        Self { fd, access, direct: AtomicBool::new(direct), direct_refused, shown }
    }

    fn fail(&self, errno: Errno, what: &str, offset: u64) -> Error {
        failed(errno, what).at(&self.shown).offset(offset)
    }

    /// Some filesystems take the flag at open and refuse the first read or write. True if it is worth
    /// another try without it.
    fn go_cached(&self) -> bool {
        if !self.direct.swap(false, Ordering::Relaxed) {
            return false;
        }
        self.direct_refused.store(true, Ordering::Relaxed);
        rustix::fs::fcntl_getfl(&self.fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(&self.fd, flags.difference(OFlags::DIRECT)))
            .is_ok()
    }

    /// How far a request may be continued that stopped after `done` bytes.
    fn aligned(&self, done: usize) -> usize {
        if self.direct.load(Ordering::Relaxed) { done - done % GRANULE as usize } else { done }
    }

    fn write_some(
        &self,
        bufs: &[IoSlice<'_>],
        offset: u64,
        durability: Durability,
    ) -> rustix::io::Result<usize> {
        let flags = match durability {
            Durability::Plain => ReadWriteFlags::empty(),
            Durability::Durable => ReadWriteFlags::DSYNC,
        };
        // rustix passes at most IOV_MAX buffers on; the rest is a partial write like any other.
        match retry(|| rustix::io::pwritev2(&self.fd, bufs, offset, flags)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let done = retry(|| rustix::io::pwritev(&self.fd, bufs, offset))?;
                if durability == Durability::Durable {
                    retry(|| rustix::fs::fdatasync(&self.fd))?;
                }
                Ok(done)
            }
            other => other,
        }
    }

    fn fallocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> rustix::io::Result<bool> {
        if len == 0 {
            return Ok(true);
        }
        match retry(|| rustix::fs::fallocate(&self.fd, mode | FallocateFlags::KEEP_SIZE, offset, len)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Writes zeros over what isn't a hole, up to the end of the file.
    fn write_zeros(&self, offset: u64, len: u64, what: &str) -> Result<()> {
        // The range need not be aligned: a second descriptor without O_DIRECT.
        let cached;
        let fd = if self.direct.load(Ordering::Relaxed) {
            let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            cached = retry(|| rustix::fs::open(path.as_str(), flags, Mode::empty()))
                .map_err(|e| self.fail(e, what, offset))?;
            &cached
        } else {
            &self.fd
        };
        let end = offset.saturating_add(len).min(self.len()?);
        let zeros = AlignedBuf::zeroed(ZEROS_BYTES);
        let mut at = offset;
        while at < end {
            let Some(start) = self.next_data(at)?.filter(|start| *start < end) else { break };
            let stop = self.next_hole(start)?.unwrap_or(end).min(end);
            at = start;
            while at < stop {
                let step = ((stop - at) as usize).min(ZEROS_BYTES);
                let done = retry(|| rustix::io::pwrite(fd, &zeros[..step], at))
                    .map_err(|errno| self.fail(errno, what, at))?;
                at += done as u64;
            }
        }
        Ok(())
    }

    fn seek(&self, to: SeekFrom, offset: u64) -> Result<Option<u64>> {
        // Moves the descriptor's position, which nothing here uses.
        match retry(|| rustix::fs::seek(&self.fd, to)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            // No holes are known here: all is data up to the end.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                let len = self.len()?;
                let found = if matches!(to, SeekFrom::Data(_)) { offset } else { len };
                Ok((offset < len).then_some(found))
            }
            Err(errno) => Err(self.fail(errno, "can't look for holes", offset)),
        }
    }
}

impl File for DirFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        if self.access == Access::Direct {
            check_buffer(buf, offset).map_err(|e| e.at(&self.shown))?;
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            match retry(|| rustix::io::pread(&self.fd, &mut buf[done..], at)) {
                Ok(0) => break,
                Ok(count) => {
                    let kept = self.aligned(done + count);
                    if kept < done + count && at + count as u64 >= self.len()? {
                        return Ok(done + count);
                    }
                    if kept == done {
                        return Err(self.fail(Errno::IO, "a direct read stopped within a block", at));
                    }
                    done = kept;
                }
                Err(Errno::INVAL) if self.go_cached() => {}
                Err(errno) => return Err(self.fail(errno, "can't read", at)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64, durability: Durability) -> Result<()> {
        if self.access == Access::Direct {
            check_buffers(bufs, offset).map_err(|e| e.at(&self.shown))?;
        }
        let what = if durability == Durability::Durable { "can't write durably" } else { "can't write" };
        let mut list = bufs.to_vec();
        let mut rest = &mut list[..];
        let mut at = offset;
        // Drops leading empty buffers, so that what remains is never all empty.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match self.write_some(rest, at, durability) {
                Ok(count) => {
                    let kept = self.aligned(count);
                    if kept == 0 {
                        return Err(self.fail(Errno::NOSPC, what, at));
                    }
                    IoSlice::advance_slices(&mut rest, kept);
                    at += kept as u64;
                }
                Err(Errno::INVAL) if self.go_cached() => {}
                Err(errno) => return Err(self.fail(errno, what, at)),
            }
        }
        if durability == Durability::Durable {
            watch::durable(&self.shown);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        retry(|| rustix::fs::fdatasync(&self.fd))
            .map_err(|errno| failed(errno, "can't sync").at(&self.shown))
            .inspect(|()| watch::durable(&self.shown))
    }

    fn len(&self) -> Result<u64> {
        let stat = retry(|| rustix::fs::fstat(&self.fd))
            .map_err(|errno| failed(errno, "can't ask for the length").at(&self.shown))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        retry(|| rustix::fs::ftruncate(&self.fd, len))
            .map_err(|errno| self.fail(errno, "can't set the length", len))
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        match self.fallocate(FallocateFlags::empty(), offset, len) {
            Ok(_) => Ok(()),
            Err(errno) => Err(self.fail(errno, "can't allocate", offset)),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        match self.fallocate(FallocateFlags::PUNCH_HOLE, offset, len) {
            Ok(true) => Ok(()),
            Ok(false) => self.write_zeros(offset, len, "can't write zeros for a hole"),
            Err(errno) => Err(self.fail(errno, "can't punch a hole", offset)),
        }
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        match self.fallocate(FallocateFlags::ZERO_RANGE, offset, len) {
            Ok(true) => Ok(()),
            Ok(false) => self.write_zeros(offset, len, "can't write zeros"),
            Err(errno) => Err(self.fail(errno, "can't zero", offset)),
        }
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        self.seek(SeekFrom::Data(offset), offset)
    }

    fn next_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.seek(SeekFrom::Hole(offset), offset)
    }

    fn allocated(&self) -> Result<u64> {
        let stat = retry(|| rustix::fs::fstat(&self.fd))
            .map_err(|errno| failed(errno, "can't ask for the allocated room").at(&self.shown))?;
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
    }

    fn read_ahead(&self, offset: u64, len: u64) {
        // A hint that isn't taken costs time only.
        let len = std::num::NonZeroU64::new(len);
        let _ = rustix::fs::fadvise(&self.fd, offset, len, rustix::fs::Advice::WillNeed);
    }
}

impl fmt::Debug for DirFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirFile({})", self.shown.display())
    }
}

impl DirFile {
    /// Writes zeros in place of a hole, for a test of what happens where no hole can be punched.
    #[cfg(test)]
    pub(super) fn punch_by_zeros(&self, offset: u64, len: u64) -> Result<()> {
        self.write_zeros(offset, len, "can't write zeros for a hole")
    }
}
