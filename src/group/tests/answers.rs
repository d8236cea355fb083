//! What an answer promises, at the very instant at which it is given: a request that was answered is there after a kill
//! and for readers, and after a flush that was answered it is there after a power loss.

use super::model::{head_image, id, parts};
use super::space::{DISK, disk};
use crate::group::group::Reply;
use crate::group::{Group, GroupParts, Op};
use crate::journal::LEFT_OUT;
use crate::seam::{SimClock, SimDevice};
use std::sync::{Arc, Mutex};

const SIZE: u64 = 128 << 10;

/// The disk of the machine when an answer was given, and what readers saw then.
struct Answered {
    device: SimDevice,
    shown: Vec<u8>,
}

#[derive(Clone)]
struct Instant {
    group: Arc<Group>,
    device: SimDevice,
    seed: u64,
    /// The answer is that of a flush.
    durable: bool,
    answers: Arc<Mutex<Vec<Answered>>>,
}

impl Instant {
    fn reply(self) -> Reply {
        Box::new(move |result| {
            if result.is_err() {
                return;
            }
            let device = self.device.fork(self.seed);
            if self.durable {
                device.power_loss();
                device.power_on();
            }
            let mut shown = vec![0xee; SIZE as usize];
            self.group.read_head(DISK, 0, &mut shown).unwrap();
            self.answers.lock().unwrap().push(Answered { device, shown });
        })
    }
}

fn promised(seed: u64) -> Result<(), String> {
    let text = |e: crate::vocab::Error| e.to_string();
    let mut rng = fastrand::Rng::with_seed(seed);
    let device = SimDevice::new(rng.u64(..));
    device.set_fua(rng.bool());
    let clock = SimClock::new(1_700_000_000_000_000_000);
    let of_site = GroupParts { clock: Arc::new(clock.clone()), ..parts(&device, rng.u64(..)) };
    let group = Group::create(of_site, id()).map_err(text)?;
    disk(&group, SIZE).map_err(text)?;
    let mut image = vec![0; SIZE as usize];
    for step in 0..20 {
        // Now and then it goes back to plain appends.
        clock.advance(rng.u64(..100_000_000));
        let (flush, sync) = (rng.u8(..4) == 0, rng.u8(..4) == 0);
        let answers = Arc::default();
        let instant = Instant {
            group: group.clone(),
            device: device.clone(),
            seed: rng.u64(..),
            durable: flush || sync,
            answers: Arc::clone(&answers),
        };
        if flush {
            group.flush(instant.reply());
        } else {
            let length = [512, 4096, 20_000][rng.usize(..3)];
            let offset = rng.u64(..SIZE - length);
            let data: Vec<u8> = std::iter::repeat_with(|| rng.u8(1..)).take(length as usize).collect();
            image[offset as usize..][..length as usize].copy_from_slice(&data);
            group.submit(DISK, Op::Write { offset, data: &data }, sync, instant.reply());
        }
        let answers = std::mem::take(&mut *answers.lock().unwrap());
        let [answer] = &answers[..] else { return Err(format!("step {step}: {} answers", answers.len())) };
        if answer.shown != image {
            return Err(format!("step {step}: answered, and readers don't see it"));
        }
        let (again, report) = Group::open(parts(&answer.device, seed), id()).map_err(text)?;
        report.damage.map_or(Ok(()), Err)?;
        if head_image(&again).map_err(text)?.get(&DISK).is_none_or(|shown| **shown != image) {
            let what = if flush || sync { "a power loss" } else { "a kill" };
            return Err(format!("step {step}: answered, and {what} at that instant takes it"));
        }
    }
    Ok(())
}

#[test]
fn what_was_answered_is_there() {
    let full = super::is_full();
    for seed in 0..if full { 2_000 } else { 20 } {
        promised(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn an_answer_that_comes_too_early_is_caught() {
    for rule in ["G2: a request is answered when it is in the file", "a flush is answered after its sync"] {
        LEFT_OUT.with_borrow_mut(|out| *out = vec![rule]);
        let caught = (0..20).any(|seed| promised(seed).is_err());
        LEFT_OUT.with_borrow_mut(Vec::clear);
        assert!(caught, "nothing noticed that this was left out: {rule}");
    }
}

/// A request that queues behind another one sees its size; fails the other, this one must not stand alone.
fn behind_a_failure() -> Result<(), String> {
    use crate::group::line::BETWEEN;
    let text = |e: crate::vocab::Error| e.to_string();
    let device = SimDevice::new(3);
    let group = Group::create(parts(&device, 3), id()).map_err(text)?;
    disk(&group, SIZE).map_err(text)?;
    drop(group);
    let (group, _) = Group::open(parts(&device, 4), id()).map_err(text)?;
    let answered = Arc::new(Mutex::new(None));
    let (behind, full, answer) = (group.clone(), device.clone(), answered.clone());
    // The first write of this opening begins an epoch: there the second one comes in.
    BETWEEN.with_borrow_mut(|look| {
        *look = Some(Box::new(move |at| {
            if at == "the row is entered" {
                let reply: Reply = Box::new({
                    let answer = answer.clone();
                    move |result| *answer.lock().unwrap() = Some(result.is_ok())
                });
                behind.submit(DISK, Op::Write { offset: SIZE + 4096, data: &[7; 512] }, false, reply);
                full.set_room(0);
            }
        }));
    });
    let failed = super::model::submit(&group, DISK, Op::Write { offset: SIZE, data: &[5; 90_000] }, false);
    BETWEEN.with_borrow_mut(|look| *look = None);
    device.set_room(1 << 40);
    if failed.is_ok() {
        return Err("the filesystem was full, and the write found room".into());
    }
    let second = answered.lock().unwrap().ok_or("the second write got no answer")?;
    let shown = head_image(&group).map_err(text)?;
    drop(group);
    let (group, _) = Group::open(parts(&device, 5), id()).map_err(text)?;
    if head_image(&group).map_err(text)? != shown {
        return Err("names and sizes were others before the restart".into());
    }
    let there = shown[&DISK].len() as u64 > SIZE + 4096;
    if second != there { Err("answered, and not there".into()) } else { Ok(()) }
}

#[test]
fn what_entered_behind_a_failed_append_fails_with_it() {
    behind_a_failure().unwrap();
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["what entered behind a failed append fails with it"]);
    let caught = behind_a_failure();
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(caught.is_err(), "a write stood on a size that no record has");
}
