//! Steps of operations at one site: lines of the history, a decision taken back, moments by their time.
//!
//! S1. A step is its line in the history; what follows from the line is done again at the next opening.
//! S2. What was written in a decision that was taken back is on no live path: the head stands where it stood
//!     before, and the records stay as a branch.
//! S3. The lineage rises whenever the live content leaves its line, and never falls: it follows from the history.
//! S4. What a branch needs ends where the live line leaves it, and that is where a decision taken back goes back to: the
//!     moment that it was made at may lie on another branch, beyond.

use crate::group::Group;
use crate::group::group::Core;
use crate::group::queue::Gate;
use crate::group::read::MomentView;
use crate::history::{Event, Row, RowKind, Table, common_by_rows};
use crate::index::Interval;
use crate::vocab::{DiskOrdinal, EpochId, Error, Kind, LogId, Moment, Result, Seq, Token};
use std::collections::{BTreeMap, BTreeSet};

/// A moment found by its wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MomentAt {
    /// The greatest on the live line at or before the time.
    pub moment: Moment,
    /// An earlier moment has a later time: the clock went back.
    pub ambiguous: bool,
    /// The time lies in a gap: what came between was passed over by a copy.
    pub in_gap: bool,
}

/// Records held here that the live line does not go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The last moment of it.
    pub last: Moment,
    /// The newest moment of it that is on the live line too; none if they have no root in common.
    pub fork: Option<Moment>,
}

impl Group {
    /// Looks at the history without copying it: events, oldest first, with their wall times.
    pub fn with_events<T>(&self, look: impl FnOnce(&[(i64, Event)]) -> T) -> T {
        look(&self.core.lock().events)
    }

    /// Adds a line to the history; durable when this returns (S1). Epochs have ways of their own.
    ///
    /// # Errors
    /// `Invalid` for an epoch; those of the files of history and checkpoint.
    pub fn note(&self, event: Event) -> Result<()> {
        let mut core = self.core.lock();
        match &event {
            Event::Epoch { own: true, .. } => {
                return Err(Error::new(Kind::Invalid, "an epoch of this site is begun, not noted"));
            }
            Event::Epoch { row, own: false } => {
                core.table.insert(row.clone())?;
            }
            Event::Withdrawn { epoch, op } => {
                core.table.withdraw(*epoch, *op);
            }
            _ => return self.record(&mut core, event),
        }
        self.owe(&mut core, event);
        self.record_owed(&mut core)
    }

    /// Makes everything durable and names the head.
    pub fn durable_head(&self) -> Result<Moment> {
        self.log.sync()?;
        Ok(self.head())
    }

    /// Sets who may write. A group that is damaged stays stopped.
    pub fn stand(&self, gate: Gate) {
        if self.wanted_gate() != gate {
            self.freeze(gate);
        }
    }

    /// The wait for the peer is over: writers enter. Nothing if it isn't waiting (any more).
    pub fn end_waiting(&self) {
        let mut queue = self.queue.lock();
        if queue.wanted() == Gate::Waiting {
            queue.set_gate(Gate::Open { begun: false });
        }
    }

    /// Takes back these decisions of this site: their lines are durable when this returns, the head stands where it
    /// stood before them, and the disks are a target's (S2). To be called again after a crash with what is left.
    pub fn withdraw(&self, epochs: &[EpochId], op: Token) -> Result<Moment> {
        let _work = self.work.lock();
        let before = self.wanted_gate();
        self.freeze(Gate::Frozen);
        let done = self.withdraw_frozen(epochs, op);
        // After the first line there is no way back: the group is no writer any more.
        let any = {
            let core = self.core.lock();
            epochs.iter().any(|epoch| core.table.is_withdrawn(*epoch))
        };
        self.queue.lock().set_gate(if any { Gate::Target } else { before });
        done
    }

