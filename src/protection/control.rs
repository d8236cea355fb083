//! Control lines: what may be written to a control file, and what it means.
//!
//! One rule of quoting: a word, or the value behind `key=`, may stand in double quotes; in them `\"`, `\\`, `\n`,
//! `\t` and `\xNN` (a control character) are what they look like. Outside of quotes there are no escapes.
//!
//! 1. Arbitrary bytes never panic; what isn't understood completely is refused as a whole.
//! 2. A command printed by [`Command::line`] reads back as the same command.
//! 3. Nothing is guessed: an unknown word or key, a key twice, a value out of range is refused and named.
//! 4. What a control file shows is refused when it is written back: its lines are `key: value`, and a first word
//!    that ends in a colon is no command.

mod line;
mod moment;
mod usage;
mod verb;

pub use line::{Line, LineError, quote};
pub use moment::{EpochPrefix, MomentError, MomentRef};
pub use usage::usage;
pub use verb::{Action, Command, DropWhat, Expect, ImportHow, Pairing, PointsAtCommit, Source, parse};

/// A line has less than this many bytes.
pub const LINE_MAX: usize = 4096;

#[cfg(test)]
mod tests;
