//! Many random 4 KiB writes: what an insertion, a look-up and the memory cost.

use crate::index::{CacheBudget, Content, Entry, Index, Interval, MergeProgress, Path, SegmentMeta};
use crate::seam::DirStorage;
use crate::vocab::{DiskOrdinal, EpochId, GroupId, LogId, Pos, Seq};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOG: LogId = LogId([1; 16]);
const DISK: DiskOrdinal = DiskOrdinal(1);
const DISK_BYTES: u64 = 4 << 30;
/// Records of a segment of 64 MiB.
const SEGMENT_RECORDS: u64 = 14_000;

fn per(time: Duration, count: u64) -> u128 {
    time.as_nanos() / u128::from(count)
}

#[test]
fn many_random_writes() {
    let full = std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full");
    let records: u64 = if full { 1_000_000 } else { 60_000 };
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(DirStorage::open(dir.path()).unwrap());
    let budget = CacheBudget::new(CacheBudget::DEFAULT_BYTES);
    let (index, _) = Index::open(storage, "index", GroupId([7; 16]), Arc::clone(&budget)).unwrap();
    let path = Path::new([Interval { log: LOG, from: Pos(0), to: Pos(u64::MAX) }]);
    let mut random = fastrand::Rng::with_seed(1);
    let mut newest = vec![0u64; (DISK_BYTES / 4096) as usize];
    let (mut inserting, mut sealing, mut merging) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut longest = Duration::ZERO;
    let mut rotated = 0;
    for n in 1..=records {
        let block = random.u64(0..DISK_BYTES / 4096);
        newest[block as usize] = n;
        let entry = Entry {
            disk: DISK,
            offset: block * 4096,
            len: 4096,
            pos: Pos(n * 4608),
            content: Content::Data,
            crc: n as u32,
        };
        let start = Instant::now();
        index.insert(LOG, &[entry]).unwrap();
        inserting += start.elapsed();
        if n % SEGMENT_RECORDS == 0 {
            let to = Pos(n * 4608 + 1);
            let meta = SegmentMeta {
                epoch: EpochId([1; 16]),
                from: Pos(rotated),
                to,
                first_seq: Seq(1),
                last_seq: Seq(n),
            };
            index.rotate(LOG, meta).unwrap();
            rotated = to.0;
            let start = Instant::now();
            index.seal(LOG).unwrap();
            sealing += start.elapsed();
            loop {
                let start = Instant::now();
                let progress = index.merge_step(20_000, &|_, _| true).unwrap();
                longest = longest.max(start.elapsed());
                merging += start.elapsed();
                if progress == MergeProgress::Idle {
                    break;
                }
            }
        }
    }
    let lookups = records / 5;
    let mut look = |index: &Index, span: u64| {
        let mut out = Vec::new();
        let mut time = Duration::ZERO;
        for _ in 0..lookups {
            let block = random.u64(0..span / 4096);
            out.clear();
            let start = Instant::now();
            index.lookup_into(&path, DISK, block * 4096, 4096, &mut out).unwrap();
            time += start.elapsed();
            let found = out[0].payload_at().map_or(0, |(_, pos)| pos.0 / 4608);
            assert_eq!((out.len(), found), (1, newest[block as usize]), "block {block}");
        }
        per(time, lookups)
    };
    let cold = look(&index, DISK_BYTES);
    look(&index, 256 << 20);
    let hot = look(&index, 256 << 20);
    let start = Instant::now();
    let scanned = index.scan(&path, DISK, 0, DISK_BYTES).unwrap().map(|e| e.unwrap().len / 4096).sum::<u64>();
    let scanning = start.elapsed();
    let stats = index.stats();
    assert_eq!(scanned, newest.iter().filter(|n| **n > 0).count() as u64);
    assert!(budget.used() <= budget.limit() && stats.cache_bytes == budget.used());
    assert!(stats.resident_bytes < 4 << 20, "{stats:?}");
    println!(
        "{records} records: insert {} ns, seal {} ns a record, merge {} ns a record (longest step {} ms), \
         look-up over 4 GiB {cold} ns, over 256 MiB {hot} ns, scan {} ns an extent; {stats:?}",
        per(inserting, records),
        per(sealing, records),
        per(merging, records),
        longest.as_millis(),
        per(scanning, scanned),
    );
}
