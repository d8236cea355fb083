//! Names of `disks/`: making, removing and renaming files, directories and VMs.
//!
//! D1. One change of names at a time; what a check has seen still holds when the change is made.
//! D2. A name that is replaced and what replaces it change together: a crash keeps both or none.
//! D3. A file that is open when it is removed goes on until its last opening ends, under a name that nobody sees.
//! D4. Between entries of `disks/` nothing is renamed: they are as filesystems to each other. A protected VM is
//!     neither removed nor renamed, and its disks are neither removed nor replaced.

use crate::format::{AddPayload, FileKind, RenamePayload};
use crate::group::{Change, Group, NamedFile, Names};
use crate::site::names::{check_path, check_vm, is_disk};
use crate::tree::attributes::{FileAttributes, Set};
use crate::tree::host::Item;
use crate::tree::live::{Live, REMOVED, children, join};
use crate::tree::node::Node;
use crate::tree::once::Once;
use crate::tree::ops::{Answer, Errno, Request};
use crate::tree::tree::{Tree, failed, text};
use crate::vocab::{DiskId, DiskOrdinal, Error, Kind};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;

/// Files and directories that a group can have (the checkpoint has an entry for each).
const FILES_MAX: usize = 4096;
/// VMs that were removed while a file of theirs was open have this name until the last opening ends.
const REMOVED_VM: &str = "~removed-";
const S_ISGID: u16 = 0o2000;

/// Where a name of `disks/` is.
pub(super) enum Place {
    /// An entry of `disks/` itself.
    Entry(String),
    /// In a VM: its directory and the path.
    Inside(Arc<Live>, String),
}

/// Whether a VM is only there for who has it open.
pub(super) fn is_removed_vm(name: &str) -> bool {
    name.strip_prefix(REMOVED_VM).is_some_and(|id| id.len() == 32)
}

fn exists() -> Error {
    Error::new(Kind::Exists, "the name is taken")
}

impl Tree {
    /// Where a name in a directory of `disks/` is; EPERM for every other directory.
    pub(super) fn place(&self, parent: u64, name: &OsStr) -> Answer<Place> {
        let name = text(name)?;
        match self.nodes.node(parent)? {
            Node::Disks => Ok(Place::Entry(name.to_owned())),
            Node::Live(vm, file) => {
                let dir = self.live(vm, file)?;
                let named = dir.named()?;
                if named.kind != FileKind::Directory {
                    return Err(Errno::ENOTDIR);
                }
                let path = join(&named.path, name);
                Ok(Place::Inside(dir, path))
            }
            Node::PastRoot(..) | Node::Past(..) => Err(Errno::EROFS),
            _ => Err(Errno::EPERM),
        }
    }

    /// What is at a place now.
    pub(super) fn at(&self, place: &Place) -> Answer<Option<Arc<Live>>> {
        match place {
            Place::Entry(name) => match self.host.vm(name).filter(|_| !is_removed_vm(name)) {
                Some(item) => self.live_of(&item, DiskId::NONE).map(Some),
                None => Ok(None),
            },
            Place::Inside(_, path) if path.starts_with(REMOVED) => Ok(None),
            Place::Inside(dir, path) => {
                let found = dir.group.names_now(|names| {
                    let disk = names.find(dir.vm.id(), path)?;
                    Some((disk, names.files.get(&disk)?.clone()))
                });
                let Some((disk, named)) = found else { return Ok(None) };
                self.enter_live(&dir.vm, dir.group.clone(), disk, &named).map(Some)
            }
        }
    }

