//! Commands: a line that was written to a control file, judged, made durable and carried out.
//!
//! 1. Refused: nothing changed. Accepted: what was decided is durable when the write returns.
//! 2. One command on a group at a time, from its judgement to its last durable step.
//! 3. The same `id=` with the same text gives the same answer for 30 days, whatever happened since.
//! 4. Who typed what, and what came of it, is in `events`, durable before an acceptance is told.

mod ground;
mod image;
mod import;
mod scrub;
mod situation;

pub use ground::{Done, Ground, Rest, known_of, operation_of, refused};

use crate::protection::admission::{Situation, admit};
use crate::protection::control::{Action, Command, MomentRef, Source, parse};
use crate::protection::job::Job;
use crate::protection::policy::edit;
use crate::protection::preconditions::failing;
use crate::protection::report::Outcome;
use crate::protection::{Refusal, Refused, Scope, State, Verb};
use crate::site::events::Event;
use crate::site::objects::{COMMAND_DAYS, CommandObject};
use crate::site::points;
use crate::site::replication::is_tended;
use crate::site::{Site, Vm};
use crate::vocab::Result as Outcomes;
use std::sync::Arc;

/// Who wrote the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: u32,
}

/// What a command is given to.
#[derive(Clone, Copy)]
pub enum On<'a> {
    /// A VM.
    Vm(&'a Arc<Vm>),
    /// The site.
    Site,
}

/// An accepted command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its job, if it has one.
    pub job: Option<String>,
    /// What reading the control file shows.
    pub outcome: Outcome,
    /// The same in a few words.
    pub says: String,
}

/// Carries out what needs a peer: `protect`, `resync`, planned failover, `pair`. Called with the command admitted and,
/// for a VM, with its commands held back.
pub trait Replication: Send + Sync {
    /// Does it, or begins a job for it; what was decided is durable when this returns.
    ///
    /// # Errors
    /// A refusal: nothing changed.
    fn carry_out(
        &self,
        site: &Site,
        vm: Option<&Arc<Vm>>,
        command: &Command,
        line: &str,
    ) -> Result<Done, Refused>;
}

/// How the `id=` begins that a mount puts behind a line without one: the request that the line came by.
pub const REQUEST_ID: &str = "w-";

/// A line as it was typed.
pub fn typed(line: &str) -> &str {
    match line.rsplit_once(" id=") {
        Some((typed, id)) if id.starts_with(REQUEST_ID) => typed,
        _ => line,
    }
}

impl Site {
    /// Takes what was written to the control file of `verb`. `writer`: a disk of the VM that is open for writing.
    ///
    /// # Errors
    /// The refusal by its name; nothing changed then.
    pub fn command(
        &self,
        who: Caller,
        on: On<'_>,
        verb: Verb,
        text: &[u8],
        writer: Option<String>,
    ) -> Result<Accepted, Refused> {
        let line = String::from_utf8_lossy(text).trim().to_owned();
        let subject = match on {
            On::Vm(vm) => Some(vm.name()),
            On::Site => None,
        };
        let result = self.judge(on, verb, text, &line, writer);
        let outcome = match &result {
            Ok(accepted) => accepted.says.clone(),
            Err(refused) => refused.to_string(),
        };
        // A token of a pairing is a secret; why one was refused is none.
        let shown = match &result {
            Err(r) if verb == Verb::Pair && r.refusal == Refusal::Invalid => r.refusal.name(),
            Ok(_) if verb == Verb::Pair => "…",
            _ => outcome.as_str(),
        };
        let typed = if verb == Verb::Pair { "…" } else { typed(&line) };
        let full = if typed.starts_with(verb.name()) { typed.to_owned() } else { format!("{verb} {typed}") };
        let who = (who.uid, who.gid, who.pid);
        let event = Event::command(self.clock().wall_ns(), who, subject.as_deref(), full.trim(), shown);
        if let Err(error) = self.events().append(&event, result.is_ok()) {
            tracing::error!(%error, "events can't be written");
        }
        result
    }

