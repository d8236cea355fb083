//! The row of an epoch: the payload of the epoch's first record, and part of a line of the group's history.
//!
//! W1. A row never changes. Two rows with one epoch and different content are a `table-conflict`.
//! W2. A row with a parent forks from a moment of that parent; a row without one is the genesis and forks at 0.
//! W3. The row itself is the record with seq `fork_seq + 1`.

use crate::history::ChainValue;
use crate::vocab::{EpochId, Error, Kind, Moment, Result, Seq, StoreId, Token};
use std::fmt;

/// Why an epoch was begun.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowKind {
    /// The first epoch of a group.
    Genesis,
    /// The same writer in a new opening of its store.
    Open,
    /// Unplanned failover.
    Failover,
    /// Planned failover or failback.
    Planned,
    /// Another recovery point was chosen after a failover.
    Change,
    /// `failover force` at a fenced or frozen site.
    Force,
    /// A person decided between two histories, knowing both.
    Resolve,
    /// The source goes on after the other side took its decision back.
    Rollback,
}

impl RowKind {
    /// Whether beginning such an epoch is a decision about who writes. An opening is none: it happens by itself.
    pub fn decided(self) -> bool {
        !matches!(self, Self::Genesis | Self::Open)
    }
}

impl fmt::Display for RowKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Genesis => "genesis",
            Self::Open => "open",
            Self::Failover => "failover",
            Self::Planned => "planned",
            Self::Change => "change",
            Self::Force => "force",
            Self::Resolve => "resolve",
            Self::Rollback => "rollback",
        })
    }
}

/// One epoch: which site began it, from which moment, and why.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Row {
    /// The epoch.
    pub epoch: EpochId,
    /// The epoch it forks from; none for the genesis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<EpochId>,
    /// The last seq of the parent that belongs to this line; 0 for the genesis.
    pub fork_seq: Seq,
    /// The chain value at the fork; zeros for the genesis.
    pub fork_chain: ChainValue,
    /// The site that writes in this epoch.
    pub site: StoreId,
    /// Why it was begun.
    pub kind: RowKind,
    /// The newest decided epoch of the other line that its maker knew: it and its ancestors no longer count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrules: Option<EpochId>,
    /// The operation that led to it.
    pub op: Token,
    /// Wall time when it was begun, ns since 1970.
    pub time_ns: i64,
}

impl Row {
    /// Whether it is a decision.
    pub fn decided(&self) -> bool {
        self.kind.decided()
    }

    /// The moment it forks from, as it is named by the row (not in normal form); none for the genesis.
    pub fn fork(&self) -> Option<Moment> {
        self.parent.map(|epoch| Moment { epoch, seq: self.fork_seq })
    }

    /// The seq of the row itself.
    pub fn first_seq(&self) -> Seq {
        self.fork_seq.next()
    }

    /// Checks what one row can be checked for (W2). Rows come from disks and from the network.
    pub fn check(&self) -> Result<()> {
        let wrong = if self.epoch.is_none() {
            "it has no epoch"
        } else if self.site.is_none() {
            "it names no site"
        } else if self.parent.is_some_and(|p| p.is_none() || p == self.epoch) {
            "its parent is none or itself"
        } else if self.parent.is_none() != (self.kind == RowKind::Genesis) {
            "only the genesis has no parent"
        } else if self.parent.is_none() && self.fork_seq != Seq(0) {
            "the genesis forks at 0"
        } else if self.fork_seq.0 >= u64::MAX / 2 {
            "its fork lies beyond every possible record"
        } else if self.overrules.is_some() && !self.decided() {
            "only a decision overrules"
        } else if self.overrules == Some(self.epoch) {
            "it overrules itself"
        } else {
            return Ok(());
        };
        Err(Error::new(Kind::Invalid, format!("epoch row {} makes no sense: {wrong}", self.epoch)))
    }

    /// The payload of the epoch's record.
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of ids, numbers and strings always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A row from the payload of an epoch's record.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let row: Self = serde_json::from_slice(json)
            .map_err(|e| Error::new(Kind::Damaged, format!("an epoch row can't be read: {e}")))?;
        row.check()?;
        Ok(row)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ({}", self.epoch.short(), self.site.short(), self.kind)?;
        match self.fork() {
            Some(fork) => write!(f, ", forks at {fork})")?,
            None => f.write_str(")")?,
        }
        match self.overrules {
            Some(epoch) => write!(f, ", overrules {}", epoch.short()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            epoch: EpochId([2; 16]),
            parent: Some(EpochId([1; 16])),
            fork_seq: Seq(90),
            fork_chain: ChainValue([0xab; 32]),
            site: StoreId([9; 16]),
            kind: RowKind::Failover,
            overrules: None,
            op: Token([7; 16]),
            time_ns: 1_763_690_000_000_000_000,
        }
    }

    #[test]
    fn json_is_stable_and_comes_back() {
        let text = String::from_utf8(row().to_json()).unwrap();
        let expected = format!(
            "{{\"epoch\":\"{}\",\"parent\":\"{}\",\"fork_seq\":90,\"fork_chain\":\"{}\",\"site\":\"{}\",\
             \"kind\":\"failover\",\"op\":\"{}\",\"time_ns\":1763690000000000000}}",
            "02".repeat(16),
            "01".repeat(16),
            "ab".repeat(32),
            "09".repeat(16),
            "07".repeat(16)
        );
        assert_eq!(text, expected);
        assert_eq!(Row::from_json(text.as_bytes()).unwrap(), row());
    }

    #[test]
    fn senseless_rows_are_refused() {
        let changes: [fn(&mut Row); 8] = [
            |r| r.epoch = EpochId::NONE,
            |r| r.site = StoreId::NONE,
            |r| r.parent = Some(r.epoch),
            |r| r.parent = None,
            |r| r.kind = RowKind::Genesis,
            |r| r.fork_seq = Seq(u64::MAX),
            |r| r.overrules = Some(r.epoch),
            |r| (r.kind, r.overrules) = (RowKind::Open, Some(EpochId([5; 16]))),
        ];
        row().check().unwrap();
        for (number, change) in changes.iter().enumerate() {
            let mut wrong = row();
            change(&mut wrong);
            assert_eq!(wrong.check().unwrap_err().kind(), Kind::Invalid, "change {number}");
            assert!(Row::from_json(&wrong.to_json()).is_err(), "change {number}");
        }
        assert_eq!(Row::from_json(b"{").unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn openings_are_no_decisions() {
        use RowKind::*;
        let decided = [Failover, Planned, Change, Force, Resolve, Rollback];
        assert!(decided.iter().all(|k| k.decided()));
        assert!(!Genesis.decided() && !Open.decided());
    }
}
