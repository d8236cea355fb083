//! Two sites, a link between them, and what may happen to all three.
//!
//! Checked after every step: one name has one content; the target is an exact prefix of the source's line; it holds
//! nothing that the source has lost; nothing is sent again that had been confirmed; the measure of loss is true.

use super::site::{A, B, GROUP, Image, Site};
use crate::exchange::rules::Rules;
use crate::exchange::*;
use crate::vocab::{EpochId, Moment};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const MS: u64 = 1_000_000;
/// Longest time that a frame is under way, and an effect waits.
pub const DELAY_MAX: u64 = 400 * MS;

#[derive(Debug)]
pub struct Violation(pub String);

pub fn violation<T>(what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(what.into()))
}

pub struct World {
    pub rng: fastrand::Rng,
    pub rules: Rules,
    pub now: u64,
    pub sites: [Site; 2],
    pub links: [GroupLink; 2],
    /// Frames on their way to each site, with the time of their arrival.
    pub wires: [VecDeque<(u64, Vec<u8>)>; 2],
    pub up: bool,
    pub timers: [Option<u64>; 2],
    pub truth: BTreeMap<Moment, Image>,
    pub counts: BTreeMap<&'static str, u64>,
    /// Records that were sent and not confirmed; those that may be sent again; all that ever were.
    flying: BTreeSet<Moment>,
    again: BTreeSet<Moment>,
    ever: BTreeSet<Moment>,
    /// Connections that may end by corruption: something was corrupted on purpose.
    pub excused: bool,
    /// The source remembers what it sent instead of asking: a control.
    pub remembers: Option<Option<(CopyStatement, RangeSet)>>,
    /// When time last passed with nothing moving.
    pub stalled: u64,
    /// Where the cursor was at the first connect of the source's process: it knows no ages from before.
    cursor: u64,
    first: u64,
    fresh: bool,
    /// Sites that were asked to meet anew.
    anew: [bool; 2],
    epochs: u64,
}

