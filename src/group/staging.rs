//! A copy over the image that is here: records and ranges go into a staging log, and one jump puts it on the path.
//!
//! G1. Before the `jump` line is counted no path has the staging log: readers keep the older image, and so does every
//!     crash before it.
//! G2. Before the line is written the staging log, its index run, its ranges and the names are durable.
//! G3. Only *parts* of the log count. What was staged behind the durable progress when a connection or a process ended
//!     is void: the source may have left that line since, and sends everything behind the progress again.
//! G4. What the older image has beyond the sizes that the stream begins with, and of files that it doesn't have, reads
//!     as zeros: the first entries say so. What is newer in the log comes above them.
//! G5. A copy leads away from one head. If the head is another meanwhile, by a decision or because a power loss took
//!     its end, the copy isn't published. It is dropped before the site says again what it has: a peer that heard of
//!     it would go on with it, and be refused, for ever.

use crate::exchange::{Data, Fill, RangeSet, Record, shrink};
use crate::format::{JumpSpan, Span};
use crate::group::Group;
use crate::group::checkpoint::empty_base;
use crate::group::copy::{Progress, Staged};
use crate::group::left_out;
use crate::group::line::between;
use crate::group::logs::{StagedContent, StagedLog};
use crate::group::names::{Change, Fact, Names};
use crate::group::queue::Gate;
use crate::group::receive::{new_record, zeros_for};
use crate::history::{ChainValue, DiskSize, Event, JumpLine, Row};
use crate::index::{Resize, SeqStretch};
use crate::journal::{AppendedBatch, Log, NewRecord};
use crate::seam::Durability;
use crate::vocab::{
    Codec, DiskOrdinal, EpochId, Error, Kind, LogId, LogPlace, Moment, Pos, RecordKind, Result,
};
use std::sync::Arc;

/// Where a tombstone ends: behind everything that a file can have.
const FILE_END: u64 = 1 << 62;

/// A copy over the image, under way.
pub(crate) struct OverImage {
    pub(crate) progress: Progress,
    pub(crate) missing: RangeSet,
    pub(crate) unsynced: u64,
    from: Moment,
    log: Arc<Log>,
    /// G3: those that have ended, and where the open one began.
    parts: Vec<(Pos, Pos)>,
    open: Option<Pos>,
}

impl OverImage {
    pub(crate) fn begin(group: &Group, mut progress: Progress, disks: &[DiskSize]) -> Result<Self> {
        let id = LogId(group.parts.entropy.random_128());
        let (from, names) = (group.head(), group.names_now(Names::clone));
        let log = Log::create(group.staging_parts(id), group.log_identity(id), EpochId::NONE)?;
        group.parts.journal.sync_dir(&group.dir)?;
        let at = progress.staged;
        progress.names = names.clone();
        let missing = progress.missing.iter().copied().collect();
        let (log, parts) = (Arc::new(log), Vec::new());
        let mut copy = Self { progress, missing, unsynced: 0, from, log, parts, open: None };
        if !left_out("G4: what the older image has beyond the sizes is gone") {
            copy.bury(group, &names, disks)?;
        }
        copy.log.begin_epoch(at.epoch, at.seq.next())?;
        copy.sync(group)?;
        Ok(copy)
    }

    /// G4, in a segment of its own: these have no place on a line.
    fn bury(&mut self, group: &Group, names: &Names, disks: &[DiskSize]) -> Result<()> {
        let size_of = |disk| disks.iter().find(|d| d.disk == disk).map_or(0, |d| d.size);
        let all: std::collections::BTreeSet<DiskOrdinal> = names
            .files
            .keys()
            .copied()
            .chain(group.base_disks())
            .chain(disks.iter().map(|d| d.disk))
            .collect();
        let wall = group.parts.clock.wall_ns();
        let tombs: Vec<NewRecord<'_>> = all
            .into_iter()
            .map(|disk| {
                let (offset, payload) = (size_of(disk), &[][..]);
                let length = FILE_END - offset.min(FILE_END - 1);
                let kind = RecordKind::Discard;
                NewRecord { disk, kind, flags: 0, offset, length, payload, wall }
            })
            .collect();
        self.append(group, &tombs)
    }

