//! Small files: the catalog, lists with a checksum, the checkpoint's slots, lines of a history.

use super::Report;
use crate::format::{Checkpoint, HistoryLine, LineError, SLOT_HEADER_BYTES, decode_slot};
use crate::history::Event;
use crate::seam::{Access, Storage};
use crate::site::catalog;
use crate::vocab::{Error, Kind, Result};
use serde::de::DeserializeOwned;
use std::path::Path;

const FOLDERS: [&str; 11] = [
    "site",
    "site/peers",
    "catalog/vms",
    "catalog/groups",
    "catalog/unlisted",
    "catalog/points",
    "catalog/policies",
    "catalog/group-policies",
    "catalog/commands",
    "jobs",
    "",
];
const SMALL_MAX: u64 = 64 << 20;

/// All of a file of at most 64 MiB; `None` if it isn't there.
pub(super) fn read_all(storage: &dyn Storage, path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match storage.open(path, Access::ReadOnly) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(None),
        other => other?,
    };
    let length = file.len()?;
    if length > SMALL_MAX {
        return Err(Error::new(Kind::Damaged, format!("the file has {length} bytes")).at(storage.shown(path)));
    }
    let mut bytes = vec![0; length as usize];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(Some(bytes))
}

/// Checks every object of the catalog; returns how many there are.
pub(super) fn catalog(report: &mut Report, storage: &dyn Storage) -> usize {
    let mut count = 0;
    for folder in FOLDERS {
        let Ok(names) = storage.list(Path::new(folder)) else { continue };
        for name in names.iter().filter(|n| n.ends_with(".json")) {
            let path = Path::new(folder).join(name);
            count += 1;
            let read = read_all(storage, &path)
                .and_then(|bytes| catalog::decode::<serde_json::Value>(&bytes.unwrap_or_default()));
            if let Err(e) = read {
                report.damaged(storage.shown(&path), Some(0), e.to_string());
            }
        }
    }
    count
}

/// A file of `<crc, 8 digits>\n<JSON>`, as lists of segments and names are.
pub(super) fn summed<T: DeserializeOwned>(
    report: &mut Report,
    storage: &dyn Storage,
    path: &Path,
    newline_is_summed: bool,
) -> Option<T> {
    let shown = storage.shown(path);
    let bytes = match read_all(storage, path) {
        Ok(bytes) => bytes?,
        Err(e) => {
            report.failed(shown, &e);
            return None;
        }
    };
    let split = if newline_is_summed { 8 } else { 9 };
    let good = bytes.split_at_checked(split).and_then(|(sum, body)| {
        let crc = format!("{:08x}", crc32c::crc32c(body));
        let whole = sum[..8] == *crc.as_bytes() && bytes.get(8) == Some(&b'\n');
        whole.then(|| serde_json::from_slice(body))
    });
    match good {
        Some(Ok(value)) => Some(value),
        Some(Err(e)) => {
            report.damaged(shown, Some(0), format!("content that this version doesn't know: {e}"));
            None
        }
        None => {
            report.damaged(shown, Some(0), "the file isn't what was written: its checksum doesn't fit");
            None
        }
    }
}

/// The newest whole checkpoint with its generation; slots that can't be read are reported.
pub(super) fn checkpoint(
    report: &mut Report,
    storage: &dyn Storage,
    path: &Path,
) -> Option<(u64, Checkpoint)> {
    const SLOT: usize = 2 << 20;
    let shown = storage.shown(path);
    let bytes = match read_all(storage, path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            report.damaged(shown, None, "the group has no checkpoint");
            return None;
        }
        Err(e) => {
            report.failed(shown, &e);
            return None;
        }
    };
    let mut newest: Option<(u64, Checkpoint)> = None;
    for number in 0..2 {
        let from = (number * SLOT).min(bytes.len());
        let slot = &bytes[from..(from + SLOT).min(bytes.len())];
        // Slot 1 is written first: until the second checkpoint slot 0 is a hole.
        if slot.iter().take(SLOT_HEADER_BYTES).all(|b| *b == 0) {
            continue;
        }
        let read = decode_slot(slot).map(|found| {
            found.and_then(|(generation, body)| Some((generation, serde_json::from_slice(body).ok()?)))
        });
        match read {
            Ok(Some((generation, checkpoint))) => {
                if newest.as_ref().is_none_or(|(g, _)| *g < generation) {
                    newest = Some((generation, checkpoint));
                }
            }
            Ok(None) => report.damaged(
                &shown,
                Some(from as u64),
                format!("slot {number} of the checkpoint can't be read: rotten, or torn by a power loss while it was written; the other slot counts"),
            ),
            Err(e) => report.damaged(&shown, Some(from as u64), e.to_string()),
        }
    }
    if newest.is_none() {
        report.damaged(shown, Some(0), "no whole checkpoint is left");
    }
    newest
}

/// The counted lines of a history, as far as they can be read.
pub(super) fn history(
    report: &mut Report,
    storage: &dyn Storage,
    path: &Path,
    counted: Option<(u64, u32)>,
) -> Vec<HistoryLine<Event>> {
    let shown = storage.shown(path);
    let bytes = match read_all(storage, path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            report.damaged(shown, None, "the group has no history");
            return Vec::new();
        }
        Err(e) => {
            report.failed(shown, &e);
            return Vec::new();
        }
    };
    let (count, crc) = counted.map_or((u64::MAX, None), |(n, crc)| (n, Some(crc)));
    let (mut lines, mut end, mut last): (Vec<HistoryLine<Event>>, usize, u32) = (Vec::new(), 0, 0);
    while (lines.len() as u64) < count {
        let n = lines.len() as u64 + 1;
        match HistoryLine::<Event>::decode(&bytes[end..]) {
            Ok((line, line_crc, length)) if line.n == n && line.prev == last => {
                lines.push(line);
                end += length;
                last = line_crc;
            }
            Ok(_) => {
                let what = format!("line {n} of the history does not follow the one before");
                report.damaged(&shown, Some(end as u64), what);
                return lines;
            }
            Err(LineError::End | LineError::Bad) if counted.is_none() => break,
            Err(LineError::End | LineError::Bad) => {
                let what = format!("line {n} of {count} of the history can't be read");
                report.damaged(&shown, Some(end as u64), what);
                return lines;
            }
            Err(LineError::Unknown(what)) => {
                let what =
                    format!("line {n} of the history has content that this version doesn't know: {what}");
                report.damaged(&shown, Some(end as u64), what);
                return lines;
            }
        }
    }
    if crc.is_some_and(|crc| crc != last) {
        report.damaged(&shown, Some(end as u64), "the last line is not the one that the checkpoint counts");
    }
    lines
}
