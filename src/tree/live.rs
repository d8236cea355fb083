//! A file or directory of `disks/`, as far as it never changes: which group and ordinal it is, and its attributes.

use crate::format::FileKind;
use crate::group::{Gate, Group, NamedFile, Names};
use crate::tree::attributes::{FileAttributes, Set};
use crate::tree::host::Item;
use crate::tree::node::Node;
use crate::tree::ops::{Answer, Attributes, Errno, NodeKind};
use crate::tree::tree::{Tree, failed};
use crate::vocab::{DiskId, DiskOrdinal, LogId, Pos, VmId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Files that were removed while they were open have this name until the last opening ends.
pub(super) const REMOVED: &str = ".standbyfs-removed-";
/// Room is counted again when so many times the time that counting took has passed, or nothing was written.
const COUNT_AGAIN: u64 = 20;

/// See the head of this file.
pub(super) struct Live {
    pub(super) ino: u64,
    pub(super) node: Node,
    pub(super) vm: Arc<dyn Item>,
    pub(super) group: Arc<Group>,
    pub(super) disk: DiskOrdinal,
    pub(super) file: DiskId,
    pub(super) kind: FileKind,
    pub(super) attributes: Arc<FileAttributes>,
    room: Mutex<Option<Room>>,
}

/// Room as it was counted.
struct Room {
    end: (LogId, Pos),
    size: u64,
    bytes: u64,
    /// Monotonic times.
    counted: u64,
    took: u64,
}

impl Live {
    pub(super) fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Its name now; ESTALE if it is gone.
    pub(super) fn named(&self) -> Answer<NamedFile> {
        self.group.names_now(|names| names.files.get(&self.disk).cloned()).ok_or(Errno::ESTALE)
    }

    pub(super) fn size(&self) -> Answer<u64> {
        self.group.names_now(|names| names.files.get(&self.disk).map(|f| f.size)).ok_or(Errno::ESTALE)
    }

    /// Opening for writing is refused while nobody may write: the group is a target, fenced or frozen. Handles from
    /// before get ENOSPC for their writes, so that QEMU pauses the VM.
    pub(super) fn refuse_opening(&self) -> Answer<()> {
        match self.group.gate() {
            Gate::Target | Gate::Frozen => Err(Errno::EROFS),
            Gate::Waiting => Err(Errno::EBUSY),
            Gate::Open { .. } | Gate::Stopped => Ok(()),
        }
    }

    /// Writing is refused from the opening on: the group is a target.
    pub(super) fn refuse_target(&self) -> Answer<()> {
        if self.group.gate() == Gate::Target { Err(Errno::EROFS) } else { Ok(()) }
    }
}

/// The directory part and the last component of a path; of a path at the top the directory is empty.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

pub(super) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// Files of a VM that lie directly in a directory, without those that were removed.
pub(super) fn children<'a>(
    names: &'a Names,
    vm: VmId,
    dir: &'a str,
) -> impl Iterator<Item = (DiskOrdinal, &'a NamedFile)> {
    names.files.iter().map(|(disk, f)| (*disk, f)).filter(move |(_, f)| {
        f.vm == vm && !f.path.is_empty() && split(&f.path).0 == dir && !f.path.starts_with(REMOVED)
    })
}

impl Tree {
    /// The VM with this identity.
    pub(super) fn item(&self, vm: VmId) -> Answer<Arc<dyn Item>> {
        crate::tree::host::item(&*self.host, vm)
    }

    /// A file that a process before this one or a listing named.
    pub(super) fn live(&self, vm: VmId, file: DiskId) -> Answer<Arc<Live>> {
        if let Some(live) = self.known_live(vm, file) {
            return Ok(live);
        }
        self.live_of(&self.item(vm)?, file)
    }

