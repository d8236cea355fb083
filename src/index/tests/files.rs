//! Files of the index under power loss, rot and readers that stay; long chains; the table of batches.

use super::model::Model;
use crate::index::batches::BatchAtTime;
use crate::index::{
    BatchRow, CacheBudget, Content, Entry, Extent, Index, Interval, LostRun, MergeProgress, Path, SegmentMeta,
};
use crate::seam::{SimDevice, SimStorage};
use crate::vocab::{DiskOrdinal, EpochId, GroupId, Kind, LogId, Pos, Result, Seq};
use std::sync::Arc;

const GROUP: GroupId = GroupId([7; 16]);
const LOG: LogId = LogId([1; 16]);
const DISK: DiskOrdinal = DiskOrdinal(1);
const DISK_BYTES: u64 = 4 << 20;
const SEGMENT: u64 = 1 << 20;

fn open(storage: &SimStorage) -> Result<(Index, Vec<LostRun>)> {
    Index::open(Arc::new(storage.clone()), "index", GROUP, CacheBudget::new(1 << 20))
}

fn meta(number: u64) -> SegmentMeta {
    SegmentMeta {
        epoch: EpochId([1; 16]),
        from: Pos(number * SEGMENT),
        to: Pos((number + 1) * SEGMENT),
        first_seq: Seq(number * 100 + 1),
        last_seq: Seq(number * 100 + 100),
    }
}

/// The versions of a segment: always the same ones.
fn segment(number: u64) -> Vec<Entry> {
    let mut random = fastrand::Rng::with_seed(number);
    let entry = |n: u64| {
        let content = if random.u32(0..5) == 0 { Content::Discard } else { Content::Data };
        let len = if content == Content::Data { 4096 } else { random.u64(1..2 << 20) };
        let offset = random.u64(0..DISK_BYTES / 4096) * 4096;
        Entry { disk: DISK, offset, len, pos: Pos(number * SEGMENT + n * 5000), content, crc: 3 }
    };
    (0..100).map(entry).collect()
}

fn whole(to: u64) -> Path {
    Path::new([Interval { log: LOG, from: Pos(0), to: Pos(to) }])
}

fn check(index: &Index, segments: u64, what: &str) {
    let model = Model { versions: (0..segments).flat_map(segment).map(|e| (LOG, e)).collect() };
    for to in [u64::MAX, segments * SEGMENT / 2, SEGMENT / 3] {
        let got = index.lookup(&whole(to), DISK, 0, DISK_BYTES + (4 << 20));
        let got = got.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(got, model.lookup(&whole(to), DISK, 0, DISK_BYTES + (4 << 20)), "{what}, up to {to}");
    }
}

fn add(index: &Index, number: u64) -> Result<()> {
    index.insert(LOG, &segment(number))?;
    index.rotate(LOG, meta(number))?;
    index.seal(LOG).map(drop)
}

/// Power is lost at each changing operation of seals and a merge in turn. What was sealed has its run, or the run
/// is missed and made again; look-ups are right afterwards.
#[test]
fn power_loss_at_every_operation() {
    const SEGMENTS: u64 = 9;
    for n in 1.. {
        let device = SimDevice::new(n);
        let storage = device.storage("s");
        device.power_loss_at(n);
        let (mut begun, mut sealed) = (0, 0);
        let mut run = || -> Result<()> {
            let (index, _) = open(&storage)?;
            for number in 0..SEGMENTS {
                begun = number + 1;
                add(&index, number)?;
                sealed = number + 1;
            }
            while index.merge_step(300, &|_, _| true)? != MergeProgress::Idle {}
            Ok(())
        };
        if run().is_ok() {
            assert!(n > 50, "only {n} operations");
            break;
        }
        let what = format!("power loss at {n} ({})", device.crashed_in());
        device.power_on();
        storage.restart();
        let (index, lost) = open(&storage).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(lost.is_empty(), "{what}: {lost:?}");
        for number in 0..begun {
            let meta = meta(number);
            let there = index.has_run(LOG, meta.from, meta.to);
            assert!(there || number >= sealed, "{what}: the run of segment {number} is gone");
            if !there {
                index.rebuild(LOG, &[meta], &[], &segment(number)).unwrap();
            }
        }
        check(&index, begun, &what);
    }
}

