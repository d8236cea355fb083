//! How one site finds a moment: the stretches of its logs that the moment sees.
//!
//! P1. Version order on a path is (number of the interval, position): a version of a later interval is newer,
//!     whatever the positions are.
//! P2. Intervals of one log don't overlap. What lies between them is void for the path.
//! P3. Cutting at an anchor takes away versions and never changes the order of what stays, so a cut path is
//!     the same path with a limit: a cache of the whole path answers for every cut of it.

use crate::vocab::{LogId, LogPlace, Pos};
use std::fmt;
use std::sync::Arc;

/// A stretch of a log. The moment after a record at `place` ends a stretch at `place + 1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Interval {
    /// Which log.
    pub log: LogId,
    /// First position in it.
    pub from: Pos,
    /// The position behind the last; [`Pos`]`(u64::MAX)` for "whatever comes".
    pub to: Pos,
}

impl Interval {
    /// Whether it has this place.
    pub fn has(&self, log: LogId, pos: Pos) -> bool {
        self.log == log && self.from <= pos && pos < self.to
    }
}

/// Identity of a path without its cut: equal for equal intervals.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId([u8; 16]);

impl fmt::Debug for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathId({:02x}{:02x}{:02x}{:02x})", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// The intervals that a moment sees, oldest first, and where its anchor cuts them. Cheap to clone.
#[derive(Clone)]
pub struct Path {
    whole: Arc<Whole>,
    /// Everything before (interval number, position) is below the anchor.
    cut: (u32, Pos),
}

struct Whole {
    intervals: Vec<Interval>,
    id: PathId,
}

impl Path {
    /// A path of these intervals, oldest first. Empty ones are left out and adjoining ones joined.
    pub fn new(intervals: impl IntoIterator<Item = Interval>) -> Self {
        let mut out: Vec<Interval> = Vec::new();
        for next in intervals {
            if next.from >= next.to {
                continue;
            }
            match out.last_mut() {
                Some(last) if last.log == next.log && last.to == next.from => last.to = next.to,
                _ => out.push(next),
            }
        }
        let mut hasher = blake3::Hasher::new();
        for interval in &out {
            hasher.update(&interval.log.0);
            hasher.update(&interval.from.0.to_le_bytes());
            hasher.update(&interval.to.0.to_le_bytes());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self { whole: Arc::new(Whole { intervals: out, id: PathId(id) }), cut: (0, Pos(0)) }
    }

    /// All intervals, those below the cut too.
    pub fn intervals(&self) -> &[Interval] {
        &self.whole.intervals
    }

    /// What is left above the cut, oldest first, with the number of each interval in the whole path.
    pub fn above_cut(&self) -> impl DoubleEndedIterator<Item = (u32, Interval)> + '_ {
        let (number, pos) = self.cut;
        self.whole.intervals.iter().enumerate().skip(number as usize).filter_map(move |(at, interval)| {
            let at = at as u32;
            let from = if at == number { interval.from.max(pos) } else { interval.from };
            (from < interval.to).then_some((at, Interval { from, ..*interval }))
        })
    }

    /// The path above an anchor at this moment: what lies before `end` is left to the anchor. `end` is the end
    /// of the moment in its log, exclusive. `None` if that moment doesn't lie on the path.
    pub fn above(&self, log: LogId, end: Pos) -> Option<Self> {
        let cut = (self.place_of(log, end)? as u32, end).max(self.cut);
        Some(Self { whole: Arc::clone(&self.whole), cut })
    }

    /// The number of the interval in which a moment ends. Its last record lies before `end`, so the end of one
    /// interval is not the start of another: where an epoch begins a line that it left may have ended, and what stands
    /// at that end is not on this path. A begin is a moment, one without a record, only where nothing of that log
    /// comes before it: at the begin of the path, and behind a jump.
    fn place_of(&self, log: LogId, end: Pos) -> Option<usize> {
        let intervals = &self.whole.intervals;
        let ends = |i: &Interval| i.log == log && i.from < end && end <= i.to;
        let begins = |at: &usize| {
            let behind = at.checked_sub(1).is_none_or(|before| intervals[before].log != log);
            intervals[*at].log == log && intervals[*at].from == end && behind
        };
        intervals.iter().position(ends).or_else(|| (0..intervals.len()).find(begins))
    }

    /// The name of a place that every path has which goes there: between two intervals the end of the earlier one,
    /// not the begin of the next. A place that isn't on the path stays as it is.
    pub fn named(&self, place: LogPlace) -> LogPlace {
        let intervals = &self.whole.intervals;
        match self.place_of(place.log, place.pos) {
            Some(number) if number > 0 && intervals[number].from == place.pos => {
                let before = &intervals[number - 1];
                LogPlace { log: before.log, pos: before.to }
            }
            _ => place,
        }
    }

    /// The path of an earlier moment on this one, which ends at `end`, exclusive; keeps the cut. `None` if
    /// that moment doesn't lie on the path.
    pub fn until(&self, log: LogId, end: Pos) -> Option<Self> {
        let number = self.place_of(log, end)?;
        let mut kept: Vec<Interval> = self.whole.intervals[..=number].to_vec();
        kept[number].to = end;
        Some(Self { cut: self.cut, ..Self::new(kept) })
    }

