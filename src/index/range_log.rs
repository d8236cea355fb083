//! The range log: which ranges each sealed segment changed. It outlives payload, retention, destage and commit, so
//! that the way back costs what diverged.
//!
//! K1. A record is durable when [`RangeLog::append`] returns. A torn record at the end of the newest file was not
//!     acknowledged and is cut off at the next opening.
//! K2. A union is right or refused: it answers only if records cover the stretch of seqs without a gap. What is
//!     missing, trimmed or damaged makes it `NotFound` or `Damaged`, never a smaller union.
//! K3. Coarser is larger: rounding outwards and joining neighbours add ranges and never lose any. It says so.
//! K4. Files of about 1 MiB, each replaced atomically when it is trimmed or made coarser.

use crate::format::crc_of;
use crate::format::range_log::{Changes, RANGE_HEADER_BYTES, RANGE_SHIFT, RANGE_SHIFT_MAX, RangeHeader};
use crate::index::catalog::make_dir;
use crate::seam::{Access, File, Storage};
use crate::vocab::{EpochId, Error, GroupId, Kind, Result, Seq};
use parking_lot::Mutex;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that the range log of a group may take if nothing else is said.
pub const RANGE_LOG_BYTES_MAX: u64 = 64 << 20;
/// A file that has grown to this gets a successor.
const FILE_BYTES: u64 = 1 << 20;
/// Ranges of a union beyond which it is made coarser.
const UNION_RANGES_MAX: usize = 1 << 22;

/// A stretch of an epoch: records from the first to the last, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeqStretch {
    /// Which epoch.
    pub epoch: EpochId,
    /// First record.
    pub first: Seq,
    /// Last record.
    pub last: Seq,
}

/// What changed in some stretches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeUnion {
    /// Ranges, those between old and new size of each resize among them.
    pub changes: Changes,
    /// Whether some ranges are known in coarser granules than 4 KiB only.
    pub coarse: bool,
}

struct Chunk {
    number: u64,
    bytes: u64,
    records: Vec<(u64, RangeHeader)>,
}

struct State {
    chunks: Vec<Chunk>,
    newest: Option<Arc<dyn File>>,
}

/// The range log of one group.
pub struct RangeLog {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    group: GroupId,
    bytes_max: u64,
    state: Mutex<State>,
}

fn name(number: u64) -> String {
    format!("ranges-{number:016x}")
}

