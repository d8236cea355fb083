//! Inserts, rotations, seals, merges, drops, forks, jumps, openings; look-ups and scans at random moments.

use super::model::Model;
use super::{Rule, without};
use crate::index::{
    CacheBudget, Content, Entry, Extent, Index, Interval, MergeProgress, Path, SegmentMeta, Source,
};
use crate::seam::{SimDevice, Storage};
use crate::vocab::{DiskOrdinal, EpochId, GroupId, LogId, Pos, Seq};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const GROUP: GroupId = GroupId([7; 16]);
const MAIN: LogId = LogId([1; 16]);
const STAGING: LogId = LogId([2; 16]);
const LOGS: [LogId; 2] = [MAIN, STAGING];
const DISKS: u32 = 3;
/// Places around which writes cluster: edges of cells of several levels.
const HOT: [u64; 6] = [1 << 20, 16 << 20, (16 << 20) + (1 << 20), 1 << 28, 1 << 32, (1 << 32) + (1 << 28)];
const HOT_BYTES: u64 = 64 << 10;

struct Log {
    /// The next position.
    pos: u64,
    /// Where the open segment begins.
    open: u64,
    /// Ended segments.
    segments: Vec<SegmentMeta>,
    /// Below this, runs were dropped.
    dropped: u64,
}

struct Run {
    seed: u64,
    random: fastrand::Rng,
    storage: Arc<dyn Storage>,
    index: Index,
    budget: usize,
    model: Model,
    logs: BTreeMap<LogId, Log>,
    /// The line that is being written.
    live: Path,
    /// Moments to come back to, by seed of their making.
    kept: Vec<Path>,
    /// Base of each disk on the live path, as the position in the main log; versions below go when runs merge.
    base: u64,
    counts: Counts,
}

/// What happened, so that the test can tell that it tested something.
#[derive(Default, Debug)]
struct Counts {
    merges: u32,
    forks: u32,
    jumps: u32,
    drops: u32,
    openings: u32,
    in_data: u32,
}

fn open(storage: &Arc<dyn Storage>, budget: usize) -> Index {
    let (index, lost) = Index::open(Arc::clone(storage), "index", GROUP, CacheBudget::new(budget)).unwrap();
    assert!(lost.is_empty(), "{lost:?}");
    index
}

