//! The namespace of a mount: finds out what a request is about and hands it to the part of this room that knows.
//!
//! T1. Everything that is fixed in the tree stands in the table of `node`; a new file is an entry there and an arm
//!     in `special`.
//! T2. A listing is ordered by inode number, which is where it goes on: it needs no state, and names that come and
//!     go while it is read neither hide nor repeat others.

use crate::format::FileKind;
use crate::tree::attributes::{AttributeStore, FileAttributes, Set, xattr_fits};
use crate::tree::handles::Handles;
use crate::tree::host::{Host, Notices, Numbers};
use crate::tree::live::Live;
use crate::tree::node::{Node, Nodes};
use crate::tree::ops::*;
use crate::tree::past::Past;
use crate::vocab::{DiskId, Error, Kind, Moment, Result, VmId};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// How long the kernel may use names and attributes without asking: what changes without it knowing (a failover, a
/// target that follows its source) shows at most this late.
pub(super) const TTL: Duration = Duration::from_secs(1);

type Openmoments = Vec<((VmId, Moment), Arc<Past>)>;

/// The tree of a mount. See the head of this file.
pub struct Tree {
    pub(super) host: Arc<dyn Host>,
    pub(super) notices: Arc<dyn Notices>,
    pub(super) nodes: Nodes,
    pub(super) attributes: AttributeStore,
    pub(super) handles: Handles,
    pub(super) live: RwLock<HashMap<(VmId, DiskId), Arc<Live>>>,
    pub(super) moments: Mutex<Openmoments>,
    /// One change of names at a time.
    pub(super) change: Mutex<()>,
    /// Wall time at which this process began to serve.
    pub(super) started: i64,
    /// Who may write to control files.
    pub(super) keepers: (u32, u32),
    /// Lengths of files that are made when they are opened, with the time when they were found.
    pub(super) lengths: Mutex<HashMap<u64, (u64, u64)>>,
    /// For what is answered later, from another thread.
    pub(super) me: OnceLock<Weak<Tree>>,
}

/// The errno of an error; what a person may have to know is logged.
pub(super) fn failed(error: Error) -> Errno {
    match error.kind() {
        Kind::Io | Kind::Damaged | Kind::Poisoned | Kind::NoSpace | Kind::Conflict => {
            tracing::error!("{error}")
        }
        _ => tracing::debug!("{error}"),
    }
    Errno::from(&error)
}

/// Names are text.
pub(super) fn text(name: &OsStr) -> Answer<&str> {
    name.to_str().ok_or(Errno::EINVAL)
}

fn entry(attributes: Attributes) -> Entry {
    Entry { attributes, attributes_ttl: TTL, name_ttl: TTL }
}

impl Tree {
    /// The tree of a site on a mount.
    pub fn new(host: Arc<dyn Host>, numbers: Arc<dyn Numbers>, notices: Arc<dyn Notices>) -> Result<Self> {
        let attributes = AttributeStore::open(host.catalog().storage().clone())?;
        let started = host.clock().wall_ns();
        let handles = Handles::new(numbers.clone());
        host.set_openings(handles.writers());
        let tree = Self {
            notices,
            nodes: Nodes::new(numbers),
            attributes,
            handles,
            live: RwLock::default(),
            moments: Mutex::default(),
            change: Mutex::default(),
            started,
            keepers: crate::tree::owner::keepers(),
            lengths: Mutex::default(),
            me: OnceLock::new(),
            host,
        };
        tree.sweep_removed();
        Ok(tree)
    }

    /// As [`Tree::new`], shared: only such a one answers an opening later than it came.
    pub fn shared(
        host: Arc<dyn Host>,
        numbers: Arc<dyn Numbers>,
        notices: Arc<dyn Notices>,
    ) -> Result<Arc<Self>> {
        let tree = Arc::new(Self::new(host, numbers, notices)?);
        let _ = tree.me.set(Arc::downgrade(&tree));
        Ok(tree)
    }

    /// `disks/` itself: its attributes are kept under no VM.
    pub(super) fn disks_attributes(&self) -> Answer<Arc<FileAttributes>> {
        let default = || {
            FileAttributes::new(Set { mode: 0o755, uid: 0, gid: 0, xattrs: BTreeMap::new() }, self.started)
        };
        self.attributes.of(VmId::NONE, DiskId::NONE, default).map_err(failed)
    }

    /// What keeps attributes that may be set: a file of `disks/`, or `disks/` itself.
    fn keeper(&self, ino: u64) -> Answer<(VmId, DiskId, Arc<FileAttributes>)> {
        match self.nodes.node(ino)? {
            Node::Disks => Ok((VmId::NONE, DiskId::NONE, self.disks_attributes()?)),
            Node::Live(vm, file) => {
                let live = self.live(vm, file)?;
                Ok((vm, live.file, live.attributes.clone()))
            }
            Node::PastRoot(..) | Node::Past(..) => Err(Errno::EROFS),
            _ => Err(Errno::EPERM),
        }
    }
}

