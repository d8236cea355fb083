//! One MiB of a disk as a path sees it: extents without overlap, each of the newest version.
//!
//! G1. Painting is by rank (number of the interval, position), so the order of painting doesn't matter: what is
//!     newer stays on top. A region that is being built and one that writes are entered into are the same thing.

use crate::format::index_page::{Content, Piece};
use crate::index::pieces::MIB;
use crate::index::{Entry, Extent, Path, Source};
use crate::vocab::{DiskOrdinal, Pos};

/// What lies at a stretch of the MiB. 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    start: u32,
    len: u32,
    pos_data: u64,
    number: u32,
    skip: u32,
    whole: u32,
    crc: u32,
}

impl Patch {
    /// What a piece, with the number of its interval, says of this MiB; `None` if nothing.
    pub(super) fn of(piece: &Piece, number: u32, mib: u64) -> Option<Self> {
        let (from, to) = (mib * MIB, (mib + 1) * MIB);
        let (start, end) = (piece.start.max(from), (piece.start + piece.len).min(to));
        let data = piece.content == Content::Data;
        (start < end).then(|| Self {
            start: (start - from) as u32,
            len: (end - start) as u32,
            pos_data: piece.pos.0 << 1 | u64::from(data),
            number,
            skip: if data { piece.skip + (start - piece.start) as u32 } else { 0 },
            whole: if data { piece.whole as u32 } else { 0 },
            crc: if data { piece.crc } else { 0 },
        })
    }

    fn end(&self) -> u32 {
        self.start + self.len
    }

    fn rank(&self) -> (u32, u64) {
        #[cfg(test)]
        if crate::index::tests::left_out(crate::index::tests::Rule::IntervalFirst) {
            return (0, self.pos_data);
        }
        (self.number, self.pos_data)
    }

    fn part(&self, from: u32, to: u32) -> Self {
        let skip = if self.pos_data & 1 == 1 { self.skip + (from - self.start) } else { 0 };
        Self { start: from, len: to - from, skip, ..*self }
    }
}

/// The MiB.
#[derive(Clone, Debug, Default)]
pub(super) struct Region {
    patches: Vec<Patch>,
    covered: u32,
}

impl Region {
    /// Puts a patch in, below what is newer.
    pub(super) fn paint(&mut self, new: Patch) {
        let first = self.patches.partition_point(|p| p.end() <= new.start);
        let count = self.patches[first..].iter().take_while(|p| p.start < new.end()).count();
        match &mut self.patches[first..first + count] {
            [] => {
                self.patches.insert(first, new);
                self.covered += new.len;
            }
            [old] if (old.start, old.len) == (new.start, new.len) => {
                if old.rank() <= new.rank() {
                    *old = new;
                }
            }
            old => {
                let out = mix(old, new);
                let before: u32 = old.iter().map(|p| p.len).sum();
                self.covered = self.covered - before + out.iter().map(|p| p.len).sum::<u32>();
                self.patches.splice(first..first + count, out);
            }
        }
    }

    /// Whether no byte is left to what is below.
    pub(super) fn is_covered(&self) -> bool {
        u64::from(self.covered) == MIB
    }

    /// Patches in it.
    pub(super) fn len(&self) -> usize {
        self.patches.len()
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.patches.capacity() * size_of::<Patch>()
    }

    /// Gives room back that isn't used.
    pub(super) fn shrink(&mut self) {
        self.patches.shrink_to_fit();
    }

    /// Appends the extents of `[offset, end)`, which lies in this MiB, above the cut of `path`.
    pub(super) fn read(&self, path: &Path, disk: DiskOrdinal, offset: u64, end: u64, out: &mut Vec<Extent>) {
        let base = offset / MIB * MIB;
        let (mut at, to) = ((offset - base) as u32, (end - base) as u32);
        let mut push = |from: u32, to: u32, source: Source| {
            let extent = Extent { offset: base + u64::from(from), len: u64::from(to - from), source };
            if !out.last_mut().is_some_and(|last| last.join(&extent)) {
                out.push(extent);
            }
        };
        let first = self.patches.partition_point(|p| p.end() <= at);
        for patch in self.patches[first..].iter().take_while(|p| p.start < to) {
            if at < patch.start {
                push(at, patch.start, Source::Below);
                at = patch.start;
            }
            let until = patch.end().min(to);
            push(at, until, patch.part(at, patch.end()).source(path, disk, base));
            at = until;
        }
        if at < to {
            push(at, to, Source::Below);
        }
    }
}

impl Patch {
    fn source(&self, path: &Path, disk: DiskOrdinal, base: u64) -> Source {
        let pos = Pos(self.pos_data >> 1);
        let interval = path.intervals().get(self.number as usize);
        let Some(interval) = interval.filter(|_| path.is_above_cut(self.number, pos)) else {
            return Source::Below;
        };
        if self.pos_data & 1 == 0 {
            return Source::Zero;
        }
        let entry = Entry {
            disk,
            offset: base + u64::from(self.start) - u64::from(self.skip),
            len: u64::from(self.whole),
            pos,
            content: Content::Data,
            crc: self.crc,
        };
        Source::Data { log: interval.log, entry, skip: u64::from(self.skip) }
    }
}

/// What a new patch and the old ones that it meets come to.
fn mix(old: &[Patch], new: Patch) -> Vec<Patch> {
    let mut out = Vec::with_capacity(old.len() + 2);
    let (mut at, mut right) = (new.start, None);
    for old in old {
        if old.rank() > new.rank() {
            if at < old.start {
                out.push(new.part(at, old.start));
            }
            out.push(*old);
            at = at.max(old.end());
            continue;
        }
        if old.start < new.start {
            out.push(old.part(old.start, new.start));
        }
        if old.end() > new.end() {
            right = Some(old.part(new.end(), old.end()));
        }
    }
    if at < new.end() {
        out.push(new.part(at, new.end()));
    }
    out.extend(right);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Painted in any order, each byte shows the patch of the highest rank, and skips stay right.
    #[test]
    fn painting_shows_the_newest_in_any_order() {
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut region = Region::default();
            let mut bytes = vec![None; 64];
            for _ in 0..random.usize(1..20) {
                let start = random.u32(0..60);
                let len = random.u32(1..=(64 - start));
                let (number, pos) = (random.u32(0..3), random.u64(0..1000));
                let data = random.bool();
                let skip = if data { random.u32(0..9) } else { 0 };
                let patch = Patch {
                    start,
                    len,
                    pos_data: pos << 1 | u64::from(data),
                    number,
                    skip,
                    whole: skip + len,
                    crc: 1,
                };
                region.paint(patch);
                for at in start..start + len {
                    let byte = &mut bytes[at as usize];
                    let skip = if data { skip + at - start } else { 0 };
                    let this = (patch.rank(), skip);
                    if byte.is_none_or(|(rank, _)| rank <= patch.rank()) {
                        *byte = Some(this);
                    }
                }
            }
            let mut seen = vec![None; 64];
            for p in &region.patches {
                for at in p.start..p.end() {
                    assert!(seen[at as usize].is_none(), "seed {seed}: overlap");
                    seen[at as usize] = Some((p.rank(), p.part(at, p.end()).skip));
                }
            }
            assert_eq!(seen, bytes, "seed {seed}");
            assert_eq!(region.covered as usize, bytes.iter().flatten().count(), "seed {seed}");
        }
    }
}
