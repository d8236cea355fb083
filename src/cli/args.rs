//! The command line of `standbyctl`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Talks to a standbyfs mount by its files; whatever it does, a shell script can do with cat and echo.
#[derive(Parser, Debug)]
#[command(name = "standbyctl", version, after_help = EXITS)]
pub struct Cli {
    /// The mount. Without it: STANDBYFS_MOUNT, else the one that the working directory lies in, else the only one there is.
    #[arg(long, global = true, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Answer in JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXITS: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused in this state, \
5 peer unreachable, 6 timed out while waiting, 7 job failed, 8 fenced or stale expectation";

/// What all commands that change something may be told.
#[derive(Args, Debug, Clone, Default)]
pub struct Doing {
    /// Confirm without asking.
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Say what would happen, and do nothing.
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Don't wait for the job.
    #[arg(long)]
    pub no_wait: bool,
    /// Wait at most so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Names the command: given again with the same text, it gives the same job.
    #[arg(long)]
    pub id: Option<String>,
    /// Only if this is the state.
    #[arg(long, value_name = "STATE")]
    pub expect_state: Option<String>,
    /// Only if it ships from the first site to the second: `paris->london`.
    #[arg(long, value_name = "FROM->TO")]
    pub expect_direction: Option<String>,
    /// Only if this is the newest moment: `@<epoch>-<n>`.
    #[arg(long, value_name = "MOMENT")]
    pub expect_head: Option<String>,
}

/// Yes or no.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum YesNo {
    /// Yes.
    Yes,
    /// No.
    No,
}

impl YesNo {
    /// The word on a control line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
        }
    }
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// How all VMs and groups stand, or everything about some.
    Status {
        names: Vec<String>,
        /// Only the next sensible step.
        #[arg(long)]
        next: bool,
    },
    /// Reasons why something isn't well, with what to do.
    Health { name: String },
    /// Which verbs would be accepted now, and why not the others.
    Allowed { name: String },
    /// Every rule of the loop with its result, before it is needed. Exit code 4 if one fails.
    Check { name: String },
    /// Where no moments exist, and why.
    Gaps { name: String },
    /// Show a policy, or change some of its lines: `standbyctl policy web01 window=48h`.
    Policy { name: String, changes: Vec<String> },
    /// The recovery points.
    Points { name: String },
    /// Name the present moment and keep it.
    Point {
        name: String,
        /// A name for it.
        #[arg(long)]
        label: Option<String>,
        /// Keep it until it is dropped.
        #[arg(long)]
        pin: bool,
        #[command(flatten)]
        doing: Doing,
    },
    /// Keep a standby at another site.
    Protect {
        #[arg(required = true)]
        names: Vec<String>,
        /// The peer. Without it: the only one.
        #[arg(long)]
        to: Option<String>,
        /// The name there.
        #[arg(long = "as")]
        as_name: Option<String>,
        /// The policy.
        #[arg(long)]
        policy: Option<String>,
        #[command(flatten)]
        doing: Doing,
    },
    /// End the protection.
    Unprotect {
        #[arg(required = true)]
        names: Vec<String>,
        /// Delete the replica.
        #[arg(long, conflicts_with = "keep")]
        delete: bool,
        /// Keep the replica.
        #[arg(long)]
        keep: bool,
        /// Also where the state asks for force.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        doing: Doing,
    },
    /// Stop shipping until `resume`.
    Pause {
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        doing: Doing,
    },
    /// Ship again.
    Resume {
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        doing: Doing,
    },
    /// Send again what differs at the target.
    Resync {
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        doing: Doing,
    },
    /// Take over at this site.
    Failover {
        name: String,
        /// latest (default), latest-processed, latest-app-consistent, @<time>, @seq-<n>, @<epoch>-<n> or a point.
        moment: Option<String>,
        /// With the other site's consent: never two writers.
        #[arg(long)]
        planned: bool,
        /// Against what the other site may know. Asks for confirmation.
        #[arg(long)]
        force: bool,
        /// Leave the VM at the source alone instead of shutting it down.
        #[arg(long)]
        leave_source: bool,
        /// Whether the VM is started.
        #[arg(long, value_enum)]
        start: Option<YesNo>,
        #[command(flatten)]
        doing: Doing,
    },
    /// Go to another moment after a failover that is not committed.
    Change {
        name: String,
        moment: String,
        /// Whether the VM is started.
        #[arg(long, value_enum)]
        start: Option<YesNo>,
        #[command(flatten)]
        doing: Doing,
    },
    /// Take a failover back that is not committed.
    Rollback {
        name: String,
        #[command(flatten)]
        doing: Doing,
    },
    /// Make a failover final.
    Commit {
        name: String,
        /// `delete` or `keep`: recovery points of before. Without it: as the policy says.
        #[arg(long, value_name = "WHAT")]
        points: Option<String>,
        #[command(flatten)]
        doing: Doing,
    },
    /// Delete a branch, a seed or a clone.
    Drop {
        name: String,
        #[command(flatten)]
        what: DropWhat,
        #[command(flatten)]
        doing: Doing,
    },
    /// Compare both sites' bytes at one moment.
    Scrub {
        name: String,
        moment: Option<String>,
        #[command(flatten)]
        doing: Doing,
    },
    /// Take an image file into the datastore.
    Import {
        path: PathBuf,
        /// The VM that it becomes a disk of; made if it doesn't exist.
        #[arg(long)]
        vm: String,
        /// The disk's file name. Without it: that of the image.
        #[arg(long)]
        disk: Option<String>,
        /// `rename` (it is moved into the store), `reflink` (blocks are shared) or `copy`. Without it: a reflink where that
        /// is possible, else a copy.
        #[arg(long)]
        how: Option<String>,
        #[command(flatten)]
        doing: Doing,
    },
    /// The jobs, or one of them.
    Jobs {
        id: Option<String>,
        /// Stop it.
        #[arg(long, requires = "id")]
        cancel: bool,
        /// Say that its manual step is done.
        #[arg(long, requires = "id", conflicts_with = "cancel")]
        done: bool,
        /// Wait for its end.
        #[arg(long, requires = "id")]
        wait: bool,
        /// Wait at most so many seconds.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Pair this site with another.
    #[command(subcommand)]
    Pair(Pair),
    /// What happened here.
    Events {
        /// Only of this VM, group or job.
        subject: Option<String>,
        /// Go on as more happens.
        #[arg(long, short = 'f')]
        follow: bool,
        /// Only so many of the newest.
        #[arg(long, short = 'l', value_name = "COUNT")]
        last: Option<usize>,
    },
    /// Print a completion script.
    Completion {
        /// For this shell.
        shell: clap_complete::Shell,
    },
}

/// What `drop` deletes.
#[derive(Args, Debug, Clone)]
#[group(required = true, multiple = false)]
pub struct DropWhat {
    /// A branch, by its epoch.
    #[arg(long)]
    pub branch: Option<String>,
    /// A seed.
    #[arg(long)]
    pub seed: Option<String>,
    /// A clone of a test.
    #[arg(long = "clone")]
    pub clone_name: Option<String>,
}

/// The two halves of a pairing.
#[derive(Subcommand, Debug)]
pub enum Pair {
    /// Print a token for the other site. It can be used once, within five days.
    Create {
        #[command(flatten)]
        doing: Doing,
    },
    /// Use a token that the other site printed.
    Accept {
        token: String,
        #[command(flatten)]
        doing: Doing,
    },
}
