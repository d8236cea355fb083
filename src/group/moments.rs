//! Past moments as a filesystem shows them: holes, room, times.

use crate::base::{BaseFile, unallocated};
use crate::group::content::{Below, overlaid};
use crate::group::{Group, MomentView};
use crate::index::Interval;
use crate::vocab::{DiskOrdinal, Error, Kind, Moment, Pos, Result};
use std::sync::Arc;

impl Group {
    /// SEEK_DATA in a file of `size` bytes of a past moment.
    pub fn next_data_of(
        &self,
        view: &MomentView,
        disk: DiskOrdinal,
        offset: u64,
        size: u64,
    ) -> Result<Option<u64>> {
        let (path, base) = view.file(disk)?;
        let found = self.seek_data(path, base.clone(), disk, offset, size);
        self.not_passed(view, disk)?;
        found
    }

    /// SEEK_HOLE likewise.
    pub fn next_hole_of(
        &self,
        view: &MomentView,
        disk: DiskOrdinal,
        offset: u64,
        size: u64,
    ) -> Result<Option<u64>> {
        let (path, base) = view.file(disk)?;
        let found = self.seek_hole(path, base.clone(), disk, offset, size);
        self.not_passed(view, disk)?;
        found
    }

    /// Bytes that a file of a past moment takes.
    pub fn allocated_of(&self, view: &MomentView, disk: DiskOrdinal, size: u64) -> Result<u64> {
        let (path, base) = view.file(disk)?;
        let journaled = self.index.scan(path, disk, 0, size)?.filter_map(overlaid);
        let more = unallocated(journaled, &Below(base.clone()))?;
        Ok(more + base.as_ref().map_or(Ok(0), |base: &Arc<BaseFile>| base.allocated())?)
    }

    /// Wall time of a moment's last record; 0 for the moment before the first.
    ///
    /// # Errors
    /// `NotFound` if the record is no longer held.
    pub fn time_of(&self, moment: Moment) -> Result<i64> {
        if moment.seq.0 == 0 {
            return Ok(0);
        }
        let gone = || Error::new(Kind::NotFound, format!("the record of {moment} is no longer held"));
        let span = {
            let mut core = self.core.lock();
            self.refresh_spans(&mut core);
            let moment = core.table.norm(moment)?;
            core.spans.of(moment).cloned().ok_or_else(gone)?
        };
        let stretch = Interval { log: span.log, from: span.from, to: span.to };
        let row = self.index.batch_of_seq(stretch, moment.seq)?.ok_or_else(gone)?;
        let batch = self.log.batch_at(row.pos)?.ok_or_else(gone)?;
        let record = batch.records.iter().find(|r| r.entry.kind.has_seq() && r.entry.seq == moment.seq);
        record.map(|r| batch.wall(r)).ok_or_else(gone)
    }

    /// The greatest moment on the line with a wall time at or before this one; `None` if there is none, or if the
    /// time names two because a clock was set back.
    pub fn moment_at(&self, wall_ns: i64) -> Result<Option<Moment>> {
        let path = {
            let mut core = self.core.lock();
            self.head_path(&mut core)?
        };
        for interval in path.intervals().iter().rev() {
            let Some(found) = self.index.batch_at_time(*interval, wall_ns)? else { continue };
            if found.ambiguous {
                return Ok(None);
            }
            let Some(batch) = self.log.batch_at(found.row.pos)? else { return Ok(None) };
            let inside = |pos: Pos| interval.from <= pos && pos < interval.to;
            let last = batch
                .records
                .iter()
                .rev()
                .find(|r| r.entry.kind.has_seq() && inside(batch.place(r)) && batch.wall(r) <= wall_ns);
            if let Some(record) = last {
                return Ok(Some(Moment { epoch: batch.epoch, seq: record.entry.seq }));
            }
        }
        Ok(None)
    }
}
