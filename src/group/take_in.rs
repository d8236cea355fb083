//! An image from outside becomes a file without a copy of its bytes: it is the file's base.
//!
//! I1. In order, each durable before the next: the file, without a byte, under a name that nobody looks for;
//!     `import.json`, which says which file that is and what it is to be called; the image, as the base; the base's
//!     place; size and name of the file, both at once. As long as the file has no bytes nobody, the kernel included,
//!     can keep a zero of it that the image doesn't have.
//! I2. Whoever opens the group after a crash looks for `import.json`: where the image has come it goes on to the end,
//!     else the file goes. An image that has come is never removed.
//! I3. No round touches the file before the end: the base would get the length of a file without bytes.
//! I4. The base stands behind the record that made the file: no moment before it is held any longer. A line that went
//!     on from there would give the ordinal anew, above these bytes (V1 of `read`).
//! I5. One at a time, and none while the group is opened anew.

use crate::base::BaseFile;
use crate::format::{AddPayload, RenamePayload};
use crate::group::group::{BasePlace, Core};
use crate::group::line::between;
use crate::group::names::{Change, NamedFile, Names};
use crate::group::{Group, left_out};
use crate::journal::small_file;
use crate::seam::{TakeIn, part_of};
use crate::vocab::{DiskId, DiskOrdinal, Error, Kind, LogPlace, Pos, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::Ordering;

const IMPORT: &str = "import.json";

/// I2.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Import {
    disk: DiskOrdinal,
    /// The file's identity: another one may get an ordinal that an append that failed had chosen.
    file: DiskId,
    /// What the file is to be called.
    path: String,
}

/// How an import that was interrupted has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportEnd {
    /// The image had come: the file has this name now.
    Named(String),
    /// The image is where it was; the file that was to have this name is gone.
    Withdrawn(String),
    /// The image had come, and somebody has removed the file meanwhile: the image lies at this path.
    SetAside(String),
}

impl Import {
    /// The file, under whatever name it is there.
    fn file_in<'a>(&self, names: &'a Names) -> Option<&'a NamedFile> {
        names.files.get(&self.disk).filter(|f| f.file == self.file)
    }
}

impl Group {
    /// Makes the file that `add` describes for a new ordinal, with an image as its content: the file at the absolute path
    /// `outside`, on the store's filesystem. `add.path` is its name meanwhile, `path` the one that it gets. Durable when
    /// this returns.
    ///
    /// # Errors
    /// `Exists` if one of the names is taken, and those of [`crate::seam::Storage::take_in`]: nothing has changed. After
    /// another one what was begun is ended by [`Group::settle_import`].
    pub fn take_in(
        &self,
        path: &str,
        add: impl FnOnce(DiskOrdinal) -> AddPayload,
        outside: &Path,
        how: TakeIn,
    ) -> Result<DiskOrdinal> {
        let _one = self.import.lock();
        self.refuse_left()?;
        if self.left_import()?.is_some() {
            let what = "an earlier import into this VM has not ended";
            return Err(Error::new(Kind::Busy, what).advice("It ends by itself within a second; try again"));
        }
        let mut import = Import { disk: DiskOrdinal(0), file: DiskId([0; 16]), path: path.to_owned() };
        let made = self.change_with(|names| {
            let disk = DiskOrdinal(names.last.0 + 1);
            self.importing.store(disk.0, Ordering::Release);
            let add = AddPayload { size: 0, ..add(disk) };
            (import.disk, import.file) = (disk, add.file);
            for name in [&add.path, path] {
                if names.find(add.vm, name).is_some() {
                    return Err(Error::new(Kind::Exists, format!("there is a file `{name}`")));
                }
            }
            Ok(Change::Add(disk, add))
        });
        let came = made.and_then(|()| {
            between("import: the file is made");
            self.bring(&import, outside, how)
        });
        if let Err(e) = came {
            // What failed may have come all the same.
            if matches!(self.parts.store.exists(&self.base_path(import.disk)), Ok(false)) {
                self.withdraw_import(&import)?;
            }
            return Err(e);
        }
        self.finish_import(&import)?;
        Ok(import.disk)
    }

    /// Ends what a crash or an error has left of an import (I2). Nothing is done while one runs.
    pub fn settle_import(&self) -> Result<Option<ImportEnd>> {
        let Some(_one) = self.import.try_lock() else { return Ok(None) };
        self.refuse_left()?;
        let Some(import) = self.left_import()? else {
            self.importing.store(0, Ordering::Release);
            return Ok(None);
        };
        let path = self.base_path(import.disk);
        let came = self.parts.store.exists(&path)?;
        if came && self.names_now(|names| import.file_in(names).is_none()) {
            let aside = self.dir.join(format!("imported-{}.img", import.disk));
            self.parts.store.rename(&path, &aside)?;
            self.parts.store.sync_dir(&self.dir)?;
            self.forget_import()?;
            return Ok(Some(ImportEnd::SetAside(self.parts.store.shown(&aside))));
        }
        if !came && !left_out("I2: where the image hasn't come the file goes") {
            self.withdraw_import(&import)?;
            return Ok(Some(ImportEnd::Withdrawn(import.path)));
        }
        self.finish_import(&import)?;
        Ok(Some(ImportEnd::Named(import.path)))
    }

