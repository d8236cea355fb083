//! File of an index run: header block, index pages, pages of the table of batches, sections.
//!
//! The header is written last and names the sections with their crcs; the file gets its name when all of it is
//! durable. So a file under a run's name is whole, or damaged.
//!
//! | header | bytes | | bytes |
//! | --- | --- | --- | --- |
//! | magic `sbIR`, version u16, level u8, 0 | 8 | index pages u32, batch pages u32 | 8 |
//! | crc32c of the block with this field zero | 4 | first index page of each of 13 levels | 52 |
//! | 0 | 4 | sections: offset u64, length u64, crc u32, 0 | 4 × 24 |
//! | run number | 8 | | |
//! | group, log | 32 | | |
//! | first and end position | 16 | | |
//! | pieces, versions | 16 | | |

use crate::format::index_page::{LEVEL_MAX, PAGE_BYTES, u32_at, u64_at};
use crate::format::{BLOCK, crc_of};
use crate::vocab::{EpochId, GroupId, LogId, Pos, Seq};

/// Rows in a page of the table of batches.
pub const BATCH_ROWS: usize = 169;
/// Bytes of a chapter.
pub const CHAPTER_BYTES: usize = 96;
/// Levels, and one for the end.
pub const LEVEL_MARKS: usize = LEVEL_MAX as usize + 2;

const MAGIC: [u8; 4] = *b"sbIR";
const VERSION: u16 = 1;
const BATCH_MAGIC: [u8; 4] = *b"sbIB";
const ROW_BYTES: usize = 24;
const BATCH_HEADER_BYTES: usize = 24;
const _: () = assert!(BATCH_HEADER_BYTES + BATCH_ROWS * ROW_BYTES <= PAGE_BYTES);
const SECTIONS: usize = 4;
const SECTIONS_AT: usize = 96 + 4 * LEVEL_MARKS;

/// A part of the file with a crc over all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Section {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// crc32c of them.
    pub crc: u32,
}

/// What block 0 of a run says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunHeader {
    /// Number of the run; never reused in its directory.
    pub number: u64,
    /// Group that it belongs to.
    pub group: GroupId,
    /// Log whose versions it holds.
    pub log: LogId,
    /// How often its content was merged.
    pub level: u8,
    /// First position covered.
    pub from: Pos,
    /// Position behind the last one covered.
    pub to: Pos,
    /// Pieces in it.
    pub pieces: u64,
    /// Versions that were put in when it was made of segments, for statistics.
    pub versions: u64,
    /// Index pages; the first follows the header.
    pub pages: u32,
    /// Pages of the table of batches, behind them.
    pub batch_pages: u32,
    /// First index page of each level of pieces; the last is `pages`.
    pub level_pages: [u32; LEVEL_MARKS],
    /// First keys of the pages, 8 bytes each.
    pub fences: Section,
    /// Disks and the levels that each has.
    pub disks: Section,
    /// Touched MiB.
    pub touched: Section,
    /// Chapters of the table of batches.
    pub chapters: Section,
}

