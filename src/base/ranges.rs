//! Ranges of bytes in rising order, neighbours joined: what a round has touched. 16 bytes each.

/// Ranges, apart from each other, rising.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a range that begins at or behind the end of all before it.
    pub(super) fn push(&mut self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        match self.0.last_mut() {
            Some((_, end)) if *end == offset => *end = offset + len,
            _ => self.0.push((offset, offset + len)),
        }
    }

    /// Whether all of `other` lies in it.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let mut mine = self.0.iter();
        let mut current = mine.next();
        other.0.iter().all(|(from, to)| {
            while current.is_some_and(|(_, end)| end <= from) {
                current = mine.next();
            }
            current.is_some_and(|(start, end)| start <= from && to <= end)
        })
    }

    /// Both together.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut all: Vec<(u64, u64)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut out: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (from, to) in all {
            match out.last_mut() {
                Some((_, end)) if *end >= from => *end = (*end).max(to),
                _ => out.push((from, to)),
            }
        }
        Self(out)
    }

    /// Drops what lies at or behind `len`.
    pub(super) fn truncate(&mut self, len: u64) {
        self.0.retain(|(from, _)| *from < len);
        if let Some((_, end)) = self.0.last_mut() {
            *end = (*end).min(len);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_a_plain_bitmap() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut make = || {
                let (mut ranges, mut bits, mut at) = (Ranges::default(), [false; 300], 0);
                while at < 250 {
                    at += rng.usize(..20) * rng.usize(..2);
                    let len = rng.usize(..30);
                    ranges.push(at as u64, len as u64);
                    bits[at..at + len].fill(true);
                    at += len;
                }
                (ranges, bits)
            };
            let ((mut a, mut a_bits), (b, b_bits)) = (make(), make());
            let both = a.union(&b);
            assert!(both.covers(&a) && both.covers(&b) && a.covers(&a), "seed {seed}");
            let count = a_bits.iter().zip(&b_bits).filter(|(a, b)| **a || **b).count();
            assert_eq!(both.total(), count as u64, "seed {seed}");
            let covered = a_bits.iter().zip(&b_bits).all(|(a, b)| *a || !*b);
            assert_eq!(a.covers(&b), covered, "seed {seed}");
            a.truncate(100);
            a_bits[100..].fill(false);
            assert_eq!(a.total(), a_bits.iter().filter(|b| **b).count() as u64, "seed {seed}");
        }
        let mut one = Ranges::default();
        one.push(5, 0);
        assert!(one.is_empty());
        one.push(5, 10);
        let mut hole = Ranges::default();
        hole.push(5, 4);
        hole.push(10, 5);
        assert!(one.covers(&hole) && !hole.covers(&one));
    }
}
