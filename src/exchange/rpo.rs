//! How old is the oldest acknowledged write that isn't durable at the target?
//!
//! O1. The source measures by its own monotonic clock, from the append of the oldest record that the target has not
//!     confirmed. It never understates: between samples it takes the older time.
//! O2. It says 0 only while it has heard of the target within the last [`CONTACT_NS`]; else the time since then.
//! O3. The target adds its own monotonic time to the lag in the last statement. Clocks of two sites are never
//!     subtracted.

use crate::vocab::Seq;
use std::collections::VecDeque;
use std::fmt;

/// Contact is contact for so long, ns.
pub const CONTACT_NS: u64 = 3_000_000_000;
/// Records that were appended within this time of each other share a sample, ns.
const RESOLUTION_NS: u64 = 10_000_000;
/// Most samples kept; beyond it neighbours are joined.
const SAMPLES_MAX: usize = 16_384;

/// A recovery point objective as it is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rpo {
    /// There is no target with an image.
    None,
    /// Nanoseconds.
    Exact(u64),
    /// At least so many nanoseconds: there is no contact.
    AtLeast(u64),
}

impl Rpo {
    /// Nanoseconds; none without a target.
    pub fn ns(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Exact(ns) | Self::AtLeast(ns) => Some(ns),
        }
    }
}

impl fmt::Display for Rpo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = |ns: &u64| (ns / 1_000_000_000, ns % 1_000_000_000 / 100_000_000);
        match self {
            Self::None => f.write_str("none"),
            Self::Exact(ns) => write!(f, "{}.{}s", tenths(ns).0, tenths(ns).1),
            Self::AtLeast(ns) => write!(f, ">= {}s (no contact)", tenths(ns).0),
        }
    }
}

/// The source's measure. It lives as long as the process: a new one is told the age of the backlog.
#[derive(Clone, Debug, Default)]
pub struct SourceRpo {
    /// (first seq, monotonic ns): records from this seq on were appended at this time or later.
    samples: VecDeque<(Seq, u64)>,
    newest: Seq,
    /// What the target holds; none: it has no image.
    confirmed: Option<Seq>,
    heard_ns: Option<u64>,
    contact: bool,
}

