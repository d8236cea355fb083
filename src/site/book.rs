//! Peers and tokens in the store, as the link asks for them (its rules K1 to K3).

use crate::link::{Peer, PeerBook, TokenRecord, admissible};
use crate::site::catalog::{Catalog, Object};
use crate::site::names::check_label;
use crate::site::objects::Tokens;
use crate::vocab::{Error, Kind, Result, StoreId, Token};
use parking_lot::Mutex;
use std::path::Path;

const TOKENS: &str = "site/tokens.json";

#[derive(Default)]
struct State {
    peers: Vec<Peer>,
    tokens: Tokens,
}

/// The book of a store. What it holds in memory is what is durable.
pub struct SiteBook {
    catalog: Catalog,
    state: Mutex<State>,
}

impl SiteBook {
    /// Reads the book. A damaged peer is an error: leaving it out would end its pairing unseen.
    pub fn open(catalog: Catalog) -> Result<Self> {
        let (peers, damaged) = catalog.list::<Peer>()?;
        if let Some(error) = damaged.into_iter().next() {
            return Err(error);
        }
        let tokens = catalog.get_at(Path::new(TOKENS))?.unwrap_or_default();
        Ok(Self { catalog, state: Mutex::new(State { peers, tokens }) })
    }

    /// Drops a peer and withdraws the token that it used; durable when this returns. The link notices at its
    /// next `refresh`. False: there was none.
    pub fn forget(&self, store: StoreId) -> Result<bool> {
        let mut state = self.state.lock();
        let Some(peer) = state.peers.iter().find(|p| p.store == store).cloned() else { return Ok(false) };
        // First, so that after a crash in between the token doesn't bring the peer back.
        let mut tokens = state.tokens.clone();
        tokens
            .tokens
            .iter_mut()
            .filter(|t| t.used_by == Some(peer.fingerprint))
            .for_each(|t| t.revoked = true);
        self.keep_tokens(&mut state, tokens)?;
        self.catalog.delete::<Peer>(&peer.key())?;
        state.peers.retain(|p| p.store != store);
        Ok(true)
    }

    /// Withdraws all tokens that nobody has used.
    pub fn revoke_tokens(&self) -> Result<()> {
        let mut state = self.state.lock();
        let mut tokens = state.tokens.clone();
        tokens.tokens.iter_mut().filter(|t| t.used_by.is_none()).for_each(|t| t.revoked = true);
        self.keep_tokens(&mut state, tokens)
    }

    /// Deletes tokens that nobody can use and nobody asks for any more. `now`: Unix seconds.
    pub fn clean(&self, now: i64) -> Result<()> {
        let mut state = self.state.lock();
        let mut tokens = state.tokens.clone();
        tokens.tokens.retain(|t| !t.is_forgettable(now));
        if tokens == state.tokens { Ok(()) } else { self.keep_tokens(&mut state, tokens) }
    }

    fn keep_tokens(&self, state: &mut State, tokens: Tokens) -> Result<()> {
        self.catalog.put_at(Path::new(TOKENS), &tokens)?;
        state.tokens = tokens;
        Ok(())
    }

    fn keep_peer(&self, state: &mut State, peer: &Peer) -> Result<()> {
        self.catalog.put(peer)?;
        state.peers.retain(|p| p.store != peer.store);
        state.peers.push(peer.clone());
        state.peers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }
}

impl PeerBook for SiteBook {
    fn peers(&self) -> Vec<Peer> {
        self.state.lock().peers.clone()
    }

    fn pin(&self, peer: &Peer) -> Result<()> {
        check_label(&peer.name)?;
        let mut state = self.state.lock();
        admissible(&state.peers, peer)?;
        self.keep_peer(&mut state, peer)
    }

    fn tokens(&self) -> Vec<TokenRecord> {
        self.state.lock().tokens.tokens.clone()
    }

    fn add_token(&self, token: &TokenRecord) -> Result<()> {
        let mut state = self.state.lock();
        if state.tokens.tokens.iter().any(|t| t.id == token.id) {
            return Err(Error::new(Kind::Exists, "a token has this id"));
        }
        let mut tokens = state.tokens.clone();
        tokens.tokens.push(token.clone());
        self.keep_tokens(&mut state, tokens)
    }

