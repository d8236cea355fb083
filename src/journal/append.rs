//! Appending: records in, one aligned batch (or several) out.

use crate::format::{BatchHeader, BatchLayout, FLAG_JOINED, RecordEntry, crc_list_len};
use crate::journal::left_out;
use crate::journal::log::{Log, State, poisoned};
use crate::journal::segment::{Segment, SegmentInfo};
use crate::seam::{AlignedBuf, Durability};
use crate::vocab::{Codec, DiskOrdinal, Error, Kind, PAYLOAD_MAX, Pos, RecordKind, Result, Seq};
use std::io::IoSlice;
use std::sync::Arc;

/// A record to append. Its seq is given by the log, in the order of the slice.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// The file; 0 for none.
    pub disk: DiskOrdinal,
    /// What it does.
    pub kind: RecordKind,
    /// [`crate::format::FLAG_FLUSH`], [`FLAG_JOINED`].
    pub flags: u8,
    /// Offset in bytes (of a resize: the new size).
    pub offset: u64,
    /// Length in bytes (of a resize: the old size).
    pub length: u64,
    /// The bytes, of kinds that have some; at most [`PAYLOAD_MAX`].
    pub payload: &'a [u8],
    /// Wall time, raw, ns.
    pub wall: i64,
}

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its seq; that of the record before it for kinds without one.
    pub seq: Seq,
    /// The place of its payload: unique, rising with seq.
    pub pos: Pos,
    /// crc32c of the stored payload.
    pub crc: u32,
    /// A payload of zeros is not stored.
    pub codec: Codec,
}

/// A batch that was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendedBatch {
    /// Segments that ended before it, oldest first: the index ends them too before it takes this batch.
    pub ended: Vec<SegmentInfo>,
    /// Where it begins.
    pub pos: Pos,
    /// The place behind it.
    pub end: Pos,
    /// Its first seq; the next one, if no record of it has one.
    pub first_seq: Seq,
    /// Wall time of its header, ns.
    pub wall: i64,
    /// Its records, in order.
    pub records: Vec<Appended>,
}

