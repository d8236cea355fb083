//! The index of one group.
//!
//! I1. What [`Index::insert`] took is seen by every look-up that begins after it returned, on every path that has
//!     its position.
//! I2. A version is in exactly one place: the open map, a segment that has ended, or one run; the stretches of the
//!     runs of a log don't overlap. It moves in one step under the lock of `memory`.
//! I3. Files change under the lock of `files`, which is taken before that of `memory`; nothing is read or written
//!     under the lock of `memory`.
//!
//! Nothing here starts a thread. Background work is offered as steps: [`Index::seal`], [`Index::merge_step`],
//! [`Index::tidy`].

use crate::format::index_page::Piece;
use crate::format::run::{BatchRow, Chapter};
use crate::index::Entry;
use crate::index::cache::CacheBudget;
use crate::index::catalog::{self, LostRun};
use crate::index::memory::{Frozen, LogState, Memory};
use crate::index::merge::MergeJob;
use crate::index::open_map::OpenMap;
use crate::index::pieces::check;
use crate::index::run::Run;
use crate::index::run_writer::{RunPlan, RunWriter, check_stretch};
use crate::seam::Storage;
use crate::vocab::{EpochId, Error, GroupId, Kind, LogId, Pos, Result, Seq};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;

/// What the index keeps of a segment beside its versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentMeta {
    /// Its epoch.
    pub epoch: EpochId,
    /// Its first position.
    pub from: Pos,
    /// The position behind its last batch.
    pub to: Pos,
    /// Its first seq; 0 if it has none.
    pub first_seq: Seq,
    /// Its last seq; 0 if it has none.
    pub last_seq: Seq,
}

/// What an index holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IndexStats {
    /// Runs on disk.
    pub runs: usize,
    /// Bytes of their files.
    pub run_bytes: u64,
    /// Pieces in them: about one a version.
    pub pieces: u64,
    /// Pieces that are in memory only, of segments without a run.
    pub open_pieces: u64,
    /// Bytes of memory that don't count against the budget: open maps, fences, sets of touched MiB.
    pub resident_bytes: usize,
    /// Bytes of the budget that this index holds.
    pub cache_bytes: usize,
}

pub(super) struct Files {
    pub(super) next: u64,
    pub(super) merge: Option<MergeJob>,
    /// The list of runs is older than what memory has: a replacement failed and is tried again.
    list_owed: bool,
    /// Runs whose files go once a list without them is durable.
    left: Vec<Arc<Run>>,
}

/// Which record holds a byte at a moment, for all logs of one group.
pub struct Index {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) group: GroupId,
    pub(super) files: Mutex<Files>,
    pub(super) memory: Mutex<Memory>,
}