/// Which extended attributes are kept.
fn xattr_name(name: &OsStr) -> Answer<&str> {
    let name = text(name)?;
    let kept = name.starts_with("user.") || name.starts_with("trusted.");
    if kept { Ok(name) } else { Err(Errno::EOPNOTSUPP) }
}

impl Namespace for Tree {
    fn lookup(&self, _request: &Request, parent: u64, name: &OsStr) -> Answer<Entry> {
        let parent_node = self.nodes.node(parent)?;
        if matches!(parent_node, Node::Disks | Node::Live(..)) {
            let name = text(name).map_err(|_| Errno::ENOENT)?;
            let live = self.at(&self.place(parent, OsStr::new(name))?)?.ok_or(Errno::ENOENT)?;
            return self.live_attributes(&live).map(entry);
        }
        let node = self.child(&parent_node, name)?;
        let attributes = self.attributes_of(&node)?;
        self.nodes.show(&node).map_err(failed)?;
        Ok(entry(attributes))
    }

    fn getattr(&self, _request: &Request, ino: u64, _handle: Option<u64>) -> Answer<(Attributes, Duration)> {
        Ok((self.attributes_of(&self.nodes.node(ino)?)?, TTL))
    }

    fn setattr(&self, request: &Request, ino: u64, set: &SetAttributes) -> Answer<(Attributes, Duration)> {
        match self.nodes.node(ino)? {
            Node::Live(vm, file) => {
                let live = self.live(vm, file)?;
                self.set_live(request, &live, set)?;
                Ok((self.live_attributes(&live)?, TTL))
            }
            // C3: sizes mean nothing; nothing else of a control file can be set.
            node if node.takes_lines() => {
                let other = SetAttributes { size: None, atime: None, mtime: None, handle: None, ..*set };
                if other != SetAttributes::default() {
                    return Err(Errno::EPERM);
                }
                Ok((self.attributes_of(&node)?, TTL))
            }
            node => {
                let (vm, file, own) = self.keeper(ino)?;
                self.set_attributes(vm, file, &own, set, self.host.clock().wall_ns())?;
                Ok((self.attributes_of(&node)?, TTL))
            }
        }
    }

    fn readlink(&self, _request: &Request, ino: u64) -> Answer<OsString> {
        match self.nodes.node(ino)? {
            Node::PointLink(vm, latest) => Ok(OsString::from(self.point_link(vm, latest)?)),
            _ => Err(Errno::EINVAL),
        }
    }

    fn mkdir(&self, request: &Request, parent: u64, name: &OsStr, mode: u32) -> Answer<Entry> {
        let (live, _) = self.make(request, (parent, name), FileKind::Directory, mode, true)?;
        self.live_attributes(&live).map(entry)
    }

