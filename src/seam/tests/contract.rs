//! What needs no power loss: names, reads and writes, holes, refusals; and both implementations side by side.

use super::*;
use crate::seam::AlignedBuf;
use crate::vocab::{Kind, Result};

fn kind<T>(result: Result<T>) -> Kind {
    result.err().unwrap().kind()
}

#[test]
fn names() {
    for_both(|s| {
        assert_eq!(kind(s.open(p("a"), Access::Cached)), Kind::NotFound);
        create(s, "b");
        create(s, "a");
        assert_eq!(kind(s.create(p("a"), Access::Cached)), Kind::Exists);
        s.make_dir(p("d/e/f")).unwrap();
        s.make_dir(p("d/e/f")).unwrap();
        assert_eq!(kind(s.make_dir(p("a"))), Kind::Exists);
        assert!(s.make_dir(p("a/x")).is_err());
        assert_eq!(s.list(p("")).unwrap(), ["a", "b", "d"]);
        assert_eq!(kind(s.list(p("nowhere"))), Kind::NotFound);
        assert!(s.list(p("a")).is_err());
        create(s, "d/e/f/new").write_all_at(b"new", 0).unwrap();
        s.rename(p("d/e/f/new"), p("a")).unwrap();
        assert_eq!(content(s, "a"), b"new");
        assert!(!s.exists(p("d/e/f/new")).unwrap() && s.exists(p("d/e/f")).unwrap());
        assert_eq!(kind(s.rename(p("gone"), p("a"))), Kind::NotFound);
        assert!(s.remove_dir(p("d/e")).is_err(), "it isn't empty");
        assert!(s.remove(p("d")).is_err() && s.remove_dir(p("a")).is_err());
        assert!(s.rename(p("d"), p("d/e/g")).is_err());
        s.rename(p("d/e"), p("moved")).unwrap();
        s.remove_dir(p("moved/f")).unwrap();
        s.sync_dir(p("moved")).unwrap();
        s.sync_dir(p("")).unwrap();
        assert_eq!(kind(s.sync_dir(p("d/e"))), Kind::NotFound);
        assert_eq!(kind(s.remove(p("gone"))), Kind::NotFound);
        assert_eq!(s.list(p("")).unwrap(), ["a", "b", "d", "moved"]);
    });
}

#[test]
fn a_path_can_not_leave_the_tree() {
    for_both(|s| {
        for path in ["../a", "/a", "d/../../a", "."] {
            assert_eq!(kind(s.create(p(path), Access::Cached)), Kind::Invalid, "{path}");
            assert_eq!(kind(s.list(p(path))), Kind::Invalid, "{path}");
            assert_eq!(kind(s.rename(p("x"), p(path))), Kind::Invalid, "{path}");
        }
    });
}

#[test]
fn a_removed_or_replaced_file_serves_its_handles() {
    for_both(|s| {
        let (old, gone) = (create(s, "old"), create(s, "gone"));
        old.write_all_at(b"old", 0).unwrap();
        create(s, "new");
        s.rename(p("new"), p("old")).unwrap();
        s.remove(p("gone")).unwrap();
        s.sync_dir(p("")).unwrap();
        gone.write_all_at(b"still", 0).unwrap();
        let mut buf = [0; 8];
        assert_eq!((old.read_at(&mut buf, 0).unwrap(), &buf[..3]), (3, &b"old"[..]));
        assert_eq!((gone.read_at(&mut buf, 0).unwrap(), &buf[..5]), (5, &b"still"[..]));
        assert_eq!(content(s, "old"), b"");
    });
}

/// S1.
#[test]
fn a_write_is_seen_through_every_handle() {
    for_both(|s| {
        let direct = s.create(p("a"), Access::Direct).unwrap();
        let cached = s.open(p("a"), Access::Cached).unwrap();
        let reader = s.open(p("a"), Access::ReadOnly).unwrap();
        direct.write_all_at(&AlignedBuf::padded(&[1; 8192]), 0).unwrap();
        cached.write_all_at(&[2; 100], 4000).unwrap();
        let mut expected = vec![1; 8192];
        expected[4000..4100].fill(2);
        for file in [&direct, &cached, &reader] {
            let mut buf = AlignedBuf::zeroed(12288);
            assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8192);
            assert!(buf[..8192] == expected[..]);
        }
        assert!(reader.write_all_at(&[1], 0).is_err());
        assert_eq!(kind(s.create(p("b"), Access::ReadOnly)), Kind::Invalid);
    });
}

#[test]
fn reads_stop_at_the_end_and_what_is_new_is_zero() {
    for_both(|s| {
        let file = create(s, "a");
        assert!(file.is_empty().unwrap());
        file.write_all_at(b"xy", 9000).unwrap();
        let mut buf = [7; 10];
        assert_eq!((file.read_at(&mut buf, 8996).unwrap(), &buf[..6]), (6, &b"\0\0\0\0xy"[..]));
        assert_eq!((file.read_at(&mut buf, 9002).unwrap(), file.read_at(&mut buf, 1 << 40).unwrap()), (0, 0));
        file.set_len(9001).unwrap();
        file.set_len(9010).unwrap();
        assert_eq!(file.read_at(&mut buf, 9000).unwrap(), 10);
        assert_eq!(&buf, b"x\0\0\0\0\0\0\0\0\0");
        write_durably(&*file, b"", 1 << 30);
        assert_eq!(file.len().unwrap(), 9010, "an empty write doesn't grow a file");
    });
}

