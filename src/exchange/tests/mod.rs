//! Seeded tests of this room: two ends with an engine in memory, a link that delays, breaks and corrupts.

mod fillcopy;
mod planned;
mod shipping;
mod site;
mod world;

fn seeds(short: u64, full: u64) -> u64 {
    if std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full") { full } else { short }
}