    fn withdraw_frozen(&self, epochs: &[EpochId], op: Token) -> Result<Moment> {
        self.log.sync()?;
        let mut core = self.core.lock();
        self.refresh_spans(&mut core);
        for epoch in epochs {
            if !core.table.is_withdrawn(*epoch) {
                self.record(&mut core, Event::Withdrawn { epoch: *epoch, op })?;
                core.table.withdraw(*epoch, op);
            }
        }
        self.refresh_line(&mut core)?;
        let names = self.names_now(Clone::clone);
        self.queue.lock().names = names;
        Ok(self.head())
    }

    /// S2: where the head stands, if that isn't the log's newest record.
    pub(crate) fn standing_head(&self, core: &Core) -> Option<Moment> {
        let newest = core.spans.0.last()?;
        let withdrawn: Vec<EpochId> = core.table.withdrawals().map(|(epoch, _)| epoch).collect();
        if crate::group::left_out("a decision taken back is on no live path") {
            return None;
        }
        if withdrawn.is_empty() || !is_taken_back(&core.table, newest.epoch, &withdrawn) {
            return None;
        }
        let standing =
            core.spans.0.iter().rev().find(|s| !is_taken_back(&core.table, s.epoch, &withdrawn))?;
        Some(Moment { epoch: standing.epoch, seq: standing.last_seq })
    }

    /// S3. Beside a writer's handle: another number means that the handle saw another history.
    pub fn lineage(&self) -> u64 {
        self.with_events(|events| {
            let mut stood = None;
            let mut lineage = 1;
            let mut own = BTreeSet::new();
            for (_, event) in events {
                if let Event::Epoch { row, own: true } = event {
                    own.insert(row.epoch);
                }
                lineage += u64::from(match event {
                    Event::Epoch { row, own: true } => match row.kind {
                        RowKind::Failover | RowKind::Planned | RowKind::Change => true,
                        // The old source goes on where it was stopped, unless another moment was chosen.
                        RowKind::Force => row.fork() != stood,
                        RowKind::Genesis | RowKind::Open | RowKind::Resolve | RowKind::Rollback => false,
                    },
                    Event::Fence { head, .. } | Event::Handover { head, .. } => {
                        stood = Some(*head);
                        false
                    }
                    // What the other site took back was never on this site's line.
                    Event::Withdrawn { epoch, .. } => own.contains(epoch),
                    Event::Target { .. } | Event::Jump(_) => true,
                    _ => false,
                });
            }
            lineage
        })
    }

    /// The wall time of a moment's last record; `None` for the moment before every record.
    ///
    /// # Errors
    /// `NotFound` if its record isn't held.
    pub fn time_of(&self, moment: Moment) -> Result<Option<i64>> {
        if moment.seq == Seq(0) {
            return Ok(None);
        }
        let gone = || Error::new(Kind::NotFound, format!("the record of {moment} is no longer held"));
        // Where a jump leads there are no records: it was published when that moment was the newest.
        let jumped = self.with_events(|events| {
            let to = |e: &Event| matches!(e, Event::Jump(line) if line.to == moment);
            events.iter().rev().find(|(_, e)| to(e)).map(|(time, _)| *time)
        });
        if jumped.is_some() {
            return Ok(jumped);
        }
        let stretch = {
            let mut core = self.core.lock();
            self.refresh_spans(&mut core);
            let at = core.table.norm(moment)?;
            let span = core.spans.of(at).ok_or_else(gone)?;
            (Interval { log: span.log, from: span.from, to: span.to }, at.seq)
        };
        let row = self.index.batch_of_seq(stretch.0, stretch.1)?.ok_or_else(gone)?;
        let batch = self.log.batch_at(row.pos)?.ok_or_else(gone)?;
        let record = batch.records.iter().find(|r| r.entry.seq == stretch.1 && r.entry.kind.has_seq());
        Ok(record.map(|r| batch.wall(r)))
    }

    /// The greatest moment of the live line with a wall time at or before `wall_ns`; `None` if all that is held is
    /// later, or the time itself is later than what can be said: than the newest record, or than now where this site
    /// writes. What comes in later would change what was shown.
    pub fn moment_at(&self, wall_ns: i64) -> Result<Option<MomentAt>> {
        let writes = matches!(self.gate(), Gate::Open { .. });
        self.moment_within(wall_ns, if writes { self.parts.clock.wall_ns() } else { i64::MIN })
    }

