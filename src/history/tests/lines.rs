//! Random schedules for two sites: writes, syncs, shipping, power loss, torn destage, failover at any moment, change of
//! point, rollback, planned failover, forced decisions in a partition, split brain, resolve, commit, stores restored from
//! a backup, and (with `Memory`) a host reverted with its memory.
//!
//! Oracle: every view of every site equals the truth; one name means one content; after a reprotect both images are
//! equal; `rewound`, and a tree in a reprotect, only if something went back; a resolve holds.

use super::seeds;
use super::sites::{Leave, Record, Site, Violation, World, common};
use crate::history::decide::{Rules, decide_by};
use crate::history::{
    Outcome, Piece, RowKind, Side, Table, WayKind, choose, delta_ranges, has_records, lacks_own, standing,
};
use crate::vocab::Moment;
use std::collections::{BTreeMap, BTreeSet};

type Counts = BTreeMap<&'static str, u64>;

fn count(counts: &mut Counts, what: &'static str) {
    *counts.entry(what).or_default() += 1;
}

fn check(w: &World, sites: &[Site; 2]) -> Result<(), Violation> {
    for site in sites {
        site.view(w, site.head).ok_or(Violation("head cannot be shown"))?;
        for m in site.moments(w) {
            if let Some(Some(truth)) = w.truth.get(&m)
                && site.view(w, m) != Some(*truth)
            {
                return Err(Violation("wrong bytes"));
            }
        }
    }
    Ok(())
}

/// Both sides keep ranges back to the common moments of each one's head and the oldest moment that the *other* can
/// still choose, and the chain values there. The source's oldest counts too: after a planned failover it is the
/// target, and it may hold older moments than the target ever did.
fn trim(w: &World, sites: &mut [Site; 2]) {
    let (src, dst) = match (sites[0].writing, sites[1].writing) {
        (true, false) => (0, 1),
        (false, true) => (1, 0),
        _ => return,
    };
    let oldest = [0, 1].map(|s: usize| sites[s].moments(w).last().copied());
    let head = sites[dst].norm(sites[dst].head);
    let [Some(first), Some(second)] = oldest else { return };
    if sites[src].walk(w, sites[src].norm(sites[src].head), head).is_none() {
        return;
    }
    for s in [0, 1] {
        sites[s].oldest = oldest[s];
    }
    let mut stops = Vec::new();
    for (chooser, moment) in [(0, first), (1, second)] {
        if chooser == src && w.lacks(Leave::SourceForgotten) {
            continue;
        }
        let found = common(w, &sites[1 - chooser], &sites[chooser], Some(moment));
        let Some(proved) = found.proved.filter(|_| found.agrees()) else { return };
        stops.push((chooser, moment, proved));
    }
    for s in [0, 1] {
        let site = &mut sites[s];
        let mut keep = Vec::new();
        for &(chooser, moment, proved) in &stops {
            let short = w.lacks(Leave::ShortLog);
            if !short {
                site.pinned.insert(proved);
            }
            let stop = if short && chooser == s { moment } else { proved };
            match site.walk(w, site.norm(site.head), stop) {
                Some(walk) => keep.extend(walk),
                None => return,
            }
        }
        let records = &site.records;
        site.ranges.retain(|m, _| keep.contains(m) || records.contains_key(m));
    }
}

fn blocks_of(site: &Site, pieces: &[Piece], only_held: bool) -> BTreeSet<usize> {
    let mut out = BTreeSet::new();
    for piece in pieces {
        let moments: Vec<Moment> = match *piece {
            Piece::Records { epoch, after, to } => {
                (after.0 + 1..=to.0).map(|n| Moment::new(epoch, n)).collect()
            }
            Piece::Jump { to, .. } => vec![to],
        };
        for m in moments {
            if !only_held || site.records.contains_key(&m) {
                out.extend(&site.ranges[&m]);
            }
        }
    }
    out
}

