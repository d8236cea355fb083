//! The one-time token of a pairing, and the proof that its holder knows the secret. No I/O.
//!
//! T1. A store keeps a token's verifier (a derived key), never the secret.
//! T2. A proof is bound to the TLS channel (exported keying material), to both keys and both stores, and to the
//!     side that makes it: it can't be replayed, relayed through another channel, or reflected.
//! T3. A token makes one peer. The same peer may use it again, because the answer to the first time may have
//!     been lost; anybody else is refused, and so is that peer once it was forgotten.
//! T4. Text that was cut or mistyped is found by its checksum before anything is connected.

use crate::link::Fingerprint;
use crate::vocab::{Error, Result, StoreId, Token};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

const PREFIX: &str = "standbyfs-pair-1.";
/// How long a token is good for, in seconds: five days.
pub const TOKEN_LIFE_SECONDS: i64 = 5 * 24 * 3600;
/// How long a token that can't be used any more is remembered, so that whoever tries it hears why.
const REMEMBERED_SECONDS: i64 = 30 * 24 * 3600;

/// What a token says: where a site is, which key it has, and the secret that lets one other site become its peer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Names the token at the site that made it.
    pub id: Token,
    /// The site that made it.
    pub store: StoreId,
    /// That site's name.
    pub name: String,
    /// Where it listens: host names or addresses, best first.
    pub addresses: Vec<String>,
    /// The port that it listens on.
    pub port: u16,
    /// Its key.
    pub fingerprint: Fingerprint,
    /// Known to the holders of the token only.
    secret: String,
    /// Unix seconds.
    pub expires: i64,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invitation({:?} of {:?}, expires {})", self.id, self.store, self.expires)
    }
}

/// What the site that made a token keeps of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Names the token.
    pub id: Token,
    /// Checks proofs. Derived from the secret.
    verifier: String,
    /// Unix seconds.
    pub created: i64,
    /// Unix seconds.
    pub expires: i64,
    /// Who used it up.
    pub used_by: Option<Fingerprint>,
    /// Good for nobody any more, because the peer that used it was forgotten or a person said so.
    pub revoked: bool,
}

/// Whose proof.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// The site that accepts the token, and dials.
    Accepting,
    /// The site that made it, and listens.
    Inviting,
}

/// What a proof is bound to.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub exporter: [u8; 32],
    pub accepting: (Fingerprint, StoreId),
    pub inviting: (Fingerprint, StoreId),
}

impl Invitation {
    /// A new token and what its maker keeps of it. `random` and `id` are fresh random bits, `now` Unix seconds.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        id: Token,
        random: [u8; 32],
        store: StoreId,
        name: &str,
        addresses: Vec<String>,
        port: u16,
        fingerprint: Fingerprint,
        now: i64,
    ) -> (Self, TokenRecord) {
        let expires = now + TOKEN_LIFE_SECONDS;
        let secret = URL_SAFE_NO_PAD.encode(random);
        let record = TokenRecord {
            id,
            verifier: blake3::Hash::from_bytes(verifier(&secret)).to_string(),
            created: now,
            expires,
            used_by: None,
            revoked: false,
        };
        (Self { id, store, name: name.to_owned(), addresses, port, fingerprint, secret, expires }, record)
    }

    /// As one word to copy: prefix, base64 of JSON, a dot, a checksum.
    pub fn to_text(&self) -> String {
        // Strings and numbers can't fail to become JSON.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let body = URL_SAFE_NO_PAD.encode(&json);
        let sum = crc32c::crc32c(body.as_bytes());
        format!("{PREFIX}{body}.{sum:08x}")
    }

    /// Reads a token; blanks and line breaks inside don't matter. Refused `token-malformed`.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed = |why: &str| {
            Error::refused("token-malformed", format!("this is no pairing token: {why}"))
                .advice("Copy the whole line that `pair create` printed at the other site")
        };
        let text: String = text.split_whitespace().collect();
        let body = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| malformed(&format!("it doesn't begin with `{PREFIX}`")))?;
        let (body, sum) = body.rsplit_once('.').ok_or_else(|| malformed("its end is missing"))?;
        if sum != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
            return Err(malformed("its checksum is wrong, so some of it is missing or mistyped"));
        }
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| malformed("it isn't base64"))?;
        serde_json::from_slice(&json).map_err(|e| malformed(&e.to_string()))
    }

    /// The checks of the accepting side before it connects: refused `self-pairing`, `token-expired`.
    pub fn check(&self, own: StoreId, now: i64) -> Result<()> {
        if self.store == own {
            return Err(self_pairing());
        }
        if now >= self.expires { Err(expired()) } else { Ok(()) }
    }

    pub(super) fn prove(&self, side: Side, binding: &Binding) -> String {
        proof(&verifier(&self.secret), side, binding).to_string()
    }

    pub(super) fn verify(&self, side: Side, binding: &Binding, shown: &str) -> bool {
        matches(&verifier(&self.secret), side, binding, shown)
    }
}

impl TokenRecord {
    /// Whether this key may use the token at `now` (Unix seconds): refused `token-revoked`, `token-used`,
    /// `token-expired`.
    pub fn check(&self, who: Fingerprint, now: i64) -> Result<()> {
        let advice = "Make a new token with `pair create`";
        if self.revoked {
            return Err(Error::refused("token-revoked", "this token was withdrawn").advice(advice));
        }
        match self.used_by {
            Some(user) if user == who => Ok(()),
            Some(_) => Err(Error::refused("token-used", "another site has used this token").advice(advice)),
            None if now >= self.expires => Err(expired()),
            None => Ok(()),
        }
    }

