//! After a new mount a source hears its peer before it takes a write (N1 to N4 of `site::start_wait`).

use super::operations::{done, protected_pair};
use super::*;
use crate::fuse::harness;
use standbyfs::group::{Gate, Op};
use standbyfs::history::{Event, RowKind};
use standbyfs::protection::health::Reason;
use standbyfs::protection::{Refusal, State, Verb};
use standbyfs::seam::SystemEntropy;
use standbyfs::site::commands::{Caller, On};
use standbyfs::site::objects::Settings;
use standbyfs::site::store::{OpenFor, Store};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// The source goes away with the link cut.
fn source_ends(pair: &Pair, a: Open, seconds: u64) {
    pair.proxy.refuse(true);
    pair.proxy.cut();
    a.site.set_start_wait(seconds).unwrap();
    a.close();
}

/// Its next mount, the peer still out of reach.
fn source_begins(pair: &Pair, mount: u8) -> (Open, Arc<Vm>) {
    let a = pair.a.open_mounted(mount);
    let vm = a.vm("web");
    vm.group().unwrap();
    (a, vm)
}

fn write(open: &Open) -> std::result::Result<(), Kind> {
    let (send, receive) = std::sync::mpsc::channel();
    let op = Op::Write { offset: 0, data: &[7; 4096] };
    group_of(&open.vm("web")).submit(DISK, op, true, Box::new(move |done| send.send(done).unwrap()));
    receive.recv().unwrap().map_err(|e| e.kind())
}

fn has(open: &Open, reason: Reason) -> bool {
    open.site.health_of(&open.vm("web")).unwrap().reasons.iter().any(|r| r.reason == reason && r.holds)
}

/// Epochs that this site began since it was protected, but for its decisions.
fn openings(open: &Open) -> usize {
    let own = |e: &Event| matches!(e, Event::Epoch { row, own: true } if row.kind == RowKind::Open);
    group_of(&open.vm("web")).events().iter().filter(|(_, e)| own(e)).count()
}

/// The standby takes over while the source is away; the source comes back and is met. Whether it took a write before.
fn taken_over_meanwhile(seconds: u64) -> (bool, bool) {
    let (pair, a, b, _) = protected_pair();
    source_ends(&pair, a, seconds);
    eventually("the end of the session", || !b.is_ready());
    done(&b, Verb::Failover, "latest");
    let (a, vm) = source_begins(&pair, 2);
    let head = group_of(&vm).head();
    let took = write(&a);
    if seconds > 0 {
        assert_eq!((took, group_of(&vm).gate()), (Err(Kind::Busy), Gate::Waiting));
        let status = a.site.status_of(&vm).unwrap();
        assert!(status.start_wait.is_some_and(|left| left <= seconds * 1_000_000_000), "{status:?}");
        assert!(has(&a, Reason::StartWait) && !has(&a, Reason::StartedWithoutPeer));
    }
    pair.proxy.refuse(false);
    eventually("fenced", || vm.known().unwrap().state() == State::Fenced);
    eventually("the wait is over", || vm.start_wait_left().is_none());
    assert_eq!((write(&a), group_of(&vm).gate()), (Err(Kind::NoSpace), Gate::Frozen));
    let seen = (took.is_ok(), group_of(&vm).head() != head);
    assert_eq!(seen.1, openings(&a) > 0 && seen.0, "an epoch of this opening came with its first write");
    a.close();
    b.close();
    seen
}

#[test]
fn an_old_source_is_fenced_before_its_first_write() {
    assert_eq!(taken_over_meanwhile(60), (false, false));
}

/// What makes the test above mean something: without the wait it writes, and what it wrote is a branch.
#[test]
fn without_the_wait_an_old_source_writes() {
    assert_eq!(taken_over_meanwhile(0), (true, true));
}

#[test]
fn a_source_that_hears_nothing_serves_after_the_wait() {
    let (pair, a, b, _) = protected_pair();
    source_ends(&pair, a, 2);
    let (a, vm) = source_begins(&pair, 2);
    assert_eq!(write(&a), Err(Kind::Busy));
    // A worker that dies meanwhile leaves the rest of the wait to the next.
    a.close();
    let (a, vm2) = source_begins(&pair, 2);
    drop(vm);
    assert!(vm2.start_wait_left().is_some_and(|left| left < 2_000_000_000));
    eventually("writers enter", || write(&a).is_ok());
    assert!(has(&a, Reason::StartedWithoutPeer) && !has(&a, Reason::StartWait));
    assert!(a.site.status_of(&vm2).unwrap().flags.started_without_peer);
    // Once over it is over for the mount, for each worker of it.
    a.close();
    let (a, vm) = source_begins(&pair, 2);
    assert_eq!((write(&a), vm.start_wait_left()), (Ok(()), None));
    pair.proxy.refuse(false);
    eventually("the standby follows", || group_of(&vm).head() == group_of(&b.vm("web")).head());
    eventually("nothing is said any more", || !has(&a, Reason::StartedWithoutPeer));
    // The peer is there: the next mount waits for as long as it takes to meet.
    a.site.set_start_wait(60).unwrap();
    a.close();
    let (a, _) = source_begins(&pair, 3);
    eventually("writers enter", || write(&a).is_ok());
    assert!(!has(&a, Reason::StartedWithoutPeer));
    a.close();
    b.close();
}

