//! A group: what it is made of, and which lock guards what.
//!
//! Locks, in the order in which they may be taken:
//!
//! 0. `import`: one import of an image at a time, and none while the group is reopened.
//! 1. `rounds`: one round, publication of a copy, reopening or closing at a time. Held while bases are written.
//! 2. `work`: one of checkpoint, begin or end of a round, fork or step of an operation at a time. Held over file I/O, but
//!    never while a base is written: a failover doesn't wait for that.
//! 3. `core`: bases, spans, table, history file, checkpoint file. Held over small file I/O by operations only.
//! 4. `queue`: gate, names and sizes as queued, pending requests. Never held over I/O.
//! 5. `names`, `live`, `entered`, `chain`, `flushes`: leaves; nothing is taken under them but the log's and index's own.
//!
//! G1. Requests enter the journal in the order in which they pass the queue; one thread appends at a time.
//! G2. A request is answered when it and all before it are in the file and in the index.
//! G3. The gate is read under the queue's lock: once it is closed no later request enters.

use crate::base::{BaseFile, base_name};
use crate::format::LogState;
use crate::group::chain::At;
use crate::group::left_out;
use crate::group::line::Live;
use crate::group::logs::StagedLog;
use crate::group::names::NameLog;
use crate::group::queue::Queue;
use crate::group::space::Space;
use crate::group::spans::Spans;
use crate::history::{ChainValue, Event, Table};
use crate::index::{CacheBudget, Index, RangeLog};
use crate::journal::{CheckpointFile, HistoryFile, Log};
use crate::seam::{Clock, Entropy, Rooms, Storage};
use crate::vocab::{DiskOrdinal, GroupId, Kind, LogId, LogPlace, Moment, Pos, Result, StoreId};
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// What a group works with; shared by all groups of a store.
#[derive(Clone)]
pub struct GroupParts {
    /// The store's directory: catalog, history, bases, index.
    pub store: Arc<dyn Storage>,
    /// The directory of logs, perhaps on another device.
    pub journal: Arc<dyn Storage>,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub entropy: Arc<dyn Entropy>,
    /// Identity of the store.
    pub store_id: StoreId,
    /// Boot of the machine.
    pub boot: [u8; 16],
    /// Memory of all indexes.
    pub cache: Arc<CacheBudget>,
    /// See [`crate::journal::LogParts::segment_bytes`].
    pub segment_bytes: (u64, u64),
    /// Accounts of the filesystems of both.
    pub rooms: Rooms,
}

impl GroupParts {
    /// The directory of a group, in the store and in the journal.
    pub fn dir(group: GroupId) -> PathBuf {
        PathBuf::from("groups").join(group.to_string())
    }
}

/// Where the base of a file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BasePlace {
    pub(crate) base: Option<LogPlace>,
    pub(crate) floor: Option<LogPlace>,
}

pub(crate) struct Core {
    pub(crate) checkpoints: CheckpointFile,
    /// Where the newest full checkpoint lets the scan begin.
    pub(crate) scan: LogState,
    pub(crate) history: HistoryFile,
    pub(crate) events: Vec<(i64, Event)>,
    /// K7 of `checkpoint`: so many of the newest events the history's file lacks.
    pub(crate) owed: usize,
    pub(crate) table: Table,
    pub(crate) spans: Spans,
    pub(crate) bases: BTreeMap<DiskOrdinal, BasePlace>,
    /// L3 of `line`.
    pub(crate) closed: bool,
}

pub(crate) struct ChainState {
    /// The moment up to which the chain is known, its value, and the place behind its record.
    pub(crate) moment: Moment,
    pub(crate) value: ChainValue,
    pub(crate) place: Pos,
    /// Values at the begin of segments (by start place): where a recomputation can begin.
    pub(crate) at_segment: BTreeMap<Pos, (Moment, ChainValue)>,
    /// Values kept for ever, and those at moments that somebody asked for.
    pub(crate) marks: BTreeMap<Moment, ChainValue>,
    /// What jumps attested, by the end of the log when they were published.
    pub(crate) jumps: BTreeMap<Pos, At>,
    /// C11 of `chain`: the newest ends of batches, all those beyond the durable place among them.
    pub(crate) ahead: VecDeque<(Pos, At)>,
}

