//! Layer 0. The words that every other module speaks: identities, places, kinds, errors.
//!
//! Pure: no clock, file, thread, socket or randomness.

mod error;
mod ids;
mod kinds;
mod place;

pub use error::{Error, Kind, Result};
pub use ids::{DiskId, EpochId, GroupId, LogId, ParseIdError, StoreId, Token, VmId};
pub use kinds::{Codec, RecordKind};
pub use place::{DiskOrdinal, LogPlace, Moment, Pos, Seq};

/// Granule of ranges, holes and the base, in bytes.
pub const GRANULE: u64 = 4096;
/// Longest payload of one record, in bytes. FUSE cuts requests at 1 MiB.
pub const PAYLOAD_MAX: u64 = 1 << 20;
/// Most files (disks and companions) in one group.
pub const FILES_MAX: usize = 4096;
