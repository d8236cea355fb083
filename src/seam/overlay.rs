//! A tree that is read as it lies and changed in memory only: what tools work on that must never write.
//!
//! V1. Nothing below is ever opened for writing, created, renamed or removed.
//! V2. What was changed here is seen by every later read here, as S1 of [`crate::seam::storage`] says; it is gone
//!     when the overlay is dropped.

use crate::seam::{Access, Durability, File, Space, Storage};
use crate::vocab::{Error, Kind, Result};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BLOCK: u64 = 4096;

/// A tree below, and changes in memory.
pub struct Overlay {
    below: Arc<dyn Storage>,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    /// What a path stands for, where it isn't what lies below; `None`: nothing.
    changed: BTreeMap<PathBuf, Option<Entry>>,
    /// Files below that were opened, so that all handles of one share their changes.
    opened: HashMap<PathBuf, Arc<Changed>>,
}

#[derive(Clone)]
enum Entry {
    File(Arc<Changed>),
    Directory,
}

impl Overlay {
    /// Nothing is changed yet.
    pub fn new(below: Arc<dyn Storage>) -> Self {
        Self { below, names: Mutex::default() }
    }

    fn entry(&self, names: &Names, path: &Path) -> Result<Option<Entry>> {
        match names.changed.get(path) {
            Some(changed) => Ok(changed.clone()),
            None => self.entry_below(path),
        }
    }

    /// Whether it is a file shows when it is opened.
    fn entry_below(&self, path: &Path) -> Result<Option<Entry>> {
        Ok(self.below.exists(path)?.then_some(Entry::Directory))
    }

    fn missing(&self, path: &Path) -> Error {
        Error::new(Kind::NotFound, "there is no such file").at(self.shown(path))
    }

    fn file(&self, names: &mut Names, path: &Path) -> Result<Arc<Changed>> {
        match names.changed.get(path) {
            Some(Some(Entry::File(file))) => return Ok(file.clone()),
            Some(_) => return Err(self.missing(path)),
            None => {}
        }
        if let Some(file) = names.opened.get(path) {
            return Ok(file.clone());
        }
        let below = self.below.open(path, Access::ReadOnly)?;
        let len = below.len()?;
        let content = Content { len, kept: len, blocks: BTreeMap::new() };
        let file = Arc::new(Changed { below: Some(below), content: Mutex::new(content) });
        names.opened.insert(path.to_owned(), file.clone());
        Ok(file)
    }
}

impl Storage for Overlay {
    fn open(&self, path: &Path, _access: Access) -> Result<Arc<dyn File>> {
        let file = self.file(&mut self.names.lock(), path)?;
        Ok(file)
    }

