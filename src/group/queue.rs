//! The queue of a group: who may enter, and in which order (G1, G3).

use crate::format::{AddPayload, FLAG_FLUSH, FLAG_JOINED, RemovePayload, RenamePayload};
use crate::group::group::Reply;
use crate::group::names::{Change, Names};
use crate::vocab::{DiskOrdinal, Error, Kind, RecordKind, Result};
use std::borrow::Cow;

/// Who may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Writers enter. Before the first record of this opening an epoch is begun.
    Open {
        /// The epoch of this opening has begun.
        begun: bool,
    },
    /// Writers with a handle from before get ENOSPC, so that QEMU pauses the VM (fenced, frozen, handing over).
    Frozen,
    /// After a start: its peer is to be heard before anything enters. As long as this lasts it is a writer to the peer.
    Waiting,
    /// A target: EROFS for everything.
    Target,
    /// Damaged or poisoned: EIO.
    Stopped,
}

/// What a guest or a person asks for.
#[derive(Debug)]
pub enum Op<'a> {
    /// Bytes at an offset; beyond the end the file grows.
    Write {
        /// First byte.
        offset: u64,
        /// At most 1 MiB.
        data: &'a [u8],
    },
    /// A range reads as zeros and stays allocated; beyond the end the file grows if `grow`.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Whether the file grows to the range's end.
        grow: bool,
    },
    /// A range reads as zeros and needs no room; never grows.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Another size.
    Resize {
        /// Bytes.
        size: u64,
    },
    /// At least this size.
    Grow {
        /// Bytes.
        size: u64,
    },
}

/// A record that has its place in the queue.
#[derive(Debug)]
pub(crate) struct Queued<'a> {
    pub(crate) disk: DiskOrdinal,
    pub(crate) kind: RecordKind,
    pub(crate) flags: u8,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) payload: Cow<'a, [u8]>,
}

pub(crate) struct Pending<'a> {
    pub(crate) records: Vec<Queued<'a>>,
    pub(crate) sync: bool,
    pub(crate) reply: Reply,
}

pub(crate) struct Queue {
    pub(crate) gate: Gate,
    /// A thread appends; others leave their requests in `pending`.
    pub(crate) appending: bool,
    pub(crate) pending: Vec<Pending<'static>>,
    /// Requests that were in the newest batch or waited when it was written: so many writers are about.
    pub(crate) around: usize,
    /// The leader waits until so many are pending; 0: it doesn't wait.
    pub(crate) gathering: usize,
    /// The guest flushed since the last record.
    pub(crate) flushed: bool,
    /// Names and sizes after everything that has entered.
    pub(crate) names: Names,
    /// What the gate was before a failure stopped the group.
    pub(crate) stopped_from: Option<Gate>,
}

impl Gate {
    /// The error that a writer gets.
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Open { .. } => Ok(()),
            Self::Frozen => Err(Error::new(Kind::NoSpace, "this site may not write the group now")
                .advice("See `status` and `allowed` of the VM")),
            Self::Waiting => Err(Error::new(Kind::Busy, "the group waits for its peer after the start")
                .advice("See `start-wait` in `status` of the VM")),
            Self::Target => Err(Error::new(Kind::ReadOnly, "the disks of a target are read-only")
                .advice("`failover` makes them writable")),
            Self::Stopped => {
                Err(Error::new(Kind::Poisoned, "the group was stopped by damage or a failed sync")
                    .advice("See `health` of the VM"))
            }
        }
    }
}

impl Queue {
    /// G3: who may write from now on. A queue that a failure stopped stays stopped, and has this gate once it is mended.
    pub(crate) fn set_gate(&mut self, gate: Gate) {
        match self.gate {
            _ if gate == Gate::Stopped => self.stop(),
            Gate::Stopped => self.stopped_from = self.stopped_from.map(|_| gate),
            _ => self.gate = gate,
        }
    }

    /// The gate, or what it will be once a failure is mended.
    pub(crate) fn wanted(&self) -> Gate {
        self.stopped_from.filter(|_| self.gate == Gate::Stopped).unwrap_or(self.gate)
    }

    /// A failure: nobody enters until it is mended.
    pub(crate) fn stop(&mut self) {
        if self.gate != Gate::Stopped {
            self.stopped_from = Some(self.gate);
            self.gate = Gate::Stopped;
        }
    }

