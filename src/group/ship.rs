//! What a source reads for its target: records behind a moment, ranges at a moment, marks.
//!
//! S1. A first copy is asked for every range that isn't zeros at its moment, be it in a log or in a base. What it isn't
//!     asked for reads as zeros where nothing was: its files begin empty (T2 of `first_copy`).
//! S2. The ranges of a file are at most [`RANGES_MAX`]: where data is scattered more, holes between go with it.

use crate::exchange::{DiskRange, RangeSet, Record};
use crate::group::chain::At;
use crate::group::line::between;
use crate::group::{Group, left_out};
use crate::history::{
    ChainMark, ChainValue, DiskSize, Event, LineMarks, MarkReason, MarkSet, Path as LinePath,
};
use crate::index::Interval;
use crate::vocab::{Codec, DiskOrdinal, EpochId, Error, Kind, Moment, PAYLOAD_MAX, RecordKind, Result, Seq};
use std::collections::BTreeMap;

/// S2.
pub(crate) const RANGES_MAX: usize = 1 << 18;
/// A hole shorter than this isn't worth a range of its own, bytes.
const HOLE_MIN: u64 = 64 << 10;

/// Data of a file, in order, with what lies closely together joined (S2).
struct Joined {
    ranges: Vec<(u64, u64)>,
    gap: u64,
    most: usize,
}

impl Joined {
    fn new(most: usize, gap: u64) -> Self {
        Self { ranges: Vec::new(), gap, most }
    }

    fn add(&mut self, from: u64, to: u64) {
        match self.ranges.last_mut() {
            Some(last) if from <= last.1.saturating_add(self.gap) => last.1 = last.1.max(to),
            _ => self.ranges.push((from, to)),
        }
        while self.ranges.len() > self.most {
            self.gap = self.gap.saturating_mul(2).max(1);
            for (from, to) in std::mem::take(&mut self.ranges) {
                match self.ranges.last_mut() {
                    Some(last) if from <= last.1.saturating_add(self.gap) => last.1 = to,
                    _ => self.ranges.push((from, to)),
                }
            }
        }
    }
}

/// Records of one epoch behind a moment, and where they lead.
pub struct ShippedRun {
    /// Their epoch.
    pub epoch: EpochId,
    /// They, dense.
    pub records: Vec<Record>,
    /// The chain after the last.
    pub(crate) at: At,
}

impl Group {
    /// Where the records of one epoch behind `after`, in normal form, and not beyond `upto` lie: the epoch, the last of
    /// their seqs. `None`: they are no longer held, or a jump led there.
    pub(crate) fn stretch_behind(
        &self,
        after: Moment,
        upto: Moment,
    ) -> Result<Option<(EpochId, Seq, Interval)>> {
        let mut core = self.core.lock();
        self.refresh_spans(&mut core);
        if after.seq >= upto.seq || !core.table.is_on_line(after, upto)? {
            return Ok(None);
        }
        let line = core.table.line(upto)?;
        let first = after.seq.next();
        let Some(epoch) = line.epoch_of(first) else { return Ok(None) };
        let last = line.last_seq(epoch).unwrap_or(upto.seq).min(upto.seq);
        let held = core.spans.of(Moment { epoch, seq: first }).filter(|s| s.jump.is_none());
        Ok(held.map(|span| (epoch, last, Interval { log: span.log, from: span.from, to: span.to })))
    }

