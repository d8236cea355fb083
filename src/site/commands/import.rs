//! `import`: an image file from outside becomes a disk.
//!
//! T1. Its bytes come in as ordinary writes, so they are journaled, checked and replicated like any other. Holes stay
//!     holes.
//! T2. Until all of it is durable the disk has the name `<disk>.importing`; then it gets its own in one step. What a
//!     failure or a restart leaves under that name is nobody's and may be removed.

use crate::format::{AddPayload, FileKind, RenamePayload};
use crate::group::{Change, Group, Op};
use crate::protection::control::{Action, Command, ImportHow};
use crate::protection::job::JobKind;
use crate::protection::{Refusal, Refused, size_text};
use crate::seam::{Access, DirStorage, File, Storage};
use crate::site::commands::{Done, refused};
use crate::site::jobs::JobHandle;
use crate::site::names::{check_path, check_vm};
use crate::site::{Site, Vm};
use crate::vocab::{DiskId, DiskOrdinal, Error, Kind, Result};
use std::path::Path;
use std::sync::Arc;

/// Bytes of one write.
const PIECE: u64 = 1 << 20;

impl Site {
    /// Begins the import; the job goes on with the bytes.
    pub(super) fn import(&self, command: &Command, line: &str) -> std::result::Result<Done, Refused> {
        let Action::Import { path, vm, disk, how } = &command.action else {
            return Err(Refusal::Invalid.with("what", "no import"));
        };
        if let Some(how @ (ImportHow::Rename | ImportHow::Reflink)) = how {
            return Err(Refusal::NotSupportedYet.with("verb", format!("import how={how}")));
        }
        let path = Path::new(path);
        let not_a_file = || Refusal::NotFound.with("what", format!("a file {}", path.display()));
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
            return Err(not_a_file());
        };
        if !path.is_absolute() || !path.is_file() {
            return Err(not_a_file());
        }
        let disk = disk.clone().unwrap_or_else(|| name.to_owned());
        check_vm(vm).map_err(refused)?;
        check_path(&disk).map_err(refused)?;
        let tree = DirStorage::open(dir).map_err(refused)?;
        let source = tree.open(Path::new(name), Access::ReadOnly).map_err(refused)?;
        let (size, data) = (source.len().map_err(refused)?, source.allocated().map_err(refused)?);
        // Once in the journal and once in the base, at the most.
        let room = self.store().rooms().store.refresh().map_err(refused)?;
        if data.min(size) > room {
            return Err(Refusal::NoSpace.with("bytes", size_text(data)));
        }
        let vm = match self.vm(vm) {
            Some(vm) if vm.single() => return Err(Refusal::NameTaken.with("name", vm.name())),
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
            return Err(Refusal::NameTaken.with("name", format!("{}/{disk}", vm.name())));
        }
        let steps = ["copy", "name"];
        let job = self
            .jobs()
            .admit(JobKind::Import, &vm.name(), Some(group.id()), true, line, &steps)
            .map_err(refused)?;
        let says = format!("copying {} into {}/{disk}", path.display(), vm.name());
        self.work(&job.id, move |handle| {
            let ordinal = add(&group, &vm, &importing(&disk), FileKind::File)?;
            match copy(&*source, &group, ordinal, size, handle) {
                Ok(bytes) => {
                    handle.next_step()?;
                    let to = RenamePayload { from: importing(&disk), to: disk.clone() };
                    group.change(&Change::Rename(ordinal, to))?;
                    Ok(format!("{}/{disk}, {} of data", vm.name(), size_text(bytes)))
                }
                Err(error) => {
                    group.change(&Change::Remove(ordinal))?;
                    Err(error)
                }
            }
        })
        .map_err(refused)?;
        Ok(Done { job: Some(job.id), says, rest: None })
    }

    /// A new VM that is a directory, with nothing in it.
    fn directory(&self, name: &str) -> Result<Arc<Vm>> {
        let vm = self.create_vm(name, false)?;
        add(&*vm.group()?, &vm, "", FileKind::Directory)?;
        Ok(vm)
    }
}

fn importing(disk: &str) -> String {
    format!("{disk}.importing")
}

fn add(group: &Group, vm: &Vm, path: &str, kind: FileKind) -> Result<DiskOrdinal> {
    // Random: made from the VM's own identity and the place in its group, both never used again.
    let mut ordinal = DiskOrdinal(0);
    group.change_with(|names| {
        ordinal = DiskOrdinal(names.last.0 + 1);
        let mut hasher = blake3::Hasher::new_derive_key("standbyfs imported disk v1");
        hasher.update(&vm.id().0).update(&ordinal.0.to_le_bytes());
        let mut file = [0; 16];
        file.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        let add = AddPayload {
            vm: vm.id(),
            vm_name: vm.name(),
            single: false,
            file: DiskId(file),
            path: path.to_owned(),
            kind,
            size: 0,
        };
        Ok(Change::Add(ordinal, add))
    })?;
    Ok(ordinal)
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
