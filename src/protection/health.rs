//! Health: reasons with their severity, raised at once and cleared only after they have been gone for a while.
//!
//! 1. A reason is shown from the first observation on.
//! 2. It is taken away when it has not been observed for [`CLEAR_AFTER`], so that a flapping link doesn't flicker.
//! 3. `since` is the first observation since it was last taken away.

use super::names::words;
use super::{WallTime, text_time};
use serde::Serialize;
use std::collections::BTreeMap;

/// A reason stays for so long after its last observation, in ns.
pub const CLEAR_AFTER: u64 = 60_000_000_000;

words!(
    /// How bad it is.
    Severity ("severity") {
        /// Nothing stands.
        Ok = "ok",
        /// Somebody should look.
        Warning = "warning",
        /// Data is at risk, or the standby doesn't stand by.
        Critical = "critical",
    }
);

words!(
    /// Why health isn't ok.
    Reason ("health reason") {
        /// Older than the threshold.
        RpoExceeded = "rpo-exceeded",
        /// The target can't follow.
        ResyncRequired = "resync-required",
        /// Nothing to fail over to.
        NoRecoveryPoint = "no-recovery-point",
        /// Flushes are answered without the target.
        SyncLost = "sync-lost",
        /// Two decisions.
        SplitBrain = "split-brain",
        /// History is missing.
        Rewound = "rewound",
        /// The target lost what it acknowledged.
        TargetRewound = "target-rewound",
        /// A copy of a site answers.
        IdentityConflict = "identity-conflict",
        /// Two rows for one epoch.
        TableConflict = "table-conflict",
        /// Writers wait for the other site's word.
        HandoverInDoubt = "handover-in-doubt",
        /// The old source hasn't acknowledged the fence.
        UnfencedPeer = "unfenced-peer",
        /// The log is damaged below what was durable.
        Damaged = "damaged",
        /// A past record is rotten.
        DamagedHistory = "damaged-history",
        /// What came in or was compared is wrong.
        Corruption = "corruption",
        /// No room.
        StoreFull = "store-full",
        /// The peer has no room for what is sent.
        PeerFull = "peer-full",
        /// Versions that can't speak with each other.
        VersionMismatch = "version-mismatch",
        /// No connection.
        PeerUnreachable = "peer-unreachable",
        /// Much is not shipped.
        BacklogHigh = "backlog-high",
        /// Payload was dropped, ranges kept.
        BacklogCoalesced = "backlog-coalesced",
        /// Moments are missing.
        HistoryGap = "history-gap",
        /// It writes after waiting in vain.
        StartedWithoutPeer = "started-without-peer",
        /// A failover waits for its commit.
        CommitOverdue = "commit-overdue",
        /// A branch takes room.
        HeldByBranch = "held-by-branch",
        /// A test takes room.
        HeldByTest = "held-by-test",
        /// An open view takes room.
        HeldByView = "held-by-view",
        /// Both sites on one host.
        SameHostPair = "same-host-pair",
        /// No test failover yet.
        NeverTested = "never-tested",
        /// The last one is long ago.
        TestOverdue = "test-overdue",
        /// The wall clock was set.
        ClockStep = "clock-step",
        /// The clocks of the sites differ.
        ClockOffset = "clock-offset",
        /// The range log had to become coarse.
        RangeLogCoarse = "range-log-coarse",
        /// The peer can't write its store.
        PeerReadOnly = "peer-read-only",
        /// The index is near its bound.
        IndexNearBound = "index-near-bound",
        /// A window is kept here, and nothing leaves the site.
        LocalOnly = "local-only",
        /// Writers wait for the peer to be heard after the start.
        StartWait = "start-wait",
    }
);

impl Reason {
    /// How bad it is.
    pub fn severity(self) -> Severity {
        if self <= Self::VersionMismatch { Severity::Critical } else { Severity::Warning }
    }

    /// Whether it goes as soon as it doesn't hold any more: what can't come and go needs no time to prove that it is over.
    pub fn ends_for_good(self) -> bool {
        matches!(self, Self::NoRecoveryPoint | Self::StartWait)
    }

