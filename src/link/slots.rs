//! One connection a peer: which one stays when both sites dial.
//!
//! D1. At most one live connection to a peer is handed to the daemon and not ended by this code.
//! D2. The listening side refuses a new connection (`duplicate-connection`) if it holds one that it dialled
//!     itself and that shows life. A connection that the peer dialled is replaced by the peer's next one: a site
//!     dials only when it holds none.
//! D3. When two sites dial each other at the same moment, both may end up with two fresh connections; both keep
//!     the one that the site with the smaller store id dialled. So they keep the same one.

use crate::link::connection::Shared;
use crate::link::{Rate, node::DialState};
use crate::vocab::StoreId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// What is known of one peer's connection.
pub(super) struct Slot {
    current: Mutex<Option<Arc<Shared>>>,
    /// Attempts of this site to dial.
    pub state: Mutex<DialState>,
    /// The limit of this peer.
    pub rate: Rate,
    /// Wakes who waits to dial again.
    pub wake: Notify,
    /// One admission at a time.
    pub admission: tokio::sync::Mutex<()>,
}

/// The slots of all peers.
#[derive(Default)]
pub(super) struct Slots(Mutex<HashMap<StoreId, Arc<Slot>>>);

impl Slots {
    pub(super) fn of(&self, peer: StoreId) -> Arc<Slot> {
        let fresh = || {
            Arc::new(Slot {
                current: Mutex::new(None),
                state: Mutex::default(),
                rate: Rate::default(),
                wake: Notify::new(),
                admission: tokio::sync::Mutex::new(()),
            })
        };
        Arc::clone(self.0.lock().entry(peer).or_insert_with(fresh))
    }

    pub(super) fn end_all(&self, reason: &str) {
        let slots: Vec<_> = self.0.lock().values().cloned().collect();
        slots.iter().filter_map(|slot| slot.live()).for_each(|connection| connection.end(reason));
    }
}

impl Slot {
    /// The connection, if there is one that hasn't ended.
    pub(super) fn live(&self) -> Option<Arc<Shared>> {
        self.current.lock().clone().filter(|c| c.reason().is_none())
    }

    /// D2: whether a connection that the peer dialled may take the place of what is here.
    pub(super) async fn admits(&self, own: StoreId, probe: Duration) -> bool {
        match self.live() {
            Some(existing) if existing.dialler == own => !existing.probe(probe).await,
            _ => true,
        }
    }

    /// Puts a new connection here; ends the one that loses (D3). Whether the new one stays.
    pub(super) fn install(&self, new: &Arc<Shared>) -> bool {
        let mut current = self.current.lock();
        let existing = current.clone().filter(|c| c.reason().is_none());
        if existing.as_ref().is_some_and(|e| e.dialler < new.dialler && !Arc::ptr_eq(e, new)) {
            drop(current);
            new.end("both sites dialled; the other connection stays");
            return false;
        }
        *current = Some(Arc::clone(new));
        drop(current);
        if let Some(existing) = existing {
            existing.end("a newer connection took its place");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(dialler: u8) -> Arc<Shared> {
        Shared::new(StoreId([9; 16]), StoreId([dialler; 16]), 1, Vec::new())
    }

    /// D3: whatever the order in which each side learns of the two connections, both keep the same one.
    #[test]
    fn both_sites_keep_the_same_of_two_fresh_connections() {
        for order in [[1, 2], [2, 1]] {
            let slots = Slots::default();
            let slot = slots.of(StoreId([9; 16]));
            let made: Vec<_> = order.iter().map(|&dialler| shared(dialler)).collect();
            made.iter().for_each(|connection| {
                slot.install(connection);
            });
            let kept = slot.live().unwrap();
            assert_eq!(kept.dialler, StoreId([1; 16]), "order {order:?}");
            let ended: Vec<_> = made.iter().filter(|c| c.reason().is_some()).map(|c| c.dialler).collect();
            assert_eq!(ended, [StoreId([2; 16])], "order {order:?}");
        }
    }

    #[test]
    fn the_same_sites_newer_connection_takes_the_place() {
        let slot = Slots::default().of(StoreId([9; 16]));
        let (old, new) = (shared(1), shared(1));
        assert!(slot.install(&old) && slot.install(&new));
        assert!(old.reason().is_some() && Arc::ptr_eq(&slot.live().unwrap(), &new));
        new.end("cut");
        assert!(slot.live().is_none());
        assert!(slot.install(&shared(5)), "an ended one is in nobody's way");
    }
}
