//! The line of each verb, typed.

use super::{EpochPrefix, Line, LineError, MomentRef, usage};
use crate::protection::names::words;
use crate::protection::{Refusal, Refused, State, Verb};
use std::str::FromStr;

words!(
    /// What a failover does with the VM at the source.
    Source ("value of source=") {
        /// Shut it down where the peer answers; go on if that fails.
        Shutdown = "shutdown",
        /// Leave it alone.
        Leave = "leave",
    }
);

words!(
    /// What happens to recovery points at commit.
    PointsAtCommit ("value of points=") {
        /// All that are not pinned are deleted.
        Delete = "delete",
        /// Those at or below the chosen moment stay, under retention.
        Keep = "keep",
    }
);

words!(
    /// How an image file gets into the store.
    ImportHow ("value of how=") {
        /// Renamed: on the same filesystem only, the old name is gone.
        Rename = "rename",
        /// Shared extents: on the same filesystem only, where it can do that.
        Reflink = "reflink",
        /// Copied.
        Copy = "copy",
    }
);

/// What must hold for the command to be carried out; else `expectation-failed`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Expect {
    /// The state here.
    pub state: Option<State>,
    /// From which site to which it ships.
    pub direction: Option<(String, String)>,
    /// The newest moment here.
    pub head: Option<(EpochPrefix, u64)>,
}

/// What `drop` deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DropWhat {
    /// A branch, by its epoch.
    Branch(EpochPrefix),
    /// A seed, by its directory's name.
    Seed(String),
    /// A clone of a test.
    Clone(String),
}

/// What `pair` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Makes a token for the other site.
    Create,
    /// Uses the other site's token.
    Accept(String),
}

/// What a verb is told beside what all verbs may be told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the keys of the line, named in the text of each variant")]
pub enum Action {
    /// `protect`: to which peer (none: the only one), under which name there, with which policy.
    Protect { to: Option<String>, as_name: Option<String>, policy: Option<String> },
    /// `unprotect`: whether the replica is deleted (none: as the policy says).
    Unprotect { delete: Option<bool> },
    /// `pause`.
    Pause,
    /// `resume`.
    Resume,
    /// `resync`.
    Resync,
    /// `recovery-point`: a name, and whether it is kept beyond retention and commit.
    RecoveryPoint { name: Option<String>, pin: bool },
    /// `test-failover` of a moment under a name.
    Test { moment: MomentRef, name: Option<String>, start: Option<bool> },
    /// `test-failover cleanup`.
    TestCleanup { name: String, notes: Option<String> },
    /// `failover`. Without a moment: `latest`.
    Failover { moment: Option<MomentRef>, planned: bool, source: Option<Source>, start: Option<bool> },
    /// `failback`: planned, at the original site.
    Failback { moment: Option<MomentRef>, source: Option<Source>, start: Option<bool> },
    /// `change-recovery-point`.
    Change { moment: MomentRef, start: Option<bool> },
    /// `rollback`.
    Rollback,
    /// `commit`.
    Commit { points: Option<PointsAtCommit> },
    /// `reprotect`.
    Reprotect { to: Option<String> },
    /// `complete-migration`.
    CompleteMigration,
    /// `resolve`.
    Resolve,
    /// `adopt`.
    Adopt { to: String },
    /// `drop`.
    Drop(DropWhat),
    /// `scrub`, of the newest common moment unless one is named.
    Scrub { moment: Option<MomentRef> },
    /// `enrol`.
    Enrol { path: String, to: Option<String> },
    /// `assign-new-uuid`.
    AssignNewUuid { disk: String },
    /// `export-seed`.
    ExportSeed { path: String },
    /// `import-seed`.
    ImportSeed { path: String },
    /// `join`.
    Join { vm: String },
    /// `leave`.
    Leave { vm: String },
    /// `pair`.
    Pair(Pairing),
    /// `accept`.
    Accept { site: String },
    /// `forget`.
    Forget { site: String },
    /// `import`.
    Import { path: String, vm: String, disk: Option<String>, how: Option<ImportHow> },
    /// `export-config`.
    ExportConfig { path: String },
    /// `import-config`.
    ImportConfig { path: String },
    /// `cancel`.
    Cancel,
    /// `done`.
    Done,
}

/// One command, understood completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The verb.
    pub verb: Verb,
    /// What it is told.
    pub action: Action,
    /// Stands for this text for 30 days: said again, it gives the same job.
    pub id: Option<String>,
    /// What must hold.
    pub expect: Expect,
    /// The name typed as confirmation.
    pub confirm: Option<String>,
    /// The word `force`.
    pub force: bool,
    /// Say what would happen, and do nothing.
    pub dry_run: bool,
}

impl Command {
    /// Whether `confirm=` must name what the command concerns.
    pub fn needs_confirm(&self) -> bool {
        let destructive = match &self.action {
            Action::Commit { .. } | Action::Rollback | Action::Resolve | Action::Drop(_) => true,
            Action::Unprotect { delete } => *delete == Some(true),
            _ => false,
        };
        (destructive || self.force) && !self.dry_run
    }

