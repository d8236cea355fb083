//! `import`: an image file from outside becomes a disk.
//!
//! T1. Copied, its bytes come in as ordinary writes, so they are journaled, checked and replicated like any other. Holes
//!     stay holes.
//! T2. Until all of it is durable the disk has the name `<disk>.importing`; then it gets its own in one step. What a
//!     failure or a restart leaves of a copy under that name is nobody's and may be removed.
//! T3. Renamed or cloned, it is the disk's base at once, whatever its size (`group::take_in`). No earlier moment of the VM is
//!     held then: where moments are kept, it is copied.
//! T4. The image is raw, and nobody else has it open for writing; where it is renamed, not at all.

use crate::format::{AddPayload, FileKind, RenamePayload};
use crate::group::{Change, Group, Op};
use crate::protection::control::{Action, Command, ImportHow};
use crate::protection::job::JobKind;
use crate::protection::{Refusal, Refused, size_text};
use crate::seam::{Access, DirStorage, File, Storage, TakeIn, check_unused};
use crate::site::commands::image::not_raw;
use crate::site::commands::{Done, refused};
use crate::site::jobs::JobHandle;
use crate::site::names::{check_path, check_vm};
use crate::site::{Site, Vm};
use crate::vocab::{DiskId, DiskOrdinal, Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of one write.
const PIECE: u64 = 1 << 20;

/// An image that may come in.
struct Image {
    path: PathBuf,
    /// Its name, without its directory.
    name: String,
    size: u64,
    /// Bytes that it takes.
    data: u64,
}

impl Site {
    /// Begins the import; the job goes on with the bytes.
    pub(super) fn import(&self, command: &Command, line: &str) -> std::result::Result<Done, Refused> {
        let Action::Import { path, vm, disk, how } = &command.action else {
            return Err(Refusal::Invalid.with("what", "no import"));
        };
        self.check_foreign(Path::new(path))?;
        let image = Image::at(Path::new(path), *how)?;
        let disk = disk.clone().unwrap_or_else(|| image.name.clone());
        check_vm(vm).map_err(refused)?;
        check_path(&disk).map_err(refused)?;
        let known = self.vm(vm);
        let ways = self.ways(known.as_ref(), *how)?;
        // Once in the journal and once in the base, at the most. A clone takes none until it is written to; who asks for one
        // by name knows.
        let room = self.store().rooms().store.refresh().map_err(refused)?;
        if ways.contains(&ImportHow::Copy) && image.data.min(image.size) > room {
            return Err(Refusal::NoSpace.with("bytes", size_text(image.data)));
        }
        let vm = match known {
            Some(vm) if vm.single() => return Err(name_taken(&vm.name())),
            Some(vm) if self.is_protected(&vm) => {
                return Err(Refusal::AlreadyProtected.with("vm", vm.name()));
            }
            Some(vm) => vm,
            None => self.directory(vm).map_err(refused)?,
        };
        let group = vm.group().map_err(refused)?;
        let taken = group.names_now(|names| {
            names.find(vm.id(), &disk).is_some() || names.find(vm.id(), &importing(&disk)).is_some()
        });
        if taken {
            return Err(name_taken(&format!("{}/{disk}", vm.name())));
        }
        let steps = ["copy", "name"];
        let steps = if ways.contains(&ImportHow::Copy) { &steps[..] } else { &["take in"] };
        let job = self
            .jobs()
            .admit(JobKind::Import, &vm.name(), Some(group.id()), true, line, steps)
            .map_err(refused)?;
        let says = format!("taking {} in as {}/{disk}", image.path.display(), vm.name());
        self.work(&job.id, move |handle| take(&image, &ways, &vm, &group, &disk, handle)).map_err(refused)?;
        Ok(Done { job: Some(job.id), says, rest: None })
    }

    /// What belongs to the store is no image: taken away from it, the store would be gone.
    fn check_foreign(&self, path: &Path) -> std::result::Result<(), Refused> {
        let Ok(real) = std::fs::canonicalize(path) else { return Ok(()) };
        let file = self.store().file();
        let own = [Some(self.store().dir()), file.journal.as_ref().map(|journal| journal.path.as_path())];
        let inside = |dir: &Path| std::fs::canonicalize(dir).is_ok_and(|dir| real.starts_with(dir));
        if own.into_iter().flatten().any(inside) {
            let what = format!("{} belongs to this store", path.display());
            return Err(Refusal::Invalid.with("what", what));
        }
        Ok(())
    }

    /// T3: what is tried, in order. Nothing is moved away unless somebody says so.
    fn ways(
        &self,
        vm: Option<&Arc<Vm>>,
        how: Option<ImportHow>,
    ) -> std::result::Result<Vec<ImportHow>, Refused> {
        let keeps = match vm {
            Some(vm) => {
                let care = self.care_of(vm).map_err(refused)?;
                // A peer that has not heard of an end yet might go on from records that have no bytes of the image.
                care.window_ns.is_some() || care.fork.is_some() || vm.peer().is_some()
            }
            None => false,
        };
        Ok(match how {
            None if keeps => vec![ImportHow::Copy],
            None => vec![ImportHow::Reflink, ImportHow::Copy],
            Some(how @ (ImportHow::Rename | ImportHow::Reflink)) if keeps => {
                let what = format!(
                    "the moments that this VM keeps would be lost by how={how}: how=copy keeps them, and so does another VM"
                );
                return Err(Refusal::Invalid.with("what", what));
            }
            Some(how) => vec![how],
        })
    }

    /// A new VM that is a directory, with nothing in it.
    fn directory(&self, name: &str) -> Result<Arc<Vm>> {
        let vm = self.create_vm(name, false)?;
        add(&*vm.group()?, &vm, "", FileKind::Directory)?;
        Ok(vm)
    }
}

impl Image {
    /// T4.
    fn at(path: &Path, how: Option<ImportHow>) -> std::result::Result<Self, Refused> {
        let not_a_file = || Refusal::NotFound.with("what", format!("file {}", path.display()));
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
            return Err(not_a_file());
        };
        if !path.is_absolute() || !path.is_file() {
            return Err(not_a_file());
        }
        if path.is_symlink() {
            let what = format!("{} is a symbolic link: name the file itself", path.display());
            return Err(Refusal::Invalid.with("what", what));
        }
        check_unused(path, how == Some(ImportHow::Rename)).map_err(|e| match e.kind() {
            Kind::Busy => Refusal::WritersOpen.with("disk", path.display()),
            _ => refused(e),
        })?;
        let file = DirStorage::open(dir).and_then(|dir| dir.open(Path::new(name), Access::ReadOnly));
        let file = file.map_err(refused)?;
        if let Some(format) = not_raw(&*file).map_err(refused)? {
            let what = format!(
                "{} is a {format} image, and a disk here is raw: `qemu-img convert -O raw` makes one",
                path.display()
            );
            return Err(Refusal::Invalid.with("what", what));
        }
        let (size, data) = (file.len().map_err(refused)?, file.allocated().map_err(refused)?);
        Ok(Self { path: path.to_owned(), name: name.to_owned(), size, data })
    }

    fn open(&self) -> Result<Arc<dyn File>> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        DirStorage::open(dir)?.open(Path::new(&self.name), Access::ReadOnly)
    }
}

