//! What a target does with what it receives: records go into its own journal with the names that they have; a first
//! copy goes straight into bases that nobody sees before the jump.
//!
//! T1. A site that follows gives no seq: it appends what it receives, under the names that it has.
//! T2. Before the `jump` line is counted nothing refers to the bases of a first copy; before it is written they
//!     are durable at its moment.
//! T3. The progress of a copy says no more than what is durable: after a crash the source sends again from the
//!     moment that it names, and applying the same records again, in order, ends in the same bytes.
//! T4. Records are appended only to a line that every base lies on: a base that has passed the moment that they follow
//!     would show what was left behind.
//! T5. What readers see changes in one step (L1 and L3 of `line`): with each run of records once they are durable and
//!     entered everywhere, and with the jump once bases, names, spans, chain and history have it.

use crate::base::base_name;
use crate::exchange::{CopyStatement, Data, DiskRange, Fill, Planned, RangeSet, Record};
use crate::format::{JumpSpan, Span};
use crate::group::checkpoint::empty_base;
use crate::group::group::{BasePlace, Core, Group, GroupParts};
use crate::group::left_out;
use crate::group::line::{Live, anchored, between};
use crate::group::names::{Change, NameLog, Names};
use crate::group::queue::Gate;
use crate::group::small_file;
use crate::history::{ChainValue, DiskSize, Event, JumpLine, JumpReason, Row};
use crate::journal::NewRecord;
use crate::seam::{Access, Durability, File};
use crate::vocab::{
    Codec, DiskOrdinal, EpochId, Error, GroupId, Kind, LogPlace, Moment, Pos, RecordKind, Result, Seq, Token,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

const COPY: &str = "copy.json";

/// A first copy, as it is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Progress {
    copy: Token,
    reason: JumpReason,
    staged: Moment,
    chain: ChainValue,
    missing: Vec<DiskRange>,
    names: Names,
}

