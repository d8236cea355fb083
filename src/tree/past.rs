//! Past moments: `recovery-points/<moment>/` with the files of that moment, read-only.
//!
//! P1. A moment's directory is found by lookup and never listed; what is found stays the same moment, whatever name
//!     it was asked for by.
//! P2. An opening keeps its moment: the view is made once and shared by all who look at it.
//! P3. A moment with an open file is passed by no round but for want of room (N5 of `group::held`). An opening of a
//!     process before this one holds it from its next use on.
//! P4. What a file of a moment takes is counted once while the moment is open: the kernel asks again and again while the file is
//!     read, and nothing of it changes.

use crate::format::FileKind;
use crate::group::{Group, HeldMoment, MomentView, NamedFile};
use crate::tree::host::Item;
use crate::tree::live::{REMOVED, children, join};
use crate::tree::node::Node;
use crate::tree::ops::{Answer, Attributes, Errno, NodeKind, Seek};
use crate::tree::tree::{Tree, failed};
use crate::vocab::{DiskId, DiskOrdinal, Moment, Result, VmId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Moments that are kept open between requests.
const OPEN_MAX: usize = 64;

/// A moment that is open.
pub(super) struct Past {
    pub(super) item: Arc<dyn Item>,
    group: Arc<Group>,
    pub(super) view: MomentView,
    /// Wall time of the moment.
    time: i64,
    /// P4: bytes by file.
    rooms: Mutex<HashMap<DiskOrdinal, u64>>,
}

/// A file of a moment.
pub(super) struct PastFile {
    past: Arc<Past>,
    disk: DiskOrdinal,
    /// P3.
    _held: HeldMoment,
}

impl PastFile {
    /// H4 of `handles`.
    pub(super) fn is_left(&self) -> bool {
        self.past.group.is_left()
    }

    fn named(&self) -> Option<&NamedFile> {
        self.past.view.names.files.get(&self.disk)
    }

    pub(super) fn size(&self) -> u64 {
        self.named().map_or(0, |f| f.size)
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.past.group.read_moment(&self.past.view, self.disk, offset, buffer)
    }

    pub(super) fn seek(&self, offset: u64, seek: Seek) -> Result<Option<u64>> {
        let (group, view, size) = (&self.past.group, &self.past.view, self.size());
        match seek {
            Seek::Data => group.next_data_of(view, self.disk, offset, size),
            Seek::Hole => group.next_hole_of(view, self.disk, offset, size),
        }
    }
}

impl Past {
    /// P4.
    fn room(&self, disk: DiskOrdinal, size: u64) -> Result<u64> {
        if let Some(known) = self.rooms.lock().get(&disk) {
            // A moment that is gone says so still.
            return self.group.not_passed(&self.view, disk).map(|()| *known);
        }
        let bytes = self.group.allocated_of(&self.view, disk, size)?;
        self.rooms.lock().insert(disk, bytes);
        Ok(bytes)
    }

    /// A name below a directory of the moment (`dir`: its path).
    pub(super) fn child(&self, dir: &str, name: &str) -> Option<&NamedFile> {
        let vm = self.item.id();
        if self.item.single() {
            let only = self.view.names.files.values().find(|f| f.vm == vm && f.path.is_empty());
            return only.filter(|_| name == self.item.name());
        }
        let path = join(dir, name);
        self.view.names.files.values().find(|f| f.vm == vm && f.path == path && !f.path.starts_with(REMOVED))
    }

    /// Files directly in a directory of the moment.
    pub(super) fn names_in<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = &'a NamedFile> {
        let vm = self.item.id();
        let single = self.item.single();
        let only = self.view.names.files.values().filter(move |f| single && f.vm == vm && f.path.is_empty());
        let below = children(&self.view.names, vm, dir).map(|(_, f)| f).filter(move |_| !single);
        only.chain(below)
    }

    pub(super) fn named(&self, file: DiskId) -> Option<(DiskOrdinal, &NamedFile)> {
        let found = self.view.names.files.iter().find(|(_, f)| f.vm == self.item.id() && f.file == file);
        found.map(|(disk, f)| (*disk, f))
    }
}

