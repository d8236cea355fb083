//! Storage on a real filesystem, below one directory.
//!
//! 1. Every name is resolved from the directory's descriptor, so that the tree stays the same one when the
//!    directory is renamed or something is mounted over its path.
//! 2. An interrupted or partial system call is continued; no caller sees EINTR or a short count.
//! 3. What the filesystem can't do is done by other means where the result is the same (direct I/O by the page
//!    cache, a hole by zeros, RWF_DSYNC by fdatasync), never left out.

use crate::seam::real_file::DirFile;
use crate::seam::watch;
use crate::seam::{Access, File, Space, Storage, TakeIn};
use crate::vocab::{Error, Kind, Result};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A tree of files below a directory of this machine.
pub struct DirStorage {
    root: OwnedFd,
    shown: PathBuf,
    direct_refused: Arc<AtomicBool>,
}

impl DirStorage {
    /// The tree below `path`, a directory that exists.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = retry(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))
            .map_err(|errno| failed(errno, "can't open the directory").at(path))?;
        Ok(Self { root, shown: path.to_owned(), direct_refused: Arc::default() })
    }

    /// Whether the filesystem has refused O_DIRECT for some file, so that it is read and written through the
    /// page cache.
    pub fn direct_refused(&self) -> bool {
        self.direct_refused.load(Ordering::Relaxed)
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub(super) fn at(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.shown.clone() } else { self.shown.join(path) }
    }

    fn fail(&self, errno: Errno, what: &str, path: &Path) -> Error {
        failed(errno, what).at(self.at(path))
    }

    /// The path as system calls take it, if it is one that stays below the root.
    fn name<'a>(&self, path: &'a Path) -> Result<&'a Path> {
        check_path(path).map_err(|e| e.at(self.at(path)))?;
        Ok(if path.as_os_str().is_empty() { Path::new(".") } else { path })
    }

    fn open_with(&self, path: &Path, access: Access, flags: OFlags, what: &str) -> Result<Arc<dyn File>> {
        let name = self.name(path)?;
        let mode = if access == Access::ReadOnly { OFlags::RDONLY } else { OFlags::RDWR };
        let flags = flags | mode | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = |flags| retry(|| rustix::fs::openat(&self.root, name, flags, Mode::from_raw_mode(0o660)));
        let mut direct = access == Access::Direct;
        let fd = match open(if direct { flags | OFlags::DIRECT } else { flags }) {
            // A refused open may have made the file already: the second one must not ask for a new one.
            Err(Errno::INVAL) if direct => {
                self.direct_refused.store(true, Ordering::Relaxed);
                direct = false;
                match open(flags) {
                    Err(Errno::EXIST) => open(flags.difference(OFlags::CREATE | OFlags::EXCL)),
                    other => other,
                }
            }
            other => other,
        };
        let fd = fd.map_err(|errno| self.fail(errno, what, path))?;
        Ok(Arc::new(DirFile::new(fd, access, direct, self.direct_refused.clone(), self.at(path))))
    }
}

impl Storage for DirStorage {
    fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn File>> {
        self.open_with(path, access, OFlags::empty(), "can't open")
    }

