//! What the link asks the store about peers and tokens.
//!
//! K1. What a book says it has taken is durable.
//! K2. `redeem` is atomic against every other call: of two sites that use one token, one becomes a peer.
//! K3. A token is marked used before its peer is pinned: after a crash between the two the same site, and only
//!     that one, can try again.

use crate::link::{Fingerprint, TokenRecord};
use crate::vocab::{Error, Kind, Result, StoreId, Token};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// A site that this one is paired with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its store.
    pub store: StoreId,
    /// Its name, as it gave it or as this site calls it. Unique among peers.
    pub name: String,
    /// Its pinned key.
    pub fingerprint: Fingerprint,
    /// Where it can be dialled, best first: host or host:port. Empty: only it dials.
    pub addresses: Vec<String>,
    /// The port where an address has none.
    pub port: u16,
}

/// Peers and tokens of a store. Called from several threads; `peers` must be cheap (it is asked in handshakes).
pub trait PeerBook: Send + Sync {
    /// All peers.
    fn peers(&self) -> Vec<Peer>;
    /// Makes this site a peer or replaces what is known of it. Refused by [`admissible`].
    fn pin(&self, peer: &Peer) -> Result<()>;
    /// All tokens that are remembered.
    fn tokens(&self) -> Vec<TokenRecord>;
    /// Keeps a new token.
    fn add_token(&self, token: &TokenRecord) -> Result<()>;
    /// Marks the token used by this peer and pins the peer. The proof was checked; this checks the rest:
    /// refused `token-unknown`, what [`TokenRecord::check`] and [`admissible`] refuse. `now`: Unix seconds.
    fn redeem(&self, token: Token, peer: &Peer, now: i64) -> Result<()>;
}

impl dyn PeerBook {
    /// The peer with this key.
    pub fn by_fingerprint(&self, fingerprint: &Fingerprint) -> Option<Peer> {
        self.peers().into_iter().find(|p| p.fingerprint == *fingerprint)
    }

    /// The peer with this store.
    pub fn by_store(&self, store: StoreId) -> Option<Peer> {
        self.peers().into_iter().find(|p| p.store == store)
    }
}

/// Whether a site may become a peer beside these: one key a store, one store a key, one name a peer.
/// Refused `already-paired`, `name-taken`.
pub fn admissible(peers: &[Peer], peer: &Peer) -> Result<()> {
    for known in peers {
        let same = (known.store == peer.store, known.fingerprint == peer.fingerprint);
        if same.0 != same.1 {
            return Err(Error::refused(
                "already-paired",
                format!("the peer `{}` has this store or this key, but not both", known.name),
            )
            .advice(format!("If its store was made anew, `forget {}` first", known.name)));
        }
        if known.name == peer.name && !same.0 {
            return Err(Error::refused("name-taken", format!("another peer is called `{}`", peer.name))
                .advice("Give one of the two sites another name"));
        }
    }
    Ok(())
}

pub(super) fn unknown_token() -> Error {
    Error::refused("token-unknown", "the site doesn't know this token")
        .advice("Make a new one with `pair create` at the site that is to be dialled")
}

/// A book in memory, for tests and simulations.
#[derive(Default)]
pub struct MemoryBook {
    inner: Mutex<(Vec<Peer>, Vec<TokenRecord>)>,
}

impl MemoryBook {
    /// Drops a peer and withdraws the token that it used.
    pub fn forget(&self, store: StoreId) {
        let (peers, tokens) = &mut *self.inner.lock();
        for peer in peers.extract_if(.., |p| p.store == store) {
            tokens.iter_mut().filter(|t| t.used_by == Some(peer.fingerprint)).for_each(|t| t.revoked = true);
        }
    }

    /// Changes remembered tokens.
    pub fn edit_tokens(&self, edit: impl FnMut(&mut TokenRecord)) {
        self.inner.lock().1.iter_mut().for_each(edit);
    }
}

impl PeerBook for MemoryBook {
    fn peers(&self) -> Vec<Peer> {
        self.inner.lock().0.clone()
    }

    fn pin(&self, peer: &Peer) -> Result<()> {
        let (peers, _) = &mut *self.inner.lock();
        admissible(peers, peer)?;
        peers.retain(|p| p.store != peer.store);
        peers.push(peer.clone());
        Ok(())
    }

    fn tokens(&self) -> Vec<TokenRecord> {
        self.inner.lock().1.clone()
    }

    fn add_token(&self, token: &TokenRecord) -> Result<()> {
        let (_, tokens) = &mut *self.inner.lock();
        if tokens.iter().any(|t| t.id == token.id) {
            return Err(Error::new(Kind::Exists, "a token has this id"));
        }
        tokens.push(token.clone());
        Ok(())
    }

    fn redeem(&self, token: Token, peer: &Peer, now: i64) -> Result<()> {
        let (peers, tokens) = &mut *self.inner.lock();
        let record = tokens.iter_mut().find(|t| t.id == token).ok_or_else(unknown_token)?;
        record.check(peer.fingerprint, now)?;
        admissible(peers, peer)?;
        record.used_by = Some(peer.fingerprint);
        peers.retain(|p| p.store != peer.store);
        peers.push(peer.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(store: u8, key: u8, name: &str) -> Peer {
        Peer {
            store: StoreId([store; 16]),
            name: name.into(),
            fingerprint: Fingerprint([key; 32]),
            addresses: vec![],
            port: 8084,
        }
    }

    #[test]
    fn one_key_a_store_one_store_a_key_one_name_a_peer() {
        let known = [peer(1, 1, "a"), peer(2, 2, "b")];
        assert!(admissible(&known, &peer(1, 1, "new name")).is_ok());
        assert!(admissible(&known, &peer(3, 3, "c")).is_ok());
        for (wrong, name) in [
            (peer(1, 3, "a"), "already-paired"),
            (peer(3, 1, "c"), "already-paired"),
            (peer(1, 2, "a"), "already-paired"),
            (peer(3, 3, "a"), "name-taken"),
            (peer(1, 1, "b"), "name-taken"),
        ] {
            assert_eq!(admissible(&known, &wrong).unwrap_err().name(), Some(name), "{wrong:?}");
        }
    }
}