impl Tree {
    /// The moment that a name in `recovery-points/` stands for. P1.
    pub(super) fn moment_named(&self, vm: VmId, name: &str) -> Answer<Moment> {
        let item = self.item(vm)?;
        let group = item.group().map_err(failed)?;
        let points = || self.host.controls().points(&*item).map_err(failed);
        let moment = crate::tree::moments::find(&group, name, points)?;
        let moment = group.table().norm(moment).map_err(|_| Errno::ENOENT)?;
        self.past(vm, moment).map_err(|e| if e == Errno::ESTALE { Errno::ENOENT } else { e })?;
        Ok(moment)
    }

    pub(super) fn let_go_of_left_moments(&self) {
        self.moments.lock().retain(|(_, past)| !past.group.is_left());
    }

    /// P2.
    pub(super) fn past(&self, vm: VmId, moment: Moment) -> Answer<Arc<Past>> {
        let key = (vm, moment);
        {
            self.let_go_of_left_moments();
            let moments = self.moments.lock();
            if let Some((_, past)) = moments.iter().find(|(k, _)| *k == key) {
                return Ok(past.clone());
            }
        }
        let item = self.item(vm)?;
        let group = item.group().map_err(failed)?;
        let view = group.open_moment(moment).map_err(|e| Errno::from(&e))?;
        // Where a copy led to the moment its record isn't held: the time isn't known.
        let time = group.time_of(view.moment).ok().flatten().unwrap_or(0);
        let past = Arc::new(Past { item, group, view, time, rooms: Mutex::default() });
        let mut moments = self.moments.lock();
        if moments.len() >= OPEN_MAX {
            moments.remove(0);
        }
        moments.push((key, past.clone()));
        Ok(past)
    }

    pub(super) fn past_file(&self, vm: VmId, moment: Moment, file: DiskId) -> Answer<PastFile> {
        let held = self.item(vm)?.group().map_err(failed)?.hold(moment);
        let past = self.past(vm, moment)?;
        let (disk, named) = past.named(file).ok_or(Errno::ESTALE)?;
        if named.kind == FileKind::Directory {
            return Err(Errno::EISDIR);
        }
        past.group.not_passed(&past.view, disk).map_err(failed)?;
        Ok(PastFile { past, disk, _held: held })
    }

    pub(super) fn past_attributes(&self, node: &Node) -> Answer<Attributes> {
        let (past, file) = match node {
            Node::PastRoot(vm, moment) => (self.past(*vm, *moment)?, None),
            Node::Past(vm, moment, file) => (self.past(*vm, *moment)?, Some(*file)),
            _ => return Err(Errno::ESTALE),
        };
        let time = past.time;
        let directory = Attributes {
            ino: node.ino(),
            size: 4096,
            blocks: 8,
            atime: time,
            mtime: time,
            ctime: time,
            kind: NodeKind::Directory,
            mode: 0o555,
            nlink: 2,
            uid: 0,
            gid: 0,
        };
        let Some(file) = file else { return Ok(directory) };
        let (disk, named) = past.named(file).ok_or(Errno::ESTALE)?;
        if named.kind == FileKind::Directory {
            return Ok(directory);
        }
        let size = named.size;
        let room = past.room(disk, size).map_err(failed)?;
        // Readable for who may read the live file; never writable.
        let (mode, uid, gid) = self
            .live(past.item.id(), if named.path.is_empty() { DiskId::NONE } else { file })
            .map_or((0o400, 0, 0), |live| live.attributes.owner());
        let mode = mode & 0o444;
        Ok(Attributes {
            size,
            blocks: room.div_ceil(512),
            kind: NodeKind::File,
            mode,
            nlink: 1,
            uid,
            gid,
            ..directory
        })
    }
}
