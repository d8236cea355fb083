//! A site's engine in memory: one disk of a few blocks, a line of records with a durable mark, a staging log. It carries
//! out the effects of a `GroupLink` one by one; between any two of them the power may fail.

use crate::exchange::rules::Rules;
use crate::exchange::*;
use crate::history::{
    ChainMark, ChainValue, DiskSize, JumpReason, LineMarks, MarkReason, MarkSet, Path, Row, RowKind,
    SourcePhase, SourceState, Table, TargetPhase, TargetSays, TargetState, epoch_start, genesis_value,
};
use crate::protection::PointSet;
use crate::vocab::{Codec, DiskOrdinal, EpochId, GroupId, Moment, RecordKind, Seq, StoreId, Token};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const GROUP: GroupId = GroupId([0x77; 16]);
pub const A: StoreId = StoreId([1; 16]);
pub const B: StoreId = StoreId([2; 16]);
pub const BLOCKS: usize = 16;
pub const BLOCK: u64 = 16;
pub type Image = [u64; BLOCKS];

pub fn range(block: usize) -> DiskRange {
    DiskRange { disk: DiskOrdinal(1), offset: block as u64 * BLOCK, length: BLOCK }
}

fn bytes(value: u64) -> Vec<u8> {
    [value.to_le_bytes(), value.to_le_bytes()].concat()
}

/// What a record of this model changes.
pub fn change(record: &Record) -> Option<(usize, u64)> {
    let value = |r: &Record| r.payload.get(..8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()));
    matches!(record.kind, RecordKind::Write).then(|| ((record.offset / BLOCK) as usize, value(record)))
}

/// Something in a staging log.
#[derive(Clone, Debug)]
pub enum Staged {
    Begin(Box<Planned>),
    Records(Moment, ChainValue, Vec<Record>),
    Fill(DiskRange, u64),
    Skip(Moment, ChainValue, RangeSet),
    /// The content was lost, the progress was not: only where a rule is left out.
    Lost(DiskRange),
}

#[derive(Clone, Debug)]
pub struct Stored {
    pub epoch: EpochId,
    pub record: Record,
    pub chain: ChainValue,
}

impl Stored {
    pub fn moment(&self) -> Moment {
        Moment { epoch: self.epoch, seq: self.record.seq }
    }
}

#[derive(Clone)]
pub struct Site {
    pub id: StoreId,
    pub table: Table,
    /// Where `log` begins, and the image there; none: it has none.
    pub start: Option<(Moment, ChainValue, Image)>,
    pub log: Vec<Stored>,
    pub durable: usize,
    /// Records below this place of the log have lost their payload.
    pub dropped: usize,
    pub jumps: BTreeMap<Moment, Option<Moment>>,
    pub chain: BTreeMap<Moment, ChainValue>,
    pub staging: Vec<Staged>,
    pub staging_synced: usize,
    /// A published jump whose staging isn't durable: only where a rule is left out.
    pub early: Option<(Moment, ChainValue)>,
    pub writes: bool,
    pub roles: Roles,
    pub handed: BTreeSet<Token>,
    pub cursor: Option<Moment>,
    pub todo: VecDeque<Effect>,
    /// Tickets appended but not yet durable.
    pub unsynced: Option<Ticket>,
    pub early_progress: bool,
    /// Monotonic times at which records were appended.
    pub times: BTreeMap<Moment, u64>,
    pub reports: Vec<Report>,
    pub rotten_reads: bool,
}

impl Site {
    pub fn source(image: Image) -> Self {
        let mut site = Self::target(A, None);
        let genesis = Row {
            epoch: EpochId([0xee; 16]),
            parent: None,
            fork_seq: Seq(0),
            fork_chain: ChainValue::ZERO,
            site: A,
            kind: RowKind::Genesis,
            overrules: None,
            op: Token::NONE,
            time_ns: 0,
        };
        let root = Moment { epoch: genesis.epoch, seq: Seq(0) };
        let start = genesis_value(GROUP, genesis.epoch);
        site.table.insert(genesis.clone()).unwrap();
        site.start = Some((root, start, image));
        site.chain.insert(root, start);
        site.writes = true;
        site.roles.source = SourcePhase::Writer;
        site.append(RecordKind::Epoch, 0, genesis.to_json(), start, genesis.epoch, 0);
        site.durable = 1;
        site
    }