impl RangeLog {
    /// Opens the range log in `dir`, or makes an empty one. The second value names what can't be read; the
    /// stretches in it are not covered.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: impl Into<PathBuf>,
        group: GroupId,
        bytes_max: u64,
    ) -> Result<(Self, Vec<Error>)> {
        let dir = dir.into();
        make_dir(&*storage, &dir)?;
        let mut numbers = Vec::new();
        for name in storage.list(&dir)? {
            if name.ends_with(".tmp") && name.starts_with("ranges-") {
                storage.remove(&dir.join(&name))?;
            } else if let Some(number) = name.strip_prefix("ranges-") {
                numbers.extend(u64::from_str_radix(number, 16));
            }
        }
        let (mut chunks, mut damage) = (Vec::new(), Vec::new());
        for (at, number) in numbers.iter().enumerate() {
            let path = dir.join(name(*number));
            let (chunk, errors, torn) = read_chunk(&*storage, &path, *number, group)?;
            damage.extend(errors);
            match torn {
                Some(error) if at + 1 < numbers.len() => damage.push(error),
                Some(_) => {
                    // K1. What may be rot of an acknowledged record shows as a gap in what is covered.
                    let file = storage.open(&path, Access::Cached)?;
                    file.set_len(chunk.bytes)?;
                    file.sync()?;
                }
                None => {}
            }
            chunks.push(chunk);
        }
        let state = Mutex::new(State { chunks, newest: None });
        Ok((Self { storage, dir, group, bytes_max, state }, damage))
    }

    /// Adds the ranges of a sealed segment and makes them durable.
    pub fn append(&self, stretch: SeqStretch, mut changes: Changes) -> Result<()> {
        if stretch.first > stretch.last {
            let SeqStretch { first, last, .. } = stretch;
            return Err(Error::new(Kind::Invalid, format!("ranges of the records {first} to {last}")));
        }
        changes.settle(RANGE_SHIFT);
        let (header, body) = self.record(stretch, &changes, RANGE_SHIFT)?;
        let state = &mut *self.state.lock();
        let (file, chunk) = self.newest(state)?;
        let at = chunk.bytes;
        let head = header.encode();
        file.write_at(&[IoSlice::new(&head), IoSlice::new(&body)], at, crate::seam::Durability::Plain)?;
        file.sync()?;
        chunk.records.push((at, header));
        chunk.bytes += (RANGE_HEADER_BYTES + body.len()) as u64;
        self.make_room(state)
    }

    /// What changed in all of these stretches.
    pub fn union(&self, stretches: &[SeqStretch]) -> Result<RangeUnion> {
        // Held to the end: a file must not be replaced while its records are read.
        let state = self.state.lock();
        let mut wanted = Vec::new();
        for stretch in stretches {
            let mut found: Vec<(u64, u64, RangeHeader)> = Vec::new();
            for chunk in &state.chunks {
                let meets = chunk.records.iter().filter(|(_, h)| {
                    h.epoch == stretch.epoch && h.first_seq <= stretch.last && stretch.first <= h.last_seq
                });
                found.extend(meets.map(|(at, header)| (chunk.number, *at, *header)));
            }
            check_cover(stretch, found.iter().map(|(.., h)| h))?;
            wanted.extend(found);
        }
        wanted.sort_unstable_by_key(|(number, at, _)| (*number, *at));
        wanted.dedup_by_key(|(number, at, _)| (*number, *at));
        let (mut out, mut shift, mut settled) = (RangeUnion::default(), RANGE_SHIFT, 0);
        let mut open: Option<(u64, Arc<dyn File>)> = None;
        for (number, at, header) in wanted {
            if open.as_ref().is_none_or(|(other, _)| *other != number) {
                open = Some((number, self.storage.open(&self.dir.join(name(number)), Access::ReadOnly)?));
            }
            let Some((_, file)) = &open else { continue };
            let changes = self.read(&**file, number, at, &header)?;
            out.coarse |= header.shift > RANGE_SHIFT;
            for (disk, ranges) in changes.ranges {
                out.changes.ranges.entry(disk).or_default().extend(ranges);
            }
            for resize in changes.resizes {
                out.changes.add(resize.disk, resize.old.min(resize.new)..resize.old.max(resize.new));
                out.changes.resizes.push(resize);
            }
            if out.changes.len() > 2 * settled + 1024 {
                out.changes.settle(shift);
                while out.changes.len() > UNION_RANGES_MAX && shift < RANGE_SHIFT_MAX {
                    shift += 4;
                    out.coarse = true;
                    out.changes.settle(shift);
                }
                settled = out.changes.len();
            }
        }
        out.changes.settle(shift);
        Ok(out)
    }

    /// The stretches that there are records of, in the order of their coming; neighbours joined.
    pub fn covered(&self) -> Vec<SeqStretch> {
        let state = self.state.lock();
        let mut out: Vec<SeqStretch> = Vec::new();
        for (_, h) in state.chunks.iter().flat_map(|chunk| &chunk.records) {
            match out.last_mut() {
                Some(last) if last.epoch == h.epoch && last.last.next() == h.first_seq => {
                    last.last = h.last_seq
                }
                _ => out.push(SeqStretch { epoch: h.epoch, first: h.first_seq, last: h.last_seq }),
            }
        }
        out
    }

    /// Drops the records that `keep` denies: those at or below the moments that somebody may still come back to.
    pub fn trim(&self, keep: impl Fn(&SeqStretch) -> bool) -> Result<()> {
        let state = &mut *self.state.lock();
        let kept =
            |h: &RangeHeader| keep(&SeqStretch { epoch: h.epoch, first: h.first_seq, last: h.last_seq });
        for at in (0..state.chunks.len()).rev() {
            let chunk = &state.chunks[at];
            let count = chunk.records.iter().filter(|(_, h)| kept(h)).count();
            if count == chunk.records.len() {
                continue;
            }
            if at + 1 == state.chunks.len() {
                state.newest = None;
            }
            if count == 0 && at + 1 < state.chunks.len() {
                self.storage.remove(&self.dir.join(name(chunk.number)))?;
                state.chunks.remove(at);
                continue;
            }
            let mut records = self.read_all(chunk)?;
            records.retain(|(h, _)| kept(h));
            state.chunks[at] = self.replace(chunk.number, records)?;
        }
        self.storage.sync_dir(&self.dir)
    }

    /// Bytes that the range log takes.
    pub fn bytes(&self) -> u64 {
        self.state.lock().chunks.iter().map(|chunk| chunk.bytes).sum()
    }

    /// Whether some ranges are known in coarser granules than 4 KiB only.
    pub fn is_coarse(&self) -> bool {
        let state = self.state.lock();
        state.chunks.iter().flat_map(|chunk| &chunk.records).any(|(_, h)| h.shift > RANGE_SHIFT)
    }

    fn record(&self, stretch: SeqStretch, changes: &Changes, shift: u8) -> Result<(RangeHeader, Vec<u8>)> {
        let (body, raw_len) = changes.encode(shift).map_err(|e| Error::io(e, "compressing ranges"))?;
        let header = RangeHeader {
            body_len: body.len() as u32,
            body_crc: crc_of(&[&body]),
            raw_len,
            shift,
            group: self.group,
            epoch: stretch.epoch,
            first_seq: stretch.first,
            last_seq: stretch.last,
        };
        Ok((header, body))
    }

    /// The file that is appended to; a new one if the last is full.
    fn newest<'a>(&self, state: &'a mut State) -> Result<(Arc<dyn File>, &'a mut Chunk)> {
        let full = state.chunks.last().is_none_or(|chunk| chunk.bytes >= FILE_BYTES);
        if full {
            let number = state.chunks.last().map_or(1, |chunk| chunk.number + 1);
            let path = self.dir.join(name(number));
            if self.storage.exists(&path)? {
                // Left over from an append that failed before anything was written to it.
                self.storage.remove(&path)?;
            }
            state.newest = Some(self.storage.create(&path, Access::Cached)?);
            self.storage.sync_dir(&self.dir)?;
            state.chunks.push(Chunk { number, bytes: 0, records: Vec::new() });
        }
        let Some(chunk) = state.chunks.last_mut() else {
            return Err(Error::new(Kind::Invalid, "a range log without files").at(&self.dir));
        };
        let file = match &state.newest {
            Some(file) => Arc::clone(file),
            None => self.storage.open(&self.dir.join(name(chunk.number)), Access::Cached)?,
        };
        state.newest = Some(Arc::clone(&file));
        Ok((file, chunk))
    }

    /// Keeps the log below its bound: the finest and oldest file first gets coarser granules.
    fn make_room(&self, state: &mut State) -> Result<()> {
        while state.chunks.iter().map(|chunk| chunk.bytes).sum::<u64>() > self.bytes_max {
            let fineness = |chunk: &Chunk| chunk.records.iter().map(|(_, h)| h.shift).min();
            let full = state.chunks.iter().take(state.chunks.len() - 1).enumerate();
            let finest = full
                .filter_map(|(at, chunk)| Some((fineness(chunk)?, at)))
                .filter(|(shift, _)| shift + 4 <= RANGE_SHIFT_MAX)
                .min();
            let Some((shift, at)) = finest else { return Ok(()) };
            let chunk = &state.chunks[at];
            let records = self.coarser(chunk, shift + 4)?;
            state.chunks[at] = self.replace(chunk.number, records)?;
        }
        Ok(())
    }

    /// A file's records in granules of `shift`; beyond 64 KiB neighbours of an epoch become one record.
    fn coarser(&self, chunk: &Chunk, shift: u8) -> Result<Vec<(RangeHeader, Vec<u8>)>> {
        let file = self.storage.open(&self.dir.join(name(chunk.number)), Access::ReadOnly)?;
        let mut all: Vec<(SeqStretch, Changes, u8)> = Vec::new();
        for (at, h) in &chunk.records {
            let changes = self.read(&*file, chunk.number, *at, h)?;
            let stretch = SeqStretch { epoch: h.epoch, first: h.first_seq, last: h.last_seq };
            match all.last_mut() {
                Some((last, before, old))
                    if shift > 16 && last.epoch == h.epoch && last.last.next() == h.first_seq =>
                {
                    last.last = h.last_seq;
                    for (disk, ranges) in changes.ranges {
                        before.ranges.entry(disk).or_default().extend(ranges);
                    }
                    before.resizes.extend(changes.resizes);
                    *old = (*old).max(h.shift);
                }
                _ => all.push((stretch, changes, h.shift)),
            }
        }
        let mut out = Vec::new();
        for (stretch, mut changes, old) in all {
            let shift = shift.max(old);
            changes.settle(shift);
            out.push(self.record(stretch, &changes, shift)?);
        }
        Ok(out)
    }

    fn read_all(&self, chunk: &Chunk) -> Result<Vec<(RangeHeader, Vec<u8>)>> {
        let file = self.storage.open(&self.dir.join(name(chunk.number)), Access::ReadOnly)?;
        let mut out = Vec::new();
        for (at, header) in &chunk.records {
            let mut body = vec![0; header.body_len as usize];
            let got = file.read_at(&mut body, at + RANGE_HEADER_BYTES as u64)?;
            if got < body.len() || crc_of(&[&body]) != header.body_crc {
                return Err(self.damaged(chunk.number, *at));
            }
            out.push((*header, body));
        }
        Ok(out)
    }

    fn read(&self, file: &dyn File, number: u64, at: u64, header: &RangeHeader) -> Result<Changes> {
        let mut body = vec![0; header.body_len as usize];
        let got = file.read_at(&mut body, at + RANGE_HEADER_BYTES as u64)?;
        Changes::decode(header, &body[..got]).ok_or_else(|| self.damaged(number, at))
    }

    fn damaged(&self, number: u64, at: u64) -> Error {
        Error::new(Kind::Damaged, "a record of the range log doesn't fit its checksum")
            .at(self.storage.shown(&self.dir.join(name(number))))
            .offset(at)
            .advice("Resync by comparing trees doesn't need it")
    }

    /// K4.
    fn replace(&self, number: u64, records: Vec<(RangeHeader, Vec<u8>)>) -> Result<Chunk> {
        let path = self.dir.join(name(number));
        let temporary = self.dir.join(format!("{}.tmp", name(number)));
        if self.storage.exists(&temporary)? {
            self.storage.remove(&temporary)?;
        }
        let file = self.storage.create(&temporary, Access::Cached)?;
        let mut chunk = Chunk { number, bytes: 0, records: Vec::new() };
        for (header, body) in records {
            let head = header.encode();
            let bufs = [IoSlice::new(&head), IoSlice::new(&body)];
            file.write_at(&bufs, chunk.bytes, crate::seam::Durability::Plain)?;
            chunk.records.push((chunk.bytes, header));
            chunk.bytes += (RANGE_HEADER_BYTES + body.len()) as u64;
        }
        file.sync()?;
        self.storage.rename(&temporary, &path)?;
        self.storage.sync_dir(&self.dir)?;
        Ok(chunk)
    }
}

