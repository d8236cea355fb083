//! Jobs: what a command that takes time is doing, as a person and a script see it.
//!
//! 1. A job that has ended never changes again.
//! 2. Steps begin in order; a step ends before the next begins.
//! 3. Within a step progress never goes back and never passes its total.

use super::names::words;
use super::{Refusal, WallTime, size_text, text_time};
use serde::{Deserialize, Serialize};

words!(
    /// What a job does.
    JobKind ("kind of job") {
        /// The first copy.
        Protect = "protect",
        /// Behind it: the first moment at the target becomes a recovery point.
        FinalizeProtection = "finalize-protection",
        /// Ends a protection.
        Unprotect = "unprotect",
        /// Sends again what differs.
        Resync = "resync",
        /// Takes over without consent.
        Failover = "failover",
        /// Takes over with consent.
        PlannedFailover = "planned-failover",
        /// The same at the original site.
        Failback = "failback",
        /// Goes to another moment.
        ChangeRecoveryPoint = "change-recovery-point",
        /// Takes a failover back.
        Rollback = "rollback",
        /// Makes a failover final.
        Commit = "commit",
        /// Builds the way back.
        Reprotect = "reprotect",
        /// A test failover, until it is cleaned up.
        TestFailover = "test-failover",
        /// Deletes a branch, a seed or a clone.
        Drop = "drop",
        /// Compares both sites.
        Scrub = "scrub",
        /// Takes an image file in.
        Import = "import",
    }
);

words!(
    /// Where a job stands.
    JobState ("state of a job") {
        /// Admitted, not begun.
        Waiting = "waiting",
        /// At work.
        Running = "running",
        /// Waits for the peer.
        WaitingPeer = "waiting-peer",
        /// Waits for a person: `done`.
        WaitingManual = "waiting-manual",
        /// A test is open.
        Testing = "testing",
        /// Done.
        Succeeded = "succeeded",
        /// Ended without doing it.
        Failed = "failed",
        /// Stopped by a person.
        Cancelled = "cancelled",
    }
);

impl JobState {
    /// Whether it is over.
    pub fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// One step of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it does, in a few words.
    pub name: String,
    /// When it began, wall time.
    pub started: Option<WallTime>,
    /// When it ended.
    pub ended: Option<WallTime>,
    /// What there is to say, e.g. the way chosen and why.
    #[serde(default)]
    pub note: String,
    /// Bytes done and to do.
    pub progress: Option<Progress>,
}

/// How far a step is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; may grow.
    pub total: u64,
    /// Bytes a second, lately.
    pub rate: u64,
}

impl Progress {
    /// Percent done, rounded down; 100 only when all is done.
    pub fn percent(self) -> u64 {
        if self.total == 0 { 100 } else { (u128::from(self.done) * 100 / u128::from(self.total)) as u64 }
    }

    /// Seconds left at the present rate.
    pub fn seconds_left(self) -> Option<u64> {
        let left = self.total.saturating_sub(self.done);
        if left == 0 { Some(0) } else { (self.rate > 0).then(|| left.div_ceil(self.rate)) }
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The name of its directory in `jobs/`.
    pub id: String,
    /// What it does.
    pub kind: JobKind,
    /// The VM, group or file that it concerns.
    pub subject: String,
    /// The line that began it.
    pub command: String,
    /// Where it stands.
    pub state: JobState,
    /// Its steps.
    pub steps: Vec<Step>,
    /// Wall time at which it was admitted.
    pub created: WallTime,
    /// Wall time at which it ended.
    pub ended: Option<WallTime>,
    /// What came of it; with a failed one, why.
    #[serde(default)]
    pub outcome: String,
    /// With a failed one: the name of the refusal, if there is one.
    pub refusal: Option<Refusal>,
}

impl Job {
    /// A job with these steps, not begun.
    pub fn new(
        id: impl Into<String>,
        kind: JobKind,
        subject: impl Into<String>,
        command: impl Into<String>,
        steps: &[&str],
        now: WallTime,
    ) -> Self {
        let step = |name: &&str| Step {
            name: (*name).to_owned(),
            started: None,
            ended: None,
            note: String::new(),
            progress: None,
        };
        Self {
            id: id.into(),
            kind,
            subject: subject.into(),
            command: command.into(),
            state: JobState::Waiting,
            steps: steps.iter().map(step).collect(),
            created: now,
            ended: None,
            outcome: String::new(),
            refusal: None,
        }
    }

