//! Eight runs of a level become one of the next.
//!
//! E1. A merge takes neighbours in the order of positions, so the stretches of runs never overlap.
//! E2. Inputs serve readers until the new run is durable and in their place, which is one step under the lock;
//!     their files go when a list without them is durable. A merge that is cut short leaves a `.tmp` behind.
//! E3. What the caller's `keep` gives up is left out: versions at or below the base on its own path, which no path
//!     above its anchor asks for. Everything else is kept, whatever is above it.

use crate::format::index_page::Piece;
use crate::format::run::{BATCH_ROWS, batch_row};
use crate::index::group_index::{Files, add_run, take_runs};
use crate::index::run::{Run, RunCursor, Uncached};
use crate::index::run_writer::RunWriter;
use crate::index::{Entry, Index};
use crate::vocab::{Error, Kind, LogId, Result};
use std::sync::Arc;

/// Runs of a level that are merged into one of the next.
pub const MERGE_RUNS: usize = 8;

/// What a step of merging did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MergeProgress {
    /// There is nothing to merge.
    Idle,
    /// More steps are needed.
    Working,
    /// A merge has ended; there may be another.
    Done,
}

pub(super) struct MergeJob {
    pub(super) log: LogId,
    pub(super) inputs: Vec<Arc<Run>>,
    writer: RunWriter,
    /// Level of pieces being merged, and where each input stands in it.
    level: u8,
    heads: Vec<(RunCursor, Option<Piece>)>,
    /// Then: chapter being copied, by input and number, and its next row.
    chapter: (usize, usize, u32),
    copying: bool,
}

impl Index {
    /// Does a bounded part of the merge that is most due: looks at `pieces_max` pieces or batches. `keep` says
    /// whether a version is still needed (E3); it is asked with a part of the version where that is cut.
    pub fn merge_step(
        &self,
        pieces_max: usize,
        keep: &dyn Fn(LogId, &Entry) -> bool,
    ) -> Result<MergeProgress> {
        let mut files = self.files.lock();
        let mut job = match files.merge.take() {
            Some(job) => job,
            None => match self.begin_merge(&mut files)? {
                Some(job) => job,
                None => return Ok(MergeProgress::Idle),
            },
        };
        match job.step(pieces_max, keep) {
            Ok(false) => {
                files.merge = Some(job);
                Ok(MergeProgress::Working)
            }
            Ok(true) => {
                self.end_merge(&mut files, job)?;
                Ok(MergeProgress::Done)
            }
            Err(error) => Err(job.writer.abandon(error)),
        }
    }

    fn begin_merge(&self, files: &mut Files) -> Result<Option<MergeJob>> {
        let due = {
            let memory = self.memory.lock();
            let windows = memory.logs.iter().filter_map(|(log, state)| {
                let due =
                    state.runs.windows(MERGE_RUNS).filter(|w| is_level(w)).min_by_key(|w| w[0].header.level);
                due.map(|runs| (*log, runs.to_vec()))
            });
            windows.min_by_key(|(_, runs)| runs[0].header.level)
        };
        let Some((log, inputs)) = due else { return Ok(None) };
        let (first, last) = (&inputs[0].header, &inputs[inputs.len() - 1].header);
        let plan = self.plan(files, log, first.level.saturating_add(1), first.from, last.to);
        let writer = RunWriter::create(&self.storage, &self.dir, plan)?;
        let heads = Vec::new();
        Ok(Some(MergeJob { log, inputs, writer, level: 0, heads, chapter: (0, 0, 0), copying: false }))
    }

    fn end_merge(&self, files: &mut Files, job: MergeJob) -> Result<()> {
        let versions = job.inputs.iter().map(|run| run.header.versions).sum();
        let mut writer = job.writer;
        let run = match writer.finish(versions) {
            Ok(run) => run,
            Err(error) => return Err(writer.abandon(error)),
        };
        let old = {
            let mut memory = self.memory.lock();
            let state = memory.logs.entry(job.log).or_default();
            let old = take_runs(state, |run| job.inputs.iter().any(|i| i.header.number == run.header.number));
            add_run(state, run);
            old
        };
        self.replace_list(files, old)
    }