    /// What it means, and what to do: one sentence each.
    pub fn says(self) -> (&'static str, &'static str) {
        match self {
            Self::RpoExceeded => (
                "the standby is older than allowed",
                "Look at the link and at `backlog` in `status`; raise `rpo-threshold` if this is expected.",
            ),
            Self::ResyncRequired => ("the target can't follow by itself", "Write `resync`."),
            Self::NoRecoveryPoint => {
                ("the target has nothing to fail over to", "Let the first copy or the resync finish.")
            }
            Self::SyncLost => (
                "flushes are answered without the target",
                "Bring the link back; it ends by itself after 10 s without backlog.",
            ),
            Self::SplitBrain => (
                "both sites have taken over without knowing of each other",
                "Decide which one shall go on and write `rollback` at the other; what was written there is kept as a branch.",
            ),
            Self::Rewound => (
                "history that was known is missing at a site",
                "Compare both sites' `status`; take over where the right history is.",
            ),
            Self::TargetRewound => (
                "the target has lost what it had acknowledged",
                "Check the target's disks: they lie about flushes, or its store was restored; it is repaired by itself.",
            ),
            Self::IdentityConflict => (
                "a copy, or an old backup, of the peer answers",
                "Stop the copy, then write `accept` at this site.",
            ),
            Self::TableConflict => (
                "the sites have different records of one epoch",
                "Keep both stores as they are and compare them with `standbyfs inspect`.",
            ),
            Self::HandoverInDoubt => (
                "writers wait to hear how the planned failover ended",
                "Bring the link back; if the other site is lost, `failover force` here.",
            ),
            Self::UnfencedPeer => (
                "the old source has not acknowledged that it is fenced, so that two writers are possible",
                "Make sure that the VM is off there.",
            ),
            Self::Damaged => (
                "bytes that were durable can't be read back; the group is read-only",
                "Take over at the peer, or run `standbyfs inspect --verify`.",
            ),
            Self::DamagedHistory => (
                "a past record is rotten; the newest content is whole",
                "See `gaps` for the moments that can't be read.",
            ),
            Self::Corruption => (
                "content didn't match its hash",
                "Check memory, disks and network of both hosts; what was wrong was not kept.",
            ),
            Self::StoreFull => (
                "there is no room for writes",
                "Free room on the store's filesystem, drop branches or seeds, or raise `allowance`.",
            ),
            Self::PeerFull => (
                "the peer has no room for what this site sends; the standby grows old",
                "Free room on the store's filesystem there; it goes on by itself.",
            ),
            Self::VersionMismatch => {
                ("the sites' versions can't speak with each other", "Upgrade the older one.")
            }
            Self::PeerUnreachable => {
                ("the peer doesn't answer", "Look at the network and at the daemon there.")
            }
            Self::BacklogHigh => (
                "much is written and not yet shipped",
                "Look at the link's rate; a resync follows if the allowance runs out.",
            ),
            Self::BacklogCoalesced => (
                "the backlog's payload was dropped and what changed is sent instead",
                "Nothing needs to be done; moments in between won't exist at the target.",
            ),
            Self::HistoryGap => ("there is a gap in the moments kept", "See `gaps`."),
            Self::StartedWithoutPeer => (
                "this site writes after waiting in vain for its peer",
                "Make sure that the VM doesn't run at the other site.",
            ),
            Self::CommitOverdue => {
                ("a failover waits for its commit and keeps room", "Write `commit`, or `rollback`.")
            }
            Self::HeldByBranch => ("a branch keeps room", "Export it or `drop branch=`."),
            Self::HeldByTest => ("an open test keeps room", "Clean it up."),
            Self::HeldByView => ("a view left open keeps room", "Close the files of past moments."),
            Self::SameHostPair => {
                ("both sites are on one host", "Move one of them: this pair doesn't survive the host.")
            }
            Self::NeverTested => {
                ("no test failover has completed yet", "Run a test failover before you need a real one.")
            }
            Self::TestOverdue => ("the last test failover is long ago", "Run another one."),
            Self::ClockStep => (
                "the wall clock was set",
                "Check time synchronisation; ambiguous times are listed in `gaps`.",
            ),
            Self::ClockOffset => (
                "the clocks of the two sites differ",
                "Check time synchronisation; nothing is decided by them.",
            ),
            Self::RangeLogCoarse => {
                ("what changed is recorded more coarsely", "The way back will send more; nothing is lost.")
            }
            Self::PeerReadOnly => {
                ("the peer can't write its store", "Mend the filesystem or the permissions there.")
            }
            Self::IndexNearBound => {
                ("the index nears its bound", "Shorten the window, or give the store more memory.")
            }
            Self::LocalOnly => ("nothing leaves this site", "Protect it with `protect to=<peer>`."),
            Self::StartWait => (
                "after its start this site hears its peer before it takes writes",
                "Wait; or make sure that the VM doesn't run at the other site and write `resume force confirm=<vm>`.",
            ),
        }
    }
}

/// An observation: the reason holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which reason.
    pub reason: Reason,
    /// The figure that raised it, if there is one.
    pub figure: Option<String>,
    /// The limit that it passed.
    pub limit: Option<String>,
}

/// A reason that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Which reason.
    pub reason: Reason,
    /// How bad it is.
    pub severity: Severity,
    /// Wall time of the first observation.
    #[serde(serialize_with = "as_text")]
    pub since: WallTime,
    /// The newest figure.
    pub figure: Option<String>,
    /// The limit.
    pub limit: Option<String>,
    /// What it means.
    pub message: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// Whether it still holds, or waits to be taken away.
    pub holds: bool,
}

fn as_text<S: serde::Serializer>(time: &WallTime, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&text_time(*time))
}

/// The reasons of one group, or of the site.
#[derive(Clone, Debug, Default)]
pub struct Health {
    standing: BTreeMap<Reason, (Standing, u64)>,
}

/// What a look at the observations changed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Changes {
    /// New ones.
    pub raised: Vec<Reason>,
    /// Ones taken away.
    pub cleared: Vec<Reason>,
}

