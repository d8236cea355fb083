//! Segment header (block 0) and seal (block 1) of a segment file. Batches follow from block 2.

use crate::format::{BLOCK, FORMAT_VERSION, crc_of};
use crate::vocab::{EpochId, Error, GroupId, Kind, LogId, Moment, Pos, Result, Seq, StoreId};
use zerocopy::byteorder::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"SbSg");
const SEAL_MAGIC: u32 = u32::from_le_bytes(*b"SbSl");

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    crc: U32,
    version: U16,
    reserved: U16,
    compatible: U32,
    read_only_compatible: U32,
    incompatible: U32,
    store: [u8; 16],
    group: [u8; 16],
    log: [u8; 16],
    epoch: [u8; 16],
    boot: [u8; 16],
    life: U64,
    start_pos: U64,
    first_seq: U64,
    bytes: U64,
    previous_life: U64,
    previous_start: U64,
    previous_cut: U64,
    previous_last_seq: U64,
    durable_pos: U64,
    unit: U32,
    key: U32,
    previous_crc: U32,
    padding: U32,
}
const _: () = assert!(size_of::<RawHeader>() == 192);

/// What the first block of a segment says. Written and synced before the segment's first batch.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SegmentHeader {
    /// The store that wrote it.
    pub store: StoreId,
    /// The group.
    pub group: GroupId,
    /// The log.
    pub log: LogId,
    /// The epoch of all records in the segment.
    pub epoch: EpochId,
    /// Boot in which it was begun: tells a late write of an earlier process from a power loss.
    pub boot: [u8; 16],
    /// Random, new at each use of the file.
    pub life: u64,
    /// Place of block 0 in the log.
    pub start: Pos,
    /// Seq that the first record with one will have.
    pub first_seq: Seq,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// The segment before it: its life, 0 for none.
    pub previous_life: u64,
    /// Its start.
    pub previous_start: Pos,
    /// Where it ends: what lies there or later is void.
    pub previous_cut: Pos,
    /// The last seq before that cut.
    pub previous_last_seq: Seq,
    /// Header crc of the last batch before that cut: the first batch here links to it.
    pub previous_crc: u32,
    /// Everything before this place was durable when the header was written.
    pub durable: Pos,
    /// Bytes that a device write must be a multiple of.
    pub unit: u32,
}

impl SegmentHeader {
    /// The block to write.
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = RawHeader {
            magic: HEADER_MAGIC.into(),
            crc: 0.into(),
            version: FORMAT_VERSION.into(),
            reserved: 0.into(),
            compatible: 0.into(),
            read_only_compatible: 0.into(),
            incompatible: 0.into(),
            store: self.store.0,
            group: self.group.0,
            log: self.log.0,
            epoch: self.epoch.0,
            boot: self.boot,
            life: self.life.into(),
            start_pos: self.start.0.into(),
            first_seq: self.first_seq.0.into(),
            bytes: self.bytes.into(),
            previous_life: self.previous_life.into(),
            previous_start: self.previous_start.0.into(),
            previous_cut: self.previous_cut.0.into(),
            previous_last_seq: self.previous_last_seq.0.into(),
            durable_pos: self.durable.0.into(),
            unit: self.unit.into(),
            key: 0.into(),
            previous_crc: self.previous_crc.into(),
            padding: 0.into(),
        };
        raw.crc = crc_of(&[raw.as_bytes()]).into();
        let mut block = vec![0; BLOCK as usize];
        block[..size_of::<RawHeader>()].copy_from_slice(raw.as_bytes());
        block
    }

    /// Reads a block; `Ok(None)` if it is no header (never written, recycled, torn).
    ///
    /// # Errors
    /// `Unsupported` for a header of a later version or with features that this version doesn't know.
    pub fn decode(block: &[u8]) -> Result<Option<Self>> {
        let Ok((raw, _)) = RawHeader::read_from_prefix(block) else { return Ok(None) };
        let mut blank = raw.clone();
        blank.crc = 0.into();
        if raw.magic.get() != HEADER_MAGIC || crc_of(&[blank.as_bytes()]) != raw.crc.get() {
            return Ok(None);
        }
        if raw.version.get() != FORMAT_VERSION || raw.incompatible.get() != 0 || raw.key.get() != 0 {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "segment of format {} with incompatible features {:#x}; this version reads format {FORMAT_VERSION}",
                    raw.version, raw.incompatible
                ),
            )
            .advice("Use the version that wrote it, or a later one"));
        }
        Ok(Some(Self {
            store: StoreId(raw.store),
            group: GroupId(raw.group),
            log: LogId(raw.log),
            epoch: EpochId(raw.epoch),
            boot: raw.boot,
            life: raw.life.get(),
            start: Pos(raw.start_pos.get()),
            first_seq: Seq(raw.first_seq.get()),
            bytes: raw.bytes.get(),
            previous_life: raw.previous_life.get(),
            previous_start: Pos(raw.previous_start.get()),
            previous_cut: Pos(raw.previous_cut.get()),
            previous_last_seq: Seq(raw.previous_last_seq.get()),
            previous_crc: raw.previous_crc.get(),
            durable: Pos(raw.durable_pos.get()),
            unit: raw.unit.get(),
        }))
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct RawSeal {
    magic: U32,
    crc: U32,
    life: U64,
    end: U64,
    last_seq: U64,
    batches: U64,
    first_wall: I64,
    last_wall: I64,
    chain: [u8; 32],
    chain_epoch: [u8; 16],
    chain_seq: U64,
    flags: U32,
    last_crc: U32,
}
const _: () = assert!(size_of::<RawSeal>() == 120);

