//! Control files, and `policy` files, which take their lines in the same way.
//!
//! C1. One command an opening: the first write that isn't blank decides. Its result sticks: the same line again gets
//!     it again and does nothing; another line is EINVAL.
//! C2. A write that is sent again after the death of a worker gets its first answer, or is carried out to its end
//!     under the name that it had: the line has an id before anything is done, its writer's or the request's.
//! C3. Offsets, sizes and how the file was opened mean nothing. What is read next to a write by the same program
//!     begins at the beginning, whether it seeks or not.
//! C4. Nothing waits in a thread that serves requests: a command has a thread of its own, and reading shows what was
//!     before it until it has ended.
//! C5. What an opening shows stays the same until its line has decided, so that it can be read in pieces.

use crate::protection::control::{Line, LineError};
use crate::protection::report::Outcome;
use crate::protection::{Refusal, Refused, Verb};
use crate::site::commands::{Caller, REQUEST_ID};
use crate::site::requests::Seen;
use crate::tree::controls::To;
use crate::tree::handles::{Meaning, Open, What};
use crate::tree::host::{Host, Numbers, item};
use crate::tree::node::{CONTROL, KIND_OPEN, Node, VmFile, Whose};
use crate::tree::ops::{Answer, Completion, Errno, Request};
use crate::tree::text::{control_sheet, outcome_sheet};
use crate::tree::tree::{Tree, failed};
use crate::vocab::{DiskId, EpochId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A policy is shorter, bytes.
const POLICY_MAX: usize = 64 << 10;
/// What is kept of an outcome's text for the next worker, bytes.
const KEPT_TEXT: usize = 2048;

/// An opening of a control or policy file.
pub(super) struct Control {
    node: Node,
    /// Held while a line is carried out.
    said: Mutex<Option<Said>>,
    shown: Mutex<Shown>,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    line: String,
    errno: i32,
    /// What the file shows since.
    text: String,
}

/// C3, C5.
struct Shown {
    text: Vec<u8>,
    /// Behind the write that decided; none: reading is by offset.
    behind: Option<u64>,
    /// The first read behind the write has shown which it is.
    settled: bool,
}

impl Control {
    /// `said`: what decided in a process before this one.
    pub(super) fn new(node: Node, text: Vec<u8>, said: Option<Said>) -> Self {
        let text = said.as_ref().map_or(text, |said| said.text.clone().into_bytes());
        let shown = Shown { text, behind: None, settled: true };
        Self { node, said: Mutex::new(said), shown: Mutex::new(shown) }
    }

    /// What is shown at an offset.
    pub(super) fn read(&self, offset: u64, size: usize) -> Vec<u8> {
        let mut shown = self.shown.lock();
        if !shown.settled {
            shown.settled = true;
            if shown.behind != Some(offset) {
                shown.behind = None;
            }
        }
        let offset = offset.saturating_sub(shown.behind.unwrap_or(0));
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(shown.text.len());
        let to = from.saturating_add(size).min(shown.text.len());
        shown.text[from..to].to_vec()
    }
}

/// A write that is to be carried out.
struct Write {
    host: Arc<dyn Host>,
    numbers: Arc<dyn Numbers>,
    request: Request,
    handle: u64,
    offset: u64,
    data: Vec<u8>,
}

impl Tree {
    /// C4.
    pub(super) fn write_control(
        &self,
        open: Arc<Open>,
        request: &Request,
        (handle, offset): (u64, u64),
        data: &[u8],
        reply: Completion<u32>,
    ) {
        let write = Write {
            host: Arc::clone(&self.host),
            numbers: Arc::clone(self.handles.numbers()),
            request: *request,
            handle,
            offset,
            data: data.to_vec(),
        };
        let started = std::thread::Builder::new().name("command".to_owned()).spawn(move || {
            let What::Control(control) = &open.what else { return reply.done(Err(Errno::EBADF)) };
            reply.done(write.take(control));
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread for a command");
        }
    }

    /// What a control or policy file shows before anything is written.
    pub(super) fn control_text(&self, node: &Node) -> Answer<Vec<u8>> {
        shown(&*self.host, node).map(String::into_bytes)
    }
}

/// The verb of a file; a job has one file for all of its verbs, and the line begins with one.
fn verb(name: &str, line: &str) -> Answer<Verb> {
    if name != CONTROL {
        return name.parse().map_err(|_| Errno::ENOENT);
    }
    let done = line.split_whitespace().next() == Some(Verb::Done.name());
    Ok(if done { Verb::Done } else { Verb::Cancel })
}

fn shown(host: &dyn Host, node: &Node) -> Answer<String> {
    match node {
        Node::VmFile(vm, VmFile::Policy, _) => {
            Ok(host.controls().policy(&*item(host, *vm)?).map_err(failed)?.0)
        }
        Node::Verb(whose, name) => on(host, whose, |to| {
            let report = host.controls().control(to, verb(name, "")?).map_err(failed)?;
            Ok(control_sheet(&report).text())
        }),
        _ => Err(Errno::EINVAL),
    }
}

fn on<T>(host: &dyn Host, whose: &Whose, act: impl FnOnce(To<'_>) -> Answer<T>) -> Answer<T> {
    match whose {
        Whose::Vm(vm) => act(To::Vm(&*item(host, *vm)?)),
        Whose::Site => act(To::Site),
        Whose::Job(id) => act(To::Job(id)),
    }
}

impl Write {
    fn take(&self, control: &Control) -> Answer<u32> {
        let all = self.data.len() as u32;
        let text = String::from_utf8_lossy(&self.data);
        let line = text.trim();
        if line.is_empty() {
            return Ok(all);
        }
        let answer = |said: &Said| match said.errno {
            0 => Ok(all),
            errno => Err(Errno(errno)),
        };
        let mut decided = control.said.lock();
        if let Some(said) = &*decided {
            // C1.
            return if said.line == kept(line) { answer(said) } else { Err(Errno::EINVAL) };
        }
        let requests = self.host.requests();
        // A token of a pairing is a secret: what is kept doesn't have it.
        let what = format!("write to {}", name_of(&control.node));
        let seen = requests.begin(self.request.unique, &what).map_err(failed)?;
        let before = match (&seen, self.request.resent) {
            (Seen::Done(_, text), true) => serde_json::from_str::<Said>(text).ok(),
            _ => None,
        };
        let said = match before {
            Some(said) => said,
            None => self.carry_out(&control.node, line, &text)?,
        };
        if let Err(error) =
            requests.done(self.request.unique, said.errno, &serde_json::to_string(&said).unwrap_or_default())
        {
            tracing::warn!(%error, "the answer to a command can't be kept for the case that it comes again");
        }
        self.keep(control, &said);
        *control.shown.lock() = Shown {
            text: said.text.clone().into_bytes(),
            behind: Some(self.offset + u64::from(all)),
            settled: false,
        };
        let result = answer(&said);
        *decided = Some(said);
        result
    }

    /// For the next worker: what the opening has become.
    fn keep(&self, control: &Control, said: &Said) {
        let meaning = Meaning {
            node: control.node.clone(),
            epoch: EpochId::NONE,
            file: DiskId::NONE,
            writes: None,
            said: Some(Said { text: said.text.chars().take(KEPT_TEXT).collect(), ..said.clone() }),
        };
        let bytes = serde_json::to_vec(&meaning).unwrap_or_default();
        if let Err(error) = self.numbers.put(KIND_OPEN, self.handle, &bytes) {
            tracing::debug!(%error, "a worker that follows won't know the outcome of a command");
        }
    }

    fn carry_out(&self, node: &Node, line: &str, text: &str) -> Answer<Said> {
        let who = Caller { uid: self.request.uid, gid: self.request.gid, pid: self.request.pid };
        let controls = self.host.controls();
        let (result, shown) = match node {
            Node::VmFile(vm, VmFile::Policy, _) => {
                let vm = item(&*self.host, *vm)?;
                let result = if self.data.len() >= POLICY_MAX {
                    Err(Refusal::Invalid.with("what", "a policy is shorter than 64 KiB"))
                } else {
                    controls.write_policy(who, &*vm, text).map(|()| Outcome::Done("written".to_owned()))
                };
                let shown = |outcome: &Outcome| {
                    let (policy, _) = controls.policy(&*vm).map_err(failed)?;
                    Ok::<_, Errno>(policy + &outcome_sheet(outcome).text())
                };
                let (errno, outcome) = ended(result);
                (errno, shown(&outcome)?)
            }
            Node::Verb(whose, name) => {
                let verb = verb(name, line)?;
                let line_with_id = self.with_id(line);
                on(&*self.host, whose, |to| {
                    let (errno, outcome) = ended(controls.command(who, to, verb, line_with_id.as_bytes()));
                    let report = controls.control(to, verb);
                    // A command may take away what the file is about: a VM that was unprotected and deleted.
                    let shown = match report {
                        Ok(mut report) => {
                            report.outcome = Some((shown_line(verb, line).to_owned(), outcome));
                            control_sheet(&report).text()
                        }
                        Err(_) => outcome_sheet(&outcome).text(),
                    };
                    Ok((errno, shown))
                })?
            }
            _ => return Err(Errno::EBADF),
        };
        Ok(Said { line: kept(line), errno: result, text: shown })
    }

    /// C2. A line that isn't understood gets none: it is refused as it is.
    fn with_id(&self, line: &str) -> String {
        let plain = match Line::parse(line.as_bytes()) {
            Ok(parsed) => !parsed.options.iter().any(|(key, _)| key == "id" || key == "dry-run"),
            Err(LineError::Empty | _) => false,
        };
        if !plain {
            return line.to_owned();
        }
        let id = self.host.requests().id(self.request.unique);
        let with = format!("{line} id={REQUEST_ID}{}-{}", id.mount.short(), id.unique);
        if with.len() < crate::protection::control::LINE_MAX { with } else { line.to_owned() }
    }
}

/// What is compared and kept of a line: no secret.
fn kept(line: &str) -> String {
    blake3::hash(line.as_bytes()).to_hex()[..32].to_owned()
}

/// A token of a pairing isn't shown again.
fn shown_line(verb: Verb, line: &str) -> &str {
    if verb == Verb::Pair { line.split_whitespace().next().unwrap_or_default() } else { line }
}

fn name_of(node: &Node) -> String {
    match node {
        Node::Verb(_, verb) => format!("control/{verb}"),
        _ => "policy".to_owned(),
    }
}

fn ended(result: Result<Outcome, Refused>) -> (i32, Outcome) {
    match result {
        Ok(outcome) => (0, outcome),
        Err(refused) => (refused.errno(), Outcome::Refused(refused)),
    }
}
