//! What a demo says to a site and hears of it, by the files of its mount.

use super::stage::Stage;
use crate::cli::exit::Failure;
use crate::cli::mount::{Answer, Files, Mount};
use crate::cli::sheet::Sheet;
use crate::cli::wait::wait_for;
use crate::vocab::{Error, Kind, Result};
use std::time::{Duration, Instant};

/// How long a command or a condition may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The end of a line that is longer isn't shown: a token.
const SHOWN_MAX: usize = 60;

fn error(failure: Failure) -> Error {
    Error::new(Kind::Refused, failure.message)
}

impl Stage {
    fn site(&self) -> Mount {
        Mount::new(self.mount(), Box::new(Files))
    }

    /// The lines of a file.
    pub fn sheet(&self, file: &str) -> Result<Sheet> {
        self.site().sheet(file).map_err(error)
    }

    /// Writes a line that is done when the write returns; what there is to say.
    pub fn write(&self, file: &str, line: &str) -> Result<String> {
        match self.exchange(file, line)? {
            Answer::Done(says) => Ok(says),
            other => Err(Error::new(Kind::Refused, format!("{file}: `{line}`: {other:?} was not expected"))),
        }
    }

    /// Writes a line that begins a job, and waits for its end.
    pub fn command(&self, file: &str, line: &str) -> Result<()> {
        let Answer::Job(job) = self.exchange(file, line)? else {
            return Err(Error::new(Kind::Refused, format!("{file}: `{line}` began no job")));
        };
        let status = wait_for(&self.site(), &job, Some(PATIENCE), false).map_err(error)?;
        println!("   $ cat {}", self.mount().join("jobs").join(&job).join("status").display());
        println!("   {}: {}", status.show("state"), status.show("outcome"));
        Ok(())
    }

    fn exchange(&self, file: &str, line: &str) -> Result<Answer> {
        let shown: String = line.chars().take(SHOWN_MAX).collect();
        let cut = if shown.len() < line.len() { "…" } else { "" };
        println!("   $ echo {shown}{cut} > {}", self.mount().join(file).display());
        self.site().command(file, line).map_err(error)
    }

    /// Waits until something holds at the site.
    pub fn until(
        &self,
        what: &str,
        holds: impl Fn(&Mount) -> std::result::Result<bool, Failure>,
    ) -> Result<()> {
        let begun = Instant::now();
        while !holds(&self.site()).map_err(error)? {
            if begun.elapsed() > PATIENCE {
                return Err(Error::new(Kind::Io, format!("not within {} s: {what}", PATIENCE.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
