//! The protected item: one entry of `disks/`, with its group.

use crate::group::{Group, GroupParts, Upkeep, left_out};
use crate::protection::Role;
use crate::protection::health::Health;
use crate::protection::policy::{Policy, SiteSettings};
use crate::site::catalog::Catalog;
use crate::site::commands::Ground;
use crate::site::facts::Known;
use crate::site::objects::VmObject;
use crate::site::room::Noted;
use crate::site::start_wait::{StartWait, Waiting};
use crate::vocab::{Error, GroupId, Kind, Result, StoreId, VmId};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The protected item: one entry of `disks/`.
pub struct Vm {
    pub(super) id: VmId,
    pub(super) name: Mutex<String>,
    pub(super) single: bool,
    pub(super) group_id: GroupId,
    /// The site that its group replicates to or from.
    pub(super) peer: Mutex<Option<StoreId>>,
    pub(super) group: Mutex<Option<Arc<Group>>>,
    /// It was removed: its group isn't opened any more (Z3 of `unlisted`). Changes under the lock of `group`.
    pub(super) removed: AtomicBool,
    pub(super) upkeep: Mutex<Upkeep>,
    pub(super) parts: GroupParts,
    /// One command at a time: what it was judged by stays true until it is done.
    pub(crate) commanding: Mutex<()>,
    pub(super) known: Mutex<Known>,
    pub(super) policy: Mutex<Option<Held>>,
    pub(super) pointed_ns: AtomicU64,
    pub(super) health: Mutex<Health>,
    pub(super) noted: Mutex<Noted>,
    pub(super) start: Arc<StartWait>,
    pub(super) waiting: Mutex<Waiting>,
}

/// A policy in memory, and whether somebody wrote it.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) policy: Policy,
    pub(super) settings: SiteSettings,
    pub(super) written: bool,
}

impl Vm {
    /// As the catalog has it; its group isn't opened.
    pub(super) fn of(object: &VmObject, parts: &GroupParts, start: &Arc<StartWait>) -> Self {
        Self {
            id: object.id,
            name: Mutex::new(object.name.clone()),
            single: object.single,
            group_id: object.group,
            peer: Mutex::new(None),
            group: Mutex::new(None),
            removed: AtomicBool::new(false),
            upkeep: Mutex::new(Upkeep::default()),
            parts: parts.clone(),
            commanding: Mutex::default(),
            known: Mutex::default(),
            policy: Mutex::default(),
            pointed_ns: AtomicU64::new(0),
            health: Mutex::default(),
            noted: Mutex::default(),
            start: Arc::clone(start),
            waiting: Mutex::default(),
        }
    }

    /// Its identity.
    pub fn id(&self) -> VmId {
        self.id
    }

    /// Its name in `disks/` and `vms/`.
    pub fn name(&self) -> String {
        self.name.lock().clone()
    }

    /// It is a single file, not a directory.
    pub fn single(&self) -> bool {
        self.single
    }

    /// The identity of its group.
    pub fn group_id(&self) -> GroupId {
        self.group_id
    }

    /// The site that its group replicates to or from.
    pub fn peer(&self) -> Option<StoreId> {
        *self.peer.lock()
    }

    /// Its group, recovered at the first call.
    ///
    /// # Errors
    /// What recovery can't mend: the VM is not served, others are. `Stale` once the VM was removed.
    pub fn group(&self) -> Result<Arc<Group>> {
        let mut open = self.group.lock();
        if let Some(group) = &*open {
            return Ok(group.clone());
        }
        if self.is_removed() && !left_out("Z3: the group of a removed VM is not opened") {
            return Err(Error::new(Kind::Stale, format!("the VM {} was removed", self.name())));
        }
        let (group, report) = Group::open(self.parts.clone(), self.group_id)?;
        for note in &report.notes {
            tracing::info!(vm = %self.name(), "{note}");
        }
        if let Some(damage) = &report.damage {
            tracing::error!(vm = %self.name(), "damaged, read-only: {damage}");
        }
        if report.damage.is_none() {
            let known = Ground::settle(&group)?;
            self.start.opened(&group, &known, &self.waiting);
        }
        *open = Some(group.clone());
        Ok(group)
    }

    /// What is known from the group's history.
    ///
    /// # Errors
    /// Those of [`Vm::group`].
    pub fn known(&self) -> Result<Known> {
        let group = self.group()?;
        let mut known = self.known.lock();
        group.with_events(|events| {
            if known.lines > events.len() {
                *known = Known::default();
            }
            events.iter().skip(known.lines).for_each(|(_, event)| known.take(event));
        });
        let mut known = known.clone();
        // A copy over an image has a file of its own and no line until it is whole.
        known.facts.jump_running |= known.facts.role == Role::Target && group.copies_over();
        Ok(known)
    }

    /// Policy and this site's settings for the group.
    pub fn policy(&self, catalog: &Catalog) -> Result<(Policy, SiteSettings)> {
        self.held(catalog).map(|held| (held.policy, held.settings))
    }

    pub(super) fn held(&self, catalog: &Catalog) -> Result<Held> {
        let mut held = self.policy.lock();
        if let Some(held) = &*held {
            return Ok(held.clone());
        }
        let stored = crate::site::policies::stored(catalog, self.group_id)?;
        let written = stored.is_some();
        let (policy, settings) = stored.unwrap_or_default();
        Ok(held.insert(Held { policy, settings, written }).clone())
    }

    /// Keeps another policy; durable when this returns.
    pub(crate) fn set_policy(&self, catalog: &Catalog, policy: Policy, settings: SiteSettings) -> Result<()> {
        let mut held = self.policy.lock();
        crate::site::policies::store(catalog, self.group_id, &policy, &settings)?;
        *held = Some(Held { policy, settings, written: true });
        Ok(())
    }

    /// Holds the site's thread off this VM.
    #[cfg(test)]
    pub(crate) fn still_upkeep(&self) -> parking_lot::MutexGuard<'_, Upkeep> {
        self.upkeep.lock()
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(super) fn opened(&self) -> Option<Arc<Group>> {
        self.group.lock().clone()
    }
}
