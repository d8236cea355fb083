//! Start-wait: after a new mount, a group that was active here hears its peer before it takes a write.
//!
//! N1. Such a group is opened with its gate at `Waiting`: nothing enters, so that no epoch of this opening begins. What a
//!     meeting finds to its disadvantage fences it before it took a single write.
//! N2. The wait ends when a meeting with the peer has found nothing against this site; when nothing was heard for as long
//!     as the settings say, counted from the mount; and when a person says so (`resume force`). In the last two cases
//!     health says `started-without-peer` until both sites have met. While a session with the peer is up, and the group
//!     hasn't met in it yet, it waits at most twice as long.
//! N3. It waits once for each mount: a worker that takes over from a dead one finds in the store which groups have had
//!     their wait. One that dies within a wait leaves the rest of it to the next.
//! N4. An opening for writing is answered when the wait ends, and holds no thread until then.

use crate::exchange::Verdict;
use crate::group::{Gate, Group};
use crate::history::{ConflictKind, Outcome};
use crate::protection::State;
use crate::seam::Clock;
use crate::site::catalog::Catalog;
use crate::site::events::Event;
use crate::site::facts::Known;
use crate::site::{Site, Vm};
use crate::vocab::{GroupId, Result, StoreId, Token};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How long a group waits where the settings don't say, seconds.
pub const START_WAIT_SECONDS: u64 = 60;
const FILE: &str = "site/start.json";
const NS: u64 = 1_000_000_000;

/// The mount that is served, and who has waited in it; in `site/start.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Started {
    /// The mount.
    mount: Token,
    /// When its first worker opened the store, ns of the boot's clock.
    began_ns: u64,
    /// Groups that needn't wait any more (N3).
    ended: BTreeSet<GroupId>,
}

/// The waits of a site.
pub(super) struct StartWait {
    catalog: Catalog,
    clock: Arc<dyn Clock>,
    wait_ns: AtomicU64,
    started: Mutex<Started>,
}

/// Where a VM stands with its wait.
#[derive(Default)]
pub(super) struct Waiting {
    /// It waits.
    on: bool,
    /// What shall happen when it ends (N4).
    held: Vec<Box<dyn FnOnce() + Send>>,
    /// It ended without the peer.
    alone: bool,
}

impl StartWait {
    /// Of this mount.
    pub(super) fn open(
        catalog: Catalog,
        clock: Arc<dyn Clock>,
        mount: Token,
        seconds: Option<u64>,
    ) -> Result<Arc<Self>> {
        let before = match catalog.get_at::<Started>(Path::new(FILE)) {
            Ok(before) => before,
            Err(error) => {
                // Whoever waits once too often loses a minute.
                tracing::warn!(%error, "which groups have waited for their peer isn't known");
                None
            }
        };
        let now = clock.boot_ns();
        let started = match before.filter(|before| before.mount == mount && before.began_ns <= now) {
            Some(before) => before,
            None => {
                let new = Started { mount, began_ns: now, ended: BTreeSet::new() };
                catalog.put_at(Path::new(FILE), &new)?;
                new
            }
        };
        let wait_ns = seconds.unwrap_or(START_WAIT_SECONDS).saturating_mul(NS);
        Ok(Arc::new(Self { catalog, clock, wait_ns: wait_ns.into(), started: Mutex::new(started) }))
    }

    fn wait_ns(&self) -> u64 {
        self.wait_ns.load(Ordering::Relaxed)
    }

    /// How long it still lasts, ns; `twice`: the peer is there and hasn't spoken of the group.
    fn left_ns(&self, twice: bool) -> u64 {
        let wait = self.wait_ns().saturating_mul(if twice { 2 } else { 1 });
        let until = self.started.lock().began_ns.saturating_add(wait);
        until.saturating_sub(self.clock.boot_ns())
    }

    /// The group needn't wait any more in this mount (N3). What can't be kept is waited for again.
    pub(super) fn ended(&self, group: GroupId) {
        let mut started = self.started.lock();
        if !started.ended.insert(group) {
            return;
        }
        if let Err(error) = self.catalog.put_at(Path::new(FILE), &*started) {
            tracing::warn!(%error, "that a group has waited for its peer can't be kept");
        }
    }

    /// N1: a group of this VM was opened.
    pub(super) fn opened(&self, group: &Group, known: &Known, waiting: &Mutex<Waiting>) {
        let id = group.id();
        let state = known.state();
        let active = state.writable() && state != State::Unprotected && known.facts.image;
        let writes = matches!(group.gate(), Gate::Open { .. });
        let due = active && writes && known.peer.is_some() && !self.started.lock().ended.contains(&id);
        let mut waiting = waiting.lock();
        if due && self.left_ns(false) > 0 {
            waiting.on = true;
            group.stand(Gate::Waiting);
            return;
        }
        // The wait was over before anybody asked for it.
        waiting.alone |= due && self.wait_ns() > 0;
        drop(waiting);
        if known.peer.is_some() {
            self.ended(id);
        }
    }
}

