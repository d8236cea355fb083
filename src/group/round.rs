//! Rounds: the base of each file moves up the path.
//!
//! In order, and the order is what keeps every view right at every instant of a crash:
//!
//! O1. The target is durable in the log, and has entered (L2 of `line`): a record that is in the log but not yet in
//!     the index would be passed over, and its bytes would be nowhere.
//! O2. A checkpoint says `floor := target`; then the bases are written and synced; then a checkpoint says
//!     `base := target`. Between the two the file may hold either, and only moments at or above the target are
//!     read from it.
//! O3. A round that was torn is done again to the same target before anything else.
//! O4. Segments are freed, and versions leave the index, only below every base; segments after a list and a
//!     checkpoint without them (J9).
//! O5. A base has the length that its file has at the target.
//! O6. A round's limit was chosen after the newest decision, and no decision comes between that look and the floor.
//!     While bases are written one may come, and records too: whatever is decided lies at or above the floor (O2), so
//!     the way to the target is a part of every line that can follow. So nobody who takes over a VM, and no record from
//!     the peer, waits for a base.
//! O7. A base stands at a place of the live path, by the name that this place has on every path that goes there.
//!     Behind a jump where nothing came yet the log's end is another name of the jump's: a base by that name would
//!     lie on no other path, and nothing could go on from the moment that the jump led to.
//! O8. Where the chain is behind (C10 of `chain`) it catches up while bases are written: that takes long.

use crate::base::{BaseFile, Finished};
use crate::group::Group;
use crate::group::checkpoint::{empty_base, ordinals};
use crate::group::group::{BasePlace, Counters};
use crate::group::left_out;
use crate::group::line::{anchored, between};
use crate::group::space::Moved;
use crate::index::{Interval, Path, Source};
use crate::view::Payloads;
use crate::vocab::{DiskOrdinal, Error, Kind, LogPlace, Pos, Result};
use std::sync::atomic::Ordering;

/// O8: so many bytes of a base between two looks at the chain.
const CHAIN_EVERY: u64 = 16 << 20;

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundDone {
    /// Files whose bases were written.
    pub files: usize,
    /// Bytes written into bases.
    pub bytes: u64,
    /// Bytes of log freed.
    pub freed: u64,
}

/// What a round is about.
enum Begun {
    /// A decision came after its limit was chosen.
    Stale,
    /// No base moves; below them there may be something to free.
    Nothing,
    /// The bases of these files move to the target, each from its place.
    Moves { target: LogPlace, files: Vec<(DiskOrdinal, LogPlace)> },
}

impl Group {
    /// Moves every base up to `limit`, or to what is durable where that is `None`, and frees the log below.
    /// Nothing that is needed may lie below the limit: the caller knows window, views and forks.
    pub fn round(&self, limit: Option<LogPlace>) -> Result<RoundDone> {
        self.round_if(limit, None)
    }

    /// O6. `lines`: those of the history that the caller knew when it chose the limit. A decision since then may need
    /// what lies below it: then nothing is done, and the next turn chooses anew.
    pub(crate) fn round_if(&self, limit: Option<LogPlace>, lines: Option<usize>) -> Result<RoundDone> {
        let _rounds = self.rounds.lock();
        let mut done = RoundDone::default();
        self.finish_torn(&mut done)?;
        match self.begin_round(limit, lines)? {
            Begun::Stale => return Ok(done),
            Begun::Nothing => {}
            Begun::Moves { target, files } => self.move_bases(target, &files, &mut done)?,
        }
        let _work = self.work.lock();
        done.freed = self.free_below()?;
        self.count_room()?;
        Ok(done)
    }

    /// O2: chooses the target, and says so before anything is written there.
    fn begin_round(&self, limit: Option<LogPlace>, lines: Option<usize>) -> Result<Begun> {
        let _work = self.work.lock();
        let stale = match lines {
            Some(lines) => {
                let mut core = self.core.lock();
                self.write_owed(&mut core)?;
                core.events.len() != lines
            }
            None => false,
        };
        if stale && !left_out("O6: a limit holds as long as no line of the history came") {
            return Ok(Begun::Stale);
        }
        let late = left_out("O1: the journal is synced before a base is written");
        let unsynced = late || left_out("rounds go no further than D");
        let durable = if unsynced { self.log.end() } else { self.log.sync()? };
        let Some(target) = self.target(limit, durable)? else { return Ok(Begun::Nothing) };
        let files = self.say_floor(target)?;
        Ok(if files.is_empty() { Begun::Nothing } else { Begun::Moves { target, files } })
    }

