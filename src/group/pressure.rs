//! What happens before a writer gets ENOSPC for its group's journal, in this order, and announced.
//!
//! P1. The base follows as far as the window allows, more often.
//! P2. The window gets shorter from its old end, segment by segment, until the journal is below its share again;
//!     never past what a peer lacks or a copy reads, and never past the fork of a failover that is not committed.
//! P3. Then what the peer lacks is let go (`backlog`): it gets ranges instead of records. Writers are slowed down meanwhile (`pace`). Then only: nothing that brings bytes is admitted, until there is room.
//!
//! A moment that is open doesn't keep its place then (N5 of `held`): its reads fail from then on.

use crate::group::upkeep::{Care, Upkeep};
use crate::group::{Group, WhenFull, left_out};
use crate::vocab::{Kind, LogPlace, Pos, Result};
use std::sync::atomic::Ordering;

/// From this share of the allowance on the journal is made shorter, in 1/16.
const BEGINS: u64 = 14;
/// And down to this one.
const ENDS: u64 = 12;
/// From this one on what a peer lacks is let go, if nothing else makes room.
const LETS_GO: u64 = 15;
/// Less room than this on the journal's filesystem is pressure as well, in bytes.
const LITTLE_BYTES: u64 = 128 << 20;
/// Or less than this share of it, 1/32.
const LITTLE_SHARE: u64 = 32;
/// A segment takes no more than this share of the allowance, 1/8: one that is as long as all could never be freed in time.
const SEGMENT_SHARE: u64 = 8;
/// Nor, from this length on, more than this share of the journal, 1/512: the last one is read again after a death, so it
/// is short; and a long journal doesn't have a long list.
const SEGMENT_OF_JOURNAL: (u64, u64) = (32 << 20, 512);
/// Made shorter by about so much at a time: a step that takes seconds would begin anew with each death of a worker, and
/// free nothing.
const STEP_BYTES: u64 = 128 << 20;
/// Looked at so often, ns.
const LOOK_NS: u64 = 20_000_000;
/// The filesystem is asked so often, ns.
const ASK_NS: u64 = 1_000_000_000;

impl Group {
    /// Makes the journal shorter if it nears its allowance or the filesystem fills, and sets whether writers are
    /// refused.
    pub(crate) fn relieve(&self, state: &mut Upkeep, care: Care, now_ns: u64) -> Result<()> {
        if now_ns.saturating_sub(state.looked_ns) < LOOK_NS {
            return Ok(());
        }
        state.looked_ns = now_ns;
        if now_ns.saturating_sub(state.asked_ns) >= ASK_NS {
            state.asked_ns = now_ns;
            for room in [&self.parts.rooms.store, &self.parts.rooms.journal] {
                room.refresh()?;
            }
        }
        let limit = care.allowance.unwrap_or(u64::MAX);
        let used = self.journal_used();
        let (least, share) = SEGMENT_OF_JOURNAL;
        self.log.set_segment_max((limit / SEGMENT_SHARE).min((used / share).max(least)));
        let room = &self.parts.rooms.journal;
        let little = LITTLE_BYTES.min(room.total() / LITTLE_SHARE);
        let short = little.saturating_sub(room.slack());
        let excess = if used > limit / 16 * BEGINS { used - limit / 16 * ENDS } else { 0 };
        let wanted = excess.max(short).min(STEP_BYTES);
        let lets_go = |used| used > limit / 16 * LETS_GO || short > 0;
        let paused = now_ns.saturating_sub(state.relieved_ns) < state.relief_pause_ns;
        // Writers don't wait for the next look where something can be let go.
        let may = care.backlog.full != WhenFull::Stays;
        if wanted > 0 && (!paused || may && lets_go(used) && self.may_free_backlog()?) {
            let spare = self.log.drop_spare()?;
            let mut freed = self.shorten(care, wanted)? + spare;
            if freed < wanted
                && lets_go(self.journal_used())
                && let Some(care) = self.let_go(care)?
            {
                freed += self.shorten(care, wanted)?;
            }
            state.relieved_ns = now_ns;
            // Nothing to be had: look again later, not in every turn.
            state.relief_pause_ns = if freed == 0 { ASK_NS } else { 0 };
        }
        let used = self.journal_used();
        self.space.pace.set(self.log.end(), used, (limit / 16 * BEGINS, limit));
        // The segment that is written can't be freed, whatever the share is.
        self.space.set_over(used > limit && self.log.segments().len() > 1);
        Ok(())
    }

    /// P1 and P2: frees about so many bytes, if it may. Says how many.
    fn shorten(&self, care: Care, wanted: u64) -> Result<u64> {
        let done = self.round_with(care)?;
        if done.freed >= wanted {
            return Ok(done.freed);
        }
        let gone = care.backlog.is_gone();
        if care.pinned && care.fork.is_none() || care.backlog.held && !gone {
            return Ok(done.freed);
        }
        let bound = if left_out("P2: no further than the fork") { None } else { self.fork_place(care)? };
        let pin = self.pin.lock().filter(|_| !gone);
        let pin = match pin.map(|moment| self.place_behind(moment)) {
            Some(Err(e)) if e.kind() == Kind::NotFound => return Ok(done.freed),
            pin => pin.transpose()?,
        };
        let segments = self.log.segments();
        let Some((_, old)) = segments.split_last() else { return Ok(done.freed) };
        let log = self.log.id();
        let (path, stands) = {
            let mut core = self.core.lock();
            let stands = core.bases.values().filter_map(|p| p.base).map(|b| self.main_edge(b)).min();
            (self.head_path(&mut core)?, stands.unwrap_or_default())
        };
        // Where a line was left the end of a segment lies on a branch: then as far as the line went.
        let on_line = |pos: Pos| {
            let reached = path.intervals().iter().rfind(|i| i.log == log && i.from < pos);
            reached.map(|i| pos.min(i.to))
        };
        let (mut sum, mut edge) = (done.freed, None);
        for segment in old {
            if sum >= wanted && edge > Some(stands) {
                break;
            }
            sum += segment.bytes;
            edge = on_line(self.log.batch_end(segment.end));
        }
        let Some(pos) = edge else { return Ok(done.freed) };
        let edge =
            [bound, pin].into_iter().flatten().fold(LogPlace { log, pos }, |a, b| self.earlier(&path, a, b));
        let (_, open) = self.held_place()?;
        let more = self.round_if(Some(edge), care.lines)?;
        if more.freed > 0 {
            self.shortened.fetch_add(1, Ordering::Relaxed);
            let passed = open - self.held_place()?.1.min(open);
            tracing::warn!(group = %self.id().short(), bytes = more.freed, open_moments_passed = passed,
                "the window was made shorter for want of room");
        }
        Ok(done.freed + more.freed)
    }

    /// How often the window was made shorter for want of room since the group was opened.
    pub fn shortened(&self) -> u64 {
        self.shortened.load(Ordering::Relaxed)
    }

    /// Whether writers are refused because the journal has reached its allowance.
    pub fn is_over(&self) -> bool {
        self.space.is_over()
    }
}
