//! A log: its segments, its tail, its durable mark.

use crate::format::{BLOCK, LogState, SegmentHeader, SegmentSeal};
use crate::journal::read::BatchView;
use crate::journal::segment::{FIRST_BATCH, Segment, SegmentInfo};
use crate::journal::{left_out, list};
use crate::seam::{AlignedBuf, Clock, Durability, Entropy, Room, Storage};
use crate::vocab::{EpochId, Error, GroupId, Kind, LogId, Moment, Pos, Result, Seq, StoreId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lengths of segment files outside tests: see [`LogParts::segment_bytes`].
pub const SEGMENT_BYTES: (u64, u64) = (4 << 20, 64 << 20);

/// What a log works with.
#[derive(Clone)]
pub struct LogParts {
    /// Where its files are.
    pub storage: Arc<dyn Storage>,
    /// Its directory.
    pub dir: PathBuf,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Random numbers for lives.
    pub entropy: Arc<dyn Entropy>,
    /// Length of a segment file: of a group that writes little, and once a small one was filled within a second.
    pub segment_bytes: (u64, u64),
    /// Accounts of the filesystem that the files are on.
    pub room: Arc<Room>,
}

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The store.
    pub store: StoreId,
    /// The group.
    pub group: GroupId,
    /// The log.
    pub log: LogId,
    /// Boot of the machine.
    pub boot: [u8; 16],
}

/// An append-only stream of batches. Thread-safe; one appender at a time (J1).
pub struct Log {
    pub(crate) parts: LogParts,
    pub(crate) identity: LogIdentity,
    /// Held by the one who appends, before `state` (J1), with the memory that batches are put together in.
    pub(crate) appender: Mutex<AlignedBuf>,
    pub(crate) state: Mutex<State>,
    /// J4: everything before this place is durable.
    durable: AtomicU64,
    /// Segments that fill fast are no longer than this.
    pub(crate) segment_max: AtomicU64,
    /// Batches whose tables readers looked for last, the newest first.
    pub(crate) found: Mutex<VecDeque<BatchView>>,
}

pub(crate) struct State {
    /// Sealed segments and the open one, by start.
    pub(crate) segments: BTreeMap<Pos, Arc<Segment>>,
    /// The segment that this process appends to.
    pub(crate) open: Option<Pos>,
    /// The last segment in log order, open or not: what a next one names as previous.
    pub(crate) last: Option<Pos>,
    /// Batches in the open segment.
    pub(crate) batches: u64,
    /// Epoch of the records to come.
    pub(crate) epoch: EpochId,
    /// Seq of the next record that has one.
    pub(crate) next_seq: Seq,
    /// J7.
    pub(crate) allocated: Pos,
    /// Files that can be used again.
    pub(crate) free: Vec<(String, u64)>,
    pub(crate) next_name: u64,
    pub(crate) large: bool,
    pub(crate) poisoned: Option<String>,
    /// A write has failed: what of it is on the medium behind the end must become void.
    pub(crate) left_behind: bool,
    /// A call was appended in part: only recovery can tell what of it there is.
    pub(crate) torn: bool,
    pub(crate) opened_at: u64,
    /// The open segment takes no more batches.
    pub(crate) ends: bool,
    /// Segments that ended since the last batch.
    pub(crate) ended: Vec<SegmentInfo>,
    /// Newest chain value behind the acknowledgement, for seals.
    pub(crate) chain: Option<(Moment, [u8; 32])>,
}

impl State {
    pub(crate) fn new(epoch: EpochId, next_seq: Seq) -> Self {
        Self {
            segments: BTreeMap::new(),
            open: None,
            last: None,
            batches: 0,
            epoch,
            next_seq,
            allocated: Pos(0),
            free: Vec::new(),
            next_name: 0,
            large: false,
            poisoned: None,
            left_behind: false,
            torn: false,
            opened_at: 0,
            ends: false,
            ended: Vec::new(),
            chain: None,
        }
    }
}

impl Log {
    /// Makes an empty log in its directory, which must be empty or absent.
    pub fn create(parts: LogParts, identity: LogIdentity, epoch: EpochId) -> Result<Self> {
        parts.storage.make_dir(&parts.dir)?;
        list::write(&*parts.storage, &parts.dir, Vec::new())?;
        Ok(Self::assemble(parts, identity, State::new(epoch, Seq(1)), Pos(0)))
    }

    pub(crate) fn assemble(parts: LogParts, identity: LogIdentity, state: State, durable: Pos) -> Self {
        Self {
            parts,
            identity,
            appender: Mutex::new(AlignedBuf::zeroed(0)),
            state: Mutex::new(state),
            durable: AtomicU64::new(durable.0),
            segment_max: AtomicU64::new(u64::MAX),
            found: Mutex::default(),
        }
    }

