//! The command line of `standbyfs`.

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// A datastore for virtual machine disks with every past moment of them, kept at a second site too.
#[derive(Parser, Debug)]
#[command(name = "standbyfs", version, after_help = "Exit codes: 0 done, 1 failed or damage found, 2 usage")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Say what a store holds. Never writes; works on a damaged store and beside a running daemon.
    Inspect {
        /// The store.
        store: PathBuf,
        /// Its journal directory, if that isn't where it was.
        #[arg(long, value_name = "DIR")]
        journal: Option<PathBuf>,
        /// Read all batches, payloads and pages, and compute the chain.
        #[arg(long)]
        verify: bool,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write the files of a moment into an empty directory. Needs no daemon and never writes to the store.
    Export {
        /// The store.
        store: PathBuf,
        /// The VM, by name or identity.
        vm: String,
        /// latest, @seq-<n>, @<epoch>-<n>, @<time> or the name of a recovery point.
        moment: String,
        /// Where to: empty, or not yet there.
        dir: PathBuf,
        /// Its journal directory, if that isn't where it was.
        #[arg(long, value_name = "DIR")]
        journal: Option<PathBuf>,
        /// Go on where nobody can say any more whether the bytes are right.
        #[arg(long)]
        damaged: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
