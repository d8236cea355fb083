//! Replication of a site: its link, a thread for each connection, and the groups that have a peer.
//!
//! P1. Of a peer's connections one is served at a time; every group with that peer is told of its begin and its end.
//! P2. Nothing of a group is said before the session's token is durable at both sites (`exchange::Session`).
//! P3. A command that needs the peer has its intent durable before the peer hears of it, and a `Join` is said again in
//!     each connection until the first copy is whole: the peer answers the same again (`join`).
//! P4. While a group has a peer its base passes nothing that the peer lacks, until that is let go for want of room.
//! P5. A group that is opened anew after a failed sync is handed to its side in the step that opens it, with the side
//!     held still: nothing is received into, shipped from or said of the one before any more, and in a connection both
//!     sites meet anew at what the reopened log has.
//!
//! | file | holds |
//! | --- | --- |
//! | serve | one connection: session, routing, timers, queue |
//! | join | the request for a standby, at both sites |
//! | relation | what a group is to its peer, by its history |
//! | operate, tend | commands that need the peer, and their jobs |
//! | takeover | a failover between two sites that see each other |
//! | ended | the end of a protection, told to the other site |
//! | verdict | what a meeting found out, kept in the history |
//! | scrub | the bytes of a moment, compared between both sites |
//! | side | a group's side of the exchange, as a connection drives it |
//! | standby | the catalog's side of a VM that has a peer |
//! | sessions, framing, status | session tokens; frames in frames; figures for status |

mod ended;
mod framing;
mod join;
mod operate;
mod relation;
mod scrub;
mod serve;
mod sessions;
mod side;
mod standby;
mod status;
mod takeover;
mod tend;
#[cfg(test)]
mod tests;
mod verdict;

use crate::exchange::Settings;
use crate::group::{Group, Output};
use crate::history::Operation;
use crate::link::{Connection, Invitation, Link, LinkSettings, Peer, PeerBook};
use crate::protection::{Refusal, Refused};
use crate::seam::Clock;
use crate::site::book::SiteBook;
use crate::site::events::Event;
use crate::site::{Site, Vm};
use crate::vocab::{Error, GroupId, Kind, Result, StoreId, Token};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) use operate::Operations;
pub use relation::Relation;
pub use side::{EngineSides, Side, Sides};
pub use status::{GroupStatus, PeerStatus, SessionState};
pub(crate) use tend::is_tended;

/// Bytes in flight to a peer, all groups together; a group gets its share.
const WINDOW_BYTES: u64 = 64 << 20;
const GROUP_WINDOW_BYTES: (u64, u64) = (1 << 20, 16 << 20);
/// How often jobs that wait for a peer are looked at.
const TEND: Duration = Duration::from_millis(100);
/// Longest range of a copy that is sent at once, bytes.
const FILL_BYTES: u64 = 256 << 10;

/// How a site replicates. The defaults suit a WAN.
#[derive(Clone)]
pub struct ReplicationOptions {
    /// Where to listen; none: as the settings of the store say.
    pub listen: Option<SocketAddr>,
    /// Longest wait after the first failed attempt to dial.
    pub retry_first: Duration,
    /// Longest wait between attempts.
    pub retry_longest: Duration,
    /// Silence after which a side says that it lives.
    pub keepalive: Duration,
    /// Silence after which a connection is dead.
    pub dead_after: Duration,
    /// Level of zstd, where both sites can; none: off.
    pub compress: Option<i32>,
    /// How long a command waits for the peer's answer.
    pub answer_wait: Duration,
    /// Makes sides of groups.
    pub sides: Arc<dyn Sides>,
}

impl ReplicationOptions {
    /// Defaults, with these sides.
    pub fn with_sides(sides: Arc<dyn Sides>) -> Self {
        Self { sides, ..Self::default() }
    }
}

impl Default for ReplicationOptions {
    fn default() -> Self {
        Self {
            listen: None,
            retry_first: Duration::from_secs(1),
            retry_longest: Duration::from_secs(60),
            keepalive: Duration::from_secs(5),
            dead_after: Duration::from_secs(20),
            compress: Some(1),
            answer_wait: Duration::from_secs(15),
            sides: Arc::new(EngineSides),
        }
    }
}