impl RunHeader {
    /// Block 0.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; BLOCK as usize];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6] = self.level;
        put(&mut out, 16, self.number);
        out[24..40].copy_from_slice(&self.group.0);
        out[40..56].copy_from_slice(&self.log.0);
        put(&mut out, 56, self.from.0);
        put(&mut out, 64, self.to.0);
        put(&mut out, 72, self.pieces);
        put(&mut out, 80, self.versions);
        put(&mut out, 88, u64::from(self.pages) | u64::from(self.batch_pages) << 32);
        for (level, first) in self.level_pages.iter().enumerate() {
            out[96 + 4 * level..100 + 4 * level].copy_from_slice(&first.to_le_bytes());
        }
        for (at, s) in [self.fences, self.disks, self.touched, self.chapters].into_iter().enumerate() {
            put(&mut out, SECTIONS_AT + 24 * at, s.offset);
            put(&mut out, SECTIONS_AT + 24 * at + 8, s.len);
            put(&mut out, SECTIONS_AT + 24 * at + 16, u64::from(s.crc));
        }
        let crc = crc_of(&[&out]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads block 0; says what is wrong with it.
    pub fn decode(from: &[u8]) -> Result<Self, &'static str> {
        if from.len() != BLOCK as usize || from[0..4] != MAGIC {
            return Err("no index run");
        }
        if crc_of(&[&from[..8], &[0; 4], &from[12..]]) != u32_at(from, 8) {
            return Err("the index run's header doesn't fit its checksum");
        }
        if u16::from_le_bytes([from[4], from[5]]) != VERSION {
            return Err("an index run of another version");
        }
        let section = |at: usize| {
            debug_assert!(at < SECTIONS);
            let at = SECTIONS_AT + 24 * at;
            Section { offset: u64_at(from, at), len: u64_at(from, at + 8), crc: u32_at(from, at + 16) }
        };
        let mut level_pages = [0; LEVEL_MARKS];
        for (level, first) in level_pages.iter_mut().enumerate() {
            *first = u32_at(from, 96 + 4 * level);
        }
        let header = Self {
            number: u64_at(from, 16),
            group: GroupId(id_at(from, 24)),
            log: LogId(id_at(from, 40)),
            level: from[6],
            from: Pos(u64_at(from, 56)),
            to: Pos(u64_at(from, 64)),
            pieces: u64_at(from, 72),
            versions: u64_at(from, 80),
            pages: u32_at(from, 88),
            batch_pages: u32_at(from, 92),
            level_pages,
            fences: section(0),
            disks: section(1),
            touched: section(2),
            chapters: section(3),
        };
        if header.fences.len != 8 * u64::from(header.pages)
            || header.level_pages.windows(2).any(|w| w[0] > w[1])
            || header.level_pages[LEVEL_MARKS - 1] != header.pages
        {
            return Err("an index run with impossible counts");
        }
        Ok(header)
    }
}

fn put(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn id_at(from: &[u8], at: usize) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&from[at..at + 16]);
    out
}

/// Where a batch lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchRow {
    /// Its first record; 0 if none of its records has a seq.
    pub first_seq: Seq,
    /// Its place in the log.
    pub pos: Pos,
    /// Wall time of its header, ns.
    pub wall_ns: i64,
}

/// The rows of one segment in the table of batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chapter {
    /// The segment's epoch.
    pub epoch: EpochId,
    /// Its start in the log.
    pub from: Pos,
    /// Its end.
    pub to: Pos,
    /// First seq; 0 if it has none.
    pub first_seq: Seq,
    /// Last seq; 0 if it has none.
    pub last_seq: Seq,
    /// Number of its first row in the run.
    pub first_row: u64,
    /// Rows.
    pub rows: u32,
    /// Whether wall time never steps back in it.
    pub rising: bool,
    /// Earliest wall time, ns.
    pub wall_min: i64,
    /// Latest wall time, ns.
    pub wall_max: i64,
}

impl Chapter {
    /// Its bytes.
    pub fn encode(&self) -> [u8; CHAPTER_BYTES] {
        let mut out = [0; CHAPTER_BYTES];
        out[0..16].copy_from_slice(&self.epoch.0);
        let words = [
            self.from.0,
            self.to.0,
            self.first_seq.0,
            self.last_seq.0,
            self.first_row,
            u64::from(self.rows) | u64::from(self.rising) << 32,
            self.wall_min as u64,
            self.wall_max as u64,
        ];
        for (at, word) in words.into_iter().enumerate() {
            put(&mut out, 16 + 8 * at, word);
        }
        out
    }

    /// Reads it.
    pub fn decode(from: &[u8; CHAPTER_BYTES]) -> Self {
        let word = |at: usize| u64_at(from, 16 + 8 * at);
        Self {
            epoch: EpochId(id_at(from, 0)),
            from: Pos(word(0)),
            to: Pos(word(1)),
            first_seq: Seq(word(2)),
            last_seq: Seq(word(3)),
            first_row: word(4),
            rows: word(5) as u32,
            rising: word(5) >> 32 & 1 == 1,
            wall_min: word(6) as i64,
            wall_max: word(7) as i64,
        }
    }
}

