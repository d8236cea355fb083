//! One round: the writes that bring a base from one moment to a later one, in the order of their offsets.
//!
//! R1. Ranges come in rising order and don't overlap, so that each byte is written once.
//! R2. A round is durable when all its syncs have succeeded, the last one after its last write, and nothing is owed
//!     (B3). Any other end, an error and dropping it included, leaves all that it touched owed.
//! R3. Nothing is written behind the length that the image has at the round's moment.
//! R4. A zero takes no room that the base doesn't have: what is a hole stays one. So only data is debt.
//! R5. A round that is done again believes no hole: after a failed sync it may be one in the cache only. So
//!     there a zero punches what it would have left alone.
//! R6. A round syncs on its way, so that no more than a step of its data waits in the page cache: who syncs a line of the
//!     history beside it waits for a step of a base, and not for all of it.

use crate::base::file::BaseFile;
use crate::base::ranges::Ranges;
use crate::journal::left_out;
use crate::vocab::{Error, Kind, Result};

/// Longest write, in bytes. Writes end at multiples of it.
pub(super) const WRITE_MAX: u64 = 1 << 20;
/// Longest punch, in bytes: the time that a filesystem spends in one must stay short.
pub(super) const PUNCH_MAX: u64 = 1 << 30;

/// R6: bytes of data between two syncs.
pub(super) const SYNC_BYTES: u64 = 16 << 20;

/// A round under way. Ends by [`Round::finish`].
#[derive(Debug)]
pub struct Round<'a> {
    base: &'a BaseFile,
    len: u64,
    /// The end of the last range.
    at: u64,
    pending: Pending,
    touched: Ranges,
    written: Written,
    /// R6: bytes that were written since the last sync.
    unsynced: u64,
    /// The first sync that failed: there is no use in another one.
    failed: Option<Error>,
    is_repeat: bool,
    is_over: bool,
}

/// What a round did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Bytes of data.
    pub data: u64,
    /// Write calls that they took.
    pub writes: u64,
    /// Bytes that were zeroed, holes among them.
    pub zeroed: u64,
    /// Bytes that were punched.
    pub punched: u64,
}

/// How a round ended.
#[derive(Debug)]
#[must_use]
pub enum Finished {
    /// The base is durable at the round's moment: the checkpoint may say so.
    Durable(Written),
    /// The base isn't durable, whatever a later sync says: the whole round, from the moment where the base
    /// stood before, has to be written again.
    WriteAgain(Error),
}

/// A run of the same kind, not yet written.
#[derive(Debug)]
enum Pending {
    None,
    Data { offset: u64, bytes: Vec<u8> },
    Zero { offset: u64, len: u64 },
    Punch { offset: u64, len: u64 },
}

impl<'a> Round<'a> {
    pub(super) fn new(base: &'a BaseFile, len: u64, is_repeat: bool) -> Self {
        let (touched, written) = Default::default();
        let is_repeat = is_repeat && !left_out("R5: a round that is done again believes no hole");
        let (pending, is_over) = (Pending::None, false);
        Self { base, len, at: 0, pending, touched, written, unsynced: 0, failed: None, is_repeat, is_over }
    }

    pub(super) fn resize(&mut self) -> Result<()> {
        if self.base.file.len()? != self.len {
            self.base.file.set_len(self.len)?;
        }
        Ok(())
    }

