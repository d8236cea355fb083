//! Rounds: bytes, order, coalescing, lengths, failed syncs and crashes.

use super::*;
use crate::base::Finished;
use crate::base::round::SYNC_BYTES;
use crate::journal::LEFT_OUT;
use crate::seam::{Class, DirStorage, Fault, SimDevice, SimStorage};
use crate::vocab::Kind;

const MIB: u64 = 1 << 20;

fn finish(round: Round<'_>) -> bool {
    matches!(round.finish().unwrap(), Finished::Durable(_))
}

#[test]
fn rounds_equal_a_vector_of_bytes() {
    for seed in seeds(4, 300) {
        let dir = tempfile::tempdir().unwrap();
        let real = DirStorage::open(dir.path()).unwrap();
        let sim = SimDevice::new(seed).storage("group");
        for s in [&real as &dyn Storage, &sim] {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut model = vec![0; 1_300_000];
            let mut base = BaseFile::create(s, &path(), model.len() as u64).unwrap();
            for number in 0..5 {
                let len = if rng.u8(..3) == 0 { rng.u64(1..2 << 20) } else { model.len() as u64 };
                model.resize(len as usize, 0);
                let longest = [3 << 10, 60 << 10, 2 << 20][rng.usize(..3)];
                let ranges = random_ranges(&mut rng, len, longest);
                let mut round = base.round(len).unwrap();
                write(&mut round, &ranges, number).unwrap();
                assert!(finish(round));
                write_model(&mut model, &ranges, number);
                assert!(image(&base) == model, "seed {seed}, round {number}");
                let mut tail = [7; 10];
                base.read(&mut tail, len - 1).unwrap();
                assert_eq!((tail[0], &tail[1..]), (model[len as usize - 1], &[0; 9][..]));
                base = BaseFile::open(s, &path()).unwrap();
            }
        }
    }
}

#[test]
fn neighbours_become_large_writes() {
    let s = SimDevice::new(1).storage("");
    let base = BaseFile::create(&s, &path(), 8 * MIB).unwrap();
    let before = s.operations();
    let mut round = base.round(8 * MIB).unwrap();
    for block in 3..515 {
        round.data(block * 4096, &[1; 4096]).unwrap();
    }
    round.data(3 * MIB, &vec![2; 2 * MIB as usize]).unwrap();
    round.data(5 * MIB, &[3; 10]).unwrap();
    let Finished::Durable(written) = round.finish().unwrap() else { panic!("not durable") };
    assert_eq!(written.data, 4 * MIB + 10);
    assert_eq!(written.writes, 3 + 2 + 1, "cut at each MiB");
    assert_eq!(s.operations() - before, 7, "and one sync");
    assert_eq!(image(&base)[515 * 4096 - 1..515 * 4096 + 1], [1, 0]);
}

/// R6, and R2 for a sync on the way: those after it don't make up for it.
#[test]
fn a_long_round_syncs_on_its_way() {
    let s = SimDevice::new(1).storage("");
    let len = 2 * SYNC_BYTES + MIB;
    let base = durable_base(&s, len, &[]);
    let whole = |round: &mut Round<'_>, value| {
        (0..len / MIB).for_each(|n| round.data(n * MIB, &vec![value; MIB as usize]).unwrap());
    };
    let before = s.operations();
    let mut round = base.round(len).unwrap();
    whole(&mut round, 1);
    assert!(finish(round));
    assert_eq!(s.operations() - before, len / MIB + 3, "two syncs on the way, one at the end");
    s.inject(Fault::of(Class::Sync).nth(2));
    let mut round = base.round(len).unwrap();
    whole(&mut round, 2);
    let Finished::WriteAgain(error) = round.finish().unwrap() else { panic!("a step was lost") };
    assert_eq!((error.errno(), base.must_write_again()), (5, true));
    let mut round = base.round(len).unwrap();
    whole(&mut round, 2);
    assert!(finish(round));
    s.power_loss();
    s.power_on();
    assert!(image(&BaseFile::open(&s, &path()).unwrap()).iter().all(|byte| *byte == 2));
}

