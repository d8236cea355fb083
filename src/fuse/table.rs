//! The handle table: what inode numbers and handles stand for. It lives exactly as long as the mount, in
//! memory that the keeper holds, and every worker finds in it what the workers before it gave out.
//!
//! 1. What `put` or `remove` returned for is found by the next worker, however this one dies.
//! 2. A torn tail (the worker died in an append) is dropped: nobody was told of it.
//! 3. A number that `fresh` gave and that was put is never given again, not after its removal either: a
//!    request about it may still be on its way.
//! 4. Compaction writes the living entries to the other area and then one word that makes it the current one:
//!    before that word the old area is whole, after it the new one.
//!
//! An entry is 24 bytes and its meaning, padded to 8: crc32c of (generation, place, rest), length of the
//! meaning, operation, kind, two zero bytes, four zero bytes, number. The generation and place in the crc keep
//! remains of older entries from being taken for new ones.

use super::record::{MountRecord, TABLE_AT};
use crate::vocab::{Error, Kind, Result};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Longest meaning of one number, in bytes.
pub const MEANING_MAX: usize = 4096;
/// Most bytes that living entries may take. A mount that needs more has leaked handles.
pub const TABLE_BYTES_MAX: u64 = 256 << 20;

const HEAD: usize = 24;
const AREA: u64 = 1 << 40;
/// Areas below this size aren't compacted.
const COMPACT_BYTES_MIN: u64 = 1 << 20;

const PUT: u8 = 1;
const REMOVE: u8 = 2;
/// The highest number of a kind so far; written when a compaction drops the removals that showed it.
const HIGHEST: u8 = 3;

/// What numbers of several kinds stand for. Kinds and meanings are the namespace's business.
#[derive(Debug)]
pub struct HandleTable {
    record: MountRecord,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    /// Place of the next entry in its area.
    end: u64,
    living: BTreeMap<(u8, u64), Box<[u8]>>,
    living_bytes: u64,
    highest: HashMap<u8, u64>,
}

impl HandleTable {
    /// The table in the memory of a mount.
    pub fn open(record: &MountRecord) -> Result<Self> {
        let record = record.try_clone()?;
        let mut state = State { generation: read_generation(record.memory())?, ..State::default() };
        state.load(record.memory())?;
        Ok(Self { record, state: Mutex::new(state) })
    }

    /// A number of this kind that was never put before.
    pub fn fresh(&self, kind: u8) -> u64 {
        let mut state = self.state.lock();
        let highest = state.highest.entry(kind).or_insert(0);
        *highest += 1;
        *highest
    }

    /// Says what a number stands for, replacing what it stood for before. Call it before the number is
    /// answered to anybody. At most [`MEANING_MAX`] bytes.
    pub fn put(&self, kind: u8, number: u64, meaning: &[u8]) -> Result<()> {
        if meaning.len() > MEANING_MAX {
            return Err(Error::new(Kind::Invalid, "a handle whose meaning is too long"));
        }
        let mut state = self.state.lock();
        if state.living_bytes + entry_bytes(meaning.len()) > TABLE_BYTES_MAX {
            return Err(Error::new(Kind::NoSpace, "the mount has too many open handles")
                .advice("Find who opens files and doesn't close them: lsof"));
        }
        state.append(self.record.memory(), PUT, kind, number, meaning)?;
        state.compact_if_due(self.record.memory())
    }

    /// The number is no longer in use.
    pub fn remove(&self, kind: u8, number: u64) -> Result<()> {
        let mut state = self.state.lock();
        if !state.living.contains_key(&(kind, number)) {
            return Ok(());
        }
        state.append(self.record.memory(), REMOVE, kind, number, &[])?;
        state.compact_if_due(self.record.memory())
    }

    /// What a number stands for.
    pub fn get(&self, kind: u8, number: u64) -> Option<Vec<u8>> {
        self.state.lock().living.get(&(kind, number)).map(|meaning| meaning.to_vec())
    }

    /// All numbers of a kind and what they stand for, in the order of the numbers.
    pub fn all(&self, kind: u8) -> Vec<(u64, Vec<u8>)> {
        let state = self.state.lock();
        let range = state.living.range((kind, 0)..=(kind, u64::MAX));
        range.map(|((_, number), meaning)| (*number, meaning.to_vec())).collect()
    }
}

impl State {
    fn area(&self) -> u64 {
        TABLE_AT + 16 + (self.generation % 2) * AREA
    }

    fn load(&mut self, memory: &File) -> Result<()> {
        let length = memory.metadata().map_err(|e| Error::io(e, "can't read shared memory"))?.len();
        let room = length.saturating_sub(self.area()).min(AREA - TABLE_AT) as usize;
        // The first area is followed by a hole up to the second; its end shows by the first bad entry.
        let mut bytes = Vec::new();
        let mut at = 0;
        while let Some((operation, kind, number, meaning)) = {
            fill(memory, self.area(), &mut bytes, at + HEAD + MEANING_MAX + 8, room)?;
            decode(&bytes, at, self.generation)
        } {
            at += entry_bytes(meaning.len()) as usize;
            self.apply(operation, kind, number, &meaning);
        }
        self.end = at as u64;
        Ok(())
    }