    fn judge(
        &self,
        on: On<'_>,
        verb: Verb,
        text: &[u8],
        line: &str,
        writer: Option<String>,
    ) -> Result<Accepted, Refused> {
        let command = parse(verb, text)?;
        let place = match on {
            On::Vm(vm) => format!("vms/{}/control/{verb}", vm.id()),
            On::Site => format!("site/control/{verb}"),
        };
        let fits = match on {
            On::Vm(_) => verb.scope() == Scope::Vm,
            On::Site => verb.scope() == Scope::Site,
        };
        if !fits {
            return Err(Refusal::Invalid.with("what", format!("`{verb}` is no verb of this directory")));
        }
        match on {
            On::Site => {
                let _one = self.commands_of_site().lock();
                if let Some(before) = self.before(&place, &command, line, None)? {
                    return Ok(before);
                }
                let name = self.store().settings().map_err(refused)?.name;
                let situation = Situation { subject: name, ..Situation::default() };
                admit(&command, &situation)?;
                if command.dry_run {
                    return Ok(would_do(vec![verb.says().to_owned()]));
                }
                let done = match command.verb {
                    Verb::Import => self.import(&command, line)?,
                    _ => self.by_replication(None, &command, line)?,
                };
                Ok(self.accepted(&place, &command, line, done))
            }
            On::Vm(vm) => {
                let _one = vm.commanding.lock();
                if let Some(before) = self.before(&place, &command, line, Some(&vm.name()))? {
                    return Ok(before);
                }
                let done = self.on_vm(vm, &command, line, writer)?;
                match done {
                    Ok(done) => Ok(self.accepted(&place, &command, line, done)),
                    Err(steps) => Ok(would_do(steps)),
                }
            }
        }
    }

    /// `Ok(Err(steps))`: a dry run.
    fn on_vm(
        &self,
        vm: &Arc<Vm>,
        command: &Command,
        line: &str,
        writer: Option<String>,
    ) -> Result<Result<Done, Vec<String>>, Refused> {
        let group = vm.group().map_err(refused)?;
        let name = vm.name();
        let mut situation = self.situation(vm, writer).map_err(refused)?;
        // Whatever the state: it is the wait that ends.
        let waits = command.action == Action::Resume && command.force && vm.start_wait_left().is_some();
        if waits {
            situation.state = Some(State::Protected);
        }
        let moment = match named(command) {
            None => None,
            Some(named) => {
                let set = points::load(self.store().catalog(), group.id()).map_err(refused)?;
                match points::resolve(&group, &set, &named).map_err(refused)? {
                    Ok(moment) => Some(moment),
                    Err(missing) => {
                        situation.facts.unknown_moment = missing.unknown_moment;
                        situation.facts.no_point = missing.no_point;
                        situation.facts.gap = missing.gap;
                        situation.facts.ambiguous = missing.ambiguous;
                        None
                    }
                }
            }
        };
        admit(command, &situation)?;
        if named(command).is_some() && moment.is_none() {
            // A verb without a column is not held back by `admit` for a moment that is missing.
            let refusals = crate::protection::preconditions::ORDER;
            let first = refusals.iter().find_map(|refusal| failing(*refusal, &situation.facts));
            return Err(first.unwrap_or_else(|| Refusal::PointNotFound.plain()));
        }
        let ground = Ground {
            catalog: self.store().catalog(),
            jobs: self.jobs(),
            group: &group,
            store: self.store().id(),
            subject: &name,
            policy: vm.policy(self.store().catalog()).map_err(refused)?.0,
            random: self.random(),
        };
        if command.dry_run {
            return Ok(Err(ground.would_do(&command.action, moment)));
        }
        let target = situation.state.is_some_and(|state| state.is_target());
        let at = || moment.ok_or_else(|| Refusal::NoRecoveryPoint.plain());
        let done = match &command.action {
            Action::Failover { planned: false, source, moment: named, .. } => {
                if *source == Some(Source::Leave) {
                    return Err(Refusal::NotSupportedYet.with("verb", "failover source=leave"));
                }
                let newest = matches!(named, None | Some(MomentRef::Latest));
                self.failover_of(vm, &ground, line, (at()?, newest), command.force)
            }
            Action::Change { .. } => {
                let at = at()?;
                self.still(vm, || ground.change(line, at))
            }
            Action::Rollback => self.still(vm, || ground.rollback(line)),
            Action::Commit { points } => ground.commit(line, *points),
            Action::Drop(what) => ground.drop_what(line, what),
            Action::RecoveryPoint { name, pin } => ground.point(name.clone(), *pin),
            Action::Pause => self.still(vm, || ground.pause(true)),
            Action::Resume if waits => {
                let says = self.still(vm, || self.end_start_wait(vm)).map_err(refused)?;
                Ok(Done { job: None, says, rest: None })
            }
            Action::Resume => self.still(vm, || ground.pause(false)),
            Action::Scrub { .. } => ground.scrub(line, at()?),
            Action::Unprotect { delete } => {
                let delete = delete.unwrap_or(ground.policy.delete_replica_on_unprotect);
                let done = self.still(vm, || ground.unprotect(line, delete))?;
                if let Some(engine) = self.engine() {
                    engine.asks_no_more(vm.group_id());
                }
                if target && delete {
                    if let Some(engine) = self.engine() {
                        engine.drop_slot(vm.group_id());
                    }
                    self.remove_vm(vm).map_err(refused)?;
                }
                Ok(done)
            }
            _ => self.by_replication(Some(vm), command, line),
        }?;
        if let (Some(job), Some(rest)) = (&done.job, done.rest) {
            self.go_on(vm, job, rest);
        }
        Ok(Ok(done))
    }

