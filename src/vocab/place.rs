//! Places: in a line of history (`Seq`, `Moment`) and in a log (`Pos`).

use crate::vocab::{EpochId, LogId};
use std::fmt;

/// The place of a record on its line, dense from 1; 0 is the moment before the first record.
/// Only the pair (epoch, seq) is unique: see [`Moment`].
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The place of the next record.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A byte offset in a log. Never reused, not after a cut either.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Pos(pub u64);

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in one of the logs of a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
pub struct LogPlace {
    /// Which log.
    pub log: LogId,
    /// Where in it.
    pub pos: Pos,
}

/// `n@E`: the moment after record `seq` on the line that ends in `epoch`. Names a moment for ever.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Moment {
    /// The epoch that the line ends in.
    pub epoch: EpochId,
    /// The last record before the moment.
    pub seq: Seq,
}

impl Moment {
    /// The moment after record `seq` of `epoch`.
    pub fn new(epoch: EpochId, seq: u64) -> Self {
        Self { epoch, seq: Seq(seq) }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.seq, self.epoch.short())
    }
}

/// Stands for a file in the records of its group. Never reused in its group; 0 is no file.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct DiskOrdinal(pub u32);

impl fmt::Display for DiskOrdinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
