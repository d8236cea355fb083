//! The range log of a group: which stretches it covers, and whether its records fit their checksums.

use super::group::Look;
use super::{Proof, Report};
use crate::format::crc_of;
use crate::format::range_log::{Changes, RANGE_HEADER_BYTES, RangeHeader};
use crate::group::GroupParts;
use crate::index::SeqStretch;
use crate::journal::SegmentInfo;
use crate::seam::Access;
use crate::vocab::{Kind, Pos, Result};
use serde::Serialize;

/// What the range log has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RangesReport {
    /// Bytes of its files.
    pub bytes: u64,
    /// Records, each of a sealed segment or of a jump.
    pub records: usize,
    /// Ranges in them, if they were read.
    pub ranges: usize,
    /// Some are known in coarser granules than 4 KiB only.
    pub coarse: bool,
}

impl Look {
    /// `live`: the segments that recovery found; those before `scan` must be covered.
    pub(super) fn ranges(
        &self,
        report: &mut Report,
        (live, scan): (&[SegmentInfo], Pos),
        about: &str,
    ) -> Result<RangesReport> {
        let dir = GroupParts::dir(self.id).join("ranges");
        let mut out = RangesReport::default();
        let names = match self.store.list(&dir) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(out), // of a version without one
            other => other?,
        };
        let files: Vec<&String> =
            names.iter().filter(|n| n.starts_with("ranges-") && !n.ends_with(".tmp")).collect();
        let mut covered: Vec<SeqStretch> = Vec::new();
        let mut torn = None;
        for (number, name) in files.iter().enumerate() {
            let path = dir.join(name);
            let file = self.store.open(&path, Access::ReadOnly)?;
            let mut bytes = vec![0; file.len()? as usize];
            let got = file.read_at(&mut bytes, 0)?;
            out.bytes += got as u64;
            let mut at = 0;
            while at < got {
                match record(&bytes[at..got], self.verify) {
                    Ok((header, changes)) => {
                        let own = header.group == self.id;
                        if !own {
                            let what = "a record of another group's range log";
                            report.damaged(self.store.shown(&path), Some(at as u64), what);
                        }
                        out.records += 1;
                        out.ranges += changes.map_or(0, |c| c.len());
                        out.coarse |= header.shift > crate::format::range_log::RANGE_SHIFT;
                        covered.push(SeqStretch {
                            epoch: header.epoch,
                            first: header.first_seq,
                            last: header.last_seq,
                        });
                        at += RANGE_HEADER_BYTES + header.body_len as usize;
                    }
                    Err(what) if number + 1 == files.len() => {
                        torn = Some((self.store.shown(&path), at as u64, what));
                        break;
                    }
                    Err(what) => {
                        report.damaged(self.store.shown(&path), Some(at as u64), what);
                        break;
                    }
                }
            }
        }
        let lacks = live.iter().filter(|s| s.start < scan && s.first_seq <= s.last_seq).find(|s| {
            !covered.iter().any(|c| c.epoch == s.epoch && c.first <= s.first_seq && s.last_seq <= c.last)
        });
        // A power loss can tear the record at the very end too; the next opening cuts it off and writes it again, as long
        // as its segment is held.
        match (torn, lacks) {
            (Some((path, offset, what)), _) => report.damaged(path, Some(offset), what),
            (None, Some(segment)) => {
                let last = files.last().map_or(dir.clone(), |name| dir.join(name));
                let text = format!("the ranges of {} to {} are missing", segment.first_seq, segment.last_seq);
                report.damaged(self.store.shown(&last), Some(0), text);
            }
            (None, None) => {}
        }
        if self.verify && out.records > 0 {
            let says =
                format!("{} records with {} ranges were read and fit their crc32c", out.records, out.ranges);
            report.proved(format!("{about}: range log"), Proof::Checksum, says);
        }
        Ok(out)
    }
}

fn record(bytes: &[u8], verify: bool) -> std::result::Result<(RangeHeader, Option<Changes>), &'static str> {
    let header = RangeHeader::decode(bytes)?;
    let body = bytes
        .get(RANGE_HEADER_BYTES..RANGE_HEADER_BYTES + header.body_len as usize)
        .ok_or("the range log ends within a record")?;
    if !verify {
        return Ok((header, None));
    }
    if crc_of(&[body]) != header.body_crc {
        return Err("a record of the range log doesn't fit its checksum");
    }
    let changes = Changes::decode(&header, body).ok_or("a record of the range log makes no sense")?;
    Ok((header, Some(changes)))
}