    fn create(
        &self,
        request: &Request,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Answer<(Entry, Opened)> {
        let exclusive = flags & libc::O_EXCL != 0;
        let (live, made) = self.make(request, (parent, name), FileKind::File, mode, exclusive)?;
        if live.is_dir() {
            return Err(Errno::EISDIR);
        }
        if !made {
            live.refuse_opening()?;
        }
        // Also if it was made by a process that died before it answered: then it is empty already.
        if flags & libc::O_TRUNC != 0 && live.size()? > 0 {
            self.truncate(&live)?;
        }
        Ok((entry(self.live_attributes(&live)?), self.open_live(&live, true)?))
    }

    fn unlink(&self, request: &Request, parent: u64, name: &OsStr) -> Answer<()> {
        self.remove(request, (parent, name), FileKind::File)
    }

    fn rmdir(&self, request: &Request, parent: u64, name: &OsStr) -> Answer<()> {
        self.remove(request, (parent, name), FileKind::Directory)
    }

    fn rename(&self, request: &Request, from: (u64, &OsStr), to: (u64, &OsStr), flags: u32) -> Answer<()> {
        self.move_name(request, from, to, flags)
    }

    fn open(&self, request: &Request, ino: u64, flags: i32) -> Answer<Opened> {
        self.open_node(request, ino, flags)
    }

    fn open_later(&self, request: &Request, ino: u64, flags: i32, reply: Completion<Opened>) {
        self.open_served(request, ino, flags, reply);
    }

    fn release(&self, _request: &Request, _ino: u64, handle: u64, _flags: i32) {
        if let Some((vm, file)) = self.handles.end(handle)
            && let Ok(live) = self.live(vm, file)
        {
            self.last_closed(&live);
        }
    }

    fn read(
        &self,
        _request: &Request,
        _ino: u64,
        handle: u64,
        offset: u64,
        size: u32,
        reply: ReadCompletion,
    ) {
        self.read_open(handle, offset, size, reply);
    }

    fn write(
        &self,
        request: &Request,
        _ino: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
        flags: i32,
        reply: Completion<u32>,
    ) {
        self.write_open(request, (handle, offset), data, flags, reply);
    }

    fn flush(&self, _request: &Request, _ino: u64, _handle: u64, reply: Completion<()>) {
        reply.done(Ok(()));
    }

    fn fsync(&self, _request: &Request, _ino: u64, handle: u64, data_only: bool, reply: Completion<()>) {
        self.fsync_open(handle, data_only, reply);
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: u64,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
        reply: Completion<()>,
    ) {
        self.fallocate_open(request, handle, (offset, length), mode, reply);
    }

    fn lseek(&self, _request: &Request, _ino: u64, handle: u64, offset: u64, seek: Seek) -> Answer<u64> {
        self.seek_open(handle, offset, seek)
    }

    fn opendir(&self, _request: &Request, ino: u64) -> Answer<Opened> {
        self.nodes.node(ino)?;
        Ok(Opened::default())
    }

    /// T2.
    fn readdir(
        &self,
        _request: &Request,
        ino: u64,
        _handle: u64,
        offset: u64,
        names: &mut dyn NameSink,
    ) -> Answer<()> {
        let node = self.nodes.node(ino)?;
        let dir = NodeKind::Directory;
        for (at, name) in [(1, "."), (2, "..")] {
            if offset < at && !names.add(Name { ino, next: at, kind: dir, name: OsStr::new(name) }) {
                return Ok(());
            }
        }
        let mut all = self.names_in(&node)?;
        all.sort_unstable();
        let mut last = 0;
        for (ino, kind, name) in &all {
            // Two points may name one moment.
            last = (*ino).max(last + 1);
            let here = Name { ino: *ino, next: last, kind: *kind, name: OsStr::new(name) };
            if last > offset && !names.add(here) {
                break;
            }
        }
        Ok(())
    }

    fn releasedir(&self, _request: &Request, _ino: u64, _handle: u64) {}

    fn fsyncdir(&self, _request: &Request, ino: u64, _handle: u64, _data_only: bool) -> Answer<()> {
        // Changes of names are durable when they are answered; attributes aren't.
        match self.nodes.node(ino)? {
            Node::Live(vm, _) => self.attributes.sync(vm).map_err(failed),
            Node::Disks => self.attributes.sync(VmId::NONE).map_err(failed),
            _ => Ok(()),
        }
    }

    fn statfs(&self, _request: &Request, _ino: u64) -> Answer<Space> {
        const BLOCK: u64 = 4096;
        self.let_go_of_left();
        let space = self.host.catalog().storage().space().map_err(failed)?;
        let free = space.free / BLOCK;
        Ok(Space {
            blocks: space.total / BLOCK,
            free,
            available: free,
            files: 1 << 32,
            files_free: 1 << 31,
            block_size: BLOCK as u32,
            name_max: 255,
        })
    }

    fn setxattr(&self, _request: &Request, ino: u64, name: &OsStr, value: &[u8], flags: i32) -> Answer<()> {
        let name = xattr_name(name)?;
        let (vm, file, own) = self.keeper(ino)?;
        own.change(self.host.clock().wall_ns(), |set| {
            let there = set.xattrs.contains_key(name);
            if there && flags & libc::XATTR_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            if !there && flags & libc::XATTR_REPLACE != 0 {
                return Err(Errno::ENODATA);
            }
            if !xattr_fits(set, name, value) {
                return Err(Errno::ENOSPC);
            }
            set.xattrs.insert(name.to_owned(), value.to_owned());
            Ok(())
        })?;
        self.attributes.save(vm, file, &own).map_err(failed)
    }

    fn getxattr(&self, _request: &Request, ino: u64, name: &OsStr) -> Answer<Vec<u8>> {
        let name = xattr_name(name)?;
        let (.., own) = self.keeper(ino).map_err(|_| Errno::EOPNOTSUPP)?;
        own.xattr(name).ok_or(Errno::ENODATA)
    }

    fn listxattr(&self, _request: &Request, ino: u64) -> Answer<Vec<OsString>> {
        let Ok((.., own)) = self.keeper(ino) else { return Ok(Vec::new()) };
        Ok(own.set().xattrs.into_keys().map(OsString::from).collect())
    }

    fn removexattr(&self, _request: &Request, ino: u64, name: &OsStr) -> Answer<()> {
        let name = xattr_name(name)?;
        let (vm, file, own) = self.keeper(ino)?;
        own.change(self.host.clock().wall_ns(), |set| {
            set.xattrs.remove(name).map(drop).ok_or(Errno::ENODATA)
        })?;
        self.attributes.save(vm, file, &own).map_err(failed)
    }

    fn stop(&self, why: Stop) {
        if let Err(error) = self.attributes.close() {
            tracing::error!("attributes are not in their place: {error}");
        }
        if let Err(error) = self.host.close() {
            tracing::error!(?why, "the site was not closed in order: {error}");
        }
    }
}