    /// O1 and O7: the limit, as far as the log is durable and has entered. `None`: nothing is on the live path yet.
    fn target(&self, limit: Option<LogPlace>, durable: Pos) -> Result<Option<LogPlace>> {
        let unindexed = left_out("O1: rounds go no further than the index");
        let entered = if unindexed { durable } else { self.entered().1 };
        let (log, path) = (self.log.id(), self.head_path(&mut self.core.lock())?);
        let target = limit.filter(|limit| limit.log != log || limit.pos <= entered);
        if left_out("O7: a base stands by the name of its place") {
            return Ok(target.or(Some(LogPlace { log, pos: self.log.batch_end(durable.min(entered)) })));
        }
        if let Some(target) = target {
            return Ok(Some(path.named(target)));
        }
        let end = self.log.batch_end(durable.min(entered));
        // A staging log on the path is durable as a whole.
        let newest = path.intervals().iter().rfind(|i| i.log != log || i.from < end);
        let to = |i: &Interval| if i.log == log { i.to.min(end) } else { i.to };
        Ok(newest.map(|i| LogPlace { log: i.log, pos: to(i) }))
    }

    /// O3.
    fn finish_torn(&self, done: &mut RoundDone) -> Result<()> {
        let torn: Vec<(DiskOrdinal, BasePlace)> = {
            let core = self.core.lock();
            self.refuse_left()?;
            core.bases.iter().filter(|(_, p)| p.base != p.floor).map(|(d, p)| (*d, *p)).collect()
        };
        if left_out("O3: a torn round is done again") {
            return Ok(());
        }
        for (disk, place) in torn {
            let (Some(from), Some(to)) = (place.base, place.floor) else { continue };
            self.write_base(disk, from, to, true, done)?;
            self.say_base(&[disk], to)?;
        }
        Ok(())
    }

    /// The files whose bases move to the target, and from where.
    fn say_floor(&self, target: LogPlace) -> Result<Vec<(DiskOrdinal, LogPlace)>> {
        let mut core = self.core.lock();
        self.refresh_spans(&mut core);
        for disk in ordinals(&self.names.lock()) {
            core.bases.entry(disk).or_insert_with(|| empty_base(self.log.id()));
        }
        let path = self.head_path(&mut core)?;
        let below =
            |p: LogPlace| path.until(target.log, target.pos).is_some_and(|t| anchored(&t, p).is_some());
        let moved: Vec<_> = core
            .bases
            .iter()
            .filter(|(d, _)| !self.is_coming(**d))
            .filter_map(|(d, p)| p.base.filter(|b| *b != target && below(*b)).map(|b| (*d, b)))
            .collect();
        if !moved.is_empty() && !left_out("floor before base") {
            for (disk, from) in &moved {
                core.bases.insert(*disk, BasePlace { base: Some(*from), floor: Some(target) });
            }
            self.write_checkpoint(&mut core, false)?;
            self.floors.fetch_add(1, Ordering::AcqRel);
        }
        Ok(moved)
    }

    fn move_bases(
        &self,
        target: LogPlace,
        moved: &[(DiskOrdinal, LogPlace)],
        done: &mut RoundDone,
    ) -> Result<()> {
        for (disk, from) in moved {
            between("a base is written");
            self.write_base(*disk, *from, target, false, done)?;
        }
        between("bases are written");
        if left_out("O1: the journal is synced before a base is written") {
            self.log.sync()?;
        }
        let disks: Vec<DiskOrdinal> = moved.iter().map(|(disk, _)| *disk).collect();
        self.say_base(&disks, target)
    }

    /// O2: the bases are written and durable.
    fn say_base(&self, disks: &[DiskOrdinal], target: LogPlace) -> Result<()> {
        let _work = self.work.lock();
        let mut core = self.core.lock();
        for disk in disks {
            core.bases.insert(*disk, BasePlace { base: Some(target), floor: Some(target) });
        }
        self.write_checkpoint(&mut core, false)?;
        self.refresh_live(&mut core)
    }

