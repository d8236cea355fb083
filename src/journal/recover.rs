//! Recovery of a log: the scan from the checkpoint, and the decision (J6).
//!
//! p is the first place without a good batch, d the largest durable place that anything on the medium speaks of:
//! the checkpoint, batches before p, headers of later segments, and blocks behind p whose magic, life and crc
//! hold. p < d: damaged, nothing is changed. Else: what was found is synced, and p is the cut.
//!
//! A batch is good if its life is the segment's, its first seq the one that follows, its link the crc of the
//! batch before, and its crc right; above d of the checkpoint also every payload's.

use crate::format::{BLOCK, BatchHeader, LogState, SegmentHeader, SegmentSeal, check_header};
use crate::journal::log::{Log, LogIdentity, LogParts, State, write_seal};
use crate::journal::read::{BatchView, decode_batch};
use crate::journal::segment::{FIRST_BATCH, Segment, SegmentInfo};
use crate::journal::{left_out, list};
use crate::seam::AlignedBuf;
use crate::vocab::{Codec, Error, Kind, Pos, Result, Seq};
use std::sync::Arc;

/// How a scan ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is there up to the cut.
    Whole,
    /// More was durable than can be read (J6). The log takes nothing and stays as it is.
    Damaged {
        /// The first place that can't be read.
        at: Pos,
        /// What was durable.
        durable: Pos,
        /// In words.
        why: String,
    },
}

/// What a scan found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Batches from the begin of the scan, in log order.
    pub batches: Vec<BatchView>,
    /// The cut.
    pub cut: Pos,
    /// Whole or damaged.
    pub verdict: Verdict,
    /// From this segment's start on `batches` has everything: that of the checkpoint, or the cut (J13).
    pub from: Pos,
    /// The seq before the first record of `batches`.
    pub from_seq: Seq,
    /// What was odd and mended, for the events.
    pub notes: Vec<String>,
}

/// A recovered log and what the scan found.
pub struct Recovered {
    /// The log. Its next append goes to a new segment (J2).
    pub log: Log,
    /// What the scan found, oldest first.
    pub found: Found,
}

impl Log {
    /// Opens a log by its checkpoint. Writes nothing but a sync and the seal of the last segment, and with
    /// `read_only` nothing at all. `ended`: the checkpoint is that of an orderly end.
    ///
    /// # Errors
    /// `Unsupported` for later formats; errors of the storage. Damage is no error: see [`Verdict`].
    pub fn recover(
        parts: LogParts,
        identity: LogIdentity,
        from: &LogState,
        ended: bool,
        read_only: bool,
    ) -> Result<Recovered> {
        let mut notes = Vec::new();
        let mut state = State::new(Default::default(), from.scan_seq.next());
        state.allocated = from.allocated;
        let files = list::files(&*parts.storage, &parts.dir)?;
        state.next_name =
            files.iter().filter_map(|f| f.trim_end_matches(".seg").parse().ok()).max().unwrap_or(0);
        let listed = match list::read(&*parts.storage, &parts.dir) {
            Ok(list) => list.unwrap_or_default(),
            Err(e) if e.kind() == Kind::Damaged => {
                notes.push(format!("{e}; it is rebuilt from the segments"));
                rebuild_list(&parts, &identity, &files, from, &mut notes)?
            }
            Err(e) => return Err(e),
        };
        // A list newer than the checkpoint (the power failed between the two) also has what the scan finds.
        let end = listed.iter().find(|s| s.start == from.scan_start).filter(|_| ended).cloned();
        let listed: Vec<SegmentInfo> = listed.into_iter().filter(|s| s.start < from.scan_start).collect();
        let known: Vec<&str> = listed.iter().map(|s| s.file.as_str()).collect();
        let headers = read_headers(&parts, &identity, files.iter().filter(|f| !known.contains(&f.as_str())))?;
        for info in &listed {
            let segment = Segment::new(parts.storage.clone(), &parts.dir, info.clone());
            state.segments.insert(info.start, Arc::new(segment));
        }
        let mut scan =
            Scan { parts: &parts, headers: &headers, from, found: Vec::new(), evidence: from.durable };
        let skipped = match end {
            Some(end) if scan.is_whole(&end)? => Some(end),
            _ => None,
        };
        let (begin, begin_seq) = match &skipped {
            Some(end) => (end.end, end.last_seq),
            None => (from.scan_start, from.scan_seq),
        };
        let chain = skipped.map_or_else(|| scan.run(), |end| Ok(vec![end]))?;
        let (cut, evidence) = (chain.last().map_or(Pos(0), |s| s.end), scan.evidence);
        let mut found = Found {
            batches: scan.found,
            cut,
            verdict: Verdict::Whole,
            from: begin,
            from_seq: begin_seq,
            notes,
        };
        for h in &headers {
            state.allocated = state.allocated.max(Pos(h.1.start.0 + h.1.bytes));
        }
        // An empty log has nothing to lose; else all evidence must lie at or below the cut.
        let went_back = left_out("J4: the mark is a place") && {
            let mut seqs = found.batches.iter().map(|b| b.header.first_seq);
            seqs.clone().max() > seqs.next_back()
        };
        if (chain.is_empty() && from.scan_life != 0) || cut < evidence || went_back {
            let why = if chain.is_empty() {
                "the segment that the checkpoint begins with is gone or its header can't be read".to_owned()
            } else {
                format!("the log can be read up to place {cut} only, and {evidence} was durable")
            };
            found.verdict = Verdict::Damaged { at: cut, durable: evidence, why };
            state.poisoned = Some("damaged".into());
        }
        let last = chain.last().cloned();
        let used: Vec<String> = chain.iter().map(|s| s.file.clone()).collect();
        for info in chain {
            let segment = Segment::new(parts.storage.clone(), &parts.dir, info.clone());
            state.segments.insert(info.start, Arc::new(segment));
        }
        state.last = last.map(|l| l.start).or(state.segments.keys().next_back().copied());
        // A segment that was begun and got no record leaves the head where it was.
        let written = state.segments.values().rev().find(|s| s.tail().last_seq >= s.fixed.first_seq);
        if let Some(segment) = written {
            state.epoch = segment.fixed.epoch;
            state.next_seq = segment.tail().last_seq.next();
        }
        if left_out("J2: never append to a segment of another process") {
            state.open = state.last;
            state.batches = 1;
        }
        if found.verdict == Verdict::Whole && !read_only {
            settle(&state)?;
            reuse(&mut state, &parts, &files, &headers, &used)?;
        }
        let log = Log::assemble(parts, identity, state, if read_only { from.durable } else { cut });
        Ok(Recovered { log, found })
    }
}

