//! What must hold beside the state: checked in one order, the first that fails is named.
//!
//! 1. The order is that of [`ORDER`], whatever the command: the same trouble always has the same name.
//! 2. A fact that isn't known is no failure here; who gathers the facts says `peer-unreachable` instead.
//! 3. `check` shows every rule with its result before it is needed; both come from [`failing`].

use super::{Column, Refusal, Refused};

/// What a command is checked against. Whoever admits commands fills in what concerns the command; the default is
/// that nothing stands in the way. A place with text: what the message shall name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The VM is one of several in this group, and the command was given to the VM alone.
    pub member_of: Option<String>,
    /// The members have these different targets.
    pub mixed_targets: Option<String>,
    /// There is no moment of the kind that the command asks for; its kind.
    pub no_point: Option<String>,
    /// The moment named lies in this gap.
    pub gap: Option<(String, String)>,
    /// The time named is that of these two moments.
    pub ambiguous: Option<(String, String)>,
    /// The moment named isn't held.
    pub unknown_moment: Option<String>,
    /// This disk is open for writing.
    pub writer: Option<String>,
    /// This test is open, where the command would take its ground away.
    pub test: Option<String>,
    /// This peer doesn't answer.
    pub unreachable: Option<String>,
    /// This peer is not paired or not ready; the paired ones.
    pub unregistered: Option<(String, String)>,
    /// This peer isn't the one that the group was protected with.
    pub other_peer: Option<String>,
    /// The peer runs this job of the group.
    pub peer_job: Option<String>,
    /// These groups use the peer.
    pub peer_groups: Option<String>,
    /// These critical reasons stand in health.
    pub unhealthy: Option<String>,
    /// The site that lacks room, and how much.
    pub lacks_room: Option<(String, String)>,
    /// This disk has the identity of that one.
    pub duplicate: Option<(String, String)>,
    /// This name exists at that peer.
    pub name_taken: Option<(String, String)>,
    /// The records of the group are missing at this site.
    pub metadata_missing: Option<String>,
    /// This image was moved out of the tree.
    pub moved: Option<String>,
    /// This image was deleted.
    pub deleted: Option<String>,
    /// The peer that can't write its store, and why.
    pub peer_read_only: Option<(String, String)>,
    /// The store lies elsewhere than recorded.
    pub store_moved: Option<String>,
    /// This base image was replaced.
    pub base_replaced: Option<String>,
    /// This image of the target is an overlay or holds snapshots.
    pub foreign_snapshot: Option<String>,
    /// This disk differs in size, sector size or format.
    pub mismatch: Option<String>,
    /// The migration was completed.
    pub migrated: bool,
    /// What was expected on the line, and what is.
    pub unexpected: Option<(String, String)>,
    /// The VM has no disk.
    pub no_disk: Option<String>,
}

/// The order in which they are checked. `no-disk` comes first: without a disk nothing else has a meaning.
pub const ORDER: &[Refusal] = &[
    Refusal::NoDisk,
    Refusal::GroupMember,
    Refusal::MixedTargets,
    Refusal::NoRecoveryPoint,
    Refusal::MomentInGap,
    Refusal::AmbiguousTime,
    Refusal::PointNotFound,
    Refusal::WritersOpen,
    Refusal::TestActive,
    Refusal::PeerUnreachable,
    Refusal::PeerNotRegistered,
    Refusal::NotOriginalPeer,
    Refusal::PeerBusy,
    Refusal::PeerInUse,
    Refusal::HealthNotOk,
    Refusal::NoSpace,
    Refusal::DuplicateDisk,
    Refusal::NameTaken,
    Refusal::MetadataMissing,
    Refusal::Moved,
    Refusal::Deleted,
    Refusal::PeerReadOnly,
    Refusal::StoreMoved,
    Refusal::BaseReplaced,
    Refusal::ForeignSnapshot,
    Refusal::FormatMismatch,
    Refusal::Migrated,
    Refusal::ExpectationFailed,
];

/// The preconditions of a command, in their order.
pub fn of(column: Column) -> Vec<Refusal> {
    ORDER.iter().copied().filter(|refusal| concerns(*refusal, column)).collect()
}

