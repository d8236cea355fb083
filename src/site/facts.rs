//! What a group's history amounts to: facts, state, flags, and which decisions stand.
//!
//! A1. State and flags follow from durable lines alone; the same history gives the same state after a restart.
//! A2. A target has no standing decision of its own, and an unplanned failover that was begun and not decided has
//!     not happened: [`left_over`] names what a crash left to be finished.
//! A3. A first copy that was refused or cancelled leaves the state that it began in: a VM whose standby is gone goes on
//!     saying so.

use crate::history::{Event, Operation, ResyncReason, RowKind};
use crate::protection::{Fact, Facts, Flags, Role, State};
use crate::vocab::{EpochId, StoreId, Token};
use std::collections::HashMap;

/// What is known of a group from its history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The facts.
    pub facts: Facts,
    /// Flags of the history; those of the moment are the caller's.
    pub flags: Flags,
    /// The open test, by name.
    pub test: Option<String>,
    /// The other site, as the history names it.
    pub peer: Option<StoreId>,
    /// Own decisions that are neither withdrawn nor settled, oldest first.
    pub decisions: Vec<EpochId>,
    /// The unplanned failover that is begun and not decided.
    pub intent: Option<Token>,
    /// The decision of the other site that this one yielded to.
    pub fenced_by: Option<EpochId>,
    /// The first copy that was asked for because the peer had none any more: without its effect it is as before.
    again: Option<Token>,
    /// How many lines this was made from.
    pub lines: usize,
    operations: HashMap<Token, Operation>,
}

impl Known {
    /// From a whole history, oldest first.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut known = Self::default();
        events.into_iter().for_each(|event| known.take(event));
        known
    }

    /// The state.
    pub fn state(&self) -> State {
        self.facts.state()
    }

    /// Whether the base must stay where it is: a failover isn't committed, or who is right is not decided.
    pub fn pinned(&self) -> bool {
        matches!(
            self.state(),
            State::FailedOver | State::FailingOver | State::Rewound | State::SplitBrain | State::Fenced
        )
    }

    /// Takes one more line into account.
    pub fn take(&mut self, event: &Event) {
        self.lines += 1;
        let gone = self.state() == State::ResyncRequired && !self.facts.image;
        if let Some(fact) = self.fact(event) {
            self.facts.apply(fact);
        }
        match event {
            Event::Epoch { row, own: true } if row.decided() => {
                (self.intent, self.fenced_by) = (None, None);
                if row.kind != RowKind::Rollback {
                    self.decisions.push(row.epoch);
                }
            }
            Event::Withdrawn { epoch, .. } => self.decisions.retain(|e| e != epoch),
            Event::Intent { op, operation, peer, .. } => {
                self.operations.insert(*op, *operation);
                if *operation == Operation::Initial {
                    self.again = gone.then_some(*op);
                }
                if *operation == Operation::Failover {
                    self.intent = Some(*op);
                }
                self.peer = peer.or(self.peer);
            }
            Event::Cancelled { op } if self.intent == Some(*op) => self.intent = None,
            Event::Fence { epoch, .. } => self.fenced_by = Some(*epoch),
            Event::Committed { .. } | Event::Migrated { .. } => self.decisions.clear(),
            Event::Target { source, .. } => {
                self.peer = Some(*source);
                self.fenced_by = None;
                self.decisions.clear();
            }
            Event::Protected { peer, .. } => {
                self.peer = Some(*peer);
                self.decisions.clear();
            }
            Event::Testing { name, .. } => {
                self.test = Some(name.clone());
                self.flags.testing = true;
            }
            Event::Tested { .. } => {
                self.test = None;
                self.flags.testing = false;
            }
            Event::Paused { paused, .. } => self.flags.paused = *paused,
            Event::Unprotected { .. } => {
                self.flags.paused = false;
                self.decisions.clear();
            }
            _ => {}
        }
    }

    fn fact(&self, event: &Event) -> Option<Fact> {
        Some(match event {
            Event::Epoch { row, own: true } => match row.kind {
                RowKind::Genesis | RowKind::Open => return None,
                RowKind::Failover | RowKind::Planned | RowKind::Change | RowKind::Force => Fact::Decided,
                RowKind::Resolve => Fact::Resolved,
                RowKind::Rollback => Fact::Unfenced,
            },
            Event::Withdrawn { epoch, .. } if self.decisions.contains(epoch) => Fact::Withdrawn,
            Event::Intent { operation, .. } => match operation {
                Operation::Planned | Operation::Failover => Fact::FailoverIntent,
                Operation::Reprotect => Fact::ReprotectBegun,
                Operation::Initial => Fact::ProtectBegun,
                Operation::Resync => Fact::ResyncBegun,
            },
            Event::Cancelled { op } => match self.operations.get(op)? {
                Operation::Planned | Operation::Failover => Fact::FailoverCancelled,
                Operation::Reprotect => Fact::ReprotectCancelled,
                Operation::Initial if self.again == Some(*op) => Fact::PeerCopyGone,
                Operation::Initial => Fact::Unprotected,
                Operation::Resync => Fact::ResyncDropped,
            },
            Event::Handover { .. } => Fact::Handover,
            Event::HandoverEnded { .. } => Fact::HandoverEnded,
            Event::Fence { .. } => Fact::Fenced,
            Event::Target { seed: None, .. } => Fact::TargetBegun,
            Event::Target { seed: Some(_), .. } => Fact::ReprotectTarget,
            Event::Jump(_) if self.facts.role == Role::Target => Fact::ImagePublished,
            Event::Protected { .. } => Fact::ImagePublished,
            Event::Committed { .. } => Fact::Committed,
            Event::Migrated { .. } => Fact::Migrated,
            // The peer is told to delete what it may have made for a first copy that is given up.
            Event::Unprotected { op, .. } if self.again == Some(*op) => return None,
            Event::Unprotected { .. } => Fact::Unprotected,
            Event::Orphaned { .. } => Fact::PeerEnded,
            Event::ResyncRequired { reason: ResyncReason::TargetGone } => Fact::PeerCopyGone,
            Event::ResyncRequired { .. } => Fact::ResyncNeeded,
            Event::BacklogCoalesced { .. } => Fact::BacklogCoalesced,
            Event::Rewound { .. } => Fact::Rewound,
            Event::SplitBrain { .. } => Fact::SplitBrain,
            Event::Reconciled { .. } => Fact::Reconciled,
            _ => return None,
        })
    }
}

/// What a crash left half done (A2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftOver {
    /// This unplanned failover was never decided.
    Cancel(Token),
    /// These decisions belong to a failover of which one was taken back already.
    Withdraw(Vec<EpochId>),
}

/// What is to be finished before the group is served.
pub fn left_over(known: &Known) -> Option<LeftOver> {
    if let Some(op) = known.intent {
        return Some(LeftOver::Cancel(op));
    }
    (known.facts.role == Role::Target && !known.decisions.is_empty())
        .then(|| LeftOver::Withdraw(known.decisions.clone()))
}

#[cfg(test)]
mod tests;
