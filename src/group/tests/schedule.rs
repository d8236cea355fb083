use super::model::{Model, difference, flush, head_image, id, moment_image, parts};
use crate::group::{Gate, Group, GroupParts};
use crate::history::RowKind;
use crate::journal::LEFT_OUT;
use crate::seam::{SimClock, SimDevice};
use crate::vocab::{LogPlace, Moment, Token};
use std::sync::Arc;

fn timed(device: &SimDevice, clock: &SimClock, seed: u64) -> GroupParts {
    GroupParts { clock: Arc::new(clock.clone()), ..parts(device, seed) }
}

#[derive(Clone, Copy)]
struct Schedule {
    /// Keep a window: the base follows behind, and moments inside are looked at. Else it follows the head.
    window: bool,
    /// Failovers at older moments.
    forks: bool,
}

struct World {
    device: SimDevice,
    clock: SimClock,
    rng: fastrand::Rng,
    model: Model,
    /// Every moment at or before this one in `model.order` may be gone by a power loss only if it is later.
    flushed: Option<Moment>,
    /// The moment that the newest round went to: earlier ones may be gone.
    edge: Option<Moment>,
    /// The image after an operation that failed with the power.
    failed: Option<super::model::Image>,
    looked: usize,
}

impl World {
    fn step(&mut self, group: &Group, schedule: Schedule) -> Result<(), String> {
        // Now and then it goes back to plain appends.
        self.clock.advance(self.rng.u64(..60_000_000));
        let dice = self.rng.u32(..100);
        let done = if dice < 62 {
            // The power may fail within: truth first.
            let result = self.model.operate(group, &mut self.rng, !schedule.window);
            self.noted(group, result)
        } else if dice < 64 {
            let result = self.model.add(group, &mut self.rng);
            self.noted(group, result)
        } else if dice < 74 {
            let head = group.head();
            flush(group).map(|()| self.flushed = Some(head))
        } else if dice < 80 {
            let head = group.head();
            group.checkpoint().map(|()| self.flushed = Some(head))
        } else if dice < 88 {
            self.round(group, schedule)
        } else if dice < 91 && schedule.forks {
            self.fork(group)
        } else if schedule.window {
            return self.look(group);
        } else {
            return self.look_at_head(group);
        };
        done.or_else(|e| if self.device.has_power() { Err(e.to_string()) } else { Ok(()) })
    }

    /// What failed may have landed all the same: then its moment shows what the model has now.
    fn noted(&mut self, group: &Group, result: crate::vocab::Result<()>) -> crate::vocab::Result<()> {
        match &result {
            Ok(()) => self.model.note(group.head()),
            Err(_) => self.failed = Some(self.model.now.clone()),
        }
        result
    }

    fn round(&mut self, group: &Group, schedule: Schedule) -> crate::vocab::Result<()> {
        if !schedule.window {
            let head = group.head();
            self.edge = Some(head);
            return group.round(None).map(|_| ());
        }
        let Some(moment) = self.held(group).get(self.rng.usize(..6)).copied() else { return Ok(()) };
        group.sync()?;
        let place: LogPlace = group.place_behind(moment)?;
        // A round that fails half-way may have passed what lies below its target already.
        self.edge = Some(moment);
        group.round(Some(place))?;
        Ok(())
    }

    /// Moments on the live line from the edge on, oldest first, durable or not.
    fn held(&self, group: &Group) -> Vec<Moment> {
        let table = group.table();
        let head = group.head();
        let from = self.edge.and_then(|edge| self.model.order.iter().position(|m| *m == edge)).unwrap_or(0);
        let on = |m: &&Moment| table.is_on_line(**m, head).unwrap_or(false);
        self.model.order[from..].iter().filter(on).copied().collect()
    }

