//! What a group's journal takes at this site, what keeps it, and how long there is room.
//!
//! N1. Until commit the fork of a failover bounds the base; after it the fork of each branch does, until it is dropped.
//! N2. Health says so with the time that is left at the present churn, before a writer is refused.

use crate::group::Group;
use crate::protection::health::{Reason, Seen};
use crate::protection::{State, duration_text, size_text};
use crate::site::facts::Known;
use crate::site::vm::Held;
use crate::site::{Site, Vm};
use crate::vocab::{Moment, Pos, Result};

/// Churn is measured over at least so long, ns.
const CHURN_NS: u64 = 10_000_000_000;
const HOUR_NS: u64 = 3_600_000_000_000;
/// A failover that isn't committed for so long is told, ns.
const COMMIT_OVERDUE_NS: u64 = 7 * 24 * HOUR_NS;
/// Less time left than this is told, ns.
const SOON_NS: u64 = 24 * HOUR_NS;
/// But not to who has just failed over and looks whether the VM is well, ns: unless there is less than an hour.
const FRESH_NS: u64 = HOUR_NS / 4;
/// A writer that was refused is told for so long, ns.
const REFUSED_NS: u64 = 60_000_000_000;

/// What is remembered of a VM from look to look.
#[derive(Default)]
pub(super) struct Noted {
    /// For a history of so many lines.
    fork: Option<(usize, Option<Moment>)>,
    measured: Option<(u64, Pos)>,
    /// Bytes of journal a second.
    churn: Option<u64>,
    refused: u64,
    refused_ns: Option<u64>,
}

impl Noted {
    fn measure(&mut self, now: u64, group: &Group) {
        let (_, end) = group.log_end();
        match self.measured {
            Some((then, before)) if now.saturating_sub(then) >= CHURN_NS => {
                let bytes = u128::from(end.0.saturating_sub(before.0));
                let rate = (bytes * 1_000_000_000 / u128::from(now - then)) as u64;
                self.churn = Some(self.churn.map_or(rate, |churn| churn / 4 * 3 + rate / 4));
                self.measured = Some((now, end));
            }
            None => self.measured = Some((now, end)),
            Some(_) => {}
        }
        if group.refused() > self.refused {
            (self.refused, self.refused_ns) = (group.refused(), Some(now));
        }
    }

    /// Time until so many bytes are written, ns.
    fn left(&self, bytes: u64) -> Option<u64> {
        let churn = self.churn.filter(|churn| *churn > 0)?;
        u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(churn)).ok()
    }
}

impl Site {
    /// Bytes that the group's journal may take at this site.
    pub(super) fn allowance_of(&self, vm: &Vm, held: &Held) -> Result<u64> {
        let disks = vm.group()?.names_now(|names| names.files.values().map(|f| f.size).sum());
        let filesystem = self.store().rooms().journal.total();
        Ok(held.settings.allowance.bytes(disks, filesystem))
    }

    /// N1: the moment that the base must not pass. Before the commit every branch counts, dropped or not: the received
    /// line, which a rollback goes back to, is one of them.
    pub(super) fn fork_of(&self, vm: &Vm, known: &Known) -> Result<Option<Moment>> {
        let mut noted = vm.noted.lock();
        if let Some((lines, fork)) = noted.fork
            && lines == known.lines
        {
            return Ok(fork);
        }
        let group = vm.group()?;
        let fork = if known.state() == State::FailedOver {
            let table = group.table();
            let made_at = known.decisions.iter().filter_map(|epoch| table.row(*epoch)?.fork());
            group.lowest_fork(&[], &made_at.collect::<Vec<_>>())?
        } else {
            group.lowest_fork(&group.dropped_branches(), &[])?
        };
        noted.fork = Some((known.lines, fork));
        Ok(fork)
    }

    /// Measures what a group writes; to be called every now and then.
    pub(super) fn measure(&self, vm: &Vm, group: &Group, now: u64) {
        vm.noted.lock().measure(now, group);
    }

    /// N2. `failed_over_ns`: for so long, if it isn't committed.
    pub(super) fn seen_room(&self, vm: &Vm, failed_over_ns: Option<u64>) -> Result<Vec<Seen>> {
        let group = vm.group()?;
        let known = vm.known()?;
        let held = vm.held(self.store().catalog())?;
        let room = &self.store().rooms().journal;
        let used = group.journal_used();
        let allowance = self.allowance_of(vm, &held)?;
        let free = allowance.saturating_sub(used).min(room.slack());
        let now = self.clock().monotonic_ns();
        let held_by_branch = known.state() != State::FailedOver && self.fork_of(vm, &known)?.is_some();
        let noted = vm.noted.lock();
        let left = noted.left(free);
        let figure = || {
            let time = left.map_or(String::new(), |left| format!(", {} left", rounded(left)));
            Some(format!("{} of journal{time}", size_text(used)))
        };
        let limit = || Some(size_text(allowance.min(used + free)));
        let mut seen = Vec::new();
        let mut see = |reason| seen.push(Seen { reason, figure: figure(), limit: limit() });
        if let Some(age) = failed_over_ns.filter(|_| known.state() == State::FailedOver) {
            let near = if age < FRESH_NS { HOUR_NS } else { SOON_NS };
            let soon = left.is_some_and(|left| left < near) || free < allowance / 4;
            if age > COMMIT_OVERDUE_NS || soon {
                see(Reason::CommitOverdue);
            }
        }
        if held_by_branch {
            see(Reason::HeldByBranch);
        }
        let recent = noted.refused_ns.is_some_and(|at| now.saturating_sub(at) < REFUSED_NS);
        if group.is_over() || recent || room.slack() == 0 {
            see(Reason::StoreFull);
        }
        Ok(seen)
    }
}

/// Whole hours or minutes.
fn rounded(ns: u64) -> String {
    const MINUTE: u64 = 60_000_000_000;
    let unit = if ns >= 120 * MINUTE { 60 * MINUTE } else { MINUTE };
    duration_text(ns / unit * unit)
}