/// What was found becomes durable before anybody may act on it; the seal is a shortcut for later openings.
fn settle(state: &State) -> Result<()> {
    let Some(segment) = state.last.and_then(|at| state.segments.get(&at)) else { return Ok(()) };
    segment.sync()?;
    let mut block = vec![0; BLOCK as usize];
    segment.read_medium(Pos(segment.fixed.start.0 + BLOCK), &mut block)?;
    let sealed = SegmentSeal::decode(&block, segment.fixed.life).is_some_and(|s| s.end == segment.end());
    if !sealed {
        write_seal(segment, 0, None)?;
    }
    Ok(())
}

/// Files that no live segment has: void successors, files made ready and never used. They are used again under
/// a new life; what the checkpoint scans from is not among them (J9).
fn reuse(
    state: &mut State,
    parts: &LogParts,
    files: &[String],
    headers: &[(String, SegmentHeader)],
    used: &[String],
) -> Result<()> {
    let live: Vec<&str> = state.segments.values().map(|s| s.fixed.file.as_str()).collect();
    let mut spare = Vec::new();
    for file in files.iter().filter(|f| !live.contains(&f.as_str()) && !used.contains(f)) {
        let path = parts.dir.join(file);
        let bytes = match headers.iter().find(|(name, _)| name == file) {
            Some((_, header)) => header.bytes,
            // Without a header nobody knows whether it was filled with zeros to its end.
            None => 0,
        };
        if bytes >= FIRST_BATCH && spare.len() < 2 {
            spare.push((file.clone(), bytes));
        } else {
            parts.storage.remove(&path)?;
        }
    }
    state.free = spare;
    Ok(())
}

fn read_headers<'a>(
    parts: &LogParts,
    identity: &LogIdentity,
    files: impl Iterator<Item = &'a String>,
) -> Result<Vec<(String, SegmentHeader)>> {
    let mut out = Vec::new();
    for name in files {
        let path = parts.dir.join(name);
        let file = parts.storage.open(&path, crate::seam::Access::Direct)?;
        let mut block = AlignedBuf::zeroed(BLOCK as usize);
        if file.read_at(&mut block, 0)? < BLOCK as usize {
            continue;
        }
        let Some(header) = SegmentHeader::decode(&block).map_err(|e| e.at(parts.storage.shown(&path)))?
        else {
            continue;
        };
        if header.group == identity.group && header.log == identity.log && header.bytes >= FIRST_BATCH {
            out.push((name.clone(), header));
        }
    }
    Ok(out)
}

struct Scan<'a> {
    parts: &'a LogParts,
    headers: &'a [(String, SegmentHeader)],
    from: &'a LogState,
    found: Vec<BatchView>,
    evidence: Pos,
}

