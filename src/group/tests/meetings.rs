//! Two at one instant, as an exact schedule: what one does between two steps of the other.

use super::FREE;
use super::model::{head_image, id, moment_image, parts, submit};
use super::site::store;
use super::space::{DISK, disk, write};
use crate::exchange::DiskRange;
use crate::group::line::BETWEEN;
use crate::group::{Care, Driver, Gate, Group, Op, Upkeep};
use crate::history::RowKind;
use crate::journal::LEFT_OUT;
use crate::seam::SimDevice;
use crate::vocab::{Kind, Token};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SIZE: u64 = 64 << 10;

fn group(seed: u64) -> (SimDevice, Arc<Group>) {
    let device = SimDevice::new(seed);
    let group = Group::create(parts(&device, seed), id()).unwrap();
    disk(&group, SIZE).unwrap();
    (device, group)
}

/// Does something once, at a step of this thread.
fn at(step: &'static str, act: impl FnOnce() + 'static) {
    let mut act = Some(act);
    BETWEEN.with_borrow_mut(|look| {
        *look = Some(Box::new(move |now| {
            if now == step
                && let Some(act) = act.take()
            {
                act();
            }
        }));
    });
}

fn without<T>(rule: &'static str, run: impl FnOnce() -> T) -> T {
    // V8 of `read` looks again, too, where a round begins.
    let others =
        if rule == V7 { vec!["V8: a read that a round begins beside looks again"] } else { Vec::new() };
    LEFT_OUT.with_borrow_mut(|out| *out = [vec![rule], others].concat());
    let result = run();
    LEFT_OUT.with_borrow_mut(Vec::clear);
    BETWEEN.with_borrow_mut(|look| *look = None);
    result
}

const V7: &str = "V7: a base that came meanwhile is seen";

/// The first round makes the base while a read has begun without one; enough is written that the segment goes.
fn read_meets_the_first_base() -> bool {
    let (_device, group) = group(1);
    (0..200).for_each(|n| _ = write(&group, n % 16 + 1));
    let behind = group.clone();
    at("a read has its line", move || _ = behind.round(None).unwrap());
    let bytes = head_image(&group).unwrap()[&DISK].clone();
    bytes
        .chunks(4096)
        .enumerate()
        .all(|(n, block)| block.iter().all(|b| *b == if n == 0 { 16 } else { n as u8 }))
}

/// Two blocks, one of them in the base: both are written at once, and destaged, after a read has taken the other from
/// the log.
fn read_meets_a_round() -> bool {
    let (_device, group) = group(4);
    (1..3).for_each(|tag| _ = write(&group, tag));
    group.round(None).unwrap();
    write(&group, 1);
    let behind = group.clone();
    at("a read has bytes of the log", move || {
        submit(&behind, DISK, Op::Write { offset: 4096, data: &[9; 8192] }, false).unwrap();
        behind.round(None).unwrap();
    });
    let mut bytes = [0xee; 8192];
    group.read_head(DISK, 4096, &mut bytes).unwrap();
    BETWEEN.with_borrow_mut(|look| *look = None);
    // One write is seen as a whole or not at all.
    bytes == [9; 8192] || bytes[..4096] == [1; 4096] && bytes[4096..] == [2; 4096]
}

#[test]
fn one_write_is_read_as_a_whole_while_it_goes_to_the_base() {
    assert!(read_meets_a_round());
    assert!(!without("V8: a read that a round begins beside looks again", read_meets_a_round));
}

/// A view that was opened before its disk had a base.
fn view_meets_the_first_base() -> bool {
    let (_device, group) = group(2);
    (0..200).for_each(|n| _ = write(&group, n % 16 + 1));
    let moment = group.head();
    let before = moment_image(&group, moment).unwrap();
    let view = group.open_moment(moment).unwrap();
    group.round(None).unwrap();
    let mut bytes = vec![0xee; SIZE as usize];
    group.read_moment(&view, DISK, 0, &mut bytes).unwrap();
    let data = group.next_data_of(&view, DISK, 4096, SIZE).unwrap();
    bytes == **before.get(&DISK).unwrap() && data == Some(4096)
}

#[test]
fn a_base_that_comes_while_it_is_read_is_seen() {
    assert!(read_meets_the_first_base());
    assert!(view_meets_the_first_base());
    assert!(!without(V7, read_meets_the_first_base), "the head was right without its base");
    assert!(!without(V7, view_meets_the_first_base), "a moment was right without its base");
}

