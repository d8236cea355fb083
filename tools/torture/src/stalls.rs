//! Kills at intervals, and how long writes stood still around each.

use crate::Result;
use crate::disk::{self, BLOCK, Block};
use crate::mount::Mount;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest times of single writes, sorted.
pub struct Stalls(pub Vec<Duration>);

impl Stalls {
    pub fn print(&self, what: &str) {
        let at = |share: usize| self.0.get((self.0.len() * share / 100).min(self.0.len() - 1));
        if let (Some(median), Some(p95), Some(longest)) = (at(50), at(95), self.0.last()) {
            println!(
                "{what}: {} of them, stall median {median:.1?}, 95 % {p95:.1?}, longest {longest:.1?}",
                self.0.len()
            );
        }
    }
}

/// Writes one block after the other until `stop`; gives begin and length of each write that took over 20 ms.
pub fn probe(path: &Path, stop: &AtomicBool) -> Result<Vec<(Instant, Duration)>> {
    let file = disk::open(path, 1 << 20)?;
    let mut block = Block::zeroed();
    let mut slow = Vec::new();
    for version in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        block.fill(0, version);
        let begun = Instant::now();
        file.write_all_at(&block.0, (version % 256) * BLOCK as u64)?;
        let took = begun.elapsed();
        if took > Duration::from_millis(20) {
            slow.push((begun, took));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(slow)
}

/// Kills the worker again and again until `stop`; gives the instants.
pub fn kills(mount: &Mount, stop: &AtomicBool, mut next: impl FnMut() -> Duration) -> Vec<Instant> {
    let killed = Mutex::new(Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let until = Instant::now() + next();
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(
                until.saturating_duration_since(Instant::now()).min(Duration::from_millis(20)),
            );
        }
        if !stop.load(Ordering::Relaxed) && mount.kill_worker() {
            killed.lock().unwrap_or_else(|e| e.into_inner()).push(Instant::now());
        }
    }
    killed.into_inner().unwrap_or_default()
}

/// For each kill, how long after it a write still stood that stood at it or began within 100 ms.
pub fn of(kills: &[Instant], slow: &[(Instant, Duration)]) -> Stalls {
    let near = Duration::from_millis(100);
    let mut stalls: Vec<Duration> = kills
        .iter()
        .map(|kill| {
            let touched = slow.iter().filter(|(begun, took)| *begun < *kill + near && *begun + *took > *kill);
            touched.map(|(_, took)| *took).max().unwrap_or_default()
        })
        .collect();
    stalls.sort();
    Stalls(stalls)
}
