//! Writers that begin segments between two steps of a checkpoint: what it lets recovery skip must be written down.

use super::model::{head_image, id, parts, submit};
use super::space::{DISK, disk};
use crate::group::line::BETWEEN;
use crate::group::{Group, GroupParts, Op};
use crate::journal::LEFT_OUT;
use crate::seam::{Access, SimDevice};
use std::sync::Arc;

const SIZE: u64 = 1 << 20;
const STEPS: [&str; 4] = ["checkpoint: index", "checkpoint: spans", "checkpoint: names", "checkpoint: list"];

fn write(group: &Group, tag: u8, count: u64) -> Result<(), String> {
    for at in 0..count {
        let offset = (u64::from(tag) * 17 + at) * 4096 % SIZE;
        let data = [tag.wrapping_add(at as u8) | 1; 4096];
        submit(group, DISK, Op::Write { offset, data: &data }, false).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Segments hold about ten of these writes. At `step` of a checkpoint, with the first ones already below the scan,
/// `count` are written; then the process dies.
fn killed_after(step: &'static str, count: u64) -> Result<(), String> {
    let text = |e: crate::vocab::Error| e.to_string();
    let device = SimDevice::new(count);
    let group = Arc::new(Group::create(parts(&device, 1), id()).map_err(text)?);
    disk(&group, SIZE).map_err(text)?;
    write(&group, 1, 25)?;
    group.checkpoint().map_err(text)?;
    write(&group, 2, 7)?;
    let writer = group.clone();
    BETWEEN.with_borrow_mut(|look| {
        *look = Some(Box::new(move |at| {
            if at == step {
                write(&writer, 3, count).unwrap();
            }
        }));
    });
    let taken = group.checkpoint().map_err(text);
    BETWEEN.with_borrow_mut(|look| *look = None);
    taken?;
    let expected = head_image(&group).map_err(text)?;
    drop(group);
    let (group, report) = Group::open(parts(&device, 2), id()).map_err(text)?;
    if let Some(damage) = report.damage {
        return Err(damage);
    }
    let found = head_image(&group).map_err(text)?;
    if found != expected {
        return Err("the head has other bytes than before".into());
    }
    write(&group, 4, 3)
}

#[test]
fn a_segment_that_begins_during_a_checkpoint_is_found_again() {
    for step in STEPS {
        for count in 1..40 {
            killed_after(step, count).unwrap_or_else(|e| panic!("{count} writes at {step}: {e}"));
        }
    }
}

#[test]
fn a_scan_that_is_chosen_last_is_caught() {
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["K5: the begin of the scan is chosen first"]);
    let caught = STEPS.iter().any(|step| (1..40).any(|count| killed_after(step, count).is_err()));
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(caught, "a segment that nothing names was found all the same");
}

/// J13: what an orderly end has written down is enough; and it isn't believed once something follows, or where a part of
/// it is missing.
#[test]
fn an_orderly_end_leaves_nothing_to_scan() {
    let device = SimDevice::new(7);
    let open = |entropy| {
        let (group, report) = Group::open(parts(&device, entropy), id()).unwrap();
        assert_eq!(report.damage, None);
        (group, report.scanned)
    };
    let group = Group::create(parts(&device, 1), id()).unwrap();
    disk(&group, SIZE).unwrap();
    write(&group, 1, 25).unwrap();
    let (head, image) = (group.head(), head_image(&group).unwrap());
    group.close().unwrap();
    drop(group);
    // Twice: an opening that wrote nothing changes nothing.
    for entropy in 2..4 {
        let (group, scanned) = open(entropy);
        assert_eq!((scanned, group.head()), (0, head));
        assert!(head_image(&group).unwrap() == image);
        let moment = crate::vocab::Moment { seq: crate::vocab::Seq(head.seq.0 - 3), ..head };
        assert!(group.chain_value(moment).unwrap().is_some() && group.time_of(moment).unwrap().is_some());
    }
    // Killed with more behind it.
    let (group, _) = open(4);
    write(&group, 2, 3).unwrap();
    let (head, image) = (group.head(), head_image(&group).unwrap());
    drop(group);
    let (group, scanned) = open(5);
    assert_eq!(group.head(), head);
    assert!(scanned > 0 && head_image(&group).unwrap() == image);
    group.close().unwrap();
    drop(group);
    // The list is gone.
    let list = GroupParts::dir(id()).join("main/segments.json");
    let storage = parts(&device, 6).journal;
    storage.open(&list, Access::Cached).unwrap().set_len(9).unwrap();
    let (group, scanned) = open(7);
    assert_eq!(group.head(), head);
    assert!(scanned > 0 && head_image(&group).unwrap() == image);
    write(&group, 4, 3).unwrap();
}
