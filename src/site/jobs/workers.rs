//! The threads that work on jobs.
//!
//! W1. At most `threads_max` jobs are worked on at once; the others wait in their order.
//! W2. A job whose work is over has ended, whatever became of the work, unless the daemon is shutting down:
//!     then it stays as it is and goes on after the start.

use super::Jobs;
use crate::protection::Refusal;
use crate::protection::job::{JobKind, JobState};
use crate::vocab::{Error, Kind, Result};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

const CANCELLED: &str = "cancelled";
const STOPPING: &str = "shutting-down";

pub(super) type Work = Box<dyn FnOnce(&JobHandle) -> Result<String> + Send>;

#[derive(Default)]
struct State {
    waiting: VecDeque<(String, Work)>,
    threads: usize,
    idle: usize,
    stopping: bool,
}

struct Shared {
    jobs: Arc<Jobs>,
    threads_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// Threads for jobs, started as they are needed. Dropping it asks all work to stop and waits for it.
pub struct Workers(Arc<Shared>);

/// What work on a job knows of it.
pub struct JobHandle {
    shared: Arc<Shared>,
    id: String,
}

impl Workers {
    /// At most `threads_max` jobs at once.
    pub fn new(jobs: Arc<Jobs>, threads_max: usize) -> Self {
        let threads_max = threads_max.max(1);
        Self(Arc::new(Shared { jobs, threads_max, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// Works on a job that was admitted. The work's value becomes the job's outcome.
    pub fn start(
        &self,
        id: &str,
        work: impl FnOnce(&JobHandle) -> Result<String> + Send + 'static,
    ) -> Result<()> {
        let mut state = self.0.state.lock();
        state.waiting.push_back((id.to_owned(), Box::new(work)));
        if state.idle < state.waiting.len() && state.threads < self.0.threads_max {
            let shared = Arc::clone(&self.0);
            std::thread::Builder::new()
                .name("standbyfs-job".into())
                .spawn(move || shared.run())
                .map_err(|e| Error::io(e, "can't start a thread for a job"))?;
            state.threads += 1;
        }
        self.0.changed.notify_all();
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.stopping = true;
        state.waiting.clear();
        self.0.changed.notify_all();
        while state.threads > 0 {
            // Work looks at `check` at least every few seconds; a hook has its own time-out.
            if self.0.changed.wait_for(&mut state, Duration::from_secs(10)).timed_out() {
                tracing::warn!(threads = state.threads, "jobs are still at work while the site shuts down");
                return;
            }
        }
    }
}

impl Shared {
    fn run(self: Arc<Self>) {
        loop {
            let (id, work) = {
                let mut state = self.state.lock();
                loop {
                    if state.stopping {
                        state.threads -= 1;
                        self.changed.notify_all();
                        return;
                    }
                    if let Some(next) = state.waiting.pop_front() {
                        break next;
                    }
                    state.idle += 1;
                    self.changed.wait(&mut state);
                    state.idle -= 1;
                }
            };
            let handle = JobHandle { shared: Arc::clone(&self), id };
            // Release builds abort at a panic; in others one job's panic must not leave it running for ever.
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| work(&handle))).unwrap_or_else(|_| {
                Err(Error::new(
                    Kind::Invalid,
                    "the work on this job failed in a way that is a mistake of this program",
                ))
            });
            handle.finish(result);
        }
    }
}

impl JobHandle {
    /// The job's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Begins the next step, durably.
    pub fn next_step(&self) -> Result<()> {
        self.shared.jobs.update(&self.id, |job, now| {
            job.next_step(now);
        })
    }

    /// A remark on the present step, durably.
    pub fn note(&self, text: &str) -> Result<()> {
        self.shared.jobs.update(&self.id, |job, _| job.note(text))
    }

    /// Waits for something, or goes on, durably.
    pub fn set_state(&self, state: JobState) -> Result<()> {
        self.shared.jobs.update(&self.id, |job, _| job.set_state(state))
    }

    /// Bytes of the present step.
    pub fn progress(&self, done: u64, total: u64, rate: u64) {
        self.shared.jobs.progress(&self.id, done, total, rate);
    }

    /// A line in the job's log. What can't be logged stops no job.
    pub fn log(&self, text: &str) {
        if let Err(error) = self.shared.jobs.log(&self.id, text) {
            tracing::warn!(job = %self.id, %error, "can't write a job's log");
        }
    }

    /// What kind of job it is.
    pub fn kind(&self) -> Option<JobKind> {
        self.shared.jobs.get(&self.id).map(|job| job.kind)
    }

    /// Work calls this where it can stop: an error ends it, as cancelled or to go on after the next start.
    pub fn check(&self) -> Result<()> {
        if self.shared.state.lock().stopping {
            return Err(Error::refused(STOPPING, "the site is shutting down"));
        }
        if self.shared.jobs.is_cancelled(&self.id) {
            return Err(Error::refused(CANCELLED, "stopped by command"));
        }
        Ok(())
    }

    /// Sleeps, at most until the job is asked to stop or changes.
    pub fn pause(&self, time: Duration) -> Result<()> {
        let mut left = time;
        loop {
            self.check()?;
            if left.is_zero() {
                return Ok(());
            }
            let piece = left.min(Duration::from_millis(200));
            std::thread::sleep(piece);
            left -= piece;
        }
    }

    fn finish(&self, result: Result<String>) {
        let ended = match &result {
            Ok(outcome) => self
                .shared
                .jobs
                .update(&self.id, |job, now| job.finish(JobState::Succeeded, outcome, None, now)),
            Err(error) if error.name() == Some(STOPPING) => Ok(()),
            Err(error) => self.shared.jobs.update(&self.id, |job, now| {
                let state =
                    if error.name() == Some(CANCELLED) { JobState::Cancelled } else { JobState::Failed };
                let refusal = error.name().and_then(|name| name.parse::<Refusal>().ok());
                job.finish(state, error.to_string(), refusal, now);
            }),
        };
        if let Err(error) = ended {
            tracing::error!(job = %self.id, %error, "the end of a job couldn't be kept; it is found at the next start");
        }
    }
}
