//! Seeking, debt and `st_blocks` against bitmaps.

use super::*;
use crate::base::{
    DEBT_GRANULE, Debt, Finished, Holes, next_data, next_hole, unallocated, unallocated_about,
};
use crate::seam::SimDevice;
use crate::vocab::{GRANULE, Kind};

/// A base that is a bit for each sector of 512 bytes.
struct Bits(Vec<bool>);

impl Bits {
    fn find(&self, offset: u64, data: bool) -> Option<u64> {
        let first = (offset / 512) as usize;
        let at = (first..self.0.len()).find(|at| self.0[*at] == data)?;
        Some((at as u64 * 512).max(offset))
    }
}

impl Holes for Bits {
    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        Ok(self.find(offset, true))
    }

    fn next_hole(&self, offset: u64) -> Result<Option<u64>> {
        let end = self.0.len() as u64 * 512;
        Ok((offset < end).then(|| self.find(offset, false).unwrap_or(end)))
    }
}

fn random_bits(rng: &mut fastrand::Rng, len: u64) -> Bits {
    let mut bits = Vec::new();
    let sectors = (len / 512) as usize;
    let unit = [1, 8][rng.usize(..2)];
    while bits.len() < sectors {
        let data = rng.bool();
        bits.resize(bits.len() + unit * rng.usize(1..20), data);
    }
    bits.truncate(sectors);
    Bits(bits)
}

#[test]
fn seeking_equals_a_bitmap_of_granules() {
    for seed in seeds(400, 20_000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let len = rng.u64(1..40 * GRANULE);
        let base_len = if rng.bool() { len } else { rng.u64(..60 * GRANULE) };
        let base = random_bits(&mut rng, base_len);
        let overlay = if rng.u8(..4) == 0 { vec![] } else { random_ranges(&mut rng, len, 5 * GRANULE) };
        let mut bytes: Vec<bool> =
            (0..len).map(|at| base.0.get((at / 512) as usize).copied().unwrap_or(false)).collect();
        for o in &overlay {
            bytes[o.offset as usize..o.end() as usize].fill(o.content == Content::Data);
        }
        let data: Vec<bool> = bytes.chunks(GRANULE as usize).map(|g| g.contains(&true)).collect();
        let model = |offset: u64, wanted: bool| {
            let first = (offset / GRANULE) as usize;
            let at = (first..data.len()).find(|at| data[*at] == wanted)?;
            Some((at as u64 * GRANULE).max(offset))
        };
        for _ in 0..30 {
            let offset = match rng.u8(..3) {
                0 => rng.u64(..len + 2 * GRANULE),
                1 => rng.u64(..42) * GRANULE,
                _ => len.saturating_sub(rng.u64(..3)) + rng.u64(..2),
            };
            // What ends before the granule may be left out.
            let from = offset / GRANULE * GRANULE;
            let part: Vec<Overlaid> = overlay.iter().copied().filter(|o| o.end() > from).collect();
            let expected = if offset < len { model(offset, true) } else { None };
            let got = next_data(results(&part), &base, offset, len).unwrap();
            assert_eq!(got, expected, "seed {seed}: data from {offset} of {len}");
            let expected = (offset < len).then(|| model(offset, false).unwrap_or(len));
            let got = next_hole(results(&part), &base, offset, len).unwrap();
            assert_eq!(got, expected, "seed {seed}: hole from {offset} of {len}");
        }
    }
}

#[test]
fn debt_equals_a_plain_count() {
    for seed in seeds(200, 5000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let len = rng.u64(1..40 * DEBT_GRANULE) / 512 * 512;
        let base_len = rng.u64(..50 * DEBT_GRANULE);
        let base = random_bits(&mut rng, base_len);
        let journaled = random_ranges(&mut rng, len, 3 * DEBT_GRANULE);
        let expected = (0..len.div_ceil(DEBT_GRANULE))
            .filter(|n| {
                let (from, to) = (n * DEBT_GRANULE, ((n + 1) * DEBT_GRANULE).min(len));
                let has_data =
                    journaled.iter().any(|o| o.content == Content::Data && o.offset < to && o.end() > from);
                let sectors = (from / 512) as usize..to.div_ceil(512) as usize;
                has_data && sectors.into_iter().any(|s| !base.0.get(s).copied().unwrap_or(false))
            })
            .count() as u64;
        let mut debt = Debt::of(results(&journaled), &base, len).unwrap();
        assert_eq!(debt.bytes(), expected * DEBT_GRANULE, "seed {seed}");
        let (at, size) = (rng.u64(..len), rng.u64(..DEBT_GRANULE * 2));
        let size = size.min(len - at);
        let asked = debt.asks(at, size, &base).unwrap();
        assert_eq!(debt.append(at, size, &base).unwrap(), asked, "seed {seed}");
        assert_eq!(debt.asks(at, size, &base).unwrap(), 0, "seed {seed}: counted twice");
        debt.set_len(0);
        assert_eq!(debt.bytes(), 0);
    }
}

