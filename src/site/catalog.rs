//! The catalog: small objects in files that a person can read, each replaced as a whole.
//!
//! C1. After a crash at any point a file holds the whole old object or the whole new one; after `put` has
//!     returned, the new one.
//! C2. The last line of a file is a checksum of the rest: what was damaged is found and named, never taken for
//!     something else and never for something that isn't there.
//! C3. Names that end in `.new` are what a crash left behind; no reader takes them for objects.
//!
//! A step that touches several objects is ordered by its caller so that each prefix of it is a state from which
//! it can be done again; a group's own truth is its history, not the catalog.

use crate::seam::{Access, Storage};
use crate::vocab::{Error, Kind, Result};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest file of the catalog, in bytes: nothing in it grows without bound.
pub const OBJECT_MAX: u64 = 64 << 20;
const MARK: &str = "crc32c ";

/// JSON and a line with its checksum.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut out = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::new(Kind::Invalid, format!("can't be written as JSON: {e}")))?;
    out.push(b'\n');
    let sum = crc32c::crc32c(&out);
    out.extend_from_slice(format!("{MARK}{sum:08x}\n").as_bytes());
    Ok(out)
}

/// Reads what [`encode`] made. `Damaged` for anything else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let damaged = |why: &str| {
        Error::new(Kind::Damaged, format!("the file is damaged or was edited by hand: {why}"))
            .advice("Restore it from a backup, or mend it and put the right checksum into its last line")
    };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it isn't text"))?;
    let body = text.strip_suffix('\n').ok_or_else(|| damaged("its end is missing"))?;
    let at = body.rfind('\n').map(|at| at + 1).ok_or_else(|| damaged("its last line is missing"))?;
    let sum = body[at..].strip_prefix(MARK).ok_or_else(|| damaged("its last line is no checksum"))?;
    let right = format!("{:08x}", crc32c::crc32c(&bytes[..at]));
    if sum != right {
        return Err(damaged(&format!("its checksum is {right}, not `{sum}`")));
    }
    serde_json::from_str(&body[..at]).map_err(|e| damaged(&e.to_string()))
}

/// An object with a place of its own in the catalog.
pub trait Object: Serialize + DeserializeOwned {
    /// The directory, relative to the store.
    const FOLDER: &'static str;
    /// The name of the file without `.json`; a component that [`crate::site::names::check_component`] accepts.
    fn key(&self) -> String;
}

/// Objects of a store.
#[derive(Clone)]
pub struct Catalog {
    storage: Arc<dyn Storage>,
    /// One replacement at a time: temporary names are fixed.
    writing: Arc<Mutex<()>>,
}

impl Catalog {
    /// The catalog in this tree.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, writing: Arc::default() }
    }

    /// The tree that it lies in.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Adds or replaces an object; durable when this returns.
    pub fn put<T: Object>(&self, object: &T) -> Result<()> {
        self.put_at(&file::<T>(&object.key())?, object)
    }

    /// The object with this key; `None` if there is none.
    pub fn get<T: Object>(&self, key: &str) -> Result<Option<T>> {
        self.get_at(&file::<T>(key)?)
    }

    /// Deletes an object; durable when this returns. False: there was none.
    pub fn delete<T: Object>(&self, key: &str) -> Result<bool> {
        self.delete_at(&file::<T>(key)?)
    }

    /// All objects of a kind, by key, and what is wrong with those that can't be read.
    pub fn list<T: Object>(&self) -> Result<(Vec<T>, Vec<Error>)> {
        let (mut objects, mut damaged) = (Vec::new(), Vec::new());
        for name in self.names(Path::new(T::FOLDER))? {
            let Some(key) = name.strip_suffix(".json") else { continue };
            match self.get::<T>(key) {
                Ok(Some(object)) if object.key() == key => objects.push(object),
                Ok(Some(object)) => {
                    let what = format!("the file holds the object `{}`", object.key());
                    damaged.push(Error::new(Kind::Damaged, what).at(self.storage.shown(&file::<T>(key)?)));
                }
                Ok(None) => {}
                Err(error) => damaged.push(error),
            }
        }
        Ok((objects, damaged))
    }

    /// Replaces the file at a fixed place.
    pub fn put_at<T: Serialize>(&self, path: &Path, value: &T) -> Result<()> {
        let bytes = encode(value)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let _one = self.writing.lock();
        self.make_folder(folder)?;
        let file = match self.storage.create(&temporary, Access::Cached) {
            Err(error) if error.kind() == Kind::Exists => {
                self.storage.remove(&temporary)?;
                self.storage.create(&temporary, Access::Cached)?
            }
            other => other?,
        };
        let written = file
            .write_all_at(&bytes, 0)
            .and_then(|()| file.sync())
            .and_then(|()| self.storage.rename(&temporary, path));
        if let Err(error) = written {
            // A full filesystem stays usable; what stays behind after all is overwritten by the next one.
            let _ = self.storage.remove(&temporary);
            return Err(error);
        }
        self.storage.sync_dir(folder)
    }

    /// Reads the file at a fixed place; `None` if there is none.
    pub fn get_at<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>> {
        let file = match self.storage.open(path, Access::ReadOnly) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        let shown = || self.storage.shown(path);
        let length = file.len()?;
        if length > OBJECT_MAX {
            return Err(Error::new(Kind::Damaged, format!("the file has {length} bytes")).at(shown()));
        }
        let mut bytes = vec![0; length as usize];
        let got = file.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        decode(&bytes).map(Some).map_err(|e| e.at(shown()))
    }

    /// Deletes the file at a fixed place; durable when this returns. False: there was none.
    pub fn delete_at(&self, path: &Path) -> Result<bool> {
        let _one = self.writing.lock();
        match self.storage.remove(path) {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        self.storage.sync_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok(true)
    }

    /// Names in a directory; none if it isn't there.
    pub fn names(&self, folder: &Path) -> Result<Vec<String>> {
        match self.storage.list(folder) {
            Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    /// Makes a directory, durably.
    pub fn make_folder(&self, folder: &Path) -> Result<()> {
        if folder.as_os_str().is_empty() {
            return Ok(());
        }
        if !self.storage.exists(folder)? {
            self.storage.make_dir(folder)?;
            // The names of the new ones, and of those that a crash may have left unsynced.
            for above in folder.ancestors().skip(1) {
                self.storage.sync_dir(above)?;
            }
        }
        Ok(())
    }
}

fn file<T: Object>(key: &str) -> Result<PathBuf> {
    super::names::check_component(key)?;
    Ok(Path::new(T::FOLDER).join(format!("{key}.json")))
}

#[cfg(test)]
mod tests;
