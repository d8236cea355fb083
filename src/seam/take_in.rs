//! Files from outside that come into a tree without a copy of their bytes.
//!
//! 1. What comes in is a plain file without another name and without another user: who else can write to it would do so
//!    below everything that the store knows of it.
//! 2. Its content is durable before its name in the tree is.
//! 3. Who is refused finds the file where it was, as it was.

use super::real::{failed, retry};
use crate::seam::{Access, DirStorage, Storage};
use crate::vocab::{Error, Kind, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

const OTHER_WAYS: &str = "`how=copy` works everywhere; a rename needs the store's filesystem, a reflink one that has them \
                          (XFS, btrfs)";

/// Whether nobody else has the file open: for writing, or at all.
///
/// # Errors
/// `Busy` if somebody has. Where the filesystem can't tell, nobody has.
pub fn check_unused(path: &Path, for_reading_too: bool) -> Result<()> {
    let access = if for_reading_too { OFlags::RDWR } else { OFlags::RDONLY };
    unused(&opened(path, access)?, path, for_reading_too)
}

/// Where a clone is made that is to have this name.
pub fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    PathBuf::from(part)
}

/// A lease is given only to who is alone (fcntl(2), F_SETLEASE): one for writing if nobody else has the file open, one for
/// reading if nobody has it open for writing.
fn unused(file: &OwnedFd, path: &Path, for_reading_too: bool) -> Result<()> {
    let kind = if for_reading_too { libc::F_WRLCK } else { libc::F_RDLCK };
    // SAFETY: a system call on a descriptor that lives, with a number for an argument.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } == 0 {
        // SAFETY: as above. What can't be given back ends with the descriptor.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        return Ok(());
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Err(Error::new(Kind::Busy, "somebody has the image open").at(path).advice(
            "Shut the VM down, detach the loop device, or end the program that has it: see `fuser -v`",
        )),
        _ => Ok(()),
    }
}

fn opened(path: &Path, access: OFlags) -> Result<OwnedFd> {
    let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    retry(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))
        .map_err(|errno| failed(errno, "can't open the image").at(path))
}

impl DirStorage {
    pub(super) fn move_in(&self, outside: &Path, to: &Path) -> Result<()> {
        let file = opened(outside, OFlags::RDWR)?;
        let what = |errno, what: &str| failed(errno, what).at(outside);
        let stat = retry(|| rustix::fs::fstat(&file)).map_err(|e| what(e, "can't look at the image"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new(Kind::Unsupported, "it is no plain file").at(outside).advice(OTHER_WAYS));
        }
        if stat.st_nlink != 1 {
            return Err(Error::new(Kind::Refused, "the image has other names (hard links)")
                .at(outside)
                .advice("Who writes by another name would tear it: remove the others, or `how=copy`"));
        }
        let me = rustix::process::geteuid();
        if !me.is_root() && stat.st_uid != me.as_raw() {
            let advice = "Give it to the user of the daemon (chown), or `how=copy`";
            return Err(Error::new(Kind::Refused, "the image belongs to another user")
                .at(outside)
                .advice(advice));
        }
        unused(&file, outside, true)?;
        retry(|| rustix::fs::fsync(&file)).map_err(|e| what(e, "can't sync the image"))?;
        match retry(|| rustix::fs::renameat_with(CWD, outside, self.root(), to, RenameFlags::NOREPLACE)) {
            Err(Errno::XDEV) => {
                let error =
                    Error::new(Kind::Unsupported, "the image is on another filesystem than the store");
                return Err(error.at(outside).advice(OTHER_WAYS));
            }
            done => done.map_err(|e| what(e, "can't move the image into the store"))?,
        }
        // From here on it is the store's: as if the daemon had made it.
        let mine = retry(|| rustix::fs::fchmod(&file, Mode::from_raw_mode(0o660)))
            .and_then(|()| retry(|| rustix::fs::fchown(&file, Some(me), Some(rustix::process::getegid()))))
            .and_then(|()| sync_parent(outside));
        mine.map_err(|errno| failed(errno, "can't make the image the store's own").at(self.at(to)))
    }

    pub(super) fn clone_in(&self, outside: &Path, to: &Path) -> Result<()> {
        let file = opened(outside, OFlags::RDONLY)?;
        unused(&file, outside, false)?;
        // The whole clone or none has the name.
        let part = part_of(to);
        if self.exists(&part)? {
            self.remove(&part)?;
        }
        drop(self.create(&part, Access::Cached)?);
        let cloned = self.clone_of(&file, outside, &part).and_then(|()| self.rename(&part, to));
        if cloned.is_err() {
            self.remove(&part)?;
        }
        cloned
    }

    fn clone_of(&self, file: &OwnedFd, outside: &Path, part: &Path) -> Result<()> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let clone = retry(|| rustix::fs::openat(self.root(), part, flags, Mode::empty()))
            .map_err(|errno| failed(errno, "can't open the clone").at(self.at(part)))?;
        match retry(|| rustix::fs::ioctl_ficlone(&clone, file)) {
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
                let what = "the filesystem of image and store can't share blocks between them (reflink)";
                Err(Error::new(Kind::Unsupported, what).at(outside).advice(OTHER_WAYS))
            }
            Err(errno) => Err(failed(errno, "can't clone the image").at(outside)),
            Ok(()) => retry(|| rustix::fs::fsync(&clone))
                .map_err(|errno| failed(errno, "can't sync the clone").at(self.at(part))),
        }
    }
}

/// That the old name is gone.
fn sync_parent(path: &Path) -> rustix::io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("/"));
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = retry(|| rustix::fs::openat(CWD, parent, flags, Mode::empty()))?;
    retry(|| rustix::fs::fsync(&dir))
}