impl SourceRpo {
    /// A record was appended.
    pub fn appended(&mut self, seq: Seq, now_ns: u64) {
        if seq <= self.newest {
            return;
        }
        // Whether the first that is heard of was appended just now isn't known: `reset` tells how old it may be.
        let unknown = self.confirmed.is_none() && self.newest == Seq(0);
        self.newest = seq;
        if unknown {
            return;
        }
        if self.samples.back().is_none_or(|(_, at)| now_ns >= at + RESOLUTION_NS) {
            self.samples.push_back((seq, now_ns));
        }
        self.forget();
        if self.samples.len() > SAMPLES_MAX {
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// The target holds everything up to `seq`, or has at least been heard of.
    pub fn confirmed(&mut self, seq: Option<Seq>, now_ns: u64) {
        (self.heard_ns, self.contact) = (Some(now_ns), true);
        let Some(seq) = seq else { return };
        self.confirmed = Some(self.confirmed.map_or(seq, |c| c.max(seq)));
        self.forget();
    }

    /// Samples of which every record is confirmed go.
    fn forget(&mut self) {
        let Some(confirmed) = self.confirmed else { return };
        while self.samples.get(1).is_some_and(|(first, _)| *first <= confirmed.next()) {
            self.samples.pop_front();
        }
    }

    /// Begin again from what the target holds: `oldest_ns` is a time before which none of what it lacks was appended.
    pub fn reset(&mut self, confirmed: Option<Seq>, newest: Seq, oldest_ns: u64) {
        let next = confirmed.map_or(Seq(1), Seq::next);
        self.samples.retain(|(first, _)| *first >= next);
        (self.confirmed, self.newest) = (confirmed, newest);
        if next <= newest {
            self.samples.push_front((next, oldest_ns));
        }
        self.forget();
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.contact = false;
    }

    /// What the target holds.
    pub fn holds(&self) -> Option<Seq> {
        self.confirmed
    }

    /// Age of the oldest record that the target has not confirmed, ns; 0: there is none.
    pub fn lag_ns(&self, now_ns: u64) -> u64 {
        if self.confirmed.is_some_and(|c| c >= self.newest) {
            return 0;
        }
        self.samples.front().map_or(0, |(_, at)| now_ns.saturating_sub(*at))
    }

    /// The measure. O1, O2.
    pub fn value(&self, now_ns: u64) -> Rpo {
        if self.confirmed.is_none() {
            return Rpo::None;
        }
        let silence = self.heard_ns.map_or(u64::MAX, |heard| now_ns.saturating_sub(heard));
        let lag = self.lag_ns(now_ns);
        match (self.contact && silence < CONTACT_NS, lag) {
            (true, lag) => Rpo::Exact(lag),
            (false, 0) => Rpo::AtLeast(silence),
            (false, lag) => Rpo::AtLeast(lag),
        }
    }
}

/// The target's measure.
#[derive(Clone, Copy, Debug, Default)]
pub struct TargetRpo {
    stated: Option<(u64, u64)>,
    contact: bool,
}

impl TargetRpo {
    /// The source said so.
    pub fn stated(&mut self, lag_ns: u64, now_ns: u64) {
        (self.stated, self.contact) = (Some((lag_ns, now_ns)), true);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.contact = false;
    }

    /// The measure. O3.
    pub fn value(&self, now_ns: u64) -> Rpo {
        let Some((lag, at)) = self.stated else { return Rpo::None };
        let since = now_ns.saturating_sub(at);
        if self.contact && since < CONTACT_NS { Rpo::Exact(lag + since) } else { Rpo::AtLeast(lag + since) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn the_oldest_unconfirmed_record_counts() {
        let mut rpo = SourceRpo::default();
        assert_eq!(rpo.value(9 * S), Rpo::None);
        rpo.reset(Some(Seq(0)), Seq(0), 0);
        rpo.confirmed(Some(Seq(0)), 0);
        assert_eq!(rpo.value(S), Rpo::Exact(0));
        for n in 1..=10 {
            rpo.appended(Seq(n), n * S);
        }
        rpo.confirmed(Some(Seq(3)), 11 * S);
        assert_eq!(rpo.value(12 * S), Rpo::Exact(8 * S), "record 4 was appended at 4 s");
        rpo.confirmed(Some(Seq(10)), 13 * S);
        assert_eq!(rpo.value(15 * S), Rpo::Exact(0));
        assert_eq!(rpo.value(17 * S), Rpo::AtLeast(4 * S), "silence");
        rpo.appended(Seq(11), 20 * S);
        rpo.disconnected();
        assert_eq!(rpo.value(21 * S).to_string(), ">= 1s (no contact)");
        rpo.confirmed(None, 21 * S);
        assert_eq!(rpo.value(21 * S + S / 2).to_string(), "1.5s");
    }

    #[test]
    fn it_never_understates_however_many_records_there_are() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut rpo = SourceRpo::default();
        rpo.reset(Some(Seq(0)), Seq(0), 0);
        let (mut now, mut times) = (0, vec![0]);
        for n in 1..=40_000 {
            now += rng.u64(0..2 * RESOLUTION_NS);
            times.push(now);
            rpo.appended(Seq(n), now);
        }
        assert!(rpo.samples.len() <= SAMPLES_MAX);
        for held in [0, 1, 17, 5_000, 39_000, 39_998, 39_999] {
            rpo.confirmed(Some(Seq(held)), now);
            let (truth, said) = (now - times[held as usize + 1], rpo.lag_ns(now));
            assert!(said >= truth && said < truth + 20 * RESOLUTION_NS, "{held}: {said} {truth}");
        }
        rpo.confirmed(Some(Seq(40_000)), now);
        assert_eq!(rpo.lag_ns(now), 0);
    }

    #[test]
    fn a_target_adds_its_own_time() {
        let mut rpo = TargetRpo::default();
        assert_eq!(rpo.value(S).to_string(), "none");
        rpo.stated(S / 2, 10 * S);
        assert_eq!(rpo.value(11 * S), Rpo::Exact(3 * S / 2));
        assert_eq!(rpo.value(14 * S), Rpo::AtLeast(9 * S / 2));
        rpo.disconnected();
        assert_eq!(rpo.value(11 * S), Rpo::AtLeast(3 * S / 2));
    }
}
