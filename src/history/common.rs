//! The common moment of two histories, and its proof by chain values.
//!
//! M1. c, the common moment, is told from the rows alone: both lines are walked while their epochs are equal.
//! M2. The proof is made at the greatest moment at or below c where both sites have a chain value *and which both
//!     paths meet*. Equal there: the histories are one up to c as far as anybody can know. c itself is never
//!     lowered to it: who follows is told by c.
//! M3. Unequal: something went back in memory. Equality is monotone along a line, so halving finds the greatest
//!     equal moment. What one side lacks says nothing about equality.
//! M4. The search is a sequence of questions within one connection; each answer removes at least one candidate, so it
//!     ends whatever the other side answers.

use crate::history::{ChainMark, ChainValue, Line, MarkSet, Path, Table, TableError};
use crate::vocab::{Moment, Seq};

/// Most moments in one question.
pub const QUESTION_MAX: usize = 64;

/// The common moment of two lines, in normal form; `None` if they have not even a root in common. M1.
pub fn common_by_rows(table: &Table, a: Moment, b: Moment) -> Result<Option<Moment>, TableError> {
    let (a, b) = (table.line(a)?, table.line(b)?);
    let mut common = None;
    for (x, y) in a.steps().iter().zip(b.steps()) {
        if x.epoch != y.epoch {
            break;
        }
        common = Some(Moment { epoch: x.epoch, seq: x.seq.min(y.seq) });
        if x.seq != y.seq {
            break;
        }
    }
    common.map(|c| table.norm(c)).transpose()
}

/// The marks of one site that can prove something about one line: those on the line and on the site's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineMarks {
    /// By seq, which is dense along a line.
    marks: Vec<ChainMark>,
}

impl LineMarks {
    /// Of all marks of a site those at or below `common` that its path meets.
    pub fn new(marks: &MarkSet, table: &Table, path: &Path, common: Moment) -> Result<Self, TableError> {
        let line: Line = table.line(common)?;
        let mut out = Vec::new();
        for step in line.steps() {
            for mark in marks.of_epoch(step.epoch).take_while(|m| m.seq <= step.seq) {
                let moment = mark.moment();
                if table.norm(moment)? == moment && path.meets(table, moment)? {
                    out.push(*mark);
                }
            }
        }
        Ok(Self { marks: out })
    }

    /// The value at a moment in normal form.
    pub fn value(&self, moment: Moment) -> Option<ChainValue> {
        let at = self.marks.binary_search_by_key(&moment.seq, |m| m.seq).ok()?;
        (self.marks[at].epoch == moment.epoch).then_some(self.marks[at].h)
    }

    fn upto(&self, seq: Seq) -> &[ChainMark] {
        &self.marks[..self.marks.partition_point(|m| m.seq <= seq)]
    }

    /// Answers the other side's question.
    pub fn answer(&self, question: &Question) -> Answer {
        let at = question.at.iter().take(QUESTION_MAX);
        let values = at.clone().map(|m| self.value(*m)).collect();
        let lowest = at.map(|m| m.seq).min().unwrap_or(Seq(0));
        Answer { values, below: self.upto(lowest).last().map(ChainMark::moment) }
    }
}

/// Which chain values have you at these moments?
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Question {
    /// Moments in normal form, [`QUESTION_MAX`] at most.
    pub at: Vec<Moment>,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// One for each moment asked.
    pub values: Vec<Option<ChainValue>>,
    /// The greatest moment with a value at or below the lowest one asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<Moment>,
}

/// What two histories have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Common {
    /// c: the common moment by the rows, in normal form.
    pub by_rows: Moment,
    /// The greatest moment at or below c at which both have a chain value.
    pub compared: Option<Moment>,
    /// The greatest moment at which both values are equal.
    pub proved: Option<Moment>,
}

impl Common {
    /// Whether nothing contradicts that the histories are one up to c.
    pub fn agrees(&self) -> bool {
        self.compared == self.proved
    }

