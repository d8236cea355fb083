//! The bytes of one simulated file: sparse, in pages of 4096 bytes, so that a file of 1 TiB costs what was
//! written to it.
//!
//! 1. A byte without a page reads as zero; so does every byte at or behind the length, now and after growth.
//! 2. `allocated` is the number of pages that hold data or are reserved; a page is counted once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

pub(super) const PAGE: u64 = 4096;
/// What a power loss tears a write at.
pub(super) const SECTOR: u64 = 512;

type Page = [u8; PAGE as usize];

/// A change of a file's content.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write {
        offset: u64,
        data: Arc<[u8]>,
    },
    Zero {
        offset: u64,
        len: u64,
    },
    Punch {
        offset: u64,
        len: u64,
    },
    SetLen(u64),
    Reserve {
        offset: u64,
        len: u64,
    },
    /// At least this long: what stays of a write whose bytes were dropped.
    Grow(u64),
}

#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
    /// Ranges of page numbers, apart from each other, that have room without or with data.
    reserved: BTreeMap<u64, u64>,
    allocated: u64,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes on the medium.
    pub(super) fn allocated(&self) -> u64 {
        self.allocated * PAGE
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => self.write(*offset, data),
            Change::Zero { offset, len } => {
                self.clear(*offset, *len);
                self.reserve(*offset, *len);
            }
            Change::Punch { offset, len } => {
                self.clear(*offset, *len);
                self.release(whole_pages(*offset, *len));
            }
            Change::SetLen(len) => self.set_len(*len),
            Change::Reserve { offset, len } => self.reserve(*offset, *len),
            Change::Grow(len) => self.len = self.len.max(*len),
        }
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let count = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..count];
        buf.fill(0);
        for (number, page) in self.pages.range(pages(offset, count as u64)) {
            let (from, to) = ((number * PAGE).max(offset), ((number + 1) * PAGE).min(offset + count as u64));
            let source = &page[(from - number * PAGE) as usize..(to - number * PAGE) as usize];
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
        }
        count
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        for number in pages(offset, data.len() as u64) {
            let (from, to) = ((number * PAGE).max(offset), ((number + 1) * PAGE).min(end));
            let target =
                &mut self.page(number)[(from - number * PAGE) as usize..(to - number * PAGE) as usize];
            target.copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
        }
        if !data.is_empty() {
            self.len = self.len.max(end);
        }
    }

    /// Inverts bits of the byte at `offset`, which must lie within the file.
    pub(super) fn flip(&mut self, offset: u64, bits: u8) {
        if offset < self.len {
            self.page(offset / PAGE)[(offset % PAGE) as usize] ^= bits;
        }
    }

    /// How many of the first bytes of a write fit if `room` more pages may be allocated.
    pub(super) fn fits(&self, offset: u64, len: u64, mut room: u64) -> u64 {
        for number in pages(offset, len) {
            if !self.pages.contains_key(&number) && !self.is_reserved(number) {
                if room == 0 {
                    return (number * PAGE).saturating_sub(offset);
                }
                room -= 1;
            }
        }
        len
    }

    /// How many pages a reservation would allocate.
    pub(super) fn missing(&self, offset: u64, len: u64) -> u64 {
        let range = pages(offset, len);
        range.end - range.start - self.counted(&range)
    }

    pub(super) fn next_data(&self, offset: u64) -> Option<u64> {
        let (number, _) = self.pages.range(offset / PAGE..).next()?;
        Some((number * PAGE).max(offset)).filter(|at| *at < self.len)
    }

    pub(super) fn next_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.len {
            return None;
        }
        let mut number = offset / PAGE;
        for (found, _) in self.pages.range(number..) {
            if *found != number {
                break;
            }
            number += 1;
        }
        Some((number * PAGE).max(offset).min(self.len))
    }

    fn page(&mut self, number: u64) -> &mut Page {
        let reserved = self.is_reserved(number);
        let allocated = &mut self.allocated;
        let page = self.pages.entry(number).or_insert_with(|| {
            *allocated += u64::from(!reserved);
            Arc::new([0; PAGE as usize])
        });
        Arc::make_mut(page)
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.clear(len, self.len - len);
            self.release(len.div_ceil(PAGE)..u64::MAX / PAGE);
        }
        self.len = len;
    }

    /// Lets a range read as zeros. Pages that are wholly in it stay reserved if they were.
    fn clear(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let whole = whole_pages(offset, len);
        let gone: Vec<u64> = self.pages.range(whole).map(|(number, _)| *number).collect();
        for number in gone {
            self.pages.remove(&number);
            if !self.is_reserved(number) {
                self.allocated -= 1;
            }
        }
        let edges = if len == 0 { [None; 2] } else { [Some(offset / PAGE), Some((end - 1) / PAGE)] };
        for number in edges.into_iter().flatten() {
            if let Some(page) = self.pages.get_mut(&number) {
                let (from, to) = ((number * PAGE).max(offset), ((number + 1) * PAGE).min(end));
                Arc::make_mut(page)[(from - number * PAGE) as usize..(to - number * PAGE) as usize].fill(0);
            }
        }
    }

    fn reserve(&mut self, offset: u64, len: u64) {
        let mut range = pages(offset, len);
        if range.is_empty() {
            return;
        }
        self.allocated += range.end - range.start - self.counted(&range);
        let touching: Vec<(u64, u64)> = self
            .reserved
            .range(..=range.end)
            .rev()
            .take_while(|(_, end)| **end >= range.start)
            .map(|(start, end)| (*start, *end))
            .collect();
        for (start, end) in touching {
            self.reserved.remove(&start);
            range = range.start.min(start)..range.end.max(end);
        }
        self.reserved.insert(range.start, range.end);
    }

    /// Gives back the room of pages; those that hold data go too.
    fn release(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        self.allocated -= self.counted(&range);
        let gone: Vec<u64> = self.pages.range(range.clone()).map(|(number, _)| *number).collect();
        for number in gone {
            self.pages.remove(&number);
        }
        for (start, end) in self.reserved_in(&range) {
            self.reserved.remove(&start);
            if start < range.start {
                self.reserved.insert(start, range.start);
            }
            if end > range.end {
                self.reserved.insert(range.end, end);
            }
        }
    }

    /// How many pages of a range are allocated.
    fn counted(&self, range: &Range<u64>) -> u64 {
        let mut count = self.pages.range(range.clone()).count() as u64;
        for (start, end) in self.reserved_in(range) {
            let part = start.max(range.start)..end.min(range.end);
            count += part.end - part.start - self.pages.range(part).count() as u64;
        }
        count
    }

    fn reserved_in(&self, range: &Range<u64>) -> Vec<(u64, u64)> {
        self.reserved
            .range(..range.end)
            .rev()
            .take_while(|(_, end)| **end > range.start)
            .map(|(start, end)| (*start, *end))
            .collect()
    }

    fn is_reserved(&self, number: u64) -> bool {
        self.reserved.range(..=number).next_back().is_some_and(|(_, end)| *end > number)
    }
}

