//! The history of a group: one append-only file of JSON lines, preallocated, each line linked to the one before.
//!
//! A line is *acted on* when a checkpoint that counts it is synced. A counted line that can't be read is damage,
//! never a torn tail: a lost `handover` would be two writers. A line behind the counted ones is as if it had never
//! been written; the next append overwrites it.

use crate::format::{HistoryLine, LineError};
use crate::seam::{Access, Durability, File, Storage};
use crate::vocab::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FIRST_ROOM: u64 = 64 << 10;

/// The file, open for appending.
pub struct HistoryFile {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    file: Arc<dyn File>,
    lines: u64,
    last_crc: u32,
    end: u64,
    room: u64,
    /// The file has its name, but not durably.
    unnamed: bool,
}

impl HistoryFile {
    /// Makes an empty history, durable when this returns.
    pub fn create(storage: Arc<dyn Storage>, path: &Path) -> Result<Self> {
        let file = storage.create(path, Access::Cached)?;
        file.write_all_at(&vec![0; FIRST_ROOM as usize], 0)?;
        file.sync()?;
        storage.sync_dir(parent(path))?;
        Ok(Self {
            storage,
            path: path.into(),
            file,
            lines: 0,
            last_crc: 0,
            end: 0,
            room: FIRST_ROOM,
            unnamed: false,
        })
    }

    /// Reads the counted lines.
    ///
    /// # Errors
    /// `Damaged` if one of the `count` lines can't be read, or the last one isn't that of the checkpoint.
    /// `Unsupported` if a line has content that this version doesn't know.
    pub fn open<E: Serialize + DeserializeOwned>(
        storage: Arc<dyn Storage>,
        path: &Path,
        count: u64,
        crc: u32,
        read_only: bool,
    ) -> Result<(Self, Vec<HistoryLine<E>>)> {
        let access = if read_only { Access::ReadOnly } else { Access::Cached };
        let file = storage.open(path, access)?;
        let room = file.len()?;
        let mut bytes = vec![0; room as usize];
        let got = file.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        let (mut lines, mut end, mut last_crc) = (Vec::new(), 0, 0);
        let damaged = |n: u64, end: usize, what: &str| {
            Error::new(Kind::Damaged, format!("line {n} of {count} of the history {what}"))
                .at(storage.shown(path))
                .offset(end as u64)
                .advice("The group stays read-only; its peer has the lines that both know")
        };
        while (lines.len() as u64) < count {
            let n = lines.len() as u64 + 1;
            let (line, line_crc, length) = match HistoryLine::<E>::decode(&bytes[end..]) {
                Ok(found) => found,
                Err(LineError::Unknown(what)) => {
                    return Err(Error::new(Kind::Unsupported, format!("line {n} of the history: {what}"))
                        .at(storage.shown(path))
                        .advice("Use the version that wrote it, or a later one"));
                }
                Err(LineError::End | LineError::Bad) => return Err(damaged(n, end, "can't be read")),
            };
            if line.n != n || line.prev != last_crc {
                return Err(damaged(n, end, "does not follow the one before"));
            }
            lines.push(line);
            end += length;
            last_crc = line_crc;
        }
        if last_crc != crc {
            return Err(damaged(count, end, "is not the one that the checkpoint counts"));
        }
        let this = Self {
            file,
            path: path.into(),
            lines: count,
            last_crc,
            end: end as u64,
            room,
            unnamed: false,
            storage: storage.clone(),
        };
        Ok((this, lines))
    }

    /// Appends a line, durable when this returns, but not yet counted: write a checkpoint with [`Self::count`]
    /// and [`Self::crc`] before acting on it.
    pub fn append<E: Serialize + DeserializeOwned>(&mut self, time: i64, event: E) -> Result<()> {
        let line = HistoryLine { n: self.lines + 1, prev: self.last_crc, time, event };
        let Some((mut bytes, crc)) = line.encode() else {
            return Err(Error::new(Kind::Invalid, "history line can't be written as JSON").at(&self.path));
        };
        let length = bytes.len() as u64;
        if (self.end + length + 1) * 2 > self.room {
            self.rewrite(length)?;
        }
        if self.unnamed {
            self.storage.sync_dir(parent(&self.path))?;
            self.unnamed = false;
        }
        bytes.push(0); // an abandoned longer line behind it must not look like a line
        self.file.write_at(&[IoSlice::new(&bytes)], self.end, Durability::Plain)?;
        self.file.sync()?;
        self.lines += 1;
        self.last_crc = crc;
        self.end += length;
        Ok(())
    }

    /// How many lines there are.
    pub fn count(&self) -> u64 {
        self.lines
    }

    /// crc of the last line.
    pub fn crc(&self) -> u32 {
        self.last_crc
    }

    /// The same lines in a file with more room. No line goes there before its name is durable.
    fn rewrite(&mut self, more: u64) -> Result<()> {
        let room = ((self.end + more + 1) * 4).next_power_of_two().max(FIRST_ROOM);
        let mut bytes = vec![0; room as usize];
        let got = self.file.read_at(&mut bytes[..self.end as usize], 0)?;
        if got as u64 != self.end {
            return Err(Error::new(Kind::Damaged, "history is shorter than it was")
                .at(self.storage.shown(&self.path)));
        }
        let next = self.path.with_extension("new");
        if self.storage.exists(&next)? {
            self.storage.remove(&next)?;
        }
        let file = self.storage.create(&next, Access::Cached)?;
        file.write_all_at(&bytes, 0)?;
        file.sync()?;
        self.storage.rename(&next, &self.path)?;
        // From here on the old file has no name: a line must not go there, whatever fails now.
        (self.file, self.room, self.unnamed) = (file, room, true);
        Ok(())
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}