    /// Which log this is.
    pub fn id(&self) -> LogId {
        self.identity.log
    }

    /// J4: everything before this place is durable.
    pub fn durable(&self) -> Pos {
        Pos(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn raise_durable(&self, to: Pos) {
        self.durable.fetch_max(to.0, Ordering::AcqRel);
    }

    /// The place behind the last batch.
    pub fn end(&self) -> Pos {
        let state = self.state.lock();
        state.last.and_then(|at| state.segments.get(&at)).map_or(Pos(0), |s| s.end())
    }

    /// The end of the last batch at or before a place: the one name of a place between two batches, also where
    /// a segment ended and another was begun between them.
    pub fn batch_end(&self, pos: Pos) -> Pos {
        last_batch_end(&self.state.lock(), pos)
    }

    /// Epoch and last seq before the next record, and the place behind the last batch, all of one instant.
    pub fn head(&self) -> (Moment, Pos) {
        let state = self.state.lock();
        let end = last_batch_end(&state, Pos(u64::MAX));
        (Moment { epoch: state.epoch, seq: Seq(state.next_seq.0 - 1) }, end)
    }

    /// The seq that the next record will have.
    pub fn next_seq(&self) -> Seq {
        self.state.lock().next_seq
    }

    /// The epoch of the records to come.
    pub fn epoch(&self) -> EpochId {
        self.state.lock().epoch
    }

    /// Makes durable all that was appended before the call (J4, J8). Cheap if it is already.
    pub fn sync(&self) -> Result<Pos> {
        let (segment, end) = {
            let state = self.state.lock();
            if let Some(why) = &state.poisoned {
                return Err(poisoned(why));
            }
            let Some(segment) = state.last.and_then(|at| state.segments.get(&at)) else { return Ok(Pos(0)) };
            (segment.clone(), segment.end())
        };
        if self.durable() < end {
            segment.sync().inspect_err(|e| self.poison(&e.to_string()))?;
            self.raise_durable(end);
        }
        Ok(end)
    }

    /// What was appended can't be told to readers: only recovery makes one whole of both.
    pub(crate) fn poison_torn(&self, why: &str) {
        let mut state = self.state.lock();
        state.poisoned.get_or_insert_with(|| why.to_owned());
        state.torn = true;
    }

    pub(crate) fn poison(&self, why: &str) {
        let mut state = self.state.lock();
        state.poisoned.get_or_insert_with(|| why.to_owned());
    }

    /// Whether a failed sync or append has stopped the log (J8), and why.
    pub fn is_poisoned(&self) -> Option<String> {
        self.state.lock().poisoned.clone()
    }

    /// The records to come belong to another epoch or line: they go to a new segment. What it forks from is
    /// durable when this returns.
    pub fn begin_epoch(&self, epoch: EpochId, next_seq: Seq) -> Result<()> {
        let _appender = self.appender.lock();
        self.sync()?;
        let mut state = self.state.lock();
        self.close_open(&mut state)?;
        state.epoch = epoch;
        state.next_seq = next_seq;
        Ok(())
    }

    /// An epoch that was to begin got no record: what comes belongs to the one before.
    pub fn go_back(&self, (epoch, next_seq): (EpochId, Seq)) {
        let mut state = self.state.lock();
        (state.epoch, state.next_seq, state.ends) = (epoch, next_seq, true);
    }

    /// Seals the open segment, so that nothing more is appended to it (before a clean close, or to free it).
    pub fn seal(&self) -> Result<()> {
        let _appender = self.appender.lock();
        self.sync()?;
        self.close_open(&mut self.state.lock())
    }

    /// The next batch goes to a new segment: the open one has as many records as may be in memory.
    pub fn end_segment(&self) {
        self.state.lock().ends = true;
    }

    /// The chain value before the first record of a segment, for the list and the checkpoint.
    pub fn note_start_chain(&self, start: Pos, moment: Moment, value: [u8; 32]) {
        if let Some(segment) = self.state.lock().segments.get(&start) {
            segment.set_start_chain((moment, value));
        }
    }

    /// The newest chain value, to be written into the next seal.
    pub fn note_chain(&self, moment: Moment, value: [u8; 32]) {
        self.state.lock().chain = Some((moment, value));
    }

    /// J3: sync, then the seal. The seal itself is a shortcut and needs no sync.
    pub(crate) fn close_open(&self, state: &mut State) -> Result<()> {
        let Some(segment) = state.open.and_then(|at| state.segments.get(&at)).cloned() else { return Ok(()) };
        let end = segment.end();
        if self.durable() < end && !left_out("J3: segment synced before the next") {
            segment.sync().inspect_err(|e| {
                state.poisoned.get_or_insert_with(|| e.to_string());
            })?;
            self.raise_durable(end);
        }
        write_seal(&segment, state.batches, state.chain)?;
        let now = self.parts.clock.monotonic_ns();
        let full = end.0 + (1 << 20) >= segment.fixed.start.0 + segment.fixed.bytes;
        state.large |= full && now.saturating_sub(state.opened_at) < 1_000_000_000;
        state.open = None;
        state.ended.push(segment.info());
        Ok(())
    }

    /// Begins a segment with room for a batch of `need` bytes: file, header, sync (J3), then it is open.
    pub(crate) fn open_next(&self, state: &mut State, need: u64) -> Result<()> {
        self.close_open(state)?;
        let (file, bytes) = self.take_file(state, need)?;
        let last = state.last.and_then(|at| state.segments.get(&at)).map(|s| s.info());
        let header = SegmentHeader {
            store: self.identity.store,
            group: self.identity.group,
            log: self.identity.log,
            epoch: state.epoch,
            boot: self.identity.boot,
            life: self.parts.entropy.random_64().max(1),
            start: state.allocated,
            first_seq: state.next_seq,
            bytes,
            previous_life: last.as_ref().map_or(0, |l| l.life),
            previous_start: last.as_ref().map_or(Pos(0), |l| l.start),
            previous_cut: last.as_ref().map_or(Pos(0), |l| l.end),
            previous_last_seq: last.as_ref().map_or(Seq(0), |l| l.last_seq),
            previous_crc: last.as_ref().map_or(0, |l| l.last_crc),
            durable: self.durable(),
            unit: BLOCK as u32,
        };
        let info = SegmentInfo {
            file,
            life: header.life,
            start: header.start,
            bytes,
            end: Pos(header.start.0 + FIRST_BATCH),
            epoch: header.epoch,
            first_seq: header.first_seq,
            last_seq: Seq(header.first_seq.0 - 1),
            last_crc: header.previous_crc,
            first_wall: 0,
            last_wall: 0,
            previous_life: header.previous_life,
            start_chain: None,
        };
        let segment = Segment::new(self.parts.storage.clone(), &self.parts.dir, info);
        if let Err(e) = self.write_header(&segment, &header) {
            state.poisoned.get_or_insert_with(|| e.to_string());
            // The header may be there all the same: its place is never given again (J7), so that the one which
            // follows lies above it and counts. The file is used again under another life.
            if !left_out("J7: a header that failed takes its place with it") {
                state.allocated = Pos(header.start.0 + bytes);
            }
            state.free.push((segment.fixed.file.clone(), bytes));
            return Err(e);
        }
        state.allocated = Pos(header.start.0 + bytes);
        state.segments.insert(header.start, Arc::new(segment));
        state.open = Some(header.start);
        state.last = Some(header.start);
        state.batches = 0;
        state.opened_at = self.parts.clock.monotonic_ns();
        state.ends = false;
        // All before it is durable (J3), and the header is: so is its place.
        self.raise_durable(Pos(header.start.0 + FIRST_BATCH));
        Ok(())
    }

    fn write_header(&self, segment: &Segment, header: &SegmentHeader) -> Result<()> {
        let mut block = AlignedBuf::zeroed(FIRST_BATCH as usize); // header and an empty seal
        block[..BLOCK as usize].copy_from_slice(&header.encode());
        let direct = segment.direct()?;
        direct.write_at(&[IoSlice::new(&block)], 0, Durability::Plain)?;
        if !left_out("J3: header synced before its first batch") {
            direct.sync()?;
            self.parts.storage.sync_dir(&self.parts.dir)?;
        }
        Ok(())
    }

    /// Segments, oldest first; the open one last.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.state.lock().segments.values().map(|s| s.info()).collect()
    }

    /// The start of the segment whose first batch begins at `pos`.
    pub fn segment_begun_by(&self, pos: Pos) -> Option<Pos> {
        let state = self.state.lock();
        let (start, segment) = state.segments.range(..=pos).next_back()?;
        (segment.fixed.first_batch() == pos).then_some(*start)
    }

    /// The open segment, if there is one.
    pub fn open_segment(&self) -> Option<SegmentInfo> {
        let state = self.state.lock();
        state.open.and_then(|at| state.segments.get(&at)).map(|s| s.info())
    }

    /// What a checkpoint says of this log: the scan begins with the last segment.
    pub fn checkpoint_state(&self) -> LogState {
        let state = self.state.lock();
        let last = state.last.and_then(|at| state.segments.get(&at)).map(|s| s.info());
        LogState {
            log: self.identity.log,
            durable: if left_out("J4: durable mark in the checkpoint") { Pos(0) } else { self.durable() },
            scan_start: last.as_ref().map_or(Pos(0), |l| l.start),
            scan_life: last.as_ref().map_or(0, |l| l.life),
            scan_chain: last.as_ref().and_then(|l| l.start_chain),
            allocated: state.allocated,
            scan_seq: last.map_or(Seq(0), |l| Seq(l.first_seq.0 - 1)),
        }
    }

    /// As [`Self::checkpoint_state`], with a scan that begins at the newest segment that holds anything before `end`.
    pub fn scan_from(&self, end: Pos) -> LogState {
        let now = self.checkpoint_state();
        let state = self.state.lock();
        let newest = state.segments.values().rev().find(|s| s.fixed.start < end);
        let newest = newest.or_else(|| state.segments.values().next()).map(|s| s.info());
        let Some(first) = newest.filter(|s| s.start < now.scan_start) else { return now };
        LogState {
            scan_start: first.start,
            scan_life: first.life,
            scan_chain: first.start_chain,
            scan_seq: Seq(first.first_seq.0 - 1),
            ..now
        }
    }

    /// The chain value before the first record of a segment, once the chain has come there.
    pub fn start_chain(&self, start: Pos) -> Option<(Moment, [u8; 32])> {
        self.state.lock().segments.get(&start).and_then(|s| s.info().start_chain)
    }

    /// Writes the list of sealed segments that a checkpoint's scan does not reach. Call it before that
    /// checkpoint is written: what the list lacks the scan finds, and what both have is the same. `all`: the last one,
    /// too, which was sealed for an orderly end (J13).
    pub fn write_list(&self, all: bool) -> Result<()> {
        let segments = {
            let state = self.state.lock();
            let listed = |s: &&Arc<Segment>| all || Some(s.fixed.start) != state.last;
            state.segments.values().filter(listed).map(|s| s.info()).collect()
        };
        list::write(&*self.parts.storage, &self.parts.dir, segments)
    }

    /// Frees segments (J9): call it after a list without them and a checkpoint that scans from beyond them are
    /// synced. Their files are used again; readers that hold one go on reading what lies there and must check
    /// the crc. Returns the bytes freed.
    pub fn release(&self, starts: &[Pos]) -> Result<u64> {
        let mut state = self.state.lock();
        let mut freed = 0;
        for start in starts {
            if state.last == Some(*start) {
                continue;
            }
            if let Some(segment) = state.segments.remove(start) {
                freed += segment.fixed.bytes;
                let fits = segment.fixed.bytes <= self.segment_max.load(Ordering::Relaxed);
                if fits && state.free.len() < 2 && Arc::strong_count(&segment) == 1 {
                    state.free.push((segment.fixed.file.clone(), segment.fixed.bytes));
                } else {
                    self.parts.storage.remove(segment.path())?;
                }
            }
        }
        Ok(freed)
    }

    /// Forgets segments in the next list, before [`Self::release`].
    pub fn write_list_without(&self, starts: &[Pos]) -> Result<()> {
        let segments = {
            let state = self.state.lock();
            let keep =
                |s: &&Arc<Segment>| Some(s.fixed.start) != state.last && !starts.contains(&s.fixed.start);
            state.segments.values().filter(keep).map(|s| s.info()).collect()
        };
        list::write(&*self.parts.storage, &self.parts.dir, segments)
    }

    /// Bytes of the segments that are in use, without files that are ready to be used.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().segments.values().map(|s| s.fixed.bytes).sum()
    }

