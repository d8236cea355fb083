//! The source's half: ships what is durable, in order; where records are gone it copies.
//!
//! A1. Only what is durable here is shipped.
//! A2. At a connect the target's own head, or its own staged moment, says where to go on. Nothing that was sent is
//!     remembered over a connection.
//! A3. At most `window` bytes are unconfirmed at any time; so a cut costs at most those again.
//! A4. A confirmation names moment and chain value; they must be those that were sent.
//! A5. A fill is read at exactly the moment sent last: one read is under way at a time, and the cursor doesn't move
//!     before its answer was sent.
//! A6. A staged copy goes on only if its staged moment is on this site's line, with this site's chain value there.
//! A7. What records changed that were skipped is missing again. Ranges of zeros are filled like others.
//! A8. Publishing is asked for when nothing is missing, at the cursor.
//! A9. While it is held nothing is read to be shipped, whatever begins anew meanwhile; what a handover needs is.

use crate::exchange::effect::{Effect, Found, Plan, Planned, Report, Ticket};
use crate::exchange::message::{About, CopyStatement, Data, Fill, Frame, Standing};
use crate::exchange::ranges::{DiskRange, RangeSet};
use crate::exchange::record::Record;
use crate::exchange::rules::Rules;
use crate::exchange::wire::RANGES_MAX;
use crate::history::{ChainValue, Common, DiskSize, Table};
use crate::vocab::{Codec, DiskOrdinal, EpochId, GroupId, Moment, PAYLOAD_MAX, RecordKind};
use std::collections::VecDeque;

/// Bytes of records in one message, about.
pub(crate) const BATCH_BYTES: u64 = 1 << 20;

/// A range of zeros counts as its length by this, so that a window doesn't hold so much of a hole that reading it keeps
/// the connection silent.
const ZEROS_WEIGH: u64 = 16;

/// A frame that the target hasn't confirmed.
struct Flying {
    frame: u64,
    bytes: u64,
    moment: Moment,
    chain: ChainValue,
    /// Sent into a copy, not onto the target's line.
    staged: bool,
}

