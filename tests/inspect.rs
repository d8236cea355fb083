//! `inspect` and `export` on a store that a group was made in: whole, and with a byte flipped.

use standbyfs::format::{AddPayload, FileKind};
use standbyfs::group::{Change, Group, GroupParts, Op};
use standbyfs::index::CacheBudget;
use standbyfs::seam::{SystemClock, SystemEntropy};
use standbyfs::site::export::{ExportOptions, Exported, export};
use standbyfs::site::inspect::{InspectOptions, Report, inspect};
use standbyfs::site::objects::{GroupObject, VmObject};
use standbyfs::site::store::Store;
use standbyfs::vocab::{DiskId, DiskOrdinal, GroupId, Result, VmId};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const GROUP: GroupId = GroupId([7; 16]);
const VM: VmId = VmId([8; 16]);
const DISK: DiskOrdinal = DiskOrdinal(1);
const SIZE: usize = 300_000;
/// Seed of the store that is checked in.
pub const GOLDEN: u64 = 77;

/// A store with one VM of one disk, and what the disk had after each record.
pub struct World {
    dir: tempfile::TempDir,
    /// Seq and image, from the first write on.
    moments: Vec<(u64, Vec<u8>)>,
    /// Seq below which the base has gone.
    edge: u64,
}

fn submit(group: &Group, op: Op<'_>) -> Result<()> {
    let (send, receive) = std::sync::mpsc::channel();
    group.submit(DISK, op, false, Box::new(move |r| send.send(r).unwrap()));
    receive.recv().unwrap()
}

fn parts(store: &Store) -> GroupParts {
    GroupParts {
        store: store.storage(),
        journal: store.journal(),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        store_id: store.id(),
        boot: [1; 16],
        cache: CacheBudget::new(1 << 20),
        segment_bytes: (256 << 10, 256 << 10),
        rooms: store.rooms().clone(),
    }
}

impl World {
    /// `close`: in order, else as after a kill. `round`: the base follows half-way.
    pub fn new(seed: u64, close: bool, round: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = Store::create(&path, None, "paris", &SystemClock, &SystemEntropy).unwrap();
        let object =
            GroupObject { id: GROUP, name: None, vms: vec![VM], peer: None, role_hint: None, policy: None };
        let vm =
            VmObject { id: VM, name: "web01".into(), single: false, group: GROUP, created: 1, made_by: None };
        store.catalog().put(&object).unwrap();
        store.catalog().put(&vm).unwrap();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = Self { dir, moments: Vec::new(), edge: 0 };
        let mut image = vec![0; SIZE];
        for opening in 0..2 {
            let group = if opening == 0 {
                Group::create(parts(&store), GROUP).unwrap()
            } else {
                Group::open(parts(&store), GROUP).unwrap().0
            };
            if opening == 0 {
                add(&group, DiskOrdinal(2), "nvram", FileKind::Directory);
                add(&group, DISK, "nvram/disk.raw", FileKind::File);
                submit(&group, Op::Resize { size: SIZE as u64 }).unwrap();
            }
            for n in 0..30 {
                let len = [512, 4096, 4096, 9000, 30_000][rng.usize(..5)];
                let at = rng.usize(..SIZE - len);
                if rng.u8(..6) == 0 {
                    submit(&group, Op::Discard { offset: at as u64, length: len as u64 }).unwrap();
                    image[at..at + len].fill(0);
                } else {
                    // The one that is checked in must be small.
                    let period = if seed == GOLDEN { 7 } else { len };
                    let some: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(period).collect();
                    let bytes: Vec<u8> = some.iter().copied().cycle().take(len).collect();
                    submit(&group, Op::Write { offset: at as u64, data: &bytes }).unwrap();
                    image[at..at + len].copy_from_slice(&bytes);
                }
                world.moments.push((group.head().seq.0, image.clone()));
                if n == 15 {
                    group.checkpoint().unwrap();
                    if round {
                        world.edge = group.head().seq.0;
                        group.round(None).unwrap();
                    }
                }
            }
            if opening == 0 || close { group.close().unwrap() } else { drop(group) }
        }
        world
    }

