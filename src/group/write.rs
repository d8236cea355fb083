//! The write path: the thread that finds no append running appends at once and then serves all who came meanwhile.

use crate::format::{FLAG_FLUSH, RecordEntry};
use crate::group::group::{Counters, Group, Reply};
use crate::group::left_out;
use crate::group::line::between;
use crate::group::names::{Change, Fact};
use crate::group::queue::{Gate, Op, Pending, Queue, Queued};
use crate::index::{BatchRow, Content, Entry, OPEN_PIECES_MAX, SegmentMeta};
use crate::journal::{AppendedBatch, NewRecord, SegmentInfo};
use crate::seam::Durability;
use crate::vocab::{Codec, DiskOrdinal, Error, Kind, LogPlace, Moment, Pos, RecordKind, Result, Seq};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Durable appends go on for so many writes after the last flush.
const DURABLE_WRITES: u32 = 32;
/// And for so long, ns.
const DURABLE_NS: u64 = 50_000_000;
/// Ended segments without an index run: at most so many are in memory.
const UNSEALED_MAX: usize = 4;
/// A leader waits for other writers at most so long, and at most as long as a durable append takes, ns.
const GATHER_NS_MAX: u64 = 1_000_000;

impl Group {
    /// Takes an operation on a file. `sync`: answered when it is durable (O_DSYNC). The answer may come from this
    /// call or later from another thread.
    pub fn submit(&self, disk: DiskOrdinal, op: Op<'_>, sync: bool, reply: Reply) {
        self.submit_if(disk, op, sync, reply, || true);
    }

    /// As [`Self::submit`], if `allowed` says so with the queue held; else the reply comes back unused.
    pub(crate) fn submit_if(
        &self,
        disk: DiskOrdinal,
        op: Op<'_>,
        sync: bool,
        reply: Reply,
        allowed: impl FnOnce() -> bool,
    ) -> Option<Reply> {
        let _entering = self.space.entering();
        if let Err(e) = self.admit(disk, &op) {
            reply(Err(e));
            return None;
        }
        let mut queue = self.queue.lock();
        if !allowed() {
            return Some(reply);
        }
        let records = match queue.enter(disk, &op) {
            Ok(records) => records,
            Err(e) => {
                drop(queue);
                reply(Err(e));
                return None;
            }
        };
        if records.is_empty() {
            drop(queue);
            if sync {
                self.flush(reply);
            } else {
                reply(Ok(()));
            }
            return None;
        }
        let pending = Pending { records, sync, reply };
        if queue.appending {
            let records = pending.records.into_iter().map(Queued::into_owned).collect();
            queue.pending.push(Pending { records, sync, reply: pending.reply });
            self.tell_leader(&queue);
            return None;
        }
        queue.appending = true;
        drop(queue);
        self.lead(pending);
        None
    }

    /// Takes a change of names; durable when it returns.
    pub fn change(&self, change: &Change) -> Result<()> {
        self.change_with(|_| Ok(change.clone()))
    }

    /// As [`Self::change`], where the change follows from the names of that instant (a new ordinal, say).
    pub fn change_with(
        &self,
        make: impl FnOnce(&crate::group::names::Names) -> Result<Change>,
    ) -> Result<()> {
        self.changes_with(|names| make(names).map(|change| vec![change]))
    }

    /// As [`Self::change_with`], with several changes that a crash keeps or loses together. None: nothing is done.
    pub fn changes_with(
        &self,
        make: impl FnOnce(&crate::group::names::Names) -> Result<Vec<Change>>,
    ) -> Result<()> {
        let (send, receive) = std::sync::mpsc::channel();
        let reply: Reply = Box::new(move |result| {
            let _ = send.send(result);
        });
        {
            let mut queue = self.queue.lock();
            queue.gate.check()?;
            let changes = make(&queue.names)?;
            if changes.is_empty() {
                return Ok(());
            }
            let records = queue.enter_changes(&changes)?;
            if records.is_empty() {
                return Ok(());
            }
            let pending = Pending { records, sync: true, reply };
            if queue.appending {
                queue.pending.push(pending);
                self.tell_leader(&queue);
            } else {
                queue.appending = true;
                drop(queue);
                self.lead(pending);
            }
        }
        receive.recv().unwrap_or_else(|_| Err(Error::new(Kind::Io, "the request was dropped")))
    }

