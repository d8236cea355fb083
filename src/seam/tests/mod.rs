//! Attacks on the contract of `storage.rs`, at both implementations where they can be made.

mod contract;
mod crash;
mod faults;
mod real;

use crate::seam::{Access, DirStorage, Durability, File, SimDevice, Storage};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

/// Seeds of a test: the second number with a full budget.
fn seeds(short: u64, full: u64) -> std::ops::Range<u64> {
    let is_full = std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full");
    0..if is_full { full } else { short }
}

/// Runs a check at a real directory and at a simulated one.
fn for_both(check: impl Fn(&dyn Storage)) {
    let dir = tempfile::tempdir().unwrap();
    check(&DirStorage::open(dir.path()).unwrap());
    check(&SimDevice::new(1).storage("site"));
}

fn p(path: &str) -> &Path {
    Path::new(path)
}

fn create(storage: &dyn Storage, path: &str) -> Arc<dyn File> {
    storage.create(p(path), Access::Cached).unwrap()
}

/// A file that survives, with this content.
fn durable_file(storage: &dyn Storage, path: &str, content: &[u8]) -> Arc<dyn File> {
    let file = create(storage, path);
    file.write_all_at(content, 0).unwrap();
    file.sync().unwrap();
    storage.sync_dir(p(path).parent().unwrap()).unwrap();
    file
}

fn write_durably(file: &dyn File, bytes: &[u8], offset: u64) {
    file.write_at(&[IoSlice::new(bytes)], offset, Durability::Durable).unwrap();
}

fn content(storage: &dyn Storage, path: &str) -> Vec<u8> {
    let file = storage.open(p(path), Access::ReadOnly).unwrap();
    let mut out = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut out, 0).unwrap(), out.len());
    out
}