    pub(crate) fn resumed(group: &Group, progress: Progress) -> Result<Self> {
        let Some(over) = progress.over.clone() else {
            return Err(Error::new(Kind::Invalid, "a first copy has no staging log"));
        };
        let (parts, identity) = (group.staging_parts(over.log.log), group.log_identity(over.log.log));
        let recovered = Log::recover(parts, identity, &over.log, false, false)?;
        if let crate::journal::Verdict::Damaged { why, .. } = recovered.found.verdict {
            group.drop_copy()?;
            return Err(Error::new(Kind::Damaged, format!("the staging log of a copy: {why}"))
                .advice("The copy begins anew by itself"));
        }
        let missing = progress.missing.iter().copied().collect();
        let log = recovered.log;
        let at = progress.staged;
        log.begin_epoch(at.epoch, at.seq.next())?;
        let mut parts = over.parts;
        let mut open = None;
        if left_out("G3: what was staged behind the progress is void") {
            open = parts.pop().map(|(from, _)| from);
        }
        Ok(Self { progress, missing, unsynced: 0, from: over.from, log: Arc::new(log), parts, open })
    }

    pub(crate) fn take_records(&mut self, group: &Group, data: &Data) -> Result<()> {
        let Some(first) = data.records.first() else { return Ok(()) };
        if data.epoch != self.log.epoch() || self.log.next_seq() != first.seq {
            self.log.begin_epoch(data.epoch, first.seq)?;
        }
        for r in data.records.iter().filter(|r| r.kind == RecordKind::Epoch) {
            group.store_rows(vec![Row::from_json(&r.payload)?], Vec::new())?;
        }
        data.records.iter().for_each(|r| shrink(&mut self.missing, r));
        let zeros = zeros_for(&data.records);
        let new: Vec<NewRecord<'_>> = data.records.iter().map(|r| new_record(r, &zeros)).collect();
        self.append(group, &new)?;
        self.unsynced += data.records.iter().map(Record::weight).sum::<u64>();
        self.progress.change_names(data)?;
        if let Some(moment) = data.moment() {
            (self.progress.staged, self.progress.chain) = (moment, data.chain);
        }
        Ok(())
    }

    pub(crate) fn take_fill(&mut self, group: &Group, fill: &Fill) -> Result<()> {
        self.missing.remove(fill.range());
        self.unsynced += fill.payload.len() as u64 + 64;
        if fill.disk == DiskOrdinal(0) {
            return self.progress.fill_names(fill);
        }
        let zeros;
        let payload = match fill.codec {
            Codec::Plain => &fill.payload,
            _ => {
                zeros = vec![0; fill.length as usize];
                &zeros
            }
        };
        let wall = group.parts.clock.wall_ns();
        let (disk, offset, length) = (fill.disk, fill.offset, fill.length);
        let kind = RecordKind::Fill;
        self.append(group, &[NewRecord { disk, kind, flags: 0, offset, length, payload, wall }])
    }

