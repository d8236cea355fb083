//! Time between attempts to reach a peer. No I/O.
//!
//! B1. Each wait lies in [base/2, base], base doubling from the first to the longest: two sites that lost each
//!     other at the same moment don't meet in step, and a peer that is down for days isn't flooded.

/// Doubling waits with jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    first_ms: u64,
    longest_ms: u64,
    failures: u32,
}

impl Backoff {
    /// Waits of at most `first_ms` after the first failure, at most `longest_ms` after many.
    pub fn new(first_ms: u64, longest_ms: u64) -> Self {
        Self { first_ms: first_ms.max(1), longest_ms: longest_ms.max(first_ms).max(1), failures: 0 }
    }

    /// Another failure: milliseconds to wait. `random`: any 64 random bits.
    pub fn failed(&mut self, random: u64) -> u64 {
        let base = self.first_ms.saturating_mul(1 << self.failures.min(32)).min(self.longest_ms);
        self.failures = self.failures.saturating_add(1);
        let least = base.div_ceil(2);
        least + random % (base - least + 1)
    }

    /// It worked: the next failure counts as the first.
    pub fn worked(&mut self) {
        self.failures = 0;
    }

    /// Failures since it last worked.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_bounds_and_begin_anew() {
        let mut backoff = Backoff::new(1_000, 60_000);
        let mut base = 1_000;
        for n in 0..200_u64 {
            let wait = backoff.failed(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert!((base / 2..=base).contains(&wait), "{n}: {wait} for {base}");
            base = (base * 2).min(60_000);
        }
        backoff.worked();
        assert!(backoff.failed(u64::MAX) <= 1_000);
        assert_eq!(
            (Backoff::new(1_000, 60_000).failed(0), Backoff::new(1_000, 60_000).failed(500)),
            (500, 1_000)
        );
    }
}
