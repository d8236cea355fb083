//! Jobs of a store: objects that survive a restart, their logs, and who is in whose way.
//!
//! J1. A job is durable before `admit` returns, and so is every step and its end.
//! J2. One job that changes a group runs at a time; an open test is in nobody's way.
//! J3. A job that a restart interrupted is neither lost nor called failed: `open` names it, and whoever knows
//!     the group's history goes on with it or ends it. The history is the truth, the job its picture.
//! J4. Ids are never reused.

use crate::protection::job::{Job, JobKind, JobState};
use crate::protection::{Refusal, WallTime};
use crate::seam::Clock;
use crate::site::catalog::{Catalog, Object};
use crate::site::lines::LineFile;
use crate::vocab::{Error, GroupId, Kind, Result};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod workers;

pub use workers::{JobHandle, Workers};

/// Ended jobs that are kept.
pub const ENDED_MAX: usize = 1000;
const FOLDER: &str = "jobs";
const COUNTER: &str = "catalog/next-job.json";
/// A counter is written once for so many ids.
const IDS_AHEAD: u64 = 64;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredJob {
    job: Job,
    group: Option<GroupId>,
    exclusive: bool,
    number: u64,
}

impl Object for StoredJob {
    const FOLDER: &'static str = FOLDER;
    fn key(&self) -> String {
        self.job.id.clone()
    }
}

impl StoredJob {
    fn is_in_the_way(&self) -> bool {
        self.exclusive && !self.job.state.ended() && self.job.state != JobState::Testing
    }
}

struct Entry {
    stored: StoredJob,
    cancel: bool,
    log: Option<LineFile>,
}

struct State {
    jobs: BTreeMap<u64, Entry>,
    next: u64,
    /// Ids below this are covered by the counter on disk.
    covered: u64,
}

/// All jobs of a store.
pub struct Jobs {
    catalog: Catalog,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Condvar,
}

fn number_of(id: &str) -> Option<u64> {
    id.strip_prefix('j')?.parse().ok()
}

impl Jobs {
    /// Reads the jobs of a store. The second value: those that a restart interrupted, oldest first; third: what
    /// is damaged.
    pub fn open(catalog: Catalog, clock: Arc<dyn Clock>) -> Result<(Self, Vec<Job>, Vec<Error>)> {
        let (stored, damaged) = catalog.list::<StoredJob>()?;
        let covered: u64 = catalog.get_at(Path::new(COUNTER))?.unwrap_or(1);
        let mut jobs = BTreeMap::new();
        for stored in stored {
            jobs.insert(stored.number, Entry { stored, cancel: false, log: None });
        }
        // Also those whose files are damaged or deleted were below the counter.
        let next = jobs.last_key_value().map_or(covered, |(last, _)| covered.max(last + 1));
        let open: Vec<Job> =
            jobs.values().map(|e| &e.stored.job).filter(|j| !j.state.ended()).cloned().collect();
        let state = Mutex::new(State { jobs, next, covered });
        Ok((Self { catalog, clock, state, changed: Condvar::new() }, open, damaged))
    }

    /// Makes a job; durable when this returns. `exclusive`: it changes the group, so it is refused `busy` while
    /// another such one runs.
    pub fn admit(
        &self,
        kind: JobKind,
        subject: &str,
        group: Option<GroupId>,
        exclusive: bool,
        command: &str,
        steps: &[&str],
    ) -> Result<Job> {
        let mut state = self.state.lock();
        if let Some(entry) = state
            .jobs
            .values()
            .find(|e| exclusive && group.is_some() && e.stored.group == group && e.stored.is_in_the_way())
        {
            let job = &entry.stored.job;
            return Err(Error::new(Kind::Busy, format!("the job {} ({})", job.id, job.kind))
                .named(Refusal::Busy.name())
                .advice(format!("Wait for it, or `echo cancel > jobs/{}/control`", job.id)));
        }
        let number = state.next;
        if number >= state.covered {
            self.catalog.put_at(Path::new(COUNTER), &(number + IDS_AHEAD))?;
            state.covered = number + IDS_AHEAD;
        }
        let job = Job::new(format!("j{number}"), kind, subject, command, steps, self.now());
        let stored = StoredJob { job: job.clone(), group, exclusive, number };
        self.catalog.put(&stored)?;
        state.next = number + 1;
        state.jobs.insert(number, Entry { stored, cancel: false, log: None });
        Ok(job)
    }

