//! Small files of a group or a log that are replaced as a whole: `<crc32c of the rest, 8 hex digits>\n<JSON>`.

use crate::seam::{Access, Storage};
use crate::vocab::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Replaces the file; durable when this returns.
pub(crate) fn write<T: Serialize>(storage: &dyn Storage, dir: &Path, name: &str, value: &T) -> Result<()> {
    let body = serde_json::to_vec(value)
        .map_err(|e| Error::new(Kind::Invalid, format!("{name} can't be written as JSON: {e}")))?;
    let mut bytes = format!("{:08x}\n", crc32c::crc32c(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    let next = dir.join(format!("{name}.new"));
    if storage.exists(&next)? {
        storage.remove(&next)?;
    }
    let file = storage.create(&next, Access::Cached)?;
    file.write_all_at(&bytes, 0)?;
    file.sync()?;
    storage.rename(&next, &dir.join(name))?;
    storage.sync_dir(dir)
}

/// Reads it; `None` if there is none.
///
/// # Errors
/// `Damaged` if it isn't what was written.
pub(crate) fn read<T: DeserializeOwned>(storage: &dyn Storage, dir: &Path, name: &str) -> Result<Option<T>> {
    let path = dir.join(name);
    if !storage.exists(&path)? {
        return Ok(None);
    }
    let file = storage.open(&path, Access::ReadOnly)?;
    let mut bytes = vec![0; file.len()? as usize];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    let damaged = || Error::new(Kind::Damaged, "the file isn't what was written").at(storage.shown(&path));
    let (crc, body) = bytes.split_at_checked(9).ok_or_else(damaged)?;
    let crc = std::str::from_utf8(&crc[..8]).ok().and_then(|t| u32::from_str_radix(t, 16).ok());
    if crc != Some(crc32c::crc32c(body)) {
        return Err(damaged());
    }
    serde_json::from_slice(body).map(Some).map_err(|_| damaged())
}

/// Removes it, durably; it may be absent.
pub(crate) fn remove(storage: &dyn Storage, dir: &Path, name: &str) -> Result<()> {
    let path = dir.join(name);
    if storage.exists(&path)? {
        storage.remove(&path)?;
        storage.sync_dir(dir)?;
    }
    Ok(())
}
