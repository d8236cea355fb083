//! The store: the directory in which a site keeps everything.
//!
//! ```text
//! store.json                    identity, home, features, where the journals are
//! lock                          held by the daemon (exclusive) or a tool (shared)
//! site/key.pem                  the site's key, mode 0600
//! site/peers/<store>.json       one file a peer
//! site/tokens.json              pairing tokens, without their secrets
//! site/settings.json            what an administrator chose
//! site/start.json               who has heard its peer since the mount
//! catalog/vms/<vm>.json         names
//! catalog/groups/<group>.json   membership
//! catalog/points/<group>.json   recovery points
//! catalog/policies/<name>.json  policies
//! catalog/commands/<key>.json   outcomes of commands with an id=
//! requests/<mount>.jsonl        answers for requests that are sent again
//! jobs/<id>.json, <id>.log      jobs
//! events/events-<offset>.jsonl  events
//! groups/<group>/…              bases and what else the engine keeps of a group
//! groups/<group>/…              its journal: here, or in a directory of its own with a journal.json
//! ```
//!
//! S1. A store is made whole or not at all: `store.json` comes last.
//! S2. Who writes holds the lock; a second writer is refused, a reader beside a writer is told.
//! S3. A copy or a moved store is not opened for writing unseen (`home`): two copies with one identity would
//!     give the same names to different moments.
//! S4. A journal directory belongs to one store and says so; another one, or one that was left at its old place
//!     when the store was copied, is refused before a byte of it is used.
//! S5. Features that this version doesn't know decide what it may do: nothing (incompatible), read
//!     (read-only-compatible), everything (compatible).

use crate::link::Identity;
use crate::seam::{Clock, DirStorage, Entropy, Probe, Reserved, Rooms, Storage};
use crate::site::catalog::Catalog;
use crate::site::objects::Settings;
use crate::vocab::{Error, Kind, Result, StoreId, Token};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod home;

pub use home::Home;

/// The version of the layout that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// Features of this version, by what a version that doesn't know them may do.
pub const KNOWN: Features =
    Features { compatible: vec![], read_only_compatible: vec![], incompatible: vec![] };
const STORE_FILE: &str = "store.json";
const JOURNAL_FILE: &str = "journal.json";
const SETTINGS_FILE: &str = "site/settings.json";

/// Names of features that a store uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// May be ignored.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// Whoever doesn't know them may read.
    #[serde(default)]
    pub read_only_compatible: Vec<String>,
    /// Whoever doesn't know them may do nothing.
    #[serde(default)]
    pub incompatible: Vec<String>,
}

/// A journal directory that isn't below the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalPlace {
    /// Where it was when it was last used.
    pub path: PathBuf,
    /// What its `journal.json` says.
    pub id: Token,
}

/// `store.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFile {
    /// Version of the layout.
    pub format: u32,
    /// Identity.
    pub store: StoreId,
    /// Identities that it had before it was copied: segments of then carry them.
    #[serde(default)]
    pub former: Vec<StoreId>,
    /// Wall time in ns.
    pub created: i64,
    /// Where it was when it was last used.
    pub home: Home,
    /// Features.
    pub features: Features,
    /// The journal directory, if it is a separate one.
    #[serde(default)]
    pub journal: Option<JournalPlace>,
}

/// `journal.json` in a separate journal directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct JournalFile {
    id: Token,
    /// The id before the store was copied: `store.json` may still name it after a crash.
    former: Option<Token>,
    store: StoreId,
    home: Home,
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFor {
    /// The daemon.
    Writing,
    /// `inspect` and `export`.
    Reading,
}

/// What the administrator says about a store that isn't where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Moved {
    /// Nothing: refused `store-moved`.
    #[default]
    Unsaid,
    /// It was moved or restored and the old one is gone: identities stay.
    Moved,
    /// It is a copy beside the original: new identity, no pairings.
    Copied,
}

