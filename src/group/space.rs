//! Room for what is written, asked for before it is taken.
//!
//! B1. A write is admitted only if the base can take it later: the room that the base lacks for it is claimed
//!     from the filesystem first, once for each granule of 64 KiB. What isn't admitted gets ENOSPC and leaves nothing
//!     behind. What needs no room in the base (discards, zeroes, sizes) is admitted as long as the journal has
//!     room, its share of the reserve included.
//! B2. A claim ends when a round has written the granule; a round that gives room back claims what may be written
//!     there again, before it does.
//! B3. Until all that the journal holds was counted once after an opening, the journal's length is claimed for it.
//! B4. What was admitted while it was counted, or had not entered when the count began, stays claimed, whether the
//!     count has seen it or not. If nobody was on the way into the index, nothing stays claimed but what was counted.
//! B5. Bases leave the journal two segments on a filesystem that they share: overwrites go on where no new granule can.
//! B6. What may be claimed and not owed is known as stale, and is counted again as soon as it makes a difference.
//! B7. A write is admitted only if the journal has room left then for what must always be possible (J12).

use crate::base::{BaseFile, Debt};
use crate::group::content::{Below, overlaid};
use crate::group::pace::Pace;
use crate::group::queue::Op;
use crate::group::{Group, left_out};
use crate::seam::Room;
use crate::vocab::{DiskOrdinal, Error, Kind, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Segments that bases leave to the journal.
const SEGMENTS_KEPT: u64 = 2;
/// Count again if a round has made more than this share of what is left look owed.
const STALE_SHARE: u64 = 16;

/// What one group has claimed.
pub(crate) struct Space {
    room: Arc<Room>,
    debts: Mutex<Debts>,
    pub(crate) pace: Pace,
    /// The group takes more than its allowance: nothing that brings bytes is admitted.
    over: AtomicBool,
    /// A writer was refused: do now what frees room.
    pressed: AtomicBool,
    refused: AtomicU64,
    /// Writes between their claim and the index, or the queue in front of it.
    entering: AtomicU64,
}

/// A write on its way from its claim into the index (B4).
pub(crate) struct Entering<'a>(&'a AtomicU64);

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct Debts {
    disks: BTreeMap<DiskOrdinal, DiskDebt>,
    /// All of it.
    claimed: u64,
    /// B3.
    carried: u64,
    counted: bool,
    /// B6, in bytes.
    stale: u64,
    /// Claims ever made.
    claims: u64,
}

struct DiskDebt {
    debt: Debt,
    /// B4: since the last count, and since the one before.
    recent: [Debt; 2],
}

impl DiskDebt {
    fn new(size: u64) -> Self {
        Self { debt: Debt::new(size), recent: [Debt::new(size), Debt::new(size)] }
    }
}

/// What a round did to the room of one base.
#[derive(Default)]
pub(crate) struct Moved {
    written: Vec<(u64, u64)>,
}

impl Moved {
    /// Data was written here; ranges that touch are one.
    pub(crate) fn data(&mut self, offset: u64, len: u64) {
        match self.written.last_mut() {
            Some((at, before)) if *at + *before >= offset => *before = offset + len - *at,
            _ => self.written.push((offset, len)),
        }
    }
}

impl Space {
    pub(crate) fn new(room: Arc<Room>, carried: u64) -> Self {
        room.owe(carried);
        let debts = Debts { carried, claimed: carried, counted: carried == 0, ..Debts::default() };
        Self {
            room,
            debts: Mutex::new(debts),
            pace: Pace::new(),
            over: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            entering: AtomicU64::new(0),
        }
    }

    /// To be held from before the claim until the write is in the index, or waits for somebody who brings it there.
    pub(crate) fn entering(&self) -> Entering<'_> {
        self.entering.fetch_add(1, Ordering::AcqRel);
        Entering(&self.entering)
    }

    /// Whether nothing that brings bytes is admitted.
    pub(crate) fn set_over(&self, over: bool) {
        self.over.store(over, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Whether a writer was refused since [`Space::take_pressed`].
    pub(crate) fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Acquire)
    }

    /// What frees room is being done.
    pub(crate) fn take_pressed(&self) {
        self.pressed.store(false, Ordering::Release);
    }

    fn refuse(&self, error: Error) -> Error {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.pressed.store(true, Ordering::Release);
        error
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.room.settle(self.debts.get_mut().claimed);
    }
}

