//! The states of a group at one site, and how the state follows from the durable facts of its history.
//!
//! 1. The state is a pure function of facts that are durable here; nothing else decides it. After a restart the
//!    same facts give the same state.
//! 2. The function is total: contradictory facts give the state that permits least, never a panic.
//! 3. `paused`, `testing` and health are flags: they never change the state.
//! 4. What stops writers (a handover in doubt, a fence) hides nothing that is more urgent to a person, except an
//!    operation in progress, which blocks every command but `cancel`.

use super::names::words;

words!(
    /// A state of a group at one site.
    State ("state") {
        /// No target: nothing leaves the site.
        Unprotected = "unprotected",
        /// Source; the target has no whole image yet.
        InitialReplication = "initial-replication",
        /// Source; the target follows, or will by itself.
        Protected = "protected",
        /// Source; the target can't follow by itself: a command is needed.
        ResyncRequired = "resync-required",
        /// Source; a jump is being sent over the target's older image.
        Resyncing = "resyncing",
        /// Source; writers are refused until the outcome of a planned failover is heard.
        HandingOver = "handing-over",
        /// Was the source; the other site has decided: read-only.
        Fenced = "fenced",
        /// Both sites have decided without knowing of each other. Writable.
        SplitBrain = "split-brain",
        /// This site, or the peer, lacks history that it once had. A person decides.
        Rewound = "rewound",
        /// Writer after a failover that is not committed.
        FailedOver = "failed-over",
        /// Writer after a committed failover, without a target.
        Committed = "committed",
        /// Writer; the way back to the other site is being built.
        Reprotecting = "reprotecting",
        /// Target without an image.
        Receiving = "receiving",
        /// Target with a whole image that follows.
        Standby = "standby",
        /// Target with an older whole image while a newer one is being built.
        ResyncingTarget = "resyncing-target",
        /// Target with a failover begun and not decided.
        FailingOver = "failing-over",
        /// The peer has ended the protection.
        Orphaned = "orphaned",
    }
);

impl State {
    /// Whether the guest's writes are accepted in this state. A rewound writer that served already goes on; that
    /// is known to the open group only, and is no part of the state.
    pub fn writable(self) -> bool {
        match self {
            Self::Unprotected
            | Self::InitialReplication
            | Self::Protected
            | Self::ResyncRequired
            | Self::Resyncing
            | Self::SplitBrain
            | Self::FailedOver
            | Self::Committed
            | Self::Reprotecting => true,
            Self::HandingOver
            | Self::Fenced
            | Self::Rewound
            | Self::Receiving
            | Self::Standby
            | Self::ResyncingTarget
            | Self::FailingOver
            | Self::Orphaned => false,
        }
    }

    /// Whether the disks mirror a source elsewhere: opens for writing fail from the start.
    pub fn is_target(self) -> bool {
        matches!(
            self,
            Self::Receiving | Self::Standby | Self::ResyncingTarget | Self::FailingOver | Self::Orphaned
        )
    }

    /// Whether this site ships, or would ship, to the other.
    pub fn is_source(self) -> bool {
        matches!(
            self,
            Self::InitialReplication
                | Self::Protected
                | Self::ResyncRequired
                | Self::Resyncing
                | Self::HandingOver
                | Self::Reprotecting
        )
    }

    /// One sentence for a person.
    pub fn says(self) -> &'static str {
        match self {
            Self::Unprotected => "nothing leaves this site",
            Self::InitialReplication => {
                "the first copy to the target is under way; no failover is possible yet"
            }
            Self::Protected => "the target follows",
            Self::ResyncRequired => "the target can't follow by itself; write `resync`",
            Self::Resyncing => "what differs is being sent over the target's older image",
            Self::HandingOver => "writers wait until the target says how the planned failover ended",
            Self::Fenced => "the other site has taken over; the disks here are read-only",
            Self::SplitBrain => "both sites have taken over and both write; a person resolves it",
            Self::Rewound => "history that was known is missing at one site; a person decides",
            Self::FailedOver => "this site has taken over and the failover is not committed",
            Self::Committed => "the failover is committed and THIS VM IS NOT PROTECTED; write `reprotect`",
            Self::Reprotecting => "the way back to the other site is being built",
            Self::Receiving => "the first copy is arriving; there is no image yet",
            Self::Standby => "follows the source; read-only here",
            Self::ResyncingTarget => "a newer image is arriving; the older one stays whole until then",
            Self::FailingOver => "a failover has begun here and is not decided",
            Self::Orphaned => "the source has ended the protection; this copy no longer follows",
        }
    }
}

