//! The seam [`Connection`], and one that is established: two tasks between a socket and two bounded queues.
//!
//! C1. A frame is handed up only after its checksum and everything before it were right; the first thing that
//!     is wrong ends the connection for good.
//! C2. Memory: [`QUEUE_BYTES`] for each direction and one frame in each task's hands.
//! C3. A side that has nothing to say says so every `keepalive`; a side that hears nothing for `dead_after`
//!     while it listens ends the connection. A side that doesn't take frames out isn't dead: its own words go on.
//!     While it takes none out it doesn't listen, and finds a dead peer once it does again.
//! C4. The end has one reason, the first. Frames not yet sent are dropped: no message outlives a connection.

use crate::link::Rate;
use crate::link::queue::{ByteQueue, Taken};
use crate::link::wire::{FRAME_MAX, FrameKind, HEADER, Header};
use crate::vocab::{Error, Kind, Result, StoreId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

/// What waits at most in each direction of a connection, in bytes.
pub(super) const QUEUE_BYTES: usize = 8 << 20;

/// A connection to a peer: what the protocol above knows of a link. Methods may be called from many threads.
pub trait Connection: Send + Sync {
    /// The store at the other end.
    fn peer(&self) -> StoreId;
    /// The version of the protocol that both speak.
    fn protocol(&self) -> u16;
    /// Whether both sides have this feature.
    fn has_feature(&self, name: &str) -> bool;
    /// Sends a frame of at most [`crate::link::FRAME_MAX`] bytes (`Invalid` otherwise), waiting at most `wait`
    /// for room: `Ok(Some(frame))` gives it back if there was none. `Unreachable` after the end.
    fn send(&self, frame: Vec<u8>, wait: Duration) -> Result<Option<Vec<u8>>>;
    /// The next frame, or `None` if none came within `wait`. After the end: what had come before it, then
    /// `Unreachable`.
    fn recv(&self, wait: Duration) -> Result<Option<Vec<u8>>>;
    /// Ends the connection; the other side hears the reason if it can be told.
    fn close(&self, reason: &str);
    /// Why it ended, if it has.
    fn ended(&self) -> Option<String>;
}

pub(super) fn too_long(length: usize) -> Option<Error> {
    (length > FRAME_MAX).then(|| {
        Error::new(Kind::Invalid, format!("a frame of {length} bytes, at most {FRAME_MAX} are allowed"))
    })
}

pub(super) fn ended(reason: &str) -> Error {
    Error::new(Kind::Unreachable, format!("the connection ended: {reason}"))
}

/// Times of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub keepalive: Duration,
    pub dead_after: Duration,
}

/// What both tasks, the registry and the handle share.
pub(super) struct Shared {
    pub peer: StoreId,
    /// Which of the two sites dialled.
    pub dialler: StoreId,
    pub protocol: u16,
    pub features: Vec<String>,
    out: ByteQueue,
    incoming: ByteQueue,
    nudge: Notify,
    /// A sign of life was asked for, or shall be asked for.
    alive_due: AtomicBool,
    probe_due: AtomicBool,
    frames_heard: AtomicU64,
    heard: Notify,
    /// The queue to the protocol is full: nothing is read from the socket.
    held_up: AtomicBool,
    end: watch::Sender<Option<Arc<str>>>,
}

