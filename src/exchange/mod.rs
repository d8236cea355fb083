//! Layer 0. Replication between two sites as step functions: events in, effects out.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `message` | what two sites say to each other |
//! | `wire` | frames: encoding, limits, checksums |
//! | `session` | the beginning of a connection: version, identity, token |
//! | `effect` | what goes into a group's side, and what comes out |
//! | `group` | a group's side: connecting, roles, heartbeat, timer |
//! | `meeting` | descriptors, rows, common moment, verdict |
//! | `source`, `target` | shipping and copying; appending, staging, publishing |
//! | `record`, `ranges`, `rpo` | records in flight and their chain; sets of ranges; the measure of loss |
//!
//! No clock, no socket, no storage: a daemon drives it with real ones, a simulation with seeds.

mod effect;
mod group;
mod meeting;
mod message;
mod ranges;
mod record;
mod rpo;
mod rules;
mod session;
mod source;
mod target;
pub mod wire;

pub use effect::{Effect, Event, Found, Local, Plan, Planned, Report, Ticket, Verdict};
pub use group::{GroupLink, HEARTBEAT_NS, SILENCE_NS, Settings};
pub use message::{
    About, Control, CopyStatement, Data, Descriptor, Fill, Frame, Hello, Join, Roles, Scrub, Standing,
};
pub use ranges::{DiskRange, RangeSet};
pub use record::{Record, RunError, run_after};
pub use rpo::{CONTACT_NS, Rpo, SourceRpo, TargetRpo};
pub use session::{LocalSite, PROTOCOL_VERSIONS, Session, SessionEffect, SessionEvent, Tokens};
pub(crate) use source::shrink;

#[cfg(test)]
mod tests;
