//! Writes that are noted when they are answered.
//!
//! Writes are made one after the other, each with a content of its own. So an image tells which of them it has, and it
//! may only have the writes 1 to k, for some k: one that is missing below a later one is seen.

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
    thread: JoinHandle<(Done, Option<Error>)>,
}

/// What was answered.
pub struct Done {
    /// The block of each write, in order; the last one may not have been answered.
    blocks: Vec<u64>,
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
            let mut done = Done { blocks: Vec::new(), answered: 0, longest: Duration::ZERO };
            let mut rng = fastrand::Rng::with_seed(1);
            while !told.load(Ordering::Relaxed) {
                let (block, number) = (rng.u64(..BLOCKS), done.answered + 1);
                let begun = Instant::now();
                done.blocks.push(block);
                if let Err(error) = file.write_all_at(&content(block, number), block * BLOCK as u64) {
                    return (done, Some(failed(error, "a write failed", &shown)));
                }
                done.answered = number;
                if number % 64 == 0
                    && let Err(error) = file.sync_data()
                {
                    return (done, Some(failed(error, "a flush failed", &shown)));
                }
                done.longest = done.longest.max(begun.elapsed());
            }
            (done, None)
        });
        Ok(Self { stop, thread })
    }

    /// Ends it: all that it did must have gone well.
    pub fn stop(self) -> Result<Done> {
        match self.end()? {
            (done, None) => Ok(done),
            (_, Some(error)) => Err(error),
        }
    }

    /// Waits until its writes fail, as they must when its site is gone.
    pub fn lose(self) -> Result<Done> {
        match self.end()? {
            (done, Some(_)) => Ok(done),
            (_, None) => Err(Error::new(Kind::Io, "a write was answered by a site that is gone")),
        }
    }

    fn end(self) -> Result<(Done, Option<Error>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Error::new(Kind::Io, "the load ended unseen"))
    }
}

impl Done {
    /// All that was answered is there.
    pub fn check(&self, path: &Path) -> Result<()> {
        let k = self.prefix(path)?;
        if k >= self.answered {
            return Ok(());
        }
        let what = format!("writes {} to {} were answered and are missing", k + 1, self.answered);
        Err(Error::new(Kind::Damaged, what).at(path))
    }

    /// The image has the writes 1 to k and no others: k.
    pub fn prefix(&self, path: &Path) -> Result<u64> {
        let file = File::open(path).map_err(|e| failed(e, "can't open", path))?;
        let length = file.metadata().map_err(|e| failed(e, "can't look at", path))?.len();
        self.prefix_of(|block| {
            let (at, mut bytes) = (block * BLOCK as u64, vec![0; BLOCK]);
            // Behind the end of a shorter image nothing was written.
            if at < length {
                file.read_exact_at(&mut bytes, at).map_err(|e| failed(e, "can't read", path).offset(at))?;
            }
            Ok(bytes)
        })
        .map_err(|error| error.at(path))
    }

    fn prefix_of(&self, read: impl Fn(u64) -> Result<Vec<u8>>) -> Result<u64> {
        let mut writes: Vec<Vec<u64>> = vec![Vec::new(); BLOCKS as usize];
        for (number, block) in (1..).zip(&self.blocks) {
            writes[*block as usize].push(number);
        }
        // Every block bounds k: the write that it has is in, the next one to it is not.
        let (mut least, mut below) = (0, u64::MAX);
        for (block, numbers) in (0..).zip(&writes).filter(|(_, numbers)| !numbers.is_empty()) {
            let got = read(block)?;
            let newest = numbers.iter().rposition(|number| got == content(block, *number));
            if newest.is_none() && got.iter().any(|byte| *byte != 0) {
                let what = format!("block {block} has bytes that were never written to it");
                return Err(Error::new(Kind::Damaged, what));
            }
            least = least.max(newest.map_or(0, |at| numbers[at]));
            below = below.min(numbers.get(newest.map_or(0, |at| at + 1)).copied().unwrap_or(u64::MAX));
        }
        if least < below {
            return Ok(least);
        }
        Err(Error::new(
            Kind::Damaged,
            format!("write {least} is there, the earlier write {below} is missing"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(writes: &[u64]) -> Result<u64> {
        let done = Done { blocks: vec![3, 5, 3, 9, 5], answered: 5, longest: Duration::ZERO };
        done.prefix_of(|block| {
            let newest = writes.iter().rfind(|n| done.blocks[**n as usize - 1] == block);
            Ok(newest.map_or(vec![0; BLOCK], |n| content(block, *n)))
        })
    }

    #[test]
    fn prefixes_are_told_from_everything_else() {
        for k in 0..=5 {
            let writes: Vec<u64> = (1..=k).collect();
            assert_eq!(told(&writes).unwrap(), k);
        }
        for lost in [&[1, 3][..], &[2], &[1, 2, 4], &[1, 2, 3, 5]] {
            assert!(told(lost).is_err(), "{lost:?}");
        }
        let done = Done { blocks: vec![3], answered: 1, longest: Duration::ZERO };
        assert!(done.prefix_of(|_| Ok(vec![7; BLOCK])).is_err(), "foreign bytes");
    }
}
