//! Drives one group's side of the exchange with one peer: carries out effects on the group and answers them.
//!
//! D1. Effects are carried out in their order, on the calling thread; each answer is stepped before the next effect.
//! D2. What was begun in a connection is finished before the next one begins: nothing here goes on by itself.
//! D3. A source ships only what is durable; the base stays at or below what the peer has acknowledged, and at or
//!     below the cursor of a copy, as long as there is room for that (Q6 of `backlog`).

use crate::exchange::{
    About, Control, Effect, Event, Found, Frame, GroupLink, Join, Local, Plan, Planned, RangeSet, Report,
    Rpo, Scrub, Settings, Standing, Verdict,
};
use crate::group::chain::At;
use crate::group::copy::Copying;
use crate::group::queue::Gate;
use crate::group::{DriverState, Group, left_out};
use crate::history::{ChainValue, Event as Line, JumpReason, SourceStep};
use crate::vocab::{EpochId, Error, Kind, Moment, Result, StoreId, Token};
use std::collections::VecDeque;
use std::sync::Arc;

/// A copy is made durable after so many bytes.
const COPY_SYNC_BYTES: u64 = 16 << 20;

/// The name of [`Output::Close`] where there is no room for what came.
pub const NO_SPACE: &str = "no-space";

/// What the caller has to do.
#[derive(Debug)]
pub enum Output {
    /// Send this.
    Send(Frame),
    /// Call [`Driver::timer`] at this monotonic time, ns.
    Timer(u64),
    /// The peer wants this group to have its standby here.
    Join(Box<Join>),
    /// An answer of the peer to a request of this site.
    Answer(About),
    /// The peer wants to write: stop the VM, then say so with [`Driver::hand_over`].
    HandOver(Token),
    /// An unplanned failover can be decided: the source writes no more, and all that it wrote is held.
    MayDecide(Token),
    /// The peer asks for a hash.
    Scrub(Scrub),
    /// For the log and for health.
    Report(Report),
    /// What the connection has come to.
    Met(Box<Verdict>),
    /// Close the connection.
    Close {
        /// A name that the documentation has.
        name: &'static str,
        /// One sentence.
        text: String,
    },
}

/// One group, one peer.
pub struct Driver {
    pub(super) group: Arc<Group>,
    link: GroupLink,
    todo: VecDeque<Effect>,
    copy: Option<Copying>,
    waiting: Vec<crate::exchange::Ticket>,
    /// What the peer's line has, by its word.
    pub(super) cursor: Option<Moment>,
    /// What it has staged of a copy since.
    pub(super) staged: Option<Moment>,
    durable: Moment,
    shipped: Option<At>,
    met: bool,
    linked: bool,
    /// The epoch that this site was in when it last said what it is.
    said: EpochId,
    pub(super) peer_writes: Option<bool>,
    pub(super) peer_fenced: bool,
    /// Where the source stopped for a handover, by its word.
    pub(super) stopped_at: Option<Moment>,
}

impl Driver {
    /// A group that isn't connected yet.
    pub fn new(group: Arc<Group>, settings: Settings) -> Self {
        let link = GroupLink::new(settings);
        Self {
            group,
            link,
            todo: VecDeque::new(),
            copy: None,
            waiting: Vec::new(),
            cursor: None,
            staged: None,
            durable: Moment::default(),
            shipped: None,
            met: false,
            linked: false,
            said: EpochId::NONE,
            peer_writes: None,
            peer_fenced: false,
            stopped_at: None,
        }
    }

    /// The settings that suit most groups.
    pub fn settings(group: &Group, peer: StoreId, frequency_ns: Option<u64>) -> Settings {
        Settings {
            group: group.id(),
            site: group.parts.store_id,
            peer,
            window_bytes: 8 << 20,
            fill_bytes: 1 << 20,
            frequency_ns,
        }
    }

    /// The session with the peer is ready.
    pub fn connected(&mut self, now_ns: u64) -> Vec<Output> {
        self.shipped = None;
        self.waiting.clear();
        self.linked = true;
        match self.local() {
            Ok(local) => self.step(now_ns, Event::Connected(Box::new(local))),
            Err(e) => vec![closed(&e)],
        }
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now_ns: u64) -> Vec<Output> {
        self.met = false;
        (self.peer_writes, self.stopped_at) = (None, None);
        self.linked = false;
        self.todo.clear();
        self.waiting.clear();
        // What came so far needs not come again, if it is durable; its file says what is.
        let _ = self.sync_copy();
        self.step(now_ns, Event::Disconnected)
    }

