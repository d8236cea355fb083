//! A log goes on after a failed sync or append, if nothing is missing.
//!
//! J11. Only what was read again past the page cache, after a sync that succeeded, counts as durable; and it goes on
//!      in a new segment, so that what a failed append may have left behind is void (J6).

use crate::format::BLOCK;
use crate::journal::left_out;
use crate::journal::log::Log;
use crate::journal::read::decode_batch;
use crate::journal::segment::Segment;
use crate::vocab::{Codec, Pos, Result};

/// What [`Log::mend`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// Nothing was wrong, or everything is there: the log goes on.
    Whole,
    /// Records are not on the medium, or nobody knows: the log stays stopped until it is recovered.
    Missing,
}

impl Log {
    /// J11. To be called when nothing appends.
    ///
    /// # Errors
    /// What the device says: it still fails, and the log stays stopped.
    pub fn mend(&self) -> Result<Mended> {
        let _appender = self.appender.lock();
        let (segment, torn) = {
            let state = self.state.lock();
            if state.poisoned.is_none() {
                return Ok(Mended::Whole);
            }
            (state.last.and_then(|at| state.segments.get(&at)).cloned(), state.torn)
        };
        if let Some(segment) = &segment {
            segment.sync_anew()?;
            let believed = left_out("J11: what was not synced is read again");
            if !believed && (torn || self.read_again(segment)? < segment.end()) {
                return Ok(Mended::Missing);
            }
            self.raise_durable(segment.end());
        }
        let mut state = self.state.lock();
        let why = state.poisoned.take();
        let mut closed = self.close_open(&mut state);
        if state.left_behind && !left_out("J11: what a failed append left is void") {
            // The header of the next segment says where this one was cut.
            closed = closed.and_then(|()| self.open_next(&mut state, BLOCK));
        }
        if closed.is_err() {
            state.poisoned = why;
        } else {
            state.left_behind = false;
        }
        closed.map(|()| Mended::Whole)
    }

    /// The place up to which everything is on the medium.
    fn read_again(&self, segment: &Segment) -> Result<Pos> {
        let mut at = self.durable().max(segment.fixed.first_batch());
        let mut link = None;
        while at < segment.end() {
            let read = |pos: Pos, buf: &mut [u8]| segment.read_medium(pos, buf);
            let Some(batch) = decode_batch(segment, at, read)? else { break };
            if link.is_some_and(|crc| crc != batch.header.link) {
                break;
            }
            for r in batch.records.iter().filter(|r| r.entry.codec == Codec::Plain && r.entry.stored > 0) {
                let mut payload = vec![0; r.entry.stored as usize];
                segment.read_medium(batch.place(r), &mut payload)?;
                if crc32c::crc32c(&payload) != r.entry.crc {
                    return Ok(at);
                }
            }
            link = Some(batch.header.crc);
            at = batch.end();
        }
        Ok(at)
    }
}
