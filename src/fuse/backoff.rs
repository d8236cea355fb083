//! When a worker that died is started again. Pure.
//!
//! 1. Only deaths before the first answered request count: a worker that serves may be killed as often as
//!    somebody likes and is back at once.
//! 2. After [`STRIKES_MAX`] that count, in a row, requests are refused instead of waiting, and a new worker is
//!    tried once in a while. One that answers a request clears the count.

use std::time::Duration;

/// Deaths in a row, before the first answered request, after which requests are refused.
pub const STRIKES_MAX: u32 = 5;
/// A worker that lived shorter than this is not started again before as much time has passed.
const SPACING: Duration = Duration::from_millis(100);
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// What follows a death.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// A new worker after this time; requests wait.
    Start(Duration),
    /// Requests are refused; a new worker after this time.
    Refuse(Duration),
}

/// The count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    strikes: u32,
}

impl Backoff {
    /// A worker died that had `answered` requests or none and lived for `lived`; `retry` is the time between
    /// trials once requests are refused.
    pub fn died(&mut self, answered: bool, lived: Duration, retry: Duration) -> Next {
        if answered {
            self.strikes = 0;
            return Next::Start(SPACING.saturating_sub(lived));
        }
        self.strikes = (self.strikes + 1).min(STRIKES_MAX);
        if self.strikes == STRIKES_MAX {
            return Next::Refuse(retry);
        }
        Next::Start(FIRST_WAIT * 2u32.pow(self.strikes - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(30);
    const LONG: Duration = Duration::from_secs(1);

    #[test]
    fn workers_that_serve_are_back_at_once_however_often_they_die() {
        let mut backoff = Backoff::default();
        for _ in 0..1000 {
            assert_eq!(backoff.died(true, LONG, RETRY), Next::Start(Duration::ZERO));
        }
        assert_eq!(backoff.died(true, Duration::ZERO, RETRY), Next::Start(SPACING));
    }

    #[test]
    fn five_deaths_before_an_answer_refuse_and_go_on_refusing() {
        let mut backoff = Backoff::default();
        let mut waited = Duration::ZERO;
        for _ in 1..STRIKES_MAX {
            match backoff.died(false, LONG, RETRY) {
                Next::Start(wait) => waited += wait,
                next @ Next::Refuse(_) => panic!("{next:?} too early"),
            }
        }
        assert!(waited < LONG, "{waited:?}");
        for _ in 0..3 {
            assert_eq!(backoff.died(false, LONG, RETRY), Next::Refuse(RETRY));
        }
        assert_eq!(backoff.died(true, LONG, RETRY), Next::Start(Duration::ZERO));
        assert!(matches!(backoff.died(false, LONG, RETRY), Next::Start(_)), "an answer clears the count");
    }
}
