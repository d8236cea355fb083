//! Names, attributes, sizes, holes.

use super::datastore;
use crate::fuse::harness::*;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

type Errno<T> = Result<T, Option<i32>>;

fn errno<T>(result: std::io::Result<T>) -> Errno<T> {
    result.map_err(|e| e.raw_os_error())
}

#[test]
fn files_and_directories_work_as_anywhere() {
    let mount = datastore();
    let dir = mount.path("disks/vm");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.raw"), "hello").unwrap();
    File::options().append(true).open(dir.join("a.raw")).unwrap().write_all(b" world").unwrap();
    assert_eq!(fs::read_to_string(dir.join("a.raw")).unwrap(), "hello world");
    fs::rename(dir.join("a.raw"), dir.join("b.raw")).unwrap();
    assert!(!dir.join("a.raw").exists());
    let file = File::options().read(true).write(true).open(dir.join("b.raw")).unwrap();
    file.set_len(1 << 20).unwrap();
    assert_eq!(fs::metadata(dir.join("b.raw")).unwrap().len(), 1 << 20);
    file.set_len(5).unwrap();
    file.set_len(12).unwrap();
    assert_eq!(fs::read(dir.join("b.raw")).unwrap(), b"hello\0\0\0\0\0\0\0");
    fs::set_permissions(dir.join("b.raw"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(dir.join("b.raw"), Some(64055), Some(108)).unwrap();
    let shown = fs::metadata(dir.join("b.raw")).unwrap();
    assert_eq!((shown.mode() & 0o7777, shown.uid(), shown.gid()), (0o640, 64055, 108));
    assert_eq!(errno(fs::remove_dir(&dir)), Err(Some(libc::ENOTEMPTY)));
    assert_eq!(errno(fs::hard_link(dir.join("b.raw"), dir.join("c"))), Err(Some(libc::EPERM)));
    assert_eq!(errno(fs::create_dir(&dir)), Err(Some(libc::EEXIST)));
    assert_eq!(errno(fs::remove_file(&dir)), Err(Some(libc::EISDIR)));
    assert_eq!(errno(fs::remove_dir(dir.join("b.raw"))), Err(Some(libc::ENOTDIR)));
    fs::create_dir_all(dir.join("sub/deeper")).unwrap();
    fs::write(dir.join("sub/deeper/x"), "x").unwrap();
    fs::rename(dir.join("sub"), dir.join("moved")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("moved/deeper/x")).unwrap(), "x");
    fs::write(dir.join("new"), "new").unwrap();
    fs::rename(dir.join("new"), dir.join("b.raw")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("b.raw")).unwrap(), "new");
    // The opening from before sees its own file, which has no name any more.
    file.write_all_at(b"HELLO", 0).unwrap();
    let mut old = [0; 5];
    file.read_exact_at(&mut old, 0).unwrap();
    assert_eq!((&old, file.metadata().unwrap().nlink()), (b"HELLO", 0));
    drop(file);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(fs::read_dir(mount.path("disks")).unwrap().count(), 0);
    mount.stop();
}

#[test]
fn entries_of_disks_are_as_filesystems_to_each_other() {
    let mount = datastore();
    let disks = mount.path("disks");
    fs::create_dir(disks.join("a")).unwrap();
    fs::create_dir(disks.join("b")).unwrap();
    fs::write(disks.join("a/d.raw"), "d").unwrap();
    fs::write(disks.join("single.raw"), "s").unwrap();
    let exdev = Err(Some(libc::EXDEV));
    assert_eq!(errno(fs::rename(disks.join("a/d.raw"), disks.join("b/d.raw"))), exdev);
    assert_eq!(errno(fs::rename(disks.join("a/d.raw"), disks.join("d.raw"))), exdev);
    assert_eq!(errno(fs::rename(disks.join("single.raw"), disks.join("b/d.raw"))), exdev);
    sh(&format!("mv {0}/a/d.raw {0}/b/d.raw", disks.display()));
    assert_eq!(fs::read_to_string(disks.join("b/d.raw")).unwrap(), "d");
    let ino = fs::metadata(disks.join("b")).unwrap().ino();
    fs::rename(disks.join("b"), disks.join("c")).unwrap();
    assert_eq!(fs::metadata(disks.join("c")).unwrap().ino(), ino, "a renamed entry keeps its identity");
    fs::rename(disks.join("single.raw"), disks.join("other.raw")).unwrap();
    let names = sh(&format!("cd {} && ls disks vms", mount.options.mount.display()));
    assert_eq!(names, "disks:\na\nc\nother.raw\n\nvms:\na\nc\nother.raw\n");
    for bad in [".hidden", "x\ny"] {
        assert_eq!(errno(fs::create_dir(disks.join(bad))), Err(Some(libc::EINVAL)));
    }
    // A single file that is removed while it is open goes on for who has it open.
    let open = File::options().read(true).write(true).open(disks.join("other.raw")).unwrap();
    fs::remove_file(disks.join("other.raw")).unwrap();
    assert!(!disks.join("other.raw").exists());
    fs::write(disks.join("other.raw"), "another").unwrap();
    open.write_all_at(b"S", 0).unwrap();
    assert_eq!(fs::read_to_string(disks.join("other.raw")).unwrap(), "another");
    assert_eq!(sh(&format!("ls {} | wc -l", disks.display())).trim(), "3");
    drop(open);
    for place in ["", "vms", "site", "vms/a"] {
        assert_eq!(errno(fs::create_dir(mount.path(place).join("x"))), Err(Some(libc::EPERM)), "{place}");
    }
    mount.stop();
}