    /// The next range holds these bytes.
    pub fn data(&mut self, mut offset: u64, mut data: &[u8]) -> Result<()> {
        if !data.is_empty() && offset.saturating_add(data.len() as u64) > self.len {
            return Err(
                self.invalid(format!("data behind the end of an image of {} bytes", self.len), offset)
            );
        }
        self.take(offset, data.len() as u64)?;
        self.written.data += data.len() as u64;
        while !data.is_empty() {
            let step = (WRITE_MAX - offset % WRITE_MAX).min(data.len() as u64);
            let (part, rest) = data.split_at(step as usize);
            match &mut self.pending {
                Pending::Data { offset: start, bytes } if *start + bytes.len() as u64 == offset => {
                    bytes.extend_from_slice(part);
                }
                // Whole as it comes: not worth a copy.
                _ if step == WRITE_MAX => {
                    self.flush()?;
                    self.write(part, offset)?;
                }
                _ => {
                    self.flush()?;
                    self.pending = Pending::Data { offset, bytes: part.to_vec() };
                }
            }
            offset += step;
            data = rest;
            if offset.is_multiple_of(WRITE_MAX) {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// The next range reads as zeros; the room that it has stays.
    pub fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        let len = self.clip(offset, len);
        self.take(offset, len)?;
        self.written.zeroed += len;
        match &mut self.pending {
            Pending::Zero { offset: start, len: before } if *start + *before == offset => *before += len,
            _ => {
                self.flush()?;
                self.pending = Pending::Zero { offset, len };
            }
        }
        Ok(())
    }

    /// The next range reads as zeros, and its room is given back. One call of up to 1 GiB takes a short time;
    /// a caller that has to yield cuts longer ranges into such.
    pub fn discard(&mut self, offset: u64, len: u64) -> Result<()> {
        let len = self.clip(offset, len);
        self.take(offset, len)?;
        self.written.punched += len;
        match &mut self.pending {
            Pending::Punch { offset: start, len: before } if *start + *before == offset => *before += len,
            _ => {
                self.flush()?;
                self.pending = Pending::Punch { offset, len };
            }
        }
        // Joined pieces may free a block that neither would have; but not more than one step waits.
        if matches!(self.pending, Pending::Punch { len, .. } if len >= PUNCH_MAX) {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is left and syncs.
    pub fn finish(mut self) -> Result<Finished> {
        self.flush()?;
        self.is_over = true;
        if left_out("R2: a round ends with a sync") {
            self.base.end_round(&self.touched, true);
            return Ok(Finished::Durable(self.written));
        }
        self.sync();
        if let Some(error) = self.failed.take() {
            self.base.end_round(&self.touched, false);
            return Ok(Finished::WriteAgain(error));
        }
        let owed = self.base.still_owed(&self.touched, self.len);
        self.base.end_round(&self.touched, owed == 0);
        if owed > 0 {
            let what = format!("{owed} bytes of an earlier round that failed were not written again");
            return Ok(Finished::WriteAgain(Error::new(Kind::Poisoned, what).at(self.base.path())));
        }
        Ok(Finished::Durable(self.written))
    }

    fn invalid(&self, what: String, offset: u64) -> Error {
        Error::new(Kind::Invalid, what).at(self.base.path()).offset(offset)
    }

    fn clip(&self, offset: u64, len: u64) -> u64 {
        len.min(self.len.saturating_sub(offset))
    }

    fn take(&mut self, offset: u64, len: u64) -> Result<()> {
        if offset < self.at && len > 0 {
            return Err(self.invalid(format!("a round went back from {}", self.at), offset));
        }
        self.at = self.at.max(offset + len);
        self.touched.push(offset, len);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.written.writes += 1;
        self.base.file.write_all_at(bytes, offset)?;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.sync();
        }
        Ok(())
    }

    fn sync(&mut self) {
        self.unsynced = 0;
        if self.failed.is_none() {
            self.failed = self.base.file.sync().err();
        }
    }

    fn flush(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.pending, Pending::None) {
            Pending::None => Ok(()),
            Pending::Data { offset, bytes } => self.write(&bytes, offset),
            Pending::Zero { offset, len } => self.zero_data(offset, offset + len),
            Pending::Punch { offset, len } => {
                steps(offset, offset + len, |at, step| self.base.file.punch(at, step))
            }
        }
    }

    fn zero_data(&self, mut at: u64, end: u64) -> Result<()> {
        let file = &self.base.file;
        while at < end {
            let data = file.next_data(at)?.map_or(end, |data| data.clamp(at, end));
            if self.is_repeat {
                steps(at, data, |at, step| file.punch(at, step))?;
            }
            if data == end {
                break;
            }
            let stop = file.next_hole(data)?.unwrap_or(end).clamp(data + 1, end);
            steps(data, stop, |at, step| file.zero(at, step))?;
            at = stop;
        }
        Ok(())
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.base.end_round(&self.touched, false);
        }
    }
}

fn steps(mut at: u64, end: u64, mut act: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
    while at < end {
        let step = (end - at).min(PUNCH_MAX);
        act(at, step)?;
        at += step;
    }
    Ok(())
}
