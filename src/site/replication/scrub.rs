//! Scrub: the bytes of one moment, compared between both sites by their hashes.
//!
//! S1. Both sites read the moment through their own view: base and journal, what a guest or an export would get. So
//!     what differs is found wherever it is: bases have no checksums.
//! S2. What differs is narrowed down to pieces of [`PIECE`] bytes, and named by file and offset.
//! S3. A moment that the peer doesn't hold is no difference: the scrub waits a little for what is on its way, then
//!     says so.

use super::{Command, GroupSlot, Replication};
use crate::exchange::{About, DiskRange, Scrub};
use crate::group::{Group, MomentView};
use crate::history::ChainValue;
use crate::site::Vm;
use crate::site::jobs::JobHandle;
use crate::vocab::{Error, GroupId, Kind, Moment, Result, Token};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Bytes that are hashed for one question; the peer answers none about more.
pub(super) const RANGE: u64 = 1 << 20;
/// What differs is told in pieces of so many bytes.
const PIECE: u64 = 4096;
/// Questions on their way at once.
const ASKED: usize = 16;
/// How long an answer, or the moment itself, may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Differences that are named; there may be more.
const NAMED: usize = 16;

/// What the peer says of a range: its hash, or that it doesn't hold the moment.
pub(super) type Heard = std::result::Result<Option<ChainValue>, String>;

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Bytes of the moment.
    pub bytes: u64,
    /// Where the sites differ, the first ones.
    pub differs: Vec<DiskRange>,
    /// Bytes that differ, in whole pieces.
    pub differing: u64,
}

/// The hash that both sites make of a range of a moment.
pub(super) fn hash(
    group: &Group,
    view: &MomentView,
    range: DiskRange,
    buffer: &mut Vec<u8>,
) -> Result<ChainValue> {
    let length = usize::try_from(range.length.min(RANGE)).unwrap_or(0);
    buffer.resize(length, 0);
    group.read_moment(view, range.disk, range.offset, &mut buffer[..length])?;
    Ok(ChainValue(*blake3::hash(&buffer[..length]).as_bytes()))
}

