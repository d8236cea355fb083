//! The files of segments: made with all their room and zero-filled once, used again, and never more than the
//! filesystem has beside what is claimed (J10), with room left for what must always be possible (J12).

use crate::journal::left_out;
use crate::journal::log::{Log, State};
use crate::journal::segment::FIRST_BATCH;
use crate::seam::{Access, AlignedBuf, Durability};
use crate::vocab::{Error, Kind, Result};
use std::io::IoSlice;
use std::sync::atomic::Ordering;

/// Below this much room a call that brings bytes asks what it leaves (J12), in bytes.
const TIGHT_BYTES: u64 = 256 << 20;

impl Log {
    /// J10 and J12: files for batches of these lengths, before the first of them is written.
    pub(crate) fn make_room(
        &self,
        state: &mut State,
        lengths: impl IntoIterator<Item = u64>,
        essential: bool,
    ) -> Result<()> {
        let open = state.open.and_then(|at| state.segments.get(&at)).filter(|_| !state.ends);
        let mut left = open.map_or(0, |s| s.fixed.start.0 + s.fixed.bytes - s.end().0);
        let mut spare: Vec<u64> = state.free.iter().map(|(_, bytes)| *bytes).collect();
        for length in lengths {
            if left < length {
                let fits = |bytes: &u64| *bytes >= FIRST_BATCH + length;
                left = match spare.iter().position(fits) {
                    Some(at) => spare.swap_remove(at),
                    None => {
                        let made = self.make_file(state, length, essential)?;
                        let bytes = made.1;
                        state.free.push(made);
                        bytes
                    }
                } - FIRST_BATCH;
            }
            left -= length;
        }
        if essential { Ok(()) } else { self.leaves_segment(left, !spare.is_empty(), 0) }
    }

    /// J12, of a call that leaves so much in its last segment, beside files that are ready, and takes so much of what is
    /// free.
    fn leaves_segment(&self, left: u64, is_ready: bool, takes: u64) -> Result<()> {
        let (room, segment) = (&self.parts.room, self.parts.segment_bytes.0);
        if left >= segment / 2
            || is_ready
            || room.slack() >= TIGHT_BYTES
            || left_out("J12: a segment is left")
        {
            return Ok(());
        }
        if room.essential()?.saturating_sub(takes) >= segment {
            return Ok(());
        }
        Err(Error::new(Kind::NoSpace, "what room the journal has is kept for discards and operations")
            .at(self.parts.storage.shown(&self.parts.dir))
            .advice("Free room on this filesystem or make it larger; `commit` and `drop` free journals"))
    }

    fn wanted(&self, state: &State) -> u64 {
        let (small, large) = self.parts.segment_bytes;
        let most = large.min(self.segment_max.load(Ordering::Relaxed));
        if state.large { (most - most % small).max(small) } else { small }
    }

    /// Segments that fill fast are at most so long.
    pub fn set_segment_max(&self, bytes: u64) {
        self.segment_max.store(bytes, Ordering::Relaxed);
    }

    /// Gives the room of files back that are ready and not in use. Says how much.
    pub fn drop_spare(&self) -> Result<u64> {
        // An append has its files ready before it begins (J10).
        let _appender = self.appender.lock();
        let spare = std::mem::take(&mut self.state.lock().free);
        let mut bytes = 0;
        for (name, length) in spare {
            self.parts.storage.remove(&self.parts.dir.join(name))?;
            bytes += length;
        }
        Ok(bytes)
    }

    /// A file with room for a batch of `need` bytes, as long as segments are now if there is such a one.
    pub(crate) fn take_file(&self, state: &mut State, need: u64) -> Result<(String, u64)> {
        let wanted = self.wanted(state).max(FIRST_BATCH + need);
        let ready = |least: u64| state.free.iter().position(|(_, bytes)| *bytes >= least);
        match ready(wanted).or_else(|| ready(FIRST_BATCH + need)) {
            Some(at) => Ok(state.free.swap_remove(at)),
            None => self.make_file(state, need, true),
        }
    }

