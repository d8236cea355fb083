use super::*;
use std::os::unix::fs::PermissionsExt;

fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn target() -> Target {
    Target {
        vm: "web01".into(),
        domain: Some("web01".into()),
        dir: "/mnt/disks/web01".into(),
        reason: "failover".into(),
        more: vec![("STANDBYFS_MOMENT".into(), "7@abcd".into())],
    }
}

fn xml() -> Rendered {
    Rendered { xml: "<domain/>".into(), name: "web01".into(), without: vec!["dmz".into()] }
}

/// A virsh that keeps its state in a file: `running`, `shut off`, none.
fn fake_virsh(dir: &Path, on_shutdown: &str) -> Hooks {
    let body = format!(
        r#"cd {}; echo "$*" >> calls; shift 2
        test "$LC_ALL" = C || exit 9
        case $1 in
        domstate) test -f state || {{ echo "error: failed to get domain '$2'" >&2; exit 1; }}; cat state;;
        define) grep -q '<domain' "$2" || exit 1; test -f state || echo 'shut off' > state;;
        start) echo running > state;;
        shutdown) {on_shutdown};;
        *) exit 2;;
        esac"#,
        dir.display()
    );
    let virsh = Some(script(dir, "virsh", &body));
    Hooks { virsh, timeout: Duration::from_millis(700), ..Hooks::default() }
}

#[test]
fn without_means_nothing_is_claimed() {
    let hooks = Hooks::default();
    assert_eq!(hooks.stop(&target(), &mut |_| {}), Outcome::NoMeans);
    let outcome = hooks.start(&target(), Some(&xml()), &mut |_| {});
    assert_eq!(outcome, Outcome::NoMeans);
    assert!(outcome.after_start().starts_with("disks-writable, vm-not-started"));
}

#[test]
fn virsh_defines_starts_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let hooks = fake_virsh(dir.path(), "(sleep 0.2; echo 'shut off' > state) >/dev/null 2>&1 &");
    let mut log = Vec::new();
    assert_eq!(
        hooks.stop(&target(), &mut |_| {}),
        Outcome::Done("virsh"),
        "libvirt doesn't know it: it is off"
    );
    let outcome = hooks.start(&target(), Some(&xml()), &mut |line| log.push(line.to_owned()));
    assert_eq!(outcome, Outcome::Done("virsh"));
    assert_eq!(outcome.after_start(), "vm-started (virsh)");
    assert!(
        log.iter().any(|l| l.contains("`dmz`")) && log.iter().any(|l| l == "virsh start web01"),
        "{log:?}"
    );
    assert_eq!(hooks.start(&target(), Some(&xml()), &mut |_| {}), Outcome::Done("virsh"), "it may run again");
    let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap();
    assert_eq!(calls.matches("start web01").count(), 1, "{calls}");
    assert_eq!(hooks.stop(&target(), &mut |_| {}), Outcome::Done("virsh"));
    assert_eq!(std::fs::read_to_string(dir.path().join("state")).unwrap(), "shut off\n");
    assert_eq!(hooks.start(&target(), None, &mut |_| {}), Outcome::NoMeans, "no XML");
}

/// H3.
#[test]
fn a_guest_that_ignores_the_shutdown_is_not_called_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let hooks = fake_virsh(dir.path(), "true");
    std::fs::write(dir.path().join("state"), "running\n").unwrap();
    let Outcome::Failed(why) = hooks.stop(&target(), &mut |_| {}) else { panic!("claimed to be stopped") };
    assert!(why.contains("still runs"), "{why}");
    script(dir.path(), "virsh", "echo 'error: failed to connect to the hypervisor' >&2; exit 1");
    let Outcome::Failed(why) = hooks.stop(&target(), &mut |_| {}) else { panic!("claimed to be stopped") };
    assert!(why.contains("failed to connect"), "{why}");
    let Outcome::Failed(_) = hooks.start(&target(), Some(&xml()), &mut |_| {}) else {
        panic!("claimed to be started")
    };
}

#[test]
fn a_hook_gets_its_environment_and_its_words_go_into_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let hook = script(
        dir.path(),
        "hook",
        "echo \"$1 $2 $STANDBYFS_EVENT $STANDBYFS_REASON $STANDBYFS_MOMENT\"; cat \"$STANDBYFS_XML\" >&2; echo last; \
         test \"$1\" = start",
    );
    let hooks = Hooks { start: Some(hook.clone()), stop: Some(hook), ..Hooks::default() };
    let mut log = Vec::new();
    let outcome = hooks.start(&target(), Some(&xml()), &mut |line| log.push(line.to_owned()));
    assert_eq!(outcome, Outcome::Done("start hook"));
    log.sort();
    assert!(log.contains(&"start web01 start failover 7@abcd".to_owned()), "{log:?}");
    assert!(log.iter().any(|l| l.contains("<domain/>")) && log.iter().any(|l| l.contains("last")), "{log:?}");
    let Outcome::Failed(why) = hooks.stop(&target(), &mut |_| {}) else { panic!("exit code 1 is a failure") };
    assert!(why.contains("ended with 1"), "{why}");
    let missing = Hooks { start: Some(dir.path().join("nothing")), ..Hooks::default() };
    assert!(matches!(missing.start(&target(), None, &mut |_| {}), Outcome::Failed(_)));
}

/// H1 and H2.
#[test]
fn a_hook_that_hangs_is_ended_with_its_children_and_one_that_babbles_is_not_held_up() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let body = format!("sleep 600 & echo $! > {}; echo begun; wait", pids.display());
    let hooks = Hooks {
        stop: Some(script(dir.path(), "hang", &body)),
        start: Some(script(dir.path(), "babble", "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end")),
        timeout: Duration::from_millis(1500),
        ..Hooks::default()
    };
    let since = Instant::now();
    let mut log = Vec::new();
    let outcome = hooks.stop(&target(), &mut |line| log.push(line.to_owned()));
    assert!(matches!(outcome, Outcome::Failed(_)) && since.elapsed() < Duration::from_secs(5), "{outcome:?}");
    assert_eq!(log, ["begun"]);
    let child = std::fs::read_to_string(pids).unwrap();
    let gone = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |s| s.contains(") Z "))
    };
    let until = Instant::now() + Duration::from_secs(5);
    while !gone(child.trim()) {
        assert!(Instant::now() < until, "the hook's child still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
    let hooks = Hooks { timeout: Duration::from_secs(20), ..hooks };
    let mut bytes = 0;
    assert_eq!(hooks.start(&target(), None, &mut |line| bytes += line.len()), Outcome::Done("start hook"));
    assert!((1..=OUTPUT_MAX).contains(&bytes), "{bytes}");
}
