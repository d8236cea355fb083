//! What both sites keep in common beside the records: points, and the bytes of a moment as a scrub sees them.

use super::operations::{done, ended, protected_pair};
use super::*;
use standbyfs::protection::Verb;
use standbyfs::protection::job::JobState;
use standbyfs::site::points;
use std::os::unix::fs::FileExt;

fn point_names(open: &Open) -> Vec<String> {
    let set = points::load(open.site.store().catalog(), open.vm("web").group_id()).unwrap();
    set.in_order().into_iter().map(|point| point.name()).collect()
}

#[test]
fn points_of_either_site_are_known_at_both() {
    let (pair, a, b, mut guest) = protected_pair();
    done(&a, Verb::RecoveryPoint, "name=first");
    eventually("the first point at the standby", || {
        point_names(&b).iter().any(|n| n.ends_with("-user-first"))
    });
    // One that is made while nobody hears of it.
    pair.proxy.refuse(true);
    pair.proxy.cut();
    eventually("the end of the session", || !a.is_ready());
    guest.write(&a.vm("web"), 5);
    done(&a, Verb::RecoveryPoint, "name=second");
    assert!(!point_names(&b).iter().any(|n| n.ends_with("-user-second")));
    pair.proxy.refuse(false);
    eventually("the second point at the standby", || point_names(&b).iter().any(|n| n.ends_with("-second")));
    eventually("the same points at both", || point_names(&a) == point_names(&b));
    guest.compare("after the points", &a, &b);
    let named: Vec<_> = point_names(&b).into_iter().filter(|n| n.contains("-user-")).collect();
    let moment = |open: &Open| {
        let set = points::load(open.site.store().catalog(), open.vm("web").group_id()).unwrap();
        named.iter().map(|name| set.find(name).unwrap().moment).collect::<Vec<_>>()
    };
    assert_eq!(moment(&a), moment(&b));
    a.close();
    b.close();
}

#[test]
fn a_scrub_finds_a_flipped_bit_of_a_base_by_disk_and_range() {
    let (pair, a, b, guest) = protected_pair();
    for site in [&a, &b] {
        let job = ended(site, &done(site, Verb::Scrub, "scrub"));
        assert_eq!(job.state, JobState::Succeeded, "{}", job.outcome);
        assert!(job.outcome.contains("equal at both sites"), "{}", job.outcome);
    }
    let group = a.vm("web").group_id();
    let base = pair.b.store().join(format!("groups/{group}/base-{}.img", DISK.0));
    let file = std::fs::File::options().read(true).write(true).open(&base).unwrap();
    // A block whose newest version isn't in the journal but in the base.
    for block in (0..file.metadata().unwrap().len()).step_by(8 << 10) {
        let at = block + 4096 + 1234;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let job = ended(&a, &done(&a, Verb::Scrub, "scrub"));
        if job.state == JobState::Failed {
            let place = format!("in 4096 bytes: web/disk.raw {}+4096", block + 4096);
            assert!(job.outcome.contains(&place), "{place}: {}", job.outcome);
            file.write_all_at(&byte, at).unwrap();
            assert_eq!(ended(&b, &done(&b, Verb::Scrub, "scrub")).state, JobState::Succeeded);
            guest.compare("after the scrubs", &a, &b);
            a.close();
            b.close();
            return;
        }
        file.write_all_at(&byte, at).unwrap();
    }
    panic!("no flipped bit of the base was found");
}
