//! Connections between paired sites, also over a network that fails.

use super::*;
use crate::support::proxy::{Proxy, Way};
use standbyfs::link::FRAME_MAX;
use standbyfs::vocab::Kind;

/// Frames whose content follows from their number and size.
fn frame(number: u32, size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(u64::from(number));
    let mut out = number.to_le_bytes().to_vec();
    out.resize_with(size.max(4), || random.u8(..));
    out
}

#[test]
fn a_hundred_megabytes_pass_unchanged_and_a_reader_that_waits_holds_the_writer_up() {
    let (a, b) = joined(|direct| direct);
    let (at_a, at_b) = (a.next(), b.next());
    let count = 100;
    let sent = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let (writer, counter) = (Arc::clone(&at_a), Arc::clone(&sent));
    let sender = std::thread::spawn(move || {
        for n in 0..count {
            assert_eq!(writer.send(frame(n, 1 << 20), Duration::from_secs(60)).unwrap(), None);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    // Longer than `dead_after`: a reader that takes nothing out isn't dead.
    std::thread::sleep(Duration::from_millis(4000));
    let taken = sent.load(Ordering::SeqCst);
    // Two queues of 8 MiB, a frame in each task's hands, the sockets' buffers.
    assert!((8..40).contains(&taken), "{taken} MiB were taken in while nobody read");
    assert_eq!((at_a.ended(), at_b.ended()), (None, None));
    for n in 0..count {
        assert!(at_b.recv(LONG).unwrap().unwrap() == frame(n, 1 << 20), "frame {n}");
    }
    sender.join().unwrap();
    assert_eq!(at_b.recv(Duration::from_millis(10)).unwrap(), None);
}

#[test]
fn frames_of_all_sizes_and_none_longer_than_allowed() {
    let (a, b) = joined(|direct| direct);
    let (at_a, at_b) = (a.next(), b.next());
    for (n, size) in [4, 5, 4096, 16384, 16385, 100_000, FRAME_MAX].into_iter().enumerate() {
        at_a.send(frame(n as u32, size), LONG).unwrap();
        assert!(at_b.recv(LONG).unwrap().unwrap() == frame(n as u32, size), "{size} bytes");
    }
    at_a.send(Vec::new(), LONG).unwrap();
    assert_eq!(at_b.recv(LONG).unwrap().unwrap(), b"");
    assert_eq!(at_a.send(vec![0; FRAME_MAX + 1], LONG).unwrap_err().kind(), Kind::Invalid);
    assert_eq!((at_a.ended(), at_b.ended()), (None, None));
}

/// Whatever byte is turned on the way: what was received is a prefix of what was sent, the connection ends, and
/// the next one works.
#[test]
fn a_turned_bit_ends_the_connection_and_nothing_wrong_is_taken() {
    let mut proxy = None;
    let (a, b) = joined(|direct| proxy.insert(Proxy::start(direct)).address());
    let proxy = proxy.unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..8_u64 {
        let (at_a, at_b) = (a.next(), b.next());
        let (way, from, to) =
            if round % 2 == 0 { (Way::Out, &at_a, &at_b) } else { (Way::Back, &at_b, &at_a) };
        let after = random.u64(0..200_000);
        proxy.corrupt(way, after);
        let sender = {
            let from = Arc::clone(from);
            std::thread::spawn(move || {
                (0..60).take_while(|&n| from.send(frame(n, 10_000), LONG).is_ok()).count()
            })
        };
        let mut received = 0;
        while let Ok(Some(got)) = to.recv(Duration::from_secs(5)) {
            assert!(got == frame(received, 10_000), "round {round}, bit after {after}: frame {received}");
            received += 1;
        }
        sender.join().unwrap();
        assert!(proxy.has_corrupted(way), "round {round}: the fault was never reached");
        assert!(to.ended().is_some(), "round {round}");
        assert!(u64::from(received) * 10_000 <= after, "round {round}: {received} frames, bit after {after}");
        eventually("the other side sees the end too", || from.ended().is_some());
    }
    let (at_a, at_b) = (a.next(), b.next());
    at_a.send(b"works".to_vec(), LONG).unwrap();
    assert_eq!(at_b.recv(LONG).unwrap().unwrap(), b"works");
}

#[test]
fn a_stall_in_either_way_is_found_in_bounded_time_and_a_slow_network_is_not_one() {
    let mut proxy = None;
    let (a, b) = joined(|direct| proxy.insert(Proxy::start(direct)).address());
    let proxy = proxy.unwrap();
    for way in [Way::Out, Way::Back] {
        let (at_a, at_b) = (a.next(), b.next());
        proxy.delay(way, Duration::from_millis(60));
        std::thread::sleep(Duration::from_millis(2200));
        assert_eq!((at_a.ended(), at_b.ended()), (None, None), "slow isn't dead");
        proxy.delay(way, Duration::ZERO);
        proxy.stall(way, true);
        let since = Instant::now();
        eventually("the stalled side sees it", || {
            (if way == Way::Out { &at_b } else { &at_a }).ended().is_some()
        });
        assert!(since.elapsed() >= Duration::from_millis(1000), "{:?}", since.elapsed());
        assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
        eventually("so does the other", || at_a.ended().is_some() && at_b.ended().is_some());
        proxy.stall(way, false);
        proxy.cut();
    }
    assert_eq!(a.next().ended(), None);
}

#[test]
fn a_cut_is_seen_at_once_and_dialled_again_with_pauses() {
    let mut proxy = None;
    let (a, b) = joined(|direct| proxy.insert(Proxy::start(direct)).address());
    let proxy = proxy.unwrap();
    let (at_a, at_b) = (a.next(), b.next());
    proxy.refuse(true);
    proxy.cut();
    eventually("both see it", || at_a.ended().is_some() && at_b.ended().is_some());
    assert_eq!(at_a.send(vec![1], LONG).unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(at_a.recv(LONG).unwrap_err().kind(), Kind::Unreachable);
    std::thread::sleep(Duration::from_millis(1000));
    let status = a.status(&b);
    assert!(!status.connected && status.dial.last_error.is_some());
    // Waits of 20–40, 40–80, … up to 150–300 ms: between 4 and 12 attempts in a second.
    assert!((3..=12).contains(&status.dial.failures), "{status:?}");
    proxy.refuse(false);
    a.link.dial_now(b.me.store);
    // An attempt that was under way may come through beside this one.
    let (at_a, at_b) = (a.settled(), b.settled());
    at_b.send(b"again".to_vec(), LONG).unwrap();
    assert_eq!(at_a.recv(LONG).unwrap().unwrap(), b"again");
    assert!(a.status(&b).connected && b.status(&a).connected);
}

#[test]
fn when_both_dial_one_connection_stays_and_both_keep_the_same() {
    for round in 0..5_u8 {
        let (a, b) = (Site::start(1), Site::start(2));
        let (first, second) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        first.book.pin(&Peer { addresses: vec![second.address.to_string()], ..second.me.clone() }).unwrap();
        second.book.pin(&Peer { addresses: vec![first.address.to_string()], ..first.me.clone() }).unwrap();
        first.link.refresh();
        std::thread::sleep(Duration::from_millis(u64::from(round / 2) * 2));
        second.link.refresh();
        let (at_a, at_b) = (a.settled(), b.settled());
        at_a.send(vec![round], LONG).unwrap();
        assert_eq!(at_b.recv(LONG).unwrap().unwrap(), [round]);
        at_b.send(vec![round, 1], LONG).unwrap();
        assert_eq!(at_a.recv(LONG).unwrap().unwrap(), [round, 1]);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((at_a.ended(), at_b.ended()), (None, None), "round {round}");
        assert!(a.link.next_connection(Duration::ZERO).is_none());
        assert!(b.link.next_connection(Duration::ZERO).is_none());
    }
}

#[test]
fn a_forgotten_peer_is_cut_off_and_stays_out() {
    let (a, b) = joined(|direct| direct);
    let (at_a, at_b) = (a.next(), b.next());
    b.book.forget(a.me.store);
    b.link.refresh();
    let reason = at_b.ended().unwrap();
    assert!(reason.contains("forgotten"), "{reason}");
    eventually("the peer hears why", || at_a.ended().is_some_and(|r| r.contains("forgotten")));
    eventually("and is refused", || a.status(&b).dial.refusal == Some("not-paired"));
    assert!(b.link.next_connection(Duration::ZERO).is_none());
}

#[test]
fn closing_and_dropping_end_it_at_both_sides() {
    let (a, b) = joined(|direct| direct);
    let (at_a, at_b) = (a.next(), b.next());
    at_a.close("corruption: the chain values differ");
    eventually("told", || at_b.ended().is_some_and(|r| r.contains("the chain values differ")));
    let (at_a, at_b) = (a.next(), b.next());
    drop(at_b);
    eventually("seen", || at_a.ended().is_some());
    let at_a = a.settled();
    drop(b);
    eventually("seen", || at_a.ended().is_some_and(|r| r.contains("shutting down")));
}

#[test]
fn the_rate_holds_and_can_be_lifted() {
    let (a, b) = joined(|direct| direct);
    let (at_a, at_b) = (a.next(), b.next());
    a.link.set_peer_rate(b.me.store, Some(1 << 20));
    let since = Instant::now();
    let pass = |n: u32| {
        at_a.send(frame(n, 64 << 10), LONG).unwrap();
        at_b.recv(LONG).unwrap().unwrap();
    };
    (0..16).for_each(pass);
    // 1 MiB less the burst of a tenth and the last frame's debt.
    assert!(since.elapsed() >= Duration::from_millis(700), "{:?}", since.elapsed());
    assert!(since.elapsed() <= Duration::from_millis(2500), "{:?}", since.elapsed());
    a.link.set_peer_rate(b.me.store, None);
    pass(99);
    let since = Instant::now();
    (0..16).for_each(pass);
    assert!(since.elapsed() < Duration::from_millis(600), "{:?}", since.elapsed());
}