impl Shared {
    pub(super) fn new(peer: StoreId, dialler: StoreId, protocol: u16, features: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            peer,
            dialler,
            protocol,
            features,
            out: ByteQueue::new(QUEUE_BYTES),
            incoming: ByteQueue::new(QUEUE_BYTES),
            nudge: Notify::new(),
            alive_due: AtomicBool::new(false),
            probe_due: AtomicBool::new(false),
            frames_heard: AtomicU64::new(0),
            heard: Notify::new(),
            held_up: AtomicBool::new(false),
            end: watch::Sender::new(None),
        })
    }

    /// Ends the connection. The first reason stays.
    pub(super) fn end(&self, reason: &str) {
        let reason: Arc<str> = reason.into();
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                // Before anybody sees the reason: who has seen it sends nothing more.
                self.out.end(&reason);
                self.out.clear();
                self.incoming.end(&reason);
                *end = Some(Arc::clone(&reason));
            }
            first
        });
    }

    pub(super) fn reason(&self) -> Option<Arc<str>> {
        self.end.borrow().clone()
    }

    /// Waits for the end and returns its reason.
    pub(super) async fn wait_end(&self) -> Arc<str> {
        let mut end = self.end.subscribe();
        let reason = end.wait_for(Option::is_some).await.map(|r| r.clone());
        reason.ok().flatten().unwrap_or_else(|| "closed".into())
    }

    /// Whether the other side shows a sign of life within `wait`.
    pub(super) async fn probe(&self, wait: Duration) -> bool {
        let before = self.frames_heard.load(Ordering::Acquire);
        self.probe_due.store(true, Ordering::Release);
        self.nudge.notify_one();
        let until = Instant::now() + wait;
        loop {
            if self.reason().is_some() {
                return false;
            }
            if self.frames_heard.load(Ordering::Acquire) != before || self.held_up.load(Ordering::Acquire) {
                return true;
            }
            let heard = tokio::time::timeout_at(until, self.heard.notified());
            tokio::select! {
                heard = heard => if heard.is_err() { return false },
                _ = self.wait_end() => return false,
            }
        }
    }

    /// Runs both directions of an established stream until the end.
    pub(super) fn run<S>(self: &Arc<Self>, stream: S, rates: Vec<Rate>, times: Times)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let reason = tokio::select! {
                error = shared.read(reader, times) => error.to_string(),
                _ = shared.wait_end() => return,
            };
            shared.end(&reason);
        });
        let shared = Arc::clone(self);
        tokio::spawn(async move { shared.write(writer, &rates, times).await });
    }

    async fn read<R: AsyncRead + Unpin>(&self, mut reader: R, times: Times) -> Error {
        loop {
            let (kind, content) = match read_frame(&mut reader, FRAME_MAX, times.dead_after).await {
                Ok(frame) => frame,
                Err(error) => return error,
            };
            self.frames_heard.fetch_add(1, Ordering::AcqRel);
            self.heard.notify_waiters();
            match kind {
                FrameKind::Data => {
                    self.held_up.store(true, Ordering::Release);
                    if let Err(reason) = self.incoming.push_task(content).await {
                        return ended(&reason);
                    }
                    self.held_up.store(false, Ordering::Release);
                }
                FrameKind::Alive => {}
                FrameKind::Probe => {
                    self.alive_due.store(true, Ordering::Release);
                    self.nudge.notify_one();
                }
                FrameKind::Close => {
                    let text = String::from_utf8_lossy(&content);
                    let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
                    return ended(&format!("the other site closed it ({text})"));
                }
                FrameKind::Early => {
                    return Error::new(Kind::Damaged, "a frame of the handshake came after it");
                }
            }
        }
    }

    async fn write<W: AsyncWrite + Unpin>(&self, mut writer: W, rates: &[Rate], times: Times) {
        let sent = tokio::select! {
            sent = self.send_all(&mut writer, rates, times) => sent,
            _ = self.wait_end() => Ok(()),
        };
        if let Err(error) = sent {
            self.end(&error.to_string());
        }
        // Whoever is still there may hear why; nobody waits for it. A frame that was cut off above makes the
        // other side see a torn frame instead, which ends the connection as well.
        let reason = self.reason().unwrap_or_else(|| "closed".into());
        let content = &reason.as_bytes()[..reason.floor_char_boundary(300)];
        let goodbye = async {
            write_frame(&mut writer, FrameKind::Close, content).await?;
            writer.shutdown().await.map_err(|e| Error::io(e, "can't close"))
        };
        if timeout(Duration::from_secs(1), goodbye).await.is_err() {
            tracing::debug!(peer = %self.peer, "the reason of the end couldn't be sent in time");
        }
    }

    async fn send_all<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        rates: &[Rate],
        times: Times,
    ) -> Result<()> {
        let mut next_alive = Instant::now() + times.keepalive;
        let mut held: Option<(Vec<u8>, Instant)> = None;
        loop {
            if self.alive_due.swap(false, Ordering::AcqRel) || Instant::now() >= next_alive {
                write_frame(writer, FrameKind::Alive, &[]).await?;
                next_alive = Instant::now() + times.keepalive;
            }
            if self.probe_due.swap(false, Ordering::AcqRel) {
                write_frame(writer, FrameKind::Probe, &[]).await?;
            }
            let free_at = held.as_ref().map(|(_, at)| *at);
            tokio::select! {
                () = self.nudge.notified() => {}
                () = tokio::time::sleep_until(next_alive) => {}
                () = tokio::time::sleep_until(free_at.unwrap_or(next_alive)), if free_at.is_some() => {
                    if let Some((frame, _)) = held.take() {
                        write_frame(writer, FrameKind::Data, &frame).await?;
                        next_alive = Instant::now() + times.keepalive;
                    }
                }
                frame = self.out.pop_task(), if held.is_none() => {
                    let Some(frame) = frame else { return Ok(()) };
                    held = Some((frame, Instant::now()));
                    if let Some((frame, at)) = &mut held {
                        *at += pause(rates, frame.len() + HEADER);
                    }
                }
            }
        }
    }
}