/// The first of these ways that leads in.
fn take(
    image: &Image,
    ways: &[ImportHow],
    vm: &Vm,
    group: &Group,
    disk: &str,
    handle: &JobHandle,
) -> Result<String> {
    handle.next_step()?;
    for (number, way) in ways.iter().enumerate() {
        let how = match way {
            ImportHow::Copy => return copied(image, vm, group, disk, handle),
            ImportHow::Rename => TakeIn::Rename,
            ImportHow::Reflink => TakeIn::Reflink,
        };
        let payload = |ordinal| payload(vm, ordinal, &importing(disk), FileKind::File);
        match group.take_in(disk, payload, &image.path, how) {
            Err(e) if e.kind() == Kind::Unsupported && number + 1 < ways.len() => {}
            done => {
                done?;
                handle.next_step()?;
                return Ok(format!("{}/{disk}, {} by {way}", vm.name(), size_text(image.size)));
            }
        }
    }
    Err(Error::new(Kind::Unsupported, "no way leads in").at(&image.path))
}

/// T1.
fn copied(image: &Image, vm: &Vm, group: &Group, disk: &str, handle: &JobHandle) -> Result<String> {
    let source = image.open()?;
    let ordinal = add(group, vm, &importing(disk), FileKind::File)?;
    match copy(&*source, group, ordinal, image.size, handle) {
        Ok(bytes) => {
            handle.next_step()?;
            let to = RenamePayload { from: importing(disk), to: disk.to_owned() };
            group.change(&Change::Rename(ordinal, to))?;
            Ok(format!("{}/{disk}, {} of data", vm.name(), size_text(bytes)))
        }
        Err(error) => {
            group.change(&Change::Remove(ordinal))?;
            Err(error)
        }
    }
}

