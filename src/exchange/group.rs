//! One group's side of the exchange with one peer: a step function from events to effects.
//!
//! 1. Nothing is acted on that was said in an earlier connection: all of it is forgotten at `Disconnected`.
//! 2. What a site may do as a source or as one that shall write follows from its durable roles and the peer's newest
//!    statement in this connection (`planned`), and is asked for again until the engine says that it is durable.
//! 3. A handover needs everything shipped: a copy frequency doesn't hold records back then.
//! 4. The peer is gone when nothing was heard of it for [`SILENCE_NS`].

use crate::exchange::effect::{Effect, Event, Local, Report, Ticket, Verdict};
use crate::exchange::meeting::{Meeting, Met, shipping};
use crate::exchange::message::{About, Descriptor, Roles, Standing};
use crate::exchange::rpo::{Rpo, SourceRpo, TargetRpo};
use crate::exchange::rules::Rules;
use crate::exchange::source::{Desk, Refusal, Source, send_ranges};
use crate::exchange::target::Target;
use crate::history::{Common, LineMarks, Outcome, SourcePhase};
use crate::vocab::{GroupId, Moment, StoreId, Token};

/// A source and a target say that they are there so often, ns.
pub const HEARTBEAT_NS: u64 = 1_000_000_000;
/// A peer of which nothing was heard for so long is gone, ns.
pub const SILENCE_NS: u64 = 10_000_000_000;

/// What doesn't change while a group has this peer.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The group.
    pub group: GroupId,
    /// This site.
    pub site: StoreId,
    /// The other one.
    pub peer: StoreId,
    /// Most bytes that may be unconfirmed at the target.
    pub window_bytes: u64,
    /// Most bytes of one range in a copy: not above the longest payload.
    pub fill_bytes: u64,
    /// How often to ship, ns; none: continuously.
    pub frequency_ns: Option<u64>,
}

mod heard;
mod upkeep;

enum Phase {
    Offline,
    Meeting(Box<Meeting>),
    Source(Box<Source>),
    Target(Box<Target>),
    /// Met, and nothing is shipped.
    Idle,
}

struct Connection {
    local: Box<Local>,
    peer: Option<Box<Descriptor>>,
    verdict: Option<Verdict>,
    /// The peer's newest statement of its roles.
    heard: Option<Roles>,
    heard_ns: u64,
    beat_ns: u64,
    /// When the oldest record behind the cursor was appended, by this clock.
    oldest_ns: u64,
    /// Number of the meeting, and a descriptor of a later one.
    meeting: u64,
    anew: Option<Box<Descriptor>>,
    peer_met: bool,
    marks: Option<LineMarks>,
    asked: Option<Asked>,
}

/// What the engine was asked for and has not answered with its roles.
#[derive(PartialEq, Eq)]
enum Asked {
    Source,
    Decide(Token),
}

/// One group's side of the exchange.
pub struct GroupLink {
    settings: Settings,
    rules: Rules,
    now_ns: u64,
    connections: u64,
    tickets: u64,
    phase: Phase,
    connection: Option<Connection>,
    due_ns: u64,
    rpo: SourceRpo,
    target_rpo: TargetRpo,
    held: bool,
}

impl GroupLink {
    /// A group that isn't connected yet.
    pub fn new(settings: Settings) -> Self {
        Self::with_rules(settings, Rules::ALL)
    }

    pub(crate) fn with_rules(settings: Settings, rules: Rules) -> Self {
        Self {
            settings,
            rules,
            now_ns: 0,
            connections: 0,
            tickets: 0,
            phase: Phase::Offline,
            connection: None,
            due_ns: 0,
            rpo: SourceRpo::default(),
            target_rpo: TargetRpo::default(),
            held: false,
        }
    }

