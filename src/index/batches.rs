//! The table of batches: from a seq or a time to the place of a batch.
//!
//! It is a section of each run, a chapter a segment, so it is read page by page; the rows of segments without a
//! run are in memory. Seqs and times are those of one stretch of a log, which the caller takes from a line: other
//! stretches may have the same ones.

use crate::format::run::{BATCH_ROWS, BatchRow, Chapter, batch_row};
use crate::index::memory::Frozen;
use crate::index::run::{Pages, Run};
use crate::index::{Index, Interval};
use crate::vocab::{Error, Kind, Pos, Result, Seq};
use std::ops::Range;
use std::sync::Arc;

/// The batch that was the last at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchAtTime {
    /// The last one in the stretch with a wall time at or before it.
    pub row: BatchRow,
    /// Whether an earlier one has a later wall time: the clock went back, and the time names two moments.
    pub ambiguous: bool,
}

/// The rows of one segment.
enum Rows {
    Run(Arc<Run>, Chapter),
    Frozen(Arc<Frozen>),
    Open(Vec<BatchRow>),
}

impl Index {
    /// The batch in this stretch that has the record `seq` or, if none of its records has a seq, follows it: the
    /// last one whose first seq is at or below. `None` if the stretch has none such.
    pub fn batch_of_seq(&self, stretch: Interval, seq: Seq) -> Result<Option<BatchRow>> {
        for rows in self.rows(stretch).iter().rev() {
            // Thousands of segments may be newer: none of their pages is read.
            if rows.begins_above(seq) {
                continue;
            }
            let within = rows.within(self, stretch)?;
            let at = rows.search(self, within.clone(), |row| row.first_seq <= seq)?;
            if at > within.start {
                return rows.row(self, at - 1).map(Some);
            }
        }
        Ok(None)
    }

    /// The last batch in this stretch with a wall time at or before `wall_ns`; `None` if all are later.
    pub fn batch_at_time(&self, stretch: Interval, wall_ns: i64) -> Result<Option<BatchAtTime>> {
        let all = self.rows(stretch);
        for (number, rows) in all.iter().enumerate().rev() {
            if rows.wall(self)?.is_none_or(|(earliest, _)| earliest > wall_ns) {
                continue;
            }
            let within = rows.within(self, stretch)?;
            let found = if rows.is_rising() {
                let at = rows.search(self, within.clone(), |row| row.wall_ns <= wall_ns)?;
                at.checked_sub(1).filter(|at| within.contains(at))
            } else {
                rows.last_where(self, within.clone(), |row| row.wall_ns <= wall_ns)?
            };
            let Some(found) = found else { continue };
            let mut ambiguous = !rows.is_rising()
                && rows.last_where(self, within.start..found, |row| row.wall_ns > wall_ns)?.is_some();
            for earlier in all[..number].iter().rev() {
                if !ambiguous && earlier.wall(self)?.is_some_and(|(_, latest)| latest > wall_ns) {
                    let within = earlier.within(self, stretch)?;
                    ambiguous = earlier.last_where(self, within, |row| row.wall_ns > wall_ns)?.is_some();
                }
            }
            return Ok(Some(BatchAtTime { row: rows.row(self, found)?, ambiguous }));
        }
        Ok(None)
    }

    /// The segments of a stretch in order.
    fn rows(&self, stretch: Interval) -> Vec<Rows> {
        let memory = self.memory.lock();
        let Some(state) = memory.logs.get(&stretch.log) else { return Vec::new() };
        let meets = |from: Pos, to: Pos| from < stretch.to && stretch.from < to;
        let mut out = Vec::new();
        for run in state.runs.iter().filter(|run| meets(run.header.from, run.header.to)) {
            let chapters = run.chapters.iter().filter(|c| meets(c.from, c.to));
            out.extend(chapters.map(|c| Rows::Run(Arc::clone(run), *c)));
        }
        let frozen = state.frozen.iter().filter(|f| meets(f.meta.from, f.meta.to));
        out.extend(frozen.map(|f| Rows::Frozen(Arc::clone(f))));
        if meets(state.ended, Pos(u64::MAX)) {
            out.push(Rows::Open(state.open.rows().to_vec()));
        }
        out
    }
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Self::Run(_, chapter) => chapter.rows as usize,
            Self::Frozen(frozen) => frozen.map.rows().len(),
            Self::Open(rows) => rows.len(),
        }
    }

    fn row(&self, pages: &dyn Pages, at: usize) -> Result<BatchRow> {
        let row = match self {
            Self::Run(run, chapter) => {
                let row = chapter.first_row + at as u64;
                let page = pages.page(run, run.header.pages + (row / BATCH_ROWS as u64) as u32)?;
                batch_row(&page, (row % BATCH_ROWS as u64) as usize)
            }
            Self::Frozen(frozen) => frozen.map.rows().get(at).copied(),
            Self::Open(rows) => rows.get(at).copied(),
        };
        row.ok_or_else(|| Error::new(Kind::Damaged, "an index run has fewer batches than it says"))
    }

    /// The first row of a range for which `below` no longer holds.
    fn search(
        &self,
        pages: &dyn Pages,
        range: Range<usize>,
        below: impl Fn(&BatchRow) -> bool,
    ) -> Result<usize> {
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if below(&self.row(pages, middle)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Whether the segment's first seq, and so that of each of its batches, is known to be above this one.
    fn begins_above(&self, seq: Seq) -> bool {
        match self {
            Self::Run(_, chapter) => chapter.first_seq > seq,
            Self::Frozen(_) | Self::Open(_) => false,
        }
    }

    /// The rows of a stretch; all of them, without a look, where it has the whole segment.
    fn within(&self, pages: &dyn Pages, stretch: Interval) -> Result<Range<usize>> {
        let (mut start, mut end) = (0, self.len());
        let (begins_in, ends_in) = match self {
            Self::Run(_, chapter) => (chapter.from >= stretch.from, chapter.to <= stretch.to),
            Self::Frozen(_) | Self::Open(_) => (false, false),
        };
        if !begins_in {
            start = self.search(pages, 0..end, |row| row.pos < stretch.from)?;
        }
        if !ends_in {
            end = self.search(pages, start..end, |row| row.pos < stretch.to)?;
        }
        Ok(start..end)
    }

    fn is_rising(&self) -> bool {
        match self {
            Self::Run(_, chapter) => chapter.rising,
            Self::Frozen(frozen) => frozen.map.rows().is_sorted_by_key(|row| row.wall_ns),
            Self::Open(rows) => rows.is_sorted_by_key(|row| row.wall_ns),
        }
    }

    /// Earliest and latest wall time.
    fn wall(&self, pages: &dyn Pages) -> Result<Option<(i64, i64)>> {
        if let Self::Run(_, chapter) = self {
            return Ok((chapter.rows > 0).then_some((chapter.wall_min, chapter.wall_max)));
        }
        let mut out: Option<(i64, i64)> = None;
        for at in 0..self.len() {
            let wall = self.row(pages, at)?.wall_ns;
            let (min, max) = out.unwrap_or((wall, wall));
            out = Some((min.min(wall), max.max(wall)));
        }
        Ok(out)
    }

    fn last_where(
        &self,
        pages: &dyn Pages,
        range: Range<usize>,
        which: impl Fn(&BatchRow) -> bool,
    ) -> Result<Option<usize>> {
        for at in range.rev() {
            if which(&self.row(pages, at)?) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}
