//! The gate through which requests come in: it counts those that are being served and can be closed.
//!
//! 1. Behind a closed gate nothing begins: a thread that has taken a request parks for ever. The request
//!    stays unanswered and is sent again to the next process.
//! 2. A request is in flight until its answer has been sent, from whichever thread.
//! 3. The first answer of a process is noted in the mount's record, once, after it was sent.

use super::abi::REQUEST_MAX;
use super::record::MountRecord;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The gate of a process. It lives as long as the process: threads park behind it.
#[derive(Debug)]
pub struct Gate {
    in_flight: AtomicUsize,
    closed: AtomicBool,
    answered: AtomicBool,
    record: MountRecord,
    start: u64,
}

/// A request that is being served. Dropped when its answer has been sent.
#[derive(Debug)]
pub struct Ticket(&'static Gate);

impl Gate {
    /// An open gate for worker number `start` of the mount.
    pub fn new(record: MountRecord, start: u64) -> &'static Self {
        Box::leak(Box::new(Self {
            in_flight: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            record,
            start,
        }))
    }

    /// Lets a request in; doesn't return once the gate is closed.
    pub fn enter(&'static self) -> Ticket {
        // SeqCst on both sides: either the closer sees this request or this request sees the gate closed.
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            loop {
                std::thread::park();
            }
        }
        Ticket(self)
    }

    /// Closes the gate and waits until nothing is in flight, for at most `patience`. False: something still is.
    pub fn close(&self, patience: Duration) -> bool {
        self.closed.store(true, Ordering::SeqCst);
        let end = Instant::now() + patience;
        while self.in_flight.load(Ordering::SeqCst) > 0 {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn note_answer(&self) {
        if !self.answered.swap(true, Ordering::Relaxed)
            && let Err(error) = self.record.set_answered(self.start)
        {
            tracing::error!(%error, "the keeper will not hear that requests are answered");
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.0.answered.load(Ordering::Relaxed) {
            self.0.note_answer();
        }
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Makes the memory present into which this thread reads requests; `address` lies in its first page.
///
/// A process that is killed while the kernel copies a request into memory that isn't present yet breaks that
/// request: it ends in EIO instead of being sent again. So each thread's buffer, of which only the first page
/// has been touched when the first small request arrives, is populated then, once.
pub fn populate_request_buffer(address: usize) {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if DONE.replace(true) {
        return;
    }
    let page = address & !4095;
    // SAFETY: MADV_POPULATE_WRITE changes no content, and fails where nothing is mapped.
    let failed = unsafe { libc::madvise(page as *mut _, REQUEST_MAX, libc::MADV_POPULATE_WRITE) } != 0;
    if failed {
        tracing::debug!(error = %std::io::Error::last_os_error(), "can't populate a request buffer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Token;
    use std::sync::mpsc::channel;

    fn gate() -> &'static Gate {
        Gate::new(MountRecord::create(Token([1; 16]), b"init").unwrap(), 5)
    }

    #[test]
    fn closing_waits_for_answers_and_lets_nobody_in() {
        let gate = gate();
        let ticket = gate.enter();
        assert!(!gate.close(Duration::from_millis(5)), "a request was in flight");
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let _late = gate.enter();
            sender.send(()).unwrap();
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "a request came in");
        drop(ticket);
        assert!(gate.close(Duration::from_secs(5)));
    }

    #[test]
    fn the_first_answer_is_noted_when_it_was_sent() {
        let gate = gate();
        let ticket = gate.enter();
        assert_eq!(gate.record.answered().unwrap(), 0);
        drop(ticket);
        assert_eq!(gate.record.answered().unwrap(), 5);
    }
}
