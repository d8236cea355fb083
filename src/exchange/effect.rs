//! What goes into a group's side of the exchange, and what comes out.
//!
//! X1. Effects are carried out in their order. An answer carries the ticket of its effect; answers to effects of an
//!     earlier connection are passed over.
//! X2. Before `Connected` the engine has finished, or thrown away, everything that it was asked for in the connection
//!     before: `Local` says what is durable now.
//! X3. Records of one request are never split: `ReadRecords` answers with whole requests, of one epoch.

use crate::exchange::message::{
    About, CopyStatement, Data, Descriptor, Fill, Frame, Join, Roles, Scrub, Standing,
};
use crate::exchange::ranges::{DiskRange, RangeSet};
use crate::exchange::record::Record;
use crate::history::{
    ChainValue, Common, DiskSize, Event as HistoryEvent, JumpReason, LineMarks, Outcome, Row, SourceStep,
    Table,
};
use crate::protection::PointSet;
use crate::vocab::{EpochId, GroupId, Moment, StoreId, Token};

/// Names one effect of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Ticket {
    pub(crate) connection: u64,
    pub(crate) number: u64,
}

/// What a site is in a group, at the begin of a connection; all of it durable (X2).
#[derive(Clone, Debug)]
pub struct Local {
    /// Rows and withdrawals.
    pub table: Table,
    /// Its head with its chain value; none: it has no image yet.
    pub head: Option<(Moment, ChainValue)>,
    /// Where it stands as a source; of a target `head` thrice.
    pub standing: Standing,
    /// Whether its disks are writable. (A source that handed over is a source all the same: its roles say so.)
    pub writes: bool,
    /// Whether it is a standby, or is to become one.
    pub follows: bool,
    /// The state, by name.
    pub state: String,
    /// Operations.
    pub roles: Roles,
    /// Operations of the peer that this site ever handed over for.
    pub handed: std::collections::BTreeSet<Token>,
    /// The oldest moment that it can choose or show.
    pub oldest: Option<Moment>,
    /// How far back ranges are known.
    pub ranges_from: Option<Moment>,
    /// A copy that is being staged here.
    pub copy: Option<CopyStatement>,
    /// What that copy misses.
    pub missing: RangeSet,
    /// Lines of the history that the peer has to hear.
    pub notices: Vec<HistoryEvent>,
    /// Recovery points.
    pub points: PointSet,
    /// What the peer acknowledged last, if this site shipped to it.
    pub cursor: Option<Moment>,
    /// Age of the oldest record behind the cursor, ns.
    pub backlog_age_ns: u64,
}

/// What a `ReadRecords` found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Records of one epoch, dense, behind the moment asked for, and the chain value after the last.
    Records {
        /// Their epoch.
        epoch: EpochId,
        /// They; at least one.
        records: Vec<Record>,
        /// The value after the last.
        chain: ChainValue,
    },
    /// They are no longer held, or a jump lies there.
    Gone,
}

/// A copy, planned by the engine: its set of ranges holds everything that the target lacks at `at`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// A fresh name.
    pub copy: Token,
    /// Why.
    pub reason: JumpReason,
    /// Whether the target's image is its base.
    pub onto_image: bool,
    /// Where the stream begins: durable, and its records are held from there on.
    pub at: Moment,
    /// The chain value there.
    pub chain: ChainValue,
    /// What is missing.
    pub set: RangeSet,
    /// Files and sizes at that moment.
    pub disks: Vec<DiskSize>,
}

/// What is to be planned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Everything, from nothing.
    Initial,
    /// The target is at this moment, which is proved, and the records behind it are gone: the ranges changed since.
    Backlog {
        /// The target's head.
        after: Moment,
    },
    /// The target's own ranges after the proved moment, and this site's.
    Delta {
        /// The proved moment.
        after: Moment,
        /// What the target changed since.
        theirs: RangeSet,
    },
    /// Nothing is proved: everything, onto the image that is there.
    Everything,
}

