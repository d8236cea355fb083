//! The links of a site: a runtime with threads of its own behind calls that block.
//!
//! N1. Nothing listens before [`Link::listen`].
//! N2. Only peers get a connection; an unknown key gets the pairing exchange and nothing else (`listen`).
//! N3. A peer that was forgotten (no longer in the book at [`Link::refresh`]) is cut off and not dialled.

use crate::link::connection::{Established, Shared, Times};
use crate::link::slots::Slots;
use crate::link::{Connection, Identity, Invitation, Peer, PeerBook, Rate, dial, listen};
use crate::seam::{Clock, Entropy};
use crate::vocab::{Error, Kind, Result, StoreId, Token};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How this site presents itself, and its times. All times have defaults that suit a WAN.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// This store.
    pub store: StoreId,
    /// This site's name.
    pub name: String,
    /// What this version can do beyond the protocol's base.
    pub features: Vec<String>,
    /// What a peer must be able to do.
    pub required: Vec<String>,
    /// Under which addresses peers reach this site; empty: the address that they see.
    pub addresses: Vec<String>,
    /// Longest time for a connect.
    pub connect: Duration,
    /// Longest time for each message of the handshake.
    pub handshake: Duration,
    /// Silence after which a side says that it lives.
    pub keepalive: Duration,
    /// Silence after which a connection is dead.
    pub dead_after: Duration,
    /// Longest wait after the first failed attempt to dial.
    pub retry_first: Duration,
    /// Longest wait between attempts.
    pub retry_longest: Duration,
}

impl LinkSettings {
    /// Defaults for a store with this name.
    pub fn new(store: StoreId, name: &str) -> Self {
        Self {
            store,
            name: name.to_owned(),
            features: Vec::new(),
            required: Vec::new(),
            addresses: Vec::new(),
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            keepalive: Duration::from_secs(5),
            dead_after: Duration::from_secs(20),
            retry_first: Duration::from_secs(1),
            retry_longest: Duration::from_secs(60),
        }
    }

    pub(super) fn times(&self) -> Times {
        Times { keepalive: self.keepalive, dead_after: self.dead_after }
    }
}

/// How dialling a peer goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialState {
    /// Failures since the last connection.
    pub failures: u32,
    /// Why the last attempt failed, or why the last connection ended.
    pub last_error: Option<String>,
    /// The name of that refusal, if it was one.
    pub refusal: Option<&'static str>,
    /// Milliseconds until the next attempt, when the last one failed.
    pub next_wait_ms: u64,
}

/// One peer's link, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLink {
    /// The peer.
    pub peer: Peer,
    /// Whether there is a connection.
    pub connected: bool,
    /// Dialling.
    pub dial: DialState,
}

pub(super) struct Inner {
    pub settings: LinkSettings,
    pub identity: Identity,
    pub book: Arc<dyn PeerBook>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub slots: Slots,
    pub rate: Rate,
    ready: Mutex<VecDeque<Arc<dyn Connection>>>,
    arrived: Condvar,
    dialling: Mutex<HashMap<StoreId, tokio::task::AbortHandle>>,
    listening: Mutex<Option<(SocketAddr, tokio::task::AbortHandle)>>,
}

/// The links of this site to all its peers.
pub struct Link {
    inner: Arc<Inner>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Link {
    /// Starts the threads and dials the peers of the book that have an address. Doesn't listen.
    pub fn start(
        settings: LinkSettings,
        identity: Identity,
        book: Arc<dyn PeerBook>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("standbyfs-link")
            .enable_all()
            .build()
            .map_err(|e| Error::io(e, "can't start the threads of the link"))?;
        let inner = Arc::new(Inner {
            settings,
            identity,
            book,
            clock,
            entropy,
            slots: Slots::default(),
            rate: Rate::default(),
            ready: Mutex::default(),
            arrived: Condvar::new(),
            dialling: Mutex::default(),
            listening: Mutex::default(),
        });
        let link = Self { inner, runtime: Some(runtime) };
        link.refresh();
        Ok(link)
    }

    /// Listens on this address from now on, in place of an earlier one; returns the address with its port.
    pub fn listen(&self, address: SocketAddr) -> Result<SocketAddr> {
        let config = crate::link::tls::server(&self.inner.identity, Arc::clone(&self.inner.book))?;
        let socket = self.handle()?.block_on(listen::bind(address)).map_err(|e| {
            Error::io(e, format!("can't listen on {address}"))
                .advice("Choose another address or port with --listen")
        })?;
        let bound = socket.local_addr().map_err(|e| Error::io(e, "can't listen"))?;
        let task = self.handle()?.spawn(listen::serve(Arc::clone(&self.inner), socket, config));
        if let Some((_, old)) = self.inner.listening.lock().replace((bound, task.abort_handle())) {
            old.abort();
        }
        Ok(bound)
    }

    /// Where this site listens, if it does.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.inner.listening.lock().as_ref().map(|(address, _)| *address)
    }

