//! The chain, computed again from the records that are held, and compared with every value that was written down.

use super::{Proof, Report};
use crate::format::{BatchHeader, FLAG_FLUSH, RecordView};
use crate::history::{ChainRecord, ChainValue, Row, epoch_start, step};
use crate::journal::SegmentInfo;
use crate::vocab::{Codec, EpochId, GroupId, Moment, RecordKind};
use std::collections::HashMap;

/// A value that a file claims.
pub(super) struct Claim {
    pub(super) moment: Moment,
    pub(super) value: ChainValue,
    pub(super) path: String,
    pub(super) offset: Option<u64>,
}

/// Follows the records of a group in log order.
pub(super) struct ChainWalk {
    group: GroupId,
    at: Option<(Moment, ChainValue)>,
    /// Where each epoch was left: a line that was taken back lies between two stretches of the one that goes on.
    left: HashMap<EpochId, (Moment, ChainValue)>,
    /// Values of moments that somebody claims something about.
    seen: HashMap<Moment, Option<ChainValue>>,
    claims: Vec<Claim>,
    records: u64,
    /// Where it began from a value that it couldn't compute.
    trusted: Vec<Moment>,
    gaps: Vec<String>,
}

impl ChainWalk {
    pub(super) fn new(group: GroupId, claims: Vec<Claim>) -> Self {
        let seen = claims.iter().map(|c| (c.moment, None)).collect();
        Self {
            group,
            at: None,
            left: HashMap::new(),
            seen,
            claims,
            records: 0,
            trusted: Vec::new(),
            gaps: Vec::new(),
        }
    }

    /// A segment begins. Where the chain is not known it goes on from the value that the list has for it.
    pub(super) fn segment(&mut self, info: &SegmentInfo) {
        if self.at.is_none()
            && let Some((moment, value)) = info.start_chain
        {
            self.at = Some((moment, ChainValue(value)));
            self.trusted.push(moment);
        }
    }

    /// Records are missing from here to the next known value.
    pub(super) fn broken(&mut self, at: String) {
        self.at = None;
        self.left.clear();
        self.gaps.push(at);
    }

    #[allow(clippy::too_many_arguments, reason = "a batch and where it lies")]
    pub(super) fn batch(
        &mut self,
        report: &mut Report,
        shown: &str,
        offset: u64,
        epoch: EpochId,
        header: &BatchHeader,
        records: &[RecordView],
        bytes: &[u8],
    ) {
        for r in records.iter().filter(|r| r.entry.kind.has_seq()) {
            let e = &r.entry;
            let stored = &bytes[e.place as usize..(e.place + e.stored) as usize];
            if e.kind == RecordKind::Epoch {
                self.epoch(report, shown, offset + u64::from(e.place), stored);
            }
            let Some(last) = self.at else { continue };
            let left = self.left.get(&epoch).filter(|_| last.0.epoch != epoch);
            let (before, value) = left.copied().unwrap_or(last);
            if before.seq.next() != e.seq {
                report.damaged(
                    shown,
                    Some(offset),
                    format!("record {} follows {before} in the chain", e.seq),
                );
                return self.broken(format!("{shown} at offset {offset}"));
            }
            let record = ChainRecord {
                epoch,
                seq: e.seq,
                disk: e.disk,
                kind: e.kind,
                flush: e.flags & FLAG_FLUSH != 0,
                offset: e.offset,
                length: e.length,
                time_ns: header.wall.wrapping_add(i64::from(e.delta)),
            };
            let bare = matches!(e.kind, RecordKind::Zero | RecordKind::Discard | RecordKind::Resize);
            let zeros = if e.codec == Codec::Zeros { vec![0; e.length as usize] } else { Vec::new() };
            let payload = if e.codec == Codec::Zeros { &zeros[..] } else { stored };
            let value = step(&value, &record, (!bare).then_some(payload));
            self.note(Moment { epoch, seq: e.seq }, value);
            self.records += 1;
        }
    }

    fn note(&mut self, moment: Moment, value: ChainValue) {
        if let Some(seen) = self.seen.get_mut(&moment) {
            *seen = Some(value);
        }
        self.at = Some((moment, value));
        self.left.insert(moment.epoch, (moment, value));
    }

    fn epoch(&mut self, report: &mut Report, shown: &str, offset: u64, payload: &[u8]) {
        let Ok(row) = Row::from_json(payload) else {
            report.damaged(shown, Some(offset), "the row of an epoch can't be read");
            return self.broken(format!("{shown} at offset {offset}"));
        };
        if let Some(fork) = row.fork() {
            let known = self.at.filter(|(m, _)| *m == fork).map(|(_, v)| v);
            let known = known.or_else(|| self.seen.get(&fork).copied().flatten());
            match known {
                Some(value) if value != row.fork_chain => {
                    let what = format!(
                        "epoch {} forks at {fork} with another chain value than the records have",
                        row.epoch.short()
                    );
                    report.damaged(shown, Some(offset), what);
                }
                Some(_) => {}
                None => self.trusted.push(fork),
            }
        }
        let fork = row.fork().map(|moment| (moment, row.fork_chain));
        self.note(Moment { epoch: row.epoch, seq: row.fork_seq }, epoch_start(self.group, row.epoch, fork));
    }

    /// Compares, and says what is proved.
    pub(super) fn end(self, report: &mut Report, about: &str) {
        let (mut equal, mut open) = (0, 0);
        for claim in &self.claims {
            match self.seen.get(&claim.moment).copied().flatten() {
                Some(value) if value == claim.value => equal += 1,
                Some(value) => {
                    let what = format!(
                        "the chain value {:?} at {} is not that of the records, {value:?}",
                        claim.value, claim.moment
                    );
                    report.damaged(&claim.path, claim.offset, what);
                }
                None => open += 1,
            }
        }
        let from = match self.trusted.first() {
            None => "from the genesis".to_owned(),
            Some(moment) => format!("from {moment}, whose value is taken as it was written down"),
        };
        let open =
            if open == 0 { String::new() } else { format!(", {open} at moments whose records are gone") };
        report.proved(
            about,
            Proof::Chain,
            format!("{} records {from}; {equal} values in seals, lists and rows agree{open}", self.records),
        );
        for gap in self.gaps {
            report.proved(
                about,
                Proof::None,
                format!("the chain is not known from {gap} to the next known value"),
            );
        }
    }
}
