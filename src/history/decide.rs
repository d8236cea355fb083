//! What two sites that have met do: follow, yield, or stop for a person.
//!
//! D1. A decision stands if it is on its side's line after the common moment and neither withdrawn nor overruled.
//!     A decision that was withdrawn overrules nothing any more.
//! D2. Decisions on both lines: `split-brain`. On one: the other side yields, but a writer yields only to a writer.
//! D3. No decision: the only writer's line goes on, and the target follows iff c *by the rows* is its own head,
//!     nothing contradicts it, and the writer holds every row that it ever began. Else the writer went back:
//!     `rewound`.
//! D4. Where nobody writes, or two write and nobody decided, a person decides.
//! D5. Records are appended only after a chain value that both have at c itself; else a jump from the proved moment.
//!
//! The answer depends on the two sides' statements only, not on who computes it: both come to the same one.

use crate::history::{Common, Row, Table, TableError};
use crate::vocab::{EpochId, Moment, StoreId};
use std::collections::BTreeSet;
use std::fmt;

/// What a site says of itself at a connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Side {
    /// The site.
    pub site: StoreId,
    /// Its head, as it is durable.
    pub head: Moment,
    /// Whether its disks are writable.
    pub writes: bool,
    /// An epoch of its own that the other side knows and it doesn't: it went back.
    pub lacks_own: Option<EpochId>,
}

/// An epoch row of `site` that `theirs` has and `mine` lacks. To be asked before the tables are merged.
pub fn lacks_own(site: StoreId, mine: &Table, theirs: &Table) -> Option<EpochId> {
    theirs.rows().find(|r| r.site == site && mine.row(r.epoch).is_none()).map(|r| r.epoch)
}

/// What comes of a meeting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The source ships to the target.
    Follow {
        /// Who writes.
        source: StoreId,
        /// Who follows.
        target: StoreId,
        /// Whether records may be appended at c (D5). Else a jump from the proved moment.
        by_records: bool,
    },
    /// The loser gives way to the winner's decision.
    Yield {
        /// Whose decision stands, and who writes.
        winner: StoreId,
        /// Who gives way.
        loser: StoreId,
        /// The newest standing decision.
        epoch: EpochId,
        /// Whether the loser wrote until now, and has to be fenced.
        loser_writes: bool,
        /// Whether c is the loser's head and proved there: it has nothing of its own, and a standby may follow.
        nothing_lost: bool,
    },
    /// A person has to decide.
    Conflict(Box<Conflict>),
}

/// Why a person has to decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConflictKind {
    /// Decisions on both lines, made in ignorance of each other.
    SplitBrain,
    /// The writer lacks an epoch that it began itself.
    RewoundLacksOwn,
    /// The chains differ at a moment that both names mean.
    RewoundContent,
    /// The target holds moments that the writer doesn't have.
    RewoundBehind,
    /// The only writer's line has no decision, that of a site that doesn't write has one.
    RewoundAgainstIdle,
    /// Both write and neither decided to.
    RewoundTwoWriters,
    /// Neither writes.
    NobodyWrites,
}

impl ConflictKind {
    /// The state that both sites take.
    pub fn name(self) -> &'static str {
        match self {
            Self::SplitBrain => "split-brain",
            Self::NobodyWrites => "nobody-writes",
            _ => "rewound",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::SplitBrain => "both sites were told to write, neither knowing of the other",
            Self::RewoundLacksOwn => {
                "the site that writes lacks an epoch that it began itself: its store went back"
            }
            Self::RewoundContent => {
                "both sites have this moment, with different content: one store went back"
            }
            Self::RewoundBehind => {
                "the target holds what the site that writes doesn't have: that store went back"
            }
            Self::RewoundAgainstIdle => "a decision stands at the site that doesn't write",
            Self::RewoundTwoWriters => "both sites write and no decision tells them apart",
            Self::NobodyWrites => "neither site writes",
        }
    }
}

/// One side of a conflict, for a person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SideStatement {
    /// What the site said.
    pub side: Side,
    /// The rows of its line after the common moment, oldest first.
    pub rows: Vec<Row>,
    /// Those of them that are standing decisions.
    pub standing: Vec<EpochId>,
}

