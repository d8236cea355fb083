use super::*;
use crate::history::tests::sites::row;
use crate::history::{ChainValue, RowKind};
use crate::vocab::{EpochId, Seq, StoreId};
use std::collections::BTreeMap;

fn m(epoch_number: u8, seq: u64) -> Moment {
    Moment::new(EpochId([epoch_number; 16]), seq)
}

/// A: 1 to 100 of the first epoch; B failed over at 60 and wrote to 70.
fn table() -> Table {
    let mut table = Table::new();
    table.insert(row(EpochId([1; 16]), None, StoreId([1; 16]), RowKind::Genesis)).unwrap();
    let fork = Some((m(1, 60), ChainValue::ZERO));
    table.insert(row(EpochId([2; 16]), fork, StoreId([2; 16]), RowKind::Failover)).unwrap();
    table
}

fn path(table: &Table, head: Moment) -> Path {
    Path::build(table, head, &BTreeMap::new(), None).unwrap()
}

fn common(c: Moment, proved: Option<Moment>) -> Option<Common> {
    Some(Common { by_rows: c, compared: proved, proved })
}

#[test]
fn the_first_possible_way_is_taken_and_says_why() {
    let t = table();
    let (writer, old) = (path(&t, m(2, 70)), path(&t, m(1, 100)));
    let root = Some(m(1, 0));
    let src = Holding { path: &writer, records_from: root, ranges_from: root };
    let dst = Holding { path: &old, records_from: root, ranges_from: root };
    let c = m(1, 60);
    let way = |src: &Holding<'_>, dst: &Holding<'_>, floor, common| {
        choose(&t, src, Some(dst), &[Some(m(1, 0)), floor], common).unwrap()
    };
    let proved = common(c, Some(c));
    assert_eq!(way(&src, &dst, Some(m(1, 60)), proved).kind, WayKind::Replay { from: c });
    // Its base has passed the fork; no record is needed for a delta.
    let delta = WayKind::Delta { after: c };
    assert_eq!(way(&src, &dst, Some(m(1, 61)), proved).kind, delta);
    assert_eq!(way(&src, &dst, None, proved).because, ["a disk of the target has no floor on its path"]);
    let destaged = Holding { records_from: Some(m(2, 65)), ..src };
    assert_eq!(way(&destaged, &dst, Some(m(1, 40)), proved).kind, delta, "records of the writer are gone");
    let holes = Holding { records_from: Some(m(1, 50)), ..dst };
    assert_eq!(way(&src, &holes, Some(m(1, 40)), proved).kind, delta, "between base and c records are gone");
    let floors = [Some(m(1, 50)), Some(m(1, 60))];
    let replay = choose(&t, &src, Some(&holes), &floors, proved).unwrap();
    assert_eq!(replay.kind, WayKind::Replay { from: c });
    // Without a value at c itself: from the lower proved moment.
    let lower = way(&src, &dst, Some(m(1, 40)), common(c, Some(m(1, 40))));
    assert_eq!(lower.kind, WayKind::Delta { after: m(1, 40) });
    // Ranges that don't reach, chains that differ, nothing proved: tree.
    let short = Holding { ranges_from: Some(m(1, 61)), ..dst };
    let tree = way(&src, &short, Some(m(1, 61)), proved);
    assert_eq!((tree.kind, tree.because.len()), (WayKind::Tree, 2));
    assert_eq!(way(&src, &dst, Some(m(1, 40)), common(c, None)).kind, WayKind::Tree);
    let differ = Some(Common { by_rows: c, compared: Some(c), proved: Some(m(1, 40)) });
    assert_eq!(way(&src, &dst, Some(m(1, 40)), differ).kind, WayKind::Tree);
    assert_eq!(way(&src, &dst, Some(m(1, 40)), None).kind, WayKind::Tree);
    assert_eq!(choose(&t, &src, None, &[], proved).unwrap().kind, WayKind::Full);
}

#[test]
fn a_delta_takes_what_both_paths_changed() {
    let t = table();
    let ranges = |head, after| delta_ranges(&t, &path(&t, head), after).unwrap();
    let records = |number: u8, after, to| Piece::Records {
        epoch: EpochId([number; 16]),
        after: Seq(after),
        to: Seq(to),
    };
    assert_eq!(ranges(m(1, 100), m(1, 60)), [records(1, 60, 100)]);
    assert_eq!(ranges(m(2, 70), m(1, 60)), [records(2, 60, 70)]);
    assert_eq!(ranges(m(2, 70), m(1, 40)), [records(1, 40, 60), records(2, 60, 70)]);
    assert_eq!(ranges(m(2, 70), m(1, 0)), [records(1, 0, 60), records(2, 60, 70)]);
    assert_eq!(ranges(m(2, 70), m(1, 61)), [], "not on its path");
    // After a jump from its old head the path has the jump, and what lay before it.
    let jumps = BTreeMap::from([(m(2, 65), Some(m(1, 100)))]);
    let jumped = Path::build(&t, m(2, 68), &jumps, None).unwrap();
    let jump = Piece::Jump { to: m(2, 65), from_image: true };
    let after = delta_ranges(&t, &jumped, m(1, 60)).unwrap();
    assert_eq!(after, [records(1, 60, 100), jump, records(2, 65, 68)]);
    assert_eq!(delta_ranges(&t, &jumped, m(2, 65)).unwrap(), [records(2, 65, 68)]);
    assert_eq!(delta_ranges(&t, &jumped, m(1, 100)).unwrap(), [jump, records(2, 65, 68)]);
    let holding = Holding { path: &jumped, records_from: Some(m(1, 0)), ranges_from: None };
    assert!(has_records(&t, &holding, m(2, 65)).unwrap() && !has_records(&t, &holding, m(1, 100)).unwrap());
}

#[test]
fn a_path_ends_where_it_is_told_or_at_a_jump_from_nothing() {
    let t = table();
    let cut = Path::build(&t, m(2, 70), &BTreeMap::new(), Some(m(1, 30))).unwrap();
    assert_eq!(cut.start(), Some(m(1, 30)));
    assert!(cut.meets(&t, m(1, 30)).unwrap() && !cut.meets(&t, m(1, 29)).unwrap());
    let first = BTreeMap::from([(m(1, 50), None)]);
    let copied = Path::build(&t, m(2, 70), &first, None).unwrap();
    assert_eq!(copied.start(), None);
    assert!(copied.meets(&t, m(1, 50)).unwrap() && !copied.meets(&t, m(1, 49)).unwrap());
    assert_eq!(copied.pieces()[0], Piece::Jump { to: m(1, 50), from_image: false });
}
