//! Commands that change something: a line is made, checked by the grammar of control files, confirmed, written, and
//! its job waited for.

use super::{Surroundings, look};
use crate::cli::args::{Command, Doing, Pair};
use crate::cli::confirm::confirm;
use crate::cli::exit::{Exit, Failure};
use crate::cli::mount::{Answer, Mount};
use crate::cli::wait::wait_for;
use crate::protection::Verb;
use crate::protection::control::{self, Line};
use serde_json::json;
use std::time::Duration;

/// Words and options of a control line as they gather.
#[derive(Default)]
struct Words(Line);

impl Words {
    fn word(mut self, word: Option<impl Into<String>>) -> Self {
        self.0.words.extend(word.map(Into::into));
        self
    }

    fn flag(self, set: bool, word: &str) -> Self {
        self.word(set.then_some(word))
    }

    fn option(mut self, key: &str, value: Option<impl Into<String>>) -> Self {
        self.0.options.extend(value.map(|value| (key.to_owned(), value.into())));
        self
    }
}

/// One command for one subject.
struct Task<'a> {
    /// The VM or group; none: the site.
    name: Option<&'a str>,
    verb: Verb,
    words: Words,
}

/// Carries out a command that changes something.
pub fn run(
    command: &Command,
    mount: &Mount,
    around: &mut Surroundings<'_>,
    json: bool,
) -> Result<Exit, Failure> {
    let (doing, tasks) = tasks(command)?;
    let mut jobs = Vec::new();
    let mut worst = Ok(Exit::Ok);
    for task in tasks {
        match begin(mount, around, &task, doing, json) {
            Ok(Some(job)) => jobs.push((task.name.unwrap_or("site").to_owned(), job)),
            Ok(None) => {}
            // The others are begun nevertheless; the first failure is what the process ends with.
            Err(failure) => keep_first(around, &mut worst, failure),
        }
    }
    for (name, job) in jobs {
        if doing.no_wait {
            report(around, &name, &job, "accepted", json)?;
            continue;
        }
        let timeout = doing.timeout.map(Duration::from_secs);
        match wait_for(mount, &job, timeout, around.progress && !json) {
            Ok(status) => {
                let said = status.get("outcome").or(status.get("state")).unwrap_or("done").to_owned();
                report(around, &name, &job, &said, json)?;
            }
            Err(failure) => keep_first(around, &mut worst, failure),
        }
    }
    worst
}

fn keep_first(around: &mut Surroundings<'_>, worst: &mut Result<Exit, Failure>, failure: Failure) {
    match worst {
        Ok(_) => *worst = Err(failure),
        Err(_) => around.say(&format!("standbyctl: {failure}")),
    }
}

fn report(
    around: &mut Surroundings<'_>,
    name: &str,
    job: &str,
    said: &str,
    json: bool,
) -> Result<(), Failure> {
    if json {
        around.json(&json!({ "name": name, "job": job, "outcome": said }))
    } else {
        around.print(&format!("{name}: {said} (job {job})\n"))
    }
}

/// Makes the line, asks where data may go away, and writes it. Gives the job, if there is one to wait for.
fn begin(
    mount: &Mount,
    around: &mut Surroundings<'_>,
    task: &Task<'_>,
    doing: &Doing,
    json: bool,
) -> Result<Option<String>, Failure> {
    let dir = match task.name {
        Some(name) => mount.item(name)?,
        None => "site".to_owned(),
    };
    let file = format!("{dir}/control/{}", task.verb);
    let mut line = task.words.0.clone();
    let mut option = |key: &str, value: Option<String>| {
        line.options.extend(value.map(|value| (key.to_owned(), value)));
    };
    option("expect-state", doing.expect_state.clone());
    option("expect-direction", doing.expect_direction.clone());
    option("expect-head", doing.expect_head.clone());
    option("dry-run", doing.dry_run.then(|| "yes".to_owned()));
    if line.words.is_empty() {
        line.words.push(task.verb.name().to_owned());
    }
    // Understood here by the same grammar, so that a slip is told before anybody is asked to confirm.
    let command = control::parse(task.verb, line.to_string().as_bytes())
        .map_err(|refused| Failure::new(Exit::Usage, refused.message()))?;
    if command.needs_confirm() {
        let name = task.name.unwrap_or("site");
        let loss = mount.sheet(&file).map(|sheet| look::losses(&sheet)).unwrap_or_default();
        confirm(around.ask, name, &loss, doing.yes)?;
        line.options.push(("confirm".to_owned(), name.to_owned()));
    }
    if !doing.dry_run {
        line.options.push(("id".to_owned(), doing.id.clone().unwrap_or_else(around.id)));
    }
    match mount.command(&file, &line.to_string())? {
        Answer::Job(job) => Ok(Some(job)),
        Answer::Done(said) => {
            if json {
                around.json(&json!({ "name": task.name, "outcome": "done", "says": said }))?;
            } else if said.is_empty() {
                around.print(&format!("{}: done\n", task.name.unwrap_or("site")))?;
            } else {
                around.print(&format!("{said}\n"))?;
            }
            Ok(None)
        }
        Answer::WouldDo { steps, outage } => {
            if json {
                around.json(
                    &json!({ "name": task.name, "outcome": "dry-run", "steps": steps, "outage": outage }),
                )?;
            } else {
                for (number, step) in steps.iter().enumerate() {
                    around.print(&format!("{}. {step}\n", number + 1))?;
                }
                around.print(&format!("expected outage: {outage}\n"))?;
            }
            Ok(None)
        }
    }
}

