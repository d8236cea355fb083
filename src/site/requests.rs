//! Answers to requests that the kernel may send again after a worker's death: the same request gets the same
//! answer, and nothing is done twice.
//!
//! Q1. `begin` is durable before the operation does anything; so a request that comes again is known, whether
//!     its operation was finished or not. One that was begun and not finished is finished by its caller, who
//!     takes "it is done already" (exists, isn't there) for success.
//! Q2. Only the present mount's requests count: uniques begin anew with each mount.
//! Q3. The file is bounded: the kernel sends again only what it has no answer to, so the newest
//!     [`KEPT_MAX`] are more than enough.

use crate::seam::Storage;
use crate::site::lines::{LineFile, read_lines};
use crate::site::objects::RequestId;
use crate::vocab::{Result, Token};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Requests that are remembered. FUSE has at most a few hundred under way (max_background and the waiting ones).
pub const KEPT_MAX: usize = 4096;
const FOLDER: &str = "requests";
const RESEND_BIT: u64 = 1 << 63;

/// What is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It comes for the first time.
    New,
    /// It came before and may have been done, wholly or in part: this is what it was.
    Begun(String),
    /// It was done: 0 or the errno, and what belongs to the answer.
    Done(i32, String),
}

#[derive(Serialize, Deserialize)]
struct Line {
    unique: u64,
    /// In the order in which requests came.
    number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begun: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    done: Option<(i32, String)>,
}

struct State {
    file: LineFile,
    known: HashMap<u64, (u64, Seen)>,
    order: BTreeMap<u64, u64>,
    next: u64,
    lines: usize,
}

/// The stored answers of one mount.
pub struct Requests {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    mount: Token,
    state: Mutex<State>,
}

impl Requests {
    /// Opens those of this mount and drops those of older ones.
    pub fn open(storage: Arc<dyn Storage>, mount: Token) -> Result<Self> {
        if !storage.exists(Path::new(FOLDER))? {
            storage.make_dir(Path::new(FOLDER))?;
            storage.sync_dir(Path::new(""))?;
        }
        let name = format!("{mount}.jsonl");
        for other in storage.list(Path::new(FOLDER))?.iter().filter(|other| **other != name) {
            storage.remove(&Path::new(FOLDER).join(other))?;
        }
        let path = Path::new(FOLDER).join(name);
        let lines = read_lines(storage.as_ref(), &path)?;
        let mut state = State {
            file: LineFile::open(storage.as_ref(), &path)?,
            known: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
            lines: lines.len(),
        };
        // A line that can't be read was never synced, and its operation never began.
        for line in lines.iter().filter_map(|text| serde_json::from_str::<Line>(text).ok()) {
            state.take(line);
        }
        Ok(Self { storage, path, mount, state: Mutex::new(state) })
    }

    /// The mount that these belong to.
    pub fn mount(&self) -> Token {
        self.mount
    }

    /// The id of a request, without the bit that says "sent again".
    pub fn id(&self, unique: u64) -> RequestId {
        RequestId { mount: self.mount, unique: unique & !RESEND_BIT }
    }

    /// A request came: what is known of it. A new one is remembered, durably, before this returns.
    pub fn begin(&self, unique: u64, what: &str) -> Result<Seen> {
        let unique = unique & !RESEND_BIT;
        let mut state = self.state.lock();
        if let Some((_, seen)) = state.known.get(&unique) {
            return Ok(seen.clone());
        }
        let line = Line { unique, number: state.next, begun: Some(what.to_owned()), done: None };
        self.append(&mut state, line, true)?;
        Ok(Seen::New)
    }

    /// It was done: 0 or the errno, and what belongs to the answer. Not synced: if it is lost, the request is
    /// one that was begun.
    pub fn done(&self, unique: u64, errno: i32, answer: &str) -> Result<()> {
        let unique = unique & !RESEND_BIT;
        let mut state = self.state.lock();
        let number = state.known.get(&unique).map_or(state.next, |(number, _)| *number);
        let line = Line { unique, number, begun: None, done: Some((errno, answer.to_owned())) };
        self.append(&mut state, line, false)
    }

    fn append(&self, state: &mut State, line: Line, sync: bool) -> Result<()> {
        if state.lines >= 4 * KEPT_MAX {
            self.shorten(state)?;
        }
        state.file.append(&serde_json::to_string(&line).unwrap_or_default(), sync)?;
        state.lines += 1;
        state.take(line);
        Ok(())
    }