    /// The step under way, with its number from 1.
    pub fn current(&self) -> Option<(usize, &Step)> {
        let at = self.steps.iter().position(|s| s.started.is_some() && s.ended.is_none())?;
        Some((at + 1, &self.steps[at]))
    }

    /// Ends the step under way and begins the next one. False: there is none, or the job is over.
    pub fn next_step(&mut self, now: WallTime) -> bool {
        if self.state.ended() {
            return false;
        }
        self.end_step(now);
        let Some(next) = self.steps.iter_mut().find(|s| s.started.is_none()) else { return false };
        next.started = Some(now);
        self.state = JobState::Running;
        true
    }

    /// Waits, or goes on. Endings go through [`Self::finish`].
    pub fn set_state(&mut self, state: JobState) {
        if !self.state.ended() && !state.ended() {
            self.state = state;
        }
    }

    /// Bytes of the step under way. What would go back is ignored.
    pub fn progress(&mut self, done: u64, total: u64, rate: u64) {
        if self.state.ended() {
            return;
        }
        if let Some(step) = self.steps.iter_mut().find(|s| s.started.is_some() && s.ended.is_none()) {
            let before = step.progress.unwrap_or_default();
            let total = total.max(before.total);
            step.progress = Some(Progress { done: done.max(before.done).min(total), total, rate });
        }
    }

    /// A remark on the step under way, or on the last one.
    pub fn note(&mut self, text: impl Into<String>) {
        if self.state.ended() {
            return;
        }
        if let Some(step) = self.steps.iter_mut().rev().find(|s| s.started.is_some()) {
            step.note = text.into();
        }
    }

    /// Ends the job. Later calls change nothing.
    pub fn finish(
        &mut self,
        state: JobState,
        outcome: impl Into<String>,
        refusal: Option<Refusal>,
        now: WallTime,
    ) {
        if self.state.ended() || !state.ended() {
            return;
        }
        self.end_step(now);
        (self.state, self.outcome, self.refusal, self.ended) = (state, outcome.into(), refusal, Some(now));
    }

    fn end_step(&mut self, now: WallTime) {
        if let Some(step) = self.steps.iter_mut().find(|s| s.started.is_some() && s.ended.is_none()) {
            step.ended = Some(now);
        }
    }

    /// The file `status`.
    pub fn status_text(&self) -> String {
        let mut lines = vec![
            ("job", self.id.clone()),
            ("kind", self.kind.to_string()),
            ("subject", self.subject.clone()),
            ("command", self.command.clone()),
            ("state", self.state.to_string()),
            ("created", text_time(self.created)),
        ];
        if let Some((number, step)) = self.current() {
            lines.push(("step", format!("{number}/{} {}", self.steps.len(), step.name)));
        }
        lines.push(("progress", self.progress_text()));
        lines.extend(self.ended.map(|time| ("ended", text_time(time))));
        lines.extend(self.refusal.map(|refusal| ("refusal", refusal.to_string())));
        if !self.outcome.is_empty() {
            lines.push(("outcome", self.outcome.clone()));
        }
        lines.into_iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
    }

    /// One line for the file `progress`.
    pub fn progress_text(&self) -> String {
        let done = self.steps.iter().filter(|s| s.ended.is_some()).count();
        let Some((_, step)) = self.current() else { return format!("{done} of {} steps", self.steps.len()) };
        let Some(p) = step.progress else { return step.name.clone() };
        let mut text = format!("{}% {} of {}", p.percent(), size_text(p.done), size_text(p.total));
        if let Some(seconds) = p.seconds_left().filter(|_| p.rate > 0) {
            text.push_str(&format!(", {}/s, {seconds}s left", size_text(p.rate)));
        }
        text
    }

