//! Records of the range log: which ranges a sealed segment changed.
//!
//! | header | bytes | | bytes |
//! | --- | --- | --- | --- |
//! | magic `sbRL` | 4 | version u8, log2 of the granule u8, 0 u16 | 4 |
//! | crc32c of the header with this field zero | 4 | bytes of the body before compression | 4 |
//! | crc32c of the body | 4 | group, epoch | 32 |
//! | bytes of the body | 4 | first seq, last seq | 16 |
//!
//! The body is one zstd frame of numbers in LEB128: disks; for each its ordinal, its ranges, and for each range
//! the granules between it and the one before, and its own; then resizes; for each disk, old and new size in bytes.

use crate::format::crc_of;
use crate::format::index_page::{u32_at, u64_at};
use crate::vocab::{DiskOrdinal, EpochId, GroupId, Seq};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a record's header.
pub const RANGE_HEADER_BYTES: usize = 72;
/// Log2 of the granule that ranges are taken in at first: 4 KiB.
pub const RANGE_SHIFT: u8 = 12;
/// Log2 of the coarsest granule.
pub const RANGE_SHIFT_MAX: u8 = 40;

const MAGIC: [u8; 4] = *b"sbRL";
const VERSION: u8 = 1;
const LEVEL: i32 = 3;
/// A segment of 64 MiB has at most so many records, each a range.
const RAW_BYTES_MAX: u32 = 64 << 20;

/// A change of size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resize {
    /// Which file.
    pub disk: DiskOrdinal,
    /// Bytes before.
    pub old: u64,
    /// Bytes after.
    pub new: u64,
}

/// Ranges of bytes by file, sorted and apart from each other, and the changes of size.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// What was written, zeroed or discarded, rounded outwards to granules.
    pub ranges: BTreeMap<DiskOrdinal, Vec<Range<u64>>>,
    /// Changes of size, in order.
    pub resizes: Vec<Resize>,
}

/// The fixed part of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeHeader {
    /// Bytes of the body as stored.
    pub body_len: u32,
    /// crc32c of the body as stored.
    pub body_crc: u32,
    /// Bytes of the body before compression.
    pub raw_len: u32,
    /// Log2 of the granule.
    pub shift: u8,
    /// Group that it belongs to.
    pub group: GroupId,
    /// Epoch of the records.
    pub epoch: EpochId,
    /// First record.
    pub first_seq: Seq,
    /// Last record.
    pub last_seq: Seq,
}

impl RangeHeader {
    /// Its bytes.
    pub fn encode(&self) -> [u8; RANGE_HEADER_BYTES] {
        let mut out = [0; RANGE_HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.body_crc.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_len.to_le_bytes());
        out[16..18].copy_from_slice(&[VERSION, self.shift]);
        out[20..24].copy_from_slice(&self.raw_len.to_le_bytes());
        out[24..40].copy_from_slice(&self.group.0);
        out[40..56].copy_from_slice(&self.epoch.0);
        out[56..64].copy_from_slice(&self.first_seq.0.to_le_bytes());
        out[64..72].copy_from_slice(&self.last_seq.0.to_le_bytes());
        let crc = crc_of(&[&out]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads it; says what is wrong with it.
    pub fn decode(from: &[u8]) -> Result<Self, &'static str> {
        let Some(from) = from.get(..RANGE_HEADER_BYTES).filter(|from| from[0..4] == MAGIC) else {
            return Err("no record of a range log");
        };
        if crc_of(&[&from[..4], &[0; 4], &from[8..]]) != u32_at(from, 4) {
            return Err("the header of a record of the range log doesn't fit its checksum");
        }
        if from[16] != VERSION {
            return Err("a record of a range log of another version");
        }
        let id = |at: usize| {
            let mut id = [0; 16];
            id.copy_from_slice(&from[at..at + 16]);
            id
        };
        let header = Self {
            body_len: u32_at(from, 12),
            body_crc: u32_at(from, 8),
            raw_len: u32_at(from, 20),
            shift: from[17],
            group: GroupId(id(24)),
            epoch: EpochId(id(40)),
            first_seq: Seq(u64_at(from, 56)),
            last_seq: Seq(u64_at(from, 64)),
        };
        let sane = header.first_seq <= header.last_seq
            && header.raw_len <= RAW_BYTES_MAX
            && (RANGE_SHIFT..=RANGE_SHIFT_MAX).contains(&header.shift);
        if sane { Ok(header) } else { Err("a record of the range log with impossible counts") }
    }
}

impl Changes {
    /// Adds a range of bytes; [`Changes::settle`] puts them in order.
    pub fn add(&mut self, disk: DiskOrdinal, range: Range<u64>) {
        if !range.is_empty() {
            self.ranges.entry(disk).or_default().push(range);
        }
    }

    /// Rounds outwards to granules, sorts and joins.
    pub fn settle(&mut self, shift: u8) {
        for list in self.ranges.values_mut() {
            let granule = 1u64 << shift;
            for range in list.iter_mut() {
                let end = range.end.checked_next_multiple_of(granule).unwrap_or(u64::MAX);
                *range = range.start / granule * granule..end;
            }
            list.sort_unstable_by_key(|range| range.start);
            list.dedup_by(|next, last| {
                let joins = next.start <= last.end;
                if joins {
                    last.end = last.end.max(next.end);
                }
                joins
            });
        }
    }

