//! What a filesystem asks of the live files beside their bytes: data and holes, room, and whether what an opening
//! saw is still the live history.
//!
//! F1. The *generation* changes with each epoch and each jump, and at no other time. [`Group::submit_on`] compares it in the
//!     queue, behind which nothing of another epoch can have come: an operation that was allowed by the state of
//!     one line never enters another.
//! F2. An opening made in epoch E is on the live line if E is, and no newer epoch of the line left records of its
//!     parent behind at this site: those may be in the caches of who has the file open.

use crate::base::{
    BaseFile, Holes, Overlaid, all_data, next_data, next_hole, unallocated, unallocated_about,
};
use crate::group::Group;
use crate::group::group::Reply;
use crate::group::queue::Op;
use crate::index::{Content, Extent, Path, Source};
use crate::vocab::{DiskOrdinal, EpochId, GRANULE, LogId, Pos, Result};
use std::sync::Arc;

/// Pieces of the index that one `stat` of a live file looks at; about 10 ms.
const STAT_PIECES_MAX: usize = 10_000;
/// Likewise of a past moment, whose index is rarely in memory: 250 ranges of a busy disk are up to 20 pages that are read
/// one by one, and as many places of the base's own table; the first byte of a moment waits for them.
pub(crate) const PAST_PIECES_MAX: usize = 250;

/// A base, or none yet: all hole.
pub(crate) struct Below(pub(crate) Option<Arc<BaseFile>>);

impl Holes for Below {
    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        self.0.as_ref().map_or(Ok(None), |base| Holes::next_data(&**base, offset))
    }

    fn next_hole(&self, offset: u64) -> Result<Option<u64>> {
        // Without an end: what asks has the file's size.
        self.0.as_ref().map_or(Ok(Some(offset)), |base| Holes::next_hole(&**base, offset))
    }
}

pub(crate) fn overlaid(extent: Result<Extent>) -> Option<Result<Overlaid>> {
    let content = |extent: Extent| match extent.source {
        Source::Below => None,
        Source::Zero => Some(Content::Zero),
        Source::Data { .. } => Some(Content::Data),
    };
    match extent {
        Err(e) => Some(Err(e)),
        Ok(extent) => {
            content(extent).map(|content| Ok(Overlaid { offset: extent.offset, len: extent.len, content }))
        }
    }
}

impl Group {
    /// SEEK_DATA in a live file of `size` bytes, exact to granules of 4096 bytes. `None` if there is no data at or
    /// after `offset`.
    pub fn next_data(&self, disk: DiskOrdinal, offset: u64, size: u64) -> Result<Option<u64>> {
        self.at_head(disk, |path, base| self.seek_in(path, base, disk, (offset, size), false))
    }

    /// SEEK_HOLE likewise; the end of the file is a hole. `None` at or beyond the end.
    pub fn next_hole(&self, disk: DiskOrdinal, offset: u64, size: u64) -> Result<Option<u64>> {
        self.at_head(disk, |path, base| self.seek_in(path, base, disk, (offset, size), true))
    }

    /// Bytes that a live file of `size` bytes takes: the base's, and journaled granules that are holes in it.
    pub fn allocated(&self, disk: DiskOrdinal, size: u64) -> Result<u64> {
        self.at_head(disk, |path, base| self.allocated_in(path, base, disk, (size, STAT_PIECES_MAX)))
    }

    /// Bytes that a file of `size` bytes takes on a path; about, where more pieces of the index than `pieces` would have to
    /// be looked at.
    pub(crate) fn allocated_in(
        &self,
        path: &Path,
        base: Option<Arc<BaseFile>>,
        disk: DiskOrdinal,
        (size, pieces): (u64, usize),
    ) -> Result<u64> {
        let mut scan = self.index.scan_some(path, disk, (0, size), pieces)?;
        let seen = unallocated(scan.by_ref().filter_map(overlaid), &Below(base.clone()))?;
        let more = scan.broke_off().map_or(seen, |looked| unallocated_about(seen, looked, size));
        Ok(more + base.map_or(Ok(0), |base| base.allocated())?)
    }

    /// All data of a file of `size` bytes on a path, as [`all_data`] has it.
    pub(crate) fn data_in(
        &self,
        path: &Path,
        base: Option<Arc<BaseFile>>,
        disk: DiskOrdinal,
        size: u64,
        each: impl FnMut(u64, u64),
    ) -> Result<()> {
        let overlay = self.index.scan(path, disk, 0, size)?.filter_map(overlaid);
        all_data(overlay, &Below(base), size, each)
    }

    /// The next data or the next hole of a file on a path.
    pub(crate) fn seek_in(
        &self,
        path: &Path,
        base: Option<Arc<BaseFile>>,
        disk: DiskOrdinal,
        (offset, size): (u64, u64),
        hole: bool,
    ) -> Result<Option<u64>> {
        if offset >= size {
            return Ok(None);
        }
        let overlay = self.index.scan(path, disk, offset - offset % GRANULE, size)?.filter_map(overlaid);
        let below = Below(base);
        if hole { next_hole(overlay, &below, offset, size) } else { next_data(overlay, &below, offset, size) }
    }

    /// The main log and the place behind its newest record: equal as long as nothing was appended.
    pub fn log_end(&self) -> (LogId, Pos) {
        (self.log.id(), self.log.end())
    }

    /// Whether everything in the log is durable.
    pub fn is_durable(&self) -> bool {
        self.log.durable() >= self.log.end()
    }

    /// [`Group::submit`], if the generation is this one; else the reply comes back unused (F1).
    pub fn submit_on(
        &self,
        generation: u64,
        disk: DiskOrdinal,
        op: Op<'_>,
        sync: bool,
        reply: Reply,
    ) -> Option<Reply> {
        self.submit_if(disk, op, sync, reply, || self.generation() == generation)
    }

    /// F2: whether an opening made in `epoch` still sees its own history.
    ///
    /// # Errors
    /// `NotFound` if the epoch isn't known.
    pub fn is_live(&self, epoch: EpochId) -> Result<bool> {
        let core = self.core.lock();
        let head = self.head();
        if epoch == head.epoch {
            return Ok(true);
        }
        let line = core.table.line(head)?;
        let Some(place) = line.place(epoch) else { return Ok(false) };
        for newer in line.epochs_after(place) {
            let row = core.table.known(newer)?;
            let left = |s: &crate::format::Span| Some(s.epoch) == row.parent && s.last_seq > row.fork_seq;
            if core.spans.0.iter().any(left) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