/// An open store.
pub struct Store {
    dir: PathBuf,
    file: StoreFile,
    storage: Arc<DirStorage>,
    rooms: Rooms,
    /// The store's tree and that of the journals, with the reserve behind them.
    tree: Arc<dyn Storage>,
    journal: Arc<dyn Storage>,
    catalog: Catalog,
    probe: Option<Probe>,
    beside_writer: bool,
    /// Released when they are closed.
    _locks: Vec<File>,
}

impl Store {
    /// Makes a store in an empty directory, or one that doesn't exist yet, and opens it for writing. `journal`:
    /// an empty directory of its own for the journals. Refused `not-empty`, `store-exists`,
    /// `filesystem-unfit`.
    pub fn create(
        dir: &Path,
        journal: Option<&Path>,
        name: &str,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Self> {
        super::names::check_label(name)?;
        let (dir, storage, lock, probe) = prepare(dir, STORE_FILE)?;
        let store = StoreId(entropy.random_128());
        let mut locks = vec![lock];
        let journal = journal.map(|path| -> Result<_> {
            let (path, tree, lock, _) = prepare(path, JOURNAL_FILE)?;
            locks.push(lock);
            let id = Token(entropy.random_128());
            let file = JournalFile { id, former: None, store, home: Home::of(&path)? };
            Catalog::new(tree.clone()).put_at(Path::new(JOURNAL_FILE), &file)?;
            Ok((JournalPlace { path, id }, tree))
        });
        let (place, journal) = journal.transpose()?.unzip();
        let catalog = Catalog::new(Arc::clone(&storage) as _);
        for folder in ["site/peers", "catalog", "jobs", "groups"] {
            catalog.make_folder(Path::new(folder))?;
        }
        make_key(&dir)?;
        catalog
            .put_at(Path::new(SETTINGS_FILE), &Settings { name: name.to_owned(), ..Settings::default() })?;
        let file = StoreFile {
            format: FORMAT,
            store,
            former: Vec::new(),
            created: clock.wall_ns(),
            home: Home::of(&dir)?,
            features: KNOWN,
            journal: place,
        };
        catalog.put_at(Path::new(STORE_FILE), &file)?;
        let mut made = Self::assemble(dir, file, storage, journal, locks)?;
        made.probe = Some(probe);
        Ok(made)
    }

    fn assemble(
        dir: PathBuf,
        file: StoreFile,
        storage: Arc<DirStorage>,
        journal: Option<Arc<DirStorage>>,
        locks: Vec<File>,
    ) -> Result<Self> {
        let below: Arc<dyn Storage> = storage.clone();
        let below_journal = journal.map_or_else(|| below.clone(), |journal| journal as _);
        let rooms = Rooms::new(&below, &below_journal)?;
        let apart = !Arc::ptr_eq(&below, &below_journal);
        let tree: Arc<dyn Storage> = Arc::new(Reserved::new(below, rooms.store.clone()));
        let journal =
            if apart { Arc::new(Reserved::new(below_journal, rooms.journal.clone())) } else { tree.clone() };
        let catalog = Catalog::new(tree.clone());
        let (probe, beside_writer) = (None, false);
        Ok(Self { dir, file, storage, rooms, tree, journal, catalog, probe, beside_writer, _locks: locks })
    }

    /// The accounts of its filesystems.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Takes room for what must always be possible, on each of its filesystems.
    pub fn keep_reserve(&self) -> Result<()> {
        self.rooms.store.keep_reserve()?;
        if self.rooms.is_one() { Ok(()) } else { self.rooms.journal.keep_reserve() }
    }

    /// Opens a store. `journal`: where its separate journal directory is now, if not where it was. Refused
    /// `no-store`, `store-in-use`, `store-moved`, `unknown-features`, `wrong-journal`, `journal-not-copied`.
    pub fn open(
        dir: &Path,
        what_for: OpenFor,
        moved: Moved,
        journal: Option<&Path>,
        entropy: &dyn Entropy,
    ) -> Result<Self> {
        let shown = dir.display().to_string();
        let dir = dir.canonicalize().map_err(|e| cant_open(e, &shown))?;
        let storage = Arc::new(DirStorage::open(&dir)?);
        let catalog = Catalog::new(Arc::clone(&storage) as _);
        if !storage.exists(Path::new(STORE_FILE))? {
            return Err(Error::refused("no-store", format!("there is no store in {shown}"))
                .advice("`standbyfs mount --store DIR MOUNT` makes one in an empty directory"));
        }
        let (lock, beside_writer) = lock(&dir, what_for)?;
        let read = || -> Result<StoreFile> {
            let file = catalog.get_at(Path::new(STORE_FILE))?;
            file.ok_or_else(|| Error::new(Kind::NotFound, "store.json is gone").at(&dir))
        };
        let mut file = read()?;
        check_features(&file, what_for)?;
        let mut locks = vec![lock];
        let writing = what_for == OpenFor::Writing;
        let mut found = None;
        if let Some(place) = &file.journal {
            let path = journal.unwrap_or(&place.path);
            found = Some(Journal::open(path, &shown)?);
            if writing && let Some(journal) = &found {
                locks.push(self::lock(&journal.path, what_for)?.0);
            }
        } else if journal.is_some() {
            return Err(wrong_journal("this store keeps its journals in its own directory"));
        }
        let here = Home::of(&dir)?;
        let changed = here != file.home;
        if changed && writing && moved == Moved::Unsaid {
            return Err(Error::refused("store-moved", format!("{shown} is not where it was: {}", file.home.differs(&here)))
                .advice("Open it with --moved if the old one is gone for ever, with --copied if this is a copy beside it"));
        }
        if !changed && writing && moved == Moved::Copied && file.former.is_empty() {
            let text = format!(
                "{shown} lies where it is recorded: it is no copy, or was opened with --moved before"
            );
            return Err(Error::new(Kind::Invalid, text).advice(
                "Leave --copied away; a copy that was opened with --moved by mistake has to be made again from the original",
            ));
        }
        if let (Some(journal), Some(place)) = (&found, &file.journal) {
            journal.check(&file, place, writing.then_some(moved).filter(|_| changed))?;
        }
        if writing {
            let before = file.clone();
            if changed && moved == Moved::Copied {
                take_new_identity(&dir, &catalog, &mut file, entropy)?;
            }
            file.home = here;
            if let Some(journal) = &mut found {
                journal.adopt(&mut file, before.store, entropy)?;
            }
            if file != before {
                catalog.put_at(Path::new(STORE_FILE), &file)?;
            }
        }
        let journal = found.map(|j| j.storage);
        let mut opened = Self::assemble(dir, file, storage, journal, locks)?;
        opened.beside_writer = beside_writer;
        Ok(opened)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `store.json` says.
    pub fn file(&self) -> &StoreFile {
        &self.file
    }

    /// Its identity.
    pub fn id(&self) -> StoreId {
        self.file.store
    }

    /// Its tree.
    pub fn storage(&self) -> Arc<dyn Storage> {
        self.tree.clone()
    }

    /// The tree in which journals lie, below `groups/`: the store's own or the separate one.
    pub fn journal(&self) -> Arc<dyn Storage> {
        self.journal.clone()
    }

    /// Its catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// What its filesystem can do.
    pub fn probe(&mut self) -> Result<&Probe> {
        let probe = match self.probe.take() {
            Some(probe) => probe,
            None => self.storage.probe()?,
        };
        Ok(self.probe.insert(probe))
    }

    /// Whether a daemon has it open: a reader sees what the last checkpoints cover.
    pub fn beside_writer(&self) -> bool {
        self.beside_writer
    }

    /// The site's key.
    pub fn identity(&self) -> Result<Identity> {
        Identity::open(&self.dir.join("site"))
    }

    /// What the administrator chose.
    pub fn settings(&self) -> Result<Settings> {
        Ok(self.catalog.get_at(Path::new(SETTINGS_FILE))?.unwrap_or_default())
    }

    /// Changes that; durable when this returns.
    pub fn set_settings(&self, settings: &Settings) -> Result<()> {
        super::names::check_label(&settings.name)?;
        self.catalog.put_at(Path::new(SETTINGS_FILE), settings)
    }
}

fn cant_open(error: std::io::Error, shown: &str) -> Error {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            Error::io(error, "no permission for the store").at(shown).advice("Run as its owner, usually root")
        }
        _ => Error::io(error, "can't open the store").at(shown),
    }
}

