//! What a site keeps of a VM that has a peer: the catalog's side of it.

use crate::group::{Group, GroupParts};
use crate::site::names::check_vm;
use crate::site::objects::GroupObject;
use crate::site::{Site, Vm};
use crate::vocab::{Error, GroupId, Kind, Result, StoreId, VmId};
use std::sync::Arc;

impl Site {
    /// What two sites on one host have in common and no others; none where the kernel doesn't say.
    pub(crate) fn host_mark(&self) -> Option<String> {
        let boot = self.parts.boot;
        (boot != [0; 16]).then(|| {
            let digest = blake3::Hasher::new_derive_key("standbyfs same host v1").update(&boot).finalize();
            format!("host-{}", &digest.to_hex()[..16])
        })
    }

    /// Says with which site a VM's group replicates; durable when this returns. Its history is the truth: the caller
    /// has written it.
    pub(crate) fn set_peer(&self, vm: &Vm, peer: Option<StoreId>) -> Result<()> {
        let catalog = self.store.catalog();
        let Some(object) = catalog.get::<GroupObject>(&vm.group_id().to_string())? else {
            return Err(Error::new(Kind::NotFound, format!("the group of {} is gone", vm.name())));
        };
        catalog.put(&GroupObject { peer, ..object })?;
        if peer.is_some() {
            self.start.ended(vm.group_id());
        }
        *vm.peer.lock() = peer;
        Ok(())
    }

    /// Makes the standby of a peer's VM: `make` the group, then the catalog's entries; durable when this returns.
    ///
    /// # Errors
    /// `name-taken`, and what `make` says.
    pub(crate) fn adopt_vm(
        &self,
        name: &str,
        id: VmId,
        group: GroupId,
        single: bool,
        peer: StoreId,
        make: impl FnOnce(GroupParts, GroupId) -> Result<Arc<Group>>,
    ) -> Result<Arc<Vm>> {
        check_vm(name)?;
        let mut vms = self.vms.write();
        if vms.contains_key(name) {
            return Err(Error::refused("name-taken", format!("there is a VM {name} already")));
        }
        let made = make(self.parts.clone(), group)?;
        self.enter_vm(&mut vms, (id, name, single), made, Some(peer))
    }
}