    /// The rank of a version: the number of its interval; `None` if it isn't on the path or below the cut.
    pub fn rank(&self, log: LogId, pos: Pos) -> Option<u32> {
        self.above_cut().find(|(_, interval)| interval.has(log, pos)).map(|(number, _)| number)
    }

    /// Where the cut is: number of the interval, position.
    pub(super) fn cut(&self) -> (u32, Pos) {
        self.cut
    }

    /// Whether a version of this interval number and position lies above the cut.
    pub(super) fn is_above_cut(&self, number: u32, pos: Pos) -> bool {
        (number, pos) >= self.cut
    }

    /// The same path without its cut.
    pub(super) fn uncut(&self) -> Self {
        Self { whole: Arc::clone(&self.whole), cut: (0, Pos(0)) }
    }

    /// Identity of the path without its cut.
    pub fn id(&self) -> PathId {
        self.whole.id
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.whole.id == other.whole.id && self.cut == other.cut
    }
}

impl Eq for Path {}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.above_cut().map(|(_, i)| (i.log.short(), i.from, i.to))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LogId = LogId([1; 16]);
    const B: LogId = LogId([2; 16]);

    fn interval(log: LogId, from: u64, to: u64) -> Interval {
        Interval { log, from: Pos(from), to: Pos(to) }
    }

    fn path() -> Path {
        Path::new([interval(A, 0, 100), interval(B, 40, 60), interval(A, 150, 300)])
    }

    #[test]
    fn the_later_interval_ranks_higher_whatever_the_position() {
        let path = path();
        assert_eq!(path.rank(A, Pos(99)), Some(0));
        assert_eq!(path.rank(B, Pos(40)), Some(1));
        assert_eq!(path.rank(A, Pos(150)), Some(2));
        assert_eq!(path.rank(A, Pos(120)), None);
        assert_eq!(path.rank(B, Pos(60)), None);
    }

    /// A segment was full to its last byte when a decision at an older moment began an epoch behind it: the place is the
    /// end of the line that was left, and a base that stands there has bytes that this path never had.
    #[test]
    fn where_an_interval_begins_another_line_may_end() {
        let fork = Path::new([interval(A, 0, 100), interval(A, 150, 300)]);
        assert!(fork.above(A, Pos(150)).is_none() && fork.until(A, Pos(150)).is_none());
        let left = Path::new([interval(A, 0, 150)]);
        assert!(left.above(A, Pos(150)).is_some());
        // Moments without a record: the begin of a path, and behind a jump.
        assert!(Path::new([interval(A, 70, 90)]).above(A, Pos(70)).is_some());
        assert!(path().above(A, Pos(150)).is_some());
    }

    #[test]
    fn an_anchor_takes_what_is_before_it() {
        let cut = path().above(B, Pos(50)).unwrap();
        assert_eq!(cut.rank(A, Pos(10)), None);
        assert_eq!(cut.rank(B, Pos(49)), None);
        assert_eq!(cut.rank(B, Pos(50)), Some(1));
        assert_eq!(cut.id(), path().id());
        assert_ne!(cut, path());
        assert_eq!(cut.above(A, Pos(20)).unwrap(), cut, "a lower anchor doesn't undo a higher one");
        let all: Vec<_> = path().above(B, Pos(60)).unwrap().above_cut().collect();
        assert_eq!(all, [(2, interval(A, 150, 300))]);
        assert_eq!(path().above(A, Pos(120)), None, "not on the path");
    }

    #[test]
    fn a_moment_before_a_jump_is_not_the_one_behind_it() {
        let jumped = Path::new([interval(A, 0, 100), interval(B, 0, 60), interval(A, 100, 300)]);
        let before = jumped.above(A, Pos(100)).unwrap();
        assert_eq!(before.rank(B, Pos(0)), Some(1), "what the jump brought is above the moment that it left");
        assert_eq!(jumped.until(A, Pos(100)).unwrap().rank(B, Pos(0)), None);
        assert_eq!(jumped.above(B, Pos(60)).unwrap().rank(B, Pos(59)), None);
    }

    #[test]
    fn an_earlier_moment_is_a_shorter_path() {
        let earlier = path().until(B, Pos(50)).unwrap();
        assert_eq!(earlier.intervals(), [interval(A, 0, 100), interval(B, 40, 50)]);
        assert_eq!(path().until(A, Pos(120)), None);
        assert_eq!(path().until(A, Pos(100)).unwrap().intervals(), [interval(A, 0, 100)]);
    }

    #[test]
    fn equal_intervals_are_one_identity() {
        let joined = Path::new([interval(A, 0, 10), interval(A, 10, 10), interval(A, 10, 20)]);
        assert_eq!(joined, Path::new([interval(A, 0, 20)]));
        assert_ne!(joined.id(), Path::new([interval(A, 0, 21)]).id());
    }
}
