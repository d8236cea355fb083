//! A group as it is used: writers, flushes, readers of the head and of moments, rounds and checkpoints, each in threads of
//! their own, on real files. What the simulations can't show is shown here: two of them at one instant.
//!
//! Each block of a disk has one writer, who puts rising numbers into it. So whoever reads knows what may be found: no
//! number below the last that was acknowledged before the read, none above the last that was sent before its end, and
//! one number all over the block. `forks`: with decisions. `standby`: with a second group that follows.

mod forks;
mod standby;

use super::model::{id, parts, submit};
use super::site::store;
use super::space::{DISK, disk};
use crate::group::{Backlog, Care, Group, GroupParts, Op, Upkeep};
use crate::seam::{Clock, DirStorage, Rooms, SimDevice, Storage, SystemClock, SystemEntropy};
use crate::vocab::{Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BLOCK: u64 = 4096;
const WRITERS: u64 = 3;
/// Blocks of each writer, on each disk.
const BLOCKS: u64 = 96;
const SIZE: u64 = WRITERS * BLOCKS * BLOCK;
/// A block that was discarded and has not been written since reads as zeros: its number has this bit.
const DISCARDED: u64 = 1 << 63;

const CARE: Care = Care {
    sync_ns: 5_000_000,
    window_ns: None,
    pinned: false,
    fork: None,
    allowance: Some(64 << 20),
    lines: None,
    backlog: Backlog::NONE,
};

#[derive(Default)]
struct Block {
    sent: AtomicU64,
    acked: AtomicU64,
}

struct Bench {
    group: Arc<Group>,
    blocks: Vec<Block>,
    over: AtomicBool,
    looked: AtomicU64,
    rounds: AtomicU64,
}

fn real(dir: &std::path::Path, site: usize) -> GroupParts {
    let storage: Arc<dyn Storage> = Arc::new(DirStorage::open(dir).unwrap());
    GroupParts {
        store: storage.clone(),
        journal: storage.clone(),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        rooms: Rooms::of_one(storage),
        store_id: store(site),
        segment_bytes: (256 << 10, 1 << 20),
        ..parts(&SimDevice::new(1), 1)
    }
}

/// The number of a block; a block of several numbers is torn.
fn number(bytes: &[u8], what: &str, at: u64) -> u64 {
    let first = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let whole = bytes.chunks(8).all(|part| part == first.to_le_bytes());
    assert!(whole, "{what}: block {at} has several numbers");
    first
}

fn plain(number: u64) -> u64 {
    number & !DISCARDED
}

impl Bench {
    /// One writer: numbers rise; a discard has a number too, and reads as zero.
    fn write(&self, writer: u64, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut next = 1;
        while !self.over.load(Ordering::Relaxed) {
            let op = next_op(&mut rng);
            let first = writer * BLOCKS + op.first;
            let mine = &self.blocks[first as usize..(first + op.count) as usize];
            let sent = if op.discard { next | DISCARDED } else { next };
            mine.iter().for_each(|b| b.sent.store(sent, Ordering::SeqCst));
            op.submit(&self.group, first, next).unwrap();
            mine.iter().for_each(|b| b.acked.store(sent, Ordering::SeqCst));
            next += 1;
        }
    }

    fn acked(&self) -> Vec<u64> {
        self.blocks.iter().map(|b| b.acked.load(Ordering::SeqCst)).collect()
    }

    /// What may be found where `acked` is what was acknowledged before.
    fn check(&self, what: &str, acked: &[u64], first: u64, bytes: &[u8]) {
        for (at, bytes) in (first..).zip(bytes.chunks(BLOCK as usize)) {
            let found = number(bytes, what, at);
            let (low, high) = (acked[at as usize], self.blocks[at as usize].sent.load(Ordering::SeqCst));
            // Zeros: as it was made, or a discard between the two.
            let zeros = low == 0 || plain(low) < plain(high) || low & DISCARDED != 0;
            let right = if found == 0 { zeros } else { plain(low) <= found && found <= plain(high) };
            assert!(right, "{what}: block {at} is {found}, between {low:#x} and {high:#x}");
        }
        self.looked.fetch_add(1, Ordering::Relaxed);
    }

    fn read_head(&self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        while !self.over.load(Ordering::Relaxed) {
            let count = rng.u64(1..=24);
            let first = rng.u64(..=WRITERS * BLOCKS - count);
            let acked = self.acked();
            let mut bytes = vec![0xee; (count * BLOCK) as usize];
            if let Err(e) = self.group.read_head(DISK, first * BLOCK, &mut bytes) {
                let state = || {
                    let live = self.group.live.read().clone();
                    let f = live.files.get(&DISK).map(|f| (f.path.intervals().to_vec(), f.base.is_some()));
                    let core = self.group.core.lock();
                    let segs: Vec<_> = self.group.log.segments().iter().map(|s| (s.start, s.end)).collect();
                    eprintln!(
                        "live {f:?} of {:?} bases {:?} spans {:?} segments {segs:?}",
                        live.path.intervals(),
                        core.bases,
                        core.spans.0
                    );
                };
                eprintln!("{e}");
                state();
                std::thread::sleep(Duration::from_millis(300));
                let again = self.group.read_head(DISK, first * BLOCK, &mut bytes);
                eprintln!("again: {again:?}");
                state();
                panic!("read failed");
            }
            self.check("the head", &acked, first, &bytes);
        }
    }

    /// A moment stays what it was until the base passes it, and then it says so.
    fn read_moments(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let acked = self.acked();
            let view = match self.group.open_moment(self.group.head()) {
                Err(e) if e.kind() == Kind::NotFound => continue,
                view => view.unwrap(),
            };
            let mut before: Option<Vec<u8>> = None;
            for _ in 0..6 {
                let mut bytes = vec![0xee; SIZE as usize];
                match self.group.read_moment(&view, DISK, 0, &mut bytes) {
                    Err(e) if e.kind() == Kind::NotFound => break,
                    read => read.unwrap(),
                }
                match &before {
                    None => self.check("a moment", &acked, 0, &bytes),
                    Some(before) => assert!(*before == bytes, "moment {} has changed", view.moment),
                }
                before = Some(bytes);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// What a writer does next.
struct NextOp {
    /// Blocks, from one of the writer's own on.
    first: u64,
    count: u64,
    discard: bool,
    sync: bool,
}

fn next_op(rng: &mut fastrand::Rng) -> NextOp {
    let count = rng.u64(1..=12);
    let first = rng.u64(..=BLOCKS - count);
    NextOp { first, count, discard: rng.u32(..10) == 0, sync: rng.u32(..40) == 0 }
}

impl NextOp {
    /// On a group, where the first block lies at `first`: these blocks get this number, or are discarded.
    fn submit(&self, group: &Group, first: u64, number: u64) -> Result<()> {
        let data: Vec<u8> =
            number.to_le_bytes().into_iter().cycle().take((self.count * BLOCK) as usize).collect();
        let op = if self.discard {
            Op::Discard { offset: first * BLOCK, length: self.count * BLOCK }
        } else {
            Op::Write { offset: first * BLOCK, data: &data }
        };
        submit(group, DISK, op, self.sync)
    }
}

/// All that upkeep does, more often.
fn keep(group: &Group, seed: u64, over: &AtomicBool, rounds: &AtomicU64, care: impl Fn() -> Care) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut state = Upkeep::default();
    while !over.load(Ordering::Relaxed) {
        let care = care();
        let done = match rng.u32(..8) {
            0 => group.checkpoint(),
            1..=3 => {
                let window = [None, Some(20_000_000), Some(100_000_000)][rng.usize(..3)];
                let done = group.round_with(Care { window_ns: window, ..care });
                done.map(|done| _ = rounds.fetch_add(u64::from(done.files > 0), Ordering::Relaxed))
            }
            4 => group.sync().map(|_| ()),
            5 => {
                std::thread::sleep(Duration::from_millis(rng.u64(..10)));
                Ok(())
            }
            _ => group.keep(&mut state, care, SystemClock.monotonic_ns()).map(|_| ()),
        };
        match done {
            // The moment that pins the base has left the path with a decision.
            Err(e) if care.lines.is_some() && e.kind() == Kind::NotFound => {}
            done => done.unwrap_or_else(|e| panic!("upkeep: {e}\n{}", group.layout())),
        }
    }
}

/// Runs of some seconds until the time is over; what they say is summed up.
fn runs<const N: usize>(short: u64, one: u64, run: impl Fn(u64, Instant) -> [u64; N]) -> [u64; N] {
    let seconds = if super::is_full() { 600 } else { short };
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut sums = [0; N];
    for run_seed in seed.. {
        if Instant::now() >= end {
            break;
        }
        eprintln!("seed {run_seed}");
        let said = run(run_seed, end.min(Instant::now() + Duration::from_secs(one)));
        sums.iter_mut().zip(said).for_each(|(sum, said)| *sum += said);
    }
    sums
}

#[test]
fn everybody_at_once() {
    let [looked, rounds] = runs(3, 2, once);
    assert!(looked > 10 && rounds > 0, "{looked} looks, {rounds} rounds");
}

/// With the full budget only: see `Next` in `docs/status.md`.
#[test]
fn everybody_and_decisions_at_once() {
    if !super::is_full() {
        return;
    }
    let [looked, rounds, forks, taken_back] = runs(3, 3, forks::once);
    println!("{looked} looks, {rounds} rounds, {forks} decisions, {taken_back} taken back");
    assert!(looked > 10 && rounds > 0 && forks > 0, "{looked}, {rounds}, {forks}");
}

#[test]
fn everybody_and_a_standby_at_once() {
    let [source, target, rounds, cuts, copies, failovers] = runs(3, 3, standby::once);
    println!(
        "{source} looks at the source, {target} at the standby, {rounds} rounds, {cuts} cuts, {copies} copies over \
         an image, {failovers} failovers"
    );
    assert!(source > 10 && target > 10 && rounds > 0, "{source}, {target}, {rounds}");
}

/// Some seconds of it; then all blocks are what was acknowledged, also after the group was opened anew.
fn once(seed: u64, end: Instant) -> [u64; 2] {
    let dir = tempfile::tempdir().unwrap();
    let group = Group::create(real(dir.path(), 0), id()).unwrap();
    disk(&group, SIZE).unwrap();
    let blocks = (0..WRITERS * BLOCKS).map(|_| Block::default()).collect();
    let bench = Bench {
        group,
        blocks,
        over: AtomicBool::new(false),
        looked: AtomicU64::new(0),
        rounds: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        let bench = &bench;
        let threads: Vec<_> = [
            scope.spawn(move || bench.write(0, seed * 10)),
            scope.spawn(move || bench.write(1, seed * 10 + 1)),
            scope.spawn(move || bench.write(2, seed * 10 + 2)),
            scope.spawn(move || bench.read_head(seed * 10 + 3)),
            scope.spawn(move || bench.read_moments()),
            scope.spawn(move || keep(&bench.group, seed * 10 + 4, &bench.over, &bench.rounds, || CARE)),
        ]
        .into();
        while Instant::now() < end && threads.iter().all(|t| !t.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        bench.over.store(true, Ordering::Relaxed);
    });
    let acked = bench.acked();
    let mut bytes = vec![0xee; SIZE as usize];
    bench.group.read_head(DISK, 0, &mut bytes).unwrap();
    bench.check("the end", &acked, 0, &bytes);
    let Bench { group, looked, rounds, .. } = bench;
    drop(group);
    let (group, report) = Group::open(real(dir.path(), 0), id()).unwrap();
    assert_eq!(report.damage, None);
    let mut again = vec![0xee; SIZE as usize];
    group.read_head(DISK, 0, &mut again).unwrap();
    assert!(again == bytes, "the head has other bytes after it was opened anew");
    [looked, rounds].map(AtomicU64::into_inner)
}
