//! What programs do with files, on a real mount, and what of it reaches the server.

use super::harness::*;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};

#[test]
fn files_and_directories_work_as_anywhere() {
    let mount = Mount::new();
    let dir = mount.path("vm");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.raw"), "hello").unwrap();
    File::options().append(true).open(dir.join("a.raw")).unwrap().write_all(b" world").unwrap();
    assert_eq!(fs::read_to_string(dir.join("a.raw")).unwrap(), "hello world");
    assert_eq!(fs::read_to_string(mount.below("vm/a.raw")).unwrap(), "hello world");
    fs::rename(dir.join("a.raw"), dir.join("b.raw")).unwrap();
    assert!(!dir.join("a.raw").exists());
    File::options().write(true).open(dir.join("b.raw")).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(fs::metadata(dir.join("b.raw")).unwrap().len(), 1 << 20);
    fs::set_permissions(dir.join("b.raw"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(mount.below("vm/b.raw")).unwrap().mode() & 0o777, 0o600);
    let errno = |e: std::io::Error| e.raw_os_error();
    assert_eq!(fs::remove_dir(&dir).map_err(errno), Err(Some(libc::ENOTEMPTY)));
    assert_eq!(fs::hard_link(dir.join("b.raw"), dir.join("c")).map_err(errno), Err(Some(libc::EPERM)));
    assert_eq!(std::os::unix::fs::symlink("x", dir.join("c")).map_err(errno), Err(Some(libc::EPERM)));
    assert_eq!(
        fs::metadata(dir.join("x".repeat(256))).map(drop).map_err(errno),
        Err(Some(libc::ENAMETOOLONG))
    );
    std::os::unix::fs::symlink("b.raw", mount.below("vm/link")).unwrap();
    assert_eq!(fs::read_link(dir.join("link")).unwrap().to_str(), Some("b.raw"));
    fs::remove_file(dir.join("link")).unwrap();
    fs::remove_file(dir.join("b.raw")).unwrap();
    fs::remove_dir(&dir).unwrap();
    assert_eq!(fs::read_dir(mount.path("")).unwrap().count(), 0);
    mount.stop();
}

#[test]
fn tools_copy_list_and_find() {
    let mount = Mount::new();
    let at = mount.options.mount.display().to_string();
    sh(&format!(
        "cd {at} && mkdir -p many && cd many && for n in $(seq 3000); do : > file-$n; done && ls | wc -l"
    ));
    assert_eq!(sh(&format!("ls {at}/many | wc -l")).trim(), "3000");
    assert_eq!(sh(&format!("find {at} -type f | wc -l")).trim(), "3000");
    sh(&format!("cp -a /etc {at}/etc && diff -r --no-dereference <(ls -R /etc) <(ls -R {at}/etc) || true"));
    sh(&format!("cp /bin/bash {at}/bash && cmp /bin/bash {at}/bash && {at}/bash -c true"));
    sh(&format!("df {at} && stat -f {at} && sync -f {at}"));
    sh(&format!(
        "setfattr -n user.note -v kept {at}/bash 2>/dev/null || python3 -c \"import os; \
                 os.setxattr('{at}/bash', 'user.note', b'kept')\""
    ));
    let kept = sh(&format!(
        "python3 -c \"import os; print(os.getxattr('{at}/bash', 'user.note'), \
                            os.listxattr('{at}/bash'))\""
    ));
    assert!(kept.contains("kept") && kept.contains("user.note"), "{kept}");
    mount.stop();
}

#[test]
fn shared_mappings_of_direct_files_work() {
    let mount = Mount::new();
    let path = mount.path("mapped");
    fs::write(&path, vec![7; 8192]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    unsafe {
        let address = libc::mmap(
            std::ptr::null_mut(),
            8192,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(address, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        assert_eq!(*address.cast::<u8>().add(5000), 7);
        *address.cast::<u8>().add(5000) = 9;
        assert_eq!(libc::msync(address, 8192, libc::MS_SYNC), 0);
        libc::munmap(address, 8192);
    }
    assert_eq!(fs::read(mount.below("mapped")).unwrap()[5000], 9);
    mount.stop();
}

#[test]
fn syncs_and_their_kinds_reach_the_server() {
    let mount = Mount::new();
    let file = File::create(mount.path("disk")).unwrap();
    let seen = |lines: &str| mount.trace().lines().filter(|l| l.starts_with(lines)).count();
    for round in 1..=3 {
        file.write_all_at(b"x", 0).unwrap();
        file.sync_all().unwrap();
        file.sync_data().unwrap();
        File::open(mount.path("")).unwrap().sync_all().unwrap();
        // Each time: an answer of ENOSYS would make the kernel stop asking and succeed for ever.
        assert_eq!(seen("1 fsync false"), round);
        assert_eq!(seen("1 fsync true"), round);
        assert_eq!(seen("1 fsyncdir false"), round);
    }
    let flushes = seen("1 flush");
    drop(file);
    assert!(seen("1 flush") > flushes);
    mount.forget_trace();
    let synced = File::options().write(true).custom_flags(libc::O_DSYNC).open(mount.path("disk")).unwrap();
    synced.write_all_at(b"y", 4096).unwrap();
    let trace = mount.trace();
    let line = trace.lines().find(|l| l.starts_with("1 write")).unwrap();
    let flags = i32::from_str_radix(&line.split(' ').nth(2).unwrap()[2..], 16).unwrap();
    assert_eq!(flags & libc::O_DSYNC, libc::O_DSYNC, "{line}");
    assert!(!trace.contains("fsync"), "{trace}");
    mount.stop();
}

#[test]
fn truncating_opens_come_as_one_request() {
    let mount = Mount::new();
    fs::write(mount.path("control"), "old text").unwrap();
    mount.forget_trace();
    sh(&format!("echo new > {}", mount.path("control").display()));
    let trace = mount.trace();
    assert!(!trace.contains("setattr"), "{trace}");
    let open = trace.lines().find(|l| l.starts_with("1 open ")).unwrap();
    let flags = i32::from_str_radix(&open.split(' ').nth(2).unwrap()[2..], 16).unwrap();
    assert_eq!(flags & libc::O_TRUNC, libc::O_TRUNC, "{trace}");
    assert_eq!(fs::read_to_string(mount.below("control")).unwrap(), "new\n");
    mount.stop();
}

#[test]
fn holes_are_found_exactly_and_every_kind_of_fallocate_arrives() {
    let mount = Mount::new();
    let file = File::options().create_new(true).read(true).write(true).open(mount.path("disk")).unwrap();
    file.set_len(16 << 20).unwrap();
    file.write_all_at(&[1; 4096], 8 << 20).unwrap();
    let seek = |whence, offset: i64| {
        let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
        if found < 0 { Err(std::io::Error::last_os_error().raw_os_error().unwrap()) } else { Ok(found) }
    };
    assert_eq!(seek(libc::SEEK_DATA, 0), Ok(8 << 20));
    assert_eq!(seek(libc::SEEK_HOLE, 8 << 20), Ok((8 << 20) + 4096));
    assert_eq!(seek(libc::SEEK_DATA, (8 << 20) + 4096), Err(libc::ENXIO));
    assert_eq!(seek(libc::SEEK_DATA, 16 << 20), Err(libc::ENXIO));
    assert_eq!(seek(libc::SEEK_HOLE, 16 << 20), Err(libc::ENXIO));
    for mode in [0, 1, 3, 0x10, 0x11] {
        let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, 4096, 8192) };
        assert_eq!(result, 0, "mode {mode:#x}: {}", std::io::Error::last_os_error());
        assert!(mount.trace().contains(&format!("1 fallocate {mode:#x} 4096 8192")), "{}", mount.trace());
    }
    for mode in [0x8, 0x20] {
        assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), mode, 4096, 8192) }, -1);
    }
    // Copies keep the holes: blocks are honest.
    sh(&format!("cp --sparse=auto {} {}/copy", mount.path("disk").display(), mount.options.root.display()));
    assert!(fs::metadata(mount.below("copy")).unwrap().blocks() < 1024);
    mount.stop();
}