/// A flipped byte is found when it is needed, with path and place, and the run can be made again.
#[test]
fn a_damaged_byte_is_reported_and_the_run_made_again() {
    let full = std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full");
    let device = SimDevice::new(1);
    let storage = device.storage("s");
    let (index, _) = open(&storage).unwrap();
    add(&index, 0).unwrap();
    let bytes = index.stats().run_bytes;
    drop(index);
    let (mut at_open, mut at_read) = (0, 0);
    for offset in (0..bytes).step_by(if full { 1 } else { 61 }) {
        let (copy, what) = (device.fork(2), format!("byte {offset}"));
        let storage = copy.storage("s");
        storage.flip("index/run-0000000000000001", offset).unwrap();
        let (index, lost) = open(&storage).unwrap();
        if lost.is_empty() {
            // Slots that aren't used are under the page's checksum like the others.
            let looked = index.lookup(&whole(u64::MAX), DISK, 0, DISK_BYTES);
            let scanned: Result<Vec<Extent>> =
                index.scan(&whole(u64::MAX), DISK, 0, u64::MAX >> 1).and_then(Iterator::collect);
            for error in [looked.unwrap_err(), scanned.unwrap_err()] {
                assert_eq!(error.kind(), Kind::Damaged, "{what}");
                let text = error.to_string();
                assert!(text.contains("index/run-0000000000000001") && text.contains("offset"), "{text}");
            }
            at_read += 1;
        } else {
            assert_eq!(lost[0].error.kind(), Kind::Damaged, "{what}");
            assert_eq!(lost[0].stretch, Some((LOG, Pos(0), Pos(SEGMENT))), "{what}");
            assert!(!index.has_run(LOG, Pos(0), Pos(SEGMENT)));
            at_open += 1;
        }
        index.rebuild(LOG, &[meta(0)], &[], &segment(0)).unwrap();
        check(&index, 1, &what);
        drop(index);
        let (index, lost) = open(&storage).unwrap();
        assert!(lost.is_empty(), "{what}: {lost:?}");
        check(&index, 1, &what);
    }
    assert!(at_open > 5 && at_read > 5, "{at_open} {at_read}");
}

#[test]
fn a_missing_run_and_a_damaged_list_are_reported() {
    let device = SimDevice::new(1);
    let storage = device.storage("s");
    let (index, _) = open(&storage).unwrap();
    (0..3).for_each(|number| add(&index, number).unwrap());
    drop(index);
    let copy = device.fork(2).storage("s");
    crate::seam::Storage::remove(&copy, "index/run-0000000000000002".as_ref()).unwrap();
    let (index, lost) = open(&copy).unwrap();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].stretch, Some((LOG, Pos(SEGMENT), Pos(2 * SEGMENT))));
    index.rebuild(LOG, &[meta(1)], &[], &segment(1)).unwrap();
    check(&index, 3, "made again");
    let copy = device.fork(3).storage("s");
    copy.flip("index/runs", 20).unwrap();
    let (index, lost) = open(&copy).unwrap();
    assert_eq!((lost.len(), lost[0].stretch), (1, None));
    check(&index, 3, "without the list");
}