/// A first copy under way.
pub(crate) struct FirstCopy {
    progress: Progress,
    missing: RangeSet,
    files: HashMap<DiskOrdinal, Arc<dyn File>>,
    unsynced: u64,
}

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
            return Err(Error::new(Kind::ReadOnly, "this site doesn't follow any more"));
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
        let zeros = vec![
            0;
            data.records
                .iter()
                .filter(|r| r.codec == Codec::Zeros)
                .map(|r| r.length as usize)
                .max()
                .unwrap_or(0)
        ];
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
                self.record(core, Event::Epoch { row, own: false })?;
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
        for (disk, place) in &core.bases {
            for at in [place.base, place.floor].into_iter().flatten() {
                if anchored(&path, at).is_none() {
                    let what = format!("the base of file {disk} has passed {after}");
                    return Err(Error::new(Kind::Conflict, what)
                        .advice("Only a copy brings this site there; see `gaps` afterwards"));
                }
            }
        }
        Ok(())
    }

    /// Rows and withdrawals heard from the peer become lines of the history.
    pub(crate) fn store_rows(&self, rows: Vec<Row>, withdrawn: Vec<(EpochId, Token)>) -> Result<()> {
        let mut core = self.core.lock();
        for row in rows {
            if core.table.insert(row.clone())? {
                self.record(&mut core, Event::Epoch { row, own: false })?;
            }
        }
        for (epoch, op) in withdrawn {
            if core.table.withdraw(epoch, op) {
                self.record(&mut core, Event::Withdrawn { epoch, op })?;
            }
        }
        Ok(())
    }

    /// The copy that is being made here, as it is durable.
    pub(crate) fn copy_statement(&self) -> Result<Option<(CopyStatement, RangeSet)>> {
        let Some(p) = small_file::read::<Progress>(&*self.parts.store, &self.dir, COPY)? else {
            return Ok(None);
        };
        let missing: RangeSet = p.missing.iter().copied().collect();
        let statement = CopyStatement {
            copy: p.copy,
            reason: p.reason,
            staged: p.staged,
            chain: p.chain,
            missing_bytes: missing.bytes(),
        };
        Ok(Some((statement, missing)))
    }

    /// Goes on with the copy that a restart has left.
    pub(crate) fn resume_copy(&self) -> Result<Option<FirstCopy>> {
        let progress: Option<Progress> = small_file::read(&*self.parts.store, &self.dir, COPY)?;
        Ok(progress.map(|progress| {
            let missing = progress.missing.iter().copied().collect();
            FirstCopy { progress, missing, files: HashMap::new(), unsynced: 0 }
        }))
    }

    /// Begins a first copy; what was begun before is deleted.
    pub(crate) fn begin_copy(&self, planned: &Planned) -> Result<FirstCopy> {
        self.drop_copy()?;
        let progress = Progress {
            copy: planned.copy,
            reason: planned.reason,
            staged: planned.at,
            chain: planned.chain,
            missing: planned.set.iter().collect(),
            names: Names::default(),
        };
        small_file::write(&*self.parts.store, &self.dir, COPY, &progress)?;
        Ok(FirstCopy { missing: planned.set.clone(), progress, files: HashMap::new(), unsynced: 0 })
    }

    /// Deletes what a copy has brought so far.
    pub(crate) fn drop_copy(&self) -> Result<()> {
        if self.has_image() {
            return Ok(());
        }
        small_file::remove(&*self.parts.store, &self.dir, COPY)?;
        for name in self.parts.store.list(&self.dir)? {
            if name.starts_with("base-") {
                self.parts.store.remove(&self.dir.join(name))?;
            }
        }
        self.parts.store.sync_dir(&self.dir)
    }

    /// The jump (T2): from nothing to the moment that the copy has come to.
    pub(crate) fn publish_copy(
        &self,
        copy: &mut FirstCopy,
        to: Moment,
        chain: ChainValue,
        disks: Vec<DiskSize>,
    ) -> Result<()> {
        if to != copy.progress.staged || !copy.missing.is_empty() {
            return Err(Error::new(
                Kind::Conflict,
                format!("a copy at {} is to be published at {to}", copy.progress.staged),
            ));
        }
        copy.set_sizes(self)?;
        copy.sync(self)?;
        let _work = self.work.lock();
        let mut core = self.core.lock();
        self.close_line(&mut core)?;
        self.log.begin_epoch(to.epoch, to.seq.next())?;
        between("the log goes on at the copy's moment");
        let edge = LogPlace { log: self.log.id(), pos: Pos(0) };
        let names = copy.progress.names.clone();
        *self.names.lock() = NameLog { snapshot: names.clone(), edge: Some(edge), facts: Vec::new() };
        self.write_names()?;
        core.spans.0 = vec![Span {
            epoch: to.epoch,
            log: self.log.id(),
            from: Pos(0),
            to: Pos(0),
            first_seq: to.seq,
            last_seq: to.seq,
            parent_end: None,
            jump: Some(JumpSpan { from: None }),
        }];
        core.bases = names.files.keys().map(|disk| (*disk, empty_base(self.log.id()))).collect();
        let new_disks = names.files.keys().copied().collect();
        let line = JumpLine {
            from: None,
            from_chain: None,
            to,
            to_chain: chain,
            log: self.log.id(),
            entries: 0,
            hash: ChainValue::ZERO,
            disks,
            new_disks,
            reason: copy.progress.reason,
        };
        self.start_chain_at(to, chain);
        self.record(&mut core, Event::Jump(line))?;
        between("the jump is durable");
        self.queue.lock().names = names.clone();
        self.set_entered();
        if left_out("L1: a line is published in one step") {
            let closed = Some((to, Arc::new(names.clone())));
            let old = self.live.read().clone();
            let (path, files) = (old.path.clone(), HashMap::new());
            *self.live.write() = Arc::new(Live { path, files, closed, generation: old.generation });
            between("the head is named");
        }
        self.publish(&mut core, Some(Arc::new(names)), true)?;
        drop(core);
        small_file::remove(&*self.parts.store, &self.dir, COPY)
    }

    /// The chain goes on from an attested value.
    pub(crate) fn start_chain_at(&self, moment: Moment, value: ChainValue) {
        let mut chain = self.chain.lock();
        (chain.moment, chain.value, chain.place) = (moment, value, Pos(0));
        chain.marks.insert(moment, value);
    }

    /// Files without a round behind them have their base at the begin of the log.
    pub(crate) fn add_bases(&self, core: &mut Core) {
        for disk in crate::group::checkpoint::ordinals(&self.names.lock()) {
            core.bases.entry(disk).or_insert_with(|| -> BasePlace { empty_base(self.log.id()) });
        }
    }
}

