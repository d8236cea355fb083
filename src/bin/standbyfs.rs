//! `standbyfs`: the daemon, and the tools that read a store without one.

fn main() -> std::process::ExitCode {
    standbyfs::cli::standbyfs()
}
