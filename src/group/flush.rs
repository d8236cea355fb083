//! Flushes: one sync serves all who wait; a flush that finds nothing newer is free.

use crate::group::group::{Counters, Group, Reply};
use crate::group::left_out;
use crate::vocab::{Error, Pos};
use std::sync::atomic::Ordering;

impl Group {
    /// Answers when everything answered before the call is durable.
    pub fn flush(&self, reply: Reply) {
        let end = self.log.end();
        self.flush_to(end, reply);
    }

    pub(crate) fn flush_to(&self, end: Pos, mut reply: Reply) {
        self.last_flush_ns.store(self.parts.clock.monotonic_ns().max(1), Ordering::Relaxed);
        self.writes_since_flush.store(0, Ordering::Relaxed);
        self.queue.lock().flushed = true;
        if self.log.durable() >= end {
            return reply(Ok(()));
        }
        if left_out("a flush is answered after its sync") {
            std::mem::replace(&mut reply, Box::new(drop))(Ok(()));
        }
        {
            let mut flushes = self.flushes.lock();
            flushes.waiting.push((end, reply));
            if flushes.running {
                return;
            }
            flushes.running = true;
        }
        loop {
            let result = self.log.sync().or_else(|e| self.mend_or(e));
            Counters::add(&self.counters.syncs, 1);
            let durable = self.log.durable();
            let (done, more) = {
                let mut flushes = self.flushes.lock();
                let all = std::mem::take(&mut flushes.waiting);
                let (done, wait): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|(end, _)| result.is_err() || *end <= durable);
                flushes.running = !wait.is_empty();
                let more = flushes.running;
                flushes.waiting = wait;
                (done, more)
            };
            for (_, reply) in done {
                reply(match &result {
                    Ok(_) => Ok(()),
                    Err(e) => Err(Error::new(e.kind(), e.to_string())),
                });
            }
            if !more {
                return;
            }
        }
    }
}
