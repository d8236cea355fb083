//! Two sites with the real engine on simulated devices, one group, driven by the exchange over a link that breaks.
//!
//! Oracle: what the target shows at its head is what the source showed at that moment; it holds nothing that the
//! source has lost; after a quiet time on a whole link both stand at one moment with the same bytes; and a target
//! that fails over, with the source gone for ever, goes on from what it held.

use super::model::{Model, difference, head_image, id, moment_image, parts};
use crate::exchange::wire;
use crate::group::{Driver, Gate, Group, Output};
use crate::history::RowKind;
use crate::seam::SimDevice;
use crate::vocab::{Moment, StoreId, Token};
use std::collections::VecDeque;
use std::sync::Arc;

pub(super) struct Site {
    device: SimDevice,
    pub(super) group: Arc<Group>,
    driver: Driver,
    inbox: VecDeque<Vec<u8>>,
    timer: u64,
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    now: u64,
    pub(super) sites: [Site; 2],
    linked: bool,
    pub(super) model: Model,
}

fn store(site: usize) -> StoreId {
    StoreId([site as u8 + 1; 16])
}

fn open(device: &SimDevice, seed: u64, site: usize) -> Result<Arc<Group>, String> {
    let mut parts = parts(device, seed);
    parts.store_id = store(site);
    let (group, report) = Group::open(parts, id()).map_err(|e| format!("site {site} can't open: {e}"))?;
    if let Some(damage) = report.damage {
        return Err(format!("site {site} is damaged without rot: {damage}"));
    }
    if site == 1 {
        group.freeze(Gate::Target);
    }
    Ok(group)
}

