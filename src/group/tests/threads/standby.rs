//! A group that is written, and a second one that follows it and is copied to meanwhile; both have readers, rounds and
//! checkpoints. At the end the second one takes over, or both come to one moment.
//!
//! What the writers do follows from their seeds. So whoever reads a head knows more than bounds: of each writer it has
//! all operations up to one of them, and nothing of those behind it, and no head is older than the one before it.

use super::{BLOCK, BLOCKS, SIZE, WRITERS, keep, next_op, number, real};
use crate::exchange::{Settings, wire};
use crate::group::tests::model::{id, submit};
use crate::group::tests::site::store;
use crate::group::tests::space::{DISK, disk};
use crate::group::{Backlog, Care, Driver, Gate, Group, Op, Output};
use crate::history::{Event, Operation, RowKind};
use crate::seam::{Clock, SystemClock};
use crate::vocab::{Kind, Token};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const OP: Token = Token([9; 16]);

struct Pair {
    groups: [Arc<Group>; 2],
    seed: u64,
    /// Operations that each writer has begun.
    sent: [AtomicU64; WRITERS as usize],
    /// No more writes; and no more of anything.
    over: AtomicBool,
    ended: AtomicBool,
    looked: [AtomicU64; 2],
    rounds: AtomicU64,
    taken_over: AtomicBool,
}

/// What one writer's blocks show after so many of its operations.
struct Replay {
    rng: fastrand::Rng,
    done: u64,
    blocks: Vec<u64>,
}

impl Replay {
    fn new(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), done: 0, blocks: vec![0; BLOCKS as usize] }
    }

    fn comes_to(&mut self, shown: &[u64], sent: u64) -> bool {
        while self.blocks != shown {
            if self.done >= sent {
                return false;
            }
            let op = next_op(&mut self.rng);
            self.done += 1;
            let value = if op.discard { 0 } else { self.done };
            self.blocks[op.first as usize..(op.first + op.count) as usize].fill(value);
        }
        true
    }
}

impl Pair {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn writer_seed(&self, writer: u64) -> u64 {
        self.seed * 100 + writer
    }

    fn write(&self, writer: u64) {
        let mut rng = fastrand::Rng::with_seed(self.writer_seed(writer));
        for n in 1.. {
            if self.is_over() {
                break;
            }
            let op = next_op(&mut rng);
            self.sent[writer as usize].store(n, Ordering::SeqCst);
            match op.submit(&self.groups[0], writer * BLOCKS + op.first, n) {
                Err(_) if self.taken_over.load(Ordering::SeqCst) => break,
                done => done.unwrap(),
            }
        }
    }

    fn image(&self, site: usize) -> Option<Vec<u8>> {
        let group = &self.groups[site];
        if !group.has_image() {
            return None;
        }
        let view = match group.open_head() {
            Err(e) if e.kind() == Kind::NotFound => return None,
            view => view.unwrap(),
        };
        // The second knows the disk a moment before it knows its size.
        view.names.files.get(&DISK).filter(|f| f.size >= SIZE)?;
        let mut bytes = vec![0xee; SIZE as usize];
        match group.read_moment(&view, DISK, 0, &mut bytes) {
            Err(e) if e.kind() == Kind::NotFound => return None,
            read => read.unwrap(),
        }
        Some(bytes)
    }