words!(
    /// What this site is in the protection of a group.
    Role ("role") {
        /// There is no protection.
        Alone = "alone",
        /// It writes and ships.
        Source = "source",
        /// It receives.
        Target = "target",
    }
);

words!(
    /// How a site came to be the writer.
    Writer ("writer") {
        /// It has been from the beginning, or a protection was built since.
        Original = "original",
        /// By a failover that is not committed.
        Taken = "taken",
        /// By a failover that was committed.
        Kept = "kept",
    }
);

/// A durable step of a group's history, as far as the state depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fact {
    /// This site began to protect the group: it is the source.
    ProtectBegun,
    /// This site became the target, without an image.
    TargetBegun,
    /// The whole image is at the target (at the target: its jump is published).
    ImagePublished,
    /// The target can't follow by itself.
    ResyncNeeded,
    /// A jump over an older whole image is under way.
    ResyncBegun,
    /// It was dropped; the older image stays.
    ResyncDropped,
    /// What the target lacks isn't kept as records any more: it gets what changed.
    BacklogCoalesced,
    /// A failover began here.
    FailoverIntent,
    /// It was cancelled before its decision.
    FailoverCancelled,
    /// The decision: an epoch row of kind failover, planned, change or force at this site.
    Decided,
    /// Writers are refused in favour of the peer's planned failover.
    Handover,
    /// The peer said that its failover is not active.
    HandoverEnded,
    /// The peer's decision was heard.
    Fenced,
    /// The peer took its decision back; this site goes on as the source (row rollback).
    Unfenced,
    /// This site's own decision was taken back: it is the target again.
    Withdrawn,
    /// The failover is committed.
    Committed,
    /// The way back began here.
    ReprotectBegun,
    /// It was cancelled.
    ReprotectCancelled,
    /// The fenced site became the target of the way back; its former image stays visible as seed.
    ReprotectTarget,
    /// Both sites decided in ignorance of each other.
    SplitBrain,
    /// One of the sites lacks history.
    Rewound,
    /// A split brain or a rewind is over; which site goes on is said by other steps.
    Reconciled,
    /// A decision that knows both lines ended a split brain or a rewind, in favour of this site.
    Resolved,
    /// The peer ended the protection, or migrated.
    PeerEnded,
    /// The peer deleted its copy.
    PeerCopyGone,
    /// The protection ended here.
    Unprotected,
    /// The migration was completed here: no way back, for ever.
    Migrated,
}

/// What a history amounts to. Made by [`Facts::apply`] over its lines, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Source, target or alone.
    pub role: Role,
    /// How this site came to write.
    pub writer: Writer,
    /// Whether a whole image is at the target.
    pub image: bool,
    /// Whether the target can't follow by itself.
    pub resync_needed: bool,
    /// Whether a jump is being built over an older image, or the way back is.
    pub jump_running: bool,
    /// Whether records that the target lacks may be gone: it gets what changed instead.
    pub coalesced: bool,
    /// Whether a failover began here and is not decided.
    pub intent: bool,
    /// Whether writers are refused for the peer's planned failover.
    pub handover: bool,
    /// Whether the peer's decision holds here.
    pub fenced: bool,
    /// Whether both sites decided.
    pub split_brain: bool,
    /// Whether history is missing at a site.
    pub rewound: bool,
    /// Whether the peer ended the protection.
    pub orphaned: bool,
    /// Whether the migration was completed.
    pub migrated: bool,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            role: Role::Alone,
            writer: Writer::Original,
            image: false,
            resync_needed: false,
            jump_running: false,
            coalesced: false,
            intent: false,
            handover: false,
            fenced: false,
            split_brain: false,
            rewound: false,
            orphaned: false,
            migrated: false,
        }
    }
}

impl Facts {
    /// The facts after these steps, oldest first.
    pub fn of(steps: impl IntoIterator<Item = Fact>) -> Self {
        let mut facts = Self::default();
        steps.into_iter().for_each(|fact| facts.apply(fact));
        facts
    }

