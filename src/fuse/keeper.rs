//! The keeper: owns the mount and the device, starts workers that serve it, and outlives them.
//!
//! 1. It opens no store, starts no thread and handles no request while a worker may: so small that it doesn't
//!    fail.
//! 2. A worker is started only after the one before it has been waited for: all that one's writes have ended.
//! 3. When no worker stays alive (backoff.rs) requests are refused (refuse.rs), not kept waiting for ever.
//! 4. The mount is out of the tree when the keeper ends, on every orderly path: SIGTERM, SIGINT, an unmount by
//!    somebody else, a failed start.
//! 5. An upgrade (SIGHUP) that the new program refuses ends with the old program serving.

use super::MountOptions;
use super::backoff::{Backoff, Next};
use super::mount::{Mounted, Unmount, has_ended};
use super::record::MountRecord;
use super::refuse::Refusing;
use super::signals::Signals;
use super::takeover::{DRAIN_MAX, word};
use super::worker::{Program, Worker};
use crate::seam::{Entropy, SystemEntropy};
use crate::vocab::{Error, Kind, Result, Token};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A worker that was told to stop for an upgrade and neither drained nor exited is killed after this.
/// How often the keeper looks whether the mount is still there while a worker serves it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const UPGRADE_PATIENCE: Duration = DRAIN_MAX.saturating_mul(2);

struct Keeper<'a> {
    options: &'a MountOptions,
    signals: Signals,
    mounted: Mounted,
    record: MountRecord,
    program: Program,
    worker: Option<Worker>,
    starts: u64,
    backoff: Backoff,
    refuser: Option<Refusing>,
    /// When the next worker is started, while there is none.
    start_at: Option<Instant>,
    /// The end has begun: the worker's death is no accident.
    stopping: bool,
    orders: Orders,
}

/// What signals have asked for and nobody has done yet.
#[derive(Default)]
struct Orders {
    stop: u32,
    upgrade: bool,
}

enum Start {
    Ready,
    Failed(String),
}

/// Mounts, calls `ready` when the mount is usable, and keeps it until it is unmounted or told to stop.
pub fn keep(options: &MountOptions, ready: impl FnOnce(&Result<()>)) -> Result<()> {
    let mut keeper = match Keeper::begin(options) {
        Ok(keeper) => keeper,
        Err(error) => {
            let outcome = Err(error);
            ready(&outcome);
            return outcome;
        }
    };
    ready(&Ok(()));
    tracing::info!(path = %keeper.mounted.point().display(), "mounted");
    keeper.run()
}

