//! One group: checkpoint, history, names, logs, index, bases.

use super::chain::{ChainWalk, Claim};
use super::ranges::RangesReport;
use super::segments::{SegmentFile, SegmentReport};
use super::{Proof, Report, small};
use crate::base::{BaseFile, base_name};
use crate::format::index_page::{PAGE_BYTES, check_page};
use crate::format::run::{RunHeader, check_batch_page};
use crate::format::{Checkpoint, Span};
use crate::group::{Group, GroupParts, NameLog, Names};
use crate::history::{ChainValue, Event, Row};
use crate::index::CacheBudget;
use crate::journal::{SEGMENT_BYTES, SegmentInfo};
use crate::seam::{Access, Overlay, Rooms, Storage, SystemClock, SystemEntropy};
use crate::site::objects::GroupObject;
use crate::vocab::{DiskOrdinal, Error, GroupId, Kind, LogPlace, Moment, Pos, Result, StoreId};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// A group as its files have it.
#[derive(Clone, Debug, Serialize)]
pub struct GroupReport {
    /// Identity.
    pub id: GroupId,
    /// Its name, if a person made it.
    pub name: Option<String>,
    /// The newest checkpoint: how many came before, and what it says.
    pub checkpoint: Option<(u64, Checkpoint)>,
    /// The newest moment that recovery finds.
    pub head: Option<Moment>,
    /// What recovery would do: notes, or why the group is read-only.
    pub recovery: Vec<String>,
    /// Segment files in the order of their places.
    pub segments: Vec<SegmentReport>,
    /// Where the epochs lie.
    pub spans: Vec<Span>,
    /// Epochs.
    pub epochs: Vec<Row>,
    /// Lines of the history: wall time and event.
    pub history: Vec<(i64, Event)>,
    /// Bases and floors.
    pub bases: Vec<BaseReport>,
    /// Index runs: name, level, bytes.
    pub runs: Vec<(String, u8, u64)>,
    /// The range log.
    pub ranges: RangesReport,
    /// Names and sizes at the head.
    pub names: Names,
}

/// The base of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BaseReport {
    /// The file.
    pub disk: DiskOrdinal,
    /// Where the newest round that ended left it.
    pub base: Option<LogPlace>,
    /// Where the newest that began will.
    pub floor: Option<LogPlace>,
    /// The image: path, length, bytes on the medium; none if nothing was written yet.
    pub image: Option<(String, u64, u64)>,
}

#[derive(Deserialize)]
struct SegmentList {
    segments: Vec<SegmentInfo>,
}

/// Opens a group of a store that is not written to: what recovery writes goes to memory.
pub(in crate::site) fn open_in_memory(
    store: &Arc<dyn Storage>,
    journal: &Arc<dyn Storage>,
    id: GroupId,
) -> Result<(Arc<Group>, crate::group::OpenReport)> {
    let over: Arc<dyn Storage> = Arc::new(Overlay::new(store.clone()));
    let same = Arc::ptr_eq(store, journal) || store.shown("".as_ref()) == journal.shown("".as_ref());
    let journal = if same { over.clone() } else { Arc::new(Overlay::new(journal.clone())) as _ };
    let rooms = Rooms::new(&over, &journal)?;
    let parts = GroupParts {
        store: over,
        journal,
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        store_id: StoreId::NONE,
        boot: [0; 16],
        cache: CacheBudget::new(64 << 20),
        segment_bytes: SEGMENT_BYTES,
        rooms,
    };
    Group::open(parts, id)
}

/// The newest checkpoint of a group; what is wrong with it, or with names that it relies on, goes to the report.
pub(in crate::site) fn checkpoint_of(
    report: &mut Report,
    store: &dyn Storage,
    id: GroupId,
) -> Option<(u64, Checkpoint)> {
    let dir = GroupParts::dir(id);
    let found = small::checkpoint(report, store, &dir.join("checkpoint"));
    let scanned = found.as_ref().and_then(|(_, c)| c.logs.first()).is_some_and(|l| l.scan_life != 0);
    let names = dir.join("names.json");
    if scanned && !store.exists(&names).unwrap_or(false) {
        report.damaged(store.shown(&names), None, "the names of the group are missing");
    }
    found
}

pub(super) struct Look {
    pub(super) store: Arc<dyn Storage>,
    pub(super) journal: Arc<dyn Storage>,
    pub(super) id: GroupId,
    pub(super) verify: bool,
}

