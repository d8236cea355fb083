//! Jobs that wait for the peer: looked at again and again, ended as the history says.
//!
//! T1. A job of a kind that is tended has no thread. Whatever ends it is a line of the history; without one it goes on,
//!     also after a restart.
//! T2. A job whose first line was never written, because of a crash or an error, ends as failed.
//! T3. What is cancelled is cancelled by a line that no decision can follow: both happen with the side held still.

use super::{GroupSlot, Replication};
use crate::history::Event;
use crate::protection::job::{Job, JobKind, JobState};
use crate::protection::{PointKind, Refusal, State};
use crate::site::commands::{Rest, operation_of};
use crate::site::{Site, Vm, points};
use crate::vocab::{Result, Token};
use std::sync::Arc;

/// A planned failover that isn't decided is cancelled after so long, ns: stop hooks may take minutes.
const PLANNED_NS: i64 = 900_000_000_000;

/// Whether jobs of this kind end by [`Replication::tend`].
pub(crate) fn is_tended(kind: JobKind) -> bool {
    matches!(kind, JobKind::Protect | JobKind::PlannedFailover | JobKind::Resync)
}

/// Ends a job as failed; what can't be kept is logged.
pub(super) fn fail(site: &Site, id: &str, why: &str, name: Option<Refusal>) {
    end(site, id, JobState::Failed, why, name);
}

fn end(site: &Site, id: &str, state: JobState, says: &str, name: Option<Refusal>) {
    if let Err(error) = site.jobs().update(id, |job, now| job.finish(state, says, name, now)) {
        tracing::error!(job = id, %error, "the end of a job couldn't be kept; it is found at the next start");
    }
}

/// What the history says of an operation.
#[derive(Default)]
struct Lines {
    begun: bool,
    cancelled: bool,
    /// The protection ended after it was begun.
    ended: bool,
    done: Option<Event>,
}

fn lines_of(vm: &Vm, op: Token) -> Result<Lines> {
    let mut lines = Lines::default();
    vm.group()?.with_events(|events| {
        for (_, event) in events {
            match event {
                Event::Intent { op: o, .. } if *o == op => lines.begun = true,
                Event::Cancelled { op: o } if *o == op => lines.cancelled = true,
                Event::Unprotected { .. } if lines.begun => lines.ended = true,
                Event::Protected { op: o, .. } if *o == op => lines.done = Some(event.clone()),
                Event::Epoch { row, own: true } if row.op == op => lines.done = Some(event.clone()),
                _ => {}
            }
        }
    });
    Ok(lines)
}

impl Replication {
    /// Looks at all jobs that wait for a peer.
    pub(super) fn tend(&self) {
        let Ok(site) = self.site() else { return };
        for job in site.jobs().open_ones(is_tended) {
            let Some(vm) = site.vm(&job.subject) else { continue };
            // Its command may still be at work.
            let Some(_one) = vm.commanding.try_lock() else { continue };
            if let Err(error) = self.tend_one(&site, &vm, &job) {
                tracing::warn!(job = %job.id, %error, "a job can't be looked at");
            }
        }
    }

    fn tend_one(&self, site: &Site, vm: &Arc<Vm>, job: &Job) -> Result<()> {
        let op = operation_of(site.store().id(), vm.group_id(), &job.id);
        let lines = lines_of(vm, op)?;
        let slot = self.groups.lock().get(&vm.group_id()).cloned();
        if !lines.begun {
            fail(site, &job.id, "it was interrupted before it began; nothing was changed", None); // T2
            return Ok(());
        }
        match lines.done {
            Some(Event::Protected { moment, .. }) => {
                end(site, &job.id, JobState::Succeeded, &format!("protected from {moment} on"), None);
            }
            Some(Event::Epoch { row, .. }) => {
                if !self.starting.lock().insert(job.id.clone()) {
                    return Ok(());
                }
                let moment = row.fork().unwrap_or_default();
                let group = vm.group()?;
                let point = (op, PointKind::Crash);
                if let Err(error) = points::add(site.store().catalog(), &group, point, moment, (None, false))
                {
                    tracing::warn!(vm = %vm.name(), %error, "the moment of the failover is no recovery point");
                }
                site.jobs().update(&job.id, |job, now| {
                    job.next_step(now);
                })?;
                site.taken_over(vm, &job.id, moment, job.command.as_str())?;
                return Ok(());
            }
            _ if lines.cancelled => {
                let (state, why, name) = match slot.as_ref().and_then(|s| s.declined(op)) {
                    Some((name, text)) => (JobState::Failed, text, name.parse().ok()),
                    None => (JobState::Cancelled, "cancelled; nothing was changed".to_owned(), None),
                };
                end(site, &job.id, state, &why, name);
            }
            _ if lines.ended => end(site, &job.id, JobState::Cancelled, "the protection was ended", None),
            _ => self.go_on(site, vm, job, op, slot.as_deref())?,
        }
        Ok(())
    }

    fn go_on(&self, site: &Site, vm: &Arc<Vm>, job: &Job, op: Token, slot: Option<&GroupSlot>) -> Result<()> {
        let cancel = site.jobs().is_cancelled(&job.id);
        match job.kind {
            JobKind::Protect if cancel => {
                let slot = self.slot_of(vm, vm.peer().unwrap_or_default())?;
                super::join::give_up(self, &slot, op, true)?;
            }
            JobKind::PlannedFailover => {
                let declined = slot.is_some_and(|s| s.declined(op).is_some());
                let late = site.clock().wall_ns().saturating_sub(job.created) > PLANNED_NS;
                if cancel || declined || late {
                    self.cancel_failover(vm, op)?; // T3
                }
            }
            // The engine's own lines say when the copy is whole.
            JobKind::Resync => match vm.known()?.state() {
                State::Resyncing | State::ResyncRequired if cancel => {
                    vm.group()?.note(Event::Cancelled { op })?;
                }
                State::Resyncing | State::ResyncRequired => self.show_progress(site, job, slot),
                state => end(site, &job.id, JobState::Succeeded, &format!("{state}"), None),
            },
            _ => self.show_progress(site, job, slot),
        }
        Ok(())
    }

    fn show_progress(&self, site: &Site, job: &Job, slot: Option<&GroupSlot>) {
        let Some(running) = slot.and_then(|s| s.running.try_lock()) else { return };
        let state = running.side.as_ref().map(|side| side.state());
        let Some(left) = state.and_then(|s| s.copy_left) else { return };
        let total = running.copy_bytes.max(left);
        site.jobs().progress(&job.id, total - left, total, 0);
    }

    /// Takes an undecided failover back, so that it can't be decided any more (T3).
    pub(super) fn cancel_failover(&self, vm: &Arc<Vm>, op: Token) -> Result<()> {
        let group = vm.group()?;
        let slot = self.slot_of(vm, vm.peer().unwrap_or_default())?;
        slot.change(|running| {
            if lines_of(vm, op)?.done.is_some() {
                return Ok(());
            }
            running.roles = true;
            group.note(Event::Cancelled { op })
        })
    }
}

impl Site {
    /// A failover of this job was decided: the rest of it is the VM's start.
    pub(crate) fn taken_over(
        &self,
        vm: &Arc<Vm>,
        job: &str,
        at: crate::vocab::Moment,
        line: &str,
    ) -> Result<()> {
        let rest = Rest::Start {
            at,
            newest: true,
            wanted: !line.split_whitespace().any(|w| w == "start=no"),
            reason: "planned-failover",
        };
        self.begin_rest(vm, job, rest)
    }
}