    /// Whether it may be deleted: nobody can use it, and nobody is likely to ask why.
    pub fn is_forgettable(&self, now: i64) -> bool {
        now >= self.expires + REMEMBERED_SECONDS
    }

    pub(super) fn prove(&self, side: Side, binding: &Binding) -> Option<String> {
        Some(proof(blake3::Hash::from_hex(&self.verifier).ok()?.as_bytes(), side, binding).to_string())
    }

    pub(super) fn verify(&self, side: Side, binding: &Binding, shown: &str) -> bool {
        blake3::Hash::from_hex(&self.verifier).is_ok_and(|key| matches(key.as_bytes(), side, binding, shown))
    }
}

pub(super) fn self_pairing() -> Error {
    Error::refused("self-pairing", "this token was made by this very store")
        .advice("Type `pair accept` at the other site")
}

fn expired() -> Error {
    Error::refused("token-expired", "this token is older than five days")
        .advice("Make a new one with `pair create`")
}

fn verifier(secret: &str) -> [u8; 32] {
    blake3::derive_key("standbyfs pairing verifier v1", secret.as_bytes())
}

fn proof(key: &[u8; 32], side: Side, binding: &Binding) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(match side {
        Side::Accepting => b"accepting",
        Side::Inviting => b"inviting ",
    });
    hasher.update(&binding.exporter);
    for (fingerprint, store) in [&binding.accepting, &binding.inviting] {
        hasher.update(&fingerprint.0).update(&store.0);
    }
    hasher.finalize()
}

/// Compares in constant time (`blake3::Hash` does).
fn matches(key: &[u8; 32], side: Side, binding: &Binding, shown: &str) -> bool {
    blake3::Hash::from_hex(shown).is_ok_and(|shown| shown == proof(key, side, binding))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (Invitation, TokenRecord) {
        Invitation::new(
            Token([1; 16]),
            [2; 32],
            StoreId([3; 16]),
            "Seoul",
            vec!["192.0.2.1".into(), "site.example".into()],
            8084,
            Fingerprint([4; 32]),
            1_000_000,
        )
    }

    fn binding() -> Binding {
        Binding {
            exporter: [7; 32],
            accepting: (Fingerprint([8; 32]), StoreId([9; 16])),
            inviting: (Fingerprint([4; 32]), StoreId([3; 16])),
        }
    }

    #[test]
    fn text_and_back_and_every_mistyped_letter_is_found() {
        let (token, _) = made();
        let text = token.to_text();
        assert_eq!(Invitation::parse(&text).unwrap(), token);
        let wrapped: String = text.chars().flat_map(|c| [c, '\n']).collect();
        assert_eq!(Invitation::parse(&wrapped).unwrap(), token);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(bytes).unwrap();
            let error = Invitation::parse(&wrong).unwrap_err();
            assert_eq!(error.name(), Some("token-malformed"), "letter {at}");
            assert!(Invitation::parse(&text[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_store_never_keeps_the_secret() {
        let (token, record) = made();
        let kept = serde_json::to_string(&record).unwrap();
        assert!(!kept.contains(&token.secret));
        assert_eq!(serde_json::from_str::<TokenRecord>(&kept).unwrap(), record);
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn a_proof_fits_one_secret_one_channel_one_pair_and_one_side() {
        let (token, record) = made();
        let shown = token.prove(Side::Accepting, &binding());
        assert!(record.verify(Side::Accepting, &binding(), &shown));
        assert!(!record.verify(Side::Inviting, &binding(), &shown), "reflected");
        let back = record.prove(Side::Inviting, &binding()).unwrap();
        assert!(token.verify(Side::Inviting, &binding(), &back));
        let others = [
            Binding { exporter: [6; 32], ..binding() },
            Binding { accepting: (Fingerprint([1; 32]), StoreId([9; 16])), ..binding() },
            Binding { inviting: (Fingerprint([4; 32]), StoreId([1; 16])), ..binding() },
        ];
        for other in others {
            assert!(!record.verify(Side::Accepting, &other, &shown), "{other:?}");
        }
        let stranger = Invitation { secret: "guess".into(), ..token };
        let guessed = stranger.prove(Side::Accepting, &binding());
        assert!(!record.verify(Side::Accepting, &binding(), &guessed));
        assert!(!record.verify(Side::Accepting, &binding(), ""));
    }

    #[test]
    fn a_token_is_for_one_peer_and_five_days() {
        let (token, record) = made();
        let (who, other) = (Fingerprint([8; 32]), Fingerprint([9; 32]));
        let last = 1_000_000 + TOKEN_LIFE_SECONDS;
        assert!(record.check(who, last - 1).is_ok() && token.check(StoreId([9; 16]), last - 1).is_ok());
        assert_eq!(record.check(who, last).unwrap_err().name(), Some("token-expired"));
        assert_eq!(token.check(StoreId([9; 16]), last).unwrap_err().name(), Some("token-expired"));
        assert_eq!(token.check(StoreId([3; 16]), 0).unwrap_err().name(), Some("self-pairing"));
        let used = TokenRecord { used_by: Some(who), ..record };
        assert!(used.check(who, last + 1).is_ok(), "the first answer may have been lost");
        assert_eq!(used.check(other, 1_000_001).unwrap_err().name(), Some("token-used"));
        let revoked = TokenRecord { revoked: true, ..used };
        assert_eq!(revoked.check(who, 1_000_001).unwrap_err().name(), Some("token-revoked"));
        assert!(!revoked.is_forgettable(last) && revoked.is_forgettable(last + 30 * 24 * 3600));
    }
}
