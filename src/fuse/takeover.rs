//! A worker: takes over a mount from the worker before it, or begins one, and serves it.
//!
//! 1. The kernel sends one INIT for a mount. Each worker's FUSE library does its handshake on a socket, where
//!    it gets a copy of that request; its answer goes to the kernel if the kernel has none yet. Then the
//!    device takes the place of the socket.
//! 2. The keeper hears `ready` when what was in flight has been asked for again, `failed:` and why otherwise.
//! 3. A worker that is told to stop finishes what is in flight, lets the namespace put everything in place
//!    and exits; what it took and didn't begin is sent again to the next.
//! 4. A worker whose keeper has died goes on serving: the disks of running machines hang on it. It can't be
//!    started again, and unmounts by itself on SIGTERM.
//! 5. A panic ends the process, not one thread of it: half a worker would hold requests for ever.

use super::abi::{self, Features};
use super::adapter::Server;
use super::gate::Gate;
use super::inherit::Inheritance;
use super::invalidate::Invalidator;
use super::record::MountRecord;
use super::table::HandleTable;
use super::{mount, signals};
use crate::tree::ops::{Namespace, Stop};
use crate::vocab::{Error, Kind, Result, Token};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest text that a worker sends about why it failed, in bytes.
pub const MESSAGE_MAX: usize = 16 << 10;
/// How long a worker that is told to stop waits for what is in flight.
pub const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Between keeper and worker.
pub mod word {
    /// The worker serves.
    pub const READY: &[u8] = b"ready";
    /// The worker can't; the reason follows.
    pub const FAILED: &[u8] = b"failed:";
    /// Stop, another worker follows.
    pub const UPGRADE: &[u8] = b"upgrade";
    /// Stop, the mount goes.
    pub const UNMOUNT: &[u8] = b"unmount";
}

/// What a namespace is made with.
#[derive(Clone, Debug)]
pub struct WorkerContext {
    /// Names the mount; [`crate::tree::ops::Request::unique`] is unique in it.
    pub mount_id: Token,
    /// Where the mount is, as an absolute path.
    pub mount_point: PathBuf,
    /// The how-manieth worker of this mount this is, from 1. Above 1 there may be requests from before.
    pub start: u64,
    /// What the kernel offers.
    pub features: Features,
    /// What inode numbers and handles stand for.
    pub table: Arc<HandleTable>,
    /// Tells the kernel of changes.
    pub invalidator: Invalidator,
}

/// Serves until the mount is gone or the keeper says stop.
pub fn work(
    inheritance: Inheritance,
    threads: usize,
    make: impl FnOnce(&WorkerContext) -> Result<Arc<dyn Namespace>>,
) -> Result<()> {
    signals::leave_to_the_keeper();
    // Until it serves, this worker is of no use without its keeper. The kernel keeps this by thread.
    signals::die_with_parent(libc::SIGKILL);
    abort_on_panic();
    protect_from_reclaim();
    let Inheritance { device, record, control, start, point } = inheritance;
    match begin(&device, record, start, &point, threads, make) {
        Ok((server, namespace, gate)) => {
            send(&control, word::READY);
            signals::die_with_parent(0);
            serve(server, namespace, gate, control, point)
        }
        Err(error) => {
            tracing::error!(%error, "the worker can't start");
            let mut message = [word::FAILED, error.to_string().as_bytes()].concat();
            message.truncate(MESSAGE_MAX);
            send(&control, &message);
            // The keeper reports it; a second report would only confuse.
            std::process::exit(1);
        }
    }
}

