use super::*;
use crate::exchange::message::{About, Control, CopyStatement, Descriptor, Hello, Roles};
use crate::exchange::ranges::DiskRange;
use crate::history::{JumpReason, Question, SourcePhase, TargetPhase, TargetSays};
use crate::protection::PointSet;
use crate::vocab::StoreId;

fn moment(n: u64) -> Moment {
    Moment { epoch: EpochId([0x11; 16]), seq: Seq(n) }
}

fn data() -> Frame {
    let record = |seq: u64, kind, payload: &[u8]| Record {
        disk: DiskOrdinal(1),
        kind,
        flags: 1,
        codec: Codec::Plain,
        offset: 4096 * seq,
        length: payload.len() as u64,
        seq: Seq(seq),
        time_ns: -5 + seq as i64,
        payload: payload.to_vec(),
    };
    let zeros = Record { codec: Codec::Zeros, length: 4096, ..record(9, RecordKind::Write, b"") };
    Frame::Data(Box::new(Data {
        group: GroupId([0x22; 16]),
        epoch: EpochId([0x11; 16]),
        records: vec![record(7, RecordKind::Write, b"seven"), record(8, RecordKind::Discard, b""), zeros],
        chain: ChainValue([0x33; 32]),
        standing: Standing { head: moment(12), durable: moment(11), flushed: moment(10), lag_ns: 99 },
    }))
}

fn fill() -> Frame {
    Frame::Fill(Box::new(Fill {
        group: GroupId([0x22; 16]),
        copy: Token([0x44; 16]),
        at: moment(9),
        disk: DiskOrdinal(2),
        offset: 65536,
        length: 6,
        codec: Codec::Plain,
        payload: b"filled".to_vec(),
    }))
}

fn descriptor() -> Frame {
    let says =
        TargetSays { phase: TargetPhase::Intent { op: Token([5; 16]) }, ended: [Token([4; 16])].into() };
    let copy = CopyStatement {
        copy: Token([6; 16]),
        reason: JumpReason::Backlog,
        staged: moment(3),
        chain: ChainValue([7; 32]),
        missing_bytes: 1 << 50,
    };
    Frame::about(
        GroupId([0x22; 16]),
        About::Descriptor(Box::new(Descriptor {
            meeting: 1,
            head: Some((moment(u64::MAX), ChainValue([8; 32]))),
            writes: false,
            follows: true,
            state: "standby".into(),
            roles: Roles { source: SourcePhase::None, target: says, decision: None },
            rows_digest: ChainValue([9; 32]),
            rows_count: 0,
            rows: Vec::new(),
            withdrawn: vec![(EpochId([1; 16]), Token([2; 16]))],
            oldest: None,
            ranges_from: Some(moment(1)),
            copy: Some(copy),
            notices: Vec::new(),
        })),
    )
}

fn split(bytes: &[u8]) -> (Result<FrameHeader>, &[u8]) {
    let (head, body) = bytes.split_at(FRAME_HEADER_BYTES);
    (FrameHeader::decode(head.try_into().unwrap()), body)
}

fn frames() -> Vec<Frame> {
    let hello = Hello {
        versions: (1, 1),
        features: vec!["x".into()],
        site: StoreId([1; 16]),
        name: "Seoul \"1\"".into(),
        agreed: Some(Token([2; 16])),
        offered: None,
        nonce: Token([3; 16]),
    };
    let range = DiskRange { disk: DiskOrdinal(1), offset: 1 << 45, length: u64::MAX / 2 };
    let group = GroupId([0x22; 16]);
    vec![
        data(),
        fill(),
        descriptor(),
        Frame::Control(Control::Hello(hello)),
        Frame::Control(Control::Session { token: Token([1; 16]) }),
        Frame::about(group, About::AskMarks(Question { at: vec![moment(4096)] })),
        Frame::about(group, About::Ranges { ranges: vec![range], more: true }),
        Frame::about(group, About::Points(PointSet::default())),
        Frame::about(group, About::Ack { frames: 3, moment: moment(9), chain: ChainValue([1; 32]) }),
        Frame::about(group, About::Met),
    ]
}

#[test]
fn every_frame_comes_back_compressed_or_not() {
    for frame in frames() {
        for compress in [None, Some(1), Some(3)] {
            let bytes = encode(&frame, compress).unwrap();
            let (header, body) = split(&bytes);
            let header = header.unwrap();
            assert_eq!(header.length as usize, body.len());
            assert_eq!(decode(&header, body).unwrap(), frame);
        }
    }
}

/// Golden frames of version 1: they never change. Made by another program from the description of the format.
#[test]
fn golden_frames() {
    for (frame, golden) in [(data(), GOLDEN_DATA), (fill(), GOLDEN_FILL), (descriptor(), GOLDEN_DESCRIPTOR)] {
        let bytes = encode(&frame, None).unwrap();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let golden: String = golden.split_whitespace().collect();
        assert_eq!(hex, golden);
    }
}

#[test]
fn every_flipped_bit_is_seen() {
    for frame in [data(), fill(), descriptor()] {
        let good = encode(&frame, None).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (header, body) = split(&bad);
            assert!(header.and_then(|h| decode(&h, body)).is_err(), "bit {bit}");
        }
    }
}

