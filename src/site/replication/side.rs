//! A group's side of the exchange, as a connection drives it.

use crate::exchange::{Frame, Rpo, Settings};
use crate::group::{Driver, DriverState, Group, GroupParts, Output};
use crate::vocab::{GroupId, Result, StoreId, Token};
use std::sync::Arc;

/// A group's side. One caller at a time; calls may wait for storage. Times are monotonic ns.
pub trait Side: Send {
    /// The session with the peer is ready.
    fn connected(&mut self, now_ns: u64) -> Vec<Output>;
    /// The connection is gone.
    fn disconnected(&mut self, now_ns: u64) -> Vec<Output>;
    /// A frame of the peer about this group.
    fn received(&mut self, now_ns: u64, frame: Frame) -> Vec<Output>;
    /// The time asked for has come.
    fn timer(&mut self, now_ns: u64) -> Vec<Output>;
    /// Ships what has become durable since. To be called every few ms.
    fn progress(&mut self, now_ns: u64) -> Vec<Output>;
    /// A line of the history has changed an operation.
    fn roles_changed(&mut self, now_ns: u64) -> Vec<Output>;
    /// Answer to [`Output::HandOver`].
    fn hand_over(&mut self, now_ns: u64, op: Token, stopped: Result<()>) -> Vec<Output>;
    /// While it is held nothing new is shipped.
    fn hold(&mut self, held: bool);
    /// How much would be lost now.
    fn rpo(&self, now_ns: u64) -> Rpo;
    /// For status and upkeep.
    fn state(&self) -> DriverState;
    /// There is no room for what came: it is forgotten. Nothing more is heard before [`Side::connected`].
    fn stall(&mut self) {}
    /// The group was opened anew: this one takes the place of the one that the side was made for.
    fn reopened(&mut self, now_ns: u64, group: Arc<Group>) -> Vec<Output>;
}

/// Makes sides of groups. The engine's own in the product.
pub trait Sides: Send + Sync {
    /// The side of a group that has this peer.
    fn side(&self, group: Arc<Group>, peer: StoreId, settings: Settings) -> Box<dyn Side>;
    /// A group without a genesis: it takes its rows and records from its source. Durable when this returns.
    fn create_target(&self, parts: GroupParts, id: GroupId) -> Result<Arc<Group>>;
}

/// The engine's sides.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineSides;

impl Sides for EngineSides {
    fn side(&self, group: Arc<Group>, _: StoreId, settings: Settings) -> Box<dyn Side> {
        Box::new(Driver::new(group, settings))
    }

    fn create_target(&self, parts: GroupParts, id: GroupId) -> Result<Arc<Group>> {
        Group::create_target(parts, id)
    }
}

impl Side for Driver {
    fn stall(&mut self) {
        self.stall();
    }

    fn connected(&mut self, now_ns: u64) -> Vec<Output> {
        self.connected(now_ns)
    }

    fn disconnected(&mut self, now_ns: u64) -> Vec<Output> {
        self.disconnected(now_ns)
    }

    fn received(&mut self, now_ns: u64, frame: Frame) -> Vec<Output> {
        self.received(now_ns, frame)
    }

    fn timer(&mut self, now_ns: u64) -> Vec<Output> {
        self.timer(now_ns)
    }

    fn progress(&mut self, now_ns: u64) -> Vec<Output> {
        self.progress(now_ns)
    }

    fn roles_changed(&mut self, now_ns: u64) -> Vec<Output> {
        self.roles_changed(now_ns)
    }

    fn hand_over(&mut self, now_ns: u64, op: Token, stopped: Result<()>) -> Vec<Output> {
        self.hand_over(now_ns, op, stopped)
    }

    fn hold(&mut self, held: bool) {
        self.hold(held);
    }

    fn rpo(&self, now_ns: u64) -> Rpo {
        self.rpo(now_ns)
    }

    fn state(&self) -> DriverState {
        self.state()
    }

    fn reopened(&mut self, now_ns: u64, group: Arc<Group>) -> Vec<Output> {
        self.reopened(now_ns, group)
    }
}
