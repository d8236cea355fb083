//! The checkpoint on disk: one file with two slots, written in turn, so that one is always whole.

use crate::format::{Checkpoint, SLOT_HEADER_BYTES, decode_slot, encode_slot};
use crate::seam::{Access, File, Storage};
use crate::vocab::{Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Room of one slot: 4,096 files take about 1.2 MiB.
const SLOT_BYTES: u64 = 2 << 20;

/// The two slots of a group.
pub struct CheckpointFile {
    file: Arc<dyn File>,
    shown: String,
    generation: u64,
}

impl CheckpointFile {
    /// Makes the file with a first checkpoint, durable when this returns.
    pub fn create(storage: &dyn Storage, path: &Path, first: &Checkpoint) -> Result<Self> {
        let file = storage.create(path, Access::Cached)?;
        let mut new = Self { file, shown: storage.shown(path), generation: 0 };
        new.write(first)?;
        let dir: PathBuf = path.parent().unwrap_or(Path::new("")).into();
        storage.sync_dir(&dir)?;
        Ok(new)
    }

    /// Opens it and reads the newest whole checkpoint.
    ///
    /// # Errors
    /// `Damaged` if no slot is whole: a checkpoint is synced before anything relies on it, and the other slot
    /// isn't touched meanwhile, so a crash can't do that.
    pub fn open(storage: &dyn Storage, path: &Path, read_only: bool) -> Result<(Self, Checkpoint)> {
        let access = if read_only { Access::ReadOnly } else { Access::Cached };
        let file = storage.open(path, access)?;
        let shown = storage.shown(path);
        let mut newest: Option<(u64, Checkpoint)> = None;
        for slot in 0..2 {
            let Some((generation, checkpoint)) = read_slot(&*file, slot)? else { continue };
            if newest.as_ref().is_none_or(|(g, _)| *g < generation) {
                newest = Some((generation, checkpoint));
            }
        }
        let Some((generation, checkpoint)) = newest else {
            return Err(Error::new(Kind::Damaged, "no whole checkpoint is left")
                .at(&shown)
                .advice("The logs beside it are whole: see `standbyfs inspect`"));
        };
        Ok((Self { file, shown, generation }, checkpoint))
    }

    /// Writes the next checkpoint over the older slot and syncs it.
    pub fn write(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let body = serde_json::to_vec(checkpoint)
            .map_err(|e| Error::new(Kind::Invalid, format!("checkpoint can't be written: {e}")))?;
        let generation = self.generation + 1;
        let bytes = encode_slot(generation, &body);
        if bytes.len() as u64 > SLOT_BYTES {
            return Err(
                Error::new(Kind::Refused, "too many files in one group for a checkpoint").at(&self.shown)
            );
        }
        self.file.write_all_at(&bytes, generation % 2 * SLOT_BYTES)?;
        self.file.sync()?;
        self.generation = generation;
        Ok(())
    }

    /// How many checkpoints were written.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

fn read_slot(file: &dyn File, slot: u64) -> Result<Option<(u64, Checkpoint)>> {
    let mut bytes = vec![0; SLOT_HEADER_BYTES];
    let got = file.read_at(&mut bytes, slot * SLOT_BYTES)?;
    if got < bytes.len() {
        return Ok(None);
    }
    let length = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize;
    if length as u64 > SLOT_BYTES {
        return Ok(None);
    }
    bytes.resize(SLOT_HEADER_BYTES + length, 0);
    if file.read_at(&mut bytes, slot * SLOT_BYTES)? < bytes.len() {
        return Ok(None);
    }
    let Some((generation, body)) = decode_slot(&bytes)? else { return Ok(None) };
    match serde_json::from_slice(body) {
        Ok(checkpoint) => Ok(Some((generation, checkpoint))),
        Err(e) => Err(Error::new(Kind::Unsupported, format!("checkpoint with unknown content: {e}"))),
    }
}
