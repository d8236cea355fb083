//! C2: a restart in the middle ends in the old or the new state.

use crate::format::{AddPayload, FileKind};
use crate::group::{Backlog, Care, Change, Group, GroupParts, Op};
use crate::history::Event;
use crate::index::CacheBudget;
use crate::journal::LEFT_OUT;
use crate::protection::control::{DropWhat, EpochPrefix, MomentRef};
use crate::protection::job::JobState;
use crate::protection::{Refused, State};
use crate::seam::{Rooms, SimClock, SimDevice, SimEntropy};
use crate::site::catalog::Catalog;
use crate::site::commands::ground::{Done, Ground, Rest, known_of};
use crate::site::jobs::Jobs;
use crate::site::points;
use crate::vocab::{DiskId, DiskOrdinal, GroupId, Moment, Result, StoreId, Token, VmId};
use std::sync::Arc;

const GROUP: GroupId = GroupId([2; 16]);
const DISK: DiskOrdinal = DiskOrdinal(1);

struct World {
    catalog: Catalog,
    jobs: Jobs,
    group: Arc<Group>,
    seed: u64,
}

/// What a person sees of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    state: State,
    byte: u8,
    points: usize,
    dropped: usize,
    standing: usize,
}

#[derive(Clone, Debug)]
enum Does {
    Failover(MomentRef),
    Change(MomentRef),
    Rollback,
    Commit,
    Drop,
}

fn parts(device: &SimDevice, seed: u64) -> GroupParts {
    let storage = Arc::new(device.storage("store"));
    GroupParts {
        rooms: Rooms::of_one(storage.clone()),
        store: storage.clone(),
        journal: storage,
        clock: Arc::new(SimClock::new(1_700_000_000_000_000_000 + seed as i64 * 1_000_000_000)),
        entropy: Arc::new(SimEntropy::new(seed)),
        store_id: StoreId([1; 16]),
        boot: [4; 16],
        cache: CacheBudget::new(1 << 20),
        segment_bytes: (96 << 10, 96 << 10),
    }
}

impl World {
    /// Opens what is there, as a site does.
    fn open(device: &SimDevice, seed: u64) -> Result<Self> {
        let parts = parts(device, seed);
        let catalog = Catalog::new(parts.store.clone());
        let (jobs, interrupted, damaged) = Jobs::open(catalog.clone(), parts.clock.clone())?;
        assert!(damaged.is_empty(), "{damaged:?}");
        let (group, report) = Group::open(parts, GROUP)?;
        assert_eq!(report.damage, None);
        Ground::settle(&group)?;
        let world = Self { catalog, jobs, group, seed };
        for job in interrupted {
            if let Some(rest) = world.ground().resume(&job.id)? {
                world.rest(&job.id, rest)?;
            }
        }
        Ok(world)
    }

    fn ground(&self) -> Ground<'_> {
        Ground {
            catalog: &self.catalog,
            jobs: &self.jobs,
            group: &self.group,
            store: StoreId([1; 16]),
            subject: "web01",
            policy: Default::default(),
            random: Token([self.seed as u8; 16]),
        }
    }

    fn rest(&self, job: &str, rest: Rest) -> Result<()> {
        assert_eq!(rest, Rest::Free);
        self.group.round_with(Care {
            fork: None,
            allowance: None,
            lines: None,
            backlog: Backlog::NONE,
            sync_ns: 1,
            window_ns: None,
            pinned: known_of(&self.group).pinned(),
        })?;
        self.jobs.update(job, |job, now| job.finish(JobState::Succeeded, "freed", None, now))
    }

    fn seen(&self) -> Result<Seen> {
        let known = known_of(&self.group);
        let mut byte = [0xee];
        self.group.read_head(DISK, 100, &mut byte)?;
        let dropped = |events: &[(i64, Event)]| {
            events.iter().filter(|(_, e)| matches!(e, Event::BranchDropped { .. })).count()
        };
        Ok(Seen {
            state: known.state(),
            byte: byte[0],
            points: points::load(&self.catalog, GROUP)?.in_order().len(),
            dropped: self.group.with_events(dropped),
            standing: known.decisions.len(),
        })
    }

    fn does(&self, does: &Does) -> std::result::Result<Done, Refused> {
        let ground = self.ground();
        let find = |named: &MomentRef| {
            let set = points::load(&self.catalog, GROUP).map_err(super::super::refused)?;
            let found = points::resolve(&self.group, &set, named).map_err(super::super::refused)?;
            Ok::<Moment, Refused>(found.unwrap_or_else(|missing| panic!("{named}: {missing:?}")))
        };
        let line = match does {
            Does::Failover(named) | Does::Change(named) => named.to_string(),
            _ => String::new(),
        };
        let done = match does {
            Does::Failover(named) => ground.failover(&line, find(named)?, false),
            Does::Change(named) => ground.change(&line, find(named)?),
            Does::Rollback => ground.rollback(&line),
            Does::Commit => ground.commit(&line, None),
            Does::Drop => {
                let branches = self.group.branches().map_err(super::super::refused)?;
                let epoch = branches.first().unwrap_or_else(|| panic!("no branch")).last.epoch;
                ground.drop_what(&line, &DropWhat::Branch(EpochPrefix::from(epoch)))
            }
        }?;
        if let (Some(job), Some(rest)) = (&done.job, done.rest) {
            // What comes after the acceptance may be cut off too, and goes on at the next start.
            let _ = self.rest(job, rest);
        }
        Ok(done)
    }

    fn write(&self, byte: u8) {
        let (send, receive) = std::sync::mpsc::channel();
        let data = vec![byte; 8192];
        let op = Op::Write { offset: 0, data: &data };
        self.group.submit(DISK, op, true, Box::new(move |result| send.send(result).unwrap()));
        receive.recv().unwrap().unwrap();
    }
}

