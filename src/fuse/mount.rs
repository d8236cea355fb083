//! Mounting and unmounting, by ourselves: as root with mount(2), else through fusermount3.
//!
//! 1. Nothing is unmounted but the mount that was made here: before it goes its connection is asked whether it lives, and id
//!    and device are looked up again. (An id alone is given to the next mount: who mounted again at once lost that one.)
//! 2. A mount that was made is unmounted when its [`Mounted`] is dropped, on every way out.
//! 3. A dead mount of ours that an earlier keeper left behind (killed together with its worker) is removed, a
//!    live one of anybody is refused.

use super::abi::{Features, REQUEST_MAX};
use super::table_of_mounts::{self, MountLine};
use crate::vocab::{Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The type that mount tables show.
pub const TYPE: &str = "fuse.standbyfs";

/// A mount that was made here.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    device: OwnedFd,
    init: Vec<u8>,
    /// Id and device.
    id: (u64, String),
    privileged: bool,
    gone: bool,
}

/// How an unmount is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// Only if nobody uses it.
    Orderly,
    /// Out of the tree at once; it ends when its last user lets go.
    Lazy,
}

impl Mounted {
    /// Mounts at `point`, shown as coming from `source`; reads the kernel's INIT request.
    pub fn new(point: &Path, source: &str, allow_other: bool) -> Result<Self> {
        let privileged = rustix::process::geteuid().is_root();
        let point = check_point(point, privileged)?;
        if source.is_empty() || source.contains([',', '\0']) {
            return Err(Error::new(Kind::Invalid, format!("`{source}` can't be the source of a mount")));
        }
        let device = if privileged {
            mount_directly(&point, source, allow_other)?
        } else {
            mount_by_helper(&point, source, allow_other)?
        };
        let mut mounted =
            Self { point, device, init: Vec::new(), id: Default::default(), privileged, gone: false };
        let line = table_of_mounts::top(&mounted.point)?.filter(|line| line.kind == TYPE);
        let line = line.ok_or_else(|| {
            Error::new(Kind::Io, "the new mount isn't in the table of mounts").at(&mounted.point)
        })?;
        mounted.id = (line.id, line.device);
        mounted.init = mounted.read_init()?;
        Ok(mounted)
    }

    /// The descriptor of /dev/fuse behind the mount.
    pub fn device(&self) -> &OwnedFd {
        &self.device
    }

    /// The kernel's INIT request.
    pub fn init(&self) -> &[u8] {
        &self.init
    }

    /// Where it is mounted, as an absolute path.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Takes the mount out of the tree. Ok also if it is out of it already.
    pub fn unmount(&mut self, how: Unmount) -> Result<()> {
        if self.gone {
            return Ok(());
        }
        let ours = |line: &MountLine| line.id == self.id.0 && line.device == self.id.1;
        if has_ended(&self.device) || !table_of_mounts::all()?.iter().any(ours) {
            self.gone = true;
            return Ok(());
        }
        // The path leads to the topmost mount: that must be ours before it is used.
        if let Some(top) = table_of_mounts::top(&self.point)?.filter(|top| !ours(top)) {
            return Err(Error::new(
                Kind::Busy,
                format!("can't unmount: a mount of type {} was put over this one", top.kind),
            )
            .at(&self.point)
            .advice("Unmount that first"));
        }
        if self.privileged {
            let mut flags = UnmountFlags::NOFOLLOW;
            flags.set(UnmountFlags::DETACH, how == Unmount::Lazy);
            rustix::mount::unmount(&self.point, flags)
                .map_err(|e| Error::io(e.into(), "can't unmount").at(&self.point))?;
        } else {
            unmount_by_helper(&self.point, how)?;
        }
        self.gone = true;
        Ok(())
    }

    fn read_init(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; REQUEST_MAX];
        let length = loop {
            match rustix::io::read(&self.device, &mut bytes[..]) {
                Ok(n) => break n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    return Err(
                        Error::io(e.into(), "the kernel sent no handshake for the mount").at(&self.point)
                    );
                }
            }
        };
        bytes.truncate(length);
        let features = Features::of(&bytes)
            .ok_or_else(|| Error::new(Kind::Unsupported, "the kernel's handshake isn't understood"))?;
        if !features.resend {
            tracing::warn!(
                "this kernel can't send requests again (Linux 6.9 can): after a crash of the worker the \
                 callers that waited for it hang; planned upgrades are safe"
            );
        }
        Ok(bytes)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(Unmount::Lazy) {
            tracing::error!(%error, "a mount stays behind");
        }
    }
}