/// `dst` gets the head of `src` by the first way that is possible.
fn reprotect(
    w: &World,
    sites: &mut [Site; 2],
    src: usize,
    dst: usize,
    counts: &mut Counts,
) -> Result<(), Violation> {
    sites[src].durable = sites[src].head;
    let (source, target) = (sites[src].clone(), &mut sites[dst]);
    let found = common(w, &source, target, None);
    let to = source.norm(source.head);
    if found.agrees() && to == target.norm(target.head) {
        (target.writing, target.failed_over) = (false, false);
        return Ok(());
    }
    let (from_path, to_path) = (source.path(w, source.head), target.path(w, target.head));
    let floor = if w.lacks(Leave::ReplayBase) { target.base_at } else { target.floor };
    let way = choose(
        &source.table,
        &source.holding(w, &from_path),
        Some(&target.holding(w, &to_path)),
        &[Some(floor)],
        Some(found),
    )
    .unwrap();
    let tree = way.kind == WayKind::Tree;
    match way.kind {
        WayKind::Replay { from } => {
            count(counts, "replay");
            target.floor = floor;
            target.head = from;
            let news = source.walk(w, to, from).ok_or(Violation("replay without records"))?;
            for m in news.iter().rev() {
                let record = source.records.get(m).ok_or(Violation("replay without records"))?;
                target.put(*m, record.clone(), None, source.chain[m]);
            }
        }
        WayKind::Delta { .. } | WayKind::Tree | WayKind::Full => {
            let blocks = if let WayKind::Delta { after } = way.kind {
                count(counts, "delta");
                let mine = delta_ranges(&target.table, &to_path, after).unwrap();
                let yours = delta_ranges(&source.table, &from_path, after).unwrap();
                let mut blocks = blocks_of(target, &mine, false);
                blocks.extend(blocks_of(&source, &yours, w.lacks(Leave::ForgetRanges)));
                blocks
            } else {
                count(counts, "tree");
                (0..super::sites::BLOCKS).collect()
            };
            let image = source.view(w, to).ok_or(Violation("head cannot be shown"))?;
            let changes = blocks.into_iter().map(|b| (b, image[b])).collect();
            let from = Some(target.norm(target.head));
            target.put(to, Record { jump: true, changes }, from, source.chain[&to]);
        }
    }
    (target.writing, target.failed_over) = (false, false);
    sites[src].failed_over = false;
    if tree && !w.went_back {
        return Err(Violation("tree, and nothing went back"));
    }
    if sites[dst].view(w, sites[dst].head) != sites[src].view(w, sites[src].head) {
        return Err(Violation("reprotect: images differ"));
    }
    Ok(())
}

fn merge(w: &World, mine: &Table, theirs: &Table) -> Result<Table, Violation> {
    if w.lacks(Leave::Integer) {
        // Names collide: whoever spoke last is believed.
        let mut out = Table::new();
        for row in theirs.rows().chain(mine.rows().filter(|r| theirs.row(r.epoch).is_none())) {
            out.insert(row.clone()).unwrap();
        }
        for (epoch, op) in mine.withdrawals().chain(theirs.withdrawals()) {
            out.withdraw(epoch, op);
        }
        return Ok(out);
    }
    let mut out = mine.clone();
    out.merge(theirs).map_err(|_| Violation("table conflict"))?;
    Ok(out)
}

fn contact(w: &mut World, sites: &mut [Site; 2], counts: &mut Counts) -> Result<(), Violation> {
    let names = !w.lacks(Leave::Integer) && !w.lacks(Leave::OneEpoch);
    let lost: Vec<_> = [0, 1]
        .map(|s| lacks_own(sites[s].id, &sites[s].table, &sites[1 - s].table).filter(|_| names))
        .to_vec();
    let first = merge(w, &sites[0].table, &sites[1].table)?;
    let second = merge(w, &sites[1].table, &first)?;
    (sites[0].table, sites[1].table) = (first, second);
    for s in [0, 1] {
        sites[s].peer_head = Some(sites[1 - s].head);
    }
    let found = common(w, &sites[0], &sites[1], None);
    let rules = Rules {
        yield_to_writers_only: !w.lacks(Leave::YieldToTarget),
        common_by_rows: !w.lacks(Leave::LoweredCommon),
        chain: !w.lacks(Leave::NoChain),
        ..Rules::ALL
    };
    let side = |s: usize| Side {
        site: sites[s].id,
        head: sites[s].head,
        writes: sites[s].writing,
        lacks_own: lost[s],
    };
    let outcome = decide_by(&sites[0].table, side(0), side(1), found, rules).unwrap();
    // Both sides compute it; they must come to the same.
    assert_eq!(outcome, decide_by(&sites[1].table, side(1), side(0), found, rules).unwrap());
    let number = |id| usize::from(sites[1].id == id);
    let winner = match outcome {
        Outcome::Follow { source, target, by_records } => {
            count(counts, "follow");
            return follow(w, sites, (number(source), number(target)), by_records, counts);
        }
        Outcome::Yield { winner, .. } => {
            count(counts, "yield");
            if !sites[number(winner)].writing {
                return Err(Violation("a writer was stopped and nobody writes"));
            }
            Some(number(winner))
        }
        Outcome::Conflict(conflict) => {
            count(counts, conflict.kind.name());
            if conflict.kind.name() != "split-brain" && !w.went_back {
                return Err(Violation("rewound, and nothing went back"));
            }
            None
        }
    };
    let winner = match winner {
        Some(winner) => winner,
        // A person: resolve at one side, knowing both lines.
        None => {
            let winner = w.rng.usize(..2);
            if sites[winner].view(w, sites[winner].head).is_none() {
                return Ok(());
            }
            let head = sites[winner].head;
            sites[winner].new_epoch(w, head, RowKind::Force)?;
            winner
        }
    };
    let loser = 1 - winner;
    sites[loser].table = merge(w, &sites[loser].table, &sites[winner].table)?;
    (sites[winner].writing, sites[loser].writing, sites[loser].failed_over) = (true, false, false);
    let c = common(w, &sites[0], &sites[1], None).by_rows;
    let stands = |s: usize| !standing(&sites[s].table, sites[s].head, c).unwrap().is_empty();
    if stands(loser) || !stands(winner) {
        return Err(Violation("a resolve did not hold"));
    }
    if w.rng.f64() < 0.7 {
        sites[winner].failed_over = false;
        sites[winner].destage(w, false);
    }
    if !sites[winner].failed_over {
        reprotect(w, sites, winner, loser, counts)?;
    }
    Ok(())
}

