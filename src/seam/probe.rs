//! What the filesystem below a tree can do, found by trying: for start-up messages and for choices that are
//! made once, when a store is created.

use crate::seam::aligned::AlignedBuf;
use crate::seam::real::{DirStorage, failed, retry};
use crate::vocab::Result;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::fmt;
use std::os::fd::OwnedFd;

/// Numbers of statfs(2) and the names that administrators know. The bool: overwritten in place.
const KNOWN: &[(u64, &str, bool)] = &[
    (0xef53, "ext4", true),
    (0x5846_5342, "xfs", true),
    (0x9123_683e, "btrfs", false),
    (0x2fc1_2fc1, "zfs", false),
    (0xca45_1a4e, "bcachefs", false),
    (0xf2f5_2010, "f2fs", false),
    (0x0102_1994, "tmpfs", true),
    (0x794c_7630, "overlayfs", true),
    (0x6969, "nfs", true),
    (0xff53_4d42, "cifs", true),
    (0x00c3_6400, "ceph", true),
    (0x6573_5546, "fuse", true),
];
const SIZE: u64 = 1 << 20;
const GRANULE: u64 = crate::vocab::GRANULE;

/// What a filesystem can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Its name, or its number in hexadecimal if it isn't known.
    pub filesystem: String,
    /// Whether files can be read and written past the page cache.
    pub direct: bool,
    /// Whether holes can be punched. Otherwise discarded ranges keep their room.
    pub punch: bool,
    /// Whether a range can be zeroed without writing it.
    pub zero_range: bool,
    /// Whether room can be allocated ahead.
    pub allocate: bool,
    /// Whether two files can share blocks (FICLONE).
    pub reflink: bool,
    /// Whether holes are found by SEEK_HOLE.
    pub seek_hole: bool,
    /// Whether overwriting keeps blocks where they are. Otherwise preallocation reserves nothing, and an
    /// overwrite can fail for want of room.
    pub in_place: bool,
    /// Whether the tree is kept in memory and is lost at a power loss.
    pub volatile: bool,
}

impl DirStorage {
    /// Tries out the filesystem of this tree with two small files, which are removed again.
    pub fn probe(&self) -> Result<Probe> {
        let probing = |errno| failed(errno, "can't probe the filesystem").at(self.root_path());
        let stat = retry(|| rustix::fs::fstatfs(self.root())).map_err(probing)?;
        let magic = stat.f_type as u64 & 0xffff_ffff;
        let known = KNOWN.iter().find(|(number, ..)| *number == magic);
        let file = self.scratch(OFlags::empty()).map_err(probing)?;
        let direct = match self.scratch(OFlags::DIRECT) {
            Ok(file) => retry(|| rustix::io::pwrite(&file, &AlignedBuf::zeroed(GRANULE as usize), 0)).is_ok(),
            Err(Errno::INVAL) => false,
            Err(errno) => return Err(probing(errno)),
        };
        let fill = || retry(|| rustix::io::pwrite(&file, &vec![0xa5; SIZE as usize], 0));
        fill().map_err(probing)?;
        let half = |mode: FallocateFlags| {
            retry(|| rustix::fs::fallocate(&file, mode | FallocateFlags::KEEP_SIZE, SIZE / 2, SIZE / 2))
                .is_ok()
        };
        let zero_range = half(FallocateFlags::ZERO_RANGE);
        fill().map_err(probing)?;
        let punch = half(FallocateFlags::PUNCH_HOLE);
        retry(|| rustix::fs::ftruncate(&file, 2 * SIZE)).map_err(probing)?;
        let hole = retry(|| rustix::fs::seek(&file, SeekFrom::Hole(0)));
        let copy = self.scratch(OFlags::empty()).map_err(probing)?;
        let allocate = half(FallocateFlags::empty());
        let name = match known {
            // The older ones have the same number and no extents.
            Some((_, "ext4", _)) if !allocate => "ext3".to_owned(),
            Some((_, name, _)) => (*name).to_owned(),
            None => format!("0x{magic:x}"),
        };
        Ok(Probe {
            filesystem: name,
            direct,
            punch,
            zero_range,
            allocate,
            reflink: rustix::fs::ioctl_ficlone(&copy, &file).is_ok(),
            seek_hole: hole.is_ok_and(|at| at <= SIZE),
            in_place: known.is_none_or(|(_, _, in_place)| *in_place),
            volatile: magic == 0x0102_1994,
        })
    }

    fn root_path(&self) -> String {
        crate::seam::Storage::shown(self, std::path::Path::new(""))
    }

    /// A new file without a name.
    fn scratch(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let name = format!(".probe-{}", std::process::id());
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
        // Left over from a process that died while it probed.
        let _ = rustix::fs::unlinkat(self.root(), &name, AtFlags::empty());
        let file = retry(|| rustix::fs::openat(self.root(), &name, flags, Mode::from_raw_mode(0o600)));
        // A refused O_DIRECT may have left the name behind.
        let removed = retry(|| rustix::fs::unlinkat(self.root(), &name, AtFlags::empty()));
        let file = file?;
        removed.map(|()| file)
    }
}

impl Probe {
    /// Sentences for the administrator about what is missing; empty if nothing is.
    pub fn warnings(&self) -> Vec<String> {
        let name = &self.filesystem;
        let mut out = Vec::new();
        let mut say = |if_so: bool, text: String| {
            if if_so {
                out.push(text);
            }
        };
        say(self.volatile, format!("{name} keeps files in memory: all of them are lost at a power loss"));
        say(
            !self.in_place,
            format!(
                "{name} doesn't overwrite in place: preallocation reserves nothing, so keep more space free{}",
                if name == "btrfs" { " (and set `chattr +C` on the directory of the logs)" } else { "" }
            ),
        );
        say(!self.direct, format!("{name} refuses O_DIRECT: the page cache is used instead"));
        say(!self.allocate, format!("{name} can't allocate ahead: a full disk is noticed late"));
        say(!self.punch, format!("{name} can't punch holes: discarded ranges keep their room"));
        say(!self.seek_hole, format!("{name} doesn't report holes: sparse files are read as a whole"));
        out
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.filesystem)?;
        for (can, name) in [
            (self.direct, "O_DIRECT"),
            (self.punch, "punch"),
            (self.zero_range, "zero range"),
            (self.allocate, "allocate"),
            (self.reflink, "reflink"),
            (self.seek_hole, "SEEK_HOLE"),
            (self.in_place, "overwrite in place"),
        ] {
            write!(f, ", {}{name}", if can { "" } else { "no " })?;
        }
        Ok(())
    }
}
