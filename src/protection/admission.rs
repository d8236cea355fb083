//! Whether a command is admitted here and now: everything that can refuse it, in one order.
//!
//! 1. The order: known to this version; the table of states; a job that the table doesn't know of; the expectations
//!    on the line; the preconditions; last the confirmation, so that nobody confirms what would be refused anyway.
//! 2. What [`allowed`] shows for a verb is what [`admit`] would answer.

use super::control::{Action, Command, Expect, MomentRef};
use super::preconditions::{self, Facts};
use super::table::{Brings, admit as admit_by_table};
use super::{Cell, Column, Refusal, Refused, Scope, State, Verb, cell};
use crate::vocab::Moment;

/// What commands are judged by.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// The name that a confirmation must repeat: of the VM or group.
    pub subject: String,
    /// The state here; none is read as `unprotected`.
    pub state: Option<State>,
    /// The migration was completed.
    pub migrated: bool,
    /// A job that the state doesn't show and that excludes others, such as a scrub.
    pub job: Option<String>,
    /// That job is a copy to the peer: it ends with the protection.
    pub copying: bool,
    /// From which site to which it ships.
    pub direction: Option<(String, String)>,
    /// The newest moment here.
    pub head: Option<Moment>,
    /// The site where the command belongs if it doesn't belong here.
    pub peer: Option<String>,
    /// The facts of the preconditions.
    pub facts: Facts,
}

impl Situation {
    fn state(&self) -> State {
        self.state.unwrap_or(State::Unprotected)
    }

    /// Fills in the names that the message of a refusal from the table may need.
    fn named(&self, refusal: Refusal) -> Refused {
        let mut refused = refusal.with("vm", &self.subject).with("name", &self.subject);
        refused = refused.with("state", self.state());
        if let Some(job) = &self.job {
            refused = refused.with("job", format!("the job {job}"));
        }
        match &self.peer {
            Some(peer) => refused.with("peer", peer),
            None => refused,
        }
    }
}

impl Command {
    /// The column of the table that decides: a planned failover has its own.
    pub fn column(&self) -> Option<Column> {
        match self.action {
            Action::Failover { planned: true, .. } => Some(Column::Planned),
            _ => self.verb.column(),
        }
    }
}

/// Whether the command is admitted; else by which name it is refused.
pub fn admit(command: &Command, situation: &Situation) -> Result<(), Refused> {
    let supported = command.verb.supported();
    if !supported {
        return Err(Refusal::NotSupportedYet.with("verb", command.verb));
    }
    let column = command.column();
    if let Some(column) = column {
        let brings = Brings {
            force: command.force,
            names_moment: command.moment().is_some_and(MomentRef::names_moment),
            migrated: situation.migrated,
        };
        admit_by_table(situation.state(), column, brings).map_err(|refusal| situation.named(refusal))?;
    }
    // Pausing and naming a moment disturb no job, and a job must be stoppable.
    let alone = !matches!(column, Some(Column::Cancel | Column::Pause | Column::Point));
    let ends = situation.copying && column == Some(Column::Unprotect);
    if situation.job.is_some() && !ends && alone && command.verb.scope() != Scope::Job {
        return Err(situation.named(Refusal::Busy));
    }
    expected(&command.expect, situation)?;
    if let Some(column) = column {
        preconditions::first_failing(column, &situation.facts)?;
    }
    // A wrong name is refused also where none is needed: the line was meant for another.
    let wrong = command.confirm.as_deref() != Some(situation.subject.as_str());
    if wrong && (command.confirm.is_some() || command.needs_confirm()) {
        let given = command.confirm.as_ref().map(|name| format!("; given was `{name}`"));
        return Err(situation.named(Refusal::ConfirmNeeded).with("given", given.unwrap_or_default()));
    }
    Ok(())
}

