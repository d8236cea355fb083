//! Segment files, read block by block: header, seal, batches, payloads, and that what must be zero is.

use super::Report;
use super::chain::ChainWalk;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchHeader, RecordView, SegmentHeader, SegmentSeal, check_header, parse_table,
};
use crate::journal::SegmentInfo;
use crate::seam::File;
use crate::vocab::{Codec, EpochId, Pos, Result, Seq};
use serde::Serialize;

const HEADER_BYTES: usize = 192;
const SEAL_BYTES: usize = 120;

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentReport {
    /// Its name.
    pub file: String,
    /// `live`, or `spare`: ready to be used again.
    pub state: &'static str,
    /// Place of its first byte.
    pub start: Pos,
    /// The place behind its last batch.
    pub end: Pos,
    /// Length of the file.
    pub bytes: u64,
    /// Epoch of its records.
    pub epoch: EpochId,
    /// First seq.
    pub first_seq: Seq,
    /// Last seq; one less than the first if it has none.
    pub last_seq: Seq,
    /// It has a seal.
    pub sealed: bool,
    /// With `--verify`: batches that were read.
    pub batches: u64,
    /// With `--verify`: records in them.
    pub records: u64,
    /// With `--verify`: payload bytes whose checksums were checked.
    pub payload_bytes: u64,
}

/// Header, records, and all bytes.
type WholeBatch = (BatchHeader, Vec<RecordView>, Vec<u8>);

/// One file under examination.
pub(super) struct SegmentFile<'a> {
    pub(super) file: &'a dyn File,
    pub(super) shown: String,
}

impl SegmentFile<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Header and seal. `used`: a log counts on it.
    pub(super) fn front(
        &self,
        report: &mut Report,
        used: bool,
    ) -> Result<(Option<SegmentHeader>, Option<SegmentSeal>)> {
        let blocks = self.read(0, 2 * BLOCK as usize)?;
        let (first, second) = blocks.split_at(BLOCK as usize);
        let blank = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
        let header = match SegmentHeader::decode(first) {
            Ok(header) => header,
            Err(e) => {
                report.damaged(&self.shown, Some(0), e.to_string());
                None
            }
        };
        if header.is_none() && (used || !blank(first)) {
            report.damaged(&self.shown, Some(0), "the segment's header isn't what was written");
        }
        let Some(header) = header else { return Ok((None, None)) };
        if let Some(at) = first[HEADER_BYTES..].iter().position(|b| *b != 0) {
            let at = (HEADER_BYTES + at) as u64;
            report.damaged(&self.shown, Some(at), "a byte behind the header isn't zero");
        }
        let seal = SegmentSeal::decode(second, header.life);
        if seal.is_none() && used && !blank(second) {
            report.damaged(&self.shown, Some(BLOCK), "the segment's seal isn't what was written");
        }
        if seal.is_some()
            && let Some(at) = second[SEAL_BYTES..].iter().position(|b| *b != 0)
        {
            let at = BLOCK + (SEAL_BYTES + at) as u64;
            report.damaged(&self.shown, Some(at), "a byte behind the seal isn't zero");
        }
        Ok((Some(header), seal))
    }

    /// All batches up to the segment's end.
    pub(super) fn batches(
        &self,
        report: &mut Report,
        info: &SegmentInfo,
        out: &mut SegmentReport,
        chain: &mut ChainWalk,
    ) -> Result<()> {
        chain.segment(info);
        let end = info.end.0 - info.start.0;
        let mut at = info.first_batch().0 - info.start.0;
        let mut expected: Option<(Seq, u32)> = None;
        while at < end {
            let Some((header, records, bytes)) = self.batch(at, end, info.life)? else {
                report.damaged(&self.shown, Some(at), "a batch isn't what was written");
                chain.broken(format!("{} at offset {at}", self.shown));
                at += BLOCK;
                while at < end && self.batch(at, end, info.life)?.is_none() {
                    at += BLOCK;
                }
                expected = None;
                continue;
            };
            if expected.is_some_and(|(seq, link)| (seq, link) != (header.first_seq, header.link)) {
                report.damaged(&self.shown, Some(at), "a batch does not follow the one before it");
                chain.broken(format!("{} at offset {at}", self.shown));
            }
            self.payloads(report, at, &header, &records, &bytes, out);
            chain.batch(report, &self.shown, at, info.epoch, &header, &records, &bytes);
            let seqs = records.iter().filter(|r| r.entry.kind.has_seq()).count() as u64;
            expected = Some((Seq(header.first_seq.0 + seqs), header.crc));
            out.batches += 1;
            out.records += records.len() as u64;
            at += u64::from(header.length);
        }
        Ok(())
    }

    /// A batch with good header and table, and all its bytes.
    fn batch(&self, at: u64, end: u64, life: u64) -> Result<Option<WholeBatch>> {
        let front = self.read(at, BATCH_HEADER_BYTES)?;
        let Some(header) = BatchHeader::decode(&front) else { return Ok(None) };
        if header.life != life || at + u64::from(header.length) > end {
            return Ok(None);
        }
        let bytes = self.read(at, header.length as usize)?;
        let Some(header) = check_header(&bytes) else { return Ok(None) };
        Ok(parse_table(&header, &bytes).ok().map(|records| (header, records, bytes)))
    }

    fn payloads(
        &self,
        report: &mut Report,
        at: u64,
        header: &BatchHeader,
        records: &[RecordView],
        bytes: &[u8],
        out: &mut SegmentReport,
    ) {
        let mut gap = header.head_bytes();
        for r in records {
            let place = r.entry.place as usize;
            self.zeros(report, at, &bytes[gap..place], gap);
            gap = place + r.entry.stored as usize;
            if r.entry.codec != Codec::Plain {
                continue;
            }
            let payload = &bytes[place..gap];
            if crc32c::crc32c(payload) != r.entry.crc {
                let bad = payload
                    .chunks(BLOCK as usize)
                    .zip(&r.blocks)
                    .position(|(b, crc)| crc32c::crc32c(b) != *crc);
                let offset = at + place as u64 + bad.unwrap_or(0) as u64 * BLOCK;
                let what = format!(
                    "the payload of record {} of file {} isn't what was written",
                    r.entry.seq, r.entry.disk
                );
                report.damaged(&self.shown, Some(offset), what);
            }
            out.payload_bytes += payload.len() as u64;
        }
        self.zeros(report, at, &bytes[gap..], gap);
    }

    fn zeros(&self, report: &mut Report, at: u64, gap: &[u8], from: usize) {
        if let Some(byte) = gap.iter().position(|b| *b != 0) {
            let offset = at + (from + byte) as u64;
            report.damaged(&self.shown, Some(offset), "a byte between payloads isn't zero");
        }
    }
}
