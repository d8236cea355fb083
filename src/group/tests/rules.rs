//! Rules of rounds and views, one schedule for each: the head of `round`, `upkeep` and `read` has them by number.

use super::FREE;
use super::model::{head_image, id, parts, submit};
use super::space::{DISK, disk};
use crate::base::{BaseFile, base_name};
use crate::group::{Care, Group, GroupParts, Op};
use crate::history::RowKind;
use crate::journal::{CheckpointFile, LEFT_OUT};
use crate::seam::{SimClock, SimDevice};
use crate::vocab::{Kind, Moment, Result, Token};
use std::sync::Arc;

const BLOCKS: usize = 64;
const SIZE: u64 = BLOCKS as u64 * 4096;
const HOUR_NS: u64 = 3_600_000_000_000;

/// A moment, and the tag of each block there; empty behind the end.
type Known = (Moment, Vec<u8>);

struct World {
    device: SimDevice,
    clock: SimClock,
    group: Arc<Group>,
    now: Vec<u8>,
    opened: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let (device, clock) = (SimDevice::new(seed), SimClock::new(1_700_000_000_000_000_000));
        let of_site = GroupParts { clock: Arc::new(clock.clone()), ..parts(&device, seed) };
        let group = Group::create(of_site, id()).unwrap();
        disk(&group, SIZE).unwrap();
        Self { device, clock, group, now: vec![0; BLOCKS], opened: seed }
    }

    fn write(&mut self, block: usize, tag: u8) {
        let op = Op::Write { offset: block as u64 * 4096, data: &[tag; 4096] };
        submit(&self.group, DISK, op, false).unwrap();
        self.now[block] = tag;
    }

    fn resize(&mut self, blocks: usize) {
        submit(&self.group, DISK, Op::Resize { size: blocks as u64 * 4096 }, false).unwrap();
        self.now.resize(blocks, 0);
    }

    /// The newest moment, durable.
    fn known(&self) -> Known {
        self.group.sync().unwrap();
        (self.group.head(), self.now.clone())
    }

    fn reopen(&mut self) -> std::result::Result<(), String> {
        self.opened += 1;
        let of_site = GroupParts { clock: Arc::new(self.clock.clone()), ..parts(&self.device, self.opened) };
        let (group, report) = Group::open(of_site, id()).map_err(|e| format!("can't open: {e}"))?;
        self.group = group;
        report.damage.map_or(Ok(()), Err)
    }

    /// `Ok(false)`: the base has passed it.
    fn shows(&self, known: &Known) -> std::result::Result<bool, String> {
        let view = match self.group.open_moment(known.0) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(false),
            view => view.map_err(|e| e.to_string())?,
        };
        if view.names.files[&DISK].size != known.1.len() as u64 * 4096 {
            return Err(format!("{} has another size", known.0));
        }
        let mut bytes = vec![0; known.1.len() * 4096];
        match self.group.read_moment(&view, DISK, 0, &mut bytes) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(false),
            done => done.map_err(|e| e.to_string())?,
        }
        let wrong = bytes.chunks(4096).zip(&known.1).position(|(bytes, tag)| bytes.iter().any(|b| b != tag));
        wrong.map_or(Ok(true), |block| {
            let (got, tag) = (bytes[block * 4096], known.1[block]);
            Err(format!("{}: block {block} has {got} instead of {tag}", known.0))
        })
    }

    fn must_show(&self, known: &Known) -> std::result::Result<(), String> {
        if self.shows(known)? { Ok(()) } else { Err(format!("{} is gone", known.0)) }
    }

    fn round_to(&self, known: &Known) -> Result<()> {
        let place = self.group.place_behind(known.0)?;
        self.group.round(Some(place)).map(|_| ())
    }
}

type Attacked = std::result::Result<(), String>;
type Attack = fn(u64) -> Attacked;

/// A round is torn at each of its calls; then a round to a lower moment is asked for.
fn torn(seed: u64) -> Attacked {
    torn_then(seed, |w, [first, second, third]| {
        match w.round_to(second) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e.to_string()),
            _ => {}
        }
        for known in [first, second] {
            w.shows(known).map_err(|e| format!("after another round: {e}"))?;
        }
        w.must_show(third)
    })
}

/// A round is torn; then somebody fails over to a moment that it was about to pass.
fn torn_and_left(seed: u64) -> Attacked {
    torn_then(seed, |w, [first, ..]| {
        match w.group.decide(first.0, RowKind::Failover, Token([6; 16]), None) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            decided => decided.map_err(|e| e.to_string())?,
        };
        w.now = first.1.clone();
        let bytes = |w: &World| head_image(&w.group).map_err(|e| e.to_string());
        let shown = bytes(w)?.remove(&DISK).ok_or("the disk is gone")?;
        let wrong = shown.chunks(4096).zip(&w.now).position(|(block, tag)| block.iter().any(|b| b != tag));
        wrong.map_or(Ok(()), |block| {
            Err(format!("after a failover: block {block} has {}", shown[block * 4096]))
        })
    })
}