    /// A new file of the length that segments have now, or a small one where there is no room for more.
    fn make_file(&self, state: &mut State, need: u64, essential: bool) -> Result<(String, u64)> {
        let small = self.parts.segment_bytes.0;
        let least = (FIRST_BATCH + need).next_multiple_of(small);
        let wanted = self.wanted(state).max(least);
        let bytes = match self.parts.room.check(wanted, false) {
            Ok(()) => wanted,
            Err(_) if left_out("J10: room is asked for before a segment is made") => wanted,
            Err(_) => self.parts.room.check(least, essential).map(|()| least)?,
        };
        state.next_name += 1;
        let name = format!("{:08}.seg", state.next_name);
        self.new_file(&name, bytes)?;
        Ok((name, bytes))
    }

    /// Zero-filled once: an append then carries no metadata.
    fn new_file(&self, name: &str, bytes: u64) -> Result<()> {
        let path = self.parts.dir.join(name);
        let file = self.parts.storage.create(&path, Access::Direct)?;
        fill_with_zeros(&*file, bytes).map_err(|e| {
            let _ = self.parts.storage.remove(&path);
            e.advice("The journal needs room for its next segment: free space on its filesystem")
        })
    }

    /// Makes a segment file ready ahead of need, if there is room. Returns whether it did.
    pub fn prepare(&self) -> Result<bool> {
        let (wanted, name) = {
            let mut state = self.state.lock();
            let wanted = self.wanted(&state);
            let ready = state.free.iter().any(|(_, bytes)| *bytes >= wanted);
            if state.poisoned.is_some() || ready || self.parts.room.check(wanted, false).is_err() {
                return Ok(false);
            }
            state.next_name += 1;
            (wanted, format!("{:08}.seg", state.next_name))
        };
        match self.new_file(&name, wanted) {
            Ok(()) => self.state.lock().free.push((name, wanted)),
            Err(e) if e.kind() == Kind::NoSpace => return Ok(false),
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// Whether a record with `bytes` of payload finds room, and leaves what J12 wants. Cheap where there is much.
    ///
    /// # Errors
    /// `NoSpace`.
    pub fn check_room(&self, bytes: u64) -> Result<()> {
        let (room, segment) = (&self.parts.room, self.parts.segment_bytes.0);
        if room.slack() >= TIGHT_BYTES {
            return Ok(());
        }
        // What others have in flight, a table, and gaps.
        let need = 2 * bytes + (1 << 20).min(segment / 4);
        let state = self.state.lock();
        let open = state.open.and_then(|at| state.segments.get(&at)).filter(|_| !state.ends);
        let left = open.map_or(0, |s| s.fixed.start.0 + s.fixed.bytes - s.end().0);
        let mut ready: Vec<u64> = state.free.iter().map(|(_, bytes)| *bytes).collect();
        drop(state);
        let after = |room: u64| room.saturating_sub(bytes + 2 * FIRST_BATCH);
        if left >= need {
            return self.leaves_segment(after(left), !ready.is_empty(), 0);
        }
        if let Some(at) = ready.iter().position(|bytes| *bytes >= FIRST_BATCH + need) {
            let file = ready.swap_remove(at);
            return self.leaves_segment(after(file), !ready.is_empty(), 0);
        }
        room.check(segment, false)?;
        self.leaves_segment(after(segment), !ready.is_empty(), segment)
    }

    /// The shortest file that a new segment may have.
    pub fn segment_bytes_min(&self) -> u64 {
        self.parts.segment_bytes.0
    }

    /// Makes a segment file ready for a log that fills them fast; a slow one must not cost one more.
    pub fn prepare_if_large(&self) -> Result<bool> {
        let due = {
            let state = self.state.lock();
            let open = state.open.and_then(|at| state.segments.get(&at));
            open.is_some_and(|s| (s.end().0 - s.fixed.start.0) * 2 > s.fixed.bytes)
        };
        if due { self.prepare() } else { Ok(false) }
    }
}

fn fill_with_zeros(file: &dyn crate::seam::File, bytes: u64) -> Result<()> {
    file.allocate(0, bytes)?;
    let zeros = AlignedBuf::zeroed((1 << 20).min(bytes as usize));
    for at in (0..bytes).step_by(zeros.len()) {
        let part = zeros.len().min((bytes - at) as usize);
        file.write_at(&[IoSlice::new(&zeros[..part])], at, Durability::Plain)?;
    }
    file.sync()
}
