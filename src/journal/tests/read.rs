//! Reads that meet a page cache which is older than the medium, and places whose segments are gone.

use super::{identity, parts};
use crate::journal::{LEFT_OUT, Log, LogParts, NewRecord};
use crate::seam::{Access, Durability, File, SimDevice, Space, Storage};
use crate::vocab::{DiskOrdinal, EpochId, Kind, Pos, RecordKind, Result};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

const BLOCK: u64 = 4096;

/// A tree whose page cache shows zeros in these blocks of every file, as before they were written.
struct Stale {
    below: Arc<dyn Storage>,
    blocks: Arc<Mutex<BTreeSet<u64>>>,
}

struct StaleFile {
    below: Arc<dyn File>,
    blocks: Arc<Mutex<BTreeSet<u64>>>,
}

impl Storage for Stale {
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>> {
        let below = self.below.open(path, access)?;
        let stale = access == Access::ReadOnly;
        Ok(if stale { Arc::new(StaleFile { below, blocks: self.blocks.clone() }) } else { below })
    }

    fn create(&self, path: &Path, access: Access) -> Result<Arc<dyn File>> {
        self.below.create(path, access)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.below.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.below.remove(path)
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        self.below.make_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.below.remove_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        self.below.list(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.below.sync_dir(path)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.below.exists(path)
    }

    fn space(&self) -> Result<Space> {
        self.below.space()
    }

    fn shown(&self, path: &Path) -> String {
        self.below.shown(path)
    }
}

impl File for StaleFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let got = self.below.read_at(buf, offset)?;
        for block in self.blocks.lock().iter() {
            let from = (block * BLOCK).clamp(offset, offset + got as u64) - offset;
            let to = ((block + 1) * BLOCK).clamp(offset, offset + got as u64) - offset;
            buf[from as usize..to as usize].fill(0);
        }
        Ok(got)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64, durability: Durability) -> Result<()> {
        self.below.write_at(bufs, offset, durability)
    }

    fn sync(&self) -> Result<()> {
        self.below.sync()
    }

    fn len(&self) -> Result<u64> {
        self.below.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.below.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.below.allocate(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.below.punch(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.below.zero(offset, len)
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        self.below.next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.below.next_hole(offset)
    }

    fn allocated(&self) -> Result<u64> {
        self.below.allocated()
    }
}

fn record(payload: &[u8]) -> NewRecord<'_> {
    let (disk, kind, length) = (DiskOrdinal(1), RecordKind::Write, payload.len() as u64);
    NewRecord { disk, kind, flags: 0, offset: 0, length, payload, wall: 1 }
}

/// Each block of a segment is stale in turn, and two neighbours, and all: every batch and every payload is read.
fn reads_beside_stale_pages() -> std::result::Result<(), String> {
    let device = SimDevice::new(1);
    let plain = parts(&device, 1);
    let blocks = Arc::new(Mutex::new(BTreeSet::new()));
    let storage: Arc<dyn Storage> = Arc::new(Stale { below: plain.storage.clone(), blocks: blocks.clone() });
    let log = Log::create(LogParts { storage, ..plain }, identity(), EpochId([5; 16])).unwrap();
    let mut all = Vec::new();
    // Short ones, such with a list of crcs, and a table of more than a block.
    for (count, length) in [(1, 100), (1, 20_000), (60, 7), (100, 5), (2, 4096), (1, 9000)] {
        let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let batches = log.append(&vec![record(&payload); count], 0, Durability::Plain).unwrap();
        all.extend(batches.into_iter().map(|batch| (batch, payload.clone())));
    }
    let count = log.segments()[0].bytes / BLOCK;
    let sets =
        (0..count).map(|n| n..n + 1).chain((0..count).map(|n| n..n + 2)).chain(std::iter::once(0..count));
    for set in sets {
        *blocks.lock() = set.clone().collect();
        for (batch, payload) in &all {
            let text = |e: crate::vocab::Error| format!("blocks {set:?}, batch at {}: {e}", batch.pos);
            let found = log.batch_at(batch.pos).map_err(text)?.ok_or("no batch")?;
            if found.records.len() != batch.records.len() {
                return Err(format!("blocks {set:?}: another batch at {}", batch.pos));
            }
            for at in &batch.records {
                let mut bytes = vec![0xee; payload.len()];
                log.read_payload(at.pos, payload.len() as u64, at.crc, 0, &mut bytes).map_err(text)?;
                if bytes != *payload {
                    return Err(format!("blocks {set:?}: other bytes at {}", at.pos));
                }
            }
        }
    }
    Ok(())
}

/// Every place of a log whose first segments were freed, before and after it was opened anew.
fn names_freed_places() -> std::result::Result<(), String> {
    let device = SimDevice::new(2);
    let log = Log::create(parts(&device, 1), identity(), EpochId([5; 16])).unwrap();
    let mut batches = Vec::new();
    while log.segments().len() < 5 {
        batches.extend(log.append(&[record(&[7; 9000])], 0, Durability::Plain).unwrap());
    }
    let segments = log.segments();
    let freed: Vec<Pos> = segments[..3].iter().map(|s| s.start).collect();
    log.write_list_without(&freed).unwrap();
    log.release(&freed).unwrap();
    let (edge, first) = (segments[2].end, segments[3].first_batch());
    for batch in &batches {
        for pos in [batch.pos, Pos(batch.end.0 - 1), batch.end] {
            let found = log.batch_at(pos);
            let right = match &found {
                // The one name of a place between two batches is the end of the earlier.
                _ if pos < edge => found.as_ref().is_err_and(|e| e.kind() == Kind::NotFound),
                Ok(Some(found)) if pos < first => found.pos == first,
                Ok(found) => {
                    let next = batches.iter().find(|b| b.pos >= pos).map(|b| b.pos);
                    found.as_ref().map(|b| b.pos) == next
                }
                // Within a batch there is nothing.
                Err(e) => e.kind() == Kind::Damaged && pos != batch.pos && pos != batch.end,
            };
            if !right {
                let found = found.map(|b| b.map(|b| b.pos));
                return Err(format!("place {pos}, freed up to {edge}: {found:?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn stale_pages_and_freed_places_are_told() {
    reads_beside_stale_pages().unwrap();
    names_freed_places().unwrap();
}

#[test]
fn reads_without_their_rules_are_caught() {
    type Run = fn() -> std::result::Result<(), String>;
    let rules: [(&str, Run); 2] = [
        ("L1: a header is asked of the medium", reads_beside_stale_pages),
        ("L2: a freed place is gone", names_freed_places),
    ];
    for (rule, run) in rules {
        LEFT_OUT.with_borrow_mut(|out| *out = vec![rule]);
        let caught = run().is_err();
        LEFT_OUT.with_borrow_mut(Vec::clear);
        assert!(caught, "nothing noticed that this was left out: {rule}");
    }
}
