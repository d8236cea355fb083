//! Events: who commanded what and what came of it, and what the site noticed by itself. For ever-growing logs
//! that `tail -f` follows: an event has an offset that stays the same when files are rotated.
//!
//! E1. Events are only appended; a file is named by the offset of its first byte.
//! E2. At most [`FILES_MAX`] files of about [`FILE_BYTES`] are kept; the oldest goes first.

use crate::protection::{WallTime, text_time};
use crate::seam::Storage;
use crate::site::lines::LineFile;
use crate::vocab::Result;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Length at which a new file is begun, in bytes.
pub const FILE_BYTES: u64 = 8 << 20;
/// Files that are kept.
pub const FILES_MAX: usize = 8;
const FOLDER: &str = "events";

/// One event. `time` is text, for people and `grep`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the wall clock.
    pub time: String,
    /// Who; none for what the site did by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The user's group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The process that wrote the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The site at which it was commanded, if it wasn't this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// The VM, group, peer or job concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The command, or what happened.
    pub text: String,
    /// `accepted job=j7`, the name of a refusal, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

impl Event {
    /// Something that the site did or noticed by itself.
    pub fn own(now: WallTime, subject: Option<&str>, text: impl Into<String>) -> Self {
        Self {
            time: text_time(now),
            uid: None,
            gid: None,
            pid: None,
            site: None,
            subject: subject.map(str::to_owned),
            text: text.into(),
            outcome: None,
        }
    }

    /// A command by a user, and what came of it.
    pub fn command(
        now: WallTime,
        (uid, gid, pid): (u32, u32, u32),
        subject: Option<&str>,
        text: &str,
        outcome: &str,
    ) -> Self {
        let who = Self { uid: Some(uid), gid: Some(gid), pid: Some(pid), ..Self::own(now, subject, text) };
        Self { outcome: Some(outcome.to_owned()), ..who }
    }
}

struct State {
    /// Offsets of the first bytes of the files, oldest first; the last is `open`'s.
    starts: Vec<u64>,
    open: LineFile,
}

/// The events of a store.
pub struct Events {
    storage: Arc<dyn Storage>,
    file_bytes: u64,
    state: Mutex<State>,
}

fn path(start: u64) -> PathBuf {
    Path::new(FOLDER).join(format!("events-{start:016}.jsonl"))
}