/// What a thread of a connection is asked for.
enum Command {
    /// Ask the peer to keep a standby.
    Join { slot: Arc<GroupSlot>, join: Box<crate::exchange::Join>, answer: Sender<join::Answered> },
    /// Say this of a group.
    Say { group: GroupId, about: Box<crate::exchange::About> },
}

/// A group that has a peer.
struct GroupSlot {
    vm: Arc<Vm>,
    /// P5: [`GroupSlot::group`].
    group: RwLock<Arc<Group>>,
    peer: StoreId,
    /// P3: what was asked, until the first copy is whole.
    joining: Mutex<Option<Token>>,
    running: Mutex<Running>,
    asked: Mutex<Asked>,
    /// The history doesn't say yet that the peer follows: a copy over what it has, or a decision here to go on. Once it does
    /// follow, the line `protected` is due.
    unsettled: AtomicBool,
}

impl GroupSlot {
    /// The group as it is now (P5).
    fn group(&self) -> Arc<Group> {
        Arc::clone(&self.group.read())
    }

    /// Its identity.
    fn id(&self) -> GroupId {
        self.vm.group_id()
    }

    /// P5.
    fn replace(&self, running: &mut Running, group: Arc<Group>, now_ns: u64) {
        *self.group.write() = Arc::clone(&group);
        if let Some(side) = running.side.as_mut() {
            running.said.extend(side.reopened(now_ns, group));
        }
    }

    /// Does something while the side stands still.
    fn change<T>(&self, act: impl FnOnce(&mut Running) -> T) -> T {
        act(&mut self.running.lock())
    }

    /// Why the peer refused an operation of this site: a name and a sentence.
    fn declined(&self, op: Token) -> Option<(String, String)> {
        self.asked.lock().declined.get(&op).cloned()
    }
}

/// What the two sites asked each other for; of no meaning after a restart.
#[derive(Default)]
struct Asked {
    /// What an operation of the peer is.
    kinds: HashMap<Token, Operation>,
    /// Operations of the peer for which the VM is being stopped.
    stopping: HashSet<Token>,
    /// Operations of this site that the peer refused.
    declined: HashMap<Token, (String, String)>,
}

/// A side and what it asked for.
#[derive(Default)]
struct Running {
    /// None: the peer has not yet agreed to keep a standby.
    side: Option<Box<dyn Side>>,
    timer_ns: Option<u64>,
    /// What the side asked for beside the thread of its connection; first thing in its next step.
    said: Vec<Output>,
    verdict: Option<crate::exchange::Verdict>,
    /// A command has changed what the group is: both sites meet anew.
    renew: bool,
    /// A command has changed an operation.
    roles: bool,
    /// The unplanned failover that the source has consented to.
    may_decide: Option<Token>,
    /// The answer to the peer's request for a handover.
    permit: Option<(Token, Result<()>)>,
    /// Bytes of the copy under way, at its begin.
    copy_bytes: u64,
    /// What was received was not what was sent, monotonic ns.
    corruption_ns: Option<u64>,
    /// The target went back below what it had acknowledged, monotonic ns.
    target_rewound_ns: Option<u64>,
    /// When the peer said last that it has no room for the group, monotonic ns, and what it said.
    peer_full: Option<(u64, String)>,
    /// The group has no side here any more.
    gone: bool,
    /// V3 of `serve`: until then, monotonic ns, this site has no room for the group.
    stalled_ns: Option<u64>,
    /// When that was told last, monotonic ns.
    told_ns: Option<u64>,
}

impl Running {
    /// V3 of `serve`.
    fn is_stalled(&self, now_ns: u64) -> bool {
        self.stalled_ns.is_some_and(|until| now_ns < until)
    }
}

/// What is known of a peer's connection.
#[derive(Default)]
struct PeerSlot {
    /// P1.
    serving: Mutex<()>,
    /// To the thread that serves the connection, once the session is agreed.
    commands: Mutex<Option<Sender<Command>>>,
    state: Mutex<status::Session>,
}

