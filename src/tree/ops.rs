//! What a mount asks of the names that it serves, free of any FUSE library.
//!
//! Rules that both sides keep:
//!
//! 1. Inode numbers and handles are chosen by the namespace. They come back after the death of the process
//!    that gave them out, so what they stand for is kept (in the mount's handle table) before the answer.
//! 2. Every request may come twice: a request that was not answered before a process died is sent again to
//!    the next one with [`Request::resent`] set and the same [`Request::unique`]. Reads, writes and zeroing
//!    are done again; whatever isn't harmless when repeated (mkdir, create, rename, unlink, rmdir, changes of
//!    size, commands) gets the answer that it got the first time.
//! 3. Methods are called from a few threads at once, each of which carries other people's requests too: a
//!    method without a completion must not wait for anything that itself needs the mount, nor without limit.
//! 4. A completion may be used in the call or later from any thread. One that is dropped unused answers EIO.
//! 5. The kernel's caches are told of changes by the mount's invalidator, never from inside a method.

use crate::vocab;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

/// The inode number of the root directory of every mount.
pub const ROOT: u64 = 1;

/// An errno as the caller of a system call sees it; never zero or negative.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// Not permitted by a rule.
    pub const EPERM: Self = Self(libc::EPERM);
    /// No such name, point or attribute.
    pub const ENOENT: Self = Self(libc::ENOENT);
    /// Input or output failed.
    pub const EIO: Self = Self(libc::EIO);
    /// Nothing there: beyond the last data (SEEK_DATA, SEEK_HOLE).
    pub const ENXIO: Self = Self(libc::ENXIO);
    /// Longer than what is taken.
    pub const E2BIG: Self = Self(libc::E2BIG);
    /// No such handle.
    pub const EBADF: Self = Self(libc::EBADF);
    /// The file's mode forbids it.
    pub const EACCES: Self = Self(libc::EACCES);
    /// In use.
    pub const EBUSY: Self = Self(libc::EBUSY);
    /// The name is taken.
    pub const EEXIST: Self = Self(libc::EEXIST);
    /// Between two items, as between filesystems.
    pub const EXDEV: Self = Self(libc::EXDEV);
    /// Not a directory.
    pub const ENOTDIR: Self = Self(libc::ENOTDIR);
    /// A directory.
    pub const EISDIR: Self = Self(libc::EISDIR);
    /// Makes no sense.
    pub const EINVAL: Self = Self(libc::EINVAL);
    /// Larger than a file may be.
    pub const EFBIG: Self = Self(libc::EFBIG);
    /// No room.
    pub const ENOSPC: Self = Self(libc::ENOSPC);
    /// Read-only here and now.
    pub const EROFS: Self = Self(libc::EROFS);
    /// The value doesn't fit.
    pub const ERANGE: Self = Self(libc::ERANGE);
    /// A name that is too long.
    pub const ENAMETOOLONG: Self = Self(libc::ENAMETOOLONG);
    /// Never implemented: the kernel doesn't ask again.
    pub const ENOSYS: Self = Self(libc::ENOSYS);
    /// The directory isn't empty.
    pub const ENOTEMPTY: Self = Self(libc::ENOTEMPTY);
    /// No such extended attribute.
    pub const ENODATA: Self = Self(libc::ENODATA);
    /// Not supported for this file.
    pub const EOPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    /// The peer can't be reached.
    pub const ENOTCONN: Self = Self(libc::ENOTCONN);
    /// A handle or expectation from another history.
    pub const ESTALE: Self = Self(libc::ESTALE);
}

impl From<&vocab::Error> for Errno {
    /// Loses the words: log them first where a person may need them.
    fn from(error: &vocab::Error) -> Self {
        Self(error.errno())
    }
}