impl Look {
    pub(super) fn run(&self, report: &mut Report, object: Option<&GroupObject>) {
        let dir = GroupParts::dir(self.id);
        let about = format!("group {}", self.id.short());
        let store = &*self.store;
        let checkpoint = checkpoint_of(report, store, self.id);
        let counted = checkpoint.as_ref().map(|(_, c)| (c.history_lines, c.history_crc));
        let lines = small::history(report, store, &dir.join("history"), counted);
        let names: Option<NameLog> = small::summed(report, store, &dir.join("names.json"), false);
        let _: Option<serde_json::Value> = small::summed(report, store, &dir.join("chain.json"), false);
        let list: Option<SegmentList> =
            small::summed(report, &*self.journal, &dir.join("main/segments.json"), false);
        let mut group = GroupReport {
            id: self.id,
            name: object.and_then(|o| o.name.clone()),
            head: checkpoint.as_ref().map(|(_, c)| c.head),
            recovery: Vec::new(),
            segments: Vec::new(),
            spans: checkpoint.as_ref().map(|(_, c)| c.spans.clone()).unwrap_or_default(),
            epochs: Vec::new(),
            history: lines.into_iter().map(|l| (l.time, l.event)).collect(),
            bases: Vec::new(),
            runs: Vec::new(),
            ranges: RangesReport::default(),
            names: names.map(|n| n.snapshot).unwrap_or_default(),
            checkpoint,
        };
        for (_, event) in &group.history {
            if let Event::Epoch { row, .. } = event {
                group.epochs.push(row.clone());
            }
        }
        let mut live: Vec<SegmentInfo> = list.map(|l| l.segments).unwrap_or_default();
        match open_in_memory(&self.store, &self.journal, self.id) {
            Ok((open, found)) => {
                group.head = Some(open.head());
                group.names = open.names_now(Names::clone);
                group.epochs = open.table().rows().cloned().collect();
                live = open.log.segments();
                group.spans = open.core.lock().spans.0.clone();
                group.recovery = found.notes;
                if let Some(damage) = found.damage {
                    // Where the scan stopped: the end of the last segment that it came to.
                    let stop = live.last().map(|s| (s.file.clone(), s.end.0 - s.start.0));
                    let (file, offset) = stop.unzip();
                    let path = self.journal.shown(&dir.join("main").join(file.unwrap_or_default()));
                    report.damaged(path, offset, format!("the group would be read-only: {damage}"));
                    group.recovery.push(format!("read-only: {damage}"));
                }
            }
            Err(e) => {
                group.recovery.push(format!("it can't be opened: {e}"));
                report.damaged(self.store.shown(&dir), None, format!("the group can't be opened: {e}"));
            }
        }
        if let Err(e) = self.segments(report, &mut group, &live, &about) {
            report.failed(self.journal.shown(&dir.join("main")), &e);
        }
        if let Err(e) = self.runs(report, &mut group) {
            report.failed(self.store.shown(&dir.join("index")), &e);
        }
        let scan =
            group.checkpoint.as_ref().and_then(|(_, c)| c.logs.first()).map_or(Pos(0), |l| l.scan_start);
        match self.ranges(report, (&live, scan), &about) {
            Ok(ranges) => group.ranges = ranges,
            Err(e) => report.failed(self.store.shown(&dir.join("ranges")), &e),
        }
        self.bases(report, &mut group, &about);
        report.groups.push(group);
    }

    fn segments(
        &self,
        report: &mut Report,
        group: &mut GroupReport,
        live: &[SegmentInfo],
        about: &str,
    ) -> Result<()> {
        let dir = GroupParts::dir(self.id).join("main");
        let mut claims = Vec::new();
        for row in &group.epochs {
            if let Some(moment) = row.fork() {
                let path = self.store.shown(&GroupParts::dir(self.id).join("history"));
                claims.push(Claim { moment, value: row.fork_chain, path, offset: None });
            }
        }
        let mut files = Vec::new();
        for name in self.journal.list(&dir)?.into_iter().filter(|n| n.ends_with(".seg")) {
            let path = dir.join(&name);
            let file = self.journal.open(&path, Access::ReadOnly)?;
            let shown = self.journal.shown(&path);
            let info = live.iter().find(|s| s.file == name).cloned();
            let segment = SegmentFile { file: &*file, shown: shown.clone() };
            let (header, seal) = segment.front(report, info.is_some())?;
            if let (Some(header), Some(info)) = (&header, &info)
                && (header.life, header.start) != (info.life, info.start)
            {
                report.damaged(&shown, Some(0), "the file holds another segment than the list says");
            }
            if info.is_some()
                && let Some((moment, value)) = seal.as_ref().and_then(|s| s.chain)
            {
                claims.push(Claim {
                    moment,
                    value: ChainValue(value),
                    path: shown.clone(),
                    offset: Some(4096),
                });
            }
            if let Some((moment, value)) = info.as_ref().and_then(|i| i.start_chain) {
                let path = self.journal.shown(&dir.join("segments.json"));
                claims.push(Claim { moment, value: ChainValue(value), path, offset: None });
            }
            let (start, end, epoch) = match (&info, &header) {
                (Some(i), _) => (i.start, i.end, i.epoch),
                (None, Some(h)) => (h.start, h.start, h.epoch),
                (None, None) => Default::default(),
            };
            let out = SegmentReport {
                state: if info.is_some() { "live" } else { "spare" },
                start,
                end,
                bytes: file.len()?,
                epoch,
                first_seq: info.as_ref().map(|i| i.first_seq).unwrap_or_default(),
                last_seq: info.as_ref().map(|i| i.last_seq).unwrap_or_default(),
                sealed: seal.is_some(),
                batches: 0,
                records: 0,
                payload_bytes: 0,
                file: name,
            };
            files.push((out, info, file, shown));
        }
        for missing in live.iter().filter(|s| !files.iter().any(|f| f.0.file == s.file)) {
            let path = self.journal.shown(&dir.join(&missing.file));
            report.damaged(path, None, "a segment is missing");
        }
        files.sort_by_key(|f| (f.0.state, f.0.start));
        let mut chain = ChainWalk::new(self.id, claims);
        for (out, info, file, shown) in &mut files {
            if let (Some(info), true) = (info, self.verify) {
                let segment = SegmentFile { file: &**file, shown: shown.clone() };
                segment.batches(report, info, out, &mut chain)?;
            }
        }
        if self.verify {
            let (batches, bytes) =
                files.iter().fold((0, 0), |a, f| (a.0 + f.0.batches, a.1 + f.0.payload_bytes));
            let says =
                format!("{batches} batches with {bytes} bytes of payload were read and fit their crc32c");
            report.proved(format!("{about}: log"), Proof::Checksum, says);
            chain.end(report, &format!("{about}: history"));
        }
        group.segments = files.into_iter().map(|f| f.0).collect();
        Ok(())
    }

