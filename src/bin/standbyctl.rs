//! `standbyctl`: talks to a mount of standbyfs by its files.

fn main() -> std::process::ExitCode {
    standbyfs::cli::standbyctl()
}