    /// What came can't be taken for want of room: it is forgotten, as is what was asked for. Both sites meet anew in this
    /// connection once [`Driver::connected`] says so again.
    pub fn stall(&mut self) {
        self.todo.clear();
        self.waiting.clear();
        let _ = self.sync_copy();
    }

    /// The group was opened anew in the place of the one that this side drove (W3 of `mend`). In a connection both
    /// sites meet anew: the old group's records and what was on its way to them say nothing of this one.
    pub fn reopened(&mut self, now_ns: u64, group: Arc<Group>) -> Vec<Output> {
        self.group = group;
        self.copy = None;
        self.todo.clear();
        self.met = false;
        self.group.set_pin(self.pin());
        if self.linked { self.connected(now_ns) } else { Vec::new() }
    }

    /// A frame about this group arrived.
    pub fn received(&mut self, now_ns: u64, frame: Frame) -> Vec<Output> {
        let mut out = if self.linked && self.began_unsaid() { self.connected(now_ns) } else { Vec::new() };
        self.note_backlog(now_ns, &frame);
        out.extend(self.step(now_ns, Event::Received(frame)));
        out
    }

    /// How old the first record is that the peer lacks. By this site's wall clock alone: a new process has no other.
    fn note_backlog(&mut self, now_ns: u64, frame: &Frame) {
        let Frame::Control(Control::Group { about, .. }) = frame else { return };
        let About::Descriptor(descriptor) = &**about else { return };
        let Some((held, _)) = descriptor.head else { return };
        let Some(first) = self.group.first_lacking(held).transpose() else { return };
        let wall = self.group.parts.clock.wall_ns();
        let time = first.and_then(|first| Ok((first, self.group.time_of(first)?)));
        if !matches!(time, Ok((_, Some(_)))) {
            // Not held any more, most likely: older than anything that is.
            let head = self.group.head();
            tracing::warn!(
                "how old what the peer lacks is can't be told ({time:?}); the head is {head}, it holds {held}"
            );
        }
        let time = time.ok().and_then(|(_, time)| time);
        let age = time.map_or(now_ns, |time| wall.saturating_sub(time).max(0) as u64);
        self.link.backlog_since(now_ns.saturating_sub(age));
    }

    /// This site has begun an epoch that the peer has not heard of in this connection.
    fn began_unsaid(&self) -> bool {
        matches!(self.group.gate(), Gate::Open { .. }) && self.group.head().epoch != self.said
    }

    /// The time of the last [`Output::Timer`] has come.
    pub fn timer(&mut self, now_ns: u64) -> Vec<Output> {
        self.step(now_ns, Event::Timer)
    }

    /// Ships what is durable and finishes what waits for a sync; to be called every 20 ms or so while connected.
    pub fn progress(&mut self, now_ns: u64) -> Vec<Output> {
        let mut out = match self.flush_copy() {
            Ok(events) => events.into_iter().flat_map(|e| self.step(now_ns, e)).collect(),
            Err(e) => vec![closed(&e)],
        };
        if self.linked && self.began_unsaid() {
            // A new epoch of this site: both sides meet anew, so that the peer has its row before its records.
            out.extend(self.connected(now_ns));
        } else if self.met {
            let standing = self.standing();
            out.extend(self.step(now_ns, Event::Progress(standing)));
        }
        self.group.set_pin(self.pin());
        out
    }

    /// Says something to the peer about this group.
    pub fn say(&mut self, now_ns: u64, about: About) -> Vec<Output> {
        self.step(now_ns, Event::Say(about))
    }

    /// Answer to [`Output::HandOver`]: the VM doesn't run any more, or (`Err`, for the peer) it can't be stopped.
    pub fn hand_over(&mut self, now_ns: u64, op: Token, stopped: Result<()>) -> Vec<Output> {
        let event = match stopped {
            Ok(()) => match self.source_step(SourceStep::Handover { op }) {
                Ok(()) => Event::Roles(self.roles()),
                Err(e) => return vec![closed(&e)],
            },
            Err(_) => Event::Deferred(op),
        };
        let mut out = self.step(now_ns, event);
        if let Err(e) = stopped {
            let name = e.name().unwrap_or("writers-open").to_owned();
            out.extend(self.say(now_ns, About::Declined { op, name, text: e.to_string() }));
        }
        out
    }

    /// While it is held nothing new is shipped.
    pub fn hold(&mut self, held: bool) {
        self.link.hold(held);
    }

    /// This site's roles have changed: a line of the history was written.
    pub fn roles_changed(&mut self, now_ns: u64) -> Vec<Output> {
        let roles = self.roles();
        self.step(now_ns, Event::Roles(roles))
    }

