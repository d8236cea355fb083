use super::*;
use crate::history::{ChainValue, CommitPoints, JumpLine, JumpReason, Row, states_of};
use crate::vocab::{LogId, Moment, Seq};

const HERE: StoreId = StoreId([1; 16]);
const THERE: StoreId = StoreId([2; 16]);

fn op(n: u8) -> Token {
    Token([n; 16])
}

fn epoch(n: u8) -> EpochId {
    EpochId([n; 16])
}

fn row(n: u8, kind: RowKind) -> Event {
    let row = Row {
        epoch: epoch(n),
        parent: (kind != RowKind::Genesis).then(|| epoch(n - 1)),
        fork_seq: Seq(if kind == RowKind::Genesis { 0 } else { 10 }),
        fork_chain: ChainValue::ZERO,
        site: HERE,
        kind,
        overrules: None,
        op: op(n),
        time_ns: 0,
    };
    Event::Epoch { row, own: true }
}

fn intent(n: u8, operation: Operation) -> Event {
    Event::Intent { op: op(n), operation, moment: None, peer: Some(THERE) }
}

fn moment(n: u8, seq: u64) -> Moment {
    Moment::new(epoch(n), seq)
}

fn jump() -> Event {
    Event::Jump(JumpLine {
        from: None,
        from_chain: None,
        to: moment(1, 10),
        to_chain: ChainValue::ZERO,
        log: LogId([7; 16]),
        entries: 0,
        hash: ChainValue::ZERO,
        disks: Vec::new(),
        new_disks: Vec::new(),
        reason: JumpReason::Initial,
    })
}

fn protected(n: u8) -> Event {
    Event::Protected { op: op(n), peer: THERE, moment: moment(1, 10) }
}