/// What happens to a group's side of the exchange.
#[derive(Clone, Debug)]
pub enum Event {
    /// The session is ready; or, while connected: what this site is has changed so much that both have to meet anew
    /// (a new epoch, another role, an image that was replaced). Also the answer to [`Effect::MeetAnew`].
    Connected(Box<Local>),
    /// The connection is gone.
    Disconnected,
    /// A frame about this group arrived.
    Received(Frame),
    /// The time of the last [`Effect::SetTimer`] has come.
    Timer,
    /// The rows of [`Effect::StoreRows`] are durable.
    RowsStored(Ticket),
    /// Answer to [`Effect::ReadMarks`].
    MarksRead(Ticket, LineMarks),
    /// This site, the source, has new records, or more of them are durable.
    Progress(Standing),
    /// Answer to [`Effect::ReadRecords`].
    RecordsRead(Ticket, Found),
    /// Answer to [`Effect::ReadFill`]: the bytes; none: zeros. An outer none: the moment is gone.
    FillRead(Ticket, Option<Option<Vec<u8>>>),
    /// Answer to [`Effect::ReadChain`].
    ChainRead(Ticket, Option<ChainValue>),
    /// Answer to [`Effect::ReadSizes`].
    SizesRead(Ticket, Vec<DiskSize>),
    /// Answer to [`Effect::PlanCopy`].
    CopyPlanned(Ticket, Box<Planned>),
    /// Answer to [`Effect::PlanSkip`]: where the stream goes on, its chain value, and what changed since.
    SkipPlanned(Ticket, Moment, ChainValue, RangeSet),
    /// Answer to [`Effect::ReadRanges`].
    RangesRead(Ticket, RangeSet),
    /// Everything up to this [`Effect::Append`], [`Effect::Stage`] or [`Effect::StageFill`] is durable.
    Appended(Ticket),
    /// The jump of [`Effect::PublishJump`] is durable.
    JumpPublished(Ticket),
    /// This site's roles have changed, durably.
    Roles(Roles),
    /// The handover for this operation is refused, or takes its time: it isn't asked for again in this connection.
    Deferred(Token),
    /// Recovery points have changed here.
    Points(PointSet),
    /// Notices have changed here.
    Notices(Vec<HistoryEvent>),
    /// The oldest moment that can still be chosen or shown here.
    Oldest(Moment),
    /// Nothing more is to be received: an unplanned failover is under way.
    StopReceiving,
    /// How often to ship: ns, none is continuously.
    Frequency(Option<u64>),
    /// Send this to the peer if there is one: requests and answers that need no state here.
    Say(About),
}

/// What a connection of two sites has come to, for this group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Neither has an image, or nobody writes and one has none.
    Nothing,
    /// The peer has no image yet and gets one.
    InitialCopy {
        /// Who writes.
        source: StoreId,
    },
    /// Two histories of one group without a common root.
    Unrelated,
    /// What the rules of meeting say.
    Decided(Outcome, Common),
}

/// Something for the log and for health.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// What was received is not what was sent; nothing of it was kept.
    Corruption(String),
    /// The target holds less than it acknowledged.
    TargetRewound {
        /// What it acknowledged.
        acknowledged: Moment,
        /// What it holds.
        head: Moment,
    },
    /// A copy begins.
    CopyBegun {
        /// Why.
        reason: JumpReason,
        /// Bytes to be filled.
        bytes: u64,
    },
    /// A copy goes on after an interruption.
    CopyResumed {
        /// Bytes still to be filled.
        bytes: u64,
    },
    /// A copy that was interrupted can't go on, and is begun anew.
    CopyAbandoned,
    /// The stream of a copy skipped records; what they changed is filled again.
    CopySkipped {
        /// Bytes to be filled again.
        bytes: u64,
    },
    /// A copy is published at the target.
    CopyPublished {
        /// The moment.
        to: Moment,
    },
}