    pub(super) fn live_of(&self, item: &Arc<dyn Item>, file: DiskId) -> Answer<Arc<Live>> {
        if let Some(live) = self.known_live(item.id(), file) {
            return Ok(live);
        }
        let group = item.group().map_err(failed)?;
        let find = |names: &Names| {
            let wanted = |f: &NamedFile| {
                f.vm == item.id() && if file.is_none() { f.path.is_empty() } else { f.file == file }
            };
            names.files.iter().find(|(_, f)| wanted(f)).map(|(disk, f)| (*disk, f.clone()))
        };
        let mut found = group.names_now(find);
        if found.is_none() && file.is_none() {
            // A crash came between the VM and its first file.
            self.add_root(item, &group)?;
            found = group.names_now(find);
        }
        let (disk, named) = found.ok_or(Errno::ESTALE)?;
        self.enter_live(item, group, disk, &named)
    }

    /// Lets go of groups that ended or were opened anew: what holds one keeps its files on the medium, also deleted ones.
    pub(super) fn let_go_of_left(&self) {
        if self.live.read().values().any(|live| live.group.is_left()) {
            self.live.write().retain(|_, live| !live.group.is_left());
        }
        self.let_go_of_left_moments();
    }

    fn known_live(&self, vm: VmId, file: DiskId) -> Option<Arc<Live>> {
        self.live.read().get(&(vm, file)).filter(|live| !live.group.is_left()).cloned()
    }

    pub(super) fn enter_live(
        &self,
        item: &Arc<dyn Item>,
        group: Arc<Group>,
        disk: DiskOrdinal,
        named: &NamedFile,
    ) -> Answer<Arc<Live>> {
        let key = (item.id(), if named.path.is_empty() { DiskId::NONE } else { named.file });
        let node = Node::Live(key.0, key.1);
        let now = self.host.clock().wall_ns();
        let default = || {
            let mode = if named.kind == FileKind::Directory { 0o755 } else { 0o600 };
            FileAttributes::new(Set { mode, uid: 0, gid: 0, xattrs: BTreeMap::new() }, now)
        };
        let attributes = self.attributes.of(item.id(), named.file, default).map_err(failed)?;
        let ino = self.nodes.show(&node).map_err(failed)?;
        let live = Arc::new(Live {
            ino,
            node,
            vm: item.clone(),
            group,
            disk,
            file: named.file,
            kind: named.kind,
            attributes,
            room: Mutex::new(None),
        });
        let mut known = self.live.write();
        let there = known.entry(key).or_insert_with(|| live.clone());
        if there.group.is_left() {
            *there = live;
        }
        Ok(there.clone())
    }

    /// What stat(2) shows of a file of `disks/`.
    pub(super) fn live_attributes(&self, live: &Live) -> Answer<Attributes> {
        let (mode, uid, gid) = live.attributes.owner();
        let a = &live.attributes;
        let [atime, mtime, ctime] = [&a.atime, &a.mtime, &a.ctime].map(|t| t.load(Ordering::Relaxed));
        let (size, blocks, kind, nlink) = if live.is_dir() {
            let named = live.named()?;
            let below = live.group.names_now(|names| {
                children(names, live.vm.id(), &named.path)
                    .filter(|(_, f)| f.kind == FileKind::Directory)
                    .count()
            });
            (4096, 8, NodeKind::Directory, 2 + below as u32)
        } else {
            let named = live.named()?;
            let nlink = u32::from(!named.path.starts_with(REMOVED));
            (named.size, self.room(live, named.size)?.div_ceil(512), NodeKind::File, nlink)
        };
        Ok(Attributes { ino: live.ino, size, blocks, atime, mtime, ctime, kind, mode, nlink, uid, gid })
    }

    /// Bytes that a live file takes.
    fn room(&self, live: &Live, size: u64) -> Answer<u64> {
        let clock = self.host.clock();
        let (now, end) = (clock.monotonic_ns(), live.group.log_end());
        let mut room = live.room.lock();
        if let Some(known) = &*room
            && known.size == size
            && (known.end == end || now.saturating_sub(known.counted) < known.took * COUNT_AGAIN)
        {
            return Ok(known.bytes);
        }
        let bytes = live.group.allocated(live.disk, size).map_err(failed)?;
        let took = clock.monotonic_ns().saturating_sub(now);
        *room = Some(Room { end, size, bytes, counted: now, took });
        Ok(bytes)
    }
}
