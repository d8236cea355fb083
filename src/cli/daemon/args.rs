//! The command line of `standbyfs`.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// A datastore for virtual machine disks with every past moment of them, kept at a second site too.
#[derive(Parser, Debug)]
#[command(name = "standbyfs", version, after_help = "Exit codes: 0 done, 1 failed or damage found, 2 usage")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `mount` is told.
#[derive(Args, Debug)]
pub struct MountArgs {
    /// The store: made where it is absent or empty.
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// A directory for the journals, on another device for instance. Given at the first mount, and where it has moved.
    #[arg(long, value_name = "DIR")]
    pub journal: Option<PathBuf>,
    /// The store was moved or restored and the old one is gone for ever.
    #[arg(long, conflicts_with = "copied")]
    pub moved: bool,
    /// The store is a copy beside the original: it gets an identity of its own.
    #[arg(long)]
    pub copied: bool,
    /// Stay in the foreground.
    #[arg(long, short = 'f')]
    pub foreground: bool,
    /// Only the user who mounts may come in.
    #[arg(long)]
    pub private: bool,
    /// The name of a new site, shown at peers; by default the machine's.
    #[arg(long)]
    pub name: Option<String>,
    /// Listen for peers here, from now on; without a port on 8084. `pair create` listens on all addresses.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// From now on, how long a VM that was active here waits for its peer after a mount before it takes writes; 0: not
    /// at all. Without ever having been given: 60.
    #[arg(long, value_name = "SECONDS")]
    pub start_wait: Option<u64>,
    /// Memory for the indexes of all groups, such as 64MiB; the rest of an index stays on disk.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub index_memory: String,
    /// Where messages go; by default to standard error, in the background nowhere.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// An empty directory.
    pub mount: PathBuf,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Mount a store and serve it, in the background; returns when it is usable. `umount` or SIGTERM ends it.
    Mount(MountArgs),
    /// Show what it does with two sites on this machine: protect, kills, failover, export. Needs root, or fusermount3.
    Demo {
        /// Where: empty, or not yet there.
        dir: PathBuf,
    },
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
