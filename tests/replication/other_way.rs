//! A standby that its source let go of is a VM of its own: it is protected in the other direction, and steps aside like
//! any source.

use super::operations::{done, ended, health, is, protected_pair, state, write};
use super::standby::Guest;
use super::*;
use standbyfs::protection::health::Reason;
use standbyfs::protection::job::JobState;
use standbyfs::protection::{State, Verb};

/// `a` is protected at `b` and let go of; then `b`, which was the standby, is protected at `a`. `orphaned`: `b` had heard
/// the end when it was let go of there, too.
fn turned(orphaned: bool) -> (Pair, Open, Open, Guest) {
    let (pair, a, b, mut guest) = protected_pair();
    if orphaned {
        done(&a, Verb::Unprotect, "keep");
        is(&b, State::Orphaned);
        done(&b, Verb::Unprotect, "keep force confirm=web");
    } else {
        done(&b, Verb::Unprotect, "keep force confirm=web");
        is(&a, State::ResyncRequired);
        done(&a, Verb::Unprotect, "keep confirm=web");
    }
    eventually("the end is heard", || a.vm("web").peer().is_none());
    assert_eq!((state(&a), state(&b)), (State::Unprotected, State::Unprotected));
    a.site.remove_vm(&a.vm("web")).unwrap();
    assert_eq!(ended(&b, &done(&b, Verb::Protect, "to=london")).state, JobState::Succeeded);
    guest.write(&b.vm("web"), 20);
    guest.compare("the other way", &b, &a);
    assert_eq!((state(&a), state(&b)), (State::Standby, State::Protected));
    (pair, a, b, guest)
}

fn steps_aside(orphaned: bool) {
    let (_pair, a, b, mut guest) = turned(orphaned);
    guest.write(&b.vm("web"), 10);
    let job = ended(&a, &done(&a, Verb::Failover, "planned"));
    assert_eq!(job.state, JobState::Succeeded, "{job:?}\n{}", a.events());
    is(&b, State::Fenced);
    assert_eq!(write(&b, 1), Err(Kind::NoSpace));
    guest.same(&a, "all that was written is there");
    done(&a, Verb::Rollback, "confirm=web");
    is(&b, State::Protected);
    let mut guest = Guest::of(&b);
    guest.write(&b.vm("web"), 10);
    guest.compare("taken back", &b, &a);
    let job = done(&a, Verb::Failover, "latest");
    assert_eq!(ended(&a, &job).state, JobState::Succeeded);
    is(&b, State::Fenced);
    assert_eq!(write(&b, 1), Err(Kind::NoSpace));
    guest.same(&a, "linked, so nothing is lost");
    done(&a, Verb::Commit, "confirm=web");
    a.close();
    b.close();
}

#[test]
fn a_copy_that_was_let_go_of_by_both_steps_aside_as_a_source() {
    steps_aside(true);
}

#[test]
fn a_copy_that_left_its_source_steps_aside_as_a_source() {
    steps_aside(false);
}

/// A target without room for what comes stalls that group; the connection stays, and it goes on by itself.
#[test]
fn a_full_target_stalls_the_group_and_not_the_connection() {
    let (_pair, a, b, mut guest) = protected_pair();
    let room = b.site.store().rooms().journal.clone();
    let owed = room.space().unwrap().free;
    room.owe(owed);
    let since = b.peer().since_ns;
    let told = || b.events().matches("no-space: what london sends waits").count();
    for _ in 0..100 {
        guest.write(&a.vm("web"), 100);
        if told() > 0 {
            break;
        }
    }
    eventually("it is told", || told() > 0);
    let behind = group_of(&b.vm("web")).head();
    std::thread::sleep(Duration::from_secs(5));
    assert!(
        a.is_ready() && b.is_ready() && b.peer().since_ns == since,
        "the connection stays\n{}",
        b.events()
    );
    assert_eq!((told(), group_of(&b.vm("web")).head()), (1, behind));
    assert!(health(&a).contains(&Reason::PeerFull), "the source knows why its standby grows old");
    room.settle(owed);
    guest.compare("there is room again", &a, &b);
    assert!(b.peer().since_ns == since, "{:?} {:?}\n{}{}", a.peer(), b.peer(), a.events(), b.events());
    a.close();
    b.close();
}

/// The end at the site that took over reaches the old source: its older copy stands alone, and may be used again.
#[test]
fn the_end_after_a_failover_reaches_the_old_source() {
    let (_pair, a, b, mut guest) = protected_pair();
    guest.write(&a.vm("web"), 10);
    assert_eq!(ended(&b, &done(&b, Verb::Failover, "planned")).state, JobState::Succeeded);
    is(&a, State::Fenced);
    done(&b, Verb::Commit, "confirm=web");
    done(&b, Verb::Unprotect, "delete confirm=web");
    is(&a, State::Orphaned);
    eventually("the end is heard", || b.vm("web").peer().is_none());
    assert_eq!(write(&a, 1), Err(Kind::NoSpace), "not before somebody says so");
    guest.same(&a, "what it had is there still");
    done(&a, Verb::Unprotect, "keep force confirm=web");
    assert_eq!((state(&a), state(&b)), (State::Unprotected, State::Unprotected));
    write(&a, 1).unwrap();
    write(&b, 1).unwrap();
    a.close();
    b.close();
}
