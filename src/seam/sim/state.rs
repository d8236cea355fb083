//! What one simulated machine is at a moment, and the gate that every call passes.

use super::content::{Change, PAGE};
use super::faults::{Class, Fault, Gone};
use super::inode::Odds;
use super::names::{Names, NodeId};
use crate::vocab::{Error, Result};

/// Whose call it is: which process, and in which of its lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Caller {
    pub(super) process: usize,
    pub(super) life: u64,
}

#[derive(Clone)]
pub(super) struct Process {
    pub(super) life: u64,
    pub(super) alive: bool,
}

/// What becomes of a call that may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Done,
    /// The power fails before it returns.
    PowerCut,
    /// Its process is killed before it returns.
    Killed,
    /// It fails with this errno.
    Failed(i32),
}

#[derive(Clone)]
pub(super) struct State {
    pub(super) names: Names,
    pub(super) rng: fastrand::Rng,
    pub(super) on: bool,
    /// Power cycles; handles of an earlier one are dead.
    pub(super) boot: u64,
    pub(super) processes: Vec<Process>,
    pub(super) fua: bool,
    pub(super) room: u64,
    pub(super) used: u64,
    pub(super) operations: u64,
    pub(super) power_cut_at: Option<u64>,
    pub(super) kill_at: Option<u64>,
    pub(super) last: String,
    pub(super) faults: Vec<Fault>,
    /// The write that was under way when its process was killed.
    pub(super) late: Option<(NodeId, Change)>,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            names: Names::new(),
            rng: fastrand::Rng::with_seed(seed),
            on: true,
            boot: 0,
            processes: Vec::new(),
            fua: true,
            room: 1 << 50,
            used: 0,
            operations: 0,
            power_cut_at: None,
            kill_at: None,
            last: String::new(),
            faults: Vec::new(),
            late: None,
        }
    }

    /// Lets a call begin, or says why the caller is gone.
    pub(super) fn begin(&mut self, class: Class, caller: Caller, boot: u64, shown: &str) -> Result<Fate> {
        if !self.on || boot != self.boot {
            return Err(Gone::PowerLoss.error(shown));
        }
        let process = self.processes.get(caller.process);
        if process.is_none_or(|p| !p.alive || p.life != caller.life) {
            return Err(Gone::Killed.error(shown));
        }
        if class.changes() {
            self.operations += 1;
            let now = Some(self.operations);
            if self.power_cut_at == now || self.kill_at == now {
                self.last = format!("{class:?} {shown}");
                return Ok(if self.power_cut_at == now { Fate::PowerCut } else { Fate::Killed });
            }
        }
        let fired = self.faults.iter_mut().find_map(|fault| fault.fires(class, shown));
        self.faults.retain(|fault| !fault.is_over());
        Ok(fired.map_or(Fate::Done, Fate::Failed))
    }

    /// Ends a call: what the caller hears.
    pub(super) fn end(&mut self, fate: Fate, caller: Caller, what: &str, shown: &str) -> Result<()> {
        match fate {
            Fate::Done => Ok(()),
            Fate::PowerCut => {
                self.lose_power();
                Err(Gone::PowerLoss.error(shown))
            }
            Fate::Killed => {
                self.kill(caller.process);
                Err(Gone::Killed.error(shown))
            }
            Fate::Failed(errno) => Err(failed(errno, what, shown)),
        }
    }

    pub(super) fn lose_power(&mut self) {
        let odds = Odds::draw(&mut self.rng);
        self.names.lose_power(odds, &mut self.rng);
        self.used = self.names.used();
        self.on = false;
        self.boot += 1;
        self.late = None;
        self.power_cut_at = None;
        self.kill_at = None;
    }

    pub(super) fn kill(&mut self, process: usize) {
        if let Some(process) = self.processes.get_mut(process) {
            process.alive = false;
            process.life += 1;
        }
        self.kill_at = None;
    }

    /// Whether a call of this class takes effect though its caller will not hear of it.
    pub(super) fn takes_effect(&mut self, fate: Fate) -> bool {
        match fate {
            Fate::Done => true,
            // Volatile: the loss that follows decides.
            Fate::PowerCut => true,
            Fate::Killed => self.rng.bool(),
            Fate::Failed(_) => false,
        }
    }

    pub(super) fn free_pages(&self) -> u64 {
        self.room.saturating_sub(self.used) / PAGE
    }

    /// Changes a file and keeps the account of room.
    pub(super) fn change(&mut self, node: NodeId, change: Change, durable: bool) {
        let Some(inode) = self.names.inode_mut(node) else { return };
        let before = inode.current.allocated();
        inode.change(change, durable);
        // A file without a name is counted too until names change the next time: never too little is taken.
        self.used = (self.used + inode.current.allocated()).saturating_sub(before);
    }

    /// Makes durable what the device's cache holds of every file.
    pub(super) fn flush_device(&mut self) {
        self.names.inodes_mut().for_each(|inode| inode.sync());
    }
}

pub(super) fn failed(errno: i32, what: &str, shown: &str) -> Error {
    let source = std::io::Error::from_raw_os_error(errno);
    if errno == libc::EINVAL {
        return Error::new(crate::vocab::Kind::Invalid, what).at(shown);
    }
    Error::io(source, what).at(shown)
}
