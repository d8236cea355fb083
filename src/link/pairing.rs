//! The exchange that makes two sites peers, inside a TLS connection that both keys have signed.
//!
//! P1. The accepting side has pinned the inviting one's key (from the token) before it says anything.
//! P2. The inviting side pins the other only after a right proof; the accepting side pins only after the
//!     inviting one has proved the secret too and says that it has pinned.
//! P3. When the last answer is lost, the inviting side has pinned and the other hasn't: the same token does it
//!     again (token T3).
//!
//! accepting → hello, inviting → hello, accepting → request with proof, inviting → reply with proof.

use crate::link::connection::{read_frame, write_frame};
use crate::link::token::{Binding, Side};
use crate::link::wire::{EARLY_MAX, FrameKind, Hello, PairReply, PairRequest, Refusal};
use crate::link::{Fingerprint, Invitation, Peer, PeerBook};
use crate::vocab::{Error, Kind, Result, StoreId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

const ADDRESSES_MAX: usize = 16;
const EXPORTER_LABEL: &[u8] = b"EXPORTER-standbyfs-pairing-v1";

/// Sends one message of the handshake.
pub(super) async fn say<S: AsyncWrite + Unpin, T: Serialize>(stream: &mut S, message: &T) -> Result<()> {
    let json = serde_json::to_vec(message).map_err(|e| Error::new(Kind::Invalid, e.to_string()))?;
    write_frame(stream, FrameKind::Early, &json).await
}

/// Hears one message of the handshake.
pub(super) async fn hear<S: AsyncRead + Unpin, T: DeserializeOwned>(
    stream: &mut S,
    wait: Duration,
) -> Result<T> {
    let heard = tokio::time::timeout(wait, read_frame(stream, EARLY_MAX, wait)).await;
    let (kind, content) =
        heard.map_err(|_| Error::new(Kind::Unreachable, "the other side didn't finish the handshake"))??;
    if kind != FrameKind::Early {
        return Err(Error::new(Kind::Invalid, "the other side skipped the handshake"));
    }
    serde_json::from_slice(&content)
        .map_err(|e| Error::new(Kind::Invalid, format!("the other side's handshake can't be read: {e}")))
}

/// What binds a proof to this connection.
pub(super) fn exporter<Data>(connection: &rustls::ConnectionCommon<Data>) -> Result<[u8; 32]> {
    connection
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(|e| Error::new(Kind::Invalid, format!("TLS gives no channel binding: {e}")))
}

/// This site, as it introduces itself.
pub(super) struct Own<'a> {
    pub store: StoreId,
    pub fingerprint: Fingerprint,
    pub addresses: &'a [String],
    pub port: u16,
    pub wait: Duration,
}

/// The accepting side, after both hellos: returns the peer to pin.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    exporter: [u8; 32],
    own: &Own<'_>,
    theirs: &Hello,
    invitation: &Invitation,
) -> Result<Peer> {
    if theirs.store != invitation.store {
        return Err(Error::refused(
            "identity-conflict",
            "the site that answers isn't the one that made the token",
        )
        .advice("Make a new token with `pair create` there"));
    }
    let binding = Binding {
        exporter,
        accepting: (own.fingerprint, own.store),
        inviting: (invitation.fingerprint, invitation.store),
    };
    let request = PairRequest {
        token: invitation.id,
        proof: invitation.prove(Side::Accepting, &binding),
        addresses: own.addresses.to_vec(),
        port: own.port,
    };
    say(stream, &request).await?;
    let reply: PairReply = hear(stream, own.wait).await?;
    if let Some(refusal) = reply.refused {
        return Err(refusal.into_error());
    }
    if !reply.proof.is_some_and(|proof| invitation.verify(Side::Inviting, &binding, &proof)) {
        return Err(Error::refused("token-wrong", "the other site couldn't prove that it made this token"));
    }
    Ok(invited(invitation, theirs))
}

/// The site that made a token, as a peer.
pub(super) fn invited(invitation: &Invitation, theirs: &Hello) -> Peer {
    Peer {
        store: theirs.store,
        name: theirs.name.clone(),
        fingerprint: invitation.fingerprint,
        addresses: invitation.addresses.clone(),
        port: invitation.port,
    }
}

/// The inviting side, after both hellos: checks, pins, answers.
pub(super) async fn invite<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    exporter: [u8; 32],
    own: &Own<'_>,
    theirs: (&Hello, Fingerprint),
    from: IpAddr,
    book: &Arc<dyn PeerBook>,
    now: i64,
) -> Result<Peer> {
    let request: PairRequest = hear(stream, own.wait).await?;
    let admitted = admit(exporter, own, theirs, from, book, &request, now).await;
    let reply = match &admitted {
        Ok((_, proof)) => PairReply { proof: Some(proof.clone()), refused: None },
        Err(error) => PairReply { proof: None, refused: Some(Refusal::of(error)) },
    };
    say(stream, &reply).await?;
    admitted.map(|(peer, _)| peer)
}

async fn admit(
    exporter: [u8; 32],
    own: &Own<'_>,
    (hello, fingerprint): (&Hello, Fingerprint),
    from: IpAddr,
    book: &Arc<dyn PeerBook>,
    request: &PairRequest,
    now: i64,
) -> Result<(Peer, String)> {
    if hello.store == own.store || fingerprint == own.fingerprint {
        return Err(crate::link::token::self_pairing());
    }
    let record = book
        .tokens()
        .into_iter()
        .find(|t| t.id == request.token)
        .ok_or_else(crate::link::book::unknown_token)?;
    let binding =
        Binding { exporter, accepting: (fingerprint, hello.store), inviting: (own.fingerprint, own.store) };
    // The proof comes first: what became of a token is told only to whoever holds it.
    let proof = record
        .verify(Side::Accepting, &binding, &request.proof)
        .then(|| record.prove(Side::Inviting, &binding))
        .flatten()
        .ok_or_else(|| {
            Error::refused("token-wrong", "the secret isn't that of this token")
                .advice("Copy the token again")
        })?;
    // A site that listens and doesn't say where is reached where it came from.
    let mut addresses: Vec<_> = request.addresses.iter().take(ADDRESSES_MAX).cloned().collect();
    if addresses.is_empty() && request.port != 0 {
        addresses.push(from.to_canonical().to_string());
    }
    let peer =
        Peer { store: hello.store, name: hello.name.clone(), fingerprint, addresses, port: request.port };
    let (book, token, pinned) = (Arc::clone(book), request.token, peer.clone());
    tokio::task::spawn_blocking(move || book.redeem(token, &pinned, now))
        .await
        .map_err(|e| Error::new(Kind::Io, format!("the pairing couldn't be kept: {e}")))??;
    Ok((peer, proof))
}