fn follow(
    w: &mut World,
    sites: &mut [Site; 2],
    (src, dst): (usize, usize),
    by_records: bool,
    counts: &mut Counts,
) -> Result<(), Violation> {
    let mut source = sites[src].clone();
    if !w.lacks(Leave::ShipAhead) {
        source.head = source.durable;
    }
    let start = sites[dst].norm(sites[dst].head);
    let path = source.path(w, source.head);
    if !by_records || !has_records(&source.table, &source.holding(w, &path), start).unwrap() {
        reprotect(w, sites, src, dst, counts)?;
        count(counts, "jump to a target that was too far behind");
        return Ok(());
    }
    let news = source.walk(w, source.norm(source.head), start).ok_or(Violation("follow without records"))?;
    let many = w.rng.usize(1..8);
    for m in news.iter().rev().take(many) {
        sites[dst].put(*m, source.records[m].clone(), None, source.chain[m]);
    }
    let head = sites[dst].head;
    if let (Some(a), Some(b)) = (sites[src].view(w, head), sites[dst].view(w, head))
        && a != b
    {
        return Err(Violation("target differs from source"));
    }
    Ok(())
}

fn run(seed: u64, wrong: &BTreeSet<Leave>, counts: &mut Counts) -> Result<(), Violation> {
    let rng = fastrand::Rng::with_seed(seed);
    let mut w = World { rng, wrong: wrong.clone(), truth: BTreeMap::new(), count: 0, went_back: false };
    let mut sites = [Site::new(b'A'), Site::new(b'B')];
    w.truth.insert(sites[0].head, Some(sites[0].base));
    let (mut link, mut backups) = (true, Vec::<Site>::new());
    for _ in 0..70 {
        let dice = w.rng.f64();
        let writers: Vec<usize> = (0..2).filter(|s| sites[*s].writing).collect();
        let s = w.rng.choice(&writers).copied();
        let target = (0..2).find(|s| !sites[*s].writing);
        match (s, target) {
            (Some(s), _) if dice < 0.38 => sites[s].write(&mut w)?,
            (Some(s), _) if dice < 0.46 => sites[s].durable = sites[s].head,
            _ if dice < 0.64 && link => {
                contact(&mut w, &mut sites, counts)?;
                trim(&w, &mut sites);
            }
            _ if dice < 0.69 => link = !link,
            (Some(s), _) if dice < 0.74 => {
                sites[s].power_loss(&mut w)?;
                count(counts, "power loss");
            }
            _ if dice < 0.82 => {
                let torn = w.rng.f64() < 0.4;
                let which = w.rng.usize(..2);
                sites[which].destage(&mut w, torn);
            }
            (_, Some(t)) if dice < 0.85 && !link => {
                failover(&mut w, &mut sites[t], RowKind::Failover, counts)?
            }
            (Some(s), Some(t)) if dice < 0.87 && link && writers.len() == 1 => {
                sites[s].durable = sites[s].head;
                if sites[s].norm(sites[s].head) == sites[t].norm(sites[t].head) {
                    sites[s].writing = false;
                    let head = sites[t].head;
                    sites[t].new_epoch(&mut w, head, RowKind::Planned)?;
                    sites[t].writing = true;
                    count(counts, "planned");
                }
            }
            (Some(s), _) if dice < 0.90 && sites[s].failed_over => {
                failover(&mut w, &mut sites[s], RowKind::Change, counts)?;
            }
            (Some(s), _) if dice < 0.94 && sites[s].failed_over && writers.len() == 2 => {
                let received = sites[s].received.filter(|m| sites[s].view(&w, *m).is_some());
                if let Some(received) = received {
                    sites[s].roll_back(received);
                    count(counts, "rollback");
                }
            }
            (_, Some(t)) if dice < 0.95 && !link && writers.len() == 1 => {
                let head = sites[t].head;
                if sites[t].view(&w, head).is_some() {
                    sites[t].new_epoch(&mut w, head, RowKind::Force)?;
                    sites[t].writing = true;
                    count(counts, "forced");
                }
            }
            _ if dice < 0.965 => backups.push(sites[w.rng.usize(..2)].clone()),
            _ if dice < 0.98 && !backups.is_empty() && !seed.is_multiple_of(3) => {
                let old = restore(&mut w, &mut sites, &backups);
                count(counts, "restored");
                if sites[old].writing {
                    sites[old].durable = sites[old].head;
                    sites[old].open(&mut w)?;
                }
            }
            _ if wrong.contains(&Leave::Memory) && !backups.is_empty() => {
                // Goes on in the same opening.
                let writing: Vec<Site> = backups.iter().filter(|b| b.writing).cloned().collect();
                if !writing.is_empty() {
                    restore(&mut w, &mut sites, &writing);
                    count(counts, "reverted with memory");
                }
            }
            _ => {}
        }
        check(&w, &sites)?;
    }
    Ok(())
}

