//! What the index of a group holds in memory, under one lock: open maps, lists of runs, the cache.
//!
//! Y1. What was inserted is in every cached region that sees it before the insertion returns; also in one that is
//!     being built meanwhile, which collects what it missed.
//! Y2. A build publishes only into the place that it began: not if that was pushed out or begun again.
//! Y3. A cached region was built above some cut of its path and answers for every higher cut.

use crate::format::index_page::{Piece, cell_shift};
use crate::format::run::BatchRow;
use crate::index::cache::{Cache, CacheBudget, Mix};
use crate::index::open_map::OpenMap;
use crate::index::pieces::MIB;
use crate::index::region::{Patch, Region};
use crate::index::run::{Page, Run};
use crate::index::{Entry, Path, PathId, SegmentMeta};
use crate::vocab::{DiskOrdinal, Error, Kind, LogId, Pos, Result};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

/// Patches in a region beyond which it isn't cached; also what a build may miss before it isn't.
const PATCHES_MAX: usize = 4096;

/// A segment that has ended and has no run yet.
pub(super) struct Frozen {
    pub(super) map: OpenMap,
    pub(super) meta: SegmentMeta,
}

#[derive(Default)]
pub(super) struct LogState {
    pub(super) open: OpenMap,
    pub(super) frozen: VecDeque<Arc<Frozen>>,
    /// By position, without overlap.
    pub(super) runs: Arc<Vec<Arc<Run>>>,
    /// Where the segments before the open one end.
    pub(super) ended: Pos,
}

impl LogState {
    /// The position behind everything that was ever inserted.
    pub(super) fn head(&self) -> Pos {
        self.open.last_pos().map_or(self.ended, |pos| Pos(pos.0 + 1))
    }
}

pub(super) enum Cached {
    Region(Region, (u32, Pos)),
    Building { token: u64, missed: Vec<Patch> },
    Page(Page),
}

struct Slot {
    id: PathId,
    regions: usize,
}

/// An interval of a cached path into which records may still come.
struct Growing {
    slot: u32,
    log: LogId,
    from: Pos,
    to: Pos,
    number: u32,
}

pub(super) struct Memory {
    pub(super) logs: BTreeMap<LogId, LogState>,
    pub(super) cache: Cache<Cached>,
    slots: Vec<Option<Slot>>,
    by_path: HashMap<PathId, u32, BuildHasherDefault<Mix>>,
    growing: Vec<Growing>,
    tokens: u64,
}

/// A build that was begun.
pub(super) struct Build {
    key: u128,
    token: u64,
}

fn region_key(slot: u32, disk: DiskOrdinal, mib: u64) -> u128 {
    u128::from(slot) << 96 | u128::from(disk.0) << 64 | u128::from(mib)
}

fn page_key(run: u64, page: u32) -> u128 {
    1 << 127 | u128::from(run) << 32 | u128::from(page)
}

fn slot_of(key: u128) -> Option<usize> {
    (key >> 127 == 0).then_some((key >> 96) as usize)
}

/// Keeps the count of regions of each path right when items go.
fn forget(slots: &mut [Option<Slot>], key: u128) {
    if let Some(slot) = slot_of(key).and_then(|at| slots[at].as_mut()) {
        slot.regions -= 1;
    }
}

impl Memory {
    pub(super) fn new(budget: Arc<CacheBudget>) -> Self {
        Self {
            logs: BTreeMap::new(),
            cache: Cache::new(budget),
            slots: Vec::new(),
            by_path: HashMap::default(),
            growing: Vec::new(),
            tokens: 0,
        }
    }

    /// Y1. Checked entries of a log, in its order.
    pub(super) fn insert(&mut self, log: LogId, entries: &[Entry]) -> Result<()> {
        let Self { logs, cache, slots, growing, .. } = self;
        let state = logs.entry(log).or_default();
        for entry in entries {
            if entry.pos < state.head() {
                let what = format!("log {}: position {} after {}", log.short(), entry.pos, state.head());
                return Err(Error::new(Kind::Invalid, what));
            }
            state.open.insert(entry, |piece| {
                for g in growing.iter() {
                    if g.log == log && g.from <= piece.pos && piece.pos < g.to {
                        paint(cache, slots, g, piece);
                    }
                }
            });
        }
        Ok(())
    }

    pub(super) fn push_row(&mut self, log: LogId, row: BatchRow) {
        self.logs.entry(log).or_default().open.push_row(row);
    }

    /// The number that stands for this path in keys.
    pub(super) fn slot(&mut self, path: &Path) -> u32 {
        if let Some(slot) = self.by_path.get(&path.id()) {
            return *slot;
        }
        self.sweep();
        let at = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let slot = Some(Slot { id: path.id(), regions: 0 });
        if at == self.slots.len() {
            self.slots.push(slot)
        } else {
            self.slots[at] = slot
        }
        let at = at as u32;
        self.by_path.insert(path.id(), at);
        for (number, i) in path.uncut().above_cut() {
            if self.logs.get(&i.log).is_none_or(|log| log.head() < i.to) {
                self.growing.push(Growing { slot: at, log: i.log, from: i.from, to: i.to, number });
            }
        }
        at
    }

