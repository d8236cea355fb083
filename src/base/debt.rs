//! How much room the base will still take: for the reserve of free space, and for `st_blocks`.
//!
//! 1. The debt is never less than what destaging all journaled data can allocate: each granule of 64 KiB with
//!    journaled data counts whole unless the base has all of it.
//! 2. A granule counts once, however often it is written.

use crate::base::granules::Granules;
use crate::base::holes::{Holes, Overlaid};
use crate::index::Content;
use crate::vocab::{GRANULE, Result};
use std::ops::Range;

/// Granule of the debt, in bytes.
pub const DEBT_GRANULE: u64 = 64 << 10;

/// The debt of one file, kept up with each append and each round.
#[derive(Clone, Debug)]
pub struct Debt {
    /// Length of the live file: behind it nothing is missing.
    len: u64,
    /// Granules that have journaled data and not all of their room in the base.
    owed: Granules,
    /// Granules of which the base has all: nobody need ask again.
    paid: Granules,
}

impl Debt {
    /// No debt, for a live file of `len` bytes.
    pub fn new(len: u64) -> Self {
        Self { len, owed: Granules::default(), paid: Granules::default() }
    }

    /// The debt of these journaled ranges of a live file of `len` bytes.
    pub fn of(
        journaled: impl IntoIterator<Item = Result<Overlaid>>,
        base: &impl Holes,
        len: u64,
    ) -> Result<Self> {
        let mut debt = Self::new(len);
        for range in journaled {
            let range = range?;
            if range.content == Content::Data {
                debt.append(range.offset, range.len, base)?;
            }
        }
        Ok(debt)
    }

    /// The live file has another length. What was journaled behind it is void.
    pub fn set_len(&mut self, len: u64) {
        let end = self.len.min(len) / DEBT_GRANULE;
        self.paid.remove(end..u64::MAX);
        self.owed.remove(len.div_ceil(DEBT_GRANULE)..u64::MAX);
        self.len = len;
    }

    /// Length of the live file.
    pub fn live_len(&self) -> u64 {
        self.len
    }

    /// Bytes that are owed within a range.
    pub fn bytes_within(&self, offset: u64, len: u64) -> u64 {
        self.owed.within(touched(offset, len, DEBT_GRANULE)).count() as u64 * DEBT_GRANULE
    }

    /// What another count says is owed within a range is owed here too.
    pub fn mark_owed(&mut self, other: &Self, offset: u64, len: u64) {
        for number in touched(offset, len, DEBT_GRANULE).filter(|number| other.owed.contains(*number)) {
            self.owed.insert(number);
        }
    }

    /// What another count says is owed is owed here too.
    pub fn join(&mut self, other: &Self) {
        for number in other.owed.within(0..u64::MAX) {
            self.owed.insert(number);
            self.paid.remove(number..number + 1);
        }
        self.len = self.len.max(other.len);
    }

    /// Bytes of room that are owed.
    pub fn bytes(&self) -> u64 {
        self.owed.count() * DEBT_GRANULE
    }

    /// Bytes by which an append of data at this range would raise the debt. Asks the base about granules that
    /// are seen for the first time.
    pub fn asks(&mut self, offset: u64, len: u64, base: &impl Holes) -> Result<u64> {
        let mut count = 0;
        for number in touched(offset, len, DEBT_GRANULE) {
            count += u64::from(!self.owed.contains(number) && !self.is_paid(number, base)?);
        }
        Ok(count * DEBT_GRANULE)
    }

    /// Data was appended to the journal. Returns the bytes by which the debt rose.
    pub fn append(&mut self, offset: u64, len: u64, base: &impl Holes) -> Result<u64> {
        let before = self.bytes();
        for number in touched(offset, len, DEBT_GRANULE) {
            if !self.owed.contains(number) && !self.is_paid(number, base)? {
                self.owed.insert(number);
            }
        }
        Ok(self.bytes() - before)
    }

    /// A round has written data to this range. A granule that still has a hole stays owed: more data may be
    /// journaled for it.
    pub fn written(&mut self, offset: u64, len: u64, base: &impl Holes) -> Result<()> {
        let touched = touched(offset, len, DEBT_GRANULE);
        let owed: Vec<u64> = self.owed.within(touched).collect();
        for number in owed {
            if self.is_paid(number, base)? {
                self.owed.remove(number..number + 1);
            }
        }
        Ok(())
    }

    /// A round has punched or zeroed this range. Data journaled later may lie in any granule that was known:
    /// each of them is owed now, until [`Self::of`] counts again. What was zeroed has its room still, but
    /// filesystems call it a hole, and some that don't overwrite in place have given it away.
    pub fn emptied(&mut self, offset: u64, len: u64) {
        let touched = touched(offset, len, DEBT_GRANULE);
        let known: Vec<u64> = self.paid.within(touched.clone()).collect();
        self.paid.remove(touched);
        known.into_iter().for_each(|number| {
            self.owed.insert(number);
        });
    }

    fn is_paid(&mut self, number: u64, base: &impl Holes) -> Result<bool> {
        if self.paid.contains(number) {
            return Ok(true);
        }
        let start = number * DEBT_GRANULE;
        let len = self.len.saturating_sub(start).min(DEBT_GRANULE);
        let paid = len > 0 && !base.has_hole(start, len)?;
        if paid {
            self.paid.insert(number);
        }
        Ok(paid)
    }
}

/// Bytes in 4 KiB granules that hold journaled data and are holes in the base: with the room that the base
/// takes, what `st_blocks` of a live file says. `journaled`: in order, apart from each other.
pub fn unallocated(journaled: impl IntoIterator<Item = Result<Overlaid>>, base: &impl Holes) -> Result<u64> {
    let mut bytes = 0;
    // Granules before this one are counted.
    let mut counted = 0;
    for range in journaled {
        let range = range?;
        if range.content != Content::Data {
            continue;
        }
        let granules = touched(range.offset, range.len, GRANULE);
        let (mut at, end) = ((granules.start * GRANULE).max(counted), granules.end * GRANULE);
        while at < end {
            match base.next_data(at)?.map_or(end, |data| (data - data % GRANULE).min(end)) {
                hole_end if hole_end > at => {
                    bytes += hole_end - at;
                    at = hole_end;
                }
                // A granule with some data in the base is allocated there.
                _ => {
                    let hole = base.next_hole(at)?.unwrap_or(end);
                    at = hole.max(at + 1).next_multiple_of(GRANULE).min(end);
                }
            }
        }
        counted = counted.max(end);
    }
    Ok(bytes)
}

/// What [`unallocated`] would say of a file of `len` bytes, by what it says of the bytes before `looked`: the rest is taken to be as
/// dense. Never nothing: to archivers no blocks mean no data.
pub fn unallocated_about(bytes: u64, looked: u64, len: u64) -> u64 {
    let all = u128::from(bytes) * u128::from(len) / u128::from(looked.max(1));
    all.min(u128::from(len)).max(u128::from(bytes.max(GRANULE))) as u64
}

fn touched(offset: u64, len: u64, granule: u64) -> Range<u64> {
    if len == 0 { 0..0 } else { offset / granule..(offset + len).div_ceil(granule) }
}
