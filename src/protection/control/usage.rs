//! The usage of each verb, and the line that a command is printed as.

use super::verb::{Action, Command, DropWhat, Pairing};
use super::{Line, MomentRef};
use crate::protection::Verb;

/// What may be written to the verb's file, on one line. `MOMENT` is any of the ways to name one.
pub fn usage(verb: Verb) -> &'static str {
    match verb {
        Verb::Protect => "protect [to=<peer>] [as=<name>] [policy=<name>]",
        Verb::Unprotect => "unprotect [delete|keep] [force] [confirm=<name>]",
        Verb::Pause => "pause",
        Verb::Resume => "resume",
        Verb::Resync => "resync",
        Verb::RecoveryPoint => "recovery-point [name=<name>] [pin]",
        Verb::TestFailover => "[MOMENT] [name=<name>] [start=yes|no], or: cleanup name=<name> [notes=<text>]",
        Verb::Failover => {
            "[MOMENT] [planned] [force confirm=<name>] [source=shutdown|leave] [start=yes|no]; \
             MOMENT: latest (default), latest-processed, latest-app-consistent, @<time>, @seq-<n>, @<epoch>-<n> \
             or a recovery point"
        }
        Verb::Failback => "[MOMENT] [source=shutdown|leave] [start=yes|no]",
        Verb::ChangeRecoveryPoint => "MOMENT [start=yes|no]",
        Verb::Rollback => "rollback confirm=<name>",
        Verb::Commit => "commit confirm=<name> [points=delete|keep]",
        Verb::Reprotect => "reprotect [to=<peer>]",
        Verb::CompleteMigration => "complete-migration",
        Verb::Resolve => "resolve force confirm=<name>",
        Verb::Adopt => "adopt to=<peer>",
        Verb::Drop => "branch=<epoch>|seed=<name>|clone=<name> confirm=<name>",
        Verb::Scrub => "scrub [MOMENT]",
        Verb::Enrol => "path=<file> [to=<peer>]",
        Verb::AssignNewUuid => "disk=<file>",
        Verb::ExportSeed | Verb::ImportSeed => "path=<directory>",
        Verb::Join | Verb::Leave => "vm=<name>",
        Verb::Pair => "create, or: accept <token>",
        Verb::Accept | Verb::Forget => "site=<peer>",
        Verb::Import => "path=<file> vm=<name> [disk=<file>] [how=rename|reflink|copy]",
        Verb::ExportConfig | Verb::ImportConfig => "path=<directory>",
        Verb::Cancel => "cancel",
        Verb::Done => "done",
    }
}

impl Command {
    /// The line that reads back as this command.
    pub fn line(&self) -> Line {
        let mut line = Line::default();
        let out = &mut Out(&mut line);
        self.action_line(out);
        if line.words.is_empty() {
            line.words.push(self.verb.name().to_owned());
        }
        let out = &mut Out(&mut line);
        out.flag(self.force, "force");
        out.option("confirm", self.confirm.clone());
        out.option("expect-state", self.expect.state.map(|s| s.to_string()));
        out.option("expect-direction", self.expect.direction.as_ref().map(|(a, b)| format!("{a}->{b}")));
        let head = self.expect.head.clone().map(|(epoch, seq)| MomentRef::Epoch(epoch, seq).to_string());
        out.option("expect-head", head);
        out.option("dry-run", self.dry_run.then(|| "yes".to_owned()));
        out.option("id", self.id.clone());
        line
    }

    fn action_line(&self, out: &mut Out<'_>) {
        match &self.action {
            Action::Protect { to, as_name, policy } => {
                out.option("to", to.clone());
                out.option("as", as_name.clone());
                out.option("policy", policy.clone());
            }
            Action::Unprotect { delete } => {
                out.flag(*delete == Some(true), "delete");
                out.flag(*delete == Some(false), "keep");
            }
            Action::RecoveryPoint { name, pin } => {
                out.flag(*pin, "pin");
                out.option("name", name.clone());
            }
            Action::Test { moment, name, start } => {
                out.moment(Some(moment));
                out.option("name", name.clone());
                out.yes_no("start", *start);
            }
            Action::TestCleanup { name, notes } => {
                out.flag(true, "cleanup");
                out.option("name", Some(name.clone()));
                out.option("notes", notes.clone());
            }
            Action::Failover { moment, planned, source, start } => {
                out.moment(moment.as_ref());
                out.flag(*planned, "planned");
                out.option("source", source.map(|s| s.to_string()));
                out.yes_no("start", *start);
            }
            Action::Failback { moment, source, start } => {
                out.moment(moment.as_ref());
                out.option("source", source.map(|s| s.to_string()));
                out.yes_no("start", *start);
            }
            Action::Change { moment, start } => {
                out.moment(Some(moment));
                out.yes_no("start", *start);
            }
            Action::Commit { points } => out.option("points", points.map(|p| p.to_string())),
            Action::Reprotect { to } => out.option("to", to.clone()),
            Action::Adopt { to } => out.option("to", Some(to.clone())),
            Action::Drop(DropWhat::Branch(epoch)) => out.option("branch", Some(epoch.as_str().to_owned())),
            Action::Drop(DropWhat::Seed(name)) => out.option("seed", Some(name.clone())),
            Action::Drop(DropWhat::Clone(name)) => out.option("clone", Some(name.clone())),
            Action::Scrub { moment } => out.moment(moment.as_ref()),
            Action::Enrol { path, to } => {
                out.option("path", Some(path.clone()));
                out.option("to", to.clone());
            }
            Action::AssignNewUuid { disk } => out.option("disk", Some(disk.clone())),
            Action::ExportSeed { path }
            | Action::ImportSeed { path }
            | Action::ExportConfig { path }
            | Action::ImportConfig { path } => out.option("path", Some(path.clone())),
            Action::Join { vm } | Action::Leave { vm } => out.option("vm", Some(vm.clone())),
            Action::Pair(Pairing::Create) => out.flag(true, "create"),
            Action::Pair(Pairing::Accept(token)) => {
                out.flag(true, "accept");
                out.option("token", Some(token.clone()));
            }
            Action::Accept { site } | Action::Forget { site } => out.option("site", Some(site.clone())),
            Action::Import { path, vm, disk, how } => {
                out.option("path", Some(path.clone()));
                out.option("vm", Some(vm.clone()));
                out.option("disk", disk.clone());
                out.option("how", how.map(|h| h.to_string()));
            }
            Action::Pause
            | Action::Resume
            | Action::Resync
            | Action::Rollback
            | Action::CompleteMigration
            | Action::Resolve
            | Action::Cancel
            | Action::Done => {}
        }
    }
}

struct Out<'a>(&'a mut Line);

impl Out<'_> {
    fn flag(&mut self, set: bool, word: &str) {
        if set {
            self.0.words.push(word.to_owned());
        }
    }

    fn moment(&mut self, moment: Option<&MomentRef>) {
        self.0.words.extend(moment.map(ToString::to_string));
    }

    fn option(&mut self, key: &str, value: Option<String>) {
        self.0.options.extend(value.map(|value| (key.to_owned(), value)));
    }

    fn yes_no(&mut self, key: &str, value: Option<bool>) {
        self.option(key, value.map(|yes| if yes { "yes" } else { "no" }.to_owned()));
    }
}