    /// Changes a job; durable when this returns. A job that has ended doesn't change.
    pub fn update(&self, id: &str, change: impl FnOnce(&mut Job, WallTime)) -> Result<()> {
        let mut state = self.state.lock();
        let entry = entry(&mut state, id)?;
        let mut stored = entry.stored.clone();
        change(&mut stored.job, self.now());
        if stored != entry.stored {
            self.catalog.put(&stored)?;
            entry.stored = stored;
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Bytes of the present step. In memory only: the next step, and the end, are durable.
    pub fn progress(&self, id: &str, done: u64, total: u64, rate: u64) {
        if let Ok(entry) = entry(&mut self.state.lock(), id) {
            entry.stored.job.progress(done, total, rate);
        }
    }

    /// Appends a line to a job's log.
    pub fn log(&self, id: &str, text: &str) -> Result<()> {
        let now = crate::protection::text_time(self.now());
        let mut state = self.state.lock();
        let entry = entry(&mut state, id)?;
        if entry.log.is_none() {
            entry.log = Some(LineFile::open(self.catalog.storage().as_ref(), &log_path(id))?);
        }
        let Some(log) = &mut entry.log else { return Ok(()) };
        for line in text.lines() {
            let printable: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            log.append(&format!("{now} {printable}"), false)?;
        }
        Ok(())
    }

    /// Reads at most `max` bytes of a job's log from `offset`.
    pub fn read_log(&self, id: &str, offset: u64, max: usize) -> Result<Vec<u8>> {
        let mut state = self.state.lock();
        let entry = entry(&mut state, id)?;
        if let Some(log) = &entry.log {
            return log.read(offset, max);
        }
        if !self.catalog.storage().exists(&log_path(id))? {
            return Ok(Vec::new());
        }
        LineFile::open(self.catalog.storage().as_ref(), &log_path(id))?.read(offset, max)
    }

    /// A job.
    pub fn get(&self, id: &str) -> Option<Job> {
        Some(self.state.lock().jobs.get(&number_of(id)?)?.stored.job.clone())
    }

    /// All jobs, oldest first.
    pub fn list(&self) -> Vec<Job> {
        self.state.lock().jobs.values().map(|e| e.stored.job.clone()).collect()
    }

    /// Jobs that have not ended, of the kinds that are asked for, oldest first.
    pub fn open_ones(&self, of: impl Fn(JobKind) -> bool) -> Vec<Job> {
        let state = self.state.lock();
        let jobs = state.jobs.values().map(|e| &e.stored.job);
        jobs.filter(|job| !job.state.ended() && of(job.kind)).cloned().collect()
    }

    /// The job that is in the way of another one that changes this group.
    pub fn at_work_on(&self, group: GroupId) -> Option<Job> {
        let state = self.state.lock();
        let found = state.jobs.values().find(|e| e.stored.group == Some(group) && e.stored.is_in_the_way());
        found.map(|e| e.stored.job.clone())
    }

    /// Asks a job to stop; whoever works on it decides whether it still can. Refused if it has ended.
    pub fn cancel(&self, id: &str) -> Result<()> {
        let mut state = self.state.lock();
        let entry = entry(&mut state, id)?;
        if entry.stored.job.state.ended() {
            return Err(Error::refused(Refusal::NoJob.name(), format!("the job {id} has ended")));
        }
        entry.cancel = true;
        self.changed.notify_all();
        Ok(())
    }

    /// Whether a job was asked to stop.
    pub fn is_cancelled(&self, id: &str) -> bool {
        entry(&mut self.state.lock(), id).is_ok_and(|e| e.cancel)
    }

    /// Waits until `found` says something of the job, or it is asked to stop, or the time is over.
    pub fn wait<T>(&self, id: &str, wait: Duration, found: impl Fn(&Job) -> Option<T>) -> Option<T> {
        let until = Instant::now() + wait;
        let mut state = self.state.lock();
        loop {
            let entry = state.jobs.get(&number_of(id)?)?;
            let answer = found(&entry.stored.job);
            if answer.is_some() || entry.cancel || self.changed.wait_until(&mut state, until).timed_out() {
                return answer;
            }
        }
    }

    /// Deletes the oldest ended jobs beyond [`ENDED_MAX`].
    pub fn clean(&self) -> Result<()> {
        let mut state = self.state.lock();
        let ended: Vec<u64> = state
            .jobs
            .iter()
            .filter(|(_, e)| e.stored.job.state.ended())
            .map(|(number, _)| *number)
            .collect();
        for number in &ended[..ended.len().saturating_sub(ENDED_MAX)] {
            let id = format!("j{number}");
            self.catalog.delete_at(&log_path(&id))?;
            self.catalog.delete::<StoredJob>(&id)?;
            state.jobs.remove(number);
        }
        Ok(())
    }

    fn now(&self) -> WallTime {
        self.clock.wall_ns()
    }
}

fn log_path(id: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{id}.log"))
}

fn entry<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Entry> {
    number_of(id)
        .and_then(|number| state.jobs.get_mut(&number))
        .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no job `{id}`")))
}

#[cfg(test)]
mod tests;
