//! How one site came to its head by content: intervals of records, and jumps between them.
//!
//! P1. The line says what a moment is, the path how this site's bytes lead there. At a jump the path goes on at the
//!     jump's `from`, which need not lie on the line of `to`: two sites have one line and two paths.
//! P2. A moment strictly inside a jump, or on a branch, isn't on the path.
//! P3. Places on a path rise from its beginning to its head; so "at or below" on the path is a comparison.

use crate::history::{Table, TableError};
use crate::vocab::{EpochId, Moment, Seq};
use std::collections::{BTreeMap, BTreeSet};

/// A part of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Records `after + 1 ..= to` of one epoch.
    Records {
        /// The epoch.
        epoch: EpochId,
        /// The last seq before the interval.
        after: Seq,
        /// The last seq in it.
        to: Seq,
    },
    /// A jump. It begins where the piece before ends, or nowhere.
    Jump {
        /// The moment that it leads to, in normal form.
        to: Moment,
        /// Whether there was an image before it.
        from_image: bool,
    },
}

/// A place on a path; places compare as the moments lie on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PathPlace(usize, Seq);

/// The path of one site to one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    start: Option<Moment>,
    pieces: Vec<Piece>,
}

impl Path {
    /// The path to `head`, from the rows and the jumps that this site made (`to` in normal form, with `from`; no
    /// `from`: there was no image). It ends where the moments of `end` are met, at the root, or at a jump from
    /// nothing.
    pub fn build(
        table: &Table,
        head: Moment,
        jumps: &BTreeMap<Moment, Option<Moment>>,
        end: Option<Moment>,
    ) -> Result<Self, TableError> {
        let mut pieces = Vec::new();
        let mut seen = BTreeSet::new();
        let end = end.map(|m| table.norm(m)).transpose()?;
        let mut at = table.norm(head)?;
        let start = loop {
            if Some(at) == end || (at.seq.0 == 0) {
                break Some(at);
            }
            if !seen.insert(at) {
                // A jump back to a moment that its own `from` builds on: what lies below can't be told apart by name.
                break None;
            }
            if let Some(&from) = jumps.get(&at) {
                pieces.push(Piece::Jump { to: at, from_image: from.is_some() });
                match from {
                    Some(from) => at = table.norm(from)?,
                    None => break None,
                }
                continue;
            }
            let fork_seq = table.known(at.epoch)?.fork_seq;
            let jump = jumps
                .range(Moment { epoch: at.epoch, seq: fork_seq.next() }..at)
                .next_back()
                .map_or(fork_seq, |(to, _)| to.seq);
            let stop =
                end.filter(|e| e.epoch == at.epoch && e.seq < at.seq).map_or(jump, |e| e.seq.max(jump));
            pieces.push(Piece::Records { epoch: at.epoch, after: stop, to: at.seq });
            at = table.norm(Moment { epoch: at.epoch, seq: stop })?;
        };
        pieces.reverse();
        Ok(Self { start, pieces })
    }

    /// The pieces, oldest first.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Where it begins, in normal form; `None`: with a jump from nothing.
    pub fn start(&self) -> Option<Moment> {
        self.start
    }

    /// The place of a moment; `None` if the path doesn't meet it (P2).
    pub fn place(&self, table: &Table, moment: Moment) -> Result<Option<PathPlace>, TableError> {
        let moment = table.norm(moment)?;
        if self.start == Some(moment) {
            return Ok(Some(PathPlace(0, Seq(0))));
        }
        let place = self.pieces.iter().enumerate().rev().find_map(|(number, piece)| match piece {
            Piece::Records { epoch, after, to } if *epoch == moment.epoch => {
                (*after < moment.seq && moment.seq <= *to).then_some(PathPlace(number + 1, moment.seq))
            }
            Piece::Jump { to, .. } => (*to == moment).then_some(PathPlace(number + 1, moment.seq)),
            Piece::Records { .. } => None,
        });
        Ok(place)
    }

    /// Whether the path meets a moment.
    pub fn meets(&self, table: &Table, moment: Moment) -> Result<bool, TableError> {
        Ok(self.place(table, moment)?.is_some())
    }

    /// Whether a jump lies above a place: then there are no records that lead from there to the head.
    pub fn jumps_after(&self, place: PathPlace) -> bool {
        self.pieces.iter().skip(place.0).any(|p| matches!(p, Piece::Jump { .. }))
    }

    /// What leads from a place to the head, oldest first.
    pub fn pieces_after(&self, place: PathPlace) -> Vec<Piece> {
        let mut out = Vec::new();
        for (number, piece) in self.pieces.iter().enumerate().skip(place.0.saturating_sub(1)) {
            match *piece {
                Piece::Records { epoch, after, to } if number + 1 == place.0 && place.1 < to => {
                    out.push(Piece::Records { epoch, after: after.max(place.1), to });
                }
                piece if number + 1 > place.0 => out.push(piece),
                _ => {}
            }
        }
        out
    }
}