/// The world is opened again after the power failed at each call of a round to the third of three moments.
fn torn_then(seed: u64, then: fn(&mut World, [&Known; 3]) -> Attacked) -> Attacked {
    for call in 1.. {
        let mut w = World::new(seed * 1000 + call);
        (0..BLOCKS).for_each(|block| w.write(block, 1));
        w.group.round(None).map_err(|e| e.to_string())?;
        w.write(0, 2);
        let first = w.known();
        w.write(1, 3);
        let second = w.known();
        (2..30).for_each(|block| w.write(block, 4));
        let third = w.known();
        w.device.power_loss_at(call);
        let done = w.round_to(&third);
        let whole = w.device.has_power();
        if whole {
            done.map_err(|e| e.to_string())?;
        }
        w.device.power_on();
        w.device.power_loss_at(1 << 60);
        w.reopen()?;
        for known in [&first, &second] {
            w.shows(known).map_err(|e| format!("power loss at call {call}: {e}"))?;
        }
        w.must_show(&third)?;
        then(&mut w, [&first, &second, &third]).map_err(|e| format!("power loss at call {call}: {e}"))?;
        if whole {
            return Ok(());
        }
    }
    Ok(())
}

/// A view is open while a round passes it.
fn passed(seed: u64) -> Attacked {
    let mut w = World::new(seed);
    w.write(1, 1);
    w.group.round(None).map_err(|e| e.to_string())?;
    w.write(0, 1);
    let (moment, _) = w.known();
    let view = w.group.open_moment(moment).map_err(|e| e.to_string())?;
    w.write(1, 2);
    w.group.round(None).map_err(|e| e.to_string())?;
    let mut bytes = [9; 4096];
    match w.group.read_moment(&view, DISK, 4096, &mut bytes) {
        Ok(()) if bytes != [1; 4096] => Err("a view shows what came later".into()),
        Err(e) if e.kind() != Kind::NotFound => Err(e.to_string()),
        _ => Ok(()),
    }
}

/// A base stops at a moment at which the file was longer, or shorter, than it is now.
fn lengths(seed: u64) -> Attacked {
    for now in [10, 2 * BLOCKS] {
        let mut w = World::new(seed);
        (0..BLOCKS).for_each(|block| w.write(block, 1));
        let before = w.known();
        w.resize(now);
        w.write(0, 2);
        let after = w.known();
        w.round_to(&before).map_err(|e| e.to_string())?;
        w.must_show(&before)?;
        w.must_show(&after)?;
        w.resize(BLOCKS);
        w.group.round(None).map_err(|e| e.to_string())?;
        w.must_show(&w.known())?;
    }
    Ok(())
}

/// Rounds free segments, the window keeps some; then the power fails, or the process is killed.
fn frees(seed: u64) -> Attacked {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut w = World::new(seed);
    let mut kept: Vec<Known> = Vec::new();
    for _ in 0..5 {
        for _ in 0..rng.usize(5..60) {
            w.write(rng.usize(..BLOCKS), rng.u8(1..));
        }
        kept.push(w.known());
        w.write(rng.usize(..BLOCKS), rng.u8(1..));
        if rng.bool() {
            w.group.checkpoint().map_err(|e| e.to_string())?;
        }
        kept.drain(..rng.usize(..kept.len()));
        w.round_to(&kept[0]).map_err(|e| e.to_string())?;
        kept.iter().try_for_each(|known| w.must_show(known))?;
        for _ in 0..rng.usize(..20) {
            w.write(rng.usize(..BLOCKS), rng.u8(1..));
        }
        kept.push(w.known());
        if rng.bool() {
            w.device.power_loss();
            w.device.power_on();
        }
        w.reopen()?;
        kept.iter().try_for_each(|known| w.must_show(known))?;
        // A segment that is used again begins with an opening.
        w.write(0, 9);
        kept.push(w.known());
        kept.iter().try_for_each(|known| w.must_show(known))?;
    }
    Ok(())
}

/// What a caller says is needed stays, whatever else a round may do.
fn needed(seed: u64) -> Attacked {
    for which in 0..5 {
        let mut w = World::new(seed);
        w.write(0, 1);
        let needed = w.known();
        let care = match which {
            0 => Care { pinned: true, ..FREE },
            1 => Care { window_ns: Some(HOUR_NS), ..FREE },
            2 | 4 => FREE,
            _ => Care { fork: Some(needed.0), ..FREE },
        };
        let open = (which == 4).then(|| w.group.hold(needed.0));
        w.group.set_pin((which == 2).then_some(needed.0));
        for n in 0..60 {
            w.clock.advance(HOUR_NS / 120);
            w.write(n % BLOCKS, 2);
        }
        w.group.round_with(care).map_err(|e| e.to_string())?;
        w.must_show(&needed)?;
        w.must_show(&w.known())?;
        if open.is_some() {
            // Once nobody has it open it goes as ever; one that was passed keeps nothing.
            drop(open);
            w.group.round_with(care).map_err(|e| e.to_string())?;
            if w.shows(&needed)? {
                return Err("a moment that nobody has open stayed".into());
            }
            let _passed = w.group.hold(needed.0);
            let newer = w.known();
            w.write(0, 3);
            w.group.round_with(care).map_err(|e| e.to_string())?;
            if w.shows(&newer)? {
                return Err("a moment that was passed holds the base".into());
            }
        }
    }
    Ok(())
}