/// Flush waiters and the sync that serves them.
#[derive(Default)]
pub(crate) struct Flushes {
    pub(crate) running: bool,
    pub(crate) waiting: Vec<(Pos, Reply)>,
}

/// Answers a request; from any thread.
pub type Reply = Box<dyn FnOnce(Result<()>) + Send>;

/// One replication group, open.
pub struct Group {
    pub(crate) id: GroupId,
    pub(crate) parts: GroupParts,
    pub(crate) dir: PathBuf,
    pub(crate) log: Log,
    pub(crate) index: Index,
    /// U5 of `ranges`.
    pub(crate) ranges: Mutex<Option<Arc<RangeLog>>>,
    /// Staging logs on the path; a leaf among the locks.
    pub(crate) staged: RwLock<BTreeMap<LogId, StagedLog>>,
    pub(crate) import: Mutex<()>,
    /// I3 of `take_in`: the file whose base is coming, 0 for none.
    pub(crate) importing: AtomicU32,
    pub(crate) rounds: Mutex<()>,
    /// V8 of `read`: how often a round has raised a floor.
    pub(crate) floors: AtomicU64,
    pub(crate) work: Mutex<()>,
    pub(crate) core: Mutex<Core>,
    pub(crate) queue: Mutex<Queue>,
    /// Told when no append runs any more.
    pub(crate) idle: Condvar,
    /// Told when as many requests are pending as the leader waits for.
    pub(crate) gathered: Condvar,
    pub(crate) names: Mutex<NameLog>,
    pub(crate) live: RwLock<Arc<Live>>,
    /// L2 of `line`.
    pub(crate) entered: Mutex<(Moment, Pos)>,
    pub(crate) chain: Mutex<ChainState>,
    /// C10 of `chain`: bytes of log that who has its lock goes through yet.
    pub(crate) chain_left: AtomicU64,
    pub(crate) flushes: Mutex<Flushes>,
    /// The moment that the base must not pass: what a target has acknowledged, or a copy's cursor.
    pub(crate) pin: Mutex<Option<Moment>>,
    /// Moments that are open, and how often; a leaf among the locks.
    pub(crate) open_moments: Mutex<BTreeMap<Moment, usize>>,
    pub(crate) last_flush_ns: AtomicU64,
    pub(crate) writes_since_flush: AtomicU32,
    /// How long the newest durable append took, ns.
    pub(crate) durable_ns: AtomicU64,
    pub(crate) counters: Counters,
    pub(crate) space: Space,
    /// See `pressure`.
    pub(crate) shortened: AtomicU64,
    /// A failure has cost records: see `mend`.
    pub(crate) missing: AtomicBool,
    /// W3 of `mend`.
    pub(crate) left: AtomicBool,
    /// Whether a copy over the image is being received, or waits to go on: its file is there.
    pub(crate) copying_over: AtomicBool,
}

/// Figures since the group was opened.
#[derive(Default)]
pub struct Counters {
    /// Records appended.
    pub records: AtomicU64,
    /// Batches appended.
    pub batches: AtomicU64,
    /// Those of them that were durable when they were answered.
    pub durable_batches: AtomicU64,
    /// Times that a leader waited for more requests, so that one sync serves them all.
    pub gathers: AtomicU64,
    /// Payload bytes that guests wrote.
    pub guest_bytes: AtomicU64,
    /// Syncs of the log that a flush waited for.
    pub syncs: AtomicU64,
    /// Bytes written into bases.
    pub base_bytes: AtomicU64,
}

impl Counters {
    /// Records, and the batches that they came in: one write of the journal each.
    pub fn appended(&self) -> (u64, u64) {
        (self.records.load(Ordering::Relaxed), self.batches.load(Ordering::Relaxed))
    }

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

impl Group {
    /// Its identity.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Figures since it was opened.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The history's events, oldest first, with their wall times.
    pub fn events(&self) -> Vec<(i64, Event)> {
        self.core.lock().events.clone()
    }

    /// Epoch rows and withdrawals that this site knows.
    pub fn table(&self) -> Table {
        self.core.lock().table.clone()
    }