fn interval(log: LogId, from: u64, to: u64) -> Interval {
    Interval { log, from: Pos(from), to: Pos(to) }
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let storage: Arc<dyn Storage> = Arc::new(SimDevice::new(seed).storage("s"));
        // From "nothing fits" over "always pushing out" to "all fits".
        let budget = [0, 20_000, 200_000, 64 << 20][random.usize(0..4)];
        let index = open(&storage, budget);
        let log = || Log { pos: 100, open: 100, segments: Vec::new(), dropped: 0 };
        let logs = LOGS.into_iter().map(|id| (id, log())).collect();
        let live = Path::new([interval(MAIN, 0, u64::MAX)]);
        Self {
            seed,
            random,
            storage,
            index,
            budget,
            model: Model::default(),
            logs,
            live,
            kept: vec![],
            base: 0,
            counts: Counts::default(),
        }
    }

    /// 1 to 2^bits, small ones as likely as large ones.
    fn some_len(&mut self, bits: u32) -> u64 {
        let bits = self.random.u32(0..=bits);
        self.random.u64(1..=1 << bits)
    }

    fn place(&mut self) -> u64 {
        let hot = HOT[self.random.usize(0..HOT.len())];
        (hot - HOT_BYTES / 2 + self.random.u64(0..HOT_BYTES)) & !511
    }

    fn entry(&mut self, pos: u64) -> Entry {
        let random = self.random.u32(0..100);
        let offset = self.place();
        let (content, len) = match random {
            0..50 => (Content::Data, 4096),
            50..70 => (Content::Data, self.some_len(20)),
            70..80 => (Content::Zero, self.random.u64(1..100_000)),
            80..90 => (Content::Discard, 512 * self.random.u64(1..4096)),
            _ => (Content::Discard, self.some_len(36)),
        };
        // A few places are hit again and again, so that chains get long.
        let offset = if random < 20 { HOT[(random % 3) as usize] } else { offset };
        let disk = DiskOrdinal(self.random.u32(1..=DISKS));
        let crc = if content == Content::Data { self.random.u32(..) } else { 0 };
        Entry { disk, offset, len, pos: Pos(pos), content, crc }
    }

    fn write(&mut self, log: LogId, count: usize) {
        let mut batch = Vec::new();
        for _ in 0..count {
            let step = self.random.u64(1..5000);
            let log = self.logs.get_mut(&log).unwrap();
            let pos = log.pos;
            log.pos += step;
            batch.push(self.entry(pos));
        }
        self.index.insert(log, &batch).unwrap();
        self.model.versions.extend(batch.into_iter().map(|e| (log, e)));
    }

    fn rotate(&mut self, id: LogId) {
        let log = self.logs.get_mut(&id).unwrap();
        if log.pos == log.open {
            return;
        }
        let meta = SegmentMeta {
            epoch: EpochId([1; 16]),
            from: Pos(log.open),
            to: Pos(log.pos),
            first_seq: Seq(log.open),
            last_seq: Seq(log.pos),
        };
        self.index.rotate(id, meta).unwrap();
        log.segments.push(meta);
        log.open = log.pos;
    }

    /// Dies and comes back: what has no run is read from the segments again.
    fn reopen(&mut self) {
        self.counts.openings += 1;
        self.index = open(&self.storage, self.budget);
        for (id, log) in &self.logs {
            let of = |from: Pos, to: Pos| -> Vec<Entry> {
                let all = self.model.versions.iter().filter(|(l, e)| l == id && from <= e.pos && e.pos < to);
                all.map(|(_, e)| *e).collect()
            };
            for meta in &log.segments {
                if meta.to.0 > log.dropped && !self.index.has_run(*id, meta.from, meta.to) {
                    self.index.rebuild(*id, &[*meta], &[], &of(meta.from, meta.to)).unwrap();
                }
            }
            self.index.insert(*id, &of(Pos(log.open), Pos(u64::MAX))).unwrap();
        }
    }

    fn merge(&mut self) {
        let (live, base, random) = (self.live.clone(), self.base, &mut self.random);
        let above = live.above(MAIN, Pos(base)).unwrap_or_else(|| live.clone());
        // Below the base on its own path; kept moments are above their own anchors, which they keep.
        let kept = self.kept.clone();
        let keep = |log: LogId, e: &Entry| {
            let gone = live.rank(log, e.pos).is_some() && above.rank(log, e.pos).is_none();
            !gone || kept.iter().any(|path| path.rank(log, e.pos).is_some())
        };
        for _ in 0..random.u32(1..8) {
            match self.index.merge_step(random.usize(1..200), &keep).unwrap() {
                MergeProgress::Idle => break,
                MergeProgress::Working => {}
                MergeProgress::Done => self.counts.merges += 1,
            }
        }
    }

    /// Goes back to an earlier moment of the live path and writes on from there.
    fn fork(&mut self) {
        let head = self.logs[&MAIN].pos;
        let at = self.random.u64(self.base.max(100)..=head);
        let Some(before) = self.live.until(MAIN, Pos(at)).filter(|p| p.above(MAIN, Pos(self.base)).is_some())
        else {
            return;
        };
        self.rotate(MAIN);
        let ended = self.live.until(MAIN, Pos(head)).and_then(|path| path.above(MAIN, Pos(self.base)));
        self.kept.extend(ended);
        let open = interval(MAIN, head, u64::MAX);
        self.live = Path::new(before.intervals().iter().copied().chain([open]));
        self.counts.forks += 1;
    }

    /// Takes what staging has collected into the live path.
    fn jump(&mut self) {
        let head = self.logs[&MAIN].pos;
        let from =
            self.live.intervals().iter().filter(|i| i.log == STAGING).map(|i| i.to.0).max().unwrap_or(0);
        let Some(before) =
            self.live.until(MAIN, Pos(head)).filter(|p| p.above(MAIN, Pos(self.base)).is_some())
        else {
            return;
        };
        self.rotate(STAGING);
        let staged = interval(STAGING, from, self.logs[&STAGING].pos);
        let open = interval(MAIN, head, u64::MAX);
        self.live = Path::new(before.intervals().iter().copied().chain([staged, open]));
        self.counts.jumps += 1;
    }

    /// Any intervals in any order: rank decides, positions don't.
    fn strange_path(&mut self) -> Path {
        let mut edges: Vec<u64> = (0..6).map(|_| self.random.u64(0..=self.logs[&MAIN].pos)).collect();
        edges.sort_unstable();
        let mut list: Vec<Interval> = edges.chunks(2).map(|e| interval(MAIN, e[0], e[1])).collect();
        list.push(interval(STAGING, 0, self.random.u64(0..=self.logs[&STAGING].pos)));
        self.random.shuffle(&mut list);
        Path::new(list)
    }

    fn check(&mut self, path: &Path) {
        let disk = DiskOrdinal(self.random.u32(1..=DISKS));
        let offset = self.place();
        let len = self.some_len(22);
        let got = self.index.lookup(path, disk, offset, len).unwrap();
        let want = self.model.lookup(path, disk, offset, len);
        self.counts.in_data += want.iter().filter(|e| e.payload_at().is_some()).count() as u32;
        assert_eq!(got, want, "seed {}: disk {disk} {offset}+{len} on {path:?}", self.seed);
        if self.random.u32(0..10) == 0 {
            let end = offset + self.some_len(40);
            let got: Vec<Extent> =
                self.index.scan(path, disk, offset, end).unwrap().collect::<Result<_, _>>().unwrap();
            let mut want = self.model.lookup(path, disk, offset, end - offset);
            want.retain(|e| e.source != Source::Below);
            assert_eq!(got, want, "seed {}: scan of disk {disk} {offset}..{end} on {path:?}", self.seed);
        }
    }

    fn step(&mut self) {
        match self.random.u32(0..100) {
            0..40 => {
                let count = self.random.usize(1..12);
                self.write(MAIN, count);
            }
            40..46 => self.write(STAGING, 3),
            46..56 => self.rotate(MAIN),
            56..66 => drop(self.index.seal(LOGS[self.random.usize(0..2)]).unwrap()),
            66..76 => self.merge(),
            76..78 => self.fork(),
            78..80 => self.jump(),
            80..82 => self.reopen(),
            82..84 => {
                let head = self.logs[&MAIN].pos;
                let path = self.live.until(MAIN, Pos(self.random.u64(self.base..=head)));
                self.kept.extend(path.and_then(|path| path.above(MAIN, Pos(self.base))));
            }
            84..86 => {
                // The base goes on; nothing below it is asked for any more, so its runs can go.
                let to = self.random.u64(self.base..=self.logs[&MAIN].pos);
                if self.live.above(MAIN, Pos(to)).is_some() && self.live.rank(MAIN, Pos(to)).is_some() {
                    self.base = to;
                    self.kept.clear();
                    if self.random.bool() && self.live.intervals()[0].to.0 > to {
                        self.index.drop_below(MAIN, Pos(to)).unwrap();
                        self.logs.get_mut(&MAIN).unwrap().dropped = to;
                        self.counts.drops += 1;
                    }
                }
            }
            86..88 => self.index.tidy(),
            _ => {}
        }
        let live = self.live.above(MAIN, Pos(self.base)).unwrap();
        self.check(&live);
        for _ in 0..2 {
            if let Some(at) = (!self.kept.is_empty()).then(|| self.random.usize(0..self.kept.len())) {
                let path = self.kept[at].clone();
                self.check(&path);
            }
        }
        if self.base == 0 {
            let strange = self.strange_path();
            self.check(&strange);
        }
    }
}