    /// Ranges in it.
    pub fn len(&self) -> usize {
        self.ranges.values().map(Vec::len).sum()
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.resizes.is_empty()
    }

    /// Bytes that changed, counted in whole granules.
    pub fn bytes(&self) -> u64 {
        self.ranges.values().flatten().map(|range| range.end - range.start).sum()
    }

    /// The body of a record, compressed, and its length before. The changes are settled with this granule.
    pub fn encode(&self, shift: u8) -> std::io::Result<(Vec<u8>, u32)> {
        let mut raw = Vec::new();
        number(&mut raw, self.ranges.len() as u64);
        for (disk, ranges) in &self.ranges {
            number(&mut raw, u64::from(disk.0));
            number(&mut raw, ranges.len() as u64);
            let mut at = 0;
            for range in ranges {
                // An end that isn't on a granule is the last byte that there can be.
                let (start, end) = (range.start >> shift, range.end.div_ceil(1 << shift));
                number(&mut raw, start - at);
                number(&mut raw, end - start);
                at = end;
            }
        }
        number(&mut raw, self.resizes.len() as u64);
        for resize in &self.resizes {
            number(&mut raw, u64::from(resize.disk.0));
            number(&mut raw, resize.old);
            number(&mut raw, resize.new);
        }
        Ok((zstd::bulk::compress(&raw, LEVEL)?, raw.len() as u32))
    }

    /// Reads the body of a record; `None` if it isn't one.
    pub fn decode(header: &RangeHeader, body: &[u8]) -> Option<Self> {
        if body.len() != header.body_len as usize || crc_of(&[body]) != header.body_crc {
            return None;
        }
        let raw = zstd::bulk::decompress(body, header.raw_len as usize).ok()?;
        let mut from = raw.as_slice();
        let mut out = Self::default();
        for _ in 0..take(&mut from)? {
            let disk = DiskOrdinal(u32::try_from(take(&mut from)?).ok()?);
            let count = take(&mut from)?;
            let (mut at, mut list) = (0u64, Vec::new());
            for _ in 0..count {
                let start = at.checked_add(take(&mut from)?)?;
                at = start.checked_add(take(&mut from)?)?;
                let edge = |granules: u64| granules.checked_mul(1 << header.shift);
                list.push(edge(start)?..edge(at).unwrap_or(u64::MAX));
            }
            out.ranges.insert(disk, list);
        }
        for _ in 0..take(&mut from)? {
            let disk = DiskOrdinal(u32::try_from(take(&mut from)?).ok()?);
            out.resizes.push(Resize { disk, old: take(&mut from)?, new: take(&mut from)? });
        }
        from.is_empty().then_some(out)
    }
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Changes {
        let mut changes = Changes::default();
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..1000 {
            let start = random.u64(0..1 << 40);
            changes.add(DiskOrdinal(random.u32(1..4)), start..start + random.u64(1..100_000));
        }
        changes.add(DiskOrdinal(9), u64::MAX - 5..u64::MAX);
        changes.resizes.push(Resize { disk: DiskOrdinal(2), old: 7, new: u64::MAX });
        changes.settle(RANGE_SHIFT);
        changes
    }

    fn header(body: &[u8], raw_len: u32) -> RangeHeader {
        RangeHeader {
            body_len: body.len() as u32,
            body_crc: crc_of(&[body]),
            raw_len,
            shift: RANGE_SHIFT,
            group: GroupId([1; 16]),
            epoch: EpochId([2; 16]),
            first_seq: Seq(3),
            last_seq: Seq(4),
        }
    }

    #[test]
    fn there_and_back() {
        let changes = sample();
        let (body, raw_len) = changes.encode(RANGE_SHIFT).unwrap();
        let header = header(&body, raw_len);
        assert_eq!(RangeHeader::decode(&header.encode()), Ok(header));
        assert_eq!(Changes::decode(&header, &body), Some(changes));
    }

    #[test]
    fn flips_are_seen() {
        let (body, raw_len) = sample().encode(RANGE_SHIFT).unwrap();
        let header = header(&body, raw_len);
        for at in 0..RANGE_HEADER_BYTES {
            let mut bad = header.encode();
            bad[at] ^= 1;
            assert!(RangeHeader::decode(&bad).is_err(), "byte {at}");
        }
        for at in (0..body.len()).step_by(7) {
            let mut bad = body.clone();
            bad[at] ^= 1;
            assert_eq!(Changes::decode(&header, &bad), None, "byte {at}");
        }
    }

    #[test]
    fn settling_rounds_outwards_and_joins() {
        let mut changes = Changes::default();
        for range in [4095..4097, 100..101, 20_000..20_001, 8192..8193] {
            changes.add(DiskOrdinal(1), range);
        }
        changes.settle(12);
        assert_eq!(changes.ranges[&DiskOrdinal(1)], [0..12288, 16384..20480]);
        changes.settle(16);
        assert_eq!(changes.ranges[&DiskOrdinal(1)].first(), Some(&(0..65536)));
        assert_eq!(changes.bytes(), 65536);
    }

    #[test]
    fn numbers_of_any_size() {
        for value in [0, 1, 127, 128, 1 << 35, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, value);
            let mut from = out.as_slice();
            assert_eq!(take(&mut from), Some(value));
            assert!(from.is_empty());
            assert_eq!(take(&mut &out[..out.len() - 1]), None);
        }
    }
}
