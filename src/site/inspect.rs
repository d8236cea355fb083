//! What a store holds, read from its files alone: for a person beside a damaged store, for tests, for backups.
//!
//! I1. Nothing is written: what recovery would write goes to memory ([`crate::seam::Overlay`]).
//! I2. Each file is judged by itself: damage of one never hides another.
//! I3. What can't be proved is said: each statement names the kind of proof that it rests on.

mod chain;
mod group;
mod ranges;
mod segments;
mod small;

pub use group::{BaseReport, GroupReport};
pub(super) use group::{checkpoint_of, open_in_memory};
pub use segments::SegmentReport;

use crate::seam::{DirStorage, Entropy, Storage};
use crate::site::catalog::Catalog;
use crate::site::objects::{GroupObject, VmObject};
use crate::site::store::{Moved, OpenFor, Store, StoreFile};
use crate::vocab::{Error, GroupId, Kind, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What shows that a statement is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// The bytes are as they were written.
    Checksum,
    /// The records are those of this history, in this order, none missing.
    Chain,
    /// Nothing here: only a scrub against the peer.
    None,
}

/// A statement about a store and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// Of what.
    pub about: String,
    /// What it rests on.
    pub proof: Proof,
    /// In words.
    pub says: String,
}

/// Damage, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The file.
    pub path: String,
    /// First byte of the piece that isn't as it was written.
    pub offset: Option<u64>,
    /// In words.
    pub what: String,
}

/// All that was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The directory.
    pub dir: String,
    /// What `store.json` says, if it can be read.
    pub store: Option<StoreFile>,
    /// A daemon has it open: what is shown is what its last checkpoints cover, and perhaps a little more.
    pub beside_daemon: bool,
    /// All batches, payloads and pages were read.
    pub verified: bool,
    /// VMs of the catalog.
    pub vms: Vec<VmObject>,
    /// Groups.
    pub groups: Vec<GroupReport>,
    /// What the statements rest on.
    pub proofs: Vec<Statement>,
    /// Damage.
    pub damage: Vec<Damage>,
    /// What is odd and no damage.
    pub notes: Vec<String>,
}

impl Report {
    pub(super) fn damaged(&mut self, path: impl Into<String>, offset: Option<u64>, what: impl Into<String>) {
        let found = Damage { path: path.into(), offset, what: what.into() };
        if !self.damage.contains(&found) {
            self.damage.push(found);
        }
    }

    /// An error of a reader, as damage of this file.
    pub(super) fn failed(&mut self, path: impl Into<String>, error: &Error) {
        self.damaged(path, None, error.to_string());
    }

    pub(super) fn proved(&mut self, about: impl Into<String>, proof: Proof, says: impl Into<String>) {
        self.proofs.push(Statement { about: about.into(), proof, says: says.into() });
    }
}

/// What `inspect` is asked.
#[derive(Clone, Debug, Default)]
pub struct InspectOptions {
    /// The store.
    pub store: PathBuf,
    /// Its journal directory, if that isn't where it was.
    pub journal: Option<PathBuf>,
    /// Read all batches, payloads and pages, and compute the chain.
    pub verify: bool,
}

/// Reads a store.
///
/// # Errors
/// Only if there is nothing to look at: no store, no permission, a format of a later version.
pub fn inspect(options: &InspectOptions, entropy: &dyn Entropy) -> Result<Report> {
    let mut report = Report { verified: options.verify, ..Report::default() };
    let opened =
        Store::open(&options.store, OpenFor::Reading, Moved::Unsaid, options.journal.as_deref(), entropy);
    let (store, journal): (Arc<dyn Storage>, Arc<dyn Storage>) = match &opened {
        Ok(open) => {
            report.beside_daemon = open.beside_writer();
            report.store = Some(open.file().clone());
            (open.storage(), open.journal())
        }
        Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) || e.name() == Some("wrong-journal") => {
            let store = Arc::new(DirStorage::open(&options.store)?);
            report.damaged(store.shown(Path::new("store.json")), Some(0), e.to_string());
            let journal = match &options.journal {
                Some(dir) => Arc::new(DirStorage::open(dir)?),
                None => store.clone(),
            };
            (store, journal)
        }
        Err(_) => return Err(opened.err().unwrap_or_else(|| Error::new(Kind::Io, "no store"))),
    };
    report.dir = store.shown(Path::new(""));
    let empty = report.clone();
    for attempt in 0..4 {
        look_at(&mut report, &store, &journal, options.verify)?;
        // A daemon goes on writing: what is damage shows again.
        if !report.beside_daemon || report.damage.is_empty() || attempt == 3 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        report = empty.clone();
    }
    drop(opened);
    Ok(report)
}

/// As [`inspect`], of trees that are open.
pub fn look_at(
    report: &mut Report,
    store: &Arc<dyn Storage>,
    journal: &Arc<dyn Storage>,
    verify: bool,
) -> Result<()> {
    let objects = small::catalog(report, &**store);
    report.proved(
        "catalog",
        Proof::Checksum,
        format!("{objects} small files (names, points, policies, peers, jobs) were read, each with a crc32c"),
    );
    let catalog = Catalog::new(store.clone());
    report.vms = catalog.list::<VmObject>().map(|(vms, _)| vms).unwrap_or_default();
    let known = catalog.list::<GroupObject>().map(|(groups, _)| groups).unwrap_or_default();
    let folder = Path::new("groups");
    let mut ids: Vec<String> = if store.exists(folder)? { store.list(folder)? } else { Vec::new() };
    ids.extend(known.iter().map(|g| g.id.to_string()));
    ids.sort();
    ids.dedup();
    for name in ids {
        let Ok(id) = name.parse::<GroupId>() else {
            report.notes.push(format!("groups/{name} is no group"));
            continue;
        };
        let look = group::Look { store: store.clone(), journal: journal.clone(), id, verify };
        look.run(report, known.iter().find(|g| g.id == id));
    }
    Ok(())
}
