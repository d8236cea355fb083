//! Records between two ends under cuts, stalls, corruption, restarts and power losses at both.

use super::seeds;
use super::site::{B, Site};
use super::world::{MS, Violation, World, violation};
use crate::exchange::rules::Rules;
use crate::exchange::{Report, Rpo};
use std::collections::BTreeMap;

fn run(seed: u64, rules: Rules, counts: &mut BTreeMap<&'static str, u64>) -> Result<(), Violation> {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0xabcd);
    let frequency = (rng.f64() < 0.3).then(|| rng.u64(200 * MS..3000 * MS));
    let corrupts = rng.f64() < 0.4;
    let mut source = Site::source([0; super::site::BLOCKS]);
    let (moment, chain) = source.head().unwrap();
    source.cursor = Some(moment);
    let mut target = Site::target(B, Some((moment, chain, source.image().unwrap())));
    target.table = source.table.clone();
    let mut w = World::new(seed, rules, [source, target], frequency);
    w.excused = corrupts;
    w.sites[0].rotten_reads = corrupts;
    for _ in 0..300 {
        match w.rng.f64() {
            d if d < 0.20 => w.write()?,
            d if d < 0.28 => w.sync_source()?,
            d if d < 0.30 => w.cut()?,
            d if d < 0.40 => w.connect_if_down()?,
            d if d < 0.41 => {
                let power = w.rng.bool();
                w.crash(0, power)?;
                w.count("source died");
            }
            d if d < 0.42 => {
                let power = w.rng.bool();
                w.crash(1, power)?;
                w.count("target died");
            }
            d if d < 0.425 => {
                let site = w.rng.usize(..2);
                w.meet_anew(site)?;
            }
            // A stall: time passes and nothing moves.
            d if d < 0.43 => {
                let longest = if w.rng.bool() { 500 } else { 12_000 };
                w.now += w.rng.u64(0..longest) * MS;
                w.stalled = w.now;
            }
            d if d < 0.46 && corrupts => w.corrupt(),
            _ => {
                for _ in 0..3 {
                    w.advance()?;
                }
            }
        }
        w.check()?;
    }
    // Quiet: everything arrives, and the measure says so.
    w.excused = false;
    w.sites[0].rotten_reads = false;
    w.cut()?;
    w.sync_source()?;
    w.connect()?;
    for _ in 0..4000 {
        w.advance()?;
        if w.sites[1].durable_head() == w.sites[0].head() && w.links[0].rpo(w.now) == Rpo::Exact(0) {
            w.count("caught up");
            break;
        }
    }
    w.check()?;
    if w.sites[1].durable_head() != w.sites[0].head() {
        return violation(format!("it never catches up: {:?} {:?}", w.sites[1].head(), w.sites[0].head()));
    }
    for report in w.sites[1].reports.iter().chain(&w.sites[0].reports) {
        match report {
            Report::Corruption(_) => *counts.entry("rotten reads found by the chain").or_default() += 1,
            Report::TargetRewound { .. } => return violation("target-rewound, and nothing went back"),
            _ => {}
        }
    }
    for (what, n) in &w.counts {
        *counts.entry(what).or_default() += n;
    }
    Ok(())
}

#[test]
fn a_target_is_an_exact_prefix_whatever_breaks() {
    let mut counts = BTreeMap::new();
    for seed in 0..seeds(300, 3000) {
        if let Err(Violation(what)) = run(seed, Rules::ALL, &mut counts) {
            panic!("seed {seed}: {what}");
        }
    }
    println!("{counts:?}");
    for what in [
        "cuts",
        "connects",
        "source died",
        "target died",
        "bits flipped",
        "frames refused",
        "rotten reads found by the chain",
        "messages of records",
        "caught up",
        "meetings anew",
    ] {
        assert!(counts.get(what).is_some_and(|n| *n > 5), "{what} too seldom: {counts:?}");
    }
}

#[test]
fn leaving_a_rule_out_of_shipping_is_found() {
    let all = Rules::ALL;
    for (name, rules) in [
        ("ships what is not durable", Rules { durable_only: false, ..all }),
        ("the chain isn't compared", Rules { check_chain: false, ..all }),
        ("confirmed before it is durable", Rules { ack_after_durable: false, ..all }),
    ] {
        let mut counts = BTreeMap::new();
        let found = (0..1000).find_map(|s| run(s, rules, &mut counts).err().map(|v| (s, v.0)));
        let (seed, what) = found.unwrap_or_else(|| panic!("{name}: not noticed: {counts:?}"));
        println!("{name}: seed {seed}: {what}");
    }
}
