//! Two sites with the real engine on simulated devices, one group, driven by the exchange over a link that breaks.
//!
//! Oracle: each moment, by its name, has one image for ever, wherever and however it is shown: at the head of a site, in
//! a view, after recovery, after a copy. What is made durable at a writer is not lost by it. After a person has settled
//! who writes, both sites come to one moment with the same bytes.

use super::model::{Image, Model, difference, head_image, moment_image};
use super::site::{Site, gate_of};
use crate::exchange::{Report, wire};
use crate::group::{Backlog, Care, Gate, Group, Output};
use crate::history::{RowKind, Table};
use crate::vocab::Moment;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) type Checked = Result<(), String>;

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) now: u64,
    pub(super) sites: [Site; 2],
    pub(super) linked: bool,
    /// What every moment shows; `now` is that of the site that was last at work.
    pub(super) model: Model,
    pub(super) counts: BTreeMap<&'static str, u64>,
    flipped: bool,
    /// A device fails on command: what can't be kept closes the connection.
    pub(super) failing: bool,
}

pub(super) fn text(e: impl ToString) -> String {
    e.to_string()
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let sites = [0, 1].map(|site| Site::new(site, &mut rng));
        let (model, counts) = (Model::new(), BTreeMap::new());
        Self { rng, now: 1, sites, linked: false, model, counts, flipped: false, failing: false }
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// What happens, where one seed is looked at.
    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if std::env::var("SEED").is_ok() {
            eprintln!("{} {}", self.now, what());
        }
    }

    pub(super) fn group(&self, site: usize) -> Arc<Group> {
        self.sites[site].group.clone()
    }

    /// An operation that fails because the power does is none; the site comes back.
    pub(super) fn powered<T>(&mut self, site: usize, done: Result<T, String>) -> Result<Option<T>, String> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(_) if !self.sites[site].device.has_power() => Ok(None),
            Err(e) => Err(format!("site {site}: {e}")),
        }
    }

    pub(super) fn handle(&mut self, site: usize, outputs: Vec<Output>) -> Checked {
        for output in outputs {
            match output {
                Output::Send(frame) => {
                    let bytes = wire::encode(&frame, Some(1)).map_err(text)?;
                    if self.linked {
                        self.sites[1 - site].inbox.push_back(bytes);
                    }
                }
                Output::Timer(at) => self.sites[site].timer = at,
                Output::Report(report) => {
                    match report {
                        Report::CopySkipped { .. } => self.count("skips"),
                        Report::CopyResumed { .. } => self.count("resumed"),
                        _ => {}
                    }
                    self.tell(|| format!("site {site}: {report:?}"));
                }
                Output::HandOver(op) => {
                    let now = self.now;
                    let out = self.sites[site].driver.hand_over(now, op, Ok(()));
                    self.handle(site, out)?;
                }
                Output::Met(verdict) => self.sites[site].verdict = Some(*verdict),
                Output::Close { name, text } => {
                    self.tell(|| format!("site {site} closes: {name}: {text}"));
                    if name == "damaged" && self.sites[site].device.has_power() && !self.failing {
                        let layout = self.sites[site].group.layout();
                        return Err(format!("site {site} closes: {name}: {text}\n{layout}"));
                    }
                    if name == "corruption" && !self.flipped {
                        return Err(format!("site {site} closes: {name}: {text}"));
                    }
                    self.cut()?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn cut(&mut self) -> Checked {
        self.linked = false;
        for site in 0..2 {
            self.sites[site].inbox.clear();
            self.sites[site].verdict = None;
            let now = self.now;
            let out = self.sites[site].driver.disconnected(now);
            self.handle(site, out)?;
        }
        Ok(())
    }

    pub(super) fn connect(&mut self) -> Checked {
        if self.linked {
            return Ok(());
        }
        self.linked = true;
        for site in 0..2 {
            let now = self.now;
            let out = self.sites[site].driver.connected(now);
            self.handle(site, out)?;
        }
        Ok(())
    }

    pub(super) fn deliver(&mut self, site: usize) -> Result<bool, String> {
        let Some(bytes) = self.sites[site].inbox.pop_front() else { return Ok(false) };
        let (head, body) = bytes.split_first_chunk().ok_or("a frame without a header")?;
        let frame = wire::FrameHeader::decode(head).and_then(|header| wire::decode(&header, body));
        let frame = match frame {
            Ok(frame) => frame,
            Err(_) if self.flipped => {
                self.cut()?;
                return Ok(true);
            }
            Err(e) => return Err(text(e)),
        };
        let now = self.now;
        let out = self.sites[site].driver.received(now, frame);
        self.handle(site, out)?;
        Ok(true)
    }

    pub(super) fn tick(&mut self) -> Checked {
        self.now += 30_000_000;
        for site in 0..2 {
            let now = self.now;
            self.sites[site].clock.advance(30_000_000);
            if self.sites[site].timer <= now {
                self.sites[site].timer = u64::MAX;
                let out = self.sites[site].driver.timer(now);
                self.handle(site, out)?;
            }
            let out = self.sites[site].driver.progress(now);
            self.handle(site, out)?;
        }
        Ok(())
    }

    /// What a moment shows: that of a row what the one before it shows.
    pub(super) fn truth(&self, table: &Table, moment: Moment) -> Option<&Image> {
        let mut at = table.norm(moment).ok()?;
        loop {
            if let Some(image) = self.model.moments.get(&at) {
                return Some(image);
            }
            if table.row(at.epoch).is_none_or(|row| row.first_seq() != at.seq) {
                return None;
            }
            at = table.below(at).ok()??;
        }
    }

    pub(super) fn restart(&mut self, site: usize, power: bool) -> Checked {
        self.tell(|| format!("site {site} restarts, power {power}"));
        self.cut()?;
        if power {
            self.sites[site].device.power_loss();
            self.sites[site].device.power_on();
        }
        loop {
            if power && self.rng.u32(..10) < 3 {
                let at = self.rng.u64(1..40);
                self.sites[site].device.power_loss_at(at);
            }
            let seed = self.rng.u64(..);
            let opened = self.sites[site].open(site, seed);
            if !self.sites[site].device.has_power() {
                self.sites[site].device.power_on();
                continue;
            }
            self.sites[site].device.power_loss_at(1 << 60);
            let group = opened?;
            self.sites[site].driver = Site::driver(&group, site);
            self.sites[site].group = group;
            return self.came_back(site);
        }
    }

    /// The head after a recovery is a moment that was, with its bytes.
    pub(super) fn came_back(&mut self, site: usize) -> Checked {
        let group = self.group(site);
        let failed = self.sites[site].failed.take();
        if !group.has_image() {
            return Ok(());
        }
        let (head, table) = (group.head(), group.table());
        let got = head_image(&group).map_err(|e| format!("site {site}: head {head} can't be read: {e}"))?;
        if let Some(known) = self.truth(&table, head) {
            if let Some(what) = difference(&got, known) {
                return Err(format!("site {site} after a restart at {head}: {what}\n{}", group.layout()));
            }
        } else {
            // What failed with the power may have landed.
            let before = table.below(head).map_err(text)?.and_then(|m| self.truth(&table, m)).cloned();
            let known =
                [failed, before].into_iter().flatten().any(|image| difference(&got, &image).is_none());
            if !known {
                return Err(format!("site {site} after a restart: the head {head} is no moment that was"));
            }
        }
        self.sites[site].now = got.clone();
        self.model.moments.insert(head, got);
        self.model.order.push(head);
        Ok(())
    }

    pub(super) fn note(&mut self, site: usize) {
        let head = self.sites[site].group.head();
        self.model.moments.insert(head, self.sites[site].now.clone());
        self.model.order.push(head);
    }

    pub(super) fn operate(&mut self, site: usize, add: bool) -> Checked {
        let group = self.group(site);
        if !matches!(group.gate(), Gate::Open { .. }) {
            return Ok(());
        }
        // It may have been decided by what the sites said to each other.
        let head = group.head();
        if head.seq.0 > 0 {
            let known = self.truth(&group.table(), head).cloned();
            self.sites[site].now = known.ok_or_else(|| format!("site {site}: {head} never was"))?;
        }
        self.model.now = self.sites[site].now.clone();
        let done = if add {
            self.model.add(&group, &mut self.rng)
        } else {
            self.model.operate(&group, &mut self.rng, true)
        };
        let image = self.model.now.clone();
        if self.powered(site, done.map_err(text))?.is_none() {
            self.sites[site].failed = Some(image);
            return Ok(());
        }
        self.sites[site].now = image;
        self.note(site);
        Ok(())
    }

    /// The head, and some moment.
    pub(super) fn check(&mut self, site: usize) -> Checked {
        let group = self.group(site);
        if !group.has_image() {
            return Ok(());
        }
        let (head, table) = (group.head(), group.table());
        let Some(got) = self.powered(site, head_image(&group).map_err(text))? else { return Ok(()) };
        let known = self.truth(&table, head).ok_or_else(|| format!("site {site}: {head} never was"))?.clone();
        if let Some(what) = difference(&got, &known) {
            return Err(format!("site {site} at its head {head}: {what}\n{}", group.layout()));
        }
        // V1 of `read`: what every line that goes on from here rests on.
        let viewed = moment_image(&group, head);
        let viewed = viewed.map_err(|e| format!("the head {head} can't be opened: {e}\n{}", group.layout()));
        let Some(viewed) = self.powered(site, viewed)? else { return Ok(()) };
        if let Some(what) = difference(&viewed, &known) {
            return Err(format!("site {site}, its head {head} as a moment: {what}\n{}", group.layout()));
        }
        let moment = self.model.order[self.rng.usize(..self.model.order.len())];
        match moment_image(&group, moment) {
            Err(e) if e.kind() == crate::vocab::Kind::NotFound => Ok(()),
            Err(_) if !self.sites[site].device.has_power() => Ok(()),
            Err(e) => Err(format!("site {site}, {moment}: {e}")),
            Ok(image) => {
                self.count("moments seen");
                let known = self.truth(&table, moment).ok_or("a moment that never was")?;
                difference(&image, known).map_or(Ok(()), |what| {
                    Err(format!("site {site}, moment {moment}: {what}\n{}", group.layout()))
                })
            }
        }
    }

    fn upkeep(&mut self, site: usize) -> Checked {
        let group = self.group(site);
        let done = if self.rng.bool() {
            group.checkpoint().map_err(text)
        } else {
            let pinned = group.gate() == Gate::Frozen || !self.sites[site].uncommitted().is_empty();
            let care = Care {
                sync_ns: 0,
                window_ns: None,
                pinned,
                fork: None,
                allowance: None,
                lines: None,
                backlog: Backlog::NONE,
            };
            let done = group.round_with(care).map(|_| ());
            // The moment that pins the base may have left the path with a decision.
            done.or_else(|e| if e.kind() == crate::vocab::Kind::NotFound { Ok(()) } else { Err(e) })
                .map_err(text)
        };
        self.powered(site, done).map(|_| ())
    }

    fn step(&mut self, commands: bool) -> Checked {
        let site = self.rng.usize(..2);
        match self.rng.u32(..1000) {
            0..300 => self.operate(site, false)?,
            300..320 => self.operate(site, true)?,
            320..380 => {
                let done = self.sites[site].group.sync().map_err(text);
                self.powered(site, done)?;
            }
            380..740 => _ = self.deliver(site)?,
            740..850 => self.tick()?,
            850..890 => self.connect()?,
            890..900 => self.cut()?,
            900..908 => {
                let power = self.rng.bool();
                self.restart(site, power)?;
            }
            908..920 => {
                let at = self.rng.u64(1..60);
                self.sites[site].device.power_loss_at(at);
            }
            920..940 => self.upkeep(site)?,
            940..944 => {
                let step = self.rng.i64(-3_600_000_000_000..3_600_000_000_000);
                self.sites[site].clock.step_wall(step);
            }
            944..948 => {
                let flip = self.rng.u64(..);
                if let Some(frame) = self.sites[site].inbox.front_mut() {
                    let at = flip as usize % frame.len();
                    frame[at] ^= 1 << (flip >> 32 & 7);
                    self.flipped = true;
                }
            }
            948..985 if commands => self.command(site)?,
            _ => self.check(site)?,
        }
        self.repower()
    }

    pub(super) fn repower(&mut self) -> Checked {
        for site in 0..2 {
            if !self.sites[site].device.has_power() {
                self.count("power losses");
                self.restart(site, true)?;
            }
        }
        Ok(())
    }

    fn at_one(&self) -> bool {
        let heads = [0, 1].map(|s| self.sites[s].group.head());
        let gates = [0, 1].map(|s| self.sites[s].group.gate());
        let one = gates.iter().any(|g| matches!(g, Gate::Open { .. })) && gates.contains(&Gate::Target);
        one && heads[0] == heads[1] && self.sites.iter().all(|s| s.group.has_image())
    }

    /// Lets everything that is under way come to its end. Whether both stand at one moment then.
    pub(super) fn quiet(&mut self) -> Result<bool, String> {
        let mut still = 0;
        for _ in 0..6_000 {
            self.connect()?;
            let mut moved = false;
            for site in 0..2 {
                moved |= self.deliver(site)?;
            }
            if !moved {
                for site in 0..2 {
                    self.sites[site].group.sync().map_err(text)?;
                }
                self.tick()?;
                still += 1;
                if self.at_one() {
                    return Ok(true);
                }
            } else {
                still = 0;
            }
            if still > 120 {
                break;
            }
        }
        Ok(false)
    }

    /// Both come to one moment without anybody's help.
    pub(super) fn settle(&mut self) -> Checked {
        if self.quiet()? {
            return Ok(());
        }
        Err(format!("not caught up: {}", self.stand()))
    }

    /// The histories of both, for whoever looks at one seed.
    pub(super) fn story(&self) -> String {
        let lines = |site: usize| {
            let group = &self.sites[site].group;
            let events = group.events().into_iter().map(|(_, e)| format!("  {e:?}\n")).collect::<String>();
            format!("site {site}:\n{events}{}", group.layout())
        };
        format!("{}{}", lines(0), lines(1))
    }

    pub(super) fn stand(&self) -> String {
        let site = |s: usize| {
            let (group, driver) = (&self.sites[s].group, &self.sites[s].driver);
            format!("{} {:?} {:?} {:?}", group.head(), group.gate(), driver.state(), self.sites[s].verdict)
        };
        format!("{}; {}", site(0), site(1))
    }
}

pub(super) fn begin(seed: u64) -> Result<World, String> {
    let mut w = World::new(seed);
    w.note(0);
    w.operate(0, true)?;
    for _ in 0..w.rng.usize(0..30) {
        w.operate(0, false)?;
    }
    if w.rng.bool() {
        w.group(0).round(None).map_err(text)?; // a disk that holds data already, its records gone
    }
    Ok(w)
}

fn run(seed: u64, commands: bool, counts: &mut BTreeMap<&'static str, u64>) -> Checked {
    let mut w = begin(seed)?;
    let done = w.all(commands);
    if done.is_err() {
        w.tell(|| w.story());
    }
    for (what, n) in w.counts {
        *counts.entry(what).or_default() += n;
    }
    done
}

impl World {
    fn all(&mut self, commands: bool) -> Checked {
        for _ in 0..self.rng.usize(60..if commands { 600 } else { 300 }) {
            self.step(commands)?;
        }
        self.resolve()?;
        for site in 0..2 {
            self.check(site)?;
        }
        let [a, b] = [0, 1].map(|s| head_image(&self.sites[s].group).map_err(text));
        if let Some(what) = difference(&b?, &a?) {
            return Err(format!("both at one moment, and site 1 {what}"));
        }
        // Whoever follows goes on alone, the other gone for ever.
        let target = usize::from(gate_of(&self.sites[0].group, 0) != Gate::Target);
        self.cut()?;
        let head = self.sites[target].group.head();
        self.decide(target, head, RowKind::Failover, None)?;
        for _ in 0..10 {
            self.operate(target, false)?;
        }
        self.check(target)
    }
}

fn seeds(full: u64, short: u64) -> std::ops::Range<u64> {
    if let Ok(seed) = std::env::var("SEED") {
        let seed = seed.parse().unwrap();
        return seed..seed + 1;
    }
    0..if super::is_full() { full } else { short }
}

fn many(commands: bool, seeds: std::ops::Range<u64>) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for seed in seeds {
        run(seed, commands, &mut counts).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    println!("{counts:?}");
    counts
}

#[test]
fn a_target_follows_through_everything_and_fails_over_alone() {
    many(false, seeds(2_000, 30));
}

#[test]
fn every_moment_keeps_its_image_through_all_that_people_do() {
    let counts = many(true, seeds(2_000, 30));
    for what in ["failovers", "rollbacks", "changes of point", "reprotects", "commits", "forced", "resolved"]
    {
        assert!(counts.get(what).is_some_and(|n| *n > 0), "{what} never happened: {counts:?}");
    }
}