/// What changed is known behind every moment, also where the records are freed, and after a power loss.
fn changes(seed: u64) -> Attacked {
    let mut w = World::new(seed);
    let (start, _) = w.known();
    for n in 0..80 {
        w.write(n % 20, 5);
    }
    w.group.round(None).map_err(|e| e.to_string())?;
    w.group.round(None).map_err(|e| e.to_string())?;
    w.device.power_loss();
    w.device.power_on();
    w.reopen()?;
    w.write(30, 6);
    let set = w.group.changed_after(start).map_err(|e| e.to_string())?;
    let Some(set) = set else { return Err("what changed is not known any more".into()) };
    let blocks: Vec<u64> =
        set.iter().flat_map(|r| r.offset / 4096..(r.offset + r.length).div_ceil(4096)).collect();
    let expected: Vec<u64> = (0..20).chain([30]).collect();
    // The first segment changed the size as well: with it comes more.
    match expected.iter().find(|block| !blocks.contains(block)) {
        None => Ok(()),
        Some(block) => Err(format!("block {block} changed, and {blocks:?} is said")),
    }
}

/// A group that is closed is called drained where its bases are the plain images, and only there.
fn drained(seed: u64) -> Attacked {
    for behind in [0, 1] {
        let mut w = World::new(seed);
        (0..10).for_each(|block| w.write(block, 1));
        w.group.round(None).map_err(|e| e.to_string())?;
        (0..behind).for_each(|block| w.write(block, 2));
        w.group.close().map_err(|e| e.to_string())?;
        let storage = w.device.storage("store");
        let dir = GroupParts::dir(id());
        let (_, checkpoint) =
            CheckpointFile::open(&storage, &dir.join("checkpoint"), true).map_err(|e| e.to_string())?;
        let base = BaseFile::open(&storage, &dir.join(base_name(DISK))).map_err(|e| e.to_string())?;
        let mut plain = vec![9; w.now.len() * 4096];
        base.read(&mut plain, 0).map_err(|e| e.to_string())?;
        let is_plain = plain.chunks(4096).zip(&w.now).all(|(bytes, tag)| bytes.iter().all(|b| b == tag));
        if checkpoint.drained != is_plain {
            return Err(format!("drained: {}; the base is the image: {is_plain}", checkpoint.drained));
        }
    }
    Ok(())
}

/// Each rule, or those of which one is enough, and the schedule that needs it.
const RULES: [(&[&str], Attack); 18] = [
    (&["O2: the floor outlives a restart"], torn),
    (&["O3: a torn round is done again"], torn),
    (&["floor before base"], torn),
    (
        &["V5: a base is read at or above its floor only", "V1: every base lies on the path of a moment"],
        torn_and_left,
    ),
    (&["V5: a view that a round passed says so"], passed),
    (&["V4: a path ends with its moment"], torn),
    (&["O5: a base has the length of the target"], lengths),
    (&["O4: segments are freed only below every base"], frees),
    (&["O4: versions leave the index only below every base"], frees),
    (&["O4: segments are freed after a checkpoint without them"], frees),
    (&["O4: segments are freed after a list without them"], frees),
    (&["N1: no rounds while a decision is open"], needed),
    (&["N2: no further than the window"], needed),
    (&["N3: no further than what the peer has"], needed),
    (&["N4: no further than a fork"], needed),
    (&["N5: no further than an open moment"], needed),
    (&["K6: drained is said of bases at the head"], drained),
    (&["U1: ranges of sealed segments are kept"], changes),
];

#[test]
fn rounds_and_views_keep_their_rules() {
    for attack in [torn, torn_and_left, passed, lengths, frees, needed, changes, drained] {
        let full = super::is_full();
        for seed in 0..if full { 60 } else { 5 } {
            attack(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }
}

#[test]
fn each_rule_of_rounds_and_views_is_needed() {
    let mut missed = Vec::new();
    for (rules, attack) in RULES {
        LEFT_OUT.with_borrow_mut(|out| *out = rules.to_vec());
        let caught = (0..5).any(|seed| attack(seed).is_err());
        LEFT_OUT.with_borrow_mut(Vec::clear);
        if !caught {
            missed.push(rules);
        }
    }
    assert!(missed.is_empty(), "nothing noticed that these were left out: {missed:?}");
}
