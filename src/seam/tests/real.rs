//! What only a real filesystem shows.

use super::*;
use crate::vocab::Kind;

#[test]
fn zeros_take_the_place_of_a_hole_where_none_can_be_punched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let fd = std::fs::File::create_new(&path).unwrap();
    drop(fd);
    for direct in [false, true] {
        let access = if direct { Access::Direct } else { Access::Cached };
        let storage = DirStorage::open(dir.path()).unwrap();
        let plain = storage.open(p("a"), Access::Cached).unwrap();
        plain.set_len(0).unwrap();
        plain.write_all_at(&[1; 700_000], 0).unwrap();
        plain.set_len(1 << 40).unwrap();
        let file = crate::seam::real_file::DirFile::new(
            std::fs::File::options().read(true).write(true).open(&path).unwrap().into(),
            access,
            direct,
            Arc::default(),
            path.clone(),
        );
        file.punch_by_zeros(1000, 1 << 41).unwrap();
        assert_eq!(plain.len().unwrap(), 1 << 40, "the length stays");
        assert!(plain.allocated().unwrap() < 1 << 21, "holes are not written");
        let mut got = vec![9; 700_000];
        plain.read_at(&mut got, 0).unwrap();
        assert!(got[..1000].iter().all(|b| *b == 1) && got[1000..].iter().all(|b| *b == 0));
    }
}

#[test]
fn a_filesystem_that_refuses_o_direct_is_used_through_the_cache() {
    // procfs refuses the flag.
    let proc = DirStorage::open("/proc/self").unwrap();
    let file = proc.open(p("comm"), Access::Direct).unwrap();
    assert!(proc.direct_refused());
    let mut buf = crate::seam::AlignedBuf::zeroed(4096);
    assert!(file.read_at(&mut buf, 0).unwrap() > 0);
    let dir = tempfile::tempdir().unwrap();
    let storage = DirStorage::open(dir.path()).unwrap();
    storage.create(p("a"), Access::Direct).unwrap();
    assert_eq!(storage.direct_refused(), !storage.probe().unwrap().direct);
}

#[test]
fn probing_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let storage = DirStorage::open(dir.path()).unwrap();
    std::fs::write(dir.path().join(format!(".probe-{}", std::process::id())), "left over").unwrap();
    let probe = storage.probe().unwrap();
    assert_eq!(storage.list(p("")).unwrap(), Vec::<String>::new());
    assert!(probe.to_string().contains(&probe.filesystem));
    if probe.filesystem == "ext4" {
        assert!(probe.punch && probe.zero_range && probe.allocate && probe.seek_hole && probe.in_place);
        assert!(!probe.reflink && !probe.volatile);
        assert_eq!(probe.warnings(), Vec::<String>::new());
    }
    let poor = crate::seam::Probe {
        punch: false,
        allocate: true,
        in_place: false,
        volatile: false,
        direct: true,
        seek_hole: true,
        filesystem: "btrfs".into(),
        ..probe
    };
    assert_eq!(poor.warnings().len(), 2);
    assert!(poor.warnings()[0].contains("chattr +C"));
}

#[test]
fn the_tree_is_followed_when_its_directory_is_renamed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("old")).unwrap();
    let storage = DirStorage::open(dir.path().join("old")).unwrap();
    std::fs::rename(dir.path().join("old"), dir.path().join("new")).unwrap();
    create(&storage, "a");
    assert!(dir.path().join("new/a").exists());
}

#[test]
fn errors_say_what_where_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let storage = DirStorage::open(dir.path()).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
    let error = storage.open(p("link"), Access::ReadOnly).err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with("can't open: ") && text.contains("link") && text.contains("symbolic"), "{text}");
    assert_eq!(DirStorage::open(dir.path().join("none")).unwrap_err().kind(), Kind::NotFound);
    // A device that is always full.
    if let Ok(full) = DirStorage::open("/dev").unwrap().open(p("full"), Access::Cached) {
        let error = full.write_all_at(b"x", 0).unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        let text = error.to_string();
        assert!(text.contains("/dev/full at offset 0") && text.contains("Free some space"), "{text}");
    }
}

#[test]
fn each_durable_call_is_told_and_nothing_else() {
    use std::io::IoSlice;
    let dir = tempfile::tempdir().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let (send, root) = (std::sync::Mutex::new(send), dir.path().to_owned());
    // Other tests of this process make things durable as well.
    crate::seam::watch_durable(move |path| {
        if let Ok(below) = path.strip_prefix(&root) {
            let _ = send.lock().unwrap().send(below.to_owned());
        }
    });
    let told = || receive.try_iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
    let storage = DirStorage::open(dir.path()).unwrap();
    let file = storage.create(p("a"), Access::Cached).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    storage.rename(p("a"), p("b")).unwrap();
    assert_eq!(told(), [""; 0]);
    file.sync().unwrap();
    file.write_at(&[IoSlice::new(b"y")], 1, Durability::Durable).unwrap();
    storage.make_dir(p("dir")).unwrap();
    storage.sync_dir(p("dir")).unwrap();
    storage.sync_dir(p("")).unwrap();
    assert_eq!(told(), ["a", "a", "dir", ""], "a file has the name by which it was opened");
}
