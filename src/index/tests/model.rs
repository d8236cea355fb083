//! The index as a list: every version that was ever inserted, asked one by one.

use crate::index::{Content, Entry, Extent, Path, Source};
use crate::vocab::{DiskOrdinal, LogId};

#[derive(Default)]
pub(super) struct Model {
    pub(super) versions: Vec<(LogId, Entry)>,
}

impl Model {
    /// The answer to a look-up. Slow and plain: every version is asked about every stretch between edges.
    pub(super) fn lookup(&self, path: &Path, disk: DiskOrdinal, offset: u64, len: u64) -> Vec<Extent> {
        let end = offset + len;
        let mut seen: Vec<(u32, LogId, Entry)> = self
            .versions
            .iter()
            .filter(|(_, e)| e.disk == disk && e.offset < end && offset < e.end())
            .filter_map(|(log, e)| Some((path.rank(*log, e.pos)?, *log, *e)))
            .collect();
        seen.sort_by_key(|(number, _, e)| (*number, e.pos));
        let mut edges: Vec<u64> = seen.iter().flat_map(|(_, _, e)| [e.offset, e.end()]).collect();
        edges.extend([offset, end]);
        edges.retain(|edge| (offset..=end).contains(edge));
        edges.sort_unstable();
        edges.dedup();
        let mut out: Vec<Extent> = Vec::new();
        for pair in edges.windows(2) {
            let newest = seen.iter().rev().find(|(_, _, e)| e.offset <= pair[0] && pair[1] <= e.end());
            let source = match newest {
                None => Source::Below,
                Some((_, _, e)) if e.content != Content::Data => Source::Zero,
                Some((_, log, e)) => Source::Data { log: *log, entry: *e, skip: pair[0] - e.offset },
            };
            let extent = Extent { offset: pair[0], len: pair[1] - pair[0], source };
            if !out.last_mut().is_some_and(|last| last.join(&extent)) {
                out.push(extent);
            }
        }
        out
    }
}
