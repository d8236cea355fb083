//! Writes that are noted when they are answered.

use super::stage::failed;
use crate::vocab::{Error, Kind, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 4096;

/// A thread that writes one block after the other, with a flush now and then.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Done>>,
}

/// What was answered.
pub struct Done {
    /// The number of the newest answered write to each block; 0: none.
    newest: Vec<u64>,
    /// Answered writes.
    pub answered: u64,
    /// The longest that one took.
    pub longest: Duration,
}

fn content(block: u64, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    blake3::Hasher::new()
        .update(&block.to_le_bytes())
        .update(&number.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

impl Load {
    /// Begins to write to a new file.
    pub fn start(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(|e| failed(e, "can't create", path))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (told, shown) = (stop.clone(), path.to_owned());
        let thread = std::thread::spawn(move || {
            let mut done = Done { newest: vec![0; BLOCKS as usize], answered: 0, longest: Duration::ZERO };
            let mut rng = fastrand::Rng::with_seed(1);
            while !told.load(Ordering::Relaxed) {
                let (block, number) = (rng.u64(..BLOCKS), done.answered + 1);
                let begun = Instant::now();
                file.write_all_at(&content(block, number), block * BLOCK as u64)
                    .map_err(|e| failed(e, "a write failed", &shown))?;
                if number % 64 == 0 {
                    file.sync_data().map_err(|e| failed(e, "a flush failed", &shown))?;
                }
                done.longest = done.longest.max(begun.elapsed());
                done.answered = number;
                done.newest[block as usize] = number;
            }
            Ok(done)
        });
        Ok(Self { stop, thread })
    }

    /// Ends it.
    pub fn stop(self) -> Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Io, "the load ended unseen")))
    }
}

impl Done {
    /// Every block has what was answered last.
    pub fn check(&self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|e| failed(e, "can't open", path))?;
        let mut got = vec![0; BLOCK];
        for (block, number) in (0..).zip(&self.newest).filter(|(_, number)| **number > 0) {
            let at = block * BLOCK as u64;
            file.read_exact_at(&mut got, at).map_err(|e| failed(e, "can't read", path).offset(at))?;
            if got != content(block, *number) {
                let what = format!("write {number} was answered and is missing");
                return Err(Error::new(Kind::Damaged, what).at(path).offset(at));
            }
        }
        Ok(())
    }
}