thread_local! {
    static MET: std::cell::RefCell<Vec<State>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Lines, and the state after each.
fn walk(steps: &[(Event, State)]) -> Known {
    let mut known = Known::default();
    let mut so_far: Vec<Event> = Vec::new();
    for (event, state) in steps {
        known.take(event);
        so_far.push(event.clone());
        MET.with_borrow_mut(|met| met.push(*state));
        assert_eq!(known.state(), *state, "after {}", event.name());
        assert_eq!(Known::of(&so_far), known, "A1 after {}", event.name());
        // Whose disks are writable steps aside when the other site asks for it or has decided.
        let writes = states_of(&so_far).0.writes();
        assert!(writes || !state.writable(), "{} after {}", state.name(), event.name());
    }
    known
}

fn source() -> Vec<(Event, State)> {
    vec![
        (row(1, RowKind::Genesis), State::Unprotected),
        (intent(50, Operation::Initial), State::InitialReplication),
        (protected(50), State::Protected),
    ]
}

fn target() -> Vec<(Event, State)> {
    vec![
        (Event::Target { op: op(50), source: THERE, seed: None }, State::Receiving),
        (jump(), State::Standby),
    ]
}

fn failed_over() -> Vec<(Event, State)> {
    let mut steps = target();
    steps.push((intent(3, Operation::Failover), State::FailingOver));
    steps.push((row(3, RowKind::Failover), State::FailedOver));
    steps
}

#[test]
fn a_source_goes_through_its_states() {
    use State::*;
    let mut steps = source();
    let handover = Event::Handover { op: op(9), head: moment(1, 12), chain: ChainValue::ZERO };
    steps.extend([
        (Event::Paused { op: op(8), paused: true }, Protected),
        (Event::ResyncRequired { reason: ResyncReason::Asked }, ResyncRequired),
        (intent(51, Operation::Resync), Resyncing),
        (Event::Cancelled { op: op(51) }, ResyncRequired),
        (intent(52, Operation::Resync), Resyncing),
        (protected(52), Protected),
        (Event::BacklogCoalesced { peer: THERE, acknowledged: None }, Resyncing),
        (Event::Paused { op: op(8), paused: true }, Resyncing),
        (protected(0), Protected),
        (handover.clone(), HandingOver),
        (Event::HandoverEnded { op: op(9) }, Protected),
        (handover, HandingOver),
        (Event::Fence { epoch: epoch(9), head: moment(1, 12), common: moment(1, 12), op: None }, Fenced),
    ]);
    let known = walk(&steps);
    assert!(known.flags.paused && known.fenced_by == Some(epoch(9)) && known.peer == Some(THERE));
    assert!(known.decisions.is_empty());
    let mut forced = steps.clone();
    forced.push((row(4, RowKind::Force), FailedOver));
    assert_eq!(walk(&forced).decisions, [epoch(4)]);
    forced.push((protected(0), Protected));
    assert!(walk(&forced).decisions.is_empty(), "the other site follows the decision");
    let mut back = steps.clone();
    back.push((row(4, RowKind::Rollback), Protected));
    assert!(walk(&back).decisions.is_empty());
    steps.push((Event::Target { op: op(53), source: THERE, seed: Some(moment(1, 12)) }, ResyncingTarget));
    steps.push((jump(), Standby));
    walk(&steps);
}

/// A3.
#[test]
fn a_first_copy_that_is_refused_leaves_the_state_that_it_began_in() {
    use State::*;
    let unprotected = |n| Event::Unprotected { op: op(n), peer: THERE, delete: true };
    let mut steps = vec![
        (row(1, RowKind::Genesis), Unprotected),
        (intent(50, Operation::Initial), InitialReplication),
        (Event::Cancelled { op: op(50) }, Unprotected),
        (intent(51, Operation::Initial), InitialReplication),
        (protected(51), Protected),
        (Event::ResyncRequired { reason: ResyncReason::TargetGone }, ResyncRequired),
        (intent(52, Operation::Initial), InitialReplication),
        (Event::Cancelled { op: op(52) }, ResyncRequired),
        (intent(53, Operation::Initial), InitialReplication),
        (Event::Cancelled { op: op(53) }, ResyncRequired),
        // What the peer may have made is deleted.
        (unprotected(53), ResyncRequired),
        (Event::UnprotectHeard { op: op(53) }, ResyncRequired),
        (intent(54, Operation::Initial), InitialReplication),
        (protected(54), Protected),
    ];
    assert_eq!(walk(&steps).peer, Some(THERE));
    steps.truncate(12);
    steps.push((unprotected(60), Unprotected));
    walk(&steps);
}

#[test]
fn a_target_goes_through_its_states() {
    use State::*;
    let mut steps = failed_over();
    steps.extend([
        (row(4, RowKind::Change), FailedOver),
        (Event::Withdrawn { epoch: epoch(4), op: op(6) }, Standby),
    ]);
    // A crash between two lines of a rollback.
    let known = walk(&steps);
    assert_eq!(left_over(&known), Some(LeftOver::Withdraw(vec![epoch(3)])));
    steps.push((Event::Withdrawn { epoch: epoch(3), op: op(6) }, Standby));
    assert_eq!(left_over(&walk(&steps)), None);
    steps.extend([
        (intent(7, Operation::Failover), FailingOver),
        (Event::Cancelled { op: op(7) }, Standby),
        (Event::Orphaned { peer: THERE, migrated: false }, Orphaned),
    ]);
    walk(&steps);
}

#[test]
fn a_failover_is_committed_and_the_way_back_is_built() {
    use State::*;
    let mut steps = failed_over();
    let committed = Event::Committed { op: op(5), epoch: epoch(3), points: CommitPoints::Delete };
    steps.extend([
        (committed, Committed),
        (intent(60, Operation::Reprotect), Reprotecting),
        (Event::Cancelled { op: op(60) }, Committed),
        (intent(61, Operation::Reprotect), Reprotecting),
        (protected(61), Protected),
        (Event::Unprotected { op: op(62), peer: THERE, delete: false }, Unprotected),
    ]);
    let known = walk(&steps);
    assert!(!known.pinned() && known.decisions.is_empty());
    let mut migrated = failed_over();
    migrated.push((Event::Migrated { op: op(5) }, Unprotected));
    assert!(walk(&migrated).facts.migrated);
}

#[test]
fn what_needs_a_person() {
    use State::*;
    let rewound = Event::Rewound { common: moment(1, 4), proved: None, peer_head: moment(1, 9) };
    let split = Event::SplitBrain { common: moment(1, 4), peer_epoch: epoch(9) };
    let mut steps = source();
    steps.extend([
        (rewound, Rewound),
        (Event::Reconciled { epoch: None }, Protected),
        (row(4, RowKind::Force), FailedOver),
        (split, SplitBrain),
        (row(5, RowKind::Resolve), FailedOver),
    ]);
    let known = walk(&steps);
    assert_eq!(known.decisions, [epoch(4), epoch(5)]);
}

#[test]
fn an_intent_without_a_decision_is_left_over_and_only_then() {
    let mut steps = target();
    steps.push((intent(3, Operation::Failover), State::FailingOver));
    assert_eq!(left_over(&walk(&steps)), Some(LeftOver::Cancel(op(3))));
    // Who began a planned one waits for the source, which may be frozen for it.
    let mut planned = target();
    planned.push((intent(3, Operation::Planned), State::FailingOver));
    assert_eq!(left_over(&walk(&planned)), None);
    assert_eq!(left_over(&walk(&failed_over())), None);
    assert!(walk(&failed_over()).pinned());
}

/// Between them the walks meet every state: none is only on paper.
#[test]
fn every_state_is_met() {
    MET.with_borrow_mut(Vec::clear);
    a_source_goes_through_its_states();
    a_target_goes_through_its_states();
    a_failover_is_committed_and_the_way_back_is_built();
    what_needs_a_person();
    let missed: Vec<&State> =
        State::ALL.iter().filter(|state| !MET.with_borrow(|met| met.contains(state))).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