    /// Takes one more durable step into account.
    pub fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::ProtectBegun => {
                *self = Self { role: Role::Source, migrated: self.migrated, ..Self::default() };
            }
            Fact::TargetBegun => *self = Self { role: Role::Target, ..Self::default() },
            Fact::ImagePublished => {
                self.image = true;
                self.jump_running = false;
                self.coalesced = false;
                self.resync_needed = false;
                self.fenced = false;
                self.rewound = false;
                self.writer = Writer::Original;
            }
            Fact::ResyncNeeded => self.resync_needed = true,
            Fact::ResyncBegun => self.jump_running = true,
            Fact::ResyncDropped => self.jump_running = false,
            Fact::BacklogCoalesced => self.coalesced = true,
            Fact::FailoverIntent => self.intent = true,
            Fact::FailoverCancelled => self.intent = false,
            Fact::Decided => {
                *self = Self {
                    role: Role::Source,
                    writer: Writer::Taken,
                    image: self.image,
                    orphaned: self.orphaned,
                    migrated: self.migrated,
                    ..Self::default()
                };
            }
            Fact::Handover => self.handover = true,
            Fact::HandoverEnded => self.handover = false,
            Fact::Fenced => {
                self.fenced = true;
                self.handover = false;
                self.split_brain = false;
                self.jump_running = false;
            }
            Fact::Unfenced => {
                self.fenced = false;
                self.handover = false;
                self.role = Role::Source;
            }
            Fact::Withdrawn => {
                // A copy that nobody feeds any more is that again.
                *self = Self {
                    role: Role::Target,
                    image: true,
                    orphaned: self.orphaned,
                    migrated: self.migrated,
                    ..Self::default()
                };
            }
            Fact::Committed => self.writer = Writer::Kept,
            Fact::ReprotectBegun => self.jump_running = true,
            Fact::ReprotectCancelled => self.jump_running = false,
            Fact::ReprotectTarget => {
                *self = Self {
                    role: Role::Target,
                    image: true,
                    jump_running: true,
                    migrated: self.migrated,
                    ..Self::default()
                };
            }
            Fact::SplitBrain => self.split_brain = true,
            Fact::Rewound => self.rewound = true,
            Fact::Resolved => {
                self.split_brain = false;
                self.rewound = false;
                self.role = Role::Source;
                self.writer = Writer::Taken;
                self.fenced = false;
            }
            Fact::Reconciled => {
                self.split_brain = false;
                self.rewound = false;
            }
            Fact::PeerEnded => self.orphaned = true,
            Fact::PeerCopyGone => {
                self.image = false;
                self.coalesced = false;
                self.resync_needed = true;
            }
            Fact::Unprotected => *self = Self { migrated: self.migrated, ..Self::default() },
            Fact::Migrated => *self = Self { migrated: true, ..Self::default() },
        }
    }

    /// The state. Invariants 1, 2 and 4.
    pub fn state(&self) -> State {
        if self.intent {
            return State::FailingOver;
        }
        if self.handover {
            return State::HandingOver;
        }
        if self.orphaned && (self.role == Role::Target || self.fenced) {
            return State::Orphaned;
        }
        // A split brain takes two writers. A target that is told of one lacks the history of its own decision.
        if self.rewound || (self.split_brain && self.role != Role::Source) {
            return State::Rewound;
        }
        if self.fenced {
            return State::Fenced;
        }
        if self.split_brain {
            return State::SplitBrain;
        }
        match self.role {
            Role::Alone => State::Unprotected,
            Role::Target if !self.image => State::Receiving,
            Role::Target if self.jump_running => State::ResyncingTarget,
            Role::Target => State::Standby,
            Role::Source => self.source_state(),
        }
    }

    fn source_state(&self) -> State {
        match self.writer {
            Writer::Taken => State::FailedOver,
            Writer::Kept if self.jump_running => State::Reprotecting,
            Writer::Kept => State::Committed,
            Writer::Original if self.resync_needed && self.jump_running => State::Resyncing,
            Writer::Original if self.resync_needed => State::ResyncRequired,
            Writer::Original if !self.image => State::InitialReplication,
            Writer::Original if self.jump_running || self.coalesced => State::Resyncing,
            Writer::Original => State::Protected,
        }
    }
}

/// What holds beside the state.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct Flags {
    /// Shipping is paused by a person.
    pub paused: bool,
    /// A test failover is open.
    pub testing: bool,
    /// The group writes after waiting in vain for its peer at the start.
    pub started_without_peer: bool,
    /// The peer has not acknowledged the fence.
    pub unfenced_peer: bool,
}

impl Flags {
    /// The words for those that are set, in a fixed order.
    pub fn words(self) -> Vec<&'static str> {
        [
            (self.paused, "paused"),
            (self.testing, "testing"),
            (self.started_without_peer, "started-without-peer"),
            (self.unfenced_peer, "unfenced-peer"),
        ]
        .into_iter()
        .filter_map(|(set, word)| set.then_some(word))
        .collect()
    }
}

#[cfg(test)]
mod tests;
