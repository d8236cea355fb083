//! A first copy that is refused, or that ends before it is whole.

use super::operations::{done, ended, health, is, part, protected_pair, refused, state, write};
use super::standby::Guest;
use super::*;
use crate::support::proxy::Way;
use standbyfs::protection::health::Reason;
use standbyfs::protection::job::JobState;
use standbyfs::protection::{Refusal, State, Verb};
use standbyfs::site::replication::EngineSides;

/// The copy that was given up is a VM of the other site: it stands in the way, and nothing is forgotten meanwhile.
#[test]
fn a_source_whose_standby_was_given_up_says_so_until_there_is_another() {
    let (_pair, a, b, mut guest) = protected_pair();
    done(&b, Verb::Unprotect, "keep force confirm=web");
    is(&a, State::ResyncRequired);
    for _ in 0..2 {
        assert_eq!(refused(&a, Verb::Resync, "resync"), Some(Refusal::DuplicateDisk));
        assert_eq!(state(&a), State::ResyncRequired);
        assert!(health(&a).contains(&Reason::ResyncRequired));
    }
    guest.write(&a.vm("web"), 3);
    b.site.remove_vm(&b.vm("web")).unwrap();
    assert_eq!(ended(&a, &done(&a, Verb::Resync, "resync")).state, JobState::Succeeded);
    guest.compare("a first copy again", &a, &b);
    assert_eq!((state(&a), state(&b)), (State::Protected, State::Standby));
    a.close();
    b.close();
}

/// The end of the protection ends the copy that is under way, here and there.
#[test]
fn a_first_copy_ends_with_the_protection() {
    let (pair, a, b) = paired((Arc::new(EngineSides), Arc::new(EngineSides)));
    a.vm_with_disk("web", 4 << 20);
    let mut guest = Guest::of(&a);
    guest.write(&a.vm("web"), 400);
    pair.proxy.delay(Way::Out, Duration::from_millis(100));
    let accepted = done(&a, Verb::Protect, "to=paris");
    assert_eq!(state(&a), State::InitialReplication);
    assert_eq!(refused(&a, Verb::Resync, "resync"), Some(Refusal::Busy));
    done(&a, Verb::Unprotect, "keep");
    assert_eq!(state(&a), State::Unprotected);
    pair.proxy.delay(Way::Out, Duration::ZERO);
    let job = ended(&a, &accepted);
    assert_eq!(job.state, JobState::Cancelled, "{job:?}");
    eventually("what was copied is deleted", || b.site.vm("web").is_none());
    eventually("and it is heard", || a.vm("web").peer().is_none());
    assert_eq!(ended(&a, &done(&a, Verb::Protect, "to=paris")).state, JobState::Succeeded);
    guest.compare("protected after all", &a, &b);
    a.close();
    b.close();
}

/// Failed over to by hand, and taken back: it is a copy that nobody feeds, as before.
#[test]
fn an_orphan_that_was_tried_is_an_orphan_again() {
    let (pair, a, b, _guest) = protected_pair();
    part(&pair, &a, &b);
    done(&a, Verb::Unprotect, "keep");
    pair.proxy.refuse(false);
    is(&b, State::Orphaned);
    assert_eq!(refused(&b, Verb::Failover, "latest"), Some(Refusal::ForceNeeded));
    done(&b, Verb::Failover, "latest force confirm=web");
    assert_eq!(state(&b), State::FailedOver);
    done(&b, Verb::Rollback, "confirm=web");
    assert_eq!(state(&b), State::Orphaned);
    b.close();
    let b = pair.b.open();
    assert_eq!(state(&b), State::Orphaned);
    a.close();
    b.close();
}

/// A source that was told to go on and took that back is the standby: the end of the protection makes an orphan of it, or
/// deletes it.
#[test]
fn the_end_reaches_a_source_that_has_become_the_standby() {
    for (words, left) in [("keep", true), ("delete confirm=web", false)] {
        let (pair, a, b, _guest) = protected_pair();
        part(&pair, &a, &b);
        done(&b, Verb::Failover, "latest");
        write(&b, 7).unwrap();
        pair.proxy.refuse(false);
        is(&a, State::Fenced);
        done(&a, Verb::Failover, "latest force confirm=web");
        is(&b, State::Fenced);
        done(&a, Verb::Rollback, "confirm=web");
        is(&a, State::Standby);
        is(&b, State::Protected);
        write(&b, 8).unwrap();
        done(&b, Verb::Unprotect, words);
        match left {
            true => is(&a, State::Orphaned),
            false => eventually("the copy is deleted", || a.site.vm("web").is_none()),
        }
        eventually("it is heard", || b.vm("web").peer().is_none());
        a.close();
        b.close();
    }
}
