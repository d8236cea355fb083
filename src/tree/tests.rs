//! The tree of a site without a kernel.

use super::host::{Notices, Numbers};
use super::ops::{Answer, Completion, Errno, Namespace, ROOT, Request};
use super::tree::Tree;
use crate::group::{Gate, Group, GroupParts};
use crate::site::store::Moved;
use crate::site::{Site, SiteOptions};
use crate::vocab::{Result, Token};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Memory {
    meanings: Mutex<HashMap<(u8, u64), Vec<u8>>>,
    next: AtomicU64,
}

impl Numbers for Memory {
    fn fresh(&self, _: u8) -> u64 {
        1000 + self.next.fetch_add(1, Ordering::Relaxed)
    }
    fn put(&self, kind: u8, number: u64, meaning: &[u8]) -> Result<()> {
        self.meanings.lock().insert((kind, number), meaning.to_vec());
        Ok(())
    }
    fn remove(&self, kind: u8, number: u64) -> Result<()> {
        self.meanings.lock().remove(&(kind, number));
        Ok(())
    }
    fn get(&self, kind: u8, number: u64) -> Option<Vec<u8>> {
        self.meanings.lock().get(&(kind, number)).cloned()
    }
    fn all(&self, kind: u8) -> Vec<(u64, Vec<u8>)> {
        let of_kind =
            |((k, number), meaning): (&(u8, u64), &Vec<u8>)| (*k == kind).then(|| (*number, meaning.clone()));
        self.meanings.lock().iter().filter_map(of_kind).collect()
    }
}

struct Nobody;

impl Notices for Nobody {
    fn content(&self, _: u64) {}
    fn name(&self, _: u64, _: &OsStr) {}
}

/// A mount without a kernel: a site with one VM and one disk.
struct Mounted {
    dir: tempfile::TempDir,
    site: Arc<Site>,
    tree: Arc<Tree>,
    disk: u64,
}

fn request() -> Request {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Request { unique: NEXT.fetch_add(1, Ordering::Relaxed), resent: false, uid: 0, gid: 0, pid: 1 }
}

impl Mounted {
    fn new() -> (Self, u64) {
        let dir = tempfile::tempdir().unwrap();
        let options = SiteOptions {
            store: dir.path().join("store"),
            journal: None,
            moved: Moved::Unsaid,
            name: "london".into(),
            index_memory: 16 << 20,
        };
        let site = Site::open(&options, Token([1; 16])).unwrap();
        let tree = Tree::shared(site.clone(), Arc::new(Memory::default()), Arc::new(Nobody)).unwrap();
        let disks = tree.lookup(&request(), ROOT, OsStr::new("disks")).unwrap().attributes.ino;
        let vm = tree.mkdir(&request(), disks, OsStr::new("web"), 0o755).unwrap().attributes.ino;
        let made = tree.create(&request(), vm, OsStr::new("a.raw"), 0o600, libc::O_RDWR).unwrap();
        (Self { dir, site, tree, disk: made.0.attributes.ino }, made.1.handle)
    }

    fn group(&self) -> Arc<Group> {
        self.site.vm("web").unwrap().group().unwrap()
    }

    fn answer<T: Send + 'static>(act: impl FnOnce(Completion<T>)) -> Answer<T> {
        let (send, receive) = channel();
        act(Completion::new(move |answer| send.send(answer).unwrap()));
        receive.recv_timeout(Duration::from_secs(20)).expect("an answer")
    }

    fn write(&self, handle: u64, offset: u64, byte: u8) -> Answer<u32> {
        let bytes = [byte; 4096];
        Self::answer(|reply| self.tree.write(&request(), self.disk, handle, offset, &bytes, 0, reply))
    }

    fn fsync(&self, handle: u64) -> Answer<()> {
        Self::answer(|reply| self.tree.fsync(&request(), self.disk, handle, true, reply))
    }

    fn open(&self, flags: i32) -> Answer<u64> {
        Self::answer(|reply| self.tree.open_later(&request(), self.disk, flags, reply)).map(|o| o.handle)
    }

    fn byte(&self, handle: u64, offset: u64) -> Answer<u8> {
        let (send, receive) = channel();
        let reply = super::ops::ReadCompletion::new(move |answer| {
            send.send(answer.map(|bytes| bytes[0])).unwrap();
        });
        self.tree.read(&request(), self.disk, handle, offset, 4096, reply);
        receive.recv().unwrap()
    }
}