    fn redeem(&self, token: Token, peer: &Peer, now: i64) -> Result<()> {
        check_label(&peer.name)?;
        let mut state = self.state.lock();
        let mut tokens = state.tokens.clone();
        let record = tokens.tokens.iter_mut().find(|t| t.id == token).ok_or_else(|| {
            Error::refused("token-unknown", "the site doesn't know this token")
                .advice("Make a new one with `pair create`")
        })?;
        record.check(peer.fingerprint, now)?;
        admissible(&state.peers, peer)?;
        record.used_by = Some(peer.fingerprint);
        self.keep_tokens(&mut state, tokens)?;
        self.keep_peer(&mut state, peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Fingerprint, Invitation};
    use crate::seam::SimDevice;
    use std::sync::Arc;

    fn book(device: &SimDevice) -> SiteBook {
        SiteBook::open(Catalog::new(Arc::new(device.storage("store")))).unwrap()
    }

    fn peer(number: u8) -> Peer {
        Peer {
            store: StoreId([number; 16]),
            name: format!("site{number}"),
            fingerprint: Fingerprint([number; 32]),
            addresses: vec![],
            port: 8084,
        }
    }

    fn token() -> TokenRecord {
        let id = Token([9; 16]);
        Invitation::new(id, [1; 32], StoreId([5; 16]), "a", vec![], 1, Fingerprint([5; 32]), 1000).1
    }

    /// K2 and K3 at each operation: never two peers by one token, and whoever used it up can try again.
    #[test]
    fn a_power_loss_while_a_token_is_redeemed() {
        for at in 1.. {
            let device = SimDevice::new(at);
            book(&device).add_token(&token()).unwrap();
            device.power_loss_at(at);
            let acknowledged = book(&device).redeem(Token([9; 16]), &peer(1), 2000).is_ok();
            let crashed = !device.crashed_in().is_empty();
            device.power_loss();
            device.power_on();
            let after = book(&device);
            if acknowledged {
                assert_eq!(after.peers(), [peer(1)], "operation {at}");
            }
            let used = after.tokens()[0].used_by.is_some();
            assert!(used || after.peers().is_empty(), "operation {at}: pinned by a token that is still good");
            if used {
                let refused = after.redeem(Token([9; 16]), &peer(2), 2000).unwrap_err();
                assert_eq!(refused.name(), Some("token-used"), "operation {at}");
            }
            after.redeem(Token([9; 16]), &peer(1), 2000).unwrap();
            assert_eq!(book(&device).peers(), [peer(1)], "operation {at}");
            if !crashed {
                break;
            }
        }
    }

    #[test]
    fn a_forgotten_peer_stays_forgotten() {
        for at in 1.. {
            let device = SimDevice::new(at);
            let before = book(&device);
            before.add_token(&token()).unwrap();
            before.redeem(Token([9; 16]), &peer(1), 2000).unwrap();
            device.power_loss_at(at);
            let acknowledged = before.forget(peer(1).store).is_ok();
            let crashed = !device.crashed_in().is_empty();
            device.power_loss();
            device.power_on();
            let after = book(&device);
            assert!(!acknowledged || after.peers().is_empty(), "operation {at}");
            if after.peers().is_empty() {
                let refused = after.redeem(Token([9; 16]), &peer(1), 2000).unwrap_err();
                assert_eq!(refused.name(), Some("token-revoked"), "operation {at}");
            } else {
                assert!(after.forget(peer(1).store).unwrap());
            }
            if !crashed {
                break;
            }
        }
        let device = SimDevice::new(1);
        assert!(!book(&device).forget(peer(1).store).unwrap());
        let mut rude = peer(1);
        rude.name = "../x".into();
        assert!(book(&device).pin(&rude).is_err());
        let kept = book(&device);
        kept.add_token(&token()).unwrap();
        kept.revoke_tokens().unwrap();
        assert_eq!(kept.redeem(Token([9; 16]), &peer(1), 2000).unwrap_err().name(), Some("token-revoked"));
        kept.clean(i64::MAX / 2).unwrap();
        assert!(book(&device).tokens().is_empty());
    }
}