/// A base, what is journaled above it in two rounds, and the debt kept up on the way: with so much room free
/// no round fails for want of it.
#[test]
fn rounds_fit_into_the_debt() {
    let run = |seed: u64, divisor: u64| {
        let s = SimDevice::new(seed).storage("");
        let mut rng = fastrand::Rng::with_seed(seed);
        let len = 30 * DEBT_GRANULE;
        let base = durable_base(&s, len, &random_ranges(&mut rng, len, 2 * DEBT_GRANULE));
        let mut debt = Debt::new(len);
        let rounds: Vec<_> = (0..2).map(|_| random_ranges(&mut rng, len, DEBT_GRANULE)).collect();
        for range in rounds.iter().flatten().filter(|r| r.content == Content::Data) {
            debt.append(range.offset, range.len, &base).unwrap();
        }
        s.set_room(base.allocated().unwrap() + debt.bytes() / divisor);
        for (number, ranges) in rounds.iter().enumerate() {
            let mut round = base.round(len).unwrap();
            if let Err(error) = write(&mut round, ranges, number as u64) {
                assert_eq!(error.kind(), Kind::NoSpace);
                return false;
            }
            let Finished::Durable(_) = round.finish().unwrap() else { panic!("not durable") };
            for range in ranges {
                match range.content {
                    Content::Data => debt.written(range.offset, range.len, &base).unwrap(),
                    Content::Zero | Content::Discard => debt.emptied(range.offset, range.len),
                }
            }
            let left: Vec<Overlaid> = rounds[number + 1..].concat();
            let exact = Debt::of(results(&left), &base, len).unwrap();
            assert!(debt.bytes() >= exact.bytes(), "seed {seed}: {} < {}", debt.bytes(), exact.bytes());
            debt = exact;
            s.set_room(base.allocated().unwrap() + debt.bytes() / divisor);
        }
        assert_eq!(debt.bytes(), 0, "seed {seed}");
        true
    };
    assert!(seeds(60, 2000).all(|seed| run(seed, 1)), "the debt was too small");
    assert!(!(0..60).all(|seed| run(seed, 4)), "a quarter of the debt must not be enough everywhere");
}

#[test]
fn blocks_are_those_that_the_base_will_have() {
    for seed in seeds(60, 2000) {
        let s = SimDevice::new(seed).storage("");
        let mut rng = fastrand::Rng::with_seed(seed);
        let len = 300 * GRANULE;
        let base = durable_base(&s, len, &random_ranges(&mut rng, len, 20 * GRANULE));
        let mut journaled = random_ranges(&mut rng, len, 9 * GRANULE);
        journaled.retain(|range| range.content == Content::Data);
        let expected = base.allocated().unwrap() + unallocated(results(&journaled), &base).unwrap();
        let mut round = base.round(len).unwrap();
        write(&mut round, &journaled, 1).unwrap();
        let Finished::Durable(_) = round.finish().unwrap() else { panic!("not durable") };
        assert_eq!(base.allocated().unwrap(), expected, "seed {seed}");
    }
}

/// To archivers a file without blocks has no data.
#[test]
fn an_estimate_is_never_nothing_and_never_more_than_the_file() {
    assert_eq!(unallocated_about(0, 0, 1 << 40), GRANULE);
    assert_eq!(unallocated_about(0, 1 << 30, 1 << 40), GRANULE);
    assert_eq!(unallocated_about(1 << 20, 1 << 30, 1 << 40), 1 << 30);
    assert_eq!(unallocated_about(1 << 30, 1 << 30, 1 << 40), 1 << 40);
    assert_eq!(unallocated_about(8192, 4096, 1 << 20), 1 << 20);
    assert_eq!(unallocated_about(4096, 0, 100), 4096);
}
