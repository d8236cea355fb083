use super::*;
use crate::history::RowKind;
use crate::vocab::Seq;

fn moment(n: u64) -> Moment {
    Moment::new(EpochId([1; 16]), n)
}

fn all() -> Vec<Event> {
    let (op, peer, log, epoch) = (Token([3; 16]), StoreId([4; 16]), LogId([5; 16]), EpochId([2; 16]));
    let row = Row {
        epoch,
        parent: Some(EpochId([1; 16])),
        fork_seq: Seq(9),
        fork_chain: ChainValue([1; 32]),
        site: peer,
        kind: RowKind::Open,
        overrules: None,
        op,
        time_ns: 5,
    };
    let jump = JumpLine {
        from: None,
        from_chain: None,
        to: moment(u64::MAX / 4),
        to_chain: ChainValue([6; 32]),
        log,
        entries: u64::MAX,
        hash: ChainValue([7; 32]),
        disks: vec![DiskSize { disk: DiskOrdinal(1), size: 64 << 40 }],
        new_disks: vec![DiskOrdinal(1)],
        reason: JumpReason::Initial,
    };
    vec![
        Event::Epoch { row, own: true },
        Event::Withdrawn { epoch, op },
        Event::Intent { op, operation: Operation::Planned, moment: None, peer: Some(peer) },
        Event::Cancelled { op },
        Event::Handover { op, head: moment(20), chain: ChainValue([8; 32]) },
        Event::HandoverEnded { op },
        Event::Fence { epoch, head: moment(30), common: moment(20), op: None },
        Event::Target { op, source: peer, seed: Some(moment(3)) },
        Event::Jump(jump),
        Event::Committed { op, epoch, points: CommitPoints::Delete },
        Event::Migrated { op },
        Event::Protected { op, peer, moment: moment(4) },
        Event::Testing { op, name: "drill".into(), moment: moment(4), until_ns: 9, log },
        Event::Tested { op, name: "drill".into(), notes: "it \"booted\"\n".into() },
        Event::Unprotecting { op, peer, delete: true },
        Event::Unprotected { op, peer, delete: false },
        Event::UnprotectHeard { op },
        Event::Orphaned { peer, migrated: true },
        Event::ResyncRequired { reason: ResyncReason::TooFarBehind },
        Event::BacklogCoalesced { peer, acknowledged: Some(moment(3)) },
        Event::Rewound { common: moment(4), proved: None, peer_head: moment(9) },
        Event::SplitBrain { common: moment(4), peer_epoch: epoch },
        Event::Reconciled { epoch: Some(epoch) },
        Event::SyncLost { head: moment(9), acknowledged: moment(8) },
        Event::SyncBack { head: moment(9) },
        Event::BranchDropped { op, epoch },
        Event::SeedDropped { op, moment: moment(1) },
        Event::Paused { op, paused: true },
    ]
}

#[test]
fn every_kind_comes_back_and_has_its_name() {
    let events = all();
    let names: Vec<&str> = events.iter().map(Event::name).collect();
    assert_eq!(names, KINDS, "the list of kinds and the names of the events are one thing");
    for event in events {
        let line = Line { time_ns: -5, event };
        let json = line.to_json();
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["event"], line.event.name());
        assert!(!json.contains(&b'\n'), "one line");
        assert_eq!(Line::from_json(&json).unwrap(), line);
    }
}

#[test]
fn an_unknown_kind_is_named_and_unknown_fields_are_passed_over() {
    let error = Line::from_json(br#"{"time_ns":1,"event":"quorum","sites":3}"#).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("`quorum`"), "{error}");
    let json = format!(r#"{{"time_ns":1,"event":"migrated","op":"{}","later":[1]}}"#, "03".repeat(16));
    assert_eq!(Line::from_json(json.as_bytes()).unwrap().event, Event::Migrated { op: Token([3; 16]) });
}

#[test]
fn what_is_no_line_is_damage() {
    for bad in
        ["", "{", "[]", r#"{"time_ns":1}"#, r#"{"time_ns":1,"event":"migrated"}"#, r#"{"event":"migrated"}"#]
    {
        assert_eq!(Line::from_json(bad.as_bytes()).unwrap_err().kind(), Kind::Damaged, "{bad}");
    }
    let (mut line, zero) = (Line { time_ns: 1, event: all().remove(0) }, EpochId::NONE);
    if let Event::Epoch { row, .. } = &mut line.event {
        row.epoch = zero;
    }
    assert_eq!(Line::from_json(&line.to_json()).unwrap_err().kind(), Kind::Invalid);
}
