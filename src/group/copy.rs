//! Copies that are being received: over nothing ([`FirstCopy`]) or over the image that is here ([`OverImage`]).
//!
//! C1. One copy at a time. What it is and how far it is durable stands in one small file; without that file nothing
//!     that a copy brought counts.
//! C2. The file says no more than what is durable, and it goes after the jump is counted. A file that outlives its
//!     jump is removed at the next opening.

use crate::exchange::{CopyStatement, Data, DiskRange, Fill, Planned, RangeSet};
use crate::format::LogState;
use crate::group::Group;
use crate::group::first_copy::FirstCopy;
use crate::group::names::{Change, Names};
use crate::group::staging::OverImage;
use crate::history::{ChainValue, DiskSize, JumpReason};
use crate::journal::small_file;
use crate::vocab::{Error, Kind, Moment, Pos, Result, Token};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

const COPY: &str = "copy.json";

/// A copy, as it is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) copy: Token,
    pub(crate) reason: JumpReason,
    pub(crate) staged: Moment,
    pub(crate) chain: ChainValue,
    pub(crate) missing: Vec<DiskRange>,
    pub(crate) names: Names,
    /// Of a copy over an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) over: Option<Staged>,
}

/// The staging log of a copy over an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Staged {
    /// The head that the jump leaves.
    pub(crate) from: Moment,
    /// The log.
    pub(crate) log: LogState,
    /// The parts of it that count.
    pub(crate) parts: Vec<(Pos, Pos)>,
}

/// A copy under way.
pub(crate) enum Copying {
    First(Box<FirstCopy>),
    Over(Box<OverImage>),
}

impl Group {
    fn progress(&self) -> Result<Option<Progress>> {
        small_file::read(&*self.parts.store, &self.dir, COPY)
    }

    pub(crate) fn write_progress(&self, progress: &Progress) -> Result<()> {
        self.copying_over.store(progress.over.is_some(), Ordering::Release);
        small_file::write(&*self.parts.store, &self.dir, COPY, progress)
    }

    pub(crate) fn remove_progress(&self) -> Result<()> {
        small_file::remove(&*self.parts.store, &self.dir, COPY)?;
        self.copying_over.store(false, Ordering::Release);
        Ok(())
    }

    /// Whether a newer image is arriving over the one that is here, on this connection or the next.
    pub fn copies_over(&self) -> bool {
        self.copying_over.load(Ordering::Acquire)
    }

    /// The copy that is being made here, as it is durable.
    pub(crate) fn copy_statement(&self) -> Result<Option<(CopyStatement, RangeSet)>> {
        let Some(p) = self.progress()? else { return Ok(None) };
        let missing: RangeSet = p.missing.iter().copied().collect();
        let statement = CopyStatement {
            copy: p.copy,
            reason: p.reason,
            staged: p.staged,
            chain: p.chain,
            missing_bytes: missing.bytes(),
        };
        Ok(Some((statement, missing)))
    }

    /// G5 of `staging`: a copy over an image that isn't the head any more goes. Returns whether one did.
    pub(crate) fn drop_overtaken_copy(&self) -> Result<bool> {
        let over = self.progress()?.and_then(|progress| progress.over);
        let overtaken = over.is_some_and(|over| over.from != self.head());
        if overtaken {
            self.drop_copy()?;
        }
        Ok(overtaken)
    }

    /// Goes on with the copy that a connection or a restart has left.
    pub(crate) fn resume_copy(&self) -> Result<Option<Copying>> {
        let Some(progress) = self.progress()? else { return Ok(None) };
        Ok(Some(match progress.over {
            None => Copying::First(Box::new(FirstCopy::resumed(progress))),
            Some(_) => Copying::Over(Box::new(OverImage::resumed(self, progress)?)),
        }))
    }

    /// Begins a copy; what was begun before is deleted.
    pub(crate) fn begin_copy(&self, planned: &Planned) -> Result<Copying> {
        self.drop_copy()?;
        if planned.onto_image != self.has_image() {
            let here = if self.has_image() { "an image" } else { "no image" };
            return Err(Error::new(
                Kind::Conflict,
                format!("there is {here} here, and the peer thinks otherwise"),
            ));
        }
        let progress = Progress {
            copy: planned.copy,
            reason: planned.reason,
            staged: planned.at,
            chain: planned.chain,
            missing: planned.set.iter().collect(),
            names: Names::default(),
            over: None,
        };
        if planned.onto_image {
            return Ok(Copying::Over(Box::new(OverImage::begin(self, progress, &planned.disks)?)));
        }
        self.write_progress(&progress)?;
        Ok(Copying::First(Box::new(FirstCopy::begun(progress))))
    }

