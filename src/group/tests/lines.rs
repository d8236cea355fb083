//! One site through changes of its line: what a decision that was taken back leaves, and where a line may go on.

use super::model::{difference, head_image, id, moment_image, parts, submit};
use super::readers::written;
use super::site::store;
use super::space::{DISK, disk, write};
use crate::exchange::{Planned, RangeSet};
use crate::group::{Driver, Gate, Group, Op};
use crate::history::{JumpReason, RowKind};
use crate::journal::LEFT_OUT;
use crate::seam::SimDevice;
use crate::vocab::{EpochId, Kind, Moment, Token};
use std::sync::Arc;

const SIZE: u64 = 64 << 10;

fn decide(group: &Group, moment: Moment) -> crate::vocab::Result<EpochId> {
    group.decide(moment, RowKind::Failover, Token([7; 16]), None).map(|decided| decided.epoch)
}

/// What a site says of itself in a connection, with the chain's value.
fn said(group: &Arc<Group>) -> crate::vocab::Result<(Moment, crate::history::ChainValue)> {
    Driver::new(group.clone(), Driver::settings(group, store(1), None)).durable_head()
}

#[test]
fn a_head_that_a_decision_was_taken_back_to_has_its_chain_value() {
    let device = SimDevice::new(1);
    let group = Group::create(parts(&device, 1), id()).unwrap();
    disk(&group, SIZE).unwrap();
    let moments: Vec<Moment> = (1..12).map(|tag| write(&group, tag)).collect();
    let before = said(&group).unwrap();
    assert_eq!(before.0, moments[10]);
    // On the branch there are fewer records than the head's line has behind the fork, and then more.
    for (fork, written) in [(3, 2), (5, 9)] {
        let epoch = decide(&group, moments[fork]).unwrap();
        (0..written).for_each(|tag| _ = write(&group, tag));
        group.withdraw(&[epoch], Token([8; 16])).unwrap();
        assert_eq!(said(&group).unwrap(), before, "after {written} records on a branch");
    }
    drop(group);
    let (group, _) = Group::open(parts(&device, 2), id()).unwrap();
    assert_eq!(said(&group).unwrap(), before, "after a restart");
}

/// The moment before the first file has nothing that a base could have passed, and the files that a line from there
/// begins have the ordinals of those that have bases.
fn goes_on_before_the_first_file() -> Result<(), String> {
    let text = |e: crate::vocab::Error| e.to_string();
    let device = SimDevice::new(1);
    let group = Group::create(parts(&device, 1), id()).map_err(text)?;
    let begin = group.head();
    disk(&group, SIZE).map_err(text)?;
    (1..5).for_each(|tag| _ = write(&group, tag));
    group.round(None).map_err(text)?; // the segment of the first records is still held
    let before = head_image(&group).map_err(text)?;
    match decide(&group, begin) {
        Err(e) if e.kind() == Kind::NotFound => {
            assert_eq!(group.gate(), Gate::Open { begun: true });
            let now = head_image(&group).map_err(text)?;
            return difference(&now, &before).map_or(Ok(()), Err);
        }
        decided => decided.map_err(text)?,
    };
    disk(&group, SIZE).map_err(text)?;
    let zeros = head_image(&group).map_err(text)?.values().all(|bytes| bytes.iter().all(|b| *b == 0));
    group.open_moment(group.head()).map_err(text)?;
    if zeros { Ok(()) } else { Err("a new file shows what another line wrote".into()) }
}

#[test]
fn no_line_begins_below_a_base() {
    goes_on_before_the_first_file().unwrap();
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["V1: every base lies on the path of a moment"]);
    let caught = goes_on_before_the_first_file();
    LEFT_OUT.with_borrow_mut(Vec::clear);
    caught.unwrap_err();
}

/// Behind a fork that was taken back a file grows; then the base follows to the head, and segments are freed.
fn branch_and_round() -> Result<(), String> {
    let text = |e: crate::vocab::Error| e.to_string();
    let device = SimDevice::new(1);
    let group = Group::create(parts(&device, 1), id()).map_err(text)?;
    disk(&group, SIZE).map_err(text)?;
    (1..40).for_each(|tag| _ = write(&group, tag));
    let epoch = decide(&group, group.head()).map_err(text)?;
    submit(&group, DISK, Op::Resize { size: 2 * SIZE }, true).map_err(text)?;
    write(&group, 40);
    let (branch, image) = (group.head(), head_image(&group).map_err(text)?);
    group.withdraw(&[epoch], Token([8; 16])).map_err(text)?;
    let done = group.round(None).map_err(text)?;
    assert!(done.files > 0 && done.freed > 0, "{done:?}");
    let found = moment_image(&group, branch).map_err(text)?;
    difference(&found, &image).map_or(Ok(()), Err)
}

#[test]
fn a_branch_keeps_its_names() {
    branch_and_round().unwrap();
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["N4: a branch keeps its names"]);
    let caught = branch_and_round();
    LEFT_OUT.with_borrow_mut(Vec::clear);
    caught.unwrap_err();
}