/// An empty directory with its lock, on a filesystem that will do.
fn prepare(dir: &Path, mark: &str) -> Result<(PathBuf, Arc<DirStorage>, File, Probe)> {
    use std::os::unix::fs::DirBuilderExt;
    let shown = dir.display().to_string();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| cant_open(e, &shown))?;
    let dir = dir.canonicalize().map_err(|e| cant_open(e, &shown))?;
    let storage = Arc::new(DirStorage::open(&dir)?);
    let names = storage.list(Path::new(""))?;
    if names.iter().any(|n| n == mark) {
        return Err(Error::refused("store-exists", format!("there is one in {shown} already")));
    }
    // What an attempt to make a store here left behind is no reason to refuse: it had no store.json.
    const OURS: &[&str] =
        &["lock", "site", "catalog", "jobs", "groups", "store.json.new", "journal.json.new"];
    let foreign = names.iter().find(|n| !OURS.contains(&n.as_str()) && *n != "lost+found");
    if let Some(name) = foreign.or(names.iter().find(|n| *n == "groups" && !is_empty(&storage, n))) {
        return Err(Error::refused("not-empty", format!("{shown} holds `{name}` and is not a store"))
            .advice("Choose an empty directory, or one that doesn't exist yet"));
    }
    let (lock, _) = lock(&dir, OpenFor::Writing)?;
    let probe = storage.probe().map_err(|e| {
        Error::refused("filesystem-unfit", format!("the filesystem of {shown} lacks what is needed: {e}"))
            .advice("Use a local filesystem: ext4, xfs, btrfs, ZFS")
    })?;
    Ok((dir, storage, lock, probe))
}

