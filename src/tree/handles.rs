//! Openings: what a handle stands for.
//!
//! H1. A handle is in the mount's table before it is answered, with its node and the epoch in which it was opened;
//!     the next process finds it there and goes on.
//! H2. A live file that was opened before its history was left for another gets ESTALE for everything, instead of
//!     the blocks of that other history (`group::content`, F2).
//! H3. An opening of a past moment keeps that moment.
//! H5. An opening of a disk of a target is one of its newest moment, and keeps it (H3): what comes in meanwhile is seen
//!     by the next.
//! H4. A group that a failed sync made open anew is used by no opening any more: its openings are made again, as those of
//!     a process before this one, with H2 and H3 judged by the new group.

use crate::site::start::Openings;
use crate::tree::control::{Control, Said};
use crate::tree::host::Numbers;
use crate::tree::lines::Lines;
use crate::tree::live::Live;
use crate::tree::node::{KIND_OPEN, Node};
use crate::tree::ops::{Answer, Errno};
use crate::tree::past::PastFile;
use crate::vocab::{DiskId, EpochId, Result, VmId};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 16;

/// What was opened.
pub(super) enum What {
    Live(Arc<Live>),
    Past(PastFile),
    /// A file that is made when it is opened.
    Text(Vec<u8>),
    /// A control or policy file.
    Control(Control),
    /// Events, or a job's log: lines that become more while they are read.
    Lines(Lines),
}

/// An opening.
pub(super) struct Open {
    pub(super) what: What,
    epoch: EpochId,
    /// Opened for writing.
    pub(super) writes: bool,
    /// The newest generation of the group for which H2 was checked.
    generation: AtomicU64,
}

/// As it lies in the mount's table.
#[derive(Serialize, Deserialize)]
pub(super) struct Meaning {
    pub(super) node: Node,
    pub(super) epoch: EpochId,
    /// The file's own identity: `node` has none for the only file of a VM.
    pub(super) file: DiskId,
    /// The name of a live file that was opened for writing.
    #[serde(default)]
    pub(super) writes: Option<String>,
    /// What was written to a control file by this opening.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) said: Option<Said>,
}

impl Open {
    /// H4.
    fn is_left(&self) -> bool {
        match &self.what {
            What::Live(live) => live.group.is_left(),
            What::Past(past) => past.is_left(),
            _ => false,
        }
    }

    pub(super) fn new(what: What, epoch: EpochId) -> Self {
        Self { what, epoch, writes: false, generation: AtomicU64::new(u64::MAX) }
    }

    /// As [`Open::new`], of a live file, with what it was opened for.
    pub(super) fn of_live(live: Arc<Live>, epoch: EpochId, writes: bool) -> Self {
        Self { writes, ..Self::new(What::Live(live), epoch) }
    }

    /// The live file and the generation for which that holds. H2.
    pub(super) fn live(&self) -> Answer<(&Arc<Live>, u64)> {
        let What::Live(live) = &self.what else { return Err(Errno::EBADF) };
        let generation = live.group.generation();
        if self.generation.load(Ordering::Acquire) != generation {
            if !live.group.is_live(self.epoch).unwrap_or(false) {
                return Err(Errno::ESTALE);
            }
            self.generation.store(generation, Ordering::Release);
        }
        Ok((live, generation))
    }
}

/// All openings.
pub(super) struct Handles {
    numbers: Arc<dyn Numbers>,
    shards: [RwLock<HashMap<u64, Arc<Open>>>; SHARDS],
    /// How many openings of live files there are.
    counts: Mutex<HashMap<(VmId, DiskId), usize>>,
    /// Live files that are open for writing, by handle.
    writers: Arc<Mutex<HashMap<u64, (VmId, String)>>>,
}

impl Handles {
    /// Those of processes before this one count; they are made when they are used.
    pub(super) fn new(numbers: Arc<dyn Numbers>) -> Self {
        let (mut counts, mut writers) = (HashMap::new(), HashMap::new());
        for (handle, meaning) in numbers.all(KIND_OPEN) {
            if let Ok(Meaning { node: Node::Live(vm, _), file, writes, .. }) =
                serde_json::from_slice(&meaning)
            {
                *counts.entry((vm, file)).or_insert(0) += 1;
                writers.extend(writes.map(|name| (handle, (vm, name))));
            }
        }
        let writers = Arc::new(Mutex::new(writers));
        Self { numbers, shards: Default::default(), counts: Mutex::new(counts), writers }
    }

    /// Names a file of a VM that is open for writing.
    pub(super) fn writers(&self) -> Box<Openings> {
        let writers = Arc::clone(&self.writers);
        Box::new(move |vm| writers.lock().values().find(|(of, _)| *of == vm).map(|(_, name)| name.clone()))
    }

    /// The mount's table.
    pub(super) fn numbers(&self) -> &Arc<dyn Numbers> {
        &self.numbers
    }

    fn shard(&self, handle: u64) -> &RwLock<HashMap<u64, Arc<Open>>> {
        &self.shards[handle as usize % SHARDS]
    }

    /// H1.
    pub(super) fn add(&self, meaning: &Meaning, open: Open) -> Result<u64> {
        let handle = self.numbers.fresh(KIND_OPEN);
        self.numbers.put(KIND_OPEN, handle, &serde_json::to_vec(meaning).unwrap_or_default())?;
        if let Node::Live(vm, _) = meaning.node {
            *self.counts.lock().entry((vm, meaning.file)).or_insert(0) += 1;
            if let Some(name) = &meaning.writes {
                self.writers.lock().insert(handle, (vm, name.clone()));
            }
        }
        self.shard(handle).write().insert(handle, Arc::new(open));
        Ok(handle)
    }

    /// The opening, made again if a process before this one gave the handle out.
    pub(super) fn get(&self, handle: u64, again: impl FnOnce(Meaning) -> Answer<Open>) -> Answer<Arc<Open>> {
        if let Some(open) = self.shard(handle).read().get(&handle).filter(|open| !open.is_left()) {
            return Ok(open.clone());
        }
        let open = Arc::new(again(self.meaning(handle)?)?);
        let mut openings = self.shard(handle).write();
        let there = openings.entry(handle).or_insert_with(|| open.clone());
        if there.is_left() {
            *there = open;
        }
        Ok(there.clone())
    }

    fn meaning(&self, handle: u64) -> Answer<Meaning> {
        let bytes = self.numbers.get(KIND_OPEN, handle).ok_or(Errno::EBADF)?;
        serde_json::from_slice(&bytes).map_err(|_| Errno::EBADF)
    }

    /// An opening ends. The file, if it is a live one and this was its last.
    pub(super) fn end(&self, handle: u64) -> Option<(VmId, DiskId)> {
        let meaning = self.meaning(handle).ok();
        self.shard(handle).write().remove(&handle);
        self.writers.lock().remove(&handle);
        if let Err(error) = self.numbers.remove(KIND_OPEN, handle) {
            tracing::warn!(%error, "the mount's table keeps a handle that was closed");
        }
        let Some(Meaning { node: Node::Live(vm, key), file, .. }) = meaning else { return None };
        let mut counts = self.counts.lock();
        let count = counts.get_mut(&(vm, file))?;
        *count = count.saturating_sub(1);
        if *count > 0 {
            return None;
        }
        counts.remove(&(vm, file));
        Some((vm, key))
    }

    pub(super) fn is_open(&self, vm: VmId, file: DiskId) -> bool {
        self.counts.lock().contains_key(&(vm, file))
    }

    pub(super) fn is_vm_open(&self, vm: VmId) -> bool {
        self.counts.lock().keys().any(|(of, _)| *of == vm)
    }
}
