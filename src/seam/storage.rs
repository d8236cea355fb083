//! Storage: the only way in which the engine touches files.
//!
//! What an implementation promises, and a simulated one takes away:
//!
//! S1. A write that returned is seen by every later read, from any handle, until the machine loses power.
//! S2. `sync` makes durable every write to that file, by any handle, that returned before `sync` began, with
//!     the file's length. It says nothing of other files.
//! S3. A write with [`Durability::Durable`] is itself durable when it returns. Nothing else is.
//! S4. An unsynced write may be lost, kept or torn at 512-byte boundaries, in any order, at a power loss.
//! S5. A name that was created, renamed or removed is durable after `sync_dir` of its directory; renames are
//!     atomic. The content of a file needs its own sync before.
//! S6. After a failed sync nothing is known of the writes before it, whatever a later sync says.

use crate::vocab::{Error, Kind, Result};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

/// How a file is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Through the page cache; any offset and length.
    Cached,
    /// As [`Access::Cached`], for the content of images: of a reserve it takes half and leaves the rest.
    Content,
    /// Past the page cache: offsets, lengths and buffers in memory are multiples of 4096. Falls back to the
    /// page cache on filesystems that refuse it.
    Direct,
    /// Through the page cache, reading only; never creates.
    ReadOnly,
}

/// Whether a write waits for the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Durable after a later sync.
    Plain,
    /// Durable when it returns (RWF_DSYNC).
    Durable,
}

/// How a file from outside of a tree comes into it without a copy of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakeIn {
    /// It is moved: it has no other name afterwards.
    Rename,
    /// Both share their blocks until one of them is written to (FICLONE: XFS, btrfs).
    Reflink,
}

/// Room on the filesystem, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What may still be written.
    pub free: u64,
    /// The same for all trees on one filesystem.
    pub filesystem: u64,
}

/// A tree of files below one directory. Paths are relative to it, with `/`, without `..`.
pub trait Storage: Send + Sync {
    /// Opens a file that exists. `NotFound` otherwise.
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>>;
    /// Makes a new, empty file. `Exists` if the name is taken.
    fn create(&self, path: &Path, access: Access) -> Result<Arc<dyn File>>;
    /// Renames, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a file. Open handles go on working.
    fn remove(&self, path: &Path) -> Result<()>;
    /// Makes a directory and those above it; it may exist.
    fn make_dir(&self, path: &Path) -> Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> Result<()>;
    /// Names in a directory, sorted, files and directories alike. `NotFound` if it isn't there.
    fn list(&self, path: &Path) -> Result<Vec<String>>;
    /// Makes the names of a directory durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;
    /// Whether something has this name.
    fn exists(&self, path: &Path) -> Result<bool>;
    /// Takes a file in that lies outside of the tree, on the same filesystem: content and length as they are, durable
    /// before the name is. `outside`: an absolute path.
    ///
    /// # Errors
    /// `Unsupported` if no file comes in that way, `Busy` if somebody has it open, `Refused` if it has other names or
    /// another owner: it is where it was, and nothing has the new name.
    fn take_in(&self, outside: &Path, _to: &Path, _how: TakeIn) -> Result<()> {
        Err(Error::new(Kind::Unsupported, "no file can be taken in here").at(outside))
    }
    /// Room on the filesystem of this tree.
    fn space(&self) -> Result<Space>;
    /// A path as a person would type it, for messages.
    fn shown(&self, path: &Path) -> String;
}

/// An open file. All positions are bytes. Methods may be called from many threads at once.
pub trait File: Send + Sync {
    /// Fills `buf` from `offset`; returns how many bytes there were before the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of `bufs`, one after the other, at `offset`; grows the file where needed.
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64, durability: Durability) -> Result<()>;
    /// Makes content and length durable (fdatasync).
    fn sync(&self) -> Result<()>;
    /// Length in bytes.
    fn len(&self) -> Result<u64>;
    /// Whether the length is zero.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Sets the length; what is new reads as zeros.
    fn set_len(&self, len: u64) -> Result<()>;
    /// Allocates room without changing content or length, where the filesystem can.
    fn allocate(&self, offset: u64, len: u64) -> Result<()>;
    /// Makes a range read as zeros and gives its room back, where the filesystem can; keeps the length.
    fn punch(&self, offset: u64, len: u64) -> Result<()>;
    /// Makes a range read as zeros and keeps its room, where the filesystem can; keeps the length.
    fn zero(&self, offset: u64, len: u64) -> Result<()>;
    /// The first byte at or after `offset` that isn't in a hole; `None` if there is none before the end.
    fn next_data(&self, offset: u64) -> Result<Option<u64>>;
    /// The first byte at or after `offset` that is in a hole, or the end; `None` if `offset` isn't before
    /// the end.
    fn next_hole(&self, offset: u64) -> Result<Option<u64>>;
    /// Bytes that the file takes on the medium.
    fn allocated(&self) -> Result<u64>;
    /// A hint: this range will be read soon, through the page cache. Does nothing where that means nothing.
    fn read_ahead(&self, _offset: u64, _len: u64) {}
}

impl dyn File {
    /// Writes one buffer.
    pub fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write_at(&[IoSlice::new(buf)], offset, Durability::Plain)
    }
}
