//! The request for a standby: `protect` at the source, and what the peer does with it.
//!
//! J1. The intent is durable before the peer hears of it. While it stands, it is said again in each connection.
//! J2. At the peer the group and its `target` line are durable before the catalog's entry, and that before the answer.
//!     Each prefix of it is a state from which the same request goes on.
//! J3. The same request twice ends in the same standby.

use super::{Command, GroupSlot, Relation, Replication};
use crate::exchange::Join;
use crate::format::AddPayload;
use crate::group::{Group, GroupParts};
use crate::history::{DiskSize, Event, Operation};
use crate::link::Peer;
use crate::protection::{Refusal, State};
use crate::site::Vm;
use crate::site::names::{check_vm, is_disk};
use crate::vocab::{Error, GroupId, Kind, Result, StoreId, Token};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// How long `protect` waits for a session with a peer that is being called.
const SESSION_WAIT: std::time::Duration = std::time::Duration::from_secs(3);

/// The peer's answer.
pub(super) enum Answered {
    /// It keeps a standby.
    Joined,
    /// It doesn't.
    Declined {
        /// A name that the documentation has.
        name: String,
        /// One sentence.
        text: String,
    },
}

/// What is asked of the peer. `as_name`: the VM's name there, if not its own.
pub(super) fn request(slot: &GroupSlot, op: Token, as_name: Option<&str>) -> Join {
    let name = as_name.map_or_else(|| slot.vm.name(), str::to_owned);
    slot.group().names_now(|names| {
        let disks = names.files.iter().map(|(disk, f)| DiskSize { disk: *disk, size: f.size }).collect();
        let files = names.files.values().filter_map(|f| {
            let add = AddPayload {
                vm: f.vm,
                vm_name: slot.vm.name(),
                single: slot.vm.single(),
                file: f.file,
                path: f.path.clone(),
                kind: f.kind,
                size: f.size,
            };
            serde_json::to_value(add).ok()
        });
        Join { op, name, policy: Vec::new(), disks, names: files.collect() }
    })
}

/// Ends an intent without its effect. False: it has had its effect meanwhile. `perhaps`: the peer may have made a
/// standby; it is told, and deletes what isn't whole (E2 of `ended`).
pub(super) fn give_up(hub: &Replication, slot: &GroupSlot, op: Token, perhaps: bool) -> Result<bool> {
    let mut joining = slot.joining.lock();
    if *joining != Some(op) {
        return Ok(false);
    }
    slot.group().record_line(Event::Cancelled { op })?;
    *joining = None;
    if perhaps {
        slot.group().record_line(Event::Unprotected { op, peer: slot.peer, delete: false })?;
        slot.running.lock().renew = true;
        return Ok(true);
    }
    if hub.leave(slot)? {
        hub.drop_slot(slot.id());
    } else {
        slot.running.lock().side = None;
    }
    Ok(true)
}

impl Replication {
    /// The peer has nothing of a group any more and knows it. False: it stays the peer of one that still wants a standby
    /// there.
    pub(super) fn leave(&self, slot: &GroupSlot) -> Result<bool> {
        if slot.vm.known()?.state() == State::ResyncRequired {
            return Ok(false);
        }
        self.site()?.set_peer(&slot.vm, None)?;
        Ok(true)
    }

    /// The protection of a group ended here, by a line of its history: what was asked of the peer is asked no more.
    pub(crate) fn asks_no_more(&self, group: GroupId) {
        let slot = self.groups.lock().get(&group).cloned();
        if let Some(slot) = slot {
            *slot.joining.lock() = None;
        }
    }

