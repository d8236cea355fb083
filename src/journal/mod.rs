//! Layer 1. Logs of a group: append, durable mark, segments, recovery, history file, checkpoint.
//!
//! A log is an append-only stream of batches in segment files. The rules, quoted by number in code and tests:
//!
//! J1. The order of records in the file is the order of their seqs. One appender at a time.
//! J2. A process never appends to a segment that another process began.
//! J3. A segment is synced before the next is begun; a header is synced before its first batch. So one file at
//!     most has unsynced batches.
//! J4. The durable mark is a place, never a seq: seqs go back at a fork. It rises only by a sync that began
//!     after the append, or by a durable append when everything before was durable.
//! J5. Going from plain to durable appends begins with a sync.
//! J6. Recovery cuts at the first place without a good batch. What follows is void for ever: the next segment
//!     names the cut. If anything on the medium says that more was durable, the log is damaged and stays as it is.
//! J7. No place is given twice, not after a cut either.
//! J8. After a failed sync or append the log takes nothing until it has been mended (J11) or recovered.
//! J9. A segment is recycled only after a synced checkpoint scans from beyond it and a synced list lacks it.
//! J10. Room for all that a call appends is made before its first batch: it is appended whole, or not at all
//!     where the filesystem is full.
//! J13. A segment isn't scanned that an orderly end has sealed and listed, if the checkpoint of that end is the newest and no
//!     segment names it as the one before: all that it holds is in list, runs, names, spans and chain.
//! J12. A call that brings bytes leaves room for calls that must always be possible (discards, names, epochs): half of
//!     the shortest segment in the one that is written, or a file that is ready, or room for one on the filesystem,
//!     its reserve included. Else writers would fill the segment that a discard was given out of the reserve, and
//!     the next discard would find nothing.

mod append;
mod checkpoint_file;
mod files;
mod history_file;
mod list;
mod log;
mod mend;
mod read;
mod recover;
mod segment;
pub(crate) mod small_file;

pub use append::{Appended, AppendedBatch, NewRecord};
pub use checkpoint_file::CheckpointFile;
pub use history_file::HistoryFile;
pub use log::{Log, LogIdentity, LogParts, SEGMENT_BYTES};
pub use mend::Mended;
pub use read::{BatchView, StoredRecord};
pub use recover::{Found, Recovered, Verdict};
pub use segment::SegmentInfo;

/// Whether a test runs without this rule, to show that it is caught. Never outside tests.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn left_out(_rule: &str) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    pub(crate) static LEFT_OUT: std::cell::RefCell<Vec<&'static str>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[cfg(test)]
pub(crate) fn left_out(rule: &str) -> bool {
    LEFT_OUT.with_borrow(|rules| rules.contains(&rule))
}

/// Runs with a rule left out on this thread.
#[cfg(test)]
pub(crate) fn without<T>(rule: &'static str, run: impl FnOnce() -> T) -> T {
    LEFT_OUT.with_borrow_mut(|out| *out = vec![rule]);
    let done = run();
    LEFT_OUT.with_borrow_mut(Vec::clear);
    done
}

#[cfg(test)]
mod tests;
