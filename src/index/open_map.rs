//! The versions of the segment that is being written, or of one whose run is not written yet, in memory.
//!
//! O1. Insertion is in rising order of position, and costs a hash and a push.
//! O2. Pieces are chained by the cell that they lie in, the newest first; a chain is walked until what is asked
//!     for is covered.

use crate::format::index_page::{Content, Piece, cell_shift};
use crate::format::run::BatchRow;
use crate::index::Entry;
use crate::index::cache::Mix;
use crate::index::pieces::split;
use crate::vocab::{DiskOrdinal, Pos};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

/// Pieces after which a segment should end, so that memory stays bounded whatever the guest writes.
pub const OPEN_PIECES_MAX: usize = 1 << 16;

const NONE: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct OpenMap {
    cells: HashMap<u128, u32, BuildHasherDefault<Mix>>,
    kept: Vec<Kept>,
    levels: u16,
    rows: Vec<BatchRow>,
    versions: u64,
}

/// 40 bytes a piece.
struct Kept {
    start: u64,
    len: u64,
    pos_kind: u64,
    whole_skip: u64,
    crc: u32,
    older: u32,
}

fn cell_key(disk: DiskOrdinal, level: u8, cell: u64) -> u128 {
    u128::from(disk.0) << 72 | u128::from(level) << 64 | u128::from(cell)
}

impl Kept {
    fn piece(&self, disk: DiskOrdinal, level: u8) -> Piece {
        let content = match self.pos_kind & 3 {
            0 => Content::Data,
            1 => Content::Zero,
            _ => Content::Discard,
        };
        let data = content == Content::Data;
        Piece {
            level,
            disk,
            start: self.start,
            len: self.len,
            pos: Pos(self.pos_kind >> 2),
            content,
            skip: if data { (self.whole_skip >> 32) as u32 } else { 0 },
            whole: if data { self.whole_skip & 0xffff_ffff } else { self.len },
            crc: self.crc,
        }
    }
}

impl OpenMap {
    /// Puts a checked version in; returns its pieces to `each`.
    pub(super) fn insert(&mut self, entry: &Entry, mut each: impl FnMut(&Piece)) {
        self.versions += 1;
        split(entry, |piece| {
            let at = self.kept.len() as u32;
            let older = self.cells.insert(cell_key(piece.disk, piece.level, piece.cell()), at);
            let kind = match piece.content {
                Content::Data => 0,
                Content::Zero => 1,
                Content::Discard => 2,
            };
            self.kept.push(Kept {
                start: piece.start,
                len: piece.len,
                pos_kind: piece.pos.0 << 2 | kind,
                whole_skip: u64::from(piece.skip) << 32 | piece.whole & 0xffff_ffff,
                crc: piece.crc,
                older: older.unwrap_or(NONE),
            });
            self.levels |= 1 << piece.level;
            each(&piece);
        });
    }

    pub(super) fn push_row(&mut self, row: BatchRow) {
        self.rows.push(row);
    }

    pub(super) fn rows(&self) -> &[BatchRow] {
        &self.rows
    }

    /// Position of the newest piece.
    pub(super) fn last_pos(&self) -> Option<Pos> {
        self.kept.last().map(|k| Pos(k.pos_kind >> 2))
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn versions(&self) -> u64 {
        self.versions
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.kept.capacity() * size_of::<Kept>() + self.cells.capacity() * 33 + self.rows.capacity() * 24
    }

    /// Calls `each` with the pieces whose cells lie over a MiB, of each level the newest first, while it says so.
    pub(super) fn visit(&self, disk: DiskOrdinal, mib: u64, mut each: impl FnMut(Piece) -> bool) {
        let mut levels = self.levels;
        while levels != 0 {
            let level = levels.trailing_zeros() as u8;
            levels &= levels - 1;
            let cell = (mib << 20).checked_shr(cell_shift(level)).unwrap_or(0);
            let mut at = self.cells.get(&cell_key(disk, level, cell)).copied().unwrap_or(NONE);
            while at != NONE {
                let kept = &self.kept[at as usize];
                if !each(kept.piece(disk, level)) {
                    break;
                }
                at = kept.older;
            }
        }
    }

    /// All pieces, in no order; of one disk if one is named.
    pub(super) fn pieces(&self, only: Option<DiskOrdinal>) -> Vec<Piece> {
        let mut out = Vec::new();
        for (key, newest) in &self.cells {
            let (disk, level) = (DiskOrdinal((key >> 72) as u32), (key >> 64) as u8);
            if only.is_some_and(|only| only != disk) {
                continue;
            }
            let mut at = *newest;
            while at != NONE {
                let kept = &self.kept[at as usize];
                out.push(kept.piece(disk, level));
                at = kept.older;
            }
        }
        out
    }
}
