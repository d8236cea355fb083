//! The side that listens: who gets in, and as what.
//!
//! A1. At most [`STRANGERS_MAX`] connections are in their handshake at once; each step of it has a time limit and
//!     a small limit of bytes. So whoever has no key can't use up memory or hold up peers for long.
//! A2. A key that isn't a peer's gets the pairing exchange, and is refused anything else.

use crate::link::connection::Shared;
use crate::link::dial::tune;
use crate::link::node::Inner;
use crate::link::pairing::{self, Own, hear, say};
use crate::link::wire::{Hello, Purpose, Refusal, Verdict};
use crate::link::{Fingerprint, Peer};
use crate::vocab::{Error, Kind, Result};
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;

const STRANGERS_MAX: usize = 64;

pub(super) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

/// Takes connections until it is aborted.
pub(super) async fn serve(inner: Arc<Inner>, socket: TcpListener, config: Arc<ServerConfig>) {
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let room = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (tcp, from) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: it passes, and until then nobody is served by spinning.
                tracing::warn!(%error, "can't take a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let (inner, acceptor) = (Arc::clone(&inner), acceptor.clone());
        tokio::spawn(async move {
            if let Err(error) = greet(&inner, &acceptor, tcp, from).await {
                tracing::info!(%from, %error, "a connection was refused");
            }
            drop(permit);
        });
    }
}

async fn greet(
    inner: &Arc<Inner>,
    acceptor: &tokio_rustls::TlsAcceptor,
    tcp: TcpStream,
    from: SocketAddr,
) -> Result<()> {
    let settings = &inner.settings;
    tune(&tcp, settings.dead_after);
    let mut stream = tokio::time::timeout(settings.handshake, acceptor.accept(tcp))
        .await
        .map_err(|_| Error::new(Kind::Unreachable, "the TLS handshake didn't end"))?
        .map_err(|e| Error::io(e, "the TLS handshake failed"))?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.ok_or_else(|| Error::new(Kind::Invalid, "no certificate was shown"))?;
    let fingerprint = Fingerprint::of_certificate(shown)?;
    let theirs: Hello = hear(&mut stream, settings.handshake).await?;
    let mine =
        Hello::new(settings.store, &settings.name, &settings.features, &settings.required, theirs.purpose);
    say(&mut stream, &mine).await?;
    let agreed = mine.agree(&theirs)?;
    match theirs.purpose {
        Purpose::Pair => pair(inner, &mut stream, &theirs, fingerprint, from).await,
        Purpose::Link => {
            let peer = known(inner, &theirs, fingerprint);
            let slot = inner.slots.of(theirs.store);
            let _one = slot.admission.lock().await;
            let admitted = match peer {
                Ok(_) if !slot.admits(settings.store, settings.dead_after.min(settings.handshake)).await => {
                    Err(Error::refused("duplicate-connection", "there is a connection already"))
                }
                other => other,
            };
            let refused = admitted.as_ref().err().map(Refusal::of);
            say(&mut stream, &Verdict { refused }).await?;
            let peer = admitted?;
            let shared = Shared::new(peer.store, peer.store, agreed.protocol, agreed.features);
            if slot.install(&shared) {
                shared.run(stream, vec![slot.rate.clone(), inner.rate.clone()], settings.times());
                inner.announce(&shared);
            }
            Ok(())
        }
    }
}

fn known(inner: &Inner, theirs: &Hello, fingerprint: Fingerprint) -> Result<Peer> {
    let not_paired = || {
        Error::refused("not-paired", format!("the site `{}` doesn't know this one", inner.settings.name))
            .advice("Pair again: `pair create` there, `pair accept` here")
    };
    let peer = inner.book.by_fingerprint(&fingerprint).ok_or_else(not_paired)?;
    if peer.store == theirs.store {
        return Ok(peer);
    }
    Err(Error::refused("identity-conflict", format!("`{}` came with another store", peer.name))
        .advice("Forget the peer and pair again"))
}

async fn pair(
    inner: &Arc<Inner>,
    stream: &mut TlsStream<TcpStream>,
    theirs: &Hello,
    fingerprint: Fingerprint,
    from: SocketAddr,
) -> Result<()> {
    let exporter = pairing::exporter(stream.get_ref().1)?;
    let own = Own {
        store: inner.settings.store,
        fingerprint: inner.identity.fingerprint(),
        addresses: &[],
        port: 0,
        wait: inner.settings.handshake,
    };
    let peer =
        pairing::invite(stream, exporter, &own, (theirs, fingerprint), from.ip(), &inner.book, inner.now())
            .await?;
    tracing::info!(peer = %peer.name, fingerprint = %peer.fingerprint, "paired");
    inner.refresh(&tokio::runtime::Handle::current());
    Ok(())
}