impl From<vocab::Error> for Errno {
    fn from(error: vocab::Error) -> Self {
        Self(error.errno())
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// What most methods answer.
pub type Answer<T> = Result<T, Errno>;

/// Who asks, and which request it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Names the request for the life of the mount; the same when it is sent again.
    pub unique: u64,
    /// Sent again by the kernel: an earlier process took it and died before it answered.
    pub resent: bool,
    /// User id of the caller; 0 for what the kernel does on its own behalf (write-back of a mapping).
    pub uid: u32,
    /// Group id of the caller.
    pub gid: u32,
    /// Process id of the caller, 0 where it has none in this namespace.
    pub pid: u32,
}

/// The kind of a directory entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// What stat(2) shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Allocated room in units of 512 bytes; must be honest, copying tools look for holes by it.
    pub blocks: u64,
    /// Last access, nanoseconds since 1970 (UTC).
    pub atime: i64,
    /// Last change of content, likewise.
    pub mtime: i64,
    /// Last change of attributes, likewise.
    pub ctime: i64,
    /// Kind of node.
    pub kind: NodeKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u16,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A name that was found or made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What it is.
    pub attributes: Attributes,
    /// How long the kernel may use `attributes` without asking.
    pub attributes_ttl: Duration,
    /// How long the kernel may use the name without asking.
    pub name_ttl: Duration,
}

/// A file or directory that was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// Comes back with every request on this opening.
    pub handle: u64,
    /// Reads and writes bypass the page cache: disks, control and status files.
    pub direct_io: bool,
    /// Several writes to the file at once; of use with `direct_io` only. Without it QEMU's queue depth is 1.
    pub parallel_direct_writes: bool,
    /// What the page cache holds from earlier openings is still right.
    pub keep_cache: bool,
}

/// One of two ways to set a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The server's clock.
    Now,
    /// Nanoseconds since 1970 (UTC).
    To(i64),
}

/// What a SETATTR changes; `None` stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits, 0 to 0o7777.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes (truncate, ftruncate).
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// The handle, where the call was made on an open file.
    pub handle: Option<u64>,
}

/// Which way lseek(2) looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// SEEK_DATA: the next byte of data at or after the offset; ENXIO if there is none.
    Data,
    /// SEEK_HOLE: the next hole at or after the offset, the end of the file being one; ENXIO beyond it.
    Hole,
}

/// What statfs(2) shows; sizes in units of `block_size` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Size of the filesystem.
    pub blocks: u64,
    /// Free.
    pub free: u64,
    /// Free for users without privileges.
    pub available: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Bytes.
    pub block_size: u32,
    /// Longest name in bytes.
    pub name_max: u32,
}

/// One entry of a directory listing.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where the listing goes on after this entry: handed back as `offset`; not 0, and stable for the handle.
    pub next: u64,
    /// Kind of node.
    pub kind: NodeKind,
    /// The name, without a slash.
    pub name: &'a OsStr,
}

/// Takes the entries of a listing.
pub trait NameSink {
    /// Adds an entry; false: it was not taken, the room is used up, stop.
    fn add(&mut self, name: Name<'_>) -> bool;
}

/// Why a namespace is told to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The mount is gone: nobody asks any more.
    Unmounted,
    /// Another process takes over the mount; what it will need is to be in place within 2 seconds.
    Upgrade,
}

/// Answers a request, now or later, from any thread. Dropped unused it answers EIO.
pub struct Completion<T>(Box<dyn FnOnce(Answer<T>) + Send>);

impl<T> Completion<T> {
    /// A completion that ends in `answer`.
    pub fn new(answer: impl FnOnce(Answer<T>) + Send + 'static) -> Self {
        Self(Box::new(answer))
    }

    /// Answers.
    pub fn done(self, answer: Answer<T>) {
        (self.0)(answer);
    }
}

impl<T> std::fmt::Debug for Completion<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Completion")
    }
}

/// Answers a read, now or later, from any thread. Dropped unused it answers EIO.
pub struct ReadCompletion(Box<DataAnswer>);

type DataAnswer = dyn for<'a> FnOnce(Answer<&'a [u8]>) + Send;

impl ReadCompletion {
    /// A completion that ends in `answer`.
    pub fn new(answer: impl for<'a> FnOnce(Answer<&'a [u8]>) + Send + 'static) -> Self {
        Self(Box::new(answer))
    }

    /// Answers with all that was asked for; less of it only at the end of the file.
    pub fn done(self, answer: Answer<&[u8]>) {
        (self.0)(answer);
    }
}

