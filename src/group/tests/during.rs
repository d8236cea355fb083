//! What others do while a round writes its bases (O6 of `round`): they write, decide, take back, checkpoint, and the power
//! fails.

use super::model::{Image, difference, head_image, id, moment_image, parts, submit};
use super::sites::text;
use super::space::{DISK, disk};
use crate::group::line::BETWEEN;
use crate::group::{Group, Op};
use crate::history::RowKind;
use crate::journal::LEFT_OUT;
use crate::seam::SimDevice;
use crate::vocab::{Kind, Moment, Token};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

const SIZE: u64 = 64 << 10;

type Checked<T> = Result<T, String>;

/// What everybody knows.
struct World {
    device: SimDevice,
    rng: fastrand::Rng,
    group: Arc<Group>,
    now: Image,
    known: Vec<(Moment, Image)>,
    tokens: u128,
    decided_meanwhile: usize,
}

impl World {
    fn write(&mut self) -> Checked<()> {
        let length = self.rng.u64(1..12 << 10);
        let offset = self.rng.u64(..SIZE - length);
        let tag = self.rng.u8(1..);
        let data = vec![tag; length as usize];
        submit(&self.group, DISK, Op::Write { offset, data: &data }, self.rng.bool()).map_err(text)?;
        let image = self.now.get_mut(&DISK).ok_or("no disk")?;
        Arc::make_mut(image)[offset as usize..][..length as usize].copy_from_slice(&data);
        if self.rng.u32(..3) == 0 {
            self.known.push((self.group.head(), self.now.clone()));
        }
        Ok(())
    }

    fn decide(&mut self) -> Checked<()> {
        let at = self.rng.usize(..self.known.len());
        let (moment, image) = self.known[at].clone();
        self.tokens += 1;
        match self.group.decide(moment, RowKind::Failover, Token(self.tokens.to_le_bytes()), None) {
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            Err(e) => Err(text(e)),
            Ok(_) => {
                self.decided_meanwhile += 1;
                self.now = image;
                Ok(())
            }
        }
    }

    /// Done while a base is written. `false`: the power is gone.
    fn meanwhile(&mut self) -> Checked<bool> {
        for _ in 0..self.rng.u32(..4) {
            match self.rng.u32(..4) {
                0 => self.write()?,
                1 => self.group.checkpoint().map_err(text)?,
                _ => self.decide()?,
            }
        }
        difference(&head_image(&self.group).map_err(text)?, &self.now).map_or(Ok(()), Err)?;
        if self.rng.u32(..6) == 0 {
            self.group.sync().map_err(text)?;
            self.device.power_loss();
            return Ok(false);
        }
        Ok(true)
    }

    fn check(&mut self) -> Checked<()> {
        difference(&head_image(&self.group).map_err(text)?, &self.now)
            .map_or(Ok(()), |d| Err(format!("the head: {d}")))?;
        let mut held = Vec::new();
        for (moment, image) in std::mem::take(&mut self.known) {
            match moment_image(&self.group, moment) {
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(format!("{moment}: {e}")),
                Ok(found) => {
                    difference(&found, &image).map_or(Ok(()), |d| Err(format!("{moment}: {d}")))?;
                    held.push((moment, image));
                }
            }
        }
        self.known = held;
        Ok(())
    }
}

fn run(seed: u64) -> Checked<usize> {
    let device = SimDevice::new(seed);
    let group = Group::create(parts(&device, seed), id()).map_err(text)?;
    disk(&group, SIZE).map_err(text)?;
    let now = head_image(&group).map_err(text)?;
    let known = vec![(group.head(), now.clone())];
    let rng = fastrand::Rng::with_seed(seed);
    let world = World { device, rng, group, now, known, tokens: 0, decided_meanwhile: 0 };
    let world = Rc::new(RefCell::new(world));
    for turn in 0..12 {
        let (group, limit) = {
            let mut w = world.borrow_mut();
            for _ in 0..w.rng.u32(1..12) {
                w.write()?;
            }
            // What is chosen meanwhile lies between where the base stood and where it goes, below, or above.
            let count = w.known.len();
            let at = w.rng.usize(..count);
            let limit = w.group.place_behind(w.known[at].0).ok();
            (w.group.clone(), limit)
        };
        let failed = Rc::new(RefCell::new(None));
        let (others, told) = (world.clone(), failed.clone());
        BETWEEN.with_borrow_mut(|look| {
            *look = Some(Box::new(move |step| {
                let writes = step == "a base is written" || step == "bases are written";
                let Ok(mut w) = others.try_borrow_mut() else { return };
                if writes
                    && w.device.has_power()
                    && let Err(e) = w.meanwhile()
                {
                    *told.borrow_mut() = Some(e);
                }
            }));
        });
        let done = group.round(limit);
        BETWEEN.with_borrow_mut(|look| *look = None);
        if let Some(e) = failed.borrow_mut().take() {
            return Err(format!("turn {turn}: {e}"));
        }
        let mut w = world.borrow_mut();
        if w.device.has_power() {
            // A limit may lie on a branch by now.
            done.map(drop).or_else(|e| if e.kind() == Kind::Conflict { Ok(()) } else { Err(text(e)) })?;
        } else {
            w.device.power_on();
            drop(group);
            let (group, report) = Group::open(parts(&w.device, seed + turn + 1), id()).map_err(text)?;
            report.damage.map_or(Ok(()), Err)?;
            w.group = group;
        }
        w.check().map_err(|e| format!("turn {turn}: {e}"))?;
    }
    Ok(Rc::try_unwrap(world).map_or(0, |w| w.into_inner().decided_meanwhile))
}

#[test]
fn nobody_waits_for_a_base_and_nothing_is_wrong() {
    let mut decided = 0;
    for seed in 0..if super::is_full() { 5_000 } else { 60 } {
        decided += run(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    assert!(decided > 60, "{decided} decisions while a base was written");
}

#[test]
fn a_base_that_is_written_before_its_floor_is_caught() {
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["floor before base"]);
    let caught = (0..60).any(|seed| run(seed).is_err());
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(caught, "a decision below the floor showed the right bytes");
}
