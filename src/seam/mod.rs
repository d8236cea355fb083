//! Layer 1. The seams: what the engine knows of storage, clocks, randomness and links.
//!
//! Each has a real implementation and a simulated one that fails on command; the simulated ones are
//! compiled always, so that tests, fuzzers and tools outside this crate can use them.

mod aligned;
mod clock;
mod entropy;
mod overlay;
mod probe;
mod real;
mod real_file;
mod room;
mod sim;
mod sim_clock;
mod storage;
mod take_in;
#[cfg(test)]
mod tests;
mod watch;

pub use aligned::AlignedBuf;
pub use clock::{Clock, SystemClock};
pub use entropy::{Entropy, SystemEntropy};
pub use overlay::Overlay;
pub use probe::Probe;
pub use real::DirStorage;
pub use room::{RESERVE_BYTES, Reserved, Room, Rooms, reserve_path};
pub use sim::{Class, Fault, SimDevice, SimStorage, is_killed, is_power_loss};
pub use sim_clock::{SimClock, SimEntropy};
pub use storage::{Access, Durability, File, Space, Storage, TakeIn};
pub use take_in::{check_unused, part_of};
pub use watch::watch_durable;
