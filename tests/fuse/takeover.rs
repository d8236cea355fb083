//! Workers die, users of the mount go on.

use super::harness::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Kills the worker every second under a verifying load. The longest stall is printed.
#[test]
fn a_verifying_load_sees_no_error_while_workers_are_killed() {
    let seconds = if full() { 60 } else { 4 };
    let mount = Mount::with(|options| options.trace = None);
    let disk = mount.path("disk.raw");
    File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let mut fio = Command::new("fio")
        .args(["--name=verify", "--rw=randrw", "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=32"])
        .args([
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_backlog=256",
            "--verify_state_save=0",
            "--time_based",
        ])
        .args(["--output-format=json", &format!("--runtime={seconds}")])
        .arg(format!("--filename={}", disk.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let mut kills = 0;
    while begin.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(if full() { Duration::from_secs(1) } else { Duration::from_millis(400) });
        kills += u32::from(mount.kill_worker());
    }
    until("fio ends", Duration::from_secs(60), || fio.try_wait().unwrap().is_some());
    let output = fio.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", mount.log());
    let report: serde_json::Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
    let job = &report["jobs"][0];
    let longest = ["read", "write"].map(|way| job[way]["lat_ns"]["max"].as_u64().unwrap()).into_iter().max();
    let written = job["write"]["total_ios"].as_u64().unwrap();
    let longest = Duration::from_nanos(longest.unwrap());
    println!("{kills} kills, {written} writes, longest stall {longest:?}");
    assert!(kills >= 4, "{kills} kills");
    assert!(written > 1000, "{written} writes");
    assert!(longest < Duration::from_secs(2), "a stall of {longest:?}");
    mount.stop();
}

/// Every operation that isn't harmless when repeated succeeds exactly once for its caller.
#[test]
fn names_change_once_while_workers_are_killed() {
    let seconds = if full() { 20 } else { 3 };
    let mount = Mount::with(|options| options.trace = None);
    let over = std::sync::atomic::AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(60));
                mount.kill_worker();
            }
        });
        let work = || {
            let begin = Instant::now();
            let mut rounds = 0u32;
            while begin.elapsed() < Duration::from_secs(seconds) {
                let dir = mount.path(&format!("dir-{rounds}"));
                fs::create_dir(&dir)?;
                File::create_new(dir.join("a"))?.write_all_at(&rounds.to_ne_bytes(), 0)?;
                fs::rename(dir.join("a"), dir.join("b"))?;
                assert_eq!(fs::read(dir.join("b"))?, rounds.to_ne_bytes());
                fs::remove_file(dir.join("b"))?;
                fs::remove_dir(&dir)?;
                rounds += 1;
            }
            Ok::<_, std::io::Error>(rounds)
        };
        let rounds = work();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        rounds
    });
    let rounds = rounds.unwrap();
    println!("{rounds} rounds");
    assert!(rounds > 50);
    mount.stop();
}

#[test]
fn open_files_outlive_their_worker() {
    let mount = Mount::new();
    let file = File::options().create_new(true).read(true).write(true).open(mount.path("disk")).unwrap();
    file.write_all_at(b"before", 0).unwrap();
    let first = mount.worker().unwrap();
    assert!(mount.kill_worker());
    let mut seen = [0; 6];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"before");
    file.write_all_at(b"after", 100).unwrap();
    file.sync_all().unwrap();
    assert_ne!(mount.worker().unwrap(), first);
    fs::rename(mount.path("disk"), mount.path("renamed")).unwrap();
    assert_eq!(fs::read(mount.below("renamed")).unwrap().len(), 105);
    mount.stop();
}

#[test]
fn what_was_in_flight_is_sent_again_and_marked() {
    let mount = Mount::with(|options| options.slow_writes_ms = Some(300));
    let file = File::create(mount.path("disk")).unwrap();
    std::thread::scope(|scope| {
        let write = scope.spawn(|| file.write_all_at(b"bytes", 0));
        until("the write is under way", PATIENCE, || mount.trace().contains("1 write "));
        assert!(mount.kill_worker());
        write.join().unwrap().unwrap();
    });
    let trace = mount.trace();
    assert!(trace.contains("2 write again "), "{trace}");
    assert!(!trace.contains("1 write again"), "{trace}");
    assert_eq!(fs::read(mount.below("disk")).unwrap(), b"bytes");
    mount.stop();
}
