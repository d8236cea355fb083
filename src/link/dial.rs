//! The side that dials: pairing, and keeping a connection to each peer that has an address.

use crate::link::connection::Shared;
use crate::link::node::{DialState, Inner};
use crate::link::pairing::{self, Own, hear, say};
use crate::link::wire::{Hello, Purpose, Verdict};
use crate::link::{Backoff, Fingerprint, Invitation, Peer, book, tls};
use crate::vocab::{Error, Kind, Result, StoreId};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// An address as it is dialled: `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
pub(super) fn endpoint(address: &str, port: u16) -> (String, u16) {
    if let Ok(ip) = address.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        return (ip.to_string(), port);
    }
    if let Some((host, own)) = address.rsplit_once(':')
        && let Ok(own) = own.parse()
    {
        return (host.trim_matches(['[', ']']).to_owned(), own);
    }
    (address.to_owned(), port)
}

/// Options that every socket of a link has. No TCP_USER_TIMEOUT: it ends a connection whose other side takes
/// nothing out for that time, though it lives; silence is measured by the connection itself (its rule C3).
/// Keepalive probes are for the time in which this side takes nothing out and so hears nothing.
pub(super) fn tune(socket: &TcpStream, dead_after: Duration) {
    use rustix::net::sockopt;
    let set = || -> rustix::io::Result<()> {
        sockopt::set_tcp_nodelay(socket, true)?;
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, dead_after.max(Duration::from_secs(3)) / 3)?;
        sockopt::set_tcp_keepintvl(socket, dead_after.max(Duration::from_secs(6)) / 6)?;
        sockopt::set_tcp_keepcnt(socket, 4)
    };
    if let Err(error) = set() {
        tracing::warn!(%error, "the socket options of a link couldn't be set");
    }
}

/// Keeps a connection to this peer as long as the book has it and this task isn't aborted.
pub(super) async fn keep(inner: Arc<Inner>, store: StoreId) {
    let settings = &inner.settings;
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let mut backoff = Backoff::new(millis(settings.retry_first), millis(settings.retry_longest));
    let slot = inner.slots.of(store);
    loop {
        if let Some(connection) = slot.live() {
            let since = tokio::time::Instant::now();
            connection.wait_end().await;
            // One that ends at once counts as a failure, or two sites that can't agree would dial each other
            // in a tight loop.
            if since.elapsed() >= settings.dead_after {
                backoff.worked();
            }
        } else {
            let Some(peer) = inner.book.by_store(store) else { return };
            if peer.addresses.is_empty() {
                let _ = timeout(settings.retry_longest, slot.wake.notified()).await;
                continue;
            }
            match connect(&inner, &peer).await {
                Ok(()) => continue,
                Err(error) => {
                    tracing::info!(peer = %peer.name, %error, "can't connect");
                    let mut state = slot.state.lock();
                    state.failures = state.failures.saturating_add(1);
                    state.last_error = Some(error.to_string());
                    state.refusal = error.name();
                }
            }
        }
        let wait = backoff.failed(inner.entropy.random_64());
        slot.state.lock().next_wait_ms = wait;
        let _ = timeout(Duration::from_millis(wait), slot.wake.notified()).await;
    }
}