impl std::fmt::Debug for ReadCompletion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadCompletion")
    }
}

/// What a mount serves. See the head of this file for the rules.
///
/// Permission bits are checked by the kernel (the mount has `default_permissions`) before a method is called.
/// POSIX and flock locks are kept by the kernel and never arrive.
pub trait Namespace: Send + Sync {
    /// Finds `name` in the directory `parent`.
    fn lookup(&self, request: &Request, parent: u64, name: &OsStr) -> Answer<Entry>;

    /// The kernel has dropped `count` of the lookups of `ino`; not sent again, and not for each inode at the
    /// end. Namespaces whose numbers are functions of stable identities ignore it.
    fn forget(&self, _ino: u64, _count: u64) {}

    /// Attributes, and how long the kernel may use them.
    fn getattr(&self, request: &Request, ino: u64, handle: Option<u64>) -> Answer<(Attributes, Duration)>;

    /// Changes attributes and answers the new ones.
    fn setattr(&self, request: &Request, ino: u64, set: &SetAttributes) -> Answer<(Attributes, Duration)>;

    /// Where a symbolic link points to.
    fn readlink(&self, request: &Request, ino: u64) -> Answer<OsString>;

    /// Makes a directory; `mode` is after the umask.
    fn mkdir(&self, request: &Request, parent: u64, name: &OsStr, mode: u32) -> Answer<Entry>;