    /// Without a store.
    pub fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), moments: Vec::new(), edge: 0 }
    }

    /// The directory that the store is in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn moments(&self) -> &[(u64, Vec<u8>)] {
        &self.moments
    }

    pub fn edge(&self) -> u64 {
        self.edge
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn inspect(&self) -> Report {
        let options = InspectOptions { store: self.store(), journal: None, verify: true };
        inspect(&options, &SystemEntropy).unwrap()
    }

    pub fn export(&self, moment: &str) -> Result<(Exported, Vec<u8>)> {
        let to = tempfile::tempdir().unwrap();
        let options = ExportOptions {
            store: self.store(),
            journal: None,
            vm: "web01".into(),
            moment: moment.into(),
            to: to.path().join("out"),
            damaged: false,
        };
        let done = export(&options, &SystemEntropy);
        if done.is_err() && to.path().join("out").exists() {
            assert_eq!(
                fs::read_dir(to.path().join("out")).unwrap().count(),
                0,
                "a failed export leaves nothing"
            );
        }
        done.map(|done| (done, fs::read(to.path().join("out/nvram/disk.raw")).unwrap()))
    }

    fn newest(&self) -> &Vec<u8> {
        &self.moments.last().unwrap().1
    }

    /// Content of every file of the store.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut out = Vec::new();
        walk(&self.store(), &mut out);
        out
    }
}

fn add(group: &Group, disk: DiskOrdinal, path: &str, kind: FileKind) {
    let add = AddPayload {
        vm: VM,
        vm_name: "web01".into(),
        single: false,
        file: DiskId([disk.0 as u8; 16]),
        path: path.into(),
        kind,
        size: 0,
    };
    group.change(&Change::Add(disk, add)).unwrap();
}

fn walk(dir: &Path, out: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, out) } else { out.push((path.clone(), fs::read(&path).unwrap())) }
    }
    out.sort();
}

pub fn flip(path: &Path, offset: u64, mask: u8) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ mask], offset).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_whole_store_has_no_damage_and_nothing_is_written() {
    for (close, round) in [(true, true), (false, true), (false, false)] {
        let world = World::new(1, close, round);
        let before = world.files();
        let report = world.inspect();
        assert_eq!(report.damage, [], "closed {close}, round {round}");
        let group = &report.groups[0];
        assert_eq!(group.head.unwrap().seq.0, world.moments.last().unwrap().0);
        assert_eq!(group.epochs.len(), 2);
        assert!(group.segments.iter().any(|s| s.batches > 0 && s.payload_bytes > 0));
        let chain = report.proofs.iter().find(|p| p.about.ends_with("history")).unwrap();
        assert!(chain.says.contains("agree") && !chain.says.contains(" 0 values"), "{}", chain.says);
        assert!(report.proofs.iter().any(|p| p.says.contains("only a scrub")) == round);
        for (seq, image) in world.moments.iter().rev().step_by(7) {
            match world.export(&format!("@seq-{seq}")) {
                Ok((_, bytes)) => assert!(bytes == *image, "moment {seq}, closed {close}, round {round}"),
                Err(e) => assert!(*seq < world.edge, "moment {seq}: {e}"),
            }
        }
        let (done, bytes) = world.export("latest").unwrap();
        assert!(bytes == *world.newest());
        assert_eq!(done.moment, group.head.unwrap());
        assert!(world.files() == before, "inspect and export write nothing");
    }
}

#[test]
fn moments_are_found_by_epoch_and_by_time() {
    let world = World::new(2, true, false);
    let report = world.inspect();
    let first = &report.groups[0].epochs.iter().find(|e| e.parent.is_none()).unwrap().epoch;
    let (seq, image) = &world.moments[10];
    let (_, bytes) = world.export(&format!("@{}-{seq}", first.short())).unwrap();
    assert!(bytes == *image);
    let late = world.export("@2100-01-01T00:00:00Z").unwrap_err();
    assert!(late.to_string().contains("earlier than this time. Name it: `latest`"), "{late}");
    let early = world.export("@2001-01-01T00:00:00Z").unwrap_err();
    assert!(early.to_string().contains("later than this time"), "{early}");
    let far = world.export("@seq-100000").unwrap_err();
    assert!(far.to_string().contains("no moment"), "{far}");
}

