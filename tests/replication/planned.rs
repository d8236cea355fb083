//! A planned failover while the link is cut, or a daemon dies, at any of its steps: it comes to its end, nothing is lost,
//! and there are never two writers.

use super::daemons::{Daemon, Guest, PATIENCE, Two, caught_up, two, wait};
use crate::fuse::harness::{full, require_fuse};
use serde_json::{Value, json};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// The target's word first: if it writes, the source, asked after it, must not.
fn one_writer(two: &Two) -> (Value, Value) {
    let b = two.b.state()["state"].clone();
    let a = two.a.state()["state"].clone();
    let both = b == "failed-over" && a != "fenced" && a != "handing-over";
    assert!(!both, "two writers: the source is {a}, the target {b}\n{}\n{}", two.a.events(), two.b.events());
    (a, b)
}

fn planned(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut two = two();
    let (guest, thread) = Guest::start(two.a.mount(), seed, Duration::from_millis(1));
    let begun = wait(PATIENCE, || two.a.command("protect", "to=paris")["refusal"].is_null());
    assert!(begun, "{}", two.a.events());
    assert!(wait(PATIENCE, || two.a.state()["state"] == "protected" && guest.answered() > 200));
    guest.stop.store(true, SeqCst);
    thread.join().unwrap();
    assert!(wait(PATIENCE, || caught_up(&two)));
    // Ahead of the standby when it begins, and sometimes out of its sight.
    two.proxy.cut();
    let (guest, thread) = Guest::start_at(two.a.mount(), &guest, Duration::ZERO);
    std::thread::sleep(Duration::from_millis(rng.u64(1..100)));
    guest.stop.store(true, SeqCst);
    thread.join().unwrap();
    assert!(guest.error.lock().unwrap().is_none());
    let accepted = || two.b.command("failover", "planned");
    let mut job = Value::Null;
    let taken = wait(PATIENCE, || {
        job = accepted();
        job["refusal"].is_null()
    });
    assert!(taken, "{job}\n{}", two.b.events());

    let fault = rng.u32(..6);
    std::thread::sleep(Duration::from_millis(rng.u64(..80)));
    one_writer(&two);
    match fault {
        0 => two.proxy.cut(),
        1 => {
            two.proxy.refuse(true);
            two.proxy.cut();
            for _ in 0..rng.u32(1..20) {
                one_writer(&two);
            }
            two.proxy.refuse(false);
        }
        2 => assert!(two.a.mount().kill_worker()),
        3 => assert!(two.b.mount().kill_worker()),
        4 => restart(&mut two.a),
        _ => restart(&mut two.b),
    }
    let ended = wait(PATIENCE, || one_writer(&two) == (json!("fenced"), json!("failed-over")));
    let both = || format!("{}\n{}\n{}\n{}", two.a.state(), two.b.state(), two.a.events(), two.b.events());
    assert!(ended, "seed {seed}, fault {fault}: {}", both());
    let k = guest.prefix(&two.b.live(), "after a planned failover");
    assert_eq!(k, guest.answered(), "seed {seed}, fault {fault}: {}", both());
    let mut last = Value::Null;
    let succeeded = wait(PATIENCE, || {
        last = two.b.ask(&json!({ "do": "job", "id": job["job"] }));
        last["ended"] == true
    });
    assert!(succeeded && last["state"] == "succeeded", "seed {seed}, fault {fault}: {last}\n{}", both());
    assert!(last["outcome"].as_str().unwrap().contains("disks-writable, vm-not-started"), "{last}");
}

fn restart(daemon: &mut Daemon) {
    daemon.power_off();
    daemon.start();
}

#[test]
fn a_planned_failover_comes_to_its_end_whatever_fails() {
    require_fuse();
    let seeds = if full() { 1..31 } else { 1..4 };
    for seed in seeds {
        planned(seed);
    }
}