/// A fence closes the gate while a leader begins the epoch of this opening.
fn fence_meets_an_opening() -> bool {
    let (device, old) = group(3);
    write(&old, 1);
    drop(old);
    let (group, _) = Group::open(parts(&device, 4), id()).unwrap();
    let fence = group.clone();
    at("the row is entered", move || fence.queue.lock().set_gate(Gate::Frozen));
    write(&group, 2);
    let data = [3; 512];
    group.gate() == Gate::Frozen
        && submit(&group, DISK, Op::Write { offset: 0, data: &data }, false)
            .is_err_and(|e| e.kind() == Kind::NoSpace)
}

#[test]
fn a_gate_that_is_closed_during_an_opening_stays_closed() {
    assert!(fence_meets_an_opening());
    assert!(
        !without("G3: a gate that was closed stays closed", fence_meets_an_opening),
        "a write came behind a fence"
    );
}

#[test]
fn a_gate_that_is_closed_while_a_failure_is_mended_stays_closed() {
    let (_device, group) = group(5);
    let mut queue = group.queue.lock();
    queue.stop();
    queue.set_gate(Gate::Frozen);
    assert_eq!((queue.gate, queue.wanted()), (Gate::Stopped, Gate::Frozen));
    drop(queue);
    group.log.poison("a sync failed");
    group.mend().unwrap();
    assert_eq!(group.gate(), Gate::Frozen);
}

/// A reader of the chain goes on to the log's end, and then the driver asks what is durable.
fn what_stands_durable() -> bool {
    let (_device, group) = group(6);
    // More than are appended durably behind a flush.
    (0..40).for_each(|_| _ = write(&group, 1));
    group.sync().unwrap();
    let durable = group.head();
    let mut driver = Driver::new(group.clone(), Driver::settings(&group, store(1), None));
    driver.durable_head().unwrap();
    let newest = write(&group, 2);
    group.chain_value(newest).unwrap();
    assert!(!group.is_durable());
    driver.standing().durable <= durable
}

#[test]
fn nothing_is_durable_because_the_chain_knows_it() {
    assert!(what_stands_durable());
    assert!(
        !without("D3: only what is durable is shipped", what_stands_durable),
        "what isn't durable was not shipped all the same"
    );
}

/// C10 and C11: writers never pause, each second a sync comes through; at the log's end the chain stands at once, and what
/// the last sync covers can be shipped.
#[test]
fn what_a_sync_covered_is_known_though_the_chain_is_further() {
    let (_device, group) = group(12);
    (0..40).for_each(|_| _ = write(&group, 1));
    let mut driver = Driver::new(group.clone(), Driver::settings(&group, store(1), None));
    driver.durable_head().unwrap();
    let stood = driver.standing().durable;
    let mut covered = stood;
    for second in 0..5 {
        (0..30).for_each(|n| _ = write(&group, n % 16 + 1));
        let last = group.head();
        group.sync().unwrap();
        write(&group, 3 + second);
        assert!(!group.is_durable());
        assert_eq!(group.chain.lock().place, group.log.end(), "nothing is left to be read");
        covered = driver.standing().durable;
        assert_eq!(covered, last, "second {second}");
        write(&group, 4);
        assert_eq!(driver.standing().durable, last, "no sync since");
    }
    assert!(covered > stood);
}

/// C10: the value that was taken from memory is the one that the log gives, over ends of segments and after every kind of
/// record.
#[test]
fn what_the_chain_took_from_memory_is_what_the_log_has() {
    let (device, group) = group(13);
    for n in 0..200_u64 {
        let offset = n % 15 * 4096;
        match n % 7 {
            0 => submit(&group, DISK, Op::Discard { offset, length: 4096 }, false),
            1 => submit(&group, DISK, Op::Zero { offset, length: 1000, grow: false }, n % 2 == 0),
            2 => submit(&group, DISK, Op::Write { offset, data: &[0; 4096] }, false),
            3 => submit(&group, DISK, Op::Resize { size: SIZE + n }, false),
            4 => submit(&group, DISK, Op::Write { offset, data: &[n as u8; 700] }, true),
            _ => submit(&group, DISK, Op::Write { offset, data: &[n as u8; 4096] }, false),
        }
        .unwrap();
        if n == 90 {
            group.log.end_segment();
        }
    }
    group.sync().unwrap();
    let (head, place) = (group.head(), group.chain.lock().place);
    assert_eq!(place, group.log.end());
    let value = group.chain_value(head).unwrap().unwrap();
    // Killed: no checkpoint says where the chain stood.
    drop(group);
    let (group, _) = Group::open(parts(&device, 14), id()).unwrap();
    assert_eq!((group.head(), group.chain_value(head).unwrap()), (head, Some(value)));
}