/// Whether nothing is mounted any more by this connection.
pub fn has_ended(device: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(device, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::ERR)
}

/// Takes a mount of ours out of the tree, in place of a keeper that died.
pub fn unmount_orphaned(point: &Path) -> Result<()> {
    match table_of_mounts::top(point)? {
        Some(line) if line.kind == TYPE && rustix::process::geteuid().is_root() => {
            rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .map_err(|e| Error::io(e.into(), "can't unmount").at(point))
        }
        Some(line) if line.kind == TYPE => unmount_by_helper(point, Unmount::Lazy),
        _ => Ok(()),
    }
}

/// The absolute path of a directory that can be mounted on.
fn check_point(point: &Path, privileged: bool) -> Result<PathBuf> {
    let absolute = std::path::absolute(point).map_err(|e| Error::io(e, "no mount point").at(point))?;
    for line in table_of_mounts::all()?.iter().filter(|line| line.point == absolute) {
        refuse_or_clear(line, &absolute, privileged)?;
    }
    let canonical = std::fs::canonicalize(point).map_err(|e| {
        Error::io(e, "can't use the mount point").at(point).advice("Make the directory first: mkdir -p")
    })?;
    for line in table_of_mounts::all()?.iter().filter(|line| line.point == canonical) {
        refuse_or_clear(line, &canonical, privileged)?;
    }
    let failed = |e| Error::io(e, "can't read the mount point").at(point);
    if !std::fs::metadata(&canonical).map_err(failed)?.is_dir() {
        return Err(Error::new(Kind::Invalid, "the mount point isn't a directory").at(point));
    }
    if std::fs::read_dir(&canonical).map_err(failed)?.next().is_some() {
        return Err(Error::new(Kind::Invalid, "the mount point isn't empty: what is in it would be hidden")
            .at(point)
            .advice("Choose an empty directory"));
    }
    Ok(canonical)
}

fn refuse_or_clear(line: &MountLine, point: &Path, privileged: bool) -> Result<()> {
    // statfs of a dead FUSE mount fails at once; of a live one it waits for its server.
    let dead = line.kind == TYPE && matches!(rustix::fs::statfs(point), Err(rustix::io::Errno::NOTCONN));
    if !dead {
        return Err(Error::new(
            Kind::Busy,
            format!("the mount point is in use by a mount of type {}", line.kind),
        )
        .at(point)
        .advice("Unmount that first, or choose another directory"));
    }
    tracing::warn!(path = %point.display(), "removing a dead mount that was left behind");
    if privileged {
        rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|e| Error::io(e.into(), "can't remove a dead mount").at(point))
    } else {
        unmount_by_helper(point, Unmount::Lazy)
    }
}

fn mount_directly(point: &Path, source: &str, allow_other: bool) -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let device =
        rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| {
            let advice = match e {
                rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => {
                    "Load the module (modprobe fuse); in a container hand in the device (--device /dev/fuse)"
                }
                _ => "In a container allow the device and CAP_SYS_ADMIN",
            };
            Error::io(e.into(), "can't open /dev/fuse").advice(advice)
        })?;
    let mode = std::fs::metadata(point).map(|m| std::os::unix::fs::MetadataExt::mode(&m)).unwrap_or(0o40755);
    let mut data = format!(
        "fd={},rootmode={:o},user_id=0,group_id=0,default_permissions",
        device.as_raw_fd(),
        mode & libc::S_IFMT
    );
    if allow_other {
        data.push_str(",allow_other");
    }
    let invalid = |_| Error::new(Kind::Invalid, "a mount option with a zero byte");
    let data = CString::new(data).map_err(invalid)?;
    rustix::mount::mount(source, point, TYPE, MountFlags::NOSUID | MountFlags::NODEV, &*data).map_err(
        |e| {
            let advice = match e {
                rustix::io::Errno::PERM => {
                    "Mounting needs CAP_SYS_ADMIN; in a container: --cap-add SYS_ADMIN"
                }
                rustix::io::Errno::BUSY => "Something else is being mounted there",
                rustix::io::Errno::NODEV => "The kernel has no FUSE: modprobe fuse",
                _ => "See the kernel log: dmesg",
            };
            Error::io(e.into(), "can't mount").at(point).advice(advice)
        },
    )?;
    Ok(device)
}

