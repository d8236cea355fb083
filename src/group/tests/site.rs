//! One simulated site: a device, its clock, the group and what drives it.

use super::model::{Image, id, parts};
use crate::exchange::Verdict;
use crate::group::{Driver, Gate, Group, GroupParts};
use crate::history::{Event, RowKind};
use crate::seam::{SimClock, SimDevice};
use crate::vocab::{EpochId, StoreId, Token};
use std::collections::VecDeque;
use std::sync::Arc;

pub(super) struct Site {
    pub(super) device: SimDevice,
    pub(super) clock: SimClock,
    pub(super) group: Arc<Group>,
    pub(super) driver: Driver,
    pub(super) inbox: VecDeque<Vec<u8>>,
    pub(super) timer: u64,
    /// What its disks show while it writes.
    pub(super) now: Image,
    /// The image after an operation that failed with the power.
    pub(super) failed: Option<Image>,
    pub(super) verdict: Option<Verdict>,
}

pub(super) fn store(site: usize) -> StoreId {
    StoreId([site as u8 + 1; 16])
}

impl Site {
    pub(super) fn new(site: usize, rng: &mut fastrand::Rng) -> Self {
        let device = SimDevice::new(rng.u64(..));
        device.set_fua(rng.bool());
        let clock = SimClock::new(1_700_000_000_000_000_000);
        let parts = parts_of(&device, &clock, rng.u64(..), site);
        let group = match site {
            0 => Group::create(parts, id()).unwrap(),
            _ => Group::create_target(parts, id()).unwrap(),
        };
        let driver = Self::driver(&group, site);
        Self {
            device,
            clock,
            group,
            driver,
            inbox: VecDeque::new(),
            timer: u64::MAX,
            now: Image::new(),
            failed: None,
            verdict: None,
        }
    }

    pub(super) fn driver(group: &Arc<Group>, site: usize) -> Driver {
        Driver::new(group.clone(), Driver::settings(group, store(1 - site), None))
    }

    pub(super) fn open(&self, site: usize, seed: u64) -> Result<Arc<Group>, String> {
        let parts = parts_of(&self.device, &self.clock, seed, site);
        let (group, report) = Group::open(parts, id()).map_err(|e| format!("site {site} can't open: {e}"))?;
        if let Some(damage) = report.damage {
            return Err(format!("site {site} is damaged without rot: {damage}"));
        }
        let gate = gate_of(&group, site);
        if !matches!(gate, Gate::Open { .. }) {
            group.freeze(gate);
        }
        Ok(group)
    }

    /// Decisions of this site that were neither committed nor taken back.
    pub(super) fn uncommitted(&self) -> Vec<EpochId> {
        let mut out = Vec::new();
        for (_, event) in self.group.events() {
            match event {
                Event::Epoch { row, own: true } if row.decided() => out.push(row.epoch),
                Event::Committed { .. } | Event::Target { .. } => out.clear(),
                Event::Withdrawn { epoch, .. } => out.retain(|e| *e != epoch),
                _ => {}
            }
        }
        out
    }

    /// Only what was decided at a target can be taken back: below it lies what was received.
    pub(super) fn may_roll_back(&self) -> bool {
        let table = self.group.table();
        let kinds = [RowKind::Failover, RowKind::Planned, RowKind::Change];
        self.uncommitted().iter().all(|e| table.row(*e).is_some_and(|row| kinds.contains(&row.kind)))
    }

    /// The intent that is neither decided nor cancelled.
    pub(super) fn intent(&self) -> Option<Token> {
        let mut open = None;
        for (_, event) in self.group.events() {
            match event {
                Event::Intent { op, .. } => open = Some(op),
                Event::Cancelled { .. } => open = None,
                Event::Epoch { row, own: true } if row.decided() => open = None,
                _ => {}
            }
        }
        open
    }

    pub(super) fn fenced(&self) -> bool {
        let events = self.group.events();
        let newest = events.iter().rev().map(|(_, e)| e).find(|e| {
            matches!(e, Event::Fence { .. } | Event::Target { .. } | Event::HandoverEnded { .. })
                || matches!(e, Event::Epoch { row, own: true } if row.decided())
        });
        matches!(newest, Some(Event::Fence { .. }))
    }
}

pub(super) fn parts_of(device: &SimDevice, clock: &SimClock, seed: u64, site: usize) -> GroupParts {
    GroupParts { store_id: store(site), clock: Arc::new(clock.clone()), ..parts(device, seed) }
}

/// Who may write, from the history.
pub(super) fn gate_of(group: &Group, site: usize) -> Gate {
    let open = Gate::Open { begun: false };
    let table = group.table();
    let mut gate = if site == 0 { open } else { Gate::Target };
    for (_, event) in group.events() {
        match event {
            Event::Epoch { row, own: true } if row.decided() => gate = open,
            Event::Handover { .. } | Event::Fence { .. } => gate = Gate::Frozen,
            Event::HandoverEnded { .. } => gate = open,
            Event::Target { .. } => gate = Gate::Target,
            Event::Withdrawn { epoch, .. } if table.row(epoch).is_some_and(|r| r.site == store(site)) => {
                gate = Gate::Target;
            }
            _ => {}
        }
    }
    gate
}
