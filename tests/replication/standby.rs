//! A standby follows its source through what a link does, and through restarts of either site.

use super::*;
use crate::support::proxy::Way;
use standbyfs::exchange::Rpo;
use standbyfs::group::{Gate, Op};
use standbyfs::site::replication::{EngineSides, Relation};
use standbyfs::vocab::VmId;

const SIZE: u64 = 4 << 20;
const BLOCK: usize = 8 << 10;

/// A guest that writes and knows what its disk holds.
pub(super) struct Guest {
    image: Vec<u8>,
    rng: fastrand::Rng,
}

impl Guest {
    fn new() -> Self {
        Self { image: vec![0; SIZE as usize], rng: fastrand::Rng::with_seed(11) }
    }

    /// Writes blocks; the last one is durable when this returns.
    pub(super) fn write(&mut self, vm: &Vm, blocks: usize) {
        let group = group_of(vm);
        for number in 1..=blocks {
            let offset = self.rng.usize(..self.image.len() / BLOCK) * BLOCK;
            let block: Vec<u8> = std::iter::repeat_with(|| self.rng.u8(..)).take(BLOCK).collect();
            let op = Op::Write { offset: offset as u64, data: &block };
            let (send, receive) = std::sync::mpsc::channel();
            group.submit(DISK, op, number == blocks, Box::new(move |done| send.send(done).unwrap()));
            receive.recv().unwrap().unwrap();
            self.image[offset..offset + BLOCK].copy_from_slice(&block);
        }
    }

    /// The standby has come to the source's moment, with these bytes.
    pub(super) fn compare(&self, at: &str, source: &Open, standby: &Open) {
        let (a, b) = (group_of(&source.vm("web")), group_of(&standby.vm("web")));
        let until = Instant::now() + LONG;
        while a.head() != b.head() {
            let told = || {
                let groups = (source.replication.groups(), standby.replication.groups());
                format!("{groups:#?}\n{}\n{}", source.events(), standby.events())
            };
            assert!(Instant::now() < until, "{at}: {} and {}\n{}", a.head(), b.head(), told());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.same(source, at);
        self.same(standby, at);
    }

    /// A site's head has these bytes.
    pub(super) fn same(&self, open: &Open, at: &str) {
        let mut bytes = vec![0; SIZE as usize];
        group_of(&open.vm("web")).read_head(DISK, 0, &mut bytes).unwrap();
        let wrong = bytes.iter().zip(&self.image).position(|(x, y)| x != y);
        let site = open.site.store().settings().unwrap().name;
        assert_eq!(wrong, None, "{at}: first wrong byte at {site}");
    }

    /// Of a disk as it is.
    pub(super) fn of(open: &Open) -> Self {
        let mut guest = Self::new();
        group_of(&open.vm("web")).read_head(DISK, 0, &mut guest.image).unwrap();
        guest
    }
}

pub(super) fn protected() -> (Pair, Open, Open, Guest, VmId) {
    let (pair, a, b) = paired((Arc::new(EngineSides), Arc::new(EngineSides)));
    let vm = a.vm_with_disk("web", SIZE);
    let mut guest = Guest::new();
    guest.write(&vm, 40);
    a.replication.protect(&vm, "paris", None).unwrap();
    guest.write(&vm, 40);
    (pair, a, b, guest, vm.id())
}

pub(super) fn relation(open: &Open) -> Option<Relation> {
    open.replication.group(open.vm("web").group_id()).map(|g| g.relation)
}

#[test]
fn a_standby_has_the_same_moment_and_bytes_and_refuses_writers() {
    let (_pair, a, b, mut guest, vm) = protected();
    guest.compare("after the first copy", &a, &b);
    eventually("the source is protected", || relation(&a) == Some(Relation::Source));
    guest.write(&a.vm("web"), 30);
    guest.compare("following", &a, &b);
    let (source, standby) = (a.vm("web"), b.vm("web"));
    assert_eq!((standby.id(), relation(&b)), (vm, Some(Relation::Target)));
    let names = |vm: &Vm| group_of(vm).names_now(|names| names.files.clone());
    assert_eq!(names(&standby), names(&source));
    let status = |o: &Open| o.replication.group(source.group_id()).unwrap();
    eventually("no loss if the source goes now", || status(&a).rpo == Rpo::Exact(0));
    assert!(matches!(status(&b).rpo, Rpo::Exact(ns) if ns < 5_000_000_000), "{:?}", status(&b).rpo);

    let (send, receive) = std::sync::mpsc::channel();
    let op = Op::Write { offset: 0, data: &[1; BLOCK] };
    group_of(&standby).submit(DISK, op, true, Box::new(move |done| send.send(done).unwrap()));
    assert_eq!(receive.recv().unwrap().unwrap_err().kind(), Kind::ReadOnly);
    assert!(a.site.remove_vm(&source).is_err(), "protected VMs are not removed");
    a.close();
    eventually("the standby knows that there is no contact", || matches!(status(&b).rpo, Rpo::AtLeast(_)));
    b.close();
}

#[test]
fn cuts_stalls_and_turned_bits_lose_nothing() {
    let (pair, a, b, mut guest, _) = protected();
    let vm = a.vm("web");
    // In the first copy, and then again and again.
    for round in 0..4 {
        pair.proxy.cut();
        guest.write(&vm, 10 + 7 * round);
        if round == 1 {
            pair.proxy.corrupt(Way::Out, 20_000);
        }
        if round == 2 {
            pair.proxy.stall(Way::Out, true);
            guest.write(&vm, 20);
            std::thread::sleep(Duration::from_millis(100));
            pair.proxy.stall(Way::Out, false);
        }
        if round == 3 {
            guest.compare("after short faults", &a, &b);
            pair.proxy.refuse(true);
            pair.proxy.cut();
            eventually("the end of the session", || !a.is_ready());
            guest.write(&vm, 20);
            let rpo = a.replication.group(vm.group_id()).unwrap().rpo;
            assert!(matches!(rpo, Rpo::AtLeast(_)), "{rpo:?} without contact");
            pair.proxy.refuse(false);
        }
        std::thread::sleep(Duration::from_millis(40));
    }
    guest.compare("after all faults", &a, &b);
    eventually("protected", || relation(&a) == Some(Relation::Source));
    a.close();
    b.close();
}

#[test]
fn restarts_of_either_site_resume() {
    let (pair, a, b, mut guest, _) = protected();
    // The standby, perhaps in the middle of its first copy.
    b.close();
    guest.write(&a.vm("web"), 15);
    let b = pair.b.open();
    assert_eq!(group_of(&b.vm("web")).gate(), Gate::Target);
    guest.compare("the standby was restarted in its first copy", &a, &b);
    b.close();
    guest.write(&a.vm("web"), 15);
    let b = pair.b.open();
    guest.compare("the standby was restarted", &a, &b);
    // The source: a new opening is a new epoch.
    a.close();
    let a = pair.a.open();
    guest.write(&a.vm("web"), 15);
    guest.compare("the source was restarted", &a, &b);
    eventually("protected", || relation(&a) == Some(Relation::Source));
    // Both, with the source first and writing before it meets its peer.
    a.close();
    b.close();
    let a = pair.a.open();
    guest.write(&a.vm("web"), 15);
    let b = pair.b.open();
    guest.compare("both were restarted", &a, &b);
    a.close();
    b.close();
}