    pub fn target(id: StoreId, image: Option<(Moment, ChainValue, Image)>) -> Self {
        Self {
            id,
            table: Table::new(),
            start: image,
            log: Vec::new(),
            durable: 0,
            dropped: 0,
            jumps: BTreeMap::new(),
            chain: image.iter().map(|(m, h, _)| (*m, *h)).collect(),
            staging: Vec::new(),
            staging_synced: 0,
            early: None,
            writes: false,
            roles: Roles {
                source: SourcePhase::None,
                target: TargetSays { phase: TargetPhase::Idle, ended: BTreeSet::new() },
                decision: None,
            },
            handed: BTreeSet::new(),
            cursor: None,
            todo: VecDeque::new(),
            unsynced: None,
            early_progress: false,
            times: BTreeMap::new(),
            reports: Vec::new(),
            rotten_reads: false,
        }
    }

    fn append(
        &mut self,
        kind: RecordKind,
        offset: u64,
        payload: Vec<u8>,
        on: ChainValue,
        epoch: EpochId,
        now: u64,
    ) {
        let seq = Seq(self.head().map_or(0, |(m, _)| m.seq.0) + 1);
        let length = payload.len() as u64;
        let zero = kind == RecordKind::Write && payload.iter().all(|b| *b == 0);
        let record = Record {
            disk: DiskOrdinal(u32::from(kind == RecordKind::Write)),
            kind,
            flags: 0,
            codec: if zero { Codec::Zeros } else { Codec::Plain },
            offset,
            length,
            seq,
            time_ns: now as i64,
            payload: if zero { Vec::new() } else { payload },
        };
        let chain = record.chain_after(epoch, &on);
        let stored = Stored { epoch, record, chain };
        self.chain.insert(stored.moment(), chain);
        self.times.insert(stored.moment(), now);
        self.log.push(stored);
    }

    pub fn write(&mut self, block: usize, value: u64, now: u64) {
        let (head, on) = self.head().unwrap();
        self.append(RecordKind::Write, block as u64 * BLOCK, bytes(value), on, head.epoch, now);
    }

    /// A writer in a new opening: the row is durable before anything else.
    pub fn begin_epoch(&mut self, epoch: EpochId, kind: RowKind, op: Token, now: u64) -> Row {
        let (fork, value) = self.head().unwrap();
        let row = Row {
            epoch,
            parent: Some(fork.epoch),
            fork_seq: fork.seq,
            fork_chain: value,
            site: self.id,
            kind,
            overrules: None,
            op,
            time_ns: now as i64,
        };
        self.table.insert(row.clone()).unwrap();
        let start = epoch_start(GROUP, epoch, Some((fork, value)));
        self.append(RecordKind::Epoch, 0, row.to_json(), start, epoch, now);
        self.durable = self.log.len();
        row
    }

    pub fn sync(&mut self) {
        self.durable = self.log.len();
        self.staging_synced = self.staging.len();
        if let Some((to, chain)) = self.early.take() {
            self.fold(to, chain);
        }
    }

    /// What isn't durable is gone (`power`), or the process is killed and everything appended stays.
    pub fn crash(&mut self, power: bool, rng: &mut fastrand::Rng) {
        self.todo.clear();
        self.unsynced = None;
        if power {
            for stored in self.log.drain(self.durable..) {
                let moment = Moment { epoch: stored.epoch, seq: stored.record.seq };
                self.chain.remove(&moment);
                self.times.remove(&moment);
            }
            let lost = self.staging.split_off(self.staging_synced.min(self.staging.len()));
            if self.early_progress || self.early.is_some() {
                self.staging.extend(lost.into_iter().map(|entry| match entry {
                    Staged::Fill(range, _) if rng.bool() => Staged::Lost(range),
                    Staged::Records(m, h, _) if rng.bool() => Staged::Records(m, h, Vec::new()),
                    other => other,
                }));
            }
        }
        self.sync();
    }

    pub fn head(&self) -> Option<(Moment, ChainValue)> {
        let last = self.log.last().map(|s| (s.moment(), s.chain));
        last.or(self.start.map(|(m, h, _)| (m, h)))
    }