    /// The recovery point objective as this site sees it.
    pub fn rpo(&self, now_ns: u64) -> Rpo {
        self.link.rpo(now_ns)
    }

    /// Where it stands.
    pub fn state(&self) -> DriverState {
        DriverState {
            met: self.met,
            shipping: self.link.is_shipping(),
            acknowledged: self.cursor,
            flying_bytes: self.link.flying_bytes(),
            copying: self.copy.is_some() || self.link.pinned().is_some(),
            copy_left: self.link.copy_left(),
            peer_writes: self.peer_writes,
            peer_fenced: self.peer_fenced,
            source_head: self.stopped_at.or(self.link.source_standing().map(|standing| standing.head)),
        }
    }

    /// The moment that the base must not pass (D3).
    fn pin(&self) -> Option<Moment> {
        self.link.pinned().or(self.staged).or(self.cursor)
    }

    fn step(&mut self, now_ns: u64, event: Event) -> Vec<Output> {
        let mut out = Vec::new();
        let mut events = VecDeque::from([event]);
        loop {
            while let Some(event) = events.pop_front() {
                self.todo.extend(self.link.step(now_ns, event));
            }
            let Some(effect) = self.todo.pop_front() else { return out };
            match self.carry_out(effect, &mut out) {
                Ok(answer) => events.extend(answer),
                Err(e) => {
                    out.push(closed(&e));
                    self.todo.clear();
                    return out;
                }
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, out: &mut Vec<Output>) -> Result<Option<Event>> {
        let group = self.group.clone();
        Ok(Some(match effect {
            Effect::Send(frame) => return Ok(push(out, Output::Send(frame))),
            Effect::SetTimer(at) => return Ok(push(out, Output::Timer(at))),
            Effect::Join(join) => return Ok(push(out, Output::Join(join))),
            Effect::Answer(about) => return Ok(push(out, Output::Answer(about))),
            Effect::Scrub(scrub) => return Ok(push(out, Output::Scrub(scrub))),
            Effect::Report(report) => return Ok(push(out, Output::Report(report))),
            Effect::Close { name, text } => return Ok(push(out, Output::Close { name, text })),
            Effect::Met(verdict, peer) => {
                self.met = true;
                self.heard_peer(&verdict, &peer);
                push(out, Output::Met(verdict));
                return Ok(self.past_handing_over(&peer.roles));
            }
            Effect::MeetAnew => Event::Connected(Box::new(self.local()?)),
            Effect::StoreRows(ticket, rows, withdrawn) => {
                group.store_rows(rows, withdrawn)?;
                Event::RowsStored(ticket)
            }
            Effect::ReadMarks(ticket, common) => Event::MarksRead(ticket, group.line_marks(common)?),
            Effect::ReadRecords { ticket, after, upto, max_bytes } => {
                let found = match group.read_run(after, upto, max_bytes, self.shipped)? {
                    Some(run) => {
                        self.shipped = Some(run.at);
                        Found::Records { epoch: run.epoch, records: run.records, chain: run.at.value }
                    }
                    None => Found::Gone,
                };
                Event::RecordsRead(ticket, found)
            }
            Effect::ReadFill(ticket, moment, range) => {
                Event::FillRead(ticket, group.read_fill(moment, range)?)
            }
            Effect::ReadChain(ticket, at) => Event::ChainRead(ticket, group.chain_value(at)?),
            Effect::ReadSizes(ticket, moment) => {
                // The base may have gone on while nobody was connected: the target knows the sizes by the names.
                let sizes = match group.whole_set(moment) {
                    Err(e) if e.kind() == Kind::NotFound => Vec::new(),
                    other => other?.1,
                };
                Event::SizesRead(ticket, sizes)
            }
            Effect::PlanCopy(ticket, Plan::Initial) => {
                Event::CopyPlanned(ticket, Box::new(self.plan_initial()?))
            }
            Effect::PlanCopy(ticket, plan) => Event::CopyPlanned(ticket, Box::new(self.plan_over(plan)?)),
            Effect::PlanSkip(ticket, after) => {
                let (to, chain) = self.durable_head()?;
                Event::SkipPlanned(ticket, to, chain, self.skipped(after, to)?)
            }
            Effect::ReadRanges(ticket, after) => {
                let (at, _) = self.durable_head()?;
                let set = match group.changed_after(after)? {
                    Some(set) => set,
                    None => group.whole_set(at)?.0,
                };
                Event::RangesRead(ticket, set)
            }
            Effect::Append(ticket, data) => {
                group.append_received(&data)?;
                Event::Appended(ticket)
            }
            Effect::BeginStaging(ticket, planned) => {
                let _ = ticket;
                self.copy = None;
                self.copy = Some(group.begin_copy(&planned)?);
                return Ok(None);
            }
            Effect::Stage(ticket, data) => {
                return self.stage(ticket, |copy, group| copy.take_records(group, &data));
            }
            Effect::StageFill(ticket, fill) => {
                return self.stage(ticket, |copy, group| copy.take_fill(group, &fill));
            }
            Effect::StageSkip(ticket, to, chain, set) => {
                let _ = ticket;
                self.copying()?.skip(to, chain, &set);
                return Ok(None);
            }
            Effect::DropStaging(_) => {
                self.copy = None;
                group.drop_copy()?;
                return Ok(None);
            }
            Effect::PublishJump { ticket, to, chain, disks, .. } => {
                let mut copy = match self.copy.take() {
                    Some(copy) => copy,
                    None => group
                        .resume_copy()?
                        .ok_or_else(|| Error::new(Kind::Conflict, "no copy is under way"))?,
                };
                group.publish_copy(&mut copy, to, chain, disks)?;
                Event::JumpPublished(ticket)
            }
            Effect::Acknowledged(moment, value) => {
                group.keep_mark(moment, value);
                (self.cursor, self.staged) = (Some(moment), None);
                return Ok(None);
            }
            Effect::Staged(moment, value) => {
                group.keep_mark(moment, value);
                self.staged = Some(moment);
                return Ok(None);
            }
            Effect::SourceStep(SourceStep::Handover { op }) => {
                out.push(Output::HandOver(op));
                // Meanwhile the peer may decide all the same, and that has to be heard.
                Event::Deferred(op)
            }
            Effect::SourceStep(step) => {
                self.source_step(step)?;
                Event::Roles(self.roles())
            }
            Effect::MayDecide(op) => match self.may_decide(op)? {
                // Both meet anew: what they came to before speaks of decisions that this one has left behind.
                true => Event::Connected(Box::new(self.local()?)),
                false => return Ok(push(out, Output::MayDecide(op))),
            },
            Effect::PeerRoles(roles) => {
                self.heard_roles(&roles);
                return Ok(self.past_handing_over(&roles));
            }
            Effect::PeerOldest(_) | Effect::Points(_) | Effect::Notices(_) => {
                return Ok(None);
            }
        }))
    }

    fn stage(
        &mut self,
        ticket: crate::exchange::Ticket,
        take: impl FnOnce(&mut Copying, &Group) -> Result<()>,
    ) -> Result<Option<Event>> {
        let group = self.group.clone();
        let copy = self.copying()?;
        if let Err(e) = take(copy, &group) {
            self.copy = None; // what of it is durable, its file says
            return Err(e);
        }
        if copy.unsynced() >= COPY_SYNC_BYTES {
            self.sync_copy()?;
            self.waiting.clear();
            return Ok(Some(Event::Appended(ticket))); // the newest ticket covers the earlier ones
        }
        self.waiting.push(ticket);
        Ok(None)
    }

    /// The copy under way, taken up again after a restart by whatever of it comes first.
    fn copying(&mut self) -> Result<&mut Copying> {
        if self.copy.is_none() {
            self.copy = self.group.resume_copy()?;
        }
        self.copy
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Conflict, "something of a copy came, and none is under way"))
    }