/// A copy under way.
struct CopyOut {
    copy: crate::vocab::Token,
    missing: RangeSet,
    phase: CopyPhase,
    /// Whose turn it is.
    fill_next: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CopyPhase {
    /// The target's ranges since the proved moment were asked for.
    AskingRanges {
        after: Moment,
    },
    Planning,
    /// The staged moment's value was asked for here.
    Comparing,
    /// The target was asked what it misses.
    Asking,
    Streaming,
    /// The records behind the cursor are gone.
    Skipping,
    Sizing,
    Publishing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reading {
    Records,
    Fill(DiskRange),
    Other,
}

/// A source, connected to a target that follows.
pub(crate) struct Source {
    group: GroupId,
    rules: Rules,
    window: u64,
    fill_bytes: u64,
    standing: Standing,
    /// Ship up to here; behind the durable moment while a copy frequency isn't due.
    limit: Moment,
    cursor: Option<(Moment, ChainValue)>,
    flying: VecDeque<Flying>,
    flying_bytes: u64,
    sent: u64,
    reading: Option<(Ticket, Reading)>,
    copy: Option<CopyOut>,
    heard: RangeSet,
    staged: Option<CopyStatement>,
    begun: bool,
    /// What is told with each message.
    pub lag_ns: u64,
    /// A9.
    pub held: bool,
}

/// Why a connection must end: a name and a sentence.
pub(crate) type Refusal = (&'static str, String);

/// What a source needs for every step.
pub(crate) struct Desk<'a> {
    pub out: &'a mut Vec<Effect>,
    pub tickets: &'a mut dyn FnMut() -> Ticket,
}

impl Source {
    /// A source whose target is at `cursor` and has (maybe) something staged. Nothing is begun before
    /// [`Self::begin`].
    pub fn new(
        group: GroupId,
        rules: Rules,
        (window, fill_bytes): (u64, u64),
        standing: Standing,
        cursor: Option<(Moment, ChainValue)>,
        staged: Option<CopyStatement>,
    ) -> Self {
        Self {
            group,
            rules,
            window,
            fill_bytes: fill_bytes.clamp(1, PAYLOAD_MAX),
            standing,
            limit: standing.durable,
            cursor,
            flying: VecDeque::new(),
            flying_bytes: 0,
            sent: 0,
            reading: None,
            copy: None,
            heard: RangeSet::new(),
            staged,
            begun: false,
            lag_ns: 0,
            held: false,
        }
    }

    /// Begins: goes on with a staged copy, ships records, or plans a copy. `common`: none if the target has no image.
    pub fn begin(&mut self, by_records: bool, common: Option<Common>, table: &Table, desk: &mut Desk<'_>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        if let Some(staged) = self.staged.take() {
            // A6: by name here, by value when it is read.
            let known = table.is_on_line(staged.staged, self.standing.durable).unwrap_or(false);
            if known || !self.rules.compare_staged {
                self.staged = Some(staged.clone());
                self.copy = Some(CopyOut {
                    copy: staged.copy,
                    missing: RangeSet::new(),
                    phase: CopyPhase::Comparing,
                    fill_next: false,
                });
                let ticket = (desk.tickets)();
                self.reading = Some((ticket, Reading::Other));
                desk.out.push(Effect::ReadChain(ticket, staged.staged));
                return;
            }
            self.abandon(&staged, desk);
        }
        self.begin_anew(by_records, common, desk);
    }

    fn begin_anew(&mut self, by_records: bool, common: Option<Common>, desk: &mut Desk<'_>) {
        match (common, self.cursor) {
            (None, _) | (_, None) => self.plan(Plan::Initial, desk),
            (Some(_), Some(_)) if by_records => self.pump(desk),
            (Some(common), _) => match common.proved.filter(|_| common.agrees()) {
                Some(after) => {
                    self.heard = RangeSet::new();
                    self.set_phase(CopyPhase::AskingRanges { after });
                    desk.out.push(Effect::say(self.group, About::AskRanges { after }));
                }
                None => self.plan(Plan::Everything, desk),
            },
        }
    }

    fn abandon(&mut self, staged: &CopyStatement, desk: &mut Desk<'_>) {
        desk.out.push(Effect::Report(Report::CopyAbandoned));
        desk.out.push(Effect::say(self.group, About::CopyDrop { copy: staged.copy }));
        self.copy = None;
    }

    fn set_phase(&mut self, phase: CopyPhase) {
        match &mut self.copy {
            Some(copy) => copy.phase = phase,
            None => {
                let copy = crate::vocab::Token::NONE;
                self.copy = Some(CopyOut { copy, missing: RangeSet::new(), phase, fill_next: false });
            }
        }
    }

    fn plan(&mut self, plan: Plan, desk: &mut Desk<'_>) {
        self.set_phase(CopyPhase::Planning);
        let ticket = (desk.tickets)();
        self.reading = Some((ticket, Reading::Other));
        desk.out.push(Effect::PlanCopy(ticket, plan));
    }

    fn phase(&self) -> Option<CopyPhase> {
        self.copy.as_ref().map(|c| c.phase)
    }

    /// The moment below which base and floor of every disk must stay, if a copy is under way.
    pub fn pinned(&self) -> Option<Moment> {
        self.copy.as_ref().and(self.cursor).map(|(moment, _)| moment)
    }

    /// Bytes that a copy has still to fill.
    pub fn copy_left(&self) -> Option<u64> {
        self.copy.as_ref().map(|copy| copy.missing.bytes())
    }

    /// Bytes that were sent and not confirmed.
    pub fn flying_bytes(&self) -> u64 {
        self.flying_bytes
    }

    /// Whether records are shipped on the line, not into a copy: known once it has begun.
    pub fn is_shipping(&self) -> bool {
        self.begun && self.copy.is_none()
    }

    /// More records, or more durable ones. `due`: whether all of them may be shipped now.
    pub fn progress(&mut self, standing: Standing, due: bool, desk: &mut Desk<'_>) {
        self.standing = standing;
        // A1.
        let end = if self.rules.durable_only { standing.durable } else { standing.head };
        if due {
            self.limit = end;
        }
        self.pump(desk);
    }

    fn room(&self) -> bool {
        self.flying_bytes < self.window && !self.held
    }

    /// Asks for the next thing to send, if there is room for it.
    fn pump(&mut self, desk: &mut Desk<'_>) {
        let (None, true, Some((cursor, _))) = (self.reading, self.room() && self.begun, self.cursor) else {
            return;
        };
        let copying = self.copy.is_some();
        // A copy takes all that is durable: its records are part of what ends it.
        let end = if !copying {
            self.limit
        } else if self.rules.durable_only {
            self.standing.durable
        } else {
            self.standing.head
        };
        let records = cursor.seq < end.seq;
        let Some(copy) = &mut self.copy else {
            if records {
                self.read_records(cursor, end, desk);
            }
            return;
        };
        if copy.phase != CopyPhase::Streaming {
            return;
        }
        let range = copy.missing.first(self.fill_bytes);
        let fill = range.filter(|_| copy.fill_next || !records);
        copy.fill_next = !copy.fill_next;
        let ticket = (desk.tickets)();
        match (fill, range) {
            (Some(range), _) => {
                self.reading = Some((ticket, Reading::Fill(range)));
                // A5.
                let at = if self.rules.fill_at_cursor { cursor } else { end };
                desk.out.push(Effect::ReadFill(ticket, at, range));
            }
            (None, Some(_)) => self.read_records(cursor, end, desk),
            (None, None) => {
                // A8.
                copy.phase = CopyPhase::Sizing;
                self.reading = Some((ticket, Reading::Other));
                desk.out.push(Effect::ReadSizes(ticket, cursor));
            }
        }
    }

    fn read_records(&mut self, after: Moment, upto: Moment, desk: &mut Desk<'_>) {
        let ticket = (desk.tickets)();
        self.reading = Some((ticket, Reading::Records));
        let max_bytes = BATCH_BYTES.min(self.window - self.flying_bytes);
        desk.out.push(Effect::ReadRecords { ticket, after, upto, max_bytes });
    }

    fn answered(&mut self, ticket: Ticket) -> Option<Reading> {
        let (_, reading) = self.reading.filter(|(t, _)| *t == ticket)?;
        self.reading = None;
        Some(reading)
    }

    /// Records, or that they are gone.
    pub fn records_read(&mut self, ticket: Ticket, found: Found, desk: &mut Desk<'_>) {
        if self.answered(ticket) != Some(Reading::Records) {
            return;
        }
        match (found, self.cursor) {
            (Found::Records { epoch, records, chain }, _) if !records.is_empty() => {
                self.send_records(epoch, records, chain, desk);
                self.pump(desk);
            }
            (_, Some((cursor, _))) if self.copy.is_some() => self.skip(cursor, desk),
            (_, Some((cursor, _))) => self.plan(Plan::Backlog { after: cursor }, desk),
            (_, None) => {}
        }
    }

    fn skip(&mut self, cursor: Moment, desk: &mut Desk<'_>) {
        self.set_phase(CopyPhase::Skipping);
        let ticket = (desk.tickets)();
        self.reading = Some((ticket, Reading::Other));
        desk.out.push(Effect::PlanSkip(ticket, cursor));
    }

    fn send_records(&mut self, epoch: EpochId, records: Vec<Record>, chain: ChainValue, desk: &mut Desk<'_>) {
        let bytes = records.iter().map(Record::weight).sum();
        if let Some(copy) = &mut self.copy {
            records.iter().for_each(|r| shrink(&mut copy.missing, r));
        }
        let standing = Standing { lag_ns: self.lag_ns, ..self.standing };
        let data = Data { group: self.group, epoch, records, chain, standing };
        if let Some(moment) = data.moment() {
            self.cursor = Some((moment, chain));
        }
        desk.out.push(Effect::Send(Frame::Data(Box::new(data))));
        self.fly(bytes);
    }

    fn fly(&mut self, bytes: u64) {
        self.sent += 1;
        if let Some((moment, chain)) = self.cursor {
            let staged = self.copy.is_some();
            self.flying.push_back(Flying { frame: self.sent, bytes, moment, chain, staged });
            self.flying_bytes += bytes;
        }
    }

    /// The bytes of a range at the cursor.
    pub fn fill_read(&mut self, ticket: Ticket, read: Option<Option<Vec<u8>>>, desk: &mut Desk<'_>) {
        let (Some(Reading::Fill(range)), Some((at, _))) = (self.answered(ticket), self.cursor) else {
            return;
        };
        let Some(copy) = &mut self.copy else { return };
        let Some(content) = read else { return self.skip(at, desk) };
        copy.missing.remove(range);
        let (codec, payload) = match content {
            Some(bytes) => (Codec::Plain, bytes),
            None => (Codec::Zeros, Vec::new()),
        };
        let bytes =
            payload.len() as u64 + 96 + if codec == Codec::Zeros { range.length / ZEROS_WEIGH } else { 0 };
        let fill = Fill {
            group: self.group,
            copy: copy.copy,
            at,
            disk: range.disk,
            offset: range.offset,
            length: range.length,
            codec,
            payload,
        };
        desk.out.push(Effect::Send(Frame::Fill(Box::new(fill))));
        self.fly(bytes);
        self.pump(desk);
    }

    /// A copy is planned.
    pub fn planned(&mut self, ticket: Ticket, planned: Planned, desk: &mut Desk<'_>) {
        if self.answered(ticket).is_none() {
            return;
        }
        send_ranges(self.group, &planned.set, desk.out);
        let Planned { copy, reason, onto_image, at, chain, ref disks, .. } = planned;
        let begin = About::CopyBegin { copy, reason, onto_image, at, chain, disks: disks.clone() };
        desk.out.push(Effect::say(self.group, begin));
        desk.out.push(Effect::Report(Report::CopyBegun { reason, bytes: planned.set.bytes() }));
        self.cursor = Some((at, chain));
        let missing = planned.set;
        self.copy = Some(CopyOut { copy, missing, phase: CopyPhase::Streaming, fill_next: true });
        self.pump(desk);
    }

    /// Where the stream of a copy goes on.
    pub fn skip_planned(
        &mut self,
        ticket: Ticket,
        to: Moment,
        chain: ChainValue,
        mut ranges: RangeSet,
        desk: &mut Desk<'_>,
    ) {
        let (Some(_), Some(copy)) = (self.answered(ticket), &mut self.copy) else { return };
        if !self.rules.skipped_join_set {
            ranges = RangeSet::new();
        }
        // A7.
        copy.missing.extend(&ranges);
        copy.phase = CopyPhase::Streaming;
        copy.fill_next = true;
        let name = copy.copy;
        self.cursor = Some((to, chain));
        send_ranges(self.group, &ranges, desk.out);
        desk.out.push(Effect::say(self.group, About::CopySkip { copy: name, to, chain }));
        desk.out.push(Effect::Report(Report::CopySkipped { bytes: ranges.bytes() }));
        self.pump(desk);
    }

    /// The chain value at the staged moment. A6.
    pub fn chain_read(
        &mut self,
        ticket: Ticket,
        chain: Option<ChainValue>,
        again: (bool, Option<Common>),
        desk: &mut Desk<'_>,
    ) {
        if self.answered(ticket).is_none() || self.phase() != Some(CopyPhase::Comparing) {
            return;
        }
        let Some(staged) = self.staged.take() else { return };
        if chain != Some(staged.chain) && self.rules.compare_staged {
            self.abandon(&staged, desk);
            return self.begin_anew(again.0, again.1, desk);
        }
        self.cursor = Some((staged.staged, staged.chain));
        self.heard = RangeSet::new();
        self.set_phase(CopyPhase::Asking);
        desk.out.push(Effect::say(self.group, About::AskMissing { copy: staged.copy }));
    }

    /// Ranges that the target was asked for.
    pub fn ranges(&mut self, ranges: &[DiskRange], more: bool, desk: &mut Desk<'_>) {
        ranges.iter().for_each(|r| self.heard.add(*r));
        if more {
            return;
        }
        let heard = std::mem::take(&mut self.heard);
        match self.phase() {
            Some(CopyPhase::AskingRanges { after }) => self.plan(Plan::Delta { after, theirs: heard }, desk),
            Some(CopyPhase::Asking) => {
                if let Some(copy) = &mut self.copy {
                    desk.out.push(Effect::Report(Report::CopyResumed { bytes: heard.bytes() }));
                    copy.missing = heard;
                    copy.phase = CopyPhase::Streaming;
                }
                self.pump(desk);
            }
            _ => {}
        }
    }

    /// Files and sizes at the cursor: publish.
    pub fn sizes_read(&mut self, ticket: Ticket, disks: Vec<DiskSize>, desk: &mut Desk<'_>) {
        let (Some(_), Some((to, chain)), Some(copy)) = (self.answered(ticket), self.cursor, &mut self.copy)
        else {
            return;
        };
        copy.phase = CopyPhase::Publishing;
        let copy = copy.copy;
        desk.out.push(Effect::say(self.group, About::Publish { copy, to, chain, disks }));
    }

    /// The target has published.
    pub fn published(&mut self, to: Moment, desk: &mut Desk<'_>) -> Result<(), Refusal> {
        if self.phase() != Some(CopyPhase::Publishing) || self.cursor.map(|(m, _)| m) != Some(to) {
            return Err(("protocol-error", "the peer published a copy that wasn't asked for".into()));
        }
        self.copy = None;
        if let Some((moment, chain)) = self.cursor {
            desk.out.push(Effect::Acknowledged(moment, chain));
        }
        desk.out.push(Effect::Report(Report::CopyPublished { to }));
        self.pump(desk);
        Ok(())
    }

    /// What this side would believe of the target's staging if it didn't ask.
    #[cfg(test)]
    pub fn remembered(&self) -> Option<(CopyStatement, RangeSet)> {
        let ((staged, chain), copy) = (self.cursor?, self.copy.as_ref()?);
        let reason = crate::history::JumpReason::Initial;
        let missing_bytes = copy.missing.bytes();
        let statement = CopyStatement { copy: copy.copy, reason, staged, chain, missing_bytes };
        (copy.phase == CopyPhase::Streaming).then(|| (statement, copy.missing.clone()))
    }

    /// Everything up to a frame is durable at the target. A4. Gives the moment that the target's line holds.
    pub fn acked(
        &mut self,
        frames: u64,
        moment: Moment,
        chain: ChainValue,
        desk: &mut Desk<'_>,
    ) -> Result<Option<Moment>, Refusal> {
        let mut last = None;
        while self.flying.front().is_some_and(|f| f.frame <= frames) {
            last = self.flying.pop_front();
            self.flying_bytes -= last.as_ref().map_or(0, |f| f.bytes);
        }
        let Some(last) = last else { return Ok(None) };
        if last.frame != frames || last.moment != moment || last.chain != chain {
            let text = format!(
                "the peer confirmed {moment} with {chain}, sent were {} and {}",
                last.moment, last.chain
            );
            return Err(("corruption", text));
        }
        let staged = last.staged;
        desk.out.push(if staged {
            Effect::Staged(moment, chain)
        } else {
            Effect::Acknowledged(moment, chain)
        });
        self.pump(desk);
        Ok((!staged).then_some(moment))
    }
}

/// What a record does to the set of missing ranges: what no longer exists isn't missing. Of a file that gets shorter that
/// is what the record itself turns into zeros, from the new size to the old one. Behind the old one something can be
/// missing after a skip: what was staged before it, of a file that was longer then, has to read as zeros.
pub(crate) fn shrink(missing: &mut RangeSet, record: &Record) {
    match record.kind {
        RecordKind::Resize if record.offset < record.length => {
            let (disk, offset) = (record.disk, record.offset);
            missing.remove(DiskRange { disk, offset, length: record.length - offset });
        }
        RecordKind::Remove if record.disk != DiskOrdinal(0) => missing.cut(record.disk, 0),
        _ => {}
    }
}

/// Ranges in messages of bounded size; at least one message.
pub(crate) fn send_ranges(group: GroupId, set: &RangeSet, out: &mut Vec<Effect>) {
    let all: Vec<DiskRange> = set.iter().collect();
    let mut pages = all.chunks(RANGES_MAX).peekable();
    if pages.peek().is_none() {
        out.push(Effect::say(group, About::Ranges { ranges: Vec::new(), more: false }));
    }
    while let Some(page) = pages.next() {
        let more = pages.peek().is_some();
        out.push(Effect::say(group, About::Ranges { ranges: page.to_vec(), more }));
    }
}