    pub fn durable_head(&self) -> Option<(Moment, ChainValue)> {
        let last = self.durable.checked_sub(1).map(|at| (self.log[at].moment(), self.log[at].chain));
        last.or(self.start.map(|(m, h, _)| (m, h)))
    }

    /// How many records of the log lie at or below a moment; none if it isn't on the line.
    pub fn place(&self, moment: Moment) -> Option<usize> {
        if self.start.is_some_and(|(m, ..)| m == moment) {
            return Some(0);
        }
        self.log.iter().position(|s| s.moment() == moment).map(|at| at + 1)
    }

    pub fn image_at(&self, place: usize) -> Option<Image> {
        let mut image = self.start?.2;
        for (block, value) in self.log[..place].iter().filter_map(|s| change(&s.record)) {
            image[block] = value;
        }
        Some(image)
    }

    pub fn image(&self) -> Option<Image> {
        match self.early {
            Some(_) => Some(self.staged_image()),
            None => self.image_at(self.log.len()),
        }
    }

    pub fn standing(&self) -> Standing {
        let head = self.head().map_or(Moment::default(), |(m, _)| m);
        let durable = self.durable_head().map_or(Moment::default(), |(m, _)| m);
        Standing { head, durable, flushed: durable, lag_ns: 0 }
    }

    // -- staging -----------------------------------------------------------------------------------

    pub fn statement(&self) -> Option<(CopyStatement, RangeSet)> {
        let Some(Staged::Begin(begin)) = self.staging.first() else { return None };
        let mut missing = begin.set.clone();
        let (mut staged, mut chain) = (begin.at, begin.chain);
        for entry in &self.staging {
            match entry {
                Staged::Begin(_) => {}
                Staged::Records(moment, value, _) => (staged, chain) = (*moment, *value),
                Staged::Fill(range, _) | Staged::Lost(range) => missing.remove(*range),
                Staged::Skip(to, value, set) => {
                    (staged, chain) = (*to, *value);
                    missing.extend(set);
                }
            }
        }
        let missing_bytes = missing.bytes();
        let (copy, reason) = (begin.copy, begin.reason);
        Some((CopyStatement { copy, reason, staged, chain, missing_bytes }, missing))
    }

    fn staged_image(&self) -> Image {
        let mut image = self.image_at(self.log.len()).unwrap_or([u64::MAX; BLOCKS]);
        for entry in &self.staging {
            match entry {
                Staged::Records(_, _, records) => {
                    for (block, value) in records.iter().filter_map(change) {
                        image[block] = value;
                    }
                }
                Staged::Fill(range, value) if range.length > 0 => {
                    image[(range.offset / BLOCK) as usize] = *value
                }
                _ => {}
            }
        }
        image
    }

    /// The jump is part of the path: its image is the start of what follows.
    fn fold(&mut self, to: Moment, chain: ChainValue) {
        let image = self.staged_image();
        self.jumps.insert(to, self.head().map(|(m, _)| m));
        (self.log, self.durable, self.dropped) = (Vec::new(), 0, 0);
        self.start = Some((to, chain, image));
        self.chain.insert(to, chain);
        self.staging.clear();
        self.staging_synced = 0;
    }

    // -- the engine --------------------------------------------------------------------------------

    pub fn local(&self, now: u64) -> Box<Local> {
        let staged = self.statement();
        let behind = self.times.iter().filter(|(m, _)| self.cursor.is_none_or(|c| m.seq > c.seq));
        let oldest = behind.map(|(_, t)| *t).min();
        Box::new(Local {
            table: self.table.clone(),
            head: self.durable_head(),
            standing: self.standing(),
            writes: self.writes,
            follows: !self.writes && self.roles.source == SourcePhase::None,
            state: if self.writes { "protected".into() } else { "standby".into() },
            roles: self.roles.clone(),
            handed: self.handed.clone(),
            oldest: None,
            ranges_from: None,
            missing: staged.as_ref().map(|(_, m)| m.clone()).unwrap_or_default(),
            copy: staged.map(|(s, _)| s),
            notices: Vec::new(),
            points: PointSet::default(),
            cursor: self.cursor,
            backlog_age_ns: oldest.map_or(0, |t| now - t),
        })
    }

