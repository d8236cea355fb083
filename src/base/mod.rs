//! Layer 1. The base image of each file, and the rounds that move it.
//!
//! A base is one file for each file of a group, `base-<ordinal>.img`: the plain image of a moment, brought
//! forward in rounds. What of it is right at a crash is said by the checkpoint (floor and base of the disk);
//! this room writes, syncs, and tells what it owes.

mod debt;
mod file;
mod granules;
mod holes;
mod ranges;
mod round;
#[cfg(test)]
mod tests;

pub use debt::{DEBT_GRANULE, Debt, unallocated, unallocated_about};
pub use file::{BaseFile, base_name};
pub use granules::Granules;
pub use holes::{Holes, Overlaid, all_data, next_data, next_hole};
pub use round::{Finished, Round, Written};
