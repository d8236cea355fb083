//! A planned failover with a fault behind each durable call of either site: keeper and worker of one site killed at
//! once, or the link cut. Guests at both sites try to write all the time (1 to 3 of `stage`).

use super::daemons::wait;
use super::stage::{At, BOUND, Case, End, FAULTS, Fault, Stage};
use crate::fuse::harness::{full, require_fuse};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// So many of them, always the same ones.
fn sample(mut all: Vec<Case>, want: usize) -> Vec<Case> {
    fastrand::Rng::with_seed(5).shuffle(&mut all);
    all.truncate(want);
    all
}

/// The lines of the history and what counts them: the steps of the operation itself.
fn is_step(call: &str) -> bool {
    call.contains("/history ") || call.contains("/checkpoint ")
}

/// With `STANDBYFS_CASES` those alone whose description has this text.
#[test]
fn a_planned_failover_ends_well_whatever_fails_behind_each_durable_call() {
    require_fuse();
    let begun = Instant::now();
    let mut stage = Stage::new();
    let mut names: BTreeMap<At, BTreeSet<String>> = BTreeMap::new();
    for _ in 0..if full() { 4 } else { 1 } {
        for (at, calls) in [At::Source, At::Target].into_iter().zip(stage.clean()) {
            names.entry(at).or_default().extend(calls);
        }
    }
    let mut cases = Vec::new();
    for (at, calls) in &names {
        assert!(calls.iter().any(|call| is_step(call)), "{at:?}: {calls:?}");
        for call in calls {
            for fault in FAULTS {
                for mends in [true, false] {
                    cases.push(Case { at: *at, call: call.clone(), fault, mends });
                }
            }
        }
    }
    let all = cases.len();
    if let Ok(only) = std::env::var("STANDBYFS_CASES") {
        cases.retain(|case| format!("{case:?}").contains(&only));
    } else if !full() {
        let (steps, others): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|case| is_step(&case.call));
        cases = sample(steps, 10);
        cases.extend(sample(others, 5));
    }
    let mut ends: BTreeMap<(bool, Option<End>), usize> = BTreeMap::new();
    let mut missed: BTreeMap<(At, &str), usize> = BTreeMap::new();
    for case in &cases {
        let mut end = stage.run(case);
        // How often a log is synced depends on what the guest writes.
        for _ in 0..if full() { 3 } else { 0 } {
            end = end.or_else(|| stage.run(case));
        }
        if end.is_none() {
            *missed.entry((case.at, &case.call)).or_default() += 1;
        }
        *ends.entry((case.mends, end)).or_default() += 1;
    }
    eprintln!(
        "{} of {all} cases, {} calls at the source and {} at the target, {:?}",
        cases.len(),
        names[&At::Source].len(),
        names[&At::Target].len(),
        begun.elapsed()
    );
    for ((mends, end), count) in ends {
        let broken = if mends { "mended by itself" } else { "broken until somebody writes" };
        match end {
            Some(end) => eprintln!("  {broken}: {end:?} {count}"),
            None => eprintln!("  {broken}: the call didn't come: {count}"),
        }
    }
    eprintln!("  calls that didn't come, and in how many cases: {missed:?}");
}

/// The target has decided, the source hasn't heard of it, and a person tells it to go on.
#[test]
fn in_a_partition_with_both_promoted_both_lines_are_complete_and_both_sites_say_so() {
    require_fuse();
    let what = "both promoted";
    let mut stage = Stage::new();
    let call = "/groups/#/checkpoint 2".to_owned(); // which counts the row
    let case = Case { at: At::Target, call, fault: Fault::LinkCut, mends: false };
    assert!(stage.hold(&case), "{}", stage.shown());
    stage.strike(Fault::LinkCut);
    stage.two.b.ask(&json!({ "do": "stop-counting" }));
    let states = (stage.alone(At::Source), stage.alone(At::Target));
    assert_eq!(states, ("handing-over".into(), "failed-over".into()), "{}", stage.shown());
    let b_writes = wait(BOUND, || stage.writers[1].accepted() > 5);
    assert!(b_writes, "{}", stage.shown());
    stage.one_writer(what);
    // All that was accepted at the source is in the target's line.
    assert_eq!(stage.writers[0].wrong(&stage.two.b.live()[0]), None, "{}", stage.shown());
    stage.decide(At::Source, what);
    let a_writes = wait(BOUND, || stage.writers[0].last_begun() > stage.writers[1].first_answered());
    assert!(a_writes, "{}", stage.shown());
    // The judge of all other runs sees it.
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.one_writer("as it must be")));
    assert!(judged.is_err(), "two sites accept writes, and nobody sees it");
    for daemon in [&stage.two.a, &stage.two.b] {
        assert!(daemon.mount().kill_worker());
    }
    stage.mend(Fault::LinkCut);
    assert_eq!(stage.decided(At::Source, what), End::SplitBrain);
}
