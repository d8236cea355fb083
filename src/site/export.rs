//! The files of a moment, out of a store whose daemon is gone.
//!
//! X1. The store isn't written to. Log and base are read by the code that serves the mount.
//! X2. Every byte that comes from the log has its checksum checked. What comes from a base is taken only where the
//!     checkpoint shows that no round has gone over the moment; if a daemon moves the base meanwhile the export fails.
//! X3. What can't be read as it was written ends the export with path and offset; no file of it stays behind.
//! X4. When it returns all is durable.

use crate::format::FileKind;
use crate::group::{Group, GroupParts};
use crate::protection::control::{EpochPrefix, MomentRef};
use crate::protection::text_time;
use crate::seam::{Entropy, Storage};
use crate::site::inspect::{Report, checkpoint_of, open_in_memory};
use crate::site::objects::{PointsObject, VmObject};
use crate::site::store::{Moved, OpenFor, Store};
use crate::vocab::{DiskOrdinal, Error, Kind, LogPlace, Moment, Result, Seq};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const STEP: usize = 1 << 20;
const BLOCK: usize = 4096;

/// What `export` is asked.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// The store.
    pub store: PathBuf,
    /// Its journal directory, if that isn't where it was.
    pub journal: Option<PathBuf>,
    /// The VM, by name or identity.
    pub vm: String,
    /// The moment, as names of directories and control lines have it.
    pub moment: String,
    /// An empty directory, or one that doesn't exist yet.
    pub to: PathBuf,
    /// Go on where the files about the group are damaged, so that nobody can say whether the bytes are right.
    pub damaged: bool,
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The moment.
    pub moment: Moment,
    /// Files and their sizes.
    pub files: Vec<(PathBuf, u64)>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Writes the files of a moment.
///
/// # Errors
/// `Refused` `not-empty`; `NotFound` for a VM or moment that isn't held; `Damaged` with path and offset; `Busy` if a
/// daemon moved a base meanwhile.
pub fn export(options: &ExportOptions, entropy: &dyn Entropy) -> Result<Exported> {
    let moment: MomentRef = options
        .moment
        .parse()
        .map_err(|e: crate::protection::control::MomentError| Error::new(Kind::Invalid, e.to_string()))?;
    prepare(&options.to)?;
    let store =
        Store::open(&options.store, OpenFor::Reading, Moved::Unsaid, options.journal.as_deref(), entropy)?;
    let (vms, damaged) = store.catalog().list::<VmObject>()?;
    let Some(vm) = vms.into_iter().find(|v| v.name == options.vm || v.id.to_string() == options.vm) else {
        let damage = damaged.into_iter().next();
        return Err(damage.unwrap_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no VM `{}` in the store", options.vm))
                .advice("`standbyfs inspect` lists what there is")
        }));
    };
    let mut notes = Vec::new();
    if store.beside_writer() {
        notes.push("a daemon has the store open: `latest` is what its files show now".into());
    }
    // Which slot of a checkpoint is missing matters: an older one knows an older floor than the base may have.
    let mut damage = Report::default();
    checkpoint_of(&mut damage, &*store.storage(), vm.group);
    if let Some(found) = damage.damage.first() {
        let what = format!("{}: {}", found.path, found.what);
        if !options.damaged {
            return Err(Error::new(Kind::Damaged, what).advice(
                "The base may be newer than the moment. With --damaged it is exported all the same",
            ));
        }
        notes.push(format!("unproved: {what}"));
    }
    let (group, found) = open_in_memory(&store.storage(), &store.journal(), vm.group)?;
    if let Some(why) = found.damage {
        if matches!(moment, MomentRef::Latest | MomentRef::LatestProcessed) {
            return Err(Error::new(Kind::Damaged, format!("the newest moment can't be read: {why}")).advice(
                format!("Name an older one: the newest that can be read is @seq-{}", group.head().seq),
            ));
        }
        notes.push(format!("the log is damaged: {why}"));
    }
    let points = store.catalog().get::<PointsObject>(&vm.group.to_string())?;
    let moment = resolve(&group, &moment, points.as_ref())?;
    let written = write_all(&group, &vm, moment, &options.to);
    let unmoved = written.and_then(|files| {
        floors_unmoved(&group, &*store.storage(), &vm)?;
        Ok(files)
    });
    match unmoved {
        Ok(files) => Ok(Exported { moment, files, notes }),
        Err(error) => {
            empty(&options.to);
            Err(error)
        }
    }
}

fn io(error: std::io::Error, what: &str, path: &Path) -> Error {
    Error::io(error, what).at(path)
}

fn prepare(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| io(e, "can't make the directory", dir))?;
    let mut entries = fs::read_dir(dir).map_err(|e| io(e, "can't list", dir))?;
    if entries.next().is_some() {
        return Err(Error::refused("not-empty", format!("{} holds something already", dir.display()))
            .advice("Choose an empty directory, or one that doesn't exist yet"));
    }
    Ok(())
}

/// X3. The directory was empty, so all in it is from here.
fn empty(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(e) = removed {
            tracing::warn!("can't remove {}: {e}", path.display());
        }
    }
}