    /// Makes a file or a directory. True: it was made, not found.
    pub(super) fn make(
        &self,
        request: &Request,
        (parent, name): (u64, &OsStr),
        kind: FileKind,
        mode: u32,
        exclusive: bool,
    ) -> Answer<(Arc<Live>, bool)> {
        let place = self.place(parent, name)?;
        let _one = self.change.lock();
        let found = || self.at(&place)?.map(|live| (live, false)).ok_or(Errno::ENOENT);
        if !request.resent
            && !exclusive
            && let Some(live) = self.at(&place)?
        {
            return Ok((live, false));
        }
        let what = match kind {
            FileKind::File => format!("create {}", name.display()),
            FileKind::Directory => format!("mkdir {}", name.display()),
        };
        let once = Once {
            what,
            check: || {
                match &place {
                    Place::Entry(name) => check_vm(name).map_err(|e| Errno::from(&e))?,
                    Place::Inside(dir, path) => {
                        check_path(path).map_err(|e| Errno::from(&e))?;
                        if path.starts_with(REMOVED) {
                            return Err(Errno::EINVAL);
                        }
                        dir.refuse_target()?;
                    }
                }
                if self.at(&place)?.is_some() { Err(Errno::EEXIST) } else { Ok(()) }
            },
            act: |again| {
                if again && let Some(live) = self.at(&place)? {
                    return Ok((live, true));
                }
                let live = match &place {
                    Place::Entry(name) => {
                        let item = self.host.create_vm(name, kind == FileKind::File).map_err(failed)?;
                        let group = item.group().map_err(failed)?;
                        self.add_root(&item, &group)?;
                        self.live_of(&item, DiskId::NONE)?
                    }
                    Place::Inside(dir, path) => self.add(&dir.vm, &dir.group, path, kind)?,
                };
                self.own(&live, &place, request, mode)?;
                Ok((live, true))
            },
        };
        self.once(request, once, found)
    }

    /// Owner and mode of what was made; the directory has changed.
    fn own(&self, live: &Live, place: &Place, request: &Request, mode: u32) -> Answer<()> {
        let now = self.host.clock().wall_ns();
        let (dir_mode, _, dir_gid) = match place {
            Place::Entry(_) => self.disks_attributes()?.owner(),
            Place::Inside(dir, _) => dir.attributes.owner(),
        };
        let inherits = dir_mode & S_ISGID != 0;
        let gid = if inherits { dir_gid } else { request.gid };
        let mode = mode as u16 & 0o7777 | if inherits && live.is_dir() { S_ISGID } else { 0 };
        let changed: Answer<()> = live.attributes.change(now, |set| {
            *set = Set { mode, uid: request.uid, gid, xattrs: BTreeMap::new() };
            Ok(())
        });
        changed?;
        self.attributes.save(live.vm.id(), live.file, &live.attributes).map_err(failed)?;
        self.touch(place)
    }

    fn touch(&self, place: &Place) -> Answer<()> {
        let now = self.host.clock().wall_ns();
        match place {
            Place::Entry(_) => self.disks_attributes()?.written(now),
            Place::Inside(dir, _) => dir.attributes.written(now),
        }
        Ok(())
    }

    /// The directory or only file of a new VM.
    pub(super) fn add_root(&self, item: &Arc<dyn Item>, group: &Arc<Group>) -> Answer<()> {
        let kind = if item.single() { FileKind::File } else { FileKind::Directory };
        self.add(item, group, "", kind).map(drop)
    }

    fn add(&self, item: &Arc<dyn Item>, group: &Arc<Group>, path: &str, kind: FileKind) -> Answer<Arc<Live>> {
        let file = DiskId(self.host.entropy().random_128());
        let mut disk = DiskOrdinal(0);
        let add = AddPayload {
            vm: item.id(),
            vm_name: item.name(),
            single: item.single(),
            file,
            path: path.to_owned(),
            kind,
            size: 0,
        };
        let named = NamedFile { vm: add.vm, file, path: path.to_owned(), kind, size: 0 };
        let made = group.change_with(|names| {
            if names.find(item.id(), path).is_some() {
                return Err(exists());
            }
            if names.files.len() >= FILES_MAX {
                return Err(Error::new(Kind::NoSpace, format!("a group has at most {FILES_MAX} files")));
            }
            disk = DiskOrdinal(names.last.0 + 1);
            Ok(Change::Add(disk, add))
        });
        made.map_err(failed)?;
        let now = self.host.clock().wall_ns();
        let set = Set {
            mode: if kind == FileKind::Directory { 0o755 } else { 0o600 },
            uid: 0,
            gid: 0,
            xattrs: BTreeMap::new(),
        };
        self.attributes.create(item.id(), file, FileAttributes::new(set, now)).map_err(failed)?;
        self.enter_live(item, group.clone(), disk, &named)
    }

