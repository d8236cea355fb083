//! The timelines of the recovery rules, one by one.

use super::*;
use crate::history::tests::sites::row;
use crate::history::{ChainValue, RowKind, common_by_rows};
use crate::vocab::{Seq, Token};

const A: StoreId = StoreId([1; 16]);
const B: StoreId = StoreId([2; 16]);

fn m(epoch_number: u8, seq: u64) -> Moment {
    Moment::new(EpochId([epoch_number; 16]), seq)
}

struct Case {
    table: Table,
}

impl Case {
    fn new() -> Self {
        let mut table = Table::new();
        table.insert(row(EpochId([1; 16]), None, A, RowKind::Genesis)).unwrap();
        Self { table }
    }

    fn row(mut self, number: u8, fork: (u8, u64), site: StoreId, kind: RowKind, over: Option<u8>) -> Self {
        let mut row = row(EpochId([number; 16]), Some((m(fork.0, fork.1), ChainValue::ZERO)), site, kind);
        row.overrules = over.map(|n| EpochId([n; 16]));
        self.table.insert(row).unwrap();
        self
    }

    fn withdrawn(mut self, number: u8) -> Self {
        self.table.withdraw(EpochId([number; 16]), Token([1; 16]));
        self
    }

    /// Heads of A and B, and whether they write; all chains agree.
    fn meet(&self, a: (Moment, bool), b: (Moment, bool)) -> Outcome {
        let c = common_by_rows(&self.table, a.0, b.0).unwrap().unwrap();
        self.meet_by(a, b, Common { by_rows: c, compared: Some(c), proved: Some(c) }, None)
    }

    fn meet_by(
        &self,
        a: (Moment, bool),
        b: (Moment, bool),
        common: Common,
        lacks: Option<EpochId>,
    ) -> Outcome {
        let side = |site, (head, writes), lacks_own| Side { site, head, writes, lacks_own };
        let one = decide(&self.table, side(A, a, lacks), side(B, b, None), common).unwrap();
        let other = decide(&self.table, side(B, b, None), side(A, a, lacks), common).unwrap();
        assert_eq!(one, other, "both sites come to the same");
        one
    }
}

fn kind(outcome: &Outcome) -> ConflictKind {
    match outcome {
        Outcome::Conflict(conflict) => conflict.kind,
        other => panic!("no conflict: {other:?}"),
    }
}

const FOLLOWS_A: Outcome = Outcome::Follow { source: A, target: B, by_records: true };

#[test]
fn after_a_power_cut_the_target_follows() {
    let case = Case::new().row(2, (1, 7), A, RowKind::Open, None);
    assert_eq!(case.meet((m(2, 12), true), (m(1, 7), false)), FOLLOWS_A);
    let (a, b) = ((m(2, 12), true), (m(1, 7), false));
    let unproved = Common { by_rows: m(1, 7), compared: Some(m(1, 5)), proved: Some(m(1, 5)) };
    let jump = Outcome::Follow { source: A, target: B, by_records: false };
    assert_eq!(case.meet_by(a, b, unproved, None), jump, "no value at c itself: a jump");
}

