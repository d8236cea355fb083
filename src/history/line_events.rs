//! The lines of a group's history file: what a site decided, did or suffered, and the epoch rows it knows.
//!
//! E1. For everything but an epoch of one's own the history is the only truth: a step is done when its line is
//!     durable and counted by a checkpoint. So every line holds what is needed to go on after a crash.
//! E2. A line of a kind that this version doesn't know is refused by name, `unsupported`: it may be the decision
//!     that forbids what this version is about to do. Unknown fields of known kinds are passed over.
//!
//! The frame of a line (number, crc, crc of the line before) belongs to the format, not to this room.

use crate::history::{ChainValue, Row};
use crate::vocab::{DiskOrdinal, EpochId, Error, Kind, LogId, Moment, Result, StoreId, Token};

/// One line: when, and what.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Line {
    /// Wall time, ns since 1970.
    pub time_ns: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What a group's site was about to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Planned failover or failback; decided by the site that shall write.
    Planned,
    /// Unplanned failover.
    Failover,
    /// The writer makes the other side its target again.
    Reprotect,
    /// The first copy to a target.
    Initial,
    /// The target is brought back onto the source's line.
    Resync,
}

/// What commit does with the recovery points of the old direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitPoints {
    /// Unpinned points go.
    Delete,
    /// Points stay under retention.
    Keep,
}

/// Why a site passed from one moment to another without the records between.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JumpReason {
    /// The first copy.
    Initial,
    /// The backlog grew beyond its allowance and was coalesced.
    Backlog,
    /// Resync on demand or because the target was off the line.
    Resync,
    /// Reprotect by delta.
    Delta,
    /// Reprotect by comparing trees.
    Tree,
    /// Reprotect by sending everything.
    Full,
    /// Images that came from outside.
    Import,
    /// A rotten range was fetched from the peer.
    Repair,
}

/// Why a resync is required.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResyncReason {
    /// The target is gone: it was unprotected there.
    TargetGone,
    /// The two sites have no way by records.
    TooFarBehind,
    /// A person asked for it.
    Asked,
    /// Content differs where it must not.
    Corruption,
}

/// A disk's size at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct DiskSize {
    /// Which file of the group.
    pub disk: DiskOrdinal,
    /// Bytes.
    pub size: u64,
}

