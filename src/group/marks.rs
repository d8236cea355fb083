//! Where the chain stands and its marks, as a file that is replaced at each full checkpoint.
//!
//! C8. What it says is only ever a shortcut: a place of a log is never given again, so the value of a place that the
//!     recovered log reaches is right; one behind the cut is passed over, as is a file that can't be read. Then the
//!     chain is computed anew from the begin of a segment that the checkpoint attests.
//! C9. Marks outlive the records that they were computed from, so that two sites still find what they have in
//!     common. They thin out with age: of old ones each sixteenth stays.

use crate::group::Group;
use crate::group::chain::At;
use crate::history::{ChainValue, MARK_EVERY};
use crate::journal::{Log, small_file};
use crate::seam::Storage;
use crate::vocab::{LogId, Moment, Pos, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const NAME: &str = "chain.json";
/// Marks at regular distances that are all kept, newest first, of each epoch.
const ALL: u64 = 256;
/// Of older ones each so manieth is kept.
const SHARE: u64 = 16;
/// Newest segments whose first values are written down: more than a scan finds, as a rule.
const STARTS: usize = 16;

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedChain {
    log: LogId,
    place: Pos,
    moment: Moment,
    value: [u8; 32],
    marks: Vec<(Moment, [u8; 32])>,
    /// Values before the first records of the newest segments, by the segments' starts.
    starts: Vec<(Pos, Moment, [u8; 32])>,
}

impl SavedChain {
    /// Where the chain stood, if the log reaches as far (C8).
    pub(crate) fn at(&self, log: &Log) -> Option<(Pos, At)> {
        let usable = self.log == log.id() && self.place <= log.end();
        usable.then_some((self.place, At { moment: self.moment, value: ChainValue(self.value) }))
    }

    /// Values before the first records of segments that the log still has: without them what lies in a segment before
    /// the saved place could not be computed once the segment before it is freed.
    pub(crate) fn starts(&self) -> impl Iterator<Item = (Pos, At)> {
        self.starts.iter().map(|(start, m, value)| (*start, At { moment: *m, value: ChainValue(*value) }))
    }

    /// Its marks, without those of records that the log has lost.
    pub(crate) fn marks(&self, log: &Log) -> impl Iterator<Item = (Moment, ChainValue)> {
        let (head, _) = log.head();
        let kept = move |m: &Moment| m.epoch != head.epoch || m.seq <= head.seq;
        self.marks.iter().filter(move |(m, _)| kept(m)).map(|(m, value)| (*m, ChainValue(*value)))
    }
}

/// What is written down, or nothing.
pub(crate) fn read(storage: &dyn Storage, dir: &Path, notes: &mut Vec<String>) -> Option<SavedChain> {
    small_file::read(storage, dir, NAME).unwrap_or_else(|e| {
        notes.push(format!("where the chain stood is computed anew: {e}"));
        None
    })
}

impl Group {
    /// For the next opening.
    pub(crate) fn write_chain(&self) -> Result<()> {
        let saved = {
            let chain = self.chain.lock();
            SavedChain {
                log: self.log.id(),
                place: chain.place,
                moment: chain.moment,
                value: chain.value.0,
                marks: thinned(&chain.marks).map(|(m, value)| (m, value.0)).collect(),
                starts: chain
                    .at_segment
                    .iter()
                    .rev()
                    .take(STARTS)
                    .map(|(start, (m, value))| (*start, *m, value.0))
                    .collect(),
            }
        };
        small_file::write(&*self.parts.store, &self.dir, NAME, &saved)
    }
}

/// C9. Marks at other places (forks, ends of jumps, what was acknowledged last) all stay.
fn thinned(marks: &BTreeMap<Moment, ChainValue>) -> impl Iterator<Item = (Moment, ChainValue)> {
    let newest: BTreeMap<_, u64> = marks.keys().map(|m| (m.epoch, m.seq.0)).collect();
    let kept = move |m: &Moment| {
        let age = newest.get(&m.epoch).map_or(0, |newest| newest - m.seq.0) / MARK_EVERY;
        let number = m.seq.0 / MARK_EVERY;
        !m.seq.0.is_multiple_of(MARK_EVERY) || age < ALL || number.is_multiple_of(SHARE)
    };
    marks.iter().filter(move |(m, _)| kept(m)).map(|(m, value)| (*m, *value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{EpochId, Seq};

    #[test]
    fn old_marks_thin_out_and_the_others_stay() {
        let epoch = EpochId([7; 16]);
        let at = |seq| Moment { epoch, seq: Seq(seq) };
        let mut marks: BTreeMap<_, _> =
            (1..=10_000).map(|n| (at(n * MARK_EVERY), ChainValue([n as u8; 32]))).collect();
        marks.insert(at(5), ChainValue([5; 32]));
        let kept: BTreeMap<_, _> = thinned(&marks).collect();
        assert_eq!(kept.len() as u64, 1 + ALL + (10_000 - ALL) / SHARE);
        assert!(kept.contains_key(&at(5)) && kept.contains_key(&at(10_000 * MARK_EVERY)));
        assert!(!kept.contains_key(&at(17 * MARK_EVERY)) && kept.contains_key(&at(32 * MARK_EVERY)));
        let again: BTreeMap<_, _> = thinned(&kept).collect();
        assert_eq!(again, kept);
    }
}
