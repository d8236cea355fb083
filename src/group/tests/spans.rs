//! Paths through spans that hold the same records.

use crate::format::Span;
use crate::group::spans::Spans;
use crate::history::{ChainValue, Row, RowKind, Table};
use crate::index::{Interval, Path};
use crate::journal::LEFT_OUT;
use crate::vocab::{EpochId, Error, Kind, LogId, Moment, Pos, Seq, StoreId, Token};

const LOG: LogId = LogId([1; 16]);

fn row(epoch: u128, parent: Option<u128>, fork: u64) -> Row {
    Row {
        epoch: EpochId(epoch.to_le_bytes()),
        parent: parent.map(|p| EpochId(p.to_le_bytes())),
        fork_seq: Seq(fork),
        fork_chain: ChainValue::ZERO,
        site: StoreId([1; 16]),
        kind: if parent.is_some() { RowKind::Failover } else { RowKind::Genesis },
        overrules: None,
        op: Token::NONE,
        time_ns: 0,
    }
}

fn span(epoch: u128, pos: (u64, u64), seq: (u64, u64), parent_end: Option<u64>) -> Span {
    Span {
        epoch: EpochId(epoch.to_le_bytes()),
        log: LOG,
        from: Pos(pos.0),
        to: Pos(pos.1),
        first_seq: Seq(seq.0),
        last_seq: Seq(seq.1),
        parent_end: parent_end.map(Pos),
        jump: None,
    }
}

/// Epoch 2 is received, 3 goes on from its end and is taken back, 2 is received again.
fn left_by() -> Path {
    let mut table = Table::new();
    for row in [row(1, None, 0), row(2, Some(1), 10), row(3, Some(2), 15)] {
        table.insert(row).unwrap();
    }
    let spans = Spans(vec![
        span(1, (0, 100), (1, 10), None),
        span(2, (100, 200), (11, 15), Some(100)),
        span(3, (200, 300), (16, 20), Some(200)),
        span(2, (400, 500), (11, 15), Some(100)),
    ]);
    let last = Moment { epoch: EpochId(3u128.to_le_bytes()), seq: Seq(20) };
    spans.path(&table, last, None, |_, _| Err(Error::new(Kind::NotFound, "freed"))).unwrap()
}

#[test]
fn what_is_received_again_is_on_no_path_that_was_there() {
    let through = Path::new([Interval { log: LOG, from: Pos(0), to: Pos(300) }]);
    assert_eq!(left_by(), through);
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["P7: a line goes on from a span that was there"]);
    let other = left_by();
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert_ne!(other, through);
}

/// A copy within one epoch, over an image whose last segment was full: what comes next begins where the span ends.
#[test]
fn what_begins_where_a_span_ends_lies_behind_the_jump_between() {
    let jump = crate::format::JumpSpan { from: None, behind: Pos(100), parts: Vec::new() };
    let copied = Span { log: LogId([2; 16]), jump: Some(jump), ..span(1, (0, 70), (50, 50), Some(100)) };
    let before = Spans(vec![span(1, (0, 100), (1, 10), None), copied]);
    let epoch = EpochId(1u128.to_le_bytes());
    let mut spans = before.clone();
    spans.extend(LOG, epoch, Pos(100), Pos(200), Seq(51), Seq(60));
    assert_eq!(spans.0[..2], before.0[..]);
    assert_eq!(spans.0[2..], [span(1, (100, 200), (51, 60), None)]);
    // What the checkpoint had in part is no other.
    let mut spans = before.clone();
    spans.extend(LOG, epoch, Pos(80), Pos(120), Seq(9), Seq(11));
    assert_eq!((spans.0.len(), spans.0[0].to, spans.0[0].last_seq), (2, Pos(120), Seq(11)));
}
