//! Rate limit as a token bucket.
//!
//! R1. Over any time t at most `rate` · t + burst + one frame bytes pass, whatever the sizes of the frames: a
//!     frame may put the bucket into debt, and the next one waits until the debt is paid.
//! R2. A new rate holds from the next frame on; debt made at the old rate is paid at the new one.

use parking_lot::Mutex;
use std::sync::Arc;

const SECOND: i128 = 1_000_000_000;

/// The arithmetic: times come in.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Bytes a second.
    rate: Option<u64>,
    /// Byte-nanoseconds: bytes · 10⁹, so that nothing is lost by rounding.
    level: i128,
    last_ns: u64,
}

impl Bucket {
    /// `rate`: bytes a second, at least 1; `None`: no limit.
    pub fn new(rate: Option<u64>, now_ns: u64) -> Self {
        let rate = rate.map(|r| r.max(1));
        Self { rate, level: rate.map_or(0, burst), last_ns: now_ns }
    }

    /// Sets another limit.
    pub fn set(&mut self, rate: Option<u64>, now_ns: u64) {
        self.refill(now_ns);
        self.rate = rate.map(|r| r.max(1));
        self.level = self.rate.map_or(0, |r| self.level.min(burst(r)));
    }

    /// Takes `bytes` and says how many nanoseconds to wait before they may pass.
    pub fn take(&mut self, bytes: u64, now_ns: u64) -> u64 {
        self.refill(now_ns);
        let Some(rate) = self.rate else { return 0 };
        // What is in the bucket before this frame decides when it may go.
        let wait = if self.level >= 0 { 0 } else { (-self.level).div_euclid(i128::from(rate)) + 1 };
        self.level -= i128::from(bytes) * SECOND;
        u64::try_from(wait).unwrap_or(u64::MAX)
    }

    fn refill(&mut self, now_ns: u64) {
        let passed = now_ns.saturating_sub(self.last_ns);
        self.last_ns = self.last_ns.max(now_ns);
        if let Some(rate) = self.rate {
            self.level = (self.level + i128::from(rate) * i128::from(passed)).min(burst(rate));
        }
    }
}

/// A tenth of a second's worth.
fn burst(rate: u64) -> i128 {
    i128::from(rate) * SECOND / 10
}

/// A limit that several connections share and that may change at any time.
#[derive(Clone, Debug)]
pub struct Rate(Arc<Mutex<Bucket>>);

impl Default for Rate {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Bucket::new(None, 0))))
    }
}

impl Rate {
    /// Sets the limit, in bytes a second; `None`: no limit.
    pub fn set(&self, rate: Option<u64>, now_ns: u64) {
        self.0.lock().set(rate, now_ns);
    }

    /// Takes `bytes` and says how many nanoseconds to wait before they may pass.
    pub fn take(&self, bytes: u64, now_ns: u64) -> u64 {
        self.0.lock().take(bytes, now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R1 for frames of all sizes at several rates.
    #[test]
    fn over_any_time_no_more_than_the_rate_the_burst_and_one_frame() {
        let mut random = fastrand::Rng::with_seed(7);
        for rate in [1_000, 1_000_000, 900_000_000_u64] {
            let (mut now, mut bucket) = (5, Bucket::new(Some(rate), 5));
            let (mut passed, largest) = (0_u64, rate / 3);
            for _ in 0..10_000 {
                let bytes = random.u64(1..=largest);
                now += bucket.take(bytes, now);
                passed += bytes;
                let allowed = u128::from(rate) * u128::from(now - 5) / 1_000_000_000;
                assert!(u128::from(passed) <= allowed + u128::from(rate / 10 + largest + 1), "rate {rate}");
                now += random.u64(0..1_000);
            }
            let least = u128::from(rate) * u128::from(now - 5) / 1_000_000_000 * 98 / 100;
            assert!(u128::from(passed) >= least, "rate {rate}: {passed} of {least}: slower than allowed");
        }
    }

    #[test]
    fn no_limit_never_waits_and_an_idle_time_saves_only_the_burst() {
        let mut free = Bucket::new(None, 0);
        assert_eq!((free.take(u64::MAX, 1), free.take(u64::MAX, 2)), (0, 0));
        free.set(Some(1_000), 3);
        assert_eq!(free.take(1_000, 3), 0);
        assert!(free.take(1, 3) >= 900_000_000);
        let hour = 3_600_000_000_000;
        assert_eq!(free.take(1_100, hour), 0);
        assert!(free.take(1, hour) >= 999_000_000, "an hour of idleness isn't saved up");
    }
}
