//! The logs of a group beside its main one: staging logs that a jump has put on the path.
//!
//! B1. A staging log is on the path from the checkpoint that counts its jump on, and that checkpoint names it. What lies
//!     in the journal and is named neither by a checkpoint nor by a copy under way is deleted.
//! B2. It is freed once every base stands behind its jump.

use crate::format::{JumpSpan, LogState, Span};
use crate::group::Group;
use crate::group::group::GroupParts;
use crate::group::line::between;
use crate::group::open::identity;
use crate::group::ranges::add_batch;
use crate::group::write::{entry_of_stored, meta_of};
use crate::index::{BatchRow, Changes, Entry, Index, Path};
use crate::journal::{Log, LogIdentity, LogParts, Verdict};
use crate::view::Payloads;
use crate::vocab::{EpochId, Error, GroupId, Kind, LogId, LogPlace, Pos, Result, Seq};
use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

const PREFIX: &str = "staging-";

/// A staging log on the path.
#[derive(Clone)]
pub(crate) struct StagedLog {
    pub(crate) log: Arc<Log>,
    /// Where the main log ended when its jump was published.
    pub(crate) behind: Pos,
}

pub(crate) fn staging_dir(dir: &FilePath, id: LogId) -> PathBuf {
    dir.join(format!("{PREFIX}{id}"))
}

impl Payloads for Group {
    fn read(&self, log: LogId, pos: Pos, stored: u64, crc: u32, skip: u64, buf: &mut [u8]) -> Result<()> {
        if log == self.log.id() {
            self.log.read_payload(pos, stored, crc, skip, buf)?;
            between("a read has bytes of the log");
            return Ok(());
        }
        let staged = self.staged.read().get(&log).map(|s| s.log.clone());
        match staged {
            Some(staged) => staged.read_payload(pos, stored, crc, skip, buf),
            None => Err(Error::new(Kind::NotFound, format!("log {} is not held", log.short()))),
        }
    }
}

/// Staging logs that the checkpoint names, recovered, with their versions in the index. Damage is told in words.
pub(crate) fn open_staged(
    parts: &GroupParts,
    id: GroupId,
    states: &[LogState],
    spans: &[Span],
    index: &Index,
) -> Result<(BTreeMap<LogId, StagedLog>, Option<String>)> {
    let (mut out, mut damage) = (BTreeMap::new(), None);
    for state in states {
        let jump = spans.iter().filter(|s| s.log == state.log).find_map(|s| s.jump.as_ref());
        let Some(JumpSpan { behind, parts: counted, .. }) = jump else { continue };
        let recovered = Log::recover(
            staging_parts(parts, id, state.log),
            identity(parts, id, state.log),
            state,
            false,
            false,
        )?;
        if let Verdict::Damaged { why, .. } = recovered.found.verdict {
            damage = Some(format!("the staging log of a jump: {why}"));
            continue;
        }
        let log = recovered.log;
        let ends = |s: &crate::journal::SegmentInfo| (s.start, s.end);
        let from = log.segments().first().map(ends);
        let to = log.segments().last().map(ends);
        if let (Some((from, _)), Some((_, to))) = (from, to)
            && !index.has_run(state.log, from, to)
        {
            StagedContent::read(&log, counted)?.enter(index, &log)?;
        }
        out.insert(state.log, StagedLog { log: Arc::new(log), behind: *behind });
    }
    Ok((out, damage))
}

/// What the parts of a staging log that count have.
#[derive(Default)]
pub(crate) struct StagedContent {
    rows: Vec<BatchRow>,
    pub(crate) entries: Vec<Entry>,
    /// What records and ranges changed.
    pub(crate) changes: Changes,
    /// Over all versions.
    pub(crate) hasher: blake3::Hasher,
}

impl StagedContent {
    pub(crate) fn read(log: &Log, parts: &[(Pos, Pos)]) -> Result<Self> {
        let mut out = Self::default();
        for (from, to) in parts {
            let mut pos = *from;
            while pos < *to {
                let Some(batch) = log.batch_at(pos)? else {
                    return Err(Error::new(Kind::Damaged, format!("the staging log has no batch at {pos}")));
                };
                let first_seq = batch.header.first_seq;
                out.rows.push(BatchRow { first_seq, pos: batch.pos, wall_ns: batch.header.wall });
                for r in &batch.records {
                    let entry = entry_of_stored(&r.entry, batch.place(r));
                    if let Some(e) = &entry {
                        for word in [u64::from(e.disk.0), e.offset, e.len, u64::from(e.crc)] {
                            out.hasher.update(&word.to_le_bytes());
                        }
                    }
                    out.entries.extend(entry);
                }
                if batch.epoch != EpochId::NONE {
                    add_batch(&mut out.changes, &batch, (Seq(0), Seq(u64::MAX)));
                }
                pos = batch.end();
            }
        }
        Ok(out)
    }