impl Index {
    /// Opens the index in `dir`, or makes an empty one. What can't be used is named in the second value: the
    /// caller gives those stretches to [`Index::rebuild`], as it does with sealed segments that
    /// [`Index::has_run`] denies.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: impl Into<PathBuf>,
        group: GroupId,
        budget: Arc<CacheBudget>,
    ) -> Result<(Self, Vec<LostRun>)> {
        let dir = dir.into();
        let found = catalog::open(&*storage, &dir, group)?;
        let mut memory = Memory::new(budget);
        let mut runs = found.runs;
        runs.sort_by_key(|run| (run.header.log, run.header.from));
        for run in runs {
            let state = memory.logs.entry(run.header.log).or_default();
            if run.header.from < state.ended {
                return Err(Error::new(Kind::Conflict, "two index runs overlap")
                    .at(storage.shown(&run.path))
                    .advice("Remove the runs of this group; they are made again from its segments"));
            }
            state.ended = run.header.to;
            Arc::make_mut(&mut state.runs).push(run);
        }
        let files = Mutex::new(Files { next: found.next, merge: None, list_owed: false, left: Vec::new() });
        Ok((Self { storage, dir, group, files, memory: Mutex::new(memory) }, found.lost))
    }

    /// Enters the content records of a batch, in order. Positions rise from call to call within a log; a log has
    /// one appender. Costs a fraction of a microsecond an entry.
    pub fn insert(&self, log: LogId, entries: &[Entry]) -> Result<()> {
        entries.iter().try_for_each(check)?;
        self.memory.lock().insert(log, entries)
    }

    /// Enters a batch into the table of batches of the open segment. A batch without seqs has the last one before.
    pub fn push_batch(&self, log: LogId, row: BatchRow) {
        self.memory.lock().push_row(log, row);
    }

    /// Pieces in the open map of a log. A segment should end at [`crate::index::OPEN_PIECES_MAX`].
    pub fn open_pieces(&self, log: LogId) -> usize {
        self.memory.lock().logs.get(&log).map_or(0, |state| state.open.len())
    }

    /// Ended segments of a log that have no run yet.
    pub fn unsealed_segments(&self, log: LogId) -> usize {
        self.memory.lock().logs.get(&log).map_or(0, |state| state.frozen.len())
    }

    /// Ends the open segment, in memory only: called by the appender between the last batch of a segment and the
    /// first one of the next. [`Index::seal`] writes its run later.
    pub fn rotate(&self, log: LogId, meta: SegmentMeta) -> Result<()> {
        check_stretch(log, meta.from, meta.to)?;
        let mut memory = self.memory.lock();
        let state = memory.logs.entry(log).or_default();
        if meta.from < state.ended || meta.to < state.head() {
            let what = format!(
                "log {}: segment {}..{} ended, but the index is at {}..{}",
                log.short(),
                meta.from,
                meta.to,
                state.ended,
                state.head()
            );
            return Err(Error::new(Kind::Invalid, what));
        }
        let map = std::mem::take(&mut state.open);
        state.frozen.push_back(Arc::new(Frozen { map, meta }));
        state.ended = meta.to;
        Ok(())
    }

    /// Writes the run of the oldest ended segment of a log and makes it durable; `false` if there is none.
    pub fn seal(&self, log: LogId) -> Result<bool> {
        let mut files = self.files.lock();
        if files.list_owed {
            self.replace_list(&mut files, Vec::new())?;
        }
        let oldest = self.memory.lock().logs.get(&log).and_then(|state| state.frozen.front().cloned());
        let Some(frozen) = oldest else { return Ok(false) };
        let map = &frozen.map;
        let run =
            self.write_run(&mut files, log, &[frozen.meta], map.rows(), map.pieces(None), map.versions())?;
        {
            let mut memory = self.memory.lock();
            let state = memory.logs.entry(log).or_default();
            state.frozen.pop_front();
            add_run(state, run);
        }
        self.replace_list(&mut files, Vec::new())?;
        Ok(true)
    }

    /// Logs that have ended segments without a run.
    pub fn unsealed(&self) -> Vec<LogId> {
        let memory = self.memory.lock();
        memory.logs.iter().filter(|(_, state)| !state.frozen.is_empty()).map(|(log, _)| *log).collect()
    }

    /// Makes one run of sealed segments that were read again: after a crash, or because theirs is damaged. Takes
    /// the place of all runs whose stretches lie within that of the segments. `entries` and `rows` in order.
    pub fn rebuild(
        &self,
        log: LogId,
        segments: &[SegmentMeta],
        rows: &[BatchRow],
        entries: &[Entry],
    ) -> Result<()> {
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return Ok(()) };
        let (from, to) = (first.from, last.to);
        check_stretch(log, from, to)?;
        if segments.windows(2).any(|w| w[0].to > w[1].from) {
            return Err(Error::new(Kind::Invalid, format!("log {}: segments out of order", log.short())));
        }
        let mut map = OpenMap::default();
        for entry in entries {
            check(entry)?;
            if entry.pos < from || entry.pos >= to {
                let what = format!("log {}: position {} outside {from}..{to}", log.short(), entry.pos);
                return Err(Error::new(Kind::Invalid, what));
            }
            map.insert(entry, |_| ());
        }
        let mut files = self.files.lock();
        self.drop_merge(&mut files, |job| job.log == log)?;
        let within = |run: &Run| from <= run.header.from && run.header.to <= to;
        {
            let memory = self.memory.lock();
            let state = memory.logs.get(&log);
            let clash = state.is_some_and(|state| {
                state.runs.iter().any(|run| run.meets(log, from, to) && !within(run))
                    || state.frozen.iter().any(|f| f.meta.from < to && from < f.meta.to)
                    || state.open.len() > 0 && state.ended < to
            });
            if clash {
                let what = format!("log {}: {from}..{to} is a part of what a run covers", log.short());
                return Err(Error::new(Kind::Conflict, what));
            }
        }
        let run = self.write_run(&mut files, log, segments, rows, map.pieces(None), map.versions())?;
        let old = {
            let mut memory = self.memory.lock();
            let state = memory.logs.entry(log).or_default();
            let old = take_runs(state, within);
            state.ended = state.ended.max(to);
            add_run(state, run);
            old
        };
        self.replace_list(&mut files, old)
    }

    /// Whether the runs (not: memory) cover this stretch of a log, which is one segment's.
    pub fn has_run(&self, log: LogId, from: Pos, to: Pos) -> bool {
        let memory = self.memory.lock();
        memory
            .logs
            .get(&log)
            .is_some_and(|state| state.runs.iter().any(|run| run.header.from <= from && to <= run.header.to))
    }

    /// Drops the runs of a log that hold nothing at or above `pos`: their segments are being freed.
    pub fn drop_below(&self, log: LogId, pos: Pos) -> Result<()> {
        self.drop_where(&mut self.files.lock(), log, |run| run.header.to <= pos)
    }

    /// Drops the runs of a log that lie within `[from, to)`, of a branch that is dropped for instance.
    pub fn drop_run(&self, log: LogId, from: Pos, to: Pos) -> Result<()> {
        self.drop_where(&mut self.files.lock(), log, |run| from <= run.header.from && run.header.to <= to)
    }

    /// Drops all that is known of a log.
    pub fn drop_log(&self, log: LogId) -> Result<()> {
        let mut files = self.files.lock();
        self.drop_where(&mut files, log, |_| true)?;
        self.memory.lock().logs.remove(&log);
        Ok(())
    }

    fn drop_where(&self, files: &mut Files, log: LogId, which: impl Fn(&Run) -> bool) -> Result<()> {
        self.drop_merge(files, |job| job.log == log && job.inputs.iter().any(|run| which(run)))?;
        let old = {
            let mut memory = self.memory.lock();
            let Some(state) = memory.logs.get_mut(&log) else { return Ok(()) };
            take_runs(state, which)
        };
        if old.is_empty() {
            return Ok(());
        }
        self.replace_list(files, old)
    }

    /// Gives memory back if this index was idle and the budget is nearly spent; to be called every second or so.
    pub fn tidy(&self) {
        self.memory.lock().tidy();
    }

    /// What the index holds now.
    pub fn stats(&self) -> IndexStats {
        let memory = self.memory.lock();
        let mut stats = IndexStats { cache_bytes: memory.cache.bytes(), ..IndexStats::default() };
        for state in memory.logs.values() {
            for run in state.runs.iter() {
                stats.runs += 1;
                stats.run_bytes += run.bytes();
                stats.pieces += run.header.pieces;
                stats.resident_bytes += run.memory();
            }
            for map in state.frozen.iter().map(|f| &f.map).chain([&state.open]) {
                stats.open_pieces += map.len() as u64;
                stats.resident_bytes += map.bytes();
            }
        }
        stats
    }

    pub(super) fn plan(&self, files: &mut Files, log: LogId, level: u8, from: Pos, to: Pos) -> RunPlan {
        let number = files.next;
        files.next += 1;
        RunPlan { number, group: self.group, log, level, from, to }
    }

    fn write_run(
        &self,
        files: &mut Files,
        log: LogId,
        segments: &[SegmentMeta],
        rows: &[BatchRow],
        mut pieces: Vec<Piece>,
        versions: u64,
    ) -> Result<Run> {
        let from = segments.first().map_or(Pos(0), |s| s.from);
        let to = segments.last().map_or(Pos(0), |s| s.to);
        let plan = self.plan(files, log, 0, from, to);
        let mut writer = RunWriter::create(&self.storage, &self.dir, plan)?;
        pieces.sort_unstable_by(Piece::order);
        #[cfg(test)]
        crate::index::tests::leave_out_old_versions(&mut pieces);
        let mut write = || {
            pieces.iter().try_for_each(|piece| writer.push(piece))?;
            for meta in segments {
                let rows: Vec<BatchRow> =
                    rows.iter().filter(|r| meta.from <= r.pos && r.pos < meta.to).copied().collect();
                writer.push_chapter(chapter(meta, &rows))?;
                rows.into_iter().try_for_each(|row| writer.push_row(row))?;
            }
            writer.finish(versions)
        };
        write().map_err(|error| writer.abandon(error))
    }

    /// Makes the list of runs durable as memory has it, then removes the files of those that left it. Readers keep
    /// their handles. If that fails, the next [`Index::seal`] tries again before anything else.
    pub(super) fn replace_list(&self, files: &mut Files, old: Vec<Arc<Run>>) -> Result<()> {
        files.left.extend(old);
        files.list_owed = true;
        let runs: Vec<_> = {
            let memory = self.memory.lock();
            memory.logs.values().flat_map(|state| state.runs.iter().cloned()).collect()
        };
        catalog::write_list(&*self.storage, &self.dir, files.next, runs.into_iter())?;
        while let Some(run) = files.left.last() {
            self.storage.remove(&run.path)?;
            files.left.pop();
        }
        files.list_owed = false;
        Ok(())
    }
}

fn chapter(meta: &SegmentMeta, rows: &[BatchRow]) -> Chapter {
    Chapter {
        epoch: meta.epoch,
        from: meta.from,
        to: meta.to,
        first_seq: meta.first_seq,
        last_seq: meta.last_seq,
        first_row: 0,
        rows: rows.len() as u32,
        rising: rows.is_sorted_by_key(|row| row.wall_ns),
        wall_min: rows.iter().map(|row| row.wall_ns).min().unwrap_or(0),
        wall_max: rows.iter().map(|row| row.wall_ns).max().unwrap_or(0),
    }
}

/// Puts a run in its place.
pub(super) fn add_run(state: &mut LogState, run: Run) {
    let at = state.runs.partition_point(|other| other.header.from < run.header.from);
    Arc::make_mut(&mut state.runs).insert(at, Arc::new(run));
}

/// Takes the runs out that `which` names.
pub(super) fn take_runs(state: &mut LogState, which: impl Fn(&Run) -> bool) -> Vec<Arc<Run>> {
    let (out, kept) = state.runs.iter().cloned().partition(|run| which(run));
    state.runs = Arc::new(kept);
    out
}
