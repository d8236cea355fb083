//! The files of an index: which runs there are, durable as a list, and what opening makes of what it finds.
//!
//! C1. The list (`runs`) is replaced atomically after every change of the set; a run's file is removed only when
//!     a list without it is durable.
//! C2. The list can be made again from the runs' headers. A run that isn't listed counts, unless its stretch lies
//!     within that of another run of its log: then it was merged and its removal was cut short.
//! C3. A listed run that is missing or can't be read is reported with its stretch, never left out in silence.

use crate::format::index_page::u64_at;
use crate::index::run::Run;
use crate::index::run_writer::run_name;
use crate::seam::{Access, Storage};
use crate::vocab::{Error, GroupId, Kind, LogId, Pos, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LIST: &str = "runs";
const LIST_TEMPORARY: &str = "runs.tmp";
const LIST_BYTES_MAX: u64 = 64 << 20;
const FORMAT: u32 = 1;

#[derive(serde::Serialize, serde::Deserialize, Default)]
struct List {
    format: u32,
    next: u64,
    runs: Vec<Listed>,
}

#[derive(serde::Serialize, serde::Deserialize, Clone)]
struct Listed {
    number: u64,
    log: LogId,
    from: Pos,
    to: Pos,
}

/// A stretch of a log whose run can't be used.
#[derive(Debug)]
pub struct LostRun {
    /// Which log, from where, to where (exclusive), if that is known.
    pub stretch: Option<(LogId, Pos, Pos)>,
    /// Why.
    pub error: Error,
}

/// What opening an index found.
pub(super) struct Found {
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) lost: Vec<LostRun>,
    pub(super) next: u64,
}

/// Reads the directory, makes it if it isn't there, and clears what was left half done.
pub(super) fn open(storage: &dyn Storage, dir: &Path, group: GroupId) -> Result<Found> {
    make_dir(storage, dir)?;
    let listless = !storage.exists(&dir.join(LIST))?;
    let (list, mut lost) = match read_list(storage, dir) {
        Ok(list) => (list, Vec::new()),
        Err(error) if error.kind() == Kind::Unsupported => return Err(error),
        Err(error) => (List::default(), vec![LostRun { stretch: None, error }]),
    };
    let (mut runs, mut bad, mut next) = (Vec::new(), Vec::new(), list.next.max(1));
    for name in storage.list(dir)? {
        let path = dir.join(&name);
        if name.ends_with(".tmp") {
            storage.remove(&path)?;
            continue;
        }
        let Some(number) = name.strip_prefix("run-").and_then(|n| u64::from_str_radix(n, 16).ok()) else {
            continue;
        };
        next = next.max(number + 1);
        match Run::open(storage, &path).and_then(|run| belongs(run, number, group, &path)) {
            Ok(run) => runs.push(Arc::new(run)),
            Err(error) if error.kind() == Kind::Damaged => bad.push((number, path, error)),
            Err(error) => return Err(error),
        }
    }
    let whole = runs.clone();
    let (kept, merged): (Vec<_>, Vec<_>) =
        runs.into_iter().partition(|run| !whole.iter().any(|other| supersedes(other, run)));
    merged.iter().try_for_each(|run| storage.remove(&run.path))?;
    let covered = |l: &Listed| {
        kept.iter().any(|run| run.header.log == l.log && run.header.from <= l.from && l.to <= run.header.to)
    };
    let numbers: Vec<u64> = bad.iter().map(|(number, ..)| *number).collect();
    for (number, path, error) in bad {
        let listed = list.runs.iter().find(|l| l.number == number);
        if listed.is_none_or(covered) {
            storage.remove(&path)?;
        }
        // One that isn't listed was replaced, or its segment has no run: the caller sees that by itself.
        let matters = listed.map_or(listless || !lost.is_empty(), |l| !covered(l));
        if matters {
            lost.push(LostRun { stretch: listed.map(|l| (l.log, l.from, l.to)), error });
        }
    }
    for listed in list.runs.iter().filter(|l| !covered(l) && !numbers.contains(&l.number)) {
        let error = Error::new(Kind::NotFound, "a listed run of the index is missing")
            .at(storage.shown(&dir.join(run_name(listed.number))));
        lost.push(LostRun { stretch: Some((listed.log, listed.from, listed.to)), error });
    }
    Ok(Found { runs: kept, lost, next })
}

