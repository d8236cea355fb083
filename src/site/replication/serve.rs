//! One connection: the session, then frames to and from the groups that have this peer.
//!
//! V1. Everything is heard before anything is said again: a side that only sent would wait for a peer that only sends.
//!     What waits to be sent is bounded by the windows of the groups, and new records are asked for only while less
//!     than [`QUEUE_BYTES`] wait.
//! V2. A request for a standby, and its answer, concern a group that has no side yet at one of the two sites: they
//!     are dealt with here. After the answer both sides of the group begin anew: what one of them said before the
//!     other existed was heard by nobody.
//! V3. A group for which this site has no room waits alone: its side is as without a connection for [`STALL_NS`], and then both
//!     meet anew. The source is told each time. The connection and the other groups go on.

mod groups;
mod points;

use super::{
    Command, GroupSlot, PeerSlot, Relation, Replication, SessionState, ended, framing, join, scrub, sessions,
    verdict,
};
use crate::exchange::{
    About, Control, Frame, LocalSite, Report, Session, SessionEffect, SessionEvent, Verdict,
};
use crate::group::{NO_SPACE, Output};
use crate::history::Event;
use crate::link::Connection;
use crate::site::replication::side::Side;
use crate::vocab::{Error, GroupId, Kind, Result, Token};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// While so much waits to be sent, nothing new is asked for.
const QUEUE_BYTES: usize = 4 << 20;
/// How often groups are asked for what has become durable.
const PROGRESS_NS: u64 = 10_000_000;
/// Frames that are heard at most before timers and progress have their turn.
const FRAMES_AT_ONCE: usize = 64;
/// How long a refusal has to reach the peer.
const LINGER: Duration = Duration::from_secs(1);
/// A group without room is tried again after so long, ns; less than the peer's silence that ends a connection.
pub(super) const STALL_NS: u64 = 2_000_000_000;
/// That it waits is told again after so long, ns.
const TOLD_NS: u64 = 60_000_000_000;
const ZSTD: &str = "zstd";

/// Serves a connection until it ends.
pub(super) fn serve(hub: &Arc<Replication>, connection: Arc<dyn Connection>) {
    let slot = hub.peer(connection.peer());
    let _one = slot.serving.lock();
    if hub.is_stopped() || connection.ended().is_some() {
        return connection.close("the site is closing");
    }
    let mut talk = match Talk::begin(hub, &slot, Arc::clone(&connection)) {
        Ok(talk) => talk,
        Err(error) => {
            hub.tell(None, format!("the session with a peer can't begin: {error}"));
            return connection.close("the other site can't begin a session");
        }
    };
    let end = talk.run();
    talk.end(end);
}

/// Why a connection ends.
struct End {
    name: String,
    text: String,
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        let name = match error.kind() {
            Kind::Unreachable => "no-contact",
            _ => error.name().unwrap_or("protocol-error"),
        };
        Self { name: name.to_owned(), text: error.to_string() }
    }
}

struct Talk<'a> {
    hub: &'a Arc<Replication>,
    slot: &'a PeerSlot,
    connection: Arc<dyn Connection>,
    peer: crate::link::Peer,
    session: Session,
    joiner: framing::Joiner,
    out: VecDeque<Vec<u8>>,
    out_bytes: usize,
    compress: Option<i32>,
    ready: bool,
    groups: HashMap<GroupId, Arc<GroupSlot>>,
    /// V2: the peer was asked in this connection and has not answered; what it says of the group is of no use.
    asked: HashSet<GroupId>,
    commands: Receiver<Command>,
    sender: Sender<Command>,
    answers: HashMap<Token, Sender<join::Answered>>,
    points: points::Points,
    /// The peer's words about groups that a command was at work on: to be looked at again.
    unheard: Vec<(GroupId, Event)>,
    progress_ns: u64,
    sent: u64,
    received: u64,
}

