//! A set of granule numbers that costs what was touched: a bit each, in chunks of 1024.

use std::collections::BTreeMap;
use std::ops::Range;

const CHUNK: u64 = 1024;
const WORD: u64 = 64;

type Words = [u64; (CHUNK / WORD) as usize];

/// Numbers of granules of some size, for sets that are dense in places and empty elsewhere.
#[derive(Clone, Default, Debug)]
pub struct Granules {
    chunks: BTreeMap<u64, Box<Words>>,
    count: u64,
}

impl Granules {
    /// How many numbers are in it.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether it has this number.
    pub fn contains(&self, number: u64) -> bool {
        let bit = number % CHUNK;
        self.chunks.get(&(number / CHUNK)).is_some_and(|words| words[index(bit)] & mask(bit) != 0)
    }

    /// Adds a number. True if it is new.
    pub fn insert(&mut self, number: u64) -> bool {
        let bit = number % CHUNK;
        let words = self.chunks.entry(number / CHUNK).or_default();
        let new = words[index(bit)] & mask(bit) == 0;
        words[index(bit)] |= mask(bit);
        self.count += u64::from(new);
        new
    }

    /// Takes out all numbers of a range, however wide; says how many there were.
    pub fn remove(&mut self, range: Range<u64>) -> u64 {
        if range.start >= range.end {
            return 0;
        }
        let before = self.count;
        let touched: Vec<u64> =
            self.chunks.range(range.start / CHUNK..=(range.end - 1) / CHUNK).map(|(at, _)| *at).collect();
        for at in touched {
            let from = range.start.max(at * CHUNK) - at * CHUNK;
            let to = range.end.min((at + 1) * CHUNK) - at * CHUNK;
            let Some(words) = self.chunks.get_mut(&at) else { continue };
            for bit in from..to {
                self.count -= u64::from(words[index(bit)] & mask(bit) != 0);
                words[index(bit)] &= !mask(bit);
            }
            if words.iter().all(|word| *word == 0) {
                self.chunks.remove(&at);
            }
        }
        before - self.count
    }

    /// The numbers of a range that are in it, rising.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let chunks =
            if range.start < range.end { range.start / CHUNK..range.end.div_ceil(CHUNK) } else { 0..0 };
        self.chunks.range(chunks).flat_map(move |(at, words)| {
            let range = range.clone();
            (0..CHUNK)
                .filter(|bit| words[index(*bit)] & mask(*bit) != 0)
                .map(move |bit| at * CHUNK + bit)
                .filter(move |number| range.contains(number))
        })
    }
}

fn index(bit: u64) -> usize {
    (bit / WORD) as usize
}

fn mask(bit: u64) -> u64 {
    1 << (bit % WORD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn equals_a_plain_set() {
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut granules, mut plain) = (Granules::default(), BTreeSet::new());
            for _ in 0..300 {
                let at = rng.u64(..3000) + (1 << 40) * rng.u64(..2);
                if rng.u8(..4) > 0 {
                    assert_eq!(granules.insert(at), plain.insert(at), "seed {seed}");
                } else {
                    let to = at + if rng.bool() { rng.u64(..100) } else { 1 << rng.u8(..50) };
                    let found: Vec<u64> = plain.range(at..to).copied().collect();
                    assert_eq!(granules.within(at..to).collect::<Vec<_>>(), found, "seed {seed}");
                    assert_eq!(granules.remove(at..to), found.len() as u64, "seed {seed}");
                    plain.retain(|n| !(at..to).contains(n));
                }
                assert_eq!(granules.count(), plain.len() as u64, "seed {seed}");
                assert_eq!(granules.contains(at), plain.contains(&at), "seed {seed}");
            }
            granules.remove(0..u64::MAX);
            assert!(granules.chunks.is_empty() && granules.count() == 0, "seed {seed}: memory stays");
        }
    }
}
