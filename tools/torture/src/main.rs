//! Kills a standbyfs daemon under load and says what its users noticed.
//!
//! `cargo run --release --manifest-path tools/torture/Cargo.toml -- --program standbyfs --directory DIR COMMAND`.
//! Each command makes a store and a mount of its own below the directory, and takes both away at the end; with
//! `--keep`, and after a failure, the store stays. The seed of random choices is printed.

mod acknowledged;
mod disk;
mod fio;
mod fsx;
mod mount;
mod stalls;
mod trims;

use clap::{Parser, Subcommand};
use mount::Mount;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The standbyfs to run.
    #[arg(long, default_value = "target/release/standbyfs")]
    program: PathBuf,
    /// A directory on the disk to use; some GiB must be free.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Writes this into the VM's policy first, such as `window: 24h`.
    #[arg(long)]
    policy: Option<String>,
    /// Protects the VM to a second daemon, which is then killed and stays away.
    #[arg(long)]
    protected: bool,
    /// Seed of random choices; by default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave the store where it is.
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// fio with verification on a disk, trims through a loop device on another, first without kills and then with:
    /// how long did a write stall?
    Fio {
        /// Length of each of the two parts, in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Time between kills, in milliseconds.
        #[arg(long, default_value_t = 1000)]
        every: u64,
        /// Size of the disk in MiB.
        #[arg(long, default_value_t = 512)]
        size: u64,
        /// Before it, so many 4 KiB records are written, for a window to keep.
        #[arg(long, default_value_t = 0)]
        records: u64,
        /// Without the loop device (it needs root).
        #[arg(long)]
        no_loop: bool,
    },
    /// The program `fsx` (crates.io) on a disk while workers are killed.
    Fsx {
        /// The program.
        #[arg(long, default_value = "fsx")]
        fsx: PathBuf,
        /// In seconds.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Longest time between kills, in milliseconds.
        #[arg(long, default_value_t = 3000)]
        every: u64,
    },
    /// Kills worker or worker and keeper at random instants under writers that remember what was acknowledged.
    Acknowledged {
        /// So many times.
        #[arg(long, default_value_t = 200)]
        kills: u32,
        /// Threads that write.
        #[arg(long, default_value_t = 4)]
        writers: u64,
        /// Each so many blocks of 4 KiB.
        #[arg(long, default_value_t = 2048)]
        blocks: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    match torture(&arguments, fastrand::Rng::with_seed(seed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("standbyfs-torture: {error}");
            ExitCode::FAILURE
        }
    }
}

fn torture(arguments: &Arguments, rng: fastrand::Rng) -> Result<()> {
    let work = tempfile::Builder::new().prefix("standbyfs-torture-").tempdir_in(&arguments.directory)?;
    let program = arguments.program.canonicalize()?;
    let mut mount = Mount::start(&program, work.path(), "source")?;
    let vm = mount.vm("t")?;
    if arguments.protected {
        let mut target = Mount::start(&program, work.path(), "target")?;
        std::fs::File::create(vm.join("small.raw"))?.set_len(1 << 20)?;
        mount.protect("t", &target)?;
        target.kill_all()?;
        println!("protected; the target is away");
    }
    if let Some(policy) = &arguments.policy {
        std::fs::write(mount.root().join("vms/t/policy"), format!("{policy}\n"))?;
    }
    let done = match &arguments.command {
        Command::Fio { seconds, every, size, records, no_loop } => fio::run(
            &mount,
            &vm,
            &fio::Plan {
                seconds: *seconds,
                every: Duration::from_millis(*every),
                mebibytes: *size,
                records: *records,
                trims: !no_loop,
            },
            rng,
        ),
        Command::Fsx { fsx, seconds, every } => {
            fsx::run(&mount, &vm, fsx, Duration::from_secs(*seconds), Duration::from_millis(*every), rng)
        }
        Command::Acknowledged { kills, writers, blocks } => {
            acknowledged::run(&mut mount, &vm, *kills, *writers, *blocks, rng)
        }
    };
    let done = done.and_then(|()| mount.end());
    if done.is_err() || arguments.keep {
        println!("the store stays: {}", work.keep().display());
    }
    done
}
