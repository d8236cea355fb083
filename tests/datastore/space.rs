//! Filesystems that are really full.

use super::datastore_in;
use crate::fuse::harness::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// A filesystem of its own for the store, gone with the test.
struct Small(std::path::PathBuf);

impl Small {
    fn tmpfs(at: &Path, mib: u64) -> Self {
        sh(&format!("mkdir -p {0} && mount -t tmpfs -o size={mib}m standbyfs-test {0}", at.display()));
        Self(at.to_owned())
    }

    fn grow(&self, mib: u64) {
        sh(&format!("mount -o remount,size={mib}m {}", self.0.display()));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = sh_output(&format!("umount -l {}", self.0.display()));
    }
}

const MIB: u64 = 1 << 20;

fn block(tag: u64) -> Vec<u8> {
    (tag + 1).to_le_bytes().into_iter().cycle().take(MIB as usize).collect()
}

/// Writes MiB after MiB until one is refused; how many were taken.
fn fill(file: &File, from: u64, to: u64) -> u64 {
    for n in from..to {
        match file.write_all_at(&block(n), n * MIB) {
            Ok(()) => {}
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{e}");
                return n;
            }
        }
    }
    to
}

fn holds(file: &File, count: u64) {
    let mut bytes = vec![0; MIB as usize];
    for n in 0..count {
        file.read_exact_at(&mut bytes, n * MIB).unwrap();
        assert!(bytes == block(n), "MiB {n} isn't what was written");
    }
}

/// Tries again until it is taken, as a VM that is continued.
fn goes_on(what: &str, mut write: impl FnMut() -> std::io::Result<()>) {
    until(what, Duration::from_secs(15), || {
        let done = write();
        assert!(matches!(errno_of(&done), None | Some(libc::ENOSPC)), "{done:?}");
        done.is_ok()
    });
}

fn errno_of(result: &std::io::Result<()>) -> Option<i32> {
    result.as_ref().err().and_then(std::io::Error::raw_os_error)
}

#[test]
fn a_full_filesystem_gives_enospc_and_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::tmpfs(&dir.path().join("small"), 192);
    let mut mount = datastore_in(&small.0.join("store"));
    let path = mount.path("disks/vm.raw");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.set_len(1024 * MIB).unwrap();
    let mut taken = fill(&file, 0, 1024);
    // Rounds go on behind: what they free is given to the next writes, until the base has all there is.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(300));
        taken = fill(&file, taken, 1024);
    }
    assert!((32..192).contains(&taken), "{taken} MiB of 192");
    file.sync_all().unwrap();
    holds(&file, taken);
    // What is there can be overwritten, and a discard is taken.
    goes_on("an overwrite", || file.write_all_at(&block(0), 0));
    drop(file);
    mount = mount.remount();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    holds(&file, taken);
    taken = fill(&file, taken, 1024);
    // A discard frees room.
    sh(&format!("fallocate --punch-hole --offset {} --length {} {}", 8 * MIB, 24 * MIB, path.display()));
    goes_on("a write after a discard", || file.write_all_at(&block(taken), taken * MIB));
    // So does a larger filesystem.
    let full = fill(&file, taken + 1, 1024);
    small.grow(512);
    goes_on("a write on a larger filesystem", || file.write_all_at(&block(full), full * MIB));
    let more = fill(&file, full, full + 16);
    assert_eq!(more, full + 16);
    drop(file);
    mount.stop();
    assert!(fs::metadata(small.0.join("store/reserve")).unwrap().len() > 0);
}

/// The room is taken by somebody else.
#[test]
fn a_store_whose_filesystem_others_fill_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::tmpfs(&dir.path().join("small"), 256);
    let mount = datastore_in(&small.0.join("store"));
    let path = mount.path("disks/vm.raw");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.set_len(64 * MIB).unwrap();
    assert_eq!(fill(&file, 0, 8), 8);
    let _ = sh_output(&format!("head -c 300M /dev/zero > {}/others", small.0.display()));
    let taken = fill(&file, 8, 64);
    assert!(taken < 64, "there is no room");
    file.sync_all().unwrap();
    holds(&file, taken);
    assert!(mount.kill_worker());
    holds(&file, taken);
    // Names and checkpoints go on from the reserve.
    fs::create_dir(mount.path("disks/other")).unwrap();
    fs::remove_file(small.0.join("others")).unwrap();
    goes_on("a write once others gave room back", || file.write_all_at(&block(taken), taken * MIB));
    holds(&file, taken + 1);
    drop(file);
    mount.stop();
}