impl World {
    pub fn new(seed: u64, rules: Rules, sites: [Site; 2], frequency: Option<u64>) -> Self {
        let link = |site, peer| {
            let settings = Settings {
                group: GROUP,
                site,
                peer,
                window_bytes: 2000,
                fill_bytes: super::site::BLOCK,
                frequency_ns: frequency,
            };
            GroupLink::with_rules(settings, rules)
        };
        let mut world = Self {
            rng: fastrand::Rng::with_seed(seed),
            rules,
            now: 1_000_000 * MS,
            sites,
            links: [link(A, B), link(B, A)],
            wires: [VecDeque::new(), VecDeque::new()],
            up: false,
            timers: [None, None],
            truth: BTreeMap::new(),
            counts: BTreeMap::new(),
            flying: BTreeSet::new(),
            again: BTreeSet::new(),
            ever: BTreeSet::new(),
            excused: false,
            remembers: None,
            stalled: 0,
            cursor: 0,
            first: 0,
            fresh: true,
            anew: [false; 2],
            epochs: 0,
        };
        for place in 0..=world.sites[0].log.len() {
            world.learn(place);
        }
        world
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn learn(&mut self, place: usize) {
        let site = &self.sites[0];
        let moment = match place {
            0 => site.start.unwrap().0,
            n => site.log[n - 1].moment(),
        };
        let image = site.image_at(place).unwrap();
        let known = *self.truth.entry(moment).or_insert(image);
        assert_eq!(known, image, "one name, two contents");
    }

    pub fn new_epoch(&mut self) -> EpochId {
        self.epochs += 1;
        EpochId((u128::from(self.epochs) << 64 | 0xabcd).to_be_bytes())
    }

    // -- the source's guest ------------------------------------------------------------------------

    pub fn write(&mut self) -> Result<(), Violation> {
        let (block, value) = (self.rng.usize(..super::site::BLOCKS), self.rng.u64(..1 << 30));
        let value = if self.rng.f64() < 0.2 { 0 } else { value };
        self.sites[0].write(block, value, self.now);
        self.learn(self.sites[0].log.len());
        self.progress()
    }

    pub fn sync_source(&mut self) -> Result<(), Violation> {
        self.sites[0].durable = self.sites[0].log.len();
        self.progress()
    }

    fn progress(&mut self) -> Result<(), Violation> {
        let standing = self.sites[0].standing();
        self.step(0, Event::Progress(standing))
    }

    // -- the machinery -----------------------------------------------------------------------------

    pub fn step(&mut self, site: usize, event: Event) -> Result<(), Violation> {
        let effects = self.links[site].step(self.now, event);
        for effect in effects {
            match effect {
                Effect::Send(frame) => self.send(site, &frame)?,
                Effect::SetTimer(at) => self.timers[site] = Some(at),
                Effect::MeetAnew => self.anew[site] = true,
                Effect::Close { name, text } => {
                    self.count("closed");
                    if !self.excused && name != "no-contact" {
                        return violation(format!("closed by {site}: {name}: {text}"));
                    }
                    return self.cut();
                }
                Effect::Acknowledged(moment, _) => {
                    self.flying.retain(|m| m.seq > moment.seq);
                    self.sites[site].todo.push_back(effect);
                }
                effect => self.sites[site].todo.push_back(effect),
            }
        }
        Ok(())
    }

    fn send(&mut self, site: usize, frame: &Frame) -> Result<(), Violation> {
        if let Frame::Data(data) = frame {
            for record in &data.records {
                let moment = Moment { epoch: data.epoch, seq: record.seq };
                if !self.ever.insert(moment) && !self.again.remove(&moment) && self.links[0].is_shipping() {
                    return violation(format!("{moment} was sent again though it was confirmed"));
                }
                self.flying.insert(moment);
            }
            self.count("messages of records");
        }
        if !self.up {
            return Ok(());
        }
        let compress = self.rng.bool().then_some(1);
        let bytes = wire::encode(frame, compress).map_err(|e| Violation(e.to_string()))?;
        let before = self.wires[1 - site].back().map_or(0, |(at, _)| *at);
        let at = before.max(self.now + self.rng.u64(0..DELAY_MAX / 4));
        self.wires[1 - site].push_back((at, bytes));
        Ok(())
    }

    pub fn connect(&mut self) -> Result<(), Violation> {
        self.up = true;
        self.count("connects");
        if std::mem::take(&mut self.fresh) {
            self.cursor = self.sites[0].cursor.map_or(0, |m| m.seq.0);
            self.first = self.now;
        }
        for site in [0, 1] {
            // Before a connection begins, what was asked for before has ended.
            self.settle(site);
            let local = self.sites[site].local(self.now);
            self.step(site, Event::Connected(local))?;
        }
        Ok(())
    }

    pub fn connect_if_down(&mut self) -> Result<(), Violation> {
        if self.up { Ok(()) } else { self.connect() }
    }

    /// A site begins a new meeting within the connection, or answers one.
    pub fn meet_anew(&mut self, site: usize) -> Result<(), Violation> {
        if !self.up {
            return Ok(());
        }
        self.count("meetings anew");
        self.settle(site);
        // What is under way to the target may be sent again: this side starts from what the target says.
        let unconfirmed = std::mem::take(&mut self.flying);
        self.again.extend(unconfirmed);
        let local = self.sites[site].local(self.now);
        self.step(site, Event::Connected(local))
    }

    /// Everything that the engine was asked for has ended.
    pub fn settle(&mut self, site: usize) {
        let site = &mut self.sites[site];
        while !site.todo.is_empty() {
            site.carry_out(self.rules, &mut self.rng);
        }
        if !site.writes {
            site.sync();
        }
        site.unsynced = None;
    }

    pub fn cut(&mut self) -> Result<(), Violation> {
        if !self.up {
            return Ok(());
        }
        self.up = false;
        self.count("cuts");
        self.wires.iter_mut().for_each(VecDeque::clear);
        self.anew = [false; 2];
        let unconfirmed = std::mem::take(&mut self.flying);
        self.again.extend(unconfirmed);
        if self.remembers.is_some() {
            self.remembers = Some(self.links[0].remembered());
        }
        for site in [0, 1] {
            self.timers[site] = None;
            let effects = self.links[site].step(self.now, Event::Disconnected);
            assert!(effects.is_empty(), "{effects:?}");
        }
        Ok(())
    }

    /// The process of a site dies, by power or by signal, and is started again.
    pub fn crash(&mut self, site: usize, power: bool) -> Result<(), Violation> {
        self.cut()?;
        let mut rng = self.rng.fork();
        self.sites[site].crash(power, &mut rng);
        self.fresh |= site == 0;
        let settings = Settings {
            group: GROUP,
            site: [A, B][site],
            peer: [B, A][site],
            window_bytes: 2000,
            fill_bytes: super::site::BLOCK,
            frequency_ns: self.links[site].frequency(),
        };
        self.links[site] = GroupLink::with_rules(settings, self.rules);
        if site == 0 && self.sites[0].writes {
            let epoch = self.new_epoch();
            let now = self.now;
            self.sites[0].begin_epoch(epoch, crate::history::RowKind::Open, crate::vocab::Token::NONE, now);
            self.learn(self.sites[0].log.len());
        }
        Ok(())
    }

    /// Lets something happen that is due: a frame arrives, an effect is carried out, a timer rings.
    pub fn advance(&mut self) -> Result<(), Violation> {
        self.now += self.rng.u64(0..20 * MS);
        for site in [0, 1] {
            if self.up && std::mem::take(&mut self.anew[site]) {
                self.meet_anew(site)?;
            }
        }
        for site in [0, 1] {
            if self.timers[site].is_some_and(|at| at <= self.now) {
                self.timers[site] = None;
                self.step(site, Event::Timer)?;
            }
        }
        for _ in 0..self.rng.usize(1..6) {
            let site = self.rng.usize(..2);
            match self.rng.usize(..4) {
                0 | 1 => self.deliver(site)?,
                2 => {
                    let mut rng = self.rng.fork();
                    if let Some(event) = self.sites[site].carry_out(self.rules, &mut rng) {
                        self.step(site, event)?;
                        if site == 0 && !self.sites[0].writes {
                            self.progress()?;
                        }
                    }
                }
                _ => {
                    if let Some(ticket) = self.sites[site].unsynced.take() {
                        if !self.sites[site].early_progress {
                            self.sites[site].sync();
                        }
                        self.step(site, Event::Appended(ticket))?;
                    }
                }
            }
        }
        Ok(())
    }

    pub fn deliver(&mut self, site: usize) -> Result<(), Violation> {
        if self.wires[site].front().is_none_or(|(at, _)| *at > self.now) {
            return Ok(());
        }
        let Some((_, bytes)) = self.wires[site].pop_front() else { return Ok(()) };
        let header = wire::FrameHeader::decode(bytes[..wire::FRAME_HEADER_BYTES].try_into().unwrap());
        let frame = header.and_then(|h| wire::decode(&h, &bytes[wire::FRAME_HEADER_BYTES..]));
        match frame {
            Ok(frame) => {
                let frame = self.as_remembered(site, frame);
                self.step(site, Event::Received(frame))
            }
            Err(error) if self.excused => {
                self.count("frames refused");
                assert!(!error.to_string().is_empty());
                self.cut()
            }
            Err(error) => violation(error.to_string()),
        }
    }

    /// The control: what the target says of its staging is not listened to.
    fn as_remembered(&self, site: usize, frame: Frame) -> Frame {
        let Some(Some((statement, missing))) = &self.remembers else { return frame };
        match (&frame, site) {
            (Frame::Control(Control::Group { about, .. }), 0) => match &**about {
                About::Descriptor(descriptor) if descriptor.copy.is_some() => {
                    let mut descriptor = descriptor.clone();
                    descriptor.copy = Some(statement.clone());
                    Frame::about(GROUP, About::Descriptor(descriptor))
                }
                About::Ranges { .. } => {
                    Frame::about(GROUP, About::Ranges { ranges: missing.iter().collect(), more: false })
                }
                _ => frame,
            },
            _ => frame,
        }
    }

    /// One bit on the wire.
    pub fn corrupt(&mut self) {
        let side = self.rng.usize(..2);
        let many = self.wires[side].len();
        if many > 0 {
            self.count("bits flipped");
            let frame = self.rng.usize(..many);
            let bytes = &mut self.wires[side][frame].1;
            let at = self.rng.usize(..bytes.len());
            bytes[at] ^= 1 << self.rng.u32(..8);
        }
    }

    // -- the oracle --------------------------------------------------------------------------------

    pub fn check(&mut self) -> Result<(), Violation> {
        let (source, target) = (&self.sites[0], &self.sites[1]);
        let Some((held, chain)) = target.head() else { return Ok(()) };
        if target.early.is_some() {
            return Ok(());
        }
        let Some(truth) = self.truth.get(&held) else { return violation(format!("the target holds {held}")) };
        if target.image() != Some(*truth) {
            return violation(format!("the target's image at {held} is another one"));
        }
        let Some(place) = source.place(held) else {
            return violation(format!("the target holds {held}, which the source has lost"));
        };
        if place > source.durable {
            return violation(format!("the target holds {held}, which isn't durable at the source"));
        }
        if source.chain.get(&held) != Some(&chain) {
            return violation(format!("the chain at {held} differs"));
        }
        self.check_rpo(target.durable_head().map(|(m, _)| m))
    }

    /// The measure against the clock of the simulation: age of the oldest record not durable at the target.
    fn check_rpo(&self, held: Option<Moment>) -> Result<(), Violation> {
        let Some(held) = held else { return Ok(()) };
        let source = &self.sites[0];
        let oldest = source.log.iter().find(|s| s.record.seq > held.seq);
        let truth = oldest.map_or(0, |s| self.now - source.times[&s.moment()]);
        match self.links[0].rpo(self.now) {
            Rpo::None => Ok(()),
            said if said.ns().unwrap_or(0) < truth => violation(format!("rpo {said}, in truth {truth} ns")),
            Rpo::Exact(said) => {
                // What is confirmed may not have been heard of yet; the age is of something sent before.
                let confirmed = self.links[0].confirmed().map_or(0, |s| s.0).min(self.cursor);
                let unheard = source.log.iter().find(|s| s.record.seq.0 > confirmed);
                let most = unheard.map_or(0, |s| self.now - source.times[&s.moment()]);
                // Of a record made between the process's first connect and its first verdict it knows that.
                let most = if most > 0 { most.max(self.now - self.first) } else { 0 };
                if said > most + 10 * MS {
                    violation(format!("rpo {said} ns, at most {most}"))
                } else {
                    Ok(())
                }
            }
            Rpo::AtLeast(_) => Ok(()),
        }?;
        match self.links[1].rpo(self.now).ns() {
            Some(said)
                if self.up && self.now > self.stalled + 15_000 * MS && said + 3 * DELAY_MAX < truth =>
            {
                violation(format!("the target says {said} ns, in truth {truth}"))
            }
            _ => Ok(()),
        }
    }
}
