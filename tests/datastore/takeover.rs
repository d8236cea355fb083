//! The death of the process that serves, under load and between requests.

use super::datastore;
use crate::fuse::harness::*;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

#[test]
fn openings_and_numbers_survive_the_worker() {
    let mount = datastore();
    fs::create_dir(mount.path("disks/vm")).unwrap();
    let path = mount.path("disks/vm/d.raw");
    fs::write(&path, vec![1; 65536]).unwrap();
    let gone = mount.path("disks/vm/gone.raw");
    fs::write(&gone, vec![3; 4096]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let removed = File::options().read(true).write(true).open(&gone).unwrap();
    fs::remove_file(&gone).unwrap();
    let ino = file.metadata().unwrap().ino();
    for round in 0..3u8 {
        assert!(mount.kill_worker());
        file.write_all_at(&[round; 4096], 4096 * u64::from(round)).unwrap();
        let mut bytes = [9; 4096];
        file.read_exact_at(&mut bytes, 4096 * u64::from(round)).unwrap();
        assert_eq!(bytes, [round; 4096]);
        assert_eq!(fs::metadata(&path).unwrap().ino(), ino);
        removed.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [3; 4096]);
        assert_eq!(fs::read_dir(mount.path("disks/vm")).unwrap().count(), 1);
    }
    drop(removed);
    drop(file);
    fs::remove_dir_all(mount.path("disks/vm")).unwrap();
    mount.stop();
}

#[test]
fn fio_sees_no_error_while_workers_are_killed() {
    let mount = datastore();
    let dir = tempfile::tempdir().unwrap();
    let at = mount.path("disks/fio.raw");
    let fio = format!(
        "cd {} && fio --name=v --filename={} --size=64M --rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 --direct=1 \
         --fsync=32 --verify=crc32c --do_verify=1 --verify_fatal=1 --rate_iops=6000 --output=/dev/null",
        dir.path().display(),
        at.display()
    );
    let run = std::thread::spawn(move || sh(&fio));
    for _ in 0..if full() { 8 } else { 2 } {
        std::thread::sleep(Duration::from_millis(700));
        mount.kill_worker();
    }
    run.join().unwrap();
    mount.stop();
}

/// Each change of names is done once, whenever the worker dies.
#[test]
fn names_change_once_while_workers_are_killed() {
    let mount = datastore();
    fs::create_dir(mount.path("disks/vm")).unwrap();
    let dir = mount.path("disks/vm");
    let work = std::thread::spawn(move || {
        for n in 0..60 {
            let name = |what: &str| dir.join(format!("{what}-{n}"));
            fs::create_dir(name("dir")).unwrap();
            File::options().write(true).create_new(true).open(name("a")).unwrap().set_len(n).unwrap();
            fs::rename(name("a"), name("b")).unwrap();
            fs::remove_dir(name("dir")).unwrap();
            assert_eq!(fs::metadata(name("b")).unwrap().len(), n);
            if n % 2 == 0 {
                fs::remove_file(name("b")).unwrap();
            }
        }
    });
    while !work.is_finished() {
        std::thread::sleep(Duration::from_millis(150));
        mount.kill_worker();
    }
    work.join().unwrap();
    assert_eq!(fs::read_dir(mount.path("disks/vm")).unwrap().count(), 30);
    mount.stop();
}
