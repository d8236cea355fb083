//! Images that come in without a copy, on a real mount: whole whatever dies, and the same bytes.

use super::{ended, tell};
use crate::fuse::harness::*;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A real filesystem in an image of 64 MiB.
fn image(dir: &Path, name: &str) -> String {
    let path = dir.join(name).display().to_string();
    sh(&format!("truncate -s 64M {path} && mkfs.ext4 -q -d /etc/ssl {path}"));
    path
}

fn store(root: Option<&Path>) -> Mount {
    Mount::with(|options| options.store = Some(root.unwrap_or(&options.root).join("store")))
}

/// A mount of another filesystem, gone whatever happens.
struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        sh_output(&format!("umount -l {}", self.0));
    }
}

#[test]
fn an_image_that_is_moved_in_is_whole_whatever_dies() {
    let mut mount = store(None);
    let root = mount.options.root.clone();
    let original = image(&root, "original.img");
    for round in 0..8_u64 {
        let (path, disk) = (image(&root, &format!("i{round}.img")), format!("d{round}.raw"));
        sh(&format!("cp {original} {path}"));
        let told = tell(
            &mount.path("site/control/import"),
            &format!("path={path} vm=web disk={disk} how=rename id=r{round}"),
        );
        let job = told.job();
        if round > 0 {
            std::thread::sleep(Duration::from_millis(round * 2));
            mount.kill_worker();
        }
        let status = ended(&mount, &job);
        let at = mount.path(&format!("disks/web/{disk}"));
        let came = status.contains("\nstate: succeeded\n");
        assert_eq!((at.exists(), Path::new(&path).exists()), (came, !came), "{status}");
        assert!(came || round > 0, "{status}");
        let found = if came { at.display().to_string() } else { path };
        sh(&format!("cmp {original} {found} && e2fsck -fn {found}"));
        assert!(!mount.path(&format!("disks/web/{disk}.importing")).exists());
    }
    // What came in is a disk like any other, also after a restart.
    sh(&format!(
        "qemu-io -f raw -t none {} -c 'write -P 7 1M 64k' -c flush",
        mount.path("disks/web/d0.raw").display()
    ));
    mount = mount.remount();
    let disk = mount.path("disks/web/d0.raw");
    sh(&format!("qemu-io -f raw -r {} -c 'read -P 7 1M 64k'", disk.display()));
    sh(&format!("cmp -n 1048576 {original} {}", disk.display()));
    let used = fs::metadata(&disk).map(|m| std::os::unix::fs::MetadataExt::blocks(&m) * 512).unwrap();
    assert!(used > 0 && used < 64 << 20, "holes stay holes: {used}");
    mount.stop();
}

/// On a filesystem that shares blocks an image comes in at once and stays where it was.
#[test]
fn an_image_is_cloned_where_the_filesystem_can() {
    let dir = tempfile::tempdir().unwrap();
    let (file, point) = (dir.path().join("xfs.img"), dir.path().join("xfs"));
    fs::create_dir(&point).unwrap();
    let (file, at) = (file.display(), point.display());
    sh(&format!("truncate -s 2G {file} && mkfs.xfs -q -m reflink=1 {file}"));
    let mounted = sh_output(&format!("mount -o loop {file} {at}")).status.success();
    let _gone = mounted.then(|| Mounted(at.to_string()));
    let has_xfs = sh("cat /proc/filesystems").contains("\txfs\n");
    assert!(mounted || !has_xfs, "XFS is there and can't be mounted");
    let mount = store(Some(&point));
    let original = image(&point, "original.img");
    let line = |disk: &str, how: &str| format!("path={original} vm=web disk={disk} {how}");
    let control = mount.path("site/control/import");
    let by_itself = ended(&mount, &tell(&control, &line("a.raw", "")).job());
    let by_name = ended(&mount, &tell(&control, &line("b.raw", "how=reflink")).job());
    if mounted {
        assert!(by_itself.contains("by reflink") && by_name.contains("by reflink"), "{by_itself}{by_name}");
        // Who writes to one of them doesn't write to the other.
        sh(&format!(
            "qemu-io -f raw -t none {} -c 'write -P 7 1M 64k' -c flush",
            mount.path("disks/web/b.raw").display()
        ));
        sh(&format!("cmp {original} {}", mount.path("disks/web/a.raw").display()));
    } else {
        println!("this kernel has no XFS: what is told elsewhere is looked at instead");
        assert!(by_itself.contains("of data"), "{by_itself}");
        assert!(by_name.contains("\nstate: failed\n") && by_name.contains("reflink"), "{by_name}");
    }
    sh(&format!("cmp {original} {}", mount.path("disks/web/a.raw").display()));
    mount.stop();
}
