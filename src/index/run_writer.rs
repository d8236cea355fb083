//! Writes a run: sorted pieces first, then the table of batches, then the sections, then the header.
//!
//! W1. The file gets its name after all of it is durable; before, it is a `.tmp`. One that is given up takes that with
//!     it: on a full filesystem the tries would fill what is left. What a death leaves an opening deletes.

use crate::format::index_page::{LEVEL_MAX, PAGE_BYTES, PageBuilder, Piece};
use crate::format::run::{
    BATCH_ROWS, BatchRow, CHAPTER_BYTES, Chapter, LEVEL_MARKS, RunHeader, Section, encode_batch_page,
};
use crate::index::pieces::MIB;
use crate::index::run::{Run, pack_fence};
use crate::index::touched::Touched;
use crate::seam::{Access, File, Storage};
use crate::vocab::{DiskOrdinal, Error, GroupId, Kind, LogId, Pos, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// What a run will be.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunPlan {
    pub(super) number: u64,
    pub(super) group: GroupId,
    pub(super) log: LogId,
    pub(super) level: u8,
    pub(super) from: Pos,
    pub(super) to: Pos,
}

pub(super) struct RunWriter {
    storage: Arc<dyn Storage>,
    plan: RunPlan,
    dir: PathBuf,
    temporary: PathBuf,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    written: u64,
    page: PageBuilder,
    firsts: Vec<(DiskOrdinal, u64)>,
    level_pages: [u32; LEVEL_MARKS],
    level: u8,
    disks: BTreeMap<DiskOrdinal, u16>,
    touched: Touched,
    pieces: u64,
    rows: Vec<BatchRow>,
    row_count: u64,
    batch_pages: u32,
    chapters: Vec<Chapter>,
    pages: Option<u32>,
}

/// File name of a run.
pub(super) fn run_name(number: u64) -> String {
    format!("run-{number:016x}")
}

impl RunWriter {
    pub(super) fn create(storage: &Arc<dyn Storage>, dir: &Path, plan: RunPlan) -> Result<Self> {
        let temporary = dir.join(format!("{}.tmp", run_name(plan.number)));
        if storage.exists(&temporary)? {
            storage.remove(&temporary)?;
        }
        let file = storage.create(&temporary, Access::Cached)?;
        Ok(Self {
            storage: Arc::clone(storage),
            plan,
            dir: dir.to_owned(),
            temporary,
            file,
            buffer: Vec::with_capacity(BUFFER_BYTES + PAGE_BYTES),
            written: PAGE_BYTES as u64,
            page: PageBuilder::new(plan.number, 0),
            firsts: Vec::new(),
            level_pages: [0; LEVEL_MARKS],
            level: 0,
            disks: BTreeMap::new(),
            touched: Touched::default(),
            pieces: 0,
            rows: Vec::new(),
            row_count: 0,
            batch_pages: 0,
            chapters: Vec::new(),
            pages: None,
        })
    }

    /// Adds the next piece in the order of a run.
    pub(super) fn push(&mut self, piece: &Piece) -> Result<()> {
        if !self.page.push(piece) {
            self.end_page()?;
            self.page.push(piece);
        }
        if self.firsts.len() == self.page.number() as usize {
            for level in self.level..piece.level {
                self.level_pages[usize::from(level) + 1] = self.page.number();
            }
            self.level = piece.level;
            self.firsts.push((piece.disk, piece.start));
        }
        *self.disks.entry(piece.disk).or_default() |= 1 << piece.level;
        if piece.level == 0 {
            self.touched.push(piece.disk, piece.start / MIB);
        }
        self.pieces += 1;
        Ok(())
    }

    /// Ends the pieces: batches follow.
    fn end_pieces(&mut self) -> Result<u32> {
        if let Some(pages) = self.pages {
            return Ok(pages);
        }
        self.end_page()?;
        let pages = self.firsts.len() as u32;
        self.level_pages[usize::from(self.level) + 1..].fill(pages);
        self.pages = Some(pages);
        Ok(pages)
    }

