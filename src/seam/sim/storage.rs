//! The storage seam over a simulated device.

use super::SimDevice;
use super::content::{Change, Content, SECTOR};
use super::faults::Class;
use super::names::{NodeId, ROOT};
use super::state::{Caller, Fate, State, failed};
use crate::seam::aligned::{check_buffer, check_buffers};
use crate::seam::{Access, Durability, File, Space, Storage, TakeIn};
use crate::vocab::{Error, Kind, Result};
use parking_lot::MutexGuard;
use std::borrow::Cow;
use std::io::IoSlice;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One process's view of a tree on a [`SimDevice`], whose methods it has, too. Clones are the same process.
#[derive(Clone)]
pub struct SimStorage {
    device: SimDevice,
    process: usize,
    root: NodeId,
    prefix: PathBuf,
}

impl Deref for SimStorage {
    type Target = SimDevice;

    fn deref(&self) -> &SimDevice {
        &self.device
    }
}

impl SimStorage {
    pub(super) fn new(device: SimDevice, process: usize, root: NodeId, prefix: PathBuf) -> Self {
        Self { device, process, root, prefix }
    }

    /// Kills the process (SIGKILL): its handles are dead, what it wrote stays in the cache. Every call fails
    /// until [`Self::restart`].
    pub fn kill(&self) {
        self.device.lock().kill(self.process);
    }

    /// Starts the process again.
    pub fn restart(&self) {
        if let Some(process) = self.device.lock().processes.get_mut(self.process) {
            process.alive = true;
        }
    }

    /// Durable rot in a file of this tree. See [`SimDevice::flip`].
    pub fn flip(&self, path: impl AsRef<Path>, offset: u64) -> Result<()> {
        self.device.rot(self.root, path.as_ref(), offset)
    }

    fn caller(&self, state: &State) -> (Caller, u64) {
        let life = state.processes.get(self.process).map_or(0, |p| p.life);
        (Caller { process: self.process, life }, state.boot)
    }

    /// Runs a call on names.
    fn call<T>(
        &self,
        class: Class,
        path: &Path,
        what: &str,
        act: impl FnOnce(&mut State) -> std::result::Result<T, i32>,
    ) -> Result<T> {
        let shown = self.shown(path);
        let state = &mut *self.device.lock();
        let (caller, boot) = self.caller(state);
        let fate = state.begin(class, caller, boot, &shown)?;
        let result = state.takes_effect(fate).then(|| act(state));
        state.end(fate, caller, what, &shown)?;
        // Reached only by a call that was done.
        result.unwrap_or(Err(libc::EIO)).map_err(|errno| failed(errno, what, &shown))
    }

    /// The handle for a file that a call has just opened. Made without the lock, which its drop takes.
    fn file(&self, opened: (NodeId, Caller, u64), path: &Path, access: Access) -> Arc<dyn File> {
        let (node, caller, boot) = opened;
        let shown = self.shown(path);
        Arc::new(SimFile { device: self.device.clone(), node, access, caller, boot, shown })
    }

    fn opened(&self, state: &mut State, node: NodeId) -> (NodeId, Caller, u64) {
        let (caller, boot) = self.caller(state);
        state.names.add_handle(node, 1);
        (node, caller, boot)
    }
}

impl Storage for SimStorage {
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>> {
        let opened = self.call(Class::Open, path, "can't open", |state| {
            let node = state.names.find(self.root, path)?.ok_or(libc::ENOENT)?;
            match state.names.inode(node) {
                Some(_) => Ok(self.opened(state, node)),
                None => Err(libc::EISDIR),
            }
        })?;
        Ok(self.file(opened, path, access))
    }