    /// Durable records behind `after`, not beyond `upto`, whole requests of one epoch, about `max_bytes`. `None`:
    /// they are no longer held. `from`: the chain at `after`, if the caller knows it.
    pub(crate) fn read_run(
        &self,
        after: Moment,
        upto: Moment,
        max_bytes: u64,
        from: Option<At>,
    ) -> Result<Option<ShippedRun>> {
        let after = self.table().norm(after)?;
        let Some((epoch, last, stretch)) = self.stretch_behind(after, upto)? else { return Ok(None) };
        let first = after.seq.next();
        let Some(row) = self.index.batch_of_seq(stretch, first)? else { return Ok(None) };
        let (mut pos, mut bytes, mut records) = (row.pos, 0, Vec::new());
        'batches: while bytes < max_bytes {
            let batch = match self.log.batch_at(pos) {
                Ok(Some(batch)) if batch.epoch == epoch => batch,
                Ok(_) => break,
                // Freed meanwhile: what was read up to here is shipped.
                Err(_) if !self.holds_place(pos) => break,
                Err(e) => return Err(e),
            };
            let whole = records.len();
            for r in batch
                .records
                .iter()
                .filter(|r| r.entry.kind.has_seq() && r.entry.seq >= first && r.entry.seq <= last)
            {
                let e = &r.entry;
                // What lies between was freed.
                if records.last().is_some_and(|before: &Record| before.seq.next() != e.seq) {
                    break 'batches;
                }
                let payload = match e.codec {
                    Codec::Zeros => Vec::new(),
                    _ => match self.log.payload(&batch, r) {
                        Err(_) if !self.holds_place(pos) => {
                            records.truncate(whole);
                            break 'batches;
                        }
                        payload => payload?,
                    },
                };
                let record = Record {
                    disk: e.disk,
                    kind: e.kind,
                    flags: e.flags,
                    codec: e.codec,
                    offset: e.offset,
                    length: e.length,
                    seq: e.seq,
                    time_ns: batch.wall(r),
                    payload,
                };
                bytes += record.weight();
                records.push(record);
            }
            pos = batch.end();
            if records.last().is_some_and(|r: &Record| r.seq == last) {
                break;
            }
        }
        if records.first().map(|r| r.seq) != Some(first) {
            return Ok(None);
        }
        let mut at = match from.filter(|at| at.moment == after) {
            Some(at) => at,
            None => match self.chain_value(after)? {
                Some(value) => At { moment: after, value },
                None if records[0].kind == RecordKind::Epoch => At { moment: after, value: ChainValue::ZERO },
                None => return Ok(None),
            },
        };
        for r in &records {
            if r.kind == RecordKind::Epoch {
                at = self.epoch_begins(&r.payload)?;
            }
            at = At { moment: Moment { epoch, seq: r.seq }, value: r.chain_after(epoch, &at.value) };
        }
        Ok(Some(ShippedRun { epoch, records, at }))
    }

    /// Marks that prove something about the line of `common`.
    pub(crate) fn line_marks(&self, common: Moment) -> Result<LineMarks> {
        let mut marks = MarkSet::default();
        let mut keep = |m: Moment, h: ChainValue| {
            marks.keep(ChainMark { epoch: m.epoch, seq: m.seq, h, time_ns: 0 }, MarkReason::Acknowledged);
        };
        let table = self.table();
        for (moment, value) in &self.chain.lock().marks {
            keep(*moment, *value);
        }
        let head = self.head();
        for moment in [table.norm(common)?, table.norm(head)?] {
            if let Some(value) = self.chain_value(moment)? {
                keep(moment, value);
            }
        }
        for row in table.rows() {
            if let Some(fork) = row.fork() {
                keep(table.norm(fork)?, row.fork_chain);
            }
        }
        let path = LinePath::build(&table, head, &self.jumps(), None)?;
        Ok(LineMarks::new(&marks, &table, &path, common)?)
    }

    pub(crate) fn jumps(&self) -> BTreeMap<Moment, Option<Moment>> {
        let jumps = self.events().into_iter().filter_map(|(_, e)| match e {
            Event::Jump(line) => Some((line.to, line.from)),
            _ => None,
        });
        jumps.collect()
    }

    /// What a first copy is asked for at a moment: the data of all files, and the names as file 0 (S1).
    pub(crate) fn data_set(&self, moment: Moment) -> Result<(RangeSet, Vec<DiskSize>)> {
        let view = self.open_moment(moment)?;
        let (mut set, mut sizes) = (RangeSet::new(), Vec::new());
        set.add(self.names_range(&view)?);
        for (disk, file) in &view.names.files {
            sizes.push(DiskSize { disk: *disk, size: file.size });
            let joined = self.at_moment(&view, *disk, |path, base| {
                let base = base.filter(|_| !left_out("S1: a first copy has what lies in the base"));
                let mut joined = Joined::new(RANGES_MAX, HOLE_MIN);
                self.data_in(path, base, *disk, file.size, |from, to| joined.add(from, to))?;
                Ok(joined)
            })?;
            for (from, to) in joined.ranges {
                set.add(DiskRange { disk: *disk, offset: from, length: to - from });
            }
        }
        Ok((set, sizes))
    }

    /// Everything of a moment, holes too: all files, and the names as file 0.
    pub(crate) fn whole_set(&self, moment: Moment) -> Result<(RangeSet, Vec<DiskSize>)> {
        let view = self.open_moment(moment)?;
        let mut set = RangeSet::new();
        let names = self.names_range(&view)?;
        set.add(names);
        let mut sizes = Vec::new();
        for (disk, file) in &view.names.files {
            sizes.push(DiskSize { disk: *disk, size: file.size });
            if file.size > 0 {
                set.add(DiskRange { disk: *disk, offset: 0, length: file.size });
            }
        }
        Ok((set, sizes))
    }

    /// A set of ranges with the names at a moment; `disks`: without what lies behind the ends of the files then.
    pub(crate) fn with_names(
        &self,
        moment: Moment,
        set: RangeSet,
        disks: Option<&[DiskSize]>,
    ) -> Result<RangeSet> {
        let view = self.open_moment(moment)?;
        let mut out = RangeSet::new();
        out.add(self.names_range(&view)?);
        for range in set.iter() {
            let size = disks
                .map_or(u64::MAX, |disks| disks.iter().find(|d| d.disk == range.disk).map_or(0, |d| d.size));
            let end = (range.offset.saturating_add(range.length)).min(size);
            if range.disk != DiskOrdinal(0) && range.offset < end {
                out.add(DiskRange { length: end - range.offset, ..range });
            }
        }
        Ok(out)
    }

    /// The names of a moment as bytes of file 0: JSON padded with blanks, so that it has one length while names
    /// come and go during a copy.
    fn names_range(&self, view: &crate::group::MomentView) -> Result<DiskRange> {
        let length =
            (names_json(view)?.len() as u64 * 2 + (64 << 10)).next_multiple_of(4096).min(PAYLOAD_MAX);
        Ok(DiskRange { disk: DiskOrdinal(0), offset: 0, length })
    }

    /// A range as it is at a moment; `Some(None)`: zeros; `None`: the moment or the file is gone.
    pub(crate) fn read_fill(&self, moment: Moment, range: DiskRange) -> Result<Option<Option<Vec<u8>>>> {
        let view = match self.open_moment(moment) {
            Ok(view) => view,
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        if range.disk == DiskOrdinal(0) {
            let mut json = names_json(&view)?;
            if json.len() as u64 > range.length {
                return Err(Error::new(
                    Kind::Refused,
                    "the names of the group grew too much during the copy",
                ));
            }
            json.resize(range.length as usize, b' ');
            return Ok(Some(Some(json)));
        }
        let Some(file) = view.names.files.get(&range.disk) else { return Ok(Some(None)) };
        let mut bytes = vec![0; range.length as usize];
        let there = file.size.saturating_sub(range.offset).min(range.length) as usize;
        between("a fill has its moment");
        match self.read_moment(&view, range.disk, range.offset, &mut bytes[..there]) {
            // A round that was chosen before there was a cursor has passed it: no damage, the copy begins anew.
            Err(e) if e.kind() == Kind::NotFound && !left_out("a fill that was overtaken is gone") => {
                return Ok(None);
            }
            read => read?,
        }
        let zero = bytes.iter().all(|b| *b == 0);
        Ok(Some((!zero).then_some(bytes)))
    }
}

fn names_json(view: &crate::group::MomentView) -> Result<Vec<u8>> {
    serde_json::to_vec(&view.names)
        .map_err(|e| Error::new(Kind::Invalid, format!("names can't be written: {e}")))
}

#[cfg(test)]
mod tests;