impl Debts {
    fn change(&mut self, room: &Room, before: u64, after: u64) {
        if after >= before {
            room.owe(after - before);
            self.claimed += after - before;
        } else {
            room.settle(before - after);
            self.claimed -= before - after;
        }
    }
}

impl Group {
    /// B1. Nothing has entered the queue yet.
    ///
    /// # Errors
    /// `NoSpace`: the guest is paused, and goes on once there is room.
    pub(crate) fn admit(&self, disk: DiskOrdinal, op: &Op<'_>) -> Result<()> {
        if left_out("B1: room is claimed before a write enters") {
            return Ok(());
        }
        let (offset, len) = match *op {
            Op::Write { offset, data } if !data.is_empty() => (offset, data.len() as u64),
            _ => return Ok(()),
        };
        let space = &self.space;
        if space.over.load(Ordering::Acquire) {
            let what = "the group's journal has reached its allowance";
            return Err(space.refuse(Error::new(Kind::NoSpace, what).advice(
                "`commit` or `drop` frees room; `allowance` in `policy` sets how much the group may take",
            )));
        }
        // B1, then B7.
        self.claim(disk, offset, len)
            .and_then(|()| self.log.check_room(len))
            .map_err(|e| if e.kind() == Kind::NoSpace { space.refuse(e) } else { e })
    }

    fn claim(&self, disk: DiskOrdinal, offset: u64, len: u64) -> Result<()> {
        let base = Below(self.live.read().files.get(&disk).and_then(|f| f.base.clone()));
        let end = offset.saturating_add(len);
        let mut debts = self.space.debts.lock();
        if !debts.disks.contains_key(&disk) {
            drop(debts);
            let size = self.names_now(|names| names.files.get(&disk).map_or(0, |f| f.size));
            debts = self.space.debts.lock();
            debts.disks.entry(disk).or_insert_with(|| DiskDebt::new(size));
        }
        let Some(of_disk) = debts.disks.get_mut(&disk) else { return Ok(()) };
        if of_disk.debt.live_len() < end {
            of_disk.debt.set_len(end);
            of_disk.recent.iter_mut().for_each(|recent| recent.set_len(end));
        }
        let more = of_disk.debt.asks(offset, len, &base)?;
        // B5.
        let beside = if self.parts.rooms.is_one() { SEGMENTS_KEPT * self.log.segment_bytes_min() } else { 0 };
        if more > 0 && !self.space.room.claim(more, beside)? {
            let what = format!("the base needs {more} bytes more, and the filesystem has none to spare");
            return Err(Error::new(Kind::NoSpace, what)
                .at(self.parts.store.shown(&self.base_path(disk)))
                .advice("Free room on the store's filesystem or make it larger; `commit` and `drop` free journals"));
        }
        if more > 0 {
            of_disk.debt.append(offset, len, &base)?;
        }
        // B4, also of what was owed already: a discard that lies before this write would let a count forget it.
        of_disk.recent[0].mark_owed(&of_disk.debt, offset, len);
        debts.claimed += more;
        debts.claims += 1;
        Ok(())
    }

    /// B2, before a range of the base gives its room back.
    pub(crate) fn will_be_empty(&self, disk: DiskOrdinal, offset: u64, len: u64) {
        let mut debts = self.space.debts.lock();
        let Some(of_disk) = debts.disks.get_mut(&disk) else { return };
        let before = of_disk.debt.bytes();
        of_disk.debt.emptied(offset, len);
        let after = of_disk.debt.bytes();
        // What was written there and is zeros by now is owed no longer, but only a count can tell.
        debts.stale += of_disk.debt.bytes_within(offset, len);
        debts.change(&self.space.room, before, after);
    }

