//! Two joined ends of a connection in memory that fail on command, for tests and simulations of what stands
//! above the link. Single-threaded use is deterministic: nothing happens but in calls.
//!
//! It fails as a real link does: frames are delayed or the connection ends; it never loses, changes, repeats or
//! reorders one frame and goes on.

use crate::link::Connection;
use crate::link::connection::{ended, too_long};
use crate::vocab::{Result, StoreId};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    /// Frames on their way to each end.
    to: [VecDeque<Vec<u8>>; 2],
    stalled: [bool; 2],
    /// Frames that an end may still receive before the connection ends.
    cut_after: [Option<usize>; 2],
    ended: Option<String>,
}

struct Wire {
    state: Mutex<State>,
    changed: Condvar,
    frames_max: usize,
}

struct End {
    wire: Arc<Wire>,
    /// 0 or 1.
    own: usize,
    peer: StoreId,
    features: Vec<String>,
}

/// Breaks the connection that it belongs to.
#[derive(Clone)]
pub struct MemoryFault(Arc<Wire>);

/// Two ends, at the sites `a` and `b`, and what breaks them. At most `frames_max` frames wait in each direction.
pub fn memory_pair(
    a: StoreId,
    b: StoreId,
    features: &[String],
    frames_max: usize,
) -> (Arc<dyn Connection>, Arc<dyn Connection>, MemoryFault) {
    let wire = Arc::new(Wire { state: Mutex::default(), changed: Condvar::new(), frames_max });
    let end = |own, peer| {
        Arc::new(End { wire: Arc::clone(&wire), own, peer, features: features.to_vec() })
            as Arc<dyn Connection>
    };
    (end(0, b), end(1, a), MemoryFault(wire))
}

impl MemoryFault {
    /// Ends the connection; what is on its way is lost.
    pub fn cut(&self) {
        let mut state = self.0.state.lock();
        state.to.iter_mut().for_each(VecDeque::clear);
        state.ended.get_or_insert_with(|| "cut".into());
        self.0.changed.notify_all();
    }

    /// Ends the connection once the site `a` (`end` 0) or `b` (`end` 1) has received `frames` more frames.
    pub fn cut_after(&self, end: usize, frames: usize) {
        self.0.state.lock().cut_after[end & 1] = Some(frames);
    }

    /// Nothing reaches this end any more, until it is told otherwise.
    pub fn stall(&self, end: usize, stalled: bool) {
        self.0.state.lock().stalled[end & 1] = stalled;
        self.0.changed.notify_all();
    }

    /// How many frames are on their way to this end.
    pub fn waiting(&self, end: usize) -> usize {
        self.0.state.lock().to[end & 1].len()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close("it was given up");
    }
}

impl Connection for End {
    fn peer(&self) -> StoreId {
        self.peer
    }

    fn protocol(&self) -> u16 {
        crate::link::PROTOCOL_MAX
    }

    fn has_feature(&self, name: &str) -> bool {
        self.features.iter().any(|f| f == name)
    }

    fn send(&self, frame: Vec<u8>, wait: Duration) -> Result<Option<Vec<u8>>> {
        if let Some(error) = too_long(frame.len()) {
            return Err(error);
        }
        let until = Instant::now() + wait;
        let mut state = self.wire.state.lock();
        loop {
            if let Some(reason) = &state.ended {
                return Err(ended(reason));
            }
            let other = &mut state.to[1 - self.own];
            if other.len() < self.wire.frames_max {
                other.push_back(frame);
                self.wire.changed.notify_all();
                return Ok(None);
            }
            if wait.is_zero() || self.wire.changed.wait_until(&mut state, until).timed_out() {
                return Ok(Some(frame));
            }
        }
    }

    fn recv(&self, wait: Duration) -> Result<Option<Vec<u8>>> {
        let until = Instant::now() + wait;
        let mut state = self.wire.state.lock();
        loop {
            if state.cut_after[self.own] == Some(0) {
                state.to.iter_mut().for_each(VecDeque::clear);
                state.ended.get_or_insert_with(|| "cut".into());
                self.wire.changed.notify_all();
            }
            if !state.stalled[self.own]
                && let Some(frame) = state.to[self.own].pop_front()
            {
                if let Some(left) = &mut state.cut_after[self.own] {
                    *left -= 1;
                }
                self.wire.changed.notify_all();
                return Ok(Some(frame));
            }
            if let Some(reason) = &state.ended {
                return Err(ended(reason));
            }
            if wait.is_zero() || self.wire.changed.wait_until(&mut state, until).timed_out() {
                return Ok(None);
            }
        }
    }

    fn close(&self, reason: &str) {
        let mut state = self.wire.state.lock();
        state.ended.get_or_insert_with(|| reason.to_owned());
        self.wire.changed.notify_all();
    }

    fn ended(&self) -> Option<String> {
        self.wire.state.lock().ended.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn in_order_bounded_stalled_and_cut_on_command() {
        let (a, b) = (StoreId([1; 16]), StoreId([2; 16]));
        let (at_a, at_b, fault) = memory_pair(a, b, &["zstd".into()], 3);
        assert_eq!((at_a.peer(), at_b.peer()), (b, a));
        assert!(at_a.has_feature("zstd") && !at_a.has_feature("tree"));
        for n in 0..3 {
            assert_eq!(at_a.send(vec![n], NOW).unwrap(), None);
        }
        assert_eq!(at_a.send(vec![9], NOW).unwrap(), Some(vec![9]), "full");
        fault.stall(1, true);
        assert_eq!((at_b.recv(NOW).unwrap(), fault.waiting(1)), (None, 3));
        fault.stall(1, false);
        assert_eq!(at_b.recv(NOW).unwrap(), Some(vec![0]));
        fault.cut_after(1, 1);
        assert_eq!(at_b.recv(NOW).unwrap(), Some(vec![1]));
        assert_eq!(at_b.recv(NOW).unwrap_err().kind(), crate::vocab::Kind::Unreachable);
        assert!(at_a.send(vec![1], NOW).is_err() && at_a.ended().is_some());
        let (at_a, at_b, _) = memory_pair(a, b, &[], 3);
        assert_eq!(at_a.send(vec![5], NOW).unwrap(), None);
        drop(at_a);
        assert_eq!(at_b.recv(NOW).unwrap(), Some(vec![5]), "what came before the end is received");
        assert!(at_b.recv(NOW).is_err());
    }
}