fn concerns(refusal: Refusal, column: Column) -> bool {
    use Column as C;
    let any = |columns: &[Column]| columns.contains(&column);
    // Who takes over: with and without the other site's consent, and by another moment.
    let takes_over = any(&[C::Failover, C::Planned, C::Change]);
    // What is begun together with the peer.
    let with_peer = any(&[C::Protect, C::Resync, C::Planned, C::Reprotect]);
    match refusal {
        Refusal::NoDisk => any(&[C::Protect]),
        // A job is cancelled by its own name, whoever it belongs to.
        Refusal::GroupMember | Refusal::ExpectationFailed => column != C::Cancel,
        Refusal::MixedTargets => any(&[C::Protect, C::Reprotect]),
        Refusal::NoRecoveryPoint | Refusal::MomentInGap | Refusal::AmbiguousTime | Refusal::PointNotFound => {
            takes_over || column == C::Test
        }
        Refusal::WritersOpen => any(&[C::Change, C::Rollback, C::Reprotect, C::Resolve]),
        Refusal::TestActive => any(&[C::Unprotect, C::Reprotect, C::Rollback]),
        Refusal::PeerUnreachable
        | Refusal::PeerNotRegistered
        | Refusal::NotOriginalPeer
        | Refusal::PeerBusy
        | Refusal::PeerReadOnly => with_peer,
        // Of the verb `forget`, which has no column.
        Refusal::PeerInUse => false,
        Refusal::HealthNotOk => any(&[C::Planned]),
        Refusal::NoSpace => with_peer || column == C::Test,
        Refusal::DuplicateDisk | Refusal::NameTaken => any(&[C::Protect, C::Reprotect]),
        Refusal::MetadataMissing | Refusal::Moved | Refusal::Deleted | Refusal::BaseReplaced => {
            with_peer || takes_over
        }
        Refusal::StoreMoved => with_peer,
        Refusal::ForeignSnapshot | Refusal::FormatMismatch => any(&[C::Protect, C::Reprotect, C::Planned]),
        Refusal::Migrated => any(&[C::Reprotect, C::Planned]),
        _ => false,
    }
}

/// The first precondition of the command that fails.
pub fn first_failing(column: Column, facts: &Facts) -> Result<(), Refused> {
    of(column).into_iter().find_map(|refusal| failing(refusal, facts)).map_or(Ok(()), Err)
}

/// Every precondition of the command with its result, in order.
pub fn check(column: Column, facts: &Facts) -> Vec<(Refusal, Option<Refused>)> {
    of(column).into_iter().map(|refusal| (refusal, failing(refusal, facts))).collect()
}

