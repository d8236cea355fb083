//! A failover between two sites that see each other: stopping the VM at the source, deciding at the target.
//!
//! F1. A source hands over only when its VM is off: stopped by hook or virsh, or no disk of it is open for writing.
//!     A planned failover is refused where that can't be had. For an unplanned one it is tried, and the source hands
//!     over all the same.
//! F2. What kind of failover is meant is said in each connection before the roles that ask for it; a source that
//!     wasn't told takes it for a planned one.
//! F3. An unplanned failover waits at most [`LINKED_WAIT`] for the source's word. It is decided with the side held
//!     still: nothing is received between the choice of the newest moment and the decision.

use super::{GroupSlot, Replication};
use crate::history::{Event, Operation, RowKind};
use crate::protection::Refused;
use crate::site::commands::Ground;
use crate::site::hooks::Outcome;
use crate::site::{Site, Vm};
use crate::vocab::{Error, Moment, Result, StoreId, Token};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an unplanned failover waits for a source that it is linked with.
pub(crate) const LINKED_WAIT: Duration = Duration::from_secs(10);

impl Replication {
    /// F1: the source's part, on a thread of its own: a hook may take minutes.
    pub(super) fn hand_over(self: &Arc<Self>, slot: &Arc<GroupSlot>, op: Token) {
        let planned = {
            let mut asked = slot.asked.lock();
            let planned = asked.kinds.get(&op) != Some(&Operation::Failover);
            if !asked.stopping.insert(op) {
                return;
            }
            planned
        };
        let (hub, slot_of_thread) = (Arc::clone(self), Arc::clone(slot));
        // Nobody waits for it at the end: a hook has its own time-out.
        let spawned = std::thread::Builder::new().name("hand-over".into()).spawn(move || {
            let stopped = hub.stop_vm(&slot_of_thread, planned);
            slot_of_thread.asked.lock().stopping.remove(&op);
            slot_of_thread.running.lock().permit = Some((op, stopped));
        });
        if let Err(error) = spawned {
            slot.asked.lock().stopping.remove(&op);
            let error = Error::io(error, "can't start a thread that stops the VM");
            slot.running.lock().permit = Some((op, Err(error)));
        }
    }