/// What a group's side of the exchange wants.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send this.
    Send(Frame),
    /// Step again with [`Event::Timer`] at this monotonic time, ns. Replaces the timer set before.
    SetTimer(u64),
    /// Add these rows and withdrawals, heard from the peer, to the history.
    StoreRows(Ticket, Vec<Row>, Vec<(EpochId, Token)>),
    /// Which marks prove something about the line of this moment? ([`LineMarks::new`] with this site's path.)
    ReadMarks(Ticket, Moment),
    /// The peer begins a new meeting: finish what is under way, then say [`Event::Connected`].
    MeetAnew,
    /// The oldest moment that the peer can still choose or show: ranges are kept back to there.
    PeerOldest(Moment),
    /// The meeting's outcome, with what the peer said.
    Met(Box<Verdict>, Box<Descriptor>),
    /// Read durable records behind `after`, `upto` at most, about so many bytes.
    ReadRecords {
        /// Ticket.
        ticket: Ticket,
        /// Behind this moment.
        after: Moment,
        /// Not beyond this one.
        upto: Moment,
        /// About so many bytes of payload; one request at least.
        max_bytes: u64,
    },
    /// Read a range as it is at a moment.
    ReadFill(Ticket, Moment, DiskRange),
    /// The chain value at a moment of this site's line, if it is known.
    ReadChain(Ticket, Moment),
    /// Files and sizes at a moment.
    ReadSizes(Ticket, Moment),
    /// Plan a copy.
    PlanCopy(Ticket, Plan),
    /// The records behind this moment are gone: where can the stream go on, and what changed since?
    PlanSkip(Ticket, Moment),
    /// Which ranges did this site change after this moment?
    ReadRanges(Ticket, Moment),
    /// Append these records; they were checked against the chain.
    Append(Ticket, Box<Data>),
    /// Begin a staging log with this set, after deleting what was staged before.
    BeginStaging(Ticket, Box<Planned>),
    /// Stage records.
    Stage(Ticket, Box<Data>),
    /// Stage a range.
    StageFill(Ticket, Box<Fill>),
    /// The staged copy goes on at this moment; these ranges are missing again.
    StageSkip(Ticket, Moment, ChainValue, RangeSet),
    /// Delete the staging log.
    DropStaging(Token),
    /// Everything staged is durable and nothing is missing: publish it with one line of the history.
    PublishJump {
        /// Ticket.
        ticket: Ticket,
        /// The copy.
        copy: Token,
        /// The moment.
        to: Moment,
        /// The chain value there.
        chain: ChainValue,
        /// Files and sizes there.
        disks: Vec<DiskSize>,
    },
    /// The peer holds everything up to here: the cursor; keep a mark.
    Acknowledged(Moment, ChainValue),
    /// The peer has staged everything up to here: keep a mark.
    Staged(Moment, ChainValue),
    /// Make this step durable if it still fits (`SourceState::after`); then say [`Event::Roles`] in any case. No other
    /// step is asked for before.
    SourceStep(SourceStep),
    /// This site may decide for its operation now: everything up to the handover is held.
    MayDecide(Token),
    /// The peer's roles, as they are now.
    PeerRoles(Roles),
    /// The peer's points: merge them.
    Points(PointSet),
    /// Lines of the peer's history that this site has to hear.
    Notices(Vec<HistoryEvent>),
    /// The peer wants this group to have its standby here.
    Join(Box<Join>),
    /// The peer asks for a hash.
    Scrub(Scrub),
    /// An answer of the peer to a request of this site.
    Answer(About),
    /// For the log and for health.
    Report(Report),
    /// Close the connection.
    Close {
        /// A name that the documentation has.
        name: &'static str,
        /// One sentence.
        text: String,
    },
}

impl Effect {
    /// A message about a group.
    pub(crate) fn say(group: GroupId, about: About) -> Self {
        Self::Send(Frame::about(group, about))
    }
}
