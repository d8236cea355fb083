//! Links between sites on loopback: pairing, connections, faults.

mod connections;
mod pairing;

use standbyfs::link::{Connection, Identity, Link, LinkSettings, MemoryBook, Peer, PeerBook, PeerLink};
use standbyfs::seam::{Clock, SystemClock, SystemEntropy};
use standbyfs::vocab::StoreId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// The machine's clocks, its wall time moved on command.
#[derive(Default)]
struct MovedClock(AtomicI64);

impl MovedClock {
    fn move_days(&self, days: i64) {
        self.0.fetch_add(days * 24 * 3600 * 1_000_000_000, Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn wall_ns(&self) -> i64 {
        SystemClock.wall_ns() + self.0.load(Ordering::SeqCst)
    }
    fn monotonic_ns(&self) -> u64 {
        SystemClock.monotonic_ns()
    }
    fn boot_ns(&self) -> u64 {
        SystemClock.boot_ns()
    }
    fn pause(&self, time: Duration) {
        SystemClock.pause(time);
    }
}

/// A site of a test.
struct Site {
    link: Link,
    book: Arc<MemoryBook>,
    clock: Arc<MovedClock>,
    address: SocketAddr,
    me: Peer,
}

fn settings(number: u8) -> LinkSettings {
    let mut settings = LinkSettings::new(StoreId([number; 16]), &format!("site{number}"));
    settings.keepalive = Duration::from_millis(100);
    settings.dead_after = Duration::from_millis(1500);
    settings.handshake = Duration::from_secs(3);
    settings.retry_first = Duration::from_millis(40);
    settings.retry_longest = Duration::from_millis(300);
    settings
}

impl Site {
    fn start(number: u8) -> Self {
        Self::with(settings(number))
    }

    fn with(settings: LinkSettings) -> Self {
        Self::with_identity(settings, Identity::generate().unwrap())
    }

    fn with_identity(settings: LinkSettings, identity: Identity) -> Self {
        let (book, clock) = (Arc::new(MemoryBook::default()), Arc::new(MovedClock::default()));
        let mut me = Peer {
            store: settings.store,
            name: settings.name.clone(),
            fingerprint: identity.fingerprint(),
            addresses: vec!["127.0.0.1".into()],
            port: 0,
        };
        let link = Link::start(
            settings,
            identity,
            Arc::clone(&book) as _,
            Arc::clone(&clock) as _,
            Arc::new(SystemEntropy),
        )
        .unwrap();
        assert_eq!(link.listening(), None, "nothing listens before it is told to");
        let address = link.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        me.port = address.port();
        Self { link, book, clock, address, me }
    }

    /// Makes the other a peer of this one; `address`: where this one dials it, if it does.
    fn knows(&self, other: &Self, address: Option<SocketAddr>) {
        let addresses = address.iter().map(ToString::to_string).collect();
        self.book.pin(&Peer { addresses, ..other.me.clone() }).unwrap();
        self.link.refresh();
    }

    fn next(&self) -> Arc<dyn Connection> {
        self.link.next_connection(Duration::from_secs(10)).expect("a connection within ten seconds")
    }

    /// The connection that stays when several come and go.
    fn settled(&self) -> Arc<dyn Connection> {
        let mut kept = self.next();
        while let Some(newer) = self.link.next_connection(Duration::from_millis(150)) {
            kept = newer;
        }
        assert_eq!(kept.ended(), None);
        kept
    }

    fn status(&self, of: &Self) -> PeerLink {
        self.link.status().into_iter().find(|s| s.peer.store == of.me.store).unwrap()
    }
}

/// Two sites that know each other; only `a` dials, at `address` or directly.
fn joined(address: impl FnOnce(SocketAddr) -> SocketAddr) -> (Site, Site) {
    let (a, b) = (Site::start(1), Site::start(2));
    b.knows(&a, None);
    a.knows(&b, Some(address(b.address)));
    (a, b)
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < until, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const LONG: Duration = Duration::from_secs(10);
