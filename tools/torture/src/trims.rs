//! Writes and trims through a loop device whose file lies on the mount, compared with what was written.

use crate::Result;
use crate::disk::{self, BLOCK, Block};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const BLOCKS: u64 = 16 << 10;
/// _IO(0x12, 119)
const BLKDISCARD: libc::c_ulong = 0x1277;

struct Loop(PathBuf);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// Until `stop`; says what was done.
pub fn run(path: &Path, stop: &AtomicBool, mut rng: fastrand::Rng) -> Result<String> {
    drop(disk::open(path, BLOCKS * BLOCK as u64)?);
    let made = Command::new("losetup").args(["-f", "--show", "--direct-io=on"]).arg(path).output()?;
    if !made.status.success() {
        return Err(format!("losetup: {}", String::from_utf8_lossy(&made.stderr)).into());
    }
    let device = Loop(String::from_utf8_lossy(&made.stdout).trim().into());
    let file = disk::open(&device.0, 0)?;
    let mut versions = vec![0u64; BLOCKS as usize];
    // What an earlier run left.
    trim(&file, 0, BLOCKS)?;
    let mut block = Block::zeroed();
    let (mut writes, mut trims) = (0u64, 0u64);
    while !stop.load(Ordering::Relaxed) {
        if rng.u8(..8) == 0 {
            let from = rng.u64(..BLOCKS);
            let blocks = rng.u64(1..=256).min(BLOCKS - from);
            trim(&file, from, blocks)?;
            versions[from as usize..(from + blocks) as usize].fill(0);
            trims += 1;
        } else {
            let at = rng.u64(..BLOCKS);
            writes += 1;
            block.fill(at, writes);
            file.write_all_at(&block.0, at * BLOCK as u64)?;
            versions[at as usize] = writes;
        }
    }
    for (at, version) in versions.iter().enumerate() {
        let found = disk::check(&file, at as u64, at as u64)?;
        if found != *version {
            return Err(format!("block {at} behind the loop device has write {found}, not {version}").into());
        }
    }
    Ok(format!("{writes} writes and {trims} trims through a loop device, every block is right"))
}

fn trim(file: &File, from: u64, blocks: u64) -> Result<()> {
    let range = [from * BLOCK as u64, blocks * BLOCK as u64];
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(format!("trim: {}", std::io::Error::last_os_error()).into()),
    }
}
