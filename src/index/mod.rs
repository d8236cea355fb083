//! Layer 1. Which record holds a byte at a moment: runs on disk, merged regions in memory.
//!
//! The index keeps **all** versions of every byte; memory is only a cache of it. A *version* is one content
//! record of a log, keyed by the place of its payload ([`Entry`]). A *path* ([`Path`]) says which versions a
//! moment sees and in which order they count: the later interval first, in it the higher position.

mod batches;
mod cache;
mod catalog;
mod chains;
mod group_index;
mod lookup;
mod memory;
mod merge;
mod open_map;
mod path;
mod pieces;
mod range_log;
mod region;
mod run;
mod run_writer;
mod scan;
#[cfg(test)]
mod tests;
mod touched;
mod types;

pub use crate::format::range_log::{Changes, Resize};
pub use crate::format::run::BatchRow;
pub use batches::BatchAtTime;
pub use cache::CacheBudget;
pub use catalog::LostRun;
pub use group_index::{Index, IndexStats, SegmentMeta};
pub use merge::{MERGE_RUNS, MergeProgress};
pub use open_map::OPEN_PIECES_MAX;
pub use path::{Interval, Path, PathId};
pub use range_log::{RANGE_LOG_BYTES_MAX, RangeLog, RangeUnion, SeqStretch};
pub use scan::Scan;
pub use types::{Content, Entry, Extent, Source};
