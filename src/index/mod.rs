//! Layer 1. Which record holds a byte at a moment: runs on disk, merged regions in memory.
//!
//! The index keeps **all** versions of every byte; memory is only a cache of it. A *version* is one content
//! record of a log, keyed by the place of its payload ([`Entry`]). A *path* ([`Path`]) says which versions a
//! moment sees and in which order they count: the later interval first, in it the higher position.

mod path;
mod types;

pub use path::{Interval, Path, PathId};
pub use types::{Content, Entry, Extent, Source};
