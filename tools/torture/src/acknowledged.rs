//! Writers that remember what was acknowledged, kills at random instants, and a look at every block after each.

use crate::Result;
use crate::disk::{self, BLOCK, Block};
use crate::mount::Mount;
use crate::stalls::Stalls;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What one writer knows of its blocks.
struct Writer {
    first: u64,
    /// The newest acknowledged write of each block, and the newest that was sent.
    acknowledged: Vec<u64>,
    sent: Vec<u64>,
    version: u64,
    longest: Duration,
}

pub fn run(
    mount: &mut Mount,
    vm: &Path,
    kills: u32,
    writers: u64,
    blocks: u64,
    mut rng: fastrand::Rng,
) -> Result<()> {
    let disk = vm.join("blocks.raw");
    drop(disk::open(&disk, writers * blocks * BLOCK as u64)?);
    let mut all: Vec<Writer> = (0..writers)
        .map(|w| Writer {
            first: w * blocks,
            acknowledged: vec![0; blocks as usize],
            sent: vec![0; blocks as usize],
            version: 0,
            longest: Duration::ZERO,
        })
        .collect();
    let (mut of_workers, mut of_all, mut stalls) = (0, 0, Vec::new());
    for kill in 1..=kills {
        let keeper_too = rng.u8(..4) == 0;
        let stop = AtomicBool::new(false);
        let wait = Duration::from_micros(rng.u64(1_000..400_000));
        let after = Duration::from_micros(rng.u64(1_000..150_000));
        std::thread::scope(|scope| {
            let running: Vec<_> = all
                .iter_mut()
                .map(|writer| {
                    let (rng, disk, stop) = (rng.fork(), &disk, &stop);
                    scope.spawn(move || writer.write(disk, stop, keeper_too, rng))
                })
                .collect();
            std::thread::sleep(wait);
            if keeper_too {
                mount.kill_all()?;
                of_all += 1;
            } else {
                of_workers += u32::from(mount.kill_worker());
                std::thread::sleep(after);
            }
            stop.store(true, Ordering::Relaxed);
            for thread in running {
                thread.join().map_err(|_| "a writer panicked")??;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        })?;
        if keeper_too {
            mount.again()?;
        } else {
            stalls.push(all.iter().map(|w| w.longest).max().unwrap_or_default());
        }
        let file = disk::open(&disk, 0)?;
        for writer in &mut all {
            writer.check(&file).map_err(|e| format!("after kill {kill}: {e}"))?;
        }
    }
    let writes: u64 = all.iter().map(|w| w.version).sum();
    println!("{of_workers} kills of the worker, {of_all} of worker and keeper, {writes} writes sent");
    println!("no acknowledged write is missing, no block is torn");
    stalls.sort();
    Stalls(stalls).print("kills of the worker");
    Ok(())
}

impl Writer {
    fn write(
        &mut self,
        disk: &Path,
        stop: &AtomicBool,
        may_fail: bool,
        mut rng: fastrand::Rng,
    ) -> Result<()> {
        self.longest = Duration::ZERO;
        let opened = disk::open(disk, 0);
        let file = match opened {
            Err(_) if may_fail => return Ok(()),
            opened => opened?,
        };
        let mut block = Block::zeroed();
        while !stop.load(Ordering::Relaxed) {
            let at = rng.usize(..self.sent.len());
            self.version += 1;
            self.sent[at] = self.version;
            let number = self.first + at as u64;
            block.fill(number, self.version);
            let begun = Instant::now();
            let written = file.write_all_at(&block.0, number * BLOCK as u64);
            let written = written.and_then(|()| if rng.u8(..8) == 0 { file.sync_data() } else { Ok(()) });
            self.longest = self.longest.max(begun.elapsed());
            match written {
                Ok(()) => self.acknowledged[at] = self.version,
                // The keeper is dead: nothing is promised of this one.
                Err(_) if may_fail => return Ok(()),
                Err(e) => {
                    return Err(format!("a write failed although only the worker was killed: {e}").into());
                }
            }
        }
        Ok(())
    }

    /// Each block has its newest acknowledged write or one that was sent after it; from then on that one counts.
    fn check(&mut self, file: &std::fs::File) -> Result<()> {
        for at in 0..self.sent.len() {
            let number = self.first + at as u64;
            let found = disk::check(file, number, number)?;
            let (least, most) = (self.acknowledged[at], self.sent[at]);
            if found < least || found > most {
                return Err(format!("block {number} has write {found}; {least} was acknowledged").into());
            }
            self.acknowledged[at] = found;
            self.sent[at] = found;
        }
        Ok(())
    }
}