/// Whether this one fails, and what there is to say.
pub fn failing(refusal: Refusal, facts: &Facts) -> Option<Refused> {
    let one = |place: &'static str, text: &Option<String>| text.as_ref().map(|t| refusal.with(place, t));
    let two = |first: &'static str, second: &'static str, both: &Option<(String, String)>| {
        both.as_ref().map(|(a, b)| refusal.with(first, a).with(second, b))
    };
    match refusal {
        Refusal::NoDisk => one("vm", &facts.no_disk),
        Refusal::GroupMember => one("group", &facts.member_of),
        Refusal::MixedTargets => one("targets", &facts.mixed_targets),
        Refusal::NoRecoveryPoint => one("kind", &facts.no_point),
        Refusal::MomentInGap => {
            facts.gap.as_ref().map(|(m, gap)| refusal.with("moment", m).with("gap", format!(": {gap}")))
        }
        Refusal::AmbiguousTime => facts
            .ambiguous
            .as_ref()
            .map(|(time, both)| refusal.with("time", time).with("moments", format!(": {both}"))),
        Refusal::PointNotFound => one("moment", &facts.unknown_moment),
        Refusal::WritersOpen => one("disk", &facts.writer),
        Refusal::TestActive => one("test", &facts.test),
        Refusal::PeerUnreachable => one("peer", &facts.unreachable),
        Refusal::PeerNotRegistered => two("peer", "paired", &facts.unregistered),
        Refusal::NotOriginalPeer => one("peer", &facts.other_peer),
        Refusal::PeerBusy => one("job", &facts.peer_job),
        Refusal::PeerInUse => one("groups", &facts.peer_groups),
        Refusal::HealthNotOk => one("reasons", &facts.unhealthy),
        Refusal::NoSpace => two("site", "bytes", &facts.lacks_room),
        Refusal::DuplicateDisk => two("disk", "other", &facts.duplicate),
        Refusal::NameTaken => two("name", "peer", &facts.name_taken),
        Refusal::MetadataMissing => one("site", &facts.metadata_missing),
        Refusal::Moved => one("disk", &facts.moved),
        Refusal::Deleted => one("disk", &facts.deleted),
        Refusal::PeerReadOnly => facts
            .peer_read_only
            .as_ref()
            .map(|(peer, why)| refusal.with("peer", peer).with("why", format!(": {why}"))),
        Refusal::StoreMoved => {
            facts.store_moved.as_ref().map(|home| refusal.with("home", format!(": {home}")))
        }
        Refusal::BaseReplaced => one("disk", &facts.base_replaced),
        Refusal::ForeignSnapshot => one("disk", &facts.foreign_snapshot),
        Refusal::FormatMismatch => one("disk", &facts.mismatch),
        Refusal::Migrated => facts.migrated.then(|| refusal.plain()),
        Refusal::ExpectationFailed => two("what", "is", &facts.unexpected),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_wrong() -> Facts {
        let one = || Some("x".to_owned());
        let two = || Some(("x".to_owned(), "y".to_owned()));
        Facts {
            member_of: one(),
            mixed_targets: one(),
            no_point: one(),
            gap: two(),
            ambiguous: two(),
            unknown_moment: one(),
            writer: one(),
            test: one(),
            unreachable: one(),
            unregistered: two(),
            other_peer: one(),
            peer_job: one(),
            peer_groups: one(),
            unhealthy: one(),
            lacks_room: two(),
            duplicate: two(),
            name_taken: two(),
            metadata_missing: one(),
            moved: one(),
            deleted: one(),
            peer_read_only: two(),
            store_moved: one(),
            base_replaced: one(),
            foreign_snapshot: one(),
            mismatch: one(),
            migrated: true,
            unexpected: two(),
            no_disk: one(),
        }
    }

    #[test]
    fn every_precondition_can_fail_and_none_fails_by_itself() {
        for &refusal in ORDER {
            let refused = failing(refusal, &all_wrong()).unwrap_or_else(|| panic!("{refusal} can't fail"));
            assert_eq!(refused.refusal, refusal);
            assert_eq!(failing(refusal, &Facts::default()), None, "{refusal}");
        }
        for &column in Column::ALL {
            assert_eq!(first_failing(column, &Facts::default()), Ok(()), "{column}");
            assert!(check(column, &all_wrong()).iter().all(|(_, result)| result.is_some()), "{column}");
        }
    }

    #[test]
    fn every_precondition_belongs_to_a_command() {
        for &refusal in ORDER.iter().filter(|r| **r != Refusal::PeerInUse) {
            assert!(Column::ALL.iter().any(|c| of(*c).contains(&refusal)), "{refusal}");
        }
    }

    /// Taken away one by one from the front, the next one is named: the order is kept.
    #[test]
    fn the_first_failing_is_named() {
        for &column in Column::ALL {
            let order = of(column);
            for (at, &refusal) in order.iter().enumerate() {
                let first = order[at..].iter().find_map(|r| failing(*r, &all_wrong())).unwrap();
                assert_eq!(first.refusal, refusal);
            }
            let first = first_failing(column, &all_wrong()).err().map(|r| r.refusal);
            assert_eq!(first, order.first().copied(), "{column}");
        }
        let both =
            Facts { writer: Some("a.raw".into()), lacks_room: all_wrong().lacks_room, ..Facts::default() };
        assert_eq!(first_failing(Column::Reprotect, &both).unwrap_err().refusal, Refusal::WritersOpen);
    }

    /// R190: with the peer gone, a failover needs nothing but this site's own store.
    #[test]
    fn a_failover_needs_no_peer() {
        let gone = Facts {
            unreachable: Some("london".into()),
            unhealthy: Some("peer-unreachable".into()),
            ..Facts::default()
        };
        for column in [Column::Failover, Column::Test, Column::Change, Column::Commit, Column::Rollback] {
            assert_eq!(first_failing(column, &gone), Ok(()), "{column}");
        }
        let refused = first_failing(Column::Planned, &gone).unwrap_err();
        assert!(refused.to_string().starts_with("peer-unreachable: london doesn't answer. "), "{refused}");
    }

    /// What the guides list as blocking: each is a precondition of that command or stands in the table.
    #[test]
    fn what_blocks_reprotect_and_forbids_failback() {
        use Refusal::*;
        let reprotect = of(Column::Reprotect);
        for refusal in [
            Migrated,
            Moved,
            Deleted,
            PeerUnreachable,
            NotOriginalPeer,
            PeerNotRegistered,
            ForeignSnapshot,
            DuplicateDisk,
            WritersOpen,
            GroupMember,
            MixedTargets,
            PeerReadOnly,
            BaseReplaced,
            MetadataMissing,
            ExpectationFailed,
        ] {
            assert!(reprotect.contains(&refusal), "{refusal}");
        }
        let failback = of(Column::Planned);
        for refusal in [
            Migrated,
            Moved,
            Deleted,
            HealthNotOk,
            NoRecoveryPoint,
            MetadataMissing,
            NotOriginalPeer,
            ForeignSnapshot,
            PeerUnreachable,
            PeerReadOnly,
            FormatMismatch,
            ExpectationFailed,
        ] {
            assert!(failback.contains(&refusal), "{refusal}");
        }
    }
}
