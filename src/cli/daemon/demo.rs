//! `standbyfs demo`: two sites on this machine and an ext4 image that is taken over, step by step.
//!
//! D1. What is mounted or started is taken away again, on every way out.
//! D2. Each step checks what it says; a step that finds something else ends the demo with exit code 1.
//! D3. Everything is done by files of the mounts, as a person or a script would: the lines that begin with `$` can be
//!     typed.

mod load;
mod stage;
mod talk;

use crate::cli::mount::Mount;
use crate::seam::SystemEntropy;
use crate::site::export::{ExportOptions, export};
use crate::site::inspect::{InspectOptions, inspect};
use crate::vocab::{Error, Kind, Result};
use stage::{Stage, failed, make_dir, run, run_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const IMAGE_BYTES: u64 = 64 << 20;
const KILLS: usize = 3;
const VM: &str = "web01";

/// A moment that a later step looks at.
struct Seen {
    /// `@<epoch>-<n>`.
    moment: String,
    notes: usize,
    hash: blake3::Hash,
}

struct Demo {
    dir: PathBuf,
    /// Where the VM runs at first.
    source: Stage,
    /// Where its standby is.
    target: Stage,
    seen: Vec<Seen>,
    /// Files that were written to without a pause, all of which london must have.
    loads: Vec<(&'static str, load::Done)>,
    /// What was written while paris was lost.
    lost: Option<load::Done>,
    /// Where the failover went to.
    taken: Option<Seen>,
}

const NEXT: &str = "   \
   standbyfs mount --store /srv/standby --name paris --listen 0.0.0.0:8084 /mnt/vms    at each site, each with its name
   standbyctl pair create, and at the other site: standbyctl pair accept TOKEN
   put images into /mnt/vms/disks/<vm>/, then: standbyctl protect <vm>
   standbyctl check <vm>    every rule of a failover, before it is needed
   README.md and docs/operations.md have the rest";

type Step = (&'static str, fn(&mut Demo) -> Result<()>);

const STEPS: &[Step] = &[
    ("Start two sites, each with a store, a daemon and a mount", start),
    ("Pair them", pair),
    ("Make an ext4 image with files at paris", make_image),
    ("Protect it while it is written to: london gets a standby", protect),
    ("Write into it, and name three moments", write_over_time),
    ("Look at the three moments at london", look_back),
    ("Kill paris' worker under load; nothing that was answered is missing", kill_under_load),
    ("Lose paris under load: keeper and worker are killed at once", lose_source),
    ("Take over at london", take_over),
    ("Go to an older moment, and back", change_and_back),
    ("Check what london has", check_taken),
    ("Make it final", commit),
    ("End london's daemon and verify its store", verify),
    ("Export the newest moment without a daemon", export_one),
];

/// Runs all steps below `dir`, which must be empty or not there.
pub fn demo(dir: &Path) -> Result<()> {
    let dir = make_dir(dir)?;
    let (source, target) = (Stage::new(&dir, "paris")?, Stage::new(&dir, "london")?);
    let begun = Instant::now();
    let mut demo = Demo { dir, source, target, seen: Vec::new(), loads: Vec::new(), lost: None, taken: None };
    for (number, (title, step)) in STEPS.iter().enumerate() {
        println!("\n{}. {title}", number + 1);
        let since = Instant::now();
        step(&mut demo)?;
        println!("   ({} ms)", since.elapsed().as_millis());
    }
    println!("\nAll {} steps went well, in {} s.", STEPS.len(), begun.elapsed().as_secs());
    println!("{} may be removed. To do the same with a machine of your own:\n{NEXT}", demo.dir.display());
    Ok(())
}

fn start(demo: &mut Demo) -> Result<()> {
    demo.source.start()?;
    demo.target.start()
}

fn pair(demo: &mut Demo) -> Result<()> {
    let token = demo.source.write("site/control/pair", "create")?;
    let said = demo.target.write("site/control/pair", &format!("accept {token}"))?;
    println!("   {said}");
    demo.source.until("london is connected", |site| {
        let known = site.list("site/peers")?.contains(&"london".to_owned());
        Ok(known && site.sheet("site/peers/london/status")?.get("peer-link") == Some("connected"))
    })
}

fn file(stage: &Stage, name: &str) -> PathBuf {
    stage.mount().join("disks").join(VM).join(name)
}

fn image(stage: &Stage) -> PathBuf {
    file(stage, "disk.raw")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn make_image(demo: &mut Demo) -> Result<()> {
    let files = demo.dir.join("files");
    fs::create_dir_all(&files).map_err(|e| failed(e, "can't make", &files))?;
    for n in 0..20 {
        let path = files.join(format!("file-{n}"));
        fs::write(&path, format!("line of file {n}\n").repeat(1000))
            .map_err(|e| failed(e, "can't write", &path))?;
    }
    let image = image(&demo.source);
    run("mkdir", &[&text(&demo.source.mount().join("disks").join(VM))])?;
    run("truncate", &["-s", &IMAGE_BYTES.to_string(), &text(&image)])?;
    run("mkfs.ext4", &["-q", "-F", "-d", &text(&files), &text(&image)])?;
    fsck(&image)
}

fn fsck(image: &Path) -> Result<()> {
    run("e2fsck", &["-fn", &text(image)]).map(drop)
}

fn protect(demo: &mut Demo) -> Result<()> {
    let path = file(&demo.source, "first.raw");
    let load = load::Load::start(&path)?;
    demo.source.command(&format!("vms/{VM}/control/protect"), "to=london")?;
    let done = load.stop()?;
    println!("   {} writes to {} were answered meanwhile", done.answered, path.display());
    demo.loads.push(("first.raw", done));
    let status = demo.target.sheet(&format!("vms/{VM}/status"))?;
    println!("   at london: {}: {}", status.show("state"), status.show("says"));
    Ok(())
}

fn head(stage: &Stage) -> Result<String> {
    Ok(stage.sheet(&format!("vms/{VM}/status"))?.show("head"))
}

/// Waits until the target holds the source's newest moment.
fn caught_up(demo: &Demo) -> Result<String> {
    let newest = head(&demo.source)?;
    let begun = Instant::now();
    let there = |site: &Mount| Ok(site.sheet(format!("vms/{VM}/status"))?.show("head") == newest);
    demo.target.until("london has caught up", there)?;
    println!("   london holds {newest} after another {} ms", begun.elapsed().as_millis());
    Ok(newest)
}

fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let file = fs::File::open(path).map_err(|e| failed(e, "can't open", path))?;
    hasher.update_reader(file).map_err(|e| failed(e, "can't read", path))?;
    Ok(hasher.finalize())
}

fn write_over_time(demo: &mut Demo) -> Result<()> {
    let image = image(&demo.source);
    for n in 1..=3 {
        let note = demo.dir.join(format!("note-{n}"));
        fs::write(&note, format!("note {n}\n").repeat(5000)).map_err(|e| failed(e, "can't write", &note))?;
        let command = format!("write {} note-{n}", note.display());
        run("debugfs", &["-w", "-R", &command, &text(&image)])?;
        run("sync", &[&text(&image)])?;
        demo.source.write(&format!("vms/{VM}/control/recovery-point"), &format!("name=note-{n}"))?;
        let seen = Seen { moment: head(&demo.source)?, notes: n, hash: hash(&image)? };
        println!("   the disk is at moment {} now, BLAKE3 {}", seen.moment, &seen.hash.to_hex()[..16]);
        demo.seen.push(seen);
    }
    caught_up(demo).map(drop)
}

fn look_back(demo: &mut Demo) -> Result<()> {
    for seen in &demo.seen {
        let points = demo.target.mount().join("vms").join(VM).join("recovery-points");
        check(&points.join(&seen.moment).join("disk.raw"), seen)?;
    }
    Ok(())
}

/// A past image is what it was: the same bytes, a clean filesystem, the notes of then and no later ones.
fn check(past: &Path, seen: &Seen) -> Result<()> {
    let got = hash(past)?;
    if got != seen.hash {
        return Err(Error::new(Kind::Damaged, "the past image has other bytes than it had").at(past));
    }
    fsck(past)?;
    check_notes(past, seen.notes)?;
    println!("   byte for byte as it was, filesystem clean, {} of 3 notes", seen.notes);
    Ok(())
}

fn check_notes(image: &Path, expected: usize) -> Result<()> {
    let listed = run("debugfs", &["-R", "ls -p /", &text(image)])?;
    let notes = (1..=3).filter(|n| listed.contains(&format!("/note-{n}/"))).count();
    if notes == expected {
        return Ok(());
    }
    Err(Error::new(Kind::Damaged, format!("{notes} notes are in it, {expected} were there")).at(image))
}

fn kill_under_load(demo: &mut Demo) -> Result<()> {
    let path = file(&demo.source, "load.raw");
    let load = load::Load::start(&path)?;
    for _ in 0..KILLS {
        std::thread::sleep(Duration::from_millis(700));
        demo.source.kill_worker()?;
    }
    std::thread::sleep(Duration::from_millis(700));
    let done = load.stop()?;
    println!("   {} writes were answered, the longest after {} ms", done.answered, done.longest.as_millis());
    done.check(&path)?;
    println!("   all of them are there");
    caught_up(demo)?;
    demo.loads.push(("load.raw", done));
    Ok(())
}

fn lose_source(demo: &mut Demo) -> Result<()> {
    let load = load::Load::start(&file(&demo.source, "last.raw"))?;
    std::thread::sleep(Duration::from_millis(1500));
    demo.source.kill_all()?;
    let done = load.lose()?;
    println!("   {} writes were answered before, and none since", done.answered);
    demo.lost = Some(done);
    demo.target.until("london sees that paris is gone", |site| {
        let status = site.sheet(format!("vms/{VM}/status"))?;
        Ok(status.get("peer-link") == Some("unreachable"))
    })
}

fn take_over(demo: &mut Demo) -> Result<()> {
    let begun = Instant::now();
    let moment = head(&demo.target)?;
    demo.target.command(&format!("vms/{VM}/control/failover"), "latest")?;
    let status = demo.target.sheet(&format!("vms/{VM}/status"))?;
    println!(
        "   after {} ms: {}, writable: {}",
        begun.elapsed().as_millis(),
        status.show("state"),
        status.show("writable")
    );
    demo.taken = Some(Seen { moment, notes: 3, hash: hash(&image(&demo.target))? });
    Ok(())
}

fn change_and_back(demo: &mut Demo) -> Result<()> {
    for seen in demo.seen.get(1).into_iter().chain(&demo.taken) {
        demo.target.command(&format!("vms/{VM}/control/change-recovery-point"), &seen.moment)?;
        check(&image(&demo.target), seen)?;
    }
    Ok(())
}

fn check_taken(demo: &mut Demo) -> Result<()> {
    let image = image(&demo.target);
    // As a booting guest would: replay of its journal, which writes.
    run_for(&[0, 1], "e2fsck", &["-p", &text(&image)])?;
    fsck(&image)?;
    check_notes(&image, 3)?;
    println!("   filesystem clean, all notes there");
    for (name, done) in &demo.loads {
        done.check(&file(&demo.target, name))?;
        println!("   all {} writes to {name} that paris answered are there", done.answered);
    }
    let Some(lost) = &demo.lost else { return Ok(()) };
    let k = lost.prefix(&file(&demo.target, "last.raw"))?;
    if k == 0 {
        return Err(Error::new(Kind::Damaged, "nothing of what was written before paris was lost is there"));
    }
    let late = lost.answered.saturating_sub(k);
    println!(
        "   writes 1 to {k} to last.raw are there, none of them missing; the last {late} were on their way"
    );
    Ok(())
}

fn commit(demo: &mut Demo) -> Result<()> {
    demo.target.command(&format!("vms/{VM}/control/commit"), &format!("confirm={VM}"))
}

fn verify(demo: &mut Demo) -> Result<()> {
    let image = image(&demo.target);
    let newest = Seen { moment: "latest".into(), notes: 3, hash: hash(&image)? };
    demo.seen.push(newest);
    demo.target.stop()?;
    println!("   $ standbyfs inspect --verify {}", demo.target.store().display());
    let options = InspectOptions { store: demo.target.store(), journal: None, verify: true };
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
    let to = demo.dir.join("export");
    println!("   $ standbyfs export {} {VM} {} {}", demo.target.store().display(), seen.moment, to.display());
    let options = ExportOptions {
        store: demo.target.store(),
        vm: VM.into(),
        moment: seen.moment.clone(),
        to: to.clone(),
        ..ExportOptions::default()
    };
    export(&options, &SystemEntropy)?;
    check(&to.join("disk.raw"), seen)
}