    /// While it is held nothing is shipped, in this connection and in later ones (A9 of `source`). What was asked for
    /// before still goes.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
        if let (Phase::Source(source), Some(connection)) = (&mut self.phase, &self.connection) {
            source.held = is_held(held, connection);
        }
    }

    /// The recovery point objective as this site sees it at this time.
    pub fn rpo(&self, now_ns: u64) -> Rpo {
        match self.phase {
            Phase::Target(_) => self.target_rpo.value(now_ns),
            Phase::Source(_) => self.rpo.value(now_ns),
            _ if self.rpo.holds().is_some() => self.rpo.value(now_ns),
            _ => self.target_rpo.value(now_ns),
        }
    }

    /// The moment below which base and floor of every disk must stay for the copy under way.
    pub fn pinned(&self) -> Option<Moment> {
        if let Phase::Source(source) = &self.phase { source.pinned() } else { None }
    }

    /// Bytes that were sent and not confirmed.
    pub fn flying_bytes(&self) -> u64 {
        if let Phase::Source(source) = &self.phase { source.flying_bytes() } else { 0 }
    }

    /// The first record that the peer lacks was appended at this monotonic time, ns.
    pub fn backlog_since(&mut self, oldest_ns: u64) {
        if let Some(connection) = &mut self.connection {
            connection.oldest_ns = connection.oldest_ns.min(oldest_ns);
        }
    }

    /// Bytes that a copy under way has still to fill, if there is one.
    pub fn copy_left(&self) -> Option<u64> {
        if let Phase::Source(source) = &self.phase { source.copy_left() } else { None }
    }

    /// What the connection came to, if there is one.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.connection.as_ref()?.verdict.as_ref()
    }

    /// Whether records are shipped to the peer now, on the line.
    pub fn is_shipping(&self) -> bool {
        if let Phase::Source(source) = &self.phase { source.is_shipping() } else { false }
    }

    /// Where the source said it stands, at a target.
    pub fn source_standing(&self) -> Option<Standing> {
        if let Phase::Target(target) = &self.phase { target.standing() } else { None }
    }

    /// The next step. Effects are to be carried out in their order.
    pub fn step(&mut self, now_ns: u64, event: Event) -> Vec<Effect> {
        self.now_ns = self.now_ns.max(now_ns);
        let mut out = Vec::new();
        if let Err((name, text)) = self.handle(event, &mut out) {
            out.push(Effect::Close { name, text });
            self.disconnected();
        }
        self.upkeep(&mut out);
        out
    }

    fn handle(&mut self, event: Event, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        match event {
            Event::Connected(local) => return self.connected(local, out),
            Event::Disconnected => self.disconnected(),
            Event::Received(frame) => return self.received(frame, out),
            Event::Timer => return self.timer(out),
            Event::Progress(standing) => self.progress(standing, out),
            Event::Frequency(every) => {
                self.settings.frequency_ns = every;
                self.due_ns = self.now_ns;
                self.ship(out);
            }
            Event::Roles(roles) => {
                if let Some(connection) = &mut self.connection {
                    if let SourcePhase::Handed { op, .. } = roles.source {
                        connection.local.handed.insert(op);
                    }
                    connection.local.roles = roles.clone();
                    connection.asked = None;
                    out.push(Effect::say(self.settings.group, About::Roles(roles)));
                    self.ship(out);
                }
            }
            Event::Deferred(op) => {
                if let Some(connection) = &mut self.connection {
                    // As one that was handed over for already: it isn't asked for again in this connection.
                    connection.local.handed.insert(op);
                    connection.asked = None;
                }
            }
            Event::Points(points) => self.say_to_peer(About::Points(points), out),
            Event::Notices(notices) => self.say_to_peer(About::Notices { notices }, out),
            Event::Say(about) => self.say_to_peer(about, out),
            Event::Oldest(moment) => {
                if let Some(connection) = &mut self.connection {
                    connection.local.oldest = Some(moment);
                }
            }
            Event::StopReceiving => {
                if let Phase::Target(target) = &mut self.phase {
                    target.stop();
                }
            }
            answer => return self.answer(answer, out),
        }
        Ok(())
    }

    fn say_to_peer(&self, about: About, out: &mut Vec<Effect>) {
        if self.connection.as_ref().is_some_and(|c| c.verdict.is_some()) {
            out.push(Effect::say(self.settings.group, about));
        }
    }

    /// A new connection, or a new meeting in the same one.
    fn connected(&mut self, local: Box<Local>, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        self.connections += 1;
        let Settings { group, site, peer, .. } = self.settings;
        let before = self.connection.take();
        let oldest_ns = self.now_ns.saturating_sub(local.backlog_age_ns);
        let anew = before.as_ref().and_then(|c| c.anew.clone());
        let number = before.as_ref().map_or(1, |c| c.meeting + 1);
        let meeting = anew.as_ref().map_or(number, |d| d.meeting);
        self.phase = Phase::Meeting(Box::new(Meeting::new(group, (site, peer), &local, meeting, out)));
        self.connection = Some(Connection {
            local,
            peer: None,
            verdict: None,
            heard: None,
            heard_ns: before.as_ref().map_or(self.now_ns, |c| c.heard_ns),
            beat_ns: self.now_ns + HEARTBEAT_NS,
            oldest_ns,
            meeting,
            anew: None,
            peer_met: false,
            marks: None,
            asked: None,
        });
        anew.map_or(Ok(()), |descriptor| self.meet(About::Descriptor(descriptor), out))
    }

    fn disconnected(&mut self) {
        self.phase = Phase::Offline;
        self.connection = None;
        self.rpo.disconnected();
        self.target_rpo.disconnected();
    }

    /// Splits what a step of source or target needs.
    fn desk<'a>(
        tickets: &'a mut u64,
        connection: u64,
        out: &'a mut Vec<Effect>,
        act: impl FnOnce(&mut Desk<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut next = || {
            *tickets += 1;
            Ticket { connection, number: *tickets }
        };
        act(&mut Desk { out, tickets: &mut next })
    }

    fn meet(&mut self, about: About, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        if let (About::Descriptor(descriptor), Some(connection)) = (&about, &mut self.connection) {
            connection.heard = Some(descriptor.roles.clone());
            connection.peer = Some(descriptor.clone());
        }
        self.with_meeting(out, |meeting, local, ticket, out| meeting.heard(about, local, ticket, out))
    }

    fn with_meeting(
        &mut self,
        out: &mut Vec<Effect>,
        act: impl FnOnce(
            &mut Meeting,
            &mut Local,
            &mut dyn FnMut() -> Ticket,
            &mut Vec<Effect>,
        ) -> Result<Met, Refusal>,
    ) -> Result<(), Refusal> {
        let (Phase::Meeting(meeting), Some(connection)) = (&mut self.phase, &mut self.connection) else {
            return Err(("protocol-error", "the peer sent a message out of turn".into()));
        };
        let number = self.connections;
        let tickets = &mut self.tickets;
        let mut ticket = || {
            *tickets += 1;
            Ticket { connection: number, number: *tickets }
        };
        match act(meeting, &mut connection.local, &mut ticket, out)? {
            Met::NotYet => Ok(()),
            Met::Verdict(verdict) => self.met(verdict, out),
        }
    }

    /// The verdict: who ships to whom from here on.
    fn met(&mut self, verdict: Verdict, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        let Settings { group, site, peer: peer_site, window_bytes, fill_bytes, .. } = self.settings;
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let Some(peer) = &connection.peer else { return Ok(()) };
        out.push(Effect::Met(Box::new(verdict.clone()), peer.clone()));
        if !peer.notices.is_empty() {
            out.push(Effect::Notices(peer.notices.clone()));
        }
        out.push(Effect::say(group, About::Points(connection.local.points.clone())));
        out.push(Effect::say(group, About::Met));
        connection.verdict = Some(verdict.clone());
        if let Phase::Meeting(meeting) = &mut self.phase {
            // The peer may still search when this side is done.
            connection.marks = meeting.take_marks();
        }
        let local = &connection.local;
        let follows = |id| if id == site { local.follows } else { id == peer_site && peer.follows };
        let ships = match &verdict {
            Verdict::InitialCopy { source } => Some((*source, false)),
            verdict => shipping(verdict, follows),
        };
        let Some((source_site, _)) = ships else {
            self.phase = Phase::Idle;
            return Ok(());
        };
        if source_site != site {
            let target = Target::new(group, self.rules, local);
            self.phase = Phase::Target(Box::new(target));
            return Ok(());
        }
        let held = peer.head.map(|(m, _)| m);
        if let (Some(acknowledged), Some(head)) = (local.cursor, held)
            && head.seq < acknowledged.seq
            && local.table.is_on_line(acknowledged, local.standing.head).unwrap_or(false)
        {
            out.push(Effect::Report(Report::TargetRewound { acknowledged, head }));
        }
        // A target that went back below the cursor: how old what it lacks is, nobody here knows.
        let behind = local.cursor.map(|m| m.seq) <= held.map(|m| m.seq);
        let oldest_ns = if behind { connection.oldest_ns } else { 0 };
        if self.rpo.holds().is_none() || held.map(|m| m.seq) < self.rpo.holds() {
            self.rpo.reset(held.map(|m| m.seq), local.standing.head.seq, oldest_ns);
        }
        self.rpo.confirmed(held.map(|m| m.seq), self.now_ns);
        let mut source = Source::new(
            group,
            self.rules,
            (window_bytes, fill_bytes),
            local.standing,
            peer.head,
            peer.copy.clone(),
        );
        source.lag_ns = self.rpo.lag_ns(self.now_ns);
        source.held = is_held(self.held, connection);
        self.phase = Phase::Source(Box::new(source));
        self.due_ns = self.due_ns.max(self.now_ns + self.settings.frequency_ns.unwrap_or(0));
        self.begin(out)
    }

    /// The source begins when both sides have come to their verdict.
    fn begin(&mut self, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        let (Phase::Source(source), Some(connection)) = (&mut self.phase, &self.connection) else {
            return Ok(());
        };
        let Some(verdict) = connection.verdict.as_ref().filter(|_| connection.peer_met) else {
            return Ok(());
        };
        let table = &connection.local.table;
        Self::desk(&mut self.tickets, self.connections, out, |desk| {
            source.begin(by_records(verdict), common_of(verdict), table, desk);
            Ok(())
        })
    }

    fn progress(&mut self, standing: Standing, out: &mut Vec<Effect>) {
        self.rpo.appended(standing.head.seq, self.now_ns);
        if let Some(connection) = &mut self.connection {
            connection.local.standing = standing;
        }
        self.ship(out);
    }

    /// Ships what may be shipped now.
    fn ship(&mut self, out: &mut Vec<Effect>) {
        let (Phase::Source(source), Some(connection)) = (&mut self.phase, &self.connection) else { return };
        // Invariant 3.
        let handed = matches!(connection.local.roles.source, SourcePhase::Handed { .. });
        let due = match self.settings.frequency_ns {
            Some(_) if !handed && self.now_ns < self.due_ns => false,
            Some(every) => {
                self.due_ns = self.now_ns + every;
                true
            }
            None => true,
        };
        source.lag_ns = self.rpo.lag_ns(self.now_ns);
        source.held = is_held(self.held, connection);
        let standing = connection.local.standing;
        let number = self.connections;
        let _ = Self::desk(&mut self.tickets, number, out, |desk| {
            source.progress(standing, due, desk);
            Ok(())
        });
    }

    fn timer(&mut self, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        if self.now_ns >= connection.heard_ns + SILENCE_NS {
            return Err(("no-contact", "nothing was heard of the peer for 10 s".into()));
        }
        if self.now_ns >= connection.beat_ns {
            connection.beat_ns = self.now_ns + HEARTBEAT_NS;
            let about = match &self.phase {
                Phase::Source(_) => {
                    let lag_ns = self.rpo.lag_ns(self.now_ns);
                    About::Standing(Standing { lag_ns, ..connection.local.standing })
                }
                _ => About::Alive { oldest: connection.local.oldest },
            };
            if connection.verdict.is_some() {
                out.push(Effect::say(self.settings.group, about));
            }
        }
        if self.settings.frequency_ns.is_some() && self.now_ns >= self.due_ns {
            self.ship(out);
        }
        Ok(())
    }

    /// Answers of the engine; those of an earlier connection are passed over.
    fn answer(&mut self, event: Event, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        use Event::{
            Appended, ChainRead, CopyPlanned, FillRead, JumpPublished, MarksRead, RangesRead, RecordsRead,
            RowsStored, SizesRead, SkipPlanned,
        };
        let ticket = match &event {
            RowsStored(t) | MarksRead(t, _) | RecordsRead(t, _) | FillRead(t, _) | ChainRead(t, _) => *t,
            SizesRead(t, _) | CopyPlanned(t, _) | SkipPlanned(t, ..) | RangesRead(t, _) | Appended(t) => *t,
            JumpPublished(t) => *t,
            _ => return Ok(()),
        };
        let Some(connection) = self.connection.as_ref().filter(|_| ticket.connection == self.connections)
        else {
            return Ok(());
        };
        let again = match &connection.verdict {
            Some(verdict) => (by_records(verdict), common_of(verdict)),
            None => (false, None),
        };
        match (event, &mut self.phase) {
            (RowsStored(stored), Phase::Meeting(_)) => self
                .with_meeting(out, |meeting, local, ticket, out| meeting.stored(stored, local, ticket, out)),
            (MarksRead(_, marks), Phase::Meeting(_)) => {
                self.with_meeting(out, |meeting, local, _, out| meeting.marks_read(marks, local, out))
            }
            (RangesRead(_, ranges), _) => {
                send_ranges(self.settings.group, &ranges, out);
                Ok(())
            }
            (event, Phase::Source(source)) => {
                source.lag_ns = self.rpo.lag_ns(self.now_ns);
                Self::desk(&mut self.tickets, ticket.connection, out, |desk| {
                    match event {
                        RecordsRead(t, found) => source.records_read(t, found, desk),
                        FillRead(t, read) => source.fill_read(t, read, desk),
                        ChainRead(t, chain) => source.chain_read(t, chain, again, desk),
                        SizesRead(t, disks) => source.sizes_read(t, disks, desk),
                        CopyPlanned(t, planned) => source.planned(t, *planned, desk),
                        SkipPlanned(t, to, chain, ranges) => source.skip_planned(t, to, chain, ranges, desk),
                        _ => {}
                    }
                    Ok(())
                })
            }
            (event, Phase::Target(target)) => Self::desk(&mut self.tickets, ticket.connection, out, |desk| {
                match event {
                    Appended(t) => target.appended(t, desk),
                    JumpPublished(t) => target.published(t, desk),
                    _ => {}
                }
                Ok(())
            }),
            _ => Ok(()),
        }
    }
}

/// A handover is waited for: it ships what it needs (invariant 3).
fn is_held(held: bool, connection: &Connection) -> bool {
    held && !matches!(connection.local.roles.source, SourcePhase::Handed { .. })
}

fn common_of(verdict: &Verdict) -> Option<Common> {
    if let Verdict::Decided(_, common) = verdict { Some(*common) } else { None }
}

fn by_records(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Decided(Outcome::Follow { by_records, .. }, _) => *by_records,
        Verdict::Decided(Outcome::Yield { nothing_lost, .. }, _) => *nothing_lost,
        _ => false,
    }
}

#[cfg(test)]
impl GroupLink {
    /// How often it ships.
    pub(crate) fn frequency(&self) -> Option<u64> {
        self.settings.frequency_ns
    }

    /// What the target has confirmed, as far as this site has heard.
    pub(crate) fn confirmed(&self) -> Option<crate::vocab::Seq> {
        self.rpo.holds()
    }

    /// What a source that didn't ask would believe of the target's staging.
    pub(crate) fn remembered(&self) -> Option<(crate::exchange::CopyStatement, crate::exchange::RangeSet)> {
        if let Phase::Source(source) = &self.phase { source.remembered() } else { None }
    }
}
