//! Attacks on the base against plain vectors of bytes, at a real directory and at simulated ones.

mod holes;
mod rounds;

use crate::base::{BaseFile, Overlaid, Round, base_name};
use crate::index::Content;
use crate::seam::Storage;
use crate::vocab::{DiskOrdinal, Result};
use std::path::PathBuf;

fn seeds(short: u64, full: u64) -> std::ops::Range<u64> {
    let is_full = std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full");
    0..if is_full { full } else { short }
}

fn path() -> PathBuf {
    base_name(DiskOrdinal(7)).into()
}

fn overlaid(offset: u64, len: u64, content: Content) -> Overlaid {
    Overlaid { offset, len, content }
}

fn results(ranges: &[Overlaid]) -> impl Iterator<Item = Result<Overlaid>> + '_ {
    ranges.iter().copied().map(Ok)
}

/// Random ranges in order, up to `end`. Many touch their neighbours, many begin or end within a granule.
fn random_ranges(rng: &mut fastrand::Rng, end: u64, longest: u64) -> Vec<Overlaid> {
    let (mut out, mut at) = (Vec::new(), 0);
    let odd = rng.bool();
    let step = |rng: &mut fastrand::Rng, most: u64| {
        if odd { rng.u64(..most) } else { rng.u64(..most) / 4096 * 4096 }
    };
    loop {
        at += if rng.bool() { 0 } else { step(rng, longest * 2) };
        let len = step(rng, longest).max(if odd { 1 } else { 4096 });
        if at + len > end {
            return out;
        }
        let content = [Content::Data, Content::Data, Content::Zero, Content::Discard][rng.usize(..4)];
        out.push(overlaid(at, len, content));
        at += len;
    }
}

/// The bytes of a data range in a test: they tell where they belong and which round wrote them.
fn bytes(range: &Overlaid, round: u64) -> Vec<u8> {
    (range.offset..range.end()).map(|at| (at / 512 % 13 * 16 + round % 15) as u8 + 1).collect()
}

fn write(round: &mut Round<'_>, ranges: &[Overlaid], number: u64) -> Result<()> {
    ranges.iter().try_for_each(|range| match range.content {
        Content::Data => round.data(range.offset, &bytes(range, number)),
        Content::Zero => round.zero(range.offset, range.len),
        Content::Discard => round.discard(range.offset, range.len),
    })
}

fn write_model(model: &mut [u8], ranges: &[Overlaid], number: u64) {
    for range in ranges {
        let part = &mut model[range.offset as usize..range.end() as usize];
        match range.content {
            Content::Data => part.copy_from_slice(&bytes(range, number)),
            Content::Zero | Content::Discard => part.fill(0),
        }
    }
}

fn image(base: &BaseFile) -> Vec<u8> {
    let mut out = vec![9; base.len().unwrap() as usize];
    base.read(&mut out, 0).unwrap();
    out
}

/// A durable base with the content of one round.
fn durable_base(storage: &dyn Storage, len: u64, ranges: &[Overlaid]) -> BaseFile {
    let base = BaseFile::create(storage, &path(), len).unwrap();
    storage.sync_dir(std::path::Path::new("")).unwrap();
    let mut round = base.round(len).unwrap();
    write(&mut round, ranges, 0).unwrap();
    assert!(matches!(round.finish().unwrap(), crate::base::Finished::Durable(_)));
    base
}