/// K2.
fn check_cover<'a>(stretch: &SeqStretch, found: impl Iterator<Item = &'a RangeHeader>) -> Result<()> {
    let mut found: Vec<_> = found.map(|h| (h.first_seq, h.last_seq)).collect();
    found.sort_unstable();
    let mut next = stretch.first;
    for (first, last) in found {
        if first > next {
            break;
        }
        next = next.max(last.next());
    }
    if next > stretch.last {
        return Ok(());
    }
    let what = format!("the range log has no record {next}@{}", stretch.epoch.short());
    Err(Error::new(Kind::NotFound, what).advice("Resync by comparing trees doesn't need it"))
}

/// The records of a file; what is damaged between them; and what is wrong behind the last, where it may be torn.
fn read_chunk(
    storage: &dyn Storage,
    path: &Path,
    number: u64,
    group: GroupId,
) -> Result<(Chunk, Vec<Error>, Option<Error>)> {
    let file = storage.open(path, Access::ReadOnly)?;
    // At once: a record is ten pages behind the one before, and a read for each header would wait for the device each time.
    let mut bytes = vec![0; file.len()? as usize];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    let mut chunk = Chunk { number, bytes: 0, records: Vec::new() };
    let mut damage = Vec::new();
    while chunk.bytes < bytes.len() as u64 {
        match read_header(&bytes, chunk.bytes, group) {
            Ok((header, end)) => {
                chunk.records.push((chunk.bytes, header));
                chunk.bytes = end;
            }
            Err(what) => {
                let error = Error::new(Kind::Damaged, what).at(storage.shown(path)).offset(chunk.bytes);
                match next_header(&bytes, chunk.bytes + 1, group) {
                    Some(next) => {
                        damage.push(error);
                        chunk.bytes = next;
                    }
                    None => return Ok((chunk, damage, Some(error))),
                }
            }
        }
    }
    Ok((chunk, damage, None))
}