/// A filesystem with ever more room left, until a run, its list and a merge succeed: what fails leaves nothing behind
/// and loses nothing, and is done once there is room.
#[test]
fn what_finds_no_room_leaves_no_file_and_is_tried_again() {
    let names = |storage: &SimStorage| crate::seam::Storage::list(storage, "index".as_ref()).unwrap();
    let clean = |storage: &SimStorage| names(storage).iter().all(|name| !name.ends_with(".tmp"));
    let (mut without_run, mut without_list, mut without_merge) = (0, 0, 0);
    for pages in 0..40 {
        let what = format!("{pages} pages");
        let device = SimDevice::new(pages);
        let storage = device.storage("s");
        let (index, _) = open(&storage).unwrap();
        (0..7).for_each(|number| add(&index, number).unwrap());
        let space = crate::seam::Storage::space(&storage).unwrap();
        device.set_room(space.total - space.free + pages * 4096);
        index.insert(LOG, &segment(7)).unwrap();
        index.rotate(LOG, meta(7)).unwrap();
        if let Err(e) = index.seal(LOG) {
            assert_eq!(e.kind(), Kind::NoSpace, "{what}");
            let has_run = index.has_run(LOG, meta(7).from, meta(7).to);
            (without_run, without_list) =
                (without_run + u64::from(!has_run), without_list + u64::from(has_run));
            assert!(clean(&storage), "{what}: {:?}", names(&storage));
            check(&index, 8, &what);
            assert_eq!(index.seal(LOG).unwrap_err().kind(), Kind::NoSpace, "{what}: as before");
            device.set_room(space.total);
            assert_eq!(index.seal(LOG).unwrap(), !has_run, "{what}");
        } else if let Err(e) = merge_all(&index) {
            assert_eq!(e.kind(), Kind::NoSpace, "{what}");
            without_merge += 1;
            assert!(clean(&storage), "{what}: {:?}", names(&storage));
            check(&index, 8, &what);
            device.set_room(space.total);
            index.seal(LOG).unwrap();
            merge_all(&index).unwrap();
        }
        check(&index, 8, &what);
        drop(index);
        let (index, lost) = open(&storage).unwrap();
        assert!(lost.is_empty(), "{what}: {lost:?}");
        check(&index, 8, &what);
        drop(index);
        // The list has the newest run: without its file it is missed.
        let newest = names(&storage).into_iter().rfind(|name| name.starts_with("run-")).unwrap();
        crate::seam::Storage::remove(&storage, format!("index/{newest}").as_ref()).unwrap();
        let (_, lost) = open(&storage).unwrap();
        assert_eq!(lost.len(), 1, "{what}: {newest} isn't in the list");
    }
    let seen = (without_run, without_list, without_merge);
    assert!(without_run > 0 && without_list > 0 && without_merge > 0, "{seen:?}");
}

fn merge_all(index: &Index) -> Result<()> {
    while index.merge_step(300, &|_, _| true)? != MergeProgress::Idle {}
    Ok(())
}

#[test]
fn a_scan_goes_on_while_its_runs_are_merged_away() {
    let storage = SimDevice::new(1).storage("s");
    let (index, _) = open(&storage).unwrap();
    (0..8).for_each(|number| add(&index, number).unwrap());
    let path = whole(u64::MAX);
    let want: Vec<Extent> = index.scan(&path, DISK, 0, u64::MAX).unwrap().map(|e| e.unwrap()).collect();
    let mut scan = index.scan(&path, DISK, 0, u64::MAX).unwrap();
    let mut got = vec![scan.next().unwrap().unwrap()];
    while index.merge_step(100, &|_, _| true).unwrap() != MergeProgress::Done {}
    assert_eq!(index.stats().runs, 1);
    got.extend(scan.map(|e| e.unwrap()));
    assert_eq!(got, want);
    check(&index, 8, "merged");
    index.drop_below(LOG, Pos(8 * SEGMENT)).unwrap();
    assert_eq!(index.stats().runs, 0);
    assert_eq!(crate::seam::Storage::list(&storage, "index".as_ref()).unwrap(), ["runs"]);
}

