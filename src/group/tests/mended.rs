//! Syncs that fail at two sites while one follows the other: W1 to W4 of `mend`, with the same oracle as `sites`, and
//! one more: what a group that was opened anew has lost is no moment any more, so that nobody may show it.

use super::model::{difference, head_image};
use super::site::gate_of;
use super::sites::{Checked, World, begin, text};
use crate::group::{Gate, Group};
use crate::history::Event;
use crate::journal::{LEFT_OUT, Mended};
use crate::seam::{Class, Fault};
use crate::vocab::{Kind, Token};
use std::sync::Arc;

/// How often each was seen.
#[derive(Default, Debug)]
struct Seen {
    mended: u64,
    anew: [u64; 2],
    lost: u64,
}

fn follow(w: &mut World, steps: usize) -> Checked {
    for _ in 0..steps {
        match w.rng.u32(..10) {
            0..5 => _ = w.deliver(0)? | w.deliver(1)?,
            5..8 => w.tick()?,
            _ => w.connect()?,
        }
    }
    Ok(())
}

/// What a site's upkeep does once its device works again.
fn mend(w: &mut World, site: usize, seen: &mut Seen) -> Checked {
    let old = w.group(site);
    if !old.is_poisoned() {
        return Ok(());
    }
    if old.mend().map_err(text)? == Mended::Whole {
        w.tell(|| format!("site {site} mended at {}", old.head()));
        seen.mended += 1;
        return Ok(());
    }
    let before = old.head();
    let (group, report, missing) = old.reopen().map_err(text)?;
    w.tell(|| format!("{}\nnow, durable {}\n{}", old.layout(), group.log.durable(), group.layout()));
    if let Some(damage) = report.damage {
        return Err(format!("site {site} is damaged: {damage}"));
    }
    let gate = gate_of(&group, site);
    if !matches!(gate, Gate::Open { .. }) {
        group.freeze(gate);
    }
    let head = group.head();
    if site == 0 {
        // What is lost never was.
        w.model.moments.retain(|m, _| m.epoch != before.epoch || m.seq <= head.seq || m.epoch != head.epoch);
        let there = &w.model.moments;
        w.model.order.retain(|m| there.contains_key(m));
        seen.lost += missing;
    }
    w.tell(|| {
        format!("site {site} anew at {head}, was {before}, durable {}, {missing} missing", old.log.durable())
    });
    seen.anew[site] += 1;
    w.sites[site].group = Arc::clone(&group);
    let now = w.now;
    let out = w.sites[site].driver.reopened(now, group);
    w.handle(site, out)?;
    w.came_back(site)?;
    writes_nothing(&old)
}

/// W3.
fn writes_nothing(old: &Group) -> Checked {
    let noted = old.note(Event::Paused { op: Token([9; 16]), paused: true });
    match noted {
        Err(e) if e.kind() == Kind::Busy => Ok(()),
        other => Err(format!("a group that was left has written a line: {other:?}")),
    }
}

fn run(seed: u64, seen: &mut Seen) -> Checked {
    let mut w = begin(seed)?;
    w.failing = true;
    w.connect()?;
    w.settle()?;
    for _ in 0..w.rng.usize(3..12) {
        for _ in 0..w.rng.usize(1..8) {
            let add = w.rng.u8(..8) == 0;
            w.operate(0, add)?;
            let steps = w.rng.usize(..4);
            follow(&mut w, steps)?;
        }
        let site = w.rng.usize(..2);
        w.tell(|| format!("a fault at {site}, {}", w.stand()));
        let fault = Fault::of(Class::Sync).nth(w.rng.u64(1..3)).times(w.rng.u64(1..3)).on("main");
        w.sites[site].device.inject(fault);
        if site == 0 {
            let _ = w.group(0).sync();
        } else {
            w.group(0).sync().map_err(text)?;
            follow(&mut w, 12)?;
        }
        w.sites[site].device.clear_faults();
        mend(&mut w, site, seen)?;
        let steps = w.rng.usize(..12);
        follow(&mut w, steps)?;
        for site in 0..2 {
            w.check(site)?;
        }
    }
    w.settle()?;
    for site in 0..2 {
        w.check(site)?;
    }
    let [a, b] = [0, 1].map(|s| head_image(&w.sites[s].group).map_err(text));
    difference(&b?, &a?).map_or(Ok(()), |what| Err(format!("both at one moment, and the target {what}")))
}

#[test]
fn a_target_follows_through_failed_syncs_of_both_sites() {
    let full = super::is_full();
    let mut seen = Seen::default();
    let only = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    for seed in only.map_or(0..if full { 3_000 } else { 60 }, |s| s..s + 1) {
        run(seed, &mut seen).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    println!("{seen:?}");
    assert!(seen.mended > 0 && seen.anew.iter().all(|n| *n > 0) && seen.lost > 0, "{seen:?}");
}

/// What makes the zeros above mean something.
#[test]
fn each_rule_of_mending_is_caught_at_two_sites() {
    for rule in [
        "W3: who was left writes nothing",
        "W4: a target is opened anew",
        "D3: only what is durable is shipped",
    ] {
        LEFT_OUT.with_borrow_mut(|out| *out = vec![rule]);
        let caught = (0..200).any(|seed| run(seed, &mut Seen::default()).is_err());
        LEFT_OUT.with_borrow_mut(Vec::clear);
        assert!(caught, "nothing noticed that this was left out: {rule}");
    }
}
