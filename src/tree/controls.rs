//! What the files of `vms/<vm>/`, `jobs/` and `site/` say and do, as the tree asks the site for it.

use crate::history::Event as LineEvent;
use crate::protection::admission::{Allowed, allowed, allowed_one, moment_name};
use crate::protection::control::{MomentRef, parse};
use crate::protection::job::Job;
use crate::protection::policy::{policy_json, policy_text};
use crate::protection::report::{
    At, ControlReport, GapReport, HealthReport, LossReport, Outcome, PeerReport, SiteReport, StatusReport,
};
use crate::protection::{Cell, Column, PointSet, Refusal, Refused, Scope, State, Verb, cell, preconditions};
use crate::site::commands::{Caller, On, refused, typed};
use crate::site::events::{Event, Events};
use crate::site::replication::PeerStatus;
use crate::site::{Site, Vm, points};
use crate::tree::host::{Item, own};
use crate::vocab::{Moment, Result};
use std::sync::Arc;

/// Batches that are looked at to tell what the choices of one verb lose; about 50 ms.
const COUNTED_BATCHES: usize = 4096;

/// One command of `check`: its column, what the state says, each rule with its result.
pub type Checked = (Column, Option<Refused>, Vec<(Refusal, Option<Refused>)>);

/// Whose command it is.
#[derive(Clone, Copy)]
pub enum To<'a> {
    /// A VM's.
    Vm(&'a dyn Item),
    /// The site's.
    Site,
    /// A job's.
    Job(&'a str),
}

/// What the control files need of the site. Errors are logged where they are met and become an errno.
pub trait Controls: Send + Sync {
    /// `status` of a VM.
    fn status(&self, vm: &dyn Item) -> Result<StatusReport>;
    /// `health` of a VM.
    fn health(&self, vm: &dyn Item) -> Result<HealthReport>;
    /// `allowed` of a VM.
    fn allowed(&self, vm: &dyn Item) -> Result<Vec<(Verb, Allowed)>>;
    /// `check` of a VM.
    fn check(&self, vm: &dyn Item) -> Result<Vec<Checked>>;
    /// `gaps` of a VM.
    fn gaps(&self, vm: &dyn Item) -> Result<Vec<GapReport>>;
    /// `policy` of a VM, as text and as JSON.
    fn policy(&self, vm: &dyn Item) -> Result<(String, serde_json::Value)>;
    /// The recovery points of a VM.
    fn points(&self, vm: &dyn Item) -> Result<PointSet>;
    /// The moment that a name stands for, if it is held.
    fn resolve(&self, vm: &dyn Item, name: &MomentRef) -> Result<Option<Moment>>;
    /// What a control file shows, without an outcome.
    fn control(&self, to: To<'_>, verb: Verb) -> Result<ControlReport>;
    /// Carries out a line.
    fn command(
        &self,
        who: Caller,
        to: To<'_>,
        verb: Verb,
        line: &[u8],
    ) -> std::result::Result<Outcome, Refused>;
    /// Takes lines of a policy.
    fn write_policy(&self, who: Caller, vm: &dyn Item, text: &str) -> std::result::Result<(), Refused>;
    /// `site/status`.
    fn site_status(&self) -> Result<SiteReport>;
    /// The peers.
    fn peers(&self) -> Vec<(PeerReport, PeerStatus)>;
    /// All jobs that are kept, oldest first.
    fn jobs(&self) -> Vec<Job>;
    /// The job with this id.
    fn job(&self, id: &str) -> Option<Job>;
    /// Bytes of a job's log.
    fn job_log(&self, id: &str, offset: u64, max: usize) -> Result<Vec<u8>>;
    /// What happened.
    fn events(&self) -> &Events;
}

impl Controls for Site {
    fn status(&self, vm: &dyn Item) -> Result<StatusReport> {
        self.status_of(&own(self, vm)?)
    }

    fn health(&self, vm: &dyn Item) -> Result<HealthReport> {
        self.health_of(&own(self, vm)?)
    }

    fn allowed(&self, vm: &dyn Item) -> Result<Vec<(Verb, Allowed)>> {
        self.allowed(&own(self, vm)?, None)
    }

    fn check(&self, vm: &dyn Item) -> Result<Vec<Checked>> {
        let situation = self.situation(&own(self, vm)?, None)?;
        let state = situation.state.unwrap_or(State::Unprotected);
        let by_state = |column: &Column| !matches!(cell(state, *column), Cell::No(_));
        let rules = |column: &Column| (*column, None, preconditions::check(*column, &situation.facts));
        Ok(Column::ALL.iter().filter(|c| by_state(c)).map(rules).collect())
    }

    fn gaps(&self, vm: &dyn Item) -> Result<Vec<GapReport>> {
        let group = vm.group()?;
        let jumps = group.with_events(|events| {
            let jump = |e: &LineEvent| if let LineEvent::Jump(jump) = e { Some(jump.clone()) } else { None };
            events.iter().filter_map(|(_, event)| jump(event)).collect::<Vec<_>>()
        });
        let at = |moment: Moment| {
            // The record at a jump's end isn't held: the first behind it is the nearest time that is known.
            let time = group.time_of(moment).ok().flatten().unwrap_or_default();
            At { moment, time }
        };
        let word = |reason| {
            let value = serde_json::to_value(reason).unwrap_or_default();
            value.as_str().unwrap_or("copy").to_owned()
        };
        let report = |jump: crate::history::JumpLine| GapReport {
            from: jump.from.map(at),
            to: at(jump.to),
            reason: word(jump.reason),
        };
        Ok(jumps.into_iter().map(report).collect())
    }

    fn policy(&self, vm: &dyn Item) -> Result<(String, serde_json::Value)> {
        let (policy, settings) = own(self, vm)?.policy(self.store().catalog())?;
        Ok((policy_text(&policy, &settings), policy_json(&policy, &settings)))
    }

    fn points(&self, vm: &dyn Item) -> Result<PointSet> {
        points::shown(self.store().catalog(), &*vm.group()?)
    }

    fn resolve(&self, vm: &dyn Item, name: &MomentRef) -> Result<Option<Moment>> {
        let group = vm.group()?;
        let set = points::load(self.store().catalog(), group.id())?;
        Ok(points::resolve(&group, &set, name)?.ok())
    }

    fn control(&self, to: To<'_>, verb: Verb) -> Result<ControlReport> {
        let (now, losses) = match to {
            To::Vm(item) => {
                let vm = own(self, item)?;
                let situation = self.situation(&vm, None)?;
                let losses = if verb.loses_data() { losses(self, &vm, verb)? } else { Vec::new() };
                (allowed_one(verb, &situation), losses)
            }
            To::Site => {
                let name = self.store().settings()?.name;
                let situation =
                    crate::protection::admission::Situation { subject: name, ..Default::default() };
                let all = allowed(Scope::Site, &situation);
                let found = all.into_iter().find(|(v, _)| *v == verb).map(|(_, now)| now);
                (found.unwrap_or(Allowed::Yes), Vec::new())
            }
            To::Job(id) => {
                let running = self.jobs().get(id).is_some_and(|job| !job.state.ended());
                let ended = || Refusal::NoJob.with("vm", id);
                (if running { Allowed::Yes } else { Allowed::No(ended()) }, Vec::new())
            }
        };
        Ok(ControlReport { verb, now, losses, outcome: None })
    }

    fn command(
        &self,
        who: Caller,
        to: To<'_>,
        verb: Verb,
        line: &[u8],
    ) -> std::result::Result<Outcome, Refused> {
        match to {
            To::Vm(item) => {
                let vm = own(self, item).map_err(refused)?;
                Ok(self.command(who, On::Vm(&vm), verb, line, None)?.outcome)
            }
            To::Site => Ok(self.command(who, On::Site, verb, line, None)?.outcome),
            To::Job(id) => job_command(self, who, id, verb, line),
        }
    }

    fn write_policy(&self, who: Caller, vm: &dyn Item, text: &str) -> std::result::Result<(), Refused> {
        let vm = own(self, vm).map_err(refused)?;
        self.write_policy(who, &vm, text)
    }

    fn site_status(&self) -> Result<SiteReport> {
        self.site_report()
    }

    fn peers(&self) -> Vec<(PeerReport, PeerStatus)> {
        self.peer_reports()
    }

    fn jobs(&self) -> Vec<Job> {
        self.jobs().list().into_iter().map(as_typed).collect()
    }

    fn job(&self, id: &str) -> Option<Job> {
        // An id has one way to be written.
        self.jobs().get(id).filter(|job| job.id == id).map(as_typed)
    }

    fn job_log(&self, id: &str, offset: u64, max: usize) -> Result<Vec<u8>> {
        self.jobs().read_log(id, offset, max)
    }

    fn events(&self) -> &Events {
        self.events()
    }
}

/// A job with the command that a person typed, without what the mount added.
fn as_typed(job: Job) -> Job {
    Job { command: typed(&job.command).to_owned(), ..job }
}

/// A job is asked to stop; who works on it decides whether it still can.
fn job_command(
    site: &Site,
    who: Caller,
    id: &str,
    verb: Verb,
    line: &[u8],
) -> std::result::Result<Outcome, Refused> {
    let result = parse(verb, line).and_then(|_| match verb {
        Verb::Cancel => {
            site.jobs().cancel(id).map_err(refused)?;
            Ok(Outcome::Done(format!("the job {id} is asked to stop")))
        }
        _ => Err(Refusal::NoJob.with("vm", id)),
    });
    let outcome = match &result {
        Ok(_) => "accepted".to_owned(),
        Err(refused) => refused.to_string(),
    };
    let who = (who.uid, who.gid, who.pid);
    let event = Event::command(site.clock().wall_ns(), who, Some(id), verb.name(), &outcome);
    if let Err(error) = site.events().append(&event, result.is_ok()) {
        tracing::error!("events can't be written: {error}");
    }
    result
}

/// What each choice of a moment loses: of what is known here.
fn losses(site: &Site, vm: &Arc<Vm>, verb: Verb) -> Result<Vec<LossReport>> {
    let group = vm.group()?;
    let head = group.head();
    let time = |moment: Moment| Ok::<_, crate::vocab::Error>(group.time_of(moment)?.unwrap_or_default());
    let newest = time(head)?;
    let linked = site.engine().is_some_and(|engine| engine.is_linked(vm));
    let target = vm.known()?.state().is_target();
    // What the source says that it has and this site doesn't.
    let status = site.engine().and_then(|engine| engine.group(vm.group_id()));
    let source_head = status.and_then(|status| status.state.source_head);
    let lacking = source_head.is_some_and(|source| source.seq > head.seq);
    let mut batches = COUNTED_BATCHES;
    let mut loss = |choice: String, moment: Moment| -> Result<LossReport> {
        let at = At { moment, time: time(moment)? };
        let bytes = group.written_between(moment, head, &mut batches)?;
        Ok(LossReport {
            choice,
            moment: at,
            bytes,
            writes: head.seq.0.saturating_sub(moment.seq.0),
            age: u64::try_from(newest.saturating_sub(at.time)).unwrap_or(0),
            at_least: target && (!linked || lacking),
        })
    };
    let mut out = Vec::new();
    match verb {
        Verb::Failover | Verb::ChangeRecoveryPoint => {
            if verb == Verb::Failover {
                out.push(loss("latest".to_owned(), head)?);
            }
            let set = points::load(site.store().catalog(), group.id())?;
            let table = group.table();
            let held = set.in_order();
            let on_line = |m: Moment| table.is_on_line(m, head).unwrap_or(false);
            let choices =
                held.iter().rev().filter(|p| on_line(p.moment) && group.open_moment(p.moment).is_ok());
            let choices: Vec<_> = choices.collect();
            let shown = choices.iter().take(3).chain(choices.last().filter(|_| choices.len() > 3));
            for point in shown {
                out.push(loss(point.name(), point.moment)?);
            }
        }
        Verb::Rollback => {
            let decided = vm.known()?.decisions.first().copied().unwrap_or(head.epoch);
            if let Some(fork) = group.table().row(decided).and_then(crate::history::Row::fork) {
                out.push(loss(moment_name(fork), fork)?);
            }
        }
        _ => {}
    }
    Ok(out)
}
