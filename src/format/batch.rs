//! Batch: one aligned append to a log.
//!
//! ```text
//! header 64 | entries 48 each | crc lists of payloads over 4096 bytes | payloads | zeros up to a block
//! ```
//!
//! B1. The header's crc covers header and table (entries and crc lists); each payload has the crc in its entry.
//! B2. Places rise strictly in record order, a record without payload takes one byte: so the log position of a
//!     place is unique and orders records as their seqs do. The index relies on it.
//! B3. A payload of 4096 bytes or more lies at a place ≡ its file offset (mod 4096), so that aligned guest
//!     blocks are aligned in the log.
//! B4. Seqs of the records that have one are dense; the header's first seq is the first of them (or the next
//!     seq, if none has one).

use crate::format::{BLOCK, RECORD_BYTES, RecordEntry, crc_of};
use crate::vocab::{Error, Kind, Pos, Result, Seq};
use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the header.
pub const BATCH_HEADER_BYTES: usize = 64;
/// Most payload bytes that the appender gathers into one batch.
pub const BATCH_PAYLOAD_MAX: usize = 1 << 20;
/// Longest batch in bytes; a reader refuses longer ones.
pub const BATCH_BYTES_MAX: u32 = 4 << 20;
/// Records in one batch at most.
const BATCH_RECORDS_MAX: usize = 512;
const MAGIC: u32 = u32::from_le_bytes(*b"SbBa");

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct Raw {
    magic: U32,
    crc: U32,
    life: U64,
    first_seq: U64,
    durable: U64,
    wall: I64,
    age: U64,
    length: U32,
    table: U32,
    link: U32,
    records: U16,
    flags: U16,
}
const _: () = assert!(size_of::<Raw>() == BATCH_HEADER_BYTES);

/// The header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Life of the segment that it lies in.
    pub life: u64,
    /// Seq of the first record that has one.
    pub first_seq: Seq,
    /// Everything before this place was durable when the batch was written.
    pub durable: Pos,
    /// Wall time, raw, ns.
    pub wall: i64,
    /// Age clock, ns.
    pub age: u64,
    /// Bytes of the whole batch, a multiple of [`BLOCK`].
    pub length: u32,
    /// Bytes of the table.
    pub table: u32,
    /// Header crc of the batch before.
    pub link: u32,
    /// Records in it.
    pub records: u16,
    /// Its own crc: what the next batch links to.
    pub crc: u32,
}

/// Where each payload of a batch goes.
#[derive(Clone, Debug, Default)]
pub struct BatchLayout {
    lists: usize,
    payload: usize,
    shapes: Vec<(u64, u32)>,
}

impl BatchLayout {
    /// Adds a record with `stored` payload bytes for file offset `offset`. False if the batch is full.
    pub fn push(&mut self, offset: u64, stored: u32) -> bool {
        let records = self.shapes.len();
        let full = records == BATCH_RECORDS_MAX
            || (records > 0 && self.payload + stored as usize > BATCH_PAYLOAD_MAX);
        if full {
            return false;
        }
        self.payload += stored as usize;
        self.lists += crc_list_len(stored);
        self.shapes.push((offset, stored));
        true
    }

    /// Keeps the first `records`.
    pub fn truncate(&mut self, records: usize) {
        for (_, stored) in self.shapes.drain(records.min(self.shapes.len())..) {
            self.payload -= stored as usize;
            self.lists -= crc_list_len(stored);
        }
    }

    /// Bytes of the table: entries and crc lists.
    pub fn table_bytes(&self) -> usize {
        self.shapes.len() * RECORD_BYTES + self.lists * 4
    }

    /// The places in record order, and the length of the batch.
    pub fn places(&self) -> (Vec<u32>, u32) {
        let mut next = (BATCH_HEADER_BYTES + self.table_bytes()) as u64;
        let places = self
            .shapes
            .iter()
            .map(|&(offset, stored)| {
                if u64::from(stored) >= BLOCK {
                    next += (offset % BLOCK + BLOCK - next % BLOCK) % BLOCK;
                }
                let place = next as u32;
                next += u64::from(stored.max(1));
                place
            })
            .collect();
        (places, next.next_multiple_of(BLOCK) as u32)
    }
}

