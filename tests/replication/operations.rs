//! Commands that concern both sites: failovers with and without the other, the end of a protection, stores restored.

use super::standby::{Guest, protected, relation};
use super::*;
use crate::support::proxy::Way;
use standbyfs::group::{Gate, Op};
use standbyfs::protection::health::Reason;
use standbyfs::protection::job::{Job, JobState};
use standbyfs::protection::report::{Lacking, Rpo, StatusReport};
use standbyfs::protection::{Refusal, Refused, State, Verb};
use standbyfs::seam::SystemEntropy;
use standbyfs::site::commands::{Accepted, Caller, On};
use standbyfs::site::inspect::{InspectOptions, inspect};
use standbyfs::site::replication::{EngineSides, Relation};

const WHO: Caller = Caller { uid: 0, gid: 0, pid: 1 };

fn give(open: &Open, verb: Verb, text: &str) -> std::result::Result<Accepted, Refused> {
    open.site.command(WHO, On::Vm(&open.vm("web")), verb, text.as_bytes(), None)
}

pub(super) fn done(open: &Open, verb: Verb, text: &str) -> Accepted {
    give(open, verb, text).unwrap_or_else(|e| panic!("{verb} {text}: {e}\n{}", open.events()))
}

pub(super) fn refused(open: &Open, verb: Verb, text: &str) -> Option<Refusal> {
    give(open, verb, text).err().map(|e| e.refusal)
}

