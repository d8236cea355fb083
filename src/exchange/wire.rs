//! Frames on the wire.
//!
//! ```text
//! magic 4 | version 2 | kind 2 | length 4 | crc32c 4 | body
//! ```
//!
//! F1. The crc covers the 12 bytes before it and the body. A reader allocates nothing for a length above the limit of
//!     the kind, and decodes nothing before the crc was compared.
//! F2. What was received never makes the decoder panic or allocate more than the limits say.
//! F3. A body of records or of a fill is compressed as a whole, if that makes it smaller; the length before is told
//!     and limited.

use crate::exchange::message::{Control, Data, Fill, Frame, Standing};
use crate::exchange::record::Record;
use crate::history::ChainValue;
use crate::vocab::{
    Codec, DiskOrdinal, EpochId, Error, GroupId, Kind, Moment, PAYLOAD_MAX, RecordKind, Result, Seq, Token,
};

/// Version of the frames.
pub const WIRE_VERSION: u16 = 1;
/// Bytes before the body.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Longest JSON of a control message, bytes.
pub const CONTROL_BYTES_MAX: u32 = 1 << 20;
/// Longest body of records or of a fill, before and after compression, bytes.
pub const DATA_BYTES_MAX: u32 = 6 << 20;
/// Most records in one message.
pub const RECORDS_MAX: usize = 4096;
/// Most ranges in one message.
pub const RANGES_MAX: usize = 4096;
const MAGIC: [u8; 4] = *b"SbXf";
const ZSTD: u8 = 1;

/// What a frame's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    kind: FrameKind,
    /// Bytes of the body.
    pub length: u32,
    crc: u32,
    head: [u8; 12],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FrameKind {
    Control = 1,
    Data = 2,
    Fill = 3,
}

fn conflict(what: impl Into<String>) -> Error {
    Error::new(Kind::Conflict, what)
}

impl FrameHeader {
    /// Reads a header; the body of `length` bytes follows.
    ///
    /// # Errors
    /// `Unsupported` for another version or an unknown kind; `Conflict` for what is no frame or too long.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self> {
        let mut r = Reader(bytes);
        if r.array::<4>()? != MAGIC {
            return Err(conflict("the peer sent something that is no frame of standbyfs"));
        }
        let version = u16::from_le_bytes(r.array()?);
        if version != WIRE_VERSION {
            let what =
                format!("version-mismatch: the peer sends frames of version {version}, not {WIRE_VERSION}");
            return Err(Error::new(Kind::Unsupported, what).advice("Use the same version at both sites"));
        }
        let number = u16::from_le_bytes(r.array()?);
        let (kind, max) = match number {
            1 => (FrameKind::Control, CONTROL_BYTES_MAX),
            2 => (FrameKind::Data, DATA_BYTES_MAX),
            3 => (FrameKind::Fill, DATA_BYTES_MAX),
            _ => {
                return Err(Error::new(Kind::Unsupported, format!("the peer sent a frame of kind {number}")));
            }
        };
        let length = r.u32()?;
        if length > max {
            return Err(conflict(format!("the peer sent a frame of {length} bytes; {max} are the most")));
        }
        let mut head = [0; 12];
        head.copy_from_slice(&bytes[..12]);
        Ok(Self { kind, length, crc: r.u32()?, head })
    }
}

/// A frame as bytes. `compress`: the level of zstd, if records and fills are to be compressed.
///
/// # Errors
/// `Invalid` if it is longer than the limits.
pub fn encode(frame: &Frame, compress: Option<i32>) -> Result<Vec<u8>> {
    let (kind, body, max) = match frame {
        Frame::Control(control) => {
            let json = serde_json::to_vec(control)
                .map_err(|e| Error::new(Kind::Invalid, format!("a message can't be written: {e}")))?;
            (FrameKind::Control, json, CONTROL_BYTES_MAX)
        }
        Frame::Data(data) => (FrameKind::Data, packed(&data_body(data), compress)?, DATA_BYTES_MAX),
        Frame::Fill(fill) => (FrameKind::Fill, packed(&fill_body(fill), compress)?, DATA_BYTES_MAX),
    };
    if body.len() > max as usize {
        return Err(Error::new(Kind::Invalid, format!("a message of {} bytes is too long", body.len())));
    }
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&WIRE_VERSION.to_le_bytes());
    out.extend_from_slice(&(kind as u16).to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &body);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// The frame of a header and its body.
