//! Between the words of the FUSE library and those of a namespace.

use super::super::gate::Ticket;
use super::NAME_MAX;
use crate::tree::ops::{
    Answer, Attributes, Completion, Entry, Errno, Name, NameSink, NodeKind, Opened, SetTime,
};
use fuser::{
    FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyXattr, TimeOrNow,
};
use std::ffi::OsStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.0)
}

pub(super) fn checked(name: &OsStr) -> Answer<&OsStr> {
    if name.len() > NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(name) }
}

pub(super) fn kind(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
    }
}

pub(super) fn time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time =
        if nanoseconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

pub(super) fn nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(nanoseconds(time)),
    }
}

pub(super) fn attributes(of: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(of.ino),
        size: of.size,
        blocks: of.blocks,
        atime: time(of.atime),
        mtime: time(of.mtime),
        ctime: time(of.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(of.kind),
        perm: of.mode & 0o7777,
        nlink: of.nlink,
        uid: of.uid,
        gid: of.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    flags.set(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES, opened.parallel_direct_writes);
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags
}

pub(super) fn answer_empty(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(e)),
    }
}

pub(super) fn answer_entry(reply: ReplyEntry, answer: Answer<Entry>) {
    match answer {
        Ok(e) => {
            reply.entry_with_ttls(&e.attributes_ttl, &e.name_ttl, &attributes(&e.attributes), Generation(0))
        }
        Err(e) => reply.error(errno(e)),
    }
}

pub(super) fn answer_attributes(reply: ReplyAttr, answer: Answer<(Attributes, Duration)>) {
    match answer {
        Ok((of, ttl)) => reply.attr(&ttl, &attributes(&of)),
        Err(e) => reply.error(errno(e)),
    }
}

pub(super) fn answer_open(reply: ReplyOpen, answer: Answer<Opened>) {
    match answer {
        Ok(opened) => reply.opened(FileHandle(opened.handle), open_flags(&opened)),
        Err(e) => reply.error(errno(e)),
    }
}

pub(super) fn answer_xattr(reply: ReplyXattr, size: u32, answer: Answer<Vec<u8>>) {
    match answer {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(e)),
    }
}

pub(super) fn empty_completion(reply: ReplyEmpty, ticket: Ticket) -> Completion<()> {
    Completion::new(move |answer| {
        answer_empty(reply, answer);
        drop(ticket);
    })
}

/// The listing of a directory under way.
pub(super) struct Listing<'a>(pub(super) &'a mut ReplyDirectory);

impl NameSink for Listing<'_> {
    fn add(&mut self, name: Name<'_>) -> bool {
        !self.0.add(INodeNo(name.ino), name.next, kind(name.kind), name.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways_also_before_1970() {
        for ns in [0, 1, -1, 1_700_000_000_123_456_789, -5_000_000_001, i64::MAX] {
            assert_eq!(nanoseconds(time(ns)), ns);
        }
    }
}