    fn create(&self, path: &Path, _access: Access) -> Result<Arc<dyn File>> {
        let mut names = self.names.lock();
        if self.entry(&names, path)?.is_some() {
            return Err(Error::new(Kind::Exists, "the name is taken").at(self.shown(path)));
        }
        let file = Arc::new(Changed { below: None, content: Mutex::default() });
        names.changed.insert(path.to_owned(), Some(Entry::File(file.clone())));
        Ok(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut names = self.names.lock();
        let file = self.file(&mut names, from)?;
        names.changed.insert(from.to_owned(), None);
        names.changed.insert(to.to_owned(), Some(Entry::File(file)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let mut names = self.names.lock();
        if self.entry(&names, path)?.is_none() {
            return Err(self.missing(path));
        }
        names.changed.insert(path.to_owned(), None);
        Ok(())
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        let mut names = self.names.lock();
        if self.entry(&names, path)?.is_none() {
            names.changed.insert(path.to_owned(), Some(Entry::Directory));
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        self.remove(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        let names = self.names.lock();
        let made = matches!(names.changed.get(path), Some(Some(Entry::Directory)));
        let mut list = match self.below.list(path) {
            Err(e) if e.kind() == Kind::NotFound && made => Vec::new(),
            other => other?,
        };
        for (changed, entry) in &names.changed {
            let Some(name) = changed.file_name().filter(|_| changed.parent() == Some(path)) else { continue };
            let name = name.to_string_lossy().into_owned();
            list.retain(|n| *n != name);
            if entry.is_some() {
                list.push(name);
            }
        }
        list.sort();
        Ok(list)
    }

    fn sync_dir(&self, _path: &Path) -> Result<()> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        Ok(self.entry(&self.names.lock(), path)?.is_some())
    }

    fn space(&self) -> Result<Space> {
        self.below.space()
    }

    fn shown(&self, path: &Path) -> String {
        self.below.shown(path)
    }
}

/// A file whose changed blocks are in memory.
struct Changed {
    below: Option<Arc<dyn File>>,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    len: u64,
    /// Up to here the file below counts: less than its length once the file was cut.
    kept: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Changed {
    fn block(&self, content: &Content, number: u64) -> Result<Vec<u8>> {
        if let Some(block) = content.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK as usize];
        if let Some(below) = &self.below {
            let room = content.kept.saturating_sub(number * BLOCK).min(BLOCK) as usize;
            let got = below.read_at(&mut block[..room], number * BLOCK)?;
            block[got..].fill(0);
        }
        Ok(block)
    }

    fn put(&self, content: &mut Content, bytes: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (number, within) = (at / BLOCK, (at % BLOCK) as usize);
            let part = (BLOCK as usize - within).min(bytes.len() - done);
            let mut block = self.block(content, number)?;
            block[within..within + part].copy_from_slice(&bytes[done..done + part]);
            content.blocks.insert(number, block);
            done += part;
        }
        content.len = content.len.max(offset + bytes.len() as u64);
        Ok(())
    }
}

impl File for Changed {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let content = self.content.lock();
        let count = content.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..count];
        let end = offset + count as u64;
        if count > 0 && content.blocks.range(offset / BLOCK..=(end - 1) / BLOCK).next().is_none() {
            let room = content.kept.saturating_sub(offset).min(count as u64) as usize;
            let got = match &self.below {
                Some(below) => below.read_at(&mut buf[..room], offset)?,
                None => 0,
            };
            // A file that became shorter below since it was opened has lost what it had.
            if got < room {
                return Ok(got);
            }
            buf[room..].fill(0);
            return Ok(count);
        }
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let within = (at % BLOCK) as usize;
            let part = (BLOCK as usize - within).min(count - done);
            let block = self.block(&content, at / BLOCK)?;
            buf[done..done + part].copy_from_slice(&block[within..within + part]);
            done += part;
        }
        Ok(count)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64, _durability: Durability) -> Result<()> {
        let mut content = self.content.lock();
        let mut at = offset;
        for buf in bufs {
            self.put(&mut content, buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.content.lock().len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut content = self.content.lock();
        if len < content.len {
            let (number, within) = (len / BLOCK, (len % BLOCK) as usize);
            let mut last = self.block(&content, number)?;
            last[within..].fill(0);
            content.blocks.split_off(&number);
            content.blocks.insert(number, last);
            content.kept = content.kept.min(len);
        }
        content.len = len;
        Ok(())
    }

    fn allocate(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let mut content = self.content.lock();
        let end = offset.saturating_add(len).min(content.len);
        let zeros = [0; BLOCK as usize];
        let mut at = offset;
        while at < end {
            let part = (BLOCK - at % BLOCK).min(end - at);
            self.put(&mut content, &zeros[..part as usize], at)?;
            at += part;
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.punch(offset, len)
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        let content = self.content.lock();
        match &self.below {
            Some(below) if content.blocks.is_empty() && content.kept == content.len => {
                below.next_data(offset)
            }
            _ => Ok((offset < content.len).then_some(offset)),
        }
    }

    fn next_hole(&self, offset: u64) -> Result<Option<u64>> {
        let content = self.content.lock();
        match &self.below {
            Some(below) if content.blocks.is_empty() && content.kept == content.len => {
                below.next_hole(offset)
            }
            _ => Ok((offset < content.len).then_some(content.len)),
        }
    }

    fn allocated(&self) -> Result<u64> {
        match &self.below {
            Some(below) => below.allocated(),
            None => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::DirStorage;

    /// Random operations beside a plain tree that is changed in truth: both show the same, and what lies below
    /// the overlay stays as it was.
    #[test]
    fn it_shows_what_a_real_tree_would_and_leaves_the_one_below() {
        for seed in 0..60 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (kept, changed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let original: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(30_000).collect();
            for dir in [&kept, &changed] {
                std::fs::write(dir.path().join("a"), &original).unwrap();
            }
            let overlay = Overlay::new(Arc::new(DirStorage::open(kept.path()).unwrap()));
            let real = DirStorage::open(changed.path()).unwrap();
            let both: [&dyn Storage; 2] = [&overlay, &real];
            for _ in 0..40 {
                let name = PathBuf::from(["a", "b", "c"][rng.usize(..3)]);
                let other = PathBuf::from(["a", "b", "c"][rng.usize(..3)]);
                let (offset, len) = (rng.u64(..40_000), rng.usize(..9000));
                let bytes = vec![rng.u8(..); len];
                let what = rng.u8(..7);
                let results = both.map(|s| match what {
                    0 => s.create(&name, Access::Cached).map(|_| ()),
                    1 => s.remove(&name),
                    2 if name != other => s.rename(&name, &other),
                    3 => s.open(&name, Access::Cached).and_then(|f| f.set_len(offset)),
                    4 => s.open(&name, Access::Cached).and_then(|f| f.punch(offset, len as u64)),
                    _ => s.open(&name, Access::Cached).and_then(|f| f.write_all_at(&bytes, offset)),
                });
                if what < 5 {
                    let kinds = results.map(|r| r.map_err(|e| e.kind()));
                    assert_eq!(kinds[0], kinds[1], "seed {seed}, operation {what}");
                }
                let shown = both.map(|s| {
                    let names = s.list(Path::new("")).unwrap();
                    let content = |n: &String| {
                        let file = s.open(Path::new(n), Access::ReadOnly).unwrap();
                        let mut bytes = vec![1; file.len().unwrap() as usize + 10];
                        let got = file.read_at(&mut bytes, 0).unwrap();
                        bytes.truncate(got);
                        bytes
                    };
                    names.iter().map(|n| (n.clone(), content(n))).collect::<Vec<_>>()
                });
                assert!(shown[0] == shown[1], "seed {seed}");
            }
            assert!(std::fs::read(kept.path().join("a")).unwrap() == original, "seed {seed}");
            assert_eq!(std::fs::read_dir(kept.path()).unwrap().count(), 1);
        }
    }
}
