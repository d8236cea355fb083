//! What the tree of a mount needs: of the site, and of the mount itself. Small, so that the whole tree can be tested
//! without a kernel and over a simulated store.

use crate::group::Group;
use crate::seam::{Clock, Entropy, SystemEntropy};
use crate::site::catalog::Catalog;
use crate::site::requests::Requests;
use crate::site::start::Openings;
use crate::site::{Site, Vm};
use crate::tree::controls::Controls;
use crate::tree::ops::{Answer, Errno};
use crate::vocab::{Error, Kind, Result, VmId};
use std::ffi::OsStr;
use std::sync::Arc;

/// A VM of the site: an entry of `disks/`.
pub trait Item: Send + Sync {
    /// Its identity.
    fn id(&self) -> VmId;
    /// Its name now.
    fn name(&self) -> String;
    /// It is a single file.
    fn single(&self) -> bool;
    /// Its group, opened if it isn't.
    fn group(&self) -> Result<Arc<Group>>;
}

/// The site.
pub trait Host: Send + Sync {
    /// All VMs, by name.
    fn vms(&self) -> Vec<Arc<dyn Item>>;
    /// The VM with this name.
    fn vm(&self, name: &str) -> Option<Arc<dyn Item>>;
    /// A new VM without a file; durable.
    fn create_vm(&self, name: &str, single: bool) -> Result<Arc<dyn Item>>;
    /// Renames a VM; durable.
    fn rename_vm(&self, vm: &dyn Item, to: &str) -> Result<()>;
    /// Removes a VM and all that is kept of it.
    fn remove_vm(&self, vm: &dyn Item) -> Result<()>;
    /// Whether it is protected: its disks may not be removed or shrunk.
    fn is_protected(&self, vm: &dyn Item) -> bool;
    /// Answers kept for requests that are sent again.
    fn requests(&self) -> &Requests;
    /// The store's catalog.
    fn catalog(&self) -> &Catalog;
    /// The site's name.
    fn name(&self) -> String;
    /// Clocks.
    fn clock(&self) -> &Arc<dyn Clock>;
    /// Random numbers for new identities.
    fn entropy(&self) -> &dyn Entropy;
    /// Says who knows which disks are open for writing.
    fn set_openings(&self, _openings: Box<Openings>) {}
    /// Lets this happen when writers may enter the VM; it comes back if they may now.
    fn when_served(
        &self,
        _vm: &dyn Item,
        then: Box<dyn FnOnce() + Send>,
    ) -> Option<Box<dyn FnOnce() + Send>> {
        Some(then)
    }
    /// What the control files say and do.
    fn controls(&self) -> &dyn Controls;
    /// The mount is gone, or another process takes over: everything to its place.
    fn close(&self) -> Result<()>;
}

/// What inode numbers and handles stand for, in memory that outlives the process.
pub trait Numbers: Send + Sync {
    /// A number of this kind that was never put before.
    fn fresh(&self, kind: u8) -> u64;
    /// Says what a number stands for, before it is answered to anybody.
    fn put(&self, kind: u8, number: u64, meaning: &[u8]) -> Result<()>;
    /// The number is no longer in use.
    fn remove(&self, kind: u8, number: u64) -> Result<()>;
    /// What it stands for.
    fn get(&self, kind: u8, number: u64) -> Option<Vec<u8>>;
    /// All numbers of a kind.
    fn all(&self, kind: u8) -> Vec<(u64, Vec<u8>)>;
}

/// Tells the kernel that what it has cached is no longer right. Never waits.
pub trait Notices: Send + Sync {
    /// Attributes and content of an inode.
    fn content(&self, ino: u64);
    /// A name in a directory.
    fn name(&self, parent: u64, name: &OsStr);
}

impl Item for Vm {
    fn id(&self) -> VmId {
        self.id()
    }
    fn name(&self) -> String {
        self.name()
    }
    fn single(&self) -> bool {
        self.single()
    }
    fn group(&self) -> Result<Arc<Group>> {
        self.group()
    }
}

/// The VM with this identity; ESTALE if it is gone.
pub(super) fn item(host: &dyn Host, vm: VmId) -> Answer<Arc<dyn Item>> {
    host.vms().into_iter().find(|item| item.id() == vm).ok_or(Errno::ESTALE)
}

/// The site's own VM behind an item.
pub(super) fn own(site: &Site, item: &dyn Item) -> Result<Arc<Vm>> {
    site.vm(&item.name())
        .filter(|vm| vm.id() == item.id())
        .ok_or_else(|| Error::new(Kind::Stale, format!("the VM {} is gone", item.name())))
}

impl Host for Site {
    fn vms(&self) -> Vec<Arc<dyn Item>> {
        self.vms().into_iter().map(|vm| vm as Arc<dyn Item>).collect()
    }
    fn vm(&self, name: &str) -> Option<Arc<dyn Item>> {
        self.vm(name).map(|vm| vm as Arc<dyn Item>)
    }
    fn create_vm(&self, name: &str, single: bool) -> Result<Arc<dyn Item>> {
        self.create_vm(name, single).map(|vm| vm as Arc<dyn Item>)
    }
    fn rename_vm(&self, vm: &dyn Item, to: &str) -> Result<()> {
        self.rename_vm(&*own(self, vm)?, to)
    }
    fn remove_vm(&self, vm: &dyn Item) -> Result<()> {
        self.remove_vm(&*own(self, vm)?)
    }
    fn is_protected(&self, vm: &dyn Item) -> bool {
        own(self, vm).is_ok_and(|vm| self.is_protected(&vm))
    }
    fn requests(&self) -> &Requests {
        self.requests()
    }
    fn catalog(&self) -> &Catalog {
        self.store().catalog()
    }
    fn name(&self) -> String {
        self.store().settings().map(|s| s.name).unwrap_or_default()
    }
    fn clock(&self) -> &Arc<dyn Clock> {
        self.clock()
    }
    fn entropy(&self) -> &dyn Entropy {
        &SystemEntropy
    }
    fn set_openings(&self, openings: Box<Openings>) {
        self.set_openings(openings);
    }
    fn when_served(&self, vm: &dyn Item, then: Box<dyn FnOnce() + Send>) -> Option<Box<dyn FnOnce() + Send>> {
        match own(self, vm) {
            Ok(vm) => vm.when_served(then),
            Err(_) => Some(then),
        }
    }
    fn controls(&self) -> &dyn Controls {
        self
    }
    fn close(&self) -> Result<()> {
        self.close()
    }
}
