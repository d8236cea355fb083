//! After every step: what the roles allow, and the timer.

use super::{Asked, GroupLink, Phase};
use crate::exchange::effect::{Effect, Verdict};
use crate::exchange::group::SILENCE_NS;
use crate::history::{ChainValue, Outcome, SourceState, TargetState, source_next, target_may_decide};
use crate::vocab::{EpochId, Moment};

impl GroupLink {
    /// After every step: what the roles allow, and the timer.
    pub(super) fn upkeep(&mut self, out: &mut Vec<Effect>) {
        self.roles(out);
        let Some(connection) = &self.connection else { return };
        let mut at = connection.beat_ns.min(connection.heard_ns + SILENCE_NS);
        if let (Some(_), Phase::Source(_)) = (self.settings.frequency_ns, &self.phase) {
            at = at.min(self.due_ns.max(self.now_ns + 1));
        }
        out.push(Effect::SetTimer(at));
    }

    /// Invariant 2.
    fn roles(&mut self, out: &mut Vec<Effect>) {
        let held = match &self.phase {
            Phase::Target(target) if target.is_settled() => target.head(),
            _ => None,
        };
        let Some(connection) = &mut self.connection else { return };
        let (Some(verdict), Some(heard)) = (&connection.verdict, &connection.heard) else { return };
        let site = self.settings.site;
        let stands = |epoch: EpochId| match verdict {
            Verdict::Decided(Outcome::Yield { loser, epoch: decided, .. }, _) => {
                *loser == site && *decided == epoch
            }
            // A decision made while connected, of an epoch that this site doesn't know: nobody else writes.
            _ => connection.local.table.row(epoch).is_none(),
        };
        let roles = &connection.local.roles;
        let source = SourceState { phase: roles.source, handed: connection.local.handed.clone() };
        let step = source_next(&source, Some(&heard.target), stands);
        if let Some(step) = step.filter(|_| connection.asked.is_none()) {
            connection.asked = Some(Asked::Source);
            out.push(Effect::SourceStep(step));
        }
        let target = TargetState { phase: roles.target.phase, ended: roles.target.ended.clone() };
        let holds = |head: Moment, chain: ChainValue| held == Some((head, chain));
        let decide = target_may_decide(&target, Some(&heard.source), holds);
        if let Some(op) = decide.filter(|op| connection.asked != Some(Asked::Decide(*op))) {
            connection.asked = Some(Asked::Decide(op));
            out.push(Effect::MayDecide(op));
        }
    }
}
