//! Two daemons, moved by nothing but files of their mounts.

use super::*;
use crate::fuse::harness::{sh, sh_output};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;

const BLOCK: usize = 4096;

fn daemon(name: &str) -> Mount {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Mount::with(|options| {
        options.store = Some(options.root.join("store"));
        options.control = Some(options.root.join("socket"));
        options.listen = Some(port.to_string());
        options.name = name.into();
    })
}

fn echo(mount: &Mount, line: &str, file: &str) {
    sh(&format!("echo '{line}' > {}", mount.path(file).display()));
}

/// The newest moment.
fn head(mount: &Mount) -> String {
    value(mount, "vms/web/status", "head")
}

/// Pairs two sites and protects a VM of the first.
fn protected() -> (Mount, Mount) {
    let (paris, london) = (daemon("paris"), daemon("london"));
    let token = tell(&paris.path("site/control/pair"), "create");
    let token = token.get("outcome-says").unwrap().to_owned();
    let paired = tell(&london.path("site/control/pair"), &format!("accept {token}"));
    assert_eq!(paired.get("outcome-says"), Some("paired with paris"), "{}", paired.shown);
    assert!(
        !paired.shown.contains(&token)
            && !fs::read_to_string(paris.path("site/events")).unwrap().contains(&token)
    );
    until("both know each other", PATIENCE, || {
        let linked = |site: &Mount, peer: &str| {
            let status = fs::read_to_string(site.path(&format!("site/peers/{peer}/status")));
            status.is_ok_and(|text| text.contains("\npeer-link: connected\n"))
        };
        linked(&paris, "london") && linked(&london, "paris")
    });
    fs::create_dir(paris.path("disks/web")).unwrap();
    fs::write(paris.path("disks/web/d.raw"), vec![b'0'; 8 * BLOCK]).unwrap();
    let told = tell(&paris.path("vms/web/control/protect"), "to=london");
    assert!(ended(&paris, &told.job()).contains("state: succeeded"));
    until("london stands by", PATIENCE, || {
        london.path("vms/web/status").exists() && state(&london) == "standby"
    });
    assert_eq!(state(&paris), "protected");
    (paris, london)
}

/// Writes a letter all over the disk and waits until both sites hold it; the moment.
fn write(paris: &Mount, london: &Mount, letter: u8) -> String {
    fs::write(paris.path("disks/web/note.txt"), [letter]).unwrap();
    let file = File::options().write(true).open(paris.path("disks/web/d.raw")).unwrap();
    file.write_all_at(&[letter; 8 * BLOCK], 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let moment = head(paris);
    until("london has it", PATIENCE, || head(london) == moment);
    moment
}

fn disk(mount: &Mount, dir: &str) -> char {
    let bytes = fs::read(mount.path(&format!("{dir}/d.raw"))).unwrap();
    assert!(bytes.len() == 8 * BLOCK && bytes.iter().all(|b| *b == bytes[0]));
    bytes[0].into()
}

fn open(mount: &Mount) -> std::io::Result<File> {
    File::options().read(true).write(true).open(mount.path("disks/web/d.raw"))
}

fn failed<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().map(|e| errno(&e))
}

