//! The meeting: descriptors are exchanged, tables united, the common moment found and proved, the outcome told.
//!
//! 1. Nothing of what is said outlives the connection; both sides come to the same verdict from the same statements.
//! 2. Whether a side lacks a row of its own is asked before the tables are united.
//! 3. Rows that were heard are durable before the verdict is acted on.

use crate::exchange::effect::{Effect, Local, Ticket, Verdict};
use crate::exchange::message::{About, Descriptor};
use crate::exchange::wire::RECORDS_MAX;
use crate::history::{
    LineMarks, Outcome, Question, Row, Search, SearchStep, Side, SourcePhase, Table, common_by_rows, decide,
    lacks_own,
};
use crate::vocab::{EpochId, GroupId, Moment, StoreId, Token};

/// Rows in a descriptor.
pub(crate) const ROWS_SENT: usize = 64;
/// Rows in a page: far below the limit of a control message.
const ROWS_PAGE: usize = RECORDS_MAX / 4;

/// Where a meeting stands.
enum Phase {
    Descriptor,
    Rows,
    Storing,
    Marks,
    Searching(Box<Search>),
    Done,
}

/// One meeting of two sites about one group.
pub(crate) struct Meeting {
    group: GroupId,
    site: StoreId,
    peer: StoreId,
    phase: Phase,
    storing: Option<Ticket>,
    theirs: Table,
    descriptor: Option<Box<Descriptor>>,
    lacks: (Option<EpochId>, Option<EpochId>),
    common: Option<Moment>,
    marks: Option<LineMarks>,
    /// The peer's question that came before the marks.
    waiting: Option<Question>,
}

