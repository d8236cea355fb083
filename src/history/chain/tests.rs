use super::*;

fn record(seq: u64) -> ChainRecord {
    ChainRecord {
        epoch: EpochId([0x11; 16]),
        seq: Seq(seq),
        disk: DiskOrdinal(3),
        kind: RecordKind::Write,
        flush: true,
        offset: 0x1000,
        length: 4096,
        time_ns: -2,
    }
}

/// The bytes of R are part of the protocol: a person with a hash tool can check them.
#[test]
fn a_record_is_64_bytes_in_this_order() {
    let mut expected = Vec::new();
    expected.extend(0x0102_0304_0506_0708_u64.to_le_bytes());
    expected.extend([0x11; 16]);
    expected.extend(3_u32.to_le_bytes());
    expected.extend([1, 1, 0, 0]);
    expected.extend(0x1000_u64.to_le_bytes());
    expected.extend(4096_u64.to_le_bytes());
    expected.extend((-2_i64).to_le_bytes());
    expected.extend(0_u64.to_le_bytes());
    assert_eq!(record(0x0102_0304_0506_0708).encode().to_vec(), expected);
}

#[test]
fn a_step_is_one_hash_over_three_parts() {
    let before = ChainValue([5; 32]);
    let payload = [9_u8; 4096];
    let mut all = before.0.to_vec();
    all.extend(record(1).encode());
    all.extend(blake3::hash(&payload).as_bytes());
    assert_eq!(step(&before, &record(1), Some(&payload)).0, *blake3::hash(&all).as_bytes());
    let zeros = step(&before, &record(1), Some(&[0; 5000]));
    assert_eq!(step_zeros(&before, &record(1), 5000), zeros, "zeros are a codec, not another content");
    all.truncate(96);
    all.extend([0; 32]);
    assert_eq!(step(&before, &record(1), None).0, *blake3::hash(&all).as_bytes());
}

/// Golden values of format version 1: they never change. Computed with another implementation of BLAKE3.
#[test]
fn golden_values() {
    let group = GroupId([0xaa; 16]);
    let start = genesis_value(group, EpochId([0x11; 16]));
    assert_eq!(start.to_string(), GOLDEN[0]);
    let one = step(&start, &record(1), Some(b"row"));
    assert_eq!(one.to_string(), GOLDEN[1]);
    let two = step(&one, &ChainRecord { kind: RecordKind::Discard, flush: false, ..record(2) }, None);
    assert_eq!(two.to_string(), GOLDEN[2]);
    let child = epoch_start(group, EpochId([0x22; 16]), Some((Moment::new(EpochId([0x11; 16]), 2), two)));
    assert_eq!(child.to_string(), GOLDEN[3]);
}

const GOLDEN: [&str; 4] = [
    "f2ac91f85f36d0b9e5c2b39daeb77db8d61317890b2029ae2343dabaa8daa9d7",
    "39c7997c1109998e6c1aabd769b1cd63ed84539f27472b185eea675a11a3647c",
    "7685d18d55ebc1bf6a235b8e97074f2d7bdc35f4d1cd87a2ed741303da7715ed",
    "793f4189008453f64f411e3d09aab658a925b9baba1847ea16481fad8d711b86",
];

/// Every field counts; whatever two records differ in, their values differ.
#[test]
fn every_field_enters_the_value() {
    let base = step(&ChainValue::ZERO, &record(1), Some(b"x"));
    let others = [
        ChainRecord { epoch: EpochId([0x12; 16]), ..record(1) },
        record(2),
        ChainRecord { disk: DiskOrdinal(4), ..record(1) },
        ChainRecord { kind: RecordKind::Zero, ..record(1) },
        ChainRecord { flush: false, ..record(1) },
        ChainRecord { offset: 0, ..record(1) },
        ChainRecord { length: 1, ..record(1) },
        ChainRecord { time_ns: 0, ..record(1) },
    ];
    for other in others {
        assert_ne!(step(&ChainValue::ZERO, &other, Some(b"x")), base, "{other:?}");
    }
    assert_ne!(step(&ChainValue::ZERO, &record(1), Some(b"y")), base);
    assert_ne!(step(&ChainValue::ZERO, &record(1), None), base);
    assert_ne!(step(&ChainValue([1; 32]), &record(1), Some(b"x")), base);
}

#[test]
fn marks_of_seals_go_and_the_others_stay() {
    let epoch = EpochId([1; 16]);
    let mark = |seq| ChainMark { epoch, seq: Seq(seq), h: ChainValue([seq as u8; 32]), time_ns: 0 };
    let mut marks = MarkSet::default();
    marks.keep(mark(10), MarkReason::Seal);
    marks.keep(mark(20), MarkReason::Seal);
    marks.keep(mark(20), MarkReason::Fork);
    marks.keep(mark(20), MarkReason::Seal);
    marks.keep(mark(30), MarkReason::Seal);
    marks.keep(mark(MARK_EVERY), MarkReason::of_seq(Seq(MARK_EVERY)).unwrap());
    assert_eq!(MarkReason::of_seq(Seq(1)), None);
    marks.forget_seals(epoch, Seq(20));
    let left: Vec<u64> = marks.of_epoch(epoch).map(|m| m.seq.0).collect();
    assert_eq!(left, [20, 30, MARK_EVERY]);
    assert_eq!(marks.at_or_below(epoch, Seq(29)).unwrap().seq, Seq(20));
    assert!(marks.at_or_below(epoch, Seq(19)).is_none());
    assert!(marks.get(Moment::new(epoch, 10)).is_none());
}

#[test]
fn text_of_a_value_comes_back() {
    let value = ChainValue([0xc4; 32]);
    let json = serde_json::to_string(&value).unwrap();
    assert_eq!(json, format!("\"{}\"", "c4".repeat(32)));
    assert_eq!(serde_json::from_str::<ChainValue>(&json).unwrap(), value);
    assert!(serde_json::from_str::<ChainValue>("\"c4\"").is_err());
}
