//! A namespace for tests and benchmarks: shows a directory of the filesystem below it.
//!
//! Inode numbers stand for paths and handles for (path, flags); both are in the mount's table, so that the
//! next worker finds them. What is open and removed is lost with the worker: enough for tests.

use parking_lot::Mutex;
use standbyfs::fuse::HandleTable;
use standbyfs::tree::ops::*;
use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const INODE: u8 = 1;
const HANDLE: u8 = 2;

/// What a test may do with each request before it is served: operation and what about it.
pub type Hook = Arc<dyn Fn(&str, &Request, &str) + Send + Sync>;

pub struct Passthrough {
    root: PathBuf,
    table: Arc<HandleTable>,
    nodes: Mutex<Nodes>,
    open: Mutex<HashMap<u64, Arc<Open>>>,
    hook: Option<Hook>,
    /// How long the kernel may use names and attributes.
    pub ttl: Duration,
    /// Writes are done and answered by other threads, each after this time.
    pub slow_writes: Option<Duration>,
    /// Most writes that were under way at once, with `slow_writes`.
    pub deepest: Arc<(AtomicU64, AtomicU64)>,
}

#[derive(Default)]
struct Nodes {
    paths: HashMap<u64, PathBuf>,
    numbers: HashMap<PathBuf, u64>,
}

struct Open {
    file: File,
    /// With O_DIRECT, where the client asked for it: for aligned requests.
    direct: Option<File>,
}

impl Open {
    fn write(&self, offset: u64, data: &[u8], flags: i32) -> Answer<u32> {
        match self.direct.as_ref().filter(|_| for_direct(offset, data.len())) {
            Some(direct) => aligned(data.len(), |buffer| {
                buffer.copy_from_slice(data);
                direct.write_all_at(buffer, offset)
            })?,
            None => self.file.write_all_at(data, offset)?,
        }
        if flags & libc::O_DSYNC != 0 {
            self.file.sync_data()?;
        }
        Ok(data.len() as u32)
    }
}

impl Passthrough {
    pub fn new(root: &Path, table: Arc<HandleTable>, hook: Option<Hook>) -> Self {
        let mut nodes = Nodes::default();
        nodes.paths.insert(ROOT, PathBuf::new());
        nodes.numbers.insert(PathBuf::new(), ROOT);
        for (number, path) in table.all(INODE) {
            let path = PathBuf::from(OsString::from_vec(path));
            nodes.paths.insert(number, path.clone());
            nodes.numbers.insert(path, number);
        }
        let this = Self {
            root: root.to_owned(),
            table,
            nodes: Mutex::new(nodes),
            open: Mutex::default(),
            hook,
            ttl: Duration::from_secs(1),
            slow_writes: None,
            deepest: Arc::default(),
        };
        for (number, meaning) in this.table.all(HANDLE) {
            let flags = i32::from_ne_bytes(meaning[..4].try_into().unwrap());
            let path = PathBuf::from(OsString::from_vec(meaning[4..].to_vec()));
            // What is gone gets EBADF from now on.
            if let Ok(open) =
                this.open_path(&path, flags & !(libc::O_TRUNC | libc::O_EXCL | libc::O_CREAT), 0)
            {
                this.open.lock().insert(number, Arc::new(open));
            }
        }
        this
    }

    fn hook(&self, operation: &str, request: &Request, about: &str) {
        if let Some(hook) = &self.hook {
            hook(operation, request, about);
        }
    }

    fn path(&self, ino: u64) -> Answer<PathBuf> {
        self.nodes.lock().paths.get(&ino).cloned().ok_or(Errno::ESTALE)
    }

