//! Planned failover and failback: who may write, step by step, at both sites.
//!
//! N1. Both sites act only on (own durable state, newest statement of the other heard in *this* connection). When the
//!     connection ends, what was heard is forgotten.
//! N2. Each step is durable, as a line of the history, before its effect and before the other side is told.
//! N3. The side that shall write decides, alone. It decides only on a handover for this very operation, heard in this
//!     connection, with everything up to the handover's head held and the chain equal there.
//! N4. A source that handed over stays frozen until it *hears* that the operation was decided (it yields) or has ended
//!     without effect (it is source again). Never by a time-out. It hands over once for an operation.
//! N5. An operation that its maker durably cancelled can't be decided any more.
//! N6. Between finding a step possible and making it durable time passes: it is made only if it still fits.
//!
//! Together: never two writers unless somebody forces it, and no acknowledged write is lost. Every interleaving is
//! explored in the tests, and leaving any of the rules out shows two writers or a lost write.

use crate::history::{ChainValue, Event, Operation, Row, RowKind};
use crate::vocab::{EpochId, Moment, Token};
use std::collections::{BTreeMap, BTreeSet};

/// What a site is as a source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum SourcePhase {
    /// It doesn't write and was not stopped: a target, or nothing yet.
    None,
    /// It writes.
    Writer,
    /// It stopped writing for an operation of the peer.
    Handed {
        /// The operation.
        op: Token,
        /// The last moment written.
        head: Moment,
        /// The chain value there.
        chain: ChainValue,
    },
    /// It yielded.
    Fenced {
        /// The operation that was decided.
        op: Token,
        /// The decided epoch.
        epoch: EpochId,
    },
}

/// A source's durable state.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SourceState {
    /// What it is.
    pub phase: SourcePhase,
    /// Operations that it ever handed over for. N4.
    pub handed: BTreeSet<Token>,
}

/// What a site is as one that shall write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum TargetPhase {
    /// Nothing is under way.
    Idle,
    /// It means to write.
    Intent {
        /// The operation.
        op: Token,
    },
    /// It decided to write, and has not taken that back.
    Promoted {
        /// The operation.
        op: Token,
        /// The decided epoch.
        epoch: EpochId,
    },
}

/// A target's durable state.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TargetState {
    /// What it is.
    pub phase: TargetPhase,
    /// Operations of its own that were cancelled or rolled back.
    pub ended: BTreeSet<Token>,
}

/// What a site says of itself as one that shall write: its whole durable state (the newest ended operations suffice).
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct TargetSays {
    /// What it is.
    pub phase: TargetPhase,
    /// Operations that ended without effect.
    pub ended: BTreeSet<Token>,
}

/// A step that the source may make now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SourceStep {
    /// Refuse writers, make everything durable, then the handover line with the head.
    Handover {
        /// The peer's operation.
        op: Token,
    },
    /// Yield: the fence line, read-only.
    Fence {
        /// The operation that was decided.
        op: Token,
        /// The decided epoch.
        epoch: EpochId,
    },
    /// The operation is over without effect: `handover-ended` (or a rollback row, if it was fenced), then writable.
    SourceAgain {
        /// The peer's operation.
        op: Token,
    },
}

/// What the source may do next, given its own durable state and what it has heard in this connection (N1).
/// `stands`: whether this side yields to that decision (`decide`); a decision on its own line is none against it.
pub fn source_next(
    own: &SourceState,
    heard: Option<&TargetSays>,
    stands: impl Fn(EpochId) -> bool,
) -> Option<SourceStep> {
    let heard = heard?;
    let against = match heard.phase {
        TargetPhase::Promoted { op, epoch } if stands(epoch) => Some((op, epoch)),
        _ => None,
    };
    match (own.phase, against) {
        (SourcePhase::Fenced { op: old, .. }, Some((op, epoch))) if old != op => {
            Some(SourceStep::Fence { op, epoch })
        }
        (SourcePhase::Writer | SourcePhase::Handed { .. }, Some((op, epoch))) => {
            Some(SourceStep::Fence { op, epoch })
        }
        (SourcePhase::Writer, None) => match heard.phase {
            TargetPhase::Intent { op } if !own.handed.contains(&op) && !heard.ended.contains(&op) => {
                Some(SourceStep::Handover { op })
            }
            _ => None,
        },
        (SourcePhase::Handed { op, .. } | SourcePhase::Fenced { op, .. }, None)
            if heard.ended.contains(&op) =>
        {
            Some(SourceStep::SourceAgain { op })
        }
        _ => None,
    }
}

