//! Stores of every format version that was ever written, checked in: `inspect` finds them whole, `export` finds the
//! bytes that were in them. A change of format adds a store; it never changes one.
//!
//! `STANDBYFS_MAKE_GOLDEN=v1 cargo test --test all golden` makes one.

use super::inspect::{GOLDEN, World};
use standbyfs::seam::SystemEntropy;
use standbyfs::site::inspect::{InspectOptions, inspect};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn golden(name: &str) -> PathBuf {
    Path::new("tests/golden").join(name)
}

/// Seq of a moment and BLAKE3 of the disk at it.
type Hashes = BTreeMap<u64, String>;

fn make(version: &str) {
    let world = World::new(GOLDEN, true, true);
    let tar = Command::new("tar")
        .args(["--sparse", "--exclude=key.pem", "--owner=0", "--group=0", "-cf", "-", "-C"])
        .arg(world.dir())
        .arg("store")
        .output()
        .unwrap();
    assert!(tar.status.success());
    std::fs::write(golden(&format!("{version}.tar.zst")), zstd::encode_all(&tar.stdout[..], 19).unwrap())
        .unwrap();
    let held = world.moments().iter().filter(|(seq, _)| *seq >= world.edge());
    let hashes: Hashes =
        held.step_by(3).map(|(seq, image)| (*seq, blake3::hash(image).to_hex().to_string())).collect();
    std::fs::write(golden(&format!("{version}.json")), serde_json::to_string_pretty(&hashes).unwrap())
        .unwrap();
}

fn unpack(version: &str) -> World {
    let packed = std::fs::read(golden(&format!("{version}.tar.zst"))).unwrap();
    let world = World::empty();
    let mut tar =
        Command::new("tar").args(["-xf", "-", "-C"]).arg(world.dir()).stdin(Stdio::piped()).spawn().unwrap();
    tar.stdin.take().unwrap().write_all(&zstd::decode_all(&packed[..]).unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
    world
}

#[test]
fn stores_of_every_version_show_what_they_had() {
    if let Ok(version) = std::env::var("STANDBYFS_MAKE_GOLDEN") {
        make(&version);
    }
    for version in ["v1"] {
        let world = unpack(version);
        let report = world.inspect();
        assert_eq!(report.damage, [], "{version}");
        assert_eq!(report.groups.len(), 1);
        assert_eq!(report.groups[0].epochs.len(), 2);
        let hashes: Hashes =
            serde_json::from_slice(&std::fs::read(golden(&format!("{version}.json"))).unwrap()).unwrap();
        assert!(hashes.len() >= 5);
        for (seq, hash) in &hashes {
            let (_, bytes) = world.export(&format!("@seq-{seq}")).unwrap();
            assert_eq!(blake3::hash(&bytes).to_hex().as_str(), hash, "{version} at {seq}");
        }
    }
}

/// A broken store of each version is refused by name of the file, not shown.
#[test]
fn a_broken_one_is_seen() {
    let world = unpack("v1");
    let report = world.inspect();
    let segment = report.groups[0].segments.iter().find(|s| s.batches > 0).unwrap();
    let path =
        world.store().join("groups").join(report.groups[0].id.to_string()).join("main").join(&segment.file);
    super::inspect::flip(&path, 8200, 1);
    let options = InspectOptions { store: world.store(), journal: None, verify: true };
    let broken = inspect(&options, &SystemEntropy).unwrap();
    assert!(
        broken.damage.iter().any(|d| d.path.ends_with(&segment.file) && d.offset.is_some()),
        "{broken:?}"
    );
}