/// The header of the record at this place of a file and where the record ends, or what is wrong with it.
fn read_header(
    file: &[u8],
    at: u64,
    group: GroupId,
) -> std::result::Result<(RangeHeader, u64), &'static str> {
    let rest = file.get(at as usize..).unwrap_or_default();
    let header = RangeHeader::decode(&rest[..rest.len().min(RANGE_HEADER_BYTES)])?;
    let length = RANGE_HEADER_BYTES + header.body_len as usize;
    if header.group != group {
        return Err("a record of another group's range log");
    }
    if length > rest.len() {
        return Err("the range log ends within a record");
    }
    // The last body may be torn; the others are checked when they are read.
    if length == rest.len() && crc_of(&[&rest[RANGE_HEADER_BYTES..]]) != header.body_crc {
        return Err("the last record of the range log doesn't fit its checksum");
    }
    Ok((header, at + length as u64))
}

/// The first place from `at` on where a whole record begins.
fn next_header(file: &[u8], at: u64, group: GroupId) -> Option<u64> {
    let rest = file.get(at as usize..).unwrap_or_default();
    (0..rest.len().saturating_sub(RANGE_HEADER_BYTES - 1))
        .map(|skip| at + skip as u64)
        .find(|at| read_header(file, *at, group).is_ok())
}

#[cfg(test)]
mod tests;
