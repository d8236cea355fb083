//! After a failed sync or append: the group goes on by itself.
//!
//! W1. Nobody is told that something is durable before it was read again past the page cache (J11).
//! W2. If nothing is missing, the group goes on as it is. Else it is opened anew, as after a power loss; what was
//!     answered, never flushed and is missing is counted.

use crate::group::Group;
use crate::group::group::GroupParts;
use crate::group::open::OpenReport;
use crate::group::queue::Gate;
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
        let _work = self.work.lock();
        let before = self.log.head().0;
        let parts: GroupParts = self.parts.clone();
        let (opened, report) = Self::open(parts, self.id())?;
        let after = opened.log.head().0;
        let missing = if after.epoch == before.epoch { before.seq.0.saturating_sub(after.seq.0) } else { 1 };
        Ok((opened, report, missing))
    }
}
