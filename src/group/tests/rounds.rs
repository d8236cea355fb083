//! Rounds and checkpoints while a batch is in the log and not yet in the index: a writer and the thread behind it meet
//! there.

use super::model::{Model, difference, head_image, id, parts, submit};
use super::space::{DISK, disk};
use crate::group::line::BETWEEN;
use crate::group::{Group, Op};
use crate::journal::LEFT_OUT;
use crate::seam::SimDevice;
use crate::vocab::LogPlace;
use std::sync::Arc;

const SIZE: u64 = 256 << 10;

/// What the thread behind does at the instant.
const WORK: [fn(&Group); 4] = [
    |group| assert!(group.round(None).is_ok()),
    |group| {
        let (log, pos) = group.log_end();
        assert!(group.round(Some(LogPlace { log, pos })).is_ok());
    },
    |group| assert!(group.checkpoint().is_ok()),
    |group| assert!(group.sync().is_ok()),
];

fn met(seed: u64) -> Result<(), String> {
    let text = |e: crate::vocab::Error| e.to_string();
    let mut rng = fastrand::Rng::with_seed(seed);
    let device = SimDevice::new(seed);
    let group = Arc::new(Group::create(parts(&device, seed), id()).map_err(text)?);
    disk(&group, SIZE).map_err(text)?;
    let mut model = Model::new();
    model.now = head_image(&group).map_err(text)?;
    let behind = group.clone();
    let mut often = rng.fork();
    BETWEEN.with_borrow_mut(|look| {
        *look = Some(Box::new(move |at| {
            if at == "appended" && often.u32(..4) == 0 {
                WORK[often.usize(..WORK.len())](&behind);
            }
        }));
    });
    let written: Result<(), String> = (|| {
        for _ in 0..80 {
            let length = rng.u64(1..24 << 10);
            let offset = rng.u64(..SIZE - length);
            let data: Vec<u8> = std::iter::repeat_with(|| rng.u8(1..)).take(length as usize).collect();
            submit(&group, DISK, Op::Write { offset, data: &data }, rng.bool()).map_err(text)?;
            let image = model.now.get_mut(&DISK).ok_or_else(|| "no disk".to_owned())?;
            Arc::make_mut(image)[offset as usize..][..length as usize].copy_from_slice(&data);
            let found = head_image(&group).map_err(text)?;
            difference(&found, &model.now).map_or(Ok(()), Err)?;
        }
        Ok(())
    })();
    BETWEEN.with_borrow_mut(|look| *look = None);
    written?;
    drop(group);
    let (group, report) = Group::open(parts(&device, seed + 1), id()).map_err(text)?;
    report.damage.map_or(Ok(()), Err)?;
    difference(&head_image(&group).map_err(text)?, &model.now).map_or(Ok(()), Err)
}

#[test]
fn what_is_being_written_is_not_passed_over() {
    for seed in 0..20 {
        met(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn a_round_that_passes_the_index_is_caught() {
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["O1: rounds go no further than the index"]);
    let caught = (0..20).any(|seed| met(seed).is_err());
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(caught, "a base that went past what the index knows showed the right bytes");
}
