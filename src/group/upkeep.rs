//! What a group does behind its writers: syncs, checkpoints, rounds, merges. One call does what is due.
//!
//! What fails for want of room doesn't stop what frees room: it is told, and tried again in the next call.
//!
//! A round doesn't pass what is needed:
//!
//! N1. While a decision is open (a failover that isn't committed, a fenced or frozen site) there are no rounds.
//! N2. Every moment of the window stays.
//! N3. What the peer has not acknowledged stays, and what a copy reads, until it is let go (Q1 of `backlog`).
//! N4. The fork of a branch, or of a failover that isn't committed, stays.
//! N5. A moment that is open stays (`held`).

use crate::group::{Backlog, Gate, Group, ImportEnd, RoundDone, left_out};
use crate::index::{Entry, Interval, MergeProgress};
use crate::vocab::{Kind, LogId, LogPlace, Moment, Pos, Result};

/// A checkpoint at least after so much log: so much has to be read again when the process dies. It writes the list of
/// segments: the longer that is, the more log lies between two.
const CHECKPOINT_BYTES: (u64, u64) = (16 << 20, 64 << 20);
/// Bytes of log between two checkpoints for each segment of the list.
const CHECKPOINT_BYTES_OF_SEGMENT: u64 = 64 << 10;
/// A round at least after so much log that the base lacks: a quarter of the disks, within these bounds. The longer
/// it waits, the more overwrites cost nothing; the shorter, the less room the log takes.
const ROUND_BYTES: (u64, u64) = (64 << 20, 256 << 20);
/// Idle so long, ns: a checkpoint is taken.
const IDLE_NS: u64 = 100_000_000;
/// Idle so long, ns: the base follows.
const IDLE_ROUND_NS: u64 = 2_000_000_000;
/// A group that a failure stopped is looked at so often, ns.
const MEND_NS: u64 = 500_000_000;
/// A round for a writer that was refused, or after one that failed, comes so long after the last, ns.
const PRESSED_NS: u64 = 200_000_000;
/// Pieces of the index that one step of a merge moves.
const MERGE_PIECES: usize = 20_000;

/// How a group is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Care {
    /// Unsynced appends are synced after so long, ns.
    pub sync_ns: u64,
    /// How far back every moment is kept, ns; `None`: no window, the base follows the head.
    pub window_ns: Option<u64>,
    /// The base doesn't move: a failover isn't committed, or who is right is not decided.
    pub pinned: bool,
    /// What is kept for a peer.
    pub backlog: Backlog,
    /// The moment that the base must not pass, however little room there is: the fork of a failover that isn't
    /// committed, or of a branch. With `pinned` it moves under pressure only.
    pub fork: Option<Moment>,
    /// Bytes that logs and index may take; `None`: what the filesystem has.
    pub allowance: Option<u64>,
    /// Lines of the group's history when this was made up: once there are more a decision may pin what this doesn't
    /// know of, and no round is made. `None`: it holds whatever comes.
    pub lines: Option<usize>,
}

/// What was last done, for the next call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upkeep {
    seen: Pos,
    changed_ns: u64,
    synced_ns: u64,
    pub(super) looked_ns: u64,
    pub(super) asked_ns: u64,
    pub(super) relieved_ns: u64,
    pub(super) relief_pause_ns: u64,
    checkpoint: Pos,
    round: Pos,
    mended_ns: u64,
    pressed_ns: u64,
    failed_ns: u64,
}

impl Care {
    /// Whether the base stays where it is while there is room.
    pub fn is_pinned(&self) -> bool {
        self.pinned || self.backlog.held
    }
}

impl Group {
    /// Does what is due; `now_ns` is monotonic. Returns whether more is due at once.
    pub fn keep(&self, state: &mut Upkeep, care: Care, now_ns: u64) -> Result<bool> {
        if self.is_left() {
            return Ok(false);
        }
        if self.is_poisoned() {
            if now_ns.saturating_sub(state.mended_ns) >= MEND_NS {
                state.mended_ns = now_ns;
                self.mend()?;
            }
            return Ok(false);
        }
        if self.gate() == Gate::Stopped {
            return Ok(false);
        }
        // What hinders its end is told and hinders nothing else.
        let left = if self.imports() { self.end_left_import() } else { Ok(()) };
        let end = self.log.end();
        if end != state.seen {
            state.seen = end;
            state.changed_ns = now_ns;
        }
        let idle = now_ns.saturating_sub(state.changed_ns);
        if self.log.durable() < end && now_ns.saturating_sub(state.synced_ns) >= care.sync_ns {
            self.sync()?;
            state.synced_ns = now_ns;
        }
        self.log.prepare_if_large()?;
        let more = end.0.saturating_sub(state.checkpoint.0);
        let due = more >= self.checkpoint_bytes() || (more > 0 && idle >= IDLE_NS);
        if due {
            // Before the lock that a checkpoint holds.
            self.bring_chain_near()?;
        }
        let short = match self.seal_all().and_then(|()| if due { self.checkpoint() } else { Ok(()) }) {
            Err(error) if error.kind() == Kind::NoSpace => Some(error),
            done => done.map(|()| None)?,
        };
        if due && short.is_none() {
            state.checkpoint = end;
        }
        let behind = end.0.saturating_sub(state.round.0);
        self.relieve(state, care, now_ns)?;
        let due = behind >= self.round_bytes(care) || (behind > 0 && idle >= IDLE_ROUND_NS);
        let pressed = self.space.is_pressed() && now_ns.saturating_sub(state.pressed_ns) >= PRESSED_NS;
        if !care.is_pinned() && (due || pressed) && now_ns.saturating_sub(state.failed_ns) >= PRESSED_NS {
            if pressed {
                state.pressed_ns = now_ns;
                self.space.take_pressed();
            }
            // One that fails, for want of room say, is not tried again at once.
            state.failed_ns = now_ns;
            let done = self.round_with(care)?;
            (state.round, state.failed_ns) = (end, 0);
            if done.freed > 0 {
                tracing::debug!(group = %self.id().short(), freed = done.freed, bytes = done.bytes, "round");
            }
        }
        if let Some(short) = short {
            return Err(short);
        }
        let keep = |_: LogId, _: &Entry| true;
        left?;
        let merging = matches!(self.index.merge_step(MERGE_PIECES, &keep)?, MergeProgress::Working);
        self.index.tidy();
        Ok(merging)
    }