#[test]
fn a_directory_that_holds_something_is_refused() {
    let world = World::new(3, true, false);
    let to = tempfile::tempdir().unwrap();
    fs::write(to.path().join("x"), "mine").unwrap();
    let options = ExportOptions {
        store: world.store(),
        vm: "web01".into(),
        moment: "latest".into(),
        to: to.path().into(),
        ..ExportOptions::default()
    };
    let error = export(&options, &SystemEntropy).unwrap_err();
    assert_eq!(error.name(), Some("not-empty"));
    assert_eq!(fs::read(to.path().join("x")).unwrap(), b"mine");
}

/// Where a byte counts: for each kind of file the part that something was written to.
fn pieces(world: &World, report: &Report) -> Vec<(PathBuf, u64, u64)> {
    let mut out = Vec::new();
    for (path, content) in world.files() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let length = content.len() as u64;
        let piece = if let Some(s) = report.groups[0].segments.iter().find(|s| s.file == name) {
            // Behind what was durable a bad batch is a torn tail, and no damage.
            let durable = report.groups[0].checkpoint.as_ref().unwrap().1.logs[0].durable;
            (s.state == "live").then(|| (0, s.end.min(durable).0 - s.start.0))
        } else if name == "history" {
            Some((0, content.iter().position(|b| *b == 0).unwrap() as u64))
        } else if name == "checkpoint" {
            let slot = 2 << 20;
            let body = |at: usize| u32::from_le_bytes(content[at + 12..at + 16].try_into().unwrap());
            out.push((path.clone(), slot as u64, slot as u64 + 24 + u64::from(body(slot))));
            Some((0, 24 + u64::from(body(0))))
        } else if name.ends_with(".json") || name.starts_with("run") || name.starts_with("ranges-") {
            Some((0, length))
        } else {
            None // base images, lock, key, events
        };
        out.extend(piece.filter(|(from, to)| from < to).map(|(from, to)| (path, from, to)));
    }
    out
}

/// Every flipped byte of log, index, checkpoint, history and catalog is reported with its file, and no export shows
/// other bytes than were there.
#[test]
fn a_flipped_byte_is_reported_and_never_exported() {
    let budget = if std::env::var("STANDBYFS_BUDGET").as_deref() == Ok("full") { 60 } else { 4 };
    let mut kinds = std::collections::BTreeSet::new();
    let mut ranges = 0;
    for seed in 0..2 {
        let world = World::new(10 + seed, seed == 0, true);
        let pieces = pieces(&world, &world.inspect());
        let mut rng = fastrand::Rng::with_seed(seed);
        for (path, from, to) in pieces {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            for _ in 0..budget {
                // A letter of a checksum in the other case is the same checksum: not 0x20.
                let (offset, mask) = (rng.u64(from..to), [1, 0x80, 0x11][rng.usize(..3)]);
                let hint = format!("seed {seed}: {} at {offset} ^ {mask:#x}", path.display());
                flip(&path, offset, mask);
                let options = InspectOptions { store: world.store(), journal: None, verify: true };
                match inspect(&options, &SystemEntropy) {
                    Ok(report) => {
                        let here = |d: &&standbyfs::site::inspect::Damage| d.path.ends_with(&name);
                        let found = report.damage.iter().find(here);
                        let found = found.unwrap_or_else(|| panic!("{hint}: {:?}", report.damage));
                        assert!(found.offset.is_none_or(|at| at <= offset), "{hint}: {found:?}");
                        assert!(found.offset.is_some(), "{hint}: {found:?}");
                    }
                    Err(e) => panic!("{hint}: {e}"),
                }
                for moment in ["latest".to_owned(), format!("@seq-{}", world.moments[40].0)] {
                    let right = if moment == "latest" { world.newest() } else { &world.moments[40].1 };
                    if let Ok((_, bytes)) = world.export(&moment) {
                        assert!(bytes == *right, "{hint}: wrong bytes at {moment}");
                    }
                }
                flip(&path, offset, mask);
                ranges += u32::from(name.starts_with("ranges-"));
                kinds.insert(path.extension().map(|e| e.to_owned()));
            }
        }
        assert_eq!(world.inspect().damage, [], "flipped back, seed {seed}");
    }
    assert!(kinds.len() >= 3 && ranges > 0, "{kinds:?}, {ranges} in range logs");
}
