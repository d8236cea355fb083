//! A whole group on a device with a volatile cache, against a plain model of its files.
//!
//! The model keeps the image of every moment, by the moment's name. After any recovery the head must be a moment
//! at or past the last completed flush, and show exactly its image; and so must each moment inside the window, at
//! any time, while the base moves.

mod answers;
mod backlog;
mod checkpoint;
mod copies;
mod during;
mod lines;
mod losses;
mod meetings;
mod mended;
pub(crate) mod model;
mod people;
mod pressure;
mod readers;
mod rounds;
mod rules;
mod schedule;
mod site;
mod sites;
pub(crate) mod space;
mod spans;
mod take_in;
mod threads;
mod written;

use crate::group::{Backlog, Care};

/// Nothing is kept but the head.
const FREE: Care = Care {
    sync_ns: 0,
    window_ns: None,
    pinned: false,
    fork: None,
    allowance: None,
    lines: None,
    backlog: Backlog::NONE,
};

/// Whether the long budget of seeds is asked for.
fn is_full() -> bool {
    std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full")
}