/// The moment that is meant, on the line of the head.
fn resolve(group: &Group, wanted: &MomentRef, points: Option<&PointsObject>) -> Result<Moment> {
    let head = group.head();
    let table = group.table();
    let missing = |what: String| {
        Error::new(Kind::NotFound, what).advice(format!("The newest moment is @seq-{}", head.seq))
    };
    let line = |end: Moment| table.line(end).map_err(|e| missing(e.to_string()));
    match wanted {
        MomentRef::Latest | MomentRef::LatestProcessed => Ok(head),
        MomentRef::Seq(n) => {
            let at = line(head)?.at(Seq(*n));
            at.filter(|_| *n <= head.seq.0).ok_or_else(|| missing(format!("there is no moment @seq-{n}")))
        }
        MomentRef::Epoch(prefix, n) => {
            let epoch = the_epoch(group, prefix)?;
            Ok(Moment { epoch, seq: Seq(*n) })
        }
        MomentRef::Time(wall) => at_time(group, *wall),
        MomentRef::Point(name) => points
            .and_then(|p| p.set.find(name))
            .map(|p| p.moment)
            .ok_or_else(|| missing(format!("there is no recovery point `{name}`"))),
        MomentRef::LatestApp => points
            .and_then(|p| {
                let app = |p: &&&crate::protection::Point| p.kind == crate::protection::PointKind::App;
                p.set.in_order().iter().rev().find(app).map(|p| p.moment)
            })
            .ok_or_else(|| missing("there is no app-consistent recovery point".into())),
    }
}

fn the_epoch(group: &Group, prefix: &EpochPrefix) -> Result<crate::vocab::EpochId> {
    prefix.find(group.table().rows().map(|r| r.epoch)).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("no epoch, or more than one, begins with {}", prefix.as_str()))
    })
}

/// The greatest moment on the line with a wall time at or before this one.
fn at_time(group: &Group, wall: i64) -> Result<Moment> {
    let Some(found) = group.moment_within(wall, i64::MIN)? else {
        return Err(match group.time_of(group.head())? {
            Some(newest) if newest < wall => {
                let what = format!(
                    "the newest moment that is held is of {}, earlier than this time",
                    text_time(newest)
                );
                Error::new(Kind::NotFound, what).advice("Name it: `latest`")
            }
            _ => Error::new(Kind::NotFound, "every moment that is held is later than this time"),
        });
    };
    if found.ambiguous {
        return Err(Error::refused("ambiguous-time", "the clock went back: this time names two moments")
            .advice("Name it by @seq-<n>"));
    }
    if found.in_gap {
        return Err(
            Error::refused("moment-in-gap", "a copy passed over this time").advice("Name another moment")
        );
    }
    Ok(found.moment)
}

fn write_all(group: &Group, vm: &VmObject, moment: Moment, to: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let view = group.open_moment(moment)?;
    let mut wanted: Vec<(DiskOrdinal, PathBuf, FileKind, u64)> = view
        .names
        .files
        .iter()
        .filter(|(_, f)| f.vm == vm.id && (vm.single || !f.path.is_empty()))
        .map(|(disk, f)| {
            let name = if vm.single { Path::new(&vm.name) } else { Path::new(&f.path) };
            (*disk, to.join(name), f.kind, f.size)
        })
        .collect();
    wanted.sort_by(|a, b| a.1.cmp(&b.1));
    let mut files = Vec::new();
    let mut folders = vec![to.to_owned()];
    for (disk, path, kind, size) in wanted {
        if kind == FileKind::Directory {
            fs::create_dir_all(&path).map_err(|e| io(e, "can't make the directory", &path))?;
            folders.push(path);
            continue;
        }
        if let Some(folder) = path.parent().filter(|f| !f.is_dir()) {
            fs::create_dir_all(folder).map_err(|e| io(e, "can't make the directory", folder))?;
        }
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file.map_err(|e| io(e, "can't create", &path))?;
        file.set_len(size).map_err(|e| io(e, "can't set the length", &path))?;
        let mut buf = vec![0; STEP];
        for at in (0..size).step_by(STEP) {
            let part = &mut buf[..(size - at).min(STEP as u64) as usize];
            group.read_moment(&view, disk, at, part)?;
            write_sparse(&file, part, at).map_err(|e| io(e, "can't write", &path).offset(at))?;
        }
        file.sync_all().map_err(|e| io(e, "can't sync", &path))?;
        files.push((path, size));
    }
    let above = to.canonicalize().ok().and_then(|p| p.parent().map(Path::to_owned));
    for folder in folders.iter().rev().chain(&above) {
        File::open(folder).and_then(|d| d.sync_all()).map_err(|e| io(e, "can't sync", folder))?;
    }
    Ok(files)
}

/// Zeros stay holes.
fn write_sparse(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    let blank = |block: &[u8]| block.iter().all(|b| *b == 0);
    let mut at = 0;
    while at < bytes.len() {
        let next = |at: usize| (at + BLOCK).min(bytes.len());
        if blank(&bytes[at..next(at)]) {
            at = next(at);
            continue;
        }
        let from = at;
        while at < bytes.len() && !blank(&bytes[at..next(at)]) {
            at = next(at);
        }
        file.write_all_at(&bytes[from..at], offset + from as u64)?;
    }
    Ok(())
}

/// X2. A round makes its floor durable before it touches a base: where floors are as they were, bases were too.
fn floors_unmoved(group: &Group, store: &dyn Storage, vm: &VmObject) -> Result<()> {
    let mut report = Report::default();
    let Some((_, now)) = checkpoint_of(&mut report, store, vm.group) else { return Ok(()) };
    let core = group.core.lock();
    for file in &now.files {
        let before = core.bases.get(&file.disk).and_then(|p| p.floor);
        let empty = |p: Option<LogPlace>| p.is_none_or(|p| p.pos.0 == 0);
        if before != file.floor && !(empty(before) && empty(file.floor)) {
            let shown = store.shown(&GroupParts::dir(vm.group));
            return Err(Error::new(Kind::Busy, "the daemon moved the base while it was read")
                .at(shown)
                .advice(
                    "Export again, from the mount (recovery-points/@seq-…), or when the daemon has ended",
                ));
        }
    }
    Ok(())
}