    fn read(&self, site: usize) {
        let mut replays: Vec<Replay> = (0..WRITERS).map(|w| Replay::new(self.writer_seed(w))).collect();
        while !self.ended.load(Ordering::Relaxed) {
            match self.image(site) {
                Some(bytes) => self.check(site, &mut replays, &bytes),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn check(&self, site: usize, replays: &mut [Replay], bytes: &[u8]) {
        let shown: Vec<u64> =
            (0..).zip(bytes.chunks(BLOCK as usize)).map(|(at, b)| number(b, "a head", at)).collect();
        for (writer, shown) in shown.chunks(BLOCKS as usize).enumerate() {
            let before = replays[writer].done;
            let sent = self.sent[writer].load(Ordering::SeqCst);
            let right = replays[writer].comes_to(shown, sent);
            assert!(
                right,
                "site {site} at {}: writer {writer} never had this between operations {before} and {sent}: {shown:?}\n{}",
                self.groups[site].head(),
                self.groups[site].layout()
            );
        }
        self.looked[site].fetch_add(1, Ordering::Relaxed);
    }

    fn care(&self, site: usize) -> Care {
        let (lines, pinned) = self.groups[site].with_events(|events| {
            let decided = |e: &Event| matches!(e, Event::Epoch { row, own: true } if row.decided());
            (events.len(), events.iter().any(|(_, e)| decided(e)))
        });
        Care {
            sync_ns: 5_000_000,
            window_ns: None,
            pinned,
            fork: None,
            allowance: Some(64 << 20),
            lines: Some(lines),
            backlog: Backlog::NONE,
        }
    }
}

/// The connection, and the side of each group.
struct Link<'a> {
    pair: &'a Pair,
    rng: fastrand::Rng,
    drivers: [Driver; 2],
    inboxes: [VecDeque<Vec<u8>>; 2],
    timers: [u64; 2],
    linked: bool,
    /// What closed the last connection.
    closed: String,
    cuts: u64,
}

fn now() -> u64 {
    SystemClock.monotonic_ns()
}

impl Link<'_> {
    fn handle(&mut self, site: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(frame) if self.linked => {
                    self.inboxes[1 - site].push_back(wire::encode(&frame, Some(1)).unwrap());
                }
                Output::Timer(at) => self.timers[site] = at,
                Output::HandOver(op) => {
                    let out = self.drivers[site].hand_over(now(), op, Ok(()));
                    self.handle(site, out);
                }
                Output::Close { name, text } => {
                    assert!(
                        !["damaged", "corruption"].contains(&name),
                        "site {site} closes: {name}: {text}\n{}",
                        self.pair.groups[site].layout()
                    );
                    self.closed = format!("site {site}: {name}: {text}");
                    self.cut();
                }
                _ => {}
            }
        }
    }

    fn cut(&mut self) {
        self.linked = false;
        for site in 0..2 {
            self.inboxes[site].clear();
            let out = self.drivers[site].disconnected(now());
            self.handle(site, out);
        }
    }

    fn turn(&mut self) {
        if !self.linked {
            self.linked = true;
            for site in 0..2 {
                let out = self.drivers[site].connected(now());
                self.handle(site, out);
            }
        }
        let mut idle = true;
        for site in 0..2 {
            if let Some(bytes) = self.inboxes[site].pop_front() {
                let (head, body) = bytes.split_first_chunk().unwrap();
                let frame = wire::FrameHeader::decode(head).and_then(|h| wire::decode(&h, body)).unwrap();
                let out = self.drivers[site].received(now(), frame);
                self.handle(site, out);
                idle = false;
            }
            if self.timers[site] <= now() {
                self.timers[site] = u64::MAX;
                let out = self.drivers[site].timer(now());
                self.handle(site, out);
            }
            let out = self.drivers[site].progress(now());
            self.handle(site, out);
        }
        if idle {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// While the sites are apart the source may forget what the other lacks: then a copy follows.
    fn apart(&mut self) {
        self.cut();
        self.cuts += 1;
        if self.rng.bool() {
            self.pair.groups[0].set_pin(None);
            std::thread::sleep(Duration::from_millis(self.rng.u64(10..120)));
        }
    }

    fn take_over(&mut self) {
        let target = &self.pair.groups[1];
        let moment = target.head();
        let intent = Event::Intent {
            op: OP,
            operation: Operation::Failover,
            moment: Some(moment),
            peer: Some(store(0)),
        };
        target.note(intent).unwrap();
        self.pair.taken_over.store(true, Ordering::SeqCst);
        target.decide(moment, RowKind::Failover, OP, None).unwrap();
        let out = self.drivers[1].roles_changed(now());
        self.handle(1, out);
        for n in 0..40 {
            submit(target, DISK, Op::Write { offset: SIZE + n * 512, data: &[7; 512] }, n % 8 == 0).unwrap();
            self.turn();
        }
    }

    fn run(&mut self, end: Instant) {
        let (a, b) = (&self.pair.groups[0], &self.pair.groups[1]);
        while Instant::now() < end && !self.pair.is_over() {
            self.turn();
            if self.rng.u32(..250) == 0 {
                self.apart();
            }
        }
        if self.rng.bool() && b.has_image() {
            self.take_over();
            let until = Instant::now() + Duration::from_secs(20);
            while a.gate() != Gate::Frozen && Instant::now() < until {
                self.turn();
            }
            assert_eq!(a.gate(), Gate::Frozen, "the old source was never fenced; {}", self.closed);
        }
        self.pair.over.store(true, Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(30);
        while !self.pair.taken_over.load(Ordering::SeqCst) && (!b.has_image() || a.head() != b.head()) {
            self.turn();
            assert!(Instant::now() < until, "{} and {}: {}", a.head(), b.head(), self.closed);
        }
    }
}

/// Says what happened: looks at the source and at the standby, rounds, cuts, copies over an image, failovers.
pub(super) fn once(seed: u64, end: Instant) -> [u64; 6] {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let source = Group::create(real(dirs[0].path(), 0), id()).unwrap();
    disk(&source, SIZE).unwrap();
    let target = Group::create_target(real(dirs[1].path(), 1), id()).unwrap();
    let pair = Pair {
        groups: [source, target],
        seed,
        sent: Default::default(),
        over: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        looked: Default::default(),
        rounds: AtomicU64::new(0),
        taken_over: AtomicBool::new(false),
    };
    let cuts = std::thread::scope(|scope| {
        let pair = &pair;
        let mut threads: Vec<_> = (0..WRITERS).map(|w| scope.spawn(move || pair.write(w))).collect();
        for site in 0..2 {
            threads.push(scope.spawn(move || pair.read(site)));
            let group = &pair.groups[site];
            threads.push(scope.spawn(move || {
                keep(group, seed * 10 + site as u64, &pair.ended, &pair.rounds, || pair.care(site));
            }));
        }
        let link = scope.spawn(move || {
            let driver = |site: usize| {
                let group = &pair.groups[site];
                let settings = Driver::settings(group, store(1 - site), None);
                Driver::new(
                    group.clone(),
                    Settings { fill_bytes: 64 << 10, window_bytes: 1 << 20, ..settings },
                )
            };
            let mut link = Link {
                pair,
                rng: fastrand::Rng::with_seed(seed),
                drivers: [driver(0), driver(1)],
                inboxes: Default::default(),
                timers: [u64::MAX; 2],
                linked: false,
                closed: String::new(),
                cuts: 0,
            };
            link.run(end);
            link.cuts
        });
        while !link.is_finished() {
            let failed = threads.iter().any(|t| t.is_finished()) && !pair.is_over();
            // A thread that has failed says why once all have ended.
            if failed && !pair.taken_over.load(Ordering::SeqCst) {
                pair.over.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        pair.ended.store(true, Ordering::Relaxed);
        pair.over.store(true, Ordering::Relaxed);
        link.join().unwrap()
    });
    let took_over = pair.taken_over.load(Ordering::SeqCst);
    let images = [0, 1].map(|site| pair.image(site).unwrap());
    if !took_over {
        assert!(images[0] == images[1], "both stand at one moment, with other bytes");
    }
    let copies = pair.groups[1].jumps().values().filter(|from| from.is_some()).count() as u64;
    let Pair { groups, looked, rounds, .. } = pair;
    let heads = groups.map(|group| group.head());
    for site in 0..2 {
        let (group, report) = Group::open(real(dirs[site].path(), site), id()).unwrap();
        assert_eq!(report.damage, None);
        let mut again = vec![0xee; SIZE as usize];
        group.read_head(DISK, 0, &mut again).unwrap();
        assert!(again == images[site], "site {site}: other bytes after it was opened anew");
        assert_eq!(group.head(), heads[site], "site {site} after it was opened anew");
    }
    let [at_source, at_target] = looked.map(AtomicU64::into_inner);
    [at_source, at_target, rounds.into_inner(), cuts, copies, u64::from(took_over)]
}