/// H4: openings go over to the group that a failed sync made open anew, and see what it has.
#[test]
fn an_opening_outlives_a_failed_sync_that_cost_records() {
    let (mount, handle) = Mounted::new();
    mount.write(handle, 0, 1).unwrap();
    mount.fsync(handle).unwrap();
    let old = mount.group();
    {
        let vm = mount.site.vm("web").unwrap();
        let _still = vm.still_upkeep();
        std::thread::sleep(Duration::from_millis(80));
        mount.write(handle, 0, 2).unwrap();
        old.log.poison("can't sync: input/output error");
        let (durable, end) = (old.log.durable(), old.log.end());
        let segment = old.log.segments().pop().unwrap();
        let dir = mount.dir.path().join("store").join(GroupParts::dir(old.id())).join("main");
        let file = std::fs::File::options().write(true).open(dir.join(&segment.file)).unwrap();
        file.write_all_at(&vec![0; (end.0 - durable.0) as usize], durable.0 - segment.start.0).unwrap();
        file.sync_all().unwrap();
        assert_eq!(mount.write(handle, 4096, 3), Err(Errno::EIO), "while nobody knows what is there");
    }
    let until = Instant::now() + Duration::from_secs(20);
    while !old.is_left() || Arc::ptr_eq(&mount.group(), &old) {
        assert!(Instant::now() < until, "the group isn't opened anew");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(mount.byte(handle, 0), Ok(1), "what was never flushed is lost, what was isn't");
    mount.write(handle, 4096, 4).unwrap();
    mount.fsync(handle).unwrap();
    assert_eq!(
        (mount.byte(handle, 4096), mount.open(libc::O_RDWR).and_then(|h| mount.byte(h, 4096))),
        (Ok(4), Ok(4))
    );
    mount.site.close().unwrap();
}

/// Writes and flushes of handles from before a fence get ENOSPC; reads, and what was opened for reading, go on.
#[test]
fn a_fenced_disk_answers_flushes_as_it_answers_writes() {
    let (mount, handle) = Mounted::new();
    let reads = mount.open(libc::O_RDONLY).unwrap();
    mount.write(handle, 0, 1).unwrap();
    let group = mount.group();
    group.freeze(Gate::Frozen);
    assert_eq!(mount.write(handle, 0, 2), Err(Errno::ENOSPC));
    assert_eq!(mount.fsync(handle), Err(Errno::ENOSPC), "what was refused isn't there");
    assert_eq!((mount.fsync(reads), mount.byte(handle, 0), mount.byte(reads, 0)), (Ok(()), Ok(1), Ok(1)));
    assert_eq!(mount.open(libc::O_RDWR), Err(Errno::EROFS));
    group.thaw();
    assert_eq!((mount.write(handle, 0, 3), mount.fsync(handle)), (Ok(4096), Ok(())));
    mount.site.close().unwrap();
}

/// P4 of `past`: what a file of a moment takes is counted once, and a moment that the base has passed is gone all the same.
#[test]
fn room_of_a_past_file_is_counted_while_its_moment_is_held() {
    let (mount, handle) = Mounted::new();
    let vm = mount.site.vm("web").unwrap();
    let still = vm.still_upkeep();
    mount.write(handle, 0, 1).unwrap();
    mount.write(handle, 1 << 20, 2).unwrap();
    let group = mount.group();
    let name = format!("@seq-{}", group.head().seq);
    let path = ["vms", "web", "recovery-points", &name, "a.raw"];
    let past = path
        .iter()
        .fold(ROOT, |dir, name| mount.tree.lookup(&request(), dir, OsStr::new(name)).unwrap().attributes.ino);
    let blocks = || mount.tree.getattr(&request(), past, None).map(|(attributes, _)| attributes.blocks);
    assert_eq!((blocks(), blocks()), (Ok(16), Ok(16)));
    // What comes later isn't the moment's.
    mount.write(handle, 2 << 20, 3).unwrap();
    assert_eq!(blocks(), Ok(16));
    group.sync().unwrap();
    group.round(None).unwrap();
    assert!(blocks().is_err(), "the base has passed it");
    drop(still);
    mount.site.close().unwrap();
}

/// What holds the group of a VM that is gone keeps its deleted files on the medium.
#[test]
fn a_group_that_is_gone_is_let_go_of() {
    let (mount, handle) = Mounted::new();
    mount.write(handle, 0, 1).unwrap();
    mount.tree.release(&request(), mount.disk, handle, libc::O_RDWR);
    let group = Arc::downgrade(&mount.group());
    // As the end of a protection does it, beside the mount.
    mount.site.remove_vm(&mount.site.vm("web").unwrap()).unwrap();
    mount.tree.statfs(&request(), 1).unwrap();
    assert_eq!(group.strong_count(), 0);
}
