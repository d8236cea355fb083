//! All that a path sees of a disk, in the order of offsets, with little memory: for rounds, scrub, export, fills.
//!
//! N1. A sweep: pieces enter when the sweep reaches their start; of those that cover the place, the highest rank
//!     shows. A piece that lies wholly under the one that shows is forgotten at once.
//! N2. A scan sees the runs and open maps of the moment when it began; what is inserted or merged later doesn't
//!     change it. On a path that ends at a durable moment that makes no difference.
//! N3. Who must answer at once says how many pieces are looked at, those included that the path doesn't see: a path of
//!     an old moment sees few of many. The scan then ends there and says how far it came.

use crate::format::index_page::{Content, Piece, PieceKey, cell_shift};
use crate::index::chains::{Chains, Seen};
use crate::index::run::RunCursor;
use crate::index::{Entry, Extent, Index, Path, Source};
use crate::vocab::{DiskOrdinal, LogId, Pos, Result};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

/// Pieces in the sweep beyond which those that have ended are looked for.
const ACTIVE_MANY: usize = 4096;

/// An iterator over the extents of a disk that have a version on the path; what is `Below` is left out.
pub struct Scan<'a> {
    index: &'a Index,
    path: Path,
    end: u64,
    at: u64,
    streams: Vec<Stream>,
    /// Start of the next piece of each stream.
    starts: BinaryHeap<Reverse<(u64, usize)>>,
    /// What covers the place, by rank.
    active: BTreeMap<(u32, Pos, u64), Piece>,
    pending: Option<Extent>,
    /// N3.
    left: usize,
    failed: bool,
}

struct Stream {
    pieces: Pieces,
    head: Option<(u32, Piece)>,
}

enum Pieces {
    Run(Box<Chains>),
    /// The next one last.
    Memory(Vec<(u32, Piece)>),
}

impl Stream {
    fn advance(&mut self, index: &Index, left: &mut usize) -> Result<()> {
        self.head = match &mut self.pieces {
            Pieces::Run(chains) => chains.next(index, left)?,
            Pieces::Memory(list) => {
                *left = left.saturating_sub(1);
                list.pop()
            }
        };
        Ok(())
    }
}

impl Index {
    /// The extents of `[from, to)` of a disk that have a version on the path above its cut, in order, adjacent
    /// ones of one version or of zeros joined. Ends after the first error.
    pub fn scan(&self, path: &Path, disk: DiskOrdinal, from: u64, to: u64) -> Result<Scan<'_>> {
        self.scan_some(path, disk, (from, to), usize::MAX)
    }

    /// As [`Index::scan`], but looks at no more than `pieces` pieces (N3).
    pub fn scan_some(
        &self,
        path: &Path,
        disk: DiskOrdinal,
        (from, to): (u64, u64),
        pieces: usize,
    ) -> Result<Scan<'_>> {
        let (mut memory_pieces, mut runs) = (Vec::new(), Vec::new());
        {
            let memory = self.memory.lock();
            for (log, state) in &memory.logs {
                let open = (state.ended, Pos(u64::MAX), &state.open);
                let frozen = state.frozen.iter().map(|f| (f.meta.from, f.meta.to, &f.map));
                for (start, end, map) in frozen.chain([open]) {
                    if let Some(seen) = Seen::of(path, *log, start, end) {
                        let pieces = map.pieces(Some(disk)).into_iter();
                        let pieces = pieces.filter(|p| p.start < to && from < p.start + p.len);
                        memory_pieces.extend(pieces.filter_map(|p| Some((seen.number(p.pos)?, p))));
                    }
                }
                for run in state.runs.iter() {
                    let seen = Seen::of(path, *log, run.header.from, run.header.to);
                    runs.extend(seen.map(|seen| (seen, Arc::clone(run))));
                }
            }
        }
        memory_pieces.sort_unstable_by_key(|(_, piece)| Reverse(piece.start));
        let mut streams = vec![Stream { pieces: Pieces::Memory(memory_pieces), head: None }];
        for (seen, run) in runs {
            for level in run.levels(disk) {
                let shift = cell_shift(level);
                let start = from.checked_shr(shift).map_or(0, |cell| cell << shift);
                let key = PieceKey { level, disk, start, len: 0, newness: Reverse(Pos(u64::MAX)) };
                let cursor = RunCursor::seek(&run, &key, self)?;
                let chains = Chains::new(cursor, seen.clone(), level, disk, to);
                streams.push(Stream { pieces: Pieces::Run(Box::new(chains)), head: None });
            }
        }
        let mut scan = Scan {
            index: self,
            path: path.clone(),
            end: to,
            at: from,
            streams,
            starts: BinaryHeap::new(),
            active: BTreeMap::new(),
            pending: None,
            left: pieces,
            failed: false,
        };
        for number in 0..scan.streams.len() {
            scan.refill(number)?;
        }
        Ok(scan)
    }
}