    /// The moment that the command names, if it can and does.
    pub fn moment(&self) -> Option<&MomentRef> {
        match &self.action {
            Action::Failover { moment, .. } | Action::Failback { moment, .. } | Action::Scrub { moment } => {
                moment.as_ref()
            }
            Action::Change { moment, .. } | Action::Test { moment, .. } => Some(moment),
            _ => None,
        }
    }
}

/// Reads what was written to the file of `verb`. The verb's own name may stand first; a file of a job is read with
/// [`Verb::Cancel`] or [`Verb::Done`], by its first word.
pub fn parse(verb: Verb, bytes: &[u8]) -> Result<Command, Refused> {
    let line = Line::parse(bytes).map_err(|error| match error {
        LineError::TooLong => Refusal::TooLong.plain(),
        error => invalid(error.to_string()),
    })?;
    let mut reader = Reader::new(verb, line);
    let force = reader.word("force");
    let dry_run = reader.yes_no("dry-run")?.unwrap_or(false);
    let id = reader.text("id", is_id, "letters, digits, `.`, `_` and `-`, at most 64")?;
    let confirm = reader.name("confirm")?;
    let expect = Expect {
        state: reader.value("expect-state")?,
        direction: reader.option("expect-direction").map(|text| direction(&text)).transpose()?,
        head: reader.option("expect-head").map(|text| head(&text)).transpose()?,
    };
    let action = action(verb, &mut reader)?;
    reader.finish()?;
    Ok(Command { verb, action, id, expect, confirm, force, dry_run })
}

fn action(verb: Verb, r: &mut Reader) -> Result<Action, Refused> {
    Ok(match verb {
        Verb::Protect => {
            Action::Protect { to: r.name("to")?, as_name: r.name("as")?, policy: r.name("policy")? }
        }
        Verb::Unprotect => Action::Unprotect {
            delete: match (r.word("delete"), r.word("keep")) {
                (true, true) => return Err(invalid("`delete` and `keep` exclude each other")),
                (delete, keep) => (delete || keep).then_some(delete),
            },
        },
        Verb::Pause => Action::Pause,
        Verb::Resume => Action::Resume,
        Verb::Resync => Action::Resync,
        Verb::RecoveryPoint => Action::RecoveryPoint {
            name: r.text(
                "name",
                crate::protection::is_point_label,
                "letters, digits, `.`, `_` and `-`, at most 64",
            )?,
            pin: r.word("pin"),
        },
        Verb::TestFailover if r.word("cleanup") => {
            Action::TestCleanup { name: r.required("name")?, notes: r.option("notes") }
        }
        Verb::TestFailover => Action::Test {
            moment: r.moment()?.unwrap_or(MomentRef::Latest),
            name: r.name("name")?,
            start: r.yes_no("start")?,
        },
        Verb::Failover => {
            let planned = r.word("planned");
            Action::Failover {
                planned,
                moment: r.moment()?,
                source: r.value("source")?,
                start: r.yes_no("start")?,
            }
        }
        Verb::Failback => {
            Action::Failback { moment: r.moment()?, source: r.value("source")?, start: r.yes_no("start")? }
        }
        Verb::ChangeRecoveryPoint => Action::Change {
            moment: r.moment()?.ok_or_else(|| missing("the moment to go to", verb))?,
            start: r.yes_no("start")?,
        },
        Verb::Rollback => Action::Rollback,
        Verb::Commit => Action::Commit { points: r.value("points")? },
        Verb::Reprotect => Action::Reprotect { to: r.name("to")? },
        Verb::CompleteMigration => Action::CompleteMigration,
        Verb::Resolve => Action::Resolve,
        Verb::Adopt => Action::Adopt { to: r.required("to")? },
        Verb::Drop => drop_what(r)?,
        Verb::Scrub => Action::Scrub { moment: r.moment()? },
        Verb::Enrol => Action::Enrol { path: r.path()?, to: r.name("to")? },
        Verb::AssignNewUuid => Action::AssignNewUuid { disk: r.required("disk")? },
        Verb::ExportSeed => Action::ExportSeed { path: r.path()? },
        Verb::ImportSeed => Action::ImportSeed { path: r.path()? },
        Verb::Join => Action::Join { vm: r.required("vm")? },
        Verb::Leave => Action::Leave { vm: r.required("vm")? },
        Verb::Pair => match (r.word("create"), r.word("accept")) {
            (true, false) => Action::Pair(Pairing::Create),
            (false, true) => {
                let token = r.option("token").or_else(|| r.next_word());
                Action::Pair(Pairing::Accept(token.ok_or_else(|| missing("the token", verb))?))
            }
            _ => return Err(missing("`create`, or `accept` and a token,", verb)),
        },
        Verb::Accept => Action::Accept { site: r.required("site")? },
        Verb::Forget => Action::Forget { site: r.required("site")? },
        Verb::Import => Action::Import {
            path: r.path()?,
            vm: r.required("vm")?,
            disk: r.name("disk")?,
            how: r.value("how")?,
        },
        Verb::ExportConfig => Action::ExportConfig { path: r.path()? },
        Verb::ImportConfig => Action::ImportConfig { path: r.path()? },
        Verb::Cancel => Action::Cancel,
        Verb::Done => Action::Done,
    })
}