    /// The import that is under way, or was left (I3).
    pub(crate) fn left_import_disk(&self) -> Result<Option<DiskOrdinal>> {
        Ok(self.left_import()?.map(|import| import.disk))
    }

    /// Whether a round must leave this file alone (I3).
    pub(crate) fn is_coming(&self, disk: DiskOrdinal) -> bool {
        self.importing.load(Ordering::Acquire) == disk.0 && !left_out("I3: no round touches what is coming")
    }

    /// Does something while no import runs and none is left.
    ///
    /// # Errors
    /// `Busy` if one does or is.
    pub fn without_import<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let one = self.import.try_lock();
        if one.is_none() || self.imports() {
            let what = "an image is being taken in";
            return Err(Error::new(Kind::Busy, what).advice("It takes no time: try again"));
        }
        act()
    }

    /// Whether [`Group::settle_import`] has something to do, or an import runs.
    pub(crate) fn imports(&self) -> bool {
        self.importing.load(Ordering::Acquire) != 0
    }

    fn left_import(&self) -> Result<Option<Import>> {
        small_file::read(&*self.parts.store, &self.dir, IMPORT)
    }

    fn bring(&self, import: &Import, outside: &Path, how: TakeIn) -> Result<()> {
        let (store, path) = (&self.parts.store, self.base_path(import.disk));
        if store.exists(&path)? {
            let what = "there is a base of a file that isn't";
            return Err(Error::new(Kind::Damaged, what).at(store.shown(&path)));
        }
        small_file::write(&**store, &self.dir, IMPORT, import)?;
        between("import: it is said");
        store.take_in(outside, &path, how)?;
        between("import: the image has come");
        Ok(())
    }

    fn finish_import(&self, import: &Import) -> Result<()> {
        let (store, path) = (&self.parts.store, self.base_path(import.disk));
        store.sync_dir(&self.dir)?;
        let base = BaseFile::open(&**store, &path)?;
        base.sync()?;
        let size = base.len()?;
        self.place_import(import.disk)?;
        between("import: the base has its place");
        self.changes_with(|names| {
            let Some(file) = import.file_in(names) else {
                let what = "the file was removed while its image came";
                return Err(Error::new(Kind::NotFound, what).at(store.shown(&path)));
            };
            let mut changes = vec![Change::Resize(import.disk, size)];
            if file.path != import.path {
                if names.find(file.vm, &import.path).is_some() {
                    let what = format!("there is a file `{}`: the image can't have that name", import.path);
                    return Err(Error::new(Kind::Exists, what).advice("Rename or remove that file"));
                }
                let rename = RenamePayload { from: file.path.clone(), to: import.path.clone() };
                changes.push(Change::Rename(import.disk, rename));
            }
            Ok(changes)
        })?;
        between("import: the file has its name");
        self.forget_import()
    }

    /// I4. Who stopped behind the place may not have said it, or not have shown it to readers: both are done again.
    fn place_import(&self, disk: DiskOrdinal) -> Result<()> {
        let _work = self.work.lock();
        let mut core = self.core.lock();
        let stands = core.bases.get(&disk).and_then(|place| place.base);
        let has_place = stands.is_some_and(|base| base.pos != Pos(0));
        if !has_place && !left_out("I4: the base stands behind its file's record") {
            let place = Some(self.behind_its_record(&mut core, disk)?);
            core.bases.insert(disk, BasePlace { base: place, floor: place });
        }
        self.write_checkpoint(&mut core, false)?;
        self.refresh_live(&mut core)
    }

    fn behind_its_record(&self, core: &mut Core, disk: DiskOrdinal) -> Result<LogPlace> {
        self.refresh_spans(core);
        let made = |change: &Change| matches!(change, Change::Add(added, _) if *added == disk);
        let moment = self.names.lock().facts.iter().rfind(|f| made(&f.change)).map(|f| f.moment);
        let path = moment.map(|moment| self.path_of(core, moment)).transpose()?;
        let end = path.as_ref().and_then(|path| path.intervals().last());
        end.map(|end| LogPlace { log: end.log, pos: end.to }).ok_or_else(|| {
            let what = format!("the record that made file {disk} isn't held");
            Error::new(Kind::Damaged, what).at(self.parts.store.shown(&self.base_path(disk)))
        })
    }

    fn withdraw_import(&self, import: &Import) -> Result<()> {
        self.changes_with(|names| {
            let there = import.file_in(names);
            Ok(there.map(|_| Change::Remove(import.disk)).into_iter().collect())
        })?;
        // What a clone that was cut short has left.
        let part = part_of(&self.base_path(import.disk));
        if self.parts.store.exists(&part)? {
            self.parts.store.remove(&part)?;
        }
        self.forget_import()
    }

    fn forget_import(&self) -> Result<()> {
        small_file::remove(&*self.parts.store, &self.dir, IMPORT)?;
        self.importing.store(0, Ordering::Release);
        Ok(())
    }
}