///
/// # Errors
/// `Conflict` (name `corruption`) if the crc is wrong, or for a body that makes no sense.
pub fn decode(header: &FrameHeader, body: &[u8]) -> Result<Frame> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header.head), body);
    if body.len() != header.length as usize || crc != header.crc {
        return Err(conflict("corruption: a frame arrived with another crc32c than it was sent with"));
    }
    Ok(match header.kind {
        FrameKind::Control => {
            let control: Control = serde_json::from_slice(body)
                .map_err(|e| conflict(format!("the peer sent a message that can't be read: {e}")))?;
            Frame::Control(control)
        }
        FrameKind::Data => Frame::Data(Box::new(read_data(&unpacked(body)?)?)),
        FrameKind::Fill => Frame::Fill(Box::new(read_fill(&unpacked(body)?)?)),
    })
}

/// Flags, length before compression, bytes. F3.
fn packed(plain: &[u8], compress: Option<i32>) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(plain.len() + 5);
    if let Some(level) = compress {
        let small =
            zstd::bulk::compress(plain, level).map_err(|e| Error::io(e, "can't compress a message"))?;
        if small.len() < plain.len() {
            out.push(ZSTD);
            out.extend_from_slice(&(plain.len() as u32).to_le_bytes());
            out.extend_from_slice(&small);
            return Ok(out);
        }
    }
    out.push(0);
    out.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    out.extend_from_slice(plain);
    Ok(out)
}

fn unpacked(body: &[u8]) -> Result<std::borrow::Cow<'_, [u8]>> {
    let mut r = Reader(body);
    let [flags] = r.array()?;
    let length = r.u32()?;
    if length > DATA_BYTES_MAX || flags > ZSTD {
        return Err(conflict("the peer sent a body of an unknown shape"));
    }
    if flags == 0 {
        return if r.0.len() == length as usize { Ok(r.0.into()) } else { Err(short()) };
    }
    let plain = zstd::bulk::decompress(r.0, length as usize)
        .map_err(|e| conflict(format!("the peer sent a body that can't be decompressed: {e}")))?;
    if plain.len() == length as usize { Ok(plain.into()) } else { Err(short()) }
}

fn put_moment(out: &mut Vec<u8>, moment: Moment) {
    out.extend_from_slice(&moment.epoch.0);
    out.extend_from_slice(&moment.seq.0.to_le_bytes());
}

fn data_body(data: &Data) -> Vec<u8> {
    let bytes: usize = data.records.iter().map(|r| r.payload.len() + 48).sum();
    let mut out = Vec::with_capacity(bytes + 256);
    out.extend_from_slice(&data.group.0);
    out.extend_from_slice(&data.epoch.0);
    out.extend_from_slice(&data.records.first().map_or(0, |r| r.seq.0).to_le_bytes());
    out.extend_from_slice(&data.chain.0);
    for moment in [data.standing.head, data.standing.durable, data.standing.flushed] {
        put_moment(&mut out, moment);
    }
    out.extend_from_slice(&data.standing.lag_ns.to_le_bytes());
    out.extend_from_slice(&(data.records.len() as u32).to_le_bytes());
    for record in &data.records {
        out.extend_from_slice(&record.disk.0.to_le_bytes());
        out.extend_from_slice(&[record.kind as u8, record.flags, record.codec as u8, 0]);
        out.extend_from_slice(&record.offset.to_le_bytes());
        out.extend_from_slice(&record.length.to_le_bytes());
        out.extend_from_slice(&record.time_ns.to_le_bytes());
        out.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
    }
    data.records.iter().for_each(|r| out.extend_from_slice(&r.payload));
    out
}