    fn fork(&mut self, group: &Group) -> crate::vocab::Result<()> {
        let held = self.held(group);
        let Some(moment) = held.get(self.rng.usize(..held.len().max(1))).copied() else { return Ok(()) };
        let image = self.model.moments[&moment].clone();
        // What fails may have landed: then the line goes on from this moment. Or not, and a moment that nobody
        // flushed may be gone.
        let (before, table) = (self.flushed, group.table());
        let was_flushed = |flushed| table.is_on_line(moment, flushed).unwrap_or(false);
        self.flushed = if before.is_none_or(was_flushed) { Some(moment) } else { before };
        let decided = group.decide(moment, RowKind::Failover, Token([9; 16]), None)?;
        self.model.now = image;
        self.model.note(decided);
        self.flushed = Some(decided);
        // Until there are holds the base stops at the fork: here the window's edge doesn't go past it.
        Ok(())
    }

    /// A moment inside the window is byte-exact; one before it is gone or byte-exact.
    fn look(&mut self, group: &Group) -> Result<(), String> {
        let held = self.held(group);
        let (table, head) = (group.table(), group.head());
        let on = |m: &&Moment| table.is_on_line(**m, head).unwrap_or(false);
        let all: Vec<Moment> = self.model.order.iter().filter(on).copied().collect();
        let choice = if self.rng.bool() { &held } else { &all };
        if choice.is_empty() {
            return Ok(());
        }
        let moment = choice[self.rng.usize(..choice.len())];
        self.looked += 1;
        match moment_image(group, moment) {
            Ok(image) => match difference(&image, &self.model.moments[&moment]) {
                Some(what) => Err(format!("moment {moment}: {what}")),
                None => Ok(()),
            },
            Err(_) if !self.device.has_power() => Ok(()),
            Err(e) if e.kind() == crate::vocab::Kind::NotFound && !held.contains(&moment) => Ok(()),
            Err(e) => Err(format!("moment {moment} can't be shown: {e}")),
        }
    }

    fn look_at_head(&mut self, group: &Group) -> Result<(), String> {
        match head_image(group) {
            Ok(image) => {
                difference(&image, &self.model.now).map_or(Ok(()), |what| Err(format!("head: {what}")))
            }
            Err(_) if !self.device.has_power() => Ok(()),
            Err(e) => Err(format!("head can't be read: {e}")),
        }
    }

    fn reopen(&mut self) -> Result<Arc<Group>, String> {
        loop {
            if self.rng.u32(..10) < 3 {
                self.device.power_loss_at(self.rng.u64(1..30));
            }
            let opened = Group::open(timed(&self.device, &self.clock, self.rng.u64(..)), id());
            if !self.device.has_power() {
                self.device.power_on();
                continue;
            }
            self.device.power_loss_at(1 << 60);
            let (group, report) = opened.map_err(|e| format!("can't open: {e}"))?;
            if let Some(damage) = report.damage {
                return Err(format!("damaged without rot: {damage}"));
            }
            let head = group.head();
            let Some(image) = self.model.moments.get(&head).cloned() else {
                // An epoch's row changes nothing: its moment shows what the one before it shows.
                return self.settle(group, head);
            };
            self.check_head(&group, head, &image)?;
            return Ok(group);
        }
    }

    fn settle(&mut self, group: Arc<Group>, head: Moment) -> Result<Arc<Group>, String> {
        let table = group.table();
        let before = table.below(head).map_err(|e| e.to_string())?;
        let got = head_image(&group).map_err(|e| format!("head can't be read: {e}\n{}", group.layout()))?;
        let failed = self.failed.take().filter(|image| difference(&got, image).is_none());
        let image = failed.or_else(|| before.and_then(|m| self.model.moments.get(&m)).cloned());
        let image = image.ok_or_else(|| format!("the head {head} is no moment that ever was"))?;
        self.model.now = image.clone();
        self.model.note(head);
        self.check_head(&group, head, &image)?;
        Ok(group)
    }

