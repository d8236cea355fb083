//! The file system exerciser on a disk while workers are killed.

use crate::Result;
use crate::mount::Mount;
use crate::stalls;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub fn run(
    mount: &Mount,
    vm: &Path,
    fsx: &Path,
    time: Duration,
    every: Duration,
    mut rng: fastrand::Rng,
) -> Result<()> {
    let end = Instant::now() + time;
    let stop = AtomicBool::new(false);
    let (mut runs, mut operations) = (0u64, 0u64);
    let mut kill_rng = rng.fork();
    let (done, kills) = std::thread::scope(|scope| {
        let kills = scope.spawn(|| stalls::kills(mount, &stop, || every.mul_f64(kill_rng.f64().max(0.05))));
        let mut done = Ok(());
        while done.is_ok() && Instant::now() < end {
            let (count, seed) = (rng.u32(2_000..20_000), rng.u32(1..));
            done = once(fsx, &vm.join(format!("fsx{}.raw", runs % 4)), count, seed);
            (runs, operations) = (runs + 1, operations + u64::from(count));
        }
        stop.store(true, Ordering::Relaxed);
        (done, kills.join().map_or(0, |kills| kills.len()))
    });
    done?;
    println!("fsx: {runs} runs, {operations} operations, {kills} kills of the worker, no mismatch");
    Ok(())
}

fn once(fsx: &Path, file: &Path, count: u32, seed: u32) -> Result<()> {
    let output = Command::new(fsx)
        .args(["-N", &count.to_string(), "-S", &seed.to_string()])
        .arg(file)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let tail: Vec<&str> = text.lines().rev().take(60).collect();
    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
    Err(format!("fsx -N {count} -S {seed}: {}\n{tail}", output.status).into())
}
