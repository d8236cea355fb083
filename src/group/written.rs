//! What was written between two moments of a line, counted from the records themselves.
//!
//! B1. A figure is what the records say, payload by payload; places in a log say nothing of it: batches have tables and
//!     gaps, segments have empty ends, and where a copy led to a moment there is no record at all.
//! B2. What isn't held, lies behind a jump, or would take too long to count is unknown, not less.

use crate::group::Group;
use crate::vocab::{Kind, Moment, Pos, RecordKind, Result};

impl Group {
    /// Bytes that guests wrote behind `after` up to `upto`, where that can be counted by looking at no more batches than
    /// `batches`, which are used up.
    pub fn written_between(&self, after: Moment, upto: Moment, batches: &mut usize) -> Result<Option<u64>> {
        let mut bytes = 0;
        let mut at = self.table().norm(after)?;
        let upto = self.table().norm(upto)?;
        while at != upto {
            let Some((next, more)) = self.written_in_epoch(at, upto, batches)? else { return Ok(None) };
            (at, bytes) = (next, bytes + more);
        }
        Ok(Some(bytes))
    }

    /// Of the records of one epoch behind a moment: the last of them, and their bytes.
    fn written_in_epoch(
        &self,
        after: Moment,
        upto: Moment,
        batches: &mut usize,
    ) -> Result<Option<(Moment, u64)>> {
        let Some((epoch, last, stretch)) = self.stretch_behind(after, upto)? else { return Ok(None) };
        let first = after.seq.next();
        let Some(row) = self.index.batch_of_seq(stretch, first)? else { return Ok(None) };
        let (mut pos, mut bytes, mut seen): (Pos, u64, _) = (row.pos, 0, after.seq);
        while seen < last {
            let Some(left) = batches.checked_sub(1) else { return Ok(None) };
            *batches = left;
            let batch = match self.log.batch_at(pos) {
                Ok(Some(batch)) if batch.epoch == epoch => batch,
                Ok(_) => break,
                Err(e) if e.kind() == Kind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            };
            let mine = |seq| seq >= first && seq <= last;
            for e in batch.records.iter().map(|r| &r.entry).filter(|e| e.kind.has_seq() && mine(e.seq)) {
                if e.seq != seen.next() {
                    return Ok(None);
                }
                bytes += if e.kind == RecordKind::Write { e.length } else { 0 };
                seen = e.seq;
            }
            pos = batch.end();
        }
        // A span that ends before the epoch's records do: what follows lies in another, or behind a jump.
        Ok((seen > after.seq).then_some((Moment { epoch, seq: seen }, bytes)))
    }
}
