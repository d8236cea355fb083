//! The list of a log's sealed segments: a file replaced as a whole, so that opening a log reads no old headers.
//! It can be rebuilt from the headers and seals.

use crate::journal::segment::SegmentInfo;
use crate::journal::small_file;
use crate::seam::Storage;
use crate::vocab::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

const NAME: &str = "segments.json";

#[derive(Serialize, Deserialize)]
struct Body {
    version: u16,
    segments: Vec<SegmentInfo>,
}

/// Replaces the list, durably.
pub(crate) fn write(storage: &dyn Storage, dir: &Path, segments: Vec<SegmentInfo>) -> Result<()> {
    small_file::write(storage, dir, NAME, &Body { version: crate::format::FORMAT_VERSION, segments })
}

/// The list; `None` if there is none.
///
/// # Errors
/// `Damaged` if its crc is wrong: the caller falls back to the headers and says so.
pub(crate) fn read(storage: &dyn Storage, dir: &Path) -> Result<Option<Vec<SegmentInfo>>> {
    Ok(small_file::read::<Body>(storage, dir, NAME)?.map(|body| body.segments))
}

/// Files of segments in a log's directory.
pub(crate) fn files(storage: &dyn Storage, dir: &Path) -> Result<Vec<String>> {
    Ok(storage.list(dir)?.into_iter().filter(|name| name.ends_with(".seg")).collect())
}
