//! Checkpoint of a group: where recovery begins, what is durable, where the bases stand, how long the history is.
//! Kept as JSON in two alternating slots ([`crate::format::encode_slot`]).

use crate::format::Span;
use crate::vocab::{DiskOrdinal, LogId, LogPlace, Moment, Pos, Seq};
use serde::{Deserialize, Serialize};

/// The whole checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Checkpoint {
    /// Logs: the main one first.
    pub logs: Vec<LogState>,
    /// Newest record, durable or not, when the checkpoint was taken.
    pub head: Moment,
    /// Lines of the history that count.
    pub history_lines: u64,
    /// crc32c of the last counted line; 0 for none.
    pub history_crc: u32,
    /// Where the epochs lie, oldest first.
    pub spans: Vec<Span>,
    /// Bases and floors.
    pub files: Vec<FileState>,
    /// Age clock, ns.
    pub age: u64,
    /// Wall time, ns.
    pub wall: i64,
    /// The group was closed in order: nothing lies behind the durable place.
    pub closed: bool,
    /// Every base is the plain image of its file: the log holds nothing above them.
    pub drained: bool,
}

/// One log of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// Which.
    pub log: LogId,
    /// Everything before this place is durable.
    pub durable: Pos,
    /// Start of the segment that the scan begins with.
    pub scan_start: Pos,
    /// Its life; 0: the log has no segment yet.
    pub scan_life: u64,
    /// Chain value before the first record of that segment, if known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scan_chain: Option<(Moment, [u8; 32])>,
    /// No place below this one may be given again.
    pub allocated: Pos,
    /// The seq before the first record of the scan.
    pub scan_seq: Seq,
}

/// Base and floor of one file. A place means: everything before it on its path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// The file.
    pub disk: DiskOrdinal,
    /// Where the newest round that ended left the base. `None`: it is no moment yet (a copy that has not been
    /// published).
    pub base: Option<LogPlace>,
    /// Where the newest round that began will leave it.
    pub floor: Option<LogPlace>,
}