    fn stop_vm(&self, slot: &GroupSlot, planned: bool) -> Result<()> {
        let site = self.site()?;
        let vm = &slot.vm;
        let reason = if planned { "planned-failover" } else { "failover" };
        let mut said = Vec::new();
        let outcome = site.stop_vm(vm, reason, &mut |line| said.push(line.to_owned()))?;
        if !said.is_empty() {
            self.tell(Some(&vm.name()), format!("stop: {}", said.join(" | ")));
        }
        let writer = site.writer_of(vm.id());
        let stands = match (&outcome, writer) {
            (Outcome::Failed(why), _) => Some(why.clone()),
            (Outcome::NoMeans, Some(disk)) => Some(format!(
                "{disk} of {} is open for writing and neither libvirt nor a stop hook is there",
                vm.name()
            )),
            _ => None,
        };
        match stands {
            Some(why) if planned => {
                self.tell(Some(&vm.name()), format!("a planned failover is refused: {why}"));
                Err(Error::refused("writers-open", why)
                    .advice("Shut the VM down at its site, then try again"))
            }
            Some(why) => {
                self.tell(Some(&vm.name()), format!("the VM is not stopped, its disks are: {why}"));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Whether a session with this site is ready.
    pub(crate) fn is_connected(&self, peer: StoreId) -> bool {
        self.peer(peer).commands.lock().is_some()
    }

    /// Whether both sites of this VM's group speak with each other now.
    pub(crate) fn is_linked(&self, vm: &Vm) -> bool {
        self.linked(vm).is_ok()
    }

    /// Its slot, if so.
    pub(super) fn linked(&self, vm: &Vm) -> std::result::Result<Arc<GroupSlot>, Refused> {
        let slot = self.groups.lock().get(&vm.group_id()).cloned();
        let met =
            |slot: &Arc<GroupSlot>| slot.running.lock().side.as_ref().is_some_and(|side| side.state().met);
        slot.filter(met).ok_or_else(|| {
            let peer = vm.peer().and_then(|store| self.peer_of(store)).map(|p| p.name);
            crate::protection::Refusal::PeerUnreachable
                .with("peer", peer.unwrap_or_else(|| "the peer".into()))
        })
    }

    /// Takes over while the source can be spoken to. `moment`: where to; `newest`: the word was `latest`, so what comes
    /// in until the source has stopped counts too.
    ///
    /// # Errors
    /// Those of the store; the intent is cancelled then.
    pub(crate) fn failover_linked(
        &self,
        vm: &Arc<Vm>,
        op: Token,
        kind: RowKind,
        moment: Moment,
        newest: bool,
    ) -> Result<Moment> {
        let slot = self.linked(vm).map_err(Error::from)?;
        let peer = Some(slot.peer);
        slot.change(|running| {
            (running.roles, running.may_decide) = (true, None);
            slot.group().note(Event::Intent {
                op,
                operation: Operation::Failover,
                moment: Some(moment),
                peer,
            })
        })?;
        let until = Instant::now() + LINKED_WAIT;
        let heard = || slot.running.lock().may_decide == Some(op);
        while !heard() && Instant::now() < until && !self.is_stopped() && self.is_linked(vm) {
            std::thread::sleep(Duration::from_millis(10));
        }
        slot.change(|running| {
            running.renew = true;
            let group = slot.group();
            // F3.
            let at = if newest { group.durable_head()? } else { moment };
            let decided = group.decide(at, kind, op, None);
            if decided.is_err() && !group.table().rows().any(|row| row.op == op) {
                group.note(Event::Cancelled { op })?;
            }
            decided.map(|_| {
                let state = running.side.as_ref().map(|side| side.state());
                let ahead = state.and_then(|s| s.source_head).filter(|head| newest && head.seq > at.seq);
                if let Some(head) = ahead {
                    let text = format!(
                        "the failover went to {at}: what the source has up to {head} didn't come in time; it is there still, \
                         and `rollback` goes back to it"
                    );
                    self.tell(Some(&vm.name()), text);
                }
                at
            })
        })
    }

    /// Does something that changes what a group is, while its side stands still; the peer hears of it after.
    pub(crate) fn still<T>(&self, vm: &Vm, act: impl FnOnce() -> T) -> T {
        let slot = self.groups.lock().get(&vm.group_id()).cloned();
        match slot {
            None => act(),
            Some(slot) => slot.change(|running| {
                running.renew = true;
                act()
            }),
        }
    }
}

/// F2: the failover of this site that is begun and not decided.
pub(super) fn standing_intent(slot: &GroupSlot) -> Option<Event> {
    slot.group().with_events(|events| {
        let mut standing = None;
        for (_, event) in events {
            match event {
                Event::Intent { operation: Operation::Planned | Operation::Failover, .. } => {
                    standing = Some(event.clone());
                }
                Event::Cancelled { op } | Event::Withdrawn { op, .. } => {
                    standing = standing.filter(|i| !matches!(i, Event::Intent { op: o, .. } if o == op));
                }
                Event::Epoch { row, own: true } if row.decided() => standing = None,
                _ => {}
            }
        }
        standing
    })
}

impl Site {
    /// Lets a failover be decided with the source's consent, where it can be asked; else at once.
    pub(crate) fn failover_of(
        &self,
        vm: &Arc<Vm>,
        ground: &Ground<'_>,
        line: &str,
        (moment, newest): (Moment, bool),
        force: bool,
    ) -> std::result::Result<crate::site::commands::Done, Refused> {
        let engine = self.engine();
        let linked = engine.filter(|e| e.is_linked(vm));
        match linked {
            Some(engine) => ground.failover_by(line, force, newest, |op, kind, overrules| {
                if kind == RowKind::Force {
                    // A source that was stopped and goes on by force doesn't ask.
                    return engine.still(vm, || ground.decide(op, kind, moment, overrules));
                }
                engine.failover_linked(vm, op, kind, moment, newest)
            }),
            None => self.still(vm, || {
                ground.failover_by(line, force, newest, |op, kind, overrules| {
                    ground.decide(op, kind, moment, overrules)
                })
            }),
        }
    }

    /// As [`Replication::still`].
    pub(crate) fn still<T>(&self, vm: &Vm, act: impl FnOnce() -> T) -> T {
        match self.engine() {
            Some(engine) => engine.still(vm, act),
            None => act(),
        }
    }

    /// Replication, if it runs.
    pub(crate) fn engine(&self) -> Option<Arc<Replication>> {
        self.replicating.lock().clone()
    }
}