/// fusermount3 mounts with its own privileges and sends the descriptor through the socket named in its
/// environment.
fn mount_by_helper(point: &Path, source: &str, allow_other: bool) -> Result<OwnedFd> {
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| Error::io(e.into(), "can't talk to fusermount3"))?;
    let mut options = format!("fsname={source},subtype=standbyfs,default_permissions,nosuid,nodev");
    if allow_other {
        options.push_str(",allow_other");
    }
    // A copy without close-on-exec, which only this child inherits: the keeper has one thread.
    let inherited = rustix::io::dup(&theirs).map_err(|e| Error::io(e.into(), "can't talk to fusermount3"))?;
    let mut command = Command::new("fusermount3");
    command.arg("-o").arg(options).arg("--").arg(point);
    command.env("_FUSE_COMMFD", inherited.as_raw_fd().to_string()).env("LC_ALL", "C");
    let output = command.output();
    drop((theirs, inherited));
    let output = output.map_err(no_helper)?;
    if !output.status.success() {
        return Err(helper_failed("can't mount", point, &output.stderr));
    }
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [std::io::IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(ours.as_fd(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(|e| Error::io(e.into(), "fusermount3 sent no descriptor").at(point))?;
    ancillary
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| Error::new(Kind::Io, "fusermount3 sent no descriptor").at(point))
}

fn unmount_by_helper(point: &Path, how: Unmount) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if how == Unmount::Lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(point).env("LC_ALL", "C").output().map_err(no_helper)?;
    if output.status.success() { Ok(()) } else { Err(helper_failed("can't unmount", point, &output.stderr)) }
}

fn no_helper(error: std::io::Error) -> Error {
    Error::io(error, "can't run fusermount3, which mounts for users other than root")
        .advice("Install the package fuse3, or mount as root")
}

fn helper_failed(what: &str, point: &Path, stderr: &[u8]) -> Error {
    let said = String::from_utf8_lossy(stderr);
    let said = said.trim().strip_prefix("fusermount3: ").unwrap_or(said.trim()).to_owned();
    let (kind, advice) = if said.contains("user_allow_other") {
        (Kind::Refused, "Add the line `user_allow_other` to /etc/fuse.conf, or mount without allow_other")
    } else if said.contains("busy") {
        (Kind::Busy, "Close the files in use there: lsof, fuser -vm")
    } else if said.contains("/dev/fuse: Permission denied") {
        (Kind::Refused, "Let users open the device, as udev does on most systems: chmod 666 /dev/fuse")
    } else if said.contains("/dev/fuse") || said.contains("fuse device") {
        (Kind::NotFound, "Load the module (modprobe fuse); in a container hand in the device")
    } else {
        (Kind::Refused, "The directory must be yours and writable, and fusermount3 setuid root")
    };
    Error::new(kind, format!("{what}: {said}")).at(point).advice(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_must_be_an_empty_directory_that_nobody_mounted_on() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_point(dir.path(), true).unwrap(), dir.path().canonicalize().unwrap());
        let missing = check_point(&dir.path().join("none"), true).unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
        assert!(missing.to_string().contains("mkdir"), "{missing}");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(check_point(&file, true).unwrap_err().kind(), Kind::Invalid);
        let full = check_point(dir.path(), true).unwrap_err();
        assert!(full.to_string().contains("isn't empty"), "{full}");
        assert_eq!(check_point(Path::new("/proc"), true).unwrap_err().kind(), Kind::Busy);
    }

    /// 1.
    #[test]
    fn a_mount_that_ended_takes_no_later_one_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().canonicalize().unwrap();
        let mut again = 0;
        for lazy in [false, true].into_iter().cycle().take(20) {
            let mut first = Mounted::new(&point, "first", false).unwrap();
            let _user =
                lazy.then(|| rustix::fs::open(&point, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()));
            unmount_orphaned(&point).unwrap();
            assert_eq!(has_ended(first.device()), !lazy);
            let second = Mounted::new(&point, "second", false).unwrap();
            again += u32::from(second.id.0 == first.id.0);
            first.unmount(Unmount::Lazy).unwrap();
            drop(first);
            let top = table_of_mounts::top(&point).unwrap().expect("the second mount is there");
            assert_eq!((top.id, top.device), second.id);
        }
        assert!(again > 0, "no id was given again: nothing was tried");
    }

    #[test]
    fn the_helpers_words_lead_to_advice() {
        let said =
            b"fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n";
        let error = helper_failed("can't mount", Path::new("/mnt/x"), said);
        assert!(error.to_string().contains("Add the line `user_allow_other`"), "{error}");
        assert_eq!(
            helper_failed("can't unmount", Path::new("/m"), b"fusermount3: /m: Device or resource busy")
                .kind(),
            Kind::Busy
        );
    }
}
