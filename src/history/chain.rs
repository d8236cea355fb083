//! The hash chain over records, and the marks kept of it.
//!
//! C1. `h(n) = BLAKE3(h(n-1) ‖ R ‖ P)`: R the 64 bytes of [`ChainRecord::encode`], P the BLAKE3 of the payload
//!     before any codec, 32 zero bytes if there is none. Nothing of files, batches or codecs enters it.
//! C2. An epoch starts from its own names and from the value at its fork, so equal values mean equal records
//!     from the root to there, across forks.
//! C3. A mark is kept by the name in normal form: at a fork the parent's. The start value of an epoch is
//!     no value of a moment; only the genesis has one at seq 0.
//! C4. Marks at seqs divisible by [`MARK_EVERY`], forks, points, ends of jumps and the last moment that a peer has
//!     acknowledged are kept for ever; those of seals as long as the ranges of the segment.

use crate::vocab::{DiskOrdinal, EpochId, GroupId, Moment, RecordKind, Seq};
use std::collections::BTreeMap;
use std::fmt;

/// A mark is kept at every seq that this divides.
pub const MARK_EVERY: u64 = 4096;
/// Length of the encoded record in the chain, in bytes.
pub const ROW_BYTES: usize = 64;
/// Bit of the canonical flags: a guest flush came before this record. No other flag enters the chain.
const FLAG_FLUSH: u8 = 1;

/// A value of the chain. 64 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ChainValue(pub [u8; 32]);

impl ChainValue {
    /// All zero: the value at the fork of a genesis.
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for ChainValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ChainValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainValue({})", &self.to_string()[..8])
    }
}

impl serde::Serialize for ChainValue {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ChainValue {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        blake3::Hash::from_hex(text.as_bytes()).map(|hash| Self(*hash.as_bytes())).map_err(|_| {
            serde::de::Error::custom(format!("`{text}` is not a chain value: 64 hexadecimal digits"))
        })
    }
}

/// What the chain says of one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainRecord {
    /// The epoch in which it was given its seq.
    pub epoch: EpochId,
    /// Its place on the line.
    pub seq: Seq,
    /// The file it belongs to; 0 for records of the group.
    pub disk: DiskOrdinal,
    /// What it does.
    pub kind: RecordKind,
    /// Whether a guest flush came before it.
    pub flush: bool,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Absolute wall time, ns since 1970.
    pub time_ns: i64,
}

impl ChainRecord {
    /// The moment after it.
    pub fn moment(&self) -> Moment {
        Moment { epoch: self.epoch, seq: self.seq }
    }

    /// R of C1. Little-endian: seq, epoch, disk, kind, flags, 0 u16, offset, length, time, 0 u64.
    pub fn encode(&self) -> [u8; ROW_BYTES] {
        let mut out = [0; ROW_BYTES];
        out[0..8].copy_from_slice(&self.seq.0.to_le_bytes());
        out[8..24].copy_from_slice(&self.epoch.0);
        out[24..28].copy_from_slice(&self.disk.0.to_le_bytes());
        out[28] = self.kind as u8;
        out[29] = if self.flush { FLAG_FLUSH } else { 0 };
        out[32..40].copy_from_slice(&self.offset.to_le_bytes());
        out[40..48].copy_from_slice(&self.length.to_le_bytes());
        out[48..56].copy_from_slice(&self.time_ns.to_le_bytes());
        out
    }
}

/// The value after `record`, given the one before it. `payload`: the bytes before any codec; none if the kind has
/// no payload.
pub fn step(before: &ChainValue, record: &ChainRecord, payload: Option<&[u8]>) -> ChainValue {
    let hash = payload.map_or([0; 32], |bytes| *blake3::hash(bytes).as_bytes());
    step_hashed(before, record, &hash)
}

/// As [`step`], with the payload's BLAKE3 computed already (zeros: no payload).
pub fn step_hashed(before: &ChainValue, record: &ChainRecord, payload_hash: &[u8; 32]) -> ChainValue {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before.0).update(&record.encode()).update(payload_hash);
    ChainValue(*hasher.finalize().as_bytes())
}

/// As [`step`], for a payload of `length` zeros.
pub fn step_zeros(before: &ChainValue, record: &ChainRecord, length: u64) -> ChainValue {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut hasher = blake3::Hasher::new();
    let mut left = length;
    while left > 0 {
        let now = left.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..now as usize]);
        left -= now;
    }
    step_hashed(before, record, hasher.finalize().as_bytes())
}

