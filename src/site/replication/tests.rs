//! P5: a sync of the journal fails at one of two sites that are connected.

use super::{Replication, ReplicationOptions};
use crate::format::{AddPayload, FileKind};
use crate::group::{Change, Group, GroupParts, Op};
use crate::protection::State;
use crate::site::replication::SessionState;
use crate::site::store::Moved;
use crate::site::{Site, SiteOptions, Vm};
use crate::vocab::{DiskId, DiskOrdinal, Token};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DISK: DiskOrdinal = DiskOrdinal(1);
const SIZE: u64 = 1 << 20;

struct At {
    dir: tempfile::TempDir,
    site: Arc<Site>,
    engine: Arc<Replication>,
}

fn open(name: &str, listen: bool) -> At {
    let dir = tempfile::tempdir().unwrap();
    let options = SiteOptions {
        store: dir.path().join("store"),
        journal: None,
        moved: Moved::Unsaid,
        name: name.into(),
        index_memory: 16 << 20,
    };
    let site = Site::open(&options, Token([1; 16])).unwrap();
    let options = ReplicationOptions {
        listen: listen.then(|| "127.0.0.1:0".parse().unwrap()),
        retry_first: Duration::from_millis(30),
        retry_longest: Duration::from_millis(150),
        ..ReplicationOptions::default()
    };
    let engine = site.replicate_with(options).unwrap();
    At { dir, site, engine }
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl At {
    fn vm(&self) -> Arc<Vm> {
        self.site.vm("web").unwrap()
    }

    fn group(&self) -> Arc<Group> {
        self.vm().group().unwrap()
    }

    fn write(&self, block: u64, byte: u8, sync: bool) {
        let (send, receive) = std::sync::mpsc::channel();
        let op = Op::Write { offset: block * 4096, data: &[byte; 4096] };
        self.group().submit(DISK, op, sync, Box::new(move |done| send.send(done).unwrap()));
        receive.recv().unwrap().unwrap();
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        self.group().read_head(DISK, 0, &mut bytes).unwrap();
        bytes
    }

    /// The bytes of the log that no sync has covered are gone, and the sync that would have covered them fails.
    fn lose_the_tail(&self, group: &Group) {
        group.log.poison("can't sync: input/output error");
        let (durable, end) = (group.log.durable(), group.log.end());
        assert!(durable < end, "nothing is there to lose");
        let segment = group.log.segments().pop().unwrap();
        let dir = self.dir.path().join("store").join(GroupParts::dir(group.id())).join("main");
        let file = std::fs::File::options().write(true).open(dir.join(&segment.file)).unwrap();
        let zeros = vec![0; (end.0 - durable.0) as usize];
        file.write_all_at(&zeros, durable.0 - segment.start.0).unwrap();
        file.sync_all().unwrap();
    }
}

fn pair() -> (At, At) {
    let (a, b) = (open("london", false), open("paris", true));
    let token = b.engine.pair_create(Vec::new()).unwrap();
    a.engine.pair_accept(&token).unwrap();
    let ready = |at: &At| at.engine.peers().first().is_some_and(|p| p.session == SessionState::Ready);
    eventually("a session", || ready(&a) && ready(&b));
    let vm = a.site.create_vm("web", false).unwrap();
    let add = AddPayload {
        vm: vm.id(),
        vm_name: "web".into(),
        single: false,
        file: DiskId(*b"the disk of a VM"),
        path: "disk.raw".into(),
        kind: FileKind::File,
        size: SIZE,
    };
    vm.group().unwrap().change(&Change::Add(DISK, add)).unwrap();
    a.write(0, 1, true);
    a.engine.protect(&vm, "paris", None).unwrap();
    eventually("protected", || vm.known().unwrap().state() == State::Protected);
    (a, b)
}

fn at_one(a: &At, b: &At) -> bool {
    a.group().head() == b.group().head()
}

/// The group of a site was opened anew, and its side has the new one.
fn anew(at: &At, old: &Arc<Group>) {
    eventually("the group is opened anew", || !Arc::ptr_eq(&at.group(), old));
    assert!(old.is_left());
    let driven = || at.engine.groups.lock().get(&old.id()).unwrap().group();
    eventually("the side drives it", || Arc::ptr_eq(&driven(), &at.group()));
}

fn sessions(at: &At) -> u64 {
    at.engine.peers()[0].since_ns
}

#[test]
fn a_source_that_lost_its_tail_goes_on_with_what_it_has() {
    let (a, b) = pair();
    a.write(1, 2, true);
    eventually("caught up", || at_one(&a, &b));
    let (old, vm, session) = (a.group(), a.vm(), sessions(&a));
    let held = old.head();
    {
        // The site's thread would sync it.
        let _still = vm.upkeep.lock();
        std::thread::sleep(Duration::from_millis(80));
        for block in 2..6 {
            a.write(block, 9, false);
        }
        a.lose_the_tail(&old);
    }
    anew(&a, &old);
    assert_eq!(a.group().head(), held, "back at what was durable");
    assert!(b.group().head() == held, "the standby holds nothing that is lost");
    a.write(6, 3, true);
    eventually("the standby goes on", || at_one(&a, &b));
    assert!(a.bytes() == b.bytes() && a.bytes()[2 * 4096] == 0 && a.bytes()[6 * 4096] == 3);
    assert_eq!(sessions(&a), session, "in the same connection");
    let standing = a.engine.group(old.id()).unwrap();
    assert!(standing.state.shipping && !standing.state.copying, "{standing:?}");
    for at in [a, b] {
        drop(at.engine);
        at.site.close().unwrap();
    }
}

#[test]
fn a_target_whose_sync_failed_follows_again() {
    let (a, b) = pair();
    a.write(1, 2, true);
    eventually("caught up", || at_one(&a, &b));
    let old = b.group();
    old.log.poison("can't sync: input/output error");
    a.write(2, 3, true);
    anew(&b, &old);
    a.write(3, 4, true);
    eventually("the standby goes on", || at_one(&a, &b));
    assert!(a.bytes() == b.bytes() && b.bytes()[3 * 4096] == 4);
    for at in [a, b] {
        drop(at.engine);
        at.site.close().unwrap();
    }
}
