//! The keeper's own duties: starting, upgrading, giving up, ending.

use super::harness::*;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

/// Replaces a program that is running.
fn replace(program: &Path, with: &Path) {
    let new = program.with_extension("new");
    fs::copy(with, &new).unwrap();
    fs::rename(new, program).unwrap();
}

fn program_of(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

#[test]
fn an_upgrade_replaces_the_worker_and_no_writer_notices() {
    let (mount, program) = Mount::with_copy();
    let file = File::create(mount.path("disk")).unwrap();
    let first = mount.worker().unwrap();
    replace(&program, &std::env::current_exe().unwrap());
    let newest = fs::metadata(&program).unwrap().ino();
    assert_ne!(program_of(first), newest);
    std::thread::scope(|scope| {
        let over = scope.spawn(|| {
            let begin = Instant::now();
            let mut longest = Duration::ZERO;
            while begin.elapsed() < Duration::from_secs(1) {
                let one = Instant::now();
                file.write_all_at(b"x", 0).unwrap();
                longest = longest.max(one.elapsed());
            }
            longest
        });
        std::thread::sleep(Duration::from_millis(200));
        mount.signal_keeper(libc::SIGHUP);
        println!("longest stall of an upgrade: {:?}", over.join().unwrap());
    });
    let second = mount.worker().unwrap();
    assert_eq!(program_of(second), newest, "{}", mount.log());
    assert!(mount.trace().contains("1 stop Upgrade"), "the worker was not asked to stop");
    // What comes after a crash is the new program too.
    mount.kill_worker();
    file.write_all_at(b"y", 0).unwrap();
    assert_eq!(program_of(mount.worker().unwrap()), newest);
    mount.stop();
}

#[test]
fn a_program_that_refuses_is_followed_by_the_old_one() {
    let (mount, program) = Mount::with_copy();
    let old = fs::metadata(&program).unwrap().ino();
    let file = File::create(mount.path("disk")).unwrap();
    replace(&program, Path::new("/bin/false"));
    mount.signal_keeper(libc::SIGHUP);
    until("the upgrade was tried", PATIENCE, || mount.log().contains("back to the old"));
    file.write_all_at(b"x", 0).unwrap();
    assert_eq!(program_of(mount.worker().unwrap()), old);
    fs::remove_file(&program).unwrap();
    mount.signal_keeper(libc::SIGHUP);
    until("the upgrade was tried", PATIENCE, || mount.log().contains("the old one goes on"));
    file.write_all_at(b"x", 0).unwrap();
    mount.kill_worker();
    file.write_all_at(b"x", 0).unwrap();
    assert_eq!(program_of(mount.worker().unwrap()), old);
    mount.stop();
}

#[test]
fn when_no_worker_stays_alive_requests_fail_until_one_does() {
    let mount = Mount::new();
    let file = File::options().create_new(true).read(true).write(true).open(mount.path("disk")).unwrap();
    file.write_all_at(b"kept", 0).unwrap();
    let second = File::open(mount.path("disk")).unwrap();
    fs::write(&mount.options.refuse, "").unwrap();
    mount.kill_worker();
    // This one waits through the deaths and gets the first refusal.
    assert_eq!(errno(file.write_all_at(b"lost", 0)), Some(libc::ENOSPC));
    assert_eq!(errno(file.sync_all()), Some(libc::ENOSPC));
    assert_eq!(errno(second.read_at(&mut [0; 4], 0)), Some(libc::EIO));
    assert_eq!(errno(fs::create_dir(mount.path("new"))), Some(libc::EIO));
    let deaths = mount.log().matches("the worker died").count();
    assert!(deaths > 5, "{deaths} deaths\n{}", mount.log());
    fs::remove_file(&mount.options.refuse).unwrap();
    until("a worker serves again", PATIENCE, || file.write_all_at(b"back", 0).is_ok());
    assert_eq!(fs::read(mount.below("disk")).unwrap(), b"back");
    // An answer has cleared the count: the next death is followed by a worker, not by refusals. That there was
    // one is noted after it was sent; a thread that serves a second request has noted its first.
    (0..3).for_each(|_| file.write_all_at(b"more", 0).unwrap());
    mount.kill_worker();
    file.write_all_at(b"more", 0).unwrap();
    mount.stop();
}

#[test]
fn a_request_that_kills_every_worker_is_refused_in_the_end() {
    let mount = Mount::new();
    let file = File::create(mount.path("disk")).unwrap();
    fs::write(&mount.options.poison, "").unwrap();
    assert_eq!(errno(file.write_all_at(b"x", 0)), Some(libc::ENOSPC));
    fs::remove_file(&mount.options.poison).unwrap();
    until("a worker serves again", PATIENCE, || file.write_all_at(b"x", 0).is_ok());
    mount.stop();
}

#[test]
fn giving_up_and_being_told_to_stop_leaves_nothing() {
    let mount = Mount::new();
    fs::write(&mount.options.refuse, "").unwrap();
    mount.kill_worker();
    until("the keeper refuses", PATIENCE, || mount.log().contains("no worker stays alive"));
    mount.stop();
}

fn outcome(change: impl FnOnce(&mut super::server::ServerOptions)) -> (Output, bool) {
    require_fuse();
    let dir = temp();
    let mut options = options(dir.path());
    change(&mut options);
    let output = server(&options, None).output().unwrap();
    let mounted = is_mounted(&options.mount);
    clear(&options.mount);
    (output, mounted)
}

type Change = &'static dyn Fn(&mut super::server::ServerOptions);

#[test]
fn a_start_that_fails_says_why_and_leaves_no_mount() {
    for background in [false, true] {
        let cases: [(&str, Change); 5] = [
            ("the store is damaged", &|o| fs::write(&o.refuse, "the store is damaged").unwrap()),
            ("died while it started", &|o| fs::write(&o.refuse, "").unwrap()),
            ("mkdir -p", &|o| fs::remove_dir(&o.mount).unwrap()),
            ("isn't empty", &|o| fs::write(o.mount.join("x"), "").unwrap()),
            ("in use by a mount of type tmpfs", &|o| {
                sh(&format!("mount -t tmpfs none {}", o.mount.display()));
            }),
        ];
        for (expected, change) in cases {
            let (output, mounted) = outcome(|options| {
                options.background = background;
                change(options);
            });
            let text = String::from_utf8_lossy(&output.stderr);
            let reason = text.lines().find(|l| l.starts_with("failed: ")).unwrap_or("");
            assert!(reason.contains(expected), "expected `{expected}`, background {background}:\n{text}");
            assert_eq!(output.status.code(), Some(1));
            assert!(!mounted || expected.contains("tmpfs"), "{expected}: a mount stays");
        }
    }
}

#[test]
fn in_the_background_the_caller_returns_when_the_mount_is_usable() {
    require_fuse();
    let dir = temp();
    let mut options = options(dir.path());
    options.background = true;
    let server = Background::start(server(&options, None), &options);
    assert!(server.output.status.success(), "{}", server.stderr());
    fs::write(options.mount.join("file"), "x").unwrap();
    server.stop();
}

#[test]
fn somebody_elses_unmount_ends_keeper_and_worker() {
    let mut mount = Mount::new();
    fs::write(mount.path("file"), "x").unwrap();
    sh(&format!("umount {}", mount.options.mount.display()));
    assert!(mount.wait_for_the_end(), "{}", mount.log());
    assert!(mount.trace().contains("stop Unmounted"));
    assert!(group(mount.keeper()).is_empty());
}

#[test]
fn a_mount_in_use_goes_after_a_grace() {
    let mut mount = Mount::new();
    let file = File::create(mount.path("disk")).unwrap();
    mount.signal_keeper(libc::SIGTERM);
    until("it is out of the tree", PATIENCE, || !is_mounted(&mount.options.mount));
    file.write_all_at(b"in the grace", 0).unwrap();
    assert!(mount.wait_for_the_end(), "{}", mount.log());
    assert!(mount.trace().contains("stop Unmounted"), "{}", mount.trace());
    assert_eq!(errno(file.write_all_at(b"x", 0)), Some(libc::ENOTCONN));
    assert!(group(mount.keeper()).is_empty());
}

#[test]
fn a_mount_in_use_ends_when_its_last_user_lets_go() {
    let mut mount = Mount::with(|options| options.busy_grace_ms = 60_000);
    let file = File::create(mount.path("disk")).unwrap();
    mount.signal_keeper(libc::SIGTERM);
    until("it is out of the tree", PATIENCE, || !is_mounted(&mount.options.mount));
    file.write_all_at(b"x", 0).unwrap();
    drop(file);
    assert!(mount.wait_for_the_end(), "{}", mount.log());
}

#[test]
fn without_its_keeper_a_worker_serves_on_and_unmounts_when_told() {
    let mount = Mount::new();
    let worker = mount.worker().unwrap();
    let file = File::create(mount.path("disk")).unwrap();
    mount.signal_keeper(libc::SIGKILL);
    until("the worker knows", PATIENCE, || mount.log().contains("the keeper of this mount has died"));
    file.write_all_at(b"served", 0).unwrap();
    drop(file);
    unsafe { libc::kill(worker as i32, libc::SIGTERM) };
    until("the mount is gone", PATIENCE, || !is_mounted(&mount.options.mount));
    until("the worker ends", PATIENCE, || group(mount.keeper()).is_empty());
    assert!(mount.trace().contains("stop Unmounted"), "{}", mount.trace());
}

#[test]
fn a_terminals_interrupt_to_all_is_an_orderly_end() {
    let mut mount = Mount::new();
    fs::write(mount.path("file"), "x").unwrap();
    unsafe { libc::kill(-(mount.keeper() as i32), libc::SIGINT) };
    assert!(mount.wait_for_the_end(), "{}", mount.log());
    assert!(mount.trace().contains("stop Unmounted"), "{}", mount.trace());
    assert!(!is_mounted(&mount.options.mount));
}

#[test]
fn a_dead_mount_that_was_left_behind_is_replaced() {
    require_fuse();
    let first = Mount::new();
    unsafe { libc::kill(-(first.keeper() as i32), libc::SIGKILL) };
    until("the mount is dead", PATIENCE, || errno(fs::metadata(first.path(""))) == Some(libc::ENOTCONN));
    let mut options = first.options.clone();
    options.background = true;
    let second = Background::start(server(&options, None), &options);
    assert!(second.output.status.success(), "{}", second.stderr());
    fs::write(first.path("file"), "x").unwrap();
    // A live one is refused.
    let again = server(&first.options, None).output().unwrap();
    let text = String::from_utf8_lossy(&again.stderr);
    assert!(text.contains("in use by a mount of type fuse.standbyfs"), "{text}");
    second.stop();
}

/// fusermount3 opens the device as its caller. Where only root may, the test runs again in a mount namespace of
/// its own with a device that everybody may open, as it is on most systems.
fn with_open_device(test: &str) {
    let dir = temp();
    let (device, program) = (dir.path().join("fuse"), std::env::current_exe().unwrap());
    sh(&format!(
        "unshare -m --propagation private bash -c 'mknod -m 666 {d} c 10 229 && mount --bind {d} /dev/fuse && \
         {p} --exact {test} --nocapture' 2>&1",
        d = device.display(),
        p = program.display()
    ));
}

#[test]
fn users_other_than_root_mount_through_fusermount3() {
    require_fuse();
    assert!(sh_output("command -v fusermount3").status.success(), "this test needs fusermount3 (fuse3)");
    if fs::metadata("/dev/fuse").unwrap().mode() & 0o006 != 0o006 {
        return with_open_device("fuse::keeper::users_other_than_root_mount_through_fusermount3");
    }
    let dir = temp();
    let mut options = options(dir.path());
    options.background = true;
    options.allow_other = false;
    let program = dir.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for path in [dir.path(), &options.mount, &options.root] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let run = |options: &super::server::ServerOptions| {
        let mut command = server(options, Some(&program));
        command.uid(65534).gid(65534).current_dir(dir.path());
        Background::start(command, options)
    };
    let mounted = run(&options);
    assert!(mounted.output.status.success(), "{}", mounted.stderr());
    let at = options.mount.display().to_string();
    let used = sh_output(&format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups bash -c \
         'cd {at} && mkdir vm && echo x > vm/disk && cat vm/disk && grep {at} /proc/self/mountinfo'"
    ));
    let (kind, others) = (
        String::from_utf8_lossy(&used.stdout).into_owned(),
        sh_output(&format!("setpriv --reuid 1 --regid 1 --clear-groups ls {at}")),
    );
    assert!(used.status.success(), "{}", String::from_utf8_lossy(&used.stderr));
    assert!(kind.contains("fuse.standbyfs"), "{kind}");
    assert!(!others.status.success(), "without allow_other others must not come in");
    mounted.stop();
    // With allow_other and without its permission in /etc/fuse.conf the refusal says what to do.
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if !conf.lines().any(|line| line.trim() == "user_allow_other") {
        options.allow_other = true;
        let refused = run(&options);
        let text = refused.stderr();
        assert!(!refused.output.status.success());
        assert!(text.contains("Add the line `user_allow_other` to /etc/fuse.conf"), "{text}");
    }
    // Somebody else's directory is refused with words.
    options.allow_other = false;
    std::os::unix::fs::chown(&options.mount, Some(0), Some(0)).unwrap();
    let refused = run(&options);
    let text = refused.stderr();
    assert!(!refused.output.status.success() && text.contains("failed: can't mount"), "{text}");
}

#[test]
fn read_only_users_are_kept_out_by_modes() {
    let mount = Mount::new();
    fs::write(mount.path("secret"), "x").unwrap();
    fs::set_permissions(mount.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    // The way there must be open for the mode to decide.
    for dir in mount.options.mount.ancestors().skip(1).take(1).chain([mount.options.mount.as_path()]) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let at = mount.path("secret").display().to_string();
    let output = sh_output(&format!("setpriv --reuid 65534 --regid 65534 --clear-groups cat {at}"));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(mount.path("secret"));
    assert!(direct.is_ok());
    mount.stop();
}
