//! Pages of an index run: 203 slots of 20 bytes.
//!
//! A version is kept as *pieces*, so that everything that touches a byte is found in a bounded place:
//!
//! X1. A piece of level 0 lies inside one MiB. Data has pieces of level 0 only, at most two: records are at most
//!     1 MiB long. A piece of level k > 0 is a zero or discard of whole cells of level k−1 inside one cell of
//!     level k; cells of level k are 16^k MiB. So an extent of any length is at most 24 pieces.
//! X2. Slots are sorted by (level, disk, start, length, position descending). All versions of one range, a
//!     *chain*, lie together, the newest first. A page has one level.
//! X3. A piece tells the whole of its version: how far into the payload it begins, and how long that is.
//! X4. Each page names its run and its number and has a crc: a page that is torn, rotten or misplaced is seen.
//!
//! | page header | bytes | slot | bytes |
//! | --- | --- | --- | --- |
//! | magic `sbIP` | 4 | start in units of its level, low 32 bits | 4 |
//! | crc32c of the page with this field zero | 4 | length in units | 4 |
//! | run number | 8 | position << 3, kind | 8 |
//! | page number | 4 | crc32c of the payload | 4 |
//! | disk, region of the first slot | 8 | | |
//! | slots u16, level u8, version u8, zero | 8 | | |
//!
//! The region is what of the start is above its low 32 bits. A slot of kind *switch* changes disk and region
//! for those behind it. A piece that a MiB boundary cuts off behind (*head*) has its start and, as length, the
//! payload's; one that it cuts off before (*tail*) begins at the MiB in the upper 12 bits of its start, the
//! lower 20 are how far into the payload that is.

use crate::format::{BLOCK, crc_of};
use crate::vocab::{DiskOrdinal, Pos};
use std::cmp::Ordering;

/// Slots of a page.
pub const PAGE_SLOTS: usize = 203;
/// Bytes of a page.
pub const PAGE_BYTES: usize = BLOCK as usize;
/// Highest level of a piece.
pub const LEVEL_MAX: u8 = 11;
/// Highest position that an index can hold.
pub const POS_MAX: u64 = (1 << 61) - 1;

const HEADER_BYTES: usize = 36;
const SLOT_BYTES: usize = 20;
const MAGIC: [u8; 4] = *b"sbIP";
const VERSION: u8 = 1;
const MIB: u64 = 1 << 20;
const MIB_LOW: u32 = (1 << 20) - 1;
const _: () = assert!(HEADER_BYTES + PAGE_SLOTS * SLOT_BYTES == PAGE_BYTES);

/// What a version says of its range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Content {
    /// The bytes of its payload.
    Data,
    /// Zeros, and the room stays allocated.
    Zero,
    /// Zeros, and the room may be given back.
    Discard,
}

/// A part of a version, as the index stores it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Size class: X1.
    pub level: u8,
    /// Which file of the group.
    pub disk: DiskOrdinal,
    /// First byte in the file.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// The version's place in its log.
    pub pos: Pos,
    /// What it says.
    pub content: Content,
    /// Bytes of the payload before this piece.
    pub skip: u32,
    /// Bytes of the payload; of the piece if it has none.
    pub whole: u64,
    /// crc32c of the payload.
    pub crc: u32,
}

/// Log2 of the bytes of a cell of this level.
pub fn cell_shift(level: u8) -> u32 {
    20 + 4 * u32::from(level)
}

/// Log2 of the unit in which pieces of this level are counted.
fn unit_shift(level: u8) -> u32 {
    if level == 0 { 0 } else { cell_shift(level - 1) }
}

impl Piece {
    /// The order of X2.
    pub fn order(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }

    /// What a run is sorted by.
    pub fn key(&self) -> PieceKey {
        PieceKey {
            level: self.level,
            disk: self.disk,
            start: self.start,
            len: self.len,
            newness: std::cmp::Reverse(self.pos),
        }
    }

    /// The cell of its level that it lies in.
    pub fn cell(&self) -> u64 {
        self.start.checked_shr(cell_shift(self.level)).unwrap_or(0)
    }
}

/// The sort key of a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PieceKey {
    /// Size class.
    pub level: u8,
    /// File.
    pub disk: DiskOrdinal,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Place in the log, the highest first.
    pub newness: std::cmp::Reverse<Pos>,
}

/// 20 bytes that, with the level, disk and region that they stand under, are a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    start: u32,
    len: u32,
    pos_kind: u64,
    crc: u32,
}

const DATA: u64 = 0;
const ZERO: u64 = 1;
const DISCARD: u64 = 2;
const HEAD: u64 = 3;
const TAIL: u64 = 4;
const SWITCH: u64 = 7;