/// With the crc mended: whatever a peer sends, it is decoded or refused, never more.
#[test]
fn senseless_bodies_are_refused() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut refused = 0;
    for frame in [data(), fill(), descriptor()] {
        let good = encode(&frame, Some(1)).unwrap();
        for _ in 0..3000 {
            let mut bad = good.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(FRAME_HEADER_BYTES..bad.len());
                bad[at] = rng.u8(..);
            }
            if rng.bool() {
                bad.truncate(rng.usize(FRAME_HEADER_BYTES..bad.len()));
            }
            let length = (bad.len() - FRAME_HEADER_BYTES) as u32;
            bad[8..12].copy_from_slice(&length.to_le_bytes());
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bad[..12]), &bad[FRAME_HEADER_BYTES..]);
            bad[12..16].copy_from_slice(&crc.to_le_bytes());
            let (header, body) = split(&bad);
            refused += u32::from(decode(&header.unwrap(), body).is_err());
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn headers_of_other_things_and_too_long_bodies_are_refused_by_name() {
    let good = encode(&fill(), None).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        split(&bad).0.unwrap_err()
    };
    assert_eq!(with(0, b"HTTP").kind(), Kind::Conflict);
    let version = with(4, &2_u16.to_le_bytes());
    assert_eq!(version.kind(), Kind::Unsupported);
    assert!(version.to_string().contains("version-mismatch"));
    assert_eq!(with(6, &9_u16.to_le_bytes()).kind(), Kind::Unsupported);
    assert_eq!(with(8, &(DATA_BYTES_MAX + 1).to_le_bytes()).kind(), Kind::Conflict);
    let long = Frame::about(
        GroupId([1; 16]),
        About::Ranges {
            ranges: vec![DiskRange { disk: DiskOrdinal(1), offset: 0, length: 1 }; 40_000],
            more: false,
        },
    );
    assert_eq!(encode(&long, None).unwrap_err().kind(), Kind::Invalid);
}

const GOLDEN_DATA: &str = "\
    5362586601000200120100001410a9b5000d010000222222222222222222222222222222221111111111111111111111 \
    111111111107000000000000003333333333333333333333333333333333333333333333333333333333333333111111 \
    111111111111111111111111110c00000000000000111111111111111111111111111111110b00000000000000111111 \
    111111111111111111111111110a00000000000000630000000000000003000000010000000101000000700000000000 \
    000500000000000000020000000000000005000000010000000301000000800000000000000000000000000000030000 \
    000000000000000000010000000101010000900000000000000010000000000000040000000000000000000000736576 \
    656e";
const GOLDEN_FILL: &str = "\
    53625866010003005b0000007230f2440056000000222222222222222222222222222222224444444444444444444444 \
    444444444411111111111111111111111111111111090000000000000002000000000000000000010000000000060000 \
    000000000066696c6c6564";
const GOLDEN_DESCRIPTOR: &str = "\
    5362586601000100d70300004d97862a7b2274797065223a2267726f7570222c2267726f7570223a2232323232323232 \
    32323232323232323232323232323232323232323232323232222c2261626f7574223a7b2261626f7574223a22646573 \
    63726970746f72222c226d656574696e67223a312c2268656164223a5b7b2265706f6368223a22313131313131313131 \
    3131313131313131313131313131313131313131313131222c22736571223a3138343436373434303733373039353531 \
    3631357d2c22303830383038303830383038303830383038303830383038303830383038303830383038303830383038 \
    30383038303830383038303830383038303830383038225d2c22777269746573223a66616c73652c22666f6c6c6f7773 \
    223a747275652c227374617465223a227374616e646279222c22726f6c6573223a7b22736f75726365223a7b22706861 \
    7365223a226e6f6e65227d2c22746172676574223a7b227068617365223a7b227068617365223a22696e74656e74222c \
    226f70223a223035303530353035303530353035303530353035303530353035303530353035227d2c22656e64656422 \
    3a5b223034303430343034303430343034303430343034303430343034303430343034225d7d7d2c22726f77735f6469 \
    67657374223a223039303930393039303930393039303930393039303930393039303930393039303930393039303930 \
    3930393039303930393039303930393039303930393039222c22726f77735f636f756e74223a302c22726f7773223a5b \
    5d2c2277697468647261776e223a5b5b2230313031303130313031303130313031303130313031303130313031303130 \
    31222c223032303230323032303230323032303230323032303230323032303230323032225d5d2c226f6c6465737422 \
    3a6e756c6c2c2272616e6765735f66726f6d223a7b2265706f6368223a22313131313131313131313131313131313131 \
    3131313131313131313131313131222c22736571223a317d2c22636f7079223a7b22636f7079223a2230363036303630 \
    36303630363036303630363036303630363036303630363036222c22726561736f6e223a226261636b6c6f67222c2273 \
    7461676564223a7b2265706f6368223a2231313131313131313131313131313131313131313131313131313131313131 \
    31222c22736571223a337d2c22636861696e223a22303730373037303730373037303730373037303730373037303730 \
    37303730373037303730373037303730373037303730373037303730373037303730373037222c226d697373696e675f \
    6279746573223a313132353839393930363834323632347d2c226e6f7469636573223a5b5d7d7d";
