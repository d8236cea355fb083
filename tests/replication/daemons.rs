//! Two daemons, each with its keeper, its worker and its mount, and a link that fails: what a guest wrote at one site is
//! at the other, byte by byte, at every moment that both hold.
//!
//! One guest writes blocks that carry their number, over two disks. So an image tells which writes it has, and what it
//! must be then: the writes 1 to k and nothing else.

use crate::fuse::control::ask;
use crate::fuse::harness::{self, Mount, full, is_mounted};
use crate::support::proxy::{Proxy, Way};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(super) const BLOCK: usize = 4096;
const BLOCKS: u64 = 2048;
pub(super) const DISKS: [&str; 2] = ["a.raw", "b.raw"];
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A block's content: its number, then bytes that follow from it.
pub(super) fn block(number: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number);
    let mut bytes = vec![0; BLOCK];
    rng.fill(&mut bytes);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Where write `number` goes: disk and block.
fn place(seed: u64, number: u64) -> (usize, u64) {
    let mut rng = fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (rng.usize(..DISKS.len()), rng.u64(..BLOCKS))
}

/// What the guest has done.
pub(super) struct Guest {
    seed: u64,
    /// Writes that were answered.
    answered: AtomicU64,
    /// When each was answered.
    times: Mutex<Vec<Instant>>,
    pub(super) stop: AtomicBool,
    pub(super) error: Mutex<Option<String>>,
}

impl Guest {
    pub(super) fn start(
        mount: &Mount,
        seed: u64,
        pause: Duration,
    ) -> (Arc<Self>, std::thread::JoinHandle<()>) {
        Self::go_on(mount, seed, vec![Instant::now()], pause)
    }

    /// Goes on where another one stopped.
    pub(super) fn start_at(
        mount: &Mount,
        other: &Self,
        pause: Duration,
    ) -> (Arc<Self>, std::thread::JoinHandle<()>) {
        Self::go_on(mount, other.seed, other.times.lock().unwrap().clone(), pause)
    }

    fn go_on(
        mount: &Mount,
        seed: u64,
        times: Vec<Instant>,
        pause: Duration,
    ) -> (Arc<Self>, std::thread::JoinHandle<()>) {
        let guest = Arc::new(Self {
            seed,
            answered: AtomicU64::new(times.len() as u64 - 1),
            times: Mutex::new(times),
            stop: AtomicBool::new(false),
            error: Mutex::new(None),
        });
        let files: Vec<File> = DISKS
            .iter()
            .map(|disk| File::options().write(true).open(mount.path(&format!("disks/web/{disk}"))).unwrap())
            .collect();
        let this = Arc::clone(&guest);
        let thread = std::thread::spawn(move || {
            let mut number = this.answered();
            while !this.stop.load(SeqCst) {
                number += 1;
                let (disk, at) = place(this.seed, number);
                let mut done = files[disk].write_all_at(&block(number), at * BLOCK as u64);
                if number.is_multiple_of(16) {
                    done = done.and_then(|()| files[disk].sync_data());
                }
                if let Err(error) = done {
                    *this.error.lock().unwrap() = Some(format!("write {number}: {error}"));
                    return;
                }
                this.times.lock().unwrap().push(Instant::now());
                this.answered.store(number, SeqCst);
                std::thread::sleep(pause);
            }
        });
        (guest, thread)
    }

    pub(super) fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }

    /// When a write was answered, if it was.
    fn time(&self, number: u64) -> Option<Instant> {
        self.times.lock().unwrap().get(number as usize).copied()
    }

    /// The writes that these images have: 1 to the number returned, and nothing else.
    pub(super) fn prefix(&self, images: &[Vec<u8>], what: &str) -> u64 {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let k = images.iter().flat_map(|i| i.chunks(BLOCK)).map(number).max().unwrap_or(0);
        let mut newest: BTreeMap<(usize, u64), u64> = BTreeMap::new();
        for n in 1..=k {
            newest.insert(place(self.seed, n), n);
        }
        let zeros = vec![0; BLOCK];
        for (disk, image) in images.iter().enumerate() {
            for (at, bytes) in image.chunks(BLOCK).enumerate() {
                let is = newest.get(&(disk, at as u64)).copied();
                let must = is.map_or_else(|| zeros.clone(), block);
                assert!(
                    bytes == must,
                    "{what}: block {at} of {} has write {}, with 1 to {k} it must be {is:?}; seed {}",
                    DISKS[disk],
                    number(bytes),
                    self.seed
                );
            }
        }
        k
    }
}

/// A daemon that is started again when it was killed.
pub(super) struct Daemon {
    pub(super) mount: Option<Mount>,
    dir: tempfile::TempDir,
    pub(super) name: &'static str,
    listen: Option<String>,
}

