//! Compares what a mount makes of a disk with what the disk gives.
//!
//! One command: `cargo run --release --manifest-path tools/bench/Cargo.toml -- --help`. Every target runs every
//! job in every round, one after the other (interleaved), and the median of the rounds counts: disks swing by
//! more than the differences that matter, so figures of different runs can't be compared, ratios of one can.

mod fio;
mod null;
#[path = "../../../tests/fuse/passthrough.rs"]
mod passthrough;
mod report;
mod target;

use clap::{Args, Parser, Subcommand};
use fio::JOBS;
use report::Report;
use standbyfs::fuse::{MountOptions, run};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use target::Target;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Subcommand)]
enum Command {
    /// Serves one of the mounts to compare with, in the foreground, until SIGTERM.
    Serve(Serve),
}

#[derive(Args)]
pub struct Serve {
    /// Where to mount.
    mount: PathBuf,
    /// The directory to show; without it the null file is served.
    #[arg(long)]
    directory: Option<PathBuf>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Size of the null file in MiB.
    #[arg(long, default_value_t = 512)]
    size: u64,
}

#[derive(Args)]
pub struct Compare {
    /// Directory on the disk to measure; several times the size must be free.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// A directory of a running standbyfs mount in which to make a disk, such as MOUNT/disks/bench.
    #[arg(long)]
    mount: Option<PathBuf>,
    /// Starts standbyfs: a shell command that mounts in the foreground, with {store} and {mount} in it. Given more
    /// than once, builds or settings of ours are compared too; `NAME: COMMAND` names them.
    #[arg(long, conflicts_with = "mount")]
    start: Vec<String>,
    /// With --start: the directory in the mount in which to make a disk.
    #[arg(long, default_value = "disks/bench")]
    within: PathBuf,
    /// Threads of the null and pass-through servers; several numbers make several targets.
    #[arg(long, value_delimiter = ',', default_value = "2")]
    threads: Vec<usize>,
    /// Only these jobs.
    #[arg(long, value_delimiter = ',')]
    jobs: Vec<String>,
    /// Leave these targets out: raw, null, passthrough, qemu.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds after each job for a server to begin what it does when nobody asks for anything; then the device must
    /// be quiet before the next job begins. Standbyfs brings its base up to date after two idle seconds.
    #[arg(long, default_value_t = 3)]
    settle: u64,
    /// Length of one job in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Size of the disks in MiB.
    #[arg(long, default_value_t = 512)]
    size: u64,
    /// Where the figures go as JSON; `-` is standard output, with the table on standard error then.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Serve(serve)) => self::serve(serve),
        None => compare(&arguments.compare),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("standbyfs-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(serve: &Serve) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::new("warn");
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let mut options = MountOptions::new(&serve.mount);
    options.threads = serve.threads;
    run(&options, |context| {
        Ok(match &serve.directory {
            Some(directory) => {
                Arc::new(passthrough::Passthrough::new(directory, context.table.clone(), None))
            }
            None => Arc::new(null::Null { size: serve.size << 20 }),
        })
    })?;
    Ok(())
}

fn compare(options: &Compare) -> Result<()> {
    fio::require()?;
    if let Some(unknown) = options.jobs.iter().find(|name| JOBS.iter().all(|job| job.name != **name)) {
        let known: Vec<_> = JOBS.iter().map(|job| job.name).collect();
        return Err(format!("no job `{unknown}`: there are {}", known.join(", ")).into());
    }
    let jobs: Vec<_> = JOBS
        .iter()
        .filter(|job| options.jobs.is_empty() || options.jobs.iter().any(|n| n == job.name))
        .collect();
    // Declared first: the directory must outlive what is mounted in it.
    let work = tempfile::Builder::new().prefix("standbyfs-bench-").tempdir_in(&options.directory)?;
    let targets = Target::all(options, work.path())?;
    for target in &targets {
        eprintln!("filling {}", target.name);
        fio::fill(&target.disk, options.size)?;
    }
    let device = fio::device_of(work.path());
    let mut report = Report::new(device.clone(), options);
    for round in 1..=options.rounds {
        for job in &jobs {
            // Who comes after whom changes from round to round.
            for at in 0..targets.len() {
                let target = &targets[(at + round - 1) % targets.len()];
                eprintln!("round {round} of {}: {} on {}", options.rounds, job.name, target.name);
                let figures = fio::run(job, target, options, device.as_deref())?;
                report.add(job.name, &target.name, figures);
            }
        }
    }
    drop(targets);
    report.print(options.json.as_deref())
}
