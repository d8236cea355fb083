//! Where the side of a group that speaks with a peer stands, for status and pins.

use crate::vocab::Moment;

/// Where a group stands with its peer.
#[derive(Clone, Debug, Default)]
pub struct DriverState {
    /// A connection is up and both sides have met.
    pub met: bool,
    /// Records are shipped on the line.
    pub shipping: bool,
    /// The newest moment that the peer has acknowledged.
    pub acknowledged: Option<Moment>,
    /// Bytes sent and not confirmed.
    pub flying_bytes: u64,
    /// A copy is under way.
    pub copying: bool,
    /// Bytes that it has still to fill, at the source.
    pub copy_left: Option<u64>,
    /// Whether the peer writes, by its word in this connection.
    pub peer_writes: Option<bool>,
    /// The peer has said that it yielded, since this process began.
    pub peer_fenced: bool,
    /// At a target: the newest moment of the source, by its word in this connection.
    pub source_head: Option<Moment>,
}