    /// Writes those that count into a new file.
    fn shorten(&self, state: &mut State) -> Result<()> {
        let mut temporary = self.path.clone();
        temporary.set_extension("new");
        if self.storage.exists(&temporary)? {
            self.storage.remove(&temporary)?;
        }
        let mut file = LineFile::open(self.storage.as_ref(), &temporary)?;
        for unique in state.order.values() {
            let Some((number, seen)) = state.known.get(unique) else { continue };
            let (begun, done) = match seen {
                Seen::Begun(what) => (Some(what.clone()), None),
                Seen::Done(errno, answer) => (None, Some((*errno, answer.clone()))),
                Seen::New => continue,
            };
            let line = Line { unique: *unique, number: *number, begun, done };
            file.append(&serde_json::to_string(&line).unwrap_or_default(), false)?;
        }
        file.sync()?;
        self.storage.rename(&temporary, &self.path)?;
        self.storage.sync_dir(Path::new(FOLDER))?;
        (state.file, state.lines) = (file, state.order.len());
        Ok(())
    }
}

impl State {
    fn take(&mut self, line: Line) {
        let seen = match (line.begun, line.done) {
            (_, Some((errno, answer))) => Seen::Done(errno, answer),
            (Some(what), None) => Seen::Begun(what),
            (None, None) => return,
        };
        self.known.insert(line.unique, (line.number, seen));
        self.order.insert(line.number, line.unique);
        self.next = self.next.max(line.number + 1);
        while self.order.len() > KEPT_MAX {
            if let Some((_, oldest)) = self.order.pop_first() {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::SimDevice;

    fn requests(device: &SimDevice, mount: u8) -> Requests {
        Requests::open(Arc::new(device.storage("store")), Token([mount; 16])).unwrap()
    }

    #[test]
    fn the_same_request_gets_the_same_answer_and_a_new_mount_forgets() {
        let device = SimDevice::new(1);
        let first = requests(&device, 1);
        assert_eq!(first.begin(7, "mkdir web01").unwrap(), Seen::New);
        assert_eq!(first.begin(7 | RESEND_BIT, "mkdir web01").unwrap(), Seen::Begun("mkdir web01".into()));
        first.done(7, 17, "ino=3").unwrap();
        assert_eq!(first.begin(8, "rmdir").unwrap(), Seen::New);
        let again = requests(&device, 1);
        assert_eq!(again.begin(7 | RESEND_BIT, "mkdir web01").unwrap(), Seen::Done(17, "ino=3".into()));
        assert_eq!(again.begin(8, "rmdir").unwrap(), Seen::Begun("rmdir".into()));
        assert_eq!(again.id(RESEND_BIT | 8), RequestId { mount: Token([1; 16]), unique: 8 });
        assert_eq!(requests(&device, 2).begin(7, "unlink").unwrap(), Seen::New);
        assert_eq!(requests(&device, 1).begin(7, "unlink").unwrap(), Seen::New, "the older mount's are gone");
    }

    /// Q1 with a power loss at each operation: an operation that was allowed to begin is known.
    #[test]
    fn what_began_is_known_after_any_crash() {
        for at in 1.. {
            let device = SimDevice::new(at);
            drop(requests(&device, 1));
            device.power_loss_at(at);
            let mut began = Vec::new();
            if let Ok(requests) = Requests::open(Arc::new(device.storage("store")), Token([1; 16])) {
                for unique in 1..6 {
                    if requests.begin(unique, "op").is_err() {
                        break;
                    }
                    began.push(unique);
                    let _ = requests.done(unique, 0, "");
                }
            }
            let crashed = !device.crashed_in().is_empty();
            device.power_loss();
            device.power_on();
            let after = requests(&device, 1);
            for unique in began {
                assert_ne!(after.begin(unique, "op").unwrap(), Seen::New, "operation {at}, request {unique}");
            }
            if !crashed {
                break;
            }
        }
    }

    #[test]
    fn bounded_in_memory_and_on_disk() {
        let device = SimDevice::new(1);
        let many = requests(&device, 1);
        let total = 3 * KEPT_MAX as u64;
        for unique in 0..total {
            many.begin(unique, "op").unwrap();
            many.done(unique, 0, "").unwrap();
        }
        for again in [many, requests(&device, 1)] {
            let state = again.state.lock();
            assert!(state.known.len() <= KEPT_MAX && state.lines <= 4 * KEPT_MAX, "{}", state.lines);
            assert_eq!(state.known.get(&(total - 1)).map(|k| &k.1), Some(&Seen::Done(0, String::new())));
        }
    }
}
