//! Pairing, sessions and requests for standbys, with sides that only count.

use super::*;
use standbyfs::exchange::{About, Frame, Rpo, Settings};
use standbyfs::group::{DriverState, Gate, GroupParts, Output};
use standbyfs::site::replication::{Relation, Side};
use standbyfs::vocab::{GroupId, StoreId};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Sides that greet their peer and count.
#[derive(Default)]
struct Counting {
    begun: AtomicUsize,
    ended: AtomicUsize,
    heard: Arc<AtomicUsize>,
}

struct Greeter {
    group: GroupId,
    all: Arc<Counting>,
    connected: bool,
    met: bool,
}

struct Counted(Arc<Counting>);

impl Sides for Counted {
    fn side(&self, group: Arc<Group>, _: StoreId, _: Settings) -> Box<dyn Side> {
        Box::new(Greeter { group: group.id(), all: Arc::clone(&self.0), connected: false, met: false })
    }

    fn create_target(&self, parts: GroupParts, id: GroupId) -> Result<Arc<Group>> {
        let group = Group::create(parts, id)?;
        group.freeze(Gate::Target);
        Ok(group)
    }
}

impl Side for Greeter {
    fn connected(&mut self, _: u64) -> Vec<Output> {
        assert!(!std::mem::replace(&mut self.connected, true), "an end comes before the next begin");
        self.all.begun.fetch_add(1, SeqCst);
        vec![Output::Send(Frame::about(self.group, About::Met))]
    }

    fn disconnected(&mut self, _: u64) -> Vec<Output> {
        if std::mem::replace(&mut self.connected, false) {
            self.all.ended.fetch_add(1, SeqCst);
        }
        self.met = false;
        Vec::new()
    }

    fn received(&mut self, _: u64, frame: Frame) -> Vec<Output> {
        assert_eq!(frame.group(), Some(self.group), "routed");
        assert!(self.connected, "nothing is heard outside of a connection");
        self.met = true;
        self.all.heard.fetch_add(1, SeqCst);
        Vec::new()
    }

    fn timer(&mut self, _: u64) -> Vec<Output> {
        Vec::new()
    }

    fn progress(&mut self, _: u64) -> Vec<Output> {
        Vec::new()
    }

    fn roles_changed(&mut self, _: u64) -> Vec<Output> {
        Vec::new()
    }

    fn hand_over(&mut self, _: u64, _: Token, _: Result<()>) -> Vec<Output> {
        Vec::new()
    }

    fn hold(&mut self, _: bool) {}

    fn rpo(&self, _: u64) -> Rpo {
        Rpo::None
    }

    fn reopened(&mut self, _: u64, _: Arc<Group>) -> Vec<Output> {
        Vec::new()
    }

    fn state(&self) -> DriverState {
        DriverState { met: self.met, ..DriverState::default() }
    }
}

/// Of one site and of the other.
type Both<T> = (Arc<T>, Arc<T>);

fn counted() -> (Both<Counting>, Both<dyn Sides>) {
    let (a, b) = (Arc::new(Counting::default()), Arc::new(Counting::default()));
    ((Arc::clone(&a), Arc::clone(&b)), (Arc::new(Counted(a)), Arc::new(Counted(b))))
}

fn relation(open: &Open, vm: &Vm) -> Option<Relation> {
    open.replication.group(vm.group_id()).map(|g| g.relation)
}