fn drop_what(r: &mut Reader) -> Result<Action, Refused> {
    let branch: Option<EpochPrefix> = r.value("branch")?;
    let seed = r.name("seed")?;
    let clone = r.name("clone")?;
    Ok(Action::Drop(match (branch, seed, clone) {
        (Some(epoch), None, None) => DropWhat::Branch(epoch),
        (None, Some(seed), None) => DropWhat::Seed(seed),
        (None, None, Some(clone)) => DropWhat::Clone(clone),
        _ => return Err(missing("one of branch=, seed= and clone=", Verb::Drop)),
    }))
}

fn invalid(what: impl Into<String>) -> Refused {
    Refusal::Invalid.with("what", what.into())
}

fn missing(what: &str, verb: Verb) -> Refused {
    invalid(format!("{what} is missing; usage: {}", usage(verb)))
}

fn direction(text: &str) -> Result<(String, String), Refused> {
    text.split_once("->")
        .or_else(|| text.split_once('→'))
        .map(|(from, to)| (from.trim().to_owned(), to.trim().to_owned()))
        .filter(|(from, to)| is_name(from) && is_name(to))
        .ok_or_else(|| invalid(format!("expect-direction={text}: `<site>-><site>` is expected")))
}

fn head(text: &str) -> Result<(EpochPrefix, u64), Refused> {
    match text.parse() {
        Ok(MomentRef::Epoch(epoch, seq)) => Ok((epoch, seq)),
        _ => Err(invalid(format!("expect-head={text}: `@<epoch>-<n>` is expected"))),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && !matches!(text, "." | "..")
        && !text.chars().any(|c| c == '/' || c.is_control())
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Takes words and keys off a line, and knows what was never asked for.
struct Reader {
    verb: Verb,
    line: Line,
    known: Vec<&'static str>,
}

impl Reader {
    fn new(verb: Verb, mut line: Line) -> Self {
        if line.words.first().is_some_and(|word| word == verb.name()) {
            line.words.remove(0);
        }
        Self { verb, line, known: Vec::new() }
    }

    /// Whether the word stands there; it is taken off.
    fn word(&mut self, word: &str) -> bool {
        let at = self.line.words.iter().position(|w| w == word);
        at.map(|at| self.line.words.remove(at)).is_some()
    }

    fn next_word(&mut self) -> Option<String> {
        (!self.line.words.is_empty()).then(|| self.line.words.remove(0))
    }

    fn moment(&mut self) -> Result<Option<MomentRef>, Refused> {
        self.next_word()
            .map(|word| word.parse().map_err(|e: super::MomentError| invalid(e.to_string())))
            .transpose()
    }

    fn option(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        let at = self.line.options.iter().position(|(k, _)| k == key)?;
        Some(self.line.options.remove(at).1)
    }

    fn value<T: FromStr>(&mut self, key: &'static str) -> Result<Option<T>, Refused>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.option(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|error| invalid(format!("{key}={text}: {error}")))
    }

    fn text(
        &mut self,
        key: &'static str,
        ok: fn(&str) -> bool,
        expected: &str,
    ) -> Result<Option<String>, Refused> {
        match self.option(key) {
            Some(text) if !ok(&text) => Err(invalid(format!("{key}={text}: expected are {expected}"))),
            other => Ok(other),
        }
    }

    fn name(&mut self, key: &'static str) -> Result<Option<String>, Refused> {
        self.text(key, is_name, "1 to 255 bytes without `/` and control characters, not `.` or `..`")
    }

    fn required(&mut self, key: &'static str) -> Result<String, Refused> {
        let verb = self.verb;
        self.name(key)?.ok_or_else(|| missing(&format!("{key}="), verb))
    }

    fn path(&mut self) -> Result<String, Refused> {
        let ok = |path: &str| path.starts_with('/') && !path.contains('\0');
        let verb = self.verb;
        self.text("path", ok, "an absolute path")?.ok_or_else(|| missing("path=", verb))
    }

    fn yes_no(&mut self, key: &'static str) -> Result<Option<bool>, Refused> {
        match self.option(key).as_deref() {
            None => Ok(None),
            Some("yes") => Ok(Some(true)),
            Some("no") => Ok(Some(false)),
            Some(other) => Err(invalid(format!("{key}={other}: yes or no is expected"))),
        }
    }

    fn finish(mut self) -> Result<(), Refused> {
        if let Some((key, _)) = self.line.options.first() {
            self.known.sort_unstable();
            let known = self.known.iter().map(|k| format!("{k}=")).collect::<Vec<_>>().join(" ");
            return Err(invalid(format!("`{}` doesn't know `{key}=`; it knows {known}", self.verb)));
        }
        match self.line.words.first() {
            Some(word) => {
                let usage = usage(self.verb);
                Err(invalid(format!("`{}` doesn't know the word `{word}`; usage: {usage}", self.verb)))
            }
            None => Ok(()),
        }
    }
}
