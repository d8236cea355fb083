//! Waiting for a job, with progress on standard error.

use super::exit::{Exit, Failure};
use super::mount::Mount;
use super::sheet::Sheet;
use crate::protection::job::JobState;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// How often a job is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until the job has ended, or waits for a person. Gives its last `status`.
pub fn wait_for(mount: &Mount, job: &str, timeout: Option<Duration>, show: bool) -> Result<Sheet, Failure> {
    let begun = Instant::now();
    let bar = if show { bar() } else { ProgressBar::hidden() };
    let result = loop {
        let status = match mount.sheet(format!("jobs/{job}/status")) {
            Ok(status) => status,
            Err(failure) => break Err(failure),
        };
        let state = status.get("state").and_then(|word| word.parse::<JobState>().ok());
        let step = status.get("step").unwrap_or_default();
        let progress = status.get("progress").unwrap_or_default();
        if let Some(percent) = percent(progress) {
            bar.set_position(percent);
        }
        bar.set_message(format!("{step} {progress}"));
        match state {
            Some(state) if state.ended() => break ended(job, state, status),
            // These wait for a person; so do we, by letting the person know.
            Some(JobState::Testing | JobState::WaitingManual) => break Ok(status),
            None => {
                let what = format!("job {job}: its state isn't known to this version");
                break Err(Failure::new(Exit::Failed, what));
            }
            Some(_) => {}
        }
        let left = timeout.map_or(LOOK, |t| t.saturating_sub(begun.elapsed()));
        if left.is_zero() {
            let what = format!("job {job} hasn't ended in time and goes on; see jobs/{job}/status");
            break Err(Failure::new(Exit::TimedOut, what));
        }
        bar.tick();
        std::thread::sleep(left.min(LOOK));
    };
    bar.finish_and_clear();
    result
}

fn ended(job: &str, state: JobState, status: Sheet) -> Result<Sheet, Failure> {
    match state {
        JobState::Succeeded => Ok(status),
        JobState::Cancelled => Err(Failure::new(Exit::JobFailed, format!("job {job} was cancelled"))),
        _ => {
            let why = status.get("outcome").unwrap_or("see its log");
            let refusal = status.get("refusal").map(str::to_owned);
            let said = |name: &&String| !why.starts_with(&format!("{name}: "));
            let name = refusal.as_ref().filter(said).map(|r| format!("{r}: ")).unwrap_or_default();
            Err(Failure { exit: Exit::JobFailed, message: format!("job {job} failed: {name}{why}"), refusal })
        }
    }
}

/// The percentage that a `progress` line begins with.
fn percent(progress: &str) -> Option<u64> {
    progress.split_once('%').and_then(|(number, _)| number.trim().parse().ok())
}

/// Drawn on standard error, and only where that is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:30}] {msg}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::mount::Files;
    use std::fs;

    fn fake(status: &str) -> (tempfile::TempDir, Mount) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("jobs/j1")).unwrap();
        fs::write(dir.path().join("jobs/j1/status"), status).unwrap();
        let mount = Mount::new(dir.path(), Box::new(Files));
        (dir, mount)
    }

    fn code(status: &str) -> Exit {
        let (_dir, mount) = fake(status);
        wait_for(&mount, "j1", Some(Duration::from_millis(300)), false).map_or_else(|f| f.exit, |_| Exit::Ok)
    }

    #[test]
    fn each_end_has_its_code() {
        assert_eq!(code("state: succeeded\n"), Exit::Ok);
        assert_eq!(code("state: failed\noutcome: no room\n"), Exit::JobFailed);
        assert_eq!(code("state: cancelled\n"), Exit::JobFailed);
        assert_eq!(code("state: running\nprogress: 25% 1MiB of 4MiB\n"), Exit::TimedOut);
        assert_eq!(code("state: testing\n"), Exit::Ok);
        assert_eq!(code("state: dreaming\n"), Exit::Failed);
        let (_dir, mount) = fake("");
        assert_eq!(wait_for(&mount, "j2", None, false).unwrap_err().exit, Exit::NotFound);
    }

    #[test]
    fn a_job_that_ends_meanwhile() {
        let (dir, mount) = fake("state: running\n");
        let path = dir.path().join("jobs/j1/status");
        let daemon = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(250));
            // Replaced at once, as a mount shows it: never half of it.
            fs::write(path.with_extension("new"), "state: failed\nrefusal: no-space\noutcome: too little\n")
                .unwrap();
            fs::rename(path.with_extension("new"), &path).unwrap();
        });
        let failure = wait_for(&mount, "j1", Some(Duration::from_secs(30)), false).unwrap_err();
        daemon.join().unwrap();
        assert_eq!(failure.exit, Exit::JobFailed);
        assert_eq!(failure.message, "job j1 failed: no-space: too little");
        assert_eq!(failure.refusal.as_deref(), Some("no-space"));
    }

    #[test]
    fn percentages() {
        assert_eq!(percent("25% 1MiB of 4MiB"), Some(25));
        assert_eq!(percent("copy"), None);
    }
}
