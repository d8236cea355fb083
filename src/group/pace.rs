//! Writers that fill a journal faster than it can be made shorter are slowed down before they are refused.
//!
//! P4. From the share of the allowance where the journal begins to be made shorter, up to all of it, each append waits
//!     longer, by the square of the way gone: a guest sees a slow disk, and ENOSPC only where nothing can be freed.
//!     Below that share nobody waits.
//! P5. Only the thread that appends waits, and holds nothing meanwhile but its turn: whoever comes queues behind it, and
//!     one append takes them all.

use crate::vocab::Pos;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest wait of an append, at the end of the allowance: a batch of 1 MiB each time is 20 MiB/s, which a base
/// follows on any disk.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// How fast a group's writers may go. Places stand for bytes: what is appended brings the end of the log nearer.
pub(crate) struct Pace {
    /// From this end of the log on writers wait.
    begin: AtomicU64,
    /// So many bytes behind it they wait longest.
    band: AtomicU64,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { begin: AtomicU64::new(u64::MAX), band: AtomicU64::new(1) }
    }

    /// With the log's end at `end` the journal takes `used` bytes; the waits begin at `begin` and are longest at
    /// `limit`.
    pub(crate) fn set(&self, end: Pos, used: u64, (begin, limit): (u64, u64)) {
        self.band.store(limit.saturating_sub(begin).max(1), Ordering::Relaxed);
        let at = (end.0.saturating_add(begin)).saturating_sub(used);
        self.begin.store(if limit == u64::MAX { u64::MAX } else { at }, Ordering::Relaxed);
    }

    /// How long an append at this end of the log waits.
    pub(crate) fn wait(&self, end: Pos) -> Duration {
        let gone = end.0.saturating_sub(self.begin.load(Ordering::Relaxed));
        if gone == 0 {
            return Duration::ZERO;
        }
        let share = (gone as f64 / self.band.load(Ordering::Relaxed) as f64).min(1.0);
        WAIT_MAX.mul_f64(share * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_the_begin_to_the_limit_and_no_further() {
        let pace = Pace::new();
        assert_eq!(pace.wait(Pos(u64::MAX)), Duration::ZERO);
        pace.set(Pos(5_000), 700, (800, 1_000));
        assert_eq!(pace.wait(Pos(5_100)), Duration::ZERO);
        assert_eq!(pace.wait(Pos(5_200)), WAIT_MAX / 4);
        assert_eq!(pace.wait(Pos(5_300)), WAIT_MAX);
        assert_eq!(pace.wait(Pos(9_000)), WAIT_MAX);
        // More than the share already, and a log that is shorter than what else there is.
        pace.set(Pos(100), 900, (800, 1_000));
        assert_eq!(pace.wait(Pos(100)), WAIT_MAX / 4);
        pace.set(Pos(100), 900, (u64::MAX, u64::MAX));
        assert_eq!(pace.wait(Pos(1 << 60)), Duration::ZERO);
    }
}
