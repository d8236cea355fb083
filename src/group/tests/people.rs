//! What people do at two sites: failover, change of point, rollback, commit, planned failover, force, reprotect; and who
//! settles in the end who writes.

use super::site::store;
use super::sites::{Checked, World, text};
use crate::group::Gate;
use crate::history::{CommitPoints, Event, Operation, RowKind, overrules};
use crate::vocab::{EpochId, Moment, Token};

impl World {
    pub(super) fn token(&mut self) -> Token {
        Token(self.rng.u128(..).to_le_bytes())
    }

    /// A moment that can be opened at a site: its head, or another.
    fn choose(&mut self, site: usize) -> Option<Moment> {
        let group = self.group(site);
        if !group.has_image() || self.rng.u32(..10) < 5 {
            return group.has_image().then(|| group.head());
        }
        for _ in 0..10 {
            let moment = self.model.order[self.rng.usize(..self.model.order.len())];
            if moment.seq.0 > 0 && group.open_moment(moment).is_ok() {
                return Some(moment);
            }
        }
        None
    }

    pub(super) fn decide(
        &mut self,
        site: usize,
        at: Moment,
        kind: RowKind,
        over: Option<EpochId>,
    ) -> Checked {
        let group = self.group(site);
        let Some(image) = self.truth(&group.table(), at).cloned() else {
            return Err(format!("site {site}: {at} can be chosen and never was"));
        };
        let op = self.token();
        let done = match group.decide(at, kind, op, over) {
            // Its chain value is gone with its records.
            Err(e) if e.kind() == crate::vocab::Kind::NotFound => return Ok(()),
            done => done.map_err(text),
        };
        if self.powered(site, done)?.is_none() {
            self.sites[site].failed = Some(image);
            return Ok(());
        }
        self.sites[site].now = image;
        self.note(site);
        Ok(())
    }

    pub(super) fn lines(&mut self, site: usize, event: Event) -> Result<bool, String> {
        let group = self.group(site);
        let done = group.note(event).map_err(text);
        Ok(self.powered(site, done)?.is_some())
    }

    pub(super) fn tell_roles(&mut self, site: usize) -> Checked {
        let now = self.now;
        let out = self.sites[site].driver.roles_changed(now);
        self.handle(site, out)
    }

    /// Something that a person does at a site.
    pub(super) fn command(&mut self, site: usize) -> Checked {
        let group = self.group(site);
        let (gate, open) = (group.gate(), self.sites[site].uncommitted());
        match (self.rng.u32(..6), gate) {
            (0 | 1, Gate::Target) => {
                let Some(at) = self.choose(site) else { return Ok(()) };
                if self.rng.bool() {
                    self.cut()?;
                }
                self.count("failovers");
                self.decide(site, at, RowKind::Failover, None)
            }
            (0 | 1, Gate::Frozen) => {
                self.count("forced");
                let fence = group.events().iter().rev().find_map(|(_, e)| match e {
                    Event::Fence { epoch, .. } => Some(*epoch),
                    _ => None,
                });
                self.decide(site, group.head(), RowKind::Force, fence)
            }
            (0 | 1, Gate::Open { .. }) if !open.is_empty() => {
                let Some(at) = self.choose(site) else { return Ok(()) };
                self.count("changes of point");
                self.decide(site, at, RowKind::Change, None)
            }
            (2 | 3, Gate::Open { .. }) if !open.is_empty() && self.sites[site].may_roll_back() => {
                self.count("rollbacks");
                let op = self.token();
                let done = group.withdraw(&open, op).map_err(text);
                if self.powered(site, done)?.is_some() {
                    let head = group.head();
                    let known = self.truth(&group.table(), head).cloned();
                    self.sites[site].now = known.ok_or("a rollback to a moment that never was")?;
                    self.cut()?;
                }
                Ok(())
            }
            (4, Gate::Open { .. }) if !open.is_empty() => {
                self.count("commits");
                let epoch = *open.last().unwrap_or(&EpochId::NONE);
                let op = self.token();
                self.lines(site, Event::Committed { op, epoch, points: CommitPoints::Keep }).map(|_| ())
            }
            (2.., Gate::Target) if group.has_image() => {
                let op = self.token();
                let intent = Event::Intent { op, operation: Operation::Planned, moment: None, peer: None };
                let event = match self.sites[site].intent() {
                    Some(op) => Event::Cancelled { op },
                    None => intent,
                };
                self.count("planned, or cancelled");
                if self.lines(site, event)? {
                    self.tell_roles(site)?;
                }
                Ok(())
            }
            (_, Gate::Frozen) if self.sites[site].fenced() => self.reprotect(site),
            _ => Ok(()),
        }
    }

    /// A fenced site becomes target of the other.
    pub(super) fn reprotect(&mut self, site: usize) -> Checked {
        if !matches!(self.sites[1 - site].group.gate(), Gate::Open { .. }) {
            return Ok(());
        }
        self.count("reprotects");
        let (op, group) = (self.token(), self.group(site));
        if self.lines(site, Event::Target { op, source: store(1 - site), seed: Some(group.head()) })? {
            group.freeze(Gate::Target);
            self.cut()?;
        }
        Ok(())
    }

    /// A person settles who writes, and both come to one moment.
    pub(super) fn resolve(&mut self) -> Checked {
        for site in 0..2 {
            self.sites[site].device.power_loss_at(1 << 60);
        }
        for round in 0..12 {
            if self.quiet()? {
                return Ok(());
            }
            for site in 0..2 {
                if let Some(op) = self.sites[site].intent() {
                    self.lines(site, Event::Cancelled { op })?;
                    self.tell_roles(site)?;
                }
            }
            let gates = [0, 1].map(|s| self.sites[s].group.gate());
            let open = |s: usize| matches!(gates[s], Gate::Open { .. });
            let writer = match (open(0), open(1)) {
                (true, true) => self.rng.usize(..2),
                (true, false) => 0,
                (false, true) => 1,
                (false, false) => usize::from(!self.sites[0].group.has_image()),
            };
            if open(writer) && !open(1 - writer) && self.sites[1 - writer].fenced() {
                self.reprotect(1 - writer)?;
                continue;
            }
            if round < 2 && open(writer) && !open(1 - writer) {
                continue;
            }
            self.count("resolved");
            let (group, other) = (self.group(writer), self.group(1 - writer));
            let mut all = group.table();
            all.merge(&other.table()).map_err(text)?;
            let over = match other.has_image() {
                true => overrules(&all, group.head(), Some(other.head())).map_err(text)?,
                false => None,
            };
            self.decide(writer, group.head(), RowKind::Resolve, over)?;
            self.cut()?;
        }
        Err(format!("never at one: {}", self.stand()))
    }
}
