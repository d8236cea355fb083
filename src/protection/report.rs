//! What a site says about itself, its groups and commands: plain facts, filled in by who knows them and rendered as
//! text and JSON by who serves the files.

use super::control::quote;
use super::health::{Severity, Standing};
use super::{Flags, Refused, State, Verb, WallTime};
use crate::vocab::Moment;

/// How old the standby is. Sites' clocks are never subtracted for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpo {
    /// There is no standby.
    None,
    /// So many ns, by a confirmation that is fresh.
    Age(u64),
    /// At least so many ns: there is no contact.
    AtLeast(u64),
}

/// What the peer lacks, in bytes of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// So many.
    Bytes(u64),
    /// At least so many: what it acknowledged last isn't held any more.
    AtLeast(u64),
    /// The peer wasn't heard since the start.
    Unknown,
}

impl Lacking {
    /// As far as it is known.
    pub fn known(self) -> u64 {
        match self {
            Self::Bytes(bytes) | Self::AtLeast(bytes) => bytes,
            Self::Unknown => 0,
        }
    }
}

/// The other site, as seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerReport {
    /// Its name.
    pub name: String,
    /// Since when there is a connection (`Ok`) or none (`Err`), wall time.
    pub connected: Result<WallTime, WallTime>,
    /// What it writes: `Some(true)` it does, `Some(false)` it has acknowledged that it doesn't, `None` unknown since
    /// the connection was lost.
    pub writing: Option<bool>,
}

/// A file of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskReport {
    /// VM and path in it.
    pub name: String,
    /// `os`, `data` or `companion`.
    pub role: &'static str,
    /// Its identity.
    pub uuid: String,
    /// Size in bytes.
    pub size: u64,
    /// Bytes allocated.
    pub allocated: u64,
}

/// A moment with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The moment.
    pub moment: Moment,
    /// Its wall time, by the source's clock.
    pub time: WallTime,
}

/// `status` of a VM or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    /// VM or group.
    pub name: String,
    /// Its identity.
    pub uuid: String,
    /// The group, if it has other members.
    pub group: Option<String>,
    /// This site's name.
    pub site: String,
    /// The state here.
    pub state: State,
    /// What holds beside it.
    pub flags: Flags,
    /// From which site to which it ships.
    pub direction: Option<(String, String)>,
    /// The other site.
    pub peer: Option<PeerReport>,
    /// The worst of health.
    pub health: Severity,
    /// How old the standby is.
    pub rpo: Rpo,
    /// Bytes written and not durable at the target.
    pub backlog: Lacking,
    /// The newest moment, durable or not.
    pub head: Option<At>,
    /// The newest that is durable and checked.
    pub processed: Option<At>,
    /// The oldest that can be gone to.
    pub oldest: Option<At>,
    /// The name of the newest recovery point, and how many there are.
    pub points: (Option<String>, u64),
    /// Bytes of logs, index and holds.
    pub used: u64,
    /// Bytes that they may have.
    pub allowance: u64,
    /// Records appended since the group was opened, and the batches that they came in.
    pub appended: (u64, u64),
    /// The job under way.
    pub job: Option<String>,
    /// How long it still waits for its peer before it takes writes, ns.
    pub start_wait: Option<u64>,
    /// Time, result of the last test failover.
    pub last_test: Option<(WallTime, String)>,
    /// The files.
    pub disks: Vec<DiskReport>,
    /// The next sensible step.
    pub next: String,
}

/// `health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// The worst.
    pub severity: Severity,
    /// What stands.
    pub reasons: Vec<Standing>,
}

/// Why there are no moments, or ambiguous ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapReport {
    /// The last moment before it; none: it begins with the history.
    pub from: Option<At>,
    /// The first after it.
    pub to: At,
    /// Why: `initial`, `coalesced`, `resync`, `clock-step` …
    pub reason: String,
}

/// What one choice of a moment loses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossReport {
    /// The word or name to type.
    pub choice: String,
    /// The moment that it stands for now.
    pub moment: At,
    /// Bytes written after it, as far as is known here; none: that can't be told.
    pub bytes: Option<u64>,
    /// Writes after it.
    pub writes: u64,
    /// Time between its last write and the newest one known, in ns.
    pub age: u64,
    /// Whether more may be lost than is known here: there is no contact with the writer.
    pub at_least: bool,
}

/// What reading a control file shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlReport {
    /// The verb.
    pub verb: Verb,
    /// Whether it would be accepted now.
    pub now: super::admission::Allowed,
    /// What each choice loses.
    pub losses: Vec<LossReport>,
    /// On the handle that wrote: the line, and what came of it.
    pub outcome: Option<(String, Outcome)>,
}

/// What came of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted, carried out by this job.
    Job(String),
    /// Accepted and done; what there is to say, such as a pairing token.
    Done(String),
    /// `dry-run`: what would happen, and the expected outage in ns, if it can be told.
    WouldDo {
        /** The steps. */
        steps: Vec<String>,
        /** The outage. */
        outage: Option<u64>,
    },
    /// Refused.
    Refused(Refused),
}

/// `site/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteReport {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// The version that runs.
    pub version: String,
    /// Wall time of its start.
    pub started: WallTime,
    /// The store's directory.
    pub store: String,
    /// Where it listens, if it does.
    pub listen: Option<String>,
    /// The fingerprint of its certificate.
    pub fingerprint: String,
    /// The worst health of all groups.
    pub health: Severity,
    /// Groups by state.
    pub groups: Vec<(State, u64)>,
    /// Bytes free and in all on the store's filesystem.
    pub room: (u64, u64),
    /// Peers.
    pub peers: Vec<PeerReport>,
}

/// The next sensible step, as a sentence with the line to type.
pub fn next_step(state: State, name: &str, paired: bool, tested: bool, critical: bool) -> String {
    let name = quote(name);
    match state {
        State::Unprotected if !paired => "Pair with another site: `standbyctl pair create` there.".to_owned(),
        State::Unprotected => format!("Protect it: `standbyctl protect {name}`."),
        State::InitialReplication | State::Receiving => "Wait until the first copy is whole.".to_owned(),
        State::Resyncing | State::ResyncingTarget | State::Reprotecting => {
            "Wait until it has caught up.".to_owned()
        }
        State::ResyncRequired => format!("Send what differs: `standbyctl resync {name}`."),
        State::Protected | State::Standby if critical => "Do what `health` says.".to_owned(),
        State::Protected | State::Standby if !tested => {
            "Nothing needs to be done. A test failover has not been made yet.".to_owned()
        }
        State::Protected | State::Standby => "Nothing needs to be done.".to_owned(),
        State::HandingOver => "Wait for the other site's word, or bring the link back.".to_owned(),
        State::Fenced => "The VM runs at the other site: go on there.".to_owned(),
        State::SplitBrain => {
            "Decide which site shall go on; `rollback` where a failover isn't wanted.".to_owned()
        }
        State::Rewound => "Compare both sites' `status`; take over where the right history is.".to_owned(),
        State::FailedOver => {
            format!("Check the VM, then `standbyctl commit {name}`, or `standbyctl rollback {name}`.")
        }
        State::Committed => format!(
            "This VM has no standby. Until `reprotect` is there: `standbyctl unprotect {name}`; at the other site \
             `standbyctl unprotect {name} --force --delete`, which removes the older copy; then `standbyctl protect {name}`."
        ),
        State::FailingOver => "Wait for the failover, or cancel its job.".to_owned(),
        State::Orphaned => {
            format!(
                "`standbyctl unprotect {name} --force` makes it a VM of this site; with `--delete` the copy goes."
            )
        }
    }
}
