use super::Joined;
use crate::exchange::{DiskRange, RangeSet};
use crate::group::Group;
use crate::group::tests::model::{Model, id, parts};
use crate::journal::LEFT_OUT;
use crate::seam::SimDevice;

#[test]
fn what_is_joined_has_all_of_it_and_is_short() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let most = rng.usize(1..20);
        let (mut joined, mut all, mut at) = (Joined::new(most, rng.u64(0..5)), Vec::new(), 0);
        for _ in 0..rng.usize(0..60) {
            let from = at + rng.u64(0..30);
            at = from + rng.u64(1..9);
            joined.add(from, at);
            all.push((from, at));
        }
        assert!(joined.ranges.len() <= most, "seed {seed}");
        let within = |&(from, to): &(u64, u64)| joined.ranges.iter().any(|r| r.0 <= from && to <= r.1);
        assert!(all.iter().all(within), "seed {seed}: {all:?} in {:?}", joined.ranges);
        assert!(joined.ranges.windows(2).all(|two| two[0].1 < two[1].0), "seed {seed}");
        // It begins and ends with data.
        let ends = (joined.ranges.first().map(|r| r.0), joined.ranges.last().map(|r| r.1));
        assert_eq!(ends, (all.first().map(|r| r.0), all.last().map(|r| r.1)), "seed {seed}");
    }
}

/// Whether what a first copy is asked for leaves out a byte that isn't zero.
fn copied(seed: u64) -> Result<(), String> {
    let text = |e: crate::vocab::Error| e.to_string();
    let (device, mut rng) = (SimDevice::new(seed), fastrand::Rng::with_seed(seed));
    let group = Group::create(parts(&device, seed), id()).map_err(text)?;
    let mut model = Model::new();
    model.add(&group, &mut rng).map_err(text)?;
    model.add(&group, &mut rng).map_err(text)?;
    for _ in 0..40 {
        model.operate(&group, &mut rng, true).map_err(text)?;
        if rng.u8(..8) == 0 {
            group.round(None).map_err(text)?;
        }
    }
    group.sync().map_err(text)?;
    let (set, sizes) = group.data_set(group.head()).map_err(text)?;
    let mut whole = RangeSet::new();
    for (disk, bytes) in &model.now {
        let size = sizes.iter().find(|s| s.disk == *disk).map(|s| s.size);
        if size != Some(bytes.len() as u64) {
            return Err(format!("{size:?} for {}", bytes.len()));
        }
        whole.add(DiskRange { disk: *disk, offset: 0, length: bytes.len() as u64 });
        for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            if !set.covers(DiskRange { disk: *disk, offset: at as u64, length: 1 }) {
                return Err(format!("byte {at} of {disk} isn't copied"));
            }
        }
    }
    let beyond = set.iter().any(|r| r.disk.0 != 0 && !whole.covers(r));
    if beyond { Err(format!("{set:?} is more than {whole:?}")) } else { Ok(()) }
}

#[test]
fn a_first_copy_has_every_byte_that_is_not_zero() {
    for seed in 0..40 {
        copied(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn a_first_copy_without_the_base_is_caught() {
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["S1: a first copy has what lies in the base"]);
    let caught = (0..40).any(|seed| copied(seed).is_err());
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(caught, "what lies in a base was left out, and nothing was missing");
}

#[test]
fn holes_are_not_copied() {
    use crate::group::Op;
    use crate::group::tests::model::submit;
    use crate::group::tests::space::{DISK, disk};
    let device = SimDevice::new(1);
    let group = Group::create(parts(&device, 1), id()).unwrap();
    disk(&group, 1 << 40).unwrap();
    for n in 0..50u64 {
        submit(&group, DISK, Op::Write { offset: n * (20 << 30) + 4097, data: &[7; 4096] }, false).unwrap();
        if n == 25 {
            group.round(None).unwrap();
        }
    }
    let set = group.data_set(group.head()).unwrap().0;
    let of_disk: Vec<DiskRange> = set.iter().filter(|r| r.disk == DISK).collect();
    assert_eq!(of_disk.len(), 50);
    for (n, range) in of_disk.iter().enumerate() {
        assert_eq!((range.offset, range.length), (n as u64 * (20 << 30) + 4096, 8192));
    }
}
