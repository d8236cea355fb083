//! What goes wrong on command.

use crate::vocab::Error;
use std::fmt;

/// Kinds of storage calls, for faults and for counting.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Opening what exists.
    Open,
    /// Reading, lengths, holes, listing and looking up.
    Read,
    /// Writing, plain or durable.
    Write,
    /// Syncing a file.
    Sync,
    /// Setting a length.
    SetLen,
    /// Allocating ahead.
    Allocate,
    /// Punching and zeroing.
    Punch,
    /// Making a file.
    Create,
    /// Renaming.
    Rename,
    /// Removing a file or a directory.
    Remove,
    /// Making a directory.
    MakeDir,
    /// Syncing a directory.
    SyncDir,
}

impl Class {
    /// Whether such a call can change something, so that it is counted and a crash can hit it.
    pub fn changes(self) -> bool {
        !matches!(self, Self::Open | Self::Read)
    }
}

/// An error to come. By default the next call of its class fails once with EIO.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    class: Class,
    errno: i32,
    skip: u64,
    times: u64,
    path: String,
}

impl Fault {
    /// Calls of this class fail.
    pub fn of(class: Class) -> Self {
        Self { class, errno: libc::EIO, skip: 0, times: 1, path: String::new() }
    }

    /// Which of the calls from now on fails first: 1 is the next.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.skip = n.saturating_sub(1);
        self
    }

    /// How many calls fail.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// All calls fail until [`SimDevice::clear_faults`](super::SimDevice::clear_faults).
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// The errno that they fail with.
    #[must_use]
    pub fn errno(mut self, errno: i32) -> Self {
        self.errno = errno;
        self
    }

    /// Only calls on paths that contain this text count.
    #[must_use]
    pub fn on(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    pub(super) fn fires(&mut self, class: Class, shown: &str) -> Option<i32> {
        if self.class != class || self.is_over() || !shown.contains(&self.path) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times -= u64::from(self.times != u64::MAX);
        Some(self.errno)
    }

    pub(super) fn is_over(&self) -> bool {
        self.times == 0
    }
}

/// Why a caller hears nothing from its storage any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    PowerLoss,
    Killed,
}

impl Gone {
    pub(super) fn error(self, shown: &str) -> Error {
        Error::io(std::io::Error::other(self), "simulated").at(shown)
    }

    fn of(error: &Error) -> Option<Self> {
        let source = std::error::Error::source(error)?.downcast_ref::<std::io::Error>()?;
        source.get_ref()?.downcast_ref::<Self>().copied()
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerLoss => "the machine has lost power",
            Self::Killed => "the process was killed",
        })
    }
}

impl std::error::Error for Gone {}

/// Whether a call failed because the simulated machine has no power, or had none since its file was opened.
pub fn is_power_loss(error: &Error) -> bool {
    Gone::of(error) == Some(Gone::PowerLoss)
}

/// Whether a call failed because its simulated process was killed.
pub fn is_killed(error: &Error) -> bool {
    Gone::of(error) == Some(Gone::Killed)
}
