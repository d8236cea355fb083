//! What a command does to one group, with nothing but its own store.
//!
//! C1. In order: the job, the line that decides, what follows from it. What follows can be done again.
//! C2. A crash after any step ends, once [`Ground::settle`] and [`Ground::resume`] have run, in the old state or in
//!     the new one; after the command was accepted, in the new one.
//! C3. An operation's token is made from its job, so that a job knows its lines again after a crash.

use crate::group::{Change, Gate, Group, NamedFile, left_out};
use crate::history::{CommitPoints, Event, Operation, RowKind};
use crate::protection::control::{Action, DropWhat, MomentRef, PointsAtCommit, parse};
use crate::protection::job::{JobKind, JobState};
use crate::protection::policy::Policy;
use crate::protection::{PointKind, Refusal, Refused, State, Verb};
use crate::site::catalog::Catalog;
use crate::site::commands::import::importing;
use crate::site::facts::{Known, LeftOver, left_over};
use crate::site::jobs::Jobs;
use crate::site::points;
use crate::vocab::{DiskOrdinal, EpochId, Error, GroupId, Kind, Moment, Result, StoreId, Token};
use std::sync::Arc;

/// Everything that a command on a group needs.
pub struct Ground<'a> {
    /// Where points are.
    pub catalog: &'a Catalog,
    /// The store's jobs.
    pub jobs: &'a Jobs,
    /// The group.
    pub group: &'a Arc<Group>,
    /// This site.
    pub store: StoreId,
    /// The name of the VM.
    pub subject: &'a str,
    /// What holds where a line doesn't say.
    pub policy: Policy,
    /// A random value for what has no job.
    pub random: Token,
}

/// What was done, and what is still to be done by the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The job, if there is one.
    pub job: Option<String>,
    /// What there is to say.
    pub says: String,
    /// What the job goes on with.
    pub rest: Option<Rest>,
}

/// Work of a job after its command was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Lets the base move and frees the log.
    Free,
    /// Hashes a moment.
    Scrub(Moment),
    /// Starts the VM, which was taken over.
    Start {
        /// The moment of its disks.
        at: Moment,
        /// Nothing is known to lie behind that moment.
        newest: bool,
        /// A person wants it started.
        wanted: bool,
        /// What it was taken over by.
        reason: &'static str,
    },
}