    fn check_head(&mut self, group: &Group, head: Moment, image: &super::model::Image) -> Result<(), String> {
        if let Some(flushed) = self.flushed
            && !group.table().is_on_line(flushed, head).unwrap_or(false)
        {
            return Err(format!("flushed moment {flushed} is not on the line of {head}"));
        }
        let got = head_image(group).map_err(|e| format!("head can't be read: {e}\n{}", group.layout()))?;
        if let Some(what) = difference(&got, image) {
            return Err(format!("after recovery, head {head}: {what}"));
        }
        self.model.now = image.clone();
        let cut = self.model.order.iter().rposition(|m| *m == head).map_or(0, |at| at + 1);
        self.model.order.truncate(cut);
        self.flushed = Some(head);
        Ok(())
    }
}

fn run(seed: u64, schedule: Schedule) -> Result<usize, String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let device = SimDevice::new(rng.u64(..));
    device.set_fua(rng.bool());
    let clock = SimClock::new(1_700_000_000_000_000_000);
    let mut group = Group::create(timed(&device, &clock, rng.u64(..)), id()).map_err(|e| e.to_string())?;
    let mut world =
        World { device, clock, rng, model: Model::new(), flushed: None, edge: None, failed: None, looked: 0 };
    world.model.note(group.head());
    world.model.add(&group, &mut world.rng).map_err(|e| e.to_string())?;
    world.model.note(group.head());
    world.flushed = Some(group.head());
    for _ in 0..world.rng.usize(2..6) {
        if world.rng.u32(..10) < 6 {
            let at = world.rng.u64(1..150);
            world.device.power_loss_at(at);
        }
        for _ in 0..world.rng.usize(5..60) {
            world.step(&group, schedule)?;
            if !world.device.has_power() {
                break;
            }
        }
        if world.device.has_power() && world.rng.u32(..10) < 3 && group.close().is_ok() {
            world.flushed = Some(group.head());
        }
        drop(group);
        if world.rng.u32(..10) < 7 {
            world.device.power_loss();
        }
        world.device.power_on();
        group = world.reopen()?;
        assert_eq!(group.gate(), Gate::Open { begun: false });
        for _ in 0..if schedule.window { 6 } else { 0 } {
            world.look(&group)?;
        }
    }
    Ok(world.looked)
}

fn seeds(full: u64, short: u64) -> u64 {
    if super::is_full() { full } else { short }
}

fn all(schedule: Schedule, seeds: u64) -> usize {
    (std::env::var("SEED").map_or(0, |s| s.parse().unwrap())..seeds)
        .map(|seed| run(seed, schedule).unwrap_or_else(|e| panic!("seed {seed}: {e}")))
        .sum()
}

#[test]
fn the_head_is_a_prefix_at_or_past_the_last_flush() {
    all(Schedule { window: false, forks: false }, seeds(10_000, 60));
}

#[test]
fn each_moment_inside_the_window_is_byte_exact() {
    let looked = all(Schedule { window: true, forks: false }, seeds(5_000, 40));
    assert!(looked > 30, "only {looked} moments were looked at");
}

#[test]
fn after_failovers_at_older_moments_too() {
    let looked = all(Schedule { window: true, forks: true }, seeds(5_000, 40));
    assert!(looked > 30, "only {looked} moments were looked at");
}

/// What makes the zeros above mean something.
#[test]
fn each_rule_left_out_is_caught() {
    let rules = [
        "rounds go no further than D",
        "floor before base",
        "O1: the journal is synced before a base is written",
        "R2: a round ends with a sync",
        "V4: a path ends with its moment",
        "what a file loses by shrinking is zeros",
    ];
    for rule in rules {
        LEFT_OUT.with_borrow_mut(|out| *out = vec![rule]);
        let caught = (0..1_000).any(|seed| {
            [false, true].into_iter().any(|window| run(seed, Schedule { window, forks: window }).is_err())
        });
        LEFT_OUT.with_borrow_mut(Vec::clear);
        assert!(caught, "nothing noticed that this was left out: {rule}");
    }
}