    /// unlink and rmdir.
    pub(super) fn remove(
        &self,
        request: &Request,
        (parent, name): (u64, &OsStr),
        kind: FileKind,
    ) -> Answer<()> {
        let place = self.place(parent, name)?;
        let _one = self.change.lock();
        let once = Once {
            what: format!("remove {}", name.display()),
            check: || self.may_remove(&place, kind).map(drop),
            act: |again| {
                let Some(live) = self.at(&place)? else {
                    return if again { Ok(()) } else { Err(Errno::ENOENT) };
                };
                self.may_remove(&place, kind)?;
                if matches!(place, Place::Entry(_)) {
                    self.remove_entry(&live)?;
                } else {
                    let change = self.removal(&live);
                    live.group.change(&change).map_err(failed)?;
                    self.after_removal(&live, &change);
                }
                self.touch(&place)
            },
        };
        self.once(request, once, || Ok(()))
    }

    fn may_remove(&self, place: &Place, kind: FileKind) -> Answer<Arc<Live>> {
        let live = self.at(place)?.ok_or(Errno::ENOENT)?;
        match (kind, live.kind) {
            (FileKind::File, FileKind::Directory) => return Err(Errno::EISDIR),
            (FileKind::Directory, FileKind::File) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        let named = live.named()?;
        live.refuse_target()?;
        if live.is_dir()
            && live.group.names_now(|names| children(names, live.vm.id(), &named.path).next().is_some())
        {
            return Err(Errno::ENOTEMPTY);
        }
        self.refuse_protected(&live, &named)?;
        Ok(live)
    }

    /// D4.
    fn refuse_protected(&self, live: &Live, named: &NamedFile) -> Answer<()> {
        let disk = named.path.is_empty() || named.kind == FileKind::File && is_disk(&named.path);
        if disk && self.host.is_protected(&*live.vm) { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// D3: the change that takes a file away.
    fn removal(&self, live: &Live) -> Change {
        if self.handles.is_open(live.vm.id(), live.file) {
            let from = live.named().map(|n| n.path).unwrap_or_default();
            Change::Rename(live.disk, RenamePayload { from, to: format!("{REMOVED}{}", live.file) })
        } else {
            Change::Remove(live.disk)
        }
    }

    fn after_removal(&self, live: &Live, change: &Change) {
        if matches!(change, Change::Remove(_)) {
            self.forget_live(live);
        }
    }

    fn forget_live(&self, live: &Live) {
        self.live.write().retain(|_, other| other.ino != live.ino);
        self.nodes.gone(&live.node);
        if let Err(error) = self.attributes.remove(live.vm.id(), live.file) {
            tracing::warn!(%error, "attributes of a file that is gone stay behind");
        }
    }

    /// Removes a VM whose directory is empty, or that is a single file.
    fn remove_entry(&self, live: &Live) -> Answer<()> {
        if self.handles.is_vm_open(live.vm.id()) {
            let hidden = format!("{REMOVED_VM}{}", live.vm.id());
            return self.host.rename_vm(&*live.vm, &hidden).map_err(failed);
        }
        self.remove_vm(&*live.vm)
    }

    fn remove_vm(&self, item: &dyn Item) -> Answer<()> {
        self.host.remove_vm(item).map_err(failed)?;
        self.live.write().retain(|(vm, _), _| *vm != item.id());
        self.nodes.vm_gone(item.id());
        self.notices.name(Node::Vms.ino(), OsStr::new(&item.name()));
        self.attributes.remove_vm(item.id()).map_err(failed)
    }

    /// The last opening of a file has ended.
    pub(super) fn last_closed(&self, live: &Live) {
        if let Err(error) = self.attributes.save_touched(live.vm.id(), live.file, &live.attributes) {
            tracing::warn!(%error, "times of a file are not kept");
        }
        let Ok(named) = live.named() else { return };
        if !named.path.starts_with(REMOVED) && !is_removed_vm(&live.vm.name()) {
            return;
        }
        let _one = self.change.lock();
        let done = if is_removed_vm(&live.vm.name()) {
            if self.handles.is_vm_open(live.vm.id()) {
                return;
            }
            self.remove_vm(&*live.vm)
        } else if self.handles.is_open(live.vm.id(), live.file) {
            return;
        } else {
            live.group.change(&Change::Remove(live.disk)).map(|()| self.forget_live(live)).map_err(failed)
        };
        if let Err(errno) = done {
            tracing::warn!(?errno, "a removed file stays until the next mount");
        }
    }

    /// D3 for what processes before this one left behind: nobody has it open any more.
    pub(super) fn sweep_removed(&self) {
        for item in self.host.vms() {
            if is_removed_vm(&item.name()) && !self.handles.is_vm_open(item.id()) {
                let name = item.name();
                if let Err(errno) = self.remove_vm(&*item) {
                    tracing::warn!(?errno, %name, "a removed file stays until the next mount");
                }
            }
        }
    }

    /// rename(2).
    pub(super) fn move_name(
        &self,
        request: &Request,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: u32,
    ) -> Answer<()> {
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(Errno::EINVAL);
        }
        let (source, target) = (self.place(from.0, from.1)?, self.place(to.0, to.1)?);
        let _one = self.change.lock();
        let once = Once {
            what: format!("rename {} {}", from.1.display(), to.1.display()),
            check: || self.may_rename(&source, &target, flags).map(drop),
            act: |again| {
                if again && self.at(&source)?.is_none() {
                    return if self.at(&target)?.is_some() { Ok(()) } else { Err(Errno::ENOENT) };
                }
                let (live, over) = self.may_rename(&source, &target, flags)?;
                if over.as_ref().is_some_and(|over| over.ino == live.ino) {
                    return Ok(());
                }
                match &target {
                    Place::Entry(name) => {
                        if let Some(over) = over {
                            self.remove_entry(&over)?;
                        }
                        let before = live.vm.name();
                        self.host.rename_vm(&*live.vm, name).map_err(failed)?;
                        self.notices.name(Node::Vms.ino(), OsStr::new(&before));
                    }
                    Place::Inside(_, to) => self.rename_inside(&live, over.as_deref(), to)?,
                }
                live.attributes.change(self.host.clock().wall_ns(), |_| Ok::<(), Errno>(()))?;
                self.touch(&source)?;
                self.touch(&target)
            },
        };
        self.once(request, once, || Ok(()))
    }

    /// D2.
    fn rename_inside(&self, live: &Live, over: Option<&Live>, to: &str) -> Answer<()> {
        let removal = over.map(|over| self.removal(over));
        let changes = |names: &Names| {
            let Some(file) = names.files.get(&live.disk) else {
                return Err(Error::new(Kind::NotFound, "the file is gone"));
            };
            let rename = RenamePayload { from: file.path.clone(), to: to.to_owned() };
            Ok(removal.clone().into_iter().chain([Change::Rename(live.disk, rename)]).collect())
        };
        live.group.changes_with(changes).map_err(failed)?;
        if let (Some(over), Some(removal)) = (over, &removal) {
            self.after_removal(over, removal);
        }
        Ok(())
    }

    fn may_rename(
        &self,
        source: &Place,
        target: &Place,
        flags: u32,
    ) -> Answer<(Arc<Live>, Option<Arc<Live>>)> {
        let live = self.at(source)?.ok_or(Errno::ENOENT)?;
        match (source, target) {
            (Place::Entry(_), Place::Entry(name)) => {
                check_vm(name).map_err(|e| Errno::from(&e))?;
                if self.host.is_protected(&*live.vm) {
                    return Err(Errno::EPERM);
                }
            }
            (Place::Inside(from, _), Place::Inside(to, path)) if from.vm.id() == to.vm.id() => {
                check_path(path).map_err(|e| Errno::from(&e))?;
                if path.starts_with(REMOVED) {
                    return Err(Errno::EINVAL);
                }
                from.refuse_target()?;
            }
            _ => return Err(Errno::EXDEV),
        }
        let over = self.at(target)?;
        let Some(other) = &over else { return Ok((live, None)) };
        if flags & libc::RENAME_NOREPLACE != 0 {
            return Err(Errno::EEXIST);
        }
        if other.ino == live.ino {
            return Ok((live, over));
        }
        match (live.is_dir(), other.is_dir()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            _ => {}
        }
        self.may_remove(target, other.kind)?;
        Ok((live, over))
    }
}