    fn marks(&self, common: Moment) -> LineMarks {
        let mut marks = MarkSet::default();
        for (m, h) in &self.chain {
            marks.keep(ChainMark { epoch: m.epoch, seq: m.seq, h: *h, time_ns: 0 }, MarkReason::Point);
        }
        let head = self.durable_head().unwrap().0;
        let path = Path::build(&self.table, head, &self.jumps, None).unwrap();
        LineMarks::new(&marks, &self.table, &path, common).unwrap()
    }

    fn changed(&self, from: usize, to: usize) -> RangeSet {
        self.log[from.min(to)..to].iter().filter_map(|s| change(&s.record)).map(|(b, _)| range(b)).collect()
    }

    /// Carries out the oldest effect. Gives an answer for the link, if there is one.
    pub fn carry_out(&mut self, rules: Rules, rng: &mut fastrand::Rng) -> Option<Event> {
        Some(match self.todo.pop_front()? {
            Effect::StoreRows(ticket, rows, withdrawn) => {
                rows.into_iter().for_each(|r| assert!(self.table.insert(r).is_ok()));
                withdrawn.into_iter().for_each(|(e, op)| _ = self.table.withdraw(e, op));
                Event::RowsStored(ticket)
            }
            Effect::ReadMarks(ticket, common) => Event::MarksRead(ticket, self.marks(common)),
            Effect::ReadRecords { ticket, after, upto, .. } => {
                let end = self.place(upto).unwrap_or(0);
                Event::RecordsRead(ticket, self.read_records(after, end, rng))
            }
            Effect::ReadFill(ticket, at, wanted) => {
                let place = self.place(at).unwrap_or(self.durable);
                let block = (wanted.offset / BLOCK) as usize;
                let image = self.image_at(place).unwrap();
                let blocks = (wanted.length / BLOCK) as usize;
                let content: Vec<u8> = (block..block + blocks).flat_map(|b| bytes(image[b])).collect();
                let zero = content.iter().all(|b| *b == 0);
                Event::FillRead(ticket, Some((!zero).then_some(content)))
            }
            Effect::ReadChain(ticket, at) => Event::ChainRead(ticket, self.chain.get(&at).copied()),
            Effect::ReadSizes(ticket, _) => Event::SizesRead(ticket, disks()),
            Effect::PlanCopy(ticket, plan) => {
                let (at, chain) = self.durable_head().unwrap();
                let (reason, set) = match plan {
                    Plan::Initial | Plan::Everything => {
                        (JumpReason::Initial, (0..BLOCKS).map(range).collect())
                    }
                    Plan::Backlog { after } => {
                        (JumpReason::Backlog, self.changed(self.place(after).unwrap(), self.durable))
                    }
                    Plan::Delta { after, theirs } => {
                        let mut set = self.changed(self.place(after).unwrap(), self.durable);
                        set.extend(&theirs);
                        (JumpReason::Delta, set)
                    }
                };
                let copy = Token(rng.u128(..).to_le_bytes());
                let onto_image = reason != JumpReason::Initial;
                Event::CopyPlanned(
                    ticket,
                    Box::new(Planned { copy, reason, onto_image, at, chain, set, disks: disks() }),
                )
            }
            Effect::PlanSkip(ticket, after) => {
                // Off the line only where a rule is left out: then it goes by the number.
                let from = self.place(after).unwrap_or((after.seq.0 as usize).min(self.durable));
                let (to, chain) = self.durable_head().unwrap();
                Event::SkipPlanned(ticket, to, chain, self.changed(from, self.durable))
            }
            Effect::ReadRanges(ticket, after) => {
                Event::RangesRead(ticket, self.changed(self.place(after).unwrap_or(0), self.log.len()))
            }
            Effect::Append(ticket, data) => {
                for record in data.records {
                    let on = self.head().map_or(ChainValue::ZERO, |(_, h)| h);
                    let stored = Stored { epoch: data.epoch, chain: on, record };
                    self.times.insert(stored.moment(), 0);
                    self.log.push(stored);
                }
                if let Some(last) = self.log.last_mut() {
                    last.chain = data.chain;
                    self.chain.insert(last.moment(), data.chain);
                }
                self.unsynced = Some(ticket);
                return None;
            }
            Effect::BeginStaging(_, planned) => {
                self.staging = vec![Staged::Begin(planned)];
                self.staging_synced = 0;
                // The begin, with its set, is durable before anything is staged.
                self.staging_synced = 1;
                return None;
            }
            Effect::Stage(ticket, data) => {
                let moment = data.moment().unwrap();
                self.staging.push(Staged::Records(moment, data.chain, data.records));
                self.unsynced = Some(ticket);
                return None;
            }
            Effect::StageFill(ticket, fill) => {
                let value = fill.payload.get(..8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()));
                if fill.length == 0 {
                    let lost = DiskRange { disk: fill.disk, offset: fill.offset, length: BLOCK };
                    self.staging.push(Staged::Lost(lost));
                }
                for block in 0..fill.length / BLOCK {
                    let at = (block * BLOCK) as usize;
                    let value = fill
                        .payload
                        .get(at..at + 8)
                        .map_or(value, |b| u64::from_le_bytes(b.try_into().unwrap()));
                    self.staging.push(Staged::Fill(range((fill.offset / BLOCK + block) as usize), value));
                }
                self.unsynced = Some(ticket);
                return None;
            }
            Effect::StageSkip(_, to, chain, set) => {
                self.staging.push(Staged::Skip(to, chain, set));
                return None;
            }
            Effect::DropStaging(_) => {
                self.staging.clear();
                self.staging_synced = 0;
                return None;
            }
            Effect::PublishJump { ticket, to, chain, .. } => {
                if self.staging_synced == self.staging.len() {
                    self.fold(to, chain);
                } else {
                    assert!(
                        !rules.publish_after_durable || self.early_progress,
                        "published before it is durable"
                    );
                    self.early = Some((to, chain));
                }
                Event::JumpPublished(ticket)
            }
            Effect::Acknowledged(moment, _) => {
                self.cursor = Some(moment);
                return None;
            }
            Effect::SourceStep(step) => {
                self.sync();
                let (head, chain) = self.durable_head().unwrap();
                let state = SourceState { phase: self.roles.source, handed: self.handed.clone() };
                if let Some(state) = state.after(step, head, chain) {
                    self.writes = state.writes();
                    (self.roles.source, self.handed) = (state.phase, state.handed);
                }
                Event::Roles(self.roles.clone())
            }
            Effect::MayDecide(op) => {
                let before =
                    TargetState { phase: self.roles.target.phase, ended: self.roles.target.ended.clone() };
                let epoch = EpochId(op.0);
                // Cancelled meanwhile: nothing can be decided any more.
                let after = before.decided(epoch).filter(|_| before.phase == TargetPhase::Intent { op })?;
                self.roles.decision = Some(self.begin_epoch(epoch, RowKind::Planned, op, 0));
                (self.roles.target, self.writes) = (after.says(), true);
                self.roles.source = SourcePhase::Writer;
                Event::Roles(self.roles.clone())
            }
            Effect::Report(report) => {
                self.reports.push(report);
                return None;
            }
            _ => return None,
        })
    }

    fn read_records(&self, after: Moment, end: usize, rng: &mut fastrand::Rng) -> Found {
        let Some(from) = self.place(after).filter(|p| *p >= self.dropped && *p < end) else {
            return Found::Gone;
        };
        let epoch = self.log[from].epoch;
        let many = rng.usize(1..6);
        let run: Vec<&Stored> =
            self.log[from..end].iter().take(many).take_while(|s| s.epoch == epoch).collect();
        let chain = run.last().map_or(ChainValue::ZERO, |s| s.chain);
        let mut records: Vec<Record> = run.into_iter().map(|s| s.record.clone()).collect();
        if self.rotten_reads
            && rng.f64() < 0.1
            && let Some(byte) = records.iter_mut().flat_map(|r| r.payload.first_mut()).next()
        {
            *byte ^= 1;
        }
        Found::Records { epoch, records, chain }
    }
}

pub fn disks() -> Vec<DiskSize> {
    vec![DiskSize { disk: DiskOrdinal(1), size: BLOCKS as u64 * BLOCK }]
}