#[test]
fn a_merge_drops_what_nobody_needs() {
    let storage = SimDevice::new(1).storage("s");
    let (index, _) = open(&storage).unwrap();
    (0..8).for_each(|number| add(&index, number).unwrap());
    let before = index.stats().pieces;
    while index.merge_step(1000, &|_, e| e.pos >= Pos(4 * SEGMENT)).unwrap() != MergeProgress::Done {}
    let after = index.stats().pieces;
    assert!(after < before * 6 / 10 && after > before * 4 / 10, "{before} {after}");
    let above = whole(u64::MAX).above(LOG, Pos(4 * SEGMENT)).unwrap();
    let model = Model { versions: (0..8).flat_map(segment).map(|e| (LOG, e)).collect() };
    assert_eq!(index.lookup(&above, DISK, 0, DISK_BYTES).unwrap(), model.lookup(&above, DISK, 0, DISK_BYTES));
}

/// One block written again and again: any moment of it is found with a few pages.
#[test]
fn a_long_chain_is_not_walked() {
    let storage = SimDevice::new(1).storage("s");
    let (index, _) = open(&storage).unwrap();
    let entry = |n: u64| Entry {
        disk: DISK,
        offset: 4096 * (n % 2),
        len: 4096,
        pos: Pos(n),
        content: Content::Data,
        crc: 0,
    };
    let entries: Vec<Entry> = (0..60_000).map(entry).collect();
    index.rebuild(LOG, &[meta(0)], &[], &entries).unwrap();
    assert!(index.stats().run_bytes > 60_000 * 20);
    for moment in [1, 2, 500, 30_000, 59_999, 60_000] {
        let (index, _) = open(&storage).unwrap();
        let got = index.lookup(&whole(moment), DISK, 0, 8192).unwrap();
        let newest = |extent: &Extent| extent.payload_at().map(|(_, pos)| pos.0);
        assert_eq!(got.iter().filter_map(newest).max(), Some(moment - 1));
        let pages = index.stats().cache_bytes / 4096;
        assert!(pages < 40, "{pages} pages for one look-up");
    }
}

/// N3 of `scan`: also where the path sees nothing of what is looked at.
#[test]
fn a_scan_that_must_answer_at_once_breaks_off() {
    let storage = SimDevice::new(1).storage("s");
    let (index, _) = open(&storage).unwrap();
    let entry = |n: u64| Entry {
        disk: DISK,
        offset: 8192 * n,
        len: 4096,
        pos: Pos(n + 1),
        content: Content::Data,
        crc: 0,
    };
    let entries: Vec<Entry> = (0..60_000).map(entry).collect();
    index.rebuild(LOG, &[meta(0)], &[], &entries).unwrap();
    let (index, _) = open(&storage).unwrap();
    let all = |moment: u64, pieces: usize| {
        let mut scan = index.scan_some(&whole(moment), DISK, (0, u64::MAX), pieces).unwrap();
        let got: Vec<u64> = scan.by_ref().map(|extent| extent.unwrap().offset).collect();
        (got, scan.broke_off())
    };
    let (few, end) = all(u64::MAX, 500);
    assert!((490..=500).contains(&few.len()), "{}", few.len());
    assert_eq!(few, (0..few.len() as u64).map(|n| 8192 * n).collect::<Vec<_>>());
    assert!(end.is_some_and(|end| end >= 8192 * (few.len() as u64 - 1) && end < 8192 * 501), "{end:?}");
    // The first record of all is at the begin of the disk: what an old moment doesn't see isn't walked through.
    let before = index.stats().cache_bytes;
    let (few, end) = all(2, 500);
    assert_eq!((few, end.is_some()), (vec![0], true));
    assert!(index.stats().cache_bytes - before < 100 * 4096);
    assert_eq!(all(u64::MAX, 100_000).1, None);
    assert_eq!(all(u64::MAX, 100_000).0.len(), 60_000);
}

