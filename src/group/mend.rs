//! After a failed sync or append: the group goes on by itself.
//!
//! W1. Nobody is told that something is durable before it was read again past the page cache (J11).
//! W2. If nothing is missing, the group goes on as it is. Else it is opened anew, as after a power loss; what was
//!     answered, never flushed and is missing is counted.
//! W3. One that was opened anew has a successor, which owns its files: it writes nothing more, no line of the history
//!     and no checkpoint either, and everybody who holds it goes over to the successor (`Group::is_left`).
//! W4. A target is always opened anew. What it had received when the sync failed is in the log and in the index and not
//!     on the line; nothing of it was confirmed, so that the source sends again whatever the recovery doesn't find.
//! W5. Of one whose files are to be deleted nobody makes a file any more: who works on it is waited for, who comes after
//!     it finds it left.

use crate::group::group::GroupParts;
use crate::group::open::OpenReport;
use crate::group::queue::Gate;
use crate::group::{Group, left_out};
use crate::journal::Mended;
use crate::vocab::{Error, Kind, Pos, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Group {
    /// Whether a failed sync or append has stopped the group.
    pub fn is_poisoned(&self) -> bool {
        self.log.is_poisoned().is_some()
    }

    /// Whether [`Group::mend`] found that records are missing: only [`Group::reopen`] goes on.
    pub fn must_reopen(&self) -> bool {
        self.is_poisoned() && self.missing.load(Ordering::Acquire)
    }

    /// Mends what a failed sync or append has stopped (W2). A group that recovery found damaged stays stopped.
    ///
    /// # Errors
    /// The device still fails.
    pub fn mend(&self) -> Result<Mended> {
        let damaged = {
            let queue = self.queue.lock();
            queue.gate == Gate::Stopped && queue.stopped_from.is_none()
        };
        if damaged {
            return Ok(Mended::Whole);
        }
        if self.is_poisoned()
            && self.wanted_gate() == Gate::Target
            && !left_out("W4: a target is opened anew")
        {
            self.missing.store(true, Ordering::Release);
            return Ok(Mended::Missing);
        }
        let mended = self.log.mend()?;
        self.missing.store(mended == Mended::Missing, Ordering::Release);
        if mended == Mended::Whole {
            let mut queue = self.queue.lock();
            if queue.gate == Gate::Stopped
                && let Some(gate) = queue.stopped_from.take()
            {
                queue.gate = gate;
                tracing::warn!(group = %self.id().short(), "goes on after a failed sync; nothing is missing");
            }
        }
        Ok(mended)
    }

    /// Whether another was opened in its place (W3).
    pub fn is_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// W3.
    pub(crate) fn refuse_left(&self) -> Result<()> {
        if self.is_left() && !left_out("W3: who was left writes nothing") {
            return Err(
                Error::new(Kind::Busy, "the group was opened anew after a failed sync").advice("Try again")
            );
        }
        Ok(())
    }

    /// The end of a group whose files are to be deleted (W5). Waits for a round or a checkpoint that runs.
    pub fn end(&self) {
        self.freeze(Gate::Stopped);
        self.left.store(true, Ordering::Release);
        if left_out("W5: who works on a group that ends is waited for") {
            return;
        }
        let _rounds = self.rounds.lock();
        let _work = self.work.lock();
        drop(self.core.lock());
    }

    /// A sync has failed: mended at once if nothing is missing, else stopped.
    pub(crate) fn mend_or(&self, error: Error) -> Result<Pos> {
        if matches!(self.mend(), Ok(Mended::Whole)) && !self.is_poisoned() {
            return Ok(self.log.durable());
        }
        let mut queue = self.queue.lock();
        if !self.is_poisoned() {
            return Ok(self.log.durable()); // mended by another meanwhile
        }
        queue.stop();
        Err(error)
    }

    /// Opens a group anew in the place of one whose log can't go on (W2). Says how many records are missing that had
    /// been answered and never flushed.
    ///
    /// # Errors
    /// Those of [`Group::open`]; the old one stays stopped.
    pub fn reopen(&self) -> Result<(Arc<Self>, OpenReport, u64)> {
        if !self.is_poisoned() {
            return Err(Error::new(Kind::Busy, "the group goes on: nothing is to be opened anew"));
        }
        self.freeze(Gate::Stopped);
        // I5 of `take_in`; a sync of an image may take long, and others wait for this thread.
        let Some(_import) = self.import.try_lock() else {
            return Err(Error::new(Kind::Busy, "an image is being taken in").advice("Tried again at once"));
        };
        let _rounds = self.rounds.lock();
        let _work = self.work.lock();
        // Lines that were being written are in the file before it is read, and none comes after (W3).
        let _core = self.core.lock();
        let before = self.log.head().0;
        let parts: GroupParts = self.parts.clone();
        self.left.store(true, Ordering::Release);
        let (opened, report) =
            Self::open(parts, self.id()).inspect_err(|_| self.left.store(false, Ordering::Release))?;
        let after = opened.log.head().0;
        let missing = if after.epoch == before.epoch { before.seq.0.saturating_sub(after.seq.0) } else { 1 };
        Ok((opened, report, missing))
    }
}
