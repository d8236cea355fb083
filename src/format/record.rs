//! Record entry: 48 bytes in the table of a batch.

use crate::vocab::{Codec, DiskOrdinal, Error, Kind, RecordKind, Result, Seq};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an entry in the table.
pub const RECORD_BYTES: usize = 48;
/// Flag: the guest had flushed everything before this record.
pub const FLAG_FLUSH: u8 = 1;
/// Flag: belongs to the same guest request as the record before; both lie in one batch, at every site.
pub const FLAG_JOINED: u8 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    disk: U32,
    kind: u8,
    flags: u8,
    codec: u8,
    zero: u8,
    offset: U64,
    length: U64,
    seq: U64,
    stored: U32,
    place: U32,
    delta: U32,
    crc: U32,
}
const _: () = assert!(size_of::<Raw>() == RECORD_BYTES);

/// One record as its batch's table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordEntry {
    /// The file; 0 where the record speaks of no file.
    pub disk: DiskOrdinal,
    /// What it does.
    pub kind: RecordKind,
    /// [`FLAG_FLUSH`], [`FLAG_JOINED`]; only the first is part of the chain.
    pub flags: u8,
    /// How the payload is stored.
    pub codec: Codec,
    /// First byte in the file (of a resize: the new size).
    pub offset: u64,
    /// Bytes in the file (of a resize: the old size; of a record about names or policy: the payload's bytes).
    pub length: u64,
    /// Place on the line; 0 for kinds without one.
    pub seq: Seq,
    /// Bytes of payload in the batch.
    pub stored: u32,
    /// Where the payload begins, in bytes from the batch's begin. Rises strictly from record to record.
    pub place: u32,
    /// Wall time of the record less that of the batch, ns.
    pub delta: u32,
    /// crc32c of the stored payload.
    pub crc: u32,
}

impl RecordEntry {
    /// Appends the 48 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let raw = Raw {
            disk: self.disk.0.into(),
            kind: self.kind as u8,
            flags: self.flags,
            codec: self.codec as u8,
            zero: 0,
            offset: self.offset.into(),
            length: self.length.into(),
            seq: self.seq.0.into(),
            stored: self.stored.into(),
            place: self.place.into(),
            delta: self.delta.into(),
            crc: self.crc.into(),
        };
        out.extend_from_slice(raw.as_bytes());
    }

    /// Reads 48 bytes whose crc has been checked.
    ///
    /// # Errors
    /// `Unsupported` for a kind or codec that this version doesn't know; `Damaged` if they are too few.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let Ok((raw, _)) = Raw::read_from_prefix(bytes) else {
            return Err(Error::new(Kind::Damaged, "record entry is cut short"));
        };
        let unknown = |what: &str, number: u8| {
            Error::new(Kind::Unsupported, format!("record with unknown {what} {number}"))
                .advice("Use the version that wrote it, or a later one")
        };
        Ok(Self {
            disk: DiskOrdinal(raw.disk.get()),
            kind: RecordKind::from_u8(raw.kind).ok_or_else(|| unknown("kind", raw.kind))?,
            flags: raw.flags,
            codec: Codec::from_u8(raw.codec).ok_or_else(|| unknown("codec", raw.codec))?,
            offset: raw.offset.get(),
            length: raw.length.get(),
            seq: Seq(raw.seq.get()),
            stored: raw.stored.get(),
            place: raw.place.get(),
            delta: raw.delta.get(),
            crc: raw.crc.get(),
        })
    }

    /// Room that the payload takes: at least one byte, so that places rise strictly.
    pub fn room(&self) -> u32 {
        self.stored.max(1)
    }
}