impl Health {
    /// Takes what holds now into account; `mono` is a clock that never steps, in ns, `wall` is shown.
    pub fn observe(&mut self, mono: u64, wall: WallTime, seen: &[Seen]) -> Changes {
        let mut changes = Changes::default();
        for (standing, _) in self.standing.values_mut() {
            standing.holds = false;
        }
        for Seen { reason, figure, limit } in seen {
            let (message, remedy) = reason.says();
            let (standing, last) = self.standing.entry(*reason).or_insert_with(|| {
                changes.raised.push(*reason);
                let standing = Standing {
                    reason: *reason,
                    severity: reason.severity(),
                    since: wall,
                    figure: None,
                    limit: None,
                    message,
                    remedy,
                    holds: true,
                };
                (standing, mono)
            });
            (standing.figure, standing.limit, standing.holds) = (figure.clone(), limit.clone(), true);
            *last = mono;
        }
        self.standing.retain(|reason, (standing, last)| {
            let lingers = !reason.ends_for_good() && mono.saturating_sub(*last) < CLEAR_AFTER;
            let stays = standing.holds || lingers;
            if !stays {
                changes.cleared.push(*reason);
            }
            stays
        });
        changes
    }

    /// The worst of what stands.
    pub fn severity(&self) -> Severity {
        self.standing.values().map(|(s, _)| s.severity).max().unwrap_or(Severity::Ok)
    }

    /// What stands, critical ones first.
    pub fn standing(&self) -> Vec<Standing> {
        let mut all: Vec<Standing> = self.standing.values().map(|(s, _)| s.clone()).collect();
        all.sort_by_key(|s| (std::cmp::Reverse(s.severity), s.reason));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn seen(reason: Reason) -> Seen {
        Seen { reason, figure: Some("1".into()), limit: None }
    }

    #[test]
    fn raised_at_once_cleared_after_a_minute() {
        let mut health = Health::default();
        assert_eq!(health.severity(), Severity::Ok);
        let changes = health.observe(S, 5, &[seen(Reason::PeerUnreachable)]);
        assert_eq!(changes.raised, [Reason::PeerUnreachable]);
        assert_eq!(health.severity(), Severity::Warning);
        // Gone, back, gone: it stands all the time, with one `since`.
        assert_eq!(health.observe(30 * S, 6, &[]), Changes::default());
        assert!(!health.standing()[0].holds);
        assert_eq!(health.observe(40 * S, 7, &[seen(Reason::PeerUnreachable)]), Changes::default());
        assert_eq!(health.standing()[0].since, 5);
        assert_eq!(health.observe(99 * S, 8, &[]), Changes::default());
        assert_eq!(health.observe(100 * S, 9, &[]).cleared, [Reason::PeerUnreachable]);
        assert_eq!(health.severity(), Severity::Ok);
        assert_eq!(health.observe(101 * S, 10, &[seen(Reason::PeerUnreachable)]).raised.len(), 1);
        assert_eq!(health.standing()[0].since, 10);
    }

    #[test]
    fn what_ends_for_good_goes_at_once() {
        let mut health = Health::default();
        let both = [seen(Reason::NoRecoveryPoint), seen(Reason::StartWait)];
        health.observe(S, 0, &both);
        assert_eq!(health.severity(), Severity::Critical);
        assert_eq!(health.observe(2 * S, 0, &[]).cleared, [Reason::NoRecoveryPoint, Reason::StartWait]);
        assert_eq!((health.severity(), health.standing()), (Severity::Ok, vec![]));
        // A fence, or an age, may come back in a moment.
        let stays: Vec<_> = Reason::ALL.iter().filter(|r| !r.ends_for_good()).map(|r| seen(*r)).collect();
        health.observe(3 * S, 0, &stays);
        assert_eq!(health.observe(4 * S, 0, &[]), Changes::default());
    }

    #[test]
    fn critical_ones_stand_first_and_decide() {
        let mut health = Health::default();
        health.observe(
            S,
            0,
            &[seen(Reason::NeverTested), seen(Reason::SplitBrain), seen(Reason::RpoExceeded)],
        );
        assert_eq!(health.severity(), Severity::Critical);
        let order: Vec<Reason> = health.standing().iter().map(|s| s.reason).collect();
        assert_eq!(order, [Reason::RpoExceeded, Reason::SplitBrain, Reason::NeverTested]);
        let json = serde_json::to_value(health.standing()).unwrap();
        assert_eq!(json[0]["severity"], "critical");
        assert_eq!(json[0]["since"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn severities_are_as_specified() {
        let critical: Vec<Reason> =
            Reason::ALL.iter().copied().filter(|r| r.severity() == Severity::Critical).collect();
        assert_eq!(critical.len(), 17);
        assert_eq!(critical.last(), Some(&Reason::VersionMismatch));
        for reason in Reason::ALL {
            let (message, remedy) = reason.says();
            assert!(!message.ends_with('.') && remedy.ends_with('.'), "{reason}");
        }
    }
}
