//! Two sites in one process over loopback: pairing, sessions, standbys, faults of the link, restarts.

mod backlog;
mod compare;
mod daemons;
mod given_up;
mod operations;
mod other_way;
mod planned;
mod sessions;
mod stage;
mod standby;
mod start_wait;
mod steps;
mod times;
mod writers;

use crate::support::proxy::Proxy;
use standbyfs::format::{AddPayload, FileKind};
use standbyfs::group::{Change, Group};
use standbyfs::site::replication::{PeerStatus, Replication, ReplicationOptions, SessionState, Sides};
use standbyfs::site::store::Moved;
use standbyfs::site::{Site, SiteOptions, Vm};
use standbyfs::vocab::{DiskId, DiskOrdinal, Kind, Result, Token};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A store that outlives the openings of its site.
struct Place {
    dir: tempfile::TempDir,
    name: &'static str,
    sides: Arc<dyn Sides>,
    listen: Option<SocketAddr>,
}

/// An opening of it.
struct Open {
    site: Arc<Site>,
    replication: Arc<Replication>,
}

impl Place {
    fn new(name: &'static str, sides: Arc<dyn Sides>) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), name, sides, listen: None }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn open(&self) -> Open {
        self.open_as(Moved::Unsaid)
    }

    /// By the first worker of a mount, or by a later one of the same.
    fn open_mounted(&self, mount: u8) -> Open {
        self.open_by(Moved::Unsaid, mount)
    }

    fn open_as(&self, moved: Moved) -> Open {
        self.open_by(moved, 1)
    }

    fn open_by(&self, moved: Moved, mount: u8) -> Open {
        let options = SiteOptions {
            store: self.store(),
            journal: None,
            moved,
            name: self.name.into(),
            index_memory: 16 << 20,
        };
        let site = Site::open(&options, Token([mount; 16])).unwrap();
        let options = ReplicationOptions {
            listen: self.listen,
            retry_first: Duration::from_millis(30),
            retry_longest: Duration::from_millis(150),
            keepalive: Duration::from_millis(200),
            dead_after: Duration::from_secs(2),
            ..ReplicationOptions::with_sides(Arc::clone(&self.sides))
        };
        let replication = site.replicate_with(options).unwrap();
        Open { site, replication }
    }
}

impl Open {
    fn close(self) {
        let Self { site, replication } = self;
        drop(replication);
        site.close().unwrap();
    }

    fn peer(&self) -> PeerStatus {
        self.replication.peers().remove(0)
    }

    fn is_ready(&self) -> bool {
        self.replication.peers().first().is_some_and(|p| p.session == SessionState::Ready)
    }

    fn events(&self) -> String {
        self.site.events().last(50).unwrap().into_iter().map(|e| format!("{e:?}\n")).collect()
    }

    fn vm(&self, name: &str) -> Arc<Vm> {
        self.site.vm(name).unwrap_or_else(|| panic!("no VM {name}:\n{}", self.events()))
    }

    /// A VM with one disk.
    fn vm_with_disk(&self, name: &str, size: u64) -> Arc<Vm> {
        let vm = self.site.create_vm(name, false).unwrap();
        let add = AddPayload {
            vm: vm.id(),
            vm_name: name.into(),
            single: false,
            file: DiskId(*b"the disk of a VM"),
            path: "disk.raw".into(),
            kind: FileKind::File,
            size,
        };
        vm.group().unwrap().change(&Change::Add(DISK, add)).unwrap();
        vm
    }
}

const DISK: DiskOrdinal = DiskOrdinal(1);
const LONG: Duration = Duration::from_secs(15);

/// A standby site behind a proxy, and a source that dials it through the proxy.
struct Pair {
    a: Place,
    b: Place,
    proxy: Proxy,
}

fn paired(sides: (Arc<dyn Sides>, Arc<dyn Sides>)) -> (Pair, Open, Open) {
    let a = Place::new("london", sides.0);
    let mut b = Place::new("paris", sides.1);
    b.listen = Some("127.0.0.1:0".parse().unwrap());
    let (at_a, at_b) = (a.open(), b.open());
    b.listen = at_b.replication.listening();
    let proxy = Proxy::start(b.listen.unwrap());
    let token = at_b.replication.pair_create(vec![proxy.address().to_string()]).unwrap();
    assert_eq!(at_a.replication.pair_accept(&token).unwrap().name, "paris");
    eventually("a session", || at_a.is_ready() && at_b.is_ready());
    (Pair { a, b, proxy }, at_a, at_b)
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !check() {
        assert!(Instant::now() < until, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn name_of<T>(result: Result<T>) -> Option<&'static str> {
    result.err().and_then(|e| e.name())
}

fn group_of(vm: &Vm) -> Arc<Group> {
    vm.group().unwrap()
}