#[test]
fn a_person_ends_the_wait() {
    let (pair, a, b, _) = protected_pair();
    source_ends(&pair, a, 60);
    let (a, vm) = source_begins(&pair, 2);
    let resume = |text: &str| {
        let who = Caller { uid: 0, gid: 0, pid: 1 };
        a.site.command(who, On::Vm(&vm), Verb::Resume, text.as_bytes(), None).map_err(|e| e.refusal)
    };
    resume("resume").unwrap();
    assert_eq!(write(&a), Err(Kind::Busy), "without `force` it speaks of shipping");
    assert_eq!(resume("force").err(), Some(Refusal::ConfirmNeeded));
    resume("force confirm=web").unwrap();
    assert_eq!(write(&a), Ok(()));
    eventually("health says so", || has(&a, Reason::StartedWithoutPeer));
    a.close();
    b.close();
}

#[test]
fn openings_of_a_mount_wait_and_hold_no_thread() {
    harness::require_fuse();
    let mut two = super::daemons::two();
    let protected = || two.a.command("protect", "to=paris")["refusal"].is_null();
    assert!(super::daemons::wait(LONG, protected), "{}", two.a.events());
    assert!(super::daemons::wait(LONG, || two.a.state()["state"] == "protected"), "{}", two.a.events());
    two.b.power_off();
    two.a.power_off();
    {
        let store =
            Store::open(&two.a.store(), OpenFor::Writing, Moved::Unsaid, None, &SystemEntropy).unwrap();
        let chosen = store.settings().unwrap();
        store.set_settings(&Settings { start_wait_seconds: Some(4), ..chosen }).unwrap();
    }
    let began = Instant::now();
    two.a.start();
    let path = two.a.mount().path("disks/web/a.raw");
    let opened = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let file = File::options().write(true).open(&path).unwrap();
                assert!(began.elapsed() > Duration::from_secs(3), "opened after {:?}", began.elapsed());
                file.write_all_at(&[3; 4096], 0).unwrap();
                opened.fetch_add(1, SeqCst);
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        // Reads, names and status are served meanwhile.
        let mut bytes = [1; 4096];
        File::open(&path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        let status = std::fs::read_to_string(two.a.mount().path("vms/web/status")).unwrap();
        assert!(status.contains("start-wait: ") && status.contains("writable: no"), "{status}");
        let made = std::fs::create_dir(two.a.mount().path("disks/web/more")).unwrap_err();
        assert_eq!(made.raw_os_error(), Some(libc::EBUSY));
        // The next worker of the mount goes on with what is left, and answers the openings.
        assert!(two.a.mount().kill_worker());
        std::thread::sleep(Duration::from_millis(500));
        assert!(began.elapsed() > Duration::from_secs(4) || opened.load(SeqCst) == 0);
    });
    assert_eq!(opened.load(SeqCst), 16);
    let status = std::fs::read_to_string(two.a.mount().path("vms/web/status")).unwrap();
    assert!(!status.contains("start-wait: ") && status.contains("started-without-peer"), "{status}");
    // Another worker of this mount doesn't wait again.
    let again = Instant::now();
    assert!(two.a.mount().kill_worker());
    File::options().write(true).open(&path).unwrap().write_all_at(&[4; 4096], 0).unwrap();
    assert!(again.elapsed() < Duration::from_secs(2), "{:?}", again.elapsed());
}

/// The peer was heard and has no copy any more: nobody can have taken over, and there is nothing to wait for.
#[test]
fn a_source_without_a_copy_does_not_wait() {
    let (pair, a, b, _) = protected_pair();
    source_ends(&pair, a, 3600);
    eventually("the end of the session", || !b.is_ready());
    done(&b, Verb::Unprotect, "keep force confirm=web");
    let (a, vm) = source_begins(&pair, 2);
    assert_eq!(write(&a), Err(Kind::Busy), "before the peer is heard it waits");
    pair.proxy.refuse(false);
    eventually("the peer is heard", || group_of(&vm).gate() != Gate::Waiting);
    assert_eq!((write(&a), vm.known().unwrap().state()), (Ok(()), State::ResyncRequired));
    assert!(!has(&a, Reason::StartedWithoutPeer));
    a.close();
    b.close();
}
