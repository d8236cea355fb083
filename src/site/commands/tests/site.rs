//! Through a whole site, as a control file would.

use crate::format::{AddPayload, FileKind};
use crate::group::{Change, Gate, Op};
use crate::history::Event;
use crate::protection::report::Outcome;
use crate::protection::{Refusal, Refused, State, Verb};
use crate::site::commands::{Accepted, Caller, On};
use crate::site::store::Moved;
use crate::site::{Site, SiteOptions, Vm, points};
use crate::vocab::{DiskId, DiskOrdinal, Moment, StoreId, Token};
use std::path::Path;
use std::sync::Arc;

pub(super) const WHO: Caller = Caller { uid: 1000, gid: 100, pid: 4242 };

pub(super) fn open(dir: &Path) -> Arc<Site> {
    let options = SiteOptions {
        store: dir.join("store"),
        journal: None,
        moved: Moved::Unsaid,
        name: "london".into(),
        index_memory: 1 << 20,
    };
    Site::open(&options, Token([1; 16])).unwrap()
}

pub(super) fn write(vm: &Vm, byte: u8) -> Moment {
    let group = vm.group().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let data = [byte; 4096];
    let op = Op::Write { offset: 0, data: &data };
    group.submit(DiskOrdinal(1), op, true, Box::new(move |result| send.send(result).unwrap()));
    receive.recv().unwrap().unwrap();
    group.head()
}

pub(super) fn byte(vm: &Vm) -> u8 {
    let mut byte = [0xee];
    vm.group().unwrap().read_head(DiskOrdinal(1), 7, &mut byte).unwrap();
    byte[0]
}

/// A VM whose copy here follows a source; the moments of its writes.
pub(super) fn standby(site: &Site) -> (Arc<Vm>, Vec<Moment>) {
    let vm = site.create_vm("web01", false).unwrap();
    let group = vm.group().unwrap();
    let add = AddPayload {
        vm: vm.id(),
        vm_name: "web01".into(),
        single: false,
        file: DiskId([5; 16]),
        path: "a.raw".into(),
        kind: FileKind::File,
        size: 0,
    };
    group.change_with(|_| Ok(Change::Add(DiskOrdinal(1), add))).unwrap();
    let moments: Vec<Moment> = (b'a'..=b'c').map(|b| write(&vm, b)).collect();
    let (op, source, moment) = (Token([9; 16]), StoreId([8; 16]), group.head());
    group.note(Event::Target { op, source, seed: Some(moment) }).unwrap();
    group.note(Event::Protected { op, peer: source, moment }).unwrap();
    group.stand(Gate::Target);
    (vm, moments)
}

/// As a person names it.
pub(super) fn at(moment: Moment) -> String {
    format!("@{}-{}", moment.epoch, moment.seq)
}

pub(super) fn state(vm: &Vm) -> State {
    vm.known().unwrap().state()
}

pub(super) fn give(site: &Site, vm: &Arc<Vm>, verb: Verb, text: &str) -> Result<Accepted, Refused> {
    site.command(WHO, On::Vm(vm), verb, text.as_bytes(), None)
}

pub(super) fn name(result: Result<Accepted, Refused>) -> Refusal {
    match result {
        Ok(accepted) => panic!("accepted: {accepted:?}"),
        Err(refused) => refused.refusal,
    }
}

