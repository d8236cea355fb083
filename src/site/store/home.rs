//! Where a store is: a hint that it was copied or moved, never an identity.

use crate::vocab::{Error, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Machine, inode and birth time of a directory. A copy differs in the last two, a moved disk in the first. A
/// store restored block by block onto the same machine doesn't differ; the peer notices that one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// `/etc/machine-id`; empty where there is none.
    pub machine: String,
    /// Inode of the directory.
    pub inode: u64,
    /// Birth time in ns; 0 where the filesystem keeps none.
    pub born: i64,
}

impl Home {
    /// Of a directory on this machine.
    pub fn of(dir: &Path) -> Result<Self> {
        let stat = rustix::fs::statx(CWD, dir, AtFlags::empty(), StatxFlags::INO | StatxFlags::BTIME)
            .map_err(|e| Error::io(e.into(), "can't look at the directory").at(dir))?;
        let born = if stat.stx_mask & StatxFlags::BTIME.bits() == 0 {
            0
        } else {
            stat.stx_btime
                .tv_sec
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(stat.stx_btime.tv_nsec))
        };
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        Ok(Self { machine: machine.trim().to_owned(), inode: stat.stx_ino, born })
    }

    /// What differs, for a message.
    pub fn differs(&self, now: &Self) -> String {
        let parts = [
            (self.machine != now.machine, "another machine"),
            (self.inode != now.inode, "another inode"),
            (self.born != now.born, "another birth time"),
        ];
        parts.iter().filter(|(differs, _)| *differs).map(|(_, what)| *what).collect::<Vec<_>>().join(", ")
    }
}