    /// After a failure nothing is taken for durable that a later sync didn't write: the copy goes on from what its file
    /// says.
    fn sync_copy(&mut self) -> Result<()> {
        let Some(copy) = &mut self.copy else { return Ok(()) };
        copy.sync(&self.group).inspect_err(|_| self.copy = None)
    }

    /// A copy that waits is made durable, and says so.
    fn flush_copy(&mut self) -> Result<Option<Event>> {
        let Some(last) = self.waiting.pop() else { return Ok(None) };
        self.waiting.clear();
        self.sync_copy()?;
        Ok(Some(Event::Appended(last)))
    }

    fn plan_initial(&mut self) -> Result<Planned> {
        let (at, chain) = self.durable_head()?;
        if at.epoch != self.said {
            // Begun in this very instant: the next connection says it first.
            return Err(Error::refused("busy", "an epoch began while a copy was planned"));
        }
        // Until the source's link says so itself: the records behind the begin of the stream are needed, and the moment.
        self.group.set_pin(Some(at));
        let (set, disks) = self.group.data_set(at).map_err(overtaken)?;
        let copy = Token(self.group.parts.entropy.random_128());
        Ok(Planned { copy, reason: JumpReason::Initial, onto_image: false, at, chain, set, disks })
    }

    /// A copy over the image that the target has.
    fn plan_over(&mut self, plan: Plan) -> Result<Planned> {
        let (at, chain) = self.durable_head()?;
        if at.epoch != self.said {
            return Err(Error::refused("busy", "an epoch began while a copy was planned"));
        }
        self.group.set_pin(Some(at));
        let (whole, disks) = self.group.whole_set(at).map_err(overtaken)?;
        let (reason, known) = match plan {
            Plan::Initial => (JumpReason::Initial, None),
            Plan::Backlog { after } => (JumpReason::Backlog, self.group.changed_after(after)?),
            Plan::Delta { after, theirs } => {
                let mut known = self.group.changed_after(after)?;
                if let Some(known) = &mut known {
                    known.extend(&theirs);
                }
                let backlog = self.group.is_coalesced();
                (if backlog { JumpReason::Backlog } else { JumpReason::Delta }, known)
            }
            Plan::Everything => (JumpReason::Full, None),
        };
        let reason = if known.is_none() && reason != JumpReason::Initial { JumpReason::Full } else { reason };
        let set = match known {
            Some(known) => self.group.with_names(at, known, Some(&disks)).map_err(overtaken)?,
            None => whole,
        };
        let copy = Token(self.group.parts.entropy.random_128());
        Ok(Planned { copy, reason, onto_image: true, at, chain, set, disks })
    }

