//! The names of a group over time: which ordinal is which file, with which path and size, at any moment.
//!
//! N1. What changes names or sizes is a record; the state at a moment is the snapshot at the window's old edge
//!     and the facts on the moment's path above it, in path order.
//! N2. An ordinal is never given twice in its group.
//! N3. A directory that is renamed takes everything below it along.
//! N4. What a branch changed stays as long as its records: its moments can be opened while the base lies on their
//!     path, and they have names of their own.

use crate::format::{AddPayload, FileKind, RemovePayload, RenamePayload};
use crate::group::line::anchored;
use crate::index::Path;
use crate::vocab::{DiskId, DiskOrdinal, Error, Kind, LogPlace, Moment, RecordKind, Result, VmId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A file or directory of a VM at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFile {
    /// Its VM.
    pub vm: VmId,
    /// The file's identity.
    pub file: DiskId,
    /// Path inside the VM; empty for a VM that is a single file.
    pub path: String,
    /// File or directory.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
}

/// All names of a group at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Names {
    /// By ordinal.
    pub files: BTreeMap<DiskOrdinal, NamedFile>,
    /// Names of VMs, by id.
    pub vms: BTreeMap<VmId, VmName>,
    /// Highest ordinal ever given.
    pub last: DiskOrdinal,
}

/// A VM of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmName {
    /// Its entry in `disks/`.
    pub name: String,
    /// It is a single file.
    pub single: bool,
}

/// One change of names or sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// A new file or directory.
    Add(DiskOrdinal, AddPayload),
    /// Another path.
    Rename(DiskOrdinal, RenamePayload),
    /// Gone.
    Remove(DiskOrdinal),
    /// Another size.
    Resize(DiskOrdinal, u64),
    /// A jump: all names are these.
    All(Box<Names>),
}

/// A change and where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The record's place.
    pub place: LogPlace,
    /// The moment after it.
    pub moment: Moment,
    /// What it changed.
    pub change: Change,
}

impl Change {
    /// The change that a record makes; `None` for records that change no names.
    ///
    /// # Errors
    /// `Damaged` if the payload can't be read.
    pub fn of(kind: RecordKind, disk: DiskOrdinal, offset: u64, payload: &[u8]) -> Result<Option<Self>> {
        fn read<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T> {
            serde_json::from_slice(payload)
                .map_err(|e| Error::new(Kind::Damaged, format!("payload of a record about names: {e}")))
        }
        Ok(Some(match kind {
            RecordKind::Add => Self::Add(disk, read(payload)?),
            RecordKind::Rename => Self::Rename(disk, read(payload)?),
            RecordKind::Remove => {
                let _: RemovePayload = read(payload)?;
                Self::Remove(disk)
            }
            RecordKind::Resize => Self::Resize(disk, offset),
            _ => return Ok(None),
        }))
    }
}

impl Names {
    /// Takes a change over.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Add(disk, add) => {
                self.last = self.last.max(*disk);
                self.vms.insert(add.vm, VmName { name: add.vm_name.clone(), single: add.single });
                let file = NamedFile {
                    vm: add.vm,
                    file: add.file,
                    path: add.path.clone(),
                    kind: add.kind,
                    size: add.size,
                };
                self.files.insert(*disk, file);
            }
            Change::Rename(disk, rename) => {
                let Some(file) = self.files.get_mut(disk) else { return };
                let (vm, kind, from) =
                    (file.vm, file.kind, std::mem::replace(&mut file.path, rename.to.clone()));
                if kind == FileKind::Directory {
                    let below = format!("{from}/");
                    for other in self.files.values_mut().filter(|f| f.vm == vm) {
                        if let Some(rest) = other.path.strip_prefix(&below) {
                            other.path = format!("{}/{rest}", rename.to);
                        }
                    }
                }
            }
            Change::Remove(disk) => {
                if let Some(gone) = self.files.remove(disk)
                    && !self.files.values().any(|f| f.vm == gone.vm)
                    && gone.path.is_empty()
                {
                    self.vms.remove(&gone.vm);
                }
            }
            Change::All(names) => {
                // N2 holds on one line: another one may have given fewer ordinals.
                *self = Names::clone(names);
            }
            Change::Resize(disk, size) => {
                if let Some(file) = self.files.get_mut(disk) {
                    file.size = *size;
                }
            }
        }
    }

    /// The ordinal of a path in a VM.
    pub fn find(&self, vm: VmId, path: &str) -> Option<DiskOrdinal> {
        self.files.iter().find(|(_, f)| f.vm == vm && f.path == path).map(|(disk, _)| *disk)
    }
}

/// Names over time: a snapshot and the facts after it, in log order.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NameLog {
    /// The state at `edge`.
    pub snapshot: Names,
    /// Where the snapshot stands: everything before this place of its path is in it. `None`: before everything.
    pub edge: Option<LogPlace>,
    /// Changes after it.
    pub facts: Vec<Fact>,
}

impl NameLog {
    /// Adds a fact; a second time has no effect, so that a scan may bring what the file already has.
    pub fn push(&mut self, fact: Fact) {
        if !self
            .facts
            .iter()
            .rev()
            .take_while(|f| f.place >= fact.place || f.place.log != fact.place.log)
            .any(|f| f.place == fact.place)
        {
            self.facts.push(fact);
        }
    }

