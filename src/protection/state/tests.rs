use super::*;

fn after(steps: &[Fact]) -> State {
    Facts::of(steps.iter().copied()).state()
}

/// The whole loop, as each site sees it.
#[test]
fn the_loop_of_both_sites() {
    use Fact::*;
    assert_eq!(after(&[]), State::Unprotected);
    let mut a = Facts::of([ProtectBegun]);
    let mut b = Facts::of([TargetBegun]);
    assert_eq!((a.state(), b.state()), (State::InitialReplication, State::Receiving));
    a.apply(ImagePublished);
    b.apply(ImagePublished);
    assert_eq!((a.state(), b.state()), (State::Protected, State::Standby));
    b.apply(FailoverIntent);
    a.apply(Handover);
    assert_eq!((a.state(), b.state()), (State::HandingOver, State::FailingOver));
    b.apply(Decided);
    a.apply(Fenced);
    assert_eq!((a.state(), b.state()), (State::Fenced, State::FailedOver));
    b.apply(Committed);
    assert_eq!(b.state(), State::Committed);
    b.apply(ReprotectBegun);
    a.apply(ReprotectTarget);
    assert_eq!((a.state(), b.state()), (State::ResyncingTarget, State::Reprotecting));
    a.apply(ImagePublished);
    b.apply(ImagePublished);
    assert_eq!((a.state(), b.state()), (State::Standby, State::Protected));
}

#[test]
fn a_cancelled_step_leads_back_to_where_it_began() {
    use Fact::*;
    let standby = [TargetBegun, ImagePublished];
    assert_eq!(after(&[&standby[..], &[FailoverIntent, FailoverCancelled]].concat()), State::Standby);
    let source = [ProtectBegun, ImagePublished];
    assert_eq!(after(&[&source[..], &[Handover, HandoverEnded]].concat()), State::Protected);
    assert_eq!(after(&[&source[..], &[ResyncNeeded]].concat()), State::ResyncRequired);
    assert_eq!(after(&[&source[..], &[ResyncNeeded, ResyncBegun]].concat()), State::Resyncing);
    assert_eq!(
        after(&[&source[..], &[ResyncNeeded, ResyncBegun, ResyncDropped]].concat()),
        State::ResyncRequired
    );
    assert_eq!(after(&[&source[..], &[Fenced, Unfenced]].concat()), State::Protected);
    assert_eq!(after(&[&standby[..], &[FailoverIntent, Decided, Withdrawn]].concat()), State::Standby);
    assert_eq!(
        after(&[&standby[..], &[Decided, Committed, ReprotectBegun, ReprotectCancelled]].concat()),
        State::Committed
    );
}

#[test]
fn quarrels_and_ends() {
    use Fact::*;
    let standby = [TargetBegun, ImagePublished];
    assert_eq!(after(&[&standby[..], &[Decided, SplitBrain]].concat()), State::SplitBrain);
    assert_eq!(after(&[&standby[..], &[Decided, SplitBrain, Resolved]].concat()), State::FailedOver);
    assert_eq!(after(&[&standby[..], &[Decided, SplitBrain, Fenced]].concat()), State::Fenced);
    assert_eq!(after(&[&standby[..], &[Rewound]].concat()), State::Rewound);
    assert_eq!(after(&[&standby[..], &[Rewound, Decided]].concat()), State::FailedOver);
    assert_eq!(after(&[&standby[..], &[PeerEnded]].concat()), State::Orphaned);
    assert_eq!(after(&[&standby[..], &[PeerEnded, FailoverIntent]].concat()), State::FailingOver);
    assert_eq!(after(&[ProtectBegun, ImagePublished, PeerCopyGone]), State::ResyncRequired);
    assert_eq!(after(&[ProtectBegun, BacklogCoalesced]), State::InitialReplication);
    assert_eq!(after(&[ProtectBegun, ImagePublished, BacklogCoalesced]), State::Resyncing);
    assert_eq!(after(&[ProtectBegun, ImagePublished, BacklogCoalesced, ImagePublished]), State::Protected);
    assert_eq!(after(&[&standby[..], &[Decided, Committed, BacklogCoalesced]].concat()), State::Committed);
    assert_eq!(after(&[ProtectBegun, ImagePublished, Unprotected]), State::Unprotected);
    let migrated = Facts::of([&standby[..], &[Decided, Committed, Migrated]].concat());
    assert_eq!(migrated.state(), State::Unprotected);
    assert!(migrated.migrated, "there is no way back after a completed migration");
    assert!(Facts::of([Migrated, ProtectBegun]).migrated);
}

const EVERY_FACT: &[Fact] = &[
    Fact::ProtectBegun,
    Fact::TargetBegun,
    Fact::ImagePublished,
    Fact::ResyncNeeded,
    Fact::ResyncBegun,
    Fact::ResyncDropped,
    Fact::BacklogCoalesced,
    Fact::FailoverIntent,
    Fact::FailoverCancelled,
    Fact::Decided,
    Fact::Handover,
    Fact::HandoverEnded,
    Fact::Fenced,
    Fact::Unfenced,
    Fact::Withdrawn,
    Fact::Committed,
    Fact::ReprotectBegun,
    Fact::ReprotectCancelled,
    Fact::ReprotectTarget,
    Fact::SplitBrain,
    Fact::Rewound,
    Fact::Reconciled,
    Fact::Resolved,
    Fact::PeerEnded,
    Fact::PeerCopyGone,
    Fact::Unprotected,
    Fact::Migrated,
];

/// Whatever the history: a site that handed over or heard a decision never writes, until a step of its own or of
/// the peer ends that; and every state is reached.
#[test]
fn random_histories_never_write_behind_a_fence() {
    let mut reached = std::collections::BTreeSet::new();
    for seed in crate::protection::seeds(2000, 1_000_000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut facts = Facts::default();
        let mut frozen = false;
        for _ in 0..20 {
            let fact = EVERY_FACT[rng.usize(..EVERY_FACT.len())];
            facts.apply(fact);
            match fact {
                Fact::Handover | Fact::Fenced => frozen = true,
                // After these the site writes by a decision of its own, or follows as a target, or is on its own.
                Fact::Decided
                | Fact::Resolved
                | Fact::Unfenced
                | Fact::HandoverEnded
                | Fact::Withdrawn
                | Fact::Unprotected
                | Fact::Migrated
                | Fact::ProtectBegun
                | Fact::TargetBegun
                | Fact::ReprotectTarget
                | Fact::ImagePublished => frozen = false,
                _ => {}
            }
            reached.insert(facts.state());
            assert!(!(frozen && facts.state().writable()), "seed {seed}: {fact:?} in {facts:?}");
        }
    }
    assert_eq!(reached.len(), State::ALL.len(), "{reached:?}");
}

#[test]
fn every_state_has_one_name_and_one_sentence() {
    for &state in State::ALL {
        assert_eq!(state.name().parse(), Ok(state));
        assert!(!state.says().is_empty());
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
        assert!(!(state.writable() && state.is_target()), "{state}");
    }
    let error = "asleep".parse::<State>().unwrap_err().to_string();
    assert!(error.starts_with("`asleep` is no state: one of unprotected, "), "{error}");
}

#[test]
fn flags_are_words() {
    assert!(Flags::default().words().is_empty());
    let flags = Flags { paused: true, unfenced_peer: true, ..Flags::default() };
    assert_eq!(flags.words(), ["paused", "unfenced-peer"]);
}
