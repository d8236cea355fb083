//! Decisions, older moments, decisions taken back and commits, while everybody else goes on.
//!
//! A decision takes back what was acknowledged behind its moment. So an acknowledgement carries a generation: that of
//! the decisions that had been made when it came, and none if one was being made meanwhile. Whoever reads demands
//! what was acknowledged in the generation in which the whole read lay.

use super::{BLOCK, BLOCKS, SIZE, WRITERS, keep, next_op, number, real};
use crate::group::tests::model::{id, submit};
use crate::group::tests::space::{DISK, disk};
use crate::group::{Backlog, Care, Gate, Group, Op};
use crate::history::{CommitPoints, Event, RowKind};
use crate::vocab::{EpochId, Kind, Moment, Token};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NUMBERS: u64 = (1 << 40) - 1;

#[derive(Default)]
struct Block {
    sent: AtomicU64,
    /// Number, whether it was a discard (bit 40), generation.
    acked: AtomicU64,
}

struct Crowd {
    group: Arc<Group>,
    blocks: Vec<Block>,
    over: AtomicBool,
    /// Rises when a decision begins and when it has ended.
    decisions: AtomicU64,
    looked: AtomicU64,
    rounds: AtomicU64,
    forks: AtomicU64,
    taken_back: AtomicU64,
}

/// Decisions that were neither committed nor taken back, the lowest moment at which the live line has left what they
/// go back to, and how many lines say so.
fn open_decisions(group: &Group) -> (Vec<EpochId>, Option<Moment>, usize) {
    let events = group.events();
    let mut out = Vec::new();
    for (_, event) in &events {
        match event {
            Event::Epoch { row, own: true } if row.decided() => out.push((row.epoch, row.fork())),
            Event::Committed { .. } => out.clear(),
            Event::Withdrawn { epoch, .. } => out.retain(|(e, _)| e != epoch),
            _ => {}
        }
    }
    let made_at: Vec<Moment> = out.iter().filter_map(|(_, fork)| *fork).collect();
    let fork = if out.is_empty() { None } else { group.lowest_fork(&[], &made_at).unwrap() };
    (out.into_iter().map(|(epoch, _)| epoch).collect(), fork, events.len())
}

fn gone(e: &crate::vocab::Error) -> bool {
    e.kind() == Kind::NotFound
}

impl Crowd {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn write(&self, writer: u64, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        for n in 1.. {
            if self.is_over() {
                break;
            }
            let op = next_op(&mut rng);
            let first = writer * BLOCKS + op.first;
            let mine = &self.blocks[first as usize..(first + op.count) as usize];
            mine.iter().for_each(|b| b.sent.store(n, Ordering::SeqCst));
            let before = self.decisions.load(Ordering::SeqCst);
            match op.submit(&self.group, first, n) {
                Ok(()) => {}
                // Nobody writes while a decision is made, or after one was taken back.
                Err(e) if matches!(e.kind(), Kind::NoSpace | Kind::ReadOnly) => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Err(e) => panic!("a write fails: {e}"),
            }
            if before.is_multiple_of(2) && self.decisions.load(Ordering::SeqCst) == before {
                let acked = ((before / 2) << 41) | (u64::from(op.discard) << 40) | n;
                mine.iter().for_each(|b| b.acked.store(acked, Ordering::SeqCst));
            }
        }
    }