/// The old source comes back by a copy over its image, nothing is behind the jump yet, and its base follows.
fn round_at_a_jump(seed: u64) -> Result<(), String> {
    let mut w = written(seed, 30);
    w.settle()?;
    w.cut()?;
    let head = w.group(1).head();
    w.decide(1, head, RowKind::Failover, None)?;
    for site in [0, 1] {
        w.model.now =
            w.truth(&w.group(site).table(), w.group(site).head()).cloned().ok_or("no such moment")?;
        for _ in 0..5 {
            let group = w.group(site);
            w.model.operate(&group, &mut w.rng, true).map_err(|e| e.to_string())?;
            w.model.note(group.head());
        }
    }
    w.quiet()?;
    w.reprotect(0)?;
    // A branch lies between the end of the line and what will come behind the jump.
    let group = w.group(0);
    let epoch = decide(&group, group.head()).map_err(|e| e.to_string())?;
    group.withdraw(&[epoch], Token([8; 16])).map_err(|e| e.to_string())?;
    w.settle()?;
    assert!(group.core.lock().spans.0.last().is_some_and(|s| s.jump.is_some()), "{}", group.layout());
    group.round(None).map_err(|e| e.to_string())?;
    w.check(0)?;
    let source = w.group(1);
    w.model.now = head_image(&source).map_err(|e| e.to_string())?;
    w.model.operate(&source, &mut w.rng, true).map_err(|e| e.to_string())?;
    w.model.note(source.head());
    w.settle()?;
    w.check(0)
}

#[test]
fn a_base_goes_to_the_end_of_a_jump() {
    (0..5).for_each(|seed| round_at_a_jump(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}")));
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["O7: a base stands by the name of its place"]);
    let caught = round_at_a_jump(0);
    LEFT_OUT.with_borrow_mut(Vec::clear);
    caught.unwrap_err();
}

#[test]
fn a_copy_is_dropped_once_the_head_is_another() {
    let device = SimDevice::new(1);
    let group = Group::create(parts(&device, 1), id()).unwrap();
    disk(&group, SIZE).unwrap();
    let moments: Vec<Moment> = (1..6).map(|tag| write(&group, tag)).collect();
    let (at, chain) = said(&group).unwrap();
    group.freeze(Gate::Target);
    let (copy, reason) = (Token([5; 16]), JumpReason::Delta);
    let planned =
        Planned { copy, reason, onto_image: true, at, chain, set: RangeSet::new(), disks: Vec::new() };
    drop(group.begin_copy(&planned).unwrap());
    let mut driver = Driver::new(group.clone(), Driver::settings(&group, store(1), None));
    driver.connected(1);
    assert!(group.copy_statement().unwrap().is_some(), "a copy over the head goes on");
    let epoch = decide(&group, moments[2]).unwrap();
    group.freeze(Gate::Target);
    driver.connected(2);
    assert!(group.copy_statement().unwrap().is_none(), "a copy over {at} at {epoch}");
}

/// What lies on the live path behind a moment, in bytes of the journal; what is on no path, or not held, is not counted
/// from, and said so.
#[test]
fn bytes_behind_a_moment_are_those_of_the_live_path() {
    let device = SimDevice::new(3);
    let group = Group::create(parts(&device, 3), id()).unwrap();
    disk(&group, 64 << 10).unwrap();
    let first = write(&group, 1);
    let place = group.log.end();
    (2..6).for_each(|tag| _ = write(&group, tag));
    let left = group.head();
    let behind = group.log.end().0 - place.0;
    assert!(behind >= 4 * 4096);
    assert_eq!(group.bytes_behind(first).unwrap(), (behind, true));
    assert_eq!(group.bytes_behind(left).unwrap(), (0, true));
    // The live path goes on from the first write: what was left lies on it no more.
    decide(&group, first).unwrap();
    let decided = group.log.end();
    write(&group, 7);
    let after = group.log.end().0 - decided.0;
    let (bytes, exact) = group.bytes_behind(first).unwrap();
    assert!(exact && bytes >= after && bytes < behind, "{bytes} of {after} and {behind}");
    assert!(!group.bytes_behind(left).unwrap().1);
    let unknown = Moment { epoch: EpochId([0xab; 16]), seq: first.seq };
    let (held, exact) = group.bytes_behind(unknown).unwrap();
    assert!(!exact && held > bytes && held <= group.journal_used(), "{held}");
}

/// The first record that a peer lacks is named by the epoch that it has on this site's line, also where the peer stands in
/// an epoch that ended since, or on a branch.
#[test]
fn the_first_record_that_a_peer_lacks_has_a_time() {
    let device = SimDevice::new(4);
    let group = Group::create(parts(&device, 4), id()).unwrap();
    disk(&group, SIZE).unwrap();
    let old: Vec<Moment> = (1..6).map(|tag| write(&group, tag)).collect();
    group.sync().unwrap();
    drop(group);
    let (group, _) = Group::open(parts(&device, 5), id()).unwrap();
    let head = write(&group, 6);
    assert_ne!(head.epoch, old[0].epoch);
    let timed = |held| {
        let first = group.first_lacking(held).unwrap()?;
        group.time_of(first).unwrap().map(|_| first)
    };
    assert_eq!(timed(old[2]), Some(old[3]));
    assert_eq!(timed(old[4]), Some(Moment { epoch: head.epoch, seq: old[4].seq.next() }));
    assert_eq!(group.first_lacking(head).unwrap(), None);
    let epoch = decide(&group, old[1]).unwrap();
    write(&group, 7);
    assert_eq!(timed(old[4]), Some(Moment { epoch, seq: old[1].seq.next() }));
    assert_eq!(timed(head), Some(Moment { epoch, seq: old[1].seq.next() }));
    let unknown = Moment { epoch: EpochId([0xab; 16]), seq: head.seq };
    assert_eq!(group.first_lacking(unknown).err().map(|e| e.kind()), Some(Kind::NotFound));
}