    /// Makes a token for one other site. `addresses`: under which that site reaches this one. Refused
    /// `not-listening`.
    pub fn invite(&self, addresses: Vec<String>) -> Result<Invitation> {
        let inner = &self.inner;
        let listening = self.listening().ok_or_else(|| {
            Error::refused("not-listening", "this site doesn't listen").advice("Start it with --listen")
        })?;
        let mut random = [0; 32];
        random[..16].copy_from_slice(&inner.entropy.random_128());
        random[16..].copy_from_slice(&inner.entropy.random_128());
        let (invitation, record) = Invitation::new(
            Token(inner.entropy.random_128()),
            random,
            inner.settings.store,
            &inner.settings.name,
            addresses,
            listening.port(),
            inner.identity.fingerprint(),
            inner.now(),
        );
        inner.book.add_token(&record)?;
        Ok(invitation)
    }

    /// Becomes the peer of the site that made this token: connects, proves, pins, dials. Blocks. Refused
    /// `token-…`, `self-pairing`, `version-mismatch`, `fingerprint-mismatch`, `already-paired`, `name-taken`.
    pub fn accept(&self, invitation: &Invitation) -> Result<Peer> {
        invitation.check(self.inner.settings.store, self.inner.now())?;
        let port = self.listening().map_or(0, |address| address.port());
        let peer = self.handle()?.block_on(dial::pair(&self.inner, invitation, port))?;
        self.inner.book.pin(&peer)?;
        self.refresh();
        Ok(peer)
    }

    /// Reads the book again: new peers are dialled, forgotten ones are cut off.
    pub fn refresh(&self) {
        if let Ok(handle) = self.handle() {
            self.inner.refresh(&handle);
        }
    }

    /// Tries at once to reach a peer that is waited for.
    pub fn dial_now(&self, peer: StoreId) {
        self.inner.slots.of(peer).wake.notify_one();
    }

    /// The next new connection, from whichever side it was dialled, or `None` if none came within `wait`. An
    /// earlier one to the same peer has ended or is about to.
    pub fn next_connection(&self, wait: Duration) -> Option<Arc<dyn Connection>> {
        let until = Instant::now() + wait;
        let mut ready = self.inner.ready.lock();
        loop {
            if let Some(connection) = ready.pop_front() {
                return Some(connection);
            }
            if self.inner.arrived.wait_until(&mut ready, until).timed_out() {
                return None;
            }
        }
    }

    /// Limits what is sent to all peers together, in bytes a second.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.inner.rate.set(rate, self.inner.clock.monotonic_ns());
    }

    /// Limits what is sent to one peer, in bytes a second.
    pub fn set_peer_rate(&self, peer: StoreId, rate: Option<u64>) {
        self.inner.slots.of(peer).rate.set(rate, self.inner.clock.monotonic_ns());
    }

    /// Every peer and its connection.
    pub fn status(&self) -> Vec<PeerLink> {
        let link = |peer: Peer| {
            let slot = self.inner.slots.of(peer.store);
            PeerLink { connected: slot.live().is_some(), dial: slot.state.lock().clone(), peer }
        };
        self.inner.book.peers().into_iter().map(link).collect()
    }

    fn handle(&self) -> Result<tokio::runtime::Handle> {
        let runtime =
            self.runtime.as_ref().ok_or_else(|| Error::new(Kind::Unreachable, "the link is down"))?;
        Ok(runtime.handle().clone())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.inner.slots.end_all("the site is shutting down");
        self.inner.ready.lock().clear();
        if let Some(runtime) = self.runtime.take() {
            // Long enough for the reason of the end to reach the peers.
            std::thread::sleep(Duration::from_millis(20));
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl Inner {
    /// Unix seconds.
    pub(super) fn now(&self) -> i64 {
        self.clock.wall_ns().div_euclid(1_000_000_000)
    }

    pub(super) fn refresh(self: &Arc<Self>, handle: &tokio::runtime::Handle) {
        let peers = self.book.peers();
        let mut dialling = self.dialling.lock();
        dialling.retain(|store, task| {
            let stays = peers.iter().any(|p| p.store == *store);
            if !stays {
                task.abort();
                if let Some(connection) = self.slots.of(*store).live() {
                    connection.end("this site has forgotten the other");
                }
            }
            stays
        });
        for peer in peers {
            let task = || handle.spawn(dial::keep(Arc::clone(self), peer.store)).abort_handle();
            dialling.entry(peer.store).or_insert_with(task);
        }
    }

    /// Makes an installed connection known to the daemon, and watches for its end.
    pub(super) fn announce(self: &Arc<Self>, shared: &Arc<Shared>) {
        if self.book.by_store(shared.peer).is_none() {
            // Forgotten since its handshake: whoever forgot it may have looked before it was installed.
            return shared.end("this site has forgotten the other");
        }
        {
            let mut ready = self.ready.lock();
            // What nobody fetched and is dead doesn't pile up.
            ready.retain(|c| c.ended().is_none());
            ready.push_back(Arc::new(Established(Arc::clone(shared))));
        }
        self.arrived.notify_one();
        let (inner, shared) = (Arc::clone(self), Arc::clone(shared));
        tokio::spawn(async move {
            let reason = shared.wait_end().await;
            let slot = inner.slots.of(shared.peer);
            tracing::info!(peer = %shared.peer, %reason, "a connection ended");
            slot.state.lock().last_error = Some(reason.to_string());
        });
    }
}
