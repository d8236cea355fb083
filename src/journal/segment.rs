//! One segment file: what is known of it, and its handles.

use crate::format::BLOCK;
use crate::seam::{Access, AlignedBuf, File, Storage};
use crate::vocab::{EpochId, Error, Kind, Moment, Pos, Result, Seq};
use parking_lot::Mutex;
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
    /// Chain value before its first record, once the chain has come there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_chain: Option<(Moment, [u8; 32])>,
}

impl SegmentInfo {
    /// The place of the first batch.
    pub fn first_batch(&self) -> Pos {
        Pos(self.start.0 + FIRST_BATCH)
    }
}

/// What changes while a segment is appended to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub(crate) end: Pos,
    pub(crate) last_seq: Seq,
    pub(crate) last_crc: u32,
    pub(crate) first_wall: i64,
    pub(crate) last_wall: i64,
    pub(crate) start_chain: Option<(Moment, [u8; 32])>,
}

/// A segment that can be read, and by its appender written.
pub(crate) struct Segment {
    /// What never changes; the rest is in `tail`.
    pub(crate) fixed: SegmentInfo,
    tail: Mutex<Tail>,
    path: PathBuf,
    storage: Arc<dyn Storage>,
    direct: OnceLock<Arc<dyn File>>,
    cached: OnceLock<Arc<dyn File>>,
    /// Held during a sync (J8); true once one has failed.
    syncing: Mutex<bool>,
}

impl Segment {
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: &Path, info: SegmentInfo) -> Self {
        let path = dir.join(&info.file);
        let tail = Tail {
            end: info.end,
            last_seq: info.last_seq,
            last_crc: info.last_crc,
            first_wall: info.first_wall,
            last_wall: info.last_wall,
            start_chain: info.start_chain,
        };
        let (direct, cached) = (OnceLock::new(), OnceLock::new());
        let syncing = Mutex::new(false);
        Self { fixed: info, tail: Mutex::new(tail), path, storage, direct, cached, syncing }
    }

    pub(crate) fn tail(&self) -> Tail {
        *self.tail.lock()
    }

    pub(crate) fn set_tail(&self, tail: Tail) {
        *self.tail.lock() = tail;
    }

    pub(crate) fn set_start_chain(&self, value: (Moment, [u8; 32])) {
        self.tail.lock().start_chain = Some(value);
    }

    /// The place behind its last batch.
    pub(crate) fn end(&self) -> Pos {
        self.tail.lock().end
    }

    /// All that is known of it now.
    pub(crate) fn info(&self) -> SegmentInfo {
        let t = self.tail();
        SegmentInfo {
            end: t.end,
            last_seq: t.last_seq,
            last_crc: t.last_crc,
            first_wall: t.first_wall,
            last_wall: t.last_wall,
            start_chain: t.start_chain,
            ..self.fixed.clone()
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For appending and for reads that must come from the medium.
    pub(crate) fn direct(&self) -> Result<&Arc<dyn File>> {
        open_once(&self.direct, || self.storage.open(&self.path, Access::Direct))
    }

    /// J8: one sync at a time, and none after one that failed. A failure is told to one caller only: of two at once the
    /// other would take what was lost for durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.sync_if(|failed| !failed)
    }

    /// After a failure, by one who reads again what was not durable before (J11).
    pub(crate) fn sync_anew(&self) -> Result<()> {
        self.sync_if(|_| true)
    }

    fn sync_if(&self, may: impl FnOnce(bool) -> bool) -> Result<()> {
        let mut failed = self.syncing.lock();
        if !may(*failed) {
            return Err(Error::new(Kind::Poisoned, "an earlier sync of this segment failed"));
        }
        let done = self.direct()?.sync();
        *failed = done.is_err();
        done
    }

    fn cached(&self) -> Result<&Arc<dyn File>> {
        open_once(&self.cached, || self.storage.open(&self.path, Access::ReadOnly))
    }

    /// Reads `len` bytes at a place through the page cache.
    pub(crate) fn read(&self, pos: Pos, buf: &mut [u8]) -> Result<()> {
        let got = self.cached()?.read_at(buf, pos.0 - self.fixed.start.0)?;
        self.whole(got, buf.len(), pos)
    }

    /// Lets the page cache read places that will be asked for soon, in one stretch.
    pub(crate) fn read_ahead(&self, from: Pos, to: Pos) -> Result<()> {
        self.cached()?.read_ahead(from.0 - self.fixed.start.0, to.0 - from.0);
        Ok(())
    }

    /// Reads past the page cache: after a crc was wrong, and in recovery.
    pub(crate) fn read_medium(&self, pos: Pos, buf: &mut [u8]) -> Result<()> {
        let from = (pos.0 - self.fixed.start.0) / BLOCK * BLOCK;
        let skip = (pos.0 - self.fixed.start.0 - from) as usize;
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
            .offset(pos.0 - self.fixed.start.0))
    }

    pub(crate) fn damaged(&self, what: impl Into<String>, pos: Pos) -> Error {
        Error::new(Kind::Damaged, what).at(self.storage.shown(&self.path)).offset(pos.0 - self.fixed.start.0)
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
