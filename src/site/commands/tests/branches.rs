//! Lines that were left, and what they keep.

use super::site::{at, byte, give, open, outcome, standby, state, write};
use crate::group::{Care, Gate};
use crate::protection::{Refusal, State, Verb};
use crate::site::{Site, Vm};
use std::sync::Arc;

fn has(site: &Site, vm: &Arc<Vm>, reason: &str) -> bool {
    let health = site.health_of(vm).unwrap();
    health.reasons.iter().any(|r| r.reason.name() == reason && r.holds)
}

#[test]
fn a_branch_keeps_room_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (vm, moments) = standby(&site);
    give(&site, &vm, Verb::Failover, &at(moments[0])).unwrap();
    let commit = give(&site, &vm, Verb::Commit, "confirm=web01").unwrap();
    outcome(&site, &commit.job.unwrap());
    let group = vm.group().unwrap();
    let branch = group.branches().unwrap()[0];
    assert!(has(&site, &vm, "held-by-branch") && !has(&site, &vm, "commit-overdue"));
    write(&vm, b'n');
    group.round_with(site.care_of(&vm).unwrap()).unwrap();
    assert!(group.open_moment(branch.last).is_ok(), "the base has not passed the fork");
    let line = format!("branch={} confirm=web01", branch.last.epoch);
    let dropped = give(&site, &vm, Verb::Drop, &line).unwrap();
    assert!(outcome(&site, &dropped.job.unwrap()).contains("freed"));
    assert!(!has(&site, &vm, "held-by-branch"));
    // Its records may be there for a while; it isn't shown any more, and there is nothing to drop.
    assert_eq!((group.kept_branches().unwrap(), group.dropped_branches()), (vec![], vec![branch.last.epoch]));
    assert_eq!(give(&site, &vm, Verb::Drop, &line).err().map(|r| r.refusal), Some(Refusal::NotFound));
    group.round(None).unwrap();
    assert!(group.open_moment(branch.last).is_err(), "the base is beyond the fork");
    site.close().unwrap();
}

/// A decision at a moment of a branch: the base must stay where the live line has left the one that a rollback goes
/// back to, not where the decision was made.
#[test]
fn what_a_rollback_goes_back_to_is_kept_also_when_a_branch_was_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (vm, moments) = standby(&site);
    let group = vm.group().unwrap();
    give(&site, &vm, Verb::Failover, &at(moments[0])).unwrap();
    write(&vm, b'x');
    let left = write(&vm, b'y');
    give(&site, &vm, Verb::Rollback, "confirm=web01").unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::Standby, b'c'));
    assert!(has(&site, &vm, "held-by-branch"), "what was written in the failover is kept");
    assert_eq!(site.care_of(&vm).unwrap().fork, Some(moments[0]));

    give(&site, &vm, Verb::Failover, &at(left)).unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::FailedOver, b'y'));
    write(&vm, b'z');
    let care = site.care_of(&vm).unwrap();
    assert_eq!(care.fork, Some(moments[0]), "{left} is beyond the place where the line was left");
    // As far as ever under pressure.
    group.round_with(Care { pinned: false, window_ns: None, ..care }).unwrap();
    give(&site, &vm, Verb::Rollback, "confirm=web01").unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::Standby, b'c'));
    assert_eq!(group.gate(), Gate::Target);
    assert!(group.open_moment(left).is_ok());
    site.close().unwrap();
}

/// What the daemon opened again in a failover is one branch, and dropping it is enough.
#[test]
fn a_line_that_was_opened_again_is_one_branch() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (vm, moments) = standby(&site);
    give(&site, &vm, Verb::Failover, &at(moments[0])).unwrap();
    write(&vm, b'x');
    drop(vm);
    site.close().unwrap();
    drop(site);
    let site = open(dir.path());
    let vm = site.vm("web01").unwrap();
    give(&site, &vm, Verb::Resume, "force confirm=web01").unwrap();
    let last = write(&vm, b'y');
    give(&site, &vm, Verb::Rollback, "confirm=web01").unwrap();
    let group = vm.group().unwrap();
    let branches = group.branches().unwrap();
    assert_eq!(branches.iter().map(|b| (b.last, b.fork)).collect::<Vec<_>>(), [(last, Some(moments[0]))]);
    let line = format!("branch={} confirm=web01", last.epoch);
    let dropped = give(&site, &vm, Verb::Drop, &line).unwrap();
    outcome(&site, &dropped.job.unwrap());
    assert!(!has(&site, &vm, "held-by-branch"));
    assert_eq!(site.care_of(&vm).unwrap().fork, None);
    site.close().unwrap();
}

/// A failover in which nothing was written leaves nothing to keep.
#[test]
fn a_failover_without_a_write_is_no_branch() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (vm, moments) = standby(&site);
    give(&site, &vm, Verb::Failover, &at(moments[1])).unwrap();
    give(&site, &vm, Verb::Rollback, "confirm=web01").unwrap();
    assert_eq!(vm.group().unwrap().branches().unwrap(), []);
    assert!(!has(&site, &vm, "held-by-branch"));
    site.close().unwrap();
}
