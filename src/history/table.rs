//! The rows that a site knows of a group, and the decisions that were taken back.
//!
//! T1. Tables grow only: merging is union. Two different rows for one epoch stop everything (`table-conflict`).
//! T2. `line(m)` leads from the genesis to m, each epoch once; a table with a hole or a circle has no line there
//!     and says so. Rows come from disks and peers: nothing is assumed of them beyond `Row::check`.
//! T3. A moment at a fork has one name in normal form: the parent's, as far up as it goes.

use crate::history::{ChainValue, Row};
use crate::vocab::{EpochId, Error, Kind, Moment, Seq, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most rows of one group. A group that is taken over every minute for two years stays below it.
const ROWS_MAX: usize = 1 << 20;
/// Fewest hexadecimal digits of a prefix that stands for an epoch.
const PREFIX_MIN: usize = 8;

/// Two rows for one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableConflict {
    /// What was known here.
    pub mine: Row,
    /// What was told.
    pub theirs: Row,
}

impl fmt::Display for TableConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "table-conflict: two rows for epoch {}\n  here:  {}\n  there: {}",
            self.mine.epoch, self.mine, self.theirs
        )
    }
}

impl std::error::Error for TableConflict {}

/// What can't be said from this table.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableError {
    /// Two rows for one epoch.
    #[error(transparent)]
    Conflict(#[from] Box<TableConflict>),
    /// No row of this epoch is known.
    #[error("epoch {0} is not known here")]
    UnknownEpoch(EpochId),
    /// Rows lead in a circle.
    #[error("the rows of epoch {0} lead in a circle")]
    Circle(EpochId),
    /// The moment lies before its epoch began.
    #[error("{0} lies before its epoch began")]
    BeforeFork(Moment),
    /// A row that makes no sense by itself.
    #[error("{0}")]
    Invalid(String),
    /// More rows than a group can have.
    #[error("the group has more than {ROWS_MAX} epochs")]
    TooMany,
}

impl From<TableError> for Error {
    fn from(error: TableError) -> Self {
        let kind = match &error {
            TableError::Conflict(_) | TableError::Circle(_) | TableError::BeforeFork(_) => Kind::Conflict,
            TableError::UnknownEpoch(_) => Kind::NotFound,
            TableError::Invalid(_) | TableError::TooMany => Kind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}

/// Text that doesn't name one epoch.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrefixError {
    /// Too short, or no hexadecimal digits.
    #[error("`{0}` is no epoch: {PREFIX_MIN} to 32 hexadecimal digits are expected")]
    NotAnEpoch(String),
    /// No epoch begins so.
    #[error("no epoch known here begins with `{0}`")]
    None(String),
    /// More than one does.
    #[error("`{0}` is the beginning of more than one epoch: {1} and {2}")]
    Several(String, EpochId, EpochId),
}

/// A line of history: from the genesis on, each epoch with the last seq of it that belongs to the line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    steps: Vec<Moment>,
}

impl Line {
    /// Epochs with their last seqs, oldest first.
    pub fn steps(&self) -> &[Moment] {
        &self.steps
    }

    /// The moment the line leads to, as it was asked for; `None` never occurs for lines that a table made.
    pub fn head(&self) -> Option<Moment> {
        self.steps.last().copied()
    }

    /// The last seq of this epoch on the line.
    pub fn last_seq(&self, epoch: EpochId) -> Option<Seq> {
        self.steps.iter().find(|m| m.epoch == epoch).map(|m| m.seq)
    }

    /// The place of an epoch on the line, from 0.
    pub fn place(&self, epoch: EpochId) -> Option<usize> {
        self.steps.iter().position(|m| m.epoch == epoch)
    }

    /// The epoch, on this line, of the record with this seq: the newest epoch whose row is at or below it.
    /// For 0 the genesis. `None` beyond the line's end.
    pub fn epoch_of(&self, seq: Seq) -> Option<EpochId> {
        self.steps.iter().find(|m| seq <= m.seq).map(|m| m.epoch)
    }

    /// The moment of this line with this seq, in normal form.
    pub fn at(&self, seq: Seq) -> Option<Moment> {
        self.epoch_of(seq).map(|epoch| Moment { epoch, seq })
    }

    /// Epochs of the line after the one at `place`.
    pub fn epochs_after(&self, place: usize) -> impl Iterator<Item = EpochId> {
        self.steps.iter().skip(place + 1).map(|m| m.epoch)
    }
}

/// Rows and withdrawals.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Table {
    rows: BTreeMap<EpochId, Row>,
    withdrawn: BTreeMap<EpochId, Token>,
}

impl Table {
    /// A table with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row; true if it is new. T1.
    pub fn insert(&mut self, row: Row) -> Result<bool, TableError> {
        row.check().map_err(|e| TableError::Invalid(e.to_string()))?;
        if let Some(mine) = self.rows.get(&row.epoch) {
            if *mine == row {
                return Ok(false);
            }
            return Err(Box::new(TableConflict { mine: mine.clone(), theirs: row }).into());
        }
        if self.rows.len() >= ROWS_MAX {
            return Err(TableError::TooMany);
        }
        self.rows.insert(row.epoch, row);
        Ok(true)
    }