    /// The names that a path sees, all of it. The snapshot must lie on the path.
    pub fn at(&self, path: &Path) -> Names {
        let mut names = self.snapshot.clone();
        for fact in self.on(path) {
            names.apply(&fact.change);
        }
        names
    }

    fn on(&self, path: &Path) -> Vec<&Fact> {
        let above = match self.edge {
            Some(edge) => anchored(path, edge),
            None => Some(path.clone()),
        };
        let Some(above) = above else { return Vec::new() };
        let mut on: Vec<(u32, &Fact)> =
            self.facts.iter().filter_map(|f| above.rank(f.place.log, f.place.pos).map(|r| (r, f))).collect();
        on.sort_by_key(|(rank, fact)| (*rank, fact.place.pos));
        on.into_iter().map(|(_, fact)| fact).collect()
    }

    /// Moves the snapshot up to `edge` on `path` and forgets what no moment needs any more: facts on the path
    /// before the edge, and facts of branches whose records are no longer `held` (N4).
    pub fn advance(&mut self, path: &Path, edge: LogPlace, held: impl Fn(LogPlace) -> bool) {
        let Some(until) = path.until(edge.log, edge.pos) else { return };
        let (snapshot, passed): (Names, Vec<LogPlace>) =
            (self.at(&until), self.on(&until).iter().map(|f| f.place).collect());
        self.snapshot = snapshot;
        self.edge = Some(edge);
        self.facts.retain(|f| {
            !passed.contains(&f.place) && (path.rank(f.place.log, f.place.pos).is_some() || held(f.place))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Interval;
    use crate::vocab::{EpochId, LogId, Pos};

    const LOG: LogId = LogId([1; 16]);

    fn add(disk: u32, path: &str, kind: FileKind) -> Change {
        let payload = AddPayload {
            vm: VmId([1; 16]),
            vm_name: "web".into(),
            single: false,
            file: DiskId([disk as u8; 16]),
            path: path.into(),
            kind,
            size: 0,
        };
        Change::Add(DiskOrdinal(disk), payload)
    }

    fn fact(pos: u64, change: Change) -> Fact {
        Fact {
            place: LogPlace { log: LOG, pos: Pos(pos) },
            moment: Moment::new(EpochId([1; 16]), pos),
            change,
        }
    }

    fn path(to: u64) -> Path {
        Path::new([Interval { log: LOG, from: Pos(0), to: Pos(to) }])
    }

    #[test]
    fn each_moment_has_its_own_names() {
        let mut log = NameLog::default();
        log.push(fact(10, add(1, "a", FileKind::Directory)));
        log.push(fact(20, add(2, "a/d.raw", FileKind::File)));
        log.push(fact(30, Change::Resize(DiskOrdinal(2), 4096)));
        log.push(fact(30, Change::Resize(DiskOrdinal(2), 4096)));
        log.push(fact(
            40,
            Change::Rename(DiskOrdinal(1), RenamePayload { from: "a".into(), to: "b".into() }),
        ));
        log.push(fact(50, Change::Remove(DiskOrdinal(2))));
        assert_eq!(log.facts.len(), 5, "a fact that is brought twice counts once");
        let vm = VmId([1; 16]);
        assert_eq!(log.at(&path(20)).find(vm, "a/d.raw"), None);
        assert_eq!(log.at(&path(31)).files[&DiskOrdinal(2)].size, 4096);
        assert_eq!(log.at(&path(41)).find(vm, "b/d.raw"), Some(DiskOrdinal(2)));
        assert_eq!(log.at(&path(51)).find(vm, "b/d.raw"), None);
        let before: Vec<Names> = [31, 41, 51].map(|to| log.at(&path(to))).into();
        log.advance(&path(60), LogPlace { log: LOG, pos: Pos(31) }, |_| false);
        assert_eq!(log.facts.len(), 2);
        assert_eq!(
            [31, 41, 51].map(|to| log.at(&path(to))).to_vec(),
            before,
            "the edge changes no later moment"
        );
    }

    #[test]
    fn a_fork_leaves_out_what_the_other_line_named() {
        let mut log = NameLog::default();
        log.push(fact(10, add(1, "d.raw", FileKind::File)));
        log.push(fact(20, Change::Resize(DiskOrdinal(1), 1)));
        log.push(fact(100, Change::Resize(DiskOrdinal(1), 2)));
        let fork = Path::new([
            Interval { log: LOG, from: Pos(0), to: Pos(11) },
            Interval { log: LOG, from: Pos(90), to: Pos(u64::MAX) },
        ]);
        assert_eq!(log.at(&fork).files[&DiskOrdinal(1)].size, 2);
        assert_eq!(log.at(&fork.until(LOG, Pos(95)).unwrap()).files[&DiskOrdinal(1)].size, 0);
        let branch = path(21);
        log.advance(&fork, LogPlace { log: LOG, pos: Pos(11) }, |place| place.pos >= Pos(11));
        assert_eq!(log.at(&branch).files[&DiskOrdinal(1)].size, 1, "the branch has its own names");
        assert_eq!(log.at(&fork).files[&DiskOrdinal(1)].size, 2);
    }
}
