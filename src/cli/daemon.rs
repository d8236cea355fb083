//! The program `standbyfs`: the daemon, and the tools that need none.
//!
//! Exit codes: 0 done, 1 failed or damage found, 2 usage.

mod args;
mod demo;
mod mount;
mod text;

use crate::seam::SystemEntropy;
use crate::site::export::{ExportOptions, export};
use crate::site::inspect::{InspectOptions, inspect};
use crate::vocab::Result;
use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// The program: reads its arguments and gives the code to end with.
pub fn standbyfs() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Mount(args) => mount::mount(&args).map(|()| ExitCode::SUCCESS),
        Command::Demo { dir } => demo::demo(&dir).map(|()| ExitCode::SUCCESS),
        Command::Inspect { store, journal, verify, json } => {
            look(&InspectOptions { store, journal, verify }, json)
        }
        Command::Export { store, vm, moment, dir, journal, damaged } => {
            write_out(&ExportOptions { store, journal, vm, moment, to: dir, damaged })
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("standbyfs: {error}");
        ExitCode::FAILURE
    })
}

fn look(options: &InspectOptions, json: bool) -> Result<ExitCode> {
    let report = inspect(options, &SystemEntropy)?;
    if json {
        let json = serde_json::to_string_pretty(&report).unwrap_or_default();
        println!("{json}");
    } else {
        print!("{}", text::report(&report));
    }
    Ok(if report.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_out(options: &ExportOptions) -> Result<ExitCode> {
    let done = export(options, &SystemEntropy)?;
    for note in &done.notes {
        eprintln!("standbyfs: {note}");
    }
    println!("moment: @{}-{}", done.moment.epoch, done.moment.seq);
    for (path, size) in &done.files {
        println!("{size:>16} {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
