use super::*;
use std::collections::BTreeSet;

#[test]
fn every_refusal_has_a_message_and_a_remedy() {
    for refusal in Refusal::ALL {
        let entry = refusal.entry();
        assert!(refusal.plain().message().len() > 12, "{refusal}");
        assert!(entry.cause.ends_with('.'), "{refusal}");
        assert!(entry.remedy.ends_with('.'), "{refusal}");
        assert!(!entry.message.ends_with('.'), "{refusal}");
        assert_ne!(errno::name(entry.errno), "?", "{refusal}");
        for text in [entry.message, entry.remedy] {
            assert_eq!(text.matches('{').count(), text.matches('}').count(), "{refusal}");
        }
    }
}

#[test]
fn places_are_filled_or_say_something_general() {
    let bare = Refusal::WritersOpen.plain();
    assert_eq!(bare.message(), "a disk is open for writing");
    let full = Refusal::WritersOpen.with("disk", "web01/root.raw").with("by", " by QEMU");
    assert_eq!(
        full.to_string(),
        "writers-open: web01/root.raw is open for writing by QEMU. \
         Stop the VM, then give the command again."
    );
    // A value with braces is not looked into.
    assert_eq!(Refusal::NotFound.with("what", "{vm}").message(), "there is no {vm}");
    assert_eq!(
        Refusal::GroupMember.with("group", "g1").remedy(),
        "Give the command in `groups/g1/control/`."
    );
}

#[test]
fn errno_follows_the_kind_of_refusal() {
    let is = |refusal: Refusal| errno::name(refusal.errno());
    assert_eq!(is(Refusal::Invalid), "EINVAL");
    assert_eq!(is(Refusal::TooLong), "E2BIG");
    assert_eq!(is(Refusal::PointNotFound), "ENOENT");
    assert_eq!(is(Refusal::WritersOpen), "EBUSY");
    assert_eq!(is(Refusal::PeerUnreachable), "ENOTCONN");
    assert_eq!(is(Refusal::NoSpace), "ENOSPC");
    assert_eq!(is(Refusal::ExpectationFailed), "ESTALE");
    assert_eq!(is(Refusal::NotDurable), "EIO");
    assert_eq!(is(Refusal::WrongSite), "EPERM");
    for refusal in Refusal::ALL.iter().filter(|r| **r != Refusal::TooLong) {
        let error = Error::from(refusal.plain());
        assert_eq!((error.errno(), error.name()), (refusal.errno(), Some(refusal.name())));
        assert!(error.to_string().starts_with(&format!("{refusal}: ")), "{error}");
    }
}

#[test]
fn json_has_everything_that_a_script_needs() {
    let json = serde_json::to_value(Refusal::NoSpace.with("bytes", "4 GiB")).unwrap();
    assert_eq!(json["refusal"], "no-space");
    assert_eq!(json["message"], "the store lacks 4 GiB");
    assert_eq!(json["errno"], 28);
    assert_eq!(json["retry"], true);
}

/// Every refusal that a requirement names exists, under the name that holds.
#[test]
fn what_forbids_failback_and_blocks_reprotect_is_there() {
    let names: BTreeSet<&str> = Refusal::ALL.iter().map(|r| r.name()).collect();
    assert_eq!(names.len(), Refusal::ALL.len());
    for name in "migrated moved deleted not-protected resync-unfinished health-not-ok no-recovery-point \
                 metadata-missing not-original-peer foreign-snapshot peer-unreachable peer-read-only \
                 format-mismatch expectation-failed busy not-committed peer-not-registered duplicate-disk \
                 writers-open group-member mixed-targets base-replaced"
        .split_whitespace()
    {
        assert!(names.contains(name), "{name}");
    }
}