fn expected(expect: &Expect, situation: &Situation) -> Result<(), Refused> {
    let differs =
        |what: String, is: String| Err(Refusal::ExpectationFailed.with("what", what).with("is", is));
    if let Some(state) = expect.state.filter(|s| *s != situation.state()) {
        return differs(format!("the state {state}"), situation.state().to_string());
    }
    if expect.direction.is_some() && expect.direction != situation.direction {
        let text =
            |d: &Option<(String, String)>| d.as_ref().map_or("none".into(), |(a, b)| format!("{a}->{b}"));
        return differs(format!("the direction {}", text(&expect.direction)), text(&situation.direction));
    }
    if let Some((epoch, seq)) = &expect.head {
        let same = |head: Moment| head.seq.0 == *seq && epoch.matches(head.epoch);
        if !situation.head.is_some_and(same) {
            let is = situation.head.map_or("none".to_owned(), moment_name);
            return differs(format!("the head @{}-{seq}", epoch.as_str()), is);
        }
    }
    Ok(())
}

/// The name of a moment for ever: `@<epoch>-<n>`.
pub fn moment_name(moment: Moment) -> String {
    format!("@{}-{}", moment.epoch, moment.seq)
}

/// How a verb would fare now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// It is accepted.
    Yes,
    /// It is accepted, with this on the line.
    With(String),
    /// It is refused.
    No(Refused),
}

/// How the verbs of this scope would fare now, in the order of their list.
pub fn allowed(scope: Scope, situation: &Situation) -> Vec<(Verb, Allowed)> {
    let of_scope =
        |verb: &&Verb| verb.scope() == scope || (scope == Scope::Group && verb.scope() == Scope::Vm);
    Verb::ALL.iter().filter(of_scope).map(|verb| (*verb, allowed_one(*verb, situation))).collect()
}