/// With a server of one thread that answers each write after 20 ms from elsewhere.
#[test]
fn direct_writers_keep_many_requests_in_flight() {
    let mount = Mount::with(|options| {
        options.threads = 1;
        options.slow_writes_ms = Some(20);
    });
    let disk = mount.path("disk").display().to_string();
    sh(&format!(
        "truncate -s 16M {disk} && fio --name=depth --filename={disk} --rw=randwrite --bs=4k --direct=1 \
         --ioengine=libaio --iodepth=32 --number_ios=640 --minimal"
    ));
    let deepest = || -> u64 {
        let trace = mount.trace();
        let stop = trace.lines().rfind(|l| l.contains(" stop ")).map(str::to_owned);
        stop.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    };
    mount.signal_keeper(libc::SIGHUP);
    until("the worker stopped", PATIENCE, || mount.trace().contains("1 stop Upgrade"));
    assert!(deepest() >= 24, "at most {} writes were in flight", deepest());
    mount.stop();
}

#[test]
fn large_and_odd_requests_keep_their_bytes() {
    let mount = Mount::new();
    let data: Vec<u8> = (0..3_000_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut file =
        File::options().create(true).truncate(true).read(true).write(true).open(mount.path("odd")).unwrap();
    file.write_all(&data).unwrap();
    file.write_all_at(&data[..12345], 777).unwrap();
    let mut expected = data.clone();
    expected[777..777 + 12345].copy_from_slice(&data[..12345]);
    let mut seen = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut seen).unwrap();
    assert!(seen == expected);
    assert!(fs::read(mount.below("odd")).unwrap() == expected);
    let longest = mount
        .trace()
        .lines()
        .filter(|l| l.contains(" write "))
        .filter_map(|l| l.split(' ').nth(3)?.parse::<u64>().ok())
        .max();
    assert_eq!(longest, Some(1 << 20), "the kernel cuts at 1 MiB");
    mount.stop();
}

/// Without the invalidation the kernel would show the old file for an hour.
#[test]
fn the_kernel_forgets_what_it_is_told_to() {
    let mount = Mount::with(|options| options.ttl_ms = 3_600_000);
    let (above, below) = (mount.path("cached"), mount.below("cached"));
    fs::write(&below, "old").unwrap();
    assert_eq!(fs::metadata(&above).unwrap().len(), 3);
    fs::remove_file(&below).unwrap();
    assert_eq!(fs::metadata(&above).unwrap().len(), 3, "the kernel keeps the name");
    rustix::fs::statfs(&mount.options.mount).unwrap();
    until("the name is gone", PATIENCE, || !above.exists());
    mount.stop();
}
