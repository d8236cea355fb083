//! Clocks and randomness that a test controls.

use crate::seam::{Clock, Entropy};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Clocks that move only when told to. Clones share their time.
#[derive(Clone, Debug)]
pub struct SimClock {
    at: Arc<Times>,
}

#[derive(Debug)]
struct Times {
    wall: AtomicI64,
    monotonic: AtomicU64,
    boot: AtomicU64,
    paused: AtomicU64,
}

impl SimClock {
    /// Starts at this wall time (nanoseconds since 1970); the other clocks start at zero.
    pub fn new(wall_ns: i64) -> Self {
        let (monotonic, boot, paused) = Default::default();
        let times = Times { wall: AtomicI64::new(wall_ns), monotonic, boot, paused };
        Self { at: Arc::new(times) }
    }

    /// For how long anybody has asked for a pause, in all.
    pub fn paused(&self) -> Duration {
        Duration::from_nanos(self.at.paused.load(SeqCst))
    }

    /// Lets time pass on all clocks.
    pub fn advance(&self, ns: u64) {
        self.at.monotonic.fetch_add(ns, SeqCst);
        self.suspend(ns);
    }

    /// Lets time pass while the machine sleeps: the monotonic clock stands still.
    pub fn suspend(&self, ns: u64) {
        self.at.boot.fetch_add(ns, SeqCst);
        self.at.wall.fetch_add(i64::try_from(ns).unwrap_or(i64::MAX), SeqCst);
    }

    /// Steps the wall clock, forth or back; no time passes.
    pub fn step_wall(&self, ns: i64) {
        self.at.wall.fetch_add(ns, SeqCst);
    }

    /// Sets the wall clock; no time passes.
    pub fn set_wall(&self, ns: i64) {
        self.at.wall.store(ns, SeqCst);
    }

    /// A new boot: the clocks that count from it start again at zero.
    pub fn reboot(&self) {
        self.at.monotonic.store(0, SeqCst);
        self.at.boot.store(0, SeqCst);
    }
}

impl Clock for SimClock {
    fn wall_ns(&self) -> i64 {
        self.at.wall.load(SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.at.monotonic.load(SeqCst)
    }

    fn boot_ns(&self) -> u64 {
        self.at.boot.load(SeqCst)
    }

    /// Is counted; time passes only by [`SimClock::advance`].
    fn pause(&self, time: Duration) {
        self.at.paused.fetch_add(time.as_nanos() as u64, SeqCst);
    }
}

/// Random bits from a seed: the same seed, the same identities.
#[derive(Debug)]
pub struct SimEntropy {
    rng: Mutex<fastrand::Rng>,
}

impl SimEntropy {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }
}

impl Entropy for SimEntropy {
    fn random_128(&self) -> [u8; 16] {
        self.rng.lock().u128(1..).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_steps_move_no_other_clock() {
        let clock = SimClock::new(1_000);
        clock.advance(5);
        clock.clone().step_wall(-900);
        assert_eq!((clock.wall_ns(), clock.monotonic_ns(), clock.boot_ns()), (105, 5, 5));
        clock.suspend(10);
        assert_eq!((clock.wall_ns(), clock.monotonic_ns(), clock.boot_ns()), (115, 5, 15));
        clock.reboot();
        assert_eq!((clock.wall_ns(), clock.monotonic_ns(), clock.boot_ns()), (115, 0, 0));
    }

    #[test]
    fn entropy_repeats_by_seed_and_is_never_none() {
        let take = |seed| {
            let e = SimEntropy::new(seed);
            [e.random_128(), e.random_128()]
        };
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
        assert_ne!(take(7)[0], take(7)[1]);
        assert_ne!(take(0)[0], [0; 16]);
    }
}