/// A target that received an `a`, then a `b`; the moment of the `a`.
fn target(device: &SimDevice) -> MomentRef {
    let parts = parts(device, 1);
    parts.store.make_dir(std::path::Path::new("groups")).unwrap();
    let group = Group::create(parts, GROUP).unwrap();
    let add = AddPayload {
        vm: VmId([3; 16]),
        vm_name: "web01".into(),
        single: false,
        file: DiskId([5; 16]),
        path: "a.raw".into(),
        kind: FileKind::File,
        size: 0,
    };
    group.change_with(|_| Ok(Change::Add(DISK, add))).unwrap();
    let catalog = Catalog::new(group.parts.store.clone());
    let (jobs, _, _) = Jobs::open(catalog.clone(), group.parts.clock.clone()).unwrap();
    let world = World { catalog, jobs, group, seed: 1 };
    world.write(b'a');
    let first = world.group.head();
    world.write(b'b');
    let (op, source, moment) = (Token([9; 16]), StoreId([8; 16]), world.group.head());
    world.group.note(Event::Target { op, source, seed: Some(moment) }).unwrap();
    world.group.note(Event::Protected { op, peer: source, moment }).unwrap();
    MomentRef::Epoch(first.epoch.into(), first.seq.0)
}

/// Commands; whether the guest writes after it; what has to be seen then.
fn script(first: &MomentRef) -> Vec<(Does, bool, (State, u8))> {
    use State::{Committed, FailedOver, Standby};
    vec![
        (Does::Failover(first.clone()), true, (FailedOver, b'a')),
        (Does::Rollback, false, (Standby, b'b')),
        (Does::Failover(MomentRef::Latest), true, (FailedOver, b'b')),
        (Does::Change(first.clone()), true, (FailedOver, b'a')),
        (Does::Rollback, false, (Standby, b'b')),
        (Does::Failover(first.clone()), true, (FailedOver, b'a')),
        (Does::Commit, true, (Committed, b'h')),
        (Does::Drop, false, (Committed, b'i')),
    ]
}

/// Runs the script; within each command the power is cut in every `stride`-th call, on a copy of the device.
/// Returns what went wrong first.
fn run(stride: u64) -> std::result::Result<u64, String> {
    let device = SimDevice::new(7);
    let first = target(&device);
    let mut cuts = 0;
    for (number, (does, writes, expected)) in script(&first).into_iter().enumerate() {
        let seed = 10 + number as u64 * 10;
        let what = format!("command {number}, {does:?}");
        let before =
            World::open(&device, seed).map_err(|e| e.to_string())?.seen().map_err(|e| e.to_string())?;
        let copy = device.fork(seed);
        let (after, calls) = {
            let world = World::open(&copy, seed + 1).map_err(|e| e.to_string())?;
            let from = copy.operations();
            world.does(&does).map_err(|e| format!("{what}: {e}"))?;
            (world.seen().map_err(|e| e.to_string())?, copy.operations() - from)
        };
        if before == after || (after.state, after.byte) != expected {
            return Err(format!("{what}: {before:?} became {after:?}, expected was {expected:?}"));
        }
        let mut at = 1 + number as u64 % stride;
        while at <= calls {
            let copy = device.fork(seed + at);
            let world = World::open(&copy, seed + 1).map_err(|e| e.to_string())?;
            copy.power_loss_at(at);
            let accepted = world.does(&does).is_ok();
            drop(world);
            copy.power_loss();
            let place = format!("{what}, power cut at {at} of {calls} in {}", copy.crashed_in());
            copy.power_on();
            check(&copy, seed, &does, (&before, &after), accepted).map_err(|e| format!("{place}: {e}"))?;
            cuts += 1;
            at += stride;
        }
        let world = World::open(&device, seed + 2).map_err(|e| e.to_string())?;
        world.does(&does).map_err(|e| format!("{what}: {e}"))?;
        if writes && known_of(&world.group).state().writable() {
            world.write(b'c' + number as u8);
        }
    }
    Ok(cuts)
}