impl<'a> Talk<'a> {
    fn begin(hub: &'a Arc<Replication>, slot: &'a PeerSlot, connection: Arc<dyn Connection>) -> Result<Self> {
        let site = hub.site()?;
        let store = connection.peer();
        let peer = (&*hub.book as &dyn crate::link::PeerBook)
            .by_store(store)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("the site {store} is no peer")))?;
        let known = sessions::of(site.store().catalog(), store)?;
        let mut features = vec![ZSTD.to_owned()];
        features.extend(site.host_mark());
        let local = LocalSite {
            site: hub.store,
            name: hub.name.clone(),
            features,
            peer: store,
            tokens: known.tokens,
            nonce: Token(site.entropy().random_128()),
            accept_once: known.accept_once,
        };
        let (session, first) = Session::new(local);
        let (sender, commands) = channel();
        {
            let mut state = slot.state.lock();
            (state.state, state.since_ns) = (SessionState::Opening, hub.now_ns());
        }
        let mut this = Self {
            hub,
            slot,
            connection,
            peer,
            session,
            joiner: framing::Joiner::default(),
            out: VecDeque::new(),
            out_bytes: 0,
            compress: None,
            ready: false,
            groups: HashMap::new(),
            asked: HashSet::new(),
            commands,
            sender,
            answers: HashMap::new(),
            points: points::Points::default(),
            unheard: Vec::new(),
            progress_ns: 0,
            sent: 0,
            received: 0,
        };
        // Only the hello: nothing that can fail for a reason of the peer's.
        if let Err(End { text, .. }) = this.session_effects(first) {
            return Err(Error::new(Kind::Conflict, text));
        }
        Ok(this)
    }

    fn run(&mut self) -> End {
        loop {
            if self.hub.is_stopped() {
                return End { name: "no-contact".into(), text: "this site is closing".into() };
            }
            if let Err(end) = self.turn() {
                return end;
            }
        }
    }

    fn turn(&mut self) -> std::result::Result<(), End> {
        self.flush()?;
        let mut wait = self.wait();
        for _ in 0..FRAMES_AT_ONCE {
            let Some(piece) = self.connection.recv(wait)? else { break };
            wait = Duration::ZERO;
            self.received += piece.len() as u64;
            if let Some(frame) = self.joiner.push(piece)? {
                self.heard(frame)?;
            }
        }
        self.flush()?;
        if self.ready {
            while let Ok(command) = self.commands.try_recv() {
                self.command(command)?;
            }
            self.timers()?;
        }
        Ok(())
    }

    /// How long there is nothing to do unless the peer speaks.
    fn wait(&self) -> Duration {
        if self.out.is_empty() { Duration::from_nanos(PROGRESS_NS) } else { Duration::from_millis(1) }
    }

    fn flush(&mut self) -> Result<()> {
        while let Some(piece) = self.out.pop_front() {
            let bytes = piece.len();
            if let Some(back) = self.connection.send(piece, Duration::ZERO)? {
                self.out.push_front(back);
                break;
            }
            self.out_bytes -= bytes;
            self.sent += bytes as u64;
        }
        Ok(())
    }

    fn say(&mut self, frame: &Frame) -> Result<()> {
        for piece in framing::pieces(frame, self.compress)? {
            self.out_bytes += piece.len();
            self.out.push_back(piece);
        }
        self.flush()
    }

    fn session_effects(&mut self, effects: Vec<SessionEffect>) -> std::result::Result<(), End> {
        let mut todo = VecDeque::from(effects);
        while let Some(effect) = todo.pop_front() {
            match effect {
                SessionEffect::Send(control) => self.say(&Frame::Control(control))?,
                SessionEffect::Store(tokens) => {
                    let site = self.hub.site()?;
                    let catalog = site.store().catalog();
                    let known = sessions::of(catalog, self.peer.store)?;
                    let agreed = tokens.offered.is_none();
                    let accept_once = known.accept_once && !agreed;
                    catalog.put(&sessions::SessionObject { tokens, accept_once, ..known })?;
                    todo.extend(self.session.step(SessionEvent::Stored));
                }
                SessionEffect::Ready { features, .. } => self.begin_groups(&features)?,
                SessionEffect::Close { name, text } => {
                    self.linger();
                    return Err(End { name: name.into(), text });
                }
            }
        }
        Ok(())
    }

    /// Lets what was said last reach the peer: the end of a connection drops what waits.
    fn linger(&mut self) {
        let until = self.hub.now_ns() + LINGER.as_nanos() as u64;
        while self.hub.now_ns() < until && !self.hub.is_stopped() {
            if self.flush().is_err() || self.connection.recv(Duration::from_millis(20)).is_err() {
                return;
            }
        }
    }

    fn begin_groups(&mut self, features: &[String]) -> Result<()> {
        let site = self.hub.site()?;
        let zstd = features.iter().any(|f| f == ZSTD);
        self.compress = self.hub.options.compress.filter(|_| zstd);
        let same_host = site.host_mark().is_some_and(|mark| features.contains(&mark));
        {
            let mut state = self.slot.state.lock();
            if same_host && !state.same_host {
                let text =
                    format!("same-host-pair: {} runs on this host, both fail together", self.peer.name);
                self.hub.tell(None, text);
            }
            (state.state, state.since_ns) = (SessionState::Ready, self.hub.now_ns());
            (state.same_host, state.refusal) = (same_host, None);
        }
        let vms: Vec<_> = site.vms().into_iter().filter(|vm| vm.peer() == Some(self.peer.store)).collect();
        let count = vms.len();
        for vm in vms {
            match self.hub.slot_of(&vm, self.peer.store) {
                Ok(slot) => self.begin_group(&slot, count)?,
                Err(error) => self.hub.tell(Some(&vm.name()), format!("isn't replicated: {error}")),
            }
        }
        self.ready = true;
        *self.slot.commands.lock() = Some(self.sender.clone());
        Ok(())
    }

    /// P3: asks again, or goes on.
    fn begin_group(&mut self, slot: &Arc<GroupSlot>, count: usize) -> Result<()> {
        match Relation::of_group(&slot.group(), self.peer.store) {
            Relation::None => {}
            Relation::Ended { op, delete } => {
                slot.running.lock().side = None;
                self.groups.insert(slot.id(), Arc::clone(slot));
                self.say(&ended::notice(slot, op, delete, self.hub.store))?;
            }
            Relation::Joining { op } => {
                let join = join::request(slot, op, None);
                self.say(&Frame::about(slot.id(), About::Join(Box::new(join))))?;
                self.asked.insert(slot.id());
                self.groups.insert(slot.id(), Arc::clone(slot));
            }
            Relation::Source | Relation::Target => {
                self.hub.start_side(slot, count);
                self.begin_side(slot)?;
            }
        }
        Ok(())
    }

    /// Tells a side that its connection begins here, after ending an earlier one.
    fn begin_side(&mut self, slot: &Arc<GroupSlot>) -> Result<()> {
        self.points_untold(slot.id());
        self.asked.remove(&slot.id());
        self.groups.insert(slot.id(), Arc::clone(slot));
        self.say_intent(slot)?;
        let flags = self.flags(slot)?;
        self.step(slot, |side, now| {
            let _ = side.disconnected(now);
            side.hold(flags.paused);
            side.connected(now)
        })
    }

    fn heard(&mut self, frame: Frame) -> std::result::Result<(), End> {
        let Some(group) = frame.group() else {
            let Frame::Control(control) = frame else { return Ok(()) };
            let effects = self.session.step(SessionEvent::Received(control));
            return self.session_effects(effects);
        };
        if !self.ready {
            let Frame::Control(control) = frame else {
                let text = "the peer sent records before the session was agreed";
                return Err(End { name: "protocol-error".into(), text: text.into() });
            };
            let effects = self.session.step(SessionEvent::Received(control));
            return self.session_effects(effects);
        }
        if let Frame::Control(Control::Group { about, .. }) = &frame {
            match &**about {
                About::Join(join) => return Ok(self.asked(group, join)?),
                About::Joined { op } => return Ok(self.joined(group, *op)?),
                About::Declined { op, name, text } => {
                    return Ok(self.declined(group, *op, name, text)?);
                }
                About::Notices { notices } => return Ok(self.noticed(group, notices.clone())?),
                About::Points(set) => {
                    self.points_heard(group, set);
                    return Ok(());
                }
                _ => {}
            }
        }
        let known = self.groups.get(&group).filter(|_| !self.asked.contains(&group)).cloned();
        let Some(slot) = known else {
            tracing::debug!(%group, "a frame about a group that this site doesn't share");
            return Ok(self.unknown(group, &frame)?);
        };
        Ok(self.step(&slot, |side, now| side.received(now, frame))?)
    }

    fn command(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Join { slot, join, answer } => {
                self.answers.insert(join.op, answer);
                let group = slot.id();
                self.asked.insert(group);
                self.groups.insert(group, slot);
                self.say(&Frame::about(group, About::Join(join)))
            }
            Command::Say { group, about } => self.say(&Frame::about(group, *about)),
        }
    }

    fn timers(&mut self) -> Result<()> {
        let now = self.hub.now_ns();
        let progress = now >= self.progress_ns && self.out_bytes < QUEUE_BYTES;
        if progress {
            self.progress_ns = now + PROGRESS_NS;
            let mut state = self.slot.state.lock();
            state.sent_bytes += std::mem::take(&mut self.sent);
            state.received_bytes += std::mem::take(&mut self.received);
        }
        let begun = |group: &GroupId| !self.asked.contains(group);
        let slots: Vec<_> =
            self.groups.iter().filter(|(group, _)| begun(group)).map(|(_, s)| Arc::clone(s)).collect();
        let all: Vec<_> = self.groups.values().cloned().collect();
        for slot in &all {
            self.changed(slot)?;
        }
        for (group, notice) in std::mem::take(&mut self.unheard) {
            self.noticed(group, vec![notice])?;
        }
        self.share_points(&slots, now)?;
        for slot in slots {
            let due = {
                let mut running = slot.running.lock();
                let due = running.timer_ns.is_some_and(|at| at <= now);
                if due {
                    running.timer_ns = None;
                }
                due
            };
            if due {
                self.step(&slot, |side, now| side.timer(now))?;
            }
            if progress {
                self.step(&slot, |side, now| side.progress(now))?;
                self.whole(&slot)?;
            }
        }
        Ok(())
    }

    /// The first copy is whole once records pass on the line: the group is protected from then on. So is one whose writer was
    /// told to go on, once the peer follows it.
    fn whole(&self, slot: &GroupSlot) -> Result<()> {
        let mut joining = slot.joining.lock();
        let unsettled = slot.unsettled.load(Ordering::Acquire);
        let op = match *joining {
            Some(op) => op,
            None if unsettled => Token::NONE,
            None => return Ok(()),
        };
        // Held still: a command that ends the protection meanwhile has the last line.
        let protected = slot.change(|running| {
            let state = running.side.as_ref().filter(|_| !running.renew).map(|side| side.state());
            let shipping = state.filter(|s| s.shipping && !s.copying);
            let Some(moment) = shipping.and_then(|s| s.acknowledged) else { return Ok(None) };
            let written = slot.group().protected_from(op, self.peer.store, moment)?;
            Result::Ok(written.then_some(moment))
        })?;
        let Some(moment) = protected else { return Ok(()) };
        *joining = None;
        slot.unsettled.store(false, Ordering::Release);
        self.hub.tell(Some(&slot.vm.name()), format!("protected at {}, from {moment} on", self.peer.name));
        Ok(())
    }

    /// A step of a side, and what it asks for.
    fn step(
        &mut self,
        slot: &Arc<GroupSlot>,
        step: impl FnOnce(&mut dyn Side, u64) -> Vec<Output>,
    ) -> Result<()> {
        let now = self.hub.now_ns();
        let outputs = {
            let mut running = slot.running.lock();
            if running.is_stalled(now) {
                return Ok(()); // V3
            }
            let mut outputs = std::mem::take(&mut running.said);
            let Some(side) = running.side.as_mut() else { return Ok(()) };
            outputs.extend(step(&mut **side, now));
            outputs
        };
        for output in outputs {
            match output {
                Output::Send(frame) => self.say(&frame)?,
                Output::Timer(at) => slot.running.lock().timer_ns = Some(at),
                Output::Met(verdict) => self.met(slot, *verdict)?,
                Output::HandOver(op) => self.hub.hand_over(slot, op),
                Output::MayDecide(op) => slot.running.lock().may_decide = Some(op),
                Output::Report(report) => self.report(slot, &report),
                Output::Scrub(asked) => {
                    let answer = scrub::answer(&slot.group(), asked)?;
                    self.say(&Frame::about(slot.id(), answer))?;
                }
                Output::Answer(About::Scrubbed { scrub, hash }) => {
                    self.hub.scrubbed(scrub.id, Ok(hash));
                }
                // V2: answered before they reach a side. Answers to what this site doesn't ask are passed over.
                Output::Join(_) | Output::Answer(_) => {}
                Output::Close { name: NO_SPACE, text } => {
                    return self.stall(slot, now, &text);
                }
                Output::Close { name, text } => {
                    let text = format!("{}: {text}", slot.vm.name());
                    return Err(match name {
                        "no-contact" => Error::new(Kind::Unreachable, text),
                        name => Error::new(Kind::Conflict, format!("{name}: {text}")),
                    });
                }
            }
        }
        Ok(())
    }

    /// V3.
    fn stall(&mut self, slot: &GroupSlot, now: u64, why: &str) -> Result<()> {
        let tell = {
            let mut running = slot.running.lock();
            if let Some(side) = running.side.as_mut() {
                side.stall();
            }
            running.said.clear();
            (running.renew, running.stalled_ns) = (true, Some(now + STALL_NS));
            let tell = running.told_ns.is_none_or(|told| now.saturating_sub(told) >= TOLD_NS);
            if tell {
                running.told_ns = Some(now);
            }
            tell
        };
        if tell {
            self.hub
                .tell(Some(&slot.vm.name()), format!("no-space: what {} sends waits: {why}", self.peer.name));
        }
        // The source has to know why its standby grows old.
        let declined = About::Declined { op: Token::NONE, name: NO_SPACE.into(), text: why.to_owned() };
        self.say(&Frame::about(slot.id(), declined))
    }

    fn met(&self, slot: &GroupSlot, verdict: Verdict) -> Result<()> {
        let said = verdict::keep(slot, self.hub.store, &verdict)?;
        self.hub.site()?.start_heard(&slot.vm, &verdict)?;
        self.look_at_line(slot)?;
        let mut running = slot.running.lock();
        if running.verdict.as_ref() != Some(&verdict) {
            if let Some(text) = said {
                self.hub.tell(Some(&slot.vm.name()), format!("{text} (peer {})", self.peer.name));
            }
            running.verdict = Some(verdict);
        }
        Ok(())
    }

    fn report(&self, slot: &GroupSlot, report: &Report) {
        {
            let mut running = slot.running.lock();
            match report {
                Report::Corruption(_) => running.corruption_ns = Some(self.hub.now_ns()),
                Report::TargetRewound { .. } => running.target_rewound_ns = Some(self.hub.now_ns()),
                Report::CopyBegun { bytes, .. } => running.copy_bytes = *bytes,
                Report::CopyResumed { bytes } => running.copy_bytes = running.copy_bytes.max(*bytes),
                _ => {}
            }
        }
        let text = match report {
            Report::Corruption(text) => format!("corruption: {text}"),
            Report::TargetRewound { acknowledged, head } => {
                format!("target-rewound: the peer had confirmed {acknowledged} and holds {head}")
            }
            Report::CopyBegun { bytes, .. } => format!("a copy of {bytes} bytes begins"),
            Report::CopyResumed { bytes } => format!("a copy goes on, {bytes} bytes are missing"),
            Report::CopyAbandoned => "an interrupted copy can't go on and begins anew".to_owned(),
            Report::CopySkipped { bytes } => {
                format!("the copy skips records; {bytes} bytes are sent again")
            }
            Report::CopyPublished { to } => format!("the copy is whole at {to}"),
        };
        self.hub.tell(Some(&slot.vm.name()), text);
    }

    /// P1.
    fn end(&mut self, end: End) {
        *self.slot.commands.lock() = None;
        self.hub.forget_scrubs();
        let now = self.hub.now_ns();
        for slot in self.groups.values() {
            let mut running = slot.running.lock();
            running.timer_ns = None;
            running.said.clear();
            if let Some(side) = running.side.as_mut() {
                let _ = side.disconnected(now);
            }
        }
        let first = {
            let mut state = self.slot.state.lock();
            (state.state, state.since_ns) = (SessionState::Offline, now);
            let refusal = Some((end.name.clone(), end.text.clone()));
            let first = state.refusal != refusal && end.name != "no-contact";
            state.refusal = refusal;
            first
        };
        if first {
            self.hub.tell(None, format!("{}: connection ended, {}: {}", self.peer.name, end.name, end.text));
        }
        self.connection.close(&end.text);
    }
}
