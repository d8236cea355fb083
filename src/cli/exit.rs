//! Exit codes, and errors that carry one.

use std::fmt;
use std::io;

/// What the process ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No such VM, group, point, job or mount.
    NotFound = 3,
    /// Refused in this state.
    Refused = 4,
    /// The peer can't be reached.
    Unreachable = 5,
    /// The job didn't end in time; it goes on.
    TimedOut = 6,
    /// The job failed or was cancelled.
    JobFailed = 7,
    /// Fenced, or an expectation on the line doesn't hold.
    Stale = 8,
}

/// Words for a person, and the code to end with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What failed and what to do.
    pub message: String,
    /// The name of the refusal, if there is one.
    pub refusal: Option<String>,
}

impl Failure {
    /// A failure with this code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), refusal: None }
    }

    /// What a system call on a file of the mount said.
    pub fn io(error: &io::Error, what: impl fmt::Display) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => error.raw_os_error().map_or(Exit::Failed, from_errno),
        };
        Self::new(exit, format!("{what}: {error}"))
    }

    /// A refused command: the code follows the name where it says more than the errno.
    pub fn refused(name: &str, why: &str, remedy: &str, errno: i32) -> Self {
        let exit = if name == "fenced" { Exit::Stale } else { from_errno(errno) };
        let exit = if exit == Exit::Failed && errno != libc::EIO { Exit::Refused } else { exit };
        Self { exit, message: format!("{name}: {why}. {remedy}"), refusal: Some(name.to_owned()) }
    }
}

fn from_errno(errno: i32) -> Exit {
    match errno {
        libc::EINVAL | libc::E2BIG => Exit::Usage,
        libc::ENOENT => Exit::NotFound,
        libc::EPERM | libc::EBUSY | libc::ENOSPC | libc::EROFS => Exit::Refused,
        libc::ENOTCONN => Exit::Unreachable,
        libc::ESTALE => Exit::Stale,
        _ => Exit::Failed,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