#[test]
fn direct_file_of_odd_length_is_read_to_its_end() {
    for_both(|s| {
        create(s, "a").write_all_at(&[5; 5000], 0).unwrap();
        let file = s.open(p("a"), Access::Direct).unwrap();
        let mut buf = AlignedBuf::zeroed(16384);
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 5000);
        assert_eq!((buf[4999], buf[5000]), (5, 0));
        assert_eq!(file.read_at(&mut buf, 4096).unwrap(), 904);
    });
}

#[test]
fn misaligned_direct_io_is_refused() {
    for_both(|s| {
        let file = s.create(p("a"), Access::Direct).unwrap();
        let mut buf = AlignedBuf::zeroed(8192);
        assert_eq!(kind(file.write_all_at(&buf[..512], 0)), Kind::Invalid);
        assert_eq!(kind(file.write_all_at(&buf, 512)), Kind::Invalid);
        assert_eq!(kind(file.read_at(&mut buf[1..4097], 0)), Kind::Invalid);
    });
}

#[test]
fn more_buffers_than_one_call_takes() {
    for_both(|s| {
        let file = create(s, "a");
        let parts: Vec<[u8; 3]> = (0..5000_u32).map(|n| [n as u8, (n >> 8) as u8, 1]).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_at(&slices, 7, Durability::Durable).unwrap();
        assert_eq!(content(s, "a")[7..], parts.concat());
    });
}

#[test]
fn holes_are_zero_found_and_give_room_back() {
    for_both(|s| {
        let file = create(s, "a");
        file.write_all_at(&[1; 1 << 20], 0).unwrap();
        file.sync().unwrap();
        let before = file.allocated().unwrap();
        assert!(before >= 1 << 20);
        file.punch(100_000, 800_000).unwrap();
        file.zero(10, 20).unwrap();
        file.punch(1 << 20, 1 << 40).unwrap();
        file.zero(5, 0).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        assert!(file.allocated().unwrap() <= before - 700_000, "punching gives room back");
        let got = content(s, "a");
        for (at, byte) in got.iter().enumerate() {
            let zero = (10..30).contains(&at) || (100_000..900_000).contains(&at);
            assert_eq!(*byte, u8::from(!zero), "at {at}");
        }
        file.set_len(1 << 40).unwrap();
        let mut at = 0;
        while let Some(data) = file.next_data(at).unwrap() {
            assert!(got[at as usize..data as usize].iter().all(|b| *b == 0), "data called a hole");
            at = file.next_hole(data).unwrap().unwrap();
            assert!(at > data);
        }
        assert!(at <= 1 << 20, "the tail is a hole");
        assert_eq!(file.next_hole(1 << 39).unwrap(), Some(1 << 39));
        assert_eq!(file.next_hole((1 << 40) - 1).unwrap(), Some((1 << 40) - 1));
        assert_eq!((file.next_hole(1 << 40).unwrap(), file.next_data(1 << 40).unwrap()), (None, None));
        assert!(s.space().unwrap().free > 0 && s.space().unwrap().free <= s.space().unwrap().total);
        let used = file.allocated().unwrap();
        file.allocate(1 << 30, 1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 40);
        let got = file.allocated().unwrap();
        // ext3 can't, and says so when it is probed.
        assert!(got >= used + (1 << 20) || (got == used && !s.shown(p("")).starts_with("sim:")));
    });
}

/// The simulator is only worth something if it does what a filesystem does.
#[test]
fn both_do_the_same() {
    for seed in seeds(8, 200) {
        let dir = tempfile::tempdir().unwrap();
        let real = DirStorage::open(dir.path()).unwrap();
        let sim = SimDevice::new(seed).storage("x/y");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut files: Vec<(Arc<dyn File>, Arc<dyn File>)> = Vec::new();
        for _ in 0..80 {
            let name = ["a", "b", "d/a", "d/b", "d"][rng.usize(..5)];
            let other = ["a", "b", "d/a", "d/b", "d"][rng.usize(..5)];
            let kinds = |s: &dyn Storage, action: u8| {
                let result = match action {
                    0 => s.make_dir(p(name)),
                    1 => s.rename(p(name), p(other)),
                    2 => s.remove(p(name)),
                    3 => s.remove_dir(p(name)),
                    _ => s.sync_dir(p(name)),
                };
                result.is_ok()
            };
            let action = rng.u8(..12);
            if action < 5 {
                assert_eq!(kinds(&real, action), kinds(&sim, action), "seed {seed}: {action} {name} {other}");
            } else if action < 7 {
                match (real.create(p(name), Access::Cached), sim.create(p(name), Access::Cached)) {
                    (Ok(a), Ok(b)) => files.push((a, b)),
                    (a, b) => assert_eq!(a.is_ok(), b.is_ok(), "seed {seed}: create {name}"),
                }
            } else if !files.is_empty() {
                let (a, b) = &files[rng.usize(..files.len())];
                let (at, len) = (rng.u64(..100_000), rng.u64(..50_000));
                for file in [a, b] {
                    match action {
                        7 => file.punch(at, len).unwrap(),
                        8 => file.zero(at, len).unwrap(),
                        9 => file.set_len(at).unwrap(),
                        _ => file.write_all_at(&vec![action + seed as u8; len as usize], at).unwrap(),
                    }
                }
                let read = |file: &Arc<dyn File>| {
                    let mut out = vec![0; file.len().unwrap() as usize];
                    file.read_at(&mut out, 0).unwrap();
                    out
                };
                assert!(read(a) == read(b), "seed {seed}: {action} {at}+{len}");
            }
            for dir in ["", "d"] {
                assert_eq!(real.list(p(dir)).ok(), sim.list(p(dir)).ok(), "seed {seed}");
            }
        }
    }
}