#[test]
fn a_standby_is_asked_for_refused_by_name_and_there_after_restarts() {
    let ((at_source, at_target), sides) = counted();
    let (pair, a, b) = paired(sides);
    assert!(a.peer().same_host && b.peer().same_host, "both are this machine");
    assert_eq!(b.events().matches("same-host-pair").count(), 1, "{}", b.events());

    let vm = a.vm_with_disk("web", 1 << 20);
    let empty = a.site.create_vm("empty", false).unwrap();
    b.site.create_vm("web", false).unwrap();
    let protect = |vm: &Arc<Vm>, peer, name| name_of(a.replication.protect(vm, peer, name));
    assert_eq!(protect(&vm, "rome", None), Some("peer-not-registered"));
    assert_eq!(protect(&empty, "paris", None), Some("no-disk"));
    assert_eq!(protect(&vm, "paris", None), Some("name-taken"));
    assert!(!a.site.is_protected(&vm) && relation(&a, &vm).is_none(), "a refusal leaves nothing behind");
    assert_eq!(protect(&vm, "paris", Some("web2")), None);
    assert_eq!(protect(&vm, "paris", Some("web3")), Some("already-protected"));
    let standby = b.vm("web2");
    assert_eq!((standby.id(), standby.group_id()), (vm.id(), vm.group_id()));
    assert_eq!(group_of(&standby).gate(), Gate::Target);
    let both_met = |a: &Open, b: &Open| {
        let met = |o: &Open| o.replication.group(vm.group_id()).is_some_and(|g| g.state.met);
        met(a) && met(b)
    };
    eventually("both sides are told of the connection", || both_met(&a, &b));
    assert!(matches!(relation(&a, &vm), Some(Relation::Joining { .. })), "no copy is whole here");
    assert_eq!(relation(&b, &vm), Some(Relation::Target));

    pair.proxy.cut();
    eventually("the next connection", || at_source.begun.load(SeqCst) >= 2 && both_met(&a, &b));
    assert_eq!(at_source.ended.load(SeqCst), 1);
    b.close();
    let b = pair.b.open();
    eventually("after a restart of the standby", || both_met(&a, &b));
    assert_eq!(group_of(&b.vm("web2")).gate(), Gate::Target, "still read-only");
    a.close();
    let a = pair.a.open();
    assert!(a.site.is_protected(&a.vm("web")));
    eventually("after a restart of the source", || both_met(&a, &b));
    assert!(at_target.heard.load(SeqCst) >= 3);
    a.close();
    let gone = b.replication.group(vm.group_id()).unwrap();
    assert_eq!(gone.relation, Relation::Target);
    b.close();
}

#[test]
fn a_request_that_meets_no_peer_leaves_nothing() {
    let (_, sides) = counted();
    let (pair, a, b) = paired(sides);
    let vm = a.vm_with_disk("web", 1 << 20);
    pair.proxy.refuse(true);
    pair.proxy.cut();
    eventually("the end of the session", || !a.is_ready());
    assert_eq!(name_of(a.replication.protect(&vm, "paris", None)), Some("peer-unreachable"));
    assert!(!a.site.is_protected(&vm));
    pair.proxy.refuse(false);
    eventually("another session", || a.is_ready() && b.is_ready());
    a.replication.protect(&vm, "paris", None).unwrap();
    a.close();
    b.close();
}

#[test]
fn an_old_backup_of_a_site_is_not_taken_for_the_site() {
    let (_, sides) = counted();
    let (pair, a, b) = paired(sides);
    // Nothing is in doubt: a word for later would let a copy in.
    let early = a.replication.accept_identity("paris").unwrap_err();
    assert_eq!(early.name(), Some("nothing-to-resolve"), "{early}");
    a.close();
    let sessions = pair.a.store().join("site/sessions");
    let file = std::fs::read_dir(&sessions).unwrap().next().unwrap().unwrap().path();
    let old = std::fs::read(&file).unwrap();
    let a = pair.a.open();
    eventually("a second session", || a.is_ready() && b.is_ready());
    a.close();
    assert_ne!(std::fs::read(&file).unwrap(), old, "each session has its own token");
    std::fs::write(&file, old).unwrap();
    let a = pair.a.open();
    let refused = |o: &Open| o.peer().refusal.filter(|(_, text)| text.contains("copy, or an old backup"));
    eventually("identity-conflict at either site", || refused(&a).is_some() || refused(&b).is_some());
    assert!(!a.is_ready() && !b.is_ready());
    // A person says at each site that the other is the right one.
    a.replication.accept_identity("paris").unwrap();
    b.replication.accept_identity("london").unwrap();
    eventually("a session after all", || a.is_ready() && b.is_ready());
    a.close();
    let a = pair.a.open();
    eventually("and the next one without", || a.is_ready() && b.is_ready());
    a.close();
    b.close();
}