/// A file that is open when its VM goes is there until it is closed; then all that was kept of the VM goes.
#[test]
fn a_vm_is_removed_while_a_file_of_it_is_open() {
    let mount = datastore();
    let dir = mount.path("disks/vm");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("d.raw"), "before").unwrap();
    let open = File::options().read(true).write(true).open(dir.join("d.raw")).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let groups = || fs::read_dir(mount.options.root.join("store/groups")).unwrap().count();
    let seen = || {
        let mut bytes = [0; 6];
        open.read_exact_at(&mut bytes, 0).map(|()| String::from_utf8_lossy(&bytes).into_owned())
    };
    assert_eq!((seen().unwrap(), dir.exists(), groups()), ("before".into(), false, 1));
    assert!(mount.kill_worker());
    open.write_all_at(b"behind", 0).unwrap();
    assert_eq!((seen().unwrap(), dir.exists(), groups()), ("behind".into(), false, 1));
    fs::create_dir(&dir).unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "one of the same name is another");
    drop(open);
    let until = Instant::now() + Duration::from_secs(20);
    while groups() > 1 {
        assert!(Instant::now() < until, "what was kept of a removed VM is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
    mount.stop();
}

#[test]
fn attributes_are_kept_and_survive_a_remount() {
    let mut mount = datastore();
    let disk = mount.path("disks/vm/d.raw");
    fs::create_dir(mount.path("disks/vm")).unwrap();
    fs::write(&disk, "x").unwrap();
    let at = disk.display();
    let python = |code: &str| sh(&format!("python3 -c \"import os; {code}\""));
    python(&format!(
        "os.setxattr('{at}', 'user.note', b'kept'); os.setxattr('{at}', 'trusted.libvirt.security.dac', b'+0:+0')"
    ));
    python(&format!("os.utime('{at}', ns=(1000000001, 1234567890123456789))"));
    sh(&format!(
        "chown 64055:108 {at} && chmod 0640 {at} && chmod 0711 {}",
        mount.path("disks/vm").display()
    ));
    python(&format!("os.setxattr('{at}', 'user.gone', b'1'); os.removexattr('{at}', 'user.gone')"));
    for remount in [false, true] {
        if remount {
            mount = mount.remount();
        }
        let shown = fs::metadata(&disk).unwrap();
        assert_eq!((shown.mode() & 0o7777, shown.uid(), shown.gid()), (0o640, 64055, 108));
        assert_eq!((shown.mtime(), shown.mtime_nsec()), (1234567890, 123456789));
        assert_eq!(fs::metadata(mount.path("disks/vm")).unwrap().mode() & 0o7777, 0o711);
        let listed =
            python(&format!("print(sorted(os.listxattr('{at}')), os.getxattr('{at}', 'user.note'))"));
        assert_eq!(listed.trim(), "['trusted.libvirt.security.dac', 'user.note'] b'kept'");
        assert_eq!(fs::read_to_string(&disk).unwrap(), "x");
    }
    mount.stop();
}

fn seek(file: &File, offset: u64, whence: i32) -> Errno<u64> {
    use std::os::fd::AsRawFd;
    let at = unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) };
    errno(if at < 0 { Err(std::io::Error::last_os_error()) } else { Ok(at as u64) })
}