fn pause(rates: &[Rate], bytes: usize) -> Duration {
    let now = crate::seam::Clock::monotonic_ns(&crate::seam::SystemClock);
    let wait = rates.iter().map(|rate| rate.take(bytes as u64, now)).max().unwrap_or(0);
    Duration::from_nanos(wait)
}

/// Reads one frame. Any single read that brings nothing for `patience` is the end.
pub(super) async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
    length_max: usize,
    patience: Duration,
) -> Result<(FrameKind, Vec<u8>)> {
    let mut head = [0; HEADER];
    fill(reader, &mut head, patience).await?;
    let header = Header::decode(head, length_max)?;
    let mut content = vec![0; header.length];
    fill(reader, &mut content, patience).await?;
    header.check(&content)?;
    Ok((header.kind, content))
}

async fn fill<R: AsyncRead + Unpin>(reader: &mut R, buf: &mut [u8], patience: Duration) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        let got = timeout(patience, reader.read(&mut buf[done..])).await.map_err(|_| {
            Error::new(Kind::Unreachable, format!("nothing was heard for {:.1} s", patience.as_secs_f64()))
        })?;
        match got.map_err(|e| Error::io(e, "can't receive"))? {
            0 => return Err(Error::new(Kind::Unreachable, "the other side is gone")),
            n => done += n,
        }
    }
    Ok(())
}

pub(super) async fn write_frame<W: AsyncWrite + Unpin>(
    writer: &mut W,
    kind: FrameKind,
    content: &[u8],
) -> Result<()> {
    let head = Header::encode(kind, content);
    let sent = async {
        if content.len() <= 16 << 10 {
            let mut whole = Vec::with_capacity(HEADER + content.len());
            whole.extend_from_slice(&head);
            whole.extend_from_slice(content);
            writer.write_all(&whole).await?;
        } else {
            writer.write_all(&head).await?;
            writer.write_all(content).await?;
        }
        writer.flush().await
    };
    sent.await.map_err(|e| Error::io(e, "can't send"))
}

/// The handle that the daemon holds. Dropping it ends the connection.
pub(super) struct Established(pub Arc<Shared>);

impl Drop for Established {
    fn drop(&mut self) {
        self.0.end("it was given up");
    }
}

impl Connection for Established {
    fn peer(&self) -> StoreId {
        self.0.peer
    }

    fn protocol(&self) -> u16 {
        self.0.protocol
    }

    fn has_feature(&self, name: &str) -> bool {
        self.0.features.iter().any(|f| f == name)
    }

    fn send(&self, frame: Vec<u8>, wait: Duration) -> Result<Option<Vec<u8>>> {
        if let Some(error) = too_long(frame.len()) {
            return Err(error);
        }
        self.0.out.push(frame, wait).map_err(|reason| ended(&reason))
    }

    fn recv(&self, wait: Duration) -> Result<Option<Vec<u8>>> {
        match self.0.incoming.pop(wait) {
            Taken::Frame(frame) => Ok(Some(frame)),
            Taken::Nothing => Ok(None),
            Taken::Ended(reason) => Err(ended(&reason)),
        }
    }

    fn close(&self, reason: &str) {
        self.0.end(reason);
    }

    fn ended(&self) -> Option<String> {
        self.0.reason().map(|r| r.to_string())
    }
}
