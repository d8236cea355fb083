//! Between the FUSE library and a [`Namespace`]: this file and its `convert` alone know the library.
//!
//! 1. What is asked of the kernel is a written list: [`WANTED`]. Never a write-back cache (it merges writes
//!    and destroys their order and number), never POSIX or flock locks (the kernel then keeps them itself,
//!    and image locking works as on a local filesystem).
//! 2. Every request that is answered passes the gate; its ticket lives until the answer has been sent.
//! 3. A request sent again is known by the top bit of its unique id; namespaces see the id without it.

use super::abi::{RESEND_BIT, WRITE_MAX};
use super::gate::{Gate, Ticket, populate_request_buffer};
use crate::tree::ops::{Answer, Completion, Errno, Namespace, ReadCompletion, Request, Seek, SetAttributes};
use crate::vocab::{Error, Result};
use convert::{
    Listing, answer_attributes, answer_empty, answer_entry, answer_open, answer_xattr, attributes, checked,
    empty_completion, errno, open_flags, set_time,
};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

mod convert;

/// What is asked for where the kernel offers it, and why.
const WANTED: &[InitFlags] = &[
    // More than one request in flight for O_DIRECT clients: 467 against 7,423 operations a second at depth 16.
    InitFlags::FUSE_ASYNC_DIO,
    // O_TRUNC comes with the open: a control file isn't resized before it is written.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Lookups and listings of one directory side by side.
    InitFlags::FUSE_PARALLEL_DIROPS,
    // mmap of files opened for direct I/O, else ENODEV.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    // Requests of a process that died are sent again.
    InitFlags::FUSE_HAS_RESEND,
    // Cached pages go when size or mtime change.
    InitFlags::FUSE_AUTO_INVAL_DATA,
];

/// Requests in flight that nobody sits and waits for: it caps the depth of the whole mount.
const BACKGROUND_MAX: u16 = 256;
/// Longer names are refused before they reach a namespace.
const NAME_MAX: usize = 255;

/// A handshake that is done.
pub struct Server(fuser::Session<Adapter>);

impl Server {
    /// Does the handshake on `device`, which may be a stand-in that is replaced afterwards.
    pub fn handshake(
        device: OwnedFd,
        namespace: Arc<dyn Namespace>,
        gate: &'static Gate,
        threads: usize,
    ) -> Result<Self> {
        let mut config = fuser::Config::default();
        config.acl = fuser::SessionACL::All;
        config.n_threads = Some(threads);
        let adapter = Adapter { namespace, gate };
        fuser::Session::from_fd(adapter, device, fuser::SessionACL::All, config)
            .map(Self)
            .map_err(|e| Error::io(e, "the FUSE handshake failed"))
    }

    /// Serves until the mount is gone.
    pub fn run(self) -> Result<()> {
        self.0.run().map_err(|e| Error::io(e, "serving the mount failed"))
    }
}

struct Adapter {
    namespace: Arc<dyn Namespace>,
    gate: &'static Gate,
}