impl Scan<'_> {
    /// N3: where the scan ended before its range did; `None` if it saw all of it, or hasn't ended.
    pub fn broke_off(&self) -> Option<u64> {
        (self.left == 0).then_some(self.at)
    }

    fn refill(&mut self, number: usize) -> Result<()> {
        let stream = &mut self.streams[number];
        stream.advance(self.index, &mut self.left)?;
        if let Some((_, piece)) = &stream.head {
            self.starts.push(Reverse((piece.start, number)));
        }
        Ok(())
    }

    /// The next piece, if it starts at or below `limit`.
    fn take(&mut self, limit: u64) -> Result<Option<(u32, Piece)>> {
        let Some(Reverse((start, number))) = self.starts.peek().copied() else { return Ok(None) };
        if start > limit {
            return Ok(None);
        }
        self.starts.pop();
        let head = self.streams[number].head.take();
        self.refill(number)?;
        Ok(head)
    }

    fn enter(&mut self, number: u32, piece: Piece) {
        if piece.start + piece.len > self.at {
            self.active.insert((number, piece.pos, piece.start), piece);
        }
    }

    /// What shows at `at`.
    fn top(&mut self) -> Option<(u32, Piece)> {
        while let Some((key, piece)) = self.active.last_key_value() {
            if piece.start + piece.len > self.at {
                return Some((key.0, *piece));
            }
            self.active.pop_last();
        }
        None
    }

    /// The next stretch that shows one version.
    fn step(&mut self) -> Result<Option<Extent>> {
        loop {
            if self.at >= self.end || self.left == 0 {
                return Ok(None);
            }
            while let Some((number, piece)) = self.take(self.at)? {
                self.enter(number, piece);
            }
            if self.active.len() > ACTIVE_MANY {
                let at = self.at;
                self.active.retain(|_, piece| piece.start + piece.len > at);
            }
            let Some((number, top)) = self.top() else {
                let Some(Reverse((start, _))) = self.starts.peek() else { return Ok(None) };
                self.at = *start;
                continue;
            };
            let mut until = (top.start + top.len).min(self.end);
            while let Some((other, piece)) = self.take(until.saturating_sub(1))? {
                if (other, piece.pos) > (number, top.pos) {
                    until = piece.start;
                    self.enter(other, piece);
                    break;
                }
                if piece.start + piece.len > until {
                    self.enter(other, piece);
                }
            }
            let extent = self.extent(number, &top, until);
            self.at = until;
            return Ok(Some(extent));
        }
    }

    fn extent(&self, number: u32, top: &Piece, until: u64) -> Extent {
        let log = self.path.intervals().get(number as usize).map_or(LogId::NONE, |i| i.log);
        let skip = u64::from(top.skip);
        let source = match top.content {
            Content::Zero | Content::Discard => Source::Zero,
            Content::Data => Source::Data {
                log,
                entry: Entry {
                    disk: top.disk,
                    offset: top.start - skip,
                    len: top.whole,
                    pos: top.pos,
                    content: Content::Data,
                    crc: top.crc,
                },
                skip: skip + (self.at - top.start),
            },
        };
        Extent { offset: self.at, len: until - self.at, source }
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        loop {
            match self.step() {
                Ok(Some(extent)) => {
                    if self.pending.as_mut().is_some_and(|pending| pending.join(&extent)) {
                        continue;
                    }
                    if let Some(done) = self.pending.replace(extent) {
                        return Some(Ok(done));
                    }
                }
                Ok(None) => return self.pending.take().map(Ok),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
