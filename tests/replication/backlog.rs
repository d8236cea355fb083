//! A backlog that outgrows its allowance while the peer is away: writers go on, and the peer gets what changed.

use super::operations::{part, protected_pair};
use super::standby::Guest;
use super::*;
use standbyfs::history::{Event, JumpReason};
use standbyfs::protection::State;
use standbyfs::protection::health::Reason;
use standbyfs::protection::report::Lacking;
use standbyfs::site::commands::Caller;
use standbyfs::site::replication::EngineSides;

const WHO: Caller = Caller { uid: 0, gid: 0, pid: 1 };
/// Of the size of the disk, in percent: ten segments.
const ALLOWANCE: &str = "allowance: 1000%";
/// Blocks that are written in one go.
const BLOCKS: usize = 500;

fn lines(open: &Open, is: impl Fn(&Event) -> bool) -> usize {
    group_of(&open.vm("web")).events().iter().filter(|(_, event)| is(event)).count()
}

fn let_go(open: &Open) -> usize {
    lines(open, |e| matches!(e, Event::BacklogCoalesced { .. }))
}

fn state(open: &Open) -> State {
    open.vm("web").known().unwrap().state()
}

fn has_reason(open: &Open, reason: Reason) -> bool {
    open.site.health_of(&open.vm("web")).unwrap().reasons.iter().any(|standing| standing.reason == reason)
}

/// Writes until the backlog is let go: no write is refused on the way.
fn fill(open: &Open, guest: &mut Guest) {
    for _ in 0..40 {
        guest.write(&open.vm("web"), BLOCKS);
        if let_go(open) > 0 {
            return;
        }
    }
    panic!("never let go: {} of journal\n{}", group_of(&open.vm("web")).journal_used(), open.events());
}

#[test]
fn writers_go_on_where_the_peer_is_away_and_it_gets_what_changed() {
    let (pair, a, b, mut guest) = protected_pair();
    guest.write(&a.vm("web"), 10);
    guest.compare("records behind the copy", &a, &b);
    let_go_and_caught_up(pair, a, b, guest);
}

/// What the standby has is the first copy alone, whose bytes are all in its base.
#[test]
fn a_gap_right_behind_the_first_copy_is_one_too() {
    let (pair, a, b) = paired((Arc::new(EngineSides), Arc::new(EngineSides)));
    let vm = a.vm_with_disk("web", 4 << 20);
    let mut guest = Guest::of(&a);
    guest.write(&vm, 40);
    a.replication.protect(&vm, "paris", None).unwrap();
    guest.compare("protected", &a, &b);
    eventually("it is known", || state(&a) == State::Protected);
    let_go_and_caught_up(pair, a, b, guest);
}

fn let_go_and_caught_up(pair: Pair, a: Open, b: Open, mut guest: Guest) {
    a.site.write_policy(WHO, &a.vm("web"), ALLOWANCE).unwrap();
    let before = group_of(&b.vm("web")).head();
    part(&pair, &a, &b);
    fill(&a, &mut guest);
    assert_eq!(state(&a), State::Resyncing);
    eventually("health says so", || has_reason(&a, Reason::BacklogCoalesced));
    // Told once the turn of upkeep that let it go is over.
    eventually("the event", || {
        a.events().contains("backlog-coalesced: the journal has reached its allowance")
    });
    // As much again, and more: the journal stays within its share.
    guest.write(&a.vm("web"), 10 * BLOCKS);
    let group = group_of(&a.vm("web"));
    assert_eq!((group.refused(), let_go(&a)), (0, 1));
    assert!(group.journal_used() <= 40 << 20, "{}", group.journal_used());
    guest.same(&a, "while the peer is away");
    let (lacking, used) = (a.site.status_of(&a.vm("web")).unwrap().backlog, group.journal_used());
    assert!(
        matches!(lacking, Lacking::AtLeast(bytes) if bytes > 0 && bytes <= used),
        "{lacking:?} of {used}"
    );
    assert_eq!((group_of(&b.vm("web")).head(), state(&b)), (before, State::Standby));
    let missed = super::times::now();
    // A restart of the source knows it by its history.
    drop(group);
    a.close();
    let a = pair.a.open();
    assert_eq!(state(&a), State::Resyncing);
    guest.write(&a.vm("web"), 5);

    pair.proxy.refuse(false);
    guest.compare("after it came back", &a, &b);
    eventually("protected again", || state(&a) == State::Protected);
    assert_eq!(state(&b), State::Standby);
    let jump = |e: &Event| matches!(e, Event::Jump(jump) if jump.from == Some(before) && jump.reason == JumpReason::Backlog);
    assert_eq!(lines(&b, jump), 1, "{}", b.events());
    assert!(has_reason(&b, Reason::HistoryGap), "{}", b.events());
    // What was before the gap is there still, and from its end on every moment.
    group_of(&b.vm("web")).open_moment(before).unwrap();
    assert_eq!(super::times::at(&b, missed), None, "nobody knows here what it held then");
    guest.write(&a.vm("web"), 20);
    guest.compare("following again", &a, &b);
    assert_eq!((let_go(&a), super::times::at(&b, missed)), (1, None));
    b.close();
    let b = pair.b.open();
    assert_eq!(super::times::at(&b, missed), None);
    a.close();
    b.close();
}

#[test]
fn a_peer_that_comes_back_in_time_gets_the_records() {
    let (pair, a, b, mut guest) = protected_pair();
    a.site.write_policy(WHO, &a.vm("web"), ALLOWANCE).unwrap();
    part(&pair, &a, &b);
    guest.write(&a.vm("web"), 2 * BLOCKS);
    pair.proxy.refuse(false);
    guest.compare("after a short outage", &a, &b);
    assert_eq!((let_go(&a), state(&a)), (0, State::Protected));
    assert_eq!(lines(&b, |e| matches!(e, Event::Jump(jump) if jump.from.is_some())), 0);
    a.close();
    b.close();
}
