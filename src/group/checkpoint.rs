//! Checkpoints: what recovery begins with.
//!
//! K1. Before it is written everything that it speaks of is durable: log, runs, ranges, names, list of segments.
//! K2. It is what makes a line of the history count.
//! K4. Only a full checkpoint moves the begin of the scan; the others leave it where list, runs and names are whole.
//! K5. The begin of the scan is chosen before anything else of a full checkpoint is written down, among the
//!     segments that hold something that has entered: all that lies before it is in spans, names and list.
//! K6. A group is called drained only if each base is the plain image of its file at the head.
//! K7. A checkpoint is written after the line of each row and withdrawal that the table has. A row whose line failed
//!     is found by the scan only until a later epoch moves its begin; then spans would name an epoch that nobody knows.
//! K3. Names and spans beyond the durable place are not in it: a power loss may take them.

use crate::format::{Checkpoint, FileState, LogState};
use crate::group::Group;
use crate::group::group::{BasePlace, Core};
use crate::group::left_out;
use crate::group::line::between;
use crate::group::names::NameLog;
use crate::history::Event;
use crate::journal::HistoryFile;
use crate::journal::small_file;
use crate::seam::Storage;
use crate::vocab::{DiskOrdinal, LogPlace, Pos, Result};
use std::path::Path;

const NAMES: &str = "names.json";

impl Group {
    /// A full checkpoint: at least every 16 MiB of log, 64 where the list of segments is long, and within 100 ms of idleness.
    pub fn checkpoint(&self) -> Result<()> {
        let _work = self.work.lock();
        self.full_checkpoint(false)
    }

    pub(crate) fn full_checkpoint(&self, closed: bool) -> Result<()> {
        self.refuse_left()?;
        // K5: writers go on meanwhile, and may begin a segment between any two of these steps.
        let (_, entered) = self.entered();
        let mut scan = self.log.scan_from(entered);
        self.log.sync()?;
        self.seal_all()?;
        between("checkpoint: index");
        self.write_ranges()?;
        self.follow_chain(self.log.end())?;
        self.write_chain()?;
        scan.scan_chain = self.log.start_chain(scan.scan_start);
        let mut core = self.core.lock();
        self.refresh_spans(&mut core);
        between("checkpoint: spans");
        self.write_names()?;
        between("checkpoint: names");
        self.log.write_list(closed)?;
        between("checkpoint: list");
        core.scan = if left_out("K5: the begin of the scan is chosen first") {
            self.log.checkpoint_state()
        } else {
            scan
        };
        self.write_checkpoint(&mut core, closed)
    }

    /// Writes the slots only: after a line of the history, or when a base has moved.
    pub(crate) fn write_checkpoint(&self, core: &mut Core, closed: bool) -> Result<()> {
        self.refuse_left()?;
        self.write_owed(core)?;
        // K4: the scan begins where the last full one said: what lies before has its list, runs and names.
        let now = self.log.checkpoint_state();
        let main = LogState { durable: now.durable, allocated: now.allocated, ..core.scan.clone() };
        let logs = std::iter::once(main).chain(self.staged_states()).collect();
        let head = self.log.head().0;
        let checkpoint = Checkpoint {
            logs,
            head,
            history_lines: core.history.count(),
            history_crc: core.history.crc(),
            spans: core.spans.0.clone(),
            files: core
                .bases
                .iter()
                .map(|(disk, p)| FileState { disk: *disk, base: p.base, floor: p.floor })
                .collect(),
            age: self.parts.clock.boot_ns(),
            wall: self.parts.clock.wall_ns(),
            closed,
            drained: closed && core.bases.values().all(|p| self.is_drained(p)),
        };
        core.checkpoints.write(&checkpoint)
    }

    fn is_drained(&self, place: &BasePlace) -> bool {
        left_out("K6: drained is said of bases at the head")
            || place.base.is_some_and(|b| b.log == self.log.id() && b.pos >= self.log.end())
    }

    /// Names and sizes over time, as a file replaced as a whole.
    pub(crate) fn write_names(&self) -> Result<()> {
        let durable = self.log.durable();
        let mut names = self.names.lock().clone();
        names.facts.retain(|f| f.place.log != self.log.id() || f.place.pos < durable);
        small_file::write(&*self.parts.store, &self.dir, NAMES, &names)
    }

    /// Syncs what nobody has flushed; to be called every 100 ms for a protected group, every second else.
    pub fn sync(&self) -> Result<Pos> {
        self.log.sync()
    }

    /// Closes in order: everything durable, in the index, and the tail sealed. Nothing may be written after it.
    pub fn close(&self) -> Result<()> {
        let _rounds = self.rounds.lock();
        let _work = self.work.lock();
        self.log.seal()?;
        self.full_checkpoint(true)
    }
}

/// The names that the newest full checkpoint has.
///
/// # Errors
/// `Damaged` if the file isn't what was written.
pub(crate) fn read_names(storage: &dyn Storage, dir: &Path) -> Result<NameLog> {
    small_file::read(storage, dir, NAMES)
        .map(Option::unwrap_or_default)
        .map_err(|e| e.advice("The names can be read from the journal: see `standbyfs inspect`"))
}

/// A first place for the base of a file: nothing is in it, and that lies below everything.
pub(crate) fn empty_base(log: crate::vocab::LogId) -> BasePlace {
    let place = Some(LogPlace { log, pos: Pos(0) });
    BasePlace { base: place, floor: place }
}

/// Rows that the journal holds and the history lacks (E4 of `epoch`): their lines are written now.
pub(crate) fn mend_history(
    history: &mut HistoryFile,
    events: &mut Vec<(i64, Event)>,
    rows: Vec<crate::history::Row>,
) -> Result<usize> {
    let known = |events: &[(i64, Event)], row: &crate::history::Row| {
        events.iter().any(|(_, e)| matches!(e, Event::Epoch { row: r, .. } if r.epoch == row.epoch))
    };
    let mut mended = 0;
    for row in rows {
        if !known(events, &row) {
            let (time, event) = (row.time_ns, Event::Epoch { row, own: true });
            history.append(time, event.clone())?;
            events.push((time, event));
            mended += 1;
        }
    }
    Ok(mended)
}

/// Which files a base is kept for: every ordinal that was ever added.
pub(crate) fn ordinals(names: &NameLog) -> Vec<DiskOrdinal> {
    let facts = names.facts.iter().flat_map(|f| match &f.change {
        crate::group::names::Change::Add(disk, _) => vec![*disk],
        crate::group::names::Change::All(names) => names.files.keys().copied().collect(),
        _ => Vec::new(),
    });
    let mut all: Vec<DiskOrdinal> = names.snapshot.files.keys().copied().chain(facts).collect();
    all.sort_unstable();
    all.dedup();
    all
}
