use super::*;
use crate::protection::parse_duration;

const HOUR: u64 = 3_600_000_000_000;

fn point(number: u8, seq: u64, age: u64) -> Point {
    Point {
        id: Token([number; 16]),
        moment: Moment::new(EpochId([1; 16]), seq),
        kind: PointKind::Crash,
        time: 1_700_000_000_000_000_000 + age as i64,
        label: None,
        pinned: false,
        age,
    }
}

fn set(points: impl IntoIterator<Item = Point>) -> PointSet {
    let mut set = PointSet::default();
    points.into_iter().for_each(|p| set.insert(p));
    set
}

#[test]
fn names() {
    let time = parse_time("2026-11-20T21:33:33.120Z").unwrap();
    let mut p = Point { time: time + 999_999, ..point(1, 7, 0) };
    assert_eq!(p.name(), "2026-11-20T21-33-33.120Z-crash");
    (p.kind, p.label) = (PointKind::User, Some("before-upgrade".into()));
    assert_eq!(p.name(), "2026-11-20T21-33-33.120Z-user-before-upgrade");
    assert_eq!(parse_point_name(&p.name()), Some((time, PointKind::User, Some("before-upgrade"))));
    assert!(is_point_name("2026-11-20T21:33:33.120Z-app"));
    for bad in [
        "",
        "latest",
        "2026-11-20T21-33-33.120Z",
        "2026-11-20T21-33-33.120Z-",
        "2026-11-20T21-33-33.120Z-x",
        "2026-11-20T21-33-33.120Z-user-",
        "2026-11-20T21-33-33.120Z-user-a/b",
        "Z-crash",
        "é2026Z-crash",
    ] {
        assert!(!is_point_name(bad), "{bad}");
    }
    let all = set([p.clone(), point(2, 8, 0)]);
    assert_eq!(all.find("2026-11-20T21:33:33.120Z-user-before-upgrade").map(|p| p.id), Some(p.id));
    assert_eq!(all.find("2026-11-20T21:33:33.120Z-user-other"), None);
}

#[test]
fn a_silent_source_ages_nothing() {
    let all = set([point(1, 1, HOUR), point(2, 2, 20 * HOUR), point(3, 3, 30 * HOUR)]);
    let retention = Retention { newest: 30 * HOUR, window: 24 * HOUR, uncommitted: false };
    assert_eq!(all.expired(retention), [Token([1; 16])]);
    // Days go by without a record: the same answer, because `newest` stands still.
    assert_eq!(all.expired(retention), [Token([1; 16])]);
    assert_eq!(all.expired(Retention { newest: 60 * HOUR, ..retention }).len(), 3);
    assert_eq!(all.expired(Retention { uncommitted: true, ..retention }), []);
    assert_eq!(all.expired(Retention { newest: HOUR, ..retention }), [], "younger than the window");
}

#[test]
fn a_pin_outlives_retention_and_commit() {
    let mut pinned = point(1, 1, 0);
    pinned.pinned = true;
    let all = set([pinned, point(2, 2, HOUR), point(3, 9, HOUR)]);
    let retention = Retention { newest: 90 * HOUR, window: HOUR, uncommitted: false };
    assert_eq!(all.expired(retention), [Token([2; 16]), Token([3; 16])]);
    let chosen = Moment::new(EpochId([2; 16]), 5);
    let old = [EpochId([1; 16])];
    assert_eq!(all.ended_by_commit(false, chosen, &old), [Token([2; 16]), Token([3; 16])]);
    assert_eq!(all.ended_by_commit(true, chosen, &old), [Token([3; 16])]);
}

#[test]
fn scheduled_points() {
    let every = parse_duration("5min");
    let at = |seq| Moment::new(EpochId([1; 16]), seq);
    let minute = HOUR / 60;
    assert!(!point_due(None, None, HOUR, at(9)), "switched off");
    assert!(!point_due(every, None, HOUR, at(0)), "nothing was written");
    assert!(point_due(every, None, 0, at(1)));
    assert!(!point_due(every, Some((minute, at(1))), 5 * minute, at(2)));
    assert!(point_due(every, Some((minute, at(1))), 6 * minute, at(2)));
    assert!(!point_due(every, Some((minute, at(1))), 60 * minute, at(1)), "nothing new");
}

#[test]
fn the_newest_of_a_kind_on_the_line() {
    let mut app = point(4, 4, 0);
    app.kind = PointKind::App;
    let mut elsewhere = Point { moment: Moment::new(EpochId([9; 16]), 99), ..app.clone() };
    elsewhere.id = Token([5; 16]);
    let all = set([point(1, 1, 0), point(2, 2, 0), app, elsewhere]);
    let on_line = |m: Moment| m.epoch == EpochId([1; 16]);
    assert_eq!(all.latest(PointKind::App, on_line).map(|p| p.moment.seq.0), Some(4));
    assert_eq!(all.latest(PointKind::Crash, on_line).map(|p| p.moment.seq.0), Some(2));
    assert_eq!(all.latest(PointKind::Flush, on_line), None);
}

/// Two sites add, pin and delete at random and exchange now and then; after a last exchange they are equal, and what
/// was deleted at either is gone at both.
#[test]
fn two_sites_end_equal() {
    for seed in crate::protection::seeds(500, 100_000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut sites = [PointSet::default(), PointSet::default()];
        let mut deleted = BTreeSet::new();
        for step in 0..40 {
            let own = rng.usize(..2);
            let ids: Vec<Token> = sites[own].points.keys().copied().collect();
            match rng.u8(..4) {
                0 | 1 => sites[own].insert(Point { age: 0, ..point(step as u8, step, 0) }),
                2 if !ids.is_empty() => {
                    let id = ids[rng.usize(..ids.len())];
                    assert!(sites[own].remove(id));
                    deleted.insert(id);
                }
                3 if !ids.is_empty() => {
                    sites[own].points.get_mut(&ids[rng.usize(..ids.len())]).unwrap().pinned = true;
                }
                _ => {
                    let other = sites[1 - own].clone();
                    sites[own].merge(&other);
                }
            }
        }
        let [mut a, mut b] = sites;
        a.merge(&b);
        b.merge(&a);
        assert_eq!(a, b, "seed {seed}");
        assert!(!a.merge(&b), "seed {seed}: nothing is left to change");
        assert!(deleted.iter().all(|id| a.get(*id).is_none()), "seed {seed}");
    }
}
