//! Making a group, and opening one: recovery of everything from checkpoint, history, logs and index.

use crate::format::{Checkpoint, FileState, Span};
use crate::group::chain::At;
use crate::group::checkpoint::{mend_history, read_names};
use crate::group::epoch::Begin;
use crate::group::group::{BasePlace, ChainState, Core, Flushes, Group, GroupParts};
use crate::group::left_out;
use crate::group::line::{Live, whole_log};
use crate::group::logs::{StagedLog, open_staged};
use crate::group::marks::{self, SavedChain};
use crate::group::names::{Change, Fact, NameLog, Names};
use crate::group::queue::{Gate, Queue};
use crate::group::space::Space;
use crate::group::spans::Spans;
use crate::group::write::{entry_of_stored, meta_of};
use crate::history::{ChainValue, Event, Row, RowKind, Table};
use crate::index::{BatchRow, Entry, Index};
use crate::journal::{
    BatchView, CheckpointFile, HistoryFile, Log, LogIdentity, LogParts, SegmentInfo, Verdict,
};
use crate::vocab::{
    EpochId, Error, GroupId, Kind, LogId, LogPlace, Moment, Pos, RecordKind, Result, Seq, Token,
};
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CHECKPOINT: &str = "checkpoint";
const HISTORY: &str = "history";

/// What opening a group found.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// Damage: the group is read-only.
    pub damage: Option<String>,
    /// What was odd and mended.
    pub notes: Vec<String>,
    /// Batches that the scan went through.
    pub scanned: usize,
}

/// What is put together before there is a group.
struct Assembly {
    log: Log,
    index: Index,
    staged: BTreeMap<LogId, StagedLog>,
    core: Core,
    names: NameLog,
    gate: Gate,
}

impl Group {
    /// Makes a group with its genesis epoch, durable when this returns.
    pub fn create(parts: GroupParts, id: GroupId) -> Result<Arc<Self>> {
        let group = Self::create_empty(parts, id)?;
        let begin =
            Begin { fork: None, kind: RowKind::Genesis, op: Token::NONE, overrules: None, names: None };
        group.begin_epoch(&mut group.core.lock(), begin)?;
        Ok(Arc::new(group))
    }

    /// A group without a record.
    pub(crate) fn create_empty(parts: GroupParts, id: GroupId) -> Result<Self> {
        let dir = GroupParts::dir(id);
        parts.store.make_dir(&dir)?;
        let log_id = LogId(parts.entropy.random_128());
        let log = Log::create(log_parts(&parts, id), identity(&parts, id, log_id), EpochId::NONE)?;
        let first = Checkpoint { logs: vec![log.checkpoint_state()], ..Checkpoint::default() };
        let checkpoints = CheckpointFile::create(&*parts.store, &dir.join(CHECKPOINT), &first)?;
        let history = HistoryFile::create(parts.store.clone(), &dir.join(HISTORY))?;
        for storage in [&parts.store, &parts.journal] {
            storage.sync_dir(FilePath::new("groups"))?;
            storage.sync_dir(FilePath::new(""))?;
        }
        let (index, _) = Index::open(parts.store.clone(), dir.join("index"), id, parts.cache.clone())?;
        let core = Core {
            checkpoints,
            scan: log.checkpoint_state(),
            history,
            events: Vec::new(),
            owed: 0,
            table: Table::new(),
            spans: Spans::default(),
            bases: BTreeMap::new(),
            closed: false,
        };
        let staged = BTreeMap::new();
        let gate = Gate::Open { begun: true };
        Ok(Self::assemble(parts, id, Assembly { log, index, staged, core, names: NameLog::default(), gate }))
    }

