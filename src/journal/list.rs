//! The list of a log's sealed segments: a file replaced as a whole, so that opening a log reads no old headers.
//! It can be rebuilt from the headers and seals.

use crate::journal::segment::SegmentInfo;
use crate::seam::{Access, Storage};
use crate::vocab::{Error, Kind, Result};
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
    let body = serde_json::to_vec(&Body { version: crate::format::FORMAT_VERSION, segments })
        .map_err(|e| Error::new(Kind::Invalid, format!("list of segments can't be written: {e}")))?;
    let mut bytes = format!("{:08x}\n", crc32c::crc32c(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    let next = dir.join("segments.new");
    if storage.exists(&next)? {
        storage.remove(&next)?;
    }
    let file = storage.create(&next, Access::Cached)?;
    file.write_all_at(&bytes, 0)?;
    file.sync()?;
    storage.rename(&next, &dir.join(NAME))?;
    storage.sync_dir(dir)
}

/// The list; `None` if there is none.
///
/// # Errors
/// `Damaged` if its crc is wrong: the caller falls back to the headers and says so.
pub(crate) fn read(storage: &dyn Storage, dir: &Path) -> Result<Option<Vec<SegmentInfo>>> {
    let path = dir.join(NAME);
    if !storage.exists(&path)? {
        return Ok(None);
    }
    let file = storage.open(&path, Access::ReadOnly)?;
    let mut bytes = vec![0; file.len()? as usize];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    let damaged =
        || Error::new(Kind::Damaged, "list of segments isn't what was written").at(storage.shown(&path));
    let (crc, body) = bytes.split_at_checked(9).ok_or_else(damaged)?;
    let crc = std::str::from_utf8(&crc[..8]).ok().and_then(|t| u32::from_str_radix(t, 16).ok());
    if crc != Some(crc32c::crc32c(body)) {
        return Err(damaged());
    }
    let body: Body = serde_json::from_slice(body).map_err(|_| damaged())?;
    Ok(Some(body.segments))
}

/// Files of segments in a log's directory.
pub(crate) fn files(storage: &dyn Storage, dir: &Path) -> Result<Vec<String>> {
    Ok(storage.list(dir)?.into_iter().filter(|name| name.ends_with(".seg")).collect())
}
