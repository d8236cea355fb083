//! Simulated storage: a machine's disk in memory, with a cache that a power loss takes, driven by a seed.
//!
//! It takes away all that S1 to S6 in `storage.rs` don't promise. The same seed and the same calls give the
//! same outcome. Single-threaded use is deterministic; more threads are safe, but then the order of their
//! calls decides.
//!
//! 1. Nothing but a sync, a durable write or a device flush moves content to the medium; nothing but
//!    `sync_dir` moves names.
//! 2. After a power loss, every call fails until [`SimDevice::power_on`], and a handle from before for ever.
//! 3. Only calls that can change something are counted ([`Class::changes`]), so that "crash at the n-th
//!    operation, for every n" has no empty rounds. A crash hits *within* the n-th: it may have happened,
//!    wholly or in part, but its caller never hears of it.

mod content;
mod faults;
mod inode;
mod names;
mod state;
mod storage;

pub use faults::{Class, Fault, is_killed, is_power_loss};
pub use storage::SimStorage;

use crate::seam::Storage;
use crate::vocab::Result;
use parking_lot::{Mutex, MutexGuard};
use state::{Process, State};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The disk of one simulated machine. Clones are the same disk.
#[derive(Clone)]
pub struct SimDevice {
    state: Arc<Mutex<State>>,
}

impl SimDevice {
    /// An empty disk with power and FUA, and room enough.
    pub fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(seed))) }
    }

    /// A process's view of the tree below `root`, which is made, durably, if it isn't there. Several sites can
    /// have a tree each on one machine; they lose power together and are killed apart.
    pub fn storage(&self, root: impl AsRef<Path>) -> SimStorage {
        let root = root.as_ref();
        let mut state = self.lock();
        let mut made = PathBuf::new();
        let (mut at, mut parent) = (names::ROOT, names::ROOT);
        for part in root.components() {
            made.push(part);
            if let Ok(true) = state.names.make_dir(names::ROOT, &made) {
                state.names.sync(parent);
            }
            if let Ok(Some(id)) = state.names.find(names::ROOT, &made) {
                (parent, at) = (id, id);
            }
        }
        state.processes.push(Process { life: 0, alive: true });
        SimStorage::new(self.clone(), state.processes.len() - 1, at, root.to_owned())
    }

    /// A copy of the disk as it is, cache included, on a machine of its own that goes on with another seed.
    /// Restoring a backup is: keep a copy, go on, then use the copy. Handles and processes aren't copied.
    pub fn fork(&self, seed: u64) -> Self {
        let mut state = self.lock().clone();
        state.rng = fastrand::Rng::with_seed(seed);
        state.names.forget_handles();
        state.processes.clear();
        state.late = None;
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Cuts the power now. What was unsynced is lost, kept or torn.
    pub fn power_loss(&self) {
        let mut state = self.lock();
        if state.on {
            state.lose_power();
        }
    }

    /// Ends a power loss: calls work again and all processes live, with new handles only.
    pub fn power_on(&self) {
        let mut state = self.lock();
        state.on = true;
        state.processes.iter_mut().for_each(|p| p.alive = true);
    }

    /// Whether there is power.
    pub fn has_power(&self) -> bool {
        self.lock().on
    }

    /// Cuts the power within the `n`-th changing call from now on: 1 is the next.
    pub fn power_loss_at(&self, n: u64) {
        let mut state = self.lock();
        state.power_cut_at = Some(state.operations + n);
    }

    /// Kills the caller within the `n`-th changing call from now on. If that is a write, it is under way: it
    /// lands only by [`Self::land_late_write`].
    pub fn kill_at(&self, n: u64) {
        let mut state = self.lock();
        state.kill_at = Some(state.operations + n);
    }

    /// Lets the write that was under way at a kill land now. False if there was none, or power was lost since.
    pub fn land_late_write(&self) -> bool {
        let mut state = self.lock();
        let Some((node, change)) = state.late.take().filter(|_| state.on) else { return false };
        state.change(node, change, false);
        true
    }

    /// Lets a write of a dead process land that nobody saw begin: these bytes, as unsynced as any write. The
    /// path is from the root of the disk. `NotFound` if there is no such file.
    pub fn late_write(&self, path: impl AsRef<Path>, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let path = path.as_ref();
        let shown = path.display().to_string();
        let found = state.names.find(names::ROOT, path).and_then(|node| node.ok_or(libc::ENOENT));
        let node = found.map_err(|errno| state::failed(errno, "no late write", &shown))?;
        state.change(node, content::Change::Write { offset, data: bytes.into() }, false);
        Ok(())
    }

    /// Changing calls so far. Run once without a crash to learn how many there are.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The call that the last crash hit, for messages of failed tests.
    pub fn crashed_in(&self) -> String {
        self.lock().last.clone()
    }

    /// Changes of content and names that a power loss may take.
    pub fn unsynced(&self) -> usize {
        self.lock().names.unsynced()
    }

    /// With FUA a durable write persists itself and nothing else; without, it flushes the whole device.
    pub fn set_fua(&self, fua: bool) {
        self.lock().fua = fua;
    }

    /// Sets the size of the disk in bytes. Beyond it: ENOSPC.
    pub fn set_room(&self, bytes: u64) {
        self.lock().room = bytes;
    }

    /// Lets calls fail.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Whether there are faults that haven't been used up.
    pub fn is_faulty(&self) -> bool {
        !self.lock().faults.is_empty()
    }

    /// Takes back all faults that haven't been used up.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Durable rot: inverts bits of one byte of a file. The path is from the root of the disk. `NotFound` if
    /// there is no such file.
    pub fn flip(&self, path: impl AsRef<Path>, offset: u64) -> Result<()> {
        self.rot(names::ROOT, path.as_ref(), offset)
    }

    fn rot(&self, root: names::NodeId, path: &Path, offset: u64) -> Result<()> {
        let state = &mut *self.lock();
        let bits = state.rng.u8(1..);
        let shown = path.display().to_string();
        let node = state.names.find(root, path).map_err(|e| state::failed(e, "can't flip", &shown))?;
        match node.and_then(|id| state.names.inode_mut(id)) {
            Some(inode) => inode.flip(offset, bits),
            None => return Err(state::failed(libc::ENOENT, "can't flip", &shown)),
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// What the engine takes.
impl From<SimStorage> for Arc<dyn Storage> {
    fn from(storage: SimStorage) -> Self {
        Arc::new(storage)
    }
}