#[test]
fn the_loop_of_a_failover() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (vm, moments) = standby(&site);
    let first = at(moments[0]) + "\n";
    assert_eq!(name(give(&site, &vm, Verb::Commit, "commit")), Refusal::NotFailedOver);
    assert_eq!(name(give(&site, &vm, Verb::Failover, "latest-app-consistent")), Refusal::NoRecoveryPoint);
    assert_eq!(name(give(&site, &vm, Verb::Failover, "@seq-99999")), Refusal::PointNotFound);
    assert_eq!(
        name(give(&site, &vm, Verb::Failover, "latest expect-state=protected")),
        Refusal::ExpectationFailed
    );
    assert_eq!(name(give(&site, &vm, Verb::Protect, "to=paris")), Refusal::AlreadyProtected);
    assert_eq!(name(give(&site, &vm, Verb::Pair, "create")), Refusal::Invalid);
    let dry = give(&site, &vm, Verb::Failover, "latest dry-run=yes").unwrap();
    assert!(matches!(dry.outcome, Outcome::WouldDo { .. }) && state(&vm) == State::Standby);

    let taken = give(&site, &vm, Verb::Failover, "latest id=f1\n").unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::FailedOver, b'c'));
    assert!(site.care_of(&vm).unwrap().is_pinned() && site.is_protected(&vm));
    let set = points::load(site.store().catalog(), vm.group_id()).unwrap();
    let latest = set.in_order()[0].name();
    // The same id and text: the same answer, and nothing is done twice.
    assert_eq!(give(&site, &vm, Verb::Failover, "latest id=f1").unwrap(), taken);
    assert_eq!(
        name(give(&site, &vm, Verb::Failover, &format!("{} id=f1", first.trim()))),
        Refusal::CommandDiffers
    );
    assert_eq!(name(give(&site, &vm, Verb::Failover, "latest")), Refusal::AlreadyActive);

    write(&vm, b'x');
    let writer = Some("a.raw".to_owned());
    let busy = site.command(WHO, On::Vm(&vm), Verb::ChangeRecoveryPoint, first.as_bytes(), writer);
    assert_eq!(name(busy), Refusal::WritersOpen);
    give(&site, &vm, Verb::ChangeRecoveryPoint, &first).unwrap();
    assert_eq!(byte(&vm), b'a');
    give(&site, &vm, Verb::ChangeRecoveryPoint, &latest).unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::FailedOver, b'c'));

    assert_eq!(name(give(&site, &vm, Verb::Rollback, "rollback")), Refusal::ConfirmNeeded);
    give(&site, &vm, Verb::Rollback, "confirm=web01").unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::Standby, b'c'));
    assert_eq!(vm.group().unwrap().gate(), Gate::Target);
    drop(vm);
    site.close().unwrap();
    drop(site);

    let site = open(dir.path());
    let vm = site.vm("web01").unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::Standby, b'c'));
    assert_eq!(vm.group().unwrap().gate(), Gate::Target);
    assert_eq!(site.jobs().list().len(), 4, "two changes, one failover, one rollback");
    give(&site, &vm, Verb::Failover, &first).unwrap();
    give(&site, &vm, Verb::RecoveryPoint, "name=kept pin").unwrap();
    let job = give(&site, &vm, Verb::Commit, "confirm=web01").unwrap().job.unwrap();
    assert_eq!((state(&vm), byte(&vm)), (State::Committed, b'a'));
    assert_eq!(name(give(&site, &vm, Verb::Rollback, "confirm=web01")), Refusal::AlreadyCommitted);
    let set = points::load(site.store().catalog(), vm.group_id()).unwrap();
    assert_eq!(set.in_order().iter().filter_map(|p| p.label.clone()).collect::<Vec<_>>(), ["kept"]);
    let ended = |job: &crate::protection::job::Job| job.state.ended().then(|| job.outcome.clone());
    let wait = std::time::Duration::from_secs(20);
    assert!(site.jobs().wait(&job, wait, ended).unwrap().contains("freed"));
    let scrub = give(&site, &vm, Verb::Scrub, "scrub").unwrap().job.unwrap();
    assert!(site.jobs().wait(&scrub, wait, ended).unwrap().starts_with("blake3 "));
    let epoch = vm.group().unwrap().branches().unwrap()[0].last.epoch;
    let dropped =
        give(&site, &vm, Verb::Drop, &format!("branch={epoch} confirm=web01")).unwrap().job.unwrap();
    site.jobs().wait(&dropped, wait, ended).unwrap();
    assert_eq!(name(give(&site, &vm, Verb::Drop, "branch=00000000 confirm=web01")), Refusal::NotFound);
    give(&site, &vm, Verb::Unprotect, "unprotect").unwrap();
    assert_eq!(state(&vm), State::Unprotected);
    assert_eq!(write(&vm, b'z').epoch, vm.group().unwrap().head().epoch);
    assert_eq!(name(give(&site, &vm, Verb::Protect, "to=paris")), Refusal::PeerNotRegistered);
    let events = site.events().last(100).unwrap();
    assert!(events.iter().any(|e| e.uid == Some(1000) && e.text == "commit confirm=web01"));
    site.close().unwrap();
}

