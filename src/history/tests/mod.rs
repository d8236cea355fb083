//! Seeded tests of this room as a whole.

mod decisions;
mod lines;
pub(crate) mod sites;

/// How many seeds a test runs: `short` keeps a debug build below a few seconds.
pub(crate) fn seeds(short: u64, full: u64) -> u64 {
    if std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full") { full } else { short }
}