    /// Gives up the merge under way if `which` says so: its inputs are about to change.
    pub(super) fn drop_merge(&self, files: &mut Files, which: impl Fn(&MergeJob) -> bool) -> Result<()> {
        match files.merge.take_if(|job| which(job)) {
            Some(job) => job.writer.drop_file(),
            None => Ok(()),
        }
    }
}

fn is_level(runs: &[Arc<Run>]) -> bool {
    runs.iter().all(|run| run.header.level == runs[0].header.level)
}

impl MergeJob {
    /// Whether all is written.
    fn step(&mut self, pieces_max: usize, keep: &dyn Fn(LogId, &Entry) -> bool) -> Result<bool> {
        let mut left = pieces_max.max(1);
        while !self.copying {
            if left == 0 {
                return Ok(false);
            }
            self.merge_level(&mut left, keep)?;
        }
        while let Some(run) = self.inputs.get(self.chapter.0).cloned() {
            if left == 0 {
                return Ok(false);
            }
            self.copy_rows(&run, &mut left)?;
        }
        Ok(true)
    }

    fn merge_level(&mut self, left: &mut usize, keep: &dyn Fn(LogId, &Entry) -> bool) -> Result<()> {
        if self.heads.is_empty() {
            for run in &self.inputs {
                let mut cursor = RunCursor::start(run, self.level);
                let head = cursor.next(&Uncached)?;
                self.heads.push((cursor, head));
            }
        }
        while *left > 0 {
            let least = self.heads.iter_mut().filter(|(_, head)| head.is_some());
            let Some((cursor, head)) = least.min_by_key(|(_, head)| head.map(|p| p.key())) else {
                self.heads.clear();
                self.copying = self.level == crate::format::index_page::LEVEL_MAX;
                self.level += u8::from(!self.copying);
                return Ok(());
            };
            let Some(piece) = std::mem::replace(head, cursor.next(&Uncached)?) else { return Ok(()) };
            *left -= 1;
            if keep(self.log, &entry_of(&piece)) {
                self.writer.push(&piece)?;
            }
        }
        Ok(())
    }

    fn copy_rows(&mut self, run: &Run, left: &mut usize) -> Result<()> {
        let (input, number, done) = self.chapter;
        let Some(chapter) = run.chapters.get(number) else {
            self.chapter = (input + 1, 0, 0);
            return Ok(());
        };
        if done == 0 {
            self.writer.push_chapter(*chapter)?;
        }
        if done >= chapter.rows {
            self.chapter = (input, number + 1, 0);
            return Ok(());
        }
        let row = chapter.first_row + u64::from(done);
        let page = run.read_page(run.header.pages + (row / BATCH_ROWS as u64) as u32)?;
        let rest = (chapter.rows - done) as usize;
        let mut copied = 0;
        for at in (row % BATCH_ROWS as u64) as usize.. {
            let Some(row) = batch_row(&page, at).filter(|_| copied < rest) else { break };
            self.writer.push_row(row)?;
            copied += 1;
        }
        if copied == 0 {
            return Err(
                Error::new(Kind::Damaged, "an index run has fewer batches than it says").at(&run.path)
            );
        }
        *left = left.saturating_sub(copied);
        self.chapter =
            if copied == rest { (input, number + 1, 0) } else { (input, number, done + copied as u32) };
        Ok(())
    }
}

fn entry_of(piece: &Piece) -> Entry {
    let skip = u64::from(piece.skip);
    Entry {
        disk: piece.disk,
        offset: piece.start - skip,
        len: piece.whole,
        pos: piece.pos,
        content: piece.content,
        crc: piece.crc,
    }
}
