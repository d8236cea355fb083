//! Groups that no VM has: one is being made, or was removed.
//!
//! Z1. The directory of a group is deleted only where this site has written down that no VM has the group, and none of
//!     the catalog does. A group that is merely not in the catalog stays: where that was lost, it may be the only copy.
//! Z2. What a crash leaves of the making or the removal of a VM is deleted at the next start.
//! Z3. Nobody works on a group while it is deleted, and nobody opens it: a file that came meanwhile would hinder the
//!     deletion, or stay for ever.

use crate::group::{GroupParts, left_out};
use crate::seam::Storage;
use crate::site::objects::{GroupObject, UnlistedObject, VmObject};
use crate::site::store::Store;
use crate::site::{Site, Vm};
use crate::vocab::{GroupId, Kind, Result};
use std::path::Path;
use std::sync::atomic::Ordering;

impl Site {
    /// Before the first file of a group is made, or the first entry of a VM deleted (Z1).
    pub(super) fn say_unlisted(&self, group: GroupId) -> Result<()> {
        self.store.catalog().put(&UnlistedObject { group })
    }

    /// The catalog has the group, or nothing of it is there any more.
    pub(super) fn forget_unlisted(&self, group: GroupId) -> Result<()> {
        self.store.catalog().delete::<UnlistedObject>(&group.to_string()).map(drop)
    }

    /// Removes a VM with all that is kept of it. It is gone once the catalog's entry is; if its files can't be deleted
    /// then, the next start tries again.
    ///
    /// # Errors
    /// `Refused` while it is protected, `Busy` while an image is being taken in: it may be the only copy.
    pub fn remove_vm(&self, vm: &Vm) -> Result<()> {
        self.refuse_if_protected(vm, "removed")?;
        match vm.opened() {
            Some(group) => group.without_import(|| self.remove_all_of(vm)),
            None => self.remove_all_of(vm),
        }
    }

    fn remove_all_of(&self, vm: &Vm) -> Result<()> {
        let catalog = self.store.catalog();
        let mut vms = self.vms.write();
        match self.say_unlisted(vm.group_id) {
            // What makes room is not refused for want of it: only a crash in what follows would leave the files.
            Err(error) if error.kind() != Kind::NoSpace => return Err(error),
            _ => {}
        }
        catalog.delete::<VmObject>(&vm.id.to_string())?;
        catalog.delete::<GroupObject>(&vm.group_id.to_string())?;
        vms.remove(&vm.name());
        drop(vms);
        let group = {
            let mut open = vm.group.lock();
            vm.removed.store(true, Ordering::Release);
            open.take()
        };
        // No connection with a peer speaks of it any more.
        if let Some(engine) = self.engine() {
            engine.drop_slot(vm.group_id);
        }
        if let Some(group) = group {
            group.end();
            // A turn of upkeep that had begun (W5 of `group::mend`).
            drop(vm.upkeep.lock());
        }
        let deleted = delete_group(&self.parts, vm.group_id).and_then(|()| self.forget_unlisted(vm.group_id));
        if let Err(error) = deleted {
            tracing::warn!(vm = %vm.name(), %error, "it was removed; its files go at the next start");
        }
        Ok(())
    }
}

/// Z2, at the start of a site. `vms`: those of the catalog; `damaged`: some entries of VMs can't be read, so that nobody
/// knows which groups they have.
pub(super) fn delete(store: &Store, parts: &GroupParts, vms: &[VmObject], damaged: bool) -> Result<()> {
    let (unlisted, unreadable) = store.catalog().list::<UnlistedObject>()?;
    for error in unreadable {
        tracing::error!("{error}");
    }
    for UnlistedObject { group } in unlisted {
        if damaged && !left_out("Z1: an entry that can't be read may have the group") {
            tracing::warn!(%group, "not deleted: an entry of a VM can't be read");
            continue;
        }
        let listed = vms.iter().any(|vm| vm.group == group);
        let deleted = if listed && !left_out("Z1: a group that a VM has stays") {
            Ok(())
        } else {
            delete_group(parts, group)
        };
        let done = deleted.and_then(|()| store.catalog().delete::<UnlistedObject>(&group.to_string()));
        if let Err(error) = done {
            tracing::warn!(%group, %error, "files of a removed VM stay until the next start");
        }
    }
    Ok(())
}

fn delete_group(parts: &GroupParts, group: GroupId) -> Result<()> {
    let dir = GroupParts::dir(group);
    for storage in [&parts.store, &parts.journal] {
        delete_tree(&**storage, &dir)?;
    }
    Ok(())
}

fn delete_tree(storage: &dyn Storage, dir: &Path) -> Result<()> {
    if !storage.exists(dir)? {
        return Ok(());
    }
    for name in storage.list(dir)? {
        let path = dir.join(name);
        match storage.list(&path) {
            Ok(_) => delete_tree(storage, &path)?,
            Err(_) => storage.remove(&path)?,
        }
    }
    storage.remove_dir(dir)
}

#[cfg(test)]
mod tests;