impl Adapter {
    fn enter(&self, request: &fuser::Request) -> (Ticket, Request) {
        populate_request_buffer(std::ptr::from_ref(request) as usize);
        let unique = request.unique().0;
        let request = Request {
            unique: unique & !RESEND_BIT,
            resent: unique & RESEND_BIT != 0,
            uid: request.uid(),
            gid: request.gid(),
            pid: request.pid(),
        };
        (self.gate.enter(), request)
    }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _req: &fuser::Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in WANTED {
            if config.add_capabilities(*wanted).is_err() {
                tracing::info!(capability = ?wanted, "the kernel doesn't offer it");
            }
        }
        // Both can only fail for values out of range, and answer the nearest that is in it.
        let _ = config.set_max_background(BACKGROUND_MAX);
        let _ = config.set_max_write(WRITE_MAX);
        Ok(())
    }

    fn lookup(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (_ticket, request) = self.enter(req);
        answer_entry(reply, checked(name).and_then(|name| self.namespace.lookup(&request, parent.0, name)));
    }

    fn forget(&self, _req: &fuser::Request, ino: INodeNo, nlookup: u64) {
        self.namespace.forget(ino.0, nlookup);
    }

    fn getattr(&self, req: &fuser::Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let (_ticket, request) = self.enter(req);
        answer_attributes(reply, self.namespace.getattr(&request, ino.0, fh.map(|fh| fh.0)));
    }

    fn setattr(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (_ticket, request) = self.enter(req);
        let set = SetAttributes {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            handle: fh.map(|fh| fh.0),
        };
        answer_attributes(reply, self.namespace.setattr(&request, ino.0, &set));
    }

    fn readlink(&self, req: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        let (_ticket, request) = self.enter(req);
        match self.namespace.readlink(&request, ino.0) {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn mknod(
        &self,
        req: &fuser::Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let _ticket = self.enter(req);
        reply.error(fuser::Errno::EPERM);
    }

    fn mkdir(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (_ticket, request) = self.enter(req);
        let made =
            checked(name).and_then(|name| self.namespace.mkdir(&request, parent.0, name, mode & 0o7777));
        answer_entry(reply, made);
    }

    fn unlink(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (_ticket, request) = self.enter(req);
        answer_empty(reply, self.namespace.unlink(&request, parent.0, name));
    }

    fn rmdir(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (_ticket, request) = self.enter(req);
        answer_empty(reply, self.namespace.rmdir(&request, parent.0, name));
    }

    fn symlink(
        &self,
        req: &fuser::Request,
        _parent: INodeNo,
        _link_name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        let _ticket = self.enter(req);
        reply.error(fuser::Errno::EPERM);
    }

    fn rename(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (_ticket, request) = self.enter(req);
        let renamed = checked(newname).and_then(|newname| {
            self.namespace.rename(&request, (parent.0, name), (newparent.0, newname), flags.bits())
        });
        answer_empty(reply, renamed);
    }

    fn link(
        &self,
        req: &fuser::Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let _ticket = self.enter(req);
        reply.error(fuser::Errno::EPERM);
    }

    fn open(&self, req: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (ticket, request) = self.enter(req);
        let answered = Completion::new(move |answer| {
            answer_open(reply, answer);
            drop(ticket);
        });
        self.namespace.open_later(&request, ino.0, flags.0, answered);
    }

    fn read(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (ticket, request) = self.enter(req);
        let completion = ReadCompletion::new(move |answer: Answer<&[u8]>| {
            match answer {
                Ok(data) => reply.data(data),
                Err(e) => reply.error(errno(e)),
            }
            drop(ticket);
        });
        self.namespace.read(&request, ino.0, fh.0, offset, size, completion);
    }

    fn write(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (ticket, request) = self.enter(req);
        let completion = Completion::new(move |answer| {
            match answer {
                Ok(written) => reply.written(written),
                Err(e) => reply.error(errno(e)),
            }
            drop(ticket);
        });
        self.namespace.write(&request, ino.0, fh.0, offset, data, flags.0, completion);
    }

    fn flush(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (ticket, request) = self.enter(req);
        self.namespace.flush(&request, ino.0, fh.0, empty_completion(reply, ticket));
    }

    fn release(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (_ticket, request) = self.enter(req);
        self.namespace.release(&request, ino.0, fh.0, flags.0);
        reply.ok();
    }

    fn fsync(&self, req: &fuser::Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let (ticket, request) = self.enter(req);
        self.namespace.fsync(&request, ino.0, fh.0, datasync, empty_completion(reply, ticket));
    }

    fn opendir(&self, req: &fuser::Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (_ticket, request) = self.enter(req);
        answer_open(reply, self.namespace.opendir(&request, ino.0));
    }

    fn readdir(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (_ticket, request) = self.enter(req);
        match self.namespace.readdir(&request, ino.0, fh.0, offset, &mut Listing(&mut reply)) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn releasedir(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let (_ticket, request) = self.enter(req);
        self.namespace.releasedir(&request, ino.0, fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (_ticket, request) = self.enter(req);
        answer_empty(reply, self.namespace.fsyncdir(&request, ino.0, fh.0, datasync));
    }

    fn statfs(&self, req: &fuser::Request, ino: INodeNo, reply: ReplyStatfs) {
        let (_ticket, request) = self.enter(req);
        match self.namespace.statfs(&request, ino.0) {
            Ok(s) => reply.statfs(
                s.blocks,
                s.free,
                s.available,
                s.files,
                s.files_free,
                s.block_size,
                s.name_max,
                s.block_size,
            ),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn setxattr(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (_ticket, request) = self.enter(req);
        answer_empty(reply, self.namespace.setxattr(&request, ino.0, name, value, flags));
    }

    fn getxattr(&self, req: &fuser::Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (_ticket, request) = self.enter(req);
        answer_xattr(reply, size, self.namespace.getxattr(&request, ino.0, name));
    }

    fn listxattr(&self, req: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (_ticket, request) = self.enter(req);
        let names = self.namespace.listxattr(&request, ino.0).map(|names| {
            names.iter().flat_map(|name| name.as_encoded_bytes().iter().copied().chain([0])).collect()
        });
        answer_xattr(reply, size, names);
    }

    fn removexattr(&self, req: &fuser::Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (_ticket, request) = self.enter(req);
        answer_empty(reply, self.namespace.removexattr(&request, ino.0, name));
    }

    fn access(&self, req: &fuser::Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let (_ticket, request) = self.enter(req);
        answer_empty(reply, self.namespace.access(&request, ino.0, mask.bits()));
    }

    fn create(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (_ticket, request) = self.enter(req);
        let made = checked(name)
            .and_then(|name| self.namespace.create(&request, parent.0, name, mode & 0o7777, flags));
        match made {
            // The library has one time to live for both here: the shorter one is right for both.
            Ok((entry, opened)) => reply.created(
                &entry.attributes_ttl.min(entry.name_ttl),
                &attributes(&entry.attributes),
                Generation(0),
                FileHandle(opened.handle),
                open_flags(&opened),
            ),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn bmap(&self, req: &fuser::Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        let _ticket = self.enter(req);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let _ticket = self.enter(req);
        reply.error(fuser::Errno::ENOTTY);
    }

    fn poll(
        &self,
        req: &fuser::Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        let _ticket = self.enter(req);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (ticket, request) = self.enter(req);
        let completion = empty_completion(reply, ticket);
        self.namespace.fallocate(&request, ino.0, fh.0, offset, length, mode, completion);
    }

    fn lseek(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (_ticket, request) = self.enter(req);
        let seek = match whence {
            libc::SEEK_DATA => Ok(Seek::Data),
            libc::SEEK_HOLE => Ok(Seek::Hole),
            _ => Err(Errno::EINVAL),
        };
        let found = seek.and_then(|seek| {
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            let found = self.namespace.lseek(&request, ino.0, fh.0, offset, seek)?;
            i64::try_from(found).map_err(|_| Errno::EFBIG)
        });
        match found {
            Ok(offset) => reply.offset(offset),
            Err(e) => reply.error(errno(e)),
        }
    }

    fn copy_file_range(
        &self,
        req: &fuser::Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The answer has 32 bits; callers go on where it ends.
        const STEP: u64 = 1 << 30;
        let (_ticket, request) = self.enter(req);
        let (from, to) = ((ino_in.0, fh_in.0, offset_in), (ino_out.0, fh_out.0, offset_out));
        match self.namespace.copy_file_range(&request, from, to, len.min(STEP)) {
            Ok(copied) => reply.written(copied.min(STEP) as u32),
            Err(e) => reply.error(errno(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_for_that_changes_order_or_locks() {
        let wanted = WANTED.iter().copied().fold(InitFlags::empty(), |all, one| all | one);
        let never = InitFlags::FUSE_WRITEBACK_CACHE
            | InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_FLOCK_LOCKS
            | InitFlags::FUSE_OVER_IO_URING
            | InitFlags::FUSE_SETXATTR_EXT
            | InitFlags::FUSE_ALLOW_IDMAP
            | InitFlags::FUSE_NO_OPEN_SUPPORT;
        assert!(wanted.intersection(never).is_empty());
    }
}
