//! What a meeting came to becomes a line of the history, where it concerns more than this connection.
//!
//! V1. A line is written when the state doesn't show it yet, and only then.
//! V2. A site that writes goes on when a meeting finds that one of both went back: it stops for a decision, not for a
//!     finding.

use super::GroupSlot;
use crate::exchange::Verdict;
use crate::history::{Conflict, ConflictKind, Event, Outcome};
use crate::vocab::{Result, StoreId};

/// Writes what has to be written; what there is to say, if anything.
pub(super) fn keep(slot: &GroupSlot, own: StoreId, verdict: &Verdict) -> Result<Option<String>> {
    let known = slot.vm.known()?;
    let facts = known.facts;
    match verdict {
        Verdict::Decided(Outcome::Conflict(conflict), _) => {
            let Some(line) = line_of(conflict, own) else { return Ok(Some(conflict.to_string())) };
            let shown = match line {
                Event::SplitBrain { .. } => facts.split_brain,
                _ => facts.rewound,
            };
            if !shown {
                slot.group().note(line)?;
            }
            Ok(Some(conflict.to_string()))
        }
        Verdict::Decided(Outcome::Follow { .. } | Outcome::Yield { .. }, _)
            if facts.split_brain || facts.rewound =>
        {
            slot.group().note(Event::Reconciled { epoch: None })?;
            Ok(Some("the two sites agree again".to_owned()))
        }
        Verdict::Decided(Outcome::Yield { loser_writes: true, .. }, _) => {
            Ok(Some("one site yields to the other's decision".to_owned()))
        }
        Verdict::Unrelated => Ok(Some("the peer has another history under this group's id".to_owned())),
        _ => Ok(None),
    }
}

fn line_of(conflict: &Conflict, own: StoreId) -> Option<Event> {
    let other = conflict.sides.iter().find(|s| s.side.site != own)?;
    let common = conflict.common;
    match conflict.kind {
        ConflictKind::NobodyWrites => None,
        ConflictKind::SplitBrain => {
            let peer_epoch = *other.standing.last()?;
            Some(Event::SplitBrain { common: common.by_rows, peer_epoch })
        }
        _ => {
            Some(Event::Rewound { common: common.by_rows, proved: common.proved, peer_head: other.side.head })
        }
    }
}