fn read_data(body: &[u8]) -> Result<Data> {
    let mut r = Reader(body);
    let (group, epoch) = (GroupId(r.array()?), EpochId(r.array()?));
    let first = r.u64()?;
    let chain = ChainValue(r.array()?);
    let (head, durable, flushed) = (r.moment()?, r.moment()?, r.moment()?);
    let standing = Standing { head, durable, flushed, lag_ns: r.u64()? };
    let count = r.u32()? as usize;
    if count > RECORDS_MAX || first.checked_add(count as u64).is_none() {
        return Err(conflict(format!("the peer sent {count} records at {first} in one message")));
    }
    let mut records = Vec::with_capacity(count);
    let mut lengths = Vec::with_capacity(count);
    for number in 0..count as u64 {
        let disk = DiskOrdinal(r.u32()?);
        let [kind, flags, codec, _] = r.array()?;
        records.push(Record {
            disk,
            kind: RecordKind::from_u8(kind).ok_or_else(|| unknown("record kind", kind))?,
            flags,
            codec: Codec::from_u8(codec).ok_or_else(|| unknown("codec", codec))?,
            offset: r.u64()?,
            length: r.u64()?,
            seq: Seq(first + number),
            time_ns: i64::from_le_bytes(r.array()?),
            payload: Vec::new(),
        });
        lengths.push(r.u32()? as usize);
    }
    for (record, length) in records.iter_mut().zip(lengths) {
        record.payload = r.take(length)?.to_vec();
    }
    if !r.0.is_empty() {
        return Err(short());
    }
    Ok(Data { group, epoch, records, chain, standing })
}

fn fill_body(fill: &Fill) -> Vec<u8> {
    let mut out = Vec::with_capacity(fill.payload.len() + 96);
    out.extend_from_slice(&fill.group.0);
    out.extend_from_slice(&fill.copy.0);
    put_moment(&mut out, fill.at);
    out.extend_from_slice(&fill.disk.0.to_le_bytes());
    out.extend_from_slice(&[fill.codec as u8, 0, 0, 0]);
    out.extend_from_slice(&fill.offset.to_le_bytes());
    out.extend_from_slice(&fill.length.to_le_bytes());
    out.extend_from_slice(&fill.payload);
    out
}

fn read_fill(body: &[u8]) -> Result<Fill> {
    let mut r = Reader(body);
    let (group, copy, at) = (GroupId(r.array()?), Token(r.array()?), r.moment()?);
    let disk = DiskOrdinal(r.u32()?);
    let [codec, ..]: [u8; 4] = r.array()?;
    let codec = Codec::from_u8(codec).ok_or_else(|| unknown("codec", codec))?;
    let (offset, length) = (r.u64()?, r.u64()?);
    let payload = r.0.to_vec();
    let stored = payload.len() as u64;
    let good = match codec {
        Codec::Plain => stored == length && length <= PAYLOAD_MAX,
        Codec::Zeros => stored == 0,
        Codec::Zstd => false,
    };
    if !good || length == 0 || offset.checked_add(length).is_none() {
        return Err(conflict("the peer sent a fill that makes no sense"));
    }
    Ok(Fill { group, copy, at, disk, offset, length, codec, payload })
}

fn unknown(what: &str, number: u8) -> Error {
    Error::new(Kind::Unsupported, format!("the peer sent a {what} that this version doesn't know: {number}"))
}

fn short() -> Error {
    conflict("the peer sent a body of another length than it says")
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or_else(short)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn moment(&mut self) -> Result<Moment> {
        Ok(Moment { epoch: EpochId(self.array()?), seq: Seq(self.u64()?) })
    }
}

#[cfg(test)]
mod tests;
