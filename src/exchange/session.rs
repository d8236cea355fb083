//! The beginning of a connection: who is there, which version, and whether it is the site it was.
//!
//! S1. Both sites store a fresh shared token before any data. A peer is accepted if one of the two sides' *agreed*
//!     token is among the other's agreed and offered ones: a crash between the two stores is no conflict.
//! S2. A peer with neither is a copy, or an old backup, of that site: `identity-conflict`, until a person accepts.
//! S3. A peer with another site id than the paired one is refused: `not-original-peer`.
//! S4. Nothing of a group is said or heard before both sides have stored the token.

use crate::exchange::message::{Control, Hello};
use crate::vocab::{StoreId, Token};

/// Versions of the protocol that this program speaks: lowest and highest.
pub const PROTOCOL_VERSIONS: (u16, u16) = (1, 1);

/// What a site knows of its sessions with one peer; durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Tokens {
    /// The last that both sides confirmed.
    pub agreed: Option<Token>,
    /// One that was stored but not confirmed.
    pub offered: Option<Token>,
}

impl Tokens {
    fn has(&self, token: Option<Token>) -> bool {
        token.is_some() && (self.agreed == token || self.offered == token)
    }

    /// S1. Two sites that never met (both have nothing) accept each other: the pairing has proved their keys.
    pub fn accepts(&self, theirs: &Self) -> bool {
        let new = *self == Self::default() && *theirs == Self::default();
        // A side that lost the race of the very first connect has an offer and no agreement.
        let first = self.agreed.is_none() && theirs.agreed.is_none();
        new || first || self.has(theirs.agreed) || theirs.has(self.agreed)
    }
}

/// What this side brings into a connection.
#[derive(Clone, Debug)]
pub struct LocalSite {
    /// Its store.
    pub site: StoreId,
    /// Its name.
    pub name: String,
    /// Optional things that it can do.
    pub features: Vec<String>,
    /// The peer's site id, as it was paired.
    pub peer: StoreId,
    /// What is stored of the sessions with that peer.
    pub tokens: Tokens,
    /// A fresh random value.
    pub nonce: Token,
    /// Whether a person said that this peer is to be accepted once, whatever its tokens say.
    pub accept_once: bool,
}

/// What happens to a session.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// A control message that isn't about a group.
    Received(Control),
    /// The tokens of the last [`SessionEffect::Store`] are durable.
    Stored,
}

/// What a session wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionEffect {
    /// Send this.
    Send(Control),
    /// Make these durable, then say [`SessionEvent::Stored`].
    Store(Tokens),
    /// Groups may speak now.
    Ready {
        /// The peer's name.
        name: String,
        /// Features that both have.
        features: Vec<String>,
        /// The version to speak.
        version: u16,
    },
    /// Close the connection.
    Close {
        /// A name that the documentation has.
        name: &'static str,
        /// One sentence for a person.
        text: String,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Hello,
    /// The new token is being stored as offered; whether the peer has stored its own.
    Offering {
        token: Token,
        stored: bool,
        confirmed: bool,
    },
    Agreeing,
    Ready,
    Closed,
}

/// One connection's beginning.
#[derive(Clone, Debug)]
pub struct Session {
    local: LocalSite,
    phase: Phase,
    peer: Option<Hello>,
}

impl Session {
    /// A new connection; the effects are the first things to do.
    pub fn new(local: LocalSite) -> (Self, Vec<SessionEffect>) {
        let hello = Hello {
            versions: PROTOCOL_VERSIONS,
            features: local.features.clone(),
            site: local.site,
            name: local.name.clone(),
            agreed: local.tokens.agreed,
            offered: local.tokens.offered,
            nonce: local.nonce,
        };
        let session = Self { local, phase: Phase::Hello, peer: None };
        (session, vec![SessionEffect::Send(Control::Hello(hello))])
    }