    fn create(&self, path: &Path, access: Access) -> Result<Arc<dyn File>> {
        if access == Access::ReadOnly {
            return Err(
                Error::new(Kind::Invalid, "a file can't be created for reading only").at(self.at(path))
            );
        }
        self.open_with(path, access, OFlags::CREATE | OFlags::EXCL, "can't create")
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let (old, new) = (self.name(from)?, self.name(to)?);
        let what = || format!("can't rename to {}", self.at(to).display());
        retry(|| rustix::fs::renameat(&self.root, old, &self.root, new))
            .map_err(|errno| self.fail(errno, &what(), from))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let name = self.name(path)?;
        retry(|| rustix::fs::unlinkat(&self.root, name, AtFlags::empty()))
            .map_err(|errno| self.fail(errno, "can't remove", path))
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        self.name(path)?;
        let mut made = PathBuf::new();
        for part in path.components() {
            made.push(part);
            match retry(|| rustix::fs::mkdirat(&self.root, &made, Mode::from_raw_mode(0o770))) {
                Ok(()) => {}
                // The kernel says EEXIST for a file of that name as well.
                Err(Errno::EXIST) => {
                    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
                    retry(|| rustix::fs::openat(&self.root, &made, flags, Mode::empty()))
                        .map_err(|_| self.fail(Errno::EXIST, "can't make the directory", &made))?;
                }
                Err(errno) => return Err(self.fail(errno, "can't make the directory", &made)),
            }
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> Result<()> {
        let name = self.name(path)?;
        retry(|| rustix::fs::unlinkat(&self.root, name, AtFlags::REMOVEDIR))
            .map_err(|errno| self.fail(errno, "can't remove the directory", path))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        let dir = self.open_dir(path)?;
        let mut names = Vec::new();
        for entry in Dir::new(dir).map_err(|errno| self.fail(errno, "can't list", path))? {
            let entry = entry.map_err(|errno| self.fail(errno, "can't list", path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let dir = self.open_dir(path)?;
        retry(|| rustix::fs::fsync(&dir))
            .map_err(|errno| self.fail(errno, "can't sync the directory", path))
            .inspect(|()| watch::durable(&self.at(path)))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        let name = self.name(path)?;
        match retry(|| rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(self.fail(errno, "can't look up", path)),
        }
    }

    fn take_in(&self, outside: &Path, to: &Path, how: TakeIn) -> Result<()> {
        match how {
            TakeIn::Rename => self.move_in(outside, self.name(to)?),
            TakeIn::Reflink => self.clone_in(outside, to),
        }
    }

    fn space(&self) -> Result<Space> {
        let stat = retry(|| rustix::fs::fstatvfs(&self.root))
            .map_err(|errno| self.fail(errno, "can't ask for free space", Path::new("")))?;
        let unit = if stat.f_frsize == 0 { stat.f_bsize } else { stat.f_frsize };
        let device = retry(|| rustix::fs::fstat(&self.root))
            .map_err(|errno| self.fail(errno, "can't ask for the filesystem", Path::new("")))?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(unit),
            free: stat.f_bavail.saturating_mul(unit),
            filesystem: device.st_dev,
        })
    }

    fn shown(&self, path: &Path) -> String {
        self.at(path).display().to_string()
    }
}

impl DirStorage {
    fn open_dir(&self, path: &Path) -> Result<OwnedFd> {
        let name = self.name(path)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        retry(|| rustix::fs::openat(&self.root, name, flags, Mode::empty()))
            .map_err(|errno| self.fail(errno, "can't open the directory", path))
    }
}

impl fmt::Debug for DirStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirStorage({})", self.shown.display())
    }
}

/// Refuses (`Invalid`) a path that could leave the tree.
pub(super) fn check_path(path: &Path) -> Result<()> {
    if path.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(())
    } else {
        Err(Error::new(Kind::Invalid, "not a path below the tree"))
    }
}

/// Runs a system call until no signal interrupts it.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// An error of a system call, with what the user can do where something is known.
pub(super) fn failed(errno: Errno, what: &str) -> Error {
    let error = Error::io(errno.into(), what);
    let advice = match errno {
        Errno::NOSPC => "Free some space on this filesystem, or move the store to a larger one",
        Errno::DQUOT => "The quota of this user or directory is used up: raise it",
        Errno::ROFS => {
            "The filesystem is mounted read-only. Most go read-only by themselves after an error: see the \
             kernel's log, check the filesystem, and mount it again"
        }
        Errno::IO => "The disk below failed: see the kernel's log and check the disk before going on",
        Errno::ACCESS | Errno::PERM => "Check owner and mode of the file and of the directories above it",
        Errno::MFILE | Errno::NFILE => "Raise the limit of open files (LimitNOFILE)",
        Errno::FBIG => "The file is larger than this filesystem or the limit of file sizes allows",
        Errno::LOOP => "A symbolic link isn't followed here: put the file itself in its place",
        Errno::TXTBSY => "The file is in use as a program or as swap: stop that use first",
        _ => return error,
    };
    error.advice(advice)
}
