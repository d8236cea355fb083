//! The accounts of one filesystem: what is free, what of it is promised, and a reserve for what must always be
//! possible.
//!
//! M1. A claim is granted only if the filesystem has it free beside everything that was claimed before: what is
//!     claimed can be written later, as long as nobody else takes the room.
//! M2. The reserve is a file of fixed size, so that others on the filesystem can't take it either. Its room is
//!     given back when a step that must not fail meets a full filesystem ([`Reserved`]), and taken again as soon
//!     as there is room beside all claims. While it is away it is counted as claimed. It is given in pieces that are
//!     not larger than the step: given as a whole, somebody who is just filling the filesystem would take all of
//!     it, and the next step would find nothing. The content of images takes no more than half of it, where others
//!     took what was claimed for it: names, checkpoints and fences go on.
//! M3. The figures in memory are asked anew before a claim is refused.
//! M4. What a step that must not fail takes beyond what is spare comes out of the reserve at once, not out of what is
//!     claimed: those who claimed it would get no more than half of the reserve for it.

use crate::seam::{Access, Durability, File, Space, Storage, TakeIn};
use crate::vocab::{Error, Kind, Result};
use parking_lot::Mutex;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes kept for checkpoints, fences, failover, commit and trim.
pub const RESERVE_BYTES: u64 = 64 << 20;
/// The reserve's share of a small filesystem.
const RESERVE_SHARE: u64 = 16;
const RESERVE_FILE: &str = "reserve";
/// The reserve is given back in pieces of at least so many bytes.
const PIECE_BYTES: u64 = 256 << 10;

/// The accounts of one filesystem.
pub struct Room {
    storage: Arc<dyn Storage>,
    /// Bytes that the reserve shall have.
    reserve: AtomicU64,
    /// Bytes of it that lie in its file.
    held: Mutex<u64>,
    held_now: AtomicU64,
    /// Whether some of it is away; told once.
    given: AtomicBool,
    owed: AtomicU64,
    total: AtomicU64,
    /// What may still be claimed, by the newest answer of the filesystem.
    slack: AtomicU64,
}

