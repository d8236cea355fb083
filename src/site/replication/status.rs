//! Figures for status: plain values, copied.

use super::{GroupSlot, Relation, Replication};
use crate::exchange::{Rpo, Verdict};
use crate::group::DriverState;
use crate::link::{DialState, Peer};
use crate::vocab::{GroupId, StoreId};
use std::sync::Arc;

/// A target without room says so again within this time, ns.
const PEER_FULL_NS: u64 = 3 * super::serve::STALL_NS;

/// How a connection's session stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionState {
    /// There is no connection.
    #[default]
    Offline,
    /// Both sites are agreeing on a session.
    Opening,
    /// Groups may speak.
    Ready,
}

/// What a connection leaves for status.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    pub(super) state: SessionState,
    pub(super) since_ns: u64,
    /// Why the last session ended or was refused: a name that the documentation has, and a sentence.
    pub(super) refusal: Option<(String, String)>,
    pub(super) same_host: bool,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

/// A peer, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub peer: Peer,
    /// Whether there is a connection of the link.
    pub connected: bool,
    /// The session in it.
    pub session: SessionState,
    /// Since when the session is so, monotonic ns of this boot.
    pub since_ns: u64,
    /// Attempts to dial.
    pub dial: DialState,
    /// Why the last session was refused or closed; none once another is ready.
    pub refusal: Option<(String, String)>,
    /// Both sites run on one host: they fail together (health `same-host-pair`).
    pub same_host: bool,
    /// Bytes of frames sent since the start.
    pub sent_bytes: u64,
    /// Bytes of frames received since the start.
    pub received_bytes: u64,
    /// Groups that have this peer.
    pub groups: usize,
}

/// A group that has a peer, for status.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Its VM.
    pub vm: String,
    /// Its peer.
    pub peer: StoreId,
    /// What it is to that peer.
    pub relation: Relation,
    /// How much would be lost now.
    pub rpo: Rpo,
    /// Figures of shipping.
    pub state: DriverState,
    /// What the last meeting came to.
    pub verdict: Option<Verdict>,
    /// When something was received that wasn't sent, monotonic ns.
    pub corruption_ns: Option<u64>,
    /// When the target was found below what it had acknowledged, monotonic ns.
    pub target_rewound_ns: Option<u64>,
    /// The peer has no room for what this site sends: what it says.
    pub peer_full: Option<String>,
}

impl Replication {
    /// Every peer.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let slots: Vec<Arc<GroupSlot>> = self.groups.lock().values().cloned().collect();
        let status = |link: crate::link::PeerLink| {
            let session = self.peer(link.peer.store).state.lock().clone();
            PeerStatus {
                connected: link.connected,
                session: session.state,
                since_ns: session.since_ns,
                dial: link.dial,
                refusal: session.refusal,
                same_host: session.same_host,
                sent_bytes: session.sent_bytes,
                received_bytes: session.received_bytes,
                groups: slots.iter().filter(|s| s.peer == link.peer.store).count(),
                peer: link.peer,
            }
        };
        self.link.status().into_iter().map(status).collect()
    }

    /// A group; none: it has no peer, or none was met since the start. Waits for the step that its side is at.
    pub fn group(&self, group: GroupId) -> Option<GroupStatus> {
        let slot = self.groups.lock().get(&group).cloned()?;
        Some(self.status_of(&slot))
    }

    /// Every group that has a peer.
    pub fn groups(&self) -> Vec<GroupStatus> {
        let slots: Vec<Arc<GroupSlot>> = self.groups.lock().values().cloned().collect();
        slots.iter().map(|slot| self.status_of(slot)).collect()
    }

    fn status_of(&self, slot: &GroupSlot) -> GroupStatus {
        let now_ns = self.now_ns();
        let running = slot.running.lock();
        let side = running.side.as_ref();
        GroupStatus {
            group: slot.id(),
            vm: slot.vm.name(),
            peer: slot.peer,
            relation: Relation::of_group(&slot.group(), slot.peer),
            rpo: side.map_or(Rpo::None, |s| s.rpo(now_ns)),
            state: side.map_or(DriverState::default(), |s| s.state()),
            verdict: running.verdict.clone(),
            corruption_ns: running.corruption_ns,
            target_rewound_ns: running.target_rewound_ns,
            peer_full: running
                .peer_full
                .as_ref()
                .filter(|(at, _)| now_ns < at + PEER_FULL_NS)
                .map(|(_, t)| t.clone()),
        }
    }
}