/// What block 1 says once nothing will be appended any more. A shortcut: all of it can be found by a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSeal {
    /// Life of the segment that it seals.
    pub life: u64,
    /// The place behind the last batch.
    pub end: Pos,
    /// The last seq in it, or the one before its first if it has none.
    pub last_seq: Seq,
    /// How many batches.
    pub batches: u64,
    /// Wall time of the first batch, ns.
    pub first_wall: i64,
    /// Wall time of the last batch, ns.
    pub last_wall: i64,
    /// Newest chain value known at the seal, and where it stands.
    pub chain: Option<(Moment, [u8; 32])>,
    /// Header crc of the last batch.
    pub last_crc: u32,
}

impl SegmentSeal {
    /// The block to write.
    pub fn encode(&self) -> Vec<u8> {
        let (moment, chain) = self.chain.unwrap_or_default();
        let mut raw = RawSeal {
            magic: SEAL_MAGIC.into(),
            crc: 0.into(),
            life: self.life.into(),
            end: self.end.0.into(),
            last_seq: self.last_seq.0.into(),
            batches: self.batches.into(),
            first_wall: self.first_wall.into(),
            last_wall: self.last_wall.into(),
            chain,
            chain_epoch: moment.epoch.0,
            chain_seq: moment.seq.0.into(),
            flags: u32::from(self.chain.is_some()).into(),
            last_crc: self.last_crc.into(),
        };
        raw.crc = crc_of(&[raw.as_bytes()]).into();
        let mut block = vec![0; BLOCK as usize];
        block[..size_of::<RawSeal>()].copy_from_slice(raw.as_bytes());
        block
    }

    /// Reads block 1; `None` if it doesn't seal the segment of this life.
    pub fn decode(block: &[u8], life: u64) -> Option<Self> {
        let (raw, _) = RawSeal::read_from_prefix(block).ok()?;
        let mut blank = raw.clone();
        blank.crc = 0.into();
        let good = raw.magic.get() == SEAL_MAGIC && raw.life.get() == life;
        if !good || crc_of(&[blank.as_bytes()]) != raw.crc.get() {
            return None;
        }
        let moment = Moment { epoch: EpochId(raw.chain_epoch), seq: Seq(raw.chain_seq.get()) };
        Some(Self {
            life,
            end: Pos(raw.end.get()),
            last_seq: Seq(raw.last_seq.get()),
            batches: raw.batches.get(),
            first_wall: raw.first_wall.get(),
            last_wall: raw.last_wall.get(),
            chain: (raw.flags.get() & 1 != 0).then_some((moment, raw.chain)),
            last_crc: raw.last_crc.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            store: StoreId([1; 16]),
            group: GroupId([2; 16]),
            log: LogId([3; 16]),
            epoch: EpochId([4; 16]),
            boot: [5; 16],
            life: 6,
            start: Pos(4 << 20),
            first_seq: Seq(8),
            bytes: 4 << 20,
            previous_life: 9,
            previous_start: Pos(0),
            previous_cut: Pos(12288),
            previous_last_seq: Seq(7),
            previous_crc: 10,
            durable: Pos(8192),
            unit: 4096,
        }
    }

    #[test]
    fn header_there_and_back_and_every_flipped_byte_is_seen() {
        let block = header().encode();
        assert_eq!(block.len(), 4096);
        assert_eq!(SegmentHeader::decode(&block).unwrap(), Some(header()));
        for at in 0..192 {
            let mut bad = block.clone();
            bad[at] ^= 0x10;
            assert_eq!(SegmentHeader::decode(&bad).ok().flatten(), None, "byte {at}");
        }
        assert_eq!(SegmentHeader::decode(&[0; 4096]).unwrap(), None);
        assert_eq!(SegmentHeader::decode(&[]).unwrap(), None);
    }

    #[test]
    fn a_later_format_is_refused_by_name() {
        let mut block = header().encode();
        block[8] = 2;
        let (mut raw, _) = RawHeader::read_from_prefix(&block).unwrap();
        raw.crc = 0.into();
        raw.crc = crc_of(&[raw.as_bytes()]).into();
        block[..192].copy_from_slice(raw.as_bytes());
        let error = SegmentHeader::decode(&block).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }

    #[test]
    fn seal_there_and_back() {
        let mut seal = SegmentSeal {
            life: 6,
            end: Pos(1 << 20),
            last_seq: Seq(99),
            batches: 40,
            first_wall: -1,
            last_wall: i64::MAX,
            chain: Some((Moment::new(EpochId([4; 16]), 98), [7; 32])),
            last_crc: 77,
        };
        let block = seal.encode();
        assert_eq!(SegmentSeal::decode(&block, 6).as_ref(), Some(&seal));
        assert_eq!(SegmentSeal::decode(&block, 7), None, "the seal of an earlier life");
        for at in 0..120 {
            let mut bad = block.clone();
            bad[at] ^= 1;
            assert_eq!(SegmentSeal::decode(&bad, 6), None, "byte {at}");
        }
        seal.chain = None;
        assert_eq!(SegmentSeal::decode(&seal.encode(), 6), Some(seal));
    }
}
