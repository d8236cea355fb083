//! Commands that need a peer, as control files give them.
//!
//! O1. A command is refused with nothing changed, or what was decided is durable when it returns.
//! O2. A job that waits for the peer occupies no thread: it is looked at again and again (`tend`), and what became of
//!     it follows from the history, so that a restart in between changes nothing.

use super::{Relation, Replication as Engine};
use crate::history::{Event, Operation};
use crate::protection::control::{Action, Command, MomentRef, Pairing, Source};
use crate::protection::job::{Job, JobKind};
use crate::protection::{Refusal, Refused, State};
use crate::site::commands::{Done, Replication, operation_of, refused};
use crate::site::{Site, Vm};
use crate::vocab::{Error, Kind, Result as Outcomes, StoreId, Token};
use std::sync::{Arc, Weak};

/// Carries out what needs a peer; starts the replication where it isn't running.
pub(crate) struct Operations {
    site: Weak<Site>,
}

impl Operations {
    pub(crate) fn new(site: &Arc<Site>) -> Self {
        Self { site: Arc::downgrade(site) }
    }

    fn engine(&self) -> Outcomes<Arc<Engine>> {
        let closing = || Error::new(Kind::Unreachable, "the site is closing");
        self.site.upgrade().ok_or_else(closing)?.replicate()
    }
}

impl Replication for Operations {
    fn carry_out(
        &self,
        site: &Site,
        vm: Option<&Arc<Vm>>,
        command: &Command,
        line: &str,
    ) -> Result<Done, Refused> {
        let engine = self.engine().map_err(refused)?;
        let not_yet = |what: &str| Refusal::NotSupportedYet.with("verb", what);
        match (&command.action, vm) {
            (Action::Pair(Pairing::Create), _) => done(engine.pair_create(Vec::new()).map_err(refused)?),
            (Action::Pair(Pairing::Accept(token)), _) => {
                let peer = engine.pair_accept(token).map_err(refused)?;
                done(format!("paired with {}", peer.name))
            }
            (Action::Accept { site: peer }, _) => {
                engine.accept_identity(peer).map_err(refused)?;
                done(format!("{peer} is taken for the right one at the next connection"))
            }
            (Action::Forget { site: peer }, _) => {
                engine.forget(peer)?;
                done(format!("{peer} is forgotten"))
            }
            (Action::Protect { policy: Some(_), .. }, _) => Err(not_yet("protect policy=")),
            (Action::Protect { to, as_name, .. }, Some(vm)) => {
                protect(&engine, site, vm, to.as_deref(), as_name.as_deref(), line)
            }
            (Action::Resync, Some(vm)) => resync(&engine, site, vm, line),
            (Action::Failover { source: Some(Source::Leave), .. }, _) => {
                Err(not_yet("failover source=leave"))
            }
            (Action::Failover { planned: true, moment, .. }, Some(vm)) => {
                if moment.as_ref().is_some_and(|m| *m != MomentRef::Latest) {
                    return Err(Refusal::Invalid.with("what", "a planned failover goes to the latest moment"));
                }
                planned(&engine, site, vm, line)
            }
            _ => Err(not_yet(command.verb.name())),
        }
    }
}

fn done(says: String) -> Result<Done, Refused> {
    Ok(Done { job: None, says, rest: None })
}

/// A job that [`Engine::tend`] ends.
fn admit(site: &Site, vm: &Vm, kind: JobKind, line: &str, steps: &[&str]) -> Outcomes<(Job, Token)> {
    let job = site.jobs().admit(kind, &vm.name(), Some(vm.group_id()), true, line, steps)?;
    let op = operation_of(site.store().id(), vm.group_id(), &job.id);
    site.jobs().update(&job.id, |job, now| {
        job.next_step(now);
    })?;
    Ok((job, op))
}

fn failed(site: &Site, job: &Job, error: Error) -> Refused {
    let refused = refused(error);
    super::tend::fail(site, &job.id, &refused.to_string(), Some(refused.refusal));
    refused
}

fn protect(
    engine: &Arc<Engine>,
    site: &Site,
    vm: &Arc<Vm>,
    to: Option<&str>,
    as_name: Option<&str>,
    line: &str,
) -> Result<Done, Refused> {
    let peer = engine.peer_for(to).map_err(refused)?;
    let place =
        |r: Refused| r.with("vm", vm.name()).with("name", as_name.unwrap_or(&vm.name())).with("peer", &peer);
    engine.may_protect(vm, &peer, as_name).map_err(|e| place(refused(e)))?;
    let (job, op) =
        admit(site, vm, JobKind::Protect, line, &["ask the peer", "first copy"]).map_err(refused)?;
    if let Err(error) = engine.protect_as(vm, &peer, as_name, op) {
        return Err(place(failed(site, &job, error)));
    }
    let begun = site.jobs().update(&job.id, |job, now| {
        job.next_step(now);
    });
    if let Err(error) = begun {
        tracing::warn!(%error, "a step of the job {} couldn't be kept", job.id);
    }
    Ok(Done { job: Some(job.id), says: format!("the first copy to {peer} begins"), rest: None })
}

/// A copy over what the target has, or, where that is gone, a first one.
fn resync(engine: &Arc<Engine>, site: &Site, vm: &Arc<Vm>, line: &str) -> Result<Done, Refused> {
    let group = vm.group().map_err(refused)?;
    let without =
        |peer: &StoreId| matches!(Relation::of_group(&group, *peer), Relation::None | Relation::Ended { .. });
    if let Some(peer) = vm.peer().filter(without) {
        let name = engine.peer_of(peer).map(|p| p.name);
        return protect(engine, site, vm, name.as_deref(), None, line);
    }
    let slot = engine.linked(vm)?;
    let (job, op) = admit(site, vm, JobKind::Resync, line, &["copy"]).map_err(refused)?;
    let intent = Event::Intent { op, operation: Operation::Resync, moment: None, peer: Some(slot.peer) };
    let noted = slot.change(|running| {
        running.renew = true;
        group.note(intent)
    });
    if let Err(error) = noted {
        return Err(failed(site, &job, error));
    }
    Ok(Done { job: Some(job.id), says: "what differs is sent".into(), rest: None })
}

/// The intent; the rest follows by itself (`history::planned`).
fn planned(engine: &Arc<Engine>, site: &Site, vm: &Arc<Vm>, line: &str) -> Result<Done, Refused> {
    let slot = engine.linked(vm)?;
    if vm.known().map_err(refused)?.state() != State::Standby {
        return Err(Refusal::Busy.with("vm", vm.name()));
    }
    // The VM would be stopped, and what it wrote last can't come.
    if slot.change(|running| running.stalled_ns.is_some()) {
        return Err(Refusal::NoSpace.with("vm", vm.name()));
    }
    let steps = ["stop the VM and take over", "start the VM"];
    let (job, op) = admit(site, vm, JobKind::PlannedFailover, line, &steps).map_err(refused)?;
    let intent = Event::Intent { op, operation: Operation::Planned, moment: None, peer: Some(slot.peer) };
    let noted = slot.change(|running| {
        running.roles = true;
        slot.group().note(intent)
    });
    if let Err(error) = noted {
        return Err(failed(site, &job, error));
    }
    Ok(Done { job: Some(job.id), says: "the source is asked to hand over".into(), rest: None })
}