/// A page of the table of batches; at most [`BATCH_ROWS`] rows.
pub fn encode_batch_page(run: u64, number: u32, rows: &[BatchRow]) -> Vec<u8> {
    let rows = &rows[..rows.len().min(BATCH_ROWS)];
    let mut out = vec![0; PAGE_BYTES];
    out[0..4].copy_from_slice(&BATCH_MAGIC);
    put(&mut out, 8, run);
    put(&mut out, 16, u64::from(number) | (rows.len() as u64) << 32);
    for (row, at) in rows.iter().zip((BATCH_HEADER_BYTES..).step_by(ROW_BYTES)) {
        put(&mut out, at, row.first_seq.0);
        put(&mut out, at + 8, row.pos.0);
        put(&mut out, at + 16, row.wall_ns as u64);
    }
    let crc = crc_of(&[&out]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Checks a page of the table of batches; says what is wrong with it.
pub fn check_batch_page(page: &[u8], run: u64, number: u32) -> Result<(), &'static str> {
    if page.len() != PAGE_BYTES || page[0..4] != BATCH_MAGIC {
        return Err("no page of a table of batches");
    }
    if crc_of(&[&page[..4], &[0; 4], &page[8..]]) != u32_at(page, 4) {
        return Err("the page of the table of batches doesn't fit its checksum");
    }
    if u64_at(page, 8) != run || u32_at(page, 16) != number || u32_at(page, 20) as usize > BATCH_ROWS {
        return Err("a page of a table of batches of another place");
    }
    Ok(())
}

/// Row `at` of a checked page.
pub fn batch_row(page: &[u8], at: usize) -> Option<BatchRow> {
    let at = (at < u32_at(page, 20) as usize).then_some(BATCH_HEADER_BYTES + at * ROW_BYTES)?;
    Some(BatchRow {
        first_seq: Seq(u64_at(page, at)),
        pos: Pos(u64_at(page, at + 8)),
        wall_ns: u64_at(page, at + 16) as i64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> RunHeader {
        let section = |n: u64| Section { offset: n * 4096, len: n * 8, crc: n as u32 };
        let mut level_pages = [3; LEVEL_MARKS];
        level_pages[0] = 0;
        RunHeader {
            number: 77,
            group: GroupId([3; 16]),
            log: LogId([4; 16]),
            level: 2,
            from: Pos(1 << 40),
            to: Pos(1 << 41),
            pieces: 500,
            versions: 499,
            pages: 3,
            batch_pages: 2,
            level_pages,
            fences: section(3),
            disks: section(5),
            touched: section(6),
            chapters: section(7),
        }
    }

    #[test]
    fn header_there_and_back_and_flips_are_seen() {
        let block = header().encode();
        assert_eq!(RunHeader::decode(&block), Ok(header()));
        for at in 0..block.len() {
            let mut bad = block.clone();
            bad[at] ^= 0x40;
            assert!(RunHeader::decode(&bad).is_err(), "byte {at}");
        }
        assert!(RunHeader::decode(&block[..100]).is_err());
    }

    #[test]
    fn batches_there_and_back() {
        let rows: Vec<BatchRow> = (0..BATCH_ROWS as u64)
            .map(|n| BatchRow { first_seq: Seq(n), pos: Pos(n * 4096), wall_ns: -(n as i64) })
            .collect();
        let page = encode_batch_page(7, 1, &rows);
        check_batch_page(&page, 7, 1).unwrap();
        assert!(check_batch_page(&page, 7, 2).is_err());
        assert_eq!((0..).map_while(|at| batch_row(&page, at)).collect::<Vec<_>>(), rows);
        let chapter = Chapter {
            epoch: EpochId([9; 16]),
            from: Pos(1),
            to: Pos(2),
            first_seq: Seq(3),
            last_seq: Seq(4),
            first_row: 5,
            rows: 6,
            rising: true,
            wall_min: -7,
            wall_max: 8,
        };
        assert_eq!(Chapter::decode(&chapter.encode()), chapter);
    }
}