fn check(
    device: &SimDevice,
    seed: u64,
    does: &Does,
    (before, after): (&Seen, &Seen),
    accepted: bool,
) -> std::result::Result<(), String> {
    let world = World::open(device, seed + 3).map_err(|e| e.to_string())?;
    let seen = world.seen().map_err(|e| e.to_string())?;
    let open: Vec<String> =
        world.jobs.list().iter().filter(|j| !j.state.ended()).map(|j| j.id.clone()).collect();
    if !open.is_empty() {
        return Err(format!("{open:?} are still open"));
    }
    if seen != *before && seen != *after {
        return Err(format!("neither old nor new: {seen:?}\n old {before:?}\n new {after:?}"));
    }
    if accepted && seen != *after {
        return Err(format!("it was accepted and didn't happen: {seen:?}"));
    }
    let lineage = world.group.lineage();
    if seen == *before {
        world.does(does).map_err(|e| format!("the second time: {e}"))?;
        let again = world.seen().map_err(|e| e.to_string())?;
        if again != *after {
            return Err(format!("the second time: {again:?} instead of {after:?}"));
        }
    }
    drop(world);
    let world = World::open(device, seed + 4).map_err(|e| e.to_string())?;
    let last = world.seen().map_err(|e| e.to_string())?;
    if last != *after || world.group.lineage() < lineage {
        return Err(format!("another start: {last:?} instead of {after:?}"));
    }
    Ok(())
}

#[test]
fn a_power_cut_in_any_call_ends_in_the_old_or_the_new_state() {
    let full = std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full");
    let cuts = run(if full { 1 } else { 3 }).unwrap_or_else(|e| panic!("{e}"));
    assert!(cuts > 20, "{cuts}");
}

#[test]
fn the_rules_are_needed() {
    for rule in [
        "an intent without its decision is cancelled",
        "a rollback takes back every choice",
        "a decision taken back is on no live path",
    ] {
        LEFT_OUT.with_borrow_mut(|out| *out = vec![rule]);
        let result = run(1);
        LEFT_OUT.with_borrow_mut(Vec::clear);
        assert!(result.is_err(), "without `{rule}` nothing was noticed");
    }
}

#[test]
fn what_was_written_after_a_failover_stays_as_a_branch() {
    let device = SimDevice::new(3);
    let first = target(&device);
    let world = World::open(&device, 4).unwrap();
    let lineage = world.group.lineage();
    world.does(&Does::Failover(first)).unwrap();
    assert_eq!(world.seen().unwrap().byte, b'a');
    world.write(b'x');
    let written = world.group.head();
    world.does(&Does::Rollback).unwrap();
    assert_eq!((world.seen().unwrap().state, world.seen().unwrap().byte), (State::Standby, b'b'));
    assert!(world.group.lineage() > lineage + 1);
    let branches = world.group.branches().unwrap();
    assert_eq!(branches.iter().map(|b| b.last).collect::<Vec<_>>(), [written]);
    let view = world.group.open_moment(written).unwrap();
    let mut byte = [0];
    world.group.read_moment(&view, DISK, 100, &mut byte).unwrap();
    assert_eq!(byte[0], b'x');
    // The same bytes, the same hash, at the head and as a branch of what came later.
    let hash = |moment: Moment| {
        let view = world.group.open_moment(moment).unwrap();
        world.group.hash_moment(&view, |_| Ok(())).unwrap()
    };
    assert_ne!(hash(written).0, hash(world.group.head()).0);
    assert_eq!(hash(written), hash(written));
}
