//! Which ranges a group changed: the range log is written from sealed segments, and asked for what lies behind a
//! moment.
//!
//! U1. A segment's ranges are durable before it may be freed, and before a full checkpoint lets the scan begin behind
//!     it: so after every crash each record held or freed is either in a segment that is there, or in the range log.
//! U2. Ranges are asked for along this site's own path (P1 of `history::path`): of records what they changed, of a jump
//!     what was staged for it. Where a stretch isn't covered the answer is `NotFound`, never a smaller set.
//! U3. Retention, rounds and commit don't touch it: it reaches back to the group's beginning, in coarser granules once
//!     it has grown to its bound (K3 of `index::range_log`).
//! U4. Writers go on while ranges are asked for: what is asked for ends at the head of the beginning, and the segment
//!     that was open then is read itself, also if it ends meanwhile: the range log doesn't have it yet.
//! U5. It is read when it is needed for the first time, at the latest by the first full checkpoint: who opens a group, and
//!     reads a moment of it, doesn't wait for all ranges of its past.

use crate::exchange::{DiskRange, RangeSet};
use crate::group::Group;
use crate::group::left_out;
use crate::group::line::between;
use crate::group::write::entry_of_stored;
use crate::history::{Path as LinePath, Piece};
use crate::index::{Changes, Entry, RANGE_LOG_BYTES_MAX, RangeLog, Resize, SeqStretch};
use crate::journal::{BatchView, Log, SegmentInfo};
use crate::vocab::{Error, Kind, Moment, Pos, RecordKind, Result, Seq};
use std::sync::Arc;

impl Group {
    /// U5.
    pub(crate) fn range_log(&self) -> Result<Arc<RangeLog>> {
        let mut open = self.ranges.lock();
        if let Some(log) = &*open {
            return Ok(Arc::clone(log));
        }
        let dir = self.dir.join("ranges");
        let (log, damage) = RangeLog::open(self.parts.store.clone(), dir, self.id(), RANGE_LOG_BYTES_MAX)?;
        for error in damage {
            tracing::warn!(group = %self.id().short(), "of the range log: {error}");
        }
        Ok(Arc::clone(open.insert(Arc::new(log))))
    }

    /// U1: writes what the range log lacks of the segments that are not appended to any more.
    pub(crate) fn write_ranges(&self) -> Result<()> {
        if left_out("U1: ranges of sealed segments are kept") {
            return Ok(());
        }
        let open = self.log.open_segment().map(|s| s.start);
        let ranges = self.range_log()?;
        let covered = ranges.covered();
        for segment in self.log.segments() {
            let stretch =
                SeqStretch { epoch: segment.epoch, first: segment.first_seq, last: segment.last_seq };
            let known = |c: &SeqStretch| {
                c.epoch == stretch.epoch && c.first <= stretch.first && stretch.last <= c.last
            };
            if Some(segment.start) == open || stretch.first > stretch.last || covered.iter().any(known) {
                continue;
            }
            let changes = changes_of_segment(&self.log, &segment, (Seq(0), Seq(u64::MAX)))?;
            ranges.append(stretch, changes)?;
        }
        Ok(())
    }

    /// What this site changed behind a moment of its path, up to its head. `None`: that isn't known all the way (U2).
    pub(crate) fn changed_after(&self, after: Moment) -> Result<Option<RangeSet>> {
        let _work = self.work.lock();
        // U4.
        let (head, open) = (self.head(), self.log.open_segment());
        self.write_ranges()?;
        between("ranges are written");
        let late = left_out("U4: the open segment is chosen before ranges are written");
        let open = if late { self.log.open_segment() } else { open };
        let table = self.table();
        let after = table.norm(after)?;
        let path = LinePath::build(&table, head, &self.jumps(), None)?;
        let Some(place) = path.place(&table, after)? else { return Ok(None) };
        let (mut stretches, mut changes) = (Vec::new(), Changes::default());
        for piece in path.pieces_after(place) {
            let mut stretch = match piece {
                Piece::Jump { from_image: false, .. } => return Ok(None),
                Piece::Jump { to, .. } => SeqStretch { epoch: to.epoch, first: to.seq, last: to.seq },
                Piece::Records { epoch, after, to } => SeqStretch { epoch, first: after.next(), last: to },
            };
            if let Some(open) = open.as_ref().filter(|o| {
                matches!(piece, Piece::Records { .. })
                    && o.epoch == stretch.epoch
                    && o.first_seq <= stretch.last
                    && o.first_seq <= o.last_seq
            }) {
                let more = changes_of_segment(&self.log, open, (stretch.first, stretch.last))?;
                merge(&mut changes, more);
                stretch.last = stretch.last.min(Seq(open.first_seq.0 - 1));
            }
            if stretch.first <= stretch.last {
                stretches.push(stretch);
            }
        }
        match self.range_log()?.union(&stretches) {
            Ok(union) => merge(&mut changes, union.changes),
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => return Ok(None),
            Err(e) => return Err(e),
        }
        Ok(Some(set_of(&changes)))
    }
}

/// What the records of a segment changed, from the first to the last of `seqs`.
pub(crate) fn changes_of_segment(log: &Log, segment: &SegmentInfo, seqs: (Seq, Seq)) -> Result<Changes> {
    let mut changes = Changes::default();
    let mut pos = segment.first_batch();
    while pos < segment.end {
        let Some(batch) = log.batch_at(pos)? else {
            let what = format!("the ranges of a segment can't be told: no batch at {pos}");
            return Err(Error::new(Kind::Damaged, what));
        };
        add_batch(&mut changes, &batch, seqs);
        pos = batch.end();
    }
    Ok(changes)
}

pub(crate) fn add_batch(changes: &mut Changes, batch: &BatchView, (first, last): (Seq, Seq)) {
    for r in &batch.records {
        let e = &r.entry;
        if e.kind.has_seq() && !(first <= e.seq && e.seq <= last) {
            continue;
        }
        if e.kind == RecordKind::Resize {
            // Old and new size: what lies between reads as zeros now, or is gone.
            changes.resizes.push(Resize { disk: e.disk, old: e.length, new: e.offset });
            changes.add(e.disk, e.offset.min(e.length)..e.offset.max(e.length));
        } else if let Some(Entry { disk, offset, len, .. }) = entry_of_stored(e, Pos(0)) {
            changes.add(disk, offset..offset.saturating_add(len));
        }
    }
}

fn merge(into: &mut Changes, more: Changes) {
    for (disk, ranges) in more.ranges {
        into.ranges.entry(disk).or_default().extend(ranges);
    }
    into.resizes.extend(more.resizes);
}

fn set_of(changes: &Changes) -> RangeSet {
    let mut set = RangeSet::new();
    for (disk, ranges) in &changes.ranges {
        for range in ranges {
            set.add(DiskRange { disk: *disk, offset: range.start, length: range.end - range.start });
        }
    }
    set
}