fn name_taken(name: &str) -> Refused {
    Refusal::NameTaken
        .plain()
        .said(format!("{name} is there already"), Some("Import under another name: `disk=` or `vm=`."))
}

/// T2.
pub(super) fn importing(disk: &str) -> String {
    format!("{disk}.importing")
}

pub(super) fn add(group: &Group, vm: &Vm, path: &str, kind: FileKind) -> Result<DiskOrdinal> {
    let mut ordinal = DiskOrdinal(0);
    group.change_with(|names| {
        ordinal = DiskOrdinal(names.last.0 + 1);
        Ok(Change::Add(ordinal, payload(vm, ordinal, path, kind)))
    })?;
    Ok(ordinal)
}

/// A file without a byte. Its identity is random: made from the VM's own and the place in its group, both never used
/// again.
fn payload(vm: &Vm, ordinal: DiskOrdinal, path: &str, kind: FileKind) -> AddPayload {
    let mut hasher = blake3::Hasher::new_derive_key("standbyfs imported disk v1");
    hasher.update(&vm.id().0).update(&ordinal.0.to_le_bytes());
    let mut file = [0; 16];
    file.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    AddPayload {
        vm: vm.id(),
        vm_name: vm.name(),
        single: false,
        file: DiskId(file),
        path: path.to_owned(),
        kind,
        size: 0,
    }
}

/// Data only; says how much there was.
fn copy(source: &dyn File, group: &Group, disk: DiskOrdinal, size: u64, handle: &JobHandle) -> Result<u64> {
    group.change(&Change::Resize(disk, size))?;
    let (mut at, mut copied) = (0, 0);
    let mut piece = vec![0; PIECE as usize];
    while let Some(from) = source.next_data(at)?.filter(|from| *from < size) {
        let to = source.next_hole(from)?.unwrap_or(size).min(size);
        at = from;
        while at < to {
            handle.check()?;
            let len = (to - at).min(PIECE - at % PIECE) as usize;
            if source.read_at(&mut piece[..len], at)? < len {
                return Err(
                    Error::new(Kind::Conflict, "the file became shorter while it was copied").offset(at)
                );
            }
            answered(|reply| {
                group.submit(disk, Op::Write { offset: at, data: &piece[..len] }, false, reply)
            })?;
            at += len as u64;
            copied += len as u64;
            handle.progress(at, size, 0);
        }
    }
    answered(|reply| group.flush(reply))?;
    Ok(copied)
}

fn answered(ask: impl FnOnce(crate::group::Reply)) -> Result<()> {
    let (send, receive) = std::sync::mpsc::channel();
    ask(Box::new(move |result| {
        let _ = send.send(result);
    }));
    receive.recv().unwrap_or_else(|_| Err(Error::new(Kind::Io, "the request was dropped")))
}
