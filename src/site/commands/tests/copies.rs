//! While a newer image arrives over the one that is here.

use super::site::{at, byte, give, name, open, standby, state};
use crate::exchange::{DiskRange, Planned};
use crate::history::{ChainValue, DiskSize, JumpReason};
use crate::protection::{Refusal, State, Verb};
use crate::site::Vm;
use crate::vocab::{DiskOrdinal, Token};

/// The peer has let its backlog go and sends what changed.
fn begin_copy(vm: &Vm) {
    let group = vm.group().unwrap();
    let planned = Planned {
        copy: Token([4; 16]),
        reason: JumpReason::Backlog,
        onto_image: true,
        at: group.head(),
        chain: ChainValue::ZERO,
        set: [DiskRange { disk: DiskOrdinal(1), offset: 0, length: 4096 }].into_iter().collect(),
        disks: vec![DiskSize { disk: DiskOrdinal(1), size: 4096 }],
    };
    drop(group.begin_copy(&planned).unwrap());
}

#[test]
fn a_target_says_that_a_newer_image_arrives_and_names_no_latest() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (vm, moments) = standby(&site);
    begin_copy(&vm);
    assert_eq!((state(&vm), byte(&vm)), (State::ResyncingTarget, b'c'));
    assert_eq!(name(give(&site, &vm, Verb::Failover, "latest")), Refusal::ResyncUnfinished);
    assert_eq!(name(give(&site, &vm, Verb::Failover, "planned")), Refusal::ResyncUnfinished);
    drop(vm);
    site.close().unwrap();
    drop(site);

    // The connection is gone, and so was the daemon: what arrived stays, and so does what it means.
    let site = open(dir.path());
    let vm = site.vm("web01").unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::ResyncingTarget, b'c'));
    give(&site, &vm, Verb::Failover, &at(moments[2])).unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::FailedOver, b'c'));
    give(&site, &vm, Verb::Rollback, "confirm=web01").unwrap();
    vm.group().unwrap().drop_copy().unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::Standby, b'c'));
    site.close().unwrap();
}