fn failover(w: &mut World, site: &mut Site, kind: RowKind, counts: &mut Counts) -> Result<(), Violation> {
    if kind == RowKind::Failover {
        (site.received, site.failed_over) = (Some(site.head), true);
    }
    let moments = site.moments(w);
    let Some(&moment) = w.rng.choice(&moments) else { return Ok(()) };
    site.new_epoch(w, moment, kind)?;
    site.writing = true;
    count(counts, if kind == RowKind::Failover { "failover" } else { "change of point" });
    Ok(())
}

fn restore(w: &mut World, sites: &mut [Site; 2], backups: &[Site]) -> usize {
    let old = backups[w.rng.usize(..backups.len())].clone();
    let number = usize::from(old.id == sites[1].id);
    sites[number] = old;
    w.went_back = true;
    number
}

fn good(wrong: &[Leave], seeds: u64) -> Counts {
    let wrong: BTreeSet<Leave> = wrong.iter().copied().collect();
    let mut counts = Counts::new();
    for seed in 0..seeds {
        if let Err(Violation(what)) = run(seed, &wrong, &mut counts) {
            panic!("seed {seed}: {what}; so far {counts:?}");
        }
    }
    counts
}

fn control(wrong: &[Leave], seeds: u64) {
    let set: BTreeSet<Leave> = wrong.iter().copied().collect();
    let mut counts = Counts::new();
    let found = (0..seeds).find_map(|seed| run(seed, &set, &mut counts).err().map(|v| (seed, v.0)));
    let (seed, what) =
        found.unwrap_or_else(|| panic!("{wrong:?} was not noticed in {seeds} seeds: {counts:?}"));
    println!("{wrong:?}: seed {seed}: {what}");
}

#[test]
fn two_sites_never_show_wrong_bytes_and_never_stop_without_reason() {
    let counts = good(&[], seeds(300, 3000));
    println!("{counts:?}");
    let all = [
        "follow",
        "yield",
        "split-brain",
        "rewound",
        "replay",
        "delta",
        "tree",
        "rollback",
        "planned",
        "forced",
        "restored",
        "change of point",
        "failover",
        "jump to a target that was too far behind",
    ];
    for what in all {
        assert!(counts.get(what).is_some_and(|n| *n > 0), "{what} never happened: {counts:?}");
    }
}

#[test]
fn a_host_reverted_with_its_memory_is_told_by_the_chain() {
    let counts = good(&[Leave::Memory], seeds(300, 3000));
    assert!(counts.get("reverted with memory").is_some_and(|n| *n > 10), "{counts:?}");
}

#[test]
fn leaving_a_rule_out_is_found() {
    use Leave::*;
    control(&[Integer, NoChain], 3000);
    control(&[NoChain, Memory], 3000);
    control(&[ForgetRanges], 3000);
    control(&[ShipAhead, OneEpoch, NoChain], 3000);
    control(&[ReplayBase], 3000);
    control(&[ShortLog], 3000);
    control(&[LoseFrom], 3000);
    control(&[LoweredCommon], 3000);
    control(&[YieldToTarget], 3000);
    control(&[SourceForgotten], 3000);
}
