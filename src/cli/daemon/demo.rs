//! `standbyfs demo`: one site, from an empty directory to an export without a daemon, step by step.
//!
//! D1. What is mounted or started is taken away again, on every way out.
//! D2. Each step checks what it says; a step that finds something else ends the demo with exit code 1.

mod load;
mod stage;

use crate::seam::SystemEntropy;
use crate::site::export::{ExportOptions, export};
use crate::site::inspect::{InspectOptions, inspect};
use crate::vocab::{Error, Kind, Result};
use stage::{Stage, failed};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const IMAGE_BYTES: u64 = 64 << 20;
const KILLS: usize = 3;

/// A moment that a later step looks at.
struct Seen {
    seq: u64,
    notes: usize,
    hash: blake3::Hash,
}

struct Demo {
    stage: Stage,
    seen: Vec<Seen>,
    /// Two idle seconds let the base of a group without a window pass its past.
    ticker: Option<load::Ticker>,
}

type Step = (&'static str, fn(&mut Demo) -> Result<()>);

const STEPS: &[Step] = &[
    ("Start the daemon on an empty store", start),
    ("Make an ext4 image with files on the mount", make_image),
    ("Write into it, three times", write_over_time),
    ("Look at three past moments", look_back),
    ("Kill the worker under load; nothing that was answered is missing", kill_under_load),
    ("End the daemon and verify the store", verify),
    ("Export the newest moment without a daemon", export_one),
];

/// Runs all steps below `dir`, which must be empty or not there.
pub fn demo(dir: &Path) -> Result<()> {
    let stage = Stage::new(dir)?;
    let begun = Instant::now();
    let mut demo = Demo { stage, seen: Vec::new(), ticker: None };
    for (number, (title, step)) in STEPS.iter().enumerate() {
        println!("\n{}. {title}", number + 1);
        step(&mut demo)?;
    }
    println!("\nAll {} steps went well, in {} s.", STEPS.len(), begun.elapsed().as_secs());
    println!("The store is in {} and may be removed.", demo.stage.store().display());
    Ok(())
}

fn start(demo: &mut Demo) -> Result<()> {
    demo.stage.start()
}

fn image(demo: &Demo) -> PathBuf {
    demo.stage.mount().join("disks/web01/disk.raw")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn make_image(demo: &mut Demo) -> Result<()> {
    let files = demo.stage.dir().join("files");
    fs::create_dir_all(&files).map_err(|e| failed(e, "can't make", &files))?;
    for n in 0..20 {
        let path = files.join(format!("file-{n}"));
        fs::write(&path, format!("line of file {n}\n").repeat(1000))
            .map_err(|e| failed(e, "can't write", &path))?;
    }
    let image = image(demo);
    demo.stage.run("mkdir", &[&text(&demo.stage.mount().join("disks/web01"))])?;
    demo.stage.run("truncate", &["-s", &IMAGE_BYTES.to_string(), &text(&image)])?;
    demo.stage.run("mkfs.ext4", &["-q", "-F", "-d", &text(&files), &text(&image)])?;
    fsck(demo, &image)
}

fn fsck(demo: &Demo, image: &Path) -> Result<()> {
    demo.stage.run("e2fsck", &["-fn", &text(image)]).map(|_| ())
}

/// The newest seq, once everything is flushed. Beside the daemon `inspect` sees what its files show.
fn newest(demo: &Demo) -> Result<u64> {
    let options = InspectOptions { store: demo.stage.store(), ..InspectOptions::default() };
    let report = inspect(&options, &SystemEntropy)?;
    let head = report.groups.first().and_then(|g| g.head);
    head.map(|m| m.seq.0).ok_or_else(|| Error::new(Kind::NotFound, "inspect shows no group"))
}

fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let file = fs::File::open(path).map_err(|e| failed(e, "can't open", path))?;
    hasher.update_reader(file).map_err(|e| failed(e, "can't read", path))?;
    Ok(hasher.finalize())
}

fn write_over_time(demo: &mut Demo) -> Result<()> {
    let image = image(demo);
    demo.ticker = Some(load::Ticker::start(&demo.stage.mount().join("disks/web01/clock.raw"))?);
    for n in 1..=3 {
        let note = demo.stage.dir().join(format!("note-{n}"));
        fs::write(&note, format!("note {n}\n").repeat(5000)).map_err(|e| failed(e, "can't write", &note))?;
        let command = format!("write {} note-{n}", note.display());
        demo.stage.run("debugfs", &["-w", "-R", &command, &text(&image)])?;
        demo.stage.run("sync", &[&text(&image)])?;
        let seen = Seen { seq: newest(demo)?, notes: n, hash: hash(&image)? };
        println!("   the disk is at moment @seq-{} now, BLAKE3 {}", seen.seq, &seen.hash.to_hex()[..16]);
        demo.seen.push(seen);
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

fn look_back(demo: &mut Demo) -> Result<()> {
    for seen in &demo.seen {
        let past = demo.stage.mount().join(format!("vms/web01/recovery-points/@seq-{}/disk.raw", seen.seq));
        check(demo, &past, seen)?;
    }
    demo.ticker.take().map_or(Ok(()), load::Ticker::stop)
}

/// A past image is what it was: the same bytes, a clean filesystem, the notes of then and no later ones.
fn check(demo: &Demo, past: &Path, seen: &Seen) -> Result<()> {
    let got = hash(past)?;
    if got != seen.hash {
        return Err(Error::new(Kind::Damaged, "the past image has other bytes than it had").at(past));
    }
    fsck(demo, past)?;
    let listed = demo.stage.run("debugfs", &["-R", "ls -p /", &text(past)])?;
    let notes = (1..=3).filter(|n| listed.contains(&format!("/note-{n}/"))).count();
    if notes != seen.notes {
        let what = format!("{notes} notes are in it, {} were there at that moment", seen.notes);
        return Err(Error::new(Kind::Damaged, what).at(past));
    }
    println!("   byte for byte as it was, filesystem clean, {notes} of 3 notes");
    Ok(())
}

fn kill_under_load(demo: &mut Demo) -> Result<()> {
    let path = demo.stage.mount().join("disks/web01/load.raw");
    let load = load::Load::start(&path)?;
    for _ in 0..KILLS {
        std::thread::sleep(Duration::from_millis(700));
        demo.stage.kill_worker()?;
    }
    std::thread::sleep(Duration::from_millis(700));
    let done = load.stop()?;
    println!("   {} writes were answered, the longest after {} ms", done.answered, done.longest.as_millis());
    done.check(&path)?;
    println!("   all of them are there");
    fsck(demo, &image(demo))
}

fn verify(demo: &mut Demo) -> Result<()> {
    demo.stage.stop()?;
    println!("   $ standbyfs inspect --verify {}", demo.stage.store().display());
    let options = InspectOptions { store: demo.stage.store(), journal: None, verify: true };
    let report = inspect(&options, &SystemEntropy)?;
    for proof in &report.proofs {
        println!("   {:?}: {}: {}", proof.proof, proof.about, proof.says);
    }
    match report.damage.first() {
        None => Ok(()),
        Some(d) => Err(Error::new(Kind::Damaged, d.what.clone()).at(&d.path)),
    }
}

fn export_one(demo: &mut Demo) -> Result<()> {
    let Some(seen) = demo.seen.last() else { return Ok(()) };
    let to = demo.stage.dir().join("export");
    println!("   $ standbyfs export {} web01 latest {}", demo.stage.store().display(), to.display());
    let options = ExportOptions {
        store: demo.stage.store(),
        vm: "web01".into(),
        moment: "latest".into(),
        to: to.clone(),
        ..ExportOptions::default()
    };
    export(&options, &SystemEntropy)?;
    check(demo, &to.join("disk.raw"), seen)
}