type Begun = (Server, Arc<dyn Namespace>, &'static Gate);

fn begin(
    device: &OwnedFd,
    record: OwnedFd,
    start: u64,
    point: &std::path::Path,
    threads: usize,
    make: impl FnOnce(&WorkerContext) -> Result<Arc<dyn Namespace>>,
) -> Result<Begun> {
    let record = MountRecord::open(record)?;
    let init = record.init_request()?;
    let copy = device.try_clone().map_err(|e| Error::io(e, "can't share the device"))?;
    let context = WorkerContext {
        mount_id: record.id(),
        mount_point: point.to_owned(),
        start,
        features: Features::of(&init)
            .ok_or_else(|| Error::new(Kind::Damaged, "the stored handshake isn't understood"))?,
        table: Arc::new(HandleTable::open(&record)?),
        invalidator: Invalidator::new(copy),
    };
    let namespace = make(&context)?;
    let gate = Gate::new(record.try_clone()?, start);
    let server = handshake(device, &record, &init, namespace.clone(), gate, threads)?;
    if start > 1 {
        resend(device, &context.features);
    }
    Ok((server, namespace, gate))
}

/// Rule 1.
fn handshake(
    device: &OwnedFd,
    record: &MountRecord,
    init: &[u8],
    namespace: Arc<dyn Namespace>,
    gate: &'static Gate,
    threads: usize,
) -> Result<Server> {
    let failed = |e: rustix::io::Errno| Error::io(e.into(), "can't do the handshake");
    let (kernel, stand_in) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    rustix::io::write(&kernel, init).map_err(failed)?;
    let number = stand_in.as_raw_fd();
    let server = Server::handshake(stand_in, namespace, gate, threads)?;
    let mut reply = vec![0; 1024];
    let length = rustix::io::read(&kernel, &mut reply[..]).map_err(failed)?;
    reply.truncate(length);
    let agreed = match record.init_reply()? {
        None => {
            record.set_init_reply(&reply)?;
            reply
        }
        Some(first) => {
            if first != reply {
                tracing::warn!(
                    "this version would ask the kernel for other features; the mount keeps its own"
                );
            }
            first
        }
    };
    match rustix::io::write(device, &agreed) {
        // ENOENT: it has been answered, by a worker before this one.
        Ok(_) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(failed(e)),
    }
    // SAFETY: both numbers are open; the library owns the second one and will find the device under it.
    if unsafe { libc::dup3(device.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
        return Err(Error::io(std::io::Error::last_os_error(), "can't take over the device"));
    }
    Ok(server)
}

fn resend(device: &OwnedFd, features: &Features) {
    if let Err(error) = rustix::io::write(device, &abi::notify_resend()) {
        tracing::error!(
            %error,
            offered = features.resend,
            "the kernel can't send again what was in flight: whoever waits for that hangs"
        );
    }
}

fn serve(
    server: Server,
    namespace: Arc<dyn Namespace>,
    gate: &'static Gate,
    control: OwnedFd,
    point: PathBuf,
) -> Result<()> {
    // Whoever sets it stops the namespace; the other waits for the end of the process.
    static STOPPING: AtomicBool = AtomicBool::new(false);
    let stop = move |namespace: &dyn Namespace, why: Stop| {
        if STOPPING.swap(true, Ordering::SeqCst) {
            loop {
                std::thread::park();
            }
        }
        if !gate.close(DRAIN_MAX) {
            tracing::warn!("some requests take too long; they are sent again to the next worker");
        }
        namespace.stop(why);
    };
    let stopper = stop;
    let served = namespace.clone();
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            let why = wait_for_orders(&control, &point);
            stopper(&*served, why);
            std::process::exit(0);
        })
        .map_err(|e| Error::io(e, "can't start a thread"))?;
    server.run()?;
    stop(&*namespace, Stop::Unmounted);
    Ok(())
}

/// Returns when this worker has to stop.
fn wait_for_orders(control: &OwnedFd, point: &std::path::Path) -> Stop {
    let mut bytes = [0; 64];
    loop {
        match rustix::net::recv(control.as_fd(), &mut bytes, RecvFlags::empty()) {
            Ok((n, _)) if n > 0 && bytes[..n] == *word::UPGRADE => return Stop::Upgrade,
            Ok((n, _)) if n > 0 && bytes[..n] == *word::UNMOUNT => return Stop::Unmounted,
            Ok((n, _)) if n > 0 => tracing::warn!("an order that this version doesn't know"),
            Err(rustix::io::Errno::INTR) => {}
            _ => break,
        }
    }
    tracing::error!(
        "the keeper of this mount has died: the mount is served, but by nobody after this process"
    );
    while !signals::was_terminated() {
        std::thread::sleep(Duration::from_millis(100));
    }
    if let Err(error) = mount::unmount_orphaned(point) {
        tracing::error!(%error, "the mount stays behind");
    }
    // Users that are still there get some time; then the mount ends with this process.
    let end = Instant::now() + DRAIN_MAX;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    Stop::Unmounted
}

fn send(control: &OwnedFd, message: &[u8]) {
    if let Err(error) = rustix::net::send(control.as_fd(), message, SendFlags::NOSIGNAL) {
        tracing::error!(%error, "can't tell the keeper");
    }
}

fn abort_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        std::process::abort();
    }));
}

/// Memory reclaim must not wait for a disk that waits for this process.
fn protect_from_reclaim() {
    // 57 is PR_SET_IO_FLUSHER, which libc lacks. SAFETY: takes numbers only.
    if unsafe { libc::prctl(57, 1u64, 0u64, 0u64, 0u64) } != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "no PR_SET_IO_FLUSHER");
    }
    // The keeper has -1000 where it may; the worker comes next to last. Best effort: needs privileges.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-900") {
        tracing::debug!(%error, "no oom_score_adj");
    }
}
