//! What goes into the index and what comes out.

use crate::vocab::{DiskOrdinal, LogId, Pos};

pub use crate::format::index_page::Content;

/// One version: a content record of a log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// Which file of the group.
    pub disk: DiskOrdinal,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes; never 0. With [`Content::Data`] at most [`crate::vocab::PAYLOAD_MAX`].
    pub len: u64,
    /// The record's place in its log: where its payload begins. Unique in the log; later records are higher.
    pub pos: Pos,
    /// What the version says.
    pub content: Content,
    /// CRC-32C of the payload as stored, whole; 0 where there is none.
    pub crc: u32,
}

impl Entry {
    /// The byte behind the last one.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// Where the bytes of an extent are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// No version on the path (above its anchor): ask what the anchor leans on, a hold or the base.
    Below,
    /// Zeros: of a zero or of a discard.
    Zero,
    /// In a payload.
    Data {
        /// The log that holds it.
        log: LogId,
        /// The version, whole: its crc is over all of its payload.
        entry: Entry,
        /// Bytes from the start of the payload to the first byte of the extent.
        skip: u64,
    },
}

/// A piece of a file as a moment sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes; never 0.
    pub len: u64,
    /// Where they are.
    pub source: Source,
}

impl Extent {
    /// The byte behind the last one.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// The position in its log of the extent's first byte, where it has one.
    pub fn payload_at(&self) -> Option<(LogId, Pos)> {
        match self.source {
            Source::Data { log, entry, skip } => Some((log, Pos(entry.pos.0 + skip))),
            Source::Below | Source::Zero => None,
        }
    }

    /// Takes `next` on if it goes on where this one ends, in the same version or as more of the same.
    /// Says whether it did.
    pub fn join(&mut self, next: &Extent) -> bool {
        let same = self.end() == next.offset
            && match (self.source, next.source) {
                (Source::Below, Source::Below) | (Source::Zero, Source::Zero) => true,
                (
                    Source::Data { log, entry, skip },
                    Source::Data { log: log2, entry: entry2, skip: skip2 },
                ) => log == log2 && entry.pos == entry2.pos && skip + self.len == skip2,
                _ => false,
            };
        if same {
            self.len += next.len;
        }
        same
    }
}