    fn full(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    fn child(&self, parent: u64, name: &OsStr) -> Answer<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    fn number(&self, path: &Path) -> Answer<u64> {
        let mut nodes = self.nodes.lock();
        if let Some(number) = nodes.numbers.get(path) {
            return Ok(*number);
        }
        // 1 is the root's.
        let number = self.table.fresh(INODE).max(2);
        self.table.put(INODE, number, path.as_os_str().as_bytes())?;
        nodes.paths.insert(number, path.to_owned());
        nodes.numbers.insert(path.to_owned(), number);
        Ok(number)
    }

    fn entry(&self, path: &Path) -> Answer<Entry> {
        let metadata = fs::symlink_metadata(self.full(path))?;
        let attributes = attributes(self.number(path)?, &metadata);
        Ok(Entry { attributes, attributes_ttl: self.ttl, name_ttl: self.ttl })
    }

    fn open_path(&self, path: &Path, flags: i32, mode: u32) -> io::Result<Open> {
        let base = |more: i32| {
            let keep = libc::O_TRUNC | libc::O_EXCL;
            let mut options = File::options();
            options.read(true).write(flags & libc::O_ACCMODE != libc::O_RDONLY);
            options.custom_flags((flags & keep) | more).mode(mode);
            if flags & libc::O_CREAT != 0 && more == 0 {
                options.write(true).create(true);
            }
            options
        };
        let file = base(0).open(self.full(path))?;
        let direct = (flags & libc::O_DIRECT != 0).then(|| {
            let mut options = File::options();
            options.read(true).write(flags & libc::O_ACCMODE != libc::O_RDONLY);
            options.custom_flags(libc::O_DIRECT).open(self.full(path))
        });
        Ok(Open { file, direct: direct.and_then(Result::ok) })
    }

    fn opened(&self, path: &Path, flags: i32, mode: u32) -> Answer<Opened> {
        let open = self.open_path(path, flags, mode)?;
        let handle = self.table.fresh(HANDLE);
        let meaning = [&flags.to_ne_bytes()[..], path.as_os_str().as_bytes()].concat();
        self.table.put(HANDLE, handle, &meaning)?;
        self.open.lock().insert(handle, Arc::new(open));
        Ok(Opened { handle, direct_io: true, parallel_direct_writes: true, keep_cache: false })
    }

    fn handle(&self, handle: u64) -> Answer<Arc<Open>> {
        self.open.lock().get(&handle).cloned().ok_or(Errno::EBADF)
    }

    fn cpath(&self, ino: u64) -> Answer<CString> {
        CString::new(self.full(&self.path(ino)?).into_os_string().into_vec()).map_err(|_| Errno::EINVAL)
    }
}

fn attributes(ino: u64, of: &fs::Metadata) -> Attributes {
    let kind = match of.file_type() {
        t if t.is_dir() => NodeKind::Directory,
        t if t.is_symlink() => NodeKind::Symlink,
        _ => NodeKind::File,
    };
    let time = |seconds: i64, nanoseconds: i64| seconds * 1_000_000_000 + nanoseconds;
    Attributes {
        ino,
        size: of.size(),
        blocks: of.blocks(),
        atime: time(of.atime(), of.atime_nsec()),
        mtime: time(of.mtime(), of.mtime_nsec()),
        ctime: time(of.ctime(), of.ctime_nsec()),
        kind,
        mode: (of.mode() & 0o7777) as u16,
        nlink: of.nlink() as u32,
        uid: of.uid(),
        gid: of.gid(),
    }
}

fn checked(result: i32) -> Answer<()> {
    if result < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}

/// An answer to a request that was served before and whose answer got lost.
fn settled(request: &Request, done_before: Errno, answer: Answer<()>) -> Answer<()> {
    match answer {
        Err(e) if request.resent && e == done_before => Ok(()),
        answer => answer,
    }
}

thread_local!(static ALIGNED: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; (1 << 20) + 4096]));

/// Calls `with` with `length` bytes of this thread's page-aligned buffer.
fn aligned<T>(length: usize, with: impl FnOnce(&mut [u8]) -> T) -> T {
    ALIGNED.with_borrow_mut(|buffer| {
        let from = buffer.as_ptr().align_offset(4096);
        with(&mut buffer[from..from + length])
    })
}

fn for_direct(offset: u64, length: usize) -> bool {
    (offset | length as u64).is_multiple_of(512)
}

