//! What a site is to its peer, and the steps of a failover that both make: the driver's part of it.
//!
//! R1. Roles follow from the lines of the history alone.
//! R2. A step is made only if it still fits (`history::SourceState::after`), and is durable before it is told.
//! R3. A source that goes on after a fence does so in an epoch of its own, of kind rollback; one that only waited
//!     goes on where it stopped.
//! R4. A planned failover is decided as soon as all of the source's records are held. An unplanned one is decided by
//!     whoever began it: its moment was chosen by a person.
//! R5. A source that goes on although it has handed over was told to by a person (`force`). It never hands over for that
//!     operation again, so it says so: else the peer would wait for it until its own time-out.

use crate::exchange::{About, Descriptor, Event, Roles, Verdict};
use crate::group::driver::Driver;
use crate::group::queue::Gate;
use crate::history::{
    Event as Line, Operation, Outcome, RowKind, SourcePhase, SourceState, SourceStep, TargetPhase, states_of,
};
use crate::vocab::{Result, Token};

impl Driver {
    /// R1.
    pub(super) fn roles(&self) -> Roles {
        let (mut source, target) = self.group.with_events(|events| states_of(events.iter().map(|(_, e)| e)));
        let gate = self.group.gate();
        if gate == Gate::Target {
            source.phase = SourcePhase::None;
        }
        let decision = match target.phase {
            TargetPhase::Promoted { epoch, .. } => self.group.table().row(epoch).cloned(),
            _ => None,
        };
        Roles { source: source.phase, target: target.says(), decision }
    }

    /// What both sites came to. A peer that follows by records holds what it says, durably, on this site's line: that is
    /// known before the first confirmation, and after a restart of this site.
    pub(super) fn heard_peer(&mut self, verdict: &Verdict, peer: &Descriptor) {
        self.heard_roles(&peer.roles);
        let (Verdict::Decided(Outcome::Follow { source, by_records: true, .. }, _)
        | Verdict::Decided(Outcome::Yield { winner: source, nothing_lost: true, .. }, _)) = verdict
        else {
            return;
        };
        if *source == self.group.parts.store_id
            && let Some((held, _)) = peer.head
        {
            (self.cursor, self.staged) = (Some(held), None);
        }
    }

    /// What the peer says that it is.
    pub(super) fn heard_roles(&mut self, roles: &Roles) {
        self.peer_writes = Some(matches!(roles.source, SourcePhase::Writer));
        self.stopped_at = match roles.source {
            SourcePhase::Handed { head, .. } => Some(head),
            _ => None,
        };
        match roles.source {
            SourcePhase::Fenced { .. } => self.peer_fenced = true,
            SourcePhase::Writer => self.peer_fenced = false,
            _ => {}
        }
    }

    /// R5.
    pub(super) fn past_handing_over(&self, peer: &Roles) -> Option<Event> {
        let TargetPhase::Intent { op } = peer.target.phase else { return None };
        let (source, _) = self.group.with_events(|events| states_of(events.iter().map(|(_, e)| e)));
        let past = source.phase == SourcePhase::Writer && source.handed.contains(&op);
        past.then(|| {
            let text =
                "the source had stopped for this, and a person told it to go on there (`failover force`)";
            Event::Say(About::Declined { op, name: "already-active".into(), text: text.into() })
        })
    }

    /// R4. True: it was decided here.
    pub(super) fn may_decide(&mut self, op: Token) -> Result<bool> {
        if self.roles().target.phase != (TargetPhase::Intent { op }) {
            return Ok(true);
        }
        let planned = self.group.with_events(|events| {
            let mine =
                |e: &Line| matches!(e, Line::Intent { op: o, operation: Operation::Planned, .. } if *o == op);
            events.iter().any(|(_, e)| mine(e))
        });
        if planned {
            self.group.decide(self.group.head(), RowKind::Planned, op, None)?;
        }
        Ok(planned)
    }

    /// R2.
    pub(super) fn source_step(&mut self, step: SourceStep) -> Result<()> {
        let group = self.group.clone();
        let (state, _) = group.with_events(|events| states_of(events.iter().map(|(_, e)| e)));
        let state = SourceState { phase: self.roles().source, handed: state.handed };
        let was = state.phase;
        let before = group.wanted_gate();
        if !matches!(step, SourceStep::SourceAgain { .. }) {
            group.freeze(Gate::Frozen);
        }
        let (head, chain) = match self.durable_head() {
            Ok(durable) => durable,
            Err(e) => {
                // Nothing was promised yet: a writer goes on.
                group.stand(before);
                return Err(e);
            }
        };
        if state.after(step, head, chain).is_none() {
            group.stand(before);
            return Ok(());
        }
        match step {
            SourceStep::Handover { op } => group.record_line(Line::Handover { op, head, chain }),
            SourceStep::Fence { op, epoch } => {
                let table = group.table();
                let fork = table.row(epoch).and_then(|r| r.fork()).unwrap_or(head);
                let common = table.norm(fork)?;
                group.record_line(Line::Fence { epoch, head, common, op: Some(op) })
            }
            SourceStep::SourceAgain { op } if matches!(was, SourcePhase::Fenced { .. }) => {
                group.decide(head, RowKind::Rollback, op, None).map(|_| ()) // R3
            }
            SourceStep::SourceAgain { op } => {
                group.record_line(Line::HandoverEnded { op })?;
                group.thaw();
                Ok(())
            }
        }
    }
}