    /// What records changed that the stream of a copy passes over.
    fn skipped(&mut self, after: Moment, to: Moment) -> Result<RangeSet> {
        let Some(known) = self.group.changed_after(after)? else {
            let what = format!("which ranges changed after {after} isn't known any more");
            return Err(Error::new(Kind::NotFound, what).advice("Cancel the copy: it begins anew as a whole"));
        };
        // Unclipped: what was staged behind an end that came back meanwhile must read as zeros.
        self.group.with_names(to, known, None)
    }

    pub(super) fn durable_head(&mut self) -> Result<(Moment, ChainValue)> {
        let head = self.group.head();
        self.group.sync()?;
        self.durable = head;
        let value = self.group.chain_value(head)?; // C7 of `chain`: all of the log is in it
        value.map(|v| (head, v)).ok_or_else(|| Error::new(Kind::Damaged, format!("no chain value at {head}")))
    }

    pub(super) fn standing(&mut self) -> Standing {
        let (head, end) = self.group.standing();
        let durable = self.group.log.durable();
        let target = self.group.gate() == Gate::Target;
        if durable >= end || left_out("D3: only what is durable is shipped") {
            self.durable = head;
        } else if !target && let Ok(Some(moment)) = self.group.moment_before(durable) {
            // Writers that never pause: what their last sync covers.
            // Not beyond what readers find.
            self.durable = if moment.seq < head.seq { moment } else { head };
        }
        Standing { head, durable: self.durable, flushed: self.durable, lag_ns: 0 }
    }

    fn local(&mut self) -> Result<Local> {
        self.said = self.group.head().epoch;
        let head = if self.group.has_image() { Some(self.durable_head()?) } else { None };
        let roles = self.roles();
        let writes = matches!(self.group.gate(), Gate::Open { .. } | Gate::Waiting);
        if self.group.drop_overtaken_copy()? {
            self.copy = None;
        }
        let copy = self.group.copy_statement()?;
        let (copy, missing) = copy.map_or((None, Default::default()), |(c, m)| (Some(c), m));
        let events = self.group.events();
        let handed = events
            .iter()
            .filter_map(|(_, e)| if let Line::Handover { op, .. } = e { Some(*op) } else { None });
        Ok(Local {
            table: self.group.table(),
            head,
            standing: self.standing(),
            writes,
            follows: self.group.gate() == Gate::Target,
            state: if writes { "protected".into() } else { "standby".into() },
            handed: handed.collect(),
            roles,
            oldest: None,
            ranges_from: None,
            copy,
            missing,
            notices: Vec::new(),
            points: Default::default(),
            cursor: self.cursor,
            backlog_age_ns: 0,
        })
    }
}

fn push(out: &mut Vec<Output>, output: Output) -> Option<Event> {
    out.push(output);
    None
}

/// A round that was chosen before there was a pin may pass the moment that a copy was to begin with.
fn overtaken(error: Error) -> Error {
    if error.kind() != Kind::NotFound {
        return error;
    }
    Error::refused("busy", format!("a round went on while a copy was planned: {error}"))
}

fn closed(error: &Error) -> Output {
    let plain = if error.kind() == Kind::NoSpace { NO_SPACE } else { "damaged" };
    Output::Close { name: error.name().unwrap_or(plain), text: error.to_string() }
}
