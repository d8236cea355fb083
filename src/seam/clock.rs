//! Time. Three clocks, because each question needs another one.

use std::time::Duration;

/// Clocks of one machine.
pub trait Clock: Send + Sync {
    /// Wall time, nanoseconds since 1970 UTC. May step. Names moments; never measures.
    fn wall_ns(&self) -> i64;
    /// Nanoseconds that never step, without the time that the machine slept. For time-outs and RPO.
    fn monotonic_ns(&self) -> u64;
    /// Nanoseconds since boot, the time asleep included. For ages.
    fn boot_ns(&self) -> u64;
    /// Lets so much time pass.
    fn pause(&self, time: Duration);
}

/// The machine's own clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ns(&self) -> i64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        t.tv_sec * 1_000_000_000 + t.tv_nsec
    }

    fn monotonic_ns(&self) -> u64 {
        read(rustix::time::ClockId::Monotonic)
    }

    fn boot_ns(&self) -> u64 {
        read(rustix::time::ClockId::Boottime)
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

fn read(id: rustix::time::ClockId) -> u64 {
    let t = rustix::time::clock_gettime(id);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}