impl Vm {
    /// How long it still waits for its peer, ns; none: it doesn't.
    pub fn start_wait_left(&self) -> Option<u64> {
        let on = self.waiting.lock().on;
        on.then(|| self.start.left_ns(false))
    }

    /// It writes after having waited in vain, and has not met its peer since.
    pub(super) fn started_alone(&self) -> bool {
        self.waiting.lock().alone
    }

    /// Lets this happen when writers may enter (N4); it comes back where they may already.
    pub(crate) fn when_served(&self, then: Box<dyn FnOnce() + Send>) -> Option<Box<dyn FnOnce() + Send>> {
        let mut waiting = self.waiting.lock();
        if !waiting.on {
            return Some(then);
        }
        waiting.held.push(then);
        None
    }

    /// What waits is left to the next process: dropped it would be answered with an error.
    pub(super) fn leave_held(&self) {
        std::mem::forget(std::mem::take(&mut self.waiting.lock().held));
    }

    /// The wait ends; what was held is done by the site's thread.
    fn end_wait(&self, group: &Group, alone: bool) {
        group.end_waiting();
        let mut waiting = self.waiting.lock();
        waiting.alone = alone;
    }
}

impl Site {
    /// A meeting with the peer came to this (N2).
    pub(crate) fn start_heard(&self, vm: &Vm, verdict: &Verdict) -> Result<()> {
        let own = self.store().id();
        let group = vm.group()?;
        vm.waiting.lock().alone = false;
        match verdict_for(own, verdict) {
            For::Nothing => vm.end_wait(&group, false),
            // A writer that hasn't begun to serve stays read-only until a person decides.
            For::Decision if group.gate() == Gate::Waiting => group.stand(Gate::Frozen),
            For::Decision | For::Peer => {}
        }
        Ok(())
    }

    /// How long groups wait after a start, from now on; 0: they don't. Durable when this returns.
    ///
    /// # Errors
    /// Those of the store.
    pub fn set_start_wait(&self, seconds: u64) -> Result<()> {
        let mut settings = self.store().settings()?;
        settings.start_wait_seconds = Some(seconds);
        self.store().set_settings(&settings)?;
        self.start.wait_ns.store(seconds.saturating_mul(NS), Ordering::Relaxed);
        Ok(())
    }

    /// A person ends it.
    pub(crate) fn end_start_wait(&self, vm: &Vm) -> Result<String> {
        vm.end_wait(&*vm.group()?, true);
        Ok("it takes writes without having heard its peer".to_owned())
    }

    /// Ends the waits that are over, and does what was held for them. To be called every now and then.
    pub(super) fn keep_waits(&self) {
        for vm in self.vms() {
            let Some(group) = vm.opened().filter(|_| vm.waiting.lock().on) else { continue };
            if group.gate() == Gate::Waiting {
                let peer_is_there =
                    self.engine().zip(vm.peer()).is_some_and(|(engine, peer)| engine.is_connected(peer));
                // The peer was heard and has no copy any more: nobody can have taken over.
                let none = vm.known().is_ok_and(|known| known.facts.resync_needed && !known.facts.image);
                if vm.start.left_ns(peer_is_there) > 0 && !none {
                    continue;
                }
                vm.end_wait(&group, vm.start.wait_ns() > 0 && !none);
            }
            self.start.ended(group.id());
            let (held, alone) = {
                let mut waiting = vm.waiting.lock();
                waiting.on = false;
                (std::mem::take(&mut waiting.held), waiting.alone)
            };
            let what = match group.gate() {
                Gate::Open { .. } if alone => {
                    "started-without-peer: it takes writes without having heard its peer"
                }
                Gate::Open { .. } => "the peer was heard: it takes writes",
                _ => "the peer was heard: it doesn't take writes",
            };
            tracing::info!(vm = %vm.name(), "start-wait: {what}");
            let event = Event::own(self.clock().wall_ns(), Some(&vm.name()), format!("start-wait: {what}"));
            if let Err(error) = self.events().append(&event, false) {
                tracing::error!("events can't be written: {error}");
            }
            held.into_iter().for_each(|then| then());
        }
    }
}

/// Whom a meeting speaks for.
enum For {
    /// Nothing stands against this site's writing.
    Nothing,
    /// The peer: this site is fenced by what follows.
    Peer,
    /// A person decides.
    Decision,
}

fn verdict_for(own: StoreId, verdict: &Verdict) -> For {
    match verdict {
        Verdict::Decided(Outcome::Yield { loser, .. }, _) if *loser == own => For::Peer,
        Verdict::Decided(Outcome::Follow { target, .. }, _) if *target == own => For::Peer,
        // Both were writing knowingly or not: both go on, as they did.
        Verdict::Decided(Outcome::Conflict(c), _) if c.kind == ConflictKind::SplitBrain => For::Nothing,
        Verdict::Decided(Outcome::Conflict(_), _) => For::Decision,
        _ => For::Nothing,
    }
}