impl FirstCopy {
    /// Records in order, applied to the files.
    pub(crate) fn take_records(&mut self, group: &Group, data: &Data) -> Result<()> {
        for r in &data.records {
            self.take_record(group, r)?;
        }
        if let Some(moment) = data.moment() {
            (self.progress.staged, self.progress.chain) = (moment, data.chain);
        }
        Ok(())
    }

    fn take_record(&mut self, group: &Group, r: &Record) -> Result<()> {
        self.unsynced += r.weight();
        match r.kind {
            RecordKind::Write if r.codec == Codec::Zeros => {
                self.file(group, r.disk)?.punch(r.offset, r.length)
            }
            RecordKind::Write => self.file(group, r.disk)?.write_all_at(&r.payload, r.offset),
            RecordKind::Zero | RecordKind::Discard => {
                let file = self.file(group, r.disk)?;
                let length = r.length.min(file.len()?.saturating_sub(r.offset));
                if length > 0 { file.punch(r.offset, length) } else { Ok(()) }
            }
            RecordKind::Resize => {
                self.missing.cut(r.disk, r.offset);
                self.file(group, r.disk)?.set_len(r.offset)?;
                self.change(r)
            }
            RecordKind::Add | RecordKind::Rename | RecordKind::Remove => self.change(r),
            RecordKind::Epoch => group.store_rows(vec![Row::from_json(&r.payload)?], Vec::new()),
            _ => Ok(()),
        }
    }

    fn change(&mut self, r: &Record) -> Result<()> {
        if let Some(change) = Change::of(r.kind, r.disk, r.offset, &r.payload)? {
            self.progress.names.apply(&change);
        }
        Ok(())
    }

    /// A range as it is at the moment just received; file 0 holds the names.
    pub(crate) fn take_fill(&mut self, group: &Group, fill: &Fill) -> Result<()> {
        self.unsynced += fill.payload.len() as u64 + 64;
        self.missing.remove(fill.range());
        if fill.disk == DiskOrdinal(0) {
            let names = serde_json::from_slice(&fill.payload)
                .map_err(|e| Error::new(Kind::Damaged, format!("the names of a copy can't be read: {e}")))?;
            self.progress.names = names;
            return Ok(());
        }
        let file = self.file(group, fill.disk)?;
        match fill.codec {
            Codec::Plain => file.write_all_at(&fill.payload, fill.offset),
            _ => {
                let end = fill.offset + fill.length;
                if file.len()? < end {
                    file.set_len(end)?;
                }
                file.punch(fill.offset, fill.length)
            }
        }
    }

    /// The stream goes on at a later moment; these ranges are missing again.
    pub(crate) fn skip(&mut self, to: Moment, chain: ChainValue, set: &RangeSet) {
        (self.progress.staged, self.progress.chain) = (to, chain);
        self.missing.extend(set);
    }

    /// Bytes since the last sync.
    pub(crate) fn unsynced(&self) -> u64 {
        self.unsynced
    }

    /// Makes everything so far durable, and then says so (T3).
    pub(crate) fn sync(&mut self, group: &Group) -> Result<()> {
        for file in self.files.values() {
            file.sync()?;
        }
        group.parts.store.sync_dir(&group.dir)?;
        self.progress.missing = self.missing.iter().collect();
        self.unsynced = 0;
        small_file::write(&*group.parts.store, &group.dir, COPY, &self.progress)
    }

    fn set_sizes(&mut self, group: &Group) -> Result<()> {
        let sizes: Vec<(DiskOrdinal, u64)> =
            self.progress.names.files.iter().map(|(d, f)| (*d, f.size)).collect();
        for (disk, size) in sizes {
            self.file(group, disk)?.set_len(size)?;
        }
        Ok(())
    }

    fn file(&mut self, group: &Group, disk: DiskOrdinal) -> Result<&Arc<dyn File>> {
        match self.files.entry(disk) {
            Entry::Occupied(file) => Ok(file.into_mut()),
            Entry::Vacant(place) => {
                let path = group.dir.join(base_name(disk));
                let storage = &group.parts.store;
                let there = storage.exists(&path)?;
                let file = if there {
                    storage.open(&path, Access::Cached)?
                } else {
                    storage.create(&path, Access::Cached)?
                };
                Ok(place.insert(file))
            }
        }
    }
}

fn new_record<'a>(r: &'a Record, zeros: &'a [u8]) -> NewRecord<'a> {
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