fn is_empty(storage: &DirStorage, folder: &str) -> bool {
    storage.list(Path::new(folder)).is_ok_and(|names| names.is_empty())
}

/// How long the end of another process is waited for.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// S2. The second value: somebody else is writing.
fn lock(dir: &Path, what_for: OpenFor) -> Result<(File, bool)> {
    let path = dir.join("lock");
    let failed = |e| Error::io(e, "can't lock the store").at(&path);
    if what_for == OpenFor::Reading {
        // A reader needs no right to write, and a store on a read-only filesystem has no writer.
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok((File::open(dir).map_err(failed)?, false));
            }
            other => other.map_err(failed)?,
        };
        return match file.try_lock_shared() {
            Ok(()) => Ok((file, false)),
            Err(TryLockError::WouldBlock) => Ok((file, true)),
            Err(TryLockError::Error(e)) => Err(failed(e)),
        };
    }
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| {
        if e.kind() == std::io::ErrorKind::PermissionDenied {
            cant_open(e, &dir.display().to_string())
        } else {
            failed(e)
        }
    })?;
    // A program that is being started from the process that had it open holds it too, until it runs.
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok((file, false)),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_WAIT / 50),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(Kind::Busy, format!("another process has {} open", dir.display()))
                    .named("store-in-use")
                    .advice("A store has one daemon; a tool that reads it ends soon"));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
}