/// How this verb would fare now.
pub fn allowed_one(verb: Verb, situation: &Situation) -> Allowed {
    let cell = verb.column().map(|column| cell(situation.state(), column));
    let (force, named) = (cell == Some(Cell::Force), matches!(cell, Some(Cell::Named(_))));
    // The line that brings all that the table and the confirmation may ask for.
    let moment = named.then_some(MomentRef::LatestProcessed);
    let action = match verb {
        Verb::Failover => Action::Failover { moment, planned: false, source: None, start: None },
        Verb::Failback => Action::Failback { moment, source: None, start: None },
        Verb::Commit => Action::Commit { points: None },
        Verb::Rollback => Action::Rollback,
        Verb::Resolve => Action::Resolve,
        // What these are told decides nothing here.
        _ => Action::Pause,
    };
    let command = Command {
        verb,
        action,
        id: None,
        expect: Expect::default(),
        confirm: Some(situation.subject.clone()),
        force,
        dry_run: false,
    };
    match admit(&command, situation) {
        Err(refused) => Allowed::No(refused),
        Ok(()) => {
            let mut with = Vec::new();
            if named {
                with.push("a moment named".to_owned());
            }
            if force {
                with.push("force".to_owned());
            }
            if command.needs_confirm() || verb == Verb::Drop {
                with.push(format!("confirm={}", super::control::quote(&situation.subject)));
            }
            if with.is_empty() { Allowed::Yes } else { Allowed::With(with.join(" ")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protection::control::parse;
    use crate::vocab::EpochId;

    fn at(state: State) -> Situation {
        Situation {
            subject: "web01".into(),
            state: Some(state),
            peer: Some("london".into()),
            ..Situation::default()
        }
    }

    fn refusal(verb: Verb, line: &str, situation: &Situation) -> Option<Refusal> {
        admit(&parse(verb, line.as_bytes()).unwrap(), situation).err().map(|r| r.refusal)
    }

    #[test]
    fn the_order_of_what_refuses() {
        let mut now = at(State::Fenced);
        now.facts.unknown_moment = Some("@seq-9".into());
        now.job = Some("j1".into());
        let line = "@seq-9 expect-state=standby";
        assert_eq!(refusal(Verb::Failover, line, &now), Some(Refusal::ForceNeeded));
        let line = "@seq-9 force expect-state=standby";
        assert_eq!(refusal(Verb::Failover, line, &now), Some(Refusal::Busy));
        now.job = None;
        assert_eq!(refusal(Verb::Failover, line, &now), Some(Refusal::ExpectationFailed));
        let line = "@seq-9 force expect-state=fenced";
        assert_eq!(refusal(Verb::Failover, line, &now), Some(Refusal::PointNotFound));
        now.facts.unknown_moment = None;
        assert_eq!(refusal(Verb::Failover, line, &now), Some(Refusal::ConfirmNeeded));
        assert_eq!(
            refusal(Verb::Failover, &format!("{line} confirm=web02"), &now),
            Some(Refusal::ConfirmNeeded)
        );
        assert_eq!(refusal(Verb::Failover, &format!("{line} confirm=web01"), &now), None);
        assert_eq!(refusal(Verb::Failover, &format!("{line} dry-run=yes"), &now), None);
        assert_eq!(refusal(Verb::Reprotect, "reprotect", &now), Some(Refusal::NotSupportedYet));
    }

    #[test]
    fn a_planned_failover_has_its_own_column() {
        let mut now = at(State::Standby);
        now.facts.unreachable = Some("paris".into());
        assert_eq!(refusal(Verb::Failover, "planned", &now), Some(Refusal::PeerUnreachable));
        assert_eq!(refusal(Verb::Failover, "latest", &now), None);
        assert_eq!(refusal(Verb::Failover, "planned", &at(State::Orphaned)), Some(Refusal::Orphaned));
    }

    #[test]
    fn expectations() {
        let epoch = EpochId([0x11; 16]);
        let mut now = at(State::Standby);
        now.direction = Some(("paris".into(), "london".into()));
        now.head = Some(Moment::new(epoch, 7));
        for line in ["expect-direction=paris->london", "expect-head=@11111111-7", "expect-state=standby"] {
            assert_eq!(refusal(Verb::Failover, line, &now), None, "{line}");
        }
        for line in ["expect-direction=london->paris", "expect-head=@11111111-8", "expect-head=@22222222-7"] {
            assert_eq!(refusal(Verb::Failover, line, &now), Some(Refusal::ExpectationFailed), "{line}");
        }
        let command = parse(Verb::Failover, b"expect-head=@22222222-7").unwrap();
        let message = admit(&command, &now).unwrap_err().message();
        assert_eq!(message, format!("the head @22222222-7 was expected, it is @{epoch}-7"));
    }

    #[test]
    fn what_is_shown_is_what_is_done() {
        for &state in State::ALL {
            let now = at(state);
            for (verb, shown) in allowed(Scope::Vm, &now) {
                let Some(column) = verb.column().filter(|_| verb.supported()) else { continue };
                match (cell(state, column), shown) {
                    (Cell::Yes, Allowed::Yes) => {}
                    (Cell::Yes, Allowed::With(with)) => assert_eq!(with, "confirm=web01", "{state} {verb}"),
                    (Cell::Force, Allowed::With(with)) => {
                        assert_eq!(with, "force confirm=web01", "{state} {verb}")
                    }
                    (Cell::Named(_), Allowed::With(with)) => {
                        assert_eq!(with, "a moment named", "{state} {verb}")
                    }
                    (Cell::No(refusal), Allowed::No(refused)) => assert_eq!(refused.refusal, refusal),
                    (cell, shown) => panic!("{state} {verb}: {cell:?} is shown as {shown:?}"),
                }
            }
        }
        let refused = allowed_one(Verb::Failover, &at(State::Protected));
        let Allowed::No(refused) = refused else { panic!("{refused:?}") };
        assert_eq!(
            refused.to_string(),
            "already-active: web01 is active at this site. To move it, type the failover at london."
        );
    }

    #[test]
    fn a_job_excludes_others_but_not_its_own_end() {
        let now = Situation { job: Some("j1".into()), ..at(State::Protected) };
        assert_eq!(refusal(Verb::Resync, "resync", &now), Some(Refusal::Busy));
        assert_eq!(refusal(Verb::Scrub, "scrub", &now), Some(Refusal::Busy));
        assert_eq!(refusal(Verb::Pause, "pause", &now), None);
        assert_eq!(refusal(Verb::RecoveryPoint, "name=x", &now), None);
        assert_eq!(refusal(Verb::Done, "done", &now), None);
        // Whoever is refused by the state learns which job it is that can be cancelled.
        let waits = Situation { job: Some("j9".into()), ..at(State::FailingOver) };
        let Allowed::No(refused) = allowed_one(Verb::Failover, &waits) else { panic!("it is allowed") };
        assert!(refused.to_string().starts_with("busy: the job j9 is under way."), "{refused}");
    }
}
