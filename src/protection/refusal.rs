//! Refusals: every name by which a command can be refused, with what to say and what to do.
//!
//! 1. A name never changes its meaning: scripts branch on it.
//! 2. Every name has a message, a cause, a remedy, an errno, and says whether the same line may be repeated.
//! 3. `docs/refusals.md` is printed from the same entries.

mod entries;

use super::names::words;
use crate::vocab::{Error, Kind};
use std::fmt;

words!(
    /// The name of a refusal.
    Refusal ("refusal") {
        /// The VM is active here.
        AlreadyActive = "already-active",
        /// It is protected.
        AlreadyProtected = "already-protected",
        /// Another job runs.
        Busy = "busy",
        /// The failover is committed.
        AlreadyCommitted = "already-committed",
        /// The other site has taken over.
        Fenced = "fenced",
        /// The first copy is not whole.
        InitialReplicationUnfinished = "initial-replication-unfinished",
        /// There is no protection.
        NotProtected = "not-protected",
        /// The failover is not committed.
        NotCommitted = "not-committed",
        /// There was no failover.
        NotFailedOver = "not-failed-over",
        /// No job runs.
        NoJob = "no-job",
        /// There is one line only.
        NothingToResolve = "nothing-to-resolve",
        /// The peer ended the protection.
        Orphaned = "orphaned",
        /// The way back is not built.
        ReprotectFirst = "reprotect-first",
        /// A resync is under way.
        ResyncUnfinished = "resync-unfinished",
        /// History is missing.
        Rewound = "rewound",
        /// Both sites have decided.
        SplitBrain = "split-brain",
        /// Another verb does this.
        UseReprotect = "use-reprotect",
        /// To be typed at the other site.
        WrongSite = "wrong-site",
        /// Only through the group.
        GroupMember = "group-member",
        /// Members have different targets.
        MixedTargets = "mixed-targets",
        /// Nothing to go to.
        NoRecoveryPoint = "no-recovery-point",
        /// The moment doesn't exist here.
        MomentInGap = "moment-in-gap",
        /// The time names two moments.
        AmbiguousTime = "ambiguous-time",
        /// No such moment or point.
        PointNotFound = "point-not-found",
        /// Somebody writes.
        WritersOpen = "writers-open",
        /// A test is open.
        TestActive = "test-active",
        /// No connection.
        PeerUnreachable = "peer-unreachable",
        /// The peer is not paired, or not ready yet.
        PeerNotRegistered = "peer-not-registered",
        /// Another site than the one protected with.
        NotOriginalPeer = "not-original-peer",
        /// The peer runs a job of this group.
        PeerBusy = "peer-busy",
        /// Groups still use the peer.
        PeerInUse = "peer-in-use",
        /// A critical reason stands in health.
        HealthNotOk = "health-not-ok",
        /// No room.
        NoSpace = "no-space",
        /// Two disks with one identity.
        DuplicateDisk = "duplicate-disk",
        /// The name exists at the peer.
        NameTaken = "name-taken",
        /// The group's own records are missing.
        MetadataMissing = "metadata-missing",
        /// The image was moved away.
        Moved = "moved",
        /// The image was deleted.
        Deleted = "deleted",
        /// The peer's store can't be written.
        PeerReadOnly = "peer-read-only",
        /// The store's home changed.
        StoreMoved = "store-moved",
        /// Another process has the store open.
        StoreInUse = "store-in-use",
        /// The directory holds no store.
        NoStore = "no-store",
        /// The directory holds one already.
        StoreExists = "store-exists",
        /// The directory holds something else.
        NotEmpty = "not-empty",
        /// The filesystem lacks what a store needs.
        FilesystemUnfit = "filesystem-unfit",
        /// The store uses features that this version doesn't know.
        UnknownFeatures = "unknown-features",
        /// The journal directory isn't this store's.
        WrongJournal = "wrong-journal",
        /// A copied store with the original's journal directory.
        JournalNotCopied = "journal-not-copied",
        /// A base image was replaced beneath the daemon.
        BaseReplaced = "base-replaced",
        /// The target's image is an overlay or holds snapshots.
        ForeignSnapshot = "foreign-snapshot",
        /// Size, sector size or format differ.
        FormatMismatch = "format-mismatch",
        /// The migration was completed.
        Migrated = "migrated",
        /// An expectation on the line doesn't hold.
        ExpectationFailed = "expectation-failed",
        /// The VM has no disk.
        NoDisk = "no-disk",
        /// A later version brings it.
        NotSupportedYet = "not-supported-yet",
        /// The line makes no sense.
        Invalid = "invalid",
        /// The line is too long.
        TooLong = "too-long",
        /// The word `force` is missing.
        ForceNeeded = "force-needed",
        /// `confirm=` is missing or names another.
        ConfirmNeeded = "confirm-needed",
        /// The open file has taken another command, or the id another text.
        CommandDiffers = "command-differs",
        /// No such VM, group, branch, seed, clone, peer or job.
        NotFound = "not-found",
        /// A built-in policy.
        PolicyImmutable = "policy-immutable",
        /// A site paired with itself.
        SelfPairing = "self-pairing",
        /// No pairing token.
        TokenMalformed = "token-malformed",
        /// Older than five days.
        TokenExpired = "token-expired",
        /// Used by another site.
        TokenUsed = "token-used",
        /// Withdrawn.
        TokenRevoked = "token-revoked",
        /// Not one of the site that was dialled.
        TokenUnknown = "token-unknown",
        /// Its secret doesn't fit.
        TokenWrong = "token-wrong",
        /// The site that was dialled doesn't know this one.
        NotPaired = "not-paired",
        /// This site doesn't listen.
        NotListening = "not-listening",
        /// Two connections at once.
        DuplicateConnection = "duplicate-connection",
        /// A reason given by a peer under a name that isn't known here.
        PeerRefused = "peer-refused",
        /// The peer's version can't be spoken with.
        VersionMismatch = "version-mismatch",
        /// A copy or an old backup of the peer answers.
        IdentityConflict = "identity-conflict",
        /// Bytes of this group are damaged.
        Damaged = "damaged",
        /// The command couldn't be made durable.
        NotDurable = "not-durable",
    }
);

