//! fio with verification, without and with kills.

use crate::Result;
use crate::mount::Mount;
use crate::{stalls, trims};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub struct Plan {
    pub seconds: u64,
    pub every: Duration,
    pub mebibytes: u64,
    pub records: u64,
    pub trims: bool,
}

pub fn run(mount: &Mount, vm: &Path, plan: &Plan, mut rng: fastrand::Rng) -> Result<()> {
    if plan.records > 0 {
        let bytes = format!("--io_size={}k", plan.records * 4);
        let size = format!("--size={}m", plan.mebibytes);
        fio(&vm.join("fio.raw"), &["--rw=randwrite", "--bs=4k", "--norandommap", &size, &bytes])?;
        println!("{} records written before", plan.records);
    }
    for with_kills in [false, true] {
        let stop = AtomicBool::new(false);
        let (kills, slow) = std::thread::scope(|scope| {
            let probe = scope.spawn(|| stalls::probe(&vm.join("probe.raw"), &stop));
            let trimmed = plan.trims.then(|| {
                let rng = rng.fork();
                scope.spawn(|| trims::run(&vm.join("trims.raw"), &stop, rng))
            });
            let kills = with_kills.then(|| scope.spawn(|| stalls::kills(mount, &stop, || plan.every)));
            let verified = verify(&vm.join("fio.raw"), plan);
            stop.store(true, Ordering::Relaxed);
            let kills = kills.map(|kills| kills.join()).transpose().map_err(|_| "a thread panicked")?;
            let slow = probe.join().map_err(|_| "a thread panicked")?;
            let trimmed = trimmed.map(|t| t.join()).transpose().map_err(|_| "a thread panicked")?;
            verified?;
            if let Some(trimmed) = trimmed.transpose()? {
                println!("trims: {trimmed}");
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((kills.unwrap_or_default(), slow?))
        })?;
        if with_kills {
            println!("with kills: fio's verification passed");
            stalls::of(&kills, &slow).print("kills of the worker");
        } else {
            let longest = slow.iter().map(|(_, took)| *took).max().unwrap_or_default();
            println!("without kills: fio's verification passed, the longest write took {longest:.1?}");
        }
    }
    Ok(())
}

fn verify(disk: &Path, plan: &Plan) -> Result<()> {
    let size = format!("--size={}m", plan.mebibytes);
    let runtime = format!("--runtime={}", plan.seconds);
    fio(
        disk,
        &[
            "--rw=randwrite",
            "--bssplit=512/5:4k/55:8k/10:16k/10:64k/15:1m/5",
            "--iodepth=32",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_backlog=2048",
            "--time_based",
            &size,
            &runtime,
        ],
    )
}

fn fio(disk: &Path, options: &[&str]) -> Result<()> {
    let output = Command::new("fio")
        .args(["--name=job", "--direct=1", "--ioengine=libaio", "--thread"])
        .arg(format!("--filename={}", disk.display()))
        .args(options)
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || errors.contains("verify: bad") {
        return Err(format!("fio: {}\n{text}{errors}", output.status).into());
    }
    Ok(())
}