    /// Opens a group: after an orderly end, a kill or a power loss.
    ///
    /// # Errors
    /// `Damaged` if checkpoint, history or names can't be read; damage of the log is in the report, and the group
    /// is read-only.
    pub fn open(parts: GroupParts, id: GroupId) -> Result<(Arc<Self>, OpenReport)> {
        let dir = GroupParts::dir(id);
        let (checkpoints, checkpoint) = CheckpointFile::open(&*parts.store, &dir.join(CHECKPOINT), false)?;
        let (history, lines) = HistoryFile::open::<Event>(
            parts.store.clone(),
            &dir.join(HISTORY),
            checkpoint.history_lines,
            checkpoint.history_crc,
            false,
        )?;
        let Some(state) = checkpoint.logs.first() else {
            return Err(Error::new(Kind::Damaged, "the checkpoint names no log").at(parts.store.shown(&dir)));
        };
        let recovered = Log::recover(
            log_parts(&parts, id),
            identity(&parts, id, state.log),
            state,
            checkpoint.closed,
            false,
        )?;
        let (log, found) = (recovered.log, recovered.found);
        let mut report = OpenReport { notes: found.notes, scanned: found.batches.len(), damage: None };
        if let Verdict::Damaged { why, .. } = found.verdict {
            report.damage = Some(why);
        }
        let (index, lost) = Index::open(parts.store.clone(), dir.join("index"), id, parts.cache.clone())?;
        report.notes.extend(lost.iter().map(|run| format!("an index run is made again: {run:?}")));
        fill_index(&log, &index, found.from, &found.batches)?;

        let mut events: Vec<(i64, Event)> = lines.into_iter().map(|l| (l.time, l.event)).collect();
        let (mut core_history, mut rows) = (history, Vec::new());
        let mut names = read_names(&*parts.store, &dir)?;
        let mut spans = trimmed(&checkpoint.spans, log.id(), found.from, found.from_seq);
        for batch in &found.batches {
            take_batch(&log, batch, &mut names, &mut spans, &mut rows)?;
        }
        for span in spans.0.iter_mut().filter(|s| s.parent_end.is_none()) {
            let same =
                |s: &&Span| s.log == span.log && s.epoch == span.epoch && s.first_seq == span.first_seq;
            span.parent_end = checkpoint.spans.iter().find(same).and_then(|s| s.parent_end);
        }
        let (staged, rotten) = open_staged(&parts, id, &checkpoint.logs[1..], &checkpoint.spans, &index)?;
        report.damage = report.damage.or(rotten);
        let mended = mend_history(&mut core_history, &mut events, rows)?;
        if mended > 0 {
            report.notes.push(format!("{mended} epochs were in the journal and not yet in the history"));
        }
        if spans.0.is_empty() {
            // Names of a first copy whose jump was not counted: nothing refers to them, nor to its bases.
            names = NameLog::default();
        }
        let mut table = Table::new();
        for (_, event) in &events {
            match event {
                Event::Epoch { row, .. } => {
                    table.insert(row.clone())?;
                }
                Event::Withdrawn { epoch, op } => {
                    table.withdraw(*epoch, *op);
                }
                _ => {}
            }
        }
        let lost = left_out("O2: the floor outlives a restart");
        let floor = |f: &FileState| if lost { f.base } else { f.floor };
        let bases =
            checkpoint.files.iter().map(|f| (f.disk, BasePlace { base: f.base, floor: floor(f) })).collect();
        let core = Core {
            checkpoints,
            scan: state.clone(),
            history: core_history,
            events,
            owed: 0,
            table,
            spans,
            bases,
            closed: false,
        };
        let gate = if report.damage.is_some() { Gate::Stopped } else { Gate::Open { begun: false } };
        let saved = marks::read(&*parts.store, &dir, &mut report.notes);
        let group = Self::assemble(parts, id, Assembly { log, index, staged, core, names, gate });
        group.resume_chain(saved);
        let coming = group.left_import_disk()?.map_or(0, |disk| disk.0);
        group.importing.store(coming, Ordering::Release);
        if report.damage.is_none() {
            group.settle_copies()?;
            let mut core = group.core.lock();
            group.continue_from_jumps(&core)?;
            group.add_bases(&mut core);
            group.refresh_spans(&mut core);
            group.find_parent_ends(&mut core)?;
            group.refresh_live(&mut core)?;
            let path = group.head_path(&mut core)?;
            group.queue.lock().names = group.names.lock().at(&path);
        }
        Ok((Arc::new(group), report))
    }

