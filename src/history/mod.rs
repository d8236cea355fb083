//! Layer 0. Epochs, lines, decisions, the common moment of two histories, ways of reprotect.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `row` | an epoch's row: who forked where, why |
//! | `line_events` | the other lines of a group's history file |
//! | `chain` | the hash chain over records, its marks |
//! | `table` | rows and withdrawals of a group; lines, normal form, ancestry |
//! | `path` | how one site came to its head by content: records and jumps |
//! | `common` | the common moment of two lines, and its proof by question and answer |
//! | `decide` | what two sites do when they meet: follow, yield, or stop for a person |
//! | `ways` | replay, delta, tree or full, and the ranges that a delta needs |
//! | `planned` | planned failover: who may write, at every step |

mod chain;
mod common;
mod decide;
mod line_events;
mod path;
mod planned;
mod row;
mod table;
mod ways;

pub use chain::{
    ChainMark, ChainRecord, ChainValue, MARK_EVERY, MarkReason, MarkSet, ROW_BYTES, epoch_start,
    genesis_value, step, step_hashed, step_zeros,
};
pub use common::{
    Answer, Common, LineMarks, QUESTION_MAX, Question, Search, Step as SearchStep, common_by_rows, common_of,
};
pub use decide::{
    Conflict, ConflictKind, Outcome, Side, SideStatement, decide, lacks_own, overrules, standing,
};
pub use line_events::{
    CommitPoints, DiskSize, Event, JumpLine, JumpReason, Line as HistoryLine, Operation, ResyncReason,
};
pub use path::{Path, PathPlace, Piece};
pub use planned::{
    SourcePhase, SourceState, SourceStep, TargetPhase, TargetSays, TargetState, source_next, states_of,
    target_may_decide,
};
pub use row::{Row, RowKind};
pub use table::{Line, PrefixError, Table, TableConflict, TableError};
pub use ways::{Holding, Way, WayKind, choose, delta_ranges, has_records};

#[cfg(test)]
mod tests;
