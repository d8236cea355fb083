//! A disk opened as QEMU with cache=none does it, and blocks that say what they are.

use crate::Result;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

pub const BLOCK: usize = 4096;

/// Memory that O_DIRECT takes.
#[repr(align(4096))]
pub struct Block(pub [u8; BLOCK]);

impl Block {
    pub fn zeroed() -> Box<Self> {
        Box::new(Self([0; BLOCK]))
    }

    /// The block of this number as it is after its write `version`; zeros before the first.
    pub fn fill(&mut self, number: u64, version: u64) {
        if version == 0 {
            return self.0.fill(0);
        }
        let mut rng = fastrand::Rng::with_seed(number << 32 ^ version);
        self.0[..8].copy_from_slice(&version.to_le_bytes());
        self.0[8..16].copy_from_slice(&number.to_le_bytes());
        rng.fill(&mut self.0[16..]);
    }

    pub fn version(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().unwrap_or_default())
    }
}

/// Opens for O_DIRECT, and makes it as long as this where it is shorter.
pub fn open(path: &Path, len: u64) -> Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    if file.metadata()?.len() < len {
        file.set_len(len)?;
    }
    Ok(file)
}

/// Reads a block and says which version of it is there.
///
/// # Errors
/// If it is none, or a mix of several.
pub fn check(file: &File, number: u64, at: u64) -> Result<u64> {
    let (mut found, mut whole) = (Block::zeroed(), Block::zeroed());
    file.read_exact_at(&mut found.0, at * BLOCK as u64)?;
    let version = found.version();
    whole.fill(number, version);
    if found.0 != whole.0 {
        return Err(format!("block {number} is none of its versions (it says {version})").into());
    }
    Ok(version)
}
