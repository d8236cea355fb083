//! Layer 1. The one function that reads a moment.
//!
//! V1. Live disk, recovery point, clone, branch and failed-over disk are this function with another path.
//! V2. The bytes of a range: the newest version on the path above the anchor (the later interval first, in it the
//!     higher place); else what the anchor has: a hold (reserved), else the base.
//! V3. A path that is given here was cut above its anchor by the caller, who keeps the anchor where it is while
//!     the view is read: no round may pass it.

use crate::base::BaseFile;
use crate::index::{Index, Path, Source};
use crate::vocab::{DiskOrdinal, LogId, Pos, Result};

/// Reads payloads of the logs of a group.
pub trait Payloads {
    /// Fills `buf` from `skip` bytes into the payload of `stored` bytes at `pos`, and checks its crc.
    fn read(&self, log: LogId, pos: Pos, stored: u64, crc: u32, skip: u64, buf: &mut [u8]) -> Result<()>;
}

/// What a view of one file reads from.
pub struct Sources<'a> {
    /// Versions.
    pub index: &'a Index,
    /// Payloads.
    pub payloads: &'a dyn Payloads,
    /// The file's base image; `None`: it has none yet and reads as zeros.
    pub base: Option<&'a BaseFile>,
}

/// Fills `buf` with the bytes of a file from `offset` as the moment has them. Beyond the base's end there are zeros;
/// the caller knows the file's size.
///
/// # Errors
/// `Damaged` for rot; `NotFound` if a segment was freed between look-up and read: the caller looks up again.
pub fn read(from: &Sources<'_>, path: &Path, disk: DiskOrdinal, offset: u64, buf: &mut [u8]) -> Result<()> {
    let mut extents = Vec::new();
    from.index.lookup_into(path, disk, offset, buf.len() as u64, &mut extents)?;
    for extent in &extents {
        let at = (extent.offset - offset) as usize;
        let part = &mut buf[at..at + extent.len as usize];
        match extent.source {
            Source::Zero => part.fill(0),
            Source::Data { log, entry, skip } => {
                from.payloads.read(log, entry.pos, entry.len, entry.crc, skip, part)?;
            }
            Source::Below => match from.base {
                Some(base) => base.read(part, extent.offset)?,
                None => part.fill(0),
            },
        }
    }
    Ok(())
}
