//! What the peer says: which messages belong to the meeting under way, and who gets them.

use super::{GroupLink, Phase};
use crate::exchange::effect::{Effect, Ticket};
use crate::exchange::meeting::rows_after;
use crate::exchange::message::{About, Control, Frame};
use crate::exchange::source::Refusal;

impl GroupLink {
    /// Whether a message belongs to the meeting under way. Between this side's descriptor and the peer's, everything
    /// is of the meeting before.
    pub(super) fn is_current(&mut self, frame: &Frame, out: &mut Vec<Effect>) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let new = matches!(&self.phase, Phase::Meeting(meeting) if meeting.is_new());
        if let Frame::Control(Control::Group { about, .. }) = frame
            && let About::Descriptor(descriptor) = &**about
        {
            if descriptor.meeting > connection.meeting {
                // The newest one counts; the engine is asked once.
                if connection.anew.replace(descriptor.clone()).is_none() {
                    out.push(Effect::MeetAnew);
                }
                self.phase = Phase::Idle;
                connection.verdict = None;
                return false;
            }
            return new && descriptor.meeting == connection.meeting;
        }
        !new && connection.anew.is_none()
    }

    pub(super) fn received(&mut self, frame: Frame, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        connection.heard_ns = self.now_ns;
        if !self.is_current(&frame, out) {
            return Ok(());
        }
        let number = self.connections;
        match (frame, &mut self.phase) {
            (Frame::Control(Control::Group { about, .. }), _) => self.about(*about, out),
            (Frame::Data(data), Phase::Target(target)) => {
                self.target_rpo.stated(data.standing.lag_ns, self.now_ns);
                Self::desk(&mut self.tickets, number, out, |desk| target.data(data, desk))
            }
            (Frame::Fill(fill), Phase::Target(target)) => {
                Self::desk(&mut self.tickets, number, out, |desk| target.fill(fill, desk))
            }
            _ => Err(("protocol-error", "the peer sent records to a site that doesn't follow it".into())),
        }
    }

    fn about(&mut self, about: About, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let group = self.settings.group;
        let number = self.connections;
        match about {
            About::AskRows { after } => {
                out.push(Effect::say(group, rows_after(&connection.local.table, after)))
            }
            About::Alive { oldest } => {
                self.rpo.confirmed(None, self.now_ns);
                out.extend(oldest.map(Effect::PeerOldest));
            }
            About::Met => {
                connection.peer_met = true;
                return self.begin(out);
            }
            About::AskMarks(question) if connection.marks.is_some() => {
                let answer = connection.marks.as_ref().map(|m| m.answer(&question));
                out.extend(answer.map(|a| Effect::say(group, About::Marks(a))));
            }
            About::Standing(standing) => self.target_rpo.stated(standing.lag_ns, self.now_ns),
            About::Roles(roles) => {
                connection.heard = Some(roles.clone());
                if let Some(row) =
                    roles.decision.clone().filter(|r| connection.local.table.row(r.epoch).is_none())
                {
                    self.tickets += 1;
                    out.push(Effect::StoreRows(
                        Ticket { connection: number, number: self.tickets },
                        vec![row],
                        vec![],
                    ));
                }
                out.push(Effect::PeerRoles(roles));
            }
            About::Points(points) => out.push(Effect::Points(points)),
            About::Notices { notices } => out.push(Effect::Notices(notices)),
            About::Join(join) => out.push(Effect::Join(join)),
            About::AskScrub(scrub) => out.push(Effect::Scrub(scrub)),
            answer @ (About::Joined { .. } | About::Declined { .. } | About::Scrubbed { .. }) => {
                out.push(Effect::Answer(answer));
            }
            meeting @ (About::Descriptor(_) | About::Rows { .. } | About::AskMarks(_) | About::Marks(_)) => {
                return self.meet(meeting, out);
            }
            About::AskRanges { after } => {
                self.tickets += 1;
                out.push(Effect::ReadRanges(Ticket { connection: number, number: self.tickets }, after));
            }
            About::Ack { frames, moment, chain } => {
                let Phase::Source(source) = &mut self.phase else {
                    return Err(("protocol-error", "the peer confirmed what wasn't sent".into()));
                };
                let mut held = None;
                Self::desk(&mut self.tickets, number, out, |desk| {
                    held = source.acked(frames, moment, chain, desk)?;
                    Ok(())
                })?;
                self.rpo.confirmed(held.map(|m| m.seq), self.now_ns);
            }
            About::Ranges { ranges, more } if matches!(self.phase, Phase::Source(_)) => {
                if let Phase::Source(source) = &mut self.phase {
                    return Self::desk(&mut self.tickets, number, out, |desk| {
                        source.ranges(&ranges, more, desk);
                        Ok(())
                    });
                }
            }
            About::Published { to, .. } => {
                let Phase::Source(source) = &mut self.phase else {
                    return Err(("protocol-error", "the peer published what wasn't sent".into()));
                };
                Self::desk(&mut self.tickets, number, out, |desk| source.published(to, desk))?;
                self.rpo.confirmed(Some(to.seq), self.now_ns);
            }
            copy => {
                let Phase::Target(target) = &mut self.phase else {
                    return Err((
                        "protocol-error",
                        "the peer speaks of a copy to a site that doesn't follow".into(),
                    ));
                };
                return Self::desk(&mut self.tickets, number, out, |desk| target.copy(copy, desk));
            }
        }
        Ok(())
    }
}
