//! Data and holes of a base, and of what a reader sees when a journal lies over it. Pure: the base answers
//! through [`Holes`].
//!
//! 1. A granule of 4096 bytes is data if any byte of it is: in the journal, or in the base where the journal
//!    says nothing. Else it is a hole, and reads as zeros.
//! 2. As SEEK_DATA and SEEK_HOLE have it: an offset within what is looked for is its own answer, the end of
//!    the file is a hole, and at or behind the end there is nothing. Tools loop for ever where that is inexact.

use crate::index::Content;
use crate::vocab::{GRANULE, Result};

/// What knows where its holes are.
pub trait Holes {
    /// The first byte at or after `offset` that isn't in a hole; `None` if there is none before the end.
    fn next_data(&self, offset: u64) -> Result<Option<u64>>;
    /// The first byte at or after `offset` that is in a hole, or the end; `None` at or behind the end.
    fn next_hole(&self, offset: u64) -> Result<Option<u64>>;

    /// Whether a range, which isn't empty, has a hole in it. Behind the end all is hole.
    fn has_hole(&self, offset: u64, len: u64) -> Result<bool> {
        Ok(self.next_hole(offset)?.is_none_or(|at| at < offset + len))
    }
}

/// A range of which the journal knows what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overlaid {
    /// First byte.
    pub offset: u64,
    /// Bytes; never 0.
    pub len: u64,
    /// Data, or one of the two that read as zeros.
    pub content: Content,
}

impl Overlaid {
    /// The byte behind the last one.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// SEEK_DATA for a file of `len` bytes. `overlay`: ranges in order, apart from each other; those before
/// `offset` may be left out, from the granule on in which it lies.
pub fn next_data(
    overlay: impl IntoIterator<Item = Result<Overlaid>>,
    base: &impl Holes,
    offset: u64,
    len: u64,
) -> Result<Option<u64>> {
    if offset >= len {
        return Ok(None);
    }
    let mut runs = Runs::new(overlay.into_iter(), base, offset, len);
    while let Some(run) = runs.next()? {
        if run.data {
            return Ok(Some(granule(run.from).max(offset)));
        }
    }
    Ok(None)
}

/// SEEK_HOLE for a file of `len` bytes. `overlay` as in [`next_data`].
pub fn next_hole(
    overlay: impl IntoIterator<Item = Result<Overlaid>>,
    base: &impl Holes,
    offset: u64,
    len: u64,
) -> Result<Option<u64>> {
    if offset >= len {
        return Ok(None);
    }
    let mut runs = Runs::new(overlay.into_iter(), base, offset, len);
    let mut hole: Option<u64> = None;
    while let Some(run) = runs.next()? {
        if run.data {
            hole = None;
            continue;
        }
        let start = *hole.get_or_insert(run.from.next_multiple_of(GRANULE));
        if start < len && (run.to >= start + GRANULE || run.to == len) {
            return Ok(Some(start.max(offset)));
        }
    }
    Ok(Some(len))
}

/// All data of a file of `len` bytes: ranges of whole granules, the last one up to the end. In order; two may share a
/// granule. `overlay`: from the first byte on.
pub fn all_data(
    overlay: impl IntoIterator<Item = Result<Overlaid>>,
    base: &impl Holes,
    len: u64,
    mut each: impl FnMut(u64, u64),
) -> Result<()> {
    let mut runs = Runs::new(overlay.into_iter(), base, 0, len);
    while let Some(run) = runs.next()? {
        if run.data {
            each(granule(run.from), run.to.next_multiple_of(GRANULE).min(len));
        }
    }
    Ok(())
}

fn granule(at: u64) -> u64 {
    at - at % GRANULE
}

struct Run {
    from: u64,
    to: u64,
    data: bool,
}

/// Runs of data and of holes, in order and without a gap. Neighbours may be alike.
struct Runs<'a, O, H> {
    overlay: O,
    next: Option<Overlaid>,
    base: &'a H,
    at: u64,
    len: u64,
}

impl<'a, O: Iterator<Item = Result<Overlaid>>, H: Holes> Runs<'a, O, H> {
    fn new(overlay: O, base: &'a H, offset: u64, len: u64) -> Self {
        Self { overlay, next: None, base, at: granule(offset), len }
    }

    fn next(&mut self) -> Result<Option<Run>> {
        if self.at >= self.len {
            return Ok(None);
        }
        while self.next.is_none_or(|over| over.end() <= self.at) {
            match self.overlay.next() {
                Some(over) => self.next = Some(over?),
                None => {
                    self.next = None;
                    break;
                }
            }
        }
        let from = self.at;
        let (to, data) = match self.next {
            Some(over) if over.offset <= from => (over.end(), over.content == Content::Data),
            over => {
                let gap_end = over.map_or(self.len, |over| over.offset);
                match self.base.next_data(from)? {
                    Some(at) if at <= from => {
                        (self.base.next_hole(from)?.unwrap_or(gap_end).min(gap_end), true)
                    }
                    Some(at) => (at.min(gap_end), false),
                    None => (gap_end, false),
                }
            }
        };
        // A base that answers with the offset itself to both questions changed in between; go on by a byte.
        self.at = to.min(self.len).max(from + 1);
        Ok(Some(Run { from, to: self.at, data }))
    }
}