impl Room {
    /// Accounts without a reserve. Nothing is asked of the filesystem yet.
    pub fn new(storage: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self {
            storage,
            reserve: AtomicU64::new(0),
            held: Mutex::new(0),
            held_now: AtomicU64::new(0),
            given: AtomicBool::new(false),
            owed: AtomicU64::new(0),
            total: AtomicU64::new(0),
            slack: AtomicU64::new(0),
        })
    }

    /// Makes the reserve: at most [`RESERVE_BYTES`], less on a small filesystem. One that doesn't fit is made
    /// later ([`Room::refresh`]).
    pub fn keep_reserve(&self) -> Result<()> {
        let wanted = RESERVE_BYTES.min(self.storage.space()?.total / RESERVE_SHARE);
        self.reserve.store(wanted, Ordering::Relaxed);
        let path = Path::new(RESERVE_FILE);
        if self.storage.exists(path)? {
            let there = self.storage.open(path, Access::Cached)?.allocated()?.min(wanted);
            *self.held.lock() = there;
            self.held_now.store(there, Ordering::Relaxed);
        }
        self.refresh().map(|_| ())
    }

    /// What the filesystem says.
    pub fn space(&self) -> Result<Space> {
        self.storage.space()
    }

    /// Bytes that are claimed.
    pub fn owed(&self) -> u64 {
        self.owed.load(Ordering::Relaxed)
    }

    /// Bytes that can still be claimed, asked anew. Takes the reserve again if there is room for it.
    pub fn refresh(&self) -> Result<u64> {
        let mut spare = self.ask()?;
        let reserve = self.reserve.load(Ordering::Relaxed);
        if self.held_now.load(Ordering::Relaxed) < reserve && self.fill_reserve(reserve)? {
            spare = self.ask()?;
        }
        Ok(spare)
    }

    /// Bytes that a step which must not fail may take: the reserve as well, but nothing that is claimed. Where others
    /// have taken what was claimed, the reserve is still there.
    pub fn essential(&self) -> Result<u64> {
        let free = self.storage.space()?.free;
        Ok(free.saturating_sub(self.owed()) + self.held_now.load(Ordering::Relaxed))
    }

    /// Bytes of the whole filesystem, by the newest answer.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// By the newest answer, without asking.
    pub fn slack(&self) -> u64 {
        self.slack.load(Ordering::Relaxed)
    }

    fn ask(&self) -> Result<u64> {
        let Space { total, free, .. } = self.storage.space()?;
        self.total.store(total, Ordering::Relaxed);
        let away = self.reserve.load(Ordering::Relaxed).saturating_sub(self.held_now.load(Ordering::Relaxed));
        let spare = free.saturating_sub(self.owed()).saturating_sub(away);
        self.slack.store(spare, Ordering::Relaxed);
        Ok(spare)
    }

    /// M1. True if granted, with `beside` still to be had: [`Room::settle`] gives it back, or what was written for it.
    pub fn claim(&self, bytes: u64, beside: u64) -> Result<bool> {
        // First claimed, then asked: of two who claim at once neither is granted the other's room.
        self.owed.fetch_add(bytes, Ordering::AcqRel);
        let lower = |slack: u64| slack.checked_sub(bytes).filter(|left| *left >= beside);
        if self.slack.fetch_update(Ordering::AcqRel, Ordering::Acquire, lower).is_ok() {
            return Ok(true);
        }
        let asked = (|| {
            let free = self.storage.space()?.free;
            let reserve = self.reserve.load(Ordering::Relaxed);
            let away = reserve.saturating_sub(self.held_now.load(Ordering::Relaxed));
            Ok(free.checked_sub(self.owed() + away).filter(|left| *left >= beside))
        })();
        let granted = matches!(asked, Ok(Some(_)));
        if let Ok(Some(spare)) = asked {
            self.slack.store(spare, Ordering::Relaxed);
        }
        if !granted {
            self.settle(bytes);
        }
        asked.map(|_| granted)
    }

    /// Claims without asking: for what is in the journal already.
    pub fn owe(&self, bytes: u64) {
        self.owed.fetch_add(bytes, Ordering::AcqRel);
        let _ = self
            .slack
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |slack| Some(slack.saturating_sub(bytes)));
    }

    /// Ends a claim: it was written, or is not needed any more.
    pub fn settle(&self, bytes: u64) {
        let lower = |owed: u64| Some(owed.saturating_sub(bytes));
        let _ = self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, lower);
    }

    /// Whether a file of this length can be made beside all claims; `essential`: from the reserve too, which is given
    /// back as far as it takes (M4).
    ///
    /// # Errors
    /// `NoSpace`.
    pub fn check(&self, bytes: u64, essential: bool) -> Result<()> {
        let spare = if essential { self.essential()? } else { self.ask()? };
        if bytes <= spare {
            let unclaimed =
                if essential { self.storage.space()?.free.saturating_sub(self.owed()) } else { bytes };
            if unclaimed < bytes {
                self.give_reserve(bytes - unclaimed, false);
            }
            return Ok(());
        }
        Err(Error::new(Kind::NoSpace, format!("{bytes} bytes are needed and {spare} are spare"))
            .at(self.storage.shown(Path::new("")))
            .advice("Free room on this filesystem or make it larger; `commit` and `drop` free journals"))
    }

    /// M2. Gives so many bytes, or what there is. Whether there was something to give.
    fn give_reserve(&self, bytes: u64, content: bool) -> bool {
        let kept = if content { self.reserve.load(Ordering::Relaxed) / 2 } else { 0 };
        let mut held = self.held.lock();
        if *held <= kept {
            return false;
        }
        let left = held.saturating_sub(bytes.max(PIECE_BYTES)).max(kept);
        let given = self
            .storage
            .open(Path::new(RESERVE_FILE), Access::Cached)
            .and_then(|file| file.set_len(left).and_then(|()| file.sync()));
        if let Err(error) = given {
            tracing::error!(%error, "the reserve can't be given back");
            return false;
        }
        if self.given.swap(true, Ordering::Relaxed) {
            tracing::debug!(bytes = *held - left, left, "more of the reserve was given back");
        } else {
            tracing::warn!(
                bytes = *held - left,
                left,
                "the filesystem is full: some of the reserve was given back"
            );
        }
        *held = left;
        self.held_now.store(left, Ordering::Relaxed);
        true
    }

    fn fill_reserve(&self, wanted: u64) -> Result<bool> {
        let mut held = self.held.lock();
        let missing = wanted.saturating_sub(*held);
        // Beside all claims, and some more: else it would go to and fro.
        let free = self.storage.space()?.free;
        if missing == 0 || free < self.owed() + missing + missing / 4 {
            return Ok(false);
        }
        let path = Path::new(RESERVE_FILE);
        let file = match self.storage.open(path, Access::Cached) {
            Ok(file) => file,
            Err(e) if e.kind() == Kind::NotFound => self.storage.create(path, Access::Cached)?,
            Err(e) => return Err(e),
        };
        let made = file.set_len(wanted).and_then(|()| file.allocate(0, wanted)).and_then(|()| file.sync());
        match made {
            Ok(()) => {
                *held = wanted;
                self.held_now.store(wanted, Ordering::Relaxed);
                self.given.store(false, Ordering::Relaxed);
                self.storage.sync_dir(Path::new(""))?;
                Ok(true)
            }
            Err(e) if e.kind() == Kind::NoSpace => {
                // Somebody was quicker: what was held before stays.
                file.set_len(*held)?;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}

/// The accounts of a store: of the filesystem of its bases and of that of its journals, which may be the same.
#[derive(Clone)]
pub struct Rooms {
    /// Of the bases, the index and the catalog.
    pub store: Arc<Room>,
    /// Of the logs.
    pub journal: Arc<Room>,
}

impl Rooms {
    /// Accounts without a reserve.
    ///
    /// # Errors
    /// If a filesystem doesn't say which it is.
    pub fn new(store: &Arc<dyn Storage>, journal: &Arc<dyn Storage>) -> Result<Self> {
        let same = store.space()?.filesystem == journal.space()?.filesystem;
        let of_store = Room::new(store.clone());
        let journal = if same { of_store.clone() } else { Room::new(journal.clone()) };
        Ok(Self { store: of_store, journal })
    }

    /// Accounts of a tree that has both.
    pub fn of_one(tree: Arc<dyn Storage>) -> Self {
        let room = Room::new(tree);
        Self { store: room.clone(), journal: room }
    }

    /// Whether logs and bases are on one filesystem.
    pub fn is_one(&self) -> bool {
        Arc::ptr_eq(&self.store, &self.journal)
    }
}

/// A tree whose steps don't fail for want of room as long as there is a reserve: one that does is done again once
/// the reserve was given back. What guests cause asks [`Room`] before and so never gets here.
pub struct Reserved {
    below: Arc<dyn Storage>,
    room: Arc<Room>,
}

impl Reserved {
    /// A tree on the filesystem of these accounts.
    pub fn new(below: Arc<dyn Storage>, room: Arc<Room>) -> Self {
        Self { below, room }
    }

    fn file(&self, file: Arc<dyn File>, access: Access) -> Arc<dyn File> {
        Arc::new(ReservedFile { below: file, room: self.room.clone(), content: access == Access::Content })
    }
}

/// M2. `bytes`: what the step takes, beside what the filesystem needs for its own tables.
fn again<T>(room: &Room, bytes: u64, act: impl FnMut() -> Result<T>) -> Result<T> {
    again_for(room, bytes, false, act)
}

fn again_for<T>(room: &Room, bytes: u64, content: bool, mut act: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match act() {
            Err(e) if e.kind() == Kind::NoSpace && room.give_reserve(bytes, content) => {}
            done => return done,
        }
    }
}

impl Storage for Reserved {
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>> {
        self.below.open(path, access).map(|file| self.file(file, access))
    }

    fn create(&self, path: &Path, access: Access) -> Result<Arc<dyn File>> {
        again(&self.room, 0, || self.below.create(path, access)).map(|file| self.file(file, access))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        again(&self.room, 0, || self.below.rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        again(&self.room, 0, || self.below.remove(path))
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        again(&self.room, 0, || self.below.make_dir(path))
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.below.remove_dir(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        self.below.list(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        again(&self.room, 0, || self.below.sync_dir(path))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.below.exists(path)
    }

    fn take_in(&self, outside: &Path, to: &Path, how: TakeIn) -> Result<()> {
        again(&self.room, 0, || self.below.take_in(outside, to, how))
    }

    fn space(&self) -> Result<Space> {
        self.below.space()
    }

    fn shown(&self, path: &Path) -> String {
        self.below.shown(path)
    }
}

struct ReservedFile {
    below: Arc<dyn File>,
    room: Arc<Room>,
    content: bool,
}

impl ReservedFile {
    fn again<T>(&self, bytes: u64, act: impl FnMut() -> Result<T>) -> Result<T> {
        again_for(&self.room, bytes, self.content, act)
    }
}

impl File for ReservedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64, durability: Durability) -> Result<()> {
        self.again(bufs.iter().map(|b| b.len() as u64).sum(), || {
            self.below.write_at(bufs, offset, durability)
        })
    }

    fn sync(&self) -> Result<()> {
        // Never done again here: a second sync that succeeds proves nothing.
        self.below.sync()
    }

    fn len(&self) -> Result<u64> {
        self.below.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.again(0, || self.below.set_len(len))
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.again(len, || self.below.allocate(offset, len))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.again(0, || self.below.punch(offset, len))
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.again(0, || self.below.zero(offset, len))
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        self.below.next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.below.next_hole(offset)
    }

    fn allocated(&self) -> Result<u64> {
        self.below.allocated()
    }
}

/// The path of the reserve's file, for tools that account for every file of a store.
pub fn reserve_path() -> PathBuf {
    PathBuf::from(RESERVE_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::SimDevice;

    const MIB: u64 = 1 << 20;

    fn room(bytes: u64) -> (SimDevice, Arc<Room>, Reserved) {
        let device = SimDevice::new(1);
        device.set_room(bytes);
        let storage: Arc<dyn Storage> = Arc::new(device.storage("store"));
        let room = Room::new(storage.clone());
        (device, room.clone(), Reserved::new(storage, room))
    }

    #[test]
    fn claims_never_exceed_what_is_free() {
        let (_device, room, tree) = room(16 * MIB);
        assert!(room.claim(10 * MIB, 0).unwrap());
        assert!(!room.claim(7 * MIB, 0).unwrap());
        assert_eq!(room.owed(), 10 * MIB, "what was refused is not claimed");
        assert!(room.claim(6 * MIB, 0).unwrap());
        assert_eq!(room.check(1, false).unwrap_err().kind(), Kind::NoSpace);
        // What was claimed is written: no room comes back by that.
        let file = tree.create(Path::new("base"), Access::Cached).unwrap();
        file.allocate(0, 10 * MIB).unwrap();
        room.settle(10 * MIB);
        assert!(!room.claim(1, 0).unwrap());
        room.settle(6 * MIB);
        assert!(room.claim(6 * MIB, 0).unwrap());
    }

    #[test]
    fn what_must_not_fail_takes_nothing_that_is_claimed() {
        let (_device, room, tree) = room(64 * MIB);
        room.keep_reserve().unwrap();
        assert!(room.claim(60 * MIB, 0).unwrap());
        assert_eq!(room.check(3 * MIB, false).unwrap_err().kind(), Kind::NoSpace);
        room.check(3 * MIB, true).unwrap();
        tree.create(Path::new("segment"), Access::Cached).unwrap().allocate(0, 3 * MIB).unwrap();
        assert!(room.essential().unwrap() >= MIB - 4096);
        assert_eq!(room.check(2 * MIB, true).unwrap_err().kind(), Kind::NoSpace);
        // Content gets half of the reserve at most, and needs none of it.
        tree.create(Path::new("base"), Access::Content).unwrap().allocate(0, 60 * MIB).unwrap();
    }

    #[test]
    fn the_reserve_lets_a_step_through_and_comes_back() {
        let (device, room, tree) = room(64 * MIB);
        room.keep_reserve().unwrap();
        assert_eq!(room.refresh().unwrap(), 60 * MIB, "a sixteenth");
        let others = device.storage("others");
        let file = others.create(Path::new("x"), Access::Cached).unwrap();
        file.allocate(0, 60 * MIB).unwrap();
        assert_eq!(room.refresh().unwrap(), 0);
        assert!(!room.claim(4096, 0).unwrap());
        assert_eq!(room.essential().unwrap(), 4 * MIB);
        // Somebody else has filled the filesystem: a checkpoint still goes through.
        let small = tree.create(Path::new("checkpoint"), Access::Cached).unwrap();
        small.write_all_at(&[1; 4096], 0).unwrap();
        assert!(!room.claim(4096, 0).unwrap(), "what is left of the reserve is nobody's");
        assert_eq!(room.essential().unwrap(), 4 * MIB - 4096, "and it didn't go as a whole");
        assert_eq!(file.allocate(60 * MIB, MIB).unwrap_err().kind(), Kind::NoSpace, "others don't get it");
        // Content gets half of it.
        let image = tree.create(Path::new("base"), Access::Content).unwrap();
        assert_eq!(image.allocate(0, 3 * MIB).unwrap_err().kind(), Kind::NoSpace);
        image.allocate(0, MIB).unwrap();
        image.allocate(MIB, MIB - 4096).unwrap();
        tree.remove(Path::new("base")).unwrap();
        // All of it can be had, step by step.
        let large = tree.create(Path::new("fence"), Access::Cached).unwrap();
        large.allocate(0, 3 * MIB).unwrap();
        large.allocate(3 * MIB, MIB - 8192).unwrap();
        assert_eq!(large.allocate(4 * MIB, MIB).unwrap_err().kind(), Kind::NoSpace);
        others.remove(Path::new("x")).unwrap();
        drop(file);
        assert!(room.refresh().unwrap() > 50 * MIB);
        assert_eq!(tree.open(Path::new(RESERVE_FILE), Access::Cached).unwrap().len().unwrap(), 4 * MIB);
    }
}
