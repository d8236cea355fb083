//! A group as it is used: writers, flushes, readers of the head and of moments, rounds and checkpoints, each in threads of
//! their own, on real files. What the simulations can't show is shown here: two of them at one instant.
//!
//! Each block of a disk has one writer, who puts rising numbers into it. So whoever reads knows what may be found: no
//! number below the last that was acknowledged before the read, none above the last that was sent before its end, and
//! one number all over the block.

use super::model::{id, parts, submit};
use super::space::{DISK, disk};
use crate::group::{Care, Group, GroupParts, Op, Upkeep};
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

fn real(dir: &std::path::Path) -> GroupParts {
    let storage: Arc<dyn Storage> = Arc::new(DirStorage::open(dir).unwrap());
    GroupParts {
        store: storage.clone(),
        journal: storage.clone(),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        rooms: Rooms::of_one(storage),
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
    fn submit(&self, op: Op<'_>, sync: bool) -> Result<()> {
        submit(&self.group, DISK, op, sync)
    }

    /// One writer: numbers rise; a discard has a number too, and reads as zero.
    fn write(&self, writer: u64, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut next = 1;
        while !self.over.load(Ordering::Relaxed) {
            let count = rng.u64(1..=12);
            let first = writer * BLOCKS + rng.u64(..=BLOCKS - count);
            let mine = &self.blocks[first as usize..(first + count) as usize];
            let discard = rng.u32(..10) == 0;
            let sent = if discard { next | DISCARDED } else { next };
            mine.iter().for_each(|b| b.sent.store(sent, Ordering::SeqCst));
            let data: Vec<u8> =
                next.to_le_bytes().into_iter().cycle().take((count * BLOCK) as usize).collect();
            let op = if discard {
                Op::Discard { offset: first * BLOCK, length: count * BLOCK }
            } else {
                Op::Write { offset: first * BLOCK, data: &data }
            };
            self.submit(op, rng.u32(..40) == 0).unwrap();
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

    /// All that a driver does, more often.
    fn keep(&self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut state = Upkeep::default();
        let care = Care {
            sync_ns: 5_000_000,
            window_ns: None,
            pinned: false,
            fork: None,
            allowance: Some(64 << 20),
            lines: None,
        };
        while !self.over.load(Ordering::Relaxed) {
            match rng.u32(..8) {
                0 => self.group.checkpoint().unwrap(),
                1..=3 => {
                    let window = [None, Some(20_000_000), Some(100_000_000)][rng.usize(..3)];
                    let done = self.group.round_with(Care { window_ns: window, ..care }).unwrap();
                    self.rounds.fetch_add(u64::from(done.files > 0), Ordering::Relaxed);
                }
                4 => drop(self.group.sync().map(|_| ())),
                5 => std::thread::sleep(Duration::from_millis(rng.u64(..10))),
                _ => {
                    self.group.keep(&mut state, care, SystemClock.monotonic_ns()).unwrap();
                }
            }
        }
    }
}

#[test]
fn everybody_at_once() {
    let full = super::is_full();
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let end = Instant::now() + Duration::from_secs(if full { 300 } else { 3 });
    for run in seed.. {
        if Instant::now() >= end {
            break;
        }
        once(run, end.min(Instant::now() + Duration::from_secs(2)));
    }
}

/// Some seconds of it; then all blocks are what was acknowledged, also after the group was opened anew.
fn once(seed: u64, end: Instant) {
    let dir = tempfile::tempdir().unwrap();
    let group = Group::create(real(dir.path()), id()).unwrap();
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
            scope.spawn(move || bench.keep(seed * 10 + 4)),
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
    assert!(bench.looked.load(Ordering::Relaxed) > 10, "nobody looked");
    assert!(bench.rounds.load(Ordering::Relaxed) > 0, "no round moved a base");
    let Bench { group, .. } = bench;
    drop(group);
    let (group, report) = Group::open(real(dir.path()), id()).unwrap();
    assert_eq!(report.damage, None);
    let mut again = vec![0xee; SIZE as usize];
    group.read_head(DISK, 0, &mut again).unwrap();
    assert!(again == bytes, "the head has other bytes after it was opened anew");
}