#[test]
fn a_window_is_kept_where_somebody_wrote_one() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let vm = site.create_vm("db", false).unwrap();
    assert_eq!(site.care_of(&vm).unwrap().window_ns, None);
    let refused = site.write_policy(WHO, &vm, "window: forever\n").unwrap_err();
    assert_eq!((refused.refusal, site.care_of(&vm).unwrap().window_ns), (Refusal::Invalid, None));
    site.write_policy(WHO, &vm, "window: 2h\n").unwrap();
    assert_eq!(site.care_of(&vm).unwrap().window_ns, Some(7_200_000_000_000));
    drop(vm);
    site.close().unwrap();
    drop(site);
    let site = open(dir.path());
    let vm = site.vm("db").unwrap();
    assert_eq!(site.care_of(&vm).unwrap().window_ns, Some(7_200_000_000_000));
    site.write_policy(WHO, &vm, "window: 0h\n").unwrap();
    assert_eq!(site.care_of(&vm).unwrap().window_ns, None);
    // A target's policy is changed where the VM is active; this site's own settings are not part of it.
    let (target, _) = standby(&site);
    let refused = site.write_policy(WHO, &target, "window: 2h\n").unwrap_err();
    assert_eq!(refused.refusal, Refusal::WrongSite);
    site.write_policy(WHO, &target, "allowance: 512MiB\n").unwrap();
    let refused = site.write_policy(WHO, &target, "rate: 10MiB/s\n").unwrap_err();
    assert_eq!(refused.refusal, Refusal::NotSupportedYet);
    site.close().unwrap();
}

#[test]
fn scheduled_points_are_made_and_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let (vm, _) = standby(&site);
    let (catalog, group) = (site.store().catalog(), vm.group().unwrap());
    let keep = |id: u8, window: u64, uncommitted: bool| {
        points::keep(catalog, &group, Some(1), window, uncommitted, Token([id; 16])).unwrap()
    };
    let count = || points::load(catalog, vm.group_id()).unwrap().in_order().len();
    // The keeper may have made the first one already.
    keep(1, u64::MAX, false);
    assert_eq!(count(), 1);
    assert!(!keep(2, u64::MAX, false), "nothing was written since");
    give(&site, &vm, Verb::Failover, "latest").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(3));
    write(&vm, b'n');
    assert!(keep(3, 1, true));
    let before = count();
    assert!(before >= 2, "nothing expires before the commit");
    assert!(keep(4, 1, false));
    assert_eq!(count(), 1, "of {before}, only the newest is in a window of 1 ns");
    site.close().unwrap();
}

/// Waits for a job and says what came of it.
pub(super) fn outcome(site: &Site, job: &str) -> String {
    let ended = |job: &crate::protection::job::Job| job.state.ended().then(|| job.outcome.clone());
    site.jobs().wait(job, std::time::Duration::from_secs(20), ended).unwrap()
}

#[test]
fn an_image_is_imported_with_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let site = open(dir.path());
    let image = dir.path().join("old.img");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 100_000], 5 << 20).unwrap();
    drop(file);
    let import = |text: &str| site.command(WHO, On::Site, Verb::Import, text.as_bytes(), None);
    let path = image.display();
    assert_eq!(name(import("import path=/nowhere/x vm=web")), Refusal::NotFound);
    let job = import(&format!("path={path} vm=web disk=a.raw")).unwrap().job.unwrap();
    assert!(outcome(&site, &job).starts_with("web/a.raw"), "{}", outcome(&site, &job));
    assert_eq!(name(import(&format!("path={path} vm=web disk=a.raw"))), Refusal::NameTaken);
    let vm = site.vm("web").unwrap();
    let group = vm.group().unwrap();
    let found =
        group.names_now(|names| names.find(vm.id(), "a.raw").map(|disk| (disk, names.files[&disk].size)));
    let (disk, size) = found.unwrap();
    assert_eq!((size, group.next_data(disk, 0, size).unwrap()), (64 << 20, Some(5 << 20)));
    let mut bytes = vec![0; 100_001];
    group.read_head(disk, 5 << 20, &mut bytes).unwrap();
    assert!(bytes[..100_000].iter().all(|b| *b == 7) && bytes[100_000] == 0);
    site.close().unwrap();
}
