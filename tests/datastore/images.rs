//! QEMU's tools, fio, a filesystem on a loop device.

use super::datastore;
use crate::fuse::harness::*;
use std::fs;

#[test]
fn images_are_made_converted_and_compared() {
    let mount = datastore();
    fs::create_dir(mount.path("disks/vm")).unwrap();
    let at = mount.path("disks/vm");
    let at = at.display();
    sh(&format!(
        "cd {at} && qemu-img create -f qcow2 a.qcow2 64M && qemu-io a.qcow2 -c 'write -P 3 1M 3M' && \
         qemu-img convert -O raw -t none -T none a.qcow2 a.raw && qemu-img compare a.qcow2 a.raw && \
         qemu-img check a.qcow2"
    ));
    let map = sh(&format!("qemu-img map --output=json {at}/a.raw"));
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let data: Vec<(u64, u64)> = map
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["data"] == true)
        .map(|e| (e["start"].as_u64().unwrap(), e["length"].as_u64().unwrap()))
        .collect();
    assert_eq!(data, [(1 << 20, 3 << 20)]);
    for cache in ["-t none -i native", "-t none -i io_uring", "-t none -i threads", "-t writeback"] {
        sh(&format!("qemu-io -f raw {cache} {at}/a.raw -c 'write -P 9 8M 4M' -c 'read -P 9 8M 4M'"));
    }
    sh(&format!(
        "qemu-io -f raw -d unmap -t none {at}/a.raw -c 'write -P 5 0 1M' -c 'discard 64k 64k' \
         -c 'write -z 256k 64k' -c 'write -z -u 512k 64k' -c 'flush' -c 'read -P 0 64k 64k' -c 'read -P 5 0 64k' \
         -c 'read -P 0 256k 64k' -c 'read -P 0 512k 64k'"
    ));
    mount.stop();
}

#[test]
fn fio_verifies_what_it_wrote() {
    let mount = datastore();
    let dir = tempfile::tempdir().unwrap();
    let (at, size) = (mount.path("disks/fio.raw"), if full() { "256M" } else { "16M" });
    sh(&format!(
        "cd {} && fio --name=v --filename={} --size={size} --rw=randwrite --bs=4k,16k,64k --bssplit=4k/60:16k/20:64k/20 \
         --ioengine=libaio --iodepth=16 --direct=1 --fsync=64 --verify=crc32c --do_verify=1 --verify_fatal=1 \
         --output=/dev/null",
        dir.path().display(),
        at.display()
    ));
    mount.stop();
}

#[test]
fn a_filesystem_on_a_loop_device_is_sound() {
    let mount = datastore();
    let dir = tempfile::tempdir().unwrap();
    let (disk, point) = (mount.path("disks/ext4.raw"), dir.path().join("mnt"));
    fs::create_dir(&point).unwrap();
    let (disk, at) = (disk.display(), point.display());
    sh(&format!("truncate -s 64M {disk}"));
    let device = sh(&format!("losetup --find --show {disk}"));
    let device = device.trim().to_owned();
    let done = sh_output(&format!(
        "set -e; mkfs.ext4 -q {device}; mount {device} {at}; cp -r /etc/ssl {at}/; sync; fstrim {at} || true; \
         umount {at}; e2fsck -fn {device}"
    ));
    let _ = sh_output(&format!("umount {at}"));
    sh(&format!("losetup --detach {device}"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    until("the loop device lets go", PATIENCE, || {
        !sh("losetup --all").contains(&device.replace("/dev/", ""))
            || !sh("losetup --all").contains("ext4.raw")
    });
    sh(&format!("e2fsck -fn {disk}"));
    mount.stop();
}

#[test]
fn shared_mappings_work() {
    let mount = datastore();
    let path = mount.path("disks/mapped.raw");
    fs::write(&path, vec![7; 8192]).unwrap();
    sh(&format!(
        "python3 -c \"import mmap; f = open('{0}', 'r+b'); m = mmap.mmap(f.fileno(), 8192); m[100:105] = b'hello'; \
         m.flush(); m.close()\"",
        path.display()
    ));
    assert_eq!(&fs::read(&path).unwrap()[99..106], b"\x07hello\x07");
    mount.stop();
}
