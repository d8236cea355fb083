//! Every interleaving of planned failovers, breadth first: the steps are those of the product; the world around
//! them (a link that breaks, crashes, messages that arrive late) is this file's.

use super::*;
use std::collections::{HashMap, HashSet, VecDeque};

const WRITES: u8 = 3;

/// What the product must not do, and the test must notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Nothing,
    SourceTimesOut,
    TargetTimesOut,
    PromotesWithoutHolding,
    HandoverInMemory,
    CancelInMemory,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    source: SourceState,
    /// Guest writes that A acknowledged.
    head: u8,
    target: TargetState,
    /// Operations that B ever began.
    begun: u8,
    /// Records that B holds.
    held: u8,
    link: bool,
    to_a: Option<TargetSays>,
    to_b: Option<SourcePhase>,
    heard_a: Option<TargetSays>,
    heard_b: Option<SourcePhase>,
    forced: bool,
    lost: bool,
}

fn op(n: u8) -> Token {
    Token([n; 16])
}

fn epoch_of(op: Token) -> EpochId {
    EpochId(op.0)
}

fn moment(n: u8) -> Moment {
    Moment::new(EpochId([0xaa; 16]), u64::from(n))
}

fn start() -> World {
    World {
        source: SourceState::writer(),
        head: 0,
        target: TargetState::idle(),
        begun: 0,
        held: 0,
        link: true,
        to_a: None,
        to_b: None,
        heard_a: None,
        heard_b: None,
        forced: false,
        lost: false,
    }
}

fn cut(w: &World) -> World {
    World { to_a: None, to_b: None, heard_a: None, heard_b: None, ..w.clone() }
}

fn promoted(w: &World) -> bool {
    matches!(w.target.phase, TargetPhase::Promoted { .. })
}

/// Steps of the world that nobody may count on to get out of a state.
const NOT_NEEDED: [&str; 7] =
    ["link down", "A crashes", "B crashes", "A: force", "B: begin", "B: rollback", "guest write"];

fn steps(w: &World, wrong: Wrong, ops: u8) -> Vec<(&'static str, World)> {
    let mut out = Vec::new();
    if w.link {
        out.push(("link down", World { link: false, ..cut(w) }));
        if w.to_b.is_none() {
            out.push(("A sends", World { to_b: Some(w.source.phase), ..w.clone() }));
        }
        if w.to_a.is_none() {
            out.push(("B sends", World { to_a: Some(w.target.says()), ..w.clone() }));
        }
        if w.to_b.is_some() {
            out.push(("B hears", World { to_b: None, heard_b: w.to_b, ..w.clone() }));
        }
        if w.to_a.is_some() {
            out.push(("A hears", World { to_a: None, heard_a: w.to_a.clone(), ..w.clone() }));
        }
        if w.held < w.head && !promoted(w) {
            out.push(("B receives a record", World { held: w.held + 1, ..w.clone() }));
        }
    } else {
        out.push(("link up", World { link: true, ..w.clone() }));
    }
    let mut crashed = cut(w);
    if wrong == Wrong::HandoverInMemory && matches!(w.source.phase, SourcePhase::Handed { .. }) {
        crashed.source.phase = SourcePhase::Writer;
    }
    out.push(("A crashes", crashed));
    if wrong == Wrong::CancelInMemory
        && let (TargetPhase::Idle, Some(last)) = (w.target.phase, w.target.ended.last().copied())
    {
        let mut forgot = cut(w);
        forgot.target.ended.remove(&last);
        forgot.target.phase = TargetPhase::Intent { op: last };
        out.push(("B crashes", forgot));
    }
    out.push(("B crashes", cut(w)));
    source_steps(w, wrong, &mut out);
    target_steps(w, wrong, ops, &mut out);
    out
}