/// Pages that a range touches.
fn pages(offset: u64, len: u64) -> Range<u64> {
    if len == 0 {
        return 0..0;
    }
    offset / PAGE..offset.saturating_add(len).div_ceil(PAGE)
}

/// Pages that lie wholly in a range.
fn whole_pages(offset: u64, len: u64) -> Range<u64> {
    let range = offset.div_ceil(PAGE)..offset.saturating_add(len) / PAGE;
    if range.start < range.end { range } else { 0..0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a plain vector of bytes and one bool a page.
    #[test]
    fn equals_a_plain_model() {
        const SIZE: u64 = 64 * PAGE;
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut content, mut bytes, mut room) = (Content::default(), Vec::<u8>::new(), [false; 64]);
            for _ in 0..60 {
                let offset = rng.u64(..SIZE - 1);
                let offset = if rng.bool() { offset / PAGE * PAGE } else { offset };
                let len = rng.u64(1..=(SIZE - offset).min(9 * PAGE));
                let (from, to) = (offset as usize, (offset + len) as usize);
                let change = match rng.u8(..5) {
                    0 => {
                        bytes.resize(bytes.len().max(to), 0);
                        bytes[from..to].fill(seed as u8 | 1);
                        pages(offset, len).for_each(|p| room[p as usize] = true);
                        Change::Write { offset, data: vec![seed as u8 | 1; len as usize].into() }
                    }
                    1 | 2 => {
                        let end = bytes.len();
                        bytes[from.min(end)..to.min(end)].fill(0);
                        if rng.bool() {
                            pages(offset, len).for_each(|p| room[p as usize] = true);
                            Change::Zero { offset, len }
                        } else {
                            whole_pages(offset, len).for_each(|p| room[p as usize] = false);
                            Change::Punch { offset, len }
                        }
                    }
                    3 => {
                        if from < bytes.len() {
                            room[offset.div_ceil(PAGE) as usize..].fill(false);
                        }
                        bytes.resize(from, 0);
                        Change::SetLen(offset)
                    }
                    _ => {
                        pages(offset, len).for_each(|p| room[p as usize] = true);
                        Change::Reserve { offset, len }
                    }
                };
                let missing = content.missing(offset, len);
                let was = content.allocated();
                content.apply(&change);
                if matches!(change, Change::Reserve { .. }) {
                    assert_eq!(content.allocated(), was + missing * PAGE, "seed {seed}");
                }
                let mut got = vec![9; SIZE as usize];
                let count = content.read(&mut got, 0);
                assert!(got[..count] == bytes[..], "seed {seed} after {change:?}");
                let expected = room.iter().filter(|r| **r).count() as u64 * PAGE;
                assert_eq!(content.allocated(), expected, "seed {seed} after {change:?}");
            }
        }
    }

    #[test]
    fn a_tebibyte_costs_nothing() {
        let mut content = Content::default();
        content.apply(&Change::SetLen(1 << 40));
        content.apply(&Change::Write { offset: (1 << 40) - 10, data: vec![7; 20].into() });
        content.apply(&Change::Zero { offset: 0, len: 1 << 39 });
        assert_eq!(content.next_data(0), Some((1 << 40) - PAGE));
        assert_eq!(content.next_hole(content.len() - 5), Some(content.len()));
        assert_eq!(content.next_hole(content.len()), None);
        content.apply(&Change::Punch { offset: 0, len: 1 << 41 });
        assert_eq!((content.len(), content.allocated()), ((1 << 40) + 10, 0));
    }
}