    fn read_head(&self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        while !self.is_over() {
            let count = rng.u64(1..=24);
            let first = rng.u64(..=WRITERS * BLOCKS - count);
            let before = self.decisions.load(Ordering::SeqCst);
            let acked: Vec<u64> = self.blocks.iter().map(|b| b.acked.load(Ordering::SeqCst)).collect();
            let mut bytes = vec![0xee; (count * BLOCK) as usize];
            self.group.read_head(DISK, first * BLOCK, &mut bytes).unwrap();
            let still = before.is_multiple_of(2) && self.decisions.load(Ordering::SeqCst) == before;
            for (at, bytes) in (first..).zip(bytes.chunks(BLOCK as usize)) {
                let found = number(bytes, "the head", at);
                let acked = acked[at as usize];
                let known = still && acked >> 41 == before / 2;
                let (low, discarded) =
                    if known { (acked & NUMBERS, (acked >> 40) & 1 == 1) } else { (0, true) };
                let high = self.blocks[at as usize].sent.load(Ordering::SeqCst);
                let right = if found == 0 {
                    low < high || discarded || high == 0
                } else {
                    low <= found && found <= high
                };
                assert!(right, "block {at} is {found}, between {low} and {high}, discarded {discarded}");
            }
            self.looked.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn image(&self, moment: Moment) -> Option<Vec<u8>> {
        let view = match self.group.open_moment(moment) {
            Err(e) if gone(&e) => return None,
            view => view.unwrap(),
        };
        let mut bytes = vec![0xee; SIZE as usize];
        match self.group.read_moment(&view, DISK, 0, &mut bytes) {
            Err(e) if gone(&e) => return None,
            read => read.unwrap(),
        }
        Some(bytes)
    }

    fn decided<T>(&self, act: impl FnOnce() -> T) -> T {
        self.decisions.fetch_add(1, Ordering::SeqCst);
        let done = act();
        self.decisions.fetch_add(1, Ordering::SeqCst);
        done
    }

    /// What people do, one after the other.
    fn decide(&self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut known: Vec<(Moment, Vec<u8>)> = Vec::new();
        let mut tokens = 0u128;
        let mut token = || {
            tokens += 1;
            Token(tokens.to_le_bytes())
        };
        while !self.is_over() {
            std::thread::sleep(Duration::from_millis(rng.u64(..12)));
            let (open, _, _) = open_decisions(&self.group);
            let writes = matches!(self.group.gate(), Gate::Open { .. });
            match rng.u32(..12) {
                0..4 => {
                    let moment = self.group.head();
                    if let Some(image) = self.image(moment) {
                        known.push((moment, image));
                    }
                    if known.len() > 6 {
                        known.remove(0);
                    }
                }
                4..7 if writes && !known.is_empty() => {
                    let (moment, image) = &known[rng.usize(..known.len())];
                    let decide = || self.group.decide(*moment, RowKind::Failover, token(), None);
                    match self.decided(decide) {
                        Err(e) if gone(&e) => continue,
                        decided => _ = decided.unwrap(),
                    }
                    self.forks.fetch_add(1, Ordering::Relaxed);
                    let shown = self.image(*moment);
                    assert!(
                        shown.is_none_or(|shown| shown == *image),
                        "moment {moment} has changed by a decision"
                    );
                }
                7 if writes && !open.is_empty() => self.decided(|| {
                    self.group.withdraw(&open, token()).unwrap();
                    std::thread::sleep(Duration::from_millis(rng.u64(..3)));
                    self.group.decide(self.group.head(), RowKind::Failover, token(), None).unwrap();
                    self.taken_back.fetch_add(1, Ordering::Relaxed);
                }),
                8 if !open.is_empty() => {
                    let epoch = open[open.len() - 1];
                    let event = Event::Committed { op: token(), epoch, points: CommitPoints::Keep };
                    self.group.note(event).unwrap();
                }
                _ => {
                    let Some((moment, image)) = known.first() else { continue };
                    let shown = self.image(*moment);
                    if let Some(shown) = shown.filter(|shown| shown != image) {
                        let at = (0..image.len()).find(|at| image[*at] != shown[*at]).unwrap();
                        let few = |image: &[u8]| image[at..(at + 16).min(image.len())].to_vec();
                        let (was, is) = (few(image), few(&shown));
                        let layout = self.group.layout();
                        panic!("moment {moment} has changed at {at}: {was:?} {is:?}\n{layout}");
                    }
                }
            }
        }
    }

    fn care(&self) -> Care {
        let (_, fork, lines) = open_decisions(&self.group);
        Care {
            sync_ns: 5_000_000,
            window_ns: None,
            pinned: false,
            fork,
            allowance: Some(64 << 20),
            lines: Some(lines),
            backlog: Backlog::NONE,
        }
    }
}

/// Says what happened: looks, rounds, decisions, decisions taken back.
pub(super) fn once(seed: u64, end: Instant) -> [u64; 4] {
    let dir = tempfile::tempdir().unwrap();
    let group = Group::create(real(dir.path(), 0), id()).unwrap();
    disk(&group, SIZE).unwrap();
    let crowd = Crowd {
        group,
        blocks: (0..WRITERS * BLOCKS).map(|_| Block::default()).collect(),
        over: AtomicBool::new(false),
        decisions: AtomicU64::new(0),
        looked: AtomicU64::new(0),
        rounds: AtomicU64::new(0),
        forks: AtomicU64::new(0),
        taken_back: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        let crowd = &crowd;
        let threads = [
            scope.spawn(move || crowd.write(0, seed * 10)),
            scope.spawn(move || crowd.write(1, seed * 10 + 1)),
            scope.spawn(move || crowd.write(2, seed * 10 + 2)),
            scope.spawn(move || crowd.read_head(seed * 10 + 3)),
            scope.spawn(move || crowd.decide(seed * 10 + 4)),
            scope.spawn(move || {
                keep(&crowd.group, seed * 10 + 5, &crowd.over, &crowd.rounds, || crowd.care())
            }),
        ];
        while Instant::now() < end && threads.iter().all(|t| !t.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        crowd.over.store(true, Ordering::Relaxed);
    });
    let Crowd { group, looked, rounds, forks, taken_back, .. } = crowd;
    if !matches!(group.gate(), Gate::Open { .. }) {
        group.thaw();
    }
    let data = [7; 512];
    submit(&group, DISK, Op::Write { offset: SIZE, data: &data }, true).unwrap();
    let mut bytes = vec![0xee; SIZE as usize];
    group.read_head(DISK, 0, &mut bytes).unwrap();
    let head = group.head();
    drop(group);
    let (group, report) = Group::open(real(dir.path(), 0), id()).unwrap();
    assert_eq!(report.damage, None);
    let mut again = vec![0xee; SIZE as usize];
    group.read_head(DISK, 0, &mut again).unwrap();
    assert!(
        again == bytes && group.head() == head,
        "the head is another one after the group was opened anew"
    );
    [looked, rounds, forks, taken_back].map(AtomicU64::into_inner)
}
