//! What the tree needs of the mount, from what a worker is given.

use super::{HandleTable, Invalidator, WorkerContext};
use crate::tree::ops::Namespace;
use crate::tree::{Host, Notices, Numbers, Tree};
use crate::vocab::Result;
use std::ffi::OsStr;
use std::sync::Arc;

impl Numbers for HandleTable {
    fn fresh(&self, kind: u8) -> u64 {
        self.fresh(kind)
    }
    fn put(&self, kind: u8, number: u64, meaning: &[u8]) -> Result<()> {
        self.put(kind, number, meaning)
    }
    fn remove(&self, kind: u8, number: u64) -> Result<()> {
        self.remove(kind, number)
    }
    fn get(&self, kind: u8, number: u64) -> Option<Vec<u8>> {
        self.get(kind, number)
    }
    fn all(&self, kind: u8) -> Vec<(u64, Vec<u8>)> {
        self.all(kind)
    }
}

impl Notices for Invalidator {
    fn content(&self, ino: u64) {
        self.content(ino);
    }
    fn name(&self, parent: u64, name: &OsStr) {
        self.name(parent, name);
    }
}

impl WorkerContext {
    /// The tree of a site, served on this mount.
    pub fn tree(&self, host: Arc<dyn Host>) -> Result<Arc<dyn Namespace>> {
        Ok(Tree::shared(host, self.table.clone(), Arc::new(self.invalidator.clone()))?)
    }
}