    fn by_replication(&self, vm: Option<&Arc<Vm>>, command: &Command, line: &str) -> Result<Done, Refused> {
        match self.replication() {
            Some(replication) => replication.carry_out(self, vm, command, line),
            None => Err(Refusal::NotSupportedYet.with("verb", command.verb)),
        }
    }

    /// The work of a job that its command leaves behind.
    fn go_on(&self, vm: &Arc<Vm>, job: &str, rest: Rest) {
        if let Err(error) = self.begin_rest(vm, job, rest) {
            tracing::error!(job, %error, "the job goes on at the next start");
        }
    }

    pub(crate) fn begin_rest(&self, vm: &Arc<Vm>, job: &str, rest: Rest) -> Outcomes<()> {
        vm.group().and_then(|group| match rest {
            Rest::Start { at, newest, wanted, reason } => self.start_vm(vm, job, at, newest, wanted, reason),
            Rest::Free => {
                let care = self.care_of(vm)?;
                self.work(job, move |_| {
                    let done = group.round_with(care)?;
                    let freed = crate::protection::size_text(done.freed);
                    Ok(format!("done; {freed} of journal freed"))
                })
            }
            Rest::Scrub(moment) => {
                let (vm, engine) = (Arc::clone(vm), self.engine().filter(|engine| engine.is_linked(vm)));
                self.work(job, move |handle| scrub::run(&vm, engine.as_deref(), moment, handle))
            }
        })
    }

    /// Ends or goes on with the jobs that a restart interrupted. A job of a VM that is gone has nothing to do.
    pub(crate) fn resume_jobs(&self, interrupted: &[Job]) {
        // What waits for the peer goes on when the replication starts.
        for job in interrupted.iter().filter(|job| !is_tended(job.kind)) {
            let Some(vm) = self.vm(&job.subject) else { continue };
            let resumed = vm.group().and_then(|group| {
                let ground = Ground {
                    catalog: self.store().catalog(),
                    jobs: self.jobs(),
                    group: &group,
                    store: self.store().id(),
                    subject: &job.subject,
                    policy: Default::default(),
                    random: self.random(),
                };
                ground.resume(&job.id)
            });
            match resumed {
                Ok(Some(rest)) => self.go_on(&vm, &job.id, rest),
                Ok(None) => {}
                Err(error) => tracing::error!(job = %job.id, %error, "an interrupted job can't be ended"),
            }
        }
    }

