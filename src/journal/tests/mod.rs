//! The log against a device with a volatile cache: seeded lives of the process, power losses, kills, forks below
//! the head, recoveries that are cut themselves, and rot.
//!
//! Oracle after each recovery: the records, in log order, are a prefix of what was appended, at or past the last
//! completed flush; a log without rot is never called damaged, one with rot in what was durable always is.

mod power;
mod read;
mod room;

use crate::journal::{HistoryFile, Log, LogIdentity, LogParts};
use crate::seam::{Class, Fault, Room, SimClock, SimDevice, SimEntropy, Storage};
use crate::vocab::{EpochId, GroupId, LogId, StoreId};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn parts(device: &SimDevice, seed: u64) -> LogParts {
    LogParts {
        storage: Arc::new(device.storage("journal")),
        dir: PathBuf::from("main"),
        clock: Arc::new(SimClock::new(1_700_000_000_000_000_000)),
        entropy: Arc::new(SimEntropy::new(seed)),
        segment_bytes: (64 << 10, 64 << 10),
        room: Room::new(Arc::new(device.storage("journal"))),
    }
}

pub(super) fn identity() -> LogIdentity {
    LogIdentity { store: StoreId([1; 16]), group: GroupId([2; 16]), log: LogId([3; 16]), boot: [4; 16] }
}

#[test]
fn payloads_come_back_and_rot_is_told() {
    use crate::journal::NewRecord;
    use crate::seam::Durability;
    use crate::vocab::{DiskOrdinal, RecordKind};
    let device = SimDevice::new(1);
    let log = Log::create(parts(&device, 1), identity(), EpochId([5; 16])).unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    let mut all = Vec::new();
    for length in [1, 511, 4096, 5000, 12288, 30000, 0, 300_000, 500_000] {
        let payload: Vec<u8> = (0..length).map(|_| rng.u8(..)).collect();
        let record = NewRecord {
            disk: DiskOrdinal(1),
            kind: if length == 0 { RecordKind::Discard } else { RecordKind::Write },
            flags: 0,
            offset: 777,
            length: length.max(9),
            payload: &payload,
            wall: 5,
        };
        let at = log.append(&[record, record], 0, Durability::Plain).unwrap().remove(0).records;
        assert!(at[0].pos < at[1].pos && at[1].seq == at[0].seq.next());
        all.push((at[0], payload.clone()));
        all.push((at[1], payload));
    }
    for (at, payload) in &all {
        for _ in 0..20 {
            let from = rng.usize(..=payload.len());
            let to = rng.usize(from..=payload.len());
            let mut buf = vec![0; to - from];
            log.read_payload(at.pos, payload.len() as u64, at.crc, from as u64, &mut buf).unwrap();
            assert_eq!(buf, payload[from..to]);
        }
    }
    let mut seen = Vec::new();
    let mut pos = crate::vocab::Pos(0);
    while let Some(batch) = log.batch_at(pos).unwrap() {
        for r in &batch.records {
            seen.push((r.entry.seq, log.payload(&batch, r).unwrap()));
        }
        pos = batch.end();
    }
    let expected: Vec<_> =
        all.iter().map(|(at, p)| (at.seq, if p.is_empty() { Vec::new() } else { p.clone() })).collect();
    assert_eq!(seen, expected);
    log.sync().unwrap();
    let (at, payload) = all.iter().find(|(_, p)| p.len() == 12288).unwrap();
    let segment = log.segments().into_iter().rfind(|s| s.start <= at.pos).unwrap();
    device.flip(format!("journal/main/{}", segment.file), at.pos.0 - segment.start.0 + 5000).unwrap();
    let mut buf = vec![0; 100];
    assert!(log.read_payload(at.pos, 12288, at.crc, 0, &mut buf).is_ok(), "another block of it");
    assert_eq!(buf, payload[..100]);
    let error = log.read_payload(at.pos, 12288, at.crc, 4990, &mut buf).unwrap_err();
    assert_eq!(error.kind(), crate::vocab::Kind::Damaged);
    // The whole says where it is bad.
    let mut buf = vec![0; 12288];
    let error = log.read_payload(at.pos, 12288, at.crc, 0, &mut buf).unwrap_err();
    assert_eq!(error.kind(), crate::vocab::Kind::Damaged);
    assert!(error.to_string().contains(&format!("offset {}", at.pos.0 - segment.start.0 + 4096)), "{error}");
}

/// A history that grows into a new file: whatever fails on the way, no line goes where it is lost.
#[test]
fn a_line_never_goes_to_a_file_without_a_name() {
    for class in [Class::Sync, Class::Rename, Class::SyncDir] {
        let device = SimDevice::new(5);
        let storage: Arc<dyn Storage> = Arc::new(device.storage("store"));
        let path = Path::new("history");
        let mut file = HistoryFile::create(storage.clone(), path).unwrap();
        // Shorter and shorter ones: what didn't fit into the old file may fit after a failure.
        let (mut failed, mut written) = (0, 0);
        for n in 0..40u64 {
            if n % 3 != 2 {
                device.inject(Fault::of(class));
            }
            let line = "x".repeat(if n % 2 == 0 { 6000 } else { 10 });
            match file.append(n as i64, line) {
                Ok(()) => written += 1,
                Err(_) => failed += 1,
            }
            device.clear_faults();
        }
        assert_eq!(file.count(), written);
        assert!(failed > 0 && (written > 0 || class == Class::Sync), "{class:?}: {failed}, {written}");
        let (count, crc) = (file.count(), file.crc());
        drop(file);
        device.power_loss();
        device.power_on();
        let (_, lines) = HistoryFile::open::<String>(storage.clone(), path, count, crc, false).unwrap();
        assert_eq!(lines.len() as u64, written);
    }
}
