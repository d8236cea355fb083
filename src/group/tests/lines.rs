//! One site through changes of its line: what a decision that was taken back leaves, and where a line may go on.

use super::model::{difference, head_image, id, parts, submit};
use super::site::store;
use super::space::{DISK, disk};
use crate::group::{Driver, Gate, Group, Op};
use crate::history::RowKind;
use crate::journal::LEFT_OUT;
use crate::seam::SimDevice;
use crate::vocab::{EpochId, Kind, Moment, Token};
use std::sync::Arc;

const SIZE: u64 = 64 << 10;

fn write(group: &Group, tag: u8) -> Moment {
    let data = [tag; 4096];
    submit(group, DISK, Op::Write { offset: u64::from(tag) * 4096 % SIZE, data: &data }, false).unwrap();
    group.head()
}

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
    let group = Arc::new(group);
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
    let group = Arc::new(Group::create(parts(&device, 1), id()).map_err(text)?);
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
