//! A file of lines that is only appended to: the base of events, logs of jobs and stored results.
//!
//! A1. A line that [`LineFile::append`] has synced is there after a crash, whole.
//! A2. What a crash left of a line is cut off at the next opening, before anything is appended: no later line is
//!     ever glued to a torn one.

use crate::seam::{Access, File, Storage};
use crate::vocab::{Error, Kind, Result};
use std::path::Path;
use std::sync::Arc;

const PIECE: usize = 64 << 10;

/// An open file of lines.
pub struct LineFile {
    file: Arc<dyn File>,
    length: u64,
}

impl LineFile {
    /// Opens or makes the file; its directory exists. A torn last line is cut off.
    pub fn open(storage: &dyn Storage, path: &Path) -> Result<Self> {
        let file = match storage.open(path, Access::Cached) {
            Ok(file) => file,
            Err(error) if error.kind() == Kind::NotFound => {
                let file = storage.create(path, Access::Cached)?;
                storage.sync_dir(path.parent().unwrap_or(Path::new("")))?;
                file
            }
            Err(error) => return Err(error),
        };
        let length = file.len()?;
        let whole = whole_lines(file.as_ref(), length)?;
        if whole < length {
            file.set_len(whole)?;
            file.sync()?;
        }
        Ok(Self { file, length: whole })
    }

    /// Appends a line; `text` has no line break, the file's is added. `sync`: durable when this returns.
    pub fn append(&mut self, text: &str, sync: bool) -> Result<()> {
        if text.bytes().any(|b| b == b'\n' || b == 0) {
            return Err(Error::new(Kind::Invalid, "a line can't contain a line break"));
        }
        let line = format!("{text}\n");
        self.file.write_all_at(line.as_bytes(), self.length)?;
        self.length += line.len() as u64;
        if sync { self.file.sync() } else { Ok(()) }
    }

    /// Makes all lines durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// Bytes of whole lines.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Reads at most `max` bytes from `offset`.
    pub fn read(&self, offset: u64, max: usize) -> Result<Vec<u8>> {
        let there = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut out = vec![0; there.min(max)];
        let got = self.file.read_at(&mut out, offset)?;
        out.truncate(got);
        Ok(out)
    }
}

/// All lines of a file, for one that isn't open.
pub fn read_lines(storage: &dyn Storage, path: &Path) -> Result<Vec<String>> {
    let file = match storage.open(path, Access::ReadOnly) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let whole = whole_lines(file.as_ref(), file.len()?)?;
    let mut bytes = vec![0; whole as usize];
    let got = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..got]).lines().map(str::to_owned).collect())
}

/// The end of the last whole line. A crash may have kept the length and not the bytes: zeros are no line.
fn whole_lines(file: &dyn File, length: u64) -> Result<u64> {
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(PIECE as u64);
        let mut piece = vec![0; (end - start) as usize];
        let got = file.read_at(&mut piece, start)?;
        piece.truncate(got);
        // Behind a zero everything is void, wherever its line breaks are.
        if let Some(zero) = piece.iter().position(|b| *b == 0) {
            piece.truncate(zero);
        }
        if let Some(at) = piece.iter().rposition(|b| *b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::SimDevice;

    #[test]
    fn synced_lines_survive_a_power_loss_at_any_operation_and_none_is_glued() {
        let path = Path::new("log");
        for seed in 0..20 {
            for at in 1.. {
                let device = SimDevice::new(seed);
                let storage = device.storage("store");
                device.power_loss_at(at);
                let line = |n: u64| format!("{n} {}", "x".repeat((n * 700 % 3000) as usize));
                let mut synced = 0;
                let run = || -> Result<()> {
                    let mut file = LineFile::open(&storage, path)?;
                    for n in 0..6 {
                        file.append(&line(n), n % 2 == 1)?;
                        if n % 2 == 1 {
                            synced = n + 1;
                        }
                    }
                    Ok(())
                };
                let crashed = { run }().is_err();
                device.power_loss();
                device.power_on();
                let storage = device.storage("store");
                let mut file = LineFile::open(&storage, path).unwrap();
                file.append("after", true).unwrap();
                let lines = read_lines(&storage, path).unwrap();
                let (last, before) = lines.split_last().unwrap();
                assert_eq!(last, "after", "seed {seed}, operation {at}");
                assert!(before.len() as u64 >= synced, "seed {seed}, operation {at}: {synced} were synced");
                for n in 0..synced {
                    assert_eq!(before[n as usize], line(n), "seed {seed}, operation {at}");
                }
                if !crashed {
                    break;
                }
            }
        }
    }

    #[test]
    fn line_breaks_are_refused_and_pieces_can_be_read() {
        let device = SimDevice::new(1);
        let storage = device.storage("store");
        let mut file = LineFile::open(&storage, Path::new("log")).unwrap();
        assert!(file.is_empty() && file.append("a\nb", true).is_err());
        file.append("hello", true).unwrap();
        assert_eq!(
            (file.len(), file.read(1, 3).unwrap(), file.read(6, 9).unwrap()),
            (6, b"ell".to_vec(), vec![])
        );
    }
}
