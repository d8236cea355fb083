use super::*;
use crate::seam::{SimDevice, SimStorage};
use crate::vocab::DiskOrdinal;
use std::collections::{BTreeMap, BTreeSet};

const GROUP: GroupId = GroupId([1; 16]);
const DISK: DiskOrdinal = DiskOrdinal(1);

fn open(storage: &SimStorage, max: u64) -> RangeLog {
    let (log, damage) = RangeLog::open(Arc::new(storage.clone()), "ranges", GROUP, max).unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    log
}

fn epoch(n: u8) -> EpochId {
    EpochId([n; 16])
}

fn stretch(n: u8, first: u64, last: u64) -> SeqStretch {
    SeqStretch { epoch: epoch(n), first: Seq(first), last: Seq(last) }
}

fn changes(starts: impl IntoIterator<Item = u64>) -> Changes {
    let mut out = Changes::default();
    starts.into_iter().for_each(|start| out.add(DISK, start..start + 4096));
    out
}

fn granules(union: &RangeUnion) -> BTreeSet<u64> {
    let ranges = union.changes.ranges.get(&DISK).cloned().unwrap_or_default();
    ranges.into_iter().flat_map(|r| r.start / 4096..r.end / 4096).collect()
}

#[test]
fn a_union_has_what_was_appended_over_epochs_and_openings() {
    let storage = SimDevice::new(1).storage("s");
    let log = open(&storage, RANGE_LOG_BYTES_MAX);
    log.append(stretch(1, 1, 10), changes([0, 8192])).unwrap();
    let mut resized = changes([4096]);
    resized.resizes.push(crate::index::Resize { disk: DISK, old: 1 << 20, new: (1 << 20) + 5000 });
    log.append(stretch(1, 11, 20), resized).unwrap();
    let log = open(&storage, RANGE_LOG_BYTES_MAX);
    log.append(stretch(2, 15, 30), changes([1 << 30])).unwrap();
    let union = log.union(&[stretch(1, 5, 14), stretch(2, 15, 30)]).unwrap();
    assert_eq!(granules(&union), BTreeSet::from([0, 1, 2, 256, 257, 1 << 18]));
    assert_eq!(union.changes.resizes.len(), 1);
    assert!(!union.coarse);
    assert_eq!(granules(&log.union(&[stretch(1, 2, 10)]).unwrap()), BTreeSet::from([0, 2]));
    assert_eq!(log.covered(), [stretch(1, 1, 20), stretch(2, 15, 30)]);
}

#[test]
fn what_is_not_covered_is_refused() {
    let storage = SimDevice::new(1).storage("s");
    let log = open(&storage, RANGE_LOG_BYTES_MAX);
    log.append(stretch(1, 1, 10), changes([0])).unwrap();
    log.append(stretch(1, 12, 20), changes([0])).unwrap();
    log.union(&[stretch(1, 12, 20)]).unwrap();
    for bad in [stretch(1, 5, 15), stretch(1, 11, 11), stretch(1, 20, 21), stretch(2, 1, 1)] {
        assert_eq!(log.union(&[bad]).unwrap_err().kind(), Kind::NotFound, "{bad:?}");
    }
    log.trim(|s| s.first > Seq(10)).unwrap();
    assert_eq!(log.union(&[stretch(1, 1, 10)]).unwrap_err().kind(), Kind::NotFound);
    log.union(&[stretch(1, 12, 20)]).unwrap();
    let log = open(&storage, RANGE_LOG_BYTES_MAX);
    assert_eq!(log.covered(), [stretch(1, 12, 20)]);
    log.append(stretch(1, 21, 22), changes([0])).unwrap();
    log.union(&[stretch(1, 12, 22)]).unwrap();
}