impl Ground<'_> {
    /// What is known from the history.
    pub fn known(&self) -> Known {
        known_of(self.group)
    }

    fn op(&self, job: &str) -> Token {
        operation_of(self.store, self.group.id(), job)
    }

    /// Finishes what a crash left half done and sets who may write: before the group is served (C2).
    pub fn settle(group: &Group) -> Result<Known> {
        let known = known_of(group);
        match left_over(&known) {
            Some(LeftOver::Cancel(_)) if left_out("an intent without its decision is cancelled") => {}
            Some(LeftOver::Cancel(op)) => group.note(Event::Cancelled { op })?,
            Some(LeftOver::Withdraw(_)) if left_out("a rollback takes back every choice") => {}
            Some(LeftOver::Withdraw(epochs)) => {
                let last = group.table().withdrawals().last().map_or(Token::NONE, |(_, op)| op);
                group.withdraw(&epochs, last)?;
            }
            None => {}
        }
        let known = known_of(group);
        match known.state() {
            state if state.is_target() => group.stand(Gate::Target),
            State::HandingOver | State::Fenced | State::Rewound => group.stand(Gate::Frozen),
            _ => {}
        }
        Ok(known)
    }

    /// Ends a job that a restart interrupted, as the history says. `Some`: it goes on with this.
    pub fn resume(&self, id: &str) -> Result<Option<Rest>> {
        let Some(job) = self.jobs.get(id).filter(|job| !job.state.ended()) else { return Ok(None) };
        let op = self.op(id);
        let line = self.group.with_events(|events| {
            events.iter().rev().map(|(_, event)| event).find(|event| decides(event, op)).cloned()
        });
        match line {
            Some(Event::Epoch { row, .. }) => {
                if let Some(fork) = row.fork() {
                    self.latest_point(&job.command, op, fork)?;
                }
                self.end(id, "taken over, vm-not-started; a restart came in between")?;
            }
            Some(Event::Committed { points, epoch, .. }) => {
                self.drop_points(points, epoch)?;
                return Ok(Some(Rest::Free));
            }
            Some(_) => self.end(id, "done; a restart came in between")?,
            // It decides nothing: it is done again.
            None if job.kind == JobKind::Scrub => return Ok(Some(Rest::Scrub(self.scrubbed(&job.command)?))),
            None if job.kind == JobKind::Import => {
                let (state, says) = match self.imported(&job.command) {
                    Ok(true) => (JobState::Succeeded, "taken in; a restart came in between".to_owned()),
                    Ok(false) => {
                        (JobState::Failed, "a restart interrupted it; the image is where it was".to_owned())
                    }
                    Err(error) => (JobState::Failed, format!("a restart interrupted it: {error}")),
                };
                self.jobs.update(id, |job, now| job.finish(state, says, None, now))?;
            }
            None => self.jobs.update(id, |job, now| {
                let why = "a restart interrupted it before it was decided; nothing was changed";
                job.finish(JobState::Failed, why, None, now);
            })?,
        }
        Ok(None)
    }

    /// Whether the disk of an import's line is there, after what was left of it has ended. What a copy has left goes.
    fn imported(&self, line: &str) -> Result<bool> {
        self.group.settle_import()?;
        let Ok(command) = parse(Verb::Import, line.as_bytes()) else { return Ok(false) };
        let Action::Import { path, disk, .. } = &command.action else { return Ok(false) };
        let name = std::path::Path::new(path).file_name().and_then(|name| name.to_str());
        let Some(disk) = disk.as_deref().or(name) else { return Ok(false) };
        let found = |wanted: &str| {
            let is = |(_, file): &(&DiskOrdinal, &NamedFile)| file.path == wanted;
            self.group.names_now(|names| names.files.iter().find(is).map(|(disk, _)| *disk))
        };
        if found(disk).is_some() {
            return Ok(true);
        }
        if let Some(left) = found(&importing(disk)) {
            self.group.change(&Change::Remove(left))?;
        }
        Ok(false)
    }

    /// The moment of a scrub's line, as far as it is still held; else the newest.
    fn scrubbed(&self, line: &str) -> Result<Moment> {
        let named = parse(Verb::Scrub, line.as_bytes()).ok().and_then(|command| command.moment().cloned());
        let set = points::load(self.catalog, self.group.id())?;
        let found = points::resolve(self.group, &set, &named.unwrap_or(MomentRef::Latest))?;
        found.or_else(|_| self.group.durable_head())
    }

    fn end(&self, id: &str, says: &str) -> Result<()> {
        self.jobs.update(id, |job, now| job.finish(JobState::Succeeded, says, None, now))
    }

    /// A job around a step. The step's error ends it as failed.
    fn job(
        &self,
        kind: JobKind,
        line: &str,
        rest: Option<Rest>,
        step: impl FnOnce(Token) -> Result<String>,
    ) -> std::result::Result<Done, Refused> {
        // The end of a protection ends the copy that is under way: `admit` has refused what stands in its way.
        let alone = kind != JobKind::Unprotect;
        let job = self
            .jobs
            .admit(kind, self.subject, Some(self.group.id()), alone, line, &[kind.name()])
            .map_err(refused)?;
        let id = job.id;
        let done = self
            .jobs
            .update(&id, |job, now| {
                job.next_step(now);
            })
            .and_then(|()| step(self.op(&id)));
        let (ended, result) = match done {
            Ok(says) if rest.is_some() => (Ok(()), Ok(says)),
            Ok(says) => (self.end(&id, &says), Ok(says)),
            Err(error) => {
                let refused = refused(error);
                let why = refused.to_string();
                let name = refused.refusal;
                (
                    self.jobs.update(&id, |job, now| job.finish(JobState::Failed, why, Some(name), now)),
                    Err(refused),
                )
            }
        };
        if let Err(error) = ended {
            tracing::error!(job = %id, %error, "the end of a job couldn't be kept; it is found at the next start");
        }
        result.map(|says| Done { job: Some(id), says, rest })
    }

    /// Takes over at a moment that is held.
    pub fn failover(&self, line: &str, moment: Moment, force: bool) -> std::result::Result<Done, Refused> {
        self.taking_over(line, force, None, |op, kind, overrules| self.decide(op, kind, moment, overrules))
    }

    /// Takes over at the moment that `decide` says, which decides. The VM's start is left to the job.
    pub(crate) fn failover_by(
        &self,
        line: &str,
        force: bool,
        newest: bool,
        decide: impl FnOnce(Token, RowKind, Option<EpochId>) -> Result<Moment>,
    ) -> std::result::Result<Done, Refused> {
        let wanted = !line.split_whitespace().any(|word| word == "start=no");
        let rest = |at| Rest::Start { at, newest, wanted, reason: "failover" };
        let mut done = self.taking_over(line, force, Some(rest(Moment::default())), decide)?;
        let fork = self.group.table().row(self.group.head().epoch).and_then(|row| row.fork());
        done.rest = Some(rest(fork.unwrap_or_default()));
        Ok(done)
    }

    fn taking_over(
        &self,
        line: &str,
        force: bool,
        rest: Option<Rest>,
        decide: impl FnOnce(Token, RowKind, Option<EpochId>) -> Result<Moment>,
    ) -> std::result::Result<Done, Refused> {
        self.job(JobKind::Failover, line, rest, |op| {
            let known = self.known();
            let stopped = matches!(known.state(), State::HandingOver | State::Fenced | State::Rewound);
            let kind = if force && stopped { RowKind::Force } else { RowKind::Failover };
            let overrules = known.fenced_by.filter(|_| kind == RowKind::Force);
            let moment = decide(op, kind, overrules)?;
            // Decided is decided: that it can't be named as a point is no reason to refuse.
            if let Err(error) = self.latest_point(line, op, moment) {
                tracing::warn!(vm = self.subject, %error, "the moment of the failover is no recovery point");
            }
            Ok(format!("disks-writable at {moment}, vm-not-started"))
        })
    }

    /// The intent and the decision, by this site alone.
    pub(crate) fn decide(
        &self,
        op: Token,
        kind: RowKind,
        moment: Moment,
        overrules: Option<EpochId>,
    ) -> Result<Moment> {
        let peer = self.known().peer;
        let intent = Event::Intent { op, operation: Operation::Failover, moment: Some(moment), peer };
        self.group.note(intent)?;
        if let Err(error) = self.group.decide(moment, kind, op, overrules) {
            // If the row may be in the journal, the next opening finds out.
            if !self.group.table().rows().any(|row| row.op == op) {
                self.group.note(Event::Cancelled { op })?;
            }
            return Err(error);
        }
        Ok(moment)
    }

    /// The moment that `latest` stood for becomes a point, so that it can be chosen again until commit.
    fn latest_point(&self, line: &str, op: Token, moment: Moment) -> Result<()> {
        let words =
            crate::protection::control::Line::parse(line.as_bytes()).map(|l| l.words).unwrap_or_default();
        let named = words.iter().any(|w| w.starts_with('@') || w.starts_with(|c: char| c.is_ascii_digit()));
        if !named && moment.seq.0 > 0 {
            points::add(self.catalog, self.group, (op, PointKind::Crash), moment, (None, false))?;
        }
        Ok(())
    }

    /// Goes to another moment; what was written since the last choice is a branch.
    pub fn change(&self, line: &str, moment: Moment) -> std::result::Result<Done, Refused> {
        self.job(JobKind::ChangeRecoveryPoint, line, None, |op| {
            self.group.decide(moment, RowKind::Change, op, None)?;
            Ok(format!("disks-writable at {moment}, vm-not-started"))
        })
    }

    /// Takes the failover back: the disks are the target's again.
    pub fn rollback(&self, line: &str) -> std::result::Result<Done, Refused> {
        self.job(JobKind::Rollback, line, None, |op| {
            let decisions = self.known().decisions;
            if decisions.is_empty() {
                // The other site has come to follow since this was judged.
                return Err(Refusal::NotFailedOver.plain().into());
            }
            let head = self.group.withdraw(&decisions, op)?;
            Ok(format!("standby at {head}; what was written since is a branch"))
        })
    }

    /// Makes the failover final.
    pub fn commit(&self, line: &str, points: Option<PointsAtCommit>) -> std::result::Result<Done, Refused> {
        let points = match points.unwrap_or(self.policy.points_at_commit) {
            PointsAtCommit::Delete => CommitPoints::Delete,
            PointsAtCommit::Keep => CommitPoints::Keep,
        };
        self.job(JobKind::Commit, line, Some(Rest::Free), |op| {
            let Some(epoch) = self.known().decisions.last().copied() else {
                return Err(Refusal::NotFailedOver.plain().into());
            };
            self.group.note(Event::Committed { op, epoch, points })?;
            self.drop_points(points, epoch)
        })
    }

    /// The points that end with a commit; those that are gone already are no trouble.
    fn drop_points(&self, points: CommitPoints, epoch: EpochId) -> Result<String> {
        let table = self.group.table();
        let Some(fork) = table.row(epoch).and_then(|row| row.fork()) else {
            return Ok("committed".to_owned());
        };
        let line = table.line(self.group.head())?;
        let left: Vec<EpochId> = table
            .rows()
            .map(|row| row.epoch)
            .filter(|e| *e == fork.epoch || line.place(*e).is_none())
            .collect();
        let mut set = points::load(self.catalog, self.group.id())?;
        let ended = set.ended_by_commit(points == CommitPoints::Keep, fork, &left);
        let count = ended.len();
        for id in ended {
            set.remove(id);
        }
        if count > 0 {
            points::save(self.catalog, self.group.id(), set)?;
        }
        Ok(format!("committed; {count} recovery points deleted"))
    }

    /// Drops what a person names.
    pub fn drop_what(&self, line: &str, what: &DropWhat) -> std::result::Result<Done, Refused> {
        let DropWhat::Branch(prefix) = what else {
            return Err(Refusal::NotSupportedYet.with("verb", "drop of a seed or clone"));
        };
        // Until then the received line, a branch as well, is what a rollback goes back to.
        if self.known().state() == State::FailedOver {
            return Err(Refusal::NotCommitted.with("vm", self.subject));
        }
        let branches = self.group.kept_branches().map_err(refused)?;
        let Some(epoch) = prefix.find(branches.iter().map(|b| b.last.epoch)) else {
            return Err(Refusal::NotFound.with("what", format!("branch {}", prefix.as_str())));
        };
        self.job(JobKind::Drop, line, Some(Rest::Free), |op| {
            self.group.note(Event::BranchDropped { op, epoch })?;
            Ok(format!("branch {} dropped", epoch.short()))
        })
    }

    /// Names the present moment.
    pub fn point(&self, name: Option<String>, pin: bool) -> std::result::Result<Done, Refused> {
        let made = self.group.durable_head().and_then(|moment| {
            points::add(self.catalog, self.group, (self.random, PointKind::User), moment, (name, pin))
        });
        let point = made.map_err(refused)?;
        Ok(Done { job: None, says: point.name(), rest: None })
    }

    /// Stops shipping, or goes on.
    pub fn pause(&self, paused: bool) -> std::result::Result<Done, Refused> {
        if self.known().flags.paused != paused {
            self.group.note(Event::Paused { op: self.random, paused }).map_err(refused)?;
        }
        let says = if paused { "paused" } else { "resumed" };
        Ok(Done { job: None, says: says.to_owned(), rest: None })
    }

    /// Ends the protection at this site; the peer hears of it when it is there.
    pub fn unprotect(&self, line: &str, delete: bool) -> std::result::Result<Done, Refused> {
        self.job(JobKind::Unprotect, line, None, |op| {
            let known = self.known();
            let peer = known.peer.unwrap_or(StoreId::NONE);
            self.group.note(Event::Unprotecting { op, peer, delete })?;
            self.group.note(Event::Unprotected { op, peer, delete })?;
            if self.group.gate() != Gate::Stopped {
                self.group.thaw();
            }
            Ok("unprotected".to_owned())
        })
    }

    /// Hashes a moment, as work of its job.
    pub fn scrub(&self, line: &str, moment: Moment) -> std::result::Result<Done, Refused> {
        self.job(JobKind::Scrub, line, Some(Rest::Scrub(moment)), |_| Ok(format!("hashing {moment}")))
    }

    /// What a command would do, step by step.
    pub fn would_do(&self, action: &Action, moment: Option<Moment>) -> Vec<String> {
        let at =
            moment.map_or_else(|| "the present moment".to_owned(), crate::protection::admission::moment_name);
        let steps: &[&str] = match action {
            Action::Failover { .. } => {
                &["receiving stops", "the decision to go on here is made", "the disks become writable"]
            }
            Action::Change { .. } => {
                &["what was written since the last choice becomes a branch", "the disks become writable"]
            }
            Action::Rollback => &[
                "what was written here becomes a branch",
                "the disks become read-only and follow the source",
            ],
            Action::Commit { .. } => &[
                "the failover becomes final",
                "recovery points are deleted as points= says",
                "room is freed",
            ],
            Action::Drop(_) => &["the branch can't be read any more", "room is freed"],
            Action::Unprotect { .. } => &["shipping ends", "the peer is told when it is there"],
            Action::Scrub { .. } => &["all bytes of the moment are read and hashed"],
            Action::RecoveryPoint { .. } => {
                &["all that was written becomes durable", "a recovery point names it"]
            }
            _ => &["the line is noted in the history"],
        };
        let mut out = vec![format!("moment: {at}")];
        out.extend(steps.iter().map(|s| (*s).to_owned()));
        out
    }
}

