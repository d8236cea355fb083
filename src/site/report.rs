//! What the files `status`, `health` and `peers/` show, gathered from who knows it.
//!
//! Y1. Nothing here is kept: what can't be known is left out, or said to be at least so much.
//! Y2. Health is looked at every second and whenever it is asked for; a reason that begins or ends is an event.

use crate::exchange::Rpo as Measured;
use crate::group::Group;
use crate::history::Event as Line;
use crate::protection::health::{Reason, Seen};
use crate::protection::report::{
    At, DiskReport, HealthReport, Lacking, PeerReport, Rpo, SiteReport, StatusReport, next_step,
};
use crate::protection::{State, size_text};
use crate::site::events::Event;
use crate::site::names::is_disk;
use crate::site::replication::{GroupStatus, PeerStatus, SessionState};
use crate::site::start_wait::START_WAIT_SECONDS;
use crate::site::{Site, Vm, points};
use crate::vocab::{Moment, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A backlog above this is told, bytes.
const BACKLOG_HIGH: u64 = 1 << 30;
/// What went wrong once is told for so long, ns.
const RECENT_NS: u64 = 3_600_000_000_000;

impl Site {
    /// What `status` of a VM shows.
    ///
    /// # Errors
    /// Those of opening its group and reading the catalog.
    pub fn status_of(&self, vm: &Arc<Vm>) -> Result<StatusReport> {
        let situation = self.situation(vm, None)?;
        let known = vm.known()?;
        let group = vm.group()?;
        let catalog = self.store().catalog();
        let health = self.health_of(vm)?;
        let replicated = self.engine().and_then(|engine| engine.group(vm.group_id()));
        let at = |moment: Moment| {
            let time = group.time_of(moment).ok().flatten();
            time.map(|time| At { moment, time })
        };
        let set = points::shown(catalog, &group)?;
        let ordered = set.in_order();
        let names: Vec<_> = group.names_now(|n| n.files.iter().map(|(disk, f)| (*disk, f.clone())).collect());
        let mut disks = Vec::new();
        for (disk, file) in names {
            if file.kind != crate::format::FileKind::File {
                continue;
            }
            let is_image = vm.single() || is_disk(&file.path);
            disks.push(DiskReport {
                name: format!("{}/{}", vm.name(), file.path).trim_end_matches('/').to_owned(),
                role: if is_image { "data" } else { "companion" },
                uuid: file.file.to_string(),
                size: file.size,
                allocated: group.allocated(disk, file.size)?,
            });
        }
        let room = self.store().storage().space()?;
        let sizes = disks.iter().map(|d| d.size).sum();
        let (_, settings) = vm.policy(catalog)?;
        let head = group.head();
        let mut flags = known.flags;
        flags.unfenced_peer = unfenced(situation.state, replicated.as_ref());
        flags.started_without_peer = vm.started_alone();
        // What is over and shown for a while yet asks nobody to do anything.
        let critical = health
            .reasons
            .iter()
            .any(|r| r.holds && r.severity == crate::protection::health::Severity::Critical);
        let state = situation.state.unwrap_or(State::Unprotected);
        let paired = !catalog.list::<crate::link::Peer>()?.0.is_empty();
        Ok(StatusReport {
            name: vm.name(),
            uuid: vm.id().to_string(),
            group: None,
            site: self.store().settings()?.name,
            state,
            flags,
            direction: situation.direction,
            peer: self.peer_of(vm, replicated.as_ref())?,
            health: health.severity,
            rpo: self.rpo_of(vm, replicated.as_ref())?,
            backlog: self.backlog_of(vm, replicated.as_ref())?,
            head: at(head),
            processed: replicated
                .as_ref()
                .and_then(|r| r.state.acknowledged)
                .filter(|_| state.is_source())
                .map_or_else(|| if state.is_target() { at(head) } else { None }, at),
            oldest: ordered.first().and_then(|p| at(p.moment)),
            points: (ordered.last().map(|p| p.name()), ordered.len() as u64),
            used: group.journal_bytes(),
            allowance: settings.allowance.bytes(sizes, room.total),
            appended: group.counters().appended(),
            job: situation.job,
            start_wait: vm.start_wait_left(),
            last_test: None,
            disks,
            next: left_behind(&group, state)
                .unwrap_or_else(|| next_step(state, &vm.name(), paired, true, critical)),
        })
    }

    /// How old the standby of a VM is, as its status shows.
    ///
    /// # Errors
    /// Those of opening its group.
    pub fn standby_age(&self, vm: &Arc<Vm>) -> Result<Rpo> {
        let replicated = self.engine().and_then(|engine| engine.group(vm.group_id()));
        self.rpo_of(vm, replicated.as_ref())
    }

    fn rpo_of(&self, vm: &Vm, replicated: Option<&GroupStatus>) -> Result<Rpo> {
        let state = vm.known()?.state();
        if !has_standby(state) {
            return Ok(Rpo::None);
        }
        Ok(match replicated.map(|r| r.rpo) {
            Some(Measured::Exact(ns)) => Rpo::Age(ns),
            Some(Measured::AtLeast(ns)) => Rpo::AtLeast(ns),
            // Not met since the start: the last contact was before it.
            Some(Measured::None) | None => {
                Rpo::AtLeast(self.clock().monotonic_ns().saturating_sub(self.started_ns))
            }
        })
    }

    fn backlog_of(&self, vm: &Vm, replicated: Option<&GroupStatus>) -> Result<Lacking> {
        let state = vm.known()?.state();
        if !state.is_source() || !has_standby(state) {
            return Ok(Lacking::Bytes(0));
        }
        let Some(acknowledged) = replicated.and_then(|r| r.state.acknowledged) else {
            return Ok(Lacking::Unknown);
        };
        let (bytes, exact) = vm.group()?.bytes_behind(acknowledged)?;
        Ok(if exact { Lacking::Bytes(bytes) } else { Lacking::AtLeast(bytes) })
    }

    fn peer_of(&self, vm: &Vm, replicated: Option<&GroupStatus>) -> Result<Option<PeerReport>> {
        let Some(store) = vm.known()?.peer else { return Ok(None) };
        let peers = self.engine().map(|engine| engine.peers()).unwrap_or_default();
        let Some(status) = peers.into_iter().find(|p| p.peer.store == store) else {
            let name = self.store().catalog().get::<crate::link::Peer>(&store.to_string())?;
            let name = name.map_or_else(|| store.short(), |p| p.name);
            return Ok(Some(PeerReport { name, connected: Err(self.started_wall()), writing: None }));
        };
        let mut report = self.report_of(&status);
        report.writing = replicated.and_then(|r| r.state.peer_writes);
        Ok(Some(report))
    }

    fn report_of(&self, status: &PeerStatus) -> PeerReport {
        let ago = self.clock().monotonic_ns().saturating_sub(status.since_ns.max(self.started_ns));
        let since = self.clock().wall_ns().saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX));
        let connected = if status.session == SessionState::Ready { Ok(since) } else { Err(since) };
        PeerReport { name: status.peer.name.clone(), connected, writing: None }
    }

    fn started_wall(&self) -> i64 {
        let ago = self.clock().monotonic_ns().saturating_sub(self.started_ns);
        self.clock().wall_ns().saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX))
    }

    /// What `health` of a VM shows. Looks at everything now.
    ///
    /// # Errors
    /// Those of opening its group and reading the catalog.
    pub fn health_of(&self, vm: &Arc<Vm>) -> Result<HealthReport> {
        let seen = self.seen(vm)?;
        let wall = self.clock().wall_ns();
        let mut health = vm.health.lock();
        let changes = health.observe(self.clock().monotonic_ns(), wall, &seen);
        let report = HealthReport { severity: health.severity(), reasons: health.standing() };
        drop(health);
        let name = vm.name();
        for (reasons, what) in [(&changes.raised, "raised"), (&changes.cleared, "cleared")] {
            for reason in reasons {
                let (means, _) = reason.says();
                let event = Event::own(wall, Some(&name), format!("health: {reason} {what}: {means}"));
                if let Err(error) = self.events().append(&event, false) {
                    tracing::error!("events can't be written: {error}");
                }
            }
        }
        Ok(report)
    }

    fn seen(&self, vm: &Arc<Vm>) -> Result<Vec<Seen>> {
        let known = vm.known()?;
        let group = vm.group()?;
        let state = known.state();
        let engine = self.engine();
        let replicated = engine.as_ref().and_then(|engine| engine.group(vm.group_id()));
        let peer = known.peer.and_then(|store| {
            engine.as_ref().and_then(|e| e.peers().into_iter().find(|p| p.peer.store == store))
        });
        let mut failed_over_ns = None;
        let mut seen = Vec::new();
        let mut see = |reason, figure: Option<String>, limit: Option<String>| {
            seen.push(Seen { reason, figure, limit });
        };
        match state {
            State::SplitBrain => see(Reason::SplitBrain, None, None),
            State::Rewound => see(Reason::Rewound, None, None),
            State::ResyncRequired => see(Reason::ResyncRequired, None, None),
            State::HandingOver => see(Reason::HandoverInDoubt, None, None),
            State::Receiving => see(Reason::NoRecoveryPoint, None, None),
            State::FailedOver => {
                let since = group.with_events(|events| {
                    let decided = |e: &crate::history::Event| {
                        matches!(e, crate::history::Event::Epoch { row, own: true } if row.decided())
                    };
                    events.iter().rev().find(|(_, e)| decided(e)).map(|(time, _)| *time)
                });
                let now = self.clock().wall_ns();
                failed_over_ns = since.map(|since| u64::try_from(now.saturating_sub(since)).unwrap_or(0));
            }
            _ => {}
        }
        if known.facts.coalesced && !state.is_target() {
            see(Reason::BacklogCoalesced, None, None);
        }
        let jumped = group.with_events(|events| {
            events.iter().rev().find_map(|(_, e)| match e {
                crate::history::Event::Jump(jump) => jump.from,
                _ => None,
            })
        });
        // As long as there are moments before it.
        let held = |from| group.place_behind(from).is_ok() || group.open_moment(from).is_ok();
        if state.is_target() && jumped.is_some_and(held) {
            see(Reason::HistoryGap, None, None);
        }
        if state == State::Unprotected && self.care_of(vm)?.window_ns.is_some() {
            see(Reason::LocalOnly, None, None);
        }
        if unfenced(Some(state), replicated.as_ref()) {
            see(Reason::UnfencedPeer, None, None);
        }
        if let Some(left) = vm.start_wait_left() {
            let seconds = self.store().settings()?.start_wait_seconds;
            let limit = format!("{} s", seconds.unwrap_or(START_WAIT_SECONDS));
            see(Reason::StartWait, Some(format!("{} s left", left.div_ceil(1_000_000_000))), Some(limit));
        }
        if vm.started_alone() {
            see(Reason::StartedWithoutPeer, None, None);
        }
        if state != State::Unprotected && known.peer.is_some() {
            match peer.as_ref().map(|p| (p.session, &p.refusal)) {
                Some((SessionState::Ready, _)) => {}
                Some((_, Some((name, text)))) if name == "identity-conflict" => {
                    see(Reason::IdentityConflict, Some(text.clone()), None);
                }
                Some((_, Some((name, text)))) if name == "version-mismatch" => {
                    see(Reason::VersionMismatch, Some(text.clone()), None);
                }
                _ => see(Reason::PeerUnreachable, None, None),
            }
            if peer.as_ref().is_some_and(|p| p.same_host) {
                see(Reason::SameHostPair, None, None);
            }
        }
        let threshold = vm.policy(self.store().catalog())?.0.rpo_threshold;
        let age = match self.rpo_of(vm, replicated.as_ref())? {
            Rpo::Age(ns) | Rpo::AtLeast(ns) => ns,
            Rpo::None => 0,
        };
        let seconds = |ns: u64| Some(format!("{} s", ns / 1_000_000_000));
        if age > threshold {
            see(Reason::RpoExceeded, seconds(age), seconds(threshold));
        }
        let backlog = self.backlog_of(vm, replicated.as_ref())?.known();
        if backlog > BACKLOG_HIGH {
            see(Reason::BacklogHigh, Some(size_text(backlog)), Some(size_text(BACKLOG_HIGH)));
        }
        let now = self.clock().monotonic_ns();
        let recent = |at: Option<u64>| at.is_some_and(|at| now.saturating_sub(at) < RECENT_NS);
        if recent(replicated.as_ref().and_then(|r| r.corruption_ns)) {
            see(Reason::Corruption, None, None);
        }
        if recent(replicated.as_ref().and_then(|r| r.target_rewound_ns)) {
            see(Reason::TargetRewound, None, None);
        }
        let full = replicated.as_ref().and_then(|r| r.peer_full.clone());
        if let Some(text) = full.filter(|_| !state.is_target()) {
            see(Reason::PeerFull, Some(text), None);
        }
        if group.gate() == crate::group::Gate::Stopped {
            see(Reason::Damaged, None, None);
        }
        seen.extend(self.seen_room(vm, failed_over_ns)?);
        Ok(seen)
    }

    /// All peers, as `site/peers/` shows them.
    pub fn peer_reports(&self) -> Vec<(PeerReport, PeerStatus)> {
        let peers = self.engine().map(|engine| engine.peers()).unwrap_or_default();
        peers.into_iter().map(|status| (self.report_of(&status), status)).collect()
    }

    /// What `site/status` shows.
    ///
    /// # Errors
    /// Those of reading the store.
    pub fn site_report(&self) -> Result<SiteReport> {
        let engine = self.engine();
        let mut groups: BTreeMap<State, u64> = BTreeMap::new();
        let mut worst = crate::protection::health::Severity::Ok;
        for vm in self.vms() {
            let (Ok(known), Ok(health)) = (vm.known(), self.health_of(&vm)) else {
                worst = crate::protection::health::Severity::Critical;
                continue;
            };
            *groups.entry(known.state()).or_default() += 1;
            worst = worst.max(health.severity);
        }
        let room = self.store().storage().space()?;
        Ok(SiteReport {
            name: self.store().settings()?.name,
            id: self.store().id().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started_wall(),
            store: self.store().dir().display().to_string(),
            listen: engine.and_then(|engine| engine.listening()).map(|at| at.to_string()),
            fingerprint: self.store().identity()?.fingerprint().to_string(),
            health: worst,
            groups: groups.into_iter().collect(),
            room: (room.free, room.total),
            peers: self.peer_reports().into_iter().map(|(report, _)| report).collect(),
        })
    }
}