/// What stands behind a name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The errno with which the write fails.
    pub errno: i32,
    /// Whether the same line may be accepted later without anything typed in between.
    pub retry: bool,
    /// One line, with places `{name|what stands there if nothing is given}`.
    pub message: &'static str,
    /// What leads to it.
    pub cause: &'static str,
    /// What to do: one sentence.
    pub remedy: &'static str,
}

impl Refusal {
    /// The code in the table of states, for those that stand there.
    pub fn code(self) -> Option<&'static str> {
        Some(match self {
            Self::AlreadyActive => "aa",
            Self::AlreadyProtected => "ap",
            Self::Busy => "bz",
            Self::AlreadyCommitted => "cm",
            Self::Fenced => "fe",
            Self::InitialReplicationUnfinished => "ir",
            Self::NotProtected => "na",
            Self::NotCommitted => "nc",
            Self::NotFailedOver => "nf",
            Self::NoJob => "nj",
            Self::NothingToResolve => "nx",
            Self::Orphaned => "or",
            Self::ReprotectFirst => "rf",
            Self::ResyncUnfinished => "ru",
            Self::Rewound => "rw",
            Self::SplitBrain => "sb",
            Self::UseReprotect => "ur",
            Self::WrongSite => "ws",
            _ => return None,
        })
    }

    /// The errno with which the write fails.
    pub fn errno(self) -> i32 {
        self.entry().errno
    }

    /// This refusal, with nothing filled in.
    pub fn plain(self) -> Refused {
        Refused { refusal: self, args: Vec::new(), words: None }
    }

    /// This refusal with a value for one place of its message.
    pub fn with(self, place: &'static str, value: impl fmt::Display) -> Refused {
        self.plain().with(place, value)
    }
}

/// A refusal with what it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// By which name.
    pub refusal: Refusal,
    args: Vec<(&'static str, String)>,
    words: Option<Box<(String, Option<String>)>>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        refusal.plain()
    }
}

impl Refused {
    /// Gives the value for a place of the message; one that the message lacks is ignored.
    #[must_use]
    pub fn with(mut self, place: &'static str, value: impl fmt::Display) -> Self {
        self.args.push((place, value.to_string()));
        self
    }

