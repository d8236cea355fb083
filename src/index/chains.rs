//! From all versions to those that a path sees: in each chain the newest one, without walking the others.

use crate::format::index_page::{Piece, PieceKey};
use crate::index::Path;
use crate::index::run::{Pages, RunCursor};
use crate::vocab::{DiskOrdinal, LogId, Pos, Result};
use std::cmp::Reverse;

/// The stretches of one log that a path sees, with the numbers of their intervals, the highest number first.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    list: Vec<(u32, Pos, Pos)>,
}

impl Seen {
    /// What `path` sees of `[from, to)` of a log; `None` if nothing.
    pub(super) fn of(path: &Path, log: LogId, from: Pos, to: Pos) -> Option<Self> {
        let list: Vec<_> = path
            .above_cut()
            .rev()
            .filter(|(_, i)| i.log == log && i.from < to && from < i.to)
            .map(|(number, i)| (number, i.from.max(from), i.to.min(to)))
            .collect();
        #[cfg(test)]
        let list = crate::index::tests::leave_out_path_filter(list, from, to);
        (!list.is_empty()).then_some(Self { list })
    }

    /// The number of the interval that has this position.
    pub(super) fn number(&self, pos: Pos) -> Option<u32> {
        self.list.iter().find(|(_, from, to)| *from <= pos && pos < *to).map(|(number, ..)| *number)
    }

    /// Ranks of the lowest and highest version that could be seen.
    pub(super) fn ranks(&self) -> ((u32, Pos), (u32, Pos)) {
        let low = self.list.iter().map(|(n, from, _)| (*n, *from)).min().unwrap_or_default();
        let high = self.list.iter().map(|(n, _, to)| (*n, Pos(to.0 - 1))).max().unwrap_or_default();
        (low, high)
    }

    /// Whether a lower position can rank higher.
    pub(super) fn is_mixed(&self) -> bool {
        self.list.windows(2).any(|w| w[0].1 < w[1].1)
    }

    /// In a chain that is walked from high to low positions and is now at `pos`: where the next version could be
    /// that ranks above interval `best`. `None` if nowhere.
    fn next(&self, pos: Pos, best: Option<u32>) -> Option<Pos> {
        self.list
            .iter()
            .filter(|(number, from, _)| best.is_none_or(|best| *number > best) && *from <= pos)
            .map(|(.., to)| Pos(to.0 - 1).min(pos))
            .max()
    }
}

/// Walks one level of a run over a range of a disk: the newest version that is seen of each chain.
pub(super) struct Chains {
    cursor: RunCursor,
    seen: Seen,
    level: u8,
    disk: DiskOrdinal,
    end: u64,
}

impl Chains {
    /// Over the pieces of `cursor`, which stands at the first one, that begin below `end`.
    pub(super) fn new(cursor: RunCursor, seen: Seen, level: u8, disk: DiskOrdinal, end: u64) -> Self {
        Self { cursor, seen, level, disk, end }
    }

    /// The next one, with the number of its interval; none where `left`, which each chain takes one of, is used up.
    pub(super) fn next(&mut self, pages: &dyn Pages, left: &mut usize) -> Result<Option<(u32, Piece)>> {
        loop {
            if *left == 0 {
                return Ok(None);
            }
            *left -= 1;
            let Some(first) = self.cursor.next(pages)? else { return Ok(None) };
            if first.disk != self.disk || first.start >= self.end {
                self.cursor.put_back(first);
                return Ok(None);
            }
            if let Some(best) = self.best(first, pages)? {
                return Ok(Some(best));
            }
        }
    }

    /// Of the chain that begins with `first`; the cursor stands behind the chain afterwards.
    fn best(&mut self, first: Piece, pages: &dyn Pages) -> Result<Option<(u32, Piece)>> {
        let in_chain = |p: &Piece| (p.disk, p.start, p.len) == (first.disk, first.start, first.len);
        let (mut at, mut best): (Piece, Option<(u32, Piece)>) = (first, None);
        loop {
            if let Some(number) = self.seen.number(at.pos)
                && best.is_none_or(|(other, _)| number > other)
            {
                best = Some((number, at));
            }
            let Some(below) = at.pos.0.checked_sub(1).map(Pos) else {
                return Ok(best);
            };
            let next = self.seen.next(below, best.map(|(number, _)| number));
            let key = match next {
                Some(pos) => self.key(&first, first.len, pos),
                None => self.key(&first, first.len + 1, Pos(u64::MAX)),
            };
            self.cursor.skip_to(&key, pages)?;
            if next.is_none() {
                return Ok(best);
            }
            match self.cursor.next(pages)? {
                Some(piece) if in_chain(&piece) => at = piece,
                Some(piece) => {
                    self.cursor.put_back(piece);
                    return Ok(best);
                }
                None => return Ok(best),
            }
        }
    }

    fn key(&self, like: &Piece, len: u64, pos: Pos) -> PieceKey {
        PieceKey { level: self.level, disk: like.disk, start: like.start, len, newness: Reverse(pos) }
    }
}
