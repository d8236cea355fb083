//! The base image of one file.
//!
//! B1. A base is read as an endless image: holes, and all behind its end, are zeros.
//! B2. One round at a time writes to it.
//! B3. What a round touched and didn't bring to the medium is owed: no later round counts as durable before it
//!     has touched all of that again. After a failed sync the page cache may show bytes that the medium
//!     doesn't have, and a second sync that succeeds proves nothing.

use crate::base::holes::Holes;
use crate::base::ranges::Ranges;
use crate::base::round::Round;
use crate::journal::left_out;
use crate::seam::{Access, File, Storage};
use crate::vocab::{DiskOrdinal, Error, Kind, Result};
use parking_lot::Mutex;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of a base in its group's directory.
pub fn base_name(disk: DiskOrdinal) -> String {
    format!("base-{disk}.img")
}

/// The base image of one file of a group.
pub struct BaseFile {
    pub(super) file: Arc<dyn File>,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    owed: Ranges,
    in_round: bool,
}

impl BaseFile {
    /// Makes a base of `len` bytes, all hole. Durable once [`BaseFile::sync`] and a sync of its directory have
    /// succeeded. `Exists` if there is one.
    pub fn create(storage: &dyn Storage, path: &Path, len: u64) -> Result<Self> {
        let base = Self::of(storage.create(path, Access::Content)?, path);
        base.file.set_len(len)?;
        Ok(base)
    }

    /// Opens a base for reading and for rounds. `NotFound` if there is none.
    pub fn open(storage: &dyn Storage, path: &Path) -> Result<Self> {
        Ok(Self::of(storage.open(path, Access::Content)?, path))
    }

    /// Opens a base for reading only: for tools.
    pub fn open_read_only(storage: &dyn Storage, path: &Path) -> Result<Self> {
        Ok(Self::of(storage.open(path, Access::ReadOnly)?, path))
    }

    fn of(file: Arc<dyn File>, path: &Path) -> Self {
        Self { file, path: path.to_owned(), state: Mutex::default() }
    }

    /// Fills `buf` with the image from `offset` on.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let count = self.file.read_at(buf, offset)?;
        buf[count..].fill(0);
        Ok(())
    }

    /// Length of the image in bytes.
    pub fn len(&self) -> Result<u64> {
        self.file.len()
    }

    /// Whether the image has no bytes.
    pub fn is_empty(&self) -> Result<bool> {
        self.file.is_empty()
    }

    /// Bytes that it takes on the medium.
    pub fn allocated(&self) -> Result<u64> {
        self.file.allocated()
    }

    /// Makes length and content durable outside of a round: after [`BaseFile::create`].
    pub fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// Begins a round to a moment at which the image has `len` bytes. `Busy` while another one runs.
    pub fn round(&self, len: u64) -> Result<Round<'_>> {
        self.begin(len, false)
    }

    /// As [`BaseFile::round`], for a round that was begun before and didn't end, as the checkpoint says after
    /// a restart: nothing that the cache shows of it is believed.
    pub fn repeat(&self, len: u64) -> Result<Round<'_>> {
        self.begin(len, true)
    }

    fn begin(&self, len: u64, is_repeat: bool) -> Result<Round<'_>> {
        let is_repeat = {
            let mut state = self.state.lock();
            if state.in_round {
                return Err(Error::new(Kind::Busy, "another round of this base runs").at(&self.path));
            }
            state.in_round = true;
            is_repeat || !state.owed.is_empty()
        };
        // From here on the round's end takes the mark away, also if the length can't be set.
        let mut round = Round::new(self, len, is_repeat);
        round.resize()?;
        Ok(round)
    }

    /// Whether a round must be written again, whole, before the base is durable anywhere above its floor.
    pub fn must_write_again(&self) -> bool {
        !self.state.lock().owed.is_empty()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are owed and that a round which touched `done` of an image of `len` bytes leaves out.
    pub(super) fn still_owed(&self, done: &Ranges, len: u64) -> u64 {
        let mut state = self.state.lock();
        state.owed.truncate(len);
        let believed = left_out("B3: what a failed sync owes is written again");
        if believed || done.covers(&state.owed) { 0 } else { state.owed.union(done).total() - done.total() }
    }

    /// A round ends: what it touched is durable, with all that was owed, or is owed.
    pub(super) fn end_round(&self, touched: &Ranges, durable: bool) {
        let mut state = self.state.lock();
        state.in_round = false;
        state.owed = if durable { Ranges::default() } else { state.owed.union(touched) };
    }
}

impl Holes for BaseFile {
    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        self.file.next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.file.next_hole(offset)
    }
}

impl fmt::Debug for BaseFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseFile({})", self.path.display())
    }
}