/// This site's answer to a question of the peer. None: the moment isn't held here.
pub(super) fn answer(group: &Group, scrub: Scrub) -> Result<About> {
    if scrub.range.length > RANGE {
        let text = format!("at most {RANGE} bytes are hashed at once");
        return Ok(About::Declined { op: scrub.id, name: "invalid".into(), text });
    }
    let held = match group.open_moment(scrub.moment) {
        Ok(view) => Some(hash(group, &view, scrub.range, &mut Vec::new())?),
        Err(error) if error.kind() == Kind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(About::Scrubbed { scrub, hash: held })
}

impl Replication {
    /// Compares all files of a moment with the peer.
    ///
    /// # Errors
    /// `Unreachable`: the peer went away. `NotFound`: it doesn't hold the moment. Those of reading here.
    pub(crate) fn scrub(&self, vm: &Vm, moment: Moment, job: &JobHandle) -> Result<Compared> {
        let slot = self.linked(vm).map_err(Error::from)?;
        let group = slot.group();
        let view = group.open_moment(moment)?;
        self.await_moment(&slot, &view, job)?;
        let total: u64 = view.names.files.values().map(|f| f.size).sum();
        let mut out = Compared { bytes: total, ..Compared::default() };
        let mut done = 0;
        let files: Vec<_> = view.names.files.iter().map(|(disk, f)| (*disk, f.size)).collect();
        let ranges = files.into_iter().flat_map(|(disk, size)| {
            (0..size).step_by(RANGE as usize).map(move |offset| DiskRange {
                disk,
                offset,
                length: RANGE.min(size - offset),
            })
        });
        let mut found = Vec::new();
        self.compare(&slot, &view, ranges, &mut |range, same| {
            done += range.length;
            job.progress(done, total, 0);
            if !same {
                found.push(range);
            }
            job.check()
        })?;
        // S2.
        let pieces = found.into_iter().flat_map(|range| {
            (0..range.length).step_by(PIECE as usize).map(move |at| DiskRange {
                offset: range.offset + at,
                length: PIECE.min(range.length - at),
                ..range
            })
        });
        self.compare(&slot, &view, pieces, &mut |piece, same| {
            if same {
                return job.check();
            }
            out.differing += piece.length;
            let room = out.differs.len() < NAMED;
            match out.differs.last_mut() {
                Some(last) if last.disk == piece.disk && last.offset + last.length == piece.offset => {
                    last.length += piece.length;
                }
                _ if room => out.differs.push(piece),
                _ => {}
            }
            job.check()
        })?;
        Ok(out)
    }

    /// S3.
    fn await_moment(&self, slot: &Arc<GroupSlot>, view: &MomentView, job: &JobHandle) -> Result<()> {
        let Some(disk) = view.names.files.keys().next().copied() else { return Ok(()) };
        let until = Instant::now() + PATIENCE;
        loop {
            let (_, heard) = self.ask(slot, view.moment, DiskRange { disk, offset: 0, length: 0 })?;
            if self.heard(heard)?.is_some() {
                return Ok(());
            }
            if Instant::now() >= until {
                let what = format!("the other site doesn't hold {}", view.moment);
                return Err(Error::new(Kind::NotFound, what)
                    .advice("Choose a moment that both sites list in recovery-points/"));
            }
            job.check()?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Hashes ranges here while the peer does.
    fn compare(
        &self,
        slot: &Arc<GroupSlot>,
        view: &MomentView,
        mut ranges: impl Iterator<Item = DiskRange>,
        each: &mut dyn FnMut(DiskRange, bool) -> Result<()>,
    ) -> Result<()> {
        let mut asked: VecDeque<(DiskRange, Receiver<Heard>)> = VecDeque::new();
        let mut buffer = Vec::new();
        loop {
            while asked.len() < ASKED
                && let Some(range) = ranges.next()
            {
                asked.push_back(self.ask(slot, view.moment, range)?);
            }
            let Some((range, heard)) = asked.pop_front() else { return Ok(()) };
            let own = hash(&slot.group(), view, range, &mut buffer)?;
            let Some(peers) = self.heard(heard)? else {
                let what = format!("the other site let {} go meanwhile", view.moment);
                return Err(Error::new(Kind::NotFound, what));
            };
            each(range, own == peers)?;
        }
    }

    fn ask(
        &self,
        slot: &Arc<GroupSlot>,
        moment: Moment,
        range: DiskRange,
    ) -> Result<(DiskRange, Receiver<Heard>)> {
        let gone = || Error::new(Kind::Unreachable, "the connection to the other site ended");
        let commands = self.peer(slot.peer).commands.lock().clone().ok_or_else(gone)?;
        let id = Token(self.site()?.entropy().random_128());
        let (sender, receiver) = channel();
        self.scrubs.lock().insert(id, sender);
        let about = About::AskScrub(Scrub { id, moment, range });
        commands.send(Command::Say { group: slot.id(), about: Box::new(about) }).map_err(|_| gone())?;
        Ok((range, receiver))
    }

    fn heard(&self, heard: Receiver<Heard>) -> Result<Option<ChainValue>> {
        match heard.recv_timeout(PATIENCE) {
            Ok(Ok(hash)) => Ok(hash),
            Ok(Err(text)) => {
                Err(Error::new(Kind::Unsupported, format!("the other site doesn't hash: {text}")))
            }
            Err(_) => Err(Error::new(Kind::Unreachable, "the other site doesn't answer")),
        }
    }

    /// An answer has come, for whoever asked. False: it was no answer to a scrub.
    pub(super) fn scrubbed(&self, id: Token, heard: Heard) -> bool {
        match self.scrubs.lock().remove(&id) {
            // Who asked may have given up.
            Some(sender) => {
                let _ = sender.send(heard);
                true
            }
            None => false,
        }
    }

    /// Nobody will answer any more what was asked in a connection that ended.
    pub(super) fn forget_scrubs(&self) {
        self.scrubs.lock().clear();
    }

    /// Notes what a scrub found, for health.
    pub(crate) fn note_corruption(&self, group: GroupId) {
        let slot = self.groups.lock().get(&group).cloned();
        if let Some(slot) = slot {
            slot.running.lock().corruption_ns = Some(self.now_ns());
        }
    }
}
