//! Layer 1. The seams: what the engine knows of storage, clocks, randomness and links.
//!
//! Each has a real implementation and a simulated one that fails on command; the simulated ones are
//! compiled always, so that tests, fuzzers and tools outside this crate can use them.

mod clock;
mod entropy;
mod storage;

pub use clock::{Clock, SystemClock};
pub use entropy::{Entropy, SystemEntropy};
pub use storage::{Access, Durability, File, Space, Storage};
