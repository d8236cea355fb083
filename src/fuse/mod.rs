//! Layer 3. The mount: adapter, keeper, takeover.
//!
//! A daemon's way in is [`run`]. It makes two processes of the program: a *keeper*, which owns the mount and
//! does nothing else, and a *worker*, which is the same program started again with the same arguments and in
//! which [`run`] calls `make` and serves what it gets. When the worker dies the keeper starts the next, and
//! the kernel sends again what was in flight: users of the mount see a pause.
//!
//! ```text
//! kernel ── /dev/fuse ──┬─ keeper.rs   mount.rs, signals, back-off, refusing
//!                       └─ takeover.rs adapter.rs ── gate.rs ── Namespace (tree::ops)
//!                              └─ record.rs, table.rs: memory that outlives the worker
//! ```

mod abi;
mod adapter;
mod background;
mod backoff;
mod gate;
mod inherit;
mod invalidate;
mod keeper;
mod mount;
mod numbers;
mod record;
mod refuse;
mod signals;
mod table;
mod table_of_mounts;
mod takeover;
mod worker;

pub use abi::Features;
pub use invalidate::Invalidator;
pub use mount::TYPE;
pub use table::{HandleTable, MEANING_MAX};
pub use takeover::WorkerContext;

use crate::tree::ops::Namespace;
use crate::vocab::{Error, Kind, Result};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Most threads that serve requests: more were never faster.
pub const THREADS_MAX: usize = 4;

/// How to mount and how to keep.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// An empty directory.
    pub mount_point: PathBuf,
    /// What mount tables show as the device. No comma.
    pub source: String,
    /// Users other than the one who mounts may come in, as far as modes allow. Needs `user_allow_other` in
    /// /etc/fuse.conf unless root mounts.
    pub allow_other: bool,
    /// Return when the mount is usable and go on in a process of its own.
    pub background: bool,
    /// Where the process in the background writes its standard output and error; nowhere if `None`.
    pub log: Option<PathBuf>,
    /// Threads that serve requests, 1 to [`THREADS_MAX`].
    pub threads: usize,
    /// Arguments of workers; those of this process by default, so that the worker comes to the same [`run`].
    pub worker_arguments: Vec<OsString>,
    /// A worker that doesn't come up in this time is killed.
    pub start_timeout: Duration,
    /// A worker that doesn't end in this time after an unmount is killed.
    pub stop_timeout: Duration,
    /// How long users of a mount that is in use have to let go when it is told to stop.
    pub busy_grace: Duration,
    /// Time between trials when no worker stays alive.
    pub retry_after: Duration,
}

impl MountOptions {
    /// The defaults, for this directory.
    pub fn new(mount_point: impl Into<PathBuf>) -> Self {
        Self {
            mount_point: mount_point.into(),
            source: "standbyfs".into(),
            allow_other: true,
            background: false,
            log: None,
            threads: 2,
            worker_arguments: std::env::args_os().skip(1).collect(),
            start_timeout: Duration::from_secs(120),
            stop_timeout: Duration::from_secs(300),
            busy_grace: Duration::from_secs(5),
            retry_after: Duration::from_secs(30),
        }
    }
}

/// Mounts, and serves what `make` makes until the mount is unmounted, by SIGTERM or SIGINT to the process
/// that this call began in or by umount(8).
///
/// Call it before there are other threads and before the store is touched. In the process that was started by
/// the user it returns at the end (with `background`: when the mount is usable, or with the reason why not);
/// `make` isn't called there. In a worker it calls `make`, perhaps while an earlier worker's requests wait,
/// and returns when the mount is gone; an error of `make` is what the user's process reports at the first
/// start. SIGHUP to the keeper replaces the worker by the program that is at this program's path by then.
pub fn run(
    options: &MountOptions,
    make: impl FnOnce(&WorkerContext) -> Result<Arc<dyn Namespace>>,
) -> Result<()> {
    if !(1..=THREADS_MAX).contains(&options.threads) {
        return Err(Error::new(Kind::Invalid, format!("the number of threads must be 1 to {THREADS_MAX}")));
    }
    if let Some(inheritance) = inherit::inherited()? {
        return takeover::work(inheritance, options.threads, make);
    }
    if !options.background {
        return keeper::keep(options, |_| ());
    }
    match background::detach(options.log.as_deref())? {
        background::Side::Caller => Ok(()),
        background::Side::Background(reporter) => keeper::keep(options, |outcome| reporter.report(outcome)),
    }
}

/// Whether this process is a worker, which a keeper started: what belongs to the user's process (pid files,
/// messages on the terminal) is not to be done again then.
pub fn is_worker() -> bool {
    inherit::is_worker()
}