/// A fill of a copy is read, and a round that was chosen before there was a cursor passes its moment meanwhile.
fn fill_meets_a_round() -> bool {
    let (_device, group) = group(8);
    let older = write(&group, 1);
    write(&group, 2);
    let behind = group.clone();
    at("a fill has its moment", move || _ = behind.round(None).unwrap());
    let range = DiskRange { disk: DISK, offset: 0, length: SIZE };
    matches!(group.read_fill(older, range), Ok(None))
}

#[test]
fn a_fill_that_a_round_overtakes_is_gone() {
    assert!(fill_meets_a_round());
    assert!(!without("a fill that was overtaken is gone", fill_meets_a_round), "it was no error");
}

/// A round was chosen before a failover to an older moment was decided, and is made after it.
fn decision_meets_a_round() -> bool {
    let (_device, group) = group(7);
    let older = write(&group, 1);
    write(&group, 2);
    let newest = moment_image(&group, group.head()).unwrap();
    let head = group.head();
    group.sync().unwrap();
    let care = Care { lines: Some(group.events().len()), ..FREE };
    group.decide(older, RowKind::Failover, Token([9; 16]), None).unwrap();
    group.round_with(care).unwrap();
    moment_image(&group, head).is_ok_and(|image| image == newest)
}

#[test]
fn a_round_that_was_chosen_before_a_decision_is_not_made() {
    assert!(decision_meets_a_round());
    let rule = "O6: a limit holds as long as no line of the history came";
    assert!(!without(rule, decision_meets_a_round), "the line that was left could still be read");
}

/// Ranges are asked for, and the segment that is open ends before they are told.
fn ranges_meet_the_end_of_a_segment() -> bool {
    let (_device, group) = group(9);
    let after = write(&group, 1);
    write(&group, 2);
    let behind = group.clone();
    at("ranges are written", move || {
        behind.log.end_segment();
        write(&behind, 3);
    });
    let block = DiskRange { disk: DISK, offset: 2 * 4096, length: 4096 };
    group.changed_after(after).unwrap().is_some_and(|set| set.covers(block))
}

#[test]
fn a_segment_that_ends_while_ranges_are_asked_for_is_not_missed() {
    assert!(ranges_meet_the_end_of_a_segment());
    let rule = "U4: the open segment is chosen before ranges are written";
    assert!(
        !without(rule, ranges_meet_the_end_of_a_segment),
        "ranges of a segment without a record in the log"
    );
}

/// A group ends while a checkpoint is written: whether its end waited.
fn an_end_meets_a_checkpoint() -> bool {
    const W5: &str = "W5: who works on a group that ends is waited for";
    let (_device, group) = group(1);
    write(&group, 1);
    let out = LEFT_OUT.with_borrow(|out| out.contains(&W5));
    let (send, ended) = std::sync::mpsc::channel();
    let waited = Arc::new(AtomicBool::new(false));
    let (ending, seen) = (group.clone(), waited.clone());
    at("checkpoint: names", move || {
        std::thread::spawn(move || {
            if out {
                LEFT_OUT.with_borrow_mut(|out| out.push(W5));
            }
            ending.end();
            send.send(()).unwrap();
        });
        let inside = ended.recv_timeout(Duration::from_millis(300));
        seen.store(inside.is_err(), Ordering::Release);
    });
    let _ = group.checkpoint();
    BETWEEN.with_borrow_mut(|look| *look = None);
    while !group.is_left() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(group.checkpoint().err().map(|e| e.kind()), Some(Kind::Busy));
    assert!(!group.keep(&mut Upkeep::default(), super::FREE, 1).unwrap());
    waited.load(Ordering::Acquire)
}

#[test]
fn a_group_ends_when_nobody_works_on_it() {
    assert!(an_end_meets_a_checkpoint());
    assert!(!without("W5: who works on a group that ends is waited for", an_end_meets_a_checkpoint));
}
