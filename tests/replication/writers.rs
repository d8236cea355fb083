//! A guest at each of two sites that tries to write all the time, and notes what was accepted, and when.

use super::daemons::{BLOCK, block};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Blocks that a writer goes round in, from the first one of its disk.
const ROUND: u64 = 64;
/// Retries on a handle that says `no space`, as a hypervisor does that was told to go on.
const RETRIES: u32 = 20;

/// What may stand in one block.
#[derive(Clone, Debug, Default)]
struct Block {
    /// The newest write that was accepted.
    accepted: u64,
    /// Later ones whose answer didn't come: nobody knows.
    unknown: Vec<u64>,
}

#[derive(Default)]
struct Log {
    number: u64,
    blocks: BTreeMap<u64, Block>,
    /// Accepted writes since the last look: begin and end.
    times: Vec<(Instant, Instant)>,
    error: Option<i32>,
}

struct Shared {
    /// The disk, while the site is there and the guest shall try.
    disk: Mutex<Option<PathBuf>>,
    /// No handle is open.
    idle: AtomicBool,
    stop: AtomicBool,
    log: Mutex<Log>,
}

/// Writes one disk of one site.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// `tag` tells its blocks from those of another writer.
    pub(super) fn new(tag: u64) -> Self {
        let shared = Arc::new(Shared {
            disk: Mutex::new(None),
            idle: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            log: Mutex::new(Log { number: tag << 48, ..Log::default() }),
        });
        let of_thread = Arc::clone(&shared);
        Self { shared, thread: Some(std::thread::spawn(move || run(&of_thread))) }
    }

    /// From now on it tries here, with a handle of its own.
    pub(super) fn go(&self, disk: &Path) {
        *self.shared.disk.lock().unwrap() = Some(disk.to_owned());
    }

    /// It doesn't try any more, and when this returns it has no handle.
    pub(super) fn pause(&self) {
        *self.shared.disk.lock().unwrap() = None;
        while !self.shared.idle.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// It doesn't try any more; a call that hangs may go on.
    pub(super) fn leave(&self) {
        *self.shared.disk.lock().unwrap() = None;
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap()
    }

    /// Accepted writes since the last [`Self::forget_times`].
    pub(super) fn accepted(&self) -> usize {
        self.log().times.len()
    }

    /// What its last attempt came to, if it failed.
    pub(super) fn error(&self) -> Option<i32> {
        self.log().error
    }

    pub(super) fn forget_times(&self) {
        self.log().times.clear();
    }

    /// What it wrote is no longer on the line.
    pub(super) fn forget_blocks(&self) {
        self.log().blocks.clear();
    }

    /// When it began its last accepted write.
    pub(super) fn last_begun(&self) -> Option<Instant> {
        self.log().times.iter().map(|(begin, _)| *begin).max()
    }

    /// When its first accepted write had been answered.
    pub(super) fn first_answered(&self) -> Option<Instant> {
        self.log().times.iter().map(|(_, end)| *end).min()
    }

    /// The first block of an image that isn't as this writer left it: an accepted write is missing, or something stands
    /// there that was never written. Where nothing was accepted there are zeros.
    pub(super) fn wrong(&self, image: &[u8]) -> Option<String> {
        let log = self.log();
        let blocks = (0..ROUND).map(|at| (at, log.blocks.get(&at).cloned().unwrap_or_default()));
        let mut wrong = None;
        for (at, must) in blocks {
            let is = &image[at as usize * BLOCK..][..BLOCK];
            let may = std::iter::once(must.accepted).chain(must.unknown.iter().copied());
            if !may.into_iter().any(|n| if n == 0 { is.iter().all(|b| *b == 0) } else { is == block(n) }) {
                let number = u64::from_le_bytes(is[..8].try_into().unwrap());
                wrong = Some(format!("block {at} has write {number:#x}, it may have {must:x?}"));
            }
        }
        wrong.or_else(|| {
            let rest = &image[ROUND as usize * BLOCK..];
            rest.iter().any(|b| *b != 0).then(|| "something stands behind what was written".to_owned())
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.leave();
        // The sites may be gone, and a call of it with them.
        drop(self.thread.take());
    }
}

fn run(shared: &Shared) {
    while !shared.stop.load(SeqCst) {
        let disk = {
            let disk = shared.disk.lock().unwrap();
            shared.idle.store(disk.is_none(), SeqCst);
            disk.clone()
        };
        let Some(disk) = disk else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        match File::options().write(true).open(&disk) {
            Ok(file) => write(shared, &disk, &file),
            Err(error) => shared.log.lock().unwrap().error = error.raw_os_error(),
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    shared.idle.store(true, SeqCst);
}

/// Until it fails, or it shall be done elsewhere or nowhere.
fn write(shared: &Shared, disk: &Path, file: &File) {
    let mut refused = 0;
    while shared.disk.lock().unwrap().as_deref() == Some(disk) && refused < RETRIES {
        let (number, at) = {
            let mut log = shared.log.lock().unwrap();
            log.number += 1;
            (log.number, log.number % ROUND)
        };
        let begin = Instant::now();
        let mut done = file.write_all_at(&block(number), at * BLOCK as u64);
        let end = Instant::now();
        let mut log = shared.log.lock().unwrap();
        let entry = log.blocks.entry(at).or_default();
        match &done {
            Ok(()) => *entry = Block { accepted: number, unknown: Vec::new() },
            // Refused: it isn't written.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EROFS | libc::ESTALE)) => {
            }
            Err(_) => entry.unknown.push(number),
        }
        if done.is_ok() {
            log.times.push((begin, end));
        }
        drop(log);
        if done.is_ok() && number.is_multiple_of(8) {
            done = file.sync_data();
        }
        shared.log.lock().unwrap().error = done.as_ref().err().and_then(std::io::Error::raw_os_error);
        match done {
            Ok(()) => refused = 0,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => refused += 1,
            Err(_) => return,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The judge itself: a write that is missing, one that was refused, and a turned bit are told.
#[test]
fn what_a_writer_did_not_leave_is_told() {
    let writer = Writer::new(7);
    let mut image = vec![0; (ROUND as usize + 4) * BLOCK];
    assert_eq!(writer.wrong(&image), None);
    let put = |image: &mut [u8], at: u64, number: u64| {
        image[at as usize * BLOCK..][..BLOCK].copy_from_slice(&block(number));
    };
    writer.log().blocks.insert(3, Block { accepted: 67, unknown: vec![131] });
    assert!(writer.wrong(&image).is_some(), "an accepted write is missing");
    for number in [67, 131] {
        put(&mut image, 3, number);
        assert_eq!(writer.wrong(&image), None);
    }
    put(&mut image, 3, 195);
    assert!(writer.wrong(&image).is_some(), "this one was never accepted");
    put(&mut image, 3, 67);
    image[3 * BLOCK + 99] ^= 1;
    assert!(writer.wrong(&image).is_some(), "a bit was turned");
    put(&mut image, 3, 67);
    put(&mut image, 9, 9);
    assert!(writer.wrong(&image).is_some(), "nothing was accepted there");
    put(&mut image, 3, 67);
    image[9 * BLOCK..10 * BLOCK].fill(0);
    assert_eq!(writer.wrong(&image), None);
    *image.last_mut().unwrap() = 1;
    assert!(writer.wrong(&image).is_some(), "behind all of it");
}
