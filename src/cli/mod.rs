//! Layer 3. What the two programs share: arguments in, words out.

mod args;
mod confirm;
mod daemon;
mod exit;
mod mount;
mod run;
mod sheet;
mod show;
mod wait;

pub use daemon::standbyfs;
pub use exit::{Exit, Failure};

use clap::Parser;
use std::io::IsTerminal;
use std::path::PathBuf;

/// The program `standbyctl`: reads its arguments and gives the code to end with.
pub fn standbyctl() -> std::process::ExitCode {
    let cli = args::Cli::parse();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let result = find(&cli).and_then(|mount| {
        let mut around = run::Surroundings {
            out: &mut out,
            err: &mut err,
            ask: &confirm::Terminal,
            progress: std::io::stderr().is_terminal(),
            id: &random_id,
        };
        run::run(&cli, &mount, &mut around)
    });
    let exit = result.unwrap_or_else(|failure| {
        if cli.json {
            let json = serde_json::json!({ "error": failure.message, "refusal": failure.refusal });
            println!("{json}");
        }
        eprintln!("standbyctl: {failure}");
        failure.exit
    });
    std::process::ExitCode::from(exit as u8)
}

fn find(cli: &args::Cli) -> Result<mount::Mount, Failure> {
    if matches!(cli.command, args::Command::Completion { .. }) {
        // The script is the same wherever it is printed.
        return Ok(mount::Mount::new("/", Box::new(mount::Files)));
    }
    let named = cli.mount.clone().or_else(|| std::env::var_os(mount::MOUNT_VARIABLE).map(PathBuf::from));
    let here = std::env::current_dir().unwrap_or_default();
    let mounts = std::fs::read("/proc/self/mounts").unwrap_or_default();
    mount::Mount::find(named.as_deref(), &here, &String::from_utf8_lossy(&mounts))
}

/// 128 random bits: a command sent twice by mistake of a network or a script is carried out once.
fn random_id() -> String {
    let mut bytes = [0; 16];
    // Without randomness the id would not be unique; time and process do almost as well.
    if getrandom::fill(&mut bytes).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        bytes = (now.as_nanos() << 32 | u128::from(std::process::id())).to_le_bytes();
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