/// Two histories that don't go together, and what each of them says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Why.
    pub kind: ConflictKind,
    /// What they have in common.
    pub common: Common,
    /// Both sides, in the order of their site ids.
    pub sides: [SideStatement; 2],
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; common moment {}", self.kind.name(), self.kind.sentence(), self.common.by_rows)?;
        match self.common.proved {
            Some(proved) if proved != self.common.by_rows => write!(f, ", proved up to {proved}")?,
            Some(_) => f.write_str(", proved")?,
            None => f.write_str(", not proved")?,
        }
        for statement in &self.sides {
            let side = &statement.side;
            let writes = if side.writes { "writes" } else { "doesn't write" };
            write!(f, "\n  site {}: head {}, {writes}", side.site.short(), side.head)?;
            if let Some(epoch) = side.lacks_own {
                write!(f, ", lacks its own epoch {}", epoch.short())?;
            }
            for row in &statement.rows {
                let stands = if statement.standing.contains(&row.epoch) { ", stands" } else { "" };
                write!(f, "\n    epoch {row}{stands}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Conflict {}

/// Rules that a test leaves out to show that it would notice. All hold in the product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// D2: a writer yields only to a writer.
    pub yield_to_writers_only: bool,
    /// D1: a withdrawn decision overrules nothing.
    pub withdrawn_overrules_nothing: bool,
    /// D1: an overruled decision doesn't stand.
    pub overruling: bool,
    /// D3: c by the rows, not lowered to the moment of the proof.
    pub common_by_rows: bool,
    /// D3, D5: chain values count.
    pub chain: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        yield_to_writers_only: true,
        withdrawn_overrules_nothing: true,
        overruling: true,
        common_by_rows: true,
        chain: true,
    };
}

/// The decisions on the line of `head` after `common` that stand (D1), oldest first. The table must be the union of
/// what both sides know.
pub fn standing(table: &Table, head: Moment, common: Moment) -> Result<Vec<EpochId>, TableError> {
    standing_by(table, head, common, Rules::ALL)
}

pub(crate) fn standing_by(
    table: &Table,
    head: Moment,
    common: Moment,
    rules: Rules,
) -> Result<Vec<EpochId>, TableError> {
    let line = table.line(head)?;
    let common = table.norm(common)?;
    let overruled = if rules.overruling { overruled(table, rules) } else { BTreeSet::new() };
    let place = line.place(common.epoch).ok_or(TableError::UnknownEpoch(common.epoch))?;
    let stands = |epoch: &EpochId| {
        table.row(*epoch).is_some_and(Row::decided)
            && !table.is_withdrawn(*epoch)
            && !overruled.contains(epoch)
    };
    Ok(line.epochs_after(place).filter(stands).collect())
}

/// Epochs that no longer count because a decision that was not withdrawn names them or a descendant of them.
fn overruled(table: &Table, rules: Rules) -> BTreeSet<EpochId> {
    let mut out = BTreeSet::new();
    for row in table.rows() {
        if rules.withdrawn_overrules_nothing && table.is_withdrawn(row.epoch) {
            continue;
        }
        let mut next = row.overrules;
        // An ancestor that was met already brings nothing new: that also ends circles.
        while let Some(epoch) = next.filter(|e| out.insert(*e)) {
            next = table.row(epoch).and_then(|r| r.parent);
        }
    }
    out
}

/// What a decision made now at a site with this fork has to overrule: the newest decided epoch of the other line that
/// the maker knows. `peer_head`: the newest head of the peer that this site has heard of.
pub fn overrules(
    table: &Table,
    fork: Moment,
    peer_head: Option<Moment>,
) -> Result<Option<EpochId>, TableError> {
    let Some(peer_head) = peer_head else { return Ok(None) };
    let own = table.line(fork)?;
    let theirs = table.line(peer_head)?;
    let decided = |e: &EpochId| own.place(*e).is_none() && table.row(*e).is_some_and(Row::decided);
    Ok(theirs.steps().iter().map(|m| m.epoch).rfind(decided))
}

/// What comes of a meeting. `table`: the union of what both sides know; `common`: of their two heads.
pub fn decide(table: &Table, a: Side, b: Side, common: Common) -> Result<Outcome, TableError> {
    decide_by(table, a, b, common, Rules::ALL)
}

pub(crate) fn decide_by(
    table: &Table,
    a: Side,
    b: Side,
    common: Common,
    rules: Rules,
) -> Result<Outcome, TableError> {
    let (a, b) = if a.site <= b.site { (a, b) } else { (b, a) };
    let statement = |side: Side| -> Result<SideStatement, TableError> {
        let line = table.line(side.head)?;
        let place = line.place(common.by_rows.epoch).ok_or(TableError::UnknownEpoch(common.by_rows.epoch))?;
        let rows = line.epochs_after(place).filter_map(|e| table.row(e).cloned()).collect();
        Ok(SideStatement { side, rows, standing: standing_by(table, side.head, common.by_rows, rules)? })
    };
    let sides = [statement(a)?, statement(b)?];
    let kind = match (&sides[0].standing[..], &sides[1].standing[..]) {
        _ if !a.writes && !b.writes => ConflictKind::NobodyWrites,
        ([.., _], [.., _]) => ConflictKind::SplitBrain,
        ([.., epoch], []) => return yields(table, &sides, 0, *epoch, common, rules),
        ([], [.., epoch]) => return yields(table, &sides, 1, *epoch, common, rules),
        ([], []) if a.writes && b.writes => ConflictKind::RewoundTwoWriters,
        ([], []) => {
            let (source, target) = if a.writes { (a, b) } else { (b, a) };
            let at = if rules.common_by_rows { Some(common.by_rows) } else { common.proved };
            if source.lacks_own.is_some() {
                ConflictKind::RewoundLacksOwn
            } else if rules.chain && !common.agrees() {
                ConflictKind::RewoundContent
            } else if at != Some(table.norm(target.head)?) {
                ConflictKind::RewoundBehind
            } else {
                let by_records = common.proved_at_common() || !rules.chain;
                return Ok(Outcome::Follow { source: source.site, target: target.site, by_records });
            }
        }
    };
    Ok(Outcome::Conflict(Box::new(Conflict { kind, common, sides })))
}

/// D2: the side `winner` has the only standing decision.
fn yields(
    table: &Table,
    sides: &[SideStatement; 2],
    winner: usize,
    epoch: EpochId,
    common: Common,
    rules: Rules,
) -> Result<Outcome, TableError> {
    let (wins, loses) = (sides[winner].side, sides[1 - winner].side);
    if rules.yield_to_writers_only && loses.writes && !wins.writes {
        let kind = ConflictKind::RewoundAgainstIdle;
        return Ok(Outcome::Conflict(Box::new(Conflict { kind, common, sides: sides.clone() })));
    }
    Ok(Outcome::Yield {
        winner: wins.site,
        loser: loses.site,
        epoch,
        loser_writes: loses.writes,
        nothing_lost: common.proved_at_common()
            && common.agrees()
            && wins.lacks_own.is_none()
            && table.norm(loses.head)? == common.by_rows,
    })
}

#[cfg(test)]
mod tests;
