//! Owner, mode, times and extended attributes of the files of `disks/`: kept by each site for itself, not journaled.
//!
//! A1. A change that was answered survives the death of this process; a power loss may take what the last `sync`
//!     didn't cover, as on other filesystems.
//! A2. A file of lines a VM, the newest line of a file counting; it is written anew when most lines are old.
//! A3. Times of writes are in memory and get a line at the end of an opening and with every other change.

use crate::seam::Storage;
use crate::site::lines::{LineFile, read_lines};
use crate::vocab::{DiskId, Error, Kind, Result, VmId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

const FOLDER: &str = "attributes";
/// Bytes of all extended attributes of a file, names included.
const XATTR_BYTES_MAX: usize = 256 << 10;
/// Longest value of one, as the kernel has it.
const XATTR_VALUE_MAX: usize = 64 << 10;

/// What a person or program set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    /// Permission bits.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
}

/// The attributes of one file. Times in ns since 1970.
pub(super) struct FileAttributes {
    pub(super) atime: AtomicI64,
    pub(super) mtime: AtomicI64,
    pub(super) ctime: AtomicI64,
    /// Times changed since the last line.
    touched: AtomicBool,
    set: Mutex<Set>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    file: DiskId,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
    #[serde(default)]
    mode: u16,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    times: [i64; 3],
    /// Values in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
}

impl FileAttributes {
    pub(super) fn new(set: Set, now: i64) -> Self {
        let time = || AtomicI64::new(now);
        Self {
            atime: time(),
            mtime: time(),
            ctime: time(),
            touched: AtomicBool::new(false),
            set: Mutex::new(set),
        }
    }

    /// What was set.
    pub(super) fn set(&self) -> Set {
        self.set.lock().clone()
    }

    /// The value of an extended attribute.
    pub(super) fn xattr(&self, name: &str) -> Option<Vec<u8>> {
        self.set.lock().xattrs.get(name).cloned()
    }

    /// The permission bits, the owner, the group.
    pub(super) fn owner(&self) -> (u16, u32, u32) {
        let set = self.set.lock();
        (set.mode, set.uid, set.gid)
    }

    /// The content changed.
    pub(super) fn written(&self, now: i64) {
        self.mtime.store(now, Ordering::Relaxed);
        self.ctime.store(now, Ordering::Relaxed);
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Changes what was set, as far as `change` allows.
    pub(super) fn change<E>(
        &self,
        now: i64,
        change: impl FnOnce(&mut Set) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut set = self.set.lock();
        change(&mut set)?;
        self.ctime.store(now, Ordering::Relaxed);
        Ok(())
    }

    fn line(&self, file: DiskId) -> Line {
        self.touched.store(false, Ordering::Relaxed);
        let set = self.set.lock();
        Line {
            file,
            gone: false,
            mode: set.mode,
            uid: set.uid,
            gid: set.gid,
            times: [&self.atime, &self.mtime, &self.ctime].map(|t| t.load(Ordering::Relaxed)),
            xattrs: set.xattrs.iter().map(|(name, value)| (name.clone(), BASE64.encode(value))).collect(),
        }
    }
}

/// Whether an attribute fits beside those that are there.
pub(super) fn xattr_fits(set: &Set, name: &str, value: &[u8]) -> bool {
    let others: usize = set.xattrs.iter().filter(|(n, _)| *n != name).map(|(n, v)| n.len() + v.len()).sum();
    value.len() <= XATTR_VALUE_MAX && others + name.len() + value.len() <= XATTR_BYTES_MAX
}

struct OfVm {
    files: HashMap<DiskId, Arc<FileAttributes>>,
    lines: LineFile,
    count: usize,
}

/// The attributes of all files of a store.
pub(super) struct AttributeStore {
    storage: Arc<dyn Storage>,
    vms: Mutex<HashMap<VmId, Arc<Mutex<OfVm>>>>,
}

impl AttributeStore {
    pub(super) fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        if !storage.exists(Path::new(FOLDER))? {
            storage.make_dir(Path::new(FOLDER))?;
            storage.sync_dir(Path::new(""))?;
        }
        Ok(Self { storage, vms: Mutex::default() })
    }

    /// The attributes of a file; of one that nobody has set any for, `default`.
    pub(super) fn of(
        &self,
        vm: VmId,
        file: DiskId,
        default: impl FnOnce() -> FileAttributes,
    ) -> Result<Arc<FileAttributes>> {
        let of_vm = self.vm(vm)?;
        let mut of_vm = of_vm.lock();
        Ok(of_vm.files.entry(file).or_insert_with(|| Arc::new(default())).clone())
    }

    /// A new file's.
    pub(super) fn create(
        &self,
        vm: VmId,
        file: DiskId,
        attributes: FileAttributes,
    ) -> Result<Arc<FileAttributes>> {
        let attributes = Arc::new(attributes);
        self.vm(vm)?.lock().files.insert(file, attributes.clone());
        self.save(vm, file, &attributes)?;
        Ok(attributes)
    }