    /// Begins the chapter of a segment in the table of batches; its rows follow.
    pub(super) fn push_chapter(&mut self, chapter: Chapter) -> Result<()> {
        self.end_pieces()?;
        self.chapters.push(Chapter { first_row: self.row_count, ..chapter });
        Ok(())
    }

    pub(super) fn push_row(&mut self, row: BatchRow) -> Result<()> {
        self.rows.push(row);
        self.row_count += 1;
        if self.rows.len() == BATCH_ROWS { self.end_rows() } else { Ok(()) }
    }

    fn end_rows(&mut self) -> Result<()> {
        let number = self.end_pieces()? + self.batch_pages;
        if !self.rows.is_empty() {
            let page = encode_batch_page(self.plan.number, number, &self.rows);
            self.rows.clear();
            self.batch_pages += 1;
            self.put(&page)?;
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<()> {
        if self.page.is_empty() {
            return Ok(());
        }
        let page = self.page.finish();
        self.put(&page)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn section(&mut self, bytes: &[u8]) -> Result<Section> {
        let offset = self.written + self.buffer.len() as u64;
        self.put(bytes)?;
        Ok(Section { offset, len: bytes.len() as u64, crc: crc32c::crc32c(bytes) })
    }

    /// Makes it durable and gives it its name (W1). If that fails: [`RunWriter::abandon`].
    pub(super) fn finish(&mut self, versions: u64) -> Result<Run> {
        self.end_rows()?;
        let pages = self.end_pieces()?;
        let ranks: Vec<DiskOrdinal> = self.disks.keys().copied().collect();
        let mut fences = Vec::with_capacity(8 * self.firsts.len());
        for (disk, start) in &self.firsts {
            let rank = ranks.binary_search(disk).unwrap_or_default();
            fences.extend(pack_fence(rank, *start).to_le_bytes());
        }
        let mut disks = Vec::with_capacity(8 * self.disks.len());
        for (disk, levels) in &self.disks {
            disks.extend(disk.0.to_le_bytes());
            disks.extend(u32::from(*levels).to_le_bytes());
        }
        let mut chapters = Vec::with_capacity(CHAPTER_BYTES * self.chapters.len());
        self.chapters.iter().for_each(|c| chapters.extend(c.encode()));
        let touched = self.touched.encode();
        let header = RunHeader {
            number: self.plan.number,
            group: self.plan.group,
            log: self.plan.log,
            level: self.plan.level,
            from: self.plan.from,
            to: self.plan.to,
            pieces: self.pieces,
            versions,
            pages,
            batch_pages: self.batch_pages,
            level_pages: self.level_pages,
            fences: self.section(&fences)?,
            disks: self.section(&disks)?,
            touched: self.section(&touched)?,
            chapters: self.section(&chapters)?,
        };
        self.flush()?;
        self.file.write_all_at(&header.encode(), 0)?;
        self.file.sync()?;
        let path = self.dir.join(run_name(self.plan.number));
        self.storage.rename(&self.temporary, &path)?;
        self.storage.sync_dir(&self.dir)?;
        Run::open(&*self.storage, &path)
    }

    /// Gives it up (W1).
    pub(super) fn drop_file(self) -> Result<()> {
        self.storage.remove(&self.temporary)
    }

    /// Gives it up for this reason, which is handed back.
    pub(super) fn abandon(self, why: Error) -> Error {
        if let Err(error) = self.drop_file() {
            tracing::warn!(%error, "what was written of an index run stays until the group is opened again");
        }
        why
    }
}

// A disk's row has a bit for each level.
const _: () = assert!(LEVEL_MAX < 16);

/// What is wrong with a stretch that a run shall cover.
pub(super) fn check_stretch(log: LogId, from: Pos, to: Pos) -> Result<()> {
    if from < to {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, format!("log {}: a segment from {from} to {to}", log.short())))
}
