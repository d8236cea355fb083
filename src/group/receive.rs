//! What a target does with records of its line: they go into its own journal with the names that they have.
//!
//! T1. A site that follows gives no seq: it appends what it receives, under the names that it has.
//! T4. Records are appended only to a line that every base lies on: a base that has passed the moment that they follow
//!     would show what was left behind.
//! T5. What readers see changes in one step (L1 and L3 of `line`): with each run of records once they are durable and
//!     entered everywhere, and with a jump once bases, names, spans, chain and history have it.

use crate::exchange::{Data, Record};
use crate::group::chain::At;
use crate::group::checkpoint::empty_base;
use crate::group::group::{BasePlace, Core, Group, GroupParts};
use crate::group::line::between;
use crate::group::names::Change;
use crate::group::queue::Gate;
use crate::group::read::base_beside;
use crate::history::{ChainValue, Event, Row};
use crate::journal::NewRecord;
use crate::seam::Durability;
use crate::vocab::{Codec, EpochId, Error, GroupId, Kind, Moment, Pos, RecordKind, Result, Seq, Token};
use std::sync::Arc;

impl Group {
    /// Makes a group without an image: a target. Durable when this returns.
    pub fn create_target(parts: GroupParts, id: GroupId) -> Result<Arc<Self>> {
        let group = Self::create_empty(parts, id)?;
        group.queue.lock().gate = Gate::Target;
        Ok(Arc::new(group))
    }

    /// Whether there is an image here.
    pub fn has_image(&self) -> bool {
        !self.core.lock().spans.0.is_empty()
    }

    /// Appends records that were checked against the chain; durable when this returns (T1).
    pub(crate) fn append_received(&self, data: &Data) -> Result<()> {
        let _work = self.work.lock();
        if self.gate() != Gate::Target {
            return Err(Error::refused("busy", "this site doesn't follow any more"));
        }
        let Some(first) = data.records.first() else { return Ok(()) };
        // Back on an epoch after a decision was taken back is another stretch too.
        let (entered, _) = self.entered();
        let goes_on = entered == Moment { epoch: data.epoch, seq: Seq(first.seq.0 - 1) };
        {
            let mut core = self.core.lock();
            self.close_line(&mut core)?;
            if !goes_on {
                self.take_rows(&mut core, data)?;
                self.refresh_spans(&mut core);
                self.can_go_on(&core, Moment { epoch: data.epoch, seq: Seq(first.seq.0 - 1) })?;
                self.log.begin_epoch(data.epoch, first.seq)?;
            }
        }
        if self.log.next_seq() != first.seq {
            let what =
                format!("record {} doesn't follow the log, whose next is {}", first.seq, self.log.next_seq());
            return Err(Error::new(Kind::Damaged, what));
        }
        let zeros = zeros_for(&data.records);
        let new: Vec<NewRecord<'_>> = data.records.iter().map(|r| new_record(r, &zeros)).collect();
        let batches = self.log.append(&new, self.parts.clock.boot_ns(), Durability::Plain)?;
        between("received records are in the log");
        self.enter_index(&new, &batches)?;
        between("received records are in the index");
        self.log.sync()?;
        let mut changes = Vec::new();
        for r in &data.records {
            changes.extend(Change::of(r.kind, r.disk, r.offset, &r.payload)?);
        }
        let mut core = self.core.lock();
        self.refresh_spans(&mut core);
        between("received records are in the spans");
        if !goes_on {
            self.find_parent_ends(&mut core)?;
            self.refresh_line(&mut core)?;
            let names = self.names_now(Clone::clone);
            self.queue.lock().names = names;
            return Ok(());
        }
        if !core.closed {
            changes.iter().for_each(|change| self.queue.lock().names.apply(change));
            return self.refresh_live(&mut core); // left out: L3
        }
        let known = self.live.read().closed.as_ref().map(|(_, names)| names.clone());
        let mut names = known.unwrap_or_default();
        if !changes.is_empty() {
            let next = Arc::make_mut(&mut names);
            changes.iter().for_each(|change| next.apply(change));
            self.queue.lock().names = next.clone();
        }
        self.publish_next(&mut core, names)
    }

    /// Rows that come as records are known, as heard ones, before anything of their epochs is in the log: its names
    /// can be told at every instant.
    fn take_rows(&self, core: &mut Core, data: &Data) -> Result<()> {
        for r in data.records.iter().filter(|r| r.kind == RecordKind::Epoch) {
            let row = Row::from_json(&r.payload)?;
            if core.table.insert(row.clone())? {
                self.owe(core, Event::Epoch { row, own: false });
                self.record_owed(core)?;
            }
        }
        Ok(())
    }

    /// T4: whether every base lies on the path to this moment.
    fn can_go_on(&self, core: &Core, after: Moment) -> Result<()> {
        if after.seq == Seq(0) || core.spans.0.is_empty() {
            return Ok(());
        }
        let path = self.path_of(core, after)?;
        let Some(disk) = base_beside(core, &path) else { return Ok(()) };
        Err(Error::new(Kind::Conflict, format!("the base of file {disk} has passed {after}"))
            .advice("Only a copy brings this site there; see `gaps` afterwards"))
    }

    /// Rows and withdrawals heard from the peer become lines of the history.
    pub(crate) fn store_rows(&self, rows: Vec<Row>, withdrawn: Vec<(EpochId, Token)>) -> Result<()> {
        let mut core = self.core.lock();
        for row in rows {
            if core.table.insert(row.clone())? {
                self.owe(&mut core, Event::Epoch { row, own: false });
                self.record_owed(&mut core)?;
            }
        }
        for (epoch, op) in withdrawn {
            if core.table.withdraw(epoch, op) {
                self.owe(&mut core, Event::Withdrawn { epoch, op });
                self.record_owed(&mut core)?;
            }
        }
        Ok(())
    }

    /// The chain goes on from an attested value, behind this end of the log.
    pub(crate) fn jump_chain(&self, behind: Pos, moment: Moment, value: ChainValue) {
        let mut chain = self.chain.lock();
        chain.jumps.insert(behind, At { moment, value });
        chain.marks.insert(moment, value);
    }

    /// Files without a round behind them have their base at the begin of the log.
    pub(crate) fn add_bases(&self, core: &mut Core) {
        for disk in crate::group::checkpoint::ordinals(&self.names.lock()) {
            core.bases.entry(disk).or_insert_with(|| -> BasePlace { empty_base(self.log.id()) });
        }
    }
}

/// Zeros for records that don't carry theirs.
pub(crate) fn zeros_for(records: &[Record]) -> Vec<u8> {
    let longest = records.iter().filter(|r| r.codec == Codec::Zeros).map(|r| r.length as usize).max();
    vec![0; longest.unwrap_or(0)]
}

pub(crate) fn new_record<'a>(r: &'a Record, zeros: &'a [u8]) -> NewRecord<'a> {
    NewRecord {
        disk: r.disk,
        kind: r.kind,
        flags: r.flags,
        offset: r.offset,
        length: r.length,
        payload: if r.codec == Codec::Zeros { &zeros[..r.length as usize] } else { &r.payload },
        wall: r.time_ns,
    }
}