fn source_steps(w: &World, wrong: Wrong, out: &mut Vec<(&'static str, World)>) {
    if w.source.writes() && w.head < WRITES {
        out.push(("guest write", World { head: w.head + 1, ..w.clone() }));
    }
    let mut own = w.source.clone();
    if wrong == Wrong::CancelInMemory {
        own.handed.clear();
    }
    if let Some(step) = source_next(&own, w.heard_a.as_ref(), |_| true) {
        let name = match step {
            SourceStep::Handover { .. } => "A: handover",
            SourceStep::Fence { .. } => "A: fence",
            SourceStep::SourceAgain { .. } => "A: source again",
        };
        let mut source = own.after(step, moment(w.head), ChainValue([w.head; 32])).unwrap();
        source.handed.extend(&w.source.handed);
        out.push((name, World { source, ..w.clone() }));
    }
    let frozen = matches!(w.source.phase, SourcePhase::Handed { .. });
    if wrong == Wrong::SourceTimesOut && frozen && !w.link {
        let source = SourceState { phase: SourcePhase::Writer, ..w.source.clone() };
        out.push(("A: time-out", World { source, ..w.clone() }));
    }
    if !w.forced && (frozen || matches!(w.source.phase, SourcePhase::Fenced { .. })) {
        out.push(("A: force", World { source: w.source.clone().forced(), forced: true, ..w.clone() }));
    }
}

fn target_steps(w: &World, wrong: Wrong, ops: u8, out: &mut Vec<(&'static str, World)>) {
    if w.begun < ops
        && let Some(target) = w.target.begun(op(w.begun + 1))
    {
        out.push(("B: begin", World { target, begun: w.begun + 1, ..w.clone() }));
    }
    if let Some(target) = w.target.cancelled() {
        out.push(("B: cancel", World { target, ..w.clone() }));
    }
    let holds = |at: Moment, chain: ChainValue| {
        let held = moment(w.held) >= at && chain == ChainValue([at.seq.0 as u8; 32]);
        held || wrong == Wrong::PromotesWithoutHolding
    };
    let mut may = target_may_decide(&w.target, w.heard_b.as_ref(), holds);
    if let TargetPhase::Intent { op } = w.target.phase {
        // It trusts what it heard before the crash: that A handed over for this operation once.
        let remembered = wrong == Wrong::CancelInMemory && w.source.handed.contains(&op) && w.held >= w.head;
        if remembered || (wrong == Wrong::TargetTimesOut && !w.link) {
            may = Some(op);
        }
    }
    if let Some(op) = may
        && let Some(target) = w.target.decided(epoch_of(op))
    {
        out.push(("B: decides", World { target, lost: w.held < w.head, ..w.clone() }));
    }
    if let Some(target) = w.target.rolled_back() {
        out.push(("B: rollback", World { target, ..w.clone() }));
    }
}

fn violation(w: &World) -> Option<&'static str> {
    match (w.forced, promoted(w), w.source.writes()) {
        (true, _, _) | (_, false, _) => None,
        (_, _, true) => Some("two writers"),
        _ => w.lost.then_some("write lost"),
    }
}

fn settled(w: &World) -> bool {
    w.source.writes() != promoted(w) && !matches!(w.source.phase, SourcePhase::Handed { .. })
}

struct Explored {
    states: usize,
    bad: Option<(&'static str, Vec<&'static str>)>,
    stuck: usize,
}

fn explore(wrong: Wrong, ops: u8) -> Explored {
    let mut number: HashMap<World, usize> = HashMap::from([(start(), 0)]);
    let mut from: Vec<Option<(usize, &'static str)>> = vec![None];
    let mut before: Vec<Vec<usize>> = vec![vec![]];
    let (mut calm, mut forced) = (HashSet::new(), HashSet::new());
    let mut queue = VecDeque::from([start()]);
    let mut bad = None;
    while let Some(w) = queue.pop_front() {
        let at = number[&w];
        if let (Some(what), None) = (violation(&w), &bad) {
            let mut path = Vec::new();
            let mut state = at;
            while let Some((earlier, name)) = from[state] {
                path.push(name);
                state = earlier;
            }
            path.reverse();
            bad = Some((what, path));
            if wrong != Wrong::Nothing {
                break;
            }
        }
        if settled(&w) {
            calm.insert(at);
        }
        if w.forced {
            forced.insert(at);
        }
        for (name, next) in steps(&w, wrong, ops) {
            let to = *number.entry(next.clone()).or_insert_with(|| {
                from.push(Some((at, name)));
                before.push(vec![]);
                queue.push_back(next);
                from.len() - 1
            });
            if !NOT_NEEDED.contains(&name) {
                before[to].push(at);
            }
        }
    }
    let mut todo: Vec<usize> = calm.iter().copied().collect();
    while let Some(state) = todo.pop() {
        for &earlier in &before[state] {
            if calm.insert(earlier) {
                todo.push(earlier);
            }
        }
    }
    let stuck = (0..from.len()).filter(|s| !calm.contains(s) && !forced.contains(s)).count();
    Explored { states: from.len(), bad, stuck }
}

#[test]
fn never_two_writers_no_write_lost_and_a_way_out_of_each_state() {
    let ops = if std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full") { 2 } else { 1 };
    let explored = explore(Wrong::Nothing, ops);
    assert_eq!(explored.bad, None, "{} states", explored.states);
    assert_eq!(explored.stuck, 0, "of {} states", explored.states);
    assert!(explored.states > if ops == 2 { 50_000 } else { 2_000 }, "{} states", explored.states);
}

#[test]
fn leaving_a_rule_out_is_found() {
    for (wrong, expected, ops) in [
        (Wrong::SourceTimesOut, "two writers", 1),
        (Wrong::TargetTimesOut, "two writers", 1),
        (Wrong::PromotesWithoutHolding, "write lost", 1),
        (Wrong::HandoverInMemory, "two writers", 1),
        (Wrong::CancelInMemory, "two writers", 1),
    ] {
        let explored = explore(wrong, ops);
        let (found, path) = explored.bad.unwrap_or_else(|| panic!("{wrong:?} was not noticed"));
        assert_eq!(found, expected, "{wrong:?}: {path:?}");
        println!("{wrong:?}: {found}: {}", path.join(" > "));
    }
}

/// A step that was asked for under an older state doesn't thaw a source that has handed over again.
#[test]
fn a_late_step_that_no_longer_fits_is_not_made() {
    let step = |s: SourceState, step| s.after(step, moment(1), ChainValue::ZERO);
    let handed = step(SourceState::writer(), SourceStep::Handover { op: op(1) }).unwrap();
    assert_eq!(step(handed.clone(), SourceStep::SourceAgain { op: op(2) }), None);
    assert_eq!(step(handed.clone(), SourceStep::Handover { op: op(2) }), None);
    let again = step(handed, SourceStep::SourceAgain { op: op(1) }).unwrap();
    assert_eq!(step(again.clone(), SourceStep::Handover { op: op(1) }), None, "once for an operation");
    let fence = SourceStep::Fence { op: op(3), epoch: epoch_of(op(3)) };
    assert!(!step(again.clone(), fence).unwrap().writes());
    assert_eq!(step(SourceState::none(), fence), None);
    assert_eq!(step(again, SourceStep::SourceAgain { op: op(1) }), None);
}

#[test]
fn states_are_told_from_the_history() {
    let row = |n: u8, kind| Row {
        epoch: EpochId([n; 16]),
        parent: (n > 1).then(|| EpochId([n - 1; 16])),
        fork_seq: crate::vocab::Seq(u64::from(n)),
        fork_chain: ChainValue([n; 32]),
        site: crate::vocab::StoreId([1; 16]),
        kind,
        overrules: None,
        op: op(n),
        time_ns: 0,
    };
    let own = |n, kind| Event::Epoch { row: row(n, kind), own: true };
    let mut events = vec![own(1, RowKind::Genesis)];
    assert_eq!(states_of(&events), (SourceState::writer(), TargetState::idle()));
    events.push(Event::Handover { op: op(7), head: moment(9), chain: ChainValue([9; 32]) });
    assert_eq!(
        states_of(&events).0.phase,
        SourcePhase::Handed { op: op(7), head: moment(9), chain: ChainValue([9; 32]) }
    );
    events.push(own(2, RowKind::Open));
    assert!(!states_of(&events).0.writes(), "an opening doesn't thaw");
    events.push(Event::Epoch { row: row(3, RowKind::Planned), own: false });
    events.push(Event::Fence { epoch: EpochId([3; 16]), head: moment(9), common: moment(9), op: None });
    assert_eq!(states_of(&events).0.phase, SourcePhase::Fenced { op: op(3), epoch: EpochId([3; 16]) });
    events.push(Event::Target { op: op(8), source: crate::vocab::StoreId([2; 16]), seed: None });
    events.push(Event::Intent { op: op(4), operation: Operation::Planned, moment: None, peer: None });
    assert_eq!(states_of(&events).1.phase, TargetPhase::Intent { op: op(4) });
    assert_eq!(states_of(&events).0.phase, SourcePhase::None);
    events.push(own(4, RowKind::Planned));
    let (source, target) = states_of(&events);
    assert!(source.writes());
    assert_eq!(target.phase, TargetPhase::Promoted { op: op(4), epoch: EpochId([4; 16]) });
    assert!(source.handed.contains(&op(7)), "for ever");
    events.push(Event::Withdrawn { epoch: EpochId([4; 16]), op: op(5) });
    let (source, target) = states_of(&events);
    assert!(!source.writes() && target.ended.contains(&op(4)) && target.phase == TargetPhase::Idle);
    assert_eq!(target.begun(op(4)), None, "an operation is used once");
    events.push(Event::Intent { op: op(6), operation: Operation::Failover, moment: None, peer: None });
    events.push(Event::Cancelled { op: op(6) });
    assert!(states_of(&events).1.ended.contains(&op(6)));
}
