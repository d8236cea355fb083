//! The decision rule alone: random decisions at two sites that know of each other only by contact. At every contact
//! at most one side yields, and a resolve is final until somebody decides again in ignorance of it.

use super::seeds;
use super::sites::row;
use crate::history::decide::{Rules, standing_by};
use crate::history::{ChainValue, RowKind, Table, overrules};
use crate::vocab::{EpochId, Moment, StoreId, Token};

#[derive(Clone)]
struct Site {
    id: StoreId,
    table: Table,
    head: Moment,
    peer_head: Option<Moment>,
}

fn new_epoch(site: &mut Site, number: u8, kind: RowKind) {
    let epoch = EpochId([number; 16]);
    let mut new = row(epoch, Some((site.head, ChainValue::ZERO)), site.id, kind);
    if kind.decided() {
        new.overrules = overrules(&site.table, site.head, site.peer_head).unwrap();
    }
    site.head = Moment { epoch, seq: new.first_seq() };
    site.table.insert(new).unwrap();
}

/// The first resolve that didn't hold, if any.
fn run(seed: u64, rules: Rules) -> Result<[u64; 3], &'static str> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let root = EpochId([200; 16]);
    let mut table = Table::new();
    table.insert(row(root, None, StoreId([1; 16]), RowKind::Genesis)).unwrap();
    let new =
        |n| Site { id: StoreId([n; 16]), table: table.clone(), head: Moment::new(root, 0), peer_head: None };
    let mut sites = [new(1), new(2)];
    let (mut number, mut resolved, mut counts) = (0, None::<usize>, [0; 3]);
    for _ in 0..rng.usize(2..9) {
        let (dice, s) = (rng.f64(), rng.usize(..2));
        if dice < 0.55 {
            number += 1;
            let decided = rng.f64() < 0.7;
            new_epoch(&mut sites[s], number, if decided { RowKind::Failover } else { RowKind::Open });
            resolved = if decided { None } else { resolved };
        } else if dice < 0.62 {
            let line = sites[s].table.line(sites[s].head).unwrap();
            let own = sites[s].id;
            let last = line.steps().iter().rev().map(|m| m.epoch).find(|e| {
                let row = sites[s].table.row(*e).unwrap();
                row.decided() && row.site == own
            });
            if let (Some(epoch), None) = (last, resolved) {
                sites[s].table.withdraw(epoch, Token([1; 16]));
            }
        } else {
            let mut all = sites[0].table.clone();
            all.merge(&sites[1].table).unwrap();
            for s in [0, 1] {
                sites[s].table = all.clone();
                sites[s].peer_head = Some(sites[1 - s].head);
            }
            let common = crate::history::common_by_rows(&all, sites[0].head, sites[1].head).unwrap().unwrap();
            let stands = [0, 1].map(|s| !standing_by(&all, sites[s].head, common, rules).unwrap().is_empty());
            if let Some(winner) = resolved
                && (stands[1 - winner] || !stands[winner])
            {
                return Err("a resolve was reopened");
            }
            counts[0] += u64::from(stands[0] != stands[1]);
            counts[1] += u64::from(stands[0] && stands[1]);
            if stands[0] && stands[1] && rng.f64() < 0.7 {
                number += 1;
                new_epoch(&mut sites[s], number, RowKind::Resolve);
                resolved = Some(s);
                counts[2] += 1;
            }
        }
    }
    Ok(counts)
}

#[test]
fn a_resolve_is_final() {
    let mut sum = [0; 3];
    for seed in 0..seeds(10_000, 200_000) {
        match run(seed, Rules::ALL) {
            Ok(counts) => sum = [0, 1, 2].map(|i| sum[i] + counts[i]),
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    assert!(sum.iter().all(|n| *n > 100), "yields, split brains, resolves: {sum:?}");
}

#[test]
fn without_overruling_a_resolve_is_reopened() {
    let rules = Rules { overruling: false, ..Rules::ALL };
    let found = (0..10_000).find(|seed| run(*seed, rules).is_err());
    assert!(found.is_some());
}

/// A decision that was taken back must not silence the other side's: that side would never be heard again.
#[test]
fn what_was_withdrawn_overrules_nothing() {
    let (root, one, two) = (EpochId([1; 16]), EpochId([2; 16]), EpochId([3; 16]));
    let mut table = Table::new();
    table.insert(row(root, None, StoreId([1; 16]), RowKind::Genesis)).unwrap();
    let fork = Some((Moment::new(root, 100), ChainValue::ZERO));
    table.insert(row(one, fork, StoreId([1; 16]), RowKind::Force)).unwrap();
    let mut other = row(two, fork, StoreId([2; 16]), RowKind::Failover);
    other.overrules = Some(one);
    table.insert(other).unwrap();
    let common = Moment::new(root, 100);
    let mine = |table: &Table, rules| standing_by(table, Moment::new(one, 105), common, rules).unwrap();
    assert_eq!(mine(&table, Rules::ALL), [], "overruled");
    table.withdraw(two, Token([1; 16]));
    assert_eq!(mine(&table, Rules::ALL), [one]);
    let wrong = Rules { withdrawn_overrules_nothing: false, ..Rules::ALL };
    assert_eq!(mine(&table, wrong), [], "the control: it would stay silenced");
}
