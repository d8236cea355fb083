use super::*;
use crate::vocab::Token;

const INODE: u8 = 1;
const HANDLE: u8 = 2;

fn record() -> MountRecord {
    MountRecord::create(Token([1; 16]), b"init").unwrap()
}

fn content(table: &HandleTable) -> Vec<(u64, Vec<u8>)> {
    [table.all(INODE), table.all(HANDLE)].concat()
}

#[test]
fn the_next_worker_finds_what_was_put() {
    let record = record();
    let table = HandleTable::open(&record).unwrap();
    assert_eq!(table.all(INODE), []);
    let number = table.fresh(INODE);
    table.put(INODE, number, b"disk a").unwrap();
    table.put(HANDLE, 7, &[5; MEANING_MAX]).unwrap();
    table.put(HANDLE, 8, b"").unwrap();
    table.put(HANDLE, 8, b"again").unwrap();
    table.remove(HANDLE, 7).unwrap();
    table.remove(HANDLE, 99).unwrap();
    assert_eq!(table.put(HANDLE, 9, &[0; MEANING_MAX + 1]).unwrap_err().kind(), Kind::Invalid);
    let next = HandleTable::open(&record).unwrap();
    assert_eq!(content(&next), content(&table));
    assert_eq!(next.get(INODE, number).as_deref(), Some(&b"disk a"[..]));
    assert_eq!(next.all(HANDLE), [(8, b"again".to_vec())]);
}

#[test]
fn numbers_are_not_given_again_after_removal() {
    let record = record();
    let table = HandleTable::open(&record).unwrap();
    let number = table.fresh(HANDLE);
    table.put(HANDLE, number, b"x").unwrap();
    table.remove(HANDLE, number).unwrap();
    assert!(HandleTable::open(&record).unwrap().fresh(HANDLE) > number);
}

/// Cuts the memory at every byte of the last entry, and leaves garbage behind it: the entries before it stay,
/// it is dropped, and what is appended then is found.
#[test]
fn a_torn_tail_is_dropped_and_overwritten() {
    let one = entry_bytes(6) as usize;
    for torn in 0..one {
        let record = record();
        let table = HandleTable::open(&record).unwrap();
        table.put(INODE, 1, b"first ").unwrap();
        let before = content(&table);
        table.put(INODE, 2, b"second").unwrap();
        let area = TABLE_AT + 16;
        let garbage = vec![0xee; one - torn];
        record.memory().write_all_at(&garbage, area + (one + torn) as u64).unwrap();
        let next = HandleTable::open(&record).unwrap();
        assert_eq!(content(&next), before, "torn after {torn} bytes");
        next.put(INODE, 3, b"third").unwrap();
        let last = HandleTable::open(&record).unwrap();
        assert_eq!(content(&last), content(&next), "torn after {torn} bytes");
    }
}

/// Without the place in the crc the remains of a longer entry would come back to life behind a shorter one.
#[test]
fn remains_of_an_overwritten_entry_are_not_entries() {
    let record = record();
    let table = HandleTable::open(&record).unwrap();
    let inner = encode(0, 0, PUT, HANDLE, 66, b"ghost");
    let mut outer = vec![0; 8];
    outer.extend_from_slice(&inner);
    // An entry whose meaning is itself an entry, then torn by its last byte.
    table.put(INODE, 1, &outer).unwrap();
    let end = TABLE_AT + 16 + entry_bytes(outer.len()) - 1;
    record.memory().write_all_at(&[0xee], end).unwrap();
    let next = HandleTable::open(&record).unwrap();
    next.put(INODE, 2, b"short").unwrap();
    let last = HandleTable::open(&record).unwrap();
    assert_eq!(content(&last), [(2, b"short".to_vec())]);
}

#[test]
fn compaction_keeps_the_living_and_frees_the_rest() {
    let record = record();
    let table = HandleTable::open(&record).unwrap();
    let rounds = 3 * COMPACT_BYTES_MIN / entry_bytes(64);
    for n in 0..rounds {
        let number = table.fresh(HANDLE);
        table.put(HANDLE, number, &[n as u8; 64]).unwrap();
        if n % 1000 != 0 {
            table.remove(HANDLE, number).unwrap();
        }
    }
    assert!(table.state.lock().generation >= 2, "no compaction happened");
    assert!(table.state.lock().end < 2 * COMPACT_BYTES_MIN);
    let next = HandleTable::open(&record).unwrap();
    assert_eq!(content(&next), content(&table));
    assert_eq!(content(&next).len() as u64, rounds.div_ceil(1000));
    assert_eq!(next.fresh(HANDLE), rounds + 1);
}

/// A worker that dies in a compaction leaves the old area current, whatever it wrote into the other one.
#[test]
fn a_compaction_that_was_cut_short_changes_nothing() {
    let record = record();
    let table = HandleTable::open(&record).unwrap();
    table.put(HANDLE, 1, b"kept").unwrap();
    let half = encode(1, 0, PUT, HANDLE, 1, b"half");
    record.memory().write_all_at(&half, TABLE_AT + 16 + AREA).unwrap();
    assert_eq!(HandleTable::open(&record).unwrap().all(HANDLE), [(1, b"kept".to_vec())]);
}
