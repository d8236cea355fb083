//! S2 to S6 at the simulator, each with the control that it does take away what isn't promised.

use super::*;
use crate::seam::{Class, Fault, SimStorage, is_killed, is_power_loss};
use std::collections::BTreeSet;

/// Cuts and restores the power.
fn cycle(device: &SimDevice) {
    device.power_loss();
    device.power_on();
}

/// Runs with many seeds, and returns all outcomes that occurred.
fn outcomes<T: Ord>(run: impl Fn(SimStorage) -> T) -> BTreeSet<T> {
    seeds(200, 5000).map(|seed| run(SimDevice::new(seed).storage("site"))).collect()
}

/// S2, S4.
#[test]
fn synced_stays_unsynced_is_lost_kept_or_torn_at_sectors() {
    let seen = outcomes(|s| {
        let file = durable_file(&s, "a", &[1; 4096]);
        create(&s, "other");
        file.write_all_at(&[2; 1900], 100).unwrap();
        s.open(p("other"), Access::Cached).unwrap().sync().unwrap();
        cycle(&s);
        let got = content(&s, "a");
        assert!(got[..100].iter().chain(&got[2000..]).all(|b| *b == 1), "synced bytes changed");
        let mut kept = 0;
        for sector in got[..2048].chunks(512) {
            let written: Vec<u8> = sector.iter().filter(|b| **b == 2).copied().collect();
            let is_whole = [0, 412, 512, 464].contains(&written.len());
            assert!(is_whole, "torn within a sector: {} bytes", written.len());
            kept += usize::from(!written.is_empty());
        }
        kept
    });
    assert_eq!(seen, (0..=4).collect(), "lost, kept and torn must all occur");
}

#[test]
fn unsynced_writes_survive_in_any_order() {
    let seen = outcomes(|s| {
        let file = durable_file(&s, "a", &[0; 8192]);
        file.write_all_at(&[1; 512], 0).unwrap();
        file.write_all_at(&[2; 512], 4096).unwrap();
        file.write_all_at(&[3; 512], 0).unwrap();
        cycle(&s);
        let got = content(&s, "a");
        (got[0], got[4096])
    });
    for outcome in [(0, 0), (0, 2), (1, 0), (1, 2), (3, 0), (3, 2)] {
        assert!(seen.contains(&outcome), "{outcome:?} never occurred: {seen:?}");
    }
}

#[test]
fn lengths_are_content_too() {
    let seen = outcomes(|s| {
        let file = durable_file(&s, "a", &[1; 1000]);
        file.write_all_at(&[2; 1000], 1000).unwrap();
        cycle(&s);
        let got = content(&s, "a");
        assert!(got.len() >= 1000 && got.len() <= 2000 && got[..1000] == [1; 1000]);
        assert!(got[1000..].iter().all(|b| [0, 2].contains(b)));
        (got.len() > 1000, got.get(1900) == Some(&2))
    });
    // Lost, longer without bytes, and whole.
    assert_eq!(seen, BTreeSet::from([(false, false), (true, false), (true, true)]));
    let cut = outcomes(|s| {
        durable_file(&s, "a", &[1; 1000]).set_len(10).unwrap();
        cycle(&s);
        content(&s, "a").len()
    });
    assert_eq!(cut, BTreeSet::from([10, 1000]));
    outcomes(|s| {
        let file = durable_file(&s, "a", &[1; 1000]);
        file.set_len(10).unwrap();
        file.punch(0, 5).unwrap();
        file.set_len(5000).unwrap();
        file.sync().unwrap();
        cycle(&s);
        let expected = [vec![0; 5], vec![1; 5], vec![0; 4990]].concat();
        assert!(content(&s, "a") == expected, "a synced file came back otherwise");
    });
}

