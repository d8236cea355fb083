//! Where the epochs of a group lie in its logs: part of the checkpoint.

use crate::vocab::{EpochId, LogId, Moment, Pos, Seq};
use serde::{Deserialize, Serialize};

/// Records of one epoch in one stretch of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Their epoch.
    pub epoch: EpochId,
    /// The log.
    pub log: LogId,
    /// First place.
    pub from: Pos,
    /// The place behind the last; of the newest span of the main log, behind the last so far.
    pub to: Pos,
    /// Seq of the first record.
    pub first_seq: Seq,
    /// Seq of the last; one less than the first if there is none.
    pub last_seq: Seq,
    /// Where the line leaves the span before it on the line: the place behind the record that it forks from.
    /// Known for good once the span was begun, so that the path can be named when that record is freed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_end: Option<Pos>,
    /// A jump: the span is a staging log that leads from this moment to the end of `epoch` at `last_seq`. The
    /// moments between do not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump: Option<JumpSpan>,
}

/// Where a jump starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JumpSpan {
    /// The moment before it; `None`: nothing was before it.
    pub from: Option<Moment>,
    /// Where the main log ended then: what it has behind this place came after the jump.
    #[serde(default)]
    pub behind: Pos,
    /// The parts of the staging log that count, oldest first; what lies between them was staged, lost its progress in
    /// a crash and was staged again. None: the jump brought nothing but bases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<(Pos, Pos)>,
}