/// What the first record of an epoch (its row) is hashed onto (C2). `fork`: the parent's moment in normal form or
/// as the row names it (the row's own words count), and the value there; none for a genesis.
pub fn epoch_start(group: GroupId, epoch: EpochId, fork: Option<(Moment, ChainValue)>) -> ChainValue {
    let (moment, value) = fork.unwrap_or((Moment { epoch: EpochId::NONE, seq: Seq(0) }, ChainValue::ZERO));
    let mut hasher = blake3::Hasher::new_derive_key("standbyfs chain v1");
    hasher.update(&group.0).update(&epoch.0).update(&moment.epoch.0);
    hasher.update(&moment.seq.0.to_le_bytes()).update(&value.0);
    ChainValue(*hasher.finalize().as_bytes())
}

/// The value at moment 0 of a genesis: the only start value that is also the value of a moment (C3).
pub fn genesis_value(group: GroupId, genesis: EpochId) -> ChainValue {
    epoch_start(group, genesis, None)
}

/// The chain's value at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct ChainMark {
    /// The epoch of the moment, in normal form.
    pub epoch: EpochId,
    /// The seq of the moment.
    pub seq: Seq,
    /// The value there.
    pub h: ChainValue,
    /// Wall time of the record, ns since 1970.
    pub time_ns: i64,
}

impl ChainMark {
    /// The moment.
    pub fn moment(&self) -> Moment {
        Moment { epoch: self.epoch, seq: self.seq }
    }
}

/// Why a mark is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MarkReason {
    /// A segment ends there: kept as long as the ranges of the segment.
    Seal,
    /// The seq is divisible by [`MARK_EVERY`].
    Regular,
    /// An epoch forks there.
    Fork,
    /// A recovery point.
    Point,
    /// One of the ends of a jump; attested, not computed, at its `to`.
    Jump,
    /// The last moment that a peer has acknowledged.
    Acknowledged,
}

impl MarkReason {
    /// The reason that holds for a seq by itself.
    pub fn of_seq(seq: Seq) -> Option<Self> {
        seq.0.is_multiple_of(MARK_EVERY).then_some(Self::Regular)
    }

    /// Whether such a mark outlives the ranges of its segment (C4).
    pub fn for_ever(self) -> bool {
        self != Self::Seal
    }
}

/// Marks by moment in normal form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkSet {
    marks: BTreeMap<(EpochId, Seq), (ChainMark, MarkReason)>,
}

impl MarkSet {
    /// Keeps a mark. One that is kept already keeps the stronger reason.
    pub fn keep(&mut self, mark: ChainMark, reason: MarkReason) {
        let kept = self.marks.entry((mark.epoch, mark.seq)).or_insert((mark, reason));
        kept.0 = mark;
        kept.1 = kept.1.max(reason);
    }

    /// The mark of a moment in normal form.
    pub fn get(&self, moment: Moment) -> Option<&ChainMark> {
        self.marks.get(&(moment.epoch, moment.seq)).map(|(mark, _)| mark)
    }

    /// The greatest mark of `epoch` at or below `seq`.
    pub fn at_or_below(&self, epoch: EpochId, seq: Seq) -> Option<&ChainMark> {
        self.marks.range((epoch, Seq(0))..=(epoch, seq)).next_back().map(|(_, (mark, _))| mark)
    }

    /// Marks of an epoch, by seq.
    pub fn of_epoch(&self, epoch: EpochId) -> impl DoubleEndedIterator<Item = &ChainMark> {
        self.marks.range((epoch, Seq(0))..=(epoch, Seq(u64::MAX))).map(|(_, (mark, _))| mark)
    }

    /// All marks with their reasons.
    pub fn iter(&self) -> impl Iterator<Item = (&ChainMark, MarkReason)> {
        self.marks.values().map(|(mark, reason)| (mark, *reason))
    }

    /// Forgets marks that are kept for a seal only and lie in `epoch` at or below `seq` (C4).
    pub fn forget_seals(&mut self, epoch: EpochId, seq: Seq) {
        self.marks.retain(|&(e, s), (_, reason)| e != epoch || s > seq || reason.for_ever());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

#[cfg(test)]
mod tests;
