//! What commands on a VM are judged by, from what is really known here.

use crate::link::Peer;
use crate::protection::admission::{Allowed, Situation, allowed};
use crate::protection::job::JobKind;
use crate::protection::{Scope, State, Verb};
use crate::site::facts::Known;
use crate::site::{Site, Vm};
use crate::vocab::Result;
use std::sync::Arc;

impl Site {
    /// The situation of a VM. `writer`: a disk of it that is open for writing.
    ///
    /// # Errors
    /// Those of opening the group and reading the catalog.
    pub fn situation(&self, vm: &Arc<Vm>, writer: Option<String>) -> Result<Situation> {
        let known = vm.known()?;
        let peer = self.peer_name(&known)?;
        let state = known.state();
        let own = self.store().settings()?.name;
        let direction = peer.clone().and_then(|peer| {
            if state.is_source() {
                Some((own.clone(), peer))
            } else if state.is_target() {
                Some((peer, own.clone()))
            } else {
                None
            }
        });
        let job = self.jobs().at_work_on(vm.group_id());
        let copying = job.as_ref().is_some_and(|job| matches!(job.kind, JobKind::Protect | JobKind::Resync));
        let mut situation = Situation {
            subject: vm.name(),
            state: Some(state),
            migrated: known.facts.migrated,
            job: job.map(|job| job.id),
            copying,
            direction,
            head: Some(vm.group()?.head()),
            peer,
            ..Situation::default()
        };
        situation.facts.writer = writer.or_else(|| self.writer_of(vm.id()));
        let connected = |peer| self.engine().is_some_and(|engine| engine.is_connected(peer));
        if situation.state != Some(State::Unprotected) && !known.peer.is_some_and(connected) {
            situation.facts.unreachable = situation.peer.clone();
        }
        // A peer that is paired and not there yet is waited for.
        if state == State::Unprotected && self.store().catalog().list::<Peer>()?.0.is_empty() {
            situation.facts.unregistered = Some(("the other site".to_owned(), "none".to_owned()));
        }
        situation.facts.test = known.test;
        situation.facts.migrated = known.facts.migrated;
        Ok(situation)
    }

    /// How the verbs of a VM would fare now.
    ///
    /// # Errors
    /// Those of [`Site::situation`].
    pub fn allowed(&self, vm: &Arc<Vm>, writer: Option<String>) -> Result<Vec<(Verb, Allowed)>> {
        Ok(allowed(Scope::Vm, &self.situation(vm, writer)?))
    }

    fn peer_name(&self, known: &Known) -> Result<Option<String>> {
        let Some(id) = known.peer else { return Ok(None) };
        let peer = self.store().catalog().get::<Peer>(&id.to_string())?;
        Ok(Some(peer.map_or_else(|| id.short(), |peer| peer.name)))
    }
}
