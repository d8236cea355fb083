//! The program that mounts in these tests: this test binary itself, started with options in its environment.
//! A worker is the same program again, so it comes to the same place.

use super::passthrough::{Hook, Passthrough};
use serde::{Deserialize, Serialize};
use standbyfs::fuse::{MountOptions, WorkerContext, run};
use standbyfs::site::store::Moved;
use standbyfs::site::{Site, SiteOptions};
use standbyfs::tree::ops::ROOT;
use standbyfs::vocab::{Error, Kind, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const OPTIONS: &str = "STANDBYFS_TEST_SERVER";
/// What the test binary is called with to be a server.
pub const ARGUMENTS: [&str; 4] = ["fuse::server::entry", "--exact", "--nocapture", "--test-threads=1"];

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerOptions {
    pub mount: PathBuf,
    /// The directory that is shown.
    pub root: PathBuf,
    /// A line a request, if set.
    pub trace: Option<PathBuf>,
    pub threads: usize,
    pub background: bool,
    pub allow_other: bool,
    pub slow_writes_ms: Option<u64>,
    /// How long the kernel may use names and attributes; a statfs drops those of the root's file `cached`.
    pub ttl_ms: u64,
    pub retry_ms: u64,
    pub busy_grace_ms: u64,
    /// The store whose tree is served instead of `root`.
    pub store: Option<PathBuf>,
    /// The name of its site.
    pub name: String,
    /// A socket for commands to the site; it replicates then.
    pub control: Option<PathBuf>,
    /// Where it listens for peers.
    pub listen: Option<String>,
    /// While this file is there no worker can start: it refuses with the text in it, or aborts if there is none.
    pub refuse: PathBuf,
    /// While this file is there a worker aborts at its first request.
    pub poison: PathBuf,
}

#[test]
fn entry() {
    let Ok(text) = std::env::var(OPTIONS) else { return };
    let options: ServerOptions = serde_json::from_str(&text).unwrap();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let code = match serve(&options) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("failed: {error}");
            1
        }
    };
    std::process::exit(code);
}

fn serve(options: &ServerOptions) -> Result<()> {
    let mut mount = MountOptions::new(&options.mount);
    mount.threads = options.threads;
    mount.background = options.background;
    mount.allow_other = options.allow_other;
    mount.retry_after = Duration::from_millis(options.retry_ms);
    mount.busy_grace = Duration::from_millis(options.busy_grace_ms);
    run(&mount, |context| {
        if let Ok(text) = std::fs::read_to_string(&options.refuse) {
            if text.is_empty() {
                std::process::abort();
            }
            return Err(Error::new(Kind::Refused, text));
        }
        if let Some(store) = &options.store {
            let site = SiteOptions {
                store: store.clone(),
                journal: None,
                moved: Moved::Unsaid,
                name: options.name.clone(),
                index_memory: 64 << 20,
            };
            let site = Site::open(&site, context.mount_id)?;
            if let Some(control) = &options.control {
                super::control::serve(&site, control, options.listen.as_deref());
            }
            return context.tree(site);
        }
        let hook = hook(options, context);
        let mut namespace = Passthrough::new(&options.root, context.table.clone(), hook);
        namespace.ttl = Duration::from_millis(options.ttl_ms);
        namespace.slow_writes = options.slow_writes_ms.map(Duration::from_millis);
        Ok(Arc::new(namespace))
    })
}

fn hook(options: &ServerOptions, context: &WorkerContext) -> Option<Hook> {
    let trace = options.trace.as_ref().map(|path| open_trace(path));
    let poison = options.poison.clone();
    let traced = trace.is_some();
    let (start, invalidator) = (context.start, context.invalidator.clone());
    (traced || poison.exists()).then(|| {
        let hook: Hook = Arc::new(move |operation, request, about| {
            if poison.exists() {
                std::process::abort();
            }
            if operation == "statfs" {
                // Also while a request is served: asking doesn't wait.
                invalidator.name(ROOT, OsStr::new("cached"));
            }
            if let Some(mut trace) = trace.as_ref() {
                let again = if request.resent { " again" } else { "" };
                // One write a line: lines of several threads and workers don't mix.
                let line = format!("{start} {operation}{again} {about}\n");
                trace.write_all(line.as_bytes()).unwrap();
            }
        });
        hook
    })
}

fn open_trace(path: &Path) -> File {
    File::options().append(true).create(true).open(path).unwrap()
}
