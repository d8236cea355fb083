use crate::format::{AddPayload, FileKind};
use crate::group::{Change, Op};
use crate::journal::without;
use crate::site::objects::{GroupObject, VmObject};
use crate::site::store::Moved;
use crate::site::{Site, SiteOptions, Vm};
use crate::vocab::{DiskId, DiskOrdinal, Kind, Token};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const DISK: DiskOrdinal = DiskOrdinal(1);

fn open(dir: &Path) -> Arc<Site> {
    let options = SiteOptions {
        store: dir.join("store"),
        journal: Some(dir.join("journal")),
        moved: Moved::Unsaid,
        name: "london".into(),
        index_memory: 1 << 20,
    };
    Site::open(&options, Token([1; 16])).unwrap()
}

fn vm(site: &Site) -> Arc<Vm> {
    let vm = site.create_vm("web01", false).unwrap();
    let add = AddPayload {
        vm: vm.id(),
        vm_name: "web01".into(),
        single: false,
        file: DiskId([5; 16]),
        path: "a.raw".into(),
        kind: FileKind::File,
        size: 0,
    };
    vm.group().unwrap().change_with(|_| Ok(Change::Add(DISK, add))).unwrap();
    write(&vm);
    vm
}

fn write(vm: &Vm) {
    let (send, receive) = std::sync::mpsc::channel();
    let op = Op::Write { offset: 0, data: &[b'a'; 4096] };
    vm.group().unwrap().submit(DISK, op, true, Box::new(move |result| send.send(result).unwrap()));
    receive.recv().unwrap().unwrap();
}

/// The directories of groups in both trees.
fn groups(dir: &Path) -> Vec<PathBuf> {
    let of = |tree: &str| {
        let entries = std::fs::read_dir(dir.join(tree).join("groups")).unwrap();
        entries.map(|e| e.unwrap().path()).collect::<Vec<_>>()
    };
    [of("store"), of("journal")].concat()
}

fn unlisted(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("store/catalog/unlisted")).unwrap().count()
}

fn forget(site: &Site, vm: &Vm) {
    site.store().catalog().delete::<VmObject>(&vm.id().to_string()).unwrap();
    site.store().catalog().delete::<GroupObject>(&vm.group_id().to_string()).unwrap();
}

#[test]
fn a_removed_vm_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let vm = vm(&site);
    assert_eq!((groups(dir.path()).len(), unlisted(dir.path())), (2, 0));
    site.remove_vm(&vm).unwrap();
    assert_eq!((groups(dir.path()).len(), unlisted(dir.path())), (0, 0));
    assert_eq!(vm.group().err().map(|e| e.kind()), Some(Kind::Stale));
    assert_eq!(groups(dir.path()).len(), 0);
    site.close().unwrap();
}

/// Z2, for a crash before the files, and for one before the catalog's entry of a new VM.
#[test]
fn what_a_crash_leaves_is_deleted_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let gone = vm(&site);
    site.say_unlisted(gone.group_id()).unwrap();
    site.close().unwrap();
    forget(&site, &gone);
    drop(site);
    assert_eq!((groups(dir.path()).len(), unlisted(dir.path())), (2, 1));
    let site = open(dir.path());
    assert_eq!((groups(dir.path()).len(), unlisted(dir.path())), (0, 0));
    assert!(site.vms().is_empty());
    site.close().unwrap();
}

/// Z1: the files of `web01` after a start that finds it said to be nobody's, as a removal leaves it that got no further.
fn kept() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let here = vm(&site);
    site.say_unlisted(here.group_id()).unwrap();
    site.close().unwrap();
    drop(site);
    let site = open(dir.path());
    let whole = groups(dir.path()).len() == 2 && unlisted(dir.path()) == 0;
    let read = || {
        let mut bytes = [0; 4096];
        let group = site.vm("web01")?.group().ok()?;
        group.read_head(DISK, 0, &mut bytes).ok().map(|_| bytes == [b'a'; 4096])
    };
    whole && read() == Some(true)
}

/// Z1: the same where the entry of the VM can't be read.
fn kept_while_damaged() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let here = vm(&site);
    site.say_unlisted(here.group_id()).unwrap();
    site.close().unwrap();
    drop(site);
    let entry = dir.path().join(format!("store/catalog/vms/{}.json", here.id()));
    let text = std::fs::read_to_string(&entry).unwrap();
    std::fs::write(&entry, text.replace("web01", "web02")).unwrap();
    let site = open(dir.path());
    assert!(site.vms().is_empty());
    groups(dir.path()).len() == 2 && unlisted(dir.path()) == 1
}

#[test]
fn a_group_that_a_vm_has_or_may_have_stays() {
    assert!(kept());
    assert!(!without("Z1: a group that a VM has stays", kept));
    assert!(kept_while_damaged());
    assert!(!without("Z1: an entry that can't be read may have the group", kept_while_damaged));
}

#[test]
fn a_group_that_nobody_has_is_not_deleted_unsaid() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let lost = vm(&site);
    site.close().unwrap();
    forget(&site, &lost);
    drop(site);
    open(dir.path()).close().unwrap();
    assert_eq!(groups(dir.path()).len(), 2);
}

/// Z3: a VM is removed while its group is kept: upkeep that holds the group goes on, and looks at the VM once more.
fn removed_under_upkeep() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let vm = vm(&site);
    let group = vm.group().unwrap();
    let kept = vm.still_upkeep();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| site.remove_vm(&vm));
        while vm.opened().is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The rest of a turn that had begun, while the removal waits or deletes.
        for _ in 0..50 {
            let _ = vm.known();
            let _ = group.checkpoint();
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(kept);
        removal.join().unwrap().unwrap();
    });
    let clean = groups(dir.path()).is_empty() && unlisted(dir.path()) == 0 && vm.opened().is_none();
    let _ = site.close();
    clean
}

#[test]
fn nobody_works_on_a_group_that_is_deleted() {
    assert!(removed_under_upkeep());
    assert!(!without("Z3: the group of a removed VM is not opened", removed_under_upkeep));
}

/// The same by chance: many VMs come, are written, and go.
#[test]
fn vms_that_come_and_go_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    for turn in 0..60u64 {
        let vm = vm(&site);
        std::thread::sleep(Duration::from_millis(turn % 7 * 10));
        write(&vm);
        site.remove_vm(&vm).unwrap();
        assert_eq!((groups(dir.path()), unlisted(dir.path())), (Vec::new(), 0), "turn {turn}");
    }
    site.close().unwrap();
}