    /// Deletes what a copy has brought so far; the image that is here stays.
    pub(crate) fn drop_copy(&self) -> Result<()> {
        self.remove_progress()?;
        self.drop_unpublished()?;
        if self.has_image() {
            return Ok(());
        }
        for name in self.parts.store.list(&self.dir)? {
            if name.starts_with("base-") {
                self.parts.store.remove(&self.dir.join(name))?;
            }
        }
        self.parts.store.sync_dir(&self.dir)
    }

    /// What a crash left between a jump and the end of its copy's file (C2), or of a copy that never began.
    pub(crate) fn settle_copies(&self) -> Result<()> {
        let (goes_on, over) = match self.progress()? {
            Some(Progress { over: Some(over), .. }) => (!self.is_published(over.log.log), true),
            Some(_) => (!self.has_image(), false),
            None => (false, false),
        };
        if goes_on {
            self.copying_over.store(over, Ordering::Release);
            return Ok(());
        }
        self.remove_progress()?;
        self.drop_unpublished()
    }

    /// The jump: to the moment that the copy has come to.
    pub(crate) fn publish_copy(
        &self,
        copy: &mut Copying,
        to: Moment,
        chain: ChainValue,
        disks: Vec<DiskSize>,
    ) -> Result<()> {
        let (progress, missing) = match copy {
            Copying::First(c) => (&c.progress, &c.missing),
            Copying::Over(c) => (&c.progress, &c.missing),
        };
        let sizes = progress.names.files.iter().map(|(disk, f)| DiskSize { disk: *disk, size: f.size });
        let sizes: Vec<DiskSize> = sizes.collect();
        if !disks.is_empty() && disks != sizes {
            return Err(Error::new(
                Kind::Damaged,
                format!("names and sizes of {to} that were sent don't agree"),
            )
            .advice("The copy is dropped; resync, and report it"));
        }
        if to != progress.staged || !missing.is_empty() {
            return Err(Error::new(
                Kind::Conflict,
                format!("a copy at {} is to be published at {to}", progress.staged),
            ));
        }
        match copy {
            Copying::First(copy) => self.publish_first(copy, to, chain, sizes)?,
            Copying::Over(copy) => self.publish_over(copy, to, chain, sizes)?,
        }
        self.remove_progress()
    }
}

impl Copying {
    /// Records in order.
    pub(crate) fn take_records(&mut self, group: &Group, data: &Data) -> Result<()> {
        match self {
            Self::First(copy) => copy.take_records(group, data),
            Self::Over(copy) => copy.take_records(group, data),
        }
    }

    /// A range as it is at the moment just received; file 0 holds the names.
    pub(crate) fn take_fill(&mut self, group: &Group, fill: &Fill) -> Result<()> {
        match self {
            Self::First(copy) => copy.take_fill(group, fill),
            Self::Over(copy) => copy.take_fill(group, fill),
        }
    }

    /// The stream goes on at a later moment; these ranges are missing again.
    pub(crate) fn skip(&mut self, to: Moment, chain: ChainValue, set: &RangeSet) {
        let (progress, missing) = match self {
            Self::First(copy) => (&mut copy.progress, &mut copy.missing),
            Self::Over(copy) => (&mut copy.progress, &mut copy.missing),
        };
        (progress.staged, progress.chain) = (to, chain);
        missing.extend(set);
    }

    /// Bytes since the last sync.
    pub(crate) fn unsynced(&self) -> u64 {
        match self {
            Self::First(copy) => copy.unsynced,
            Self::Over(copy) => copy.unsynced,
        }
    }

    /// Makes everything so far durable, and then says so (C2).
    pub(crate) fn sync(&mut self, group: &Group) -> Result<()> {
        match self {
            Self::First(copy) => copy.sync(group),
            Self::Over(copy) => copy.sync(group),
        }
    }
}

impl Progress {
    /// Names and sizes after records.
    pub(crate) fn change_names(&mut self, data: &Data) -> Result<()> {
        for r in &data.records {
            if let Some(change) = Change::of(r.kind, r.disk, r.offset, &r.payload)? {
                self.names.apply(&change);
            }
        }
        Ok(())
    }

    /// The names at the moment just received.
    pub(crate) fn fill_names(&mut self, fill: &Fill) -> Result<()> {
        self.names = serde_json::from_slice(&fill.payload)
            .map_err(|e| Error::new(Kind::Damaged, format!("the names of a copy can't be read: {e}")))?;
        Ok(())
    }
}