    /// Forgets paths of which nothing is cached.
    fn sweep(&mut self) {
        for slot in &mut self.slots {
            if let Some(unused) = slot.take_if(|s| s.regions == 0) {
                self.by_path.remove(&unused.id);
            }
        }
        let slots = &self.slots;
        self.growing.retain(|g| slots[g.slot as usize].is_some());
    }

    /// The cached region, if it can answer for this path (Y3).
    pub(super) fn region(&mut self, slot: u32, path: &Path, disk: DiskOrdinal, mib: u64) -> Option<&Region> {
        match self.cache.get(region_key(slot, disk, mib)) {
            Some(Cached::Region(region, cut)) if *cut <= path.cut() => Some(region),
            _ => None,
        }
    }

    /// Begins to build a region; `None` if somebody does already.
    pub(super) fn begin(&mut self, slot: u32, disk: DiskOrdinal, mib: u64) -> Option<Build> {
        let key = region_key(slot, disk, mib);
        if let Some(Cached::Building { .. }) = self.cache.peek(key) {
            return None;
        }
        self.tokens += 1;
        let token = self.tokens;
        self.put(key, Cached::Building { token, missed: Vec::new() }, 0).then_some(Build { key, token })
    }

    /// Ends a build (Y2); the region gets what it missed.
    pub(super) fn publish(&mut self, build: Build, path: &Path, region: &mut Region) {
        let Some(Cached::Building { token, missed }) = self.cache.peek(build.key) else { return };
        if *token != build.token {
            return;
        }
        std::mem::take(missed).into_iter().for_each(|patch| region.paint(patch));
        if region.len() > PATCHES_MAX {
            return self.drop_item(build.key);
        }
        let mut kept = region.clone();
        kept.shrink();
        let bytes = kept.bytes();
        self.put(build.key, Cached::Region(kept, path.cut()), bytes);
    }

    /// Gives a build up.
    pub(super) fn abort(&mut self, build: &Build) {
        if let Some(Cached::Building { token, .. }) = self.cache.peek(build.key)
            && *token == build.token
        {
            self.drop_item(build.key);
        }
    }

    pub(super) fn page(&mut self, run: u64, number: u32) -> Option<Page> {
        match self.cache.get(page_key(run, number)) {
            Some(Cached::Page(page)) => Some(Arc::clone(page)),
            _ => None,
        }
    }

    pub(super) fn put_page(&mut self, run: u64, number: u32, page: &Page) {
        self.put(page_key(run, number), Cached::Page(Arc::clone(page)), page.len());
    }

    pub(super) fn tidy(&mut self) {
        let Self { cache, slots, .. } = self;
        cache.tidy(|key, _| forget(slots, key));
        self.sweep();
    }

    fn put(&mut self, key: u128, value: Cached, bytes: usize) -> bool {
        let Self { cache, slots, .. } = self;
        if let Some(slot) = slot_of(key).and_then(|at| slots[at].as_mut()) {
            slot.regions += 1;
        }
        cache.put(key, value, bytes, |key, _| forget(slots, key))
    }

    fn drop_item(&mut self, key: u128) {
        if self.cache.remove(key).is_some() {
            forget(&mut self.slots, key);
        }
    }
}

/// Enters a new piece into the cached regions of one path.
fn paint(cache: &mut Cache<Cached>, slots: &mut [Option<Slot>], g: &Growing, piece: &Piece) {
    let (first, last) = (piece.start / MIB, (piece.start + piece.len - 1) / MIB);
    if last - first < 64.max(cache.len() as u64) {
        for mib in first..=last {
            paint_one(cache, slots, g, piece, mib);
        }
        return;
    }
    debug_assert!(cell_shift(piece.level) > 20);
    let of_path: Vec<u128> =
        cache.keys().filter(|key| key >> 64 == region_key(g.slot, piece.disk, 0) >> 64).collect();
    for mib in of_path.into_iter().map(|key| key as u64).filter(|mib| (first..=last).contains(mib)) {
        paint_one(cache, slots, g, piece, mib);
    }
}

fn paint_one(cache: &mut Cache<Cached>, slots: &mut [Option<Slot>], g: &Growing, piece: &Piece, mib: u64) {
    #[cfg(test)]
    if crate::index::tests::left_out(crate::index::tests::Rule::PaintOnInsert) {
        return;
    }
    let key = region_key(g.slot, piece.disk, mib);
    let Some(patch) = Patch::of(piece, g.number, mib) else { return };
    let (before, after, len) = match cache.peek(key) {
        Some(Cached::Region(region, _)) => {
            let before = region.bytes();
            region.paint(patch);
            (before, region.bytes(), region.len())
        }
        Some(Cached::Building { missed, .. }) => {
            let before = missed.capacity() * size_of::<Patch>();
            missed.push(patch);
            (before, missed.capacity() * size_of::<Patch>(), missed.len())
        }
        _ => return,
    };
    if len > PATCHES_MAX {
        if cache.remove(key).is_some() {
            forget(slots, key);
        }
    } else if before != after {
        cache.resize(key, after, |key, _| forget(slots, key));
    }
}