    fn lead(&self, first: Pending<'_>) {
        let mut batch = vec![first];
        loop {
            let durability = self.durability();
            if durability == Durability::Durable {
                self.gather(&mut batch);
            }
            let wait = self.space.pace.wait(self.log.end());
            if !wait.is_zero() {
                self.parts.clock.pause(wait); // P4 of `pace`
            }
            let taken = batch.len();
            self.append_all(batch, durability);
            let mut queue = self.queue.lock();
            queue.around = taken + queue.pending.len();
            if queue.pending.is_empty() {
                queue.appending = false;
                self.idle.notify_all();
                return;
            }
            batch = std::mem::take(&mut queue.pending);
        }
    }

    /// A durable append costs a sync, however many records it has: where several writers are about, the leader
    /// waits for those that were answered a moment ago and are about to come back. One that is alone never waits.
    fn gather(&self, batch: &mut Vec<Pending<'_>>) {
        let mut queue = self.queue.lock();
        let missing = queue.around.saturating_sub(batch.len());
        if queue.pending.len() < missing {
            let most = self.durable_ns.load(Ordering::Relaxed).min(GATHER_NS_MAX);
            queue.gathering = missing;
            let end = Instant::now() + Duration::from_nanos(most);
            while queue.pending.len() < missing && !self.gathered.wait_until(&mut queue, end).timed_out() {}
            queue.gathering = 0;
            Counters::add(&self.counters.gathers, 1);
        }
        batch.extend(std::mem::take(&mut queue.pending));
    }

    fn tell_leader(&self, queue: &Queue) {
        if queue.gathering > 0 && queue.pending.len() >= queue.gathering {
            self.gathered.notify_one();
        }
    }

    fn append_all(&self, mut pending: Vec<Pending<'_>>, durability: Durability) {
        let records: Vec<Queued<'_>> =
            pending.iter_mut().flat_map(|p| std::mem::take(&mut p.records)).collect();
        if left_out("G2: a request is answered when it is in the file") {
            pending.iter_mut().for_each(|p| std::mem::replace(&mut p.reply, Box::new(drop))(Ok(())));
        }
        match self.append(&records, durability) {
            Ok(batches) => {
                let end = batches.last().map_or(Pos(0), |b| b.end);
                pending
                    .into_iter()
                    .for_each(|p| if p.sync { self.flush_to(end, p.reply) } else { (p.reply)(Ok(())) });
                self.chain_appended(&records, &batches);
            }
            Err(e) => {
                // What entered behind saw the names and sizes of what failed: it fails with it.
                let behind = if left_out("what entered behind a failed append fails with it") {
                    Vec::new()
                } else {
                    self.take_back(records.first().is_some_and(|r| r.flags & FLAG_FLUSH != 0))
                };
                for p in pending.into_iter().chain(behind) {
                    (p.reply)(Err(Error::new(e.kind(), e.to_string())));
                }
            }
        }
    }

