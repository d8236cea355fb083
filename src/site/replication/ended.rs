//! The end of a protection, told to the other site.
//!
//! E1. What ended here is told in each connection until the peer says that it has heard: nothing is remembered of a
//!     connection.
//! E2. Only a copy that follows is deleted on the peer's word. One that was failed over to stays.
//!     One without a whole image is of use to nobody and goes, whatever the word was.
//! E4. A planned failover that waits for a source which has ended the protection is over: nobody hands over to it.
//! E3. A group that the peer doesn't have at all is gone there: the source says so, and ships nothing.

use super::{GroupSlot, Relation, Replication};
use crate::exchange::{About, Frame};
use crate::group::Group;
use crate::history::{Event, ResyncReason, TargetPhase, states_of};
use crate::link::Peer;
use crate::protection::State;
use crate::vocab::{GroupId, Result, Token};

/// What is said of a group whose protection ended here.
pub(super) fn notice(slot: &GroupSlot, op: Token, delete: bool, own: crate::vocab::StoreId) -> Frame {
    let notices = vec![Event::Unprotected { op, peer: own, delete }];
    Frame::about(slot.id(), About::Notices { notices })
}

/// The answer.
pub(super) fn heard(group: GroupId, op: Token) -> Frame {
    Frame::about(group, About::Notices { notices: vec![Event::UnprotectHeard { op }] })
}

/// The failover that is begun and not decided.
fn intent_of(group: &Group) -> Option<Token> {
    match group.with_events(|events| states_of(events.iter().map(|(_, e)| e)).1.phase) {
        TargetPhase::Intent { op } => Some(op),
        _ => None,
    }
}

impl Replication {
    /// The peer ended the protection. True: it may forget that.
    pub(super) fn peer_ended(&self, peer: &Peer, group: GroupId, op: Token, delete: bool) -> Result<bool> {
        let site = self.site()?;
        let Some(vm) = site.vms().into_iter().find(|vm| vm.group_id() == group) else { return Ok(true) };
        if vm.peer() != Some(peer.store) {
            return Ok(true);
        }
        // A command on it may be at work: the next connection tells it again.
        let Some(_one) = vm.commanding.try_lock() else { return Ok(false) };
        let open = vm.group()?;
        let relation = Relation::of_group(&open, peer.store);
        let state = vm.known()?.state();
        let follows = state.is_target() && state != State::FailingOver;
        let told =
            |text: &str| self.tell(Some(&vm.name()), format!("{} ended the protection: {text}", peer.name));
        match relation {
            Relation::Target if (delete || state == State::Receiving) && follows => {
                self.drop_slot(group); // E2
                open.note(Event::Unprotected { op, peer: peer.store, delete: false })?;
                site.set_peer(&vm, None)?;
                site.remove_vm(&vm)?;
                told("the copy is deleted");
            }
            Relation::Target => {
                self.drop_slot(group);
                // E4.
                if let Some(op) = intent_of(&open) {
                    open.note(Event::Cancelled { op })?;
                }
                open.note(Event::Orphaned { peer: peer.store, migrated: false })?;
                told("this copy stands alone");
            }
            // It had yielded to the peer's decision: what it has is the older copy, and nobody's standby any more. E2.
            Relation::Source if vm.known()?.facts.fenced => {
                self.drop_slot(group);
                open.note(Event::Orphaned { peer: peer.store, migrated: false })?;
                told("this older copy stands alone");
            }
            Relation::Source | Relation::Joining { .. } => {
                self.target_gone(peer, &vm)?;
                if let Some(slot) = self.groups.lock().get(&group) {
                    slot.running.lock().side = None;
                }
            }
            Relation::None | Relation::Ended { .. } => {}
        }
        Ok(true)
    }

    /// The peer has heard.
    pub(super) fn peer_heard(&self, slot: &GroupSlot, op: Token) -> Result<()> {
        // A command may be protecting it again: it is told, and answered, once more.
        let Some(_one) = slot.vm.commanding.try_lock() else {
            slot.running.lock().renew = true;
            return Ok(());
        };
        if !matches!(Relation::of_group(&slot.group(), slot.peer), Relation::Ended { op: o, .. } if o == op) {
            return Ok(());
        }
        let site = self.site()?;
        // A copy that was deleted here has nothing to remember.
        if site.vms().iter().any(|vm| vm.group_id() == slot.id()) {
            slot.group().note(Event::UnprotectHeard { op })?;
            self.leave(slot)?;
        }
        self.drop_slot(slot.id());
        Ok(())
    }

    /// E3.
    pub(super) fn target_gone(&self, peer: &Peer, vm: &crate::site::Vm) -> Result<()> {
        if vm.known()?.facts.resync_needed {
            return Ok(());
        }
        vm.group()?.note(Event::ResyncRequired { reason: ResyncReason::TargetGone })?;
        self.tell(Some(&vm.name()), format!("resync-required: {} has no copy any more", peer.name));
        Ok(())
    }

    /// Ends a group's side. The thread of the connection forgets it.
    pub(crate) fn drop_slot(&self, group: GroupId) {
        let Some(slot) = self.groups.lock().remove(&group) else { return };
        let mut running = slot.running.lock();
        (running.side, running.gone) = (None, true);
    }
}