    /// The records of an operation, in order, at the queue's end. Sizes change here, so that what enters later
    /// sees them.
    pub(crate) fn enter<'a>(&mut self, disk: DiskOrdinal, op: &Op<'a>) -> Result<Vec<Queued<'a>>> {
        self.gate.check()?;
        let Some(file) = self.names.files.get_mut(&disk) else {
            return Err(Error::new(Kind::Stale, format!("file {disk} of the group is gone")));
        };
        let old = file.size;
        let end = match *op {
            Op::Write { offset, data } => offset.checked_add(data.len() as u64),
            Op::Zero { offset, length, grow } if grow => offset.checked_add(length),
            Op::Resize { size } => Some(size),
            Op::Grow { size } => Some(size.max(old)),
            _ => Some(old),
        };
        let Some(end) = end.filter(|end| *end <= i64::MAX as u64) else {
            return Err(Error::new(Kind::Invalid, "the range ends beyond what a file can have"));
        };
        let size = if matches!(op, Op::Resize { .. }) { end } else { end.max(old) };
        let mut out = Vec::with_capacity(2);
        if size != old {
            file.size = size;
            out.push(queued(disk, RecordKind::Resize, size, old, Cow::Borrowed(&[])));
        }
        match *op {
            Op::Write { offset, data } if !data.is_empty() => {
                out.push(queued(disk, RecordKind::Write, offset, data.len() as u64, Cow::Borrowed(data)));
            }
            Op::Zero { offset, length, .. } => {
                push_range(&mut out, disk, RecordKind::Zero, offset, length, size)
            }
            Op::Discard { offset, length } => {
                push_range(&mut out, disk, RecordKind::Discard, offset, length, size)
            }
            _ => {}
        }
        self.join(&mut out);
        Ok(out)
    }

    /// The records of changes of names, all in one batch.
    pub(crate) fn enter_changes(&mut self, changes: &[Change]) -> Result<Vec<Queued<'static>>> {
        self.gate.check()?;
        let mut out = Vec::with_capacity(changes.len());
        for change in changes {
            out.extend(self.enter_change(change)?);
        }
        self.join(&mut out);
        Ok(out)
    }

    fn enter_change(&mut self, change: &Change) -> Result<Option<Queued<'static>>> {
        let json = |e: serde_json::Error| Error::new(Kind::Invalid, format!("names can't be written: {e}"));
        let (disk, kind, payload) = match change {
            Change::Add(disk, add) => {
                (*disk, RecordKind::Add, serde_json::to_vec::<AddPayload>(add).map_err(json)?)
            }
            Change::Rename(disk, r) => {
                (*disk, RecordKind::Rename, serde_json::to_vec::<RenamePayload>(r).map_err(json)?)
            }
            Change::Remove(disk) => {
                let path = self.names.files.get(disk).map(|f| f.path.clone()).unwrap_or_default();
                (*disk, RecordKind::Remove, serde_json::to_vec(&RemovePayload { path }).map_err(json)?)
            }
            Change::All(_) => {
                return Err(Error::new(Kind::Invalid, "only a jump replaces all names"));
            }
            Change::Resize(disk, size) => {
                let old = self.names.files.get(disk).map_or(0, |f| f.size);
                self.names.apply(change);
                return Ok(
                    (old != *size).then(|| queued(*disk, RecordKind::Resize, *size, old, Cow::Borrowed(&[])))
                );
            }
        };
        self.names.apply(change);
        let length = payload.len() as u64;
        Ok(Some(queued(disk, kind, 0, length, Cow::Owned(payload))))
    }

    fn join(&mut self, out: &mut [Queued<'_>]) {
        for (number, record) in out.iter_mut().enumerate() {
            if number > 0 {
                record.flags |= FLAG_JOINED;
            } else if std::mem::take(&mut self.flushed) {
                record.flags |= FLAG_FLUSH;
            }
        }
    }
}

fn queued(
    disk: DiskOrdinal,
    kind: RecordKind,
    offset: u64,
    length: u64,
    payload: Cow<'_, [u8]>,
) -> Queued<'_> {
    Queued { disk, kind, flags: 0, offset, length, payload }
}

/// Ranges end with the file.
fn push_range(
    out: &mut Vec<Queued<'_>>,
    disk: DiskOrdinal,
    kind: RecordKind,
    offset: u64,
    length: u64,
    size: u64,
) {
    let length = length.min(size.saturating_sub(offset));
    if length > 0 {
        out.push(queued(disk, kind, offset, length, Cow::Borrowed(&[])));
    }
}

impl Queued<'_> {
    pub(crate) fn into_owned(self) -> Queued<'static> {
        Queued { payload: Cow::Owned(self.payload.into_owned()), ..self }
    }
}
