//! The newest version of each byte.
//!
//! L1. Sources are read from the one that can hold the newest versions to the one that can't, and the rest is left
//!     out once the MiB is covered by versions newer than any in it. Without that a look-up reads more and answers
//!     the same: which version wins is decided by rank (`region`, G1).

use crate::format::index_page::{Piece, PieceKey, cell_shift};
use crate::index::chains::{Chains, Seen};
use crate::index::memory::{Build, Frozen};
use crate::index::pieces::MIB;
use crate::index::region::{Patch, Region};
use crate::index::run::{Page, Pages, Run, RunCursor};
use crate::index::{Extent, Index, Path};
use crate::vocab::{DiskOrdinal, Pos, Result};
use std::cmp::Reverse;
use std::sync::Arc;

type Rank = (u32, Pos);

enum Place {
    Frozen(Arc<Frozen>),
    Run(Arc<Run>),
}

/// What a region is built from, the newest first.
struct Sources {
    list: Vec<(Seen, Place)>,
}

/// A region on its way, with the lowest rank that was painted.
struct Canvas {
    region: Region,
    mib: u64,
    lowest: Rank,
}

impl Canvas {
    fn paint(&mut self, number: u32, piece: &Piece) {
        if let Some(patch) = Patch::of(piece, number, self.mib) {
            self.lowest = self.lowest.min((number, piece.pos));
            self.region.paint(patch);
        }
    }

    /// Whether nothing of this rank or a lower one could show.
    fn hides(&self, rank: Rank) -> bool {
        self.region.is_covered() && rank < self.lowest
    }
}

impl Index {
    /// The range of a disk as `path` sees it: the newest version of each byte above the path's cut. The extents
    /// cover the range without gaps, in order.
    ///
    /// Fails with `Damaged`, path and offset if a page of the index can't be read as it was written.
    pub fn lookup(&self, path: &Path, disk: DiskOrdinal, offset: u64, len: u64) -> Result<Vec<Extent>> {
        let mut out = Vec::new();
        self.lookup_into(path, disk, offset, len, &mut out)?;
        Ok(out)
    }

    /// [`Index::lookup`] into a vector that the caller keeps; what is in it stays in front.
    pub fn lookup_into(
        &self,
        path: &Path,
        disk: DiskOrdinal,
        offset: u64,
        len: u64,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end {
            let to = end.min((at / MIB + 1).saturating_mul(MIB));
            self.lookup_mib(path, disk, at, to, out)?;
            at = to;
        }
        Ok(())
    }

    fn lookup_mib(
        &self,
        path: &Path,
        disk: DiskOrdinal,
        at: u64,
        to: u64,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let mib = at / MIB;
        let mut canvas = Canvas { region: Region::default(), mib, lowest: (u32::MAX, Pos(u64::MAX)) };
        let (build, sources) = {
            let mut memory = self.memory.lock();
            let slot = memory.slot(path);
            if let Some(region) = memory.region(slot, path, disk, mib) {
                region.read(path, disk, at, to, out);
                return Ok(());
            }
            let build: Option<Build> = memory.begin(slot, disk, mib);
            let mut list = Vec::new();
            for (log, state) in &memory.logs {
                if let Some(seen) = Seen::of(path, *log, state.ended, Pos(u64::MAX)) {
                    state.open.visit(disk, mib, |piece| paint_seen(&mut canvas, &seen, &piece));
                }
                for frozen in &state.frozen {
                    let seen = Seen::of(path, *log, frozen.meta.from, frozen.meta.to);
                    list.extend(seen.map(|seen| (seen, Place::Frozen(Arc::clone(frozen)))));
                }
                for run in state.runs.iter() {
                    let seen = Seen::of(path, *log, run.header.from, run.header.to);
                    list.extend(seen.map(|seen| (seen, Place::Run(Arc::clone(run)))));
                }
            }
            (build, Sources { list })
        };
        let done = self.paint_sources(sources, disk, &mut canvas);
        if let Some(build) = build {
            let mut memory = self.memory.lock();
            match done {
                Ok(()) => memory.publish(build, path, &mut canvas.region),
                Err(_) => memory.abort(&build),
            }
        }
        done?;
        canvas.region.read(path, disk, at, to, out);
        Ok(())
    }

    fn paint_sources(&self, mut sources: Sources, disk: DiskOrdinal, canvas: &mut Canvas) -> Result<()> {
        sources.list.sort_by_key(|(seen, _)| Reverse(seen.ranks().1));
        for (seen, place) in sources.list {
            if canvas.hides(seen.ranks().1) {
                break;
            }
            match place {
                Place::Frozen(frozen) => {
                    frozen.map.visit(disk, canvas.mib, |piece| paint_seen(canvas, &seen, &piece));
                }
                Place::Run(run) => self.paint_run(&run, &seen, disk, canvas)?,
            }
        }
        Ok(())
    }

    fn paint_run(&self, run: &Arc<Run>, seen: &Seen, disk: DiskOrdinal, canvas: &mut Canvas) -> Result<()> {
        let from = canvas.mib * MIB;
        for level in run.levels(disk) {
            if level == 0 && !run.touches(disk, canvas.mib) {
                continue;
            }
            let shift = cell_shift(level);
            let start = from.checked_shr(shift).map_or(0, |cell| cell << shift);
            let key = PieceKey { level, disk, start, len: 0, newness: Reverse(Pos(u64::MAX)) };
            let cursor = RunCursor::seek(run, &key, self)?;
            let mut chains = Chains::new(cursor, seen.clone(), level, disk, from + MIB);
            let mut left = usize::MAX;
            while let Some((number, piece)) = chains.next(self, &mut left)? {
                canvas.paint(number, &piece);
            }
        }
        Ok(())
    }
}

/// Paints a piece of an open map; says whether an older one of its chain could still show.
fn paint_seen(canvas: &mut Canvas, seen: &Seen, piece: &Piece) -> bool {
    if let Some(number) = seen.number(piece.pos) {
        if canvas.hides((number, piece.pos)) {
            // Older ones rank lower only if the path goes up with the log.
            return seen.is_mixed();
        }
        canvas.paint(number, piece);
    }
    true
}

impl Pages for Index {
    fn page(&self, run: &Run, number: u32) -> Result<Page> {
        if let Some(page) = self.memory.lock().page(run.header.number, number) {
            return Ok(page);
        }
        let page = run.read_page(number)?;
        self.memory.lock().put_page(run.header.number, number, &page);
        Ok(page)
    }
}
