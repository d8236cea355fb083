//! One segment file: what is known of it, and its handles.

use crate::format::BLOCK;
use crate::seam::{Access, AlignedBuf, File, Storage};
use crate::vocab::{EpochId, Error, Kind, Pos, Result, Seq};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Bytes of header and seal: where the first batch lies.
pub const FIRST_BATCH: u64 = 2 * BLOCK;

/// What is known of a segment without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// Name of the file in the log's directory.
    pub file: String,
    /// Random, new at each use of the file.
    pub life: u64,
    /// Place of its first byte.
    pub start: Pos,
    /// Length of the file.
    pub bytes: u64,
    /// The place behind its last batch; of the open segment, behind the last so far.
    pub end: Pos,
    /// Epoch of all its records.
    pub epoch: EpochId,
    /// Seq that its first record has or would have.
    pub first_seq: Seq,
    /// Its last seq; one less than the first if it has none.
    pub last_seq: Seq,
    /// Header crc of its last batch, or of the last before it.
    pub last_crc: u32,
    /// Wall time of its first batch, ns.
    pub first_wall: i64,
    /// Wall time of its last batch, ns.
    pub last_wall: i64,
    /// Life of the segment before, 0 for none.
    pub previous_life: u64,
}

impl SegmentInfo {
    /// The place of the first batch.
    pub fn first_batch(&self) -> Pos {
        Pos(self.start.0 + FIRST_BATCH)
    }
}

/// A segment that can be read, and by its appender written.
pub(crate) struct Segment {
    pub(crate) info: SegmentInfo,
    path: PathBuf,
    storage: Arc<dyn Storage>,
    direct: OnceLock<Arc<dyn File>>,
    cached: OnceLock<Arc<dyn File>>,
}

impl Segment {
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: &Path, info: SegmentInfo) -> Self {
        let path = dir.join(&info.file);
        Self { info, path, storage, direct: OnceLock::new(), cached: OnceLock::new() }
    }

    pub(crate) fn with_info(&self, info: SegmentInfo) -> Self {
        let new = Self {
            info,
            path: self.path.clone(),
            storage: self.storage.clone(),
            direct: OnceLock::new(),
            cached: OnceLock::new(),
        };
        if let Some(file) = self.direct.get() {
            let _ = new.direct.set(file.clone());
        }
        if let Some(file) = self.cached.get() {
            let _ = new.cached.set(file.clone());
        }
        new
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For appending and for reads that must come from the medium.
    pub(crate) fn direct(&self) -> Result<&Arc<dyn File>> {
        open_once(&self.direct, || self.storage.open(&self.path, Access::Direct))
    }

    fn cached(&self) -> Result<&Arc<dyn File>> {
        open_once(&self.cached, || self.storage.open(&self.path, Access::ReadOnly))
    }

    /// Reads `len` bytes at a place through the page cache.
    pub(crate) fn read(&self, pos: Pos, buf: &mut [u8]) -> Result<()> {
        let got = self.cached()?.read_at(buf, pos.0 - self.info.start.0)?;
        self.whole(got, buf.len(), pos)
    }

    /// Reads past the page cache: after a crc was wrong, and in recovery.
    pub(crate) fn read_medium(&self, pos: Pos, buf: &mut [u8]) -> Result<()> {
        let from = (pos.0 - self.info.start.0) / BLOCK * BLOCK;
        let skip = (pos.0 - self.info.start.0 - from) as usize;
        let mut window = AlignedBuf::zeroed((skip + buf.len()).next_multiple_of(BLOCK as usize));
        let got = self.direct()?.read_at(&mut window, from)?;
        self.whole(got.saturating_sub(skip).min(buf.len()), buf.len(), pos)?;
        buf.copy_from_slice(&window[skip..skip + buf.len()]);
        Ok(())
    }

    fn whole(&self, got: usize, wanted: usize, pos: Pos) -> Result<()> {
        if got == wanted {
            return Ok(());
        }
        Err(Error::new(Kind::Damaged, "segment file is shorter than it was made")
            .at(self.storage.shown(&self.path))
            .offset(pos.0 - self.info.start.0))
    }

    pub(crate) fn damaged(&self, what: impl Into<String>, pos: Pos) -> Error {
        Error::new(Kind::Damaged, what).at(self.storage.shown(&self.path)).offset(pos.0 - self.info.start.0)
    }
}

fn open_once(
    cell: &OnceLock<Arc<dyn File>>,
    open: impl FnOnce() -> Result<Arc<dyn File>>,
) -> Result<&Arc<dyn File>> {
    if let Some(file) = cell.get() {
        return Ok(file);
    }
    let file = open()?;
    Ok(cell.get_or_init(|| file))
}