    /// Whether the values at c itself are known and equal: only then may records be appended there.
    pub fn proved_at_common(&self) -> bool {
        self.proved == Some(self.by_rows)
    }
}

/// What the search wants next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send this and give the answer to [`Search::heard`].
    Ask(Question),
    /// The result.
    Done(Common),
}

/// The search for the proof, at the side that asks. M2, M3.
#[derive(Clone, Debug)]
pub struct Search {
    common: Moment,
    marks: LineMarks,
    /// Candidates: moments of mine between `above` and `below` that weren't asked yet.
    candidates: Vec<ChainMark>,
    compared: Option<Moment>,
    proved: Option<Moment>,
    asked: Vec<ChainMark>,
}

impl Search {
    /// Begins at the common moment by the rows. The asker's own marks must be those of [`LineMarks::new`] for it.
    pub fn new(common: Moment, marks: LineMarks) -> Self {
        let candidates = marks.marks.clone();
        Self { common, marks, candidates, compared: None, proved: None, asked: Vec::new() }
    }

    /// What to do first, or next after [`Self::heard`].
    pub fn next_step(&mut self) -> Step {
        if self.candidates.is_empty() || (self.compared.is_some() && self.compared == self.proved) {
            let common = Common { by_rows: self.common, compared: self.compared, proved: self.proved };
            return Step::Done(common);
        }
        self.asked = match self.compared {
            // Nothing was compared yet: the greatest ones first.
            None => self.candidates.iter().rev().take(QUESTION_MAX).copied().collect(),
            // Halving, 64 parts at a time; the greatest candidate is always among them.
            Some(_) => {
                let (count, parts) = (self.candidates.len(), self.candidates.len().min(QUESTION_MAX));
                (1..=parts).rev().map(|part| self.candidates[count * part / parts - 1]).collect()
            }
        };
        Step::Ask(Question { at: self.asked.iter().map(ChainMark::moment).collect() })
    }

    /// Takes an answer; `false` if it doesn't answer the question asked.
    pub fn heard(&mut self, answer: &Answer) -> bool {
        if answer.values.len() != self.asked.len() || self.asked.is_empty() {
            return false;
        }
        let asked = std::mem::take(&mut self.asked);
        let first_compared = self.compared.is_none();
        let (mut above, mut below) = (None, None);
        for (mark, value) in asked.iter().zip(&answer.values) {
            let Some(value) = value else { continue };
            if self.compared.is_none_or(|c| c.seq < mark.seq) {
                self.compared = Some(mark.moment());
            }
            if *value == mark.h {
                above = above.max(Some(mark.seq));
                if self.proved.is_none_or(|p| p.seq < mark.seq) {
                    self.proved = Some(mark.moment());
                }
            } else {
                below = Some(below.map_or(mark.seq, |b: Seq| b.min(mark.seq)));
            }
        }
        let lowest = asked.iter().map(|m| m.seq).min().unwrap_or(Seq(0));
        let hint = answer.below.map(|m| m.seq);
        let nothing_found = first_compared && self.compared.is_none();
        self.candidates.retain(|mark| {
            let was_asked = asked.iter().any(|a| a.seq == mark.seq);
            let skipped = nothing_found && mark.seq <= lowest && hint.is_none_or(|h| mark.seq > h);
            !was_asked && !skipped && above.is_none_or(|a| mark.seq > a) && below.is_none_or(|b| mark.seq < b)
        });
        true
    }

    /// The asker's own value at a moment.
    pub fn own_value(&self, moment: Moment) -> Option<ChainValue> {
        self.marks.value(moment)
    }
}

/// The whole search against a site whose marks are at hand: for tests, tools and two stores on one machine.
pub fn common_of(common: Moment, mine: &LineMarks, theirs: &LineMarks) -> Common {
    let mut search = Search::new(common, mine.clone());
    loop {
        match search.next_step() {
            Step::Done(found) => return found,
            Step::Ask(question) => {
                search.heard(&theirs.answer(&question));
            }
        }
    }
}

#[cfg(test)]
mod tests;