/// C3.
pub fn operation_of(store: StoreId, group: GroupId, job: &str) -> Token {
    let mut hasher = blake3::Hasher::new_derive_key("standbyfs operation of a job v1");
    hasher.update(&store.0).update(&group.0).update(job.as_bytes());
    let mut op = [0; 16];
    op.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Token(op)
}

/// Whether this line is the decision of that operation.
fn decides(event: &Event, op: Token) -> bool {
    match event {
        Event::Epoch { row, own: true } => row.op == op,
        Event::Withdrawn { op: o, .. }
        | Event::Committed { op: o, .. }
        | Event::BranchDropped { op: o, .. }
        | Event::Unprotected { op: o, .. } => *o == op,
        _ => false,
    }
}

/// What is known of a group from its history.
pub fn known_of(group: &Group) -> Known {
    group.with_events(|events| Known::of(events.iter().map(|(_, event)| event)))
}

/// An error of the ground as a refusal: one that has a name keeps it.
pub fn refused(error: Error) -> Refused {
    match error.name().and_then(|name| name.parse::<Refusal>().ok()) {
        Some(refusal) => {
            let what = error.what();
            let plain = refusal.plain().message();
            let has = |place: &str| refusal.entry().message.contains(place);
            if what != plain && !has("{why") && !has("{job") {
                return refusal.plain().said(what, error.remedy());
            }
            // Where the words begin as the refusal's own, those are not said twice.
            let why = what.strip_prefix(&plain).map_or_else(|| format!(": {what}"), str::to_owned);
            refusal.with("why", why).with("job", what)
        }
        None if error.kind() == Kind::NotFound => Refusal::PointNotFound.with("moment", error),
        None if error.kind() == Kind::Unreachable => Refusal::PeerUnreachable.plain(),
        None if error.kind() == Kind::NoSpace => Refusal::NoSpace.plain(),
        None => Refusal::NotDurable.with("why", format!(": {error}")),
    }
}