/// S3: with FUA a durable write is itself durable and nothing else is.
#[test]
fn a_durable_write_persists_itself() {
    for fua in [true, false] {
        let seen = outcomes(|s| {
            s.set_fua(fua);
            let (a, b) = (durable_file(&s, "a", &[0; 4096]), durable_file(&s, "b", &[0; 4096]));
            b.write_all_at(&[1; 512], 0).unwrap();
            a.write_all_at(&[1; 512], 0).unwrap();
            a.write_all_at(&[1; 1024], 1024).unwrap();
            write_durably(&*a, &[2; 512], 1024);
            write_durably(&*a, &[3; 512], 8192);
            let (c, d) = (durable_file(&s, "c", &[]), create(&s, "d"));
            write_durably(&*c, &[4; 10], 0);
            d.sync().unwrap();
            cycle(&s);
            let (a, b) = (content(&s, "a"), content(&s, "b"));
            assert!(a[1024..1536] == [2; 512], "a durable write lost to an earlier plain one");
            assert!(a[8192..] == [3; 512] && content(&s, "c") == [4; 10], "a durable write was lost");
            (a[0], a[1536], b[0])
        });
        if fua {
            assert_eq!(seen.len(), 8, "an earlier plain write must be lost in some seed: {seen:?}");
        } else {
            assert_eq!(seen, BTreeSet::from([(1, 1, 1)]), "without FUA the whole device is flushed");
        }
    }
}

/// S5.
#[test]
fn names_survive_as_a_prefix_of_each_directory() {
    let seen = outcomes(|s| {
        s.make_dir(p("d")).unwrap();
        s.make_dir(p("e")).unwrap();
        s.sync_dir(p("")).unwrap();
        for name in ["d/1", "e/1", "d/2", "e/2", "d/3"] {
            create(&s, name);
        }
        s.remove(p("d/1")).unwrap();
        cycle(&s);
        (s.list(p("d")).unwrap().concat(), s.list(p("e")).unwrap().concat())
    });
    let (d, e): (BTreeSet<_>, BTreeSet<_>) = seen.iter().cloned().unzip();
    assert_eq!(d, ["", "1", "12", "123", "23"].map(String::from).into());
    assert_eq!(e, ["", "1", "12"].map(String::from).into());
    assert!(seen.contains(&("".into(), "12".into())), "directories are lost apart");
}

#[test]
fn renames_are_atomic_and_content_needs_its_own_sync() {
    let seen = outcomes(|s| {
        durable_file(&s, "state", b"old");
        let file = create(&s, "state.new");
        file.write_all_at(b"new", 0).unwrap();
        s.rename(p("state.new"), p("state")).unwrap();
        s.sync_dir(p("")).unwrap();
        cycle(&s);
        assert!(!s.exists(p("state.new")).unwrap());
        content(&s, "state") == b"new"
    });
    assert_eq!(seen, BTreeSet::from([false, true]), "renamed before it was synced: lost in some seed");
    let seen = outcomes(|s| {
        s.make_dir(p("from")).unwrap();
        s.make_dir(p("to")).unwrap();
        s.sync_dir(p("")).unwrap();
        durable_file(&s, "from/a", b"x");
        create(&s, "to/before");
        s.rename(p("from/a"), p("to/a")).unwrap();
        if s.list(p("from")).unwrap().is_empty() && s.operations() % 2 == 0 {
            create(&s, "from/after");
        }
        cycle(&s);
        let (from, to) = (s.exists(p("from/a")).unwrap(), s.exists(p("to/a")).unwrap());
        assert!(from != to, "a file in both directories or in none");
        assert!(!to || s.exists(p("to/before")).unwrap());
        to
    });
    assert_eq!(seen, BTreeSet::from([false, true]));
    // The sync of either directory completes the move.
    for dir in ["from", "to"] {
        outcomes(|s| {
            s.make_dir(p("from")).unwrap();
            s.make_dir(p("to")).unwrap();
            s.sync_dir(p("")).unwrap();
            durable_file(&s, "from/a", b"x");
            s.rename(p("from/a"), p("to/a")).unwrap();
            s.sync_dir(p(dir)).unwrap();
            cycle(&s);
            assert!(s.exists(p("to/a")).unwrap() && !s.exists(p("from/a")).unwrap());
        });
    }
}

/// S6.
#[test]
fn after_a_failed_sync_a_later_one_proves_nothing() {
    let seen = outcomes(|s| {
        let file = durable_file(&s, "a", &[1; 4096]);
        file.write_all_at(&[2; 4096], 0).unwrap();
        s.inject(Fault::of(Class::Sync));
        assert_eq!(file.sync().unwrap_err().errno(), 5);
        file.sync().unwrap();
        let cached = content(&s, "a")[0];
        let mut direct = crate::seam::AlignedBuf::zeroed(4096);
        s.open(p("a"), Access::Direct).unwrap().read_at(&mut direct, 0).unwrap();
        cycle(&s);
        let after = content(&s, "a")[0];
        assert_eq!(direct[0], after, "reading past the cache tells what a power loss leaves");
        (cached, after)
    });
    assert_eq!(seen, BTreeSet::from([(2, 2), (2, 1), (1, 1)]));
    outcomes(|s| {
        let file = durable_file(&s, "a", &[1; 4096]);
        file.write_all_at(&[2; 4096], 0).unwrap();
        s.inject(Fault::of(Class::Sync));
        file.sync().unwrap_err();
        file.write_all_at(&[2; 4096], 0).unwrap();
        file.sync().unwrap();
        cycle(&s);
        assert!(content(&s, "a") == [2; 4096], "written again and synced: durable");
    });
}