pub(super) fn ended(open: &Open, accepted: &Accepted) -> Job {
    let id = accepted.job.clone().expect("a job");
    let until = Instant::now() + LONG;
    loop {
        let job = open.site.jobs().get(&id).unwrap();
        if job.state.ended() {
            return job;
        }
        assert!(Instant::now() < until, "{job:?} goes on:\n{}", open.events());
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn state(open: &Open) -> State {
    open.vm("web").known().unwrap().state()
}

pub(super) fn is(open: &Open, what: State) {
    let until = Instant::now() + LONG;
    while state(open) != what {
        assert!(Instant::now() < until, "{} and not {what}\n{}", state(open), open.events());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What isn't well now.
pub(super) fn health(open: &Open) -> Vec<Reason> {
    let report = open.site.health_of(&open.vm("web")).unwrap();
    report.reasons.iter().filter(|r| r.holds).map(|r| r.reason).collect()
}

fn status(open: &Open) -> StatusReport {
    open.site.status_of(&open.vm("web")).unwrap()
}

/// Cuts the link and keeps it cut.
pub(super) fn part(pair: &Pair, a: &Open, b: &Open) {
    pair.proxy.refuse(true);
    pair.proxy.cut();
    eventually("the end of both sessions", || !a.is_ready() && !b.is_ready());
}

pub(super) fn protected_pair() -> (Pair, Open, Open, Guest) {
    let (pair, a, b, guest, _) = protected();
    is(&a, State::Protected);
    is(&b, State::Standby);
    guest.compare("protected", &a, &b);
    (pair, a, b, guest)
}

fn first_byte(open: &Open) -> u8 {
    let mut byte = [0];
    group_of(&open.vm("web")).read_head(DISK, 0, &mut byte).unwrap();
    byte[0]
}

/// Writes the first byte; the error's kind if that is refused.
pub(super) fn write(open: &Open, byte: u8) -> std::result::Result<(), Kind> {
    let (send, receive) = std::sync::mpsc::channel();
    let data = [byte; 4096];
    let op = Op::Write { offset: 0, data: &data };
    group_of(&open.vm("web")).submit(DISK, op, true, Box::new(move |done| send.send(done).unwrap()));
    receive.recv().unwrap().map_err(|e| e.kind())
}

#[test]
fn protect_is_a_job_and_pairing_a_command() {
    let sides = || -> Arc<dyn Sides> { Arc::new(EngineSides) };
    let (a, mut b) = (Place::new("london", sides()), Place::new("paris", sides()));
    b.listen = Some("127.0.0.1:0".parse().unwrap());
    let (at_a, at_b) = (a.open(), b.open());
    let proxy = Proxy::start(at_b.replication.listening().unwrap());
    let site = |open: &Open, text: &str| open.site.command(WHO, On::Site, Verb::Pair, text.as_bytes(), None);
    let mut settings = at_b.site.store().settings().unwrap();
    settings.addresses = vec![proxy.address().to_string()];
    at_b.site.store().set_settings(&settings).unwrap();
    let token = site(&at_b, "create").unwrap().says;
    assert_eq!(site(&at_a, "accept nonsense").unwrap_err().refusal, Refusal::TokenMalformed);
    site(&at_a, &format!("accept {token}")).unwrap();
    assert!(!at_b.events().contains(&token) && !at_a.events().contains(&token), "a token is a secret");
    eventually("a session", || at_a.is_ready() && at_b.is_ready());

    let vm = at_a.vm_with_disk("web", 1 << 20);
    assert_eq!(refused(&at_a, Verb::Protect, "to=rome"), Some(Refusal::PeerNotRegistered));
    at_b.site.create_vm("web", false).unwrap();
    assert_eq!(refused(&at_a, Verb::Protect, "to=paris"), Some(Refusal::NameTaken));
    let count = at_a.site.jobs().list().len();
    let job = done(&at_a, Verb::Protect, "as=web2");
    let job = ended(&at_a, &job);
    assert_eq!((job.state, at_a.site.jobs().list().len()), (JobState::Succeeded, count + 1), "{job:?}");
    assert!(job.outcome.starts_with("protected from "), "{}", job.outcome);
    assert_eq!(state(&at_a), State::Protected);
    assert_eq!(at_b.vm("web2").group_id(), vm.group_id());
    assert_eq!(refused(&at_a, Verb::Protect, "to=paris"), Some(Refusal::AlreadyProtected));
    let forget = at_a.site.command(WHO, On::Site, Verb::Forget, b"site=paris", None);
    assert_eq!(forget.unwrap_err().refusal, Refusal::PeerInUse);
    at_a.close();
    at_b.close();
}

#[test]
fn a_planned_failover_stops_the_vm_and_loses_nothing() {
    let (pair, a, b, mut guest) = protected_pair();
    let log = pair.a.dir.path().join("hooks");
    let hook = pair.a.dir.path().join("hook.sh");
    std::fs::write(&hook, format!("#!/bin/sh\necho $1 $2 $STANDBYFS_REASON >> {}\n", log.display())).unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for open in [&a, &b] {
        let mut settings = open.site.store().settings().unwrap();
        settings.stop_hook = Some(hook.display().to_string());
        settings.start_hook = Some(hook.display().to_string());
        open.site.store().set_settings(&settings).unwrap();
    }
    guest.write(&a.vm("web"), 60);
    let job = ended(&b, &done(&b, Verb::Failover, "planned"));
    assert_eq!(job.state, JobState::Succeeded, "{job:?}\n{}", b.events());
    assert!(job.outcome.contains("vm-started (start hook)"), "{}", job.outcome);
    assert!(!health(&b).contains(&Reason::UnfencedPeer), "it stood still before this was decided");
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(said, "stop web planned-failover\nstart web planned-failover\n");
    is(&a, State::Fenced);
    is(&b, State::FailedOver);
    guest.same(&b, "all that was written is there");
    assert_eq!(write(&a, 1), Err(Kind::NoSpace), "the old source's writers wait");
    guest.write(&b.vm("web"), 10);
    guest.same(&b, "and it goes on");
    done(&b, Verb::Commit, "confirm=web");
    a.close();
    b.close();
    // Both know it after a restart.
    let (a, b) = (pair.a.open(), pair.b.open());
    assert_eq!((state(&a), state(&b)), (State::Fenced, State::Committed));
    guest.same(&b, "after a restart");
    a.close();
    b.close();
}

#[test]
fn a_planned_failover_is_refused_while_the_vm_runs_and_can_be_cancelled() {
    let (pair, a, b, mut guest) = protected_pair();
    a.site.set_openings(Box::new(|_| Some("disk.raw".into())));
    let job = ended(&b, &done(&b, Verb::Failover, "planned"));
    assert_eq!((job.state, job.refusal), (JobState::Failed, Some(Refusal::WritersOpen)), "{job:?}");
    assert_eq!((state(&a), state(&b)), (State::Protected, State::Standby));
    guest.write(&a.vm("web"), 5);
    guest.compare("nothing was changed", &a, &b);

    // The source's word doesn't come through: the source waits, and goes on once it hears of the end.
    a.close();
    let a = pair.a.open();
    guest.write(&a.vm("web"), 5);
    guest.compare("after a restart", &a, &b);
    pair.proxy.stall(Way::Out, true);
    let accepted = done(&b, Verb::Failover, "planned");
    is(&a, State::HandingOver);
    assert_eq!((state(&b), write(&a, 9)), (State::FailingOver, Err(Kind::NoSpace)));
    b.site.jobs().cancel(accepted.job.as_ref().unwrap()).unwrap();
    assert_eq!(ended(&b, &accepted).state, JobState::Cancelled);
    pair.proxy.stall(Way::Out, false);
    is(&a, State::Protected);
    guest.write(&a.vm("web"), 5);
    guest.compare("after a cancelled failover", &a, &b);
    a.close();
    b.close();
}

#[test]
fn a_failover_with_the_source_linked_stops_it_first() {
    let (_pair, a, b, mut guest) = protected_pair();
    guest.write(&a.vm("web"), 40);
    let job = done(&b, Verb::Failover, "latest");
    assert_eq!(ended(&b, &job).state, JobState::Succeeded);
    assert_eq!(state(&b), State::FailedOver);
    is(&a, State::Fenced);
    guest.same(&b, "linked, so nothing is lost");
    assert_eq!(write(&a, 1), Err(Kind::NoSpace));
    // Taken back: the source goes on where it was.
    guest.write(&b.vm("web"), 3);
    done(&b, Verb::Rollback, "confirm=web");
    is(&a, State::Protected);
    let mut at_a = Guest::of(&a);
    at_a.write(&a.vm("web"), 20);
    at_a.compare("after a rollback", &a, &b);
    assert_eq!(state(&b), State::Standby);
    a.close();
    b.close();
}

#[test]
fn a_dead_source_is_taken_over_and_fenced_when_it_comes_back() {
    let (pair, a, b, mut guest) = protected_pair();
    guest.write(&a.vm("web"), 20);
    guest.compare("before", &a, &b);
    a.close();
    eventually("the end of the session", || !b.is_ready());
    done(&b, Verb::Failover, "latest");
    guest.write(&b.vm("web"), 20);
    guest.same(&b, "writable at once");
    done(&b, Verb::Commit, "confirm=web");
    let a = pair.a.open();
    is(&a, State::Fenced);
    assert_eq!(write(&a, 1), Err(Kind::NoSpace));
    guest.same(&b, "untouched by the old source");
    a.close();
    b.close();
}

#[test]
fn a_failover_and_its_rollback_in_a_partition_leave_the_source_alone() {
    let (pair, a, b, mut guest) = protected_pair();
    part(&pair, &a, &b);
    let lineage = group_of(&a.vm("web")).lineage();
    done(&b, Verb::Failover, "latest");
    write(&b, 7).unwrap();
    guest.write(&a.vm("web"), 20);
    done(&b, Verb::Rollback, "confirm=web");
    pair.proxy.refuse(false);
    guest.write(&a.vm("web"), 20);
    guest.compare("after a mistaken failover", &a, &b);
    assert_eq!((state(&a), state(&b)), (State::Protected, State::Standby));
    assert_eq!(group_of(&a.vm("web")).lineage(), lineage, "open disks of the source stay valid");
    assert_eq!(group_of(&b.vm("web")).branches().unwrap().len(), 1);
    a.close();
    b.close();
    // The line goes on behind what was taken back.
    for store in [pair.a.store(), pair.b.store()] {
        let options = InspectOptions { store, journal: None, verify: true };
        let report = inspect(&options, &SystemEntropy).unwrap();
        assert_eq!(report.damage, []);
    }
}

/// The target's failover can't be decided any more: it ends at the next contact, not by its time-out.
#[test]
fn a_source_that_a_person_told_to_go_on_ends_the_failover_that_it_had_stopped_for() {
    let (pair, a, b, mut guest) = protected_pair();
    pair.proxy.stall(Way::Out, true);
    let accepted = done(&b, Verb::Failover, "planned");
    is(&a, State::HandingOver);
    part(&pair, &a, &b);
    pair.proxy.stall(Way::Out, false);
    done(&a, Verb::Failover, "latest force confirm=web");
    guest.write(&a.vm("web"), 10);
    assert_eq!(state(&b), State::FailingOver);
    pair.proxy.refuse(false);
    let job = ended(&b, &accepted);
    assert_eq!((job.state, job.refusal), (JobState::Failed, Some(Refusal::AlreadyActive)), "{job:?}");
    assert!(job.outcome.contains("failover force"), "{}", job.outcome);
    is(&b, State::Standby);
    guest.compare("the target follows the source again", &a, &b);
    is(&a, State::Protected);
    assert!(status(&a).rpo != Rpo::None && !health(&a).contains(&Reason::UnfencedPeer));
    // And it hands over like any source, in the same connection.
    guest.write(&a.vm("web"), 3);
    assert_eq!(ended(&b, &done(&b, Verb::Failover, "planned")).state, JobState::Succeeded);
    is(&a, State::Fenced);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(state(&b), State::FailedOver, "{}", b.events());
    guest.write(&b.vm("web"), 3);
    done(&b, Verb::Rollback, "confirm=web");
    is(&a, State::Protected);
    a.close();
    b.close();
}

#[test]
fn two_decisions_in_ignorance_are_a_split_brain_at_both() {
    let (pair, a, b, _) = protected_pair();
    pair.proxy.stall(Way::Out, true);
    let accepted = done(&b, Verb::Failover, "planned");
    is(&a, State::HandingOver);
    part(&pair, &a, &b);
    pair.proxy.stall(Way::Out, false);
    b.site.jobs().cancel(accepted.job.as_ref().unwrap()).unwrap();
    ended(&b, &accepted);
    done(&b, Verb::Failover, "latest");
    done(&a, Verb::Failover, "latest force confirm=web");
    write(&a, 0xa).unwrap();
    write(&b, 0xb).unwrap();
    pair.proxy.refuse(false);
    is(&a, State::SplitBrain);
    is(&b, State::SplitBrain);
    assert_eq!((first_byte(&a), first_byte(&b)), (0xa, 0xb), "nothing is merged");
    write(&a, 0xc).unwrap();
    write(&b, 0xd).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((first_byte(&a), first_byte(&b)), (0xc, 0xd), "both go on");
    // Taken back at one site: it follows the other again, which says so, and can be moved like any source.
    done(&b, Verb::Rollback, "confirm=web");
    is(&b, State::Standby);
    is(&a, State::Protected);
    write(&a, 0xe).unwrap();
    assert_eq!(ended(&b, &done(&b, Verb::Failover, "planned")).state, JobState::Succeeded);
    is(&a, State::Fenced);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((state(&b), first_byte(&b)), (State::FailedOver, 0xe), "{}", b.events());
    write(&b, 0xf).unwrap();
    a.close();
    let a = pair.a.open();
    is(&a, State::Fenced);
    a.close();
    b.close();
}

#[test]
fn a_restored_store_is_told_by_name_and_nothing_is_shipped() {
    let (pair, a, b, mut guest) = protected_pair();
    a.close();
    let backup = pair.a.dir.path().join("backup");
    copy_tree(&pair.a.store(), &backup);
    let a = pair.a.open();
    guest.write(&a.vm("web"), 20);
    guest.compare("after the backup", &a, &b);
    a.close();
    let there = group_of(&b.vm("web")).head();
    std::fs::remove_dir_all(pair.a.store()).unwrap();
    std::fs::rename(&backup, pair.a.store()).unwrap();
    let a = pair.a.open_as(Moved::Moved);
    let conflict = |o: &Open| o.peer().refusal.is_some_and(|(name, _)| name == "identity-conflict");
    eventually("identity-conflict", || conflict(&a) || conflict(&b));
    let accept = |o: &Open, peer: &str| {
        o.site.command(WHO, On::Site, Verb::Accept, format!("site={peer}").as_bytes(), None).unwrap()
    };
    accept(&a, "paris");
    accept(&b, "london");
    is(&b, State::Rewound);
    is(&a, State::Rewound);
    write(&a, 3).ok();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(group_of(&b.vm("web")).head(), there);
    guest.same(&b, "the standby keeps what it had");
    a.close();
    b.close();
}

/// Two daemons on copies of one store: one of them is refused by name, and the standby follows the other one alone.
#[test]
fn a_copy_of_a_store_is_refused_beside_its_original() {
    let (pair, a, b, mut guest) = protected_pair();
    a.close();
    let copy = Place::new("london", Arc::new(EngineSides));
    copy_tree(&pair.a.store(), &copy.store());
    let a = pair.a.open();
    guest.write(&a.vm("web"), 10);
    guest.compare("the original goes on", &a, &b);
    let c = copy.open_as(Moved::Moved);
    write(&c, 0xcc).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    guest.write(&a.vm("web"), 10);
    // Its connections take turns with the original's; neither's session with the standby is the copy's.
    a.close();
    let conflict = |o: &Open| o.peer().refusal.is_some_and(|(name, _)| name == "identity-conflict");
    eventually("identity-conflict", || conflict(&c) || conflict(&b));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!c.is_ready() && first_byte(&b) != 0xcc, "nothing of the copy is at the standby");
    let reasons = health(if conflict(&b) { &b } else { &c });
    assert!(reasons.contains(&Reason::IdentityConflict), "{reasons:?}");
    c.close();
    let a = pair.a.open();
    guest.compare("the original alone again", &a, &b);
    a.close();
    b.close();
}

#[test]
fn the_end_of_a_protection_reaches_the_other_site() {
    // Kept at the target.
    let (pair, a, b, mut guest) = protected_pair();
    part(&pair, &a, &b);
    done(&a, Verb::Unprotect, "keep");
    assert_eq!((state(&a), state(&b)), (State::Unprotected, State::Standby));
    guest.write(&a.vm("web"), 3);
    pair.proxy.refuse(false);
    is(&b, State::Orphaned);
    eventually("the tombstone goes", || a.vm("web").peer().is_none());
    assert_eq!(refused(&a, Verb::Protect, "to=paris"), Some(Refusal::DuplicateDisk));
    done(&b, Verb::Unprotect, "delete force confirm=web");
    assert!(b.site.vm("web").is_none());
    assert_eq!(ended(&a, &done(&a, Verb::Protect, "to=paris")).state, JobState::Succeeded);
    guest.compare("protected again", &a, &b);
    // Deleted at the target.
    done(&a, Verb::Unprotect, "delete confirm=web");
    eventually("the copy is deleted", || b.site.vm("web").is_none());
    assert_eq!(ended(&a, &done(&a, Verb::Protect, "to=paris")).state, JobState::Succeeded);
    // Given up by the target.
    done(&b, Verb::Unprotect, "delete force confirm=web");
    is(&a, State::ResyncRequired);
    // A first copy again.
    assert_eq!(ended(&a, &done(&a, Verb::Resync, "resync")).state, JobState::Succeeded);
    guest.compare("after its copy was given up", &a, &b);
    assert_eq!((state(&a), relation(&a)), (State::Protected, Some(Relation::Source)));
    assert!(matches!(group_of(&a.vm("web")).gate(), Gate::Open { .. }));
    a.close();
    b.close();
}

/// The source's stop hook takes longer than an unplanned failover waits: its disks are stopped all the same.
#[test]
fn a_decision_is_heard_while_the_vm_is_being_stopped() {
    let (pair, a, b, guest) = protected_pair();
    let hook = pair.a.dir.path().join("hook.sh");
    std::fs::write(&hook, "#!/bin/sh\nsleep 14\n").unwrap();
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut settings = a.site.store().settings().unwrap();
    settings.stop_hook = Some(hook.display().to_string());
    a.site.store().set_settings(&settings).unwrap();
    let begun = Instant::now();
    done(&b, Verb::Failover, "latest");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    is(&a, State::Fenced);
    assert!(begun.elapsed() < Duration::from_secs(13), "fenced before the hook's end: {:?}", begun.elapsed());
    guest.same(&b, "taken over");
    a.close();
    b.close();
}

#[test]
fn status_and_health_tell_what_is() {
    let (pair, a, b, mut guest) = protected_pair();
    let rpo = |open: &Open| status(open).rpo;
    eventually("no age", || rpo(&a) == Rpo::Age(0));
    assert_eq!(health(&a), [Reason::SameHostPair]);
    let (here, there) = (status(&a), status(&b));
    assert_eq!((here.state, there.state), (State::Protected, State::Standby));
    assert_eq!(here.direction, Some(("london".into(), "paris".into())));
    let head = |of: &StatusReport| of.head.map(|at| at.moment);
    assert_eq!((head(&here), here.backlog), (head(&there), Lacking::Bytes(0)));
    assert_eq!(here.direction, there.direction);
    assert_eq!(here.peer.as_ref().map(|p| (p.connected.is_ok(), p.writing)), Some((true, Some(false))));
    assert_eq!(there.peer.as_ref().map(|p| (p.connected.is_ok(), p.writing)), Some((true, Some(true))));
    let (site, peers) = (a.site.site_report().unwrap(), a.site.peer_reports());
    assert_eq!((site.groups, peers.len(), peers[0].1.groups), (vec![(State::Protected, 1)], 1, 1));

    part(&pair, &a, &b);
    guest.write(&a.vm("web"), 10);
    assert!(health(&a).contains(&Reason::PeerUnreachable) && health(&b).contains(&Reason::PeerUnreachable));
    std::thread::sleep(Duration::from_millis(300));
    assert!(matches!(rpo(&a), Rpo::AtLeast(ns) if ns >= 200_000_000), "{:?}", rpo(&a));
    // Each write is a block and its header, or several share one.
    assert!(matches!(status(&a).backlog, Lacking::Bytes(81_920..1_048_576)), "{:?}", status(&a).backlog);
    a.site.write_policy(WHO, &a.vm("web"), "rpo-threshold: 1s\n").unwrap();
    eventually("rpo-exceeded", || health(&a).contains(&Reason::RpoExceeded));
    a.close();
    let a = pair.a.open();
    assert!(matches!(rpo(&a), Rpo::AtLeast(_)), "not met since the start");
    assert_eq!(status(&a).backlog, Lacking::Unknown);
    done(&b, Verb::Failover, "latest");
    assert!(health(&b).contains(&Reason::UnfencedPeer) && status(&b).flags.unfenced_peer);
    pair.proxy.refuse(false);
    is(&a, State::Fenced);
    eventually("the fence is known", || !health(&b).contains(&Reason::UnfencedPeer));
    let events = a.events();
    assert!(events.contains("health: peer-unreachable raised"), "{events}");
    a.close();
    b.close();
}

#[test]
fn paused_means_nothing_new_is_shipped() {
    let (pair, a, b, mut guest) = protected_pair();
    done(&a, Verb::Pause, "pause");
    std::thread::sleep(Duration::from_millis(100));
    let before = group_of(&b.vm("web")).head();
    guest.write(&a.vm("web"), 10);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(group_of(&b.vm("web")).head(), before);
    // Once more says the same, and changes nothing.
    done(&a, Verb::Pause, "pause");
    guest.write(&a.vm("web"), 10);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(group_of(&b.vm("web")).head(), before);
    let paused = |open: &Open| {
        let events = group_of(&open.vm("web")).events();
        events.iter().filter(|(_, e)| matches!(e, standbyfs::history::Event::Paused { .. })).count()
    };
    assert_eq!(paused(&a), 1);
    // Neither does a connection that begins anew, nor a restart.
    part(&pair, &a, &b);
    pair.proxy.refuse(false);
    eventually("connected again", || a.is_ready() && b.is_ready());
    guest.write(&a.vm("web"), 10);
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!(group_of(&b.vm("web")).head(), before);
    a.close();
    let a = pair.a.open();
    eventually("connected again", || a.is_ready() && b.is_ready());
    guest.write(&a.vm("web"), 10);
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!((group_of(&b.vm("web")).head(), paused(&a)), (before, 1));
    done(&a, Verb::Resume, "resume");
    guest.compare("resumed", &a, &b);
    a.close();
    b.close();
}

/// A source that is held ships what a planned failover needs.
#[test]
fn a_paused_source_hands_over() {
    let (_pair, a, b, mut guest) = protected_pair();
    done(&a, Verb::Pause, "pause");
    guest.write(&a.vm("web"), 10);
    std::thread::sleep(Duration::from_millis(300));
    let job = ended(&b, &done(&b, Verb::Failover, "planned"));
    assert_eq!(job.state, JobState::Succeeded, "{job:?}\n{}", b.events());
    guest.same(&b, "what was held came over");
    a.close();
    b.close();
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}