    /// C8: from where the checkpoint left it, if that is nearer than the begin of a segment.
    fn resume_chain(&self, saved: Option<SavedChain>) {
        let Some(saved) = saved else { return };
        let mut chain = self.chain.lock();
        chain.marks.extend(saved.marks(&self.log));
        if let Some((place, at)) = saved.at(&self.log).filter(|(place, _)| *place > chain.place) {
            (chain.place, chain.moment, chain.value) = (place, at.moment, at.value);
            for (start, at) in saved.starts().filter(|(start, _)| *start < place) {
                self.log.note_start_chain(start, at.moment, at.value.0);
            }
        }
    }

    /// Behind a jump the log has its next seq and the chain its next value from there.
    fn continue_from_jumps(&self, core: &Core) -> Result<()> {
        let mut chain = self.chain.lock();
        let mut attested = BTreeMap::new();
        for (_, event) in &core.events {
            if let Event::Jump(line) = event {
                attested.insert(line.to, line.to_chain);
                chain.marks.insert(line.to, line.to_chain);
                if let (Some(from), Some(value)) = (line.from, line.from_chain) {
                    chain.marks.insert(from, value);
                }
            }
        }
        for span in &core.spans.0 {
            let moment = Moment { epoch: span.epoch, seq: span.last_seq };
            if let (Some(jump), Some(value)) = (&span.jump, attested.get(&moment)) {
                chain.jumps.insert(jump.behind, At { moment, value: *value });
            }
        }
        drop(chain);
        if let Some(span) = core.spans.0.last().filter(|s| s.jump.is_some()) {
            self.log.begin_epoch(span.epoch, span.last_seq.next())?;
            self.set_entered();
        }
        Ok(())
    }

    fn assemble(parts: GroupParts, id: GroupId, all: Assembly) -> Self {
        let Assembly { log, index, staged, core, names, gate } = all;
        let place = chain_start(&log);
        let path = whole_log(log.id());
        let entered = Mutex::new(log.head());
        let carried = if log.segments().is_empty() { 0 } else { log.bytes() };
        let space = Space::new(parts.rooms.store.clone(), carried);
        Self {
            id,
            dir: GroupParts::dir(id),
            parts,
            import: Mutex::new(()),
            importing: Default::default(),
            rounds: Mutex::new(()),
            floors: Default::default(),
            work: Mutex::new(()),
            queue: Mutex::new(Queue {
                gate,
                appending: false,
                pending: Vec::new(),
                around: 0,
                gathering: 0,
                flushed: false,
                names: Names::default(),
                stopped_from: None,
            }),
            idle: Condvar::new(),
            gathered: Condvar::new(),
            names: Mutex::new(names),
            live: RwLock::new(Arc::new(Live::empty(path))),
            entered,
            chain: Mutex::new(place),
            chain_left: Default::default(),
            flushes: Mutex::new(Flushes::default()),
            pin: Mutex::new(None),
            open_moments: Mutex::default(),
            last_flush_ns: Default::default(),
            writes_since_flush: Default::default(),
            durable_ns: Default::default(),
            counters: Default::default(),
            space,
            shortened: Default::default(),
            missing: Default::default(),
            left: Default::default(),
            copying_over: Default::default(),
            log,
            index,
            ranges: Mutex::default(),
            staged: RwLock::new(staged),
            core: Mutex::new(core),
        }
    }
}

fn log_parts(parts: &GroupParts, id: GroupId) -> LogParts {
    LogParts {
        storage: parts.journal.clone(),
        dir: GroupParts::dir(id).join("main"),
        clock: parts.clock.clone(),
        entropy: parts.entropy.clone(),
        segment_bytes: parts.segment_bytes,
        room: parts.rooms.journal.clone(),
    }
}

pub(crate) fn identity(parts: &GroupParts, id: GroupId, log: LogId) -> LogIdentity {
    LogIdentity { store: parts.store_id, group: id, log, boot: parts.boot }
}