/// Why a meeting can't go on: a name and a sentence.
pub(crate) type Refusal = (&'static str, String);

/// What a step of the meeting gave.
pub(crate) enum Met {
    /// It goes on.
    NotYet,
    /// The verdict.
    Verdict(Verdict),
}

impl Meeting {
    /// Begins, and says what this site is. `number`: of the meeting within the connection.
    pub fn new(
        group: GroupId,
        (site, peer): (StoreId, StoreId),
        local: &Local,
        number: u64,
        out: &mut Vec<Effect>,
    ) -> Self {
        out.push(Effect::say(group, About::Descriptor(Box::new(descriptor(local, number)))));
        Self {
            group,
            site,
            peer,
            phase: Phase::Descriptor,
            storing: None,
            theirs: Table::new(),
            descriptor: None,
            lacks: (None, None),
            common: None,
            marks: None,
            waiting: None,
        }
    }

    /// Whether nothing was heard of the peer in this meeting yet.
    pub fn is_new(&self) -> bool {
        matches!(self.phase, Phase::Descriptor)
    }

    /// This site's marks, for questions that come when its own search is done.
    pub fn take_marks(&mut self) -> Option<LineMarks> {
        self.marks.take()
    }

    /// A message of the meeting.
    pub fn heard(
        &mut self,
        about: About,
        local: &mut Local,
        ticket: impl FnMut() -> Ticket,
        out: &mut Vec<Effect>,
    ) -> Result<Met, Refusal> {
        match (about, &self.phase) {
            (About::Descriptor(descriptor), Phase::Descriptor) => {
                self.learn(&descriptor.rows)?;
                for &(epoch, op) in &descriptor.withdrawn {
                    self.theirs.withdraw(epoch, op);
                }
                let whole = descriptor.rows_count as usize == descriptor.rows.len()
                    || descriptor.rows_digest == local.table.digest();
                if descriptor.rows_digest == local.table.digest() {
                    self.theirs = local.table.clone();
                }
                self.descriptor = Some(descriptor);
                if whole {
                    return self.united(local, ticket, out);
                }
                self.phase = Phase::Rows;
                out.push(Effect::say(self.group, About::AskRows { after: None }));
            }
            (About::Rows { rows, more }, Phase::Rows) => {
                self.learn(&rows)?;
                match rows.last().filter(|_| more) {
                    Some(last) => {
                        out.push(Effect::say(self.group, About::AskRows { after: Some(last.epoch) }));
                    }
                    None => return self.united(local, ticket, out),
                }
            }
            (About::AskMarks(question), _) => match &self.marks {
                Some(marks) => out.push(Effect::say(self.group, About::Marks(marks.answer(&question)))),
                None => self.waiting = Some(question),
            },
            (About::Marks(answer), Phase::Searching(_)) => {
                if let Phase::Searching(search) = &mut self.phase
                    && search.heard(&answer)
                {
                    return self.search(local, out);
                }
                return Err(("protocol-error", "the peer answered a question that wasn't asked".into()));
            }
            _ => return Err(("protocol-error", "the peer sent a message out of turn".into())),
        }
        Ok(Met::NotYet)
    }

    fn learn(&mut self, rows: &[Row]) -> Result<(), Refusal> {
        for row in rows {
            self.theirs.insert(row.clone()).map_err(|e| ("table-conflict", e.to_string()))?;
        }
        Ok(())
    }

    /// All of the peer's table is known.
    fn united(
        &mut self,
        local: &mut Local,
        mut ticket: impl FnMut() -> Ticket,
        out: &mut Vec<Effect>,
    ) -> Result<Met, Refusal> {
        self.lacks = (
            lacks_own(self.site, &local.table, &self.theirs),
            lacks_own(self.peer, &self.theirs, &local.table),
        );
        let rows: Vec<Row> =
            self.theirs.rows().filter(|r| local.table.row(r.epoch).is_none()).cloned().collect();
        let withdrawn: Vec<(EpochId, Token)> =
            self.theirs.withdrawals().filter(|(e, _)| !local.table.is_withdrawn(*e)).collect();
        local.table.merge(&self.theirs).map_err(|e| ("table-conflict", e.to_string()))?;
        if rows.is_empty() && withdrawn.is_empty() {
            return self.meet(local, ticket, out);
        }
        self.phase = Phase::Storing;
        let stored = ticket();
        self.storing = Some(stored);
        out.push(Effect::StoreRows(stored, rows, withdrawn));
        Ok(Met::NotYet)
    }

    /// Rows are durable; those of this meeting, if the ticket says so.
    pub fn stored(
        &mut self,
        stored: Ticket,
        local: &Local,
        ticket: impl FnMut() -> Ticket,
        out: &mut Vec<Effect>,
    ) -> Result<Met, Refusal> {
        if self.storing != Some(stored) {
            return Ok(Met::NotYet);
        }
        self.storing = None;
        self.meet(local, ticket, out)
    }

    /// Everything is known: the common moment by the rows.
    fn meet(
        &mut self,
        local: &Local,
        mut ticket: impl FnMut() -> Ticket,
        out: &mut Vec<Effect>,
    ) -> Result<Met, Refusal> {
        let Some(peer) = &self.descriptor else { return Ok(Met::NotYet) };
        let (Some((mine, _)), Some((theirs, _))) = (local.head, peer.head) else {
            self.phase = Phase::Done;
            let source = match (local.head, peer.head) {
                (Some(_), None) if is_source(local) && peer.follows => Some(self.site),
                (None, Some(_)) if peer.writes && local.follows => Some(self.peer),
                _ => None,
            };
            return Ok(Met::Verdict(
                source.map_or(Verdict::Nothing, |source| Verdict::InitialCopy { source }),
            ));
        };
        let common =
            common_by_rows(&local.table, mine, theirs).map_err(|e| ("table-conflict", e.to_string()))?;
        let Some(common) = common else {
            self.phase = Phase::Done;
            return Ok(Met::Verdict(Verdict::Unrelated));
        };
        self.common = Some(common);
        self.phase = Phase::Marks;
        out.push(Effect::ReadMarks(ticket(), common));
        Ok(Met::NotYet)
    }

    /// This site's marks below the common moment.
    pub fn marks_read(
        &mut self,
        marks: LineMarks,
        local: &Local,
        out: &mut Vec<Effect>,
    ) -> Result<Met, Refusal> {
        let Some(common) = self.common else { return Ok(Met::NotYet) };
        if let Some(question) = self.waiting.take() {
            out.push(Effect::say(self.group, About::Marks(marks.answer(&question))));
        }
        self.marks = Some(marks.clone());
        self.phase = Phase::Searching(Box::new(Search::new(common, marks)));
        self.search(local, out)
    }

    fn search(&mut self, local: &Local, out: &mut Vec<Effect>) -> Result<Met, Refusal> {
        let Phase::Searching(search) = &mut self.phase else { return Ok(Met::NotYet) };
        let common = match search.next_step() {
            SearchStep::Ask(question) => {
                out.push(Effect::say(self.group, About::AskMarks(question)));
                return Ok(Met::NotYet);
            }
            SearchStep::Done(common) => common,
        };
        self.phase = Phase::Done;
        let Some((peer, (mine, _), (theirs, _))) =
            self.descriptor.as_ref().and_then(|p| Some((p, local.head?, p.head?)))
        else {
            return Ok(Met::NotYet);
        };
        let own = Side { site: self.site, head: mine, writes: is_source(local), lacks_own: self.lacks.0 };
        let other = Side { site: self.peer, head: theirs, writes: peer.writes, lacks_own: self.lacks.1 };
        let outcome =
            decide(&local.table, own, other, common).map_err(|e| ("table-conflict", e.to_string()))?;
        Ok(Met::Verdict(Verdict::Decided(outcome, common)))
    }
}

/// The page of rows after an epoch.
pub(crate) fn rows_after(table: &Table, after: Option<EpochId>) -> About {
    let mut rows: Vec<Row> =
        table.rows().filter(|r| after.is_none_or(|a| r.epoch > a)).take(ROWS_PAGE + 1).cloned().collect();
    let more = rows.len() > ROWS_PAGE;
    rows.truncate(ROWS_PAGE);
    About::Rows { rows, more }
}

/// Whether a site is the source: a writer, or one that handed over and waits to hear what became of it. What it still
/// has to ship is needed for the decision.
fn is_source(local: &Local) -> bool {
    local.writes || matches!(local.roles.source, SourcePhase::Handed { .. })
}

/// Who ships to whom by itself, if anybody does: (source, target, by records).
pub(crate) fn shipping(verdict: &Verdict, follows: impl Fn(StoreId) -> bool) -> Option<(StoreId, bool)> {
    match verdict {
        Verdict::Decided(Outcome::Follow { source, target, by_records }, _) if follows(*target) => {
            Some((*source, *by_records))
        }
        // Who follows by its own durable state has nothing to yield any more: by records where it has nothing of its
        // own behind c; else by a jump, and what it has is a branch.
        Verdict::Decided(Outcome::Yield { winner, loser, loser_writes: false, nothing_lost, .. }, _)
            if follows(*loser) =>
        {
            Some((*winner, *nothing_lost))
        }
        _ => None,
    }
}

fn descriptor(local: &Local, meeting: u64) -> Descriptor {
    let mut rows: Vec<Row> = local.table.rows().cloned().collect();
    rows.sort_by_key(|r| std::cmp::Reverse(r.time_ns));
    rows.truncate(ROWS_SENT);
    Descriptor {
        meeting,
        head: local.head,
        writes: is_source(local),
        follows: local.follows,
        state: local.state.clone(),
        roles: local.roles.clone(),
        rows_digest: local.table.digest(),
        rows_count: local.table.len() as u64,
        rows,
        withdrawn: local.table.withdrawals().collect(),
        oldest: local.oldest,
        ranges_from: local.ranges_from,
        copy: local.copy.clone(),
        notices: local.notices.clone(),
    }
}
