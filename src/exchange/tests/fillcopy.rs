//! Records and fills between two ends: link cuts, crashes of both ends, a source that is restored or opened again, a
//! backlog that is coalesced. The image is the source's at `to`; the old image stays until then.

use super::seeds;
use super::site::{B, BLOCKS, Image, Site, Staged};
use super::world::{Violation, World, violation};
use crate::exchange::rules::Rules;
use crate::exchange::source::shrink;
use crate::exchange::{DiskRange, RangeSet, Record, Report};
use crate::history::ChainValue;
use crate::vocab::{Codec, DiskOrdinal, Moment, RecordKind, Seq};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Default)]
struct Variant {
    early_progress: bool,
    remembers: bool,
}

fn images(rng: &mut fastrand::Rng) -> (Image, Option<Image>) {
    let image: Image = std::array::from_fn(|_| rng.u64(..3));
    // The target's old image: of a moment that it holds, or none.
    (image, rng.bool().then_some(image))
}

fn run(
    seed: u64,
    rules: Rules,
    variant: Variant,
    counts: &mut BTreeMap<&'static str, u64>,
) -> Result<(), Violation> {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let (image, old) = images(&mut rng);
    let source = Site::source(image);
    // With an image the target is at the row; what comes then is coalesced, so that it needs a jump as well.
    let mut target = match old {
        Some(image) => {
            let (moment, chain): (Moment, ChainValue) = source.head().unwrap();
            let mut target = Site::target(B, Some((moment, chain, image)));
            target.table = source.table.clone();
            target
        }
        None => Site::target(B, None),
    };
    target.early_progress = variant.early_progress;
    let mut w = World::new(seed, rules, [source, target], None);
    w.remembers = variant.remembers.then_some(None);
    for _ in 0..w.rng.usize(1..8) {
        w.write()?;
    }
    w.sync_source()?;
    w.sites[0].dropped = w.sites[0].durable;
    let mut backup: Option<Site> = None;
    for _ in 0..400 {
        match w.rng.f64() {
            d if d < 0.10 => w.write()?,
            d if d < 0.16 => w.sync_source()?,
            d if d < 0.19 => w.cut()?,
            d if d < 0.25 => w.connect_if_down()?,
            d if d < 0.262 => {
                let power = w.rng.f64() < 0.6;
                w.crash(0, power)?;
                w.count("source opened again");
            }
            d if d < 0.274 => {
                w.crash(1, true)?;
                w.count("target crashed");
            }
            d if d < 0.285 && !w.up => {
                let place = w.sites[0].durable;
                w.sites[0].dropped = place;
            }
            d if d < 0.29 => {
                let mut old = w.sites[0].clone();
                old.crash(true, &mut fastrand::Rng::with_seed(1));
                backup = Some(old);
            }
            d if d < 0.295 && backup.is_some() => {
                w.cut()?;
                // What the target was asked for ends before the source goes back: else the jump would be right.
                w.settle(1);
                if published(&w) {
                    break;
                }
                w.sites[0] = backup.take().unwrap();
                w.crash(0, true)?;
                w.count("source restored");
            }
            _ => {
                for _ in 0..10 {
                    w.advance()?;
                }
            }
        }
        if published(&w) {
            break;
        }
        if w.sites[1].image() != old {
            return violation("the old image changed before the jump");
        }
    }
    finish(&mut w, counts)
}

fn published(w: &World) -> bool {
    !w.sites[1].jumps.is_empty() || w.sites[1].early.is_some()
}

fn finish(w: &mut World, counts: &mut BTreeMap<&'static str, u64>) -> Result<(), Violation> {
    for report in w.sites[0].reports.clone() {
        match report {
            Report::CopyResumed { .. } => w.count("resumed"),
            Report::CopyAbandoned => w.count("begun anew: the source went back"),
            Report::CopySkipped { .. } => w.count("skipped"),
            _ => {}
        }
    }
    for (what, n) in &w.counts {
        *counts.entry(what).or_default() += n;
    }
    if !published(w) {
        *counts.entry("not finished").or_default() += 1;
        return Ok(());
    }
    if w.rng.bool() {
        let mut rng = w.rng.fork();
        w.sites[1].crash(true, &mut rng);
    }
    // Whatever was published too early is durable in the end, if nothing failed before.
    w.sites[1].sync();
    *counts.entry("jumps").or_default() += 1;
    let (to, _) = w.sites[1].head().unwrap();
    let Some(place) = w.sites[0].place(to) else {
        return violation("a jump to a moment that the source hasn't");
    };
    if w.sites[1].image_at(w.sites[1].log.len()) != w.sites[0].image_at(place) {
        return violation("the image isn't the one at `to`");
    }
    Ok(())
}

