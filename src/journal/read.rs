//! Reading a log: payloads by place, batches one after the other.
//!
//! L1. What the page cache shows may be older than a direct append: it is believed if it fits its crc, never if it
//!     doesn't. Then the medium is asked, of a header as of a payload.
//! L2. A place that was freed is `NotFound`. A place behind the last batch of a segment leads to the next one, also
//!     where the segment itself is gone.

use crate::format::{
    BATCH_BYTES_MAX, BLOCK, BatchHeader, RecordView, SegmentHeader, check_header, crc_list_len, parse_table,
};
use crate::journal::left_out;
use crate::journal::log::Log;
use crate::journal::segment::Segment;
use crate::vocab::{Codec, EpochId, Error, Kind, Pos, Result};
use std::sync::Arc;

/// A payload up to this length is read as a whole, whatever part of it is asked for, bytes.
const SHORT_BYTES: u64 = 16 << 10;
/// Batches whose lists of crcs were looked for last.
const FOUND_MAX: usize = 16;
/// The header of a batch is looked for in steps of at most so many bytes.
const WALK_BYTES_MAX: u64 = 256 << 10;

/// A batch as it lies in the log.
#[derive(Clone, Debug)]
pub struct BatchView {
    /// Where it begins.
    pub pos: Pos,
    /// Its header.
    pub header: BatchHeader,
    /// Epoch of all its records.
    pub epoch: EpochId,
    /// Its records, in order.
    pub records: Vec<RecordView>,
}

impl BatchView {
    /// The place behind it.
    pub fn end(&self) -> Pos {
        Pos(self.pos.0 + u64::from(self.header.length))
    }

    /// The place of a record's payload.
    pub fn place(&self, record: &RecordView) -> Pos {
        Pos(self.pos.0 + u64::from(record.entry.place))
    }

    /// The record whose payload lies at `pos`.
    fn at(&self, pos: Pos) -> Option<&RecordView> {
        if pos < self.pos || self.end() <= pos {
            return None;
        }
        self.records.iter().find(|record| self.place(record) == pos)
    }

    /// Wall time of a record, ns.
    pub fn wall(&self, record: &RecordView) -> i64 {
        self.header.wall.wrapping_add(i64::from(record.entry.delta))
    }
}

/// A record's payload, checked.
#[derive(Clone, Debug)]
pub struct StoredRecord {
    /// The record.
    pub view: RecordView,
    /// Its payload, decoded: as long as the record says.
    pub payload: Vec<u8>,
}

impl Log {
    fn segment_at(&self, pos: Pos) -> Option<Arc<Segment>> {
        let state = self.state.lock();
        let (_, segment) = state.segments.range(..=pos).next_back()?;
        (pos.0 < segment.fixed.start.0 + segment.fixed.bytes).then(|| segment.clone())
    }

    /// Brings what lies between two places into the page cache, in long reads: to be called before each record of
    /// them is read, in any order. What is in it already costs nothing.
    pub fn read_ahead(&self, from: Pos, to: Pos) -> Result<()> {
        let touched: Vec<Arc<Segment>> = {
            let state = self.state.lock();
            state.segments.range(..to).rev().map(|(_, s)| s).take_while(|s| s.end() > from).cloned().collect()
        };
        for segment in touched.iter().rev() {
            let (from, to) = (from.max(segment.fixed.start), to.min(segment.end()));
            if from < to {
                segment.read_ahead(from, to)?;
            }
        }
        Ok(())
    }

    /// Fills `buf` with part of a payload: the payload lies at `pos`, has `stored` bytes and crc `crc`; the part
    /// begins `skip` bytes into it. The crc is checked.
    ///
    /// # Errors
    /// `Damaged` if the bytes are not what was written, also when read past the page cache; `NotFound` if the
    /// segment is gone.
    pub fn read_payload(&self, pos: Pos, stored: u64, crc: u32, skip: u64, buf: &mut [u8]) -> Result<()> {
        let segment = self.segment_at(pos).ok_or_else(|| gone(pos))?;
        let long = crc_list_len(stored as u32) > 0;
        let whole = skip == 0 && buf.len() as u64 == stored;
        if long && !whole && stored > SHORT_BYTES {
            return self.read_long(&segment, pos, stored, skip, buf);
        }
        let mut payload = if whole { Vec::new() } else { vec![0; stored as usize] };
        let target = if whole { &mut *buf } else { &mut payload[..] };
        segment.read(pos, target)?;
        if crc32c::crc32c(target) != crc {
            if long {
                // Block by block: what is good of it can be had, and what is not has a place.
                return self.read_long(&segment, pos, stored, skip, buf);
            }
            // The page cache may be older than a direct append: the medium decides.
            segment.read_medium(pos, target)?;
            if crc32c::crc32c(target) != crc {
                return Err(segment.damaged("payload isn't what was written", pos));
            }
        }
        if !whole {
            buf.copy_from_slice(&payload[skip as usize..skip as usize + buf.len()]);
        }
        Ok(())
    }