    /// Makes a file and opens it; `mode` is after the umask, `flags` are those of open(2) (O_EXCL is settled
    /// by the kernel's own lookup, but another caller may have come in between).
    fn create(
        &self,
        request: &Request,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Answer<(Entry, Opened)>;

    /// Removes a file's name; open handles stay usable.
    fn unlink(&self, request: &Request, parent: u64, name: &OsStr) -> Answer<()>;

    /// Removes an empty directory.
    fn rmdir(&self, request: &Request, parent: u64, name: &OsStr) -> Answer<()>;

    /// Renames; `flags` are those of renameat2(2).
    fn rename(&self, request: &Request, from: (u64, &OsStr), to: (u64, &OsStr), flags: u32) -> Answer<()>;

    /// Opens a file; `flags` are those of open(2) and may hold O_TRUNC.
    fn open(&self, request: &Request, ino: u64, flags: i32) -> Answer<Opened>;

    /// As [`Namespace::open`], for one that may have to wait: answered now, or later from another thread.
    fn open_later(&self, request: &Request, ino: u64, flags: i32, reply: Completion<Opened>) {
        reply.done(self.open(request, ino, flags));
    }

    /// The last descriptor and mapping of an opening is gone. What it answers reaches nobody.
    fn release(&self, request: &Request, ino: u64, handle: u64, flags: i32);

    /// Reads `size` bytes (at most 1 MiB) from `offset`.
    fn read(&self, request: &Request, ino: u64, handle: u64, offset: u64, size: u32, reply: ReadCompletion);

    /// Writes `data` (at most 1 MiB, never page-aligned) at `offset`; answers how much was taken. `flags` are
    /// those of the open file of now: O_DSYNC or O_SYNC (also of a single RWF_DSYNC call) make it a write and
    /// a flush, and no fsync follows. `data` is gone when the call returns: what is written later is copied.
    #[allow(clippy::too_many_arguments, reason = "the hot path: no struct to fill for each request")]
    fn write(
        &self,
        request: &Request,
        ino: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
        flags: i32,
        reply: Completion<u32>,
    );

    /// A descriptor was closed (one of perhaps several of the opening). Errors reach close(2).
    fn flush(&self, request: &Request, ino: u64, handle: u64, reply: Completion<()>);

    /// Makes everything answered before it durable; `data_only` is fdatasync(2).
    fn fsync(&self, request: &Request, ino: u64, handle: u64, data_only: bool, reply: Completion<()>);

    /// fallocate(2): mode 0 and KEEP_SIZE (room), PUNCH_HOLE|KEEP_SIZE (discard), ZERO_RANGE with or without
    /// KEEP_SIZE (zeroes). The kernel refuses the others itself.
    #[allow(clippy::too_many_arguments, reason = "as write")]
    fn fallocate(
        &self,
        request: &Request,
        ino: u64,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
        reply: Completion<()>,
    );

    /// Looks for data or a hole from `offset`.
    fn lseek(&self, request: &Request, ino: u64, handle: u64, offset: u64, seek: Seek) -> Answer<u64>;

    /// Copies a range from one open file to another: (inode, handle, offset) each. ENOSYS, the default: the
    /// kernel reads and writes.
    fn copy_file_range(
        &self,
        _request: &Request,
        _from: (u64, u64, u64),
        _to: (u64, u64, u64),
        _length: u64,
    ) -> Answer<u64> {
        Err(Errno::ENOSYS)
    }

    /// Opens a directory for a listing.
    fn opendir(&self, request: &Request, ino: u64) -> Answer<Opened>;

    /// Lists from `offset` (0, or a `next` of before) until the end or until the sink is full. `.` and `..`
    /// are given by the namespace.
    fn readdir(
        &self,
        request: &Request,
        ino: u64,
        handle: u64,
        offset: u64,
        names: &mut dyn NameSink,
    ) -> Answer<()>;

    /// A listing is over.
    fn releasedir(&self, request: &Request, ino: u64, handle: u64);

    /// Makes the names of a directory durable.
    fn fsyncdir(&self, request: &Request, ino: u64, handle: u64, data_only: bool) -> Answer<()>;

    /// Room and free room.
    fn statfs(&self, request: &Request, ino: u64) -> Answer<Space>;

    /// Sets an extended attribute; `flags` are XATTR_CREATE and XATTR_REPLACE.
    fn setxattr(&self, request: &Request, ino: u64, name: &OsStr, value: &[u8], flags: i32) -> Answer<()>;

    /// Reads an extended attribute; ENODATA if there is none, EOPNOTSUPP if this file has none at all.
    fn getxattr(&self, request: &Request, ino: u64, name: &OsStr) -> Answer<Vec<u8>>;

    /// Names of the extended attributes.
    fn listxattr(&self, request: &Request, ino: u64) -> Answer<Vec<OsString>>;

    /// Removes an extended attribute.
    fn removexattr(&self, request: &Request, ino: u64, name: &OsStr) -> Answer<()>;

    /// access(2) on a mount without `default_permissions`; `mask` is R_OK, W_OK, X_OK. Unused else.
    fn access(&self, _request: &Request, _ino: u64, _mask: i32) -> Answer<()> {
        Ok(())
    }

    /// The last call: requests that were taken have been answered (with [`Stop::Upgrade`]: or will be sent
    /// again to the next process). Returns when everything that has to be in place is.
    fn stop(&self, why: Stop);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_completion_answers_from_another_thread() {
        let (sender, receiver) = channel();
        let copy = sender.clone();
        let write = Completion::new(move |answer: Answer<u32>| copy.send(answer).unwrap());
        let read = ReadCompletion::new(move |answer| sender.send(answer.map(|d| d.len() as u32)).unwrap());
        std::thread::spawn(move || {
            write.done(Ok(7));
            read.done(Ok(&[0; 9]));
        })
        .join()
        .unwrap();
        assert_eq!(receiver.recv(), Ok(Ok(7)));
        assert_eq!(receiver.recv(), Ok(Ok(9)));
    }

    #[test]
    fn errors_keep_their_errno() {
        let full = vocab::Error::io(std::io::Error::from_raw_os_error(libc::ENOSPC), "can't append");
        assert_eq!(Errno::from(&full), Errno::ENOSPC);
        assert_eq!(Errno::from(vocab::Error::new(vocab::Kind::ReadOnly, "fenced")), Errno::EROFS);
        assert_eq!(Errno::from(std::io::Error::other("no number")), Errno::EIO);
    }
}