    fn append(&mut self, group: &Group, records: &[NewRecord<'_>]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let batches: Vec<AppendedBatch> =
            self.log.append(records, group.parts.clock.boot_ns(), Durability::Plain)?;
        if let (None, Some(first)) = (self.open, batches.first()) {
            self.open = Some(first.pos);
        }
        Ok(())
    }

    pub(crate) fn sync(&mut self, group: &Group) -> Result<()> {
        self.log.sync()?;
        self.log.write_list(false)?;
        let over = Staged { from: self.from, log: self.log.checkpoint_state(), parts: self.parts() };
        self.progress.over = Some(over);
        self.progress.missing = self.missing.iter().collect();
        self.unsynced = 0;
        group.write_progress(&self.progress)
    }

    fn parts(&self) -> Vec<(Pos, Pos)> {
        let mut parts = self.parts.clone();
        parts.extend(self.open.map(|from| (from, self.log.end())));
        parts
    }
}

impl Group {
    /// G1, G2: from the head to the moment that the copy has come to.
    pub(crate) fn publish_over(
        &self,
        copy: &mut OverImage,
        to: Moment,
        chain: ChainValue,
        disks: Vec<DiskSize>,
    ) -> Result<()> {
        copy.log.seal()?;
        copy.sync(self)?;
        let (parts, id, end) = (copy.parts(), copy.log.id(), copy.log.end());
        let mut content = StagedContent::read(&copy.log, &parts)?;
        content.enter(&self.index, &copy.log)?;
        let _rounds = self.rounds.lock();
        let _work = self.work.lock();
        if self.gate() != Gate::Target || self.head() != copy.from {
            let text = format!("this site left {} while a copy was made over it", copy.from);
            return Err(Error::refused("busy", text));
        }
        // U2: under the name of the moment that it leads to, of which no record lies here.
        let stretch = SeqStretch { epoch: to.epoch, first: to.seq, last: to.seq };
        let sizes = self.names_now(Names::clone);
        content.changes.resizes.extend(resizes(&sizes, &copy.progress.names));
        for r in &content.changes.resizes.clone() {
            content.changes.add(r.disk, r.old.min(r.new)..r.old.max(r.new));
        }
        self.range_log()?.append(stretch, content.changes)?;
        let from_chain = self.chain_value(copy.from)?;
        let mut core = self.core.lock();
        self.close_line(&mut core)?;
        self.refresh_spans(&mut core);
        let left = self.path_of(&core, copy.from)?;
        let behind = self.log.head().1;
        between("the copy is whole");
        let names = copy.progress.names.clone();
        let place = LogPlace { log: id, pos: Pos(end.0.saturating_sub(1)) };
        self.names.lock().push(Fact { place, moment: to, change: Change::All(Box::new(names.clone())) });
        self.write_names()?;
        self.log.begin_epoch(to.epoch, to.seq.next())?;
        let jump = JumpSpan { from: Some(copy.from), behind, parts: parts.clone() };
        core.spans.0.push(Span {
            epoch: to.epoch,
            log: id,
            from: Pos(0),
            to: end,
            first_seq: to.seq,
            last_seq: to.seq,
            parent_end: left.intervals().last().map(|i| i.to),
            jump: Some(jump),
        });
        let new_disks: Vec<DiskOrdinal> =
            names.files.keys().copied().filter(|disk| !core.bases.contains_key(disk)).collect();
        for disk in &new_disks {
            core.bases.insert(*disk, empty_base(self.log.id()));
        }
        self.staged.write().insert(id, StagedLog { log: copy.log.clone(), behind });
        self.jump_chain(behind, to, chain);
        let line = JumpLine {
            from: Some(copy.from),
            from_chain,
            to,
            to_chain: chain,
            log: id,
            entries: content.entries.len() as u64,
            hash: ChainValue(*content.hasher.finalize().as_bytes()),
            disks,
            new_disks: Vec::new(),
            reason: copy.progress.reason,
        };
        between("the jump is prepared");
        self.record(&mut core, Event::Jump(line))?;
        between("the jump is durable");
        self.queue.lock().names = names.clone();
        self.set_entered();
        self.publish(&mut core, Some(Arc::new(names)), true)
    }

    /// Files with a base, of whatever line.
    fn base_disks(&self) -> Vec<DiskOrdinal> {
        self.core.lock().bases.keys().copied().collect()
    }
}

/// Files whose size differs; one that is gone has none.
fn resizes(old: &Names, new: &Names) -> Vec<Resize> {
    let size = |names: &Names, disk| names.files.get(&disk).map_or(0, |f| f.size);
    let mut disks: Vec<DiskOrdinal> = old.files.keys().chain(new.files.keys()).copied().collect();
    disks.sort_unstable();
    disks.dedup();
    let all = disks.into_iter().map(|disk| Resize { disk, old: size(old, disk), new: size(new, disk) });
    all.filter(|r| r.old != r.new).collect()
}