    /// Bytes of logs and index.
    pub fn journal_bytes(&self) -> u64 {
        self.log.bytes() + self.staged_bytes() + self.index.stats().run_bytes
    }

    /// Bytes of segments in use and index.
    pub fn journal_used(&self) -> u64 {
        self.log.used_bytes() + self.index.stats().run_bytes
    }

    /// Makes a segment file ready ahead of need; to be called every now and then. Returns whether it did.
    pub fn prepare(&self) -> Result<bool> {
        self.log.prepare()
    }

    pub(crate) fn base_path(&self, disk: DiskOrdinal) -> PathBuf {
        self.dir.join(base_name(disk))
    }

    /// Adds a line to the history and lets a checkpoint count it: from then on it may be acted on.
    pub(crate) fn record(&self, core: &mut Core, event: Event) -> Result<()> {
        self.refuse_left()?;
        self.write_owed(core)?;
        self.append_line(core, event)?;
        self.count_lines(core)
    }

    /// As [`Group::record`], for all that is owed (K7).
    pub(crate) fn record_owed(&self, core: &mut Core) -> Result<()> {
        self.refuse_left()?;
        self.write_owed(core)?;
        self.count_lines(core)
    }

    /// K7: what happened and has no line yet. It is known here from now on; the line is written by whoever writes next.
    pub(crate) fn owe(&self, core: &mut Core, event: Event) {
        core.events.push((self.parts.clock.wall_ns(), event));
        core.owed += 1;
    }

    fn count_lines(&self, core: &mut Core) -> Result<()> {
        if left_out("K2: a line is acted on when a checkpoint counts it") {
            return Ok(());
        }
        self.write_checkpoint(core, false)
    }

    /// K7. The caller has made sure that nobody else owns the history (W3).
    pub(crate) fn write_owed(&self, core: &mut Core) -> Result<()> {
        while core.owed > 0 {
            let at = core.events.len() - core.owed;
            let (time, event) = core.events[at].clone();
            let written = core.history.append(time, event);
            if written.is_err() && left_out("K7: a line that failed is owed") {
                core.events.remove(at);
                core.owed -= 1;
            }
            written?;
            core.owed -= 1;
        }
        Ok(())
    }

    fn append_line(&self, core: &mut Core, event: Event) -> Result<()> {
        let time = self.parts.clock.wall_ns();
        core.history.append(time, event.clone())?;
        core.events.push((time, event));
        Ok(())
    }

    /// Adds a line to the history, durable and counted when this returns.
    pub fn record_line(&self, event: Event) -> Result<()> {
        self.record(&mut self.core.lock(), event)
    }

    /// Sets the moment that the base must not pass.
    pub fn set_pin(&self, moment: Option<Moment>) {
        *self.pin.lock() = moment;
    }

    pub(crate) fn open_base(&self, disk: DiskOrdinal) -> Result<Option<Arc<BaseFile>>> {
        match BaseFile::open(&*self.parts.store, &self.base_path(disk)) {
            Ok(base) => Ok(Some(Arc::new(base))),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Where everything lies, in words, for messages of failed tests and for `inspect`.
    pub fn layout(&self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        let core = self.core.lock();
        for s in self.log.segments() {
            let _ = writeln!(
                out,
                "segment {}..{} of {}, seq {}..{}",
                s.start,
                s.end,
                s.epoch.short(),
                s.first_seq,
                s.last_seq
            );
        }
        for s in &core.spans.0 {
            let _ = writeln!(
                out,
                "span {}..{} of {}, seq {}..{}, parent end {:?}",
                s.from,
                s.to,
                s.epoch.short(),
                s.first_seq,
                s.last_seq,
                s.parent_end
            );
        }
        for (disk, p) in &core.bases {
            let _ = writeln!(
                out,
                "file {disk}: base {:?}, floor {:?}",
                p.base.map(|b| b.pos),
                p.floor.map(|b| b.pos)
            );
        }
        let (edge, facts) = {
            let names = self.names.lock();
            (names.edge.map(|e| e.pos), names.facts.len())
        };
        let _ = writeln!(out, "names from {edge:?}, {facts} facts; live {:?}", self.live.read().path);
        out
    }
}