/// Random writes until the log is many times over its bound: what comes back is never less than what went in.
#[test]
fn bounded_and_coarser_never_less() {
    let storage = SimDevice::new(1).storage("s");
    let max = 3 << 20;
    let log = open(&storage, max);
    let mut random = fastrand::Rng::with_seed(4);
    let mut model: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for n in 0..40u64 {
        let starts: Vec<u64> = (0..60_000).map(|_| random.u64(0..1 << 28) * 4096).collect();
        log.append(stretch(1, n * 100 + 1, n * 100 + 100), changes(starts.iter().copied())).unwrap();
        model.insert(n, starts.into_iter().step_by(100).map(|s| s / 4096).collect());
        assert!(log.bytes() <= max, "{} bytes after {n}", log.bytes());
    }
    assert!(log.is_coarse());
    let log = open(&storage, max);
    for (n, wanted) in model.iter().step_by(7) {
        let union = log.union(&[stretch(1, n * 100 + 1, n * 100 + 100)]).unwrap();
        let ranges = &union.changes.ranges[&DISK];
        for granule in wanted {
            let at = ranges.partition_point(|r| r.end <= granule * 4096);
            assert!(
                ranges.get(at).is_some_and(|r| r.start <= granule * 4096),
                "segment {n}, granule {granule}"
            );
        }
    }
    assert!(log.union(&[stretch(1, 1, 100)]).unwrap().coarse);
    log.trim(|s| s.last > Seq(3900)).unwrap();
    assert!(log.covered().iter().all(|s| s.last > Seq(3900)));
}

/// Power is lost at each operation in turn: an acknowledged record is there, and the log opens.
#[test]
fn power_loss_at_every_operation() {
    for n in 1.. {
        let device = SimDevice::new(n);
        let storage = device.storage("s");
        drop(open(&storage, 500));
        device.power_loss_at(n);
        let mut acknowledged = 0;
        let mut run = || -> Result<()> {
            let (log, _) = RangeLog::open(Arc::new(storage.clone()), "ranges", GROUP, RANGE_LOG_BYTES_MAX)?;
            for seq in 1..8 {
                log.append(stretch(1, seq, seq), changes([seq * 4096]))?;
                acknowledged = seq;
                if seq == 5 {
                    log.trim(|s| s.first > Seq(1))?;
                }
            }
            Ok(())
        };
        if run().is_ok() {
            assert!(n > 20, "the schedule has only {n} operations");
            break;
        }
        device.power_on();
        storage.restart();
        let log = open(&storage, RANGE_LOG_BYTES_MAX);
        if acknowledged > 2 {
            let union = log.union(&[stretch(1, 2, acknowledged)]);
            let union = union.unwrap_or_else(|e| panic!("power loss at {n} ({}): {e}", device.crashed_in()));
            assert_eq!(granules(&union), (2..=acknowledged).collect(), "power loss at {n}");
        }
        let next = log.covered().last().map_or(1, |s| s.last.0 + 1);
        log.append(stretch(1, next, next), changes([0])).unwrap();
        open(&storage, RANGE_LOG_BYTES_MAX).union(&[stretch(1, next, next)]).unwrap();
    }
}

#[test]
fn rot_is_refused_and_what_lies_behind_it_is_kept() {
    let fill = |storage: &SimStorage| {
        let log = open(storage, RANGE_LOG_BYTES_MAX);
        (1..4).for_each(|seq| log.append(stretch(1, seq, seq), changes([seq * 4096])).unwrap());
        log.bytes() / 3
    };
    // In the header of the second record, then in its body.
    for (inside, is_body) in [(5, false), (RANGE_HEADER_BYTES as u64 + 2, true)] {
        let storage = SimDevice::new(1).storage("s");
        let each = fill(&storage);
        storage.flip("ranges/ranges-0000000000000001", each + inside).unwrap();
        let (log, damage) =
            RangeLog::open(Arc::new(storage.clone()), "ranges", GROUP, RANGE_LOG_BYTES_MAX).unwrap();
        assert_eq!(damage.len(), usize::from(!is_body));
        let error = log.union(&[stretch(1, 1, 3)]).unwrap_err();
        assert_eq!(error.kind(), if is_body { Kind::Damaged } else { Kind::NotFound }, "{error}");
        log.union(&[stretch(1, 1, 1), stretch(1, 3, 3)]).unwrap();
        log.append(stretch(1, 4, 4), changes([0])).unwrap();
        log.union(&[stretch(1, 3, 4)]).unwrap();
    }
}
