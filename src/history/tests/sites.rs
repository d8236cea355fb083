//! Two sites of a group with everything around the rules of this room: records by moment, ranges, chain values, a base
//! with position and floor, jumps. The rules themselves (lines, normal form, common moment, decisions, ways) are the
//! product's. `Wrong` names what is left out.

use crate::history::{
    ChainMark, ChainRecord, ChainValue, Common, Holding, LineMarks, MarkReason, MarkSet, Path, Row, RowKind,
    Table, common_by_rows, common_of, epoch_start, genesis_value, overrules, step,
};
use crate::vocab::{DiskOrdinal, EpochId, GroupId, Moment, RecordKind, Seq, StoreId, Token};
use std::collections::{BTreeMap, BTreeSet};

pub const BLOCKS: usize = 5;
pub const GROUP: GroupId = GroupId([0x99; 16]);
pub type Image = [u64; BLOCKS];

/// What a control leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Leave {
    Integer,
    NoChain,
    Memory,
    ForgetRanges,
    ShipAhead,
    OneEpoch,
    ReplayBase,
    ShortLog,
    LoseFrom,
    LoweredCommon,
    YieldToTarget,
    SourceForgotten,
}

#[derive(Debug)]
pub struct Violation(pub &'static str);

pub struct World {
    pub rng: fastrand::Rng,
    pub wrong: BTreeSet<Leave>,
    /// The image of every moment ever made; none: the name has two contents, only the chain can tell.
    pub truth: BTreeMap<Moment, Option<Image>>,
    pub count: u64,
    pub went_back: bool,
}

impl World {
    pub fn lacks(&self, rule: Leave) -> bool {
        self.wrong.contains(&rule)
    }

    fn made(&mut self, moment: Moment, image: Image) -> Result<(), Violation> {
        let known = self.truth.entry(moment).or_insert(Some(image));
        if *known != Some(image) {
            if self.wrong.contains(&Leave::Memory) {
                *known = None;
            } else if self.wrong.is_empty() {
                return Err(Violation("one name, two contents"));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub struct Record {
    pub jump: bool,
    pub changes: BTreeMap<usize, u64>,
}

#[derive(Clone)]
pub struct Site {
    pub id: StoreId,
    pub table: Table,
    pub records: BTreeMap<Moment, Record>,
    pub ranges: BTreeMap<Moment, BTreeSet<usize>>,
    pub chain: BTreeMap<Moment, ChainValue>,
    pub jumps: BTreeMap<Moment, Option<Moment>>,
    pub pinned: BTreeSet<Moment>,
    pub base: Image,
    pub base_at: Moment,
    pub floor: Moment,
    pub head: Moment,
    pub durable: Moment,
    pub writing: bool,
    pub failed_over: bool,
    pub received: Option<Moment>,
    pub peer_head: Option<Moment>,
    pub oldest: Option<Moment>,
}

pub fn row(epoch: EpochId, fork: Option<(Moment, ChainValue)>, site: StoreId, kind: RowKind) -> Row {
    Row {
        epoch,
        parent: fork.map(|(m, _)| m.epoch),
        fork_seq: fork.map_or(Seq(0), |(m, _)| m.seq),
        fork_chain: fork.map_or(ChainValue::ZERO, |(_, h)| h),
        site,
        kind,
        overrules: None,
        op: Token::NONE,
        time_ns: 0,
    }
}

fn epoch_number(n: u64, site: u8) -> EpochId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    id[15] = site;
    EpochId(id)
}

impl Site {
    pub fn new(name: u8) -> Self {
        let genesis = epoch_number(1, 0);
        let root = Moment::new(genesis, 0);
        let mut table = Table::new();
        table.insert(row(genesis, None, StoreId([b'A'; 16]), RowKind::Genesis)).unwrap();
        Self {
            id: StoreId([name; 16]),
            table,
            records: BTreeMap::new(),
            ranges: BTreeMap::new(),
            chain: BTreeMap::from([(root, genesis_value(GROUP, genesis))]),
            jumps: BTreeMap::new(),
            pinned: BTreeSet::new(),
            base: [0; BLOCKS],
            base_at: root,
            floor: root,
            head: root,
            durable: root,
            writing: name == b'A',
            failed_over: false,
            received: None,
            peer_head: None,
            oldest: None,
        }
    }

    pub fn norm(&self, m: Moment) -> Moment {
        self.table.norm(m).unwrap()
    }

    pub fn before(&self, w: &World, m: Moment) -> Option<Moment> {
        match self.jumps.get(&m) {
            Some(from) if !w.lacks(Leave::LoseFrom) || self.records.contains_key(&m) => *from,
            _ => self.table.below(m).unwrap(),
        }
    }

    /// Moments from `m` down to, without, `stop`, by content; none if `stop` isn't met.
    pub fn walk(&self, w: &World, m: Moment, stop: Moment) -> Option<Vec<Moment>> {
        let mut out = Vec::new();
        let mut at = Some(m);
        while at != Some(stop) {
            let here = at.filter(|m| self.ranges.contains_key(m))?;
            out.push(here);
            at = self.before(w, here);
        }
        Some(out)
    }

    pub fn view(&self, w: &World, m: Moment) -> Option<Image> {
        let walk = self.walk(w, self.norm(m), self.base_at)?;
        if !walk.contains(&self.floor) && self.floor != self.base_at {
            return None;
        }
        let mut image = self.base;
        for moment in walk.iter().rev() {
            for (&block, &value) in &self.records.get(moment)?.changes {
                image[block] = value;
            }
        }
        Some(image)
    }

    pub fn moments(&self, w: &World) -> Vec<Moment> {
        let mut out = Vec::new();
        let mut at = Some(self.norm(self.head));
        while let Some(m) = at.filter(|m| out.len() < 8 && self.view(w, *m).is_some()) {
            out.push(m);
            at = if Some(m) == self.oldest { None } else { self.before(w, m) };
        }
        out
    }

    pub fn put(&mut self, at: Moment, record: Record, from: Option<Moment>, chain: ChainValue) {
        self.ranges.insert(at, record.changes.keys().copied().collect());
        if record.jump {
            self.jumps.insert(at, from);
        }
        self.records.insert(at, record);
        self.chain.insert(at, chain);
        self.head = at;
    }

    fn append(
        &mut self,
        w: &mut World,
        changes: BTreeMap<usize, u64>,
        row: Option<&Row>,
    ) -> Result<(), Violation> {
        let mut image = self.view(w, self.head).ok_or(Violation("head cannot be shown"))?;
        let at = Moment { epoch: self.head.epoch, seq: self.head.seq.next() };
        let before = self.norm(self.head);
        let known = self.chain[&before];
        let start = match row {
            Some(row) if !w.lacks(Leave::Integer) => epoch_start(GROUP, row.epoch, Some((before, known))),
            _ => known,
        };
        let record = ChainRecord {
            epoch: at.epoch,
            seq: at.seq,
            disk: DiskOrdinal(1),
            kind: if row.is_some() { RecordKind::Epoch } else { RecordKind::Write },
            flush: false,
            offset: 0,
            length: 0,
            time_ns: 0,
        };
        let link = step(&start, &record, Some(format!("{changes:?}").as_bytes()));
        for (&block, &value) in &changes {
            image[block] = value;
        }
        self.put(at, Record { jump: false, changes }, None, link);
        w.made(at, image)
    }

    pub fn write(&mut self, w: &mut World) -> Result<(), Violation> {
        let block = w.rng.usize(..BLOCKS);
        w.count += 1;
        let value = if w.rng.f64() < 0.9 { w.count } else { 0 };
        self.append(w, BTreeMap::from([(block, value)]), None)
    }

    /// The row is the epoch's first record; what it forks from is durable, and so is the row.
    pub fn new_epoch(&mut self, w: &mut World, fork: Moment, kind: RowKind) -> Result<(), Violation> {
        let fork = self.norm(fork);
        w.count += 1;
        let epoch = if w.lacks(Leave::Integer) {
            let newest = self.table.rows().map(|r| r.epoch).max().unwrap();
            epoch_number(u64::from_be_bytes(newest.0[..8].try_into().unwrap()) + 1, 0)
        } else {
            epoch_number(w.count + 1, self.id.0[0])
        };
        let value = self.chain.get(&fork).copied().ok_or(Violation("no chain value at a fork"))?;
        let mut row = row(epoch, Some((fork, value)), self.id, kind);
        if kind.decided() {
            row.overrules = overrules(&self.table, fork, self.peer_head).unwrap();
        }
        self.table.insert(row.clone()).unwrap();
        self.head = Moment { epoch, seq: fork.seq };
        self.append(w, BTreeMap::new(), Some(&row))?;
        self.durable = self.head;
        Ok(())
    }

    pub fn open(&mut self, w: &mut World) -> Result<(), Violation> {
        if w.lacks(Leave::Integer) || w.lacks(Leave::OneEpoch) {
            return Ok(());
        }
        self.new_epoch(w, self.head, RowKind::Open)
    }

    pub fn power_loss(&mut self, w: &mut World) -> Result<(), Violation> {
        for m in self.walk(w, self.head, self.durable).unwrap_or_default() {
            self.records.remove(&m);
            self.ranges.remove(&m);
            self.chain.remove(&m);
        }
        self.head = self.durable;
        self.open(w)
    }

    /// A round: floor first; a torn one leaves some blocks written and the old position.
    pub fn destage(&mut self, w: &mut World, torn: bool) {
        if self.failed_over {
            return;
        }
        if self.writing {
            self.durable = self.head;
        }
        let moments = self.moments(w);
        let target = if self.floor != self.base_at {
            self.floor
        } else {
            let Some(&m) = moments.get(w.rng.usize(..moments.len().max(1))) else { return };
            m
        };
        let (Some(walk), Some(image)) = (self.walk(w, target, self.base_at), self.view(w, target)) else {
            return;
        };
        self.floor = target;
        let blocks: BTreeSet<usize> =
            walk.iter().flat_map(|k| self.records[k].changes.keys().copied()).collect();
        for block in blocks {
            if !torn || w.rng.bool() {
                self.base[block] = image[block];
            }
        }
        if torn {
            return;
        }
        self.base_at = target;
        for k in walk {
            // Payload goes, ranges stay, marks stay.
            self.records.remove(&k);
            let kept =
                k.seq.0 % 3 == 0 || k == target || self.table.is_fork(k).unwrap() || self.pinned.contains(&k);
            if !kept {
                self.chain.remove(&k);
            }
        }
    }

    /// Withdraws the decisions that lead away from what was received.
    pub fn roll_back(&mut self, received: Moment) {
        let line = self.table.line(received).unwrap();
        let own: Vec<EpochId> = self.table.line(self.head).unwrap().steps().iter().map(|m| m.epoch).collect();
        for epoch in own {
            if line.place(epoch).is_none() && self.table.row(epoch).unwrap().decided() {
                self.table.withdraw(epoch, Token([1; 16]));
            }
        }
        self.head = received;
        (self.writing, self.failed_over) = (false, false);
    }

    // -- what the rules ask of a site --------------------------------------------------------------

    pub fn path(&self, w: &World, head: Moment) -> Path {
        let mut jumps = self.jumps.clone();
        if w.lacks(Leave::LoseFrom) {
            jumps.retain(|m, _| self.records.contains_key(m));
        }
        Path::build(&self.table, head, &jumps, None).unwrap()
    }

    fn deepest(&self, w: &World, has: impl Fn(&Moment) -> bool) -> Option<Moment> {
        let mut at = Some(self.norm(self.head));
        while let Some(m) = at.filter(|m| has(m)) {
            at = self.before(w, m);
        }
        at
    }

    pub fn holding<'a>(&self, w: &World, path: &'a Path) -> Holding<'a> {
        Holding {
            path,
            records_from: self.deepest(w, |m| self.records.contains_key(m)),
            ranges_from: self.deepest(w, |m| self.ranges.contains_key(m)),
        }
    }

    fn line_marks(&self, w: &World, head: Moment, common: Moment) -> LineMarks {
        let mut marks = MarkSet::default();
        for (m, &h) in &self.chain {
            // A value under a name that the table doesn't have: only where names collide.
            if self.table.norm(*m).is_ok() {
                marks.keep(ChainMark { epoch: m.epoch, seq: m.seq, h, time_ns: 0 }, MarkReason::Point);
            }
        }
        LineMarks::new(&marks, &self.table, &self.path(w, head), common).unwrap()
    }
}

/// The common moment of a's head and b's head, or of a moment of b, asked as over a connection.
pub fn common(w: &World, a: &Site, b: &Site, moment: Option<Moment>) -> Common {
    let theirs = moment.unwrap_or(b.head);
    let c = common_by_rows(&a.table, a.head, theirs).unwrap().unwrap();
    let mut found = common_of(c, &a.line_marks(w, a.head, c), &b.line_marks(w, theirs, c));
    if w.lacks(Leave::NoChain) {
        found.proved = found.compared;
    }
    found
}
