//! Layer 2. A replication group: write path, rounds, shipping, receiving, operations step by step.

mod names;
mod spans;

pub use names::{Change, Fact, NameLog, NamedFile, Names, VmName};
pub use spans::Spans;