    /// A1.
    pub(super) fn save(&self, vm: VmId, file: DiskId, attributes: &FileAttributes) -> Result<()> {
        self.append(vm, &attributes.line(file))
    }

    /// A3: only if times changed.
    pub(super) fn save_touched(&self, vm: VmId, file: DiskId, attributes: &FileAttributes) -> Result<()> {
        if attributes.touched.load(Ordering::Relaxed) { self.save(vm, file, attributes) } else { Ok(()) }
    }

    /// A file is gone.
    pub(super) fn remove(&self, vm: VmId, file: DiskId) -> Result<()> {
        self.vm(vm)?.lock().files.remove(&file);
        let gone = Line { file, gone: true, mode: 0, uid: 0, gid: 0, times: [0; 3], xattrs: BTreeMap::new() };
        self.append(vm, &gone)
    }

    /// A VM is gone.
    pub(super) fn remove_vm(&self, vm: VmId) -> Result<()> {
        self.vms.lock().remove(&vm);
        match self.storage.remove(&path(vm)) {
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Makes the attributes of a VM durable.
    pub(super) fn sync(&self, vm: VmId) -> Result<()> {
        self.vm(vm)?.lock().lines.sync()
    }

    /// Everything to its place.
    pub(super) fn close(&self) -> Result<()> {
        let all: Vec<(VmId, Arc<Mutex<OfVm>>)> =
            self.vms.lock().iter().map(|(vm, of_vm)| (*vm, of_vm.clone())).collect();
        for (vm, of_vm) in all {
            let touched: Vec<_> = {
                let of_vm = of_vm.lock();
                of_vm
                    .files
                    .iter()
                    .filter(|(_, a)| a.touched.load(Ordering::Relaxed))
                    .map(|(f, a)| (*f, a.clone()))
                    .collect()
            };
            for (file, attributes) in touched {
                self.save(vm, file, &attributes)?;
            }
            of_vm.lock().lines.sync()?;
        }
        Ok(())
    }

    fn append(&self, vm: VmId, line: &Line) -> Result<()> {
        let of_vm = self.vm(vm)?;
        let mut of_vm = of_vm.lock();
        of_vm.lines.append(&text(line)?, false)?;
        of_vm.count += 1;
        if of_vm.count > 1000 + 4 * of_vm.files.len() {
            self.shorten(vm, &mut of_vm)?;
        }
        Ok(())
    }

    /// A2.
    fn shorten(&self, vm: VmId, of_vm: &mut OfVm) -> Result<()> {
        let new = path(vm).with_extension("new");
        match self.storage.remove(&new) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e),
            _ => {}
        }
        let mut lines = LineFile::open(&*self.storage, &new)?;
        for (file, attributes) in &of_vm.files {
            lines.append(&text(&attributes.line(*file))?, false)?;
        }
        lines.sync()?;
        self.storage.rename(&new, &path(vm))?;
        self.storage.sync_dir(Path::new(FOLDER))?;
        (of_vm.lines, of_vm.count) = (lines, of_vm.files.len());
        Ok(())
    }

    fn vm(&self, vm: VmId) -> Result<Arc<Mutex<OfVm>>> {
        let mut vms = self.vms.lock();
        if let Some(of_vm) = vms.get(&vm) {
            return Ok(of_vm.clone());
        }
        let mut of_vm =
            OfVm { files: HashMap::new(), lines: LineFile::open(&*self.storage, &path(vm))?, count: 0 };
        for line in read_lines(&*self.storage, &path(vm))? {
            of_vm.count += 1;
            match serde_json::from_str::<Line>(&line) {
                Ok(line) => of_vm.take(line),
                Err(error) => tracing::warn!(%vm, %error, "attributes that can't be read are left out"),
            }
        }
        let of_vm = Arc::new(Mutex::new(of_vm));
        vms.insert(vm, of_vm.clone());
        Ok(of_vm)
    }
}

impl OfVm {
    fn take(&mut self, line: Line) {
        if line.gone {
            self.files.remove(&line.file);
            return;
        }
        let decoded = line.xattrs.into_iter().filter_map(|(n, v)| Some((n, BASE64.decode(v).ok()?)));
        let set = Set { mode: line.mode, uid: line.uid, gid: line.gid, xattrs: decoded.collect() };
        let attributes = FileAttributes::new(set, 0);
        let [atime, mtime, ctime] = line.times;
        attributes.atime.store(atime, Ordering::Relaxed);
        attributes.mtime.store(mtime, Ordering::Relaxed);
        attributes.ctime.store(ctime, Ordering::Relaxed);
        self.files.insert(line.file, Arc::new(attributes));
    }
}

fn path(vm: VmId) -> PathBuf {
    Path::new(FOLDER).join(format!("{vm}.jsonl"))
}

fn text(line: &Line) -> Result<String> {
    serde_json::to_string(line)
        .map_err(|e| Error::new(Kind::Invalid, format!("attributes can't be written: {e}")))
}
