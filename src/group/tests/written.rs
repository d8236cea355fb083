//! B1 and B2 of `written`: bytes between two moments, at a writer and where a copy led to the first of them.

use super::model::submit;
use super::sites::begin;
use crate::group::Op;
use crate::vocab::Moment;

#[test]
fn what_was_written_is_counted_by_records() {
    let mut w = begin(3).unwrap();
    for _ in 0..10 {
        w.operate(0, false).unwrap();
    }
    w.connect().unwrap();
    w.settle().unwrap();
    let (source, target) = (w.group(0), w.group(1));
    let from = target.head();
    assert!(target.place_behind(from).is_err(), "a copy led there: its record isn't held");
    let disk = source.names_now(|names| *names.files.keys().next().unwrap());
    let mut written = 0;
    for number in 0..60_u64 {
        let bytes = [512, 4096, 12_288][number as usize % 3];
        let size = source.names_now(|names| names.files[&disk].size).max(bytes as u64);
        submit(&source, disk, Op::Resize { size }, false).unwrap();
        submit(&source, disk, Op::Write { offset: 0, data: &vec![9; bytes] }, number % 7 == 0).unwrap();
        submit(&source, disk, Op::Discard { offset: 0, length: 512 }, false).unwrap();
        written += bytes as u64;
        if number % 20 == 19 {
            source.log.end_segment(); // its end stays empty
        }
    }
    w.failing = true; // the model doesn't know what was written
    let caught_up = w.quiet().unwrap();
    assert!(caught_up && target.head() == source.head());
    let head = source.head();
    for group in [&source, &target] {
        let count =
            |after: Moment, mut batches: usize| group.written_between(after, head, &mut batches).unwrap();
        assert_eq!(count(from, 10_000), Some(written));
        assert_eq!((count(head, 0), count(from, 0)), (Some(0), None), "what takes too long is unknown");
    }
    let places = source.place_behind(head).unwrap().pos.0 - source.place_behind(from).unwrap().pos.0;
    assert!(places > written, "a difference of places is another figure: {places} and {written}");
    let before = Moment { epoch: from.epoch, seq: crate::vocab::Seq(from.seq.0 - 2) };
    assert!(source.written_between(before, head, &mut 10_000).unwrap().is_some());
    assert_eq!(target.written_between(before, head, &mut 10_000).unwrap(), None, "that isn't held here");
}