    /// What is said instead of the refusal's own message, and of its remedy: whoever refused knows better.
    #[must_use]
    pub fn said(mut self, message: impl Into<String>, remedy: Option<&str>) -> Self {
        self.words = Some(Box::new((message.into(), remedy.map(str::to_owned))));
        self
    }

    /// The message, without name and remedy.
    pub fn message(&self) -> String {
        match &self.words {
            Some(words) => words.0.clone(),
            None => self.fill(self.refusal.entry().message),
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self.words.as_ref().and_then(|words| words.1.as_ref()) {
            Some(remedy) => remedy.clone(),
            None => self.fill(self.refusal.entry().remedy),
        }
    }

    /// The errno with which the write fails.
    pub fn errno(&self) -> i32 {
        self.refusal.errno()
    }

    fn fill(&self, template: &str) -> String {
        let mut out = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let (place, after) = after.split_once('}').unwrap_or((after, ""));
            let (name, default) = place.split_once('|').unwrap_or((place, "?"));
            let given = self.args.iter().rev().find(|(key, _)| *key == name);
            out.push_str(given.map_or(default, |(_, value)| value));
            rest = after;
        }
        out.push_str(rest);
        out
    }
}

impl fmt::Display for Refused {
    /// `name: message. Remedy.`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. {}", self.refusal, self.message(), self.remedy())
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let kind = match refused.errno() {
            errno::EBUSY => Kind::Busy,
            errno::EINVAL | errno::E2BIG => Kind::Invalid,
            errno::EIO => Kind::Damaged,
            errno::ENOENT => Kind::NotFound,
            errno::ENOSPC => Kind::NoSpace,
            errno::ENOTCONN => Kind::Unreachable,
            errno::ESTALE => Kind::Stale,
            _ => Kind::Refused,
        };
        Self::new(kind, refused.message()).named(refused.refusal.name()).advice(refused.remedy())
    }
}

impl serde::Serialize for Refused {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = s.serialize_struct("Refused", 5)?;
        out.serialize_field("refusal", &self.refusal)?;
        out.serialize_field("message", &self.message())?;
        out.serialize_field("remedy", &self.remedy())?;
        out.serialize_field("errno", &self.errno())?;
        out.serialize_field("retry", &self.refusal.entry().retry)?;
        out.end()
    }
}

/// Linux's numbers; this layer doesn't use libc.
pub(crate) mod errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const E2BIG: i32 = 7;
    pub const EBUSY: i32 = 16;
    pub const EINVAL: i32 = 22;
    pub const ENOSPC: i32 = 28;
    pub const ENOTCONN: i32 = 107;
    pub const ESTALE: i32 = 116;

    /// The name of one of these numbers.
    pub fn name(number: i32) -> &'static str {
        match number {
            EPERM => "EPERM",
            ENOENT => "ENOENT",
            EIO => "EIO",
            E2BIG => "E2BIG",
            EBUSY => "EBUSY",
            EINVAL => "EINVAL",
            ENOSPC => "ENOSPC",
            ENOTCONN => "ENOTCONN",
            ESTALE => "ESTALE",
            _ => "?",
        }
    }
}

/// The page `docs/refusals.md`.
pub fn page() -> String {
    let mut out = String::from(
        "# Refusals\n\n\
         Printed from the code. To write it anew: `STANDBYFS_REGENERATE=1 cargo test --test all pages`.\n\n\
         A refused command changes nothing. The write to the control file fails with the errno below; reading the \
         file on the same handle, `events` and `standbyctl` give the name, a message and what to do. *Retry: yes* \
         means that the same line can be accepted later without any other command.\n",
    );
    for refusal in Refusal::ALL {
        let entry = refusal.entry();
        let retry = if entry.retry { "yes" } else { "no" };
        out.push_str(&format!(
            "\n## {refusal}\n\n- Message: {}.\n- Cause: {}\n- Remedy: {}\n- Errno: {}. Retry: {retry}.\n",
            refusal.plain().message(),
            entry.cause,
            refusal.plain().remedy(),
            errno::name(entry.errno),
        ));
    }
    out
}

#[cfg(test)]
mod tests;