#[test]
fn a_copy_is_the_sources_image_at_its_moment_whatever_breaks() {
    let mut counts = BTreeMap::new();
    for seed in 0..seeds(400, 3000) {
        if let Err(Violation(what)) = run(seed, Rules::ALL, Variant::default(), &mut counts) {
            panic!("seed {seed}: {what}");
        }
    }
    println!("{counts:?}");
    for what in [
        "jumps",
        "resumed",
        "begun anew: the source went back",
        "skipped",
        "source opened again",
        "target crashed",
        "source restored",
        "cuts",
    ] {
        assert!(counts.get(what).is_some_and(|n| *n > 1), "{what} too seldom: {counts:?}");
    }
    assert!(counts["jumps"] > 4 * counts.get("not finished").copied().unwrap_or(0), "{counts:?}");
}

#[test]
fn leaving_a_rule_out_of_a_copy_is_found() {
    let all = Rules::ALL;
    let none = Variant::default();
    for (name, rules, variant) in [
        ("a fill read later than the last record sent", Rules { fill_at_cursor: false, ..all }, none),
        (
            "ships what is not durable, resumes without comparing",
            Rules { durable_only: false, compare_staged: false, ..all },
            none,
        ),
        ("a staged moment isn't compared", Rules { compare_staged: false, ..all }, none),
        ("the source remembers instead of asking", all, Variant { remembers: true, ..none }),
        ("progress before the staging is durable", all, Variant { early_progress: true, ..none }),
        ("ranges that are zeros are not filled", Rules { zeros_are_filled: false, ..all }, none),
        ("skipped records don't make their ranges missing", Rules { skipped_join_set: false, ..all }, none),
        ("published before it is durable", Rules { publish_after_durable: false, ..all }, none),
    ] {
        let mut counts = BTreeMap::new();
        let found = (0..3000).find_map(|s| run(s, rules, variant, &mut counts).err().map(|v| (s, v.0)));
        let (seed, what) = found.unwrap_or_else(|| panic!("{name}: not noticed: {counts:?}"));
        println!("{name}: seed {seed}: {what}");
    }
}

/// What a target says of its staging after a crash is what its staging log holds.
#[test]
fn progress_is_told_from_the_staging_log_alone() {
    let mut site = Site::target(B, None);
    assert!(site.statement().is_none());
    let set = (0..BLOCKS).map(super::site::range).collect();
    let planned = crate::exchange::Planned {
        copy: crate::vocab::Token([1; 16]),
        reason: crate::history::JumpReason::Initial,
        onto_image: false,
        at: Moment::default(),
        chain: ChainValue::ZERO,
        set,
        disks: Vec::new(),
    };
    site.staging = vec![Staged::Begin(Box::new(planned)), Staged::Fill(super::site::range(2), 5)];
    site.staging_synced = 1;
    let (_, missing) = site.statement().unwrap();
    assert!(!missing.covers(super::site::range(2)) && missing.covers(super::site::range(3)));
    site.crash(true, &mut fastrand::Rng::with_seed(1));
    assert!(site.statement().unwrap().1.covers(super::site::range(2)));
}

/// Behind a skip something may be missing beyond the end of a file: what was staged when the file was longer.
#[test]
fn what_a_shorter_file_gives_up_is_no_longer_missing_and_nothing_else() {
    let disk = DiskOrdinal(1);
    let resize = |new, old| Record {
        disk,
        kind: RecordKind::Resize,
        flags: 0,
        codec: Codec::Plain,
        offset: new,
        length: old,
        seq: Seq(1),
        time_ns: 0,
        payload: Vec::new(),
    };
    let mut missing: RangeSet = [DiskRange { disk, offset: 0, length: 80 }].into_iter().collect();
    shrink(&mut missing, &resize(50, 60));
    let left = |set: &RangeSet| set.iter().map(|r| (r.offset, r.length)).collect::<Vec<_>>();
    assert_eq!(left(&missing), [(0, 50), (60, 20)]);
    shrink(&mut missing, &resize(90, 50));
    assert_eq!(left(&missing), [(0, 50), (60, 20)]);
}