    /// As [`Group::moment_at`]; beyond the newest record up to `until`.
    pub(crate) fn moment_within(&self, wall_ns: i64, until: i64) -> Result<Option<MomentAt>> {
        let path = self.live.read().path.clone();
        // Where a jump leads there are no records: it was published when that moment was the newest.
        let jumps: Vec<(i64, LogId, Option<Moment>, Moment)> = self.with_events(|events| {
            let jump = |(time, event): &(i64, Event)| match event {
                Event::Jump(line) => Some((*time, line.log, line.from, line.to)),
                _ => None,
            };
            events.iter().filter_map(jump).collect()
        });
        // Between the two ends of a jump nobody here knows what was written, whatever is held of it still.
        let left_by = |moment: Moment| {
            let left = |from: &Option<Moment>| from.is_some_and(|from| from.seq == moment.seq);
            jumps.iter().any(|(time, _, from, _)| wall_ns < *time && left(from))
        };
        let mut behind = None;
        for interval in path.intervals().iter().rev() {
            let found = if interval.log == self.log.id() {
                self.recorded_at(interval, wall_ns)?
            } else {
                let jump = jumps.iter().rev().find(|(_, log, ..)| *log == interval.log);
                let Some((time, _, from, to)) = jump else { continue };
                behind = *from;
                (*time <= wall_ns).then_some(MomentAt { moment: *to, ambiguous: false, in_gap: false })
            };
            let Some(mut found) = found else { continue };
            found.in_gap = behind.is_some_and(|from| from.seq == found.moment.seq) || left_by(found.moment);
            let newest = found.moment.seq == self.head().seq && wall_ns > until;
            let later = newest && self.time_of(found.moment)?.is_some_and(|time| time < wall_ns);
            return Ok((!later).then_some(found));
        }
        // A copy whose bytes have all gone to the base has no log any more; its moment is the first that is held.
        for (.., moment) in jumps.iter().rev().filter(|(time, ..)| *time <= wall_ns) {
            let newest = *moment == self.head() && wall_ns > until;
            if !newest && self.open_moment(*moment).is_ok() {
                let in_gap = left_by(*moment);
                return Ok(Some(MomentAt { moment: *moment, ambiguous: false, in_gap }));
            }
        }
        Ok(None)
    }

    /// The greatest moment of a stretch of this log with a wall time at or before `wall_ns`.
    fn recorded_at(&self, interval: &Interval, wall_ns: i64) -> Result<Option<MomentAt>> {
        let stretch = Interval { to: interval.to.min(self.entered().1), ..*interval };
        let Some(found) = self.index.batch_at_time(stretch, wall_ns)? else { return Ok(None) };
        let Some(batch) = self.log.batch_at(found.row.pos)? else { return Ok(None) };
        let last = batch
            .records
            .iter()
            .rfind(|r| r.entry.kind.has_seq() && batch.wall(r) <= wall_ns && batch.place(r) < interval.to);
        let seq = last.map_or(found.row.first_seq, |r| r.entry.seq);
        let moment = Moment { epoch: batch.epoch, seq };
        Ok(Some(MomentAt { moment, ambiguous: found.ambiguous, in_gap: false }))
    }

    /// Branches that are held: lines that the live one has left, each by its end. An epoch that another one off the
    /// live line goes on with from its end, or was opened again after, is a part of that one's branch.
    pub fn branches(&self) -> Result<Vec<Branch>> {
        let head = self.head();
        // A target whose first copy isn't whole has no line to leave.
        if head.epoch.is_none() {
            return Ok(Vec::new());
        }
        let mut core = self.core.lock();
        self.refresh_spans(&mut core);
        let line = core.table.line(head)?;
        // Of several spans of an epoch the newest.
        let mut ends: BTreeMap<EpochId, Seq> = core.spans.0.iter().map(|s| (s.epoch, s.last_seq)).collect();
        // Nothing was written in an epoch that has its row only.
        let begins = |epoch: EpochId| core.table.row(epoch).map_or(Seq(0), Row::first_seq);
        ends.retain(|epoch, last| line.last_seq(*epoch).unwrap_or_else(|| begins(*epoch)) < *last);
        let goes_on = |epoch: EpochId, last: Seq| {
            let on = |row: &Row| row.parent == Some(epoch) && (!row.decided() || row.fork_seq >= last);
            ends.keys().any(|e| line.last_seq(*e).is_none() && core.table.row(*e).is_some_and(on))
        };
        let ended = ends.iter().filter(|(epoch, last)| !goes_on(**epoch, **last));
        let branch = |(epoch, last): (&EpochId, &Seq)| {
            let last = Moment { epoch: *epoch, seq: *last };
            Ok(Branch { last, fork: common_by_rows(&core.table, last, head)? })
        };
        ended.map(branch).collect()
    }