impl Scan<'_> {
    /// J13: whether the segment is as an orderly end has listed it, and the last one.
    fn is_whole(&self, end: &SegmentInfo) -> Result<bool> {
        let is = |h: &SegmentHeader| h.life == end.life && h.start == end.start && h.bytes == end.bytes;
        let here = self.headers.iter().any(|(file, h)| *file == end.file && is(h));
        let next = self.headers.iter().any(|(_, h)| h.previous_life == end.life);
        let next = next && !left_out("J13: no segment names it as the one before");
        if !here || next || end.life != self.from.scan_life || end.end != self.from.durable {
            return Ok(false);
        }
        let segment = Segment::new(self.parts.storage.clone(), &self.parts.dir, end.clone());
        let mut block = vec![0; BLOCK as usize];
        segment.read_medium(Pos(end.start.0 + BLOCK), &mut block)?;
        Ok(SegmentSeal::decode(&block, end.life).is_some_and(|seal| seal.end == end.end))
    }

    /// Follows the segments from the begin of the scan. The last one's end is the cut.
    fn run(&mut self) -> Result<Vec<SegmentInfo>> {
        let mut chain: Vec<SegmentInfo> = Vec::new();
        let first = self
            .headers
            .iter()
            .find(|(_, h)| h.life == self.from.scan_life && h.start == self.from.scan_start);
        let mut here = match first {
            Some(first) => first,
            // A log whose first segment was begun after the checkpoint.
            None if self.from.scan_life == 0 => {
                match self.headers.iter().filter(|(_, h)| h.previous_life == 0).max_by_key(|(_, h)| h.start) {
                    Some(first) => first,
                    None => return Ok(chain),
                }
            }
            None => return Ok(chain),
        };
        loop {
            let next = self
                .headers
                .iter()
                .filter(|(_, h)| h.previous_life == here.1.life && h.start > here.1.start)
                .max_by_key(|(_, h)| h.start);
            let limit = next.map_or(Pos(here.1.start.0 + here.1.bytes), |(_, h)| h.previous_cut);
            let (segment, info) = self.segment(here, limit)?;
            let stopped = info.end;
            let reached = next.is_none_or(|(_, h)| stopped == h.previous_cut);
            chain.push(info);
            match next {
                Some(next) if reached => here = next,
                _ => {
                    self.look_behind(&segment, stopped)?;
                    break;
                }
            }
        }
        let start = here.1.start;
        for (_, header) in self.headers.iter().filter(|(_, h)| h.start > start) {
            self.evidence = self.evidence.max(header.durable);
        }
        Ok(chain)
    }

    /// Reads the batches of one segment up to `limit`.
    fn segment(
        &mut self,
        (name, header): &(String, SegmentHeader),
        limit: Pos,
    ) -> Result<(Segment, SegmentInfo)> {
        let mut info = SegmentInfo {
            file: name.clone(),
            life: header.life,
            start: header.start,
            bytes: header.bytes,
            end: Pos(header.start.0 + FIRST_BATCH),
            epoch: header.epoch,
            first_seq: header.first_seq,
            last_seq: Seq(header.first_seq.0.saturating_sub(1)),
            last_crc: header.previous_crc,
            first_wall: 0,
            last_wall: 0,
            previous_life: header.previous_life,
            start_chain: None,
        };
        self.evidence = self.evidence.max(header.durable);
        let segment = Segment::new(self.parts.storage.clone(), &self.parts.dir, info.clone());
        let mut window = Window::new(&segment);
        while info.end < limit {
            let Some(batch) = decode_batch(&segment, info.end, |at, buf| window.read(at, buf))? else {
                break;
            };
            let h = &batch.header;
            let linked = h.link == info.last_crc || left_out("link to the batch before");
            let follows = h.first_seq == info.last_seq.next() && linked;
            if !follows || batch.end() > limit {
                break;
            }
            if batch.end() > self.from.durable && !self.payloads_are_good(&batch, &mut window)? {
                break;
            }
            if info.end.0 == info.start.0 + FIRST_BATCH {
                info.first_wall = h.wall;
            }
            self.evidence = self.evidence.max(h.durable);
            info.last_wall = h.wall;
            info.last_crc = h.crc;
            info.end = batch.end();
            if let Some(r) = batch.records.iter().rev().find(|r| r.entry.kind.has_seq()) {
                info.last_seq = r.entry.seq;
            }
            self.found.push(batch);
        }
        if info.life == self.from.scan_life {
            info.start_chain = self.from.scan_chain;
        }
        Ok((segment, info))
    }

    fn payloads_are_good(&self, batch: &BatchView, window: &mut Window<'_>) -> Result<bool> {
        for r in &batch.records {
            if r.entry.codec == Codec::Plain && r.entry.stored > 0 {
                let mut payload = vec![0; r.entry.stored as usize];
                window.read(batch.place(r), &mut payload)?;
                if crc32c::crc32c(&payload) != r.entry.crc {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Blocks behind the stop may tell what was durable when they were written. Their link can't be checked. A segment
    /// that was sealed there has none: nothing was appended behind its seal.
    fn look_behind(&mut self, segment: &Segment, from: Pos) -> Result<()> {
        let mut seal = vec![0; BLOCK as usize];
        segment.read_medium(Pos(segment.fixed.start.0 + BLOCK), &mut seal)?;
        if SegmentSeal::decode(&seal, segment.fixed.life).is_some_and(|seal| seal.end == from) {
            return Ok(());
        }
        let end = segment.fixed.start.0 + segment.fixed.bytes;
        let mut window = Window::new(segment);
        let mut block = vec![0; BLOCK as usize];
        let mut at = from.0;
        while at < end {
            window.read(Pos(at), &mut block)?;
            if let Some(header) = BatchHeader::decode(&block)
                && header.life == segment.fixed.life
                && u64::from(header.length) <= end - at
            {
                let mut head = block.clone();
                if header.head_bytes() > head.len() {
                    head.resize(header.head_bytes().next_multiple_of(BLOCK as usize), 0);
                    window.read(Pos(at), &mut head)?;
                }
                if check_header(&head).is_some() {
                    self.evidence = self.evidence.max(header.durable);
                }
            }
            at += BLOCK;
        }
        Ok(())
    }
}

/// Reads a segment in large steps past the page cache: a scan is sequential.
struct Window<'a> {
    segment: &'a Segment,
    at: u64,
    bytes: AlignedBuf,
}

impl<'a> Window<'a> {
    const STEP: u64 = 4 << 20;

    fn new(segment: &'a Segment) -> Self {
        Self { segment, at: u64::MAX, bytes: AlignedBuf::zeroed(0) }
    }

    fn read(&mut self, pos: Pos, buf: &mut [u8]) -> Result<()> {
        let info = &self.segment.fixed;
        let offset = pos.0 - info.start.0;
        if offset + buf.len() as u64 > info.bytes {
            return Err(self.segment.damaged("a batch reaches behind its segment", pos));
        }
        let inside =
            self.at <= offset && offset + buf.len() as u64 <= self.at.saturating_add(self.bytes.len() as u64);
        if !inside {
            self.at = offset / BLOCK * BLOCK;
            let length = Self::STEP
                .max((offset - self.at + buf.len() as u64).next_multiple_of(BLOCK))
                .min(info.bytes - self.at);
            self.bytes.resize(length as usize);
            let got = self.segment.direct()?.read_at(&mut self.bytes, self.at)?;
            if got < self.bytes.len() {
                self.bytes[got..].fill(0); // a file cut short has nothing good there
            }
        }
        let from = (offset - self.at) as usize;
        buf.copy_from_slice(&self.bytes[from..from + buf.len()]);
        Ok(())
    }
}

/// Sealed segments by their headers and seals, for a log whose list can't be read: those that the chain of
/// `previous` reaches from the begin of the scan.
fn rebuild_list(
    parts: &LogParts,
    identity: &LogIdentity,
    files: &[String],
    from: &LogState,
    notes: &mut Vec<String>,
) -> Result<Vec<SegmentInfo>> {
    let headers = read_headers(parts, identity, files.iter())?;
    let mut out = Vec::new();
    let mut here = headers.iter().find(|(_, h)| h.life == from.scan_life);
    while let Some((_, header)) = here {
        let (life, cut) = (header.previous_life, header.previous_cut);
        let (last_seq, last_crc) = (header.previous_last_seq, header.previous_crc);
        here = headers.iter().find(|(_, h)| h.life == life && life != 0);
        let Some((name, h)) = here else { break };
        let mut info = SegmentInfo {
            file: name.clone(),
            life,
            start: h.start,
            bytes: h.bytes,
            end: cut,
            epoch: h.epoch,
            first_seq: h.first_seq,
            last_seq,
            last_crc,
            first_wall: 0,
            last_wall: 0,
            previous_life: h.previous_life,
            start_chain: None,
        };
        let segment = Segment::new(parts.storage.clone(), &parts.dir, info.clone());
        let mut block = vec![0; BLOCK as usize];
        segment.read_medium(Pos(h.start.0 + BLOCK), &mut block)?;
        match SegmentSeal::decode(&block, life) {
            Some(seal) => (info.first_wall, info.last_wall) = (seal.first_wall, seal.last_wall),
            None => notes.push(format!("segment {name} has no seal; its times are unknown")),
        }
        out.push(info);
    }
    if out.is_empty() && from.scan_start.0 > 0 {
        return Err(Error::new(Kind::Damaged, "list of segments and their headers can't be read")
            .at(parts.storage.shown(&parts.dir)));
    }
    out.reverse();
    Ok(out)
}