/// Makes a directory, and its name durable.
pub(super) fn make_dir(storage: &dyn Storage, dir: &Path) -> Result<()> {
    storage.make_dir(dir)?;
    dir.ancestors().skip(1).try_for_each(|above| storage.sync_dir(above))
}

/// C2: whether `other` holds all that `run` holds.
fn supersedes(other: &Run, run: &Run) -> bool {
    let (a, b) = (&other.header, &run.header);
    let within = a.log == b.log && a.from <= b.from && b.to <= a.to;
    within && ((a.from, a.to) != (b.from, b.to) && a.number != b.number || a.number > b.number)
}

fn belongs(run: Run, number: u64, group: GroupId, path: &Path) -> Result<Run> {
    if run.header.number == number && run.header.group == group {
        return Ok(run);
    }
    Err(Error::new(Kind::Damaged, "an index run under another run's name or of another group").at(path))
}

fn read_list(storage: &dyn Storage, dir: &Path) -> Result<List> {
    let path = dir.join(LIST);
    if !storage.exists(&path)? {
        return Ok(List::default());
    }
    let file = storage.open(&path, Access::ReadOnly)?;
    let damaged = |what: &str| {
        Error::new(Kind::Damaged, what).at(storage.shown(&path)).advice("It is made again from the runs")
    };
    let len = file.len()?;
    if !(8..=LIST_BYTES_MAX).contains(&len) {
        return Err(damaged("the list of index runs has an impossible length"));
    }
    let mut bytes = vec![0; len as usize];
    let got = file.read_at(&mut bytes, 0)?;
    let (sum, text) = bytes[..got].split_at(8.min(got));
    if sum.len() < 8 || u64_at(sum, 0) != checksum(text) {
        return Err(damaged("the list of index runs doesn't fit its checksum"));
    }
    let list: List =
        serde_json::from_slice(text).map_err(|e| damaged(&format!("the list of index runs: {e}")))?;
    if list.format != FORMAT {
        return Err(Error::new(Kind::Unsupported, format!("list of index runs of format {}", list.format))
            .at(storage.shown(&path))
            .advice("Use the version that wrote it, or a later one"));
    }
    Ok(list)
}

/// Eight hexadecimal digits, as the bytes of a number.
fn checksum(text: &[u8]) -> u64 {
    u64::from_le_bytes(hex(crc32c::crc32c(text)))
}

fn hex(crc: u32) -> [u8; 8] {
    let digit = |at: u32| b"0123456789abcdef"[(crc >> (28 - 4 * at) & 15) as usize];
    [digit(0), digit(1), digit(2), digit(3), digit(4), digit(5), digit(6), digit(7)]
}

/// C1: makes the list durable.
pub(super) fn write_list(
    storage: &dyn Storage,
    dir: &Path,
    next: u64,
    runs: impl Iterator<Item = Arc<Run>>,
) -> Result<()> {
    let runs = runs
        .map(|run| Listed {
            number: run.header.number,
            log: run.header.log,
            from: run.header.from,
            to: run.header.to,
        })
        .collect();
    let mut text = vec![b'\n'];
    serde_json::to_writer(&mut text, &List { format: FORMAT, next, runs })
        .map_err(|e| Error::new(Kind::Invalid, format!("the list of index runs: {e}")))?;
    text.push(b'\n');
    let (temporary, path): (PathBuf, PathBuf) = (dir.join(LIST_TEMPORARY), dir.join(LIST));
    if storage.exists(&temporary)? {
        storage.remove(&temporary)?;
    }
    let write = || {
        let file = storage.create(&temporary, Access::Cached)?;
        file.write_all_at(&hex(crc32c::crc32c(&text)), 0)?;
        file.write_all_at(&text, 8)?;
        file.sync()?;
        storage.rename(&temporary, &path)
    };
    // What is left of it would take room where there is none.
    write().inspect_err(|_| _ = storage.remove(&temporary))?;
    storage.sync_dir(dir)
}