    fn create(&self, path: &Path, access: Access) -> Result<Arc<dyn File>> {
        if access == Access::ReadOnly {
            let error = Error::new(Kind::Invalid, "a file can't be created for reading only");
            return Err(error.at(self.shown(path)));
        }
        let opened = self.call(Class::Create, path, "can't create", |state| {
            let node = state.names.create(self.root, path)?;
            Ok(self.opened(state, node))
        })?;
        Ok(self.file(opened, path, access))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.call(Class::Rename, from, "can't rename", |state| {
            state.names.rename(self.root, from, to)?;
            state.used = state.names.used();
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.call(Class::Remove, path, "can't remove", |state| {
            state.names.remove(self.root, path, false)?;
            state.used = state.names.used();
            Ok(())
        })
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        self.call(Class::MakeDir, path, "can't make the directory", |state| {
            let mut made = PathBuf::new();
            for part in path.components() {
                made.push(part);
                state.names.make_dir(self.root, &made)?;
            }
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.call(Class::Remove, path, "can't remove the directory", |state| {
            state.names.remove(self.root, path, true)
        })
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        self.call(Class::Read, path, "can't list", |state| Ok(state.names.folder(self.root, path)?.1))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let shown = self.shown(path);
        let state = &mut *self.device.lock();
        let (caller, boot) = self.caller(state);
        let fate = state.begin(Class::SyncDir, caller, boot, &shown)?;
        let what = "can't sync the directory";
        let dir = state.names.folder(self.root, path);
        // Cut within the sync: nothing of it is sure, and the loss decides what stays.
        if fate == Fate::Done
            && let Ok((dir, _)) = &dir
        {
            state.names.sync(*dir);
        }
        state.end(fate, caller, what, &shown)?;
        dir.map(|_| ()).map_err(|errno| failed(errno, what, &shown))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.call(Class::Read, path, "can't look up", |state| {
            Ok(state.names.find(self.root, path)?.is_some())
        })
    }

    /// `outside`: from the device's own root.
    fn take_in(&self, outside: &Path, to: &Path, how: TakeIn) -> Result<()> {
        if how == TakeIn::Reflink {
            return Err(Error::new(Kind::Unsupported, "blocks can't be shared here").at(outside));
        }
        let from = outside.strip_prefix("/").unwrap_or(outside).to_owned();
        let whole = Path::new(&self.prefix).join(to);
        self.call(Class::Rename, to, "can't take in", |state| {
            if state.names.find(ROOT, &whole)?.is_some() {
                return Err(libc::EEXIST);
            }
            // What was written to it by the time is durable.
            if let Some(inode) = state.names.find(ROOT, &from)?.and_then(|id| state.names.inode_mut(id)) {
                inode.sync();
            }
            state.names.rename(ROOT, &from, &whole)?;
            state.used = state.names.used();
            Ok(())
        })
    }

    fn space(&self) -> Result<Space> {
        self.call(Class::Read, Path::new(""), "can't ask for free space", |state| {
            Ok(Space { total: state.room, free: state.room.saturating_sub(state.used), filesystem: 1 })
        })
    }

    fn shown(&self, path: &Path) -> String {
        let mut shown = Path::new("sim:/").join(&self.prefix);
        if !path.as_os_str().is_empty() {
            shown.push(path);
        }
        shown.display().to_string()
    }
}

struct SimFile {
    device: SimDevice,
    node: NodeId,
    access: Access,
    caller: Caller,
    boot: u64,
    shown: String,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.device.lock();
        if state.boot == self.boot {
            state.names.add_handle(self.node, -1);
        }
    }
}

impl SimFile {
    fn begin(&self, class: Class) -> Result<(MutexGuard<'_, State>, Fate)> {
        if class.changes() && class != Class::Sync && self.access == Access::ReadOnly {
            return Err(failed(libc::EBADF, "can't change a file opened for reading", &self.shown));
        }
        let mut state = self.device.lock();
        let fate = state.begin(class, self.caller, self.boot, &self.shown)?;
        Ok((state, fate))
    }

    fn look<T>(&self, what: &str, act: impl FnOnce(&Content) -> T) -> Result<T> {
        let (mut state, fate) = self.begin(Class::Read)?;
        state.end(fate, self.caller, what, &self.shown)?;
        let inode = state.names.inode(self.node).ok_or_else(|| failed(libc::ESTALE, what, &self.shown))?;
        let content = match self.access {
            Access::Direct => inode.past_cache(),
            Access::Cached | Access::Content | Access::ReadOnly => Cow::Borrowed(&inode.current),
        };
        Ok(act(&content))
    }

    fn alter(&self, class: Class, change: Change, what: &str) -> Result<()> {
        let (mut state, fate) = self.begin(class)?;
        if fate == Fate::Done
            && let Change::Reserve { offset, len } | Change::Zero { offset, len } = &change
            && let Some(inode) = state.names.inode(self.node)
            && inode.current.missing(*offset, *len) > state.free_pages()
        {
            return Err(failed(libc::ENOSPC, what, &self.shown).offset(*offset));
        }
        if state.takes_effect(fate) {
            state.change(self.node, change, false);
        }
        state.end(fate, self.caller, what, &self.shown)
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        if self.access == Access::Direct {
            check_buffer(buf, offset).map_err(|e| e.at(&self.shown))?;
        }
        self.look("can't read", |content| content.read(buf, offset)).map_err(|e| e.offset(offset))
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64, durability: Durability) -> Result<()> {
        if self.access == Access::Direct {
            check_buffers(bufs, offset).map_err(|e| e.at(&self.shown))?;
        }
        let (mut state, mut fate) = self.begin(Class::Write)?;
        let mut data: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let whole = data.len();
        if matches!(fate, Fate::Done | Fate::Failed(_))
            && let Some(inode) = state.names.inode(self.node)
        {
            let fits = inode.current.fits(offset, whole as u64, state.free_pages()) as usize;
            if fits < whole {
                data.truncate(fits);
                fate = Fate::Failed(libc::ENOSPC);
            }
        }
        if matches!(fate, Fate::Failed(_)) && !data.is_empty() {
            // What a failed write left behind is unknown.
            let sectors = state.rng.usize(..=data.len().div_ceil(SECTOR as usize));
            data.truncate(sectors * SECTOR as usize);
        }
        let change = Change::Write { offset, data: data.into() };
        match fate {
            Fate::Killed => state.late = Some((self.node, change)),
            Fate::Done if durability == Durability::Durable => {
                if !state.fua {
                    state.flush_device();
                }
                state.change(self.node, change, true);
            }
            _ => state.change(self.node, change, false),
        }
        state.end(fate, self.caller, "can't write", &self.shown).map_err(|e| e.offset(offset))
    }

    fn sync(&self) -> Result<()> {
        let (mut guard, fate) = self.begin(Class::Sync)?;
        let state = &mut *guard;
        if let Some(inode) = state.names.inode_mut(self.node) {
            match fate {
                Fate::Done => inode.sync(),
                Fate::Failed(_) => inode.fail_sync(&mut state.rng),
                // Cut within the sync: the loss decides. Killed: nobody waits for it any more.
                Fate::PowerCut | Fate::Killed => {}
            }
        }
        state.end(fate, self.caller, "can't sync", &self.shown)
    }

    fn len(&self) -> Result<u64> {
        self.look("can't ask for the length", Content::len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.alter(Class::SetLen, Change::SetLen(len), "can't set the length")
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.alter(Class::Allocate, Change::Reserve { offset, len }, "can't allocate")
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.alter(Class::Punch, Change::Punch { offset, len }, "can't punch a hole")
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.alter(Class::Punch, Change::Zero { offset, len }, "can't zero")
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        self.look("can't look for data", |content| content.next_data(offset))
    }

    fn next_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.look("can't look for holes", |content| content.next_hole(offset))
    }

    fn allocated(&self) -> Result<u64> {
        self.look("can't ask for the allocated room", Content::allocated)
    }
}
