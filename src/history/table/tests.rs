use super::*;
use crate::history::RowKind;
use crate::vocab::StoreId;

fn epoch(n: u8) -> EpochId {
    EpochId([n; 16])
}

fn row(n: u8, parent: Option<(u8, u64)>, kind: RowKind) -> Row {
    Row {
        epoch: epoch(n),
        parent: parent.map(|(p, _)| epoch(p)),
        fork_seq: Seq(parent.map_or(0, |(_, seq)| seq)),
        fork_chain: ChainValue([n; 32]),
        site: StoreId([1; 16]),
        kind,
        overrules: None,
        op: Token([n; 16]),
        time_ns: 0,
    }
}

/// The schedule of a change of point: E1 to 95, E2 from 60, E3 from 80 of E1.
fn table() -> Table {
    let mut t = Table::new();
    for r in [
        row(1, None, RowKind::Genesis),
        row(2, Some((1, 60)), RowKind::Failover),
        row(3, Some((1, 80)), RowKind::Change),
        row(4, Some((3, 80)), RowKind::Open),
    ] {
        assert!(t.insert(r).unwrap());
    }
    t
}

#[test]
fn a_line_leads_from_the_root() {
    let t = table();
    let line = t.line(Moment::new(epoch(3), 85)).unwrap();
    assert_eq!(line.steps(), [Moment::new(epoch(1), 80), Moment::new(epoch(3), 85)]);
    assert_eq!(line.epoch_of(Seq(61)), Some(epoch(1)), "61 of the first epoch, not of the branch");
    assert_eq!(line.at(Seq(80)), Some(Moment::new(epoch(1), 80)));
    assert_eq!(line.at(Seq(81)), Some(Moment::new(epoch(3), 81)));
    assert_eq!(line.at(Seq(86)), None);
    assert!(t.is_on_line(Moment::new(epoch(1), 80), Moment::new(epoch(3), 85)).unwrap());
    assert!(
        t.is_on_line(Moment::new(epoch(3), 80), Moment::new(epoch(1), 95)).unwrap(),
        "a fork has two names"
    );
    assert!(!t.is_on_line(Moment::new(epoch(1), 81), Moment::new(epoch(3), 85)).unwrap());
    assert!(!t.is_on_line(Moment::new(epoch(2), 61), Moment::new(epoch(3), 85)).unwrap());
    assert!(t.is_ancestor(epoch(1), epoch(4)).unwrap() && !t.is_ancestor(epoch(2), epoch(4)).unwrap());
}

#[test]
fn a_moment_at_a_fork_has_one_name() {
    let t = table();
    let fork = Moment::new(epoch(1), 80);
    assert_eq!(t.norm(Moment::new(epoch(4), 80)).unwrap(), fork, "through two forks");
    assert_eq!(t.norm(Moment::new(epoch(1), 80)).unwrap(), fork);
    assert_eq!(t.norm(Moment::new(epoch(4), 81)).unwrap(), Moment::new(epoch(4), 81));
    assert_eq!(t.below(Moment::new(epoch(4), 81)).unwrap(), Some(fork));
    assert_eq!(t.below(Moment::new(epoch(1), 0)).unwrap(), None);
    assert!(t.is_fork(Moment::new(epoch(1), 60)).unwrap() && !t.is_fork(Moment::new(epoch(1), 61)).unwrap());
}

#[test]
fn what_a_table_cannot_say_it_refuses() {
    let mut t = table();
    let unknown = Moment::new(epoch(9), 1);
    assert_eq!(t.line(unknown), Err(TableError::UnknownEpoch(epoch(9))));
    assert_eq!(t.norm(unknown), Err(TableError::UnknownEpoch(epoch(9))));
    let early = Moment::new(epoch(2), 59);
    assert_eq!(t.line(early), Err(TableError::BeforeFork(early)));
    assert_eq!(t.norm(early), Err(TableError::BeforeFork(early)));
    t.insert(row(5, Some((6, 7)), RowKind::Open)).unwrap();
    t.insert(row(6, Some((5, 7)), RowKind::Open)).unwrap();
    assert!(matches!(t.line(Moment::new(epoch(5), 8)), Err(TableError::Circle(_))));
    assert!(matches!(t.norm(Moment::new(epoch(5), 7)), Err(TableError::Circle(_))));
}

#[test]
fn two_rows_for_one_epoch_stop_everything() {
    let mut t = table();
    let mut other = Table::new();
    other.insert(row(7, Some((1, 3)), RowKind::Open)).unwrap();
    other.insert(row(2, Some((1, 61)), RowKind::Failover)).unwrap();
    let before = t.clone();
    let error = t.merge(&other).unwrap_err();
    assert!(
        matches!(&error, TableError::Conflict(c) if c.mine.fork_seq == Seq(60) && c.theirs.fork_seq == Seq(61))
    );
    assert!(
        error.to_string().contains("60@01010101") && error.to_string().contains("61@01010101"),
        "{error}"
    );
    assert_eq!(t, before, "nothing of a conflicting table is taken");
    assert_eq!(Error::from(error).kind(), Kind::Conflict);
}

#[test]
fn merging_is_union_in_any_order() {
    let (mut a, mut b) = (table(), Table::new());
    b.insert(row(8, Some((2, 65)), RowKind::Rollback)).unwrap();
    assert!(b.withdraw(epoch(2), Token([1; 16])) && !b.withdraw(epoch(2), Token([2; 16])));
    let (a0, b0) = (a.clone(), b.clone());
    a.merge(&b0).unwrap();
    b.merge(&a0).unwrap();
    assert_eq!(a, b);
    assert_eq!(a.digest(), b.digest());
    assert_ne!(a.digest(), a0.digest());
    assert!(a.is_withdrawn(epoch(2)) && !a.is_withdrawn(epoch(3)));
    assert_eq!(a.len(), 5);
}

#[test]
fn a_prefix_must_be_long_enough_and_mean_one() {
    let mut t = table();
    let mut near = row(5, Some((1, 5)), RowKind::Open);
    near.epoch = EpochId([3; 16]);
    near.epoch.0[15] = 0xfe;
    t.insert(near.clone()).unwrap();
    assert_eq!(t.by_prefix("02020202"), Ok(epoch(2)));
    assert_eq!(t.by_prefix(&near.epoch.to_string().to_uppercase()), Ok(near.epoch));
    assert!(matches!(t.by_prefix("0202020"), Err(PrefixError::NotAnEpoch(_))));
    assert!(matches!(t.by_prefix("0202020z"), Err(PrefixError::NotAnEpoch(_))));
    assert!(matches!(t.by_prefix("aaaaaaaa"), Err(PrefixError::None(_))));
    assert!(matches!(t.by_prefix("03030303"), Err(PrefixError::Several(..))));
}