    /// Takes a decision back; true if that is news. The row may be heard of later.
    pub fn withdraw(&mut self, epoch: EpochId, op: Token) -> bool {
        // Two sites can't withdraw one decision: only its maker does. The first name stays.
        let new = !self.withdrawn.contains_key(&epoch);
        self.withdrawn.entry(epoch).or_insert(op);
        new
    }

    /// Takes over everything of another table. All or nothing: on a conflict nothing changes. T1.
    pub fn merge(&mut self, other: &Self) -> Result<(), TableError> {
        let mut merged = self.clone();
        for row in other.rows.values() {
            merged.insert(row.clone())?;
        }
        for (&epoch, &op) in &other.withdrawn {
            merged.withdraw(epoch, op);
        }
        *self = merged;
        Ok(())
    }

    /// The row of an epoch.
    pub fn row(&self, epoch: EpochId) -> Option<&Row> {
        self.rows.get(&epoch)
    }

    /// The row of an epoch that must be known.
    pub fn known(&self, epoch: EpochId) -> Result<&Row, TableError> {
        self.row(epoch).ok_or(TableError::UnknownEpoch(epoch))
    }

    /// All rows, by epoch.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// All withdrawals, with the operations that made them.
    pub fn withdrawals(&self) -> impl Iterator<Item = (EpochId, Token)> {
        self.withdrawn.iter().map(|(&epoch, &op)| (epoch, op))
    }

    /// Whether a decision was taken back.
    pub fn is_withdrawn(&self, epoch: EpochId) -> bool {
        self.withdrawn.contains_key(&epoch)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The line that leads to a moment. T2.
    pub fn line(&self, moment: Moment) -> Result<Line, TableError> {
        let mut steps = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = Some(moment);
        while let Some(at) = next {
            let row = self.known(at.epoch)?;
            if !seen.insert(at.epoch) {
                return Err(TableError::Circle(at.epoch));
            }
            if at.seq < row.fork_seq {
                return Err(TableError::BeforeFork(at));
            }
            steps.push(at);
            next = row.fork();
        }
        steps.reverse();
        Ok(Line { steps })
    }

    /// The normal form of a moment. T3.
    pub fn norm(&self, moment: Moment) -> Result<Moment, TableError> {
        let mut at = moment;
        for _ in 0..=self.rows.len() {
            let row = self.known(at.epoch)?;
            if at.seq < row.fork_seq {
                return Err(TableError::BeforeFork(at));
            }
            match row.fork() {
                Some(fork) if at.seq == fork.seq => at = fork,
                _ => return Ok(at),
            }
        }
        Err(TableError::Circle(moment.epoch))
    }

    /// Whether two names mean one moment.
    pub fn same(&self, a: Moment, b: Moment) -> Result<bool, TableError> {
        Ok(self.norm(a)? == self.norm(b)?)
    }

    /// Whether `moment` lies on the line of `head`, the head itself included.
    pub fn is_on_line(&self, moment: Moment, head: Moment) -> Result<bool, TableError> {
        let moment = self.norm(moment)?;
        Ok(self.line(head)?.last_seq(moment.epoch).is_some_and(|last| moment.seq <= last))
    }

    /// Whether `epoch` is `of` or an ancestor of it.
    pub fn is_ancestor(&self, epoch: EpochId, of: EpochId) -> Result<bool, TableError> {
        let row = self.known(of)?;
        Ok(self.line(Moment { epoch: of, seq: row.first_seq() })?.place(epoch).is_some())
    }

    /// The moment one record before, in normal form; `None` before moment 0.
    pub fn below(&self, moment: Moment) -> Result<Option<Moment>, TableError> {
        let at = self.norm(moment)?;
        if at.seq.0 == 0 {
            return Ok(None);
        }
        self.norm(Moment { epoch: at.epoch, seq: Seq(at.seq.0 - 1) }).map(Some)
    }

    /// Moments at which epochs known here fork, in normal form: marks are kept there.
    pub fn is_fork(&self, moment: Moment) -> Result<bool, TableError> {
        let moment = self.norm(moment)?;
        Ok(self.rows.values().any(|r| r.fork().is_some_and(|f| self.norm(f).is_ok_and(|f| f == moment))))
    }

    /// The only epoch that begins with these hexadecimal digits, 8 at least.
    pub fn by_prefix(&self, digits: &str) -> Result<EpochId, PrefixError> {
        let good = (PREFIX_MIN..=32).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if !good {
            return Err(PrefixError::NotAnEpoch(digits.to_owned()));
        }
        let wanted = digits.to_ascii_lowercase();
        let mut found = self.rows.keys().copied().filter(|e| e.to_string().starts_with(&wanted));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(PrefixError::None(digits.to_owned())),
            (Some(one), Some(other)) => Err(PrefixError::Several(digits.to_owned(), one, other)),
        }
    }

    /// A hash over all rows and withdrawals: two sites with equal digests know the same.
    pub fn digest(&self) -> ChainValue {
        let mut hasher = blake3::Hasher::new_derive_key("standbyfs rows v1");
        for row in self.rows.values() {
            hasher.update(blake3::hash(&row.to_json()).as_bytes());
        }
        hasher.update(&(self.rows.len() as u64).to_le_bytes());
        for epoch in self.withdrawn.keys() {
            hasher.update(&epoch.0);
        }
        ChainValue(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests;
