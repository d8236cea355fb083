//! The bounded queue between a thread and a connection: one end blocks, the other awaits.
//!
//! Q1. At most `bytes_max` bytes wait, or one frame.
//! Q2. After the end nothing is taken in. What came before it can still be taken out, then the end's reason.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What a queue has for who asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Frame(Vec<u8>),
    /// Nothing within the time.
    Nothing,
    /// Nothing more will come.
    Ended(Arc<str>),
}

#[derive(Default)]
struct State {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    ended: Option<Arc<str>>,
}

pub(super) struct ByteQueue {
    bytes_max: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// For the one task at the other end; a permit is kept for it, so no change is missed.
    task: Notify,
}

impl ByteQueue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default(), changed: Condvar::new(), task: Notify::new() }
    }

    /// Puts a frame in, waiting at most `wait` for room: `Ok(Some(frame))` gives it back if there was none.
    pub(super) fn push(&self, frame: Vec<u8>, wait: Duration) -> Result<Option<Vec<u8>>, Arc<str>> {
        let until = Instant::now() + wait;
        let mut state = self.state.lock();
        loop {
            if let Some(reason) = &state.ended {
                return Err(Arc::clone(reason));
            }
            if state.fits(frame.len(), self.bytes_max) {
                state.push(frame);
                drop(state);
                self.wake();
                return Ok(None);
            }
            if self.changed.wait_until(&mut state, until).timed_out() {
                return Ok(Some(frame));
            }
        }
    }

    /// Takes a frame out, waiting at most `wait` for one.
    pub(super) fn pop(&self, wait: Duration) -> Taken {
        let until = Instant::now() + wait;
        let mut state = self.state.lock();
        loop {
            match state.pop() {
                Taken::Nothing => {}
                taken => {
                    drop(state);
                    self.wake();
                    return taken;
                }
            }
            if self.changed.wait_until(&mut state, until).timed_out() {
                return Taken::Nothing;
            }
        }
    }

    /// For the task: puts a frame in when there is room. An error is the end's reason.
    pub(super) async fn push_task(&self, frame: Vec<u8>) -> Result<(), Arc<str>> {
        let mut frame = Some(frame);
        loop {
            {
                let mut state = self.state.lock();
                if let Some(reason) = &state.ended {
                    return Err(Arc::clone(reason));
                }
                if let Some(waiting) = frame.take_if(|f| state.fits(f.len(), self.bytes_max)) {
                    state.push(waiting);
                    drop(state);
                    self.wake();
                    return Ok(());
                }
            }
            self.task.notified().await;
        }
    }

    /// For the task: takes a frame out; `None` after the end. Loses nothing when it is cancelled.
    pub(super) async fn pop_task(&self) -> Option<Vec<u8>> {
        loop {
            let taken = self.state.lock().pop();
            match taken {
                Taken::Frame(frame) => {
                    self.wake();
                    return Some(frame);
                }
                Taken::Ended(_) => return None,
                Taken::Nothing => self.task.notified().await,
            }
        }
    }

    pub(super) fn end(&self, reason: &Arc<str>) {
        self.state.lock().ended.get_or_insert_with(|| Arc::clone(reason));
        self.wake();
    }

    /// Drops what waits; for the side whose frames will never be sent.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        state.frames.clear();
        state.bytes = 0;
        drop(state);
        self.wake();
    }

    fn wake(&self) {
        self.changed.notify_all();
        self.task.notify_one();
    }
}

impl State {
    fn fits(&self, len: usize, bytes_max: usize) -> bool {
        self.frames.is_empty() || self.bytes + len <= bytes_max
    }

    fn push(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    fn pop(&mut self) -> Taken {
        match (self.frames.pop_front(), &self.ended) {
            (Some(frame), _) => {
                self.bytes -= frame.len();
                Taken::Frame(frame)
            }
            (None, Some(reason)) => Taken::Ended(Arc::clone(reason)),
            (None, None) => Taken::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn bounded_in_bytes_and_ended_with_a_reason() {
        let queue = ByteQueue::new(10);
        assert_eq!(queue.push(vec![0; 100], SHORT), Ok(None), "one frame always fits");
        assert_eq!(queue.push(vec![1], SHORT), Ok(Some(vec![1])));
        assert_eq!(queue.pop(SHORT), Taken::Frame(vec![0; 100]));
        for n in 0..10 {
            assert_eq!(queue.push(vec![n], SHORT), Ok(None));
        }
        assert_eq!(queue.push(vec![1], SHORT), Ok(Some(vec![1])));
        queue.end(&"cut".into());
        queue.end(&"later".into());
        assert_eq!(queue.push(vec![1], SHORT), Err("cut".into()));
        for n in 0..10 {
            assert_eq!(queue.pop(SHORT), Taken::Frame(vec![n]));
        }
        assert_eq!(queue.pop(SHORT), Taken::Ended("cut".into()));
    }

    #[test]
    fn a_thread_and_a_task_pass_everything_in_order() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for size in [1, 7, 64] {
            let (there, back) = (Arc::new(ByteQueue::new(size)), Arc::new(ByteQueue::new(size)));
            let (from, to) = (Arc::clone(&there), Arc::clone(&back));
            let feeder = std::thread::spawn(move || {
                for n in 0..1000_u32 {
                    let _ = from.push(n.to_le_bytes().to_vec(), Duration::from_secs(5));
                }
                from.end(&"done".into());
            });
            let taker = std::thread::spawn(move || {
                (0..1000_u32)
                    .all(|n| to.pop(Duration::from_secs(5)) == Taken::Frame(n.to_le_bytes().to_vec()))
            });
            runtime.block_on(async {
                while let Some(frame) = there.pop_task().await {
                    back.push_task(frame).await.unwrap();
                }
            });
            feeder.join().unwrap();
            assert!(taker.join().unwrap(), "size {size}");
        }
    }
}
