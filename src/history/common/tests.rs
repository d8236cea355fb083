use super::*;
use crate::history::tests::sites::row;
use crate::history::{MarkReason, RowKind};
use crate::vocab::{EpochId, StoreId};
use std::collections::BTreeMap;

fn epoch(n: u8) -> EpochId {
    EpochId([n; 16])
}

fn m(epoch_number: u8, seq: u64) -> Moment {
    Moment::new(epoch(epoch_number), seq)
}

fn table(rows: &[(u8, Option<(u8, u64)>)]) -> Table {
    let mut table = Table::new();
    for &(number, fork) in rows {
        let fork = fork.map(|(parent, seq)| (m(parent, seq), ChainValue::ZERO));
        let kind = if fork.is_some() { RowKind::Open } else { RowKind::Genesis };
        table.insert(row(epoch(number), fork, StoreId([1; 16]), kind)).unwrap();
    }
    table
}

/// The cases of the recovery rules: heads of both sides and their common moment.
#[test]
fn the_common_moment_is_told_from_the_rows() {
    // Power cut: A wrote on from 7 after losing 8 to 10.
    let t = table(&[(1, None), (2, Some((1, 7)))]);
    assert_eq!(common_by_rows(&t, m(2, 12), m(1, 7)).unwrap(), Some(m(1, 7)));
    // Restored source: it went on from 4, the target holds 10 of the first epoch.
    let t = table(&[(1, None), (2, Some((1, 4)))]);
    assert_eq!(common_by_rows(&t, m(2, 9), m(1, 10)).unwrap(), Some(m(1, 4)));
    // Planned at 20, empty loop back at 21.
    let t = table(&[(1, None), (2, Some((1, 20))), (3, Some((2, 21)))]);
    assert_eq!(common_by_rows(&t, m(1, 20), m(2, 21)).unwrap(), Some(m(1, 20)));
    assert_eq!(common_by_rows(&t, m(3, 22), m(2, 21)).unwrap(), Some(m(2, 21)));
    // Change of point: a branch at 60, the line goes on from 80.
    let t = table(&[(1, None), (2, Some((1, 60))), (3, Some((1, 80)))]);
    assert_eq!(common_by_rows(&t, m(1, 100), m(2, 70)).unwrap(), Some(m(1, 60)));
    assert_eq!(common_by_rows(&t, m(1, 100), m(3, 90)).unwrap(), Some(m(1, 80)));
    assert_eq!(common_by_rows(&t, m(2, 70), m(3, 90)).unwrap(), Some(m(1, 60)));
    // Nothing in common, not even a root.
    let t = table(&[(1, None), (9, None)]);
    assert_eq!(common_by_rows(&t, m(1, 5), m(9, 5)).unwrap(), None);
}

/// Marks of a site on one epoch; values differ from `differs_from` on.
fn marks(seqs: impl IntoIterator<Item = u64>, differs_from: u64) -> LineMarks {
    let t = table(&[(1, None)]);
    let mut set = MarkSet::default();
    for seq in seqs {
        let mut h = [0; 32];
        h[..8].copy_from_slice(&seq.to_le_bytes());
        h[8] = u8::from(seq >= differs_from);
        set.keep(
            ChainMark { epoch: epoch(1), seq: Seq(seq), h: ChainValue(h), time_ns: 0 },
            MarkReason::Point,
        );
    }
    let path = Path::build(&t, m(1, 1 << 40), &BTreeMap::new(), None).unwrap();
    LineMarks::new(&set, &t, &path, m(1, 1 << 40)).unwrap()
}

/// Questions asked until the end.
fn search(mine: &LineMarks, theirs: &LineMarks) -> (Common, usize) {
    let mut search = Search::new(m(1, 1 << 40), mine.clone());
    for questions in 0..10_000 {
        match search.next_step() {
            Step::Done(found) => return (found, questions),
            Step::Ask(question) => {
                assert!(question.at.len() <= QUESTION_MAX);
                assert!(search.heard(&theirs.answer(&question)));
            }
        }
    }
    panic!("the search doesn't end");
}