    fn apply(&mut self, operation: u8, kind: u8, number: u64, meaning: &[u8]) {
        let highest = self.highest.entry(kind).or_insert(0);
        *highest = (*highest).max(number);
        let before = match operation {
            PUT => {
                self.living_bytes += entry_bytes(meaning.len());
                self.living.insert((kind, number), meaning.into())
            }
            REMOVE => self.living.remove(&(kind, number)),
            _ => None,
        };
        if let Some(before) = before {
            self.living_bytes -= entry_bytes(before.len());
        }
    }

    fn append(&mut self, memory: &File, operation: u8, kind: u8, number: u64, meaning: &[u8]) -> Result<()> {
        let entry = encode(self.generation, self.end, operation, kind, number, meaning);
        memory
            .write_all_at(&entry, self.area() + self.end)
            .map_err(|e| Error::io(e, "can't write the handle table"))?;
        self.end += entry.len() as u64;
        self.apply(operation, kind, number, meaning);
        Ok(())
    }

    fn compact_if_due(&mut self, memory: &File) -> Result<()> {
        if self.end < COMPACT_BYTES_MIN || self.end < self.living_bytes * 2 {
            return Ok(());
        }
        let failed = |e: std::io::Error| Error::io(e, "can't compact the handle table");
        let mut next = State { generation: self.generation + 1, ..State::default() };
        let mut bytes = Vec::new();
        for (kind, highest) in &self.highest {
            bytes.extend(encode(next.generation, bytes.len() as u64, HIGHEST, *kind, *highest, &[]));
            next.apply(HIGHEST, *kind, *highest, &[]);
        }
        for ((kind, number), meaning) in &self.living {
            bytes.extend(encode(next.generation, bytes.len() as u64, PUT, *kind, *number, meaning));
            next.apply(PUT, *kind, *number, meaning);
        }
        memory.write_all_at(&bytes, next.area()).map_err(failed)?;
        next.end = bytes.len() as u64;
        // One word: a process that dies here has written all of it or none.
        memory.write_all_at(&next.generation.to_ne_bytes(), TABLE_AT).map_err(failed)?;
        let page = self.area().next_multiple_of(4096);
        let old = self.end;
        *self = next;
        // Only room: what stays behind is told apart by its generation.
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        if let Err(error) = rustix::fs::fallocate(memory, flags, page, old) {
            tracing::debug!(%error, "the old area of the handle table keeps its memory");
        }
        Ok(())
    }
}

fn read_generation(memory: &File) -> Result<u64> {
    let mut word = [0; 8];
    match memory.read_exact_at(&mut word, TABLE_AT) {
        Ok(()) => Ok(u64::from_ne_bytes(word)),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
        Err(e) => Err(Error::io(e, "can't read the handle table")),
    }
}

/// Reads on until `bytes` has `want` bytes or everything that there is room for.
fn fill(memory: &File, area: u64, bytes: &mut Vec<u8>, want: usize, room: usize) -> Result<()> {
    while bytes.len() < want.min(room) {
        let have = bytes.len();
        let next = (have + (1 << 20)).min(room);
        bytes.resize(next, 0);
        match memory.read_at(&mut bytes[have..], area + have as u64) {
            Ok(n) => bytes.truncate(have + n),
            Err(e) => return Err(Error::io(e, "can't read the handle table")),
        }
        if bytes.len() == have {
            break;
        }
    }
    Ok(())
}

fn entry_bytes(meaning: usize) -> u64 {
    (HEAD + meaning.next_multiple_of(8)) as u64
}

fn encode(generation: u64, place: u64, operation: u8, kind: u8, number: u64, meaning: &[u8]) -> Vec<u8> {
    let mut entry = vec![0; entry_bytes(meaning.len()) as usize];
    entry[4..8].copy_from_slice(&(meaning.len() as u32).to_ne_bytes());
    entry[8] = operation;
    entry[9] = kind;
    entry[16..24].copy_from_slice(&number.to_ne_bytes());
    entry[HEAD..HEAD + meaning.len()].copy_from_slice(meaning);
    let crc = checksum(generation, place, &entry[4..]);
    entry[0..4].copy_from_slice(&crc.to_ne_bytes());
    entry
}

fn checksum(generation: u64, place: u64, rest: &[u8]) -> u32 {
    let salt = crc32c::crc32c_append(crc32c::crc32c(&generation.to_ne_bytes()), &place.to_ne_bytes());
    crc32c::crc32c_append(salt, rest)
}

fn decode(bytes: &[u8], at: usize, generation: u64) -> Option<(u8, u8, u64, Vec<u8>)> {
    let head: &[u8; HEAD] = bytes.get(at..at + HEAD)?.try_into().ok()?;
    let crc = u32::from_ne_bytes(head[0..4].try_into().ok()?);
    let length = u32::from_ne_bytes(head[4..8].try_into().ok()?) as usize;
    let number = u64::from_ne_bytes(head[16..24].try_into().ok()?);
    if length > MEANING_MAX || !matches!(head[8], PUT | REMOVE | HIGHEST) {
        return None;
    }
    let entry = bytes.get(at..at + entry_bytes(length) as usize)?;
    (checksum(generation, at as u64, &entry[4..]) == crc)
        .then(|| (head[8], head[9], number, entry[HEAD..HEAD + length].to_vec()))
}

#[cfg(test)]
mod tests;