    /// `status.json`: everything, times as text too.
    pub fn json(&self) -> serde_json::Value {
        let step = |s: &Step| {
            serde_json::json!({
                "name": s.name,
                "started": s.started.map(text_time),
                "ended": s.ended.map(text_time),
                "note": s.note,
                "progress": s.progress.map(|p| serde_json::json!({
                    "done": p.done, "total": p.total, "rate": p.rate,
                    "percent": p.percent(), "seconds-left": p.seconds_left(),
                })),
            })
        };
        serde_json::json!({
            "job": self.id,
            "kind": self.kind,
            "subject": self.subject,
            "command": self.command,
            "state": self.state,
            "created": text_time(self.created),
            "ended": self.ended.map(text_time),
            "outcome": self.outcome,
            "refusal": self.refusal,
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job::new("j7", JobKind::Protect, "web01", "protect to=london", &["prepare", "copy", "publish"], 0)
    }

    #[test]
    fn a_job_as_it_goes() {
        let mut job = job();
        assert_eq!(job.progress_text(), "0 of 3 steps");
        assert!(job.next_step(1_000_000_000));
        assert_eq!(job.current().map(|(n, s)| (n, s.name.clone())), Some((1, "prepare".into())));
        assert!(job.next_step(2_000_000_000));
        job.note("way: full, because there is no image");
        job.progress(1 << 20, 4 << 20, 1 << 20);
        assert_eq!(
            job.status_text(),
            "job: j7\nkind: protect\nsubject: web01\ncommand: protect to=london\nstate: running\n\
             created: 1970-01-01T00:00:00.000Z\nstep: 2/3 copy\n\
             progress: 25% 1MiB of 4MiB, 1MiB/s, 3s left\n"
        );
        job.set_state(JobState::WaitingPeer);
        assert_eq!(job.state, JobState::WaitingPeer);
        assert!(job.next_step(3_000_000_000));
        assert!(!job.next_step(4_000_000_000));
        job.finish(JobState::Succeeded, "protected", None, 5_000_000_000);
        assert!(
            job.status_text()
                .ends_with("progress: 3 of 3 steps\nended: 1970-01-01T00:00:05.000Z\noutcome: protected\n")
        );
        let json = job.json();
        assert_eq!(json["steps"][1]["progress"]["percent"], 25);
        assert_eq!(json["steps"][1]["note"], "way: full, because there is no image");
        assert_eq!(json["state"], "succeeded");
        let stored = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&stored).unwrap(), job);
    }

    #[test]
    fn what_has_ended_never_changes() {
        let mut job = job();
        job.next_step(1);
        job.finish(JobState::Running, "no ending", None, 2);
        assert_eq!(job.state, JobState::Running);
        job.finish(JobState::Failed, "no room", Some(Refusal::NoSpace), 2);
        let ended = job.clone();
        job.finish(JobState::Succeeded, "late", None, 3);
        job.set_state(JobState::Running);
        job.progress(1, 2, 3);
        job.note("late");
        assert!(!job.next_step(4));
        assert_eq!(job, ended);
        assert!(job.status_text().contains("refusal: no-space\n"));
    }

    #[test]
    fn progress_never_goes_back() {
        let mut job = job();
        job.next_step(0);
        job.progress(50, 100, 0);
        job.progress(40, 90, 0);
        assert_eq!(job.current().unwrap().1.progress, Some(Progress { done: 50, total: 100, rate: 0 }));
        job.progress(300, 200, 1);
        assert_eq!(job.progress_text(), "100% 200B of 200B, 1B/s, 0s left");
        assert_eq!(Progress { done: 99_999, total: 100_000, rate: 0 }.percent(), 99);
        assert_eq!(Progress::default().percent(), 100);
        assert_eq!(Progress { done: 1, total: u64::MAX, rate: 0 }.seconds_left(), None);
    }
}