#[test]
fn a_restored_source_is_rewound_until_a_person_decides() {
    let case = Case::new().row(2, (1, 400), A, RowKind::Open, None);
    let (a, b) = ((m(2, 450), true), (m(1, 1000), false));
    let outcome = case.meet(a, b);
    assert_eq!(kind(&outcome), ConflictKind::RewoundBehind);
    let Outcome::Conflict(conflict) = outcome else { unreachable!() };
    let text = conflict.to_string();
    for part in
        ["rewound", "400@01010101", "site 01010101: head 450@02020202, writes", "site 02020202: head 1000@"]
    {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    // (i) B is right: failover there. (ii) A is right: resolve.
    let b_right = case.row(3, (1, 1000), B, RowKind::Failover, None);
    let outcome = b_right.meet(a, (m(3, 1001), true));
    assert!(matches!(
        outcome,
        Outcome::Yield { winner: B, loser: A, loser_writes: true, nothing_lost: false, .. }
    ));
    let a_right =
        Case::new().row(2, (1, 400), A, RowKind::Open, None).row(4, (2, 450), A, RowKind::Resolve, None);
    let outcome = a_right.meet((m(4, 451), true), b);
    assert!(matches!(
        outcome,
        Outcome::Yield { winner: A, loser: B, loser_writes: false, nothing_lost: false, .. }
    ));
}

#[test]
fn a_writer_that_lacks_its_own_epoch_or_differs_in_content_is_rewound() {
    let case = Case::new().row(2, (1, 7), A, RowKind::Open, None);
    let (a, b) = ((m(1, 9), true), (m(1, 7), false));
    let same = Common { by_rows: m(1, 7), compared: Some(m(1, 7)), proved: Some(m(1, 7)) };
    let lacks = Some(EpochId([2; 16]));
    assert_eq!(kind(&case.meet_by(a, b, same, lacks)), ConflictKind::RewoundLacksOwn);
    let differ = Common { proved: Some(m(1, 3)), ..same };
    assert_eq!(kind(&case.meet_by(a, b, differ, None)), ConflictKind::RewoundContent);
}

#[test]
fn one_decision_wins_and_two_are_a_split_brain() {
    let one = Case::new().row(2, (1, 90), B, RowKind::Failover, None);
    let outcome = one.meet((m(1, 130), true), (m(2, 99), true));
    assert!(matches!(outcome, Outcome::Yield { winner: B, loser: A, loser_writes: true, .. }), "{outcome:?}");
    let two = one.row(3, (1, 100), A, RowKind::Force, None);
    let outcome = two.meet((m(3, 120), true), (m(2, 99), true));
    assert_eq!(kind(&outcome), ConflictKind::SplitBrain);
    let Outcome::Conflict(conflict) = outcome else { unreachable!() };
    assert!(conflict.sides.iter().all(|s| s.standing.len() == 1 && s.rows.len() == 1));
    assert!(conflict.to_string().contains("force"), "{conflict}");
    let known =
        Case::new().row(2, (1, 90), B, RowKind::Failover, None).row(3, (1, 100), A, RowKind::Force, Some(2));
    let outcome = known.meet((m(3, 120), true), (m(2, 99), true));
    assert!(matches!(outcome, Outcome::Yield { winner: A, loser: B, .. }), "overruled");
}

#[test]
fn a_withdrawn_decision_is_none() {
    let rolled_back = Case::new().row(2, (1, 90), B, RowKind::Failover, None).withdrawn(2);
    assert_eq!(rolled_back.meet((m(1, 130), true), (m(1, 95), false)), FOLLOWS_A);
    // Once fenced, A goes on with a decided row: B, which has nothing of its own, may follow.
    let back = rolled_back.row(3, (1, 130), A, RowKind::Rollback, Some(2));
    let outcome = back.meet((m(3, 131), true), (m(1, 95), false));
    assert!(matches!(
        outcome,
        Outcome::Yield { winner: A, loser: B, nothing_lost: true, loser_writes: false, .. }
    ));
    let again = back.row(4, (1, 95), B, RowKind::Failover, Some(3));
    let outcome = again.meet((m(1, 130), true), (m(4, 99), true));
    assert!(matches!(outcome, Outcome::Yield { winner: B, .. }), "{outcome:?}");
}

#[test]
fn planned_and_back_without_a_write_is_no_conflict() {
    let planned = Case::new().row(2, (1, 20), B, RowKind::Planned, None);
    let outcome = planned.meet((m(1, 20), false), (m(2, 21), true));
    assert!(matches!(
        outcome,
        Outcome::Yield { winner: B, loser: A, nothing_lost: true, loser_writes: false, .. }
    ));
    let back = planned.row(3, (2, 21), A, RowKind::Planned, None);
    let outcome = back.meet((m(3, 22), true), (m(2, 21), false));
    assert!(matches!(outcome, Outcome::Yield { winner: A, loser: B, nothing_lost: true, .. }), "{outcome:?}");
}

#[test]
fn where_nobody_or_both_write_without_a_decision_a_person_decides() {
    let case = Case::new().row(2, (1, 7), A, RowKind::Open, None);
    assert_eq!(kind(&case.meet((m(2, 9), false), (m(1, 7), false))), ConflictKind::NobodyWrites);
    assert_eq!(kind(&case.meet((m(2, 9), true), (m(1, 7), true))), ConflictKind::RewoundTwoWriters);
    let idle = Case::new().row(2, (1, 7), B, RowKind::Failover, None);
    assert_eq!(kind(&idle.meet((m(1, 9), true), (m(2, 8), false))), ConflictKind::RewoundAgainstIdle);
}

/// T7: inside a jump. The writer's store went back below what the target got by a jump.
#[test]
fn a_common_moment_inside_a_jump_is_still_told_by_name() {
    let case =
        Case::new().row(2, (1, 10), B, RowKind::Failover, None).row(5, (2, 20), B, RowKind::Open, None);
    let common = common_by_rows(&case.table, m(2, 28), m(5, 22)).unwrap().unwrap();
    assert_eq!(common, m(2, 20));
    let proved = Common { by_rows: common, compared: Some(m(1, 10)), proved: Some(m(1, 10)) };
    let outcome = case.meet_by((m(2, 28), false), (m(5, 22), true), proved, None);
    assert_eq!(kind(&outcome), ConflictKind::RewoundBehind);
}

#[test]
fn a_row_of_ones_own_that_only_the_peer_knows_is_noticed() {
    let mine = Case::new().table;
    let theirs = Case::new().row(2, (1, 7), A, RowKind::Open, None).table;
    assert_eq!(lacks_own(A, &mine, &theirs), Some(EpochId([2; 16])));
    assert_eq!(lacks_own(B, &mine, &theirs), None);
    assert_eq!(lacks_own(A, &theirs, &mine), None);
}

#[test]
fn a_decision_overrules_the_newest_that_its_maker_knew() {
    let case = Case::new()
        .row(2, (1, 90), B, RowKind::Failover, None)
        .row(3, (2, 95), B, RowKind::Change, None)
        .row(4, (3, 99), B, RowKind::Open, None);
    let known = overrules(&case.table, m(1, 130), Some(m(4, 101))).unwrap();
    assert_eq!(known, Some(EpochId([3; 16])));
    assert_eq!(overrules(&case.table, m(1, 130), None).unwrap(), None);
    assert_eq!(overrules(&case.table, m(4, 101), Some(m(4, 101))).unwrap(), None, "its own line");
    assert_eq!(Seq(91), case.table.row(EpochId([2; 16])).unwrap().first_seq());
}
