//! Layer 0. Formats on disk and on the wire: structs and codecs, no I/O. `docs/formats.md` describes them once.
//!
//! All integers are little-endian. Each structure has a magic number, a version where it can change, and a
//! crc32c. A reader that meets a version or an incompatible feature that it doesn't know refuses by name.

mod batch;
mod checkpoint;
mod history_line;
pub mod index_page;
mod payload;
pub mod range_log;
mod record;
pub mod run;
mod segment;
mod slot;
mod span;

pub use batch::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BATCH_PAYLOAD_MAX, BatchHeader, BatchLayout, RecordView,
    check_header, crc_list_len, parse_table,
};
pub use checkpoint::{Checkpoint, FileState, LogState};
pub use history_line::{HistoryLine, LineError};
pub use payload::{AddPayload, FileKind, RemovePayload, RenamePayload};
pub use record::{FLAG_FLUSH, FLAG_JOINED, RECORD_BYTES, RecordEntry};
pub use segment::{SegmentHeader, SegmentSeal};
pub use slot::{SLOT_HEADER_BYTES, decode_slot, encode_slot};
pub use span::{JumpSpan, Span};

/// Block of a log, in bytes: headers, batches and aligned payloads begin at multiples of it.
pub const BLOCK: u64 = 4096;
/// Version of the formats in this module.
pub const FORMAT_VERSION: u16 = 1;

/// crc32c of several pieces, as if they were one.
pub fn crc_of(pieces: &[&[u8]]) -> u32 {
    pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece))
}
