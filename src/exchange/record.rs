//! A record between two sites, and the check of a run of them against the chain.
//!
//! K1. A run is of one epoch and dense. It begins at the receiver's head: with the next record of the head's epoch, or
//!     with the row of an epoch that forks exactly there, whose `fork_chain` is the receiver's own value.
//! K2. The chain over the run is computed by the receiver. Different from what the sender says: nothing is kept.

use crate::format::FLAG_FLUSH;
use crate::history::{ChainRecord, ChainValue, Row, epoch_start, genesis_value, step_zeros};
use crate::vocab::{Codec, DiskOrdinal, EpochId, GroupId, Moment, PAYLOAD_MAX, RecordKind, Seq};

/// One record, as it is read from one journal and appended to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The file; 0 where the record speaks of no file.
    pub disk: DiskOrdinal,
    /// What it does.
    pub kind: RecordKind,
    /// Flags of the record format. Those of one request stay together.
    pub flags: u8,
    /// How the payload is stored: plain, or zeros (then `payload` is empty).
    pub codec: Codec,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Its place on the line.
    pub seq: Seq,
    /// Absolute wall time, ns since 1970.
    pub time_ns: i64,
    /// The payload as it is stored.
    pub payload: Vec<u8>,
}

impl Record {
    /// What the chain says of it.
    pub fn chained(&self, epoch: EpochId) -> ChainRecord {
        ChainRecord {
            epoch,
            seq: self.seq,
            disk: self.disk,
            kind: self.kind,
            flush: self.flags & FLAG_FLUSH != 0,
            offset: self.offset,
            length: self.length,
            time_ns: self.time_ns,
        }
    }

    /// The chain's value after it.
    pub fn chain_after(&self, epoch: EpochId, before: &ChainValue) -> ChainValue {
        let record = self.chained(epoch);
        match (has_payload(self.kind), self.codec) {
            (false, _) => crate::history::step(before, &record, None),
            (true, Codec::Zeros) => step_zeros(before, &record, self.length),
            (true, _) => crate::history::step(before, &record, Some(&self.payload)),
        }
    }

    /// Bytes that it takes in a message, roughly.
    pub fn weight(&self) -> u64 {
        self.payload.len() as u64 + 64
    }

    /// What is wrong with it, if anything: it came over a wire.
    pub fn fault(&self) -> Option<&'static str> {
        let stored = self.payload.len() as u64;
        match (has_payload(self.kind), self.codec) {
            _ if !self.kind.has_seq() => Some("a kind that has no place on a line"),
            _ if self.length > PAYLOAD_MAX && has_payload(self.kind) => Some("too long a payload"),
            (true, Codec::Plain) if stored != self.length => Some("payload and length differ"),
            (true, Codec::Zeros) if stored != 0 => Some("zeros with a payload"),
            (false, Codec::Plain) if stored != 0 => Some("a payload where there is none"),
            (false, Codec::Zeros) | (_, Codec::Zstd) => Some("a codec that it can't have"),
            _ => None,
        }
    }
}

fn has_payload(kind: RecordKind) -> bool {
    use RecordKind::{Add, Config, Epoch, Remove, Rename, Write};
    matches!(kind, Write | Epoch | Add | Rename | Remove | Config)
}

/// Why a run of records can't follow a head.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RunError {
    /// It has no records.
    #[error("a message without records")]
    Empty,
    /// A record makes no sense by itself.
    #[error("record {0} makes no sense: {1}")]
    Fault(Seq, &'static str),
    /// It doesn't begin behind the head, or isn't dense. K1.
    #[error("record {found} of epoch {epoch} came where the one after {head} was expected")]
    Gap {
        /// Where the receiver is.
        head: Moment,
        /// What came.
        found: Seq,
        /// Its epoch.
        epoch: EpochId,
    },
    /// An epoch row that doesn't fork at the head. K1.
    #[error("the row of epoch {0} doesn't fork at {1} with the value held there")]
    Fork(EpochId, Moment),
    /// K2.
    #[error("the chain differs at {at}: {told} was told, {found} is right")]
    Chain {
        /// The last moment of the run.
        at: Moment,
        /// The sender's value.
        told: ChainValue,
        /// The computed one.
        found: ChainValue,
    },
}

/// The chain after a run that follows `head` (with its value; none: an empty group, whose first record is the row of a
/// genesis), and the moment it leads to.
pub fn run_after(
    group: GroupId,
    head: Option<(Moment, ChainValue)>,
    epoch: EpochId,
    records: &[Record],
) -> Result<(Moment, ChainValue), RunError> {
    let first = records.first().ok_or(RunError::Empty)?;
    let at = head.map_or(Moment { epoch, seq: Seq(0) }, |(m, _)| m);
    let gap = |found| RunError::Gap { head: at, found, epoch };
    let mut value = if first.kind == RecordKind::Epoch {
        let row = Row::from_json(&first.payload).ok().filter(|r| r.epoch == epoch);
        let fork = RunError::Fork(epoch, at);
        let row = row.ok_or(fork.clone())?;
        match (row.fork(), head) {
            (None, None) => genesis_value(group, epoch),
            (Some(from), Some((moment, value))) if from == moment && row.fork_chain == value => {
                epoch_start(group, epoch, Some((moment, value)))
            }
            _ => return Err(fork),
        }
    } else {
        head.filter(|(m, _)| m.epoch == epoch).ok_or(gap(first.seq))?.1
    };
    let mut seq = at.seq;
    for record in records {
        if record.seq != seq.next() || (record.kind == RecordKind::Epoch && record.seq != first.seq) {
            return Err(gap(record.seq));
        }
        if let Some(fault) = record.fault() {
            return Err(RunError::Fault(record.seq, fault));
        }
        seq = record.seq;
        value = record.chain_after(epoch, &value);
    }
    Ok((Moment { epoch, seq }, value))
}