    /// Makes the run of the log, durable; what an earlier try left goes.
    pub(crate) fn enter(&self, index: &Index, log: &Log) -> Result<()> {
        let segments = log.segments();
        let metas: Vec<_> = segments.iter().filter(|s| s.end > s.first_batch()).map(meta_of).collect();
        index.drop_log(log.id())?;
        index.rebuild(log.id(), &metas, &self.rows, &self.entries)
    }
}

fn staging_parts(parts: &GroupParts, id: GroupId, log: LogId) -> LogParts {
    LogParts {
        storage: parts.journal.clone(),
        dir: staging_dir(&GroupParts::dir(id), log),
        clock: parts.clock.clone(),
        entropy: parts.entropy.clone(),
        segment_bytes: parts.segment_bytes,
        room: parts.rooms.journal.clone(),
    }
}

impl Group {
    pub(crate) fn staging_parts(&self, log: LogId) -> LogParts {
        staging_parts(&self.parts, self.id, log)
    }

    pub(crate) fn log_identity(&self, log: LogId) -> LogIdentity {
        identity(&self.parts, self.id, log)
    }

    /// Bytes of their files.
    pub(crate) fn staged_bytes(&self) -> u64 {
        self.staged.read().values().map(|s| s.log.bytes()).sum()
    }

    pub(crate) fn staged_ids(&self) -> Vec<LogId> {
        self.staged.read().keys().copied().collect()
    }

    pub(crate) fn is_published(&self, log: LogId) -> bool {
        self.staged.read().contains_key(&log)
    }

    /// What the checkpoint says of them.
    pub(crate) fn staged_states(&self) -> Vec<LogState> {
        self.staged.read().values().map(|s| s.log.checkpoint_state()).collect()
    }

    /// B1: deletes staging logs that no jump has published.
    pub(crate) fn drop_unpublished(&self) -> Result<()> {
        let storage = &self.parts.journal;
        let names = match storage.list(&self.dir) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            other => other?,
        };
        let kept: Vec<String> = self.staged_ids().iter().map(|id| format!("{PREFIX}{id}")).collect();
        for name in names.iter().filter(|n| n.starts_with(PREFIX) && !kept.contains(n)) {
            remove_all(&**storage, &self.dir.join(name))?;
        }
        Ok(())
    }

    /// B2: staging logs below an edge of the live path, the first place that some base lacks. Gone when this returns
    /// from the paths, and after the next checkpoint from the journal.
    pub(crate) fn free_staged(&self, edge: Pos) -> Result<u64> {
        let free: Vec<(LogId, StagedLog)> = self
            .staged
            .read()
            .iter()
            .filter(|(_, s)| s.behind < edge)
            .map(|(id, s)| (*id, s.clone()))
            .collect();
        let mut freed = 0;
        for (id, staged) in &free {
            freed += staged.log.bytes();
            self.staged.write().remove(id);
        }
        if !free.is_empty() {
            let mut core = self.core.lock();
            self.write_checkpoint(&mut core, false)?;
            drop(core);
            for (id, _) in &free {
                self.index.drop_log(*id)?;
            }
            for (id, _) in &free {
                remove_all(&*self.parts.journal, &staging_dir(&self.dir, *id))?;
            }
        }
        Ok(freed)
    }

    /// Of two places on the live path the one that comes first; one that isn't on it comes before all.
    pub(crate) fn earlier(&self, path: &Path, a: LogPlace, b: LogPlace) -> LogPlace {
        if b.pos == Pos(0) {
            return b;
        }
        match path.above(a.log, a.pos) {
            Some(above) if above.above(b.log, b.pos).is_some_and(|both| both == above) => b,
            Some(_) => a,
            None => a,
        }
    }

    /// The place in the main log below which nothing is needed, where the first place that is lies here.
    pub(crate) fn main_edge(&self, place: LogPlace) -> Pos {
        if place.log == self.log.id() {
            return place.pos;
        }
        self.staged.read().get(&place.log).map_or(Pos(0), |s| s.behind)
    }
}

fn remove_all(storage: &dyn crate::seam::Storage, dir: &FilePath) -> Result<()> {
    for name in storage.list(dir)? {
        storage.remove(&dir.join(name))?;
    }
    storage.remove_dir(dir)
}
