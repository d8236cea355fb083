//! A log on a filesystem that fills: a call is appended whole or not at all, and nothing takes what others have claimed.

use super::{identity, parts};
use crate::journal::{LEFT_OUT, Log, LogParts, NewRecord};
use crate::seam::{Durability, SimDevice};
use crate::vocab::{DiskOrdinal, EpochId, Kind, RecordKind};

fn record(payload: &[u8]) -> NewRecord<'_> {
    let (disk, kind, length) = (DiskOrdinal(1), RecordKind::Write, payload.len() as u64);
    NewRecord { disk, kind, flags: 0, offset: 0, length, payload, wall: 1 }
}

/// A log with one segment and room for some more, of which others have claimed some.
fn nearly_full(spare: u64, claimed: u64) -> (SimDevice, LogParts, Log) {
    let device = SimDevice::new(spare);
    let parts = parts(&device, 1);
    let log = Log::create(parts.clone(), identity(), EpochId([5; 16])).unwrap();
    log.append(&[record(&[1; 100])], 0, Durability::Durable).unwrap();
    let space = parts.storage.space().unwrap();
    device.set_room(space.total - space.free + spare);
    parts.room.refresh().unwrap();
    assert!(parts.room.claim(claimed, 0).unwrap());
    (device, parts, log)
}

/// A call that needs several segments, where fewer can be had.
fn appends_in_part() -> Result<(), String> {
    // Each a batch, and a segment, of its own.
    let payload = vec![7; 700 << 10];
    let records = [record(&payload); 4];
    for segments in 0..4 {
        let (device, _, log) = nearly_full(segments * (768 << 10) + 4096, 0);
        let before = log.head();
        match log.append(&records, 0, Durability::Plain) {
            Ok(_) => return Err("there was room".into()),
            Err(e) if e.kind() != Kind::NoSpace => return Err(e.to_string()),
            Err(_) => {}
        }
        if log.head() != before || log.is_poisoned().is_some() {
            return Err(format!("with {segments} segments: refused, and a part is appended"));
        }
        device.set_room(1 << 40);
        log.append(&records, 0, Durability::Plain).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// A call that finds room only in what others have claimed.
fn takes_what_is_claimed() -> Result<(), String> {
    let (_, parts, log) = nearly_full(80 << 10, 70 << 10);
    for _ in 0..20 {
        match log.append(&[record(&[7; 9000])], 0, Durability::Plain) {
            Err(e) if e.kind() != Kind::NoSpace => return Err(e.to_string()),
            _ => {}
        }
    }
    let free = parts.storage.space().map_err(|e| e.to_string())?.free;
    if free < parts.room.owed() {
        Err(format!("{free} bytes are left of what others claimed"))
    } else {
        Ok(())
    }
}

/// Writers take all that they get; each time some discards follow, which nothing is freed for.
fn leaves_nothing_for_discards() -> Result<(), String> {
    let discard = NewRecord { kind: RecordKind::Discard, length: 4096, ..record(&[]) };
    for spare in (0..5).map(|n| n * (50 << 10)) {
        let (_device, _, log) = nearly_full(spare, 0);
        for payload in [100, 3000, 20_000, 9000] {
            let payload = vec![7; payload];
            while log.append(&[record(&payload)], 0, Durability::Plain).is_ok() {}
        }
        for n in 0..6 {
            let done = log.append(&[discard], 0, Durability::Plain);
            done.map_err(|e| format!("{spare} bytes, discard {n}: {e}"))?;
            assert!(log.append(&[record(&[7; 9000])], 0, Durability::Plain).is_err());
        }
    }
    Ok(())
}

#[test]
fn a_call_takes_what_is_free_or_nothing() {
    appends_in_part().unwrap();
    takes_what_is_claimed().unwrap();
    leaves_nothing_for_discards().unwrap();
}

#[test]
fn a_call_that_takes_too_much_is_caught() {
    type Run = fn() -> Result<(), String>;
    let left = "J12: a segment is left";
    let rules: [(&[&str], Run); 3] = [
        (&["J10: room for all batches before the first"], appends_in_part),
        // What asks what would be left asks for the same room.
        (&["J10: room is asked for before a segment is made", left], takes_what_is_claimed),
        (&[left], leaves_nothing_for_discards),
    ];
    for (rules, run) in rules {
        LEFT_OUT.with_borrow_mut(|out| out.extend(rules));
        let caught = run().is_err();
        LEFT_OUT.with_borrow_mut(Vec::clear);
        assert!(caught, "nothing noticed that this was left out: {rules:?}");
    }
}
