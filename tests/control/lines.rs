//! One command an opening, its outcome, refusals by errno and name.

use super::*;
use crate::fuse::harness::sh_output;
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A line for each verb of a VM that its grammar takes.
fn lines() -> Vec<(&'static str, &'static str)> {
    vec![
        ("protect", "to=london"),
        ("unprotect", "unprotect"),
        ("pause", "pause"),
        ("resume", "resume"),
        ("resync", "resync"),
        ("recovery-point", "name=x"),
        ("test-failover", "latest"),
        ("failover", "latest"),
        ("failback", "latest"),
        ("change-recovery-point", "@seq-1"),
        ("rollback", "confirm=web"),
        ("commit", "confirm=web"),
        ("reprotect", "reprotect"),
        ("complete-migration", "complete-migration"),
        ("resolve", "force confirm=web"),
        ("adopt", "to=london"),
        ("drop", "branch=0123456789abcdef confirm=web"),
        ("scrub", "scrub"),
        ("enrol", "path=/x"),
        ("assign-new-uuid", "disk=d.raw"),
        ("export-seed", "path=/x"),
        ("import-seed", "path=/x"),
    ]
}

#[test]
fn every_verb_is_there_and_does_what_allowed_says() {
    let mount = site();
    let lines = lines();
    let mut there: Vec<String> = fs::read_dir(mount.path("vms/web/control"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    let mut known: Vec<&str> = lines.iter().map(|(verb, _)| *verb).collect();
    known.sort_unstable();
    assert_eq!(there, known);
    let allowed = fs::read_to_string(mount.path("vms/web/allowed")).unwrap();
    let allowed: BTreeMap<&str, &str> = allowed.lines().map(|line| line.split_once(": ").unwrap()).collect();
    for (verb, line) in lines {
        let path = mount.path(&format!("vms/web/control/{verb}"));
        let before = fs::read_to_string(&path).unwrap();
        assert!(before.contains("usage: ") && before.starts_with(&format!("verb: {verb}\n")), "{before}");
        let told = tell(&path, &format!("{line}\n"));
        let expected = allowed[verb].strip_prefix("refused ").map(|text| text.split(':').next().unwrap());
        match (verb, told.refusal()) {
            // Accepted here in general, refused for what the line names.
            ("protect", refusal) => assert_eq!(refusal, Some("peer-not-registered")),
            ("drop", refusal) => assert_eq!(refusal, Some("not-found")),
            (_, refusal) => assert_eq!(refusal, expected, "{verb}: {}", told.shown),
        }
        if let Some(name) = told.refusal() {
            assert!(told.get("outcome-do").is_some_and(|remedy| remedy.len() > 10), "{name}: {}", told.shown);
        } else {
            assert_eq!(verb, "scrub");
            assert!(ended(&mount, &told.job()).contains("outcome: blake3 "));
        }
        // The same by a shell: its exit code says whether it was taken.
        let echo = sh_output(&format!("echo {line} > {}", path.display()));
        assert_eq!(echo.status.success(), told.errno.is_none(), "{verb}");
    }
    for (verb, line, name) in [
        ("pair", "accept nonsense", "token-malformed"),
        ("forget", "site=london", "peer-not-registered"),
        ("import", "path=/x vm=y how=rename", "not-found"),
        ("export-config", "path=/x", "not-supported-yet"),
    ] {
        let told = tell(&mount.path(&format!("site/control/{verb}")), line);
        assert_eq!(told.refusal(), Some(name), "{verb}: {}", told.shown);
    }
    mount.stop();
}

#[test]
fn the_first_write_decides_and_its_result_sticks() {
    let mount = site();
    let path = mount.path("vms/web/control/scrub");
    let mut file = File::options().read(true).write(true).open(&path).unwrap();
    // Blank writes, lengths and offsets mean nothing.
    file.write_all(b"\n  \r\n").unwrap();
    file.set_len(0).unwrap();
    file.set_len(1 << 20).unwrap();
    assert!(!shown(&file).contains("outcome"));
    file.seek(SeekFrom::Start(12345)).unwrap();
    file.write_all(b"  scrub latest  \r\n").unwrap();
    let first = shown(&file);
    assert!(first.starts_with("written: scrub latest\noutcome: accepted\n"), "{first}");
    assert_eq!(jobs(&mount), 1);
    file.write_all(b"scrub latest").unwrap();
    assert_eq!((jobs(&mount), shown(&file)), (1, first.clone()));
    assert_eq!(errno(&file.write(b"scrub @seq-1").unwrap_err()), libc::EINVAL);
    assert_eq!(shown(&file), first, "another line changes nothing");
    // It lives as long as the handle, over the death of the worker.
    assert!(mount.kill_worker());
    assert_eq!(shown(&file), first);
    file.write_all(b"scrub latest\n").unwrap();
    assert_eq!(errno(&file.write(b"scrub @seq-1").unwrap_err()), libc::EINVAL);
    assert_eq!(jobs(&mount), 1);
    assert!(!shown(&File::open(&path).unwrap()).contains("outcome"));

    let pause = mount.path("vms/web/control/pause");
    let mut refused = File::options().read(true).write(true).open(&pause).unwrap();
    for _ in 0..3 {
        assert_eq!(errno(&refused.write(b"pause\n").unwrap_err()), libc::EPERM);
    }
    assert!(shown(&refused).contains("\noutcome-refusal: not-protected\n"));
    let events = fs::read_to_string(mount.path("site/events")).unwrap();
    assert_eq!(events.matches("text=pause").count(), 1, "{events}");
    mount.stop();
}

#[test]
fn what_makes_no_sense_is_refused_as_a_whole() {
    let mount = site();
    let scrub = mount.path("vms/web/control/scrub");
    let read_back = fs::read_to_string(&scrub).unwrap();
    let long = format!("scrub id={}", "x".repeat(5000));
    for (line, errno, name) in [
        ("scrub\nscrub\n", libc::EINVAL, "invalid"),
        ("scrub latest later", libc::EINVAL, "invalid"),
        ("scrub depth=3", libc::EINVAL, "invalid"),
        ("scrub \"latest", libc::EINVAL, "invalid"),
        ("{\"verb\": \"scrub\"}", libc::EINVAL, "invalid"),
        (read_back.as_str(), libc::EINVAL, "invalid"),
        (long.as_str(), libc::E2BIG, "too-long"),
        ("scrub @seq-99999", libc::ENOENT, "point-not-found"),
        ("scrub 2020-01-01T00-00-00.000Z-crash", libc::ENOENT, "point-not-found"),
        ("scrub expect-state=standby", libc::ESTALE, "expectation-failed"),
        ("scrub expect-head=@00000000-1", libc::ESTALE, "expectation-failed"),
    ] {
        let told = tell(&scrub, line);
        assert_eq!((told.errno, told.refusal()), (Some(errno), Some(name)), "{line}: {}", told.shown);
    }
    assert_eq!(jobs(&mount), 0);
    let dry = tell(&scrub, "scrub dry-run=yes");
    assert_eq!((dry.errno, dry.get("outcome"), jobs(&mount)), (None, Some("dry-run"), 0), "{}", dry.shown);
    // The tree itself isn't changed by names.
    let control = mount.path("vms/web/control");
    let failed = |result: std::io::Result<()>| result.err().map(|e| errno(&e));
    assert_eq!(failed(File::create(control.join("new")).map(drop)), Some(libc::EPERM));
    assert_eq!(failed(fs::remove_file(&scrub)), Some(libc::EPERM));
    assert_eq!(failed(fs::rename(&scrub, control.join("other"))), Some(libc::EPERM));
    assert_eq!(failed(fs::write(mount.path("vms/web/status"), "x")), Some(libc::EROFS));
    mount.stop();
}

#[test]
fn an_id_stands_for_one_command() {
    let mount = site();
    let scrub = mount.path("vms/web/control/scrub");
    let first = tell(&scrub, "scrub id=nightly").job();
    ended(&mount, &first);
    assert_eq!(tell(&scrub, "scrub id=nightly\n").job(), first);
    assert!(mount.kill_worker());
    assert_eq!(tell(&scrub, "scrub id=nightly").job(), first);
    let other = tell(&scrub, "scrub latest id=nightly");
    assert_eq!((other.errno, other.refusal()), (Some(libc::EINVAL), Some("command-differs")));
    let second = tell(&scrub, "scrub").job();
    ended(&mount, &second);
    assert!(second != first && jobs(&mount) == 2);
    let mount = mount.remount();
    assert_eq!(tell(&mount.path("vms/web/control/scrub"), "scrub id=nightly").job(), first);
    mount.stop();
}

/// A command that a dead worker took is carried out once, and the program that wrote it hears of it.
#[test]
fn commands_are_done_once_while_workers_are_killed() {
    let mount = site();
    let stop = Arc::new(AtomicBool::new(false));
    let path = mount.path("vms/web/control/scrub");
    let told = Arc::clone(&stop);
    let work = std::thread::spawn(move || {
        let mut answers = Vec::new();
        while !told.load(Ordering::Relaxed) && answers.len() < 60 {
            let answer = tell(&path, "scrub");
            match answer.refusal() {
                None => answers.push(answer.job()),
                Some(name) => assert_eq!(name, "busy", "{}", answer.shown),
            }
        }
        answers
    });
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(250));
        mount.kill_worker();
    }
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    let mut answers = work.join().unwrap();
    answers.sort();
    let made = answers.len();
    answers.dedup();
    assert!(made > 3, "only {made} commands");
    assert_eq!((answers.len(), jobs(&mount)), (made, made), "each accepted line has its one job");
    mount.stop();
}

#[test]
fn a_policy_is_read_and_written() {
    let mount = site();
    let path = mount.path("vms/web/policy");
    assert_eq!(value(&mount, "vms/web/policy", "window"), "24h");
    fs::write(&path, "window: 2h\n# a remark\ncrash-points: 1min\n").unwrap();
    assert_eq!(value(&mount, "vms/web/policy", "window"), "2h");
    assert_eq!(value(&mount, "vms/web/policy", "crash-points"), "1min");
    // What it shows may be written back, as an editor does.
    let all = fs::read_to_string(&path).unwrap();
    fs::write(&path, all.replace("2h", "3h")).unwrap();
    for wrong in ["window: forever", "windows: 2h", "window: 2h\nrate: much"] {
        let told = tell(&path, wrong);
        assert_eq!(told.errno, Some(libc::EINVAL), "{wrong}: {}", told.shown);
    }
    assert_eq!(value(&mount, "vms/web/policy", "window"), "3h");
    assert!(mount.kill_worker());
    assert_eq!(value(&mount, "vms/web/policy", "window"), "3h");
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(mount.path("vms/web/policy.json")).unwrap()).unwrap();
    assert!(json.is_object(), "{json}");
    mount.stop();
}
