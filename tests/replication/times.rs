//! Moments named by time at both sites, and points of before the standby's image.

use super::operations::{done, ended, protected_pair};
use super::*;
use standbyfs::history::Event;
use standbyfs::protection::Verb;
use standbyfs::protection::job::JobState;
use standbyfs::site::points;
use standbyfs::vocab::Moment;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// The moment of the live line at a time.
pub(super) fn at(open: &Open, wall: i64) -> Option<Moment> {
    group_of(&open.vm("web")).moment_at(wall).unwrap().filter(|at| !at.in_gap).map(|at| at.moment)
}

#[test]
fn a_time_that_is_later_than_what_has_come_names_nothing() {
    let (_pair, a, b, mut guest) = protected_pair();
    let head = group_of(&a.vm("web")).head();
    let before = now();
    assert_eq!(at(&a, before), Some(head), "nothing older comes where it is written");
    assert_eq!(at(&a, before + 3_600_000_000_000), None);
    done(&a, Verb::Pause, "pause");
    guest.write(&a.vm("web"), 1);
    std::thread::sleep(Duration::from_millis(300));
    let after = now();
    assert_eq!((at(&b, before), at(&b, after)), (None, None), "what it shows would change");
    done(&a, Verb::Resume, "resume");
    guest.compare("resumed", &a, &b);
    guest.write(&a.vm("web"), 1);
    guest.compare("and something later", &a, &b);
    for time in [before, after] {
        assert_eq!(at(&b, time), at(&a, time));
    }
    assert_eq!(at(&b, before), Some(head));
    a.close();
    b.close();
}

#[test]
fn a_standby_finds_its_first_moment_by_time_and_no_point_of_before() {
    let (_pair, a, b, mut guest) = protected_pair();
    done(&a, Verb::RecoveryPoint, "name=before");
    done(&a, Verb::Unprotect, "delete confirm=web");
    eventually("the copy is deleted", || b.site.vm("web").is_none());
    guest.write(&a.vm("web"), 5);
    assert_eq!(ended(&a, &done(&a, Verb::Protect, "to=paris")).state, JobState::Succeeded);
    let behind = now();
    std::thread::sleep(Duration::from_millis(50));
    done(&a, Verb::RecoveryPoint, "name=after");
    done(&a, Verb::RecoveryPoint, "name=after");
    guest.write(&a.vm("web"), 1);
    guest.compare("protected again", &a, &b);
    let group = group_of(&b.vm("web"));
    let jump = group.with_events(|events| {
        let jump = |(time, e): &(i64, Event)| if let Event::Jump(j) = e { Some((*time, j.to)) } else { None };
        events.iter().rev().find_map(jump).unwrap()
    });
    assert!(jump.0 <= behind);
    let found = at(&b, behind).unwrap();
    assert!(found.seq >= jump.1.seq && found == at(&a, behind).unwrap(), "{found} of {jump:?}");
    assert_eq!(at(&b, jump.0 - 1_000_000_000), None);
    let named = |open: &Open, name: &str| {
        let set = points::shown(open.site.store().catalog(), &group_of(&open.vm("web"))).unwrap();
        set.in_order().iter().any(|p| p.label.as_deref() == Some(name))
    };
    eventually("the points are told", || named(&b, "after"));
    assert!(named(&a, "before") && named(&a, "after") && !named(&b, "before"));
    let times = |open: &Open| {
        let set = points::shown(open.site.store().catalog(), &group_of(&open.vm("web"))).unwrap();
        set.in_order().iter().filter(|p| p.label.as_deref() == Some("after")).count()
    };
    assert_eq!((times(&a), times(&b)), (1, 1), "one moment has one name once");
    let set = points::shown(b.site.store().catalog(), &group).unwrap();
    for point in set.in_order() {
        group.open_moment(point.moment).unwrap();
    }
    a.close();
    b.close();
}