/// Replaces a file's content so that a reader finds the old or the new one; `steps` leaves out rules.
fn replace(s: &dyn Storage, bytes: &[u8], sync_content: bool) -> crate::vocab::Result<()> {
    if s.exists(p("f.new"))? {
        s.remove(p("f.new"))?;
    }
    let file = s.create(p("f.new"), Access::Cached)?;
    file.write_all_at(bytes, 0)?;
    if sync_content {
        file.sync()?;
    }
    s.rename(p("f.new"), p("f"))?;
    s.sync_dir(p(""))
}

/// The loop that other tests are to use: without a crash once, then with one within each operation.
#[test]
fn crash_at_every_operation() {
    let broken = |sync_content: bool| {
        let mut broken = 0;
        for seed in seeds(30, 1000) {
            for n in 1.. {
                let s = SimDevice::new(seed * 100 + n).storage("");
                replace(&s, &[1; 2000], true).unwrap();
                s.power_loss_at(n);
                let result = replace(&s, &[2; 2000], sync_content);
                let crashed = !s.has_power();
                assert_eq!(result.as_ref().is_err_and(is_power_loss), crashed, "{result:?}");
                assert_eq!(s.crashed_in().is_empty(), !crashed);
                assert_eq!(s.list(p("")).is_err(), crashed, "no call works without power");
                s.power_loss();
                s.power_on();
                let got = content(&s, "f");
                let fits = got == [2; 2000] || (crashed && got == [1; 2000]);
                assert!(fits || !sync_content, "seed {seed}, crash {n} in {}", s.crashed_in());
                broken += usize::from(!fits);
                if !crashed {
                    assert_eq!(n, if sync_content { 6 } else { 5 }, "one round for each operation");
                    break;
                }
            }
        }
        broken
    };
    assert_eq!(broken(true), 0);
    assert!(broken(false) > 0, "the loop must see a missing sync");
}

#[test]
fn handles_from_before_a_power_loss_are_dead() {
    let s = SimDevice::new(3).storage("");
    let file = durable_file(&s, "a", b"x");
    cycle(&s);
    assert!(is_power_loss(&file.write_all_at(b"y", 0).unwrap_err()));
    assert!(is_power_loss(&file.len().unwrap_err()) && !is_killed(&file.len().unwrap_err()));
    assert_eq!(content(&s, "a"), b"x");
    s.sync_dir(p("")).unwrap();
}

/// A killed process loses nothing; its last write may land late.
#[test]
fn kill_keeps_the_cache() {
    for seed in seeds(20, 200) {
        let device = SimDevice::new(seed);
        let (one, two) = (device.storage("one"), device.storage("two"));
        let (file, other) = (create(&one, "a"), create(&two, "a"));
        file.write_all_at(&[1; 100], 0).unwrap();
        device.kill_at(1);
        assert!(is_killed(&file.write_all_at(&[2; 50], 0).unwrap_err()), "seed {seed}");
        assert!(is_killed(&one.list(p("")).unwrap_err()));
        other.write_all_at(b"alive", 0).unwrap();
        one.restart();
        assert!(is_killed(&file.len().unwrap_err()), "the handle belongs to the dead process");
        assert!(content(&one, "a") == [1; 100]);
        assert!(device.land_late_write() && !device.land_late_write());
        assert!(content(&one, "a") == [vec![2; 50], vec![1; 50]].concat());
        one.kill();
        device.late_write("one/a", 99, &[3; 2]).unwrap();
        assert!(device.late_write("one/none", 0, &[3]).is_err());
        one.restart();
        assert_eq!(content(&one, "a")[98..], [1, 3, 3]);
        one.kill();
        assert!(is_killed(&one.exists(p("a")).unwrap_err()));
        device.kill_at(1);
        other.sync().unwrap_err();
        cycle(&device);
        assert!(!device.land_late_write() && one.list(p("")).is_ok() && two.list(p("")).is_ok());
    }
}
