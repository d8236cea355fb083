//! Two sites and a source that loses its power: what it has told the other is still so when it comes back.

use super::sites::{Checked, World, begin, text};
use crate::group::Gate;
use crate::history::{Event, Operation};
use crate::journal::without;

/// `SEED` alone, or as many as the budget has.
fn seeds() -> std::ops::Range<u64> {
    if let Ok(seed) = std::env::var("SEED") {
        let seed = seed.parse().unwrap();
        return seed..seed + 1;
    }
    0..if super::is_full() { 1_000 } else { 10 }
}

fn following(seed: u64) -> Result<World, String> {
    let mut w = begin(seed)?;
    w.settle()?;
    Ok(w)
}

/// The source writes, its power fails, and it comes back: all that the target holds is on its line.
fn ships_and_loses(w: &mut World) -> Checked {
    for _ in 0..4 {
        let fails = w.rng.usize(1..12);
        for _ in 0..fails {
            w.operate(0, false)?;
            w.tick()?;
            for site in [1, 0] {
                while w.deliver(site)? {}
            }
        }
        w.restart(0, true)?;
        let (source, target) = (w.group(0), w.group(1));
        let mut all = source.table();
        all.merge(&target.table()).map_err(text)?;
        if !all.is_on_line(target.head(), source.head()).map_err(text)? {
            return Err(format!(
                "the target holds {}, the source has lost it: {}",
                target.head(),
                source.head()
            ));
        }
        w.settle()?;
    }
    Ok(())
}

const SHIPPED: &str = "D3: only what is durable is shipped";

#[test]
fn a_target_holds_nothing_that_its_source_has_lost() {
    for seed in seeds() {
        ships_and_loses(&mut following(seed).unwrap()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn shipping_what_is_not_durable_is_caught() {
    let found = (0..20).find_map(|seed| {
        let mut w = following(seed).unwrap();
        without(SHIPPED, || ships_and_loses(&mut w)).err()
    });
    assert!(found.is_some_and(|e| e.contains("has lost it")), "the source lost nothing that it had shipped");
}

/// A planned failover; the source's power fails at some step of it. Never do two sites write.
fn hands_over(w: &mut World) -> Result<bool, String> {
    let op = w.token();
    w.lines(1, Event::Intent { op, operation: Operation::Planned, moment: None, peer: None })?;
    w.tell_roles(1)?;
    let fails = w.rng.usize(1..60);
    for step in 0..120 {
        if step == fails {
            w.restart(0, true)?;
        } else if w.rng.u8(..4) == 0 {
            w.connect()?;
            w.tick()?;
        } else {
            let site = w.rng.usize(..2);
            w.deliver(site)?;
        }
        let writes = [0, 1].map(|site| matches!(w.group(site).gate(), Gate::Open { .. }));
        if writes == [true, true] {
            return Err(format!("step {step}: two sites write"));
        }
    }
    Ok(matches!(w.group(1).gate(), Gate::Open { .. }))
}

const COUNTED: &str = "K2: a line is acted on when a checkpoint counts it";

#[test]
fn a_planned_failover_never_has_two_writers() {
    let mut ended = 0;
    for seed in seeds() {
        let mut w = following(seed).unwrap();
        ended += usize::from(hands_over(&mut w).unwrap_or_else(|e| panic!("seed {seed}: {e}")));
    }
    assert!(ended > 3 || std::env::var("SEED").is_ok(), "only {ended} came to their end");
}

#[test]
fn a_line_that_is_acted_on_before_it_is_counted_is_caught() {
    let found = (0..30).find_map(|seed| {
        let mut w = following(seed).unwrap();
        without(COUNTED, || hands_over(&mut w)).err()
    });
    assert!(
        found.is_some_and(|e| e.contains("two sites write")),
        "the handover was there after the power loss"
    );
}