/// How many crcs the table has for a payload of so many bytes.
pub fn crc_list_len(stored: u32) -> usize {
    if u64::from(stored) > BLOCK { u64::from(stored).div_ceil(BLOCK) as usize } else { 0 }
}

impl BatchHeader {
    /// Header and table as bytes, with their crc; `self.crc`, `table` and `records` are set from the table.
    pub fn encode(&mut self, entries: &[RecordEntry], lists: &[u32]) -> Vec<u8> {
        let mut out = vec![0; BATCH_HEADER_BYTES];
        for entry in entries {
            entry.encode(&mut out);
        }
        lists.iter().for_each(|crc| out.extend_from_slice(&crc.to_le_bytes()));
        self.table = (out.len() - BATCH_HEADER_BYTES) as u32;
        self.records = entries.len() as u16;
        let mut raw = Raw {
            magic: MAGIC.into(),
            crc: 0.into(),
            life: self.life.into(),
            first_seq: self.first_seq.0.into(),
            durable: self.durable.0.into(),
            wall: self.wall.into(),
            age: self.age.into(),
            length: self.length.into(),
            table: self.table.into(),
            link: self.link.into(),
            records: self.records.into(),
            flags: 0.into(),
        };
        self.crc = crc_of(&[raw.as_bytes(), &out[BATCH_HEADER_BYTES..]]);
        raw.crc = self.crc.into();
        out[..BATCH_HEADER_BYTES].copy_from_slice(raw.as_bytes());
        out
    }

    /// Reads a header whose shape is plausible; the crc is checked by [`check_header`].
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (raw, _) = Raw::read_from_prefix(bytes).ok()?;
        let header = Self {
            life: raw.life.get(),
            first_seq: Seq(raw.first_seq.get()),
            durable: Pos(raw.durable.get()),
            wall: raw.wall.get(),
            age: raw.age.get(),
            length: raw.length.get(),
            table: raw.table.get(),
            link: raw.link.get(),
            records: raw.records.get(),
            crc: raw.crc.get(),
        };
        let plausible = raw.magic.get() == MAGIC
            && u64::from(header.length) % BLOCK == 0
            && header.length <= BATCH_BYTES_MAX
            && u64::from(header.table) + BATCH_HEADER_BYTES as u64 <= u64::from(header.length)
            && header.table as usize >= usize::from(header.records) * RECORD_BYTES
            && header.records > 0;
        plausible.then_some(header)
    }

    /// Bytes of header and table.
    pub fn head_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.table as usize
    }
}

/// The header, if header and table (both in `bytes`) are as they were written.
pub fn check_header(bytes: &[u8]) -> Option<BatchHeader> {
    let header = BatchHeader::decode(bytes)?;
    let table = bytes.get(BATCH_HEADER_BYTES..header.head_bytes())?;
    let (mut raw, _) = Raw::read_from_prefix(bytes).ok()?;
    raw.crc = 0.into();
    (crc_of(&[raw.as_bytes(), table]) == header.crc).then_some(header)
}

/// A record of a batch with the crcs of its payload's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView {
    /// The entry.
    pub entry: RecordEntry,
    /// crc32c of each 4096 bytes of the payload, if it is longer than that.
    pub blocks: Vec<u32>,
}