    /// Whether groups may speak.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// The next step.
    pub fn step(&mut self, event: SessionEvent) -> Vec<SessionEffect> {
        match event {
            SessionEvent::Received(Control::Hello(hello)) if self.phase == Phase::Hello => self.hello(hello),
            SessionEvent::Received(Control::Session { token }) => match &mut self.phase {
                Phase::Offering { token: mine, confirmed, .. } if *mine == token => {
                    *confirmed = true;
                    self.agree()
                }
                _ => self
                    .close("identity-conflict", "the peer confirmed another session than was offered".into()),
            },
            SessionEvent::Received(Control::Refused { name, text }) => {
                self.phase = Phase::Closed;
                vec![SessionEffect::Close { name: "refused-by-peer", text: format!("{name}: {text}") }]
            }
            SessionEvent::Received(_) => {
                self.close("protocol-error", "the peer spoke of a group before the session was agreed".into())
            }
            SessionEvent::Stored => match &mut self.phase {
                Phase::Offering { token, stored, .. } => {
                    *stored = true;
                    let mut out = vec![SessionEffect::Send(Control::Session { token: *token })];
                    out.extend(self.agree());
                    out
                }
                Phase::Agreeing => self.ready(),
                _ => Vec::new(),
            },
        }
    }

    fn hello(&mut self, hello: Hello) -> Vec<SessionEffect> {
        let (low, high) =
            (hello.versions.0.max(PROTOCOL_VERSIONS.0), hello.versions.1.min(PROTOCOL_VERSIONS.1));
        if low > high {
            let text = format!(
                "the peer speaks versions {} to {}, this site {} to {}",
                hello.versions.0, hello.versions.1, PROTOCOL_VERSIONS.0, PROTOCOL_VERSIONS.1
            );
            return self.close("version-mismatch", text);
        }
        if hello.site == self.local.site {
            return self.close("same-site", "the peer is this very site, or a copy of it".into());
        }
        if hello.site != self.local.peer {
            let text = format!("the peer is site {}, not {} that was paired", hello.site, self.local.peer);
            return self.close("not-original-peer", text);
        }
        let theirs = Tokens { agreed: hello.agreed, offered: hello.offered };
        if !self.local.accept_once && !self.local.tokens.accepts(&theirs) {
            let text =
                "the peer remembers another session than this site: it is a copy, or an old backup, of it";
            return self.close("identity-conflict", text.into());
        }
        // Both sides make the same token of both halves.
        let (first, second) = if self.local.site < hello.site {
            (self.local.nonce, hello.nonce)
        } else {
            (hello.nonce, self.local.nonce)
        };
        let mut hasher = blake3::Hasher::new_derive_key("standbyfs session v1");
        hasher.update(&first.0).update(&second.0);
        let mut token = [0; 16];
        token.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        let token = Token(token);
        self.peer = Some(hello);
        self.phase = Phase::Offering { token, stored: false, confirmed: false };
        vec![SessionEffect::Store(Tokens { agreed: self.local.tokens.agreed, offered: Some(token) })]
    }

    fn agree(&mut self) -> Vec<SessionEffect> {
        let Phase::Offering { token, stored: true, confirmed: true } = self.phase else { return Vec::new() };
        self.phase = Phase::Agreeing;
        vec![SessionEffect::Store(Tokens { agreed: Some(token), offered: None })]
    }

    fn ready(&mut self) -> Vec<SessionEffect> {
        let Some(peer) = &self.peer else { return Vec::new() };
        self.phase = Phase::Ready;
        let features = peer.features.iter().filter(|f| self.local.features.contains(f)).cloned().collect();
        let version = peer.versions.1.min(PROTOCOL_VERSIONS.1);
        vec![SessionEffect::Ready { name: peer.name.clone(), features, version }]
    }

    fn close(&mut self, name: &'static str, text: String) -> Vec<SessionEffect> {
        self.phase = Phase::Closed;
        vec![
            SessionEffect::Send(Control::Refused { name: name.into(), text: text.clone() }),
            SessionEffect::Close { name, text },
        ]
    }
}

#[cfg(test)]
mod tests;