impl<'a> Keeper<'a> {
    fn begin(options: &'a MountOptions) -> Result<Self> {
        let signals = Signals::watch()?;
        warn_of_timeouts();
        // Best effort: only root may. Workers set their own.
        if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
            tracing::debug!(%error, "no oom_score_adj");
        }
        let program = Program::own()?;
        let mounted = Mounted::new(&options.mount_point, &options.source, options.allow_other)?;
        let record = MountRecord::create(Token(SystemEntropy.random_128()), mounted.init())?;
        let mut keeper = Self {
            options,
            signals,
            mounted,
            record,
            program,
            worker: None,
            starts: 0,
            backoff: Backoff::default(),
            refuser: None,
            start_at: None,
            stopping: false,
            orders: Orders::default(),
        };
        keeper.start()?;
        match keeper.await_start() {
            Start::Ready => Ok(keeper),
            Start::Failed(reason) => {
                keeper.kill();
                // Nobody can have had anything open: the descriptor goes with the keeper, and the mount too.
                keeper.mounted.unmount(Unmount::Lazy)?;
                Err(Error::new(Kind::Refused, reason))
            }
        }
    }

    fn run(&mut self) -> Result<()> {
        loop {
            // An order may have come while a worker was started: nothing would wake this one up for it.
            if self.orders.stop == 0 && !self.orders.upgrade {
                self.wait(None);
            }
            if self.orders.stop > 0 {
                return self.shut_down();
            }
            self.mind_the_worker();
            if self.is_gone() {
                return self.finish();
            }
            if std::mem::take(&mut self.orders.upgrade) {
                self.upgrade();
            }
            if let Some(refuser) = &mut self.refuser {
                refuser.refuse(self.mounted.device());
            }
            if self.worker.is_none() && self.start_at.is_none_or(|at| at <= Instant::now()) {
                self.start_or_count();
            }
        }
    }

    /// Waits for a signal, a word of the worker, a request to refuse or the time for the next step.
    fn wait(&mut self, limit: Option<Instant>) {
        let requests = if self.refuser.is_some() { PollFlags::IN } else { PollFlags::empty() };
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        // The kernel wakes everybody who polls the descriptor at each request of the mount. While a worker
        // serves, its end tells of the mount's: the keeper looks itself only in case the worker hangs.
        let served = self.worker.as_ref().is_some_and(|worker| worker.ready);
        let served = served && self.refuser.is_none() && !self.stopping;
        // Once the mount is gone its descriptor is always ready: nothing to wait for any more.
        if !served && !self.is_gone() {
            polled.push(PollFd::from_borrowed_fd(self.mounted.device().as_fd(), requests));
        }
        if let Some(worker) = &self.worker {
            polled.push(PollFd::from_borrowed_fd(worker.control(), PollFlags::IN));
        }
        let look = served.then(|| Instant::now() + LOOK_EVERY);
        let mut next = [limit, self.start_at.filter(|_| self.worker.is_none()), look];
        if let Some(worker) = self.worker.as_ref().filter(|worker| !worker.ready) {
            next[0] = limit.or(Some(worker.since + self.options.start_timeout));
        }
        let timeout = next.into_iter().flatten().min().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        // An interrupted or failed poll is one that found nothing: the loop looks at everything anyway.
        let _ = rustix::event::poll(&mut polled, timeout.as_ref());
        while let Some(signal) = self.signals.next() {
            match signal {
                libc::SIGTERM | libc::SIGINT => self.orders.stop += 1,
                libc::SIGHUP => self.orders.upgrade = true,
                _ => {}
            }
        }
    }

    /// Hears the worker, and reaps one that died.
    fn mind_the_worker(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        let was_ready = worker.ready;
        let hears = worker.hear();
        if worker.ready && !was_ready {
            tracing::info!(pid = worker.pid(), start = worker.start, took = ?worker.since.elapsed(), "serving");
        }
        if !worker.ready && worker.since.elapsed() >= self.options.start_timeout {
            tracing::error!(pid = worker.pid(), "the worker doesn't come up; it is killed");
            worker.kill();
            self.count_death("killed");
        } else if let Some(status) = worker.reap() {
            // Its last words may have come between hearing and reaping.
            worker.hear();
            self.count_death(&status.to_string());
        } else if !hears {
            // It has closed its socket and is about to exit: SIGCHLD follows, until then don't spin.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn count_death(&mut self, status: &str) {
        let Some(worker) = self.worker.take() else { return };
        if self.stopping || self.is_gone() {
            return;
        }
        let answered = self.record.answered().is_ok_and(|newest| newest == worker.start);
        let lived = worker.since.elapsed();
        match worker.failed {
            Some(reason) => tracing::error!(reason, "the worker can't start"),
            None => tracing::error!(pid = worker.pid(), status, answered, ?lived, "the worker died"),
        }
        let next = self.backoff.died(answered, lived, self.options.retry_after);
        self.follow(next);
    }

    fn follow(&mut self, next: Next) {
        let wait = match next {
            Next::Start(wait) => wait,
            Next::Refuse(wait) => {
                tracing::error!(
                    again_in = ?wait,
                    "no worker stays alive: writes and flushes fail with ENOSPC, all else with EIO"
                );
                self.refuser.get_or_insert_with(|| Refusing::new(self.mounted.device()));
                wait
            }
        };
        self.start_at = Some(Instant::now() + wait);
    }

    fn start(&mut self) -> Result<()> {
        if let Some(refuser) = self.refuser.take() {
            refuser.end(self.mounted.device());
        }
        self.starts += 1;
        self.start_at = None;
        let worker = Worker::spawn(
            &self.program,
            &self.options.worker_arguments,
            self.mounted.device().as_fd(),
            self.record.as_fd(),
            self.starts,
            self.mounted.point(),
        )?;
        self.worker = Some(worker);
        Ok(())
    }

    /// Starts a worker; one that can't even be started counts as one that died before it answered.
    fn start_or_count(&mut self) {
        if let Err(error) = self.start() {
            tracing::error!(%error, "no worker");
            let next = self.backoff.died(false, Duration::ZERO, self.options.retry_after);
            self.follow(next);
        }
    }

    /// Waits until the worker that was just started serves or has failed.
    fn await_start(&mut self) -> Start {
        loop {
            let end = Instant::now() + self.options.start_timeout;
            let end = self.worker.as_ref().map_or(end, |worker| worker.since + self.options.start_timeout);
            self.wait(Some(end));
            let Some(worker) = &mut self.worker else { return Start::Failed("there is no worker".into()) };
            worker.hear();
            let status = worker.reap();
            if status.is_some() {
                worker.hear();
            }
            if let Some(reason) = &worker.failed {
                return Start::Failed(reason.clone());
            }
            if let Some(status) = status {
                return Start::Failed(format!("the worker died while it started ({status})"));
            }
            if worker.ready {
                return Start::Ready;
            }
            if self.orders.stop > 0 {
                return Start::Failed("told to stop while the worker started".into());
            }
            if Instant::now() >= end {
                return Start::Failed(format!(
                    "the worker didn't come up in {:?}",
                    self.options.start_timeout
                ));
            }
        }
    }

    fn kill(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            worker.kill();
        }
    }

    /// Rule 5.
    fn upgrade(&mut self) {
        let since = Instant::now();
        if let Some(mut worker) = self.worker.take() {
            worker.tell(word::UPGRADE);
            let end = since + UPGRADE_PATIENCE;
            while worker.reap().is_none() {
                if Instant::now() >= end {
                    tracing::warn!("the worker doesn't stop for the upgrade; it is killed");
                    worker.kill();
                    break;
                }
                self.wait(Some((Instant::now() + Duration::from_millis(5)).min(end)));
            }
        }
        match self.program.newest() {
            Ok(newest) => {
                let old = std::mem::replace(&mut self.program, newest);
                let outcome = self.start().map(|()| self.await_start());
                match outcome {
                    Ok(Start::Ready) => {
                        tracing::info!(path = %self.program.path().display(), took = ?since.elapsed(), "upgraded");
                        return;
                    }
                    Ok(Start::Failed(reason)) => {
                        tracing::error!(reason, "the new program refuses; back to the old")
                    }
                    Err(error) => {
                        tracing::error!(%error, "the new program can't be started; back to the old")
                    }
                }
                self.kill();
                self.program = old;
            }
            Err(error) => tracing::error!(%error, "no new program; the old one goes on"),
        }
        self.start_at = None;
    }

    /// Unmounts, and ends.
    fn shut_down(&mut self) -> Result<()> {
        self.stopping = true;
        // Without a worker an orderly unmount could wait for an answer that nobody gives.
        let how = if self.worker.is_some() { Unmount::Orderly } else { Unmount::Lazy };
        if let Err(error) = self.mounted.unmount(how) {
            tracing::warn!(%error, "in use: taken out of the tree, users have some time to let go");
            self.mounted.unmount(Unmount::Lazy)?;
            let end = Instant::now() + self.options.busy_grace;
            while !self.is_gone() && Instant::now() < end && self.orders.stop < 2 {
                self.wait(Some(end));
                self.mind_the_worker();
            }
        }
        if let Some(worker) = self.worker.as_ref().filter(|_| !self.is_gone()) {
            worker.tell(word::UNMOUNT);
        }
        self.finish()
    }

    /// Waits for the worker to put everything in place. Killing it instead loses nothing that was promised.
    fn finish(&mut self) -> Result<()> {
        self.stopping = true;
        let end = Instant::now() + self.options.stop_timeout;
        let patience = self.orders.stop;
        while self.worker.is_some() {
            if Instant::now() >= end || self.orders.stop > patience.max(1) {
                tracing::warn!("the worker doesn't end; it is killed");
                self.kill();
                break;
            }
            self.wait(Some(end));
            self.mind_the_worker();
        }
        tracing::info!(path = %self.mounted.point().display(), "unmounted");
        Ok(())
    }

    /// Whether the mount has ended, by us or by somebody else.
    fn is_gone(&self) -> bool {
        has_ended(self.mounted.device())
    }
}

/// An administrator's limit aborts the whole mount when one answer takes longer, also while a worker restarts.
fn warn_of_timeouts() {
    for name in ["default_request_timeout", "max_request_timeout"] {
        let path = format!("/proc/sys/fs/fuse/{name}");
        if let Ok(seconds) = std::fs::read_to_string(&path)
            && seconds.trim() != "0"
        {
            tracing::warn!(path, seconds = seconds.trim(), "a slow answer ends the whole mount: set it to 0");
        }
    }
}