/// The whole way: protect, look back, lose the source, take over, choose again, take back, make final.
#[test]
fn a_site_is_lost_and_the_other_takes_over() {
    let (paris, london) = protected();
    let moments: Vec<String> = [b'a', b'b', b'c'].map(|letter| write(&paris, &london, letter)).into();
    // Names: at both sites the same bytes, by every way to say it.
    for (moment, letter) in moments.iter().zip(['a', 'b', 'c']) {
        let seq = moment.rsplit('-').next().unwrap();
        let short = format!("{}-{seq}", &moment[..9]);
        for name in [moment.as_str(), &format!("@seq-{seq}"), &short] {
            for site in [&paris, &london] {
                let dir = format!("vms/web/recovery-points/{name}");
                assert_eq!(disk(site, &dir), letter, "{name} at {}", site.options.name);
                assert_eq!(fs::read(site.path(&format!("{dir}/note.txt"))).unwrap(), [letter as u8]);
            }
        }
    }
    assert_eq!(disk(&london, "vms/web/recovery-points/latest"), 'c');
    assert_eq!(tell(&paris.path("vms/web/control/recovery-point"), "name=before-upgrade").refusal(), None);
    let named = sh(&format!("ls {} | grep before-upgrade", paris.path("vms/web/recovery-points").display()));
    assert_eq!(disk(&paris, &format!("vms/web/recovery-points/{}", named.trim())), 'c');

    // The mirror is read-only, in every way.
    let disks = london.path("disks/web");
    let before = fs::metadata(disks.join("d.raw")).unwrap();
    let reader = File::open(disks.join("d.raw")).unwrap();
    assert_eq!(failed(open(&london)), Some(libc::EROFS));
    assert_eq!(failed(File::create(disks.join("new"))), Some(libc::EROFS));
    assert_eq!(failed(fs::create_dir(disks.join("new"))), Some(libc::EROFS));
    assert_eq!(failed(fs::remove_file(disks.join("note.txt"))), Some(libc::EROFS));
    assert!(!sh_output(&format!("truncate -s 1M {}", disks.join("d.raw").display())).status.success());
    assert_eq!(failed(fs::rename(disks.join("note.txt"), disks.join("x"))), Some(libc::EROFS));
    assert_eq!(tell(&paris.path("vms/web/control/failover"), "latest").refusal(), Some("already-active"));
    let dry = tell(&london.path("vms/web/control/failover"), "latest dry-run=yes");
    assert_eq!((dry.get("outcome"), state(&london)), (Some("dry-run"), "standby".into()));

    // An opening keeps its moment, also across the death of the worker; the next one sees what has come since.
    write(&paris, &london, b'd');
    assert!(london.kill_worker());
    let mut kept = [0; 8 * BLOCK];
    reader.read_exact_at(&mut kept, 0).unwrap();
    assert!(kept.iter().all(|byte| *byte == b'c'), "{}", kept[0]);
    assert_eq!(disk(&london, "disks/web"), 'd');

    drop(paris); // keeper, worker and mount at once
    echo(&london, "latest", "vms/web/control/failover");
    assert_eq!(
        (state(&london).as_str(), value(&london, "vms/web/status", "writable").as_str()),
        ("failed-over", "yes")
    );
    // Without a remount: names and numbers stay, the disk takes writes at once.
    let writer = open(&london).unwrap();
    assert_eq!(writer.metadata().unwrap().ino(), before.ino());
    assert_eq!(disk(&london, "disks/web"), 'd');
    writer.write_all_at(&[b'x'; 8 * BLOCK], 0).unwrap();
    writer.sync_all().unwrap();
    assert_eq!(disk(&london, "disks/web"), 'x');
    drop(reader);

    // Another choice: not under a writer, then at once; the writer's handle is of another history.
    let change = london.path("vms/web/control/change-recovery-point");
    let busy = tell(&change, &moments[0]);
    assert_eq!((busy.errno, busy.refusal()), (Some(libc::EBUSY), Some("writers-open")), "{}", busy.shown);
    drop(writer);
    let reader = File::open(london.path("disks/web/d.raw")).unwrap();
    tell(&change, &moments[0]).job();
    assert_eq!(disk(&london, "disks/web"), 'a');
    assert_eq!(fs::read(london.path("disks/web/note.txt")).unwrap(), b"a");
    assert_eq!(failed(reader.read_at(&mut [0; 16], 0)), Some(libc::ESTALE));
    let branches = fs::read_dir(london.path("vms/web/branches")).unwrap();
    let branches: Vec<String> = branches.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let on_branch: Vec<char> =
        branches.iter().map(|b| disk(&london, &format!("vms/web/branches/{b}"))).collect();
    assert!(on_branch.contains(&'x'), "{branches:?} {on_branch:?}");

    // Taken back, and taken over again by the tool.
    assert_eq!(tell(&london.path("vms/web/control/rollback"), "rollback").refusal(), Some("confirm-needed"));
    let reader = File::open(london.path("disks/web/d.raw")).unwrap();
    assert_eq!(failed(reader.read_at(&mut [0; 16], 0)), None);
    echo(&london, "confirm=web", "vms/web/control/rollback");
    assert_eq!(failed(reader.read_at(&mut [0; 16], 0)), Some(libc::ESTALE));
    drop(reader);
    assert_eq!((state(&london).as_str(), disk(&london, "disks/web")), ("standby", 'd'));
    assert_eq!(failed(open(&london)), Some(libc::EROFS));
    let (code, out, err) = standbyctl(&london, &["failover", "web", &moments[1]]);
    assert!(code == 0 && out.contains("disks-writable"), "{out}{err}");
    assert_eq!(disk(&london, "disks/web"), 'b');
    open(&london).unwrap().write_all_at(&[b'y'; 8 * BLOCK], 0).unwrap();
    assert_eq!(standbyctl(&london, &["commit", "web", "--yes"]).0, 0);
    assert_eq!((state(&london).as_str(), disk(&london, "disks/web")), ("committed", 'y'));
    assert_eq!(
        tell(&london.path("vms/web/control/rollback"), "confirm=web").refusal(),
        Some("already-committed")
    );
    let branch = branches.iter().zip(&on_branch).find(|(_, letter)| **letter == 'x').unwrap().0;
    assert_eq!(standbyctl(&london, &["drop", "web", "--branch", branch, "--yes"]).0, 0);
    assert_eq!(standbyctl(&london, &["scrub", "web"]).0, 0);
    assert!(london.kill_worker());
    assert_eq!((state(&london).as_str(), disk(&london, "disks/web")), ("committed", 'y'));
    london.stop();
}

