//! Faults, room, rot, copies and determinism of the simulator.

use super::*;
use crate::seam::{Class, Fault};
use crate::vocab::Kind;

#[test]
fn the_nth_call_of_a_class_fails() {
    let s = SimDevice::new(1).storage("site");
    let (a, b) = (create(&s, "a"), create(&s, "b"));
    s.inject(Fault::of(Class::Sync).nth(2).times(2).on("site/a"));
    s.inject(Fault::of(Class::Rename).errno(30));
    let failed: Vec<bool> = (0..5).map(|_| b.sync().is_err() || a.sync().is_err()).collect();
    assert_eq!(failed, [false, true, true, false, false]);
    assert_eq!(s.rename(p("a"), p("c")).unwrap_err().errno(), 30);
    assert!(s.exists(p("a")).unwrap() && s.rename(p("a"), p("c")).is_ok());
    s.inject(Fault::of(Class::Write).always());
    assert!((0..9).all(|_| b.write_all_at(b"x", 0).is_err()));
    s.clear_faults();
    b.write_all_at(b"x", 0).unwrap();
}

#[test]
fn a_failed_write_may_have_written_a_part() {
    let lengths: std::collections::BTreeSet<u64> = seeds(60, 60)
        .map(|seed| {
            let s = SimDevice::new(seed).storage("");
            let file = create(&s, "a");
            s.inject(Fault::of(Class::Write));
            file.write_all_at(&[1; 1024], 0).unwrap_err();
            file.len().unwrap()
        })
        .collect();
    assert_eq!(lengths, [0, 512, 1024].into());
}

#[test]
fn room_ends_and_comes_back() {
    for seed in seeds(20, 500) {
        let s = SimDevice::new(seed).storage("");
        s.set_room(10 * 4096);
        let file = create(&s, "a");
        file.write_all_at(&[1; 6 * 4096], 0).unwrap();
        file.allocate(6 * 4096, 2 * 4096).unwrap();
        assert_eq!(s.space().unwrap().free, 2 * 4096);
        assert_eq!(file.allocate(1 << 30, 3 * 4096).unwrap_err().kind(), Kind::NoSpace);
        assert_eq!(file.zero(1 << 30, 3 * 4096).unwrap_err().kind(), Kind::NoSpace);
        file.write_all_at(&[2; 8 * 4096], 0).unwrap();
        let error = file.write_all_at(&[3; 8 * 4096], 4 * 4096).unwrap_err();
        assert_eq!((error.kind(), error.errno()), (Kind::NoSpace, 28));
        assert!(content(&s, "a").iter().take(4 * 4096).all(|b| *b == 2));
        file.punch(0, 5 * 4096).unwrap();
        create(&s, "b").write_all_at(&[1; 4 * 4096], 0).unwrap();
        s.remove(p("b")).unwrap();
        assert!(s.space().unwrap().free >= 4 * 4096);
        s.sync_dir(p("")).unwrap();
        s.power_loss();
        s.power_on();
        let used = s.open(p("a"), Access::ReadOnly).map_or(0, |file| file.allocated().unwrap());
        assert_eq!(s.space().unwrap().free, 10 * 4096 - used);
    }
}

#[test]
fn rot_is_durable() {
    let s = SimDevice::new(1).storage("site");
    let file = durable_file(&s, "a", &[1; 8192]);
    file.write_all_at(&[2; 100], 0).unwrap();
    s.flip("a", 50).unwrap();
    std::ops::Deref::deref(&s).flip("site/a", 6000).unwrap();
    file.sync().unwrap();
    for _ in 0..2 {
        let got = content(&s, "a");
        assert!(got[50] != 2 && got[6000] != 1 && got[51] == 2 && got[6001] == 1);
        s.power_loss();
        s.power_on();
    }
    assert_eq!(s.flip("none", 0).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_fork_is_another_machine_with_the_same_past() {
    let device = SimDevice::new(1);
    let s = device.storage("site");
    durable_file(&s, "a", b"both");
    let backup = device.fork(2);
    durable_file(&s, "b", b"later");
    s.power_loss();
    let restored = backup.storage("site");
    assert_eq!(restored.list(p("")).unwrap(), ["a"]);
    assert_eq!(content(&restored, "a"), b"both");
}

#[test]
fn the_same_seed_gives_the_same_loss() {
    let run = |seed| {
        let s = SimDevice::new(seed).storage("");
        for name in ["a", "b", "c"] {
            let file = create(&s, name);
            for at in 0..20 {
                file.write_all_at(&[at as u8 + 1; 700], at * 300).unwrap();
                if at == 9 {
                    file.sync().unwrap();
                }
            }
        }
        assert!(s.unsynced() > 30);
        s.power_loss();
        s.power_on();
        assert_eq!(s.unsynced(), 0);
        s.list(p("")).unwrap().iter().map(|name| content(&s, name)).collect::<Vec<_>>()
    };
    let all: Vec<_> = (0..20).map(run).collect();
    assert_eq!(all, (0..20).map(run).collect::<Vec<_>>());
    assert!(all.iter().any(|one| *one != all[0]), "seeds differ");
}

#[test]
fn many_threads_may_call() {
    for_both(|s| {
        let file = create(s, "a");
        std::thread::scope(|scope| {
            for n in 0..4_u64 {
                let file = &file;
                scope.spawn(move || {
                    for at in 0..50 {
                        file.write_all_at(&[n as u8 + 1; 100], (at * 4 + n) * 100).unwrap();
                        file.sync().unwrap();
                    }
                });
            }
        });
        let got = content(s, "a");
        assert!(got.chunks(100).enumerate().all(|(at, part)| part == [(at % 4) as u8 + 1; 100]));
    });
}
