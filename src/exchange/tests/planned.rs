//! Planned failover over the exchange: two ends, a link that breaks, processes that die, a person who cancels. The
//! exhaustive exploration of the rule is in the history room; here the whole way is walked.

use super::seeds;
use super::site::{B, BLOCKS, Site};
use super::world::{MS, Violation, World, violation};
use crate::exchange::Event;
use crate::exchange::rules::Rules;
use crate::history::{SourcePhase, TargetPhase, TargetState};
use crate::vocab::Token;
use std::collections::BTreeMap;

/// The person at B: begins or cancels.
fn person(w: &mut World, ops: &mut u8) -> Result<(), Violation> {
    let says = w.sites[1].roles.target.clone();
    let state = TargetState { phase: says.phase, ended: says.ended };
    let next = match state.phase {
        TargetPhase::Idle => {
            *ops += 1;
            state.begun(Token([*ops; 16]))
        }
        TargetPhase::Intent { .. } if w.rng.f64() < 0.3 => state.cancelled(),
        _ => None,
    };
    let Some(next) = next else { return Ok(()) };
    w.sites[1].roles.target = next.says();
    let roles = w.sites[1].roles.clone();
    w.step(1, Event::Roles(roles))
}

fn run(seed: u64, counts: &mut BTreeMap<&'static str, u64>) -> Result<(), Violation> {
    let mut source = Site::source([0; BLOCKS]);
    let (moment, chain) = source.head().unwrap();
    source.cursor = Some(moment);
    let mut target = Site::target(B, Some((moment, chain, [0; BLOCKS])));
    target.table = source.table.clone();
    let frequency = seed.is_multiple_of(3).then_some(60_000 * MS);
    let mut w = World::new(seed, Rules::ALL, [source, target], frequency);
    let (mut ops, mut acknowledged) = (0, 1);
    for round in 0..3000 {
        let quiet = round > 600;
        match w.rng.f64() {
            d if d < 0.10 => {
                if w.sites[0].writes {
                    w.write()?;
                    acknowledged = w.sites[0].log.len();
                }
            }
            d if d < 0.13 && !quiet => w.cut()?,
            d if d < 0.20 => w.connect_if_down()?,
            d if d < 0.22 && !quiet => w.crash(1, false)?,
            d if d < 0.24 && !quiet => {
                w.crash(0, false)?;
                acknowledged = acknowledged.max(w.sites[0].log.len());
            }
            d if d < 0.245 => {
                let site = w.rng.usize(..2);
                w.meet_anew(site)?;
            }
            d if d < 0.26 && (quiet || w.rng.f64() < 0.5) => person(&mut w, &mut ops)?,
            _ => {
                for _ in 0..3 {
                    w.advance()?;
                }
            }
        }
        if w.sites.iter().all(|s| s.writes) {
            return violation("two writers");
        }
        if w.sites[1].writes {
            let head = w.sites[0].log[acknowledged - 1].moment();
            if w.sites[1].place(head).is_none() {
                return violation("an acknowledged write is lost");
            }
            if matches!(w.sites[0].roles.source, SourcePhase::Fenced { .. }) {
                *counts.entry("done").or_default() += 1;
                *counts.entry("cancelled before").or_default() += w.sites[1].roles.target.ended.len() as u64;
                let epoch = w.sites[1].roles.decision.as_ref().unwrap().epoch;
                w.settle(0);
                if w.sites[0].table.row(epoch).is_none() {
                    return violation("fenced by an epoch that it doesn't know");
                }
                return Ok(());
            }
        }
    }
    violation(format!("not done: {:?} {:?}", w.sites[0].roles.source, w.sites[1].roles.target.phase))
}

#[test]
fn never_two_writers_and_it_always_ends() {
    let mut counts = BTreeMap::new();
    for seed in 0..seeds(150, 3000) {
        if let Err(Violation(what)) = run(seed, &mut counts) {
            panic!("seed {seed}: {what}");
        }
    }
    println!("{counts:?}");
    assert!(counts["cancelled before"] > 20, "{counts:?}");
}