/// A planned failover: the handles of the old source are told to pause, and no write is lost.
#[test]
fn a_planned_failover_hands_over() {
    let (paris, london) = protected();
    write(&paris, &london, b'a');
    let writer = open(&paris).unwrap();
    writer.write_all_at(&[b'p'; 8 * BLOCK], 0).unwrap();
    // Nothing here can shut the VM down, and a person hasn't: nothing is taken from under it.
    let (code, out, err) = standbyctl(&london, &["failover", "web", "--planned"]);
    assert!(code == 7 && err.matches("writers-open").count() == 1, "{out}{err}");
    assert_eq!((state(&paris).as_str(), state(&london).as_str()), ("protected", "standby"));
    writer.write_all_at(&[b'p'; 8 * BLOCK], 0).unwrap();
    drop(writer);
    let (code, out, err) = standbyctl(&london, &["failover", "web", "--planned"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!((state(&london).as_str(), disk(&london, "disks/web")), ("failed-over", 'p'));
    until("paris is fenced", PATIENCE, || state(&paris) == "fenced");
    assert_eq!(failed(open(&paris)), Some(libc::EROFS));
    assert_eq!(disk(&paris, "disks/web"), 'p', "reads go on");
    open(&london).unwrap().write_all_at(&[b'q'; 8 * BLOCK], 0).unwrap();
    assert_eq!(disk(&london, "disks/web"), 'q');
    assert_eq!(tell(&paris.path("vms/web/control/failover"), "latest").refusal(), Some("force-needed"));
    paris.stop();
    london.stop();
}

/// A takeover while the source still runs: its writers are told to pause, and what they had an answer for is there.
#[test]
fn a_linked_failover_stops_the_writers_of_the_source() {
    let (paris, london) = protected();
    write(&paris, &london, b'a');
    let writer = open(&paris).unwrap();
    writer.write_all_at(&[b'p'; 8 * BLOCK], 0).unwrap();
    writer.sync_all().unwrap();
    let told = tell(&london.path("vms/web/control/failover"), "latest");
    assert!(ended(&london, &told.job()).contains("state: succeeded"), "{}", told.shown);
    assert_eq!((state(&london).as_str(), disk(&london, "disks/web")), ("failed-over", 'p'));
    until("paris is fenced", PATIENCE, || state(&paris) == "fenced");
    for _ in 0..2 {
        assert_eq!(failed(writer.write_at(b"late", 0)), Some(libc::ENOSPC));
        assert!(paris.kill_worker());
    }
    assert_eq!(failed(writer.read_at(&mut [0; 16], 0)), None, "reads go on");
    assert_eq!(failed(open(&paris)), Some(libc::EROFS));
    drop(writer);
    assert_eq!(disk(&paris, "disks/web"), 'p');
    paris.stop();
    london.stop();
}

#[test]
fn a_protection_ends() {
    let (paris, london) = protected();
    write(&paris, &london, b'a');
    let disk_file = paris.path("disks/web/d.raw");
    assert_eq!(failed(fs::remove_file(&disk_file)), Some(libc::EPERM));
    assert_eq!(failed(fs::rename(paris.path("disks/web"), paris.path("disks/other"))), Some(libc::EPERM));
    echo(&paris, "pause", "vms/web/control/pause");
    assert_eq!(value(&paris, "vms/web/status", "flags"), "paused");
    assert_eq!(standbyctl(&paris, &["resume", "web"]).0, 0);
    assert_eq!(value(&paris, "vms/web/status", "flags"), "none");
    assert_eq!(standbyctl(&paris, &["protect", "web"]).0, 4);
    let (code, out, err) = standbyctl(&paris, &["unprotect", "web"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(state(&paris), "unprotected");
    until("london has heard", PATIENCE, || state(&london) == "orphaned");
    fs::remove_file(&disk_file).unwrap();
    paris.stop();
    london.stop();
}