impl Slot {
    /// The piece in 20 bytes, and the region that it must stand under.
    pub fn pack(piece: &Piece) -> (u32, Self) {
        let units = piece.start >> unit_shift(piece.level);
        let region = (units >> 32) as u32;
        let (mut start, mut len) = (units as u32, (piece.len >> unit_shift(piece.level)) as u32);
        let kind = match piece.content {
            Content::Zero => ZERO,
            Content::Discard => DISCARD,
            Content::Data if piece.skip > 0 => {
                start = (start & !MIB_LOW) | (piece.skip & MIB_LOW);
                TAIL
            }
            Content::Data if piece.len < piece.whole => {
                len = piece.whole as u32;
                HEAD
            }
            Content::Data => DATA,
        };
        (region, Self { start, len, pos_kind: piece.pos.0 << 3 | kind, crc: piece.crc })
    }

    /// The piece that stands here; `None` for a switch or a kind that doesn't exist.
    pub fn unpack(&self, level: u8, disk: DiskOrdinal, region: u32) -> Option<Piece> {
        let shift = unit_shift(level);
        let start = (u64::from(region) << 32 | u64::from(self.start)) << shift;
        let len = u64::from(self.len) << shift;
        let pos = Pos(self.pos_kind >> 3);
        let plain = Piece {
            level,
            disk,
            start,
            len,
            pos,
            content: Content::Data,
            skip: 0,
            whole: len,
            crc: self.crc,
        };
        Some(match self.pos_kind & 7 {
            DATA => plain,
            ZERO => Piece { content: Content::Zero, ..plain },
            DISCARD => Piece { content: Content::Discard, ..plain },
            HEAD => Piece { len: MIB - (start & (MIB - 1)), ..plain },
            TAIL => {
                let skip = self.start & MIB_LOW;
                Piece { start: start & !(MIB - 1), skip, whole: len + u64::from(skip), ..plain }
            }
            _ => return None,
        })
    }

    /// The position, without unpacking.
    pub fn pos(&self) -> Pos {
        Pos(self.pos_kind >> 3)
    }

    fn switch(disk: DiskOrdinal, region: u32) -> Self {
        Self { start: disk.0, len: region, pos_kind: SWITCH, crc: 0 }
    }

    fn write(&self, out: &mut [u8]) {
        out[0..4].copy_from_slice(&self.start.to_le_bytes());
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.pos_kind.to_le_bytes());
        out[16..20].copy_from_slice(&self.crc.to_le_bytes());
    }

    fn read(from: &[u8]) -> Self {
        Self {
            start: u32_at(from, 0),
            len: u32_at(from, 4),
            pos_kind: u64_at(from, 8),
            crc: u32_at(from, 16),
        }
    }
}

pub(crate) fn u32_at(from: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&from[at..at + 4]);
    u32::from_le_bytes(raw)
}

pub(crate) fn u64_at(from: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&from[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// Fills pages with sorted pieces.
#[derive(Debug)]
pub struct PageBuilder {
    run: u64,
    number: u32,
    bytes: Vec<u8>,
    slots: usize,
    under: (u8, DiskOrdinal, u32),
}

impl PageBuilder {
    /// For the pages of this run, from page `number` on.
    pub fn new(run: u64, number: u32) -> Self {
        Self { run, number, bytes: vec![0; PAGE_BYTES], slots: 0, under: (0, DiskOrdinal(0), 0) }
    }

    /// Number of the page being filled.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.slots == 0
    }

    /// Adds a piece; `false` if it needs a new page.
    pub fn push(&mut self, piece: &Piece) -> bool {
        let (region, slot) = Slot::pack(piece);
        let under = (piece.level, piece.disk, region);
        if self.slots == 0 {
            self.under = under;
            self.bytes[20..24].copy_from_slice(&piece.disk.0.to_le_bytes());
            self.bytes[24..28].copy_from_slice(&region.to_le_bytes());
            self.bytes[30] = piece.level;
        } else if self.under.0 != piece.level {
            return false;
        }
        let switch = self.under != under;
        if self.slots + usize::from(switch) >= PAGE_SLOTS {
            return false;
        }
        if switch {
            self.put(Slot::switch(piece.disk, region));
            self.under = under;
        }
        self.put(slot);
        true
    }

    fn put(&mut self, slot: Slot) {
        let at = HEADER_BYTES + self.slots * SLOT_BYTES;
        slot.write(&mut self.bytes[at..at + SLOT_BYTES]);
        self.slots += 1;
    }

    /// The page's bytes; the builder goes on with the next one.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut page = std::mem::replace(&mut self.bytes, vec![0; PAGE_BYTES]);
        page[0..4].copy_from_slice(&MAGIC);
        page[8..16].copy_from_slice(&self.run.to_le_bytes());
        page[16..20].copy_from_slice(&self.number.to_le_bytes());
        page[28..30].copy_from_slice(&(self.slots as u16).to_le_bytes());
        page[31] = VERSION;
        let crc = crc_of(&[&page]);
        page[4..8].copy_from_slice(&crc.to_le_bytes());
        self.number += 1;
        self.slots = 0;
        page
    }
}