#[test]
fn holes_are_exact_and_room_is_honest() {
    let mount = datastore();
    let path = mount.path("disks/sparse.raw");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    let enxio = Err(Some(libc::ENXIO));
    assert_eq!(seek(&file, 0, libc::SEEK_DATA), enxio);
    assert_eq!(seek(&file, 0, libc::SEEK_HOLE), Ok(0));
    assert_eq!(file.metadata().unwrap().blocks(), 0);
    file.write_all_at(&[1; 8192], 1 << 20).unwrap();
    file.write_all_at(&[2; 100], (1 << 29) + 5000).unwrap();
    for drained in [false, true] {
        if drained {
            // The base has it: a round ran behind.
            std::thread::sleep(std::time::Duration::from_millis(2600));
        }
        assert_eq!(seek(&file, 0, libc::SEEK_DATA), Ok(1 << 20), "drained: {drained}");
        assert_eq!(seek(&file, 1 << 20, libc::SEEK_HOLE), Ok((1 << 20) + 8192));
        assert_eq!(seek(&file, (1 << 20) + 5, libc::SEEK_DATA), Ok((1 << 20) + 5));
        assert_eq!(seek(&file, (1 << 20) + 8192, libc::SEEK_DATA), Ok((1 << 29) + 4096));
        assert_eq!(seek(&file, (1 << 29) + 4096, libc::SEEK_HOLE), Ok((1 << 29) + 8192));
        assert_eq!(seek(&file, (1 << 29) + 8192, libc::SEEK_DATA), enxio);
        assert_eq!(seek(&file, (1 << 30) - 1, libc::SEEK_HOLE), Ok((1 << 30) - 1));
        assert_eq!(seek(&file, 1 << 30, libc::SEEK_HOLE), enxio);
        assert_eq!(seek(&file, 1 << 30, libc::SEEK_DATA), enxio);
        assert_eq!(fs::metadata(&path).unwrap().blocks(), 24, "drained: {drained}");
    }
    sh(&format!("fallocate --punch-hole --offset 1048576 --length 4096 {}", path.display()));
    assert_eq!(seek(&file, 0, libc::SEEK_DATA), Ok((1 << 20) + 4096));
    sh(&format!("fallocate --zero-range --offset 1052672 --length 4096 {}", path.display()));
    let mut bytes = vec![9; 8192];
    (&file).seek(SeekFrom::Start(1 << 20)).unwrap();
    (&file).read_exact(&mut bytes).unwrap();
    assert!(bytes.iter().all(|b| *b == 0));
    sh(&format!("fallocate --offset 1073741824 --length 4096 {}", path.display()));
    assert_eq!(file.metadata().unwrap().len(), (1 << 30) + 4096);
    sh(&format!("fallocate --keep-size --offset 1073745920 --length 4096 {}", path.display()));
    assert_eq!(file.metadata().unwrap().len(), (1 << 30) + 4096);
    let other = mount.below("copy.raw");
    sh(&format!("cp --sparse=always {0} {1} && cmp {0} {1}", path.display(), other.display()));
    mount.stop();
}

#[test]
fn tools_copy_list_and_find() {
    let mount = datastore();
    let at = mount.path("disks/vm");
    fs::create_dir(&at).unwrap();
    let at = at.display();
    sh(&format!("mkdir {at}/many && cd {at}/many && for n in $(seq 600); do : > file-$n; done"));
    assert_eq!(sh(&format!("ls {at}/many | wc -l")).trim(), "600");
    assert_eq!(sh(&format!("find {at}/many -type f | wc -l")).trim(), "600");
    sh(&format!("rm -r {at}/many && cp -r /etc/security {at}/etc && diff -r /etc/security {at}/etc"));
    sh(&format!(
        "cp /bin/bash {at}/bash && cmp /bin/bash {at}/bash && {at}/bash -c true && df {at} && sync -f {at}"
    ));
    sh(&format!(
        "head -c 20000000 /dev/urandom > {at}/a.raw && rsync --inplace {at}/a.raw {at}/b.raw && cmp {at}/a.raw {at}/b.raw \
         && dd if=/dev/zero of={at}/a.raw bs=1M seek=3 count=2 conv=notrunc 2>/dev/null \
         && rsync --inplace --checksum --no-whole-file {at}/a.raw {at}/b.raw && cmp {at}/a.raw {at}/b.raw \
         && rsync -a {at}/ {at}-2/ && cmp {at}/a.raw {at}-2/a.raw"
    ));
    sh(&format!("sed -i s/a/b/ {at}/etc/limits.conf && grep -c . {at}/etc/limits.conf"));
    mount.stop();
}