    fn runs(&self, report: &mut Report, group: &mut GroupReport) -> Result<()> {
        let dir = GroupParts::dir(self.id).join("index");
        let _: Option<serde_json::Value> = small::summed(report, &*self.store, &dir.join("runs"), true);
        let names = match self.store.list(&dir) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            other => other?,
        };
        for name in names.iter().filter(|n| n.starts_with("run-") && !n.ends_with(".tmp")) {
            let path = dir.join(name);
            match self.run_file(report, &path) {
                Ok(Some((level, bytes))) => group.runs.push((name.clone(), level, bytes)),
                Ok(None) => {}
                Err(e) => report.failed(self.store.shown(&path), &e),
            }
        }
        Ok(())
    }

    fn run_file(&self, report: &mut Report, path: &Path) -> Result<Option<(u8, u64)>> {
        const PAGE: u64 = PAGE_BYTES as u64;
        let shown = self.store.shown(path);
        let file = self.store.open(path, Access::ReadOnly)?;
        let length = file.len()?;
        let mut block = vec![0; PAGE_BYTES];
        let got = file.read_at(&mut block, 0)?;
        let header = match RunHeader::decode(&block[..got]) {
            Ok(header) => header,
            Err(what) => {
                report.damaged(shown, Some(0), what);
                return Ok(None);
            }
        };
        if header.group != self.id {
            report.damaged(&shown, Some(0), "an index run of another group");
        }
        for s in [header.fences, header.disks, header.touched, header.chapters] {
            let mut bytes = vec![0; s.len.min(length) as usize];
            let got = file.read_at(&mut bytes, s.offset)?;
            if (got as u64) < s.len || crc32c::crc32c(&bytes) != s.crc {
                report.damaged(&shown, Some(s.offset), "a section of the index run doesn't fit its checksum");
            }
        }
        if self.verify {
            for number in 0..header.pages + header.batch_pages {
                let offset = (u64::from(number) + 1) * PAGE;
                let got = file.read_at(&mut block, offset)?;
                let check = if number < header.pages { check_page } else { check_batch_page };
                if let Err(what) = check(&block[..got], header.number, number) {
                    report.damaged(&shown, Some(offset), what);
                }
            }
        }
        Ok(Some((header.level, length)))
    }

    fn bases(&self, report: &mut Report, group: &mut GroupReport, about: &str) {
        let dir = GroupParts::dir(self.id);
        let states = group.checkpoint.as_ref().map(|(_, c)| c.files.clone()).unwrap_or_default();
        let mut bytes = 0;
        for state in states {
            let path = dir.join(base_name(state.disk));
            let image = match BaseFile::open_read_only(&*self.store, &path) {
                Ok(base) => {
                    let size = base.len().and_then(|len| Ok((len, base.allocated()?)));
                    size.map(|(len, room)| Some((self.store.shown(&path), len, room)))
                }
                Err(e) if e.kind() == Kind::NotFound => Ok(None),
                Err(e) => Err(e),
            };
            let image = image.unwrap_or_else(|e: Error| {
                report.failed(self.store.shown(&path), &e);
                None
            });
            // A base that was written to has a place above the begin of its log.
            let written = state.base.is_some_and(|b| b.pos.0 > 0);
            if image.is_none() && written && group.names.files.get(&state.disk).is_some_and(|f| f.size > 0) {
                report.damaged(self.store.shown(&path), None, "the base image of a file is missing");
            }
            bytes += image.as_ref().map_or(0, |i| i.2);
            group.bases.push(BaseReport { disk: state.disk, base: state.base, floor: state.floor, image });
        }
        if bytes > 0 {
            let says = format!(
                "{bytes} bytes of base images have no checksum: only a scrub against the peer proves them"
            );
            report.proved(format!("{about}: bases"), Proof::None, says);
        }
    }
}