#[test]
fn the_proof_is_at_the_greatest_moment_that_both_have() {
    let (found, questions) = search(&marks([10, 20, 30, 40], u64::MAX), &marks([5, 20, 30, 35], u64::MAX));
    assert_eq!((found.compared, found.proved, questions), (Some(m(1, 30)), Some(m(1, 30)), 1));
    let (found, _) = search(&marks([10, 20], u64::MAX), &marks([5, 15], u64::MAX));
    assert_eq!((found.compared, found.proved), (None, None));
    assert!(found.agrees(), "nothing contradicts");
}

#[test]
fn halving_finds_the_last_equal_mark_in_few_questions() {
    for differs_from in [1, 4096, 500_000, 4096 * 50_000, 4096 * 99_999] {
        let mine = marks((1..100_000).map(|n| n * 4096), u64::MAX);
        let theirs = marks((1..100_000).map(|n| n * 4096), differs_from);
        let (found, questions) = search(&mine, &theirs);
        let equal = (differs_from - 1) / 4096 * 4096;
        assert_eq!(found.compared, Some(m(1, 99_999 * 4096)), "{differs_from}");
        assert_eq!(found.proved, (equal > 0).then(|| m(1, equal)), "{differs_from}");
        assert!(questions <= 6, "{questions} questions");
        assert!(!found.agrees());
    }
}

/// Against a plain loop over both sets, with marks that only one side has all over.
#[test]
fn the_search_equals_a_plain_comparison() {
    for seed in 0..crate::history::tests::seeds(2000, 20_000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (density, end) = (rng.f64(), rng.u64(1..2000));
        let mut some = || -> Vec<u64> { (1..end).filter(|_| rng.f64() < density).collect() };
        let (a, b) = (some(), some());
        let differs_from = fastrand::Rng::with_seed(seed ^ 1).u64(1..end + 1);
        let (found, _) = search(&marks(a.clone(), u64::MAX), &marks(b.clone(), differs_from));
        let both: Vec<u64> = a.into_iter().filter(|n| b.contains(n)).collect();
        let equal = both.iter().copied().filter(|n| *n < differs_from).max();
        assert_eq!(found.compared, both.iter().max().map(|n| m(1, *n)), "seed {seed}");
        assert_eq!(found.proved, equal.map(|n| m(1, n)), "seed {seed}");
    }
}

#[test]
fn marks_inside_a_jump_or_on_a_branch_prove_nothing() {
    let t = table(&[(1, None), (2, Some((1, 60)))]);
    let mut set = MarkSet::default();
    for moment in [m(1, 10), m(1, 55), m(1, 70), m(2, 65), m(2, 80)] {
        let mark = ChainMark { epoch: moment.epoch, seq: moment.seq, h: ChainValue::ZERO, time_ns: 0 };
        set.keep(mark, MarkReason::Point);
    }
    // From 40 of the first epoch it jumped to 75 of the second.
    let jumps = BTreeMap::from([(m(2, 75), Some(m(1, 40)))]);
    let path = Path::build(&t, m(2, 90), &jumps, None).unwrap();
    let found = LineMarks::new(&set, &t, &path, m(2, 90)).unwrap();
    let kept: Vec<Moment> = found.marks.iter().map(ChainMark::moment).collect();
    assert_eq!(kept, [m(1, 10), m(2, 80)], "55 and 65 lie in the jump, 70 on a branch");
    assert!(path.meets(&t, m(2, 75)).unwrap() && path.meets(&t, m(1, 40)).unwrap());
    assert!(!path.meets(&t, m(1, 41)).unwrap());
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let mut search = Search::new(m(1, 100), marks([10, 20], u64::MAX));
    let answer = Answer { values: vec![None, None], below: None };
    assert!(!search.heard(&answer), "nothing was asked");
    assert!(matches!(search.next_step(), Step::Ask(_)));
    assert!(!search.heard(&Answer { values: vec![None], below: None }));
    assert!(search.heard(&answer));
    assert!(!search.heard(&answer), "once");
}