    /// B2, after the base is durable.
    pub(crate) fn room_taken(&self, disk: DiskOrdinal, base: &BaseFile, moved: &Moved) -> Result<()> {
        let mut debts = self.space.debts.lock();
        let Some(of_disk) = debts.disks.get_mut(&disk) else { return Ok(()) };
        let before = of_disk.debt.bytes();
        for (offset, len) in &moved.written {
            of_disk.debt.written(*offset, *len, base)?;
            for recent in &mut of_disk.recent {
                recent.written(*offset, *len, base)?;
            }
        }
        let after = of_disk.debt.bytes();
        // A granule that still has a hole is owed only if more is journaled for it.
        let partly: u64 = moved.written.iter().map(|(at, len)| of_disk.debt.bytes_within(*at, *len)).sum();
        debts.stale += partly;
        debts.change(&self.space.room, before, after);
        Ok(())
    }

    /// The file is gone for ever, with its base.
    pub(crate) fn room_given(&self, disk: DiskOrdinal) {
        let mut debts = self.space.debts.lock();
        if let Some(gone) = debts.disks.remove(&disk) {
            debts.change(&self.space.room, gone.debt.bytes(), 0);
        }
    }

    /// Counts again what the journal holds and the bases lack, if that is due: once after an opening, and when what
    /// rounds gave back makes a difference. The caller holds `rounds` and `work`: no base moves
    /// meanwhile.
    pub(crate) fn count_room(&self) -> Result<()> {
        {
            let debts = self.space.debts.lock();
            if debts.counted && debts.stale <= self.space.room.slack() / STALE_SHARE {
                return Ok(());
            }
        }
        self.forget_entered();
        let sizes: Vec<(DiskOrdinal, u64)> =
            self.names_now(|names| names.files.iter().map(|(disk, f)| (*disk, f.size)).collect());
        let live = self.live.read().clone();
        let mut found = BTreeMap::new();
        for (disk, size) in sizes {
            let file = live.files.get(&disk);
            let path = file.map_or(&live.path, |f| &f.path);
            let base = Below(file.and_then(|f| f.base.clone()));
            let journaled = self.index.scan(path, disk, 0, size)?.filter_map(overlaid);
            found.insert(disk, Debt::of(journaled, &base, size)?);
        }
        let mut debts = self.space.debts.lock();
        let mut uncounted = 0;
        for (disk, mut debt) in found {
            let of_disk = debts.disks.entry(disk).or_insert_with(|| DiskDebt::new(0));
            let before = of_disk.debt.bytes();
            let counted = debt.bytes();
            for recent in &of_disk.recent {
                debt.join(recent);
            }
            let size = debt.live_len();
            let after = debt.bytes();
            uncounted += after - counted;
            let [newest, _] = std::mem::replace(&mut of_disk.recent, [Debt::new(size), Debt::new(size)]);
            of_disk.recent[1] = newest;
            of_disk.debt = debt;
            debts.change(&self.space.room, before, after);
        }
        let carried = std::mem::take(&mut debts.carried);
        debts.change(&self.space.room, carried, 0);
        (debts.counted, debts.stale) = (true, uncounted);
        Ok(())
    }

    /// B4: all that was ever claimed is in the index, or has failed, if nobody is on the way there and no claim was made
    /// while that was looked at.
    fn forget_entered(&self) {
        if left_out("B4: what has entered is forgotten") {
            return;
        }
        let claims = self.space.debts.lock().claims;
        if self.space.entering.load(Ordering::Acquire) > 0 {
            return;
        }
        let idle = {
            let queue = self.queue.lock();
            !queue.appending && queue.pending.is_empty()
        };
        let mut debts = self.space.debts.lock();
        if !idle || debts.claims != claims {
            return;
        }
        for of_disk in debts.disks.values_mut() {
            let size = of_disk.debt.live_len();
            of_disk.recent = [Debt::new(size), Debt::new(size)];
        }
    }

    /// Bytes that the bases lack for what the journal holds.
    pub fn debt(&self) -> u64 {
        self.space.debts.lock().claimed
    }

    /// Writes refused for want of room since the group was opened.
    pub fn refused(&self) -> u64 {
        self.space.refused.load(Ordering::Relaxed)
    }
}
