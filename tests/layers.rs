//! The layer test: a module uses only what stands below it, no source file is over 600 lines, and layer 0 is pure.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from the bottom up. A room may use itself and every room before it, but for the pairs in `APART`.
const ROOMS: &[(&str, u8)] = &[
    ("vocab", 0),
    ("format", 0),
    ("history", 0),
    ("protection", 0),
    ("exchange", 0),
    ("seam", 1),
    ("journal", 1),
    ("index", 1),
    ("base", 1),
    ("view", 1),
    ("group", 2),
    ("link", 2),
    ("site", 2),
    ("tree", 3),
    ("fuse", 3),
    ("cli", 3),
    ("bin", 3),
];
const LINES_MAX: usize = 600;
/// What layer 0 must not name: it has no clock, file, thread, socket or randomness.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::os",
    "libc::",
    "rustix::",
    "tokio::",
    "parking_lot::",
    "getrandom::",
    "fuser::",
];

#[test]
fn a_layer_uses_only_what_is_below_it() {
    let mut wrong = Vec::new();
    for file in sources() {
        let Some((room, layer)) = room_of(&file) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for (above, (other, _)) in ROOMS.iter().enumerate() {
                let uses = [
                    format!("crate::{other}::"),
                    format!("standbyfs::{other}::"),
                    format!("crate::{other};"),
                ];
                if above > room && uses.iter().any(|u| code.contains(u.as_str())) {
                    wrong.push(format!("{}:{}: {} uses {other}", file.display(), number + 1, ROOMS[room].0));
                }
            }
            if layer == 0 && IMPURE.iter().any(|word| code.contains(word)) {
                wrong.push(format!("{}:{}: layer 0 isn't pure: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_source_file_has_a_room_and_at_most_600_lines() {
    let mut wrong = Vec::new();
    for file in
        sources().into_iter().chain(rust_files(Path::new("tests"))).chain(rust_files(Path::new("tools")))
    {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines", file.display()));
        }
        if file.starts_with("src") && file != Path::new("src/lib.rs") && room_of(&file).is_none() {
            wrong.push(format!("{}: in no room", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn fuser_is_known_to_the_adapter_and_the_mount_only() {
    let users: Vec<String> = sources()
        .iter()
        .filter(|f| {
            fs::read_to_string(f)
                .unwrap()
                .lines()
                .any(|l| l.split("//").next().unwrap_or("").contains("fuser::"))
        })
        .map(|f| f.display().to_string())
        .collect();
    for file in &users {
        assert!(file.starts_with("src/fuse/"), "{file} uses fuser");
    }
    assert!(users.len() <= 2, "only two files may know fuser: {users:?}");
}

/// A rule that can be left out is left out by a test, which names it.
#[test]
fn every_switch_has_a_test() {
    let is_test = |f: &PathBuf| f.ends_with("tests.rs") || f.components().any(|c| c.as_os_str() == "tests");
    let (tests, code): (Vec<_>, Vec<_>) = sources().into_iter().partition(is_test);
    let tests: String = tests.iter().map(|f| fs::read_to_string(f).unwrap()).collect();
    let (mut seen, mut wrong) = (0, Vec::new());
    for file in code {
        let text = fs::read_to_string(&file).unwrap();
        for rest in text.split("left_out(").skip(1) {
            let Some(rule) = rest.trim_start().strip_prefix('"').and_then(|r| r.split('"').next()) else {
                continue;
            };
            seen += 1;
            if !tests.contains(&format!("\"{rule}\"")) {
                wrong.push(format!("{}: no test leaves this out: {rule}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 40, "only {seen} switches were found");
}

/// The test must be able to fail: a room's index grows upwards and an unknown room is none.
#[test]
fn rooms_are_told_from_paths() {
    assert_eq!(room_of(Path::new("src/vocab/ids.rs")), Some((0, 0)));
    assert_eq!(room_of(Path::new("src/nowhere/ids.rs")), None);
    assert!(ROOMS.windows(2).all(|w| w[0].1 <= w[1].1));
    assert!(sources().len() > 5);
}

fn room_of(file: &Path) -> Option<(usize, u8)> {
    let name = file
        .strip_prefix("src")
        .ok()?
        .components()
        .next()?
        .as_os_str()
        .to_str()?
        .trim_end_matches(".rs")
        .to_owned();
    ROOMS.iter().position(|(room, _)| *room == name).map(|at| (at, ROOMS[at].1))
}

pub fn sources() -> Vec<PathBuf> {
    rust_files(Path::new("src"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            out.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out.sort();
    out
}