impl SourceState {
    /// A site that writes.
    pub fn writer() -> Self {
        Self { phase: SourcePhase::Writer, handed: BTreeSet::new() }
    }

    /// A site that doesn't.
    pub fn none() -> Self {
        Self { phase: SourcePhase::None, handed: BTreeSet::new() }
    }

    /// The state once a step is durable; `None`: the step doesn't fit any more, because what it was asked for under has
    /// changed meanwhile. (Without this a late `SourceAgain` of an older operation thawed a source that had handed
    /// over for the next one: two writers.) `head` and `chain` count for a handover only.
    #[must_use]
    pub fn after(mut self, step: SourceStep, head: Moment, chain: ChainValue) -> Option<Self> {
        self.phase = match (step, self.phase) {
            (SourceStep::Handover { op }, SourcePhase::Writer) => {
                if !self.handed.insert(op) {
                    return None;
                }
                SourcePhase::Handed { op, head, chain }
            }
            (SourceStep::Fence { op, epoch }, phase) if phase != SourcePhase::None => {
                SourcePhase::Fenced { op, epoch }
            }
            (SourceStep::SourceAgain { op }, SourcePhase::Handed { op: own, .. }) if own == op => {
                SourcePhase::Writer
            }
            (SourceStep::SourceAgain { op }, SourcePhase::Fenced { op: own, .. }) if own == op => {
                SourcePhase::Writer
            }
            _ => return None,
        };
        Some(self)
    }

    /// Whether guests may write here.
    pub fn writes(&self) -> bool {
        self.phase == SourcePhase::Writer
    }

    /// The state once a `failover force` row is durable: it writes, whatever the other side does.
    #[must_use]
    pub fn forced(mut self) -> Self {
        self.phase = SourcePhase::Writer;
        self
    }
}

/// Whether the side that shall write may decide now (N3): the operation, if so. `holds`: whether everything up to that
/// moment is durable here, with this chain value there.
pub fn target_may_decide(
    own: &TargetState,
    heard: Option<&SourcePhase>,
    holds: impl FnOnce(Moment, ChainValue) -> bool,
) -> Option<Token> {
    match (own.phase, heard?) {
        (TargetPhase::Intent { op }, SourcePhase::Handed { op: theirs, head, chain }) if op == *theirs => {
            holds(*head, *chain).then_some(op)
        }
        _ => None,
    }
}

impl TargetState {
    /// A site with nothing under way.
    pub fn idle() -> Self {
        Self { phase: TargetPhase::Idle, ended: BTreeSet::new() }
    }

    /// The state once the intent is durable; `None`: something is under way, or the operation was used before.
    #[must_use]
    pub fn begun(&self, op: Token) -> Option<Self> {
        let free = self.phase == TargetPhase::Idle && !self.ended.contains(&op);
        free.then(|| Self { phase: TargetPhase::Intent { op }, ended: self.ended.clone() })
    }

    /// The state once the cancellation is durable; `None`: there is nothing that could be cancelled (N5).
    #[must_use]
    pub fn cancelled(&self) -> Option<Self> {
        let TargetPhase::Intent { op } = self.phase else { return None };
        Some(self.ended_with(op))
    }

    /// The state once the epoch row is durable: the decision. `None`: no operation is under way.
    #[must_use]
    pub fn decided(&self, epoch: EpochId) -> Option<Self> {
        let TargetPhase::Intent { op } = self.phase else { return None };
        Some(Self { phase: TargetPhase::Promoted { op, epoch }, ended: self.ended.clone() })
    }