/// Decodes the table of a batch whose header was checked.
///
/// # Errors
/// `Damaged` if the table contradicts itself, `Unsupported` for unknown kinds.
pub fn parse_table(header: &BatchHeader, bytes: &[u8]) -> Result<Vec<RecordView>> {
    let damaged = |what: &str| Error::new(Kind::Damaged, format!("batch table contradicts itself: {what}"));
    let table =
        bytes.get(BATCH_HEADER_BYTES..header.head_bytes()).ok_or_else(|| damaged("it is cut short"))?;
    let (entries, lists) = table.split_at(usize::from(header.records) * RECORD_BYTES);
    let mut lists = lists.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    let mut out = Vec::with_capacity(usize::from(header.records));
    let (mut seq, mut end) = (header.first_seq.0, header.head_bytes() as u64);
    for bytes in entries.chunks_exact(RECORD_BYTES) {
        let entry = RecordEntry::decode(bytes)?;
        if entry.kind.has_seq() {
            if entry.seq.0 != seq {
                return Err(damaged("seqs are not dense"));
            }
            seq += 1;
        }
        let place = u64::from(entry.place);
        if place < end || place + u64::from(entry.room()) > u64::from(header.length) {
            return Err(damaged("a payload lies outside"));
        }
        end = place + u64::from(entry.room());
        let blocks: Vec<u32> = lists.by_ref().take(crc_list_len(entry.stored)).collect();
        if blocks.len() != crc_list_len(entry.stored) {
            return Err(damaged("a list of crcs is missing"));
        }
        out.push(RecordView { entry, blocks });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{Codec, DiskOrdinal, RecordKind};

    fn batch(shapes: &[(u64, u32)]) -> (BatchHeader, Vec<RecordEntry>, Vec<u32>, Vec<u8>) {
        let mut layout = BatchLayout::default();
        assert!(shapes.iter().all(|&(offset, stored)| layout.push(offset, stored)));
        let (places, length) = layout.places();
        let entries: Vec<_> = shapes
            .iter()
            .zip(&places)
            .enumerate()
            .map(|(i, (&(offset, stored), &place))| RecordEntry {
                disk: DiskOrdinal(1),
                kind: if stored == 0 { RecordKind::Discard } else { RecordKind::Write },
                flags: 0,
                codec: Codec::Plain,
                offset,
                length: u64::from(stored).max(7),
                seq: Seq(10 + i as u64),
                stored,
                place,
                delta: i as u32,
                crc: 5,
            })
            .collect();
        let lists: Vec<u32> = (0..shapes.iter().map(|s| crc_list_len(s.1)).sum::<usize>() as u32).collect();
        let mut header = BatchHeader {
            life: 1,
            first_seq: Seq(10),
            durable: Pos(3),
            wall: -4,
            age: 5,
            length,
            table: 0,
            link: 6,
            records: 0,
            crc: 0,
        };
        let bytes = header.encode(&entries, &lists);
        (header, entries, lists, bytes)
    }

    #[test]
    fn lengths_are_as_promised() {
        for (n, bytes) in [(1, 8192), (8, 9 * 4096), (32, 33 * 4096)] {
            let shapes: Vec<_> = (0..n).map(|i| (i * 4096, 4096)).collect();
            assert_eq!(batch(&shapes).0.length, bytes);
        }
        assert_eq!(batch(&[(0, 512)]).0.length, 4096);
        assert_eq!(batch(&[(0, 0)]).0.length, 4096);
        assert_eq!(batch(&[(0, 1 << 20)]).0.length, (1 << 20) + 4096);
    }

    #[test]
    fn places_rise_and_aligned_payloads_are_aligned() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..2000 {
            let shapes: Vec<(u64, u32)> = (0..rng.usize(1..40))
                .map(|_| (rng.u64(..1 << 40), [0, 1, 512, 4096, 8192, 5000][rng.usize(..6)]))
                .collect();
            let (header, entries, lists, bytes) = batch(&shapes);
            let parsed = parse_table(&check_header(&bytes).unwrap(), &bytes).unwrap();
            assert_eq!(parsed.iter().map(|v| v.entry).collect::<Vec<_>>(), entries);
            assert_eq!(parsed.iter().flat_map(|v| v.blocks.clone()).collect::<Vec<_>>(), lists);
            for pair in entries.windows(2) {
                assert!(pair[0].place + pair[0].room() <= pair[1].place);
            }
            for e in entries.iter().filter(|e| e.stored >= 4096) {
                assert_eq!(u64::from(e.place) % 4096, e.offset % 4096);
            }
            assert_eq!(header.length % 4096, 0);
        }
    }

    #[test]
    fn every_flipped_byte_of_header_and_table_is_seen() {
        let (_, _, _, bytes) = batch(&[(0, 4096), (9, 10000), (1, 3)]);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert_eq!(check_header(&bad), None, "byte {at}");
        }
    }

    #[test]
    fn a_full_batch_takes_no_more() {
        let mut layout = BatchLayout::default();
        assert!(layout.push(0, 1 << 20));
        assert!(!layout.push(0, 1));
        let mut layout = BatchLayout::default();
        assert_eq!((0..600).filter(|_| layout.push(0, 1)).count(), 512);
    }
}
