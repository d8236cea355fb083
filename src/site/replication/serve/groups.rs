//! What both sites say of a group before or beside its sides: requests for standbys, notices, what commands changed.

use super::Talk;
use crate::exchange::{About, Control, Frame};
use crate::group::NO_SPACE;
use crate::history::Event;
use crate::protection::{Flags, Role, State, Writer};
use crate::site::replication::{GroupSlot, Relation, ended, join, takeover};
use crate::vocab::{GroupId, Kind, Result, Token};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The answer to what is said of a group that isn't there.
const UNKNOWN: &str = "unknown-group";

impl Talk<'_> {
    /// What kind of operation this site asks for, before its roles ask for it.
    pub(super) fn say_intent(&mut self, slot: &GroupSlot) -> Result<()> {
        let Some(intent) = takeover::standing_intent(slot) else { return Ok(()) };
        self.say(&Frame::about(slot.id(), About::Notices { notices: vec![intent] }))
    }

    /// What a side has to know of the state.
    pub(super) fn flags(&self, slot: &GroupSlot) -> Result<Flags> {
        self.look_at_line(slot)?;
        Ok(slot.vm.known()?.flags)
    }

    /// Whether the line `protected` is due once the peer follows.
    pub(super) fn look_at_line(&self, slot: &GroupSlot) -> Result<()> {
        let known = slot.vm.known()?;
        let decided = known.facts.role == Role::Source && known.facts.writer != Writer::Original;
        slot.unsettled.store(decided || known.state() == State::Resyncing, Ordering::Release);
        Ok(())
    }

    /// A command has changed what a group is, or an operation.
    pub(super) fn changed(&mut self, slot: &Arc<GroupSlot>) -> Result<()> {
        let (renew, roles, permit, gone) = {
            let mut running = slot.running.lock();
            if running.is_stalled(self.hub.now_ns()) && !running.gone {
                return Ok(()); // V3 of `serve`
            }
            running.stalled_ns = None;
            let renew = std::mem::take(&mut running.renew);
            let roles = std::mem::take(&mut running.roles);
            (renew, roles, running.permit.take(), running.gone)
        };
        if gone {
            self.groups.remove(&slot.id());
            self.asked.remove(&slot.id());
            return Ok(());
        }
        if let Some((op, stopped)) = permit {
            self.step(slot, |side, now| side.hand_over(now, op, stopped))?;
        }
        if renew {
            let asked = self.asked.contains(&slot.id());
            match Relation::of_group(&slot.group(), self.peer.store) {
                // It begins with the peer's answer.
                Relation::Joining { .. } => {}
                Relation::Source | Relation::Target if asked => {}
                Relation::Source | Relation::Target => {
                    self.say_intent(slot)?;
                    let flags = self.flags(slot)?;
                    self.step(slot, |side, now| {
                        side.hold(flags.paused);
                        side.connected(now)
                    })?;
                }
                Relation::None | Relation::Ended { .. } => {
                    self.asked.remove(&slot.id());
                    self.begin_group(slot, self.groups.len())?;
                }
            }
        } else if roles {
            self.say_intent(slot)?;
            self.step(slot, |side, now| side.roles_changed(now))?;
        }
        Ok(())
    }

    /// Lines of the peer's history that concern this site.
    pub(super) fn noticed(&mut self, group: GroupId, notices: Vec<Event>) -> Result<()> {
        for notice in notices {
            match notice {
                Event::Intent { op, operation, .. } => {
                    if let Some(slot) = self.groups.get(&group) {
                        slot.asked.lock().kinds.insert(op, operation);
                    }
                }
                Event::Unprotected { op, delete, .. } => {
                    // A source stays among the groups of this connection: it may be asked to end the protection, too.
                    if self.hub.peer_ended(&self.peer, group, op, delete)? {
                        self.say(&ended::heard(group, op))?;
                    } else {
                        self.unheard.push((group, notice));
                    }
                }
                Event::UnprotectHeard { op } => {
                    if let Some(slot) = self.groups.get(&group).cloned() {
                        self.hub.peer_heard(&slot, op)?;
                    }
                }
                other => tracing::debug!(%group, ?other, "a notice that this version doesn't know"),
            }
        }
        Ok(())
    }

    /// The peer speaks of a group that isn't shared with it. If there is no such group at all it is told so.
    pub(super) fn unknown(&mut self, group: GroupId, frame: &Frame) -> Result<()> {
        let Frame::Control(Control::Group { about, .. }) = frame else { return Ok(()) };
        if !matches!(**about, About::Descriptor(_)) {
            return Ok(());
        }
        if self.hub.site()?.vms().iter().any(|vm| vm.group_id() == group) {
            return Ok(());
        }
        let text = "there is no copy of this group here".to_owned();
        let declined = About::Declined { op: Token::NONE, name: UNKNOWN.into(), text };
        self.say(&Frame::about(group, declined))
    }

    /// The peer asks for a standby here.
    pub(super) fn asked(&mut self, group: GroupId, join: &crate::exchange::Join) -> Result<()> {
        let op = join.op;
        let slot = match join::admit(self.hub, &self.peer, group, join) {
            Ok(slot) => slot,
            Err(error) => {
                self.hub.tell(Some(&join.name), format!("{} was refused a standby: {error}", self.peer.name));
                let name = error.name().unwrap_or(match error.kind() {
                    Kind::NoSpace => "no-space",
                    Kind::Invalid => "invalid",
                    _ => "peer-refused",
                });
                let text = error.to_string();
                let declined = About::Declined { op, name: name.into(), text };
                return self.say(&Frame::about(group, declined));
            }
        };
        self.say(&Frame::about(group, About::Joined { op }))?;
        self.hub.start_side(&slot, self.groups.len() + 1);
        self.begin_side(&slot)
    }

    /// V2.
    pub(super) fn joined(&mut self, group: GroupId, op: Token) -> Result<()> {
        let Some(slot) = self.groups.get(&group).cloned() else { return Ok(()) };
        {
            // Held, so that a command that gives up meanwhile finds the side and ends it.
            let joining = slot.joining.lock();
            if *joining != Some(op) {
                return Ok(());
            }
            self.hub.start_side(&slot, self.groups.len());
        }
        self.begin_side(&slot)?;
        if let Some(answer) = self.answers.remove(&op) {
            let _ = answer.send(join::Answered::Joined);
        }
        Ok(())
    }

    pub(super) fn declined(&mut self, group: GroupId, op: Token, name: &str, text: &str) -> Result<()> {
        if self.hub.scrubbed(op, Err(text.to_owned())) {
            return Ok(());
        }
        let Some(slot) = self.groups.get(&group).cloned() else { return Ok(()) };
        if *slot.joining.lock() != Some(op) {
            if name == UNKNOWN && Relation::of_group(&slot.group(), self.peer.store) == Relation::Source {
                return self.hub.target_gone(&self.peer, &slot.vm);
            }
            if name == NO_SPACE && op == Token::NONE {
                slot.running.lock().peer_full = Some((self.hub.now_ns(), text.to_owned()));
                return Ok(());
            }
            slot.asked.lock().declined.insert(op, (name.to_owned(), text.to_owned()));
            return Ok(());
        }
        // The command that waits undoes its intent itself.
        match self.answers.remove(&op) {
            Some(answer) => {
                let _ =
                    answer.send(join::Answered::Declined { name: name.to_owned(), text: text.to_owned() });
            }
            None => {
                self.hub.tell(Some(&slot.vm.name()), format!("no standby at {}: {text}", self.peer.name));
                join::give_up(self.hub, &slot, op, false).map(|_| ())?;
            }
        }
        Ok(())
    }
}
