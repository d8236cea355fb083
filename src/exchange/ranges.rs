//! Sets of byte ranges of a group's files.
//!
//! R1. Ranges of one file neither overlap nor touch, none is empty; equal sets are equal values.

use crate::vocab::DiskOrdinal;
use std::collections::BTreeMap;

/// One range of one file, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct DiskRange {
    /// The file.
    pub disk: DiskOrdinal,
    /// The first byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// A set of ranges.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeSet {
    /// (file, first byte) → first byte behind.
    ranges: BTreeMap<(DiskOrdinal, u64), u64>,
}

impl RangeSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges it has.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// How many bytes lie in it.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(&(_, start), &end)| end - start).sum()
    }

    /// All ranges, by file and offset.
    pub fn iter(&self) -> impl Iterator<Item = DiskRange> + '_ {
        self.ranges.iter().map(|(&(disk, offset), &end)| DiskRange { disk, offset, length: end - offset })
    }

    /// The first range, cut to `max` bytes.
    pub fn first(&self, max: u64) -> Option<DiskRange> {
        self.iter().next().map(|r| DiskRange { length: r.length.min(max), ..r })
    }

    /// Adds a range. What would lie beyond the end of all offsets is cut.
    pub fn add(&mut self, range: DiskRange) {
        let (mut start, mut end) = (range.offset, range.offset.saturating_add(range.length));
        if start == end {
            return;
        }
        let touching: Vec<(u64, u64)> = self
            .ranges
            .range((range.disk, self.from(range.disk, start))..=(range.disk, end))
            .map(|(&(_, s), &e)| (s, e))
            .filter(|&(_, e)| e >= start)
            .collect();
        for (s, e) in touching {
            self.ranges.remove(&(range.disk, s));
            (start, end) = (start.min(s), end.max(e));
        }
        self.ranges.insert((range.disk, start), end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: DiskRange) {
        let (start, end) = (range.offset, range.offset.saturating_add(range.length));
        if start == end {
            return;
        }
        let touched: Vec<(u64, u64)> = self
            .ranges
            .range((range.disk, self.from(range.disk, start))..(range.disk, end))
            .map(|(&(_, s), &e)| (s, e))
            .filter(|&(_, e)| e > start)
            .collect();
        for (s, e) in touched {
            self.ranges.remove(&(range.disk, s));
            if s < start {
                self.ranges.insert((range.disk, s), start);
            }
            if e > end {
                self.ranges.insert((range.disk, end), e);
            }
        }
    }

    /// Where the range begins that `offset` may lie in or touch; else `offset`. By R1 no earlier one reaches it.
    fn from(&self, disk: DiskOrdinal, offset: u64) -> u64 {
        let before = self.ranges.range((disk, 0)..=(disk, offset)).next_back();
        before.map_or(offset, |(&(_, start), _)| start)
    }

    /// Takes everything of a file out that lies at or beyond `size`.
    pub fn cut(&mut self, disk: DiskOrdinal, size: u64) {
        self.remove(DiskRange { disk, offset: size, length: u64::MAX - size });
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &Self) {
        other.iter().for_each(|range| self.add(range));
    }

    /// Whether all of a range lies in it.
    pub fn covers(&self, range: DiskRange) -> bool {
        let end = range.offset.saturating_add(range.length);
        let last = self.ranges.range((range.disk, 0)..=(range.disk, range.offset)).next_back();
        range.length == 0 || last.is_some_and(|(_, &e)| e >= end)
    }
}

impl FromIterator<DiskRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = DiskRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.add(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_what_a_bitmap_says() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut set, mut bits) = (RangeSet::new(), [[false; 40]; 2]);
            for _ in 0..40 {
                let (disk, offset) = (rng.usize(0..2), rng.u64(0..40));
                let length = rng.u64(0..=40 - offset);
                let range = DiskRange { disk: DiskOrdinal(disk as u32), offset, length };
                let add = rng.f64() < 0.6;
                let covered = (offset..offset + length).all(|b| bits[disk][b as usize]);
                assert_eq!(set.covers(range), covered, "seed {seed}");
                (offset..offset + length).for_each(|b| bits[disk][b as usize] = add);
                if add {
                    set.add(range)
                } else {
                    set.remove(range)
                }
                let count = bits.iter().flatten().filter(|b| **b).count() as u64;
                assert_eq!(set.bytes(), count, "seed {seed}");
                let again: RangeSet = set.iter().collect();
                assert_eq!(again, set, "seed {seed}: R1");
                for (disk, bits) in bits.iter().enumerate() {
                    for (b, set_bit) in bits.iter().enumerate() {
                        let one = DiskRange { disk: DiskOrdinal(disk as u32), offset: b as u64, length: 1 };
                        assert_eq!(set.covers(one), *set_bit, "seed {seed}");
                    }
                }
            }
            let first = set.first(3);
            assert!(first.is_none_or(|r| r.length <= 3 && set.covers(r)));
            set.cut(DiskOrdinal(0), 5);
            assert!(set.iter().all(|r| r.disk.0 == 1 || r.offset + r.length <= 5));
        }
    }
}