/// S5.
fn check_features(file: &StoreFile, what_for: OpenFor) -> Result<()> {
    let refused = |what: String| {
        Error::refused("unknown-features", what).advice("Use the version that wrote it, or a later one")
    };
    if file.format > FORMAT {
        return Err(refused(format!("the store has format {}, this version knows {FORMAT}", file.format)));
    }
    let unknown = |has: &[String], known: &[String]| {
        has.iter().filter(|f| !known.contains(f)).cloned().collect::<Vec<_>>().join(", ")
    };
    let incompatible = unknown(&file.features.incompatible, &KNOWN.incompatible);
    if !incompatible.is_empty() {
        return Err(refused(format!(
            "the store uses features that this version doesn't know: {incompatible}"
        )));
    }
    let read_only = unknown(&file.features.read_only_compatible, &KNOWN.read_only_compatible);
    if !read_only.is_empty() && what_for == OpenFor::Writing {
        return Err(refused(format!("this version may only read a store with these features: {read_only}")));
    }
    Ok(())
}

fn make_key(dir: &Path) -> Result<()> {
    match Identity::create(&dir.join("site")) {
        // Of an attempt that a crash ended: nobody has seen it.
        Err(error) if error.kind() == Kind::Exists => Ok(()),
        other => other.map(|_| ()),
    }
}

/// A copy takes a new identity: pairings first, so that after a crash it is still a copy without one.
fn take_new_identity(
    dir: &Path,
    catalog: &Catalog,
    file: &mut StoreFile,
    entropy: &dyn Entropy,
) -> Result<()> {
    for name in catalog.names(Path::new("site/peers"))? {
        catalog.delete_at(&Path::new("site/peers").join(name))?;
    }
    catalog.delete_at(Path::new("site/tokens.json"))?;
    catalog.delete_at(Path::new("site/key.pem"))?;
    make_key(dir)?;
    file.former.push(file.store);
    file.store = StoreId(entropy.random_128());
    Ok(())
}

fn wrong_journal(what: impl Into<String>) -> Error {
    Error::refused("wrong-journal", what)
        .advice("Give the right directory with --journal, or mount its filesystem")
}

/// A separate journal directory that was found.
struct Journal {
    path: PathBuf,
    storage: Arc<DirStorage>,
    file: JournalFile,
    here: Home,
}

impl Journal {
    fn open(path: &Path, store: &str) -> Result<Self> {
        let missing = |why: String| {
            wrong_journal(format!("the journals of {store} are not in {}: {why}", path.display()))
        };
        let path = path.canonicalize().map_err(|e| missing(e.to_string()))?;
        let storage = Arc::new(DirStorage::open(&path)?);
        let file = Catalog::new(Arc::clone(&storage) as _).get_at(Path::new(JOURNAL_FILE))?;
        let file = file.ok_or_else(|| missing("there is no journal.json".into()))?;
        Ok(Self { here: Home::of(&path)?, path, storage, file })
    }

    /// S4. `moved`: what was said, if the store has another home.
    fn check(&self, store: &StoreFile, place: &JournalPlace, moved: Option<Moved>) -> Result<()> {
        let shown = self.path.display();
        // The former id counts only while a copy is taken over: a crash came before its store.json.
        let resumed = moved == Some(Moved::Copied) && self.file.former == Some(place.id);
        if self.file.id != place.id && !resumed {
            return Err(wrong_journal(format!(
                "{shown} holds the journals of another store ({})",
                self.file.store.short()
            )));
        }
        if moved == Some(Moved::Copied) && self.here == self.file.home && self.file.store == store.store {
            return Err(Error::refused(
                "journal-not-copied",
                format!("{shown} is the journal directory of the original"),
            )
            .advice("Copy it as well and give the copy with --journal"));
        }
        Ok(())
    }

    /// Makes it this store's, at this place.
    fn adopt(&mut self, store: &mut StoreFile, before: StoreId, entropy: &dyn Entropy) -> Result<()> {
        let Some(place) = &mut store.journal else { return Ok(()) };
        let mut file = self.file.clone();
        (file.store, file.home) = (store.store, self.here.clone());
        if store.store != before {
            (file.former, file.id) = (Some(place.id), Token(entropy.random_128()));
        }
        if file != self.file {
            Catalog::new(Arc::clone(&self.storage) as _).put_at(Path::new(JOURNAL_FILE), &file)?;
        }
        *place = JournalPlace { path: self.path.clone(), id: file.id };
        self.file = file;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