    /// After a failed append: what has entered and is not appended, with names and sizes as the log has them.
    fn take_back(&self, flushed: bool) -> Vec<Pending<'static>> {
        let path = self.live.read().path.clone();
        let mut queue = self.queue.lock();
        if self.log.is_poisoned().is_some() {
            queue.stop();
        }
        queue.names = self.names.lock().at(&path);
        queue.flushed |= flushed;
        std::mem::take(&mut queue.pending)
    }

    /// Appends and indexes.
    fn append(&self, records: &[Queued<'_>], durability: Durability) -> Result<Vec<AppendedBatch>> {
        if self.queue.lock().gate == (Gate::Open { begun: false }) {
            self.begin_opening()?;
        }
        let (wall, age) = (self.parts.clock.wall_ns(), self.parts.clock.boot_ns());
        let new: Vec<NewRecord<'_>> = records
            .iter()
            .map(|r| NewRecord {
                disk: r.disk,
                kind: r.kind,
                flags: r.flags,
                offset: r.offset,
                length: r.length,
                payload: &r.payload,
                wall,
            })
            .collect();
        let batches = self.log.append(&new, age, durability)?;
        if durability == Durability::Durable {
            let took = self.parts.clock.boot_ns().saturating_sub(age);
            self.durable_ns.store(took / batches.len().max(1) as u64, Ordering::Relaxed);
            Counters::add(&self.counters.durable_batches, batches.len() as u64);
        }
        between("appended");
        self.enter_index(&new, &batches)?;
        let bytes = records.iter().map(|r| r.payload.len() as u64).sum();
        Counters::add(&self.counters.records, records.len() as u64);
        Counters::add(&self.counters.batches, batches.len() as u64);
        Counters::add(&self.counters.guest_bytes, bytes);
        self.writes_since_flush.fetch_add(records.len() as u32, Ordering::Relaxed);
        Ok(batches)
    }

    /// Plain appends are faster at depth 1; while flushes keep coming durable ones serve many flushes with one
    /// write. The mode follows the load.
    fn durability(&self) -> Durability {
        let last = self.last_flush_ns.load(Ordering::Relaxed);
        let recent = last != 0 && self.parts.clock.monotonic_ns().saturating_sub(last) < DURABLE_NS;
        if recent && self.writes_since_flush.load(Ordering::Relaxed) < DURABLE_WRITES {
            Durability::Durable
        } else {
            Durability::Plain
        }
    }

    /// Makes batches visible to reads: ended segments first, then versions, table of batches, names. Where that fails
    /// the group stops: what comes next would cover up what is missing.
    pub(crate) fn enter_index(&self, records: &[NewRecord<'_>], batches: &[AppendedBatch]) -> Result<()> {
        self.enter_all(records, batches).inspect_err(|e| self.log.poison_torn(&e.to_string()))
    }

    fn enter_all(&self, records: &[NewRecord<'_>], batches: &[AppendedBatch]) -> Result<()> {
        let log = self.log.id();
        let mut rest = records;
        for batch in batches {
            for ended in &batch.ended {
                self.end_segment(ended)?;
            }
            let (mine, others) = rest.split_at(batch.records.len());
            rest = others;
            let mut entries = Vec::with_capacity(mine.len());
            for (r, at) in mine.iter().zip(&batch.records) {
                let zeros = at.codec == Codec::Zeros;
                entries.extend(entry_of(r.kind, r.disk, r.offset, r.length, zeros, at.pos, at.crc));
                if let Some(change) = Change::of(r.kind, r.disk, r.offset, r.payload)? {
                    let moment = Moment { epoch: self.log.epoch(), seq: at.seq };
                    self.names.lock().push(Fact { place: LogPlace { log, pos: at.pos }, moment, change });
                }
            }
            if !entries.is_empty() {
                self.index.insert(log, &entries)?;
            }
            self.index.push_batch(
                log,
                BatchRow { first_seq: batch.first_seq, pos: batch.pos, wall_ns: batch.wall },
            );
        }
        self.set_entered();
        if self.index.open_pieces(log) >= OPEN_PIECES_MAX {
            self.log.end_segment();
        }
        Ok(())
    }

    pub(crate) fn end_segment(&self, ended: &SegmentInfo) -> Result<()> {
        if ended.end <= ended.first_batch() {
            return Ok(()); // nothing was appended to it
        }
        self.index.rotate(self.log.id(), meta_of(ended))?;
        // Runs are written behind the writers; where that falls behind, writers pay for it with time, not memory.
        if self.index.unsealed_segments(self.log.id()) > UNSEALED_MAX
            && let Err(e) = self.index.seal(self.log.id())
        {
            // Its versions stay in memory; whoever keeps the group tries again.
            tracing::warn!(group = %self.id().short(), "a run of the index can't be written: {e}");
        }
        Ok(())
    }
}

/// What the index keeps of a segment.
pub(crate) fn meta_of(info: &SegmentInfo) -> SegmentMeta {
    let none = info.last_seq < info.first_seq;
    SegmentMeta {
        epoch: info.epoch,
        from: info.start,
        to: info.end,
        first_seq: if none { Seq(0) } else { info.first_seq },
        last_seq: if none { Seq(0) } else { info.last_seq },
    }
}

/// The version that a record is; `None` for records that change no bytes. A file that shrinks loses what lay
/// behind: if it grows again, zeros are there.
pub(crate) fn entry_of(
    kind: RecordKind,
    disk: DiskOrdinal,
    offset: u64,
    length: u64,
    zeros: bool,
    pos: Pos,
    crc: u32,
) -> Option<Entry> {
    let (offset, len, content) = match kind {
        RecordKind::Write | RecordKind::Fill if zeros => (offset, length, Content::Zero),
        RecordKind::Write | RecordKind::Fill => (offset, length, Content::Data),
        RecordKind::Zero => (offset, length, Content::Zero),
        RecordKind::Discard => (offset, length, Content::Discard),
        RecordKind::Resize if left_out("what a file loses by shrinking is zeros") => return None,
        RecordKind::Resize if offset < length => (offset, length - offset, Content::Discard),
        _ => return None,
    };
    (len > 0).then_some(Entry {
        disk,
        offset,
        len,
        pos,
        content,
        crc: if content == Content::Data { crc } else { 0 },
    })
}

/// As [`entry_of`], of a record that was read back.
pub(crate) fn entry_of_stored(e: &RecordEntry, pos: Pos) -> Option<Entry> {
    entry_of(e.kind, e.disk, e.offset, e.length, e.codec == Codec::Zeros, pos, e.crc)
}