    /// Checked block by block, with the list in the table of the payload's batch.
    fn read_long(&self, segment: &Segment, pos: Pos, stored: u64, skip: u64, buf: &mut [u8]) -> Result<()> {
        let first = skip / BLOCK * BLOCK;
        let last = (skip + buf.len() as u64).next_multiple_of(BLOCK).min(stored);
        let mut window = vec![0; (last - first) as usize];
        let crcs = self.block_crcs(segment, pos)?;
        for attempt in 0..2 {
            let at = Pos(pos.0 + first);
            if attempt == 0 {
                segment.read(at, &mut window)?
            } else {
                segment.read_medium(at, &mut window)?
            };
            let bad = window
                .chunks(BLOCK as usize)
                .zip(&crcs[(first / BLOCK) as usize..])
                .position(|(block, crc)| crc32c::crc32c(block) != *crc);
            match bad {
                None => {
                    let from = (skip - first) as usize;
                    buf.copy_from_slice(&window[from..from + buf.len()]);
                    return Ok(());
                }
                Some(block) if attempt == 1 => {
                    let at = Pos(pos.0 + first + block as u64 * BLOCK);
                    return Err(segment.damaged("payload isn't what was written", at));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The crc list of the payload at `pos`.
    fn block_crcs(&self, segment: &Segment, pos: Pos) -> Result<Vec<u32>> {
        let list = |batch: &BatchView| batch.at(pos).map(|record| record.blocks.clone());
        let known = self.found.lock().iter().find_map(list);
        if let Some(crcs) = known {
            return Ok(crcs);
        }
        // A page of the cache may be older than the medium.
        for medium in [false, true] {
            let read = |at: Pos, buf: &mut [u8]| {
                if medium { segment.read_medium(at, buf) } else { segment.read(at, buf) }
            };
            let Some(batch) = batch_around(segment, pos, read)? else { continue };
            let crcs = list(&batch).unwrap_or_default();
            let mut found = self.found.lock();
            found.truncate(FOUND_MAX - 1);
            found.push_front(batch);
            return Ok(crcs);
        }
        Err(segment.damaged("the batch of a payload can't be read", pos))
    }

    /// The batch that begins at `pos`, or at the first batch behind it if `pos` lies in a header or behind the
    /// end of a segment. `None` behind the last.
    ///
    /// # Errors
    /// `Damaged` if a batch that was appended can't be read; `NotFound` if the segment at `pos` was freed (L2).
    pub fn batch_at(&self, pos: Pos) -> Result<Option<BatchView>> {
        let (segment, begin, first) = {
            let state = self.state.lock();
            let holds = |s: &Segment| s.end() > pos.max(s.fixed.first_batch());
            let first = state.segments.values().next().filter(|s| pos < s.fixed.start).cloned();
            let here = state.segments.range(..=pos).next_back().map(|(_, s)| s).filter(|s| holds(s));
            let segment = here.or_else(|| state.segments.range(pos..).map(|(_, s)| s).find(|s| holds(s)));
            let Some(segment) = segment else { return Ok(None) };
            (segment.clone(), pos.max(segment.fixed.first_batch()), first)
        };
        if let Some(first) = first
            && pos < end_before(&first)?
            && !left_out("L2: a freed place is gone")
        {
            return Err(gone(pos));
        }
        for from in SOURCES {
            if let Some(view) = try_batch(&segment, begin, from)? {
                return Ok(Some(view));
            }
        }
        Err(segment.damaged("batch isn't what was written", begin))
    }

    /// The payload of a record of a batch, decoded and checked.
    pub fn payload(&self, batch: &BatchView, record: &RecordView) -> Result<Vec<u8>> {
        let e = &record.entry;
        match e.codec {
            Codec::Zeros => Ok(vec![0; e.length as usize]),
            Codec::Plain => {
                let mut payload = vec![0; e.stored as usize];
                if e.stored > 0 {
                    self.read_payload(batch.place(record), u64::from(e.stored), e.crc, 0, &mut payload)?;
                }
                Ok(payload)
            }
            Codec::Zstd => Err(Error::new(Kind::Unsupported, "compressed payload in a log")),
        }
    }
}

/// The batch that has a payload at `pos`: it begins at a block, at most [`BATCH_BYTES_MAX`] before.
fn batch_around(
    segment: &Segment,
    pos: Pos,
    mut read: impl FnMut(Pos, &mut [u8]) -> Result<()>,
) -> Result<Option<BatchView>> {
    let start = segment.fixed.start.0;
    let block = start + (pos.0 - start) / BLOCK * BLOCK;
    let lowest = block.saturating_sub(u64::from(BATCH_BYTES_MAX)).max(segment.fixed.first_batch().0);
    let (mut upto, mut step) = (block + BLOCK, 4 * BLOCK);
    let mut window = Vec::new();
    while upto > lowest {
        let from = upto.saturating_sub(step).max(lowest);
        window.resize((upto - from) as usize, 0);
        read(Pos(from), &mut window)?;
        for (n, head) in window.chunks(BLOCK as usize).enumerate().rev() {
            let at = from + n as u64 * BLOCK;
            let holds = |h: BatchHeader| h.life == segment.fixed.life && at + u64::from(h.length) > pos.0;
            if BatchHeader::decode(head).is_some_and(holds)
                && let Some(batch) = decode_batch(segment, Pos(at), &mut read)?
                && batch.at(pos).is_some()
            {
                return Ok(Some(batch));
            }
        }
        (upto, step) = (from, (4 * step).min(WALK_BYTES_MAX));
    }
    Ok(None)
}

/// Where bytes of a segment are read from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Cache,
    Medium,
}

/// L1.
const SOURCES: [From; 2] = [From::Cache, From::Medium];

fn try_batch(segment: &Segment, pos: Pos, from: From) -> Result<Option<BatchView>> {
    decode_batch(segment, pos, |at, buf| match from {
        From::Medium if !left_out("L1: a header is asked of the medium") => segment.read_medium(at, buf),
        _ => segment.read(at, buf),
    })
}

/// L2: where the segment before this one ended. What it says of it stays when that is gone.
fn end_before(segment: &Segment) -> Result<Pos> {
    let mut block = vec![0; BLOCK as usize];
    for from in SOURCES {
        match from {
            From::Cache => segment.read(segment.fixed.start, &mut block)?,
            From::Medium => segment.read_medium(segment.fixed.start, &mut block)?,
        }
        if let Some(header) = SegmentHeader::decode(&block)?.filter(|h| h.life == segment.fixed.life) {
            return Ok(header.previous_cut);
        }
    }
    Err(segment.damaged("the header of a segment can't be read", segment.fixed.start))
}

/// Reads and checks header and table of a batch. `None` if nothing good lies there.
pub(crate) fn decode_batch(
    segment: &Segment,
    pos: Pos,
    mut read: impl FnMut(Pos, &mut [u8]) -> Result<()>,
) -> Result<Option<BatchView>> {
    let room = segment.fixed.start.0 + segment.fixed.bytes - pos.0;
    if room < BLOCK {
        return Ok(None);
    }
    let mut head = vec![0; BLOCK as usize];
    read(pos, &mut head)?;
    let Some(header) = BatchHeader::decode(&head) else { return Ok(None) };
    if header.life != segment.fixed.life || u64::from(header.length) > room {
        return Ok(None);
    }
    if header.head_bytes() > head.len() {
        head.resize(header.head_bytes().next_multiple_of(BLOCK as usize), 0);
        read(pos, &mut head)?;
    }
    let Some(header) = check_header(&head) else { return Ok(None) };
    let records = parse_table(&header, &head)?;
    Ok(Some(BatchView { pos, header, epoch: segment.fixed.epoch, records }))
}

fn gone(pos: Pos) -> Error {
    Error::new(Kind::NotFound, "the segment of this place was freed").offset(pos.0)
}