#[test]
fn holes_are_punched_in_steps_and_zeros_take_no_room() {
    let s = SimDevice::new(1).storage("");
    let len = 1 << 40;
    let data = overlaid(MIB, MIB, Content::Data);
    let base = durable_base(&s, len, &[data]);
    let before = s.operations();
    let mut round = base.round(len).unwrap();
    // Two halves of one block: only together do they free it.
    round.discard(MIB + 100, 4096).unwrap();
    round.discard(MIB + 100 + 4096, 8092).unwrap();
    round.zero(2 * MIB - 8192, 1 << 39).unwrap();
    round.discard((1 << 39) + 2 * MIB, 5 << 29).unwrap();
    let Finished::Durable(written) = round.finish().unwrap() else { panic!("not durable") };
    assert_eq!((written.zeroed, written.punched), (1 << 39, 12188 + (5 << 29)));
    assert_eq!(s.operations() - before, 1 + 1 + 3 + 1, "2.5 GiB take three steps");
    assert_eq!(base.allocated().unwrap(), MIB - 8192, "a zero keeps the room, a discard gives it back");
    let mut got = vec![9; 2 * MIB as usize];
    base.read(&mut got, 0).unwrap();
    let mut model = vec![0; 2 * MIB as usize];
    write_model(&mut model, &[data, overlaid(MIB + 100, 12188, Content::Discard)], 0);
    write_model(&mut model, &[overlaid(2 * MIB - 8192, 8192, Content::Zero)], 0);
    assert!(got == model);
    let mut round = base.round(len).unwrap();
    round.discard(0, 1 << 62).unwrap();
    assert!(finish(round));
    assert_eq!((base.allocated().unwrap(), base.len().unwrap()), (0, len), "cut at the end");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let s = SimDevice::new(1).storage("");
    let base = BaseFile::create(&s, &path(), 10_000).unwrap();
    let mut round = base.round(10_000).unwrap();
    assert_eq!(base.round(10_000).unwrap_err().kind(), Kind::Busy);
    round.data(5000, &[1; 100]).unwrap();
    for wrong in [round.data(5099, &[1]), round.zero(0, 1), round.discard(4000, 2000)] {
        assert_eq!(wrong.unwrap_err().kind(), Kind::Invalid);
    }
    assert_eq!(round.data(9999, &[1; 2]).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(round.data(u64::MAX, &[1]).unwrap_err().kind(), Kind::Invalid);
    round.data(9999, &[2]).unwrap();
    round.discard(20_000, u64::MAX).unwrap();
    assert!(finish(round));
    assert_eq!((image(&base)[5099], image(&base)[5100], image(&base)[9999]), (1, 0, 2));
    assert_eq!(BaseFile::create(&s, &path(), 1).unwrap_err().kind(), Kind::Exists);
    let reader = BaseFile::open_read_only(&s, &path()).unwrap();
    assert!(reader.round(1).is_err() && image(&reader) == image(&base));
}

fn first_round(len: u64, seed: u64) -> (SimStorage, BaseFile, Vec<u8>, Vec<Overlaid>) {
    let s = SimDevice::new(seed).storage("");
    let mut rng = fastrand::Rng::with_seed(seed);
    let before = random_ranges(&mut rng, len, 64 << 10);
    let base = durable_base(&s, len, &before);
    let mut model = vec![0; len as usize];
    write_model(&mut model, &before, 0);
    (s, base, model, random_ranges(&mut rng, len, 64 << 10))
}

/// B3, and its control: whoever trusts the second sync loses bytes.
#[test]
fn after_a_failed_sync_the_whole_round_is_written_again() {
    let mut lost = 0;
    for seed in seeds(40, 2000) {
        let (s, base, mut model, ranges) = first_round(MIB, seed);
        write_model(&mut model, &ranges, 1);
        s.inject(Fault::of(Class::Sync));
        let mut round = base.round(MIB).unwrap();
        write(&mut round, &ranges, 1).unwrap();
        let Finished::WriteAgain(error) = round.finish().unwrap() else { panic!("it must not be durable") };
        assert_eq!(error.errno(), 5);
        assert!(base.must_write_again());
        // Without the rule: sync again, be content.
        let trusting = s.fork(seed + 1);
        let other = trusting.storage("");
        BaseFile::open(&other, &path()).unwrap().sync().unwrap();
        trusting.power_loss();
        trusting.power_on();
        lost += usize::from(image(&BaseFile::open(&other, &path()).unwrap()) != model);
        // A round that leaves a part out is no repair, however often it is synced.
        for _ in 0..2 {
            let mut round = base.round(MIB).unwrap();
            write(&mut round, &ranges[1..], 1).unwrap();
            let Finished::WriteAgain(error) = round.finish().unwrap() else { panic!("a part is missing") };
            assert_eq!(error.kind(), Kind::Poisoned);
        }
        let mut round = base.round(MIB).unwrap();
        write(&mut round, &ranges, 1).unwrap();
        let end = round.finish().unwrap();
        assert!(matches!(end, Finished::Durable(_)), "seed {seed}: {end:?}");
        assert!(!base.must_write_again(), "seed {seed}");
        s.power_loss();
        s.power_on();
        assert!(image(&BaseFile::open(&s, &path()).unwrap()) == model, "seed {seed}");
    }
    assert!(lost > 0, "the simulated device must show the mistake");
}

#[test]
fn a_round_that_broke_off_is_owed() {
    let (s, base, mut model, ranges) = first_round(MIB, 3);
    s.inject(Fault::of(Class::Write).nth(2).errno(28));
    let mut round = base.round(MIB).unwrap();
    assert_eq!(write(&mut round, &ranges, 1).unwrap_err().kind(), Kind::NoSpace);
    drop(round);
    assert!(base.must_write_again());
    assert!(!finish(base.round(MIB).unwrap()));
    let mut round = base.round(MIB).unwrap();
    write(&mut round, &ranges, 1).unwrap();
    assert!(finish(round));
    // Without the rule a round that writes nothing is a repair.
    s.inject(Fault::of(Class::Sync));
    let mut round = base.round(MIB).unwrap();
    write(&mut round, &ranges, 1).unwrap();
    assert!(!finish(round));
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["B3: what a failed sync owes is written again"]);
    let believed = finish(base.round(MIB).unwrap());
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(believed, "the rule is kept elsewhere");
    write_model(&mut model, &ranges, 1);
    assert!(image(&base) == model);
    // Behind a shorter end nothing can be owed.
    let mut round = base.round(MIB).unwrap();
    round.data(MIB - 1000, &[1; 1000]).unwrap();
    drop(round);
    assert!(finish(base.round(MIB - 1000).unwrap()));
}