    /// The state once the withdrawal is durable; `None`: nothing was decided.
    #[must_use]
    pub fn rolled_back(&self) -> Option<Self> {
        let TargetPhase::Promoted { op, .. } = self.phase else { return None };
        Some(self.ended_with(op))
    }

    fn ended_with(&self, op: Token) -> Self {
        let mut ended = self.ended.clone();
        ended.insert(op);
        Self { phase: TargetPhase::Idle, ended }
    }

    /// What it tells the other side.
    pub fn says(&self) -> TargetSays {
        TargetSays { phase: self.phase, ended: self.ended.clone() }
    }
}

/// Both states of a site, from the lines of its history in order. `op_of` finds the row of a heard epoch in what came
/// before: a fence names the epoch only.
pub fn states_of<'a>(events: impl IntoIterator<Item = &'a Event>) -> (SourceState, TargetState) {
    let (mut source, mut target) = (SourceState::none(), TargetState::idle());
    let mut rows: BTreeMap<EpochId, &Row> = BTreeMap::new();
    for event in events {
        match event {
            Event::Epoch { row, own } => {
                rows.insert(row.epoch, row);
                if *own {
                    own_epoch(row, &mut source, &mut target);
                }
            }
            Event::Intent { op, operation: Operation::Planned | Operation::Failover, .. } => {
                target.phase = TargetPhase::Intent { op: *op };
            }
            Event::Cancelled { op } if target.phase == (TargetPhase::Intent { op: *op }) => {
                target = target.ended_with(*op);
            }
            Event::Withdrawn { epoch, .. } => {
                if let TargetPhase::Promoted { op, epoch: promoted } = target.phase
                    && promoted == *epoch
                {
                    target = target.ended_with(op);
                    source.phase = SourcePhase::None;
                }
            }
            Event::Handover { op, head, chain } => {
                source.handed.insert(*op);
                source.phase = SourcePhase::Handed { op: *op, head: *head, chain: *chain };
            }
            Event::HandoverEnded { .. } => source.phase = SourcePhase::Writer,
            Event::Fence { epoch, op, .. } => {
                let op = op.unwrap_or_else(|| rows.get(epoch).map_or(Token::NONE, |r| r.op));
                source.phase = SourcePhase::Fenced { op, epoch: *epoch };
                target.phase = TargetPhase::Idle;
            }
            Event::Target { .. } => source.phase = SourcePhase::None,
            // The other side follows this decision: it is no news to it any more.
            Event::Protected { .. } => {
                if let TargetPhase::Promoted { .. } = target.phase {
                    target.phase = TargetPhase::Idle;
                }
            }
            // A copy that was let go of, or a source that had yielded, is a VM of this site from here on. (Without this one that
            // was protected again neither stopped for the peer nor yielded to it: two writers with the link up.)
            Event::Unprotected { .. } | Event::Migrated { .. } => {
                source.phase = SourcePhase::Writer;
                if let TargetPhase::Intent { op } = target.phase {
                    target = target.ended_with(op);
                }
            }
            _ => {}
        }
    }
    (source, target)
}

/// An epoch that this site began: it writes from here on, unless it had handed over (an opening changes nothing then).
fn own_epoch(row: &Row, source: &mut SourceState, target: &mut TargetState) {
    match row.kind {
        RowKind::Genesis => source.phase = SourcePhase::Writer,
        RowKind::Open => {}
        RowKind::Failover | RowKind::Planned => {
            source.phase = SourcePhase::Writer;
            target.phase = TargetPhase::Promoted { op: row.op, epoch: row.epoch };
        }
        // The point was changed within the same failover: the decision goes on under its new epoch.
        RowKind::Change => {
            source.phase = SourcePhase::Writer;
            if let TargetPhase::Promoted { op, .. } = target.phase {
                target.phase = TargetPhase::Promoted { op, epoch: row.epoch };
            }
        }
        // A decision that the other side has to hear of, like any other.
        RowKind::Force | RowKind::Resolve => {
            source.phase = SourcePhase::Writer;
            target.phase = TargetPhase::Promoted { op: row.op, epoch: row.epoch };
        }
        RowKind::Rollback => source.phase = SourcePhase::Writer,
    }
}

#[cfg(test)]
mod tests;
