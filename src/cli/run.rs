//! What each command does.

mod change;
mod look;

use super::args::{Cli, Command};
use super::confirm::Ask;
use super::exit::{Exit, Failure};
use super::mount::Mount;
use clap::CommandFactory;
use std::io::{self, Write};

/// Where words go, and whom to ask.
pub struct Surroundings<'a> {
    /// Data.
    pub out: &'a mut dyn Write,
    /// Talk.
    pub err: &'a mut dyn Write,
    /// Whom to ask.
    pub ask: &'a dyn Ask,
    /// Whether progress is shown.
    pub progress: bool,
    /// A name for a command that has none: unique.
    pub id: &'a dyn Fn() -> String,
}

impl Surroundings<'_> {
    fn print(&mut self, text: &str) -> Result<(), Failure> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::io(&error, "can't print")),
            Ok(()) => Ok(()),
        }
    }

    fn json(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        self.print(&format!("{value}\n"))
    }

    /// Talk that gets lost harms nothing.
    fn say(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }
}

/// Carries a command out.
pub fn run(cli: &Cli, mount: &Mount, around: &mut Surroundings<'_>) -> Result<Exit, Failure> {
    let json = cli.json;
    match &cli.command {
        Command::Status { names, next } => look::status(mount, around, names, *next, json),
        Command::Health { name } => look::health(mount, around, name, json),
        Command::Allowed { name } => look::file(mount, around, name, "allowed", json),
        Command::Check { name } => look::check(mount, around, name, json),
        Command::Gaps { name } => look::file(mount, around, name, "gaps", json),
        Command::Policy { name, changes } => look::policy(mount, around, name, changes, json),
        Command::Points { name } => look::points(mount, around, name, json),
        Command::Jobs { id, cancel, done, wait, timeout } => match (id, cancel, done, wait) {
            (None, ..) => look::jobs(mount, around, json),
            (Some(id), true, ..) => change::job(mount, around, id, "cancel", json),
            (Some(id), _, true, _) => change::job(mount, around, id, "done", json),
            (Some(id), _, _, true) => change::wait(mount, around, id, *timeout, json),
            (Some(id), ..) => look::job(mount, around, id, json),
        },
        Command::Events { subject, follow, last } => {
            look::events(mount, around, subject.as_deref(), *last, *follow, json)
        }
        Command::Completion { shell } => completion(*shell, around),
        command => change::run(command, mount, around, json),
    }
}

fn completion(shell: clap_complete::Shell, around: &mut Surroundings<'_>) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "standbyctl", &mut script);
    around.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests;
