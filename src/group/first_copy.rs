//! A first copy: it goes straight into bases that nobody sees before the jump.
//!
//! T2. Before the `jump` line is counted nothing refers to the bases of a first copy; before it is written they
//!     are durable at its moment.
//! T3. The progress of a copy says no more than what is durable: after a crash the source sends again from the
//!     moment that it names, and applying the same records again, in order, ends in the same bytes. Where the source
//!     has left the line meanwhile, what lies in the files behind the progress may be of none: then it begins anew.

use crate::base::base_name;
use crate::exchange::{Data, Fill, RangeSet, Record, shrink};
use crate::format::{JumpSpan, Span};
use crate::group::Group;
use crate::group::checkpoint::empty_base;
use crate::group::copy::Progress;
use crate::group::left_out;
use crate::group::line::{Live, between};
use crate::group::names::NameLog;
use crate::history::{ChainValue, DiskSize, Event, JumpLine, Row};
use crate::seam::{Access, File};
use crate::vocab::{Codec, DiskOrdinal, Error, LogPlace, Moment, Pos, RecordKind, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// More than a crash can leave in the files behind the progress, bytes.
pub(crate) const TAIL_BYTES_MAX: u64 = 64 << 20;

/// A first copy under way.
pub(crate) struct FirstCopy {
    pub(crate) progress: Progress,
    pub(crate) missing: RangeSet,
    files: HashMap<DiskOrdinal, Arc<dyn File>>,
    pub(crate) unsynced: u64,
    /// T3: bytes to come until everything that a crash may have left is overwritten.
    tail: u64,
}

impl Group {
    /// T2: from nothing to the moment that the copy has come to.
    pub(crate) fn publish_first(
        &self,
        copy: &mut FirstCopy,
        to: Moment,
        chain: ChainValue,
        disks: Vec<DiskSize>,
    ) -> Result<()> {
        copy.set_sizes(self)?;
        copy.sync(self)?;
        let _rounds = self.rounds.lock();
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
            jump: Some(JumpSpan { from: None, behind: Pos(0), parts: Vec::new() }),
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
        self.jump_chain(Pos(0), to, chain);
        self.record(&mut core, Event::Jump(line))?;
        between("the jump is durable");
        self.queue.lock().names = names.clone();
        self.set_entered();
        if left_out("L1: a line is published in one step") {
            let closed = Some((to, Arc::new(names.clone())));
            let old = self.live.read().clone();
            let (path, files) = (old.path.clone(), HashMap::new());
            *self.live.write() =
                Arc::new(Live { path, files, beside: Vec::new(), closed, generation: old.generation });
            between("the head is named");
        }
        self.publish(&mut core, Some(Arc::new(names)), true)?;
        Ok(())
    }
}

impl FirstCopy {
    pub(crate) fn begun(progress: Progress) -> Self {
        Self { tail: 0, ..Self::resumed(progress) }
    }

    pub(crate) fn resumed(progress: Progress) -> Self {
        let missing = progress.missing.iter().copied().collect();
        Self { progress, missing, files: HashMap::new(), unsynced: 0, tail: TAIL_BYTES_MAX }
    }

    /// Records in order, applied to the files.
    pub(crate) fn take_records(&mut self, group: &Group, data: &Data) -> Result<()> {
        if self.tail > 0 && data.epoch != self.progress.staged.epoch {
            group.drop_copy()?;
            let what = "the source began another epoch, and what a restart left of the copy may be of none";
            return Err(Error::refused("busy", what).advice("The copy begins anew by itself"));
        }
        for r in &data.records {
            self.take_record(group, r)?;
        }
        self.progress.change_names(data)?;
        if let Some(moment) = data.moment() {
            (self.progress.staged, self.progress.chain) = (moment, data.chain);
        }
        Ok(())
    }

    fn weigh(&mut self, bytes: u64) {
        self.unsynced += bytes;
        self.tail = self.tail.saturating_sub(bytes);
    }

    fn take_record(&mut self, group: &Group, r: &Record) -> Result<()> {
        self.weigh(r.weight());
        shrink(&mut self.missing, r);
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
            RecordKind::Resize => self.file(group, r.disk)?.set_len(r.offset),
            RecordKind::Epoch => group.store_rows(vec![Row::from_json(&r.payload)?], Vec::new()),
            _ => Ok(()),
        }
    }

    /// A range as it is at the moment just received; file 0 holds the names.
    pub(crate) fn take_fill(&mut self, group: &Group, fill: &Fill) -> Result<()> {
        self.weigh(fill.payload.len() as u64 + 64);
        self.missing.remove(fill.range());
        if fill.disk == DiskOrdinal(0) {
            return self.progress.fill_names(fill);
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

    /// Makes everything so far durable, and then says so (T3).
    pub(crate) fn sync(&mut self, group: &Group) -> Result<()> {
        for file in self.files.values() {
            file.sync()?;
        }
        group.parts.store.sync_dir(&group.dir)?;
        self.progress.missing = self.missing.iter().collect();
        self.unsynced = 0;
        group.write_progress(&self.progress)
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