/// Replication of one site.
pub struct Replication {
    site: Weak<Site>,
    link: Link,
    book: Arc<SiteBook>,
    options: ReplicationOptions,
    clock: Arc<dyn Clock>,
    store: StoreId,
    name: String,
    peers: Mutex<HashMap<StoreId, Arc<PeerSlot>>>,
    groups: Mutex<HashMap<GroupId, Arc<GroupSlot>>>,
    /// One `protect` at a time.
    protecting: Mutex<()>,
    /// Jobs whose last step was begun by this process.
    starting: Mutex<HashSet<String>>,
    /// Who waits for the peer's hash of a range.
    scrubs: Mutex<HashMap<Token, Sender<scrub::Heard>>>,
    stop: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Replication {
    /// Starts the link and the threads. Listens if options or settings say where.
    pub(crate) fn start(site: &Arc<Site>, options: ReplicationOptions) -> Result<Arc<Self>> {
        let store = site.store();
        let settings = store.settings()?;
        let name = if settings.name.is_empty() { store.id().to_string() } else { settings.name.clone() };
        let book = Arc::new(SiteBook::open(store.catalog().clone())?);
        let link = Link::start(
            LinkSettings {
                addresses: settings.addresses.clone(),
                keepalive: options.keepalive,
                dead_after: options.dead_after,
                retry_first: options.retry_first,
                retry_longest: options.retry_longest,
                ..LinkSettings::new(store.id(), &name)
            },
            store.identity()?,
            Arc::clone(&book) as Arc<dyn PeerBook>,
            site.clock().clone(),
            site.entropy().clone(),
        )?;
        link.set_rate(settings.rate);
        let listen = match (&options.listen, &settings.listen) {
            (Some(address), _) => Some(*address),
            (None, Some(text)) => Some(text.parse().map_err(|_| {
                Error::new(Kind::Invalid, format!("`{text}` is no address to listen on"))
                    .advice("Give address and port with --listen, as 0.0.0.0:8084")
            })?),
            (None, None) => None,
        };
        if let Some(address) = listen {
            link.listen(address)?;
        }
        let this = Arc::new(Self {
            site: Arc::downgrade(site),
            link,
            book,
            options,
            clock: site.clock().clone(),
            store: store.id(),
            name,
            peers: Mutex::default(),
            groups: Mutex::default(),
            protecting: Mutex::default(),
            starting: Mutex::default(),
            scrubs: Mutex::default(),
            stop: AtomicBool::new(false),
            threads: Mutex::default(),
        });
        let hub = Arc::clone(&this);
        this.spawn("replication", move || hub.accept())?;
        Ok(this)
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(run)
            .map_err(|e| Error::io(e, "can't start a thread of the replication"))?;
        let mut threads = self.threads.lock();
        threads.retain(|t| !t.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Takes connections until the site ends.
    fn accept(self: Arc<Self>) {
        let mut tended_ns = 0;
        while !self.is_stopped() {
            let connection = self.link.next_connection(TEND);
            let now = self.now_ns();
            if now.saturating_sub(tended_ns) >= TEND.as_nanos() as u64 {
                tended_ns = now;
                self.tend();
            }
            let Some(connection) = connection else { continue };
            let hub = Arc::clone(&self);
            let served: Arc<dyn Connection> = Arc::clone(&connection);
            if let Err(error) = self.spawn("peer", move || serve::serve(&hub, served)) {
                tracing::error!("{error}");
                connection.close("this site is out of threads");
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Ends all connections and waits for their threads. Groups stay open.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        loop {
            let Some(thread) = self.threads.lock().pop() else { return };
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }

    /// Where this site listens, if it does.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.link.listening()
    }

    /// Makes a token for one other site, as text to copy. `addresses`: under which that site reaches this one; none:
    /// those of the settings, else the one address that it listens on, else this machine's name. Listens on the default port if the site didn't listen.
    ///
    /// # Errors
    /// `Io` if the port is taken.
    pub fn pair_create(&self, addresses: Vec<String>) -> Result<String> {
        let site = self.site()?;
        let mut settings = site.store().settings()?;
        if self.link.listening().is_none() {
            let any = SocketAddr::from(([0, 0, 0, 0], crate::link::DEFAULT_PORT));
            self.link.listen(any)?;
            settings.listen = Some(any.to_string());
            site.store().set_settings(&settings)?;
        }
        let mut at = if addresses.is_empty() { settings.addresses } else { addresses };
        if at.is_empty()
            && let Some(only) = self.link.listening().map(|at| at.ip()).filter(|ip| !ip.is_unspecified())
        {
            // It listens there and nowhere else.
            at.push(only.to_string());
        }
        if at.is_empty() {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
            at.push(name.map_err(|e| Error::io(e, "can't learn this machine's name"))?.trim().to_owned());
        }
        Ok(self.link.invite(at)?.to_text())
    }

    /// Becomes the peer of the site that made this token. Blocks for the handshake.
    ///
    /// # Errors
    /// Refused as [`Link::accept`] and [`Invitation::parse`] say.
    pub fn pair_accept(&self, token: &str) -> Result<Peer> {
        let peer = self.link.accept(&Invitation::parse(token.trim())?)?;
        self.tell(None, format!("paired with {} ({})", peer.name, peer.fingerprint));
        Ok(peer)
    }

    /// Takes whatever answers as this peer for the right one, once: the end of `identity-conflict`.
    ///
    /// # Errors
    /// Refused `peer-not-registered`.
    pub fn accept_identity(&self, peer: &str) -> Result<()> {
        let peer = self.peer_named(peer)?;
        if self.peer(peer.store).state.lock().state == SessionState::Ready {
            let text = format!("{} is connected, as the site that it was: nothing is in doubt", peer.name);
            return Err(
                Error::refused(Refusal::NothingToResolve.name(), text).advice("Nothing needs to be done")
            );
        }
        let site = self.site()?;
        let known = sessions::of(site.store().catalog(), peer.store)?;
        site.store().catalog().put(&sessions::SessionObject { accept_once: true, ..known })?;
        self.link.dial_now(peer.store);
        Ok(())
    }

    /// Deletes tokens that nobody can use and nobody asks for any more. `now`: Unix seconds.
    pub(crate) fn clean(&self, now: i64) -> Result<()> {
        self.book.clean(now)
    }

    /// Ends the pairing with a site that no group uses.
    ///
    /// # Errors
    /// Refused `peer-not-registered`, `peer-in-use`.
    pub fn forget(&self, peer: &str) -> std::result::Result<(), Refused> {
        let peer = self.peer_named(peer).map_err(crate::site::commands::refused)?;
        let site = self.site().map_err(crate::site::commands::refused)?;
        let users: Vec<String> =
            site.vms().iter().filter(|vm| vm.peer() == Some(peer.store)).map(|vm| vm.name()).collect();
        if !users.is_empty() {
            return Err(Refusal::PeerInUse.with("groups", users.join(", ")).with("peer", &peer.name));
        }
        self.book.forget(peer.store).map_err(crate::site::commands::refused)?;
        self.link.refresh();
        self.tell(None, format!("{} is forgotten", peer.name));
        Ok(())
    }

    /// The peer that a command means: the one named, or the only one.
    fn peer_for(&self, name: Option<&str>) -> Result<String> {
        if let Some(name) = name {
            return self.peer_named(name).map(|p| p.name);
        }
        let peers = self.book.peers();
        match &peers[..] {
            [only] => Ok(only.name.clone()),
            [] => Err(Error::refused("peer-not-registered", "this site is paired with none")
                .advice("Pair with `pair create` there and `pair accept` here")),
            _ => Err(Error::refused("peer-not-registered", "this site has several peers")
                .advice("Say which: `to=`")),
        }
    }

    fn peer_of(&self, store: StoreId) -> Option<Peer> {
        self.book.peers().into_iter().find(|p| p.store == store)
    }

    fn peer_named(&self, name: &str) -> Result<Peer> {
        let peers = self.book.peers();
        let known = peers.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        peers.into_iter().find(|p| p.name == name).ok_or_else(|| {
            Error::refused("peer-not-registered", format!("`{name}` is not paired; paired: {known}"))
                .advice("Use a paired name, or pair with `pair create` there and `pair accept` here")
        })
    }

    fn peer(&self, store: StoreId) -> Arc<PeerSlot> {
        Arc::clone(self.peers.lock().entry(store).or_default())
    }

    fn site(&self) -> Result<Arc<Site>> {
        self.site.upgrade().ok_or_else(|| Error::new(Kind::Unreachable, "the site is closing"))
    }

    fn now_ns(&self) -> u64 {
        self.clock.monotonic_ns()
    }

    /// An event of the site; what can't be written is logged.
    fn tell(&self, subject: Option<&str>, text: String) {
        tracing::info!(subject, "{text}");
        let Some(site) = self.site.upgrade() else { return };
        let event = Event::own(self.clock.wall_ns(), subject, text);
        if let Err(error) = site.events().append(&event, false) {
            tracing::error!("events can't be written: {error}");
        }
    }

    /// The slot of a VM's group, made at the first call. Opens the group.
    fn slot_of(&self, vm: &Arc<Vm>, peer: StoreId) -> Result<Arc<GroupSlot>> {
        let group = vm.group()?;
        let joining = match Relation::of_group(&group, peer) {
            Relation::Joining { op } => Some(op),
            _ => None,
        };
        let fresh = || {
            Arc::new(GroupSlot {
                vm: Arc::clone(vm),
                group: RwLock::new(Arc::clone(&group)),
                peer,
                joining: Mutex::new(joining),
                running: Mutex::default(),
                asked: Mutex::default(),
                unsettled: AtomicBool::new(false),
            })
        };
        Ok(Arc::clone(self.groups.lock().entry(vm.group_id()).or_insert_with(fresh)))
    }

    /// P5: `open` puts another group in the place of the VM's.
    pub(crate) fn anew(&self, vm: &Vm, open: impl FnOnce() -> Result<Arc<Group>>) -> Result<()> {
        let slot = || self.groups.lock().get(&vm.group_id()).cloned();
        if let Some(slot) = slot() {
            return slot.change(|running| {
                let group = open()?;
                slot.replace(running, group, self.now_ns());
                Ok(())
            });
        }
        let group = open()?;
        // A slot that was made meanwhile may have the one before.
        if let Some(slot) = slot().filter(|slot| slot.group().is_left()) {
            slot.change(|running| slot.replace(running, group, self.now_ns()));
        }
        Ok(())
    }

    /// The side of a group, made at the first call.
    fn start_side(&self, slot: &GroupSlot, among: usize) {
        let mut running = slot.running.lock();
        if running.side.is_some() {
            return;
        }
        let share = WINDOW_BYTES / (among.max(1) as u64);
        let settings = Settings {
            group: slot.id(),
            site: self.store,
            peer: slot.peer,
            window_bytes: share.clamp(GROUP_WINDOW_BYTES.0, GROUP_WINDOW_BYTES.1),
            fill_bytes: FILL_BYTES,
            frequency_ns: None,
        };
        running.side = Some(self.options.sides.side(slot.group(), slot.peer, settings));
    }

    /// P4: whether the group's base has to stay where it is. Cheap; asked by upkeep. `let_go`: what the peer lacks was
    /// let go, so only what a connection reads now is kept.
    pub(crate) fn pins(&self, group: GroupId, let_go: bool) -> bool {
        let Some(slot) = self.groups.lock().get(&group).cloned() else { return !let_go };
        if slot.joining.lock().is_some() && !let_go {
            return true;
        }
        // A side at work is asked the next time.
        let Some(running) = slot.running.try_lock() else { return true };
        running.side.as_ref().map_or(!let_go, |side| {
            let state = side.state();
            !state.met && !let_go || state.copying || (state.shipping && state.acknowledged.is_none())
        })
    }

    /// The backlog of a group was let go: once it follows again it is protected anew (Q5 of `group::backlog`).
    pub(crate) fn coalesced(&self, group: GroupId) {
        if let Some(slot) = self.groups.lock().get(&group) {
            slot.unsettled.store(true, Ordering::Release);
        }
    }
}
