//! Where the epochs of a group lie in its logs: from spans and rows comes the path of a moment.
//!
//! P4. A span is a stretch of a log with records of one epoch, dense in seq. An epoch may have several: a target
//!     goes on with one after it was a writer itself and took that back.
//! P5. Spans are written with each checkpoint and extended by the scan. They outlive the segments, so that a path
//!     can be named whose begin the base has swallowed.
//! P6. Behind a jump a path goes on at the moment that the jump came from, wherever that lies.
//! P7. A line goes on from a span that was there when its next one began. What is received again later (records of a
//!     branch, after a decision was taken back) lies elsewhere, and no path that was there before goes through it.

use crate::format::Span;
use crate::group::left_out;
use crate::history::{Table, TableError};
use crate::index::{Interval, Path};
use crate::vocab::{EpochId, Error, Kind, LogId, Moment, Pos, Result, Seq};
use serde::{Deserialize, Serialize};

/// All spans of a group, in the order in which they were begun.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spans(pub Vec<Span>);

impl Spans {
    /// The span that holds the record of a moment in normal form.
    pub fn of(&self, moment: Moment) -> Option<&Span> {
        self.before(self.0.len(), moment).map(|at| &self.0[at])
    }

    /// P7: of the first `count` spans the newest that holds the record of a moment.
    pub(crate) fn before(&self, count: usize, moment: Moment) -> Option<usize> {
        self.0[..count].iter().rposition(|s| {
            let first = if s.jump.is_some() { s.last_seq } else { s.first_seq };
            s.epoch == moment.epoch && first <= moment.seq && moment.seq <= s.last_seq
        })
    }

    /// Notes that a batch was appended or found: extends the newest span or begins one.
    pub fn extend(&mut self, log: LogId, epoch: EpochId, from: Pos, to: Pos, first: Seq, last: Seq) {
        if let Some(s) = self.0.last_mut()
            && s.log == log
            && s.epoch == epoch
            && s.jump.is_none()
            && s.last_seq.next() == first
        {
            s.to = s.to.max(to);
            s.last_seq = s.last_seq.max(last);
            return;
        }
        if self.0.iter().any(|s| s.log == log && s.jump.is_none() && s.from <= from && to <= s.to) {
            return; // the scan brings what the checkpoint already had
        }
        // A batch that the checkpoint's span covers in part was still growing when it was written. One that only begins
        // where a span ends lies behind what came since: a jump within the epoch, say, whose log the path would miss.
        if let Some(s) = self
            .0
            .iter_mut()
            .find(|s| s.log == log && s.epoch == epoch && s.jump.is_none() && s.from <= from && from < s.to)
        {
            s.to = s.to.max(to);
            s.last_seq = s.last_seq.max(last);
            return;
        }
        self.0.push(Span {
            epoch,
            log,
            from,
            to,
            first_seq: first,
            last_seq: last,
            parent_end: None,
            jump: None,
        });
    }

    /// The path of a moment. `end_of` finds the place behind a record inside a span; `open`: the moment is the live
    /// head, and what comes behind it in this log, the main one, belongs to the path.
    ///
    /// # Errors
    /// `NotFound` for a moment that this site never had, or that lies inside a jump.
    pub fn path(
        &self,
        table: &Table,
        moment: Moment,
        open: Option<LogId>,
        end_of: impl Fn(&Span, Seq) -> Result<Pos>,
    ) -> Result<Path> {
        let mut intervals = Vec::new();
        let mut at = Some(table.norm(moment).map_err(named)?);
        let mut newest = open;
        let mut known_end = None;
        let mut there = self.0.len();
        while let Some(moment) = at {
            if moment.seq == Seq(0) {
                break;
            }
            let number = self.before(there, moment).ok_or_else(|| {
                Error::new(Kind::NotFound, format!("no moment {moment} is held here"))
                    .advice("`gaps` says where no moments exist")
            })?;
            let span = &self.0[number];
            if !left_out("P7: a line goes on from a span that was there") {
                there = number;
            }
            let to = if newest.is_some() && span.jump.is_none() {
                Pos(u64::MAX)
            } else if let Some(end) = known_end {
                end
            } else if moment.seq == span.last_seq {
                span.to
            } else {
                end_of(span, moment.seq)?
            };
            let comes = newest.take();
            known_end = span.parent_end;
            match &span.jump {
                Some(jump) => {
                    // What comes behind a jump lies in the main log.
                    let behind = comes.map(|log| Interval { log, from: jump.behind, to: Pos(u64::MAX) });
                    let parts = jump.parts.iter().rev();
                    let parts = parts.map(|&(from, to)| Interval { log: span.log, from, to });
                    intervals.extend(behind.into_iter().chain(parts));
                }
                None => intervals.push(Interval { log: span.log, from: span.from, to }),
            }
            at = match &span.jump {
                Some(_) if left_out("P6: a path goes on where its jump came from") => None,
                Some(jump) => jump.from.map(|m| table.norm(m)).transpose().map_err(named)?,
                None => table
                    .norm(Moment { epoch: span.epoch, seq: Seq(span.first_seq.0 - 1) })
                    .map(Some)
                    .map_err(named)?,
            };
        }
        intervals.reverse();
        intervals.retain(|i| i.from < i.to); // a first copy that published nothing but bases
        // A base that has nothing yet lies on every path. What another line has there before this one began (a
        // decision at the very moment of a first copy, taken back) does not.
        let other = |i: &Interval| self.0.iter().any(|s| s.log == i.log && s.from < s.to && s.from < i.from);
        match intervals.first_mut() {
            Some(first) if !other(first) => first.from = Pos(0),
            Some(first) => {
                let begin = Interval { log: first.log, from: Pos(0), to: Pos(1) };
                intervals.insert(0, begin);
            }
            None => {}
        }
        Ok(Path::new(intervals))
    }
}

fn named(error: TableError) -> Error {
    Error::new(Kind::NotFound, error.to_string())
}
