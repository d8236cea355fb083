//! What the thread of a site does again and again: syncs, rounds, points, and what is kept for a time only.

use crate::group::{Backlog, Care, Gate, Group, Upkeep, WhenFull};
use crate::protection::{Role, State};
use crate::site::commands::Ground;
use crate::site::events::Event;
use crate::site::{Site, Vm};
use crate::vocab::{Error, Kind, Result, Token, VmId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Points are looked at every so many ns.
const POINTS_NS: u64 = 5_000_000_000;
/// What is kept for a time only is looked through so often, ns.
const CLEAN_NS: u64 = 3_600_000_000_000;
/// Health is looked at so often, ns.
const LOOK_NS: u64 = 1_000_000_000;
/// What nobody flushed is synced after so long in a group with a peer, ns.
const PROTECTED_SYNC_NS: u64 = 100_000_000;

/// Where there was no room to keep a group it is tried again after so long, ns.
const NO_SPACE_PAUSE_NS: u64 = 250_000_000;
/// A failure that goes on is told again after so long, ns.
const TOLD_NS: u64 = 60_000_000_000;

/// The last failure of keeping a group.
pub(super) struct Failed {
    kind: Kind,
    told_ns: u64,
    again_ns: u64,
}

impl Site {
    /// One turn through all groups that are open.
    pub(super) fn keep_all(&self, failed: &mut HashMap<VmId, Failed>) -> bool {
        let now = self.clock.monotonic_ns();
        let mut more = false;
        for vm in self.vms() {
            let Some(group) = vm.opened() else { continue };
            if failed.get(&vm.id).is_some_and(|last| now < last.again_ns) {
                continue;
            }
            self.measure(&vm, &group, now);
            let kept = self.care_of(&vm).and_then(|care| {
                self.keep_points(&vm, &group, care, now)?;
                let kept = group.keep(&mut vm.upkeep.lock(), care, now);
                self.tell_let_go(&vm, care)?;
                if group.must_reopen() { self.open_anew(&vm, &group).map(|()| true) } else { kept }
            });
            match kept {
                Ok(due) => {
                    more |= due;
                    failed.remove(&vm.id);
                }
                // What is being deleted needs nothing (Z3 of `unlisted`).
                Err(_) if vm.is_removed() => {}
                Err(error) => self.keep_failed(&vm, &error, now, failed),
            }
        }
        more
    }

    /// Told once, and again if it becomes another failure or goes on for long: each try names another file, and a store
    /// whose filesystem is full shall not fill it with events.
    fn keep_failed(&self, vm: &Vm, error: &Error, now: u64, failed: &mut HashMap<VmId, Failed>) {
        let pause = if error.kind() == Kind::NoSpace { NO_SPACE_PAUSE_NS } else { 0 };
        let last =
            failed.get(&vm.id).filter(|last| last.kind == error.kind() && now - last.told_ns < TOLD_NS);
        let told_ns = last.map_or(now, |last| last.told_ns);
        let known = last.is_some();
        failed.insert(vm.id, Failed { kind: error.kind(), told_ns, again_ns: now + pause });
        if known {
            return;
        }
        tracing::error!(vm = %vm.name(), "{error}");
        let event = Event::own(self.clock.wall_ns(), Some(&vm.name()), error.to_string());
        if let Err(e) = self.events.append(&event, false) {
            tracing::error!("events can't be written: {e}");
        }
    }

    /// A failed sync has cost records that were answered and never flushed, or the group is a target: it is recovered as
    /// after a power loss, and goes on. What is missing is told. Everybody goes over to the new one: the side of the
    /// replication here, openings of the mount when they are used next (H4 of the tree).
    fn open_anew(&self, vm: &Vm, old: &Group) -> Result<()> {
        let mut told = None;
        let mut open = || {
            let mut open = vm.group.lock();
            if vm.is_removed() {
                return Err(Error::new(Kind::Stale, format!("the VM {} was removed", vm.name())));
            }
            let (group, report, missing) = old.reopen()?;
            if report.damage.is_none() {
                Ground::settle(&group)?;
                if vm.start_wait_left().is_some() {
                    group.stand(Gate::Waiting);
                }
            }
            *open = Some(Arc::clone(&group));
            drop(open);
            *vm.upkeep.lock() = Upkeep::default();
            *vm.known.lock() = Default::default();
            told = Some((report, missing, group.gate() == Gate::Target));
            Ok(group)
        };
        match self.engine() {
            Some(engine) => engine.anew(vm, open)?,
            None => open().map(drop)?,
        }
        let Some((report, missing, target)) = told else { return Ok(()) };
        let what = if target { "will be received again" } else { "that were never flushed are lost" };
        let mut text = format!("a sync of the journal failed: {missing} records {what}");
        if let Some(damage) = report.damage {
            text = format!("{text}; damaged, read-only: {damage}");
        }
        tracing::error!(vm = %vm.name(), "{text}");
        self.events.append(&Event::own(self.clock.wall_ns(), Some(&vm.name()), text), true)
    }

    /// How a VM's group is kept: synced every second, with the window of its policy, pinned while a failover is
    /// not committed. Where nothing leaves the site there is a window only if somebody wrote one.
    pub(crate) fn care_of(&self, vm: &Vm) -> Result<Care> {
        let known = vm.known()?;
        let lines = Some(known.lines);
        let held = vm.held(self.store.catalog())?;
        let hours = held.policy.window_hours;
        let window = hours > 0 && (held.written || known.state() != State::Unprotected);
        let window_ns = window.then_some(u64::from(hours) * 3_600_000_000_000);
        let allowance = Some(self.allowance_of(vm, &held)?);
        let fork = self.fork_of(vm, &known)?;
        let pinned = known.pinned();
        let mut care = Care {
            sync_ns: 1_000_000_000,
            window_ns,
            pinned,
            backlog: Backlog::NONE,
            fork,
            allowance,
            lines,
        };
        let Some(peer) = vm.peer().filter(|_| known.state() != State::Unprotected) else { return Ok(care) };
        // What the peer lacks doesn't leave the log as long as there is room for it, and the peer has something that
        // records can be added to.
        let facts = known.facts;
        let (none, coalesced) = (facts.resync_needed && !facts.image, facts.coalesced);
        let pins = |r: &Arc<super::replication::Replication>| r.pins(vm.group_id, coalesced);
        let held = !none && self.replicating.lock().as_ref().map_or(!coalesced, pins);
        let full = match facts.role {
            Role::Source if coalesced && !pinned => WhenFull::Gone,
            Role::Source if !none && !pinned && !facts.handover => WhenFull::LetGo(peer),
            _ => WhenFull::Stays,
        };
        (care.sync_ns, care.backlog) = (PROTECTED_SYNC_NS, Backlog { held, full });
        Ok(care)
    }

    /// Announces that the backlog was let go, if it was since `care` was made up.
    fn tell_let_go(&self, vm: &Vm, care: Care) -> Result<()> {
        let WhenFull::LetGo(peer) = care.backlog.full else { return Ok(()) };
        if !vm.known()?.facts.coalesced {
            return Ok(());
        }
        let peer = self.engine().and_then(|engine| {
            engine.coalesced(vm.group_id);
            engine.peers().into_iter().find(|p| p.peer.store == peer).map(|p| p.peer.name)
        });
        let peer = peer.unwrap_or_else(|| "the peer".to_owned());
        let text = format!(
            "backlog-coalesced: the journal has reached its allowance; records that {peer} lacks are let go, and it \
             gets what changed instead"
        );
        tracing::warn!(vm = %vm.name(), "{text}");
        self.events.append(&Event::own(self.clock.wall_ns(), Some(&vm.name()), text), true)
    }

    /// Scheduled points and retention, where a window is kept.
    fn keep_points(&self, vm: &Vm, group: &Group, care: Care, now: u64) -> Result<()> {
        let Some(window) = care.window_ns else { return Ok(()) };
        let last = vm.pointed_ns.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < POINTS_NS {
            return Ok(());
        }
        // A command changes the same file.
        let Some(_one) = vm.commanding.try_lock() else { return Ok(()) };
        vm.pointed_ns.store(now.max(1), Ordering::Relaxed);
        let every = vm.policy(self.store.catalog())?.0.crash_points;
        let id = Token(self.entropy.random_128());
        crate::site::points::keep(self.store.catalog(), group, every, window, care.is_pinned(), id)
            .map(|_| ())
    }

    /// Ended jobs, answers and tokens that are kept for a time only; once at the start, then every hour. What can't be
    /// deleted now is deleted later.
    pub(super) fn clean(&self, cleaned_ns: &mut Option<u64>) {
        let now = self.clock.monotonic_ns();
        if cleaned_ns.is_some_and(|last| now.saturating_sub(last) < CLEAN_NS) {
            return;
        }
        *cleaned_ns = Some(now);
        let replication = self.replicating.lock().clone();
        let tokens = replication.map_or(Ok(()), |r| r.clean(self.clock.wall_ns() / 1_000_000_000));
        for done in [self.jobs().clean(), self.clean_commands(), tokens] {
            if let Err(error) = done {
                tracing::warn!(%error, "what is no longer needed can't be deleted");
            }
        }
    }

    /// Health of all VMs that are open.
    pub(super) fn look(&self, looked_ns: &mut u64) {
        let now = self.clock.monotonic_ns();
        if now.saturating_sub(*looked_ns) < LOOK_NS {
            return;
        }
        *looked_ns = now;
        for vm in self.vms().into_iter().filter(|vm| vm.opened().is_some()) {
            if let Err(error) = self.health_of(&vm) {
                tracing::warn!(vm = %vm.name(), %error, "its health can't be looked at");
            }
        }
    }
}