    /// The answer to an id that was given before.
    fn before(
        &self,
        place: &str,
        command: &Command,
        line: &str,
        subject: Option<&str>,
    ) -> Result<Option<Accepted>, Refused> {
        let Some(id) = &command.id else { return Ok(None) };
        let key = CommandObject::key_of(place, id);
        let now = self.clock().wall_ns();
        let stored = self.store().catalog().get::<CommandObject>(&key).map_err(refused)?;
        if let Some(stored) = stored.filter(|stored| !stored.is_old(now)) {
            if stored.text != line {
                return Err(Refusal::CommandDiffers.with("what", format!("id={id}")));
            }
            return Ok(Some(answer(stored.job, stored.outcome)));
        }
        // A crash between the job and this object: the job has the line.
        let recent = |job: &&Job| now.saturating_sub(job.created) <= COMMAND_DAYS * 86_400_000_000_000;
        let same = |job: &&Job| job.command == line && Some(job.subject.as_str()) == subject;
        let kept = |job: &&Job| job.state != crate::protection::job::JobState::Failed;
        let jobs = self.jobs().list();
        let found = jobs.iter().filter(recent).filter(kept).find(same);
        Ok(found.map(|job| answer(Some(job.id.clone()), job.outcome.clone())))
    }

    fn accepted(&self, place: &str, command: &Command, line: &str, done: Done) -> Accepted {
        if let Some(id) = &command.id {
            let object = CommandObject {
                key: CommandObject::key_of(place, id),
                text: line.to_owned(),
                time: self.clock().wall_ns(),
                job: done.job.clone(),
                outcome: done.says.clone(),
            };
            if let Err(error) = self.store().catalog().put(&object) {
                tracing::error!(%error, "the outcome of id={id} can't be kept");
            }
        }
        answer(done.job, done.says)
    }

    /// Takes what was written to a VM's `policy` file: some or all of its lines.
    ///
    /// # Errors
    /// `invalid` for a line that no policy can have, `policy-immutable`, and `wrong-site` where the VM isn't active:
    /// there only this site's own settings can be changed.
    pub fn write_policy(&self, who: Caller, vm: &Arc<Vm>, text: &str) -> Result<(), Refused> {
        let _one = vm.commanding.lock();
        let written = (|| {
            let (policy, settings) = vm.policy(self.store().catalog()).map_err(refused)?;
            let (new, own) = edit(&policy, &settings, text)?;
            let state = vm.known().map_err(refused)?.state();
            if new != policy && !state.writable() {
                return Err(Refusal::WrongSite.with("vm", vm.name()));
            }
            if own.rate.is_some() {
                return Err(Refusal::NotSupportedYet.with("verb", "rate"));
            }
            vm.set_policy(self.store().catalog(), new, own).map_err(refused)
        })();
        let outcome = written.as_ref().map_or_else(|e: &Refused| e.to_string(), |()| "written".to_owned());
        let who = (who.uid, who.gid, who.pid);
        let said = format!("policy {}", text.trim().replace('\n', "; "));
        let event = Event::command(self.clock().wall_ns(), who, Some(&vm.name()), &said, &outcome);
        if let Err(error) = self.events().append(&event, written.is_ok()) {
            tracing::error!(%error, "events can't be written");
        }
        written
    }

    /// Deletes what was kept for ids and is older than 30 days.
    pub fn clean_commands(&self) -> Outcomes<()> {
        let (objects, _) = self.store().catalog().list::<CommandObject>()?;
        let now = self.clock().wall_ns();
        for object in objects.iter().filter(|object| object.is_old(now)) {
            self.store().catalog().delete::<CommandObject>(&object.key)?;
        }
        Ok(())
    }
}

/// The moment that has to be found for a command.
fn named(command: &Command) -> Option<MomentRef> {
    match &command.action {
        Action::Failover { planned: false, moment, .. } | Action::Scrub { moment } => {
            Some(moment.clone().unwrap_or(MomentRef::Latest))
        }
        Action::Change { moment, .. } => Some(moment.clone()),
        _ => None,
    }
}

fn answer(job: Option<String>, says: String) -> Accepted {
    let outcome = job.clone().map_or_else(|| Outcome::Done(says.clone()), Outcome::Job);
    Accepted { job, outcome, says }
}

fn would_do(steps: Vec<String>) -> Accepted {
    let says = "dry-run".to_owned();
    Accepted { job: None, outcome: Outcome::WouldDo { steps, outage: None }, says }
}

#[cfg(test)]
mod tests;
