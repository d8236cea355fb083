//! Layer 2. A replication group: write path, rounds, shipping, receiving, operations step by step.

mod backlog;
mod chain;
mod checkpoint;
mod content;
mod copy;
mod decide;
mod driver;
mod driver_state;
mod epoch;
mod first_copy;
mod flush;
#[allow(clippy::module_inception, reason = "the room's main concept has the room's name")]
mod group;
mod held;
mod line;
mod logs;
mod marks;
mod mend;
mod moments;
mod names;
mod open;
mod operations;
mod pace;
mod pressure;
mod queue;
mod ranges;
mod read;
mod receive;
mod roles;
mod round;
mod ship;
mod space;
mod spans;
mod staging;
mod take_in;
mod upkeep;
mod write;
mod written;

pub use backlog::{Backlog, WhenFull};
pub use driver::{Driver, NO_SPACE, Output};
pub use driver_state::DriverState;
pub use group::{Counters, Group, GroupParts, Reply};
pub use held::HeldMoment;
pub use names::{Change, Fact, NameLog, NamedFile, Names, VmName};
pub use open::OpenReport;
pub use operations::{Branch, MomentAt};
pub use queue::{Gate, Op};
pub use read::MomentView;
pub use round::RoundDone;
pub use spans::Spans;
pub use take_in::ImportEnd;
pub use upkeep::{Care, Upkeep};

/// Whether a test runs without this rule, to show that it is caught. Never outside tests.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn left_out(_rule: &str) -> bool {
    false
}

#[cfg(test)]
pub(crate) fn left_out(rule: &str) -> bool {
    crate::journal::left_out(rule)
}

#[cfg(test)]
mod tests;