/// The newest place at which the chain's value is known without reading records.
fn chain_start(log: &Log) -> ChainState {
    let known = log
        .segments()
        .into_iter()
        .rev()
        .filter(|s| s.end > s.first_batch())
        .find_map(|s| s.start_chain.map(|(m, v)| (s.first_batch(), m, v)));
    let (place, moment, value) = known.unwrap_or((Pos(0), Moment::default(), [0; 32]));
    ChainState {
        moment,
        value: ChainValue(value),
        place,
        at_segment: BTreeMap::new(),
        marks: BTreeMap::new(),
        jumps: BTreeMap::new(),
        ahead: Default::default(),
    }
}

/// Spans as far as the log before the scan goes; the scan brings the rest (K3). What lies before a jump was durable
/// when the jump was published, and ended there.
fn trimmed(spans: &[Span], log: LogId, scan_start: Pos, scan_seq: Seq) -> Spans {
    let ended = spans.iter().rposition(|s| s.jump.is_some()).map_or(0, |at| at + 1);
    let (before, after) = spans.split_at(ended);
    let mut kept: Vec<Span> = after.iter().filter(|s| s.from < scan_start).cloned().collect();
    if let Some(s) = kept.iter_mut().rev().find(|s| s.log == log && s.to > scan_start) {
        s.to = scan_start;
        s.last_seq = scan_seq;
    }
    Spans([before, &kept].concat())
}

/// Names, spans and rows that a batch brings.
fn take_batch(
    log: &Log,
    batch: &BatchView,
    names: &mut NameLog,
    spans: &mut Spans,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let seqs: Vec<Seq> =
        batch.records.iter().filter(|r| r.entry.kind.has_seq()).map(|r| r.entry.seq).collect();
    if let (Some(first), Some(last)) = (seqs.first(), seqs.last()) {
        spans.extend(log.id(), batch.epoch, batch.pos, batch.end(), *first, *last);
    }
    for r in &batch.records {
        let e = &r.entry;
        match e.kind {
            RecordKind::Epoch => rows.push(Row::from_json(&log.payload(batch, r)?)?),
            RecordKind::Add | RecordKind::Rename | RecordKind::Remove | RecordKind::Resize => {
                let payload = log.payload(batch, r)?;
                if let Some(change) = Change::of(e.kind, e.disk, e.offset, &payload)? {
                    let place = LogPlace { log: log.id(), pos: batch.place(r) };
                    names.push(Fact { place, moment: Moment { epoch: batch.epoch, seq: e.seq }, change });
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Runs that a crash has left unwritten are made from their segments; the scanned tail goes into memory.
fn fill_index(log: &Log, index: &Index, scan_start: Pos, found: &[BatchView]) -> Result<()> {
    for segment in log.segments() {
        if segment.end <= segment.first_batch() || index.has_run(log.id(), segment.start, segment.end) {
            continue;
        }
        let mut rows = Vec::new();
        let mut entries = Vec::new();
        let mut take = |batch: &BatchView| {
            rows.push(BatchRow {
                first_seq: batch.header.first_seq,
                pos: batch.pos,
                wall_ns: batch.header.wall,
            });
            entries.extend(batch.records.iter().filter_map(|r| entry_of_stored(&r.entry, batch.place(r))));
        };
        if segment.start >= scan_start {
            found.iter().filter(|b| inside(&segment, b.pos)).for_each(&mut take);
        } else {
            let mut pos = segment.first_batch();
            while pos < segment.end {
                let Some(batch) = log.batch_at(pos)? else { break };
                take(&batch);
                pos = batch.end();
            }
        }
        index_segment(log, index, &segment, scan_start, &rows, &entries)?;
    }
    Ok(())
}

fn index_segment(
    log: &Log,
    index: &Index,
    segment: &SegmentInfo,
    scan_start: Pos,
    rows: &[BatchRow],
    entries: &[Entry],
) -> Result<()> {
    if segment.start < scan_start {
        return index.rebuild(log.id(), &[meta_of(segment)], rows, entries);
    }
    if !entries.is_empty() {
        index.insert(log.id(), entries)?;
    }
    rows.iter().for_each(|row| index.push_batch(log.id(), *row));
    index.rotate(log.id(), meta_of(segment))
}

fn inside(segment: &SegmentInfo, pos: Pos) -> bool {
    segment.start <= pos && pos < segment.end
}