    fn end_left_import(&self) -> Result<()> {
        match self.settle_import()? {
            Some(ImportEnd::Named(path)) => tracing::info!(path, "an import that was interrupted has ended"),
            Some(ImportEnd::Withdrawn(path)) => {
                tracing::warn!(path, "an import was interrupted before its image came; it is where it was");
            }
            Some(ImportEnd::SetAside(path)) => {
                tracing::warn!(path, "a file was removed while its image came; the image lies there");
            }
            None => {}
        }
        Ok(())
    }

    /// Runs of ended segments, so that memory holds few of them.
    pub(crate) fn seal_all(&self) -> Result<()> {
        while self.index.seal(self.log.id())? {}
        Ok(())
    }

    fn checkpoint_bytes(&self) -> u64 {
        let (least, most) = CHECKPOINT_BYTES;
        (self.log.segments().len() as u64 * CHECKPOINT_BYTES_OF_SEGMENT).clamp(least, most)
    }

    fn round_bytes(&self, care: Care) -> u64 {
        let sizes =
            self.names_now(|names| names.files.values().fold(0u64, |sum, f| sum.saturating_add(f.size)));
        let most = care.allowance.map_or(u64::MAX, |bytes| bytes / 4);
        (sizes / 4).min(most).clamp(ROUND_BYTES.0, ROUND_BYTES.1)
    }

    /// A round as far as the window allows.
    pub fn round_with(&self, care: Care) -> Result<RoundDone> {
        if care.is_pinned() && !left_out("N1: no rounds while a decision is open") {
            return Ok(RoundDone::default());
        }
        let window = match care.window_ns {
            None => None,
            Some(_) if left_out("N2: no further than the window") => None,
            Some(window) => match self.edge_before(window)? {
                Some(edge) => Some(edge),
                None => return Ok(RoundDone::default()),
            },
        };
        let pin = self.pin.lock().filter(|_| !left_out("N3: no further than what the peer has"));
        let pin = match pin.map(|moment| self.place_behind(moment)) {
            // What a peer that is back has acknowledged; the base has passed it.
            Some(Err(e)) if e.kind() == Kind::NotFound && care.backlog.is_gone() => None,
            pin => pin.transpose()?,
        };
        let fork = if left_out("N4: no further than a fork") { None } else { self.fork_place(care)? };
        let (held, _) = self.held_place()?;
        let mut bounds = [window, pin, fork, held].into_iter().flatten();
        let Some(first) = bounds.next() else { return self.round_if(None, care.lines) };
        let path = self.head_path(&mut self.core.lock())?;
        self.round_if(Some(bounds.fold(first, |a, b| self.earlier(&path, a, b))), care.lines)
    }

    /// The place that a fork pins; none if the base has passed it: then there is nothing left to keep.
    pub(super) fn fork_place(&self, care: Care) -> Result<Option<LogPlace>> {
        match care.fork.map(|fork| self.place_behind(fork)).transpose() {
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            place => place,
        }
    }

    /// The place that lies `window` ns before the newest record: age is counted back from what the group holds,
    /// so a silent source ages nothing.
    fn edge_before(&self, window_ns: u64) -> Result<Option<LogPlace>> {
        let path = self.head_path(&mut self.core.lock())?;
        let Some(newest) = self.log.segments().iter().rev().map(|s| s.last_wall).find(|w| *w != 0) else {
            return Ok(None);
        };
        let before = newest.saturating_sub(window_ns as i64);
        // What a jump brought has no moments inside: the base goes over it as a whole, once the next record is old.
        for interval in path.intervals().iter().rev().filter(|i| i.log == self.log.id()) {
            let stretch = Interval { to: interval.to.min(self.log.end()), ..*interval };
            if let Some(found) = self.index.batch_at_time(stretch, before)? {
                // What lies between this interval and the one before it is a branch.
                let pos = self.log.batch_end(found.row.pos).max(interval.from);
                let place = path.named(LogPlace { log: interval.log, pos });
                return Ok((place.pos.0 > 0).then_some(place));
            }
        }
        Ok(None)
    }
}