fn driver(group: &Arc<Group>, site: usize) -> Driver {
    Driver::new(group.clone(), Driver::settings(group, store(1 - site), None))
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let sites = [0, 1].map(|site| {
            let device = SimDevice::new(rng.u64(..));
            device.set_fua(rng.bool());
            let mut parts = parts(&device, rng.u64(..));
            parts.store_id = store(site);
            let group = match site {
                0 => Group::create(parts, id()).unwrap(),
                _ => Group::create_target(parts, id()).unwrap(),
            };
            let driver = driver(&group, site);
            Site { device, group, driver, inbox: VecDeque::new(), timer: u64::MAX }
        });
        Self { rng, now: 1, sites, linked: false, model: Model::new() }
    }

    fn handle(&mut self, site: usize, outputs: Vec<Output>) -> Result<(), String> {
        for output in outputs {
            match output {
                Output::Send(frame) => {
                    let bytes = wire::encode(&frame, Some(1)).map_err(|e| e.to_string())?;
                    if self.linked {
                        self.sites[1 - site].inbox.push_back(bytes);
                    }
                }
                Output::Timer(at) => self.sites[site].timer = at,
                Output::Close { name, text } => {
                    if name == "damaged" {
                        return Err(format!("site {site} closes: {name}: {text}"));
                    }
                    self.cut()?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), String> {
        self.linked = false;
        for site in 0..2 {
            self.sites[site].inbox.clear();
            let now = self.now;
            let out = self.sites[site].driver.disconnected(now);
            self.handle(site, out)?;
        }
        Ok(())
    }

    pub(super) fn connect(&mut self) -> Result<(), String> {
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
        let header = wire::FrameHeader::decode(head).map_err(|e| e.to_string())?;
        let frame = wire::decode(&header, body).map_err(|e| e.to_string())?;
        let now = self.now;
        let out = self.sites[site].driver.received(now, frame);
        self.handle(site, out)?;
        Ok(true)
    }

    pub(super) fn tick(&mut self) -> Result<(), String> {
        self.now += 30_000_000;
        for site in 0..2 {
            let now = self.now;
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

    fn restart(&mut self, site: usize, power: bool) -> Result<(), String> {
        self.cut()?;
        if power {
            self.sites[site].device.power_loss();
            self.sites[site].device.power_on();
        }
        let seed = self.rng.u64(..);
        let group = open(&self.sites[site].device.clone(), seed, site)?;
        self.sites[site].driver = driver(&group, site);
        self.sites[site].group = group;
        if site == 0 {
            self.source_came_back()?;
        }
        Ok(())
    }

    /// The model forgets what the source has lost; the target must not have had it.
    fn source_came_back(&mut self) -> Result<(), String> {
        let head = self.sites[0].group.head();
        let image = head_image(&self.sites[0].group).map_err(|e| e.to_string())?;
        if let Some(known) = self.model.moments.get(&head)
            && let Some(what) = difference(&image, known)
        {
            return Err(format!("the source after a restart at {head}: {what}"));
        }
        self.model.now = image;
        self.model.note(head);
        if self.sites[1].group.has_image() {
            let target = self.sites[1].group.head();
            let (table, theirs) = (self.sites[0].group.table(), self.sites[1].group.table());
            let mut all = table.clone();
            all.merge(&theirs).map_err(|e| e.to_string())?;
            if !all.is_on_line(target, head).unwrap_or(false) {
                return Err(format!(
                    "the target holds {target}, which is not on the source's line to {head}"
                ));
            }
        }
        Ok(())
    }

    fn check_target(&mut self) -> Result<(), String> {
        let group = self.sites[1].group.clone();
        if !group.has_image() {
            return Ok(());
        }
        let head = group.head();
        let got = moment_image(&group, head).map_err(|e| format!("the target can't show {head}: {e}"))?;
        let table = group.table();
        let mut moment = Some(head);
        while let Some(m) = moment {
            if let Some(expected) = self.model.moments.get(&m) {
                return difference(&got, expected)
                    .map_or(Ok(()), |what| Err(format!("target at {head}: {what}")));
            }
            // The moment of a row or of a part of a request: it shows what the one before it shows only for rows.
            moment = table.below(m).map_err(|e| e.to_string())?;
            if table.row(head.epoch).is_none_or(|r| r.first_seq() != m.seq) {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.connect()?;
        for _ in 0..4_000 {
            self.connect()?;
            let mut moved = false;
            for site in 0..2 {
                moved |= self.deliver(site)?;
            }
            if !moved {
                self.sites[0].group.sync().map_err(|e| e.to_string())?;
                self.tick()?;
                let heads = [0, 1].map(|s| self.sites[s].group.head());
                if heads[0] == heads[1] && self.sites[1].group.has_image() {
                    return Ok(());
                }
            }
        }
        let heads = [0, 1].map(|s| self.sites[s].group.head());
        Err(format!("not caught up: {} and {}; {:?}", heads[0], heads[1], self.sites[0].driver.state()))
    }
}

fn run(seed: u64) -> Result<(), String> {
    let mut w = World::new(seed);
    let source = w.sites[0].group.clone();
    w.model.note(source.head());
    w.model.add(&source, &mut w.rng).map_err(|e| e.to_string())?;
    w.model.note(source.head());
    for _ in 0..w.rng.usize(0..30) {
        w.model.operate(&source, &mut w.rng, false).map_err(|e| e.to_string())?;
        w.model.note(source.head());
    }
    if w.rng.bool() {
        source.round(None).map_err(|e| e.to_string())?; // a disk that holds data already, its records gone
    }
    drop(source);
    for _ in 0..w.rng.usize(30..200) {
        let dice = w.rng.u32(..100);
        let group = w.sites[0].group.clone();
        match dice {
            0..30 => {
                w.model.operate(&group, &mut w.rng, false).map_err(|e| e.to_string())?;
                w.model.note(group.head());
            }
            30..33 => {
                w.model.add(&group, &mut w.rng).map_err(|e| e.to_string())?;
                w.model.note(group.head());
            }
            33..38 => _ = group.sync().map_err(|e| e.to_string())?,
            38..75 => {
                let site = w.rng.usize(..2);
                w.deliver(site)?;
            }
            75..88 => w.tick()?,
            88..93 => w.connect()?,
            93..95 => w.cut()?,
            95..97 => {
                let site = w.rng.usize(..2);
                let power = w.rng.bool();
                drop(group);
                w.restart(site, power)?;
            }
            _ => w.check_target()?,
        }
    }
    w.settle()?;
    w.check_target()?;
    let [a, b] = [0, 1].map(|s| head_image(&w.sites[s].group).map_err(|e| e.to_string()));
    if let Some(what) = difference(&b?, &a?) {
        return Err(format!("both at one moment, and the target {what}"));
    }
    fail_over(&mut w)
}

/// The source is gone for ever: the target goes on from its newest moment, at once, and keeps what is written.
fn fail_over(w: &mut World) -> Result<(), String> {
    w.cut()?;
    let target = w.sites[1].group.clone();
    let before = head_image(&target).map_err(|e| e.to_string())?;
    let head: Moment = target.head();
    target.decide(head, RowKind::Failover, Token([7; 16]), None).map_err(|e| format!("failover: {e}"))?;
    let after = head_image(&target).map_err(|e| e.to_string())?;
    if let Some(what) = difference(&after, &before) {
        return Err(format!("after the failover: {what}"));
    }
    w.model.now = after;
    for _ in 0..10 {
        w.model.operate(&target, &mut w.rng, true).map_err(|e| e.to_string())?;
    }
    let got = head_image(&target).map_err(|e| e.to_string())?;
    difference(&got, &w.model.now).map_or(Ok(()), |what| Err(format!("written after the failover: {what}")))
}

#[test]
fn a_target_follows_through_everything_and_fails_over_alone() {
    let full = std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full");
    for seed in 0..if full { 2_000 } else { 40 } {
        run(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}