    /// The branches that somebody dropped, by their last epochs.
    pub fn dropped_branches(&self) -> Vec<EpochId> {
        let dropped = |(_, event): &(i64, Event)| match event {
            Event::BranchDropped { epoch, .. } => Some(*epoch),
            _ => None,
        };
        self.with_events(|events| events.iter().filter_map(dropped).collect())
    }

    /// The branches that nobody has dropped.
    pub fn kept_branches(&self) -> Result<Vec<Branch>> {
        let dropped = self.dropped_branches();
        let mut branches = self.branches()?;
        branches.retain(|branch| !dropped.contains(&branch.last.epoch));
        Ok(branches)
    }

    /// S4: the lowest moment at which the live line leaves a branch that isn't `dropped`, or the line of one of these
    /// `moments`. None where no records of such a moment are held: then there is nothing to keep.
    ///
    /// # Errors
    /// `NotFound` if the epoch of a moment isn't known.
    pub fn lowest_fork(&self, dropped: &[EpochId], moments: &[Moment]) -> Result<Option<Moment>> {
        let branches = self.branches()?;
        let kept = branches.iter().filter(|branch| !dropped.contains(&branch.last.epoch));
        let mut forks: Vec<Moment> = kept.filter_map(|branch| branch.fork).collect();
        let head = self.head();
        for moment in moments {
            forks.extend(common_by_rows(&self.core.lock().table, *moment, head)?);
        }
        forks.sort_by_key(|fork| fork.seq);
        for fork in forks {
            match self.place_behind(fork) {
                Err(e) if e.kind() == Kind::NotFound => {}
                place => return place.map(|_| Some(fork)),
            }
        }
        Ok(None)
    }

    /// BLAKE3 over the names, sizes and bytes of a moment, the same at each site that holds it. `piece` is called
    /// with the bytes of each piece, and stops the work by an error.
    pub fn hash_moment(
        &self,
        view: &MomentView,
        mut piece: impl FnMut(u64) -> Result<()>,
    ) -> Result<(blake3::Hash, u64)> {
        let mut hasher = blake3::Hasher::new_derive_key("standbyfs view of a moment v1");
        let mut buf = vec![0; 1 << 20];
        let mut total = 0;
        let files: Vec<(DiskOrdinal, u64)> =
            view.names.files.iter().map(|(disk, f)| (*disk, f.size)).collect();
        for (disk, size) in files {
            hasher.update(&disk.0.to_le_bytes()).update(&size.to_le_bytes());
            let mut at = 0;
            while at < size {
                let len = buf.len().min((size - at) as usize);
                self.read_moment(view, disk, at, &mut buf[..len])?;
                hasher.update(&buf[..len]);
                at += len as u64;
                total += len as u64;
                piece(len as u64)?;
            }
        }
        Ok((hasher.finalize(), total))
    }
}

/// Whether an epoch was taken back: its decision was, or it is an opening that goes on with one that was. A later
/// decision at a moment of a branch stands.
fn is_taken_back(table: &Table, epoch: EpochId, withdrawn: &[EpochId]) -> bool {
    let mut at = Some(epoch);
    while let Some(epoch) = at {
        if withdrawn.contains(&epoch) {
            return true;
        }
        at = table.row(epoch).filter(|row| !row.decided()).and_then(|row| row.parent);
    }
    false
}
