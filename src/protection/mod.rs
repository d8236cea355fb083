//! Layer 0. States, commands, preconditions, refusals, policies, control lines, retention.
//!
//! Nothing here acts: facts come in as arguments, decisions, refusals and words go out.

pub mod admission;
mod command;
pub mod control;
pub mod health;
pub mod job;
mod names;
mod points;
pub mod policy;
pub mod preconditions;
mod refusal;
pub mod report;
mod state;
mod table;
mod units;

pub use command::{Column, Scope, Verb};
pub use names::UnknownWord;
pub use points::{
    Point, PointKind, PointSet, Retention, is_point_label, is_point_name, parse_point_name, point_due,
};
pub use refusal::{Entry, Refusal, Refused, page as refusals_page};
pub use state::{Fact, Facts, Flags, Role, State, Writer};
pub use table::{Brings, Cell, Row, TABLE, admit, cell, page as states_page};
pub use units::{
    WallTime, duration_text, file_time, parse_duration, parse_size, parse_time, size_text, text_time,
};

/// How many seeds a test runs: few by default, `full` of them with `STANDBYFS_BUDGET=full`.
#[cfg(test)]
pub(crate) fn seeds(short: u64, full: u64) -> std::ops::Range<u64> {
    0..if std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full") { full } else { short }
}