    /// Writes what lies between two places of the path into a base, and syncs it.
    fn write_base(
        &self,
        disk: DiskOrdinal,
        from: LogPlace,
        to: LogPlace,
        again: bool,
        done: &mut RoundDone,
    ) -> Result<()> {
        let path = {
            let mut core = self.core.lock();
            self.head_path(&mut core)?
        };
        let until = path.until(to.log, to.pos);
        let Some((until, between)) = until.and_then(|u| anchored(&u, from).map(|b| (u, b))) else {
            // Another line has begun: nothing was written, and nothing may say so.
            let what = format!("a round from {from:?} to {to:?} lies beside the line");
            return Err(Error::new(Kind::Conflict, what).at(self.parts.store.shown(&self.base_path(disk))));
        };
        let short = left_out("O5: a base has the length of the target");
        let size = self.names.lock().at(if short { &path } else { &until }).files.get(&disk).map(|f| f.size);
        let Some(size) = size else { return self.drop_base(disk) };
        let base = self.base_for_writing(disk, size)?;
        for attempt in 0..3 {
            match self.write_once(&base, disk, &between, size, again || attempt > 0, done)? {
                None => {
                    done.files += 1;
                    return Ok(());
                }
                Some(e) if attempt == 2 => return Err(e),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// `Some` if all of it has to be written again.
    fn write_once(
        &self,
        base: &BaseFile,
        disk: DiskOrdinal,
        between: &Path,
        size: u64,
        again: bool,
        done: &mut RoundDone,
    ) -> Result<Option<Error>> {
        let mut moved = Moved::default();
        for interval in between.intervals().iter().filter(|i| i.log == self.log.id()) {
            self.log.read_ahead(interval.from, interval.to)?;
        }
        let mut round = if again { base.repeat(size)? } else { base.round(size)? };
        let (mut buf, mut looked) = (Vec::new(), done.bytes);
        for extent in self.index.scan(between, disk, 0, size)? {
            let extent = extent?;
            let len = extent.len.min(size - extent.offset);
            match extent.source {
                Source::Below => {}
                Source::Zero => {
                    self.will_be_empty(disk, extent.offset, len);
                    round.discard(extent.offset, len)?;
                }
                Source::Data { log, entry, skip } => {
                    buf.resize(len as usize, 0);
                    Payloads::read(self, log, entry.pos, entry.len, entry.crc, skip, &mut buf)?;
                    round.data(extent.offset, &buf)?;
                    moved.data(extent.offset, len);
                    done.bytes += len;
                    Counters::add(&self.counters.base_bytes, len);
                }
            }
            if done.bytes - looked >= CHAIN_EVERY {
                looked = done.bytes;
                // Of no use to the round: what fails here the next checkpoint meets and says.
                let _ = self.bring_chain_near();
            }
        }
        Ok(match round.finish()? {
            Finished::Durable(_) => {
                self.room_taken(disk, base, &moved)?;
                None
            }
            Finished::WriteAgain(e) => Some(e),
        })
    }

    fn base_for_writing(&self, disk: DiskOrdinal, size: u64) -> Result<std::sync::Arc<BaseFile>> {
        if let Some(base) = self.live.read().files.get(&disk).and_then(|f| f.base.clone()) {
            return Ok(base);
        }
        let path = self.base_path(disk);
        let base = match BaseFile::create(&*self.parts.store, &path, size) {
            Ok(base) => base,
            Err(e) if e.kind() == Kind::Exists => BaseFile::open(&*self.parts.store, &path)?,
            Err(e) => return Err(e),
        };
        base.sync()?;
        self.parts.store.sync_dir(&self.dir)?;
        Ok(std::sync::Arc::new(base))
    }

    /// The file is gone at the target: so is its base, if no moment needs it.
    fn drop_base(&self, disk: DiskOrdinal) -> Result<()> {
        let path = self.base_path(disk);
        if self.parts.store.exists(&path)? {
            self.parts.store.remove(&path)?;
        }
        self.room_given(disk);
        Ok(())
    }

    /// O4: segments whose every place lies below every base on the live path. The one with the record at the edge
    /// stays: the oldest moment can still be named.
    fn free_below(&self) -> Result<u64> {
        let edge = {
            let mut core = self.core.lock();
            let path = self.head_path(&mut core)?;
            let places = core.bases.values().flat_map(|p| [p.base, p.floor]).flatten();
            let lowest = if left_out("O4: segments are freed only below every base") {
                Some(LogPlace { log: self.log.id(), pos: self.log.end() })
            } else {
                places.reduce(|a, b| self.earlier(&path, a, b))
            };
            let Some(edge) = lowest else { return Ok(0) };
            edge
        };
        // Behind a jump the moment that it leads to is the oldest; its name needs no record.
        let (main, jumped) = (self.main_edge(edge), edge.log != self.log.id());
        let below = |end: Pos| end < main || (jumped && end == main);
        let free: Vec<Pos> = self.log.segments().iter().filter(|s| below(s.end)).map(|s| s.start).collect();
        let last = self.log.segments().last().map(|s| s.start);
        let free: Vec<Pos> = free.into_iter().filter(|s| Some(*s) != last).collect();
        let staged = self.free_staged(main)?;
        if free.is_empty() {
            return Ok(staged);
        }
        let (log, staging) = (self.log.id(), self.staged_ids());
        let held = |at: LogPlace| if at.log == log { at.pos >= main } else { staging.contains(&at.log) };
        let held = |at| held(at) && !left_out("N4: a branch keeps its names");
        {
            // The line as it is now: a decision may have come since, with names of its own.
            let mut core = self.core.lock();
            let path = self.head_path(&mut core)?;
            self.names.lock().advance(&path, edge, held);
        }
        let unsaid = left_out("O4: segments are freed after a checkpoint without them");
        if !unsaid {
            self.full_checkpoint(false)?;
        }
        // The scan may begin before the last segment.
        let scan = self.core.lock().scan.scan_start;
        let free: Vec<Pos> = free.into_iter().filter(|s| unsaid || *s < scan).collect();
        if !left_out("O4: segments are freed after a list without them") {
            self.log.write_list_without(&free)?;
        }
        let kept = self.log.segments().iter().map(|s| s.start).find(|s| !free.contains(s));
        let mut gone = kept.unwrap_or(main);
        if left_out("O4: versions leave the index only below every base") {
            gone = self.log.end();
        }
        self.index.drop_below(self.log.id(), gone)?;
        Ok(staged + self.log.release(&free)?)
    }
}
