//! What two sites say to each other. Control messages are JSON; records and fills are binary frames (`wire`).
//!
//! G1. Control is level-triggered: whole durable states, at connect and at each change. Nothing depends on a message
//!     that was sent in an earlier connection.
//! G2. A receiver passes over fields that it doesn't know and refuses kinds that it doesn't know: the features agreed
//!     in the hello say which kinds may be sent.

use crate::exchange::ranges::DiskRange;
use crate::exchange::record::Record;
use crate::history::{
    Answer, ChainValue, DiskSize, Event, JumpReason, Question, Row, SourcePhase, TargetSays,
};
use crate::protection::PointSet;
use crate::vocab::{Codec, DiskOrdinal, EpochId, GroupId, Moment, StoreId, Token};
use serde::{Deserialize, Serialize};

/// The first message of each side.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest and highest version of the protocol that the site speaks.
    pub versions: (u16, u16),
    /// Optional things that it can do, by name.
    pub features: Vec<String>,
    /// Its store.
    pub site: StoreId,
    /// Its name, for people.
    pub name: String,
    /// The session token last agreed, if any.
    pub agreed: Option<Token>,
    /// A session token that was stored but not confirmed, if any.
    pub offered: Option<Token>,
    /// A fresh random value: its half of the next session token.
    pub nonce: Token,
}

/// A control message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Control {
    /// The first one.
    Hello(Hello),
    /// The new session token is stored.
    Session {
        /// It.
        token: Token,
    },
    /// The connection ends, for this reason.
    Refused {
        /// A name that the documentation has.
        name: String,
        /// One sentence.
        text: String,
    },
    /// About one group.
    Group {
        /// Which.
        group: GroupId,
        /// What.
        about: Box<About>,
    },
}

/// What one site does and has decided, as both roles. Sent whole at each change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Roles {
    /// As one that writes, or wrote.
    pub source: SourcePhase,
    /// As one that shall write.
    pub target: TargetSays,
    /// The row of the decision, if it was promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Row>,
}

/// A copy that a target is staging, as it is durable there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyStatement {
    /// Names the copy.
    pub copy: Token,
    /// Why it is made.
    pub reason: JumpReason,
    /// The newest moment staged.
    pub staged: Moment,
    /// The chain value there.
    pub chain: ChainValue,
    /// Bytes that are still missing.
    pub missing_bytes: u64,
}

/// What a site says of a group at connect.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Descriptor {
    /// Which meeting of this connection it belongs to; a higher number begins a new one.
    pub meeting: u64,
    /// Its head, durable, with its chain value; none: it has no image yet.
    pub head: Option<(Moment, ChainValue)>,
    /// Whether it is the source: a writer, or one that handed over and waits.
    pub writes: bool,
    /// Whether it is a standby, or is to become one: it follows without being asked.
    pub follows: bool,
    /// The state, by name.
    pub state: String,
    /// Operations and their outcome.
    pub roles: Roles,
    /// Digest of the whole table of rows and withdrawals.
    pub rows_digest: ChainValue,
    /// How many rows the table has.
    pub rows_count: u64,
    /// The newest rows.
    pub rows: Vec<Row>,
    /// All withdrawals.
    pub withdrawn: Vec<(EpochId, Token)>,
    /// The oldest moment that it can still choose or show, if it has any.
    pub oldest: Option<Moment>,
    /// How far back the ranges of what changed are known.
    pub ranges_from: Option<Moment>,
    /// A copy that is being staged.
    pub copy: Option<CopyStatement>,
    /// Lines of its history that the peer has to hear: committed, migrated, unprotected …
    pub notices: Vec<Event>,
}

/// Where a source stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// Its newest record.
    pub head: Moment,
    /// The newest record that is durable there.
    pub durable: Moment,
    /// The newest moment at which a guest's flush had completed.
    pub flushed: Moment,
    /// Age of its oldest record that isn't durable at the target, ns; 0: there is none.
    pub lag_ns: u64,
}