/// A jump, published.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct JumpLine {
    /// The moment it starts from: any moment held here, not necessarily on the line of `to`; none: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Moment>,
    /// The chain value at `from`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_chain: Option<ChainValue>,
    /// The moment it leads to.
    pub to: Moment,
    /// The source's chain value at `to`: attested, not computed here.
    pub to_chain: ChainValue,
    /// The staging log that becomes part of the path.
    pub log: LogId,
    /// Entries staged in it.
    pub entries: u64,
    /// BLAKE3 over the staged entries and over the list of ranges that ends the log.
    pub hash: ChainValue,
    /// Every disk of the group at `to`, with its size.
    pub disks: Vec<DiskSize>,
    /// Disks whose content was copied straight into their bases, which are now at `to`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new_disks: Vec<DiskOrdinal>,
    /// Why.
    pub reason: JumpReason,
}

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// An epoch of this site, or one that it has heard of.
    Epoch {
        /// Its row.
        row: Row,
        /// Whether this site began it, in this store.
        own: bool,
    },
    /// A decision was taken back, with its overruling.
    Withdrawn {
        /// The decided epoch.
        epoch: EpochId,
        /// The rollback.
        op: Token,
    },
    /// This site is about to do something that needs more than one step.
    Intent {
        /// Names the operation for ever.
        op: Token,
        /// What it is.
        operation: Operation,
        /// The moment chosen, where one was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        moment: Option<Moment>,
        /// The other site, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<StoreId>,
    },
    /// An intent of this site ended without its effect.
    Cancelled {
        /// The intent.
        op: Token,
    },
    /// This site, the source, refuses writers from here on, for an operation of the peer.
    Handover {
        /// The peer's operation.
        op: Token,
        /// The last moment written; everything up to it is durable.
        head: Moment,
        /// The chain value at `head`.
        chain: ChainValue,
    },
    /// The handover's operation is known to have ended without effect: this site is source again.
    HandoverEnded {
        /// The peer's operation.
        op: Token,
    },
    /// This site yields to a decision of the other.
    Fence {
        /// The decided epoch.
        epoch: EpochId,
        /// The head when it yielded; what lies after the common moment is a branch.
        head: Moment,
        /// The common moment.
        common: Moment,
        /// The operation that it was decided for, as the peer said: a change of point goes on with that of its
        /// failover. None: that of the epoch's row.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        op: Option<Token>,
    },
    /// This site is a target from here on.
    Target {
        /// The operation (protect or reprotect).
        op: Token,
        /// The site that writes.
        source: StoreId,
        /// The image that it had before, a seed; none: it has none yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seed: Option<Moment>,
    },
    /// A jump was published.
    Jump(JumpLine),
    /// The failover is final.
    Committed {
        /// The command.
        op: Token,
        /// The epoch of the failover.
        epoch: EpochId,
        /// What became of the points.
        points: CommitPoints,
    },
    /// Protection was given up for good.
    Migrated {
        /// The command.
        op: Token,
    },
    /// The group is protected.
    Protected {
        /// The job.
        op: Token,
        /// The other site.
        peer: StoreId,
        /// The first moment that the target has.
        moment: Moment,
    },
    /// A test failover runs.
    Testing {
        /// The job.
        op: Token,
        /// Its name.
        name: String,
        /// The moment under test, held until cleanup.
        moment: Moment,
        /// Forced completion: wall time, ns since 1970.
        until_ns: i64,
        /// The log of what the clone writes.
        log: LogId,
    },
    /// A test failover ended and left nothing but this.
    Tested {
        /// The job.
        op: Token,
        /// Its name.
        name: String,
        /// What the person wrote.
        notes: String,
    },
    /// Protection is being taken away.
    Unprotecting {
        /// The command.
        op: Token,
        /// The other site.
        peer: StoreId,
        /// Whether the copy shall go.
        delete: bool,
    },
    /// Protection is gone here; the peer has to hear of it.
    Unprotected {
        /// The command.
        op: Token,
        /// The other site.
        peer: StoreId,
        /// Whether the peer's copy shall go.
        delete: bool,
    },
    /// The peer has heard of `Unprotected`: the tombstone goes.
    UnprotectHeard {
        /// The command.
        op: Token,
    },
    /// The other site gave the group up: this copy stands alone.
    Orphaned {
        /// The other site.
        peer: StoreId,
        /// Whether it was migrated, so that no reprotect is accepted for ever.
        migrated: bool,
    },
    /// The source can't go on by records.
    ResyncRequired {
        /// Why.
        reason: ResyncReason,
    },
    /// What the peer lacks isn't kept as records any more: it gets the ranges that changed, and has no moments between.
    BacklogCoalesced {
        /// The other site.
        peer: StoreId,
        /// What it had acknowledged, as far as was known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        acknowledged: Option<Moment>,
    },
    /// Two histories of which one went back: nobody follows before a person decides.
    Rewound {
        /// The common moment by the rows.
        common: Moment,
        /// The greatest moment at which the chains are equal, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proved: Option<Moment>,
        /// The other site's head.
        peer_head: Moment,
    },
    /// Two decisions made in ignorance of each other.
    SplitBrain {
        /// The common moment.
        common: Moment,
        /// The other side's standing decision.
        peer_epoch: EpochId,
    },
    /// `Rewound` or `SplitBrain` is over.
    Reconciled {
        /// The epoch that decided it; none: they were found to agree.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<EpochId>,
    },
    /// From here on flushes are answered without the target.
    SyncLost {
        /// The newest moment when it was given up.
        head: Moment,
        /// The newest moment that the target has acknowledged.
        acknowledged: Moment,
    },
    /// From here on flushes wait for the target again.
    SyncBack {
        /// The newest moment then.
        head: Moment,
    },
    /// A branch was dropped.
    BranchDropped {
        /// The command.
        op: Token,
        /// The last epoch of the branch.
        epoch: EpochId,
    },
    /// A seed was dropped.
    SeedDropped {
        /// The command.
        op: Token,
        /// The moment it shows.
        moment: Moment,
    },
    /// Replication is paused, or goes on.
    Paused {
        /// The command.
        op: Token,
        /// Whether it is paused from here on.
        paused: bool,
    },
}

