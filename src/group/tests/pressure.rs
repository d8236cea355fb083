//! A journal that nears its allowance: the window gets shorter, a failover that isn't committed stays whole, and the
//! writer is told last.

use super::model::{id, moment_image, parts, submit};
use super::space::{DISK, disk};
use crate::group::{Backlog, Care, Group, GroupParts, Op, Upkeep};
use crate::history::RowKind;
use crate::journal::LEFT_OUT;
use crate::seam::{SimClock, SimDevice};
use crate::vocab::{Kind, Moment, Token};
use std::sync::Arc;

const ALLOWANCE: u64 = 1 << 20;

struct World {
    group: Arc<Group>,
    clock: Arc<SimClock>,
    state: Upkeep,
    care: Care,
    wrote: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self::with(seed, (96 << 10, 96 << 10))
    }

    fn with(seed: u64, segment_bytes: (u64, u64)) -> Self {
        let device = SimDevice::new(seed);
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let of_site = GroupParts { clock: clock.clone(), segment_bytes, ..parts(&device, seed) };
        let group = Group::create(of_site, id()).unwrap();
        disk(&group, 64 << 10).unwrap();
        let care = Care {
            sync_ns: 1,
            window_ns: Some(86_400_000_000_000),
            pinned: false,
            fork: None,
            allowance: Some(ALLOWANCE),
            lines: None,
            backlog: Backlog::NONE,
        };
        Self { group, clock, state: Upkeep::default(), care, wrote: 0 }
    }

    fn keep(&mut self) {
        self.clock.advance(1_000_000_000);
        let now = crate::seam::Clock::monotonic_ns(&*self.clock);
        self.group.keep(&mut self.state, self.care, now).unwrap();
    }

    /// Writes so many records, with upkeep in between; stops where one is refused. Says how many there were.
    fn write(&mut self, count: u64) -> u64 {
        for n in 0..count {
            let (offset, tag) = (self.wrote % 16 * 4096, (self.wrote % 251) as u8 + 1);
            match submit(&self.group, DISK, Op::Write { offset, data: &[tag; 4096] }, false) {
                Ok(()) => self.wrote += 1,
                Err(e) => {
                    assert_eq!(e.kind(), Kind::NoSpace, "{e}");
                    return n;
                }
            }
            if n % 4 == 3 {
                self.keep();
            }
        }
        count
    }

    fn is_held(&self, moment: Moment) -> bool {
        self.group.open_moment(moment).is_ok()
    }
}

#[test]
fn the_window_gets_shorter_before_a_writer_waits() {
    let mut world = World::new(1);
    let early = world.group.head();
    assert_eq!(world.write(600), 600, "nobody is refused while the window can get shorter");
    assert!(world.group.journal_bytes() <= ALLOWANCE, "{}", world.group.journal_bytes());
    assert!(world.group.shortened() > 0 && !world.is_held(early));
    // What is left of the window is more than the newest moment.
    let head = world.group.head();
    let before = Moment { seq: crate::vocab::Seq(head.seq.0 - 50), ..head };
    assert!(world.is_held(before));
}

/// What can't be made shorter fills up more slowly, and nobody waits below the share.
#[test]
fn a_writer_is_slowed_down_before_it_is_refused() {
    let mut world = World::new(4);
    world.write(40);
    assert!(world.group.journal_used() < ALLOWANCE / 16 * 12 && world.clock.paused().is_zero());
    world.care.pinned = true;
    let waited = |world: &mut World| {
        let before = world.clock.paused();
        let taken = world.write(4);
        (taken, world.clock.paused() - before)
    };
    let mut waits = Vec::new();
    while let (4, time) = waited(&mut world) {
        waits.push(time);
    }
    let first = waits.iter().position(|time| !time.is_zero()).expect("nobody waited");
    assert!(first > 0 && waits.len() > first + 2, "{waits:?}");
    assert!(
        waits.last() == waits.iter().max() && waits.last() > Some(&std::time::Duration::from_millis(100))
    );
}

/// Segments of a busy group are long; where the share is small they must not take all of it.
#[test]
fn long_segments_dont_use_the_share_up() {
    let mut world = World::with(3, (96 << 10, 2 << 20));
    world.care.window_ns = None;
    world.keep();
    assert_eq!(world.write(900), 900, "nobody is refused: what the base has is freed");
    assert!(world.group.log.segments().iter().all(|s| s.bytes <= ALLOWANCE / 8 || s.bytes == 96 << 10));
}

/// A failover that isn't committed: says what became of its fork, and whether a writer was refused.
fn uncommitted(world: &mut World) -> (Moment, bool) {
    world.write(60);
    let fork = world.group.head();
    world.write(30);
    world.group.decide(fork, RowKind::Failover, Token([7; 16]), None).unwrap();
    (world.care.pinned, world.care.fork) = (true, Some(fork));
    let refused = world.write(600) < 600;
    (fork, refused)
}

#[test]
fn until_commit_the_fork_stays_and_then_the_writer_goes_on() {
    let mut world = World::new(2);
    let (fork, refused) = uncommitted(&mut world);
    assert!(refused && world.group.is_over() && world.group.refused() > 0);
    assert!(world.is_held(fork), "change and rollback are possible still");
    moment_image(&world.group, fork).unwrap();
    world.keep();
    assert_eq!(world.write(1), 0, "it stays so");
    (world.care.pinned, world.care.fork) = (false, None);
    world.keep();
    world.keep();
    assert_eq!(world.write(300), 300, "commit sets the writer free");
    assert!(!world.is_held(fork));
}

#[test]
fn passing_the_fork_is_caught() {
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["P2: no further than the fork"]);
    let mut world = World::new(2);
    let (fork, refused) = uncommitted(&mut world);
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(!refused || !world.is_held(fork), "the rule makes no difference");
}