/// Checks a page of 4096 bytes against X4; says what is wrong with it.
pub fn check_page(page: &[u8], run: u64, number: u32) -> Result<(), &'static str> {
    if page.len() != PAGE_BYTES || page[0..4] != MAGIC {
        return Err("no index page");
    }
    if crc_of(&[&page[..4], &[0; 4], &page[8..]]) != u32_at(page, 4) {
        return Err("the index page's checksum doesn't fit");
    }
    if page[31] != VERSION {
        return Err("an index page of another version");
    }
    if u64_at(page, 8) != run || u32_at(page, 16) != number {
        return Err("an index page of another place");
    }
    let slots = usize::from(u16::from_le_bytes([page[28], page[29]]));
    if slots > PAGE_SLOTS || page[30] > LEVEL_MAX {
        return Err("an index page with impossible counts");
    }
    Ok(())
}

/// The pieces of a checked page in their order.
#[derive(Clone, Debug)]
pub struct PageCursor {
    at: usize,
    slots: usize,
    level: u8,
    disk: DiskOrdinal,
    region: u32,
}

impl PageCursor {
    /// At the first piece of this page.
    pub fn new(page: &[u8]) -> Self {
        Self {
            at: 0,
            slots: usize::from(u16::from_le_bytes([page[28], page[29]])),
            level: page[30],
            disk: DiskOrdinal(u32_at(page, 20)),
            region: u32_at(page, 24),
        }
    }

    /// The next piece of the same page. Slots of a kind that doesn't exist can't stand in a checked page.
    pub fn next(&mut self, page: &[u8]) -> Option<Piece> {
        while self.at < self.slots {
            let slot = Slot::read(&page[HEADER_BYTES + self.at * SLOT_BYTES..][..SLOT_BYTES]);
            self.at += 1;
            match slot.unpack(self.level, self.disk, self.region) {
                Some(piece) => return Some(piece),
                None => (self.disk, self.region) = (DiskOrdinal(slot.start), slot.len),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(level: u8, disk: u32, start: u64, len: u64, pos: u64, content: Content) -> Piece {
        let whole = len;
        Piece { level, disk: DiskOrdinal(disk), start, len, pos: Pos(pos), content, skip: 0, whole, crc: 7 }
    }

    fn samples() -> Vec<Piece> {
        let tail = Piece {
            skip: 1000,
            whole: 4096,
            ..piece(0, 1, 7 * MIB + (5 << 32), 3096, POS_MAX, Content::Data)
        };
        let head =
            Piece { whole: 4096, ..piece(0, 1, 7 * MIB + (5 << 32) - 1000, 1000, POS_MAX, Content::Data) };
        let mut out = vec![
            piece(0, 1, 0, 4096, 1, Content::Data),
            piece(0, 1, 512, MIB - 512, 0, Content::Zero),
            piece(0, 2, 1 << 62, 4096, 77, Content::Discard),
            piece(1, 2, 3 * MIB, 4 * MIB, 5, Content::Discard),
            piece(1, 2, 1 << 60, 15 * MIB, 5, Content::Zero),
            piece(LEVEL_MAX, 2, 1 << 60, 7 << 60, 5, Content::Zero),
            head,
            tail,
        ];
        out.sort_by(Piece::order);
        out
    }

    #[test]
    fn a_slot_keeps_every_kind_of_piece() {
        for piece in samples() {
            let (region, slot) = Slot::pack(&piece);
            assert_eq!(slot.unpack(piece.level, piece.disk, region), Some(piece));
        }
    }

    #[test]
    fn pages_keep_order_and_break_at_levels() {
        let mut builder = PageBuilder::new(9, 1);
        let (mut pages, pieces) = (Vec::new(), samples());
        for piece in &pieces {
            if !builder.push(piece) {
                pages.push(builder.finish());
                assert!(builder.push(piece));
            }
        }
        pages.push(builder.finish());
        assert_eq!(pages.len(), 3);
        let mut out = Vec::new();
        for (page, number) in pages.iter().zip(1..) {
            check_page(page, 9, number).unwrap();
            let mut cursor = PageCursor::new(page);
            out.extend(std::iter::from_fn(|| cursor.next(page)));
        }
        assert_eq!(out, pieces);
    }

    #[test]
    fn a_page_takes_203_pieces_and_switches_count() {
        let mut builder = PageBuilder::new(9, 1);
        let fits =
            (0..300).take_while(|i| builder.push(&piece(0, 1, i * 4096, 4096, 1, Content::Data))).count();
        assert_eq!(fits, PAGE_SLOTS);
        let mut builder = PageBuilder::new(9, 1);
        let fits =
            (0..300).take_while(|i| builder.push(&piece(0, 1, i << 32, 4096, 1, Content::Data))).count();
        assert_eq!(fits, PAGE_SLOTS.div_ceil(2));
    }

    #[test]
    fn every_flipped_bit_and_every_wrong_place_is_seen() {
        let mut builder = PageBuilder::new(9, 1);
        builder.push(&samples()[0]);
        let page = builder.finish();
        assert!(check_page(&page, 9, 2).is_err());
        assert!(check_page(&page, 8, 1).is_err());
        for at in 0..PAGE_BYTES {
            let mut bad = page.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(check_page(&bad, 9, 1).is_err(), "byte {at}");
        }
    }
}
