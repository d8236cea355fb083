//! What a site knows of its sessions with each peer, durable in `site/sessions/<store>.json`.
//!
//! A file that can't be read is an error, never "nothing known": a site without a memory of its sessions would
//! accept a copy of its peer.

use crate::exchange::Tokens;
use crate::site::catalog::{Catalog, Object};
use crate::vocab::{Result, StoreId};
use serde::{Deserialize, Serialize};

/// The sessions with one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionObject {
    /// The peer.
    pub(super) peer: StoreId,
    /// The last session that both confirmed, and one that was offered.
    pub(super) tokens: Tokens,
    /// A person said that this peer is the right one; used up by the next session that is agreed.
    #[serde(default)]
    pub(super) accept_once: bool,
}

impl Object for SessionObject {
    const FOLDER: &'static str = "site/sessions";
    fn key(&self) -> String {
        self.peer.to_string()
    }
}

/// Of this peer; fresh if there never was a session.
pub(super) fn of(catalog: &Catalog, peer: StoreId) -> Result<SessionObject> {
    let known = catalog.get::<SessionObject>(&peer.to_string())?;
    Ok(known.unwrap_or(SessionObject { peer, tokens: Tokens::default(), accept_once: false }))
}