    /// Bytes of all its files on the medium.
    pub fn bytes(&self) -> u64 {
        let state = self.state.lock();
        state.segments.values().map(|s| s.fixed.bytes).sum::<u64>()
            + state.free.iter().map(|f| f.1).sum::<u64>()
    }
}

/// The begin of a segment's first batch is no end of a batch: the one before it ended in an earlier segment.
fn last_batch_end(state: &State, pos: Pos) -> Pos {
    let begun = |s: &&Arc<Segment>| s.end().min(pos) > s.fixed.first_batch();
    state.segments.values().rev().find(begun).map_or(Pos(0), |s| s.end().min(pos))
}

pub(crate) fn poisoned(why: &str) -> Error {
    Error::new(Kind::Poisoned, format!("the log was stopped by an earlier failure: {why}"))
        .advice("It is recovered as soon as its device works again; see `health`")
}

/// Writes block 1 of a segment.
pub(crate) fn write_seal(segment: &Segment, batches: u64, chain: Option<(Moment, [u8; 32])>) -> Result<()> {
    let info = segment.info();
    let seal = SegmentSeal {
        life: info.life,
        end: info.end,
        last_seq: info.last_seq,
        batches,
        first_wall: info.first_wall,
        last_wall: info.last_wall,
        chain,
        last_crc: info.last_crc,
    };
    let mut block = AlignedBuf::zeroed(BLOCK as usize);
    block.copy_from_slice(&seal.encode());
    segment.direct()?.write_at(&[IoSlice::new(&block)], BLOCK, Durability::Plain)
}
