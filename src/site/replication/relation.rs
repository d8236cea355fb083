//! What a group is to its peer, by its history.
//!
//! R1. The history is the truth; the catalog's `peer` only says which histories have to be looked at. So at the
//!     source the intent comes before the catalog's entry, and at a cancel its line comes before the entry goes.

use crate::group::Group;
use crate::history::{Event, Operation, ResyncReason};
use crate::vocab::{StoreId, Token};
use std::collections::BTreeSet;

/// What a group is to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Nothing.
    None,
    /// This site asks, or has asked, the peer for a standby: the first copy is not whole.
    Joining {
        /// The operation.
        op: Token,
    },
    /// This site's group has its standby at the peer.
    Source,
    /// This site keeps the standby.
    Target,
    /// The protection ended here, and the peer hasn't heard of it.
    Ended {
        /// The command.
        op: Token,
        /// Whether the peer's copy shall go.
        delete: bool,
    },
}

impl Relation {
    /// By the lines of a history, oldest first.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>, with: StoreId) -> Self {
        let mut now = Self::None;
        let mut decided = BTreeSet::new();
        for event in events {
            match event {
                Event::Epoch { row, own: true } if row.decided() => {
                    decided.insert(row.epoch);
                }
                // A source that was told to go on, and took that back, follows the other site.
                Event::Withdrawn { epoch, .. } if decided.contains(epoch) && now == Self::Source => {
                    now = Self::Target;
                }
                Event::Intent { op, operation: Operation::Initial, peer, .. } if *peer == Some(with) => {
                    now = Self::Joining { op: *op };
                }
                Event::Cancelled { op } if now == (Self::Joining { op: *op }) => now = Self::None,
                Event::Protected { peer, .. } if *peer == with => now = Self::Source,
                Event::Target { source, .. } if *source == with => now = Self::Target,
                Event::Unprotected { op, peer, delete } if *peer == with => {
                    now = Self::Ended { op: *op, delete: *delete };
                }
                Event::UnprotectHeard { op } if matches!(now, Self::Ended { op: o, .. } if o == *op) => {
                    now = Self::None;
                }
                // Whatever comes now is a first copy.
                Event::ResyncRequired { reason: ResyncReason::TargetGone } => now = Self::None,
                Event::Orphaned { peer, .. } if *peer == with => now = Self::None,
                Event::Migrated { .. } => now = Self::None,
                _ => {}
            }
        }
        now
    }

    /// Of an open group.
    pub(super) fn of_group(group: &Group, with: StoreId) -> Self {
        Self::of(group.events().iter().map(|(_, event)| event), with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Moment;

    const PEER: StoreId = StoreId([2; 16]);
    const OTHER: StoreId = StoreId([3; 16]);

    fn intent(op: u8, peer: StoreId) -> Event {
        Event::Intent { op: Token([op; 16]), operation: Operation::Initial, moment: None, peer: Some(peer) }
    }

    #[test]
    fn the_last_line_that_speaks_of_the_peer_counts() {
        let joining = |op: u8| Relation::Joining { op: Token([op; 16]) };
        let protected = |peer| Event::Protected { op: Token([1; 16]), peer, moment: Moment::default() };
        let cancelled = |op: u8| Event::Cancelled { op: Token([op; 16]) };
        let target = Event::Target { op: Token([1; 16]), source: PEER, seed: None };
        let gone = Event::Unprotected { op: Token([4; 16]), peer: PEER, delete: false };
        let ended = Relation::Ended { op: Token([4; 16]), delete: false };
        let heard = |op: u8| Event::UnprotectHeard { op: Token([op; 16]) };
        let migrated = Event::Migrated { op: Token([4; 16]) };
        for (lines, is) in [
            (vec![], Relation::None),
            (vec![intent(1, PEER)], joining(1)),
            (vec![intent(1, OTHER)], Relation::None),
            (vec![intent(1, PEER), cancelled(1)], Relation::None),
            (vec![intent(1, PEER), cancelled(2)], joining(1)),
            (vec![intent(1, PEER), cancelled(1), intent(2, PEER)], joining(2)),
            (vec![intent(1, PEER), protected(OTHER)], joining(1)),
            (vec![intent(1, PEER), protected(PEER)], Relation::Source),
            (vec![intent(1, PEER), protected(PEER), cancelled(1)], Relation::Source),
            (vec![intent(1, PEER), protected(PEER), gone.clone()], ended),
            (vec![intent(1, PEER), protected(PEER), gone.clone(), heard(5)], ended),
            (vec![intent(1, PEER), protected(PEER), gone.clone(), heard(4)], Relation::None),
            (vec![protected(PEER), gone, intent(2, PEER)], joining(2)),
            (vec![protected(PEER), migrated], Relation::None),
            (vec![target], Relation::Target),
        ] {
            assert_eq!(Relation::of(&lines, PEER), is, "{lines:?}");
        }
    }
}
