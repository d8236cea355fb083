//! The ceiling: one file whose server answers every request at once and keeps nothing.

use standbyfs::tree::ops::*;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

const FILE: u64 = 2;
const TTL: Duration = Duration::from_secs(3600);
const CHUNK: usize = 1 << 20;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

pub const NAME: &str = "disk.img";

pub struct Null {
    /// Size of the file in bytes.
    pub size: u64,
}

impl Null {
    fn attributes(&self, ino: u64) -> Answer<Attributes> {
        let (kind, mode, size) = match ino {
            ROOT => (NodeKind::Directory, 0o755, 4096),
            FILE => (NodeKind::File, 0o644, self.size),
            _ => return Err(Errno::ENOENT),
        };
        let (blocks, nlink) = (size / 512, 1);
        Ok(Attributes { ino, size, blocks, atime: 0, mtime: 0, ctime: 0, kind, mode, nlink, uid: 0, gid: 0 })
    }
}

impl Namespace for Null {
    fn lookup(&self, _: &Request, parent: u64, name: &OsStr) -> Answer<Entry> {
        if parent != ROOT || name != NAME {
            return Err(Errno::ENOENT);
        }
        Ok(Entry { attributes: self.attributes(FILE)?, attributes_ttl: TTL, name_ttl: TTL })
    }

    fn getattr(&self, _: &Request, ino: u64, _: Option<u64>) -> Answer<(Attributes, Duration)> {
        Ok((self.attributes(ino)?, TTL))
    }

    fn setattr(&self, _: &Request, ino: u64, _: &SetAttributes) -> Answer<(Attributes, Duration)> {
        Ok((self.attributes(ino)?, TTL))
    }

    fn readlink(&self, _: &Request, _: u64) -> Answer<OsString> {
        Err(Errno::EINVAL)
    }

    fn mkdir(&self, _: &Request, _: u64, _: &OsStr, _: u32) -> Answer<Entry> {
        Err(Errno::EROFS)
    }

    fn create(&self, _: &Request, _: u64, _: &OsStr, _: u32, _: i32) -> Answer<(Entry, Opened)> {
        Err(Errno::EROFS)
    }

    fn unlink(&self, _: &Request, _: u64, _: &OsStr) -> Answer<()> {
        Err(Errno::EROFS)
    }

    fn rmdir(&self, _: &Request, _: u64, _: &OsStr) -> Answer<()> {
        Err(Errno::EROFS)
    }

    fn rename(&self, _: &Request, _: (u64, &OsStr), _: (u64, &OsStr), _: u32) -> Answer<()> {
        Err(Errno::EROFS)
    }

    fn open(&self, _: &Request, ino: u64, _: i32) -> Answer<Opened> {
        Ok(Opened { handle: ino, direct_io: true, parallel_direct_writes: true, keep_cache: false })
    }

    fn release(&self, _: &Request, _: u64, _: u64, _: i32) {}

    fn read(&self, _: &Request, _: u64, _: u64, offset: u64, size: u32, reply: ReadCompletion) {
        let left = self.size.saturating_sub(offset).min(CHUNK as u64) as usize;
        reply.done(Ok(&ZEROS[..left.min(size as usize)]));
    }

    fn write(&self, _: &Request, _: u64, _: u64, _: u64, data: &[u8], _: i32, reply: Completion<u32>) {
        reply.done(Ok(data.len() as u32));
    }

    fn flush(&self, _: &Request, _: u64, _: u64, reply: Completion<()>) {
        reply.done(Ok(()));
    }

    fn fsync(&self, _: &Request, _: u64, _: u64, _: bool, reply: Completion<()>) {
        reply.done(Ok(()));
    }

    fn fallocate(&self, _: &Request, _: u64, _: u64, _: u64, _: u64, _: i32, reply: Completion<()>) {
        reply.done(Ok(()));
    }

    fn lseek(&self, _: &Request, _: u64, _: u64, offset: u64, seek: Seek) -> Answer<u64> {
        match seek {
            _ if offset >= self.size => Err(Errno::ENXIO),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(self.size),
        }
    }

    fn opendir(&self, _: &Request, _: u64) -> Answer<Opened> {
        Ok(Opened::default())
    }

    fn readdir(&self, _: &Request, _: u64, _: u64, offset: u64, names: &mut dyn NameSink) -> Answer<()> {
        if offset == 0 {
            names.add(Name { ino: FILE, next: 1, kind: NodeKind::File, name: OsStr::new(NAME) });
        }
        Ok(())
    }

    fn releasedir(&self, _: &Request, _: u64, _: u64) {}

    fn fsyncdir(&self, _: &Request, _: u64, _: u64, _: bool) -> Answer<()> {
        Ok(())
    }

    fn statfs(&self, _: &Request, _: u64) -> Answer<Space> {
        let blocks = self.size / 4096;
        Ok(Space { blocks, free: 0, available: 0, files: 1, files_free: 0, block_size: 4096, name_max: 255 })
    }

    fn setxattr(&self, _: &Request, _: u64, _: &OsStr, _: &[u8], _: i32) -> Answer<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn getxattr(&self, _: &Request, _: u64, _: &OsStr) -> Answer<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    fn listxattr(&self, _: &Request, _: u64) -> Answer<Vec<OsString>> {
        Ok(Vec::new())
    }

    fn removexattr(&self, _: &Request, _: u64, _: &OsStr) -> Answer<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn stop(&self, _: Stop) {}
}