fn has_standby(state: State) -> bool {
    matches!(
        state,
        State::Protected
            | State::Resyncing
            | State::ResyncRequired
            | State::HandingOver
            | State::Standby
            | State::ResyncingTarget
    )
}

/// What to do where records were written that the site which took over doesn't have.
fn left_behind(group: &Group, state: State) -> Option<String> {
    let fence = |(_, event): &(i64, Line)| match event {
        Line::Fence { head, common, .. } => Some(head.seq.0.saturating_sub(common.seq.0)),
        _ => None,
    };
    let fenced = matches!(state, State::Fenced | State::Orphaned);
    let records = fenced.then(|| group.with_events(|events| events.iter().rev().find_map(fence)))??;
    (records > 0).then(|| {
        format!(
            "The VM runs at the other site. {records} records that were written here are not there: look at them in `disks/`, \
             or `rollback` there, before this copy is removed."
        )
    })
}

/// Whether the old source may write: it has not said that it yielded, nor, in this connection, that it stands still.
fn unfenced(state: Option<State>, replicated: Option<&GroupStatus>) -> bool {
    let still = |r: &GroupStatus| r.state.peer_fenced || r.state.peer_writes == Some(false);
    matches!(state, Some(State::FailedOver | State::Committed)) && !replicated.is_some_and(still)
}