/// The lines that a command stands for.
fn tasks(command: &Command) -> Result<(&Doing, Vec<Task<'_>>), Failure> {
    let one = |name, verb, words| vec![Task { name: Some(name), verb, words }];
    Ok(match command {
        Command::Protect { names, to, as_name, policy, doing } => {
            if as_name.is_some() && names.len() > 1 {
                return Err(Failure::new(
                    Exit::Usage,
                    "--as names one VM at the peer, and several are given",
                ));
            }
            let words = || {
                Words::default()
                    .option("to", to.clone())
                    .option("as", as_name.clone())
                    .option("policy", policy.clone())
            };
            (doing, each(names, Verb::Protect, words))
        }
        Command::Unprotect { names, delete, keep, force, doing } => {
            let words = || Words::default().flag(*delete, "delete").flag(*keep, "keep").flag(*force, "force");
            (doing, each(names, Verb::Unprotect, words))
        }
        Command::Pause { names, doing } => (doing, each(names, Verb::Pause, Words::default)),
        Command::Resume { names, doing } => (doing, each(names, Verb::Resume, Words::default)),
        Command::Resync { names, doing } => (doing, each(names, Verb::Resync, Words::default)),
        Command::Point { name, label, pin, doing } => {
            let words = Words::default().flag(*pin, "pin").option("name", label.clone());
            (doing, one(name, Verb::RecoveryPoint, words))
        }
        Command::Failover { name, moment, planned, force, leave_source, start, doing } => {
            let words = Words::default()
                .word(moment.clone())
                .flag(*planned, "planned")
                .flag(*force, "force")
                .option("source", leave_source.then_some("leave"))
                .option("start", start.map(|s| s.word()));
            (doing, one(name, Verb::Failover, words))
        }
        Command::Change { name, moment, start, doing } => {
            let words = Words::default().word(Some(moment)).option("start", start.map(|s| s.word()));
            (doing, one(name, Verb::ChangeRecoveryPoint, words))
        }
        Command::Rollback { name, doing } => (doing, one(name, Verb::Rollback, Words::default())),
        Command::Commit { name, points, doing } => {
            (doing, one(name, Verb::Commit, Words::default().option("points", points.clone())))
        }
        Command::Drop { name, what, doing } => {
            let words = Words::default()
                .option("branch", what.branch.clone())
                .option("seed", what.seed.clone())
                .option("clone", what.clone_name.clone());
            (doing, one(name, Verb::Drop, words))
        }
        Command::Scrub { name, moment, doing } => {
            (doing, one(name, Verb::Scrub, Words::default().word(moment.clone())))
        }
        Command::Import { path, vm, disk, how, doing } => {
            let path = std::path::absolute(path).map_err(|e| Failure::io(&e, path.display()))?;
            let path = path.to_str().ok_or_else(|| {
                Failure::new(Exit::Usage, format!("{}: the path must be UTF-8", path.display()))
            })?;
            let words = Words::default()
                .option("path", Some(path))
                .option("vm", Some(vm))
                .option("disk", disk.clone())
                .option("how", how.clone());
            (doing, vec![Task { name: None, verb: Verb::Import, words }])
        }
        Command::Pair(Pair::Create { doing }) => {
            let words = Words::default().word(Some("create"));
            (doing, vec![Task { name: None, verb: Verb::Pair, words }])
        }
        Command::Pair(Pair::Accept { token, doing }) => {
            let words = Words::default().word(Some("accept")).option("token", Some(token));
            (doing, vec![Task { name: None, verb: Verb::Pair, words }])
        }
        _ => return Err(Failure::new(Exit::Usage, "this command changes nothing")),
    })
}

fn each<'a>(names: &'a [String], verb: Verb, words: impl Fn() -> Words) -> Vec<Task<'a>> {
    names.iter().map(|name| Task { name: Some(name), verb, words: words() }).collect()
}

/// `jobs <id> --cancel` and `--done`.
pub fn job(
    mount: &Mount,
    around: &mut Surroundings<'_>,
    id: &str,
    word: &str,
    json: bool,
) -> Result<Exit, Failure> {
    mount.command(&format!("jobs/{id}/control"), word)?;
    report(around, word, id, "accepted", json)?;
    Ok(Exit::Ok)
}

/// `jobs <id> --wait`.
pub fn wait(
    mount: &Mount,
    around: &mut Surroundings<'_>,
    id: &str,
    timeout: Option<u64>,
    json: bool,
) -> Result<Exit, Failure> {
    let status = wait_for(mount, id, timeout.map(Duration::from_secs), around.progress && !json)?;
    let said = status.get("outcome").or(status.get("state")).unwrap_or("done").to_owned();
    report(around, status.get("subject").unwrap_or("-"), id, &said, json)?;
    Ok(Exit::Ok)
}