impl Events {
    /// Opens the events of this store.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        Self::with_file_bytes(storage, FILE_BYTES)
    }

    fn with_file_bytes(storage: Arc<dyn Storage>, file_bytes: u64) -> Result<Self> {
        if !storage.exists(Path::new(FOLDER))? {
            storage.make_dir(Path::new(FOLDER))?;
            storage.sync_dir(Path::new(""))?;
        }
        let start = |name: &String| name.strip_prefix("events-")?.strip_suffix(".jsonl")?.parse().ok();
        let mut starts: Vec<u64> = storage.list(Path::new(FOLDER))?.iter().filter_map(start).collect();
        starts.sort_unstable();
        if starts.is_empty() {
            starts.push(0);
        }
        let open = LineFile::open(storage.as_ref(), &path(starts[starts.len() - 1]))?;
        Ok(Self { storage, file_bytes, state: Mutex::new(State { starts, open }) })
    }

    /// Appends an event. `sync`: durable when this returns; a command's event is, before its writer hears.
    pub fn append(&self, event: &Event, sync: bool) -> Result<()> {
        let mut state = self.state.lock();
        if state.open.len() >= self.file_bytes {
            self.rotate(&mut state)?;
        }
        // JSON escapes line breaks and control characters.
        let line = serde_json::to_string(event).unwrap_or_default();
        state.open.append(&line, sync)
    }

    /// Offsets of the first byte that is kept and behind the last.
    pub fn range(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.starts[0], state.starts[state.starts.len() - 1] + state.open.len())
    }

    /// Reads at most `max` bytes from `offset`; what is no longer kept is passed over. Returns the bytes and the
    /// offset at which they begin.
    pub fn read(&self, offset: u64, max: usize) -> Result<(u64, Vec<u8>)> {
        let state = self.state.lock();
        let offset = offset.max(state.starts[0]);
        let at = state.starts.partition_point(|start| *start <= offset) - 1;
        let inside = offset - state.starts[at];
        if at + 1 == state.starts.len() {
            return Ok((offset, state.open.read(inside, max)?));
        }
        let length = state.starts[at + 1] - state.starts[at];
        let file = self.storage.open(&path(state.starts[at]), crate::seam::Access::ReadOnly)?;
        let mut out = vec![0; usize::try_from(length - inside).unwrap_or(usize::MAX).min(max)];
        let got = file.read_at(&mut out, inside)?;
        out.truncate(got);
        Ok((offset, out))
    }

    /// The last events, at most `count`, oldest first; lines that can't be read are left out.
    pub fn last(&self, count: usize) -> Result<Vec<Event>> {
        let (first, end) = self.range();
        let mut bytes = Vec::new();
        let mut at = end.saturating_sub(count as u64 * 1024).max(first);
        while at < end {
            let (from, piece) = self.read(at, 1 << 20)?;
            if piece.is_empty() {
                break;
            }
            at = from + piece.len() as u64;
            bytes.extend_from_slice(&piece);
        }
        let text = String::from_utf8_lossy(&bytes);
        let events: Vec<Event> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(events[events.len().saturating_sub(count)..].to_vec())
    }

    fn rotate(&self, state: &mut State) -> Result<()> {
        let start = state.starts[state.starts.len() - 1] + state.open.len();
        // Until now the full file's last lines may be unsynced; its end must be where the next one begins.
        state.open.sync()?;
        state.open = LineFile::open(self.storage.as_ref(), &path(start))?;
        state.starts.push(start);
        while state.starts.len() > FILES_MAX {
            self.storage.remove(&path(state.starts[0]))?;
            state.starts.remove(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::SimDevice;

    fn everything(events: &Events, mut at: u64, max: usize) -> (u64, String) {
        let (mut first, mut out) = (None, Vec::new());
        loop {
            let (from, piece) = events.read(at, max).unwrap();
            first.get_or_insert(from);
            if piece.is_empty() {
                return (first.unwrap(), String::from_utf8(out).unwrap());
            }
            at = from + piece.len() as u64;
            out.extend(piece);
        }
    }

    #[test]
    fn offsets_stay_over_rotation_and_reopening_and_the_oldest_go() {
        let device = SimDevice::new(3);
        let storage: Arc<dyn Storage> = Arc::new(device.storage("store"));
        let mut whole = String::new();
        for round in 0..10 {
            let events = Events::with_file_bytes(Arc::clone(&storage), 1000).unwrap();
            for n in 0..17 {
                let who = (1000, 100, 4242);
                let event = Event::command(n, who, Some("web01"), &format!("protect \"{round}\"\n"), "busy");
                events.append(&event, n % 3 == 0).unwrap();
                whole.push_str(&serde_json::to_string(&event).unwrap());
                whole.push('\n');
            }
            let (first, end) = events.range();
            assert_eq!(end, whole.len() as u64);
            for max in [7, 1 << 20] {
                let (from, text) = everything(&events, 0, max);
                assert_eq!((from, text.as_str()), (first, &whole[first as usize..]));
            }
            let middle = first + (end - first) / 2;
            assert_eq!(everything(&events, middle, 100).1, whole[middle as usize..]);
            assert_eq!(everything(&events, end, 100).1, "");
            let last = events.last(5).unwrap();
            assert_eq!(last.len(), 5);
            assert_eq!(last[4].text, format!("protect \"{round}\"\n"));
            assert_eq!((last[4].uid, last[4].outcome.as_deref()), (Some(1000), Some("busy")));
        }
        assert_eq!(storage.list(Path::new(FOLDER)).unwrap().len(), FILES_MAX);
    }
}