impl Log {
    /// Appends records in order and says where each went. With [`Durability::Durable`] they are durable when
    /// this returns (J5); else after a later [`Log::sync`].
    ///
    /// # Errors
    /// `NoSpace` before anything was written if no room for a segment can be had; `Poisoned` after an earlier
    /// failure; any failure of the write itself poisons the log (J8): what of it is on the medium, recovery tells.
    pub fn append(
        &self,
        records: &[NewRecord<'_>],
        age: u64,
        durability: Durability,
    ) -> Result<Vec<AppendedBatch>> {
        for r in records {
            if r.payload.len() as u64 > PAYLOAD_MAX {
                return Err(Error::new(Kind::Invalid, format!("payload of {} bytes", r.payload.len())));
            }
        }
        // The state is locked for moments only: reads go on while a batch is on its way to the medium.
        let mut scratch = self.appender.lock();
        let mut batches = Vec::with_capacity(1);
        let mut rest = records;
        while !rest.is_empty() {
            let (taken, layout) = take_batch(rest);
            batches.push((&rest[..taken], layout));
            rest = &rest[taken..];
        }
        {
            let mut state = self.state.lock();
            if let Some(why) = &state.poisoned {
                return Err(poisoned(why));
            }
            if !left_out("J10: room for all batches before the first") {
                let essential =
                    !records.iter().any(|r| matches!(r.kind, RecordKind::Write | RecordKind::Fill));
                let lengths = batches.iter().map(|(_, layout)| u64::from(layout.places().1));
                self.make_room(&mut state, lengths, essential)?;
            }
        }
        let mut out = Vec::with_capacity(batches.len());
        for (records, layout) in batches {
            let appended = self.append_batch(&mut scratch, records, &layout, age, durability);
            if appended.is_err() && !out.is_empty() {
                self.poison_torn("a request was appended in part");
            }
            out.push(appended?);
        }
        Ok(out)
    }

    fn append_batch(
        &self,
        scratch: &mut AlignedBuf,
        records: &[NewRecord<'_>],
        layout: &BatchLayout,
        age: u64,
        durability: Durability,
    ) -> Result<AppendedBatch> {
        let (places, length) = layout.places();
        let (segment, first_seq) = {
            let mut state = self.state.lock();
            if let Some(why) = &state.poisoned {
                return Err(poisoned(why));
            }
            (self.room_for(&mut state, u64::from(length))?, state.next_seq)
        };
        let poison = |e: &Error| self.poison(&e.to_string());
        if durability == Durability::Durable
            && self.durable() < segment.end()
            && !left_out("J5: sync when going to durable appends")
        {
            // J5: a device with FUA persists a durable write alone and flushes nothing else.
            segment.sync().inspect_err(poison)?;
            self.raise_durable(segment.end());
        }
        let mut tail = segment.tail();
        let pos = tail.end;
        let wall = records[0].wall;
        let mut header = BatchHeader {
            life: segment.fixed.life,
            first_seq,
            durable: if left_out("J4: durable mark in batches") { Pos(0) } else { self.durable() },
            wall,
            age,
            length,
            table: 0,
            link: tail.last_crc,
            records: 0,
            crc: 0,
        };
        let room = length as usize;
        if scratch.len() < room {
            scratch.resize(room);
        }
        let scratch = &mut scratch[..room];
        let mut out = Vec::with_capacity(records.len());
        let (entries, lists) = fill(records, &places, wall, first_seq, pos, scratch, &mut out);
        let head = header.encode(&entries, &lists);
        scratch[..head.len()].copy_from_slice(&head);
        blank_gaps(scratch, head.len(), &entries);
        let at = pos.0 - segment.fixed.start.0;
        segment.direct().and_then(|f| f.write_at(&[IoSlice::new(scratch)], at, durability)).inspect_err(
            |e| {
                poison(e);
                self.state.lock().left_behind = true;
            },
        )?;
        let end = Pos(pos.0 + u64::from(length));
        let mut state = self.state.lock();
        if state.batches == 0 {
            tail.first_wall = wall;
        }
        tail.end = end;
        tail.last_seq = entries.iter().rev().find(|e| e.kind.has_seq()).map_or(tail.last_seq, |e| e.seq);
        tail.last_crc = header.crc;
        tail.last_wall = wall;
        state.next_seq = tail.last_seq.next().max(state.next_seq);
        // The chain notes a segment's first value beside the appender.
        tail.start_chain = segment.tail().start_chain;
        segment.set_tail(tail);
        state.batches += 1;
        if durability == Durability::Durable {
            self.raise_durable(end);
        }
        let ended = std::mem::take(&mut state.ended);
        Ok(AppendedBatch { ended, pos, end, first_seq, wall, records: out })
    }

    fn room_for(&self, state: &mut State, length: u64) -> Result<Arc<Segment>> {
        let open = state.open.and_then(|at| state.segments.get(&at)).cloned();
        if let Some(segment) = open
            && !state.ends
            && segment.end().0 + length <= segment.fixed.start.0 + segment.fixed.bytes
        {
            return Ok(segment);
        }
        self.open_next(state, length)?;
        let open = state.open.and_then(|at| state.segments.get(&at)).cloned();
        open.ok_or_else(|| Error::new(Kind::Io, "no segment is open"))
    }
}

/// How many of the records fit into one batch, and their layout. Records of one request stay together.
fn take_batch(records: &[NewRecord<'_>]) -> (usize, BatchLayout) {
    let mut layout = BatchLayout::default();
    let mut taken = 0;
    while taken < records.len() {
        let unit = 1 + records[taken + 1..].iter().take_while(|r| r.flags & FLAG_JOINED != 0).count();
        let fits = records[taken..taken + unit].iter().all(|r| {
            let delta = r.wall.wrapping_sub(records[0].wall);
            (0..=i64::from(u32::MAX)).contains(&delta) && layout.push(r.offset, stored(r))
        });
        if !fits && taken == 0 {
            // A request that fits into no batch is split: it is over 1 MiB and was promised nothing.
            layout = BatchLayout::default();
            let alone = records[..unit].iter().take_while(|r| layout.push(r.offset, stored(r))).count();
            return (alone, layout);
        }
        if !fits {
            layout.truncate(taken);
            break;
        }
        taken += unit;
    }
    (taken, layout)
}

/// All zeros are a codec, but only for content: then the record stays what the guest wrote.
fn is_zeros(r: &NewRecord<'_>) -> bool {
    r.kind.is_content() && r.payload.len() >= 512 && r.payload.iter().all(|b| *b == 0)
}

fn stored(r: &NewRecord<'_>) -> u32 {
    if is_zeros(r) { 0 } else { r.payload.len() as u32 }
}

fn fill(
    records: &[NewRecord<'_>],
    places: &[u32],
    wall: i64,
    first_seq: Seq,
    pos: Pos,
    scratch: &mut [u8],
    out: &mut Vec<Appended>,
) -> (Vec<RecordEntry>, Vec<u32>) {
    let mut entries = Vec::with_capacity(records.len());
    let mut lists = Vec::new();
    let mut next = first_seq;
    for (r, &place) in records.iter().zip(places) {
        let zeros = is_zeros(r);
        let payload = if zeros { &[] } else { r.payload };
        let seq = if r.kind.has_seq() { next } else { Seq(0) };
        if crc_list_len(payload.len() as u32) > 0 {
            lists.extend(payload.chunks(4096).map(crc32c::crc32c));
        }
        // A second pass, in a cache that holds it: combining a list takes a microsecond for each of its blocks.
        let crc = crc32c::crc32c(payload);
        let codec = if zeros { Codec::Zeros } else { Codec::Plain };
        scratch[place as usize..place as usize + payload.len()].copy_from_slice(payload);
        entries.push(RecordEntry {
            disk: r.disk,
            kind: r.kind,
            flags: r.flags,
            codec,
            offset: r.offset,
            length: r.length,
            seq,
            stored: payload.len() as u32,
            place,
            delta: r.wall.wrapping_sub(wall) as u32,
            crc,
        });
        let shown = if r.kind.has_seq() { next } else { Seq(next.0 - 1) };
        out.push(Appended { seq: shown, pos: Pos(pos.0 + u64::from(place)), crc, codec });
        if r.kind.has_seq() {
            next = next.next();
        }
    }
    (entries, lists)
}

/// The scratch buffer holds bytes of earlier batches: they must not reach the medium a second time.
fn blank_gaps(scratch: &mut [u8], head: usize, entries: &[RecordEntry]) {
    let mut at = head;
    for e in entries {
        scratch[at..e.place as usize].fill(0);
        at = (e.place + e.stored) as usize;
    }
    scratch[at..].fill(0);
}