fn schedule(seed: u64) -> Counts {
    let mut run = Run::new(seed);
    for _ in 0..run.random.usize(50..600) {
        run.step();
    }
    run.counts
}

fn seeds() -> u64 {
    if std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full") { 3000 } else { 60 }
}

#[test]
fn every_lookup_is_what_the_list_of_all_versions_says() {
    let mut all = Counts::default();
    for counts in (0..seeds()).map(schedule) {
        all.merges += counts.merges;
        all.forks += counts.forks;
        all.jumps += counts.jumps;
        all.drops += counts.drops;
        all.openings += counts.openings;
        all.in_data += counts.in_data;
    }
    println!("{all:?}");
    let least = [all.merges, all.forks, all.jumps, all.drops, all.openings].into_iter().min();
    assert!(least > Some(3) && all.in_data > 10_000, "too little happened: {all:?}");
}

/// A check that can't fail proves nothing: without each rule some seed must be caught.
fn caught(rule: Rule) {
    let mut failed = None;
    without(rule, || {
        failed = (0..100).find(|seed| catch_unwind(AssertUnwindSafe(|| schedule(*seed))).is_err());
    });
    assert!(failed.is_some(), "nothing is noticed without {rule:?}");
}

#[test]
fn without_old_versions_a_schedule_fails() {
    caught(Rule::AllVersions);
}

#[test]
fn without_the_path_filter_a_schedule_fails() {
    caught(Rule::PathFilter);
}

#[test]
fn without_intervals_first_a_schedule_fails() {
    caught(Rule::IntervalFirst);
}

#[test]
fn without_painting_on_insert_a_schedule_fails() {
    caught(Rule::PaintOnInsert);
}