impl Event {
    /// The kind, as in the line's `event` field.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Epoch { .. } => "epoch",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Intent { .. } => "intent",
            Self::Cancelled { .. } => "cancelled",
            Self::Handover { .. } => "handover",
            Self::HandoverEnded { .. } => "handover-ended",
            Self::Fence { .. } => "fence",
            Self::Target { .. } => "target",
            Self::Jump(_) => "jump",
            Self::Committed { .. } => "committed",
            Self::Migrated { .. } => "migrated",
            Self::Protected { .. } => "protected",
            Self::Testing { .. } => "testing",
            Self::Tested { .. } => "tested",
            Self::Unprotecting { .. } => "unprotecting",
            Self::Unprotected { .. } => "unprotected",
            Self::UnprotectHeard { .. } => "unprotect-heard",
            Self::Orphaned { .. } => "orphaned",
            Self::ResyncRequired { .. } => "resync-required",
            Self::BacklogCoalesced { .. } => "backlog-coalesced",
            Self::Rewound { .. } => "rewound",
            Self::SplitBrain { .. } => "split-brain",
            Self::Reconciled { .. } => "reconciled",
            Self::SyncLost { .. } => "sync-lost",
            Self::SyncBack { .. } => "sync-back",
            Self::BranchDropped { .. } => "branch-dropped",
            Self::SeedDropped { .. } => "seed-dropped",
            Self::Paused { .. } => "paused",
        }
    }
}

/// Every kind that this version knows.
const KINDS: [&str; 28] = [
    "epoch",
    "withdrawn",
    "intent",
    "cancelled",
    "handover",
    "handover-ended",
    "fence",
    "target",
    "jump",
    "committed",
    "migrated",
    "protected",
    "testing",
    "tested",
    "unprotecting",
    "unprotected",
    "unprotect-heard",
    "orphaned",
    "resync-required",
    "backlog-coalesced",
    "rewound",
    "split-brain",
    "reconciled",
    "sync-lost",
    "sync-back",
    "branch-dropped",
    "seed-dropped",
    "paused",
];

impl Line {
    /// The line's JSON, one line without a newline.
    pub fn to_json(&self) -> Vec<u8> {
        // Structs of ids, numbers and strings always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A line from its JSON. `Unsupported` if this version doesn't know the kind (E2), `Damaged` if it can't be
    /// read at all.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let damaged =
            |e: String| Error::new(Kind::Damaged, format!("a line of the history can't be read: {e}"));
        let value: serde_json::Value = serde_json::from_slice(json).map_err(|e| damaged(e.to_string()))?;
        let name =
            value.get("event").and_then(|n| n.as_str()).ok_or_else(|| damaged("it has no event".into()))?;
        if !KINDS.contains(&name) {
            let what = format!("the history holds a line of a kind that this version doesn't know: `{name}`");
            let advice = "Use the version of standbyfs that wrote it, or a later one";
            return Err(Error::new(Kind::Unsupported, what).advice(advice));
        }
        let line: Self = serde_json::from_slice(json).map_err(|e| damaged(format!("`{name}`: {e}")))?;
        if let Event::Epoch { row, .. } = &line.event {
            row.check()?;
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests;