/// Dials a peer's addresses, one after the other; the last failure counts.
async fn connect(inner: &Arc<Inner>, peer: &Peer) -> Result<()> {
    let mut last = Error::new(Kind::Unreachable, "the peer has no address");
    for address in &peer.addresses {
        let (host, port) = endpoint(address, peer.port);
        match connect_to(inner, peer, &host, port).await {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(inner: &Arc<Inner>, peer: &Peer, host: &str, port: u16) -> Result<()> {
    let (mut stream, mine, theirs) = greet(inner, host, port, peer.fingerprint, Purpose::Link).await?;
    if theirs.store != peer.store {
        let what = format!("`{}` has another store now", peer.name);
        return Err(Error::refused("identity-conflict", what).advice("Forget the peer and pair again"));
    }
    let agreed = mine.agree(&theirs)?;
    let verdict: Verdict = hear(&mut stream, inner.settings.handshake + inner.settings.dead_after).await?;
    if let Some(refusal) = verdict.refused {
        return Err(refusal.into_error());
    }
    let slot = inner.slots.of(peer.store);
    let shared = Shared::new(peer.store, inner.settings.store, agreed.protocol, agreed.features);
    if slot.install(&shared) {
        *slot.state.lock() = DialState::default();
        shared.run(stream, vec![slot.rate.clone(), inner.rate.clone()], inner.settings.times());
        inner.announce(&shared);
    }
    Ok(())
}

/// Pairs with the site that made this token, over the first of its addresses that answers.
pub(super) async fn pair(inner: &Arc<Inner>, invitation: &Invitation, own_port: u16) -> Result<Peer> {
    let mut last = Error::new(Kind::Unreachable, "the token names no address");
    for address in &invitation.addresses {
        let (host, port) = endpoint(address, invitation.port);
        match pair_at(inner, invitation, &host, port, own_port).await {
            Ok(peer) => return Ok(peer),
            Err(error) if error.name().is_some() => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last.advice("The site that made the token must run and its port must be reachable from here"))
}

async fn pair_at(
    inner: &Arc<Inner>,
    invitation: &Invitation,
    host: &str,
    port: u16,
    own_port: u16,
) -> Result<Peer> {
    let (mut stream, mine, theirs) = greet(inner, host, port, invitation.fingerprint, Purpose::Pair).await?;
    mine.agree(&theirs)?;
    // Before the other side pins this one: nothing here shall stand in the way afterwards.
    book::admissible(&inner.book.peers(), &pairing::invited(invitation, &theirs))?;
    let exporter = pairing::exporter(stream.get_ref().1)?;
    let own = Own {
        store: inner.settings.store,
        fingerprint: inner.identity.fingerprint(),
        addresses: &inner.settings.addresses,
        port: own_port,
        wait: inner.settings.handshake,
    };
    pairing::accept(&mut stream, exporter, &own, &theirs, invitation).await
}

/// Connects, checks the key, exchanges hellos.
async fn greet(
    inner: &Arc<Inner>,
    host: &str,
    port: u16,
    expected: Fingerprint,
    purpose: Purpose,
) -> Result<(TlsStream<TcpStream>, Hello, Hello)> {
    let settings = &inner.settings;
    let unreachable =
        |why: String| Error::new(Kind::Unreachable, format!("can't reach {host}:{port}: {why}"));
    let tcp = timeout(settings.connect, TcpStream::connect((host, port)))
        .await
        .map_err(|_| unreachable("no answer".into()))?
        .map_err(|e| unreachable(e.to_string()))?;
    tune(&tcp, settings.dead_after);
    let (config, pinned) = tls::client(&inner.identity, expected)?;
    let name = ServerName::try_from("standbyfs").map_err(|e| unreachable(e.to_string()))?;
    let connecting = tokio_rustls::TlsConnector::from(config).connect(name, tcp);
    let mut stream = timeout(settings.handshake, connecting)
        .await
        .map_err(|_| unreachable("the TLS handshake didn't end".into()))?
        .map_err(|e| match pinned.other() {
            Some(other) => Error::refused(
                "fingerprint-mismatch",
                format!("{host}:{port} has the key {other}, expected was {expected}"),
            )
            .advice(
                "Another machine answers there, or the site's key was made anew: then forget and pair again",
            ),
            None => unreachable(e.to_string()),
        })?;
    let mine = Hello::new(settings.store, &settings.name, &settings.features, &settings.required, purpose);
    let greeted = async {
        say(&mut stream, &mine).await?;
        hear(&mut stream, settings.handshake).await
    };
    let theirs = greeted.await.map_err(|error: Error| {
        // In TLS 1.3 the listening side looks at our certificate after our handshake has ended: its refusal is
        // the first thing that is read.
        let text = error.to_string();
        if text.contains("AccessDenied") {
            return Error::refused("not-paired", format!("the site at {host}:{port} doesn't know this one"))
                .advice("Pair again: `pair create` there, `pair accept` here");
        }
        unreachable(text)
    })?;
    Ok((stream, mine, theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_a_port() {
        for (text, host, port) in [
            ("192.0.2.1", "192.0.2.1", 8084),
            ("192.0.2.1:99", "192.0.2.1", 99),
            ("2001:db8::1", "2001:db8::1", 8084),
            ("[2001:db8::1]", "2001:db8::1", 8084),
            ("[2001:db8::1]:99", "2001:db8::1", 99),
            ("site.example", "site.example", 8084),
            ("site.example:99", "site.example", 99),
        ] {
            assert_eq!(endpoint(text, 8084), (host.to_owned(), port), "{text}");
        }
    }
}
