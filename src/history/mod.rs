//! Layer 0. Epochs, lines, decisions, the common moment of two histories, ways of reprotect.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `row` | an epoch's row: who forked where, why |
//! | `line_events` | the other lines of a group's history file |
//! | `chain` | the hash chain over records, its marks |
//! | `table` | rows and withdrawals of a group; lines, normal form, ancestry |

mod chain;
mod line_events;
mod row;
mod table;

pub use chain::{
    ChainMark, ChainRecord, ChainValue, MARK_EVERY, MarkReason, MarkSet, ROW_BYTES, epoch_start,
    genesis_value, step,
};
pub use line_events::{
    CommitPoints, DiskSize, Event, JumpLine, JumpReason, Line as HistoryLine, Operation, ResyncReason,
};
pub use row::{Row, RowKind};
pub use table::{Line, PrefixError, Table, TableConflict, TableError};
