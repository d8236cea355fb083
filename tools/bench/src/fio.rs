//! The jobs, and what fio and the kernel say about a run of one.

use crate::target::Target;
use crate::{Compare, Result};
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A device is quiet that writes less than this in half a second.
const QUIET_BYTES: u64 = 2 << 20;

/// One job: O_DIRECT as QEMU with cache=none does it.
pub struct Job {
    pub name: &'static str,
    pub about: &'static str,
    options: &'static [&'static str],
}

pub const JOBS: &[Job] = &[
    Job {
        name: "rread-1",
        about: "4 KiB random read, depth 1",
        options: &["--rw=randread", "--bs=4k", "--iodepth=1"],
    },
    Job {
        name: "rread-32",
        about: "4 KiB random read, depth 32",
        options: &["--rw=randread", "--bs=4k", "--iodepth=32"],
    },
    Job {
        name: "rwrite-1",
        about: "4 KiB random write, depth 1",
        options: &["--rw=randwrite", "--bs=4k", "--iodepth=1"],
    },
    Job {
        name: "rwrite-32",
        about: "4 KiB random write, depth 32",
        options: &["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    },
    Job {
        name: "sync-1",
        about: "4 KiB random write + fdatasync",
        options: &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fdatasync=1"],
    },
    Job {
        name: "sync-8",
        about: "4 KiB random write + fdatasync, 8 writers",
        options: &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fdatasync=1", "--numjobs=8"],
    },
    Job {
        name: "sread",
        about: "128 KiB sequential read, depth 8",
        options: &["--rw=read", "--bs=128k", "--iodepth=8"],
    },
    Job {
        name: "swrite",
        about: "128 KiB sequential write, depth 8",
        options: &["--rw=write", "--bs=128k", "--iodepth=8"],
    },
];

/// Figures of one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Figures {
    /// Operations a second.
    pub operations: f64,
    /// MiB a second.
    pub mebibytes: f64,
    /// Half of the operations took at most this long, µs.
    pub median_us: f64,
    /// 99 of 100 took at most this long, µs.
    pub p99_us: f64,
    /// Bytes that the disk's device wrote meanwhile, a byte that the job wrote; of the whole machine.
    pub written_per_byte: Option<f64>,
    /// Requests that one write of a journal took together, where the target tells.
    pub records_per_batch: Option<f64>,
}

pub fn require() -> Result<()> {
    let found = Command::new("fio").arg("--version").stdout(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        Ok(())
    } else {
        Err("fio is needed: apt install fio".into())
    }
}

/// Writes the whole disk once, so that no job meets holes or makes blocks.
pub fn fill(disk: &Path, mebibytes: u64) -> Result<()> {
    fio(disk, &["--rw=write", "--bs=1m", "--iodepth=4", "--end_fsync=1", &format!("--size={mebibytes}m")])?;
    Ok(())
}

pub fn run(job: &Job, target: &Target, options: &Compare, device: Option<&str>) -> Result<Figures> {
    let disk = &target.disk;
    rustix::fs::sync();
    let appended = target.appended();
    let before = device.and_then(written);
    let time = format!("--runtime={}", options.seconds);
    let size = format!("--size={}m", options.size);
    let fixed = [
        time.as_str(),
        &size,
        "--time_based",
        "--group_reporting",
        "--norandommap",
        "--randrepeat=0",
        "--lat_percentiles=1",
    ];
    let report = fio(disk, &[job.options, &fixed[..]].concat())?;
    let batches = target.appended().zip(appended).map(|(now, before)| (now.0 - before.0, now.1 - before.1));
    // What the server still holds back belongs to the job, and must not disturb the next one.
    rustix::fs::sync();
    settle(device, options.settle);
    let after = device.and_then(written);
    let way = if report["jobs"][0]["write"]["total_ios"].as_u64() > Some(0) { "write" } else { "read" };
    let figures = &report["jobs"][0][way];
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or(0.0);
    let percentile = |name: &str| number(&figures["lat_ns"]["percentile"][name]) / 1000.0;
    let bytes = number(&figures["io_bytes"]);
    Ok(Figures {
        operations: number(&figures["iops"]),
        mebibytes: number(&figures["bw_bytes"]) / f64::from(1 << 20),
        median_us: percentile("50.000000"),
        p99_us: percentile("99.000000"),
        written_per_byte: (way == "write")
            .then(|| Some((after? - before?) as f64 / bytes.max(1.0)))
            .flatten(),
        records_per_batch: batches
            .filter(|b| b.1 > 0)
            .map(|(records, batches)| records as f64 / batches as f64),
    })
}

/// Waits, then until nothing is written any more, or too much by others.
fn settle(device: Option<&str>, seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
    let mut before = device.and_then(written);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(500));
        let now = device.and_then(written);
        if now.zip(before).is_none_or(|(now, before)| now - before < QUIET_BYTES) {
            return;
        }
        before = now;
    }
    eprintln!("the device is not quiet: something else writes to it");
}

fn fio(disk: &Path, options: &[&str]) -> Result<serde_json::Value> {
    let output = Command::new("fio")
        .args(["--name=job", "--direct=1", "--ioengine=libaio", "--output-format=json", "--thread"])
        .arg(format!("--filename={}", disk.display()))
        .args(options)
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!(
            "fio failed on {}: {text}{}",
            disk.display(),
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    // Warnings may stand before the report.
    let report: serde_json::Value = serde_json::from_str(text.find('{').map_or("", |at| &text[at..]))?;
    match report["jobs"][0]["error"].as_i64() {
        Some(0) => Ok(report),
        error => Err(format!("fio on {}: error {error:?}", disk.display()).into()),
    }
}

/// `major:minor` of the device below a directory, if the kernel counts for it.
pub fn device_of(directory: &Path) -> Option<String> {
    let number = std::fs::metadata(directory).ok()?.dev();
    let device = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    written(&device).map(|_| device)
}

/// Bytes written to a device since the start of the machine.
fn written(device: &str) -> Option<u64> {
    let (major, minor) = device.split_once(':')?;
    let table = std::fs::read_to_string("/proc/diskstats").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let sectors = (fields.len() > 9 && fields[0] == major && fields[1] == minor).then(|| fields[9])?;
        Some(sectors.parse::<u64>().ok()? * 512)
    })
}