    /// Whether a standby of this VM can be asked for.
    ///
    /// # Errors
    /// Refused `peer-not-registered`, `already-protected`, `no-disk`, `peer-unreachable`.
    pub(super) fn may_protect(&self, vm: &Arc<Vm>, peer: &str, as_name: Option<&str>) -> Result<()> {
        let peer = self.peer_named(peer)?;
        check_vm(as_name.unwrap_or(&vm.name()))?;
        let group = vm.group()?;
        let stands = match vm.peer() {
            None => false,
            Some(old) => match Relation::of_group(&group, old) {
                Relation::None => false,
                // The one to be asked is told, in one breath, that it goes on.
                Relation::Ended { .. } if old == peer.store => false,
                _ => true,
            },
        };
        if stands {
            return Err(Error::refused("already-protected", format!("{} has a target", vm.name()))
                .advice("To change the target, `unprotect` first"));
        }
        if !vm.single() && !group.names_now(|n| n.files.values().any(|f| is_disk(&f.path))) {
            return Err(Error::refused("no-disk", format!("{} has no disk image", vm.name()))
                .advice("Create or import one first"));
        }
        // Directly after a pairing or a start both sites are still finding each other.
        let until = std::time::Instant::now() + SESSION_WAIT;
        while self.peer(peer.store).commands.lock().is_none() {
            if std::time::Instant::now() >= until || self.is_stopped() {
                return Err(unreachable(&peer));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    }

    /// Asks a peer to keep a standby of this VM, and waits for its answer; the first copy goes on by itself.
    /// `as_name`: the VM's name there. Returns the operation.
    ///
    /// # Errors
    /// Those of `may_protect`; what the peer refuses: `name-taken`, `duplicate-disk`, `no-space`, `peer-refused`.
    pub fn protect(&self, vm: &Arc<Vm>, peer: &str, as_name: Option<&str>) -> Result<Token> {
        let op = Token(self.site()?.entropy().random_128());
        self.protect_as(vm, peer, as_name, op).map(|()| op)
    }

    /// As [`Self::protect`], for this operation.
    pub(super) fn protect_as(
        &self,
        vm: &Arc<Vm>,
        peer: &str,
        as_name: Option<&str>,
        op: Token,
    ) -> Result<()> {
        let _one = self.protecting.lock();
        self.may_protect(vm, peer, as_name)?;
        let peer = self.peer_named(peer)?;
        let name = as_name.map_or_else(|| vm.name(), str::to_owned);
        let group = vm.group()?;
        let commands = self.peer(peer.store).commands.lock().clone().ok_or_else(|| unreachable(&peer))?;
        let site = self.site()?;
        self.drop_slot(vm.group_id());
        let intent =
            Event::Intent { op, operation: Operation::Initial, moment: None, peer: Some(peer.store) };
        group.record_line(intent)?;
        site.set_peer(vm, Some(peer.store))?;
        let slot = self.slot_of(vm, peer.store)?;
        let join = Box::new(request(&slot, op, Some(&name)));
        let (answer, answered) = channel();
        let sent = commands.send(Command::Join { slot: Arc::clone(&slot), join, answer });
        let heard = sent.ok().and_then(|()| answered.recv_timeout(self.options.answer_wait).ok());
        match heard {
            Some(Answered::Joined) => {
                self.tell(Some(&vm.name()), format!("{} keeps a standby, `{name}`", peer.name));
                Ok(())
            }
            Some(Answered::Declined { name, text }) => {
                give_up(self, &slot, op, false)?;
                let refusal = name.parse::<Refusal>().unwrap_or(Refusal::PeerRefused);
                let said = match refusal {
                    Refusal::PeerRefused => text,
                    _ => format!("{} refuses: {text}", peer.name),
                };
                Err(Error::refused("peer-refused", said)
                    .named(refusal.name())
                    .advice("Do there what it says"))
            }
            None if give_up(self, &slot, op, true)? => Err(unreachable(&peer)),
            None => Ok(()),
        }
    }
}

fn unreachable(peer: &Peer) -> Error {
    Error::new(Kind::Unreachable, format!("{} doesn't answer", peer.name))
        .named("peer-unreachable")
        .advice("Look at `site/peers/` and at the network between the sites")
}

/// A standby for a peer's group, made or found.
///
/// # Errors
/// Refused `name-taken`, `already-protected`, `duplicate-disk`, `invalid`; errors of the store.
pub(super) fn admit(hub: &Replication, peer: &Peer, group: GroupId, join: &Join) -> Result<Arc<GroupSlot>> {
    check_vm(&join.name)?;
    let files: Vec<AddPayload> =
        join.names.iter().filter_map(|v| serde_json::from_value(v.clone()).ok()).collect();
    let Some(first) = files.first() else {
        return Err(Error::refused("no-disk", "the request names no file"));
    };
    if files.len() != join.names.len() || files.iter().any(|f| f.vm != first.vm) {
        return Err(Error::refused("not-supported-yet", "groups of several VMs can't be copied yet"));
    }
    let site = hub.site()?;
    let known = site.vms().into_iter().find(|vm| vm.group_id() == group || vm.id() == first.vm);
    let vm = match known {
        Some(vm) if vm.group_id() == group && vm.peer() == Some(peer.store) => {
            match Relation::of_group(&*vm.group()?, peer.store) {
                Relation::Target => vm,
                _ if vm.known()?.state() == State::Orphaned => {
                    let text = format!("an earlier copy, {}, stands alone here", vm.name());
                    let advice = format!("At this site: `unprotect` `delete force confirm={}`", vm.name());
                    return Err(Error::refused("duplicate-disk", text).advice(advice));
                }
                _ => {
                    let text = format!("{} is active here, as a VM of this site", vm.name());
                    return Err(Error::refused("duplicate-disk", text).advice(
                        "Protect it from this site, or remove it here: it has the same disks as the VM that is to be \
                         protected",
                    ));
                }
            }
        }
        Some(vm) => {
            let text = format!("{} is here already, not as a standby of {}", vm.name(), peer.name);
            return Err(Error::refused("duplicate-disk", text)
                .advice("Protect it from this site, or remove it here: it has the same disks"));
        }
        None if site.vm(&join.name).is_some() => {
            return Err(Error::refused("name-taken", format!("there is a VM {} already", join.name))
                .advice("Protect under another name: `as=<name>`"));
        }
        None => {
            let make = |parts, id| target(hub, parts, id, join.op, peer.store);
            let vm = site.adopt_vm(&join.name, first.vm, group, first.single, peer.store, make)?;
            hub.tell(Some(&join.name), format!("a standby for {}", peer.name));
            vm
        }
    };
    hub.slot_of(&vm, peer.store)
}

/// J2: the group with its line.
fn target(
    hub: &Replication,
    parts: GroupParts,
    id: GroupId,
    op: Token,
    source: StoreId,
) -> Result<Arc<Group>> {
    let group = match hub.options.sides.create_target(parts.clone(), id) {
        // What an earlier request left before its catalog's entry.
        Err(error) if error.kind() == Kind::Exists => {
            let (group, _) = Group::open(parts, id)?;
            group.freeze(crate::group::Gate::Target);
            group
        }
        other => other?,
    };
    if Relation::of_group(&group, source) != Relation::Target {
        group.record_line(Event::Target { op, source, seed: None })?;
    }
    Ok(group)
}
