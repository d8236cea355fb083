//! A run: the versions of one stretch of one log, in a file that never changes.
//!
//! R1. What is in memory (fences, disks, touched MiB, chapters) was checked when the run was opened; each page is
//!     checked when it is read. A page that doesn't fit is [`Kind::Damaged`] with path and offset, never skipped.
//! R2. A fence is a lower bound of its page's first key, and fences rise within a level.

use crate::format::index_page::{
    LEVEL_MAX, PAGE_BYTES, PageCursor, Piece, PieceKey, check_page, u32_at, u64_at,
};
use crate::format::run::{CHAPTER_BYTES, Chapter, RunHeader, Section, check_batch_page};
use crate::index::touched::Touched;
use crate::seam::{Access, File, Storage};
use crate::vocab::{DiskOrdinal, Error, Kind, LogId, Pos, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A page in memory.
pub(super) type Page = Arc<[u8]>;

/// Who gives pages: the cache, or the file.
pub(super) trait Pages {
    /// The page with this number, index pages first, then pages of the table of batches.
    fn page(&self, run: &Run, number: u32) -> Result<Page>;
}

/// Reads pages from the file each time.
pub(super) struct Uncached;

impl Pages for Uncached {
    fn page(&self, run: &Run, number: u32) -> Result<Page> {
        run.read_page(number)
    }
}

pub(super) struct Run {
    pub(super) header: RunHeader,
    pub(super) path: PathBuf,
    pub(super) chapters: Vec<Chapter>,
    file: Arc<dyn File>,
    shown: String,
    fences: Vec<u64>,
    disks: Vec<(DiskOrdinal, u16)>,
    touched: Touched,
}

/// Bytes of one disk's row in the section of disks.
const DISK_BYTES: usize = 8;

impl Run {
    pub(super) fn open(storage: &dyn Storage, path: &Path) -> Result<Self> {
        let file = storage.open(path, Access::ReadOnly)?;
        let shown = storage.shown(path);
        let damaged = |what: &str, offset: u64| {
            Error::new(Kind::Damaged, what).at(&shown).offset(offset).advice(ADVICE)
        };
        let mut block = vec![0; PAGE_BYTES];
        let got = file.read_at(&mut block, 0)?;
        let header = RunHeader::decode(&block[..got]).map_err(|what| damaged(what, 0))?;
        let length = file.len()?;
        let section = |s: Section| {
            if s.offset.checked_add(s.len).is_none_or(|end| end > length) {
                return Err(damaged("the index run ends before one of its sections", length));
            }
            let mut bytes = vec![0; s.len as usize];
            let got = file.read_at(&mut bytes, s.offset)?;
            if got < bytes.len() || crc32c::crc32c(&bytes) != s.crc {
                return Err(damaged("a section of the index run doesn't fit its checksum", s.offset));
            }
            Ok(bytes)
        };
        let fences = section(header.fences)?.chunks_exact(8).map(|b| u64_at(b, 0)).collect();
        let disks = section(header.disks)?
            .chunks_exact(DISK_BYTES)
            .map(|b| (DiskOrdinal(u32_at(b, 0)), u32_at(b, 4) as u16))
            .collect();
        let touched = Touched::decode(&section(header.touched)?).ok_or_else(|| {
            damaged("the index run's set of touched MiB can't be read", header.touched.offset)
        })?;
        let chapters = section(header.chapters)?
            .chunks_exact(CHAPTER_BYTES)
            .filter_map(|b| b.try_into().ok().map(Chapter::decode))
            .collect();
        Ok(Self { header, path: path.to_owned(), chapters, file, shown, fences, disks, touched })
    }

    /// Whether it is of this log and holds positions of `[from, to)`.
    pub(super) fn meets(&self, log: LogId, from: Pos, to: Pos) -> bool {
        self.header.log == log && self.header.from < to && from < self.header.to
    }

    /// Whether it may have pieces of level 0 in a MiB.
    pub(super) fn touches(&self, disk: DiskOrdinal, mib: u64) -> bool {
        self.touched.has(disk, mib)
    }

    /// The levels in which it has pieces of a disk.
    pub(super) fn levels(&self, disk: DiskOrdinal) -> impl Iterator<Item = u8> + use<> {
        let at = self.disks.binary_search_by_key(&disk, |d| d.0);
        let levels = at.map_or(0, |at| self.disks[at].1);
        (0..=LEVEL_MAX).filter(move |level| levels >> level & 1 == 1)
    }

    /// Bytes that it takes in memory while it is open, about.
    pub(super) fn memory(&self) -> usize {
        8 * self.fences.len()
            + 8 * self.disks.len()
            + CHAPTER_BYTES * self.chapters.len()
            + self.touched.bytes()
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        let end = |s: Section| s.offset + s.len;
        let h = &self.header;
        [h.fences, h.disks, h.touched, h.chapters].into_iter().map(end).max().unwrap_or(0)
    }

    /// Reads and checks a page (R1).
    pub(super) fn read_page(&self, number: u32) -> Result<Page> {
        let offset = (u64::from(number) + 1) * PAGE_BYTES as u64;
        let mut page = vec![0; PAGE_BYTES];
        let got = self.file.read_at(&mut page, offset)?;
        let check = if number < self.header.pages { check_page } else { check_batch_page };
        check(&page[..got], self.header.number, number)
            .map_err(|what| Error::new(Kind::Damaged, what).at(&self.shown).offset(offset).advice(ADVICE))?;
        Ok(page.into())
    }

    /// R2: the fence of a key; `None` if the run has nothing of its disk.
    fn fence(&self, disk: DiskOrdinal, start: u64) -> Option<u64> {
        self.disks.binary_search_by_key(&disk, |d| d.0).ok().map(|rank| pack_fence(rank, start))
    }

    /// The pages that can hold the first piece at or behind `key`, for a binary search.
    fn span(&self, key: &PieceKey) -> Option<(u32, u32)> {
        let fence = self.fence(key.disk, key.start)?;
        let level = usize::from(key.level);
        let (first, end) = (self.header.level_pages[level], self.header.level_pages[level + 1]);
        let fences = &self.fences[first as usize..end as usize];
        let low = fences.partition_point(|f| *f < fence).saturating_sub(1);
        let high = fences.partition_point(|f| *f <= fence).max(low);
        Some((first + low as u32, first + high as u32))
    }
}

const ADVICE: &str = "The run can be made again from its segments";

/// R2: rank of the disk in the run, and 4 KiB granule of the start, both cut to what fits.
pub(super) fn pack_fence(rank: usize, start: u64) -> u64 {
    if rank >= 0xffff {
        return 0xffff << 48;
    }
    (rank as u64) << 48 | (start >> 12).min((1 << 48) - 1)
}

/// Walks the pieces of one level of a run in their order.
pub(super) struct RunCursor {
    pub(super) run: Arc<Run>,
    page: u32,
    end: u32,
    open: Option<(Page, PageCursor)>,
    back: Option<Piece>,
}

impl RunCursor {
    /// Before the first piece at or behind `key`, in its level.
    pub(super) fn seek(run: &Arc<Run>, key: &PieceKey, pages: &dyn Pages) -> Result<Self> {
        let level = usize::from(key.level);
        let end = run.header.level_pages[level + 1];
        let mut cursor = Self { run: Arc::clone(run), page: end, end, open: None, back: None };
        cursor.seek_to(key, pages)?;
        Ok(cursor)
    }

    /// Before the first piece of a level.
    pub(super) fn start(run: &Arc<Run>, level: u8) -> Self {
        let marks = &run.header.level_pages;
        let (page, end) = (marks[usize::from(level)], marks[usize::from(level) + 1]);
        Self { run: Arc::clone(run), page, end, open: None, back: None }
    }

    /// Goes to the first piece at or behind `key`, which is of the same level.
    pub(super) fn seek_to(&mut self, key: &PieceKey, pages: &dyn Pages) -> Result<()> {
        (self.open, self.back, self.page) = (None, None, self.end);
        let Some((mut low, mut high)) = self.run.span(key) else { return Ok(()) };
        // Many pages with one fence are one long chain: its middle is found by looking.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let page = pages.page(&self.run, middle)?;
            match PageCursor::new(&page).next(&page) {
                Some(first) if first.key() <= *key => low = middle,
                _ => high = middle,
            }
        }
        self.page = low;
        while let Some(piece) = self.next(pages)? {
            if piece.key() >= *key {
                self.back = Some(piece);
                break;
            }
        }
        Ok(())
    }

    /// The next piece of this level.
    pub(super) fn next(&mut self, pages: &dyn Pages) -> Result<Option<Piece>> {
        if let Some(piece) = self.back.take() {
            return Ok(Some(piece));
        }
        loop {
            if let Some((page, cursor)) = &mut self.open
                && let Some(piece) = cursor.next(page)
            {
                return Ok(Some(piece));
            }
            if self.page >= self.end {
                self.open = None;
                return Ok(None);
            }
            let page = pages.page(&self.run, self.page)?;
            self.page += 1;
            let cursor = PageCursor::new(&page);
            self.open = Some((page, cursor));
        }
    }

    /// Gives back the piece that `next` gave last.
    pub(super) fn put_back(&mut self, piece: Piece) {
        self.back = Some(piece);
    }

    /// Goes on to the first piece at or behind `key`, which lies ahead.
    pub(super) fn skip_to(&mut self, key: &PieceKey, pages: &dyn Pages) -> Result<()> {
        if self.back.is_some_and(|piece| piece.key() >= *key) {
            return Ok(());
        }
        if let Some((page, cursor)) = &mut self.open {
            while let Some(piece) = cursor.next(page) {
                if piece.key() >= *key {
                    self.back = Some(piece);
                    return Ok(());
                }
            }
        }
        self.seek_to(key, pages)
    }
}