/// The same after a restart, when nobody remembers what is owed but the checkpoint: floor and base differ.
#[test]
fn a_restart_after_a_failed_sync_repeats_the_round() {
    let lost = |repeat: bool| {
        let mut lost = 0;
        for seed in seeds(40, 2000) {
            let (s, base, mut model, ranges) = first_round(MIB, seed);
            write_model(&mut model, &ranges, 1);
            s.inject(Fault::of(Class::Sync));
            let mut round = base.round(MIB).unwrap();
            write(&mut round, &ranges, 1).unwrap();
            assert!(!finish(round));
            s.kill();
            s.restart();
            let base = BaseFile::open(&s, &path()).unwrap();
            let mut round = if repeat { base.repeat(MIB) } else { base.round(MIB) }.unwrap();
            write(&mut round, &ranges, 1).unwrap();
            assert!(finish(round));
            s.power_loss();
            s.power_on();
            lost += usize::from(image(&BaseFile::open(&s, &path()).unwrap()) != model);
        }
        lost
    };
    assert_eq!(lost(true), 0);
    assert!(lost(false) > 0, "a zero that only the cache has must be lost in some seed");
    LEFT_OUT.with_borrow_mut(|out| *out = vec!["R5: a round that is done again believes no hole"]);
    let believed = lost(true);
    LEFT_OUT.with_borrow_mut(Vec::clear);
    assert!(believed > 0, "nothing noticed that a round that is done again believes holes");
}

/// A crash within any operation of a round: what the round doesn't touch is as before, and done again it is
/// whole.
#[test]
fn crash_at_every_operation() {
    for seed in seeds(6, 300) {
        for n in 1.. {
            let (s, base, before, ranges) = first_round(MIB / 2, seed);
            let mut after = before.clone();
            write_model(&mut after, &ranges, 1);
            s.power_loss_at(n);
            let result = base.round(MIB / 2).and_then(|mut round| {
                write(&mut round, &ranges, 1)?;
                round.finish()
            });
            let crashed = !s.has_power();
            let durable = matches!(result, Ok(Finished::Durable(_)));
            assert_eq!(durable, !crashed, "seed {seed}, {n}: {result:?}");
            s.power_loss();
            s.power_on();
            let base = BaseFile::open(&s, &path()).unwrap();
            let got = image(&base);
            let mut mixed = got.iter().zip(before.iter().zip(&after));
            assert!(mixed.all(|(got, (a, b))| got == a || got == b || *got == 0), "seed {seed}, {n}");
            if durable {
                assert!(got == after, "seed {seed}: a durable round was lost");
                assert!(n > 3);
                break;
            }
            let mut round = base.round(MIB / 2).unwrap();
            write(&mut round, &ranges, 1).unwrap();
            assert!(finish(round));
            s.power_loss();
            s.power_on();
            assert!(image(&BaseFile::open(&s, &path()).unwrap()) == after, "seed {seed}, {n}");
        }
    }
}
