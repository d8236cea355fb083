//! Tells the kernel that something it has cached is no longer right.
//!
//! 1. A notification is written by a thread of its own, never by one that serves requests and never with a
//!    lock held: the kernel may wait in it for a request that this process has yet to answer.
//! 2. Asking never blocks. What is asked twice before it was done is done once, so memory is bounded by what
//!    there is to invalidate.

use super::abi;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Drops attributes, pages and names from the kernel's caches. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Invalidator(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    pending: Mutex<Pending>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    items: BTreeSet<Item>,
    writing: bool,
    /// The thread couldn't be started or the mount is gone.
    over: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Item {
    Attributes(u64),
    Content(u64),
    Name(u64, OsString),
}

impl Invalidator {
    /// An invalidator of the mount behind this descriptor of /dev/fuse.
    pub fn new(device: OwnedFd) -> Self {
        Self::with(move |bytes| rustix::io::write(&device, bytes).map(drop))
    }

    fn with(write: impl Fn(&[u8]) -> rustix::io::Result<()> + Send + 'static) -> Self {
        let queue = Arc::new(Queue::default());
        let weak = Arc::downgrade(&queue);
        let spawned = std::thread::Builder::new().name("invalidate".into()).spawn(move || {
            // The thread holds the queue only while it works on it: when the last invalidator is gone it ends.
            while let Some(queue) = weak.upgrade() {
                queue.work(&write);
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "the kernel's caches will not hear of changes");
            queue.pending.lock().over = true;
        }
        Self(queue)
    }

    /// The attributes of an inode have changed.
    pub fn attributes(&self, ino: u64) {
        self.0.add(Item::Attributes(ino));
    }

    /// The attributes and the content of an inode have changed.
    pub fn content(&self, ino: u64) {
        self.0.add(Item::Content(ino));
    }

    /// What a name in a directory stands for has changed, or it has come or gone.
    pub fn name(&self, parent: u64, name: &OsStr) {
        self.0.add(Item::Name(parent, name.to_owned()));
    }

    /// Waits until everything that was asked before has been done. Not to be called while serving a request.
    pub fn settle(&self) {
        let mut pending = self.0.pending.lock();
        while !pending.over && (pending.writing || !pending.items.is_empty()) {
            self.0.more.wait(&mut pending);
        }
    }
}

impl Queue {
    fn add(&self, item: Item) {
        let mut pending = self.pending.lock();
        if !pending.over && pending.items.insert(item) {
            self.more.notify_all();
        }
    }

    /// Does what is pending, or waits a while for something.
    fn work(&self, write: &impl Fn(&[u8]) -> rustix::io::Result<()>) {
        let mut pending = self.pending.lock();
        let Some(item) = pending.items.pop_first() else {
            self.more.wait_for(&mut pending, std::time::Duration::from_millis(500));
            return;
        };
        pending.writing = true;
        drop(pending);
        let bytes = match &item {
            Item::Attributes(ino) => abi::notify_inode(*ino, false),
            Item::Content(ino) => abi::notify_inode(*ino, true),
            Item::Name(parent, name) => abi::notify_name(*parent, name),
        };
        let result = write(&bytes);
        let mut pending = self.pending.lock();
        pending.writing = false;
        match result {
            // ENOENT: the kernel had nothing cached.
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(rustix::io::Errno::NODEV | rustix::io::Errno::NOTCONN) => pending.items.clear(),
            Err(error) => tracing::warn!(%error, ?item, "the kernel refused an invalidation"),
        }
        self.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn asking_does_not_wait_and_doubles_are_done_once() {
        let (done, results) = channel();
        let (go, wait) = channel::<()>();
        let invalidator = Invalidator::with(move |bytes| {
            wait.recv().unwrap();
            done.send(bytes.to_vec()).unwrap();
            Ok(())
        });
        for _ in 0..100 {
            invalidator.content(7);
            invalidator.name(1, OsStr::new("web01"));
        }
        // At most: the one being written, and each of the two once more.
        (0..3).for_each(|_| go.send(()).unwrap());
        drop(go);
        let mut seen = vec![results.recv().unwrap(), results.recv().unwrap()];
        seen.sort();
        seen.dedup();
        assert!(seen.len() == 2 || results.recv().is_ok());
    }

    #[test]
    fn settling_waits_for_what_was_asked() {
        let (done, results) = channel();
        let invalidator = Invalidator::with(move |_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            done.send(()).unwrap();
            Err(rustix::io::Errno::NOENT)
        });
        invalidator.attributes(1);
        invalidator.attributes(2);
        invalidator.settle();
        assert_eq!(results.try_iter().count(), 2);
    }
}
