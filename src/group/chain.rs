//! The chain behind the acknowledgement: values, and where a recomputation can begin.
//!
//! C5. The chain follows the log. A segment's first value is that of its epoch's row, if it begins with one; that which
//!     a jump attested, if the log goes on behind one; that with which the segment before it ended, if it goes on
//!     there; else that of the moment before its first record, wherever in the log that lies: a target goes on with an
//!     epoch after it was a writer itself and took that back.
//! C6. A value of any moment is recomputed from the begin of its segment.
//! C7. The chain comes to the place that it was asked for, or that is damage. Places tell, not seqs: where a decision
//!     was taken back the newest record lies on a branch, and its seq says nothing of the head's.
//! C10. Where the chain stands right before what is appended here, it takes that from memory: else each record is read back
//!     for it, and who asks for a value behind a flood of writes, `protect` or a session that begins, waits for that. A
//!     writer waits for the chain no longer than a few batches are read; where it is farther behind, checkpoints and
//!     rounds bring it near. What a target receives it always reads back: it attests what its log has.
//! C11. So the chain may stand beyond what is durable, and under writers that never pause always does. What is shipped is
//!     bounded by the durable place, so its moment is remembered.

use crate::format::{FLAG_FLUSH, RecordView};
use crate::group::Group;
use crate::group::group::ChainState;
use crate::group::queue::Queued;
use crate::history::{ChainRecord, ChainValue, MARK_EVERY, Row, epoch_start, step};
use crate::journal::{AppendedBatch, BatchView, SegmentInfo};
use crate::vocab::{DiskOrdinal, Error, Kind, Moment, Pos, RecordKind, Result, Seq};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) moment: Moment,
    pub(crate) value: ChainValue,
}

/// C10: what a writer waits to be read back for the chain, or reads back itself, at most, bytes: what was appended while
/// somebody was at it. About 20 ms.
const CATCH_UP_BYTES: u64 = 16 << 20;
/// That long at most.
const CATCH_UP: Duration = Duration::from_millis(20);
/// What was appended while the chain followed is followed again, so often at most: writers may be faster.
const NEAR_TRIES: usize = 8;
/// C11: moments beyond the durable place that are remembered. More batches than a second of small writes has.
const AHEAD_MAX: usize = 1 << 16;
/// So many stay, durable or not: whoever asks for the head's value while writers go on asks for one of a moment ago.
const RECENT: usize = 1 << 10;

/// Who has the chain's lock is through when this goes.
struct Left<'a>(&'a AtomicU64);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl ChainState {
    /// Whether one more end of a batch can be remembered; else the chain shall wait.
    fn has_room(&mut self, durable: Pos) -> bool {
        while self.ahead.len() > RECENT && self.ahead.get(1).is_some_and(|(place, _)| *place <= durable) {
            self.ahead.pop_front();
        }
        self.ahead.len() < AHEAD_MAX
    }

    /// Stands behind a batch.
    fn stand(&mut self, end: Pos, at: At, durable: Pos) {
        (self.place, self.moment, self.value) = (end, at.moment, at.value);
        if self.has_room(durable) {
            self.ahead.push_back((end, at));
        }
    }
}

impl Group {
    /// C11: the newest moment whose records all lie before this durable place; `None` if that isn't known.
    pub(crate) fn moment_before(&self, durable: Pos) -> Result<Option<Moment>> {
        {
            let chain = self.chain.lock();
            if chain.place > durable {
                let before = chain.ahead.partition_point(|(place, _)| *place <= durable);
                let known = before.checked_sub(1).and_then(|at| chain.ahead.get(at));
                return Ok(known.map(|(_, at)| at.moment));
            }
        }
        let at = self.follow_chain(durable)?;
        Ok((self.chain.lock().place <= durable).then_some(at.moment))
    }

    /// Lets the chain follow the log up to `to`. Returns where it stands: there, or behind it if somebody asked for more
    /// before.
    pub(crate) fn follow_chain(&self, to: Pos) -> Result<At> {
        let mut chain = self.chain.lock();
        let mut at = At { moment: chain.moment, value: chain.value };
        let _left = Left(&self.chain_left);
        self.chain_left.store(to.0.saturating_sub(chain.place.0), Ordering::Relaxed);
        self.log.read_ahead(chain.place, to)?;
        while chain.place < to {
            self.chain_left.store(to.0 - chain.place.0, Ordering::Relaxed);
            let Some(batch) = self.log.batch_at(chain.place)? else { break };
            if batch.pos >= to {
                break;
            }
            if let Some(start) = self.log.segment_begun_by(batch.pos) {
                let before = self.before_segment(&chain, at, &batch)?;
                at = before;
                self.log.note_start_chain(start, before.moment, before.value.0);
                chain.at_segment.insert(start, (before.moment, before.value));
            }
            at = self.through(at, &batch, Seq(u64::MAX), |mark| {
                if mark.moment.seq.0 % MARK_EVERY == 0 {
                    chain.marks.insert(mark.moment, mark.value);
                }
            })?;
            chain.stand(batch.end(), at, self.log.durable());
        }
        let end = self.log.batch_end(to);
        if chain.place < end {
            let what = format!("the chain ends at {}, place {} of {end}", at.moment, chain.place);
            return Err(Error::new(Kind::Damaged, what));
        }
        if let Some(jump) = chain.jumps.get(&chain.place) {
            at = *jump;
            (chain.moment, chain.value) = (at.moment, at.value);
        }
        self.log.note_chain(at.moment, at.value.0);
        Ok(at)
    }