/// A message about a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum About {
    /// The first one about a group, and of every new meeting.
    Descriptor(Box<Descriptor>),
    /// Which rows have you, by epoch, after this one?
    AskRows {
        /// None: from the first.
        after: Option<EpochId>,
    },
    /// Rows in the order of their epochs.
    Rows {
        /// They.
        rows: Vec<Row>,
        /// Whether there are more.
        more: bool,
    },
    /// Which chain values have you?
    AskMarks(Question),
    /// These.
    Marks(Answer),
    /// Everything up to a frame of this connection is durable.
    Ack {
        /// How many frames of records and fills.
        frames: u64,
        /// The newest moment that is durable, appended or staged.
        moment: Moment,
        /// The chain value there.
        chain: ChainValue,
    },
    /// The heartbeat of a source.
    Standing(Standing),
    /// This side has come to its verdict: records may come.
    Met,
    /// The heartbeat of a target, and of a site that only watches.
    Alive {
        /// The oldest moment that it can still choose or show.
        oldest: Option<Moment>,
    },
    /// A change of roles.
    Roles(Roles),
    /// Which ranges did you change after this moment?
    AskRanges {
        /// The proved moment.
        after: Moment,
    },
    /// Ranges, for whatever asked or comes next.
    Ranges {
        /// Some of them.
        ranges: Vec<DiskRange>,
        /// Whether there are more.
        more: bool,
    },
    /// A copy begins, with the set of the `Ranges` before.
    CopyBegin {
        /// Names it.
        copy: Token,
        /// Why it is made.
        reason: JumpReason,
        /// Whether the target's image is its base; else it begins from nothing.
        onto_image: bool,
        /// Where its stream begins.
        at: Moment,
        /// The chain value there.
        chain: ChainValue,
        /// Files and sizes at that moment.
        disks: Vec<DiskSize>,
    },
    /// What is missing of this copy? Answered by `Ranges`.
    AskMissing {
        /// Which.
        copy: Token,
    },
    /// The stream goes on at a later moment; the `Ranges` before are missing again.
    CopySkip {
        /// Which.
        copy: Token,
        /// Where.
        to: Moment,
        /// The chain value there.
        chain: ChainValue,
    },
    /// The staged copy is void: delete it.
    CopyDrop {
        /// Which.
        copy: Token,
    },
    /// Everything is in: publish.
    Publish {
        /// Which.
        copy: Token,
        /// The moment.
        to: Moment,
        /// The source's chain value there.
        chain: ChainValue,
        /// Files and sizes there.
        disks: Vec<DiskSize>,
    },
    /// It is published.
    Published {
        /// Which.
        copy: Token,
        /// The moment.
        to: Moment,
    },
    /// All recovery points of a site.
    Points(PointSet),
    /// Take this group as its target.
    Join(Box<Join>),
    /// It is taken.
    Joined {
        /// The operation.
        op: Token,
    },
    /// Lines of the history that the other has to hear.
    Notices {
        /// They.
        notices: Vec<Event>,
    },
    /// Hash a range of a moment.
    AskScrub(Scrub),
    /// The hash; none: the moment isn't there.
    Scrubbed {
        /// What was asked.
        scrub: Scrub,
        /// BLAKE3 of the bytes.
        hash: Option<ChainValue>,
    },
    /// What was asked is refused.
    Declined {
        /// The operation.
        op: Token,
        /// A name that the documentation has.
        name: String,
        /// One sentence.
        text: String,
    },
}

/// A request to keep a standby of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Join {
    /// The operation.
    pub op: Token,
    /// Its name in the tree.
    pub name: String,
    /// The policy, as its keys and values.
    pub policy: Vec<(String, String)>,
    /// Files and sizes.
    pub disks: Vec<DiskSize>,
    /// VMs and paths of the files, as the records about them have them.
    pub names: Vec<serde_json::Value>,
}

/// A range to be hashed at both sites.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scrub {
    /// Names the request.
    pub id: Token,
    /// The moment.
    pub moment: Moment,
    /// The range.
    pub range: DiskRange,
}

/// Records of one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Data {
    /// The group.
    pub group: GroupId,
    /// The epoch of all of them.
    pub epoch: EpochId,
    /// In order, dense.
    pub records: Vec<Record>,
    /// The chain value after the last.
    pub chain: ChainValue,
    /// Where the sender stands.
    pub standing: Standing,
}

impl Data {
    /// The moment after the last record.
    pub fn moment(&self) -> Option<Moment> {
        self.records.last().map(|r| Moment { epoch: self.epoch, seq: r.seq })
    }
}

/// A range as it is at the moment just sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fill {
    /// The group.
    pub group: GroupId,
    /// The copy.
    pub copy: Token,
    /// The moment: that of the newest record sent before, or of the begin.
    pub at: Moment,
    /// The file.
    pub disk: DiskOrdinal,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Plain, or zeros (then `payload` is empty).
    pub codec: Codec,
    /// The content.
    pub payload: Vec<u8>,
}

impl Fill {
    /// The range.
    pub fn range(&self) -> DiskRange {
        DiskRange { disk: self.disk, offset: self.offset, length: self.length }
    }
}

/// One frame of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// JSON.
    Control(Control),
    /// Records.
    Data(Box<Data>),
    /// A range.
    Fill(Box<Fill>),
}

impl Frame {
    /// A message about a group.
    pub fn about(group: GroupId, about: About) -> Self {
        Self::Control(Control::Group { group, about: Box::new(about) })
    }

    /// The group it is about, if about one.
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Self::Control(Control::Group { group, .. }) => Some(*group),
            Self::Control(_) => None,
            Self::Data(data) => Some(data.group),
            Self::Fill(fill) => Some(fill.group),
        }
    }
}