#[test]
fn batches_by_seq_and_by_time() {
    let storage = SimDevice::new(1).storage("s");
    let (index, _) = open(&storage).unwrap();
    let stretch = Interval { log: LOG, from: Pos(0), to: Pos(u64::MAX) };
    // Ten segments of 300 batches of three records; the clock goes back by 1,000 at the end of the fifth.
    let row = |n: u64| BatchRow {
        first_seq: Seq(n * 3 + 1),
        pos: Pos(n / 300 * SEGMENT + n % 300 * 100),
        wall_ns: n as i64 * 10 - if n >= 1450 { 1000 } else { 0 },
    };
    for n in 0..3000 {
        index.push_batch(LOG, row(n));
        if n % 300 == 299 && n < 2700 {
            index.rotate(LOG, meta(n / 300)).unwrap();
            if n < 2400 {
                index.seal(LOG).unwrap();
            }
        }
    }
    while index.merge_step(50, &|_, _| true).unwrap() != MergeProgress::Done {}
    assert_eq!(index.stats().runs, 1);
    let mut seen_ambiguous = false;
    for n in [0, 1, 299, 300, 1380, 1449, 1450, 2399, 2400, 2700, 2999] {
        for seq in [n * 3 + 1, n * 3 + 3] {
            assert_eq!(index.batch_of_seq(stretch, Seq(seq)).unwrap(), Some(row(n)), "seq {seq}");
        }
        let at = index.batch_at_time(stretch, row(n).wall_ns + 5).unwrap();
        let time = row(n).wall_ns + 5;
        let last = (0..3000).rev().find(|n| row(*n).wall_ns <= time).unwrap();
        let ambiguous = (0..last).any(|n| row(n).wall_ns > time);
        assert_eq!(at, Some(BatchAtTime { row: row(last), ambiguous }), "batch {n}");
        seen_ambiguous |= ambiguous;
    }
    assert!(seen_ambiguous);
    assert_eq!(index.batch_of_seq(stretch, Seq(0)).unwrap(), None);
    assert_eq!(index.batch_at_time(stretch, -1).unwrap(), None);
    let part = Interval { from: row(1600).pos, to: row(2500).pos, ..stretch };
    assert_eq!(index.batch_of_seq(part, Seq(1599 * 3)).unwrap(), None);
    assert_eq!(index.batch_of_seq(part, Seq(9000)).unwrap(), Some(row(2499)));
    let at = index.batch_at_time(part, i64::MAX).unwrap();
    assert_eq!(at, Some(BatchAtTime { row: row(2499), ambiguous: false }));
}

#[test]
fn the_place_of_an_old_record_is_found_in_few_pages() {
    const SEGMENTS: u64 = 64;
    const BATCHES: u64 = 2_000;
    let storage = SimDevice::new(1).storage("s");
    let (index, _) = open(&storage).unwrap();
    let row = |n: u64| BatchRow {
        first_seq: Seq(n * 3 + 1),
        pos: Pos(n / BATCHES * SEGMENT + n % BATCHES),
        wall_ns: n as i64,
    };
    for segment in 0..SEGMENTS {
        (segment * BATCHES..(segment + 1) * BATCHES).for_each(|n| index.push_batch(LOG, row(n)));
        let (first_seq, last_seq) =
            (row(segment * BATCHES).first_seq, Seq(row((segment + 1) * BATCHES).first_seq.0 - 1));
        index.rotate(LOG, SegmentMeta { first_seq, last_seq, ..meta(segment) }).unwrap();
        index.seal(LOG).unwrap();
    }
    let stretch = Interval { log: LOG, from: Pos(0), to: Pos(u64::MAX) };
    for n in [0, 1, BATCHES - 1, BATCHES, 40 * BATCHES + 7, SEGMENTS * BATCHES - 1] {
        let (index, _) = open(&storage).unwrap();
        let before = index.stats().cache_bytes;
        assert_eq!(index.batch_of_seq(stretch, Seq(n * 3 + 2)).unwrap(), Some(row(n)));
        let pages = (index.stats().cache_bytes - before) / 4096;
        assert!(pages < 12, "{pages} pages for batch {n}");
    }
}