impl Daemon {
    fn new(name: &'static str, listen: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Self { mount: None, dir, name, listen: listen.map(str::to_owned) };
        daemon.start();
        daemon
    }

    pub(super) fn start(&mut self) {
        let (store, socket) = (self.dir.path().join("store"), self.socket());
        let (name, listen) = (self.name.to_owned(), self.listen.clone());
        self.mount = Some(Mount::with(|options| {
            options.store = Some(store);
            options.control = Some(socket);
            options.name = name;
            options.listen = listen;
        }));
    }

    pub(super) fn store(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    pub(super) fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("control")
    }

    pub(super) fn mount(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    /// The whole machine: keeper, worker and mount go at once.
    pub(super) fn power_off(&mut self) {
        self.mount = None;
    }

    /// Waits while nobody serves.
    pub(super) fn ask(&self, asked: &Value) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask(&self.socket(), asked) {
                return answer;
            }
            assert!(Instant::now() < until, "{} doesn't answer {asked}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn command(&self, verb: &str, text: &str) -> Value {
        let vm = if verb == "pair" { "" } else { "web" };
        self.ask(&json!({ "do": "command", "vm": vm, "verb": verb, "text": text }))
    }

    /// A command as a shell would give it, by the VM's control file; its job has ended well.
    pub(super) fn done(&self, verb: &str, text: &str) {
        let path = self.mount().path(&format!("vms/web/control/{verb}"));
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let written = file.write_at(format!("{text}\n").as_bytes(), 0);
        let mut said = vec![0; 64 << 10];
        let length = file.read_at(&mut said, 0).unwrap();
        let said = String::from_utf8_lossy(&said[..length]).into_owned();
        assert!(written.is_ok(), "{verb} {text} at {}: {written:?}\n{said}\n{}", self.name, self.events());
        let Some(job) = said.lines().find_map(|line| line.strip_prefix("outcome-job: ")) else {
            panic!("{verb} {text} at {} has no job:\n{said}", self.name)
        };
        let mut last = Value::Null;
        let ended = wait(PATIENCE, || {
            last = self.ask(&json!({ "do": "job", "id": job }));
            last["ended"] == true
        });
        assert!(ended && last["state"] == "succeeded", "{verb} at {}: {last}\n{}", self.name, self.events());
        let shown = fs::read_to_string(self.mount().path(&format!("jobs/{job}/status"))).unwrap();
        assert!(shown.contains("state: succeeded"), "{shown}");
    }

    pub(super) fn state(&self) -> Value {
        self.ask(&json!({ "do": "state", "vm": "web" }))
    }

    pub(super) fn events(&self) -> String {
        let events = self.ask(&json!({ "do": "events" }));
        events.as_array().map(|all| all.iter().map(|e| format!("  {e}\n")).collect()).unwrap_or_default()
    }

    /// The images of a moment.
    fn images(&self, moment: &str) -> std::io::Result<Vec<Vec<u8>>> {
        let dir = self.mount().path(&format!("vms/web/recovery-points/{moment}"));
        DISKS.iter().map(|disk| fs::read(dir.join(disk))).collect()
    }

    pub(super) fn live(&self) -> Vec<Vec<u8>> {
        DISKS.iter().map(|disk| fs::read(self.mount().path(&format!("disks/web/{disk}"))).unwrap()).collect()
    }
}

pub(super) fn wait(patience: Duration, mut until: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if until() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) struct Two {
    pub(super) a: Daemon,
    pub(super) b: Daemon,
    pub(super) proxy: Proxy,
}

/// Two daemons that are paired, and a VM of two disks at the first.
pub(super) fn two() -> Two {
    let mut b = Daemon::new("paris", Some("127.0.0.1:0"));
    let at = b.ask(&json!({ "do": "listening" })).as_str().unwrap().to_owned();
    b.listen = Some(at.clone());
    b.mount.as_mut().unwrap().options.listen = Some(at.clone());
    // A worker that is started again has to listen at the same place.
    b.power_off();
    b.start();
    let proxy = Proxy::start(at.parse().unwrap());
    let a = Daemon::new("london", None);
    let token = b.ask(&json!({ "do": "pair", "address": proxy.address().to_string() }));
    let paired = a.command("pair", &format!("accept {}", token.as_str().unwrap()));
    assert_eq!(paired["says"], "paired with paris", "{paired}");
    fs::create_dir(a.mount().path("disks/web")).unwrap();
    for disk in DISKS {
        File::create(a.mount().path(&format!("disks/web/{disk}")))
            .unwrap()
            .set_len(BLOCKS * BLOCK as u64)
            .unwrap();
    }
    Two { a, b, proxy }
}

/// What was seen, to be told at the end.
#[derive(Default, Debug)]
struct Seen {
    compared: u64,
    ages: u64,
    oldest_age_s: f64,
    cuts: u64,
    stalls: u64,
    turned_bits: u64,
    killed_workers: u64,
    power_offs: u64,
}

/// The standby's newest moment is a prefix of what was written, and both sites show the same bytes of it.
fn compare(two: &Two, guest: &Guest, seen: &mut Seen) -> u64 {
    let moment = two.b.state()["head"].as_str().unwrap().to_owned();
    let there = match two.b.images(&moment) {
        Ok(images) => images,
        // The worker was killed while it was read, or the moment has just come by a jump.
        Err(error) => panic!("{moment} can't be read at the standby: {error}\n{}", two.b.events()),
    };
    let k = guest.prefix(&there, &format!("the standby at {moment}"));
    let here = two.a.images(&moment).unwrap_or_else(|e| panic!("{moment} at the source: {e}"));
    for (disk, (x, y)) in here.iter().zip(&there).enumerate() {
        assert!(x == y, "{moment}: {} differs between the sites", DISKS[disk]);
    }
    let chain = |daemon: &Daemon| daemon.ask(&json!({ "do": "chain", "vm": "web", "moment": moment }));
    let (x, y) = (chain(&two.a), chain(&two.b));
    assert!(x == y && x.is_string(), "{moment}: the chain is {x} and {y}");
    seen.compared += 1;
    k
}

/// The age that the source tells is never less than the truth, and with contact not much more.
fn age_is_true(two: &Two, guest: &Guest, seen: &mut Seen) {
    let before = Instant::now();
    let state = two.a.state();
    let Some(told) = state["rpo"].as_u64() else { return };
    let after = Instant::now();
    let moment = two.b.state()["head"].as_str().unwrap().to_owned();
    let k = guest.prefix(&two.b.images(&moment).unwrap(), "for the age");
    // What the standby lacks even now it lacked then.
    if let Some(first) = guest.time(k + 1).filter(|first| *first < before) {
        let truth = before.duration_since(first);
        let told = Duration::from_nanos(told);
        assert!(
            told + Duration::from_millis(60) >= truth,
            "the source tells {told:?} while write {} is {truth:?} old ({:?}): {state}\n{}",
            k + 1,
            after.duration_since(before),
            two.a.events()
        );
    }
    // Nothing lasts longer than half a minute here.
    assert!(told < 30_000_000_000, "an age of {told} ns: {state}\n{}", two.a.events());
    seen.ages += 1;
    seen.oldest_age_s = seen.oldest_age_s.max(told as f64 / 1e9);
}

pub(super) fn caught_up(two: &Two) -> bool {
    let (a, b) = (two.a.state(), two.b.state());
    a["state"] == "protected" && a["head"] == b["head"]
}

/// One fault of the link or of a process.
fn fail(two: &mut Two, guest: &Guest, rng: &mut fastrand::Rng, seen: &mut Seen) {
    match rng.u32(..7) {
        0 => {
            two.proxy.refuse(true);
            two.proxy.cut();
            std::thread::sleep(Duration::from_millis(rng.u64(..2_000)));
            age_is_true(two, guest, seen);
            two.proxy.refuse(false);
            seen.cuts += 1;
        }
        1 => {
            two.proxy.cut();
            seen.cuts += 1;
        }
        2 => {
            let way = if rng.bool() { Way::Out } else { Way::Back };
            two.proxy.stall(way, true);
            std::thread::sleep(Duration::from_millis(rng.u64(..4_000)));
            age_is_true(two, guest, seen);
            two.proxy.stall(way, false);
            seen.stalls += 1;
        }
        3 => {
            two.proxy.corrupt(if rng.bool() { Way::Out } else { Way::Back }, rng.u64(..200_000));
            seen.turned_bits += 1;
        }
        4 => seen.killed_workers += u64::from(two.a.mount().kill_worker()),
        5 => seen.killed_workers += u64::from(two.b.mount().kill_worker()),
        _ => {
            two.b.power_off();
            std::thread::sleep(Duration::from_millis(rng.u64(..500)));
            two.b.start();
            seen.power_offs += 1;
        }
    }
}

fn torture(seed: u64, time: Duration, pause: Duration) {
    let mut seen = Seen::default();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut two = two();
    let (guest, thread) = Guest::start(two.a.mount(), seed, pause);
    assert!(wait(PATIENCE, || guest.answered() > 50), "{:?}", guest.error.lock().unwrap());
    let session = wait(PATIENCE, || two.a.command("protect", "to=paris")["refusal"].is_null());
    assert!(session, "{}", two.a.events());
    let begun = Instant::now();
    let protected = wait(PATIENCE, || two.a.state()["state"] == "protected");
    assert!(protected, "{}\n{}", two.a.state(), two.a.events());
    eprintln!("seed {seed}: protected after {:?}, {} writes", begun.elapsed(), guest.answered());
    while begun.elapsed() < time {
        fail(&mut two, &guest, &mut rng, &mut seen);
        std::thread::sleep(Duration::from_millis(rng.u64(..1_500)));
        if let Some(error) = &*guest.error.lock().unwrap() {
            panic!("the guest: {error}\n{}\n{}", two.a.events(), two.a.mount().log());
        }
        compare(&two, &guest, &mut seen);
        age_is_true(&two, &guest, &mut seen);
    }
    guest.stop.store(true, SeqCst);
    thread.join().unwrap();
    let calm = wait(PATIENCE, || caught_up(&two));
    assert!(calm, "{}\n{}\n{}\n{}", two.a.state(), two.b.state(), two.a.events(), two.b.events());
    assert_eq!(compare(&two, &guest, &mut seen), guest.answered(), "nothing is missing");
    let none = wait(PATIENCE, || two.a.state()["rpo"] == 0);
    assert!(none, "{}", two.a.state());

    // The source's machine dies under load; the standby takes over.
    let (guest2, thread) = Guest::start_at(two.a.mount(), &guest, pause);
    std::thread::sleep(Duration::from_millis(700));
    let held = two.a.state()["acknowledged_seq"].as_u64();
    let before = guest2.answered();
    two.a.power_off();
    thread.join().unwrap();
    assert!(guest2.error.lock().unwrap().is_some(), "the guest died with its machine");
    let alone = wait(PATIENCE, || two.b.state()["connected"] == false);
    assert!(alone && two.b.state()["health"].as_array().unwrap().contains(&json!("peer-unreachable")));
    two.b.done("failover", "latest");
    let state = two.b.state();
    assert!(state["state"] == "failed-over" && state["head_seq"].as_u64() > held, "{state} after {held:?}");
    let k = guest2.prefix(&two.b.live(), "taken over");
    let file = File::options().write(true).open(two.b.mount().path("disks/web/a.raw")).unwrap();
    file.write_all_at(&block(u64::MAX >> 1), 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    two.b.done("commit", "confirm=web");
    assert_eq!(two.b.state()["state"], "committed");
    assert_eq!(two.b.live()[0][..BLOCK], block(u64::MAX >> 1)[..]);
    // The old source comes back: it hears of the decision and its disks stay as they are.
    two.a.start();
    assert!(wait(PATIENCE, || two.a.state()["state"] == "fenced"), "{}", two.a.state());
    let open = File::options().write(true).open(two.a.mount().path("disks/web/a.raw"));
    assert_eq!(open.unwrap_err().raw_os_error(), Some(libc::EROFS));
    eprintln!(
        "seed {seed}: {} writes, {before} before the machine died, {k} at the standby; {seen:?}",
        guest2.answered()
    );
    assert!(seen.compared > 0 && seen.ages > 0, "{seen:?}");
    for daemon in [two.a, two.b] {
        let point = daemon.mount().options.mount.clone();
        daemon.mount.unwrap().stop();
        assert!(!is_mounted(Path::new(&point)));
    }
}

#[test]
fn a_guest_s_writes_are_at_the_standby_whatever_fails() {
    harness::require_fuse();
    let seed = std::env::var("STANDBYFS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    let seconds = std::env::var("STANDBYFS_SECONDS").ok().and_then(|s| s.parse().ok());
    let seconds = seconds.unwrap_or(if full() { 600 } else { 6 });
    torture(seed, Duration::from_secs(seconds), Duration::from_millis(if full() { 1 } else { 2 }));
}

/// The judge itself: a lost write, one too many and a turned bit are told.
#[test]
fn what_is_no_prefix_is_told() {
    let guest = Guest {
        seed: 3,
        answered: AtomicU64::new(0),
        times: Mutex::default(),
        stop: AtomicBool::new(false),
        error: Mutex::default(),
    };
    let images = |writes: &[u64]| {
        let mut images = vec![vec![0; BLOCKS as usize * BLOCK]; DISKS.len()];
        for n in writes {
            let (disk, at) = place(guest.seed, *n);
            images[disk][at as usize * BLOCK..][..BLOCK].copy_from_slice(&block(*n));
        }
        images
    };
    let told = |images: &[Vec<u8>]| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| guest.prefix(images, "judged"))).ok()
    };
    let all: Vec<u64> = (1..=40).collect();
    assert_eq!(told(&images(&all)), Some(40));
    assert_eq!(told(&images(&[])), Some(0));
    let lost: Vec<u64> = all.iter().copied().filter(|n| *n != 17).collect();
    assert_eq!(told(&images(&lost)), None, "write 17 is lost");
    assert_eq!(told(&images(&[1, 2, 3, 90])), None, "write 90 came before its time");
    let mut turned = images(&all);
    let (disk, at) = place(guest.seed, 5);
    turned[disk][at as usize * BLOCK + 77] ^= 1;
    assert_eq!(told(&turned), None, "a bit was turned");
}