    /// C10: lets the chain come so near to the log's end that the next writer takes it along.
    pub(crate) fn bring_chain_near(&self) -> Result<()> {
        for _ in 0..NEAR_TRIES {
            let end = self.log.end();
            self.follow_chain(end)?;
            if self.log.end().0.saturating_sub(end.0) < CATCH_UP_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// C10, after an append and its answers.
    pub(crate) fn chain_appended(&self, records: &[Queued<'_>], batches: &[AppendedBatch]) {
        let mut rest = records;
        for batch in batches {
            let (mine, others) = rest.split_at(batch.records.len());
            rest = others;
            let mut chain = match self.chain.try_lock() {
                Some(chain) => chain,
                None if self.chain_left.load(Ordering::Relaxed) < CATCH_UP_BYTES => {
                    let Some(chain) = self.chain.try_lock_for(CATCH_UP) else { return };
                    chain
                }
                None => return,
            };
            let durable = self.log.durable();
            if !chain.has_room(durable) {
                return;
            }
            // Within a segment each batch begins where the one before it ends.
            if chain.place != batch.pos || chain.jumps.contains_key(&chain.place) {
                let is_next = chain.place == self.log.batch_end(batch.pos);
                if !is_next && batch.pos.0.saturating_sub(chain.place.0) > CATCH_UP_BYTES {
                    return;
                }
                drop(chain);
                // C5 decides what comes before it. The next checkpoint says what fails.
                let _ = self.follow_chain(batch.end);
                continue;
            }
            let epoch = self.log.epoch();
            let mut at = At { moment: chain.moment, value: chain.value };
            for (r, appended) in mine.iter().zip(&batch.records).filter(|(r, _)| r.kind.has_seq()) {
                let moment = Moment { epoch, seq: appended.seq };
                let follows = at.moment.epoch == epoch && at.moment.seq.next() == moment.seq;
                if !follows || r.kind == RecordKind::Epoch {
                    return;
                }
                let flush = r.flags & FLAG_FLUSH != 0;
                let record = chain_record(moment, (r.disk, r.kind), flush, (r.offset, r.length), batch.wall);
                at = At { moment, value: value_behind(at, &record, &r.payload) };
                if moment.seq.0.is_multiple_of(MARK_EVERY) {
                    chain.marks.insert(moment, at.value);
                }
            }
            chain.stand(batch.end, at, durable);
            self.log.note_chain(at.moment, at.value.0);
        }
    }

    /// The chain value of a moment in normal form; `None` if its records are gone.
    ///
    /// # Errors
    /// `Damaged` where records that must be there can't be read.
    pub fn chain_value(&self, moment: Moment) -> Result<Option<ChainValue>> {
        self.follow_chain(self.log.end())?;
        match self.known_value(&self.chain.lock(), moment) {
            // A round freed the segment while it was read.
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            known => known,
        }
    }

    /// C5: what the first record of a segment is hashed onto; `at`: where the segment before it ended.
    fn before_segment(&self, chain: &ChainState, at: At, batch: &BatchView) -> Result<At> {
        if self.begins_epoch(batch) {
            return self.start_of(batch);
        }
        if let Some((_, jump)) = chain.jumps.range(chain.place..=batch.pos).next_back() {
            return Ok(*jump);
        }
        let before = Moment { epoch: batch.epoch, seq: Seq(batch.header.first_seq.0 - 1) };
        if at.moment == before {
            return Ok(at);
        }
        let value = self.known_value(chain, before)?.ok_or_else(|| {
            Error::new(Kind::Damaged, format!("the chain value of {before} is gone, and its epoch goes on"))
        })?;
        Ok(At { moment: before, value })
    }

    fn known_value(&self, chain: &ChainState, moment: Moment) -> Result<Option<ChainValue>> {
        if chain.moment == moment {
            return Ok(Some(chain.value));
        }
        if let Some(value) = chain.marks.get(&moment) {
            return Ok(Some(*value));
        }
        if let Some((_, at)) = chain.ahead.iter().rev().find(|(_, at)| at.moment == moment) {
            return Ok(Some(at.value));
        }
        let segments = self.log.segments();
        let holds = |s: &&SegmentInfo| {
            s.epoch == moment.epoch && s.first_seq <= moment.seq && moment.seq <= s.last_seq
        };
        let Some(segment) = segments.iter().find(holds) else { return Ok(None) };
        let known = chain.at_segment.get(&segment.start).copied();
        let known = known.or(segment.start_chain.map(|(m, v)| (m, ChainValue(v))));
        let mut at = match known {
            Some((moment, value)) => At { moment, value },
            None => match self.log.batch_at(segment.first_batch())? {
                Some(batch) if self.begins_epoch(&batch) => self.start_of(&batch)?,
                Some(batch) => {
                    let before = Moment { epoch: batch.epoch, seq: Seq(batch.header.first_seq.0 - 1) };
                    match self.known_value(chain, before)? {
                        Some(value) => At { moment: before, value },
                        None => return Ok(None),
                    }
                }
                None => return Ok(None),
            },
        };
        // Who is in the way of writers for so long lets them go.
        let _left = Left(&self.chain_left);
        self.chain_left.store(u64::MAX, Ordering::Relaxed);
        let mut pos = segment.first_batch();
        while pos < segment.end && at.moment != moment {
            let Some(batch) = self.log.batch_at(pos)? else { break };
            at = self.through(at, &batch, moment.seq, |_| ())?;
            pos = batch.end();
        }
        Ok((at.moment == moment).then_some(at.value))
    }

    /// Keeps the value of a moment for ever: forks, points, both ends of a jump, acknowledged moments.
    pub(crate) fn keep_mark(&self, moment: Moment, value: ChainValue) {
        self.chain.lock().marks.insert(moment, value);
    }

    /// Goes through a batch up to record `last`.
    fn through(&self, mut at: At, batch: &BatchView, last: Seq, mut seen: impl FnMut(At)) -> Result<At> {
        for r in batch.records.iter().filter(|r| r.entry.kind.has_seq() && r.entry.seq <= last) {
            let payload = self.log.payload(batch, r)?;
            if r.entry.kind == RecordKind::Epoch {
                at = self.epoch_begins(&payload)?;
            }
            at = self.step(at, batch, r, &payload)?;
            seen(at);
        }
        Ok(at)
    }

    fn step(&self, at: At, batch: &BatchView, r: &RecordView, payload: &[u8]) -> Result<At> {
        let e = &r.entry;
        if e.seq != at.moment.seq.next() {
            return Err(Error::new(
                Kind::Damaged,
                format!("record {} follows {} in the chain", e.seq, at.moment.seq),
            ));
        }
        let moment = Moment { epoch: batch.epoch, seq: e.seq };
        let flush = e.flags & FLAG_FLUSH != 0;
        let record = chain_record(moment, (e.disk, e.kind), flush, (e.offset, e.length), batch.wall(r));
        Ok(At { moment, value: value_behind(at, &record, payload) })
    }

    fn begins_epoch(&self, batch: &BatchView) -> bool {
        batch.records.first().is_some_and(|r| r.entry.kind == RecordKind::Epoch)
    }

    fn start_of(&self, batch: &BatchView) -> Result<At> {
        match batch.records.first() {
            Some(r) => self.epoch_begins(&self.log.payload(batch, r)?),
            None => Err(Error::new(Kind::Damaged, "an empty batch")),
        }
    }

    /// What an epoch's row is hashed onto.
    pub(crate) fn epoch_begins(&self, payload: &[u8]) -> Result<At> {
        let row = Row::from_json(payload)?;
        let fork = row.fork().map(|moment| (moment, row.fork_chain));
        let value = epoch_start(self.id, row.epoch, fork);
        Ok(At { moment: Moment { epoch: row.epoch, seq: row.fork_seq }, value })
    }
}

fn chain_record(
    Moment { epoch, seq }: Moment,
    (disk, kind): (DiskOrdinal, RecordKind),
    flush: bool,
    (offset, length): (u64, u64),
    time_ns: i64,
) -> ChainRecord {
    ChainRecord { epoch, seq, disk, kind, flush, offset, length, time_ns }
}

fn value_behind(at: At, record: &ChainRecord, payload: &[u8]) -> ChainValue {
    let has_payload = !matches!(record.kind, RecordKind::Zero | RecordKind::Discard | RecordKind::Resize);
    step(&at.value, record, has_payload.then_some(payload))
}
