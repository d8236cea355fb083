//! Reading and writing open files.

use crate::group::{Gate, Op, Reply};
use crate::site::names::is_disk;
use crate::tree::control::{Control, Said};
use crate::tree::handles::{Meaning, Open, What};
use crate::tree::live::{Live, join};
use crate::tree::node::{JobFile, Node, SiteFile};
use crate::tree::once::Once;
use crate::tree::ops::{
    Answer, Completion, Errno, Opened, ReadCompletion, Request, Seek, SetAttributes, SetTime,
};
use crate::tree::tree::{Tree, failed};
use crate::vocab::{DiskId, EpochId};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

const FALLOC_KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
const FALLOC_PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const FALLOC_ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
const FALLOC_ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

thread_local! {
    /// A read's bytes on their way: one buffer a thread, as large as the largest read.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl Tree {
    /// An opening for writing waits, without a thread, for a VM that waits for its peer after the start.
    pub(super) fn open_served(&self, request: &Request, ino: u64, flags: i32, reply: Completion<Opened>) {
        let opens = writes(flags) || flags & libc::O_TRUNC != 0;
        let waits = match self.nodes.node(ino) {
            Ok(Node::Live(vm, file)) if opens => self.live(vm, file).ok(),
            _ => None,
        };
        let (Some(live), Some(me)) = (waits, self.me.get().cloned()) else {
            return reply.done(self.open_node(request, ino, flags));
        };
        if live.group.gate() != Gate::Waiting {
            return reply.done(self.open_node(request, ino, flags));
        }
        let request = *request;
        let then = move || {
            if let Some(tree) = me.upgrade() {
                reply.done(tree.open_node(&request, ino, flags));
            }
        };
        if let Some(now) = self.host.when_served(&*live.vm, Box::new(then)) {
            now();
        }
    }

    pub(super) fn open_node(&self, request: &Request, ino: u64, flags: i32) -> Answer<Opened> {
        let node = self.nodes.node(ino)?;
        match node {
            Node::Live(vm, file) => {
                let live = self.live(vm, file)?;
                if live.is_dir() {
                    return Err(Errno::EISDIR);
                }
                if writes(flags) || flags & libc::O_TRUNC != 0 {
                    live.refuse_opening()?;
                }
                if flags & libc::O_TRUNC != 0 {
                    self.resize(request, &live, None, 0)?;
                }
                match self.open_standing(&live, writes(flags))? {
                    Some(opened) => Ok(opened),
                    None => self.open_live(&live, writes(flags)),
                }
            }
            node => {
                if (writes(flags) || flags & libc::O_TRUNC != 0) && !node.takes_lines() {
                    return Err(Errno::EROFS);
                }
                let open = self.open_other(&node, None)?;
                let past = matches!(node, Node::Past(..) | Node::PastRoot(..));
                let handle = self.enter_other(node, open)?;
                // A past moment never changes: its pages may stay.
                Ok(Opened { handle, direct_io: !past, parallel_direct_writes: false, keep_cache: past })
            }
        }
    }

    /// H5: of a target's disk, the newest moment at the opening. None before the first copy has come.
    fn open_standing(&self, live: &Arc<Live>, writes: bool) -> Answer<Option<Opened>> {
        if writes || live.group.gate() != Gate::Target {
            return Ok(None);
        }
        let Ok(moment) = live.group.table().norm(live.group.head()) else { return Ok(None) };
        let vm = live.vm.id();
        let node = Node::Past(vm, moment, live.file);
        let open = match self.open_other(&node, None) {
            Ok(open) => open,
            Err(Errno::ESTALE | Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let handle = self.enter_other(node, open)?;
        // The pages of the inode are shared with openings of other moments: none stay.
        Ok(Some(Opened { handle, direct_io: true, parallel_direct_writes: false, keep_cache: false }))
    }

    pub(super) fn open_live(&self, live: &Arc<Live>, writes: bool) -> Answer<Opened> {
        let epoch = live.group.head().epoch;
        let name =
            || live.named().map_or_else(|_| live.vm.name(), |named| join(&live.vm.name(), &named.path));
        let writes = writes.then(name);
        let meaning = Meaning { node: live.node.clone(), epoch, file: live.file, writes, said: None };
        let open = Open::of_live(live.clone(), epoch, meaning.writes.is_some());
        let handle = self.handles.add(&meaning, open).map_err(failed)?;
        Ok(Opened { handle, direct_io: true, parallel_direct_writes: true, keep_cache: false })
    }

    pub(super) fn opened(&self, handle: u64) -> Answer<Arc<Open>> {
        self.handles.get(handle, |meaning| match meaning.node {
            Node::Live(vm, file) => {
                Ok(Open::of_live(self.live(vm, file)?, meaning.epoch, meaning.writes.is_some()))
            }
            node => self.open_other(&node, meaning.said),
        })
    }

    /// The handle of an opening that is no live file.
    fn enter_other(&self, node: Node, open: Open) -> Answer<u64> {
        let meaning = Meaning { node, epoch: EpochId::NONE, file: DiskId::NONE, writes: None, said: None };
        self.handles.add(&meaning, open).map_err(failed)
    }

    fn open_other(&self, node: &Node, said: Option<Said>) -> Answer<Open> {
        let what = match node {
            Node::Past(vm, moment, file) => What::Past(self.past_file(*vm, *moment, *file)?),
            node if node.takes_lines() => {
                What::Control(Control::new(node.clone(), self.control_text(node)?, said))
            }
            Node::SiteFile(SiteFile::Events, _) | Node::JobFile(_, JobFile::Log, _) => {
                What::Lines(self.lines_of(node)?)
            }
            node => What::Text(self.text_of(node)?),
        };
        Ok(Open::new(what, EpochId::NONE))
    }

    pub(super) fn read_open(&self, handle: u64, offset: u64, size: u32, reply: ReadCompletion) {
        let open = match self.opened(handle) {
            Ok(open) => open,
            Err(e) => return reply.done(Err(e)),
        };
        if let What::Text(text) = &open.what {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
            let to = from.saturating_add(size as usize).min(text.len());
            return reply.done(Ok(&text[from..to]));
        }
        match &open.what {
            What::Control(control) => return reply.done(Ok(&control.read(offset, size as usize))),
            What::Lines(lines) => match self.read_lines(lines, offset, size as usize) {
                Ok(bytes) => return reply.done(Ok(&bytes)),
                Err(errno) => return reply.done(Err(errno)),
            },
            _ => {}
        }
        BUFFER.with(|buffer| {
            let mut buffer = buffer.borrow_mut();
            if buffer.len() < size as usize {
                buffer.resize(size as usize, 0);
            }
            let buffer = &mut buffer[..size as usize];
            match read_file(&open, offset, buffer) {
                Ok(got) => reply.done(Ok(&buffer[..got])),
                Err(e) => reply.done(Err(e)),
            }
        });
    }

    pub(super) fn write_open(
        &self,
        request: &Request,
        (handle, offset): (u64, u64),
        data: &[u8],
        flags: i32,
        reply: Completion<u32>,
    ) {
        let len = data.len() as u32;
        let open = match self.opened(handle) {
            Ok(open) => open,
            Err(e) => return reply.done(Err(e)),
        };
        if matches!(open.what, What::Control(_)) {
            return self.write_control(open, request, (handle, offset), data, reply);
        }
        let sync = flags & (libc::O_DSYNC | libc::O_SYNC) != 0;
        self.submit(
            &open,
            || Op::Write { offset, data },
            sync,
            move |answer| reply.done(answer.map(|()| len)),
        );
    }

    /// H2 holds when the operation enters the queue, not only before.
    fn submit<'a>(
        &self,
        open: &Open,
        op: impl Fn() -> Op<'a>,
        sync: bool,
        done: impl FnOnce(Answer<()>) + Send + 'static,
    ) {
        let mut reply: Reply = match open.live() {
            Err(e) => return done(Err(e)),
            Ok((live, _)) => {
                live.attributes.written(self.host.clock().wall_ns());
                Box::new(move |result| done(result.map_err(failed)))
            }
        };
        loop {
            let (live, generation) = match open.live() {
                Ok(found) => found,
                Err(e) => return reply(Err(stale(e))),
            };
            match live.group.submit_on(generation, live.disk, op(), sync, reply) {
                None => return,
                Some(unused) => reply = unused,
            }
        }
    }

    pub(super) fn fsync_open(&self, handle: u64, data_only: bool, reply: Completion<()>) {
        let open = match self.opened(handle) {
            Ok(open) => open,
            Err(e) => return reply.done(Err(e)),
        };
        if !matches!(open.what, What::Live(_)) {
            return reply.done(Ok(()));
        }
        let (live, _) = match open.live() {
            Ok(found) => found,
            Err(e) => return reply.done(Err(e)),
        };
        // As writes: what was refused since isn't there, and no flush may say that it is. QEMU pauses the VM.
        if open.writes && live.group.gate() == Gate::Frozen {
            return reply.done(Err(Errno::ENOSPC));
        }
        if !data_only {
            let vm = live.vm.id();
            let kept = self.attributes.save_touched(vm, live.file, &live.attributes);
            if let Err(e) = kept.and_then(|()| self.attributes.sync(vm)) {
                return reply.done(Err(failed(e)));
            }
        }
        live.group.flush(Box::new(move |result| reply.done(result.map_err(failed))));
    }

    pub(super) fn fallocate_open(
        &self,
        request: &Request,
        handle: u64,
        (offset, length): (u64, u64),
        mode: i32,
        reply: Completion<()>,
    ) {
        let open = match self.opened(handle) {
            Ok(open) => open,
            Err(e) => return reply.done(Err(e)),
        };
        let done = move |answer| reply.done(answer);
        match mode {
            FALLOC_PUNCH => self.submit(&open, || Op::Discard { offset, length }, false, done),
            FALLOC_ZERO => self.submit(&open, || Op::Zero { offset, length, grow: true }, false, done),
            FALLOC_ZERO_KEEP => {
                self.submit(&open, || Op::Zero { offset, length, grow: false }, false, done);
            }
            FALLOC_KEEP_SIZE => done(open.live().map(drop)),
            0 => done(self.grow(request, &open, offset.saturating_add(length))),
            _ => done(Err(Errno::EOPNOTSUPP)),
        }
    }

    fn grow(&self, request: &Request, open: &Open, size: u64) -> Answer<()> {
        let (live, _) = open.live()?;
        if !request.resent && live.size()? >= size {
            return Ok(());
        }
        let once = Once {
            what: format!("grow to {size}"),
            check: || live.refuse_target(),
            act: |_| self.submit_and_wait(open, || Op::Grow { size }),
        };
        self.once(request, once, || Ok(()))
    }

    fn submit_and_wait<'a>(&self, open: &Open, op: impl Fn() -> Op<'a>) -> Answer<()> {
        let (send, receive) = mpsc::channel();
        self.submit(open, op, false, move |answer| {
            let _ = send.send(answer);
        });
        receive.recv().unwrap_or(Err(Errno::EIO))
    }

    /// truncate, ftruncate and O_TRUNC.
    pub(super) fn resize(
        &self,
        request: &Request,
        live: &Arc<Live>,
        handle: Option<u64>,
        size: u64,
    ) -> Answer<()> {
        let open = match handle {
            Some(handle) => self.opened(handle)?,
            None => Arc::new(Open::new(What::Live(live.clone()), live.group.head().epoch)),
        };
        let named = live.named()?;
        if !request.resent && named.size == size {
            // Nothing changes in the journal; who may write is asked all the same.
            live.refuse_target()?;
            match live.group.gate() {
                Gate::Frozen => return Err(Errno::ENOSPC),
                Gate::Waiting => return Err(Errno::EBUSY),
                _ => {}
            }
            live.attributes.written(self.host.clock().wall_ns());
            return Ok(());
        }
        let once = Once {
            what: format!("resize to {size}"),
            check: || {
                live.refuse_target()?;
                let disk = named.path.is_empty() || is_disk(&named.path);
                let shrinks = size < named.size;
                if disk && shrinks && self.host.is_protected(&*live.vm) { Err(Errno::EPERM) } else { Ok(()) }
            },
            act: |_| self.submit_and_wait(&open, || Op::Resize { size }),
        };
        self.once(request, once, || Ok(()))
    }

    /// O_TRUNC of a create that found its file. Nobody has the opening yet, so it may be done twice.
    pub(super) fn truncate(&self, live: &Arc<Live>) -> Answer<()> {
        let named = live.named()?;
        if (named.path.is_empty() || is_disk(&named.path)) && self.host.is_protected(&*live.vm) {
            return Err(Errno::EPERM);
        }
        let open = Open::new(What::Live(live.clone()), live.group.head().epoch);
        self.submit_and_wait(&open, || Op::Resize { size: 0 })
    }

    pub(super) fn seek_open(&self, handle: u64, offset: u64, seek: Seek) -> Answer<u64> {
        let open = self.opened(handle)?;
        let found = match &open.what {
            What::Live(_) => {
                let (live, _) = open.live()?;
                let size = live.size()?;
                let (group, disk) = (&live.group, live.disk);
                match seek {
                    Seek::Data => group.next_data(disk, offset, size),
                    Seek::Hole => group.next_hole(disk, offset, size),
                }
            }
            What::Past(past) => past.seek(offset, seek),
            What::Text(text) => {
                let len = text.len() as u64;
                Ok((offset < len).then_some(if seek == Seek::Data { offset } else { len }))
            }
            What::Control(_) | What::Lines(_) => return Err(Errno::EINVAL),
        };
        found.map_err(failed)?.ok_or(Errno::ENXIO)
    }

    pub(super) fn set_live(&self, request: &Request, live: &Arc<Live>, set: &SetAttributes) -> Answer<()> {
        if let Some(size) = set.size {
            if live.is_dir() {
                return Err(Errno::EISDIR);
            }
            self.resize(request, live, set.handle, size)?;
        }
        let now = self.host.clock().wall_ns();
        self.set_attributes(live.vm.id(), live.file, &live.attributes, set, now)
    }

    /// Everything but the size.
    pub(super) fn set_attributes(
        &self,
        vm: crate::vocab::VmId,
        file: DiskId,
        attributes: &crate::tree::attributes::FileAttributes,
        set: &SetAttributes,
        now: i64,
    ) -> Answer<()> {
        let time = |to: SetTime| match to {
            SetTime::Now => now,
            SetTime::To(time) => time,
        };
        attributes.change(now, |own| {
            own.mode = set.mode.map_or(own.mode, |mode| mode as u16 & 0o7777);
            own.uid = set.uid.unwrap_or(own.uid);
            own.gid = set.gid.unwrap_or(own.gid);
            Ok::<(), Errno>(())
        })?;
        if let Some(to) = set.atime {
            attributes.atime.store(time(to), Ordering::Relaxed);
        }
        if let Some(to) = set.mtime {
            attributes.mtime.store(time(to), Ordering::Relaxed);
        }
        self.attributes.save(vm, file, attributes).map_err(failed)
    }
}

fn stale(errno: Errno) -> crate::vocab::Error {
    crate::vocab::Error::io(
        std::io::Error::from_raw_os_error(errno.0),
        "the file's history was left for another",
    )
}

fn read_file(open: &Open, offset: u64, buffer: &mut [u8]) -> Answer<usize> {
    let clip = |size: u64| size.saturating_sub(offset).min(buffer.len() as u64) as usize;
    match &open.what {
        What::Live(_) => {
            let (live, generation) = open.live()?;
            let got = clip(live.size()?);
            live.group.read_head(live.disk, offset, &mut buffer[..got]).map_err(failed)?;
            // Read before the other history began, or not answered.
            if live.group.generation() != generation {
                open.live()?;
            }
            Ok(got)
        }
        What::Past(past) => {
            let got = clip(past.size());
            past.read(offset, &mut buffer[..got]).map_err(failed)?;
            Ok(got)
        }
        What::Text(_) | What::Control(_) | What::Lines(_) => Err(Errno::EIO),
    }
}