impl Namespace for Passthrough {
    fn lookup(&self, request: &Request, parent: u64, name: &OsStr) -> Answer<Entry> {
        self.hook("lookup", request, "");
        self.entry(&self.child(parent, name)?)
    }

    fn getattr(&self, request: &Request, ino: u64, handle: Option<u64>) -> Answer<(Attributes, Duration)> {
        self.hook("getattr", request, "");
        let metadata = match handle.and_then(|handle| self.handle(handle).ok()) {
            Some(open) => open.file.metadata()?,
            None => fs::symlink_metadata(self.full(&self.path(ino)?))?,
        };
        Ok((attributes(ino, &metadata), self.ttl))
    }

    fn setattr(&self, request: &Request, ino: u64, set: &SetAttributes) -> Answer<(Attributes, Duration)> {
        self.hook("setattr", request, &format!("{set:?}"));
        let path = self.cpath(ino)?;
        let stamp = |time: Option<SetTime>| match time {
            None => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
            Some(SetTime::Now) => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
            Some(SetTime::To(ns)) => {
                libc::timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) }
            }
        };
        unsafe {
            if let Some(mode) = set.mode {
                checked(libc::chmod(path.as_ptr(), mode))?;
            }
            if set.uid.is_some() || set.gid.is_some() {
                let (uid, gid) = (set.uid.unwrap_or(u32::MAX), set.gid.unwrap_or(u32::MAX));
                checked(libc::lchown(path.as_ptr(), uid, gid))?;
            }
            if let Some(size) = set.size {
                checked(libc::truncate(path.as_ptr(), size as i64))?;
            }
            if set.atime.is_some() || set.mtime.is_some() {
                let times = [stamp(set.atime), stamp(set.mtime)];
                let flags = libc::AT_SYMLINK_NOFOLLOW;
                checked(libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), flags))?;
            }
        }
        self.getattr(request, ino, None)
    }

    fn readlink(&self, request: &Request, ino: u64) -> Answer<OsString> {
        self.hook("readlink", request, "");
        Ok(fs::read_link(self.full(&self.path(ino)?))?.into_os_string())
    }

    fn mkdir(&self, request: &Request, parent: u64, name: &OsStr, mode: u32) -> Answer<Entry> {
        self.hook("mkdir", request, "");
        let path = self.child(parent, name)?;
        let made = fs::DirBuilder::new().mode(mode).create(self.full(&path)).map_err(Errno::from);
        settled(request, Errno::EEXIST, made)?;
        self.entry(&path)
    }

    fn create(
        &self,
        request: &Request,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Answer<(Entry, Opened)> {
        self.hook("create", request, "");
        let path = self.child(parent, name)?;
        let flags = if request.resent { flags & !libc::O_EXCL } else { flags } | libc::O_CREAT;
        let opened = self.opened(&path, flags, mode)?;
        Ok((self.entry(&path)?, opened))
    }

    fn unlink(&self, request: &Request, parent: u64, name: &OsStr) -> Answer<()> {
        self.hook("unlink", request, "");
        let path = self.child(parent, name)?;
        settled(request, Errno::ENOENT, fs::remove_file(self.full(&path)).map_err(Errno::from))?;
        if let Some(number) = self.nodes.lock().numbers.remove(&path) {
            self.table.remove(INODE, number)?;
        }
        Ok(())
    }

    fn rmdir(&self, request: &Request, parent: u64, name: &OsStr) -> Answer<()> {
        self.hook("rmdir", request, "");
        let path = self.child(parent, name)?;
        settled(request, Errno::ENOENT, fs::remove_dir(self.full(&path)).map_err(Errno::from))?;
        if let Some(number) = self.nodes.lock().numbers.remove(&path) {
            self.table.remove(INODE, number)?;
        }
        Ok(())
    }

    fn rename(&self, request: &Request, from: (u64, &OsStr), to: (u64, &OsStr), flags: u32) -> Answer<()> {
        self.hook("rename", request, &flags.to_string());
        let (from, to) = (self.child(from.0, from.1)?, self.child(to.0, to.1)?);
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(Errno::EINVAL);
        }
        if flags & libc::RENAME_NOREPLACE != 0 && !request.resent && self.full(&to).exists() {
            return Err(Errno::EEXIST);
        }
        let renamed = fs::rename(self.full(&from), self.full(&to)).map_err(Errno::from);
        settled(request, Errno::ENOENT, renamed)?;
        let mut nodes = self.nodes.lock();
        let moved: Vec<_> = nodes.numbers.keys().filter(|path| path.starts_with(&from)).cloned().collect();
        for old in moved {
            let rest = old.strip_prefix(&from).unwrap();
            let new = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
            let number = nodes.numbers.remove(&old).unwrap();
            self.table.put(INODE, number, new.as_os_str().as_bytes())?;
            nodes.paths.insert(number, new.clone());
            nodes.numbers.insert(new, number);
        }
        Ok(())
    }

    fn open(&self, request: &Request, ino: u64, flags: i32) -> Answer<Opened> {
        self.hook("open", request, &format!("{flags:#x}"));
        self.opened(&self.path(ino)?, flags & !libc::O_EXCL, 0)
    }

    fn release(&self, request: &Request, _ino: u64, handle: u64, _flags: i32) {
        self.hook("release", request, "");
        self.open.lock().remove(&handle);
        let _ = self.table.remove(HANDLE, handle);
    }

    fn read(&self, request: &Request, _ino: u64, handle: u64, offset: u64, size: u32, reply: ReadCompletion) {
        self.hook("read", request, "");
        let open = match self.handle(handle) {
            Ok(open) => open,
            Err(e) => return reply.done(Err(e)),
        };
        aligned(size as usize, |buffer| {
            let file =
                open.direct.as_ref().filter(|_| for_direct(offset, buffer.len())).unwrap_or(&open.file);
            match file.read_at(buffer, offset) {
                Ok(n) => reply.done(Ok(&buffer[..n])),
                Err(e) => reply.done(Err(e.into())),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        _ino: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
        flags: i32,
        reply: Completion<u32>,
    ) {
        if self.hook.is_some() {
            self.hook("write", request, &format!("{flags:#x} {} {offset}", data.len()));
        }
        let open = match self.handle(handle) {
            Ok(open) => open,
            Err(e) => return reply.done(Err(e)),
        };
        let Some(slow) = self.slow_writes else { return reply.done(open.write(offset, data, flags)) };
        let (data, deepest) = (data.to_vec(), self.deepest.clone());
        std::thread::spawn(move || {
            let now = deepest.0.fetch_add(1, Ordering::SeqCst) + 1;
            deepest.1.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(slow);
            let written = open.write(offset, &data, flags);
            deepest.0.fetch_sub(1, Ordering::SeqCst);
            reply.done(written);
        });
    }

    fn flush(&self, request: &Request, _ino: u64, _handle: u64, reply: Completion<()>) {
        self.hook("flush", request, "");
        reply.done(Ok(()));
    }

    fn fsync(&self, request: &Request, _ino: u64, handle: u64, data_only: bool, reply: Completion<()>) {
        self.hook("fsync", request, &data_only.to_string());
        let synced = self
            .handle(handle)
            .and_then(|open| Ok(if data_only { open.file.sync_data() } else { open.file.sync_all() }?));
        reply.done(synced);
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: u64,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
        reply: Completion<()>,
    ) {
        self.hook("fallocate", request, &format!("{mode:#x} {offset} {length}"));
        reply.done(self.handle(handle).and_then(|open| {
            let number = open.file.as_raw_fd();
            checked(unsafe { libc::fallocate(number, mode, offset as i64, length as i64) })
        }));
    }

    fn lseek(&self, request: &Request, _ino: u64, handle: u64, offset: u64, seek: Seek) -> Answer<u64> {
        self.hook("lseek", request, &format!("{seek:?} {offset}"));
        let whence = match seek {
            Seek::Data => libc::SEEK_DATA,
            Seek::Hole => libc::SEEK_HOLE,
        };
        let open = self.handle(handle)?;
        let found = unsafe { libc::lseek(open.file.as_raw_fd(), offset as i64, whence) };
        u64::try_from(found).map_err(|_| io::Error::last_os_error().into())
    }

    fn opendir(&self, request: &Request, _ino: u64) -> Answer<Opened> {
        self.hook("opendir", request, "");
        Ok(Opened::default())
    }

    fn readdir(
        &self,
        request: &Request,
        ino: u64,
        _handle: u64,
        offset: u64,
        names: &mut dyn NameSink,
    ) -> Answer<()> {
        self.hook("readdir", request, &offset.to_string());
        let path = self.path(ino)?;
        let mut list =
            vec![(ino, NodeKind::Directory, OsString::from(".")), (ROOT, NodeKind::Directory, "..".into())];
        let mut found: Vec<_> = fs::read_dir(self.full(&path))?.filter_map(Result::ok).collect();
        found.sort_by_key(fs::DirEntry::file_name);
        for item in found {
            let kind = match item.file_type()? {
                t if t.is_dir() => NodeKind::Directory,
                t if t.is_symlink() => NodeKind::Symlink,
                _ => NodeKind::File,
            };
            list.push((self.number(&path.join(item.file_name()))?, kind, item.file_name()));
        }
        for (at, (ino, kind, name)) in list.iter().enumerate().skip(offset as usize) {
            if !names.add(Name { ino: *ino, next: at as u64 + 1, kind: *kind, name }) {
                break;
            }
        }
        Ok(())
    }

    fn releasedir(&self, request: &Request, _ino: u64, _handle: u64) {
        self.hook("releasedir", request, "");
    }

    fn fsyncdir(&self, request: &Request, ino: u64, _handle: u64, data_only: bool) -> Answer<()> {
        self.hook("fsyncdir", request, &data_only.to_string());
        Ok(File::open(self.full(&self.path(ino)?))?.sync_all()?)
    }

    fn statfs(&self, request: &Request, _ino: u64) -> Answer<Space> {
        self.hook("statfs", request, "");
        let s = rustix::fs::statfs(&self.root).map_err(|e| Errno(e.raw_os_error()))?;
        Ok(Space {
            blocks: s.f_blocks,
            free: s.f_bfree,
            available: s.f_bavail,
            files: s.f_files,
            files_free: s.f_ffree,
            block_size: s.f_bsize as u32,
            name_max: 255,
        })
    }

    fn setxattr(&self, request: &Request, ino: u64, name: &OsStr, value: &[u8], flags: i32) -> Answer<()> {
        self.hook("setxattr", request, "");
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
        let path = self.cpath(ino)?;
        let value_at = value.as_ptr().cast();
        checked(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value_at, value.len(), flags) })
    }

    fn getxattr(&self, request: &Request, ino: u64, name: &OsStr) -> Answer<Vec<u8>> {
        self.hook("getxattr", request, "");
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
        let path = self.cpath(ino)?;
        let mut value = vec![0; 65536];
        let length =
            unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(length).map_err(|_| Errno::from(io::Error::last_os_error()))?);
        Ok(value)
    }

    fn listxattr(&self, request: &Request, ino: u64) -> Answer<Vec<OsString>> {
        self.hook("listxattr", request, "");
        let path = self.cpath(ino)?;
        let mut list = vec![0; 65536];
        let length = unsafe { libc::llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
        list.truncate(usize::try_from(length).map_err(|_| Errno::from(io::Error::last_os_error()))?);
        let names = list.split(|b| *b == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
    }

    fn removexattr(&self, request: &Request, ino: u64, name: &OsStr) -> Answer<()> {
        self.hook("removexattr", request, "");
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
        checked(unsafe { libc::lremovexattr(self.cpath(ino)?.as_ptr(), name.as_ptr()) })
    }

    fn stop(&self, why: Stop) {
        let nobody = Request { unique: 0, resent: false, uid: 0, gid: 0, pid: 0 };
        let deepest = self.deepest.1.load(Ordering::SeqCst);
        self.hook("stop", &nobody, &format!("{why:?} {deepest}"));
    }
}
