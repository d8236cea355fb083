//! The backlog: what the peer lacks. As long as the allowance lasts it is kept as records; then it is *let go*: writers go
//! on, the log is freed, and the peer gets the ranges that changed, as a copy with one jump, when it is there again.
//!
//! Q1. A line of the history says so, durable and counted, before a base passes anything that the peer may lack, and
//!     before anything of it is freed. Without the line a site that comes back from a power loss would call a group
//!     protected whose standby can't follow.
//! Q2. The line is written only if no other came since the caller looked, and lets go nothing but what is kept for the
//!     peer: an open decision (N1) and the fork of a branch (N4) stay, however little room there is.
//! Q3. Which ranges changed is durable before a segment goes (U1), and it reaches back to what the peer has: so only
//!     what changed is sent. Where the range log doesn't reach as far all of it is.
//! Q4. The line says what may be gone, not what is to be sent: records are shipped as long as those behind what the peer
//!     really has are held. A peer that had received more than was known here gets no copy.
//! Q5. It ends with the line `protected`, written while no round can run, and only where all records behind what the peer
//!     has acknowledged are held: the state never says that a standby follows which can't.
//! Q6. Until then what a copy reads may be passed for want of room as well: its stream goes on at a later moment, and
//!     what changed in between is missing again.
//! Q7. Nothing is let go that frees nothing: only where an ended segment has something behind what the peer has.

use crate::group::{Care, Group, left_out};
use crate::history::Event;
use crate::vocab::{Kind, Moment, Pos, Result, StoreId, Token};

/// What is kept for a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The base doesn't move: nobody knows now what the peer has, or a copy is being read.
    pub held: bool,
    /// What becomes of it when there is no room.
    pub full: WhenFull,
}

/// What becomes of the backlog when there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It stays, and writers are refused.
    #[default]
    Stays,
    /// It is let go, after a line of the history that names this peer.
    LetGo(StoreId),
    /// The line is there.
    Gone,
}

impl Backlog {
    /// Nothing is kept but what the pin says, and that stays.
    pub const NONE: Self = Self { held: false, full: WhenFull::Stays };

    /// Whether rounds may pass what the peer lacks for want of room.
    pub(crate) fn is_gone(self) -> bool {
        self.full == WhenFull::Gone
    }
}

impl Group {
    /// Q1, Q2: lets go what the peer lacks. `None`: it stays; else how the group is kept from here on.
    pub(crate) fn let_go(&self, care: Care) -> Result<Option<Care>> {
        let WhenFull::LetGo(peer) = care.backlog.full else { return Ok(None) };
        if care.pinned || !self.may_free_backlog()? {
            return Ok(None);
        }
        let acknowledged = *self.pin.lock();
        let mut core = self.core.lock();
        self.refuse_left()?;
        self.write_owed(&mut core)?;
        if care.lines.is_some_and(|lines| lines != core.events.len()) {
            return Ok(None);
        }
        if !left_out("Q1: a line of the history says that the backlog goes") {
            self.record(&mut core, Event::BacklogCoalesced { peer, acknowledged })?;
        }
        self.set_pin(None);
        let lines = care.lines.map(|_| core.events.len());
        drop(core);
        tracing::warn!(group = %self.id().short(), "what the peer lacks is let go for want of room");
        Ok(Some(Care { lines, backlog: Backlog { held: false, full: WhenFull::Gone }, ..care }))
    }

    /// Whether the backlog was let go, and the group is not protected since.
    pub(crate) fn is_coalesced(&self) -> bool {
        let newest = |events: &[(i64, Event)]| {
            events.iter().rev().find_map(|(_, event)| match event {
                Event::BacklogCoalesced { .. } => Some(true),
                Event::Protected { .. } => Some(false),
                _ => None,
            })
        };
        self.with_events(newest).unwrap_or_default()
    }

    /// Q7.
    pub(crate) fn may_free_backlog(&self) -> Result<bool> {
        let held = match self.pin.lock().map(|moment| self.place_behind(moment)) {
            None => Pos(0),
            Some(Err(e)) if e.kind() == Kind::NotFound => Pos(0),
            Some(place) => self.main_edge(place?),
        };
        let segments = self.log.segments();
        let ended = segments.split_last().map_or(&[][..], |(_, ended)| ended);
        Ok(ended.iter().any(|segment| segment.end > held))
    }

    /// Q5: the group is protected from this moment on, which the peer has acknowledged. Whether the line was written: not
    /// while records behind the moment are gone.
    ///
    /// # Errors
    /// Those of the files of history and checkpoint.
    pub fn protected_from(&self, op: Token, peer: StoreId, moment: Moment) -> Result<bool> {
        // A round begins or ends, or a checkpoint is made: the next time.
        let Some(_work) = self.work.try_lock() else { return Ok(false) };
        let held = self.holds_behind(moment)? || left_out("Q5: protected only where all records are held");
        if held {
            self.record_line(Event::Protected { op, peer, moment })?;
        }
        Ok(held)
    }

    /// Whether all records behind a moment of the line are held, up to the head.
    pub(crate) fn holds_behind(&self, moment: Moment) -> Result<bool> {
        let (head, table) = (self.entered().0, self.table());
        let moment = table.norm(moment)?;
        if moment.seq >= head.seq {
            return Ok(table.is_on_line(moment, head)?);
        }
        let Some((_, _, stretch)) = self.stretch_behind(moment, head)? else { return Ok(false) };
        let row = self.index.batch_of_seq(stretch, moment.seq.next())?;
        Ok(row.is_some_and(|row| row.first_seq <= moment.seq.next() && self.holds_place(row.pos)))
    }

    /// Whether a place of the log is in a segment that wasn't freed.
    pub(crate) fn holds_place(&self, pos: Pos) -> bool {
        self.log.segments().iter().any(|s| s.start <= pos && pos < s.end)
    }
}
