//! Layer 2. The link between two sites: identity, pairing, and connections that carry frames.
//!
//! | file | holds |
//! | --- | --- |
//! | identity | the site's key, its fingerprint |
//! | token | the one-time token of a pairing and the proof of its secret; no I/O |
//! | book | what the link asks the store about peers and tokens |
//! | tls | mutual TLS 1.3 with pinned keys |
//! | wire | frames, hello, version and features; no I/O |
//! | pairing | the exchange that makes two sites peers |
//! | bucket, backoff | rate limit, time between attempts; no I/O |
//! | queue | the bounded queue between a thread and a connection |
//! | connection | the seam [`Connection`], and an established one |
//! | memory | two joined ends in memory that fail on command |
//! | slots | one connection a peer, also when both sites dial |
//! | dial, listen | the two sides of a handshake |
//! | node | the links of a site behind calls that block |
//!
//! What the link promises to the protocol above: frames of one connection arrive unchanged, in order, at most
//! once and without a gap; a connection that can't keep this ends. Nothing is promised over connections.

mod backoff;
mod book;
mod bucket;
mod connection;
mod dial;
mod identity;
mod listen;
mod memory;
mod node;
mod pairing;
mod queue;
mod slots;
mod tls;
mod token;
mod wire;

pub use backoff::Backoff;
pub use book::{MemoryBook, Peer, PeerBook, admissible};
pub use bucket::{Bucket, Rate};
pub use connection::Connection;
pub use identity::{Fingerprint, Identity};
pub use memory::{MemoryFault, memory_pair};
pub use node::{DialState, Link, LinkSettings, PeerLink};
pub use token::{Invitation, TOKEN_LIFE_SECONDS, TokenRecord};
pub use wire::{FRAME_MAX, PROTOCOL_MAX, PROTOCOL_MIN};

/// The port on which a site listens unless it is told another.
pub const DEFAULT_PORT: u16 = 8084;
