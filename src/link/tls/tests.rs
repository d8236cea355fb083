//! Attacks L1 and L2 with handshakes in memory.

use super::*;
use crate::link::{MemoryBook, Peer};
use crate::vocab::StoreId;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, ServerConnection};

/// Shows this certificate, signs with that key.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl Shows {
    fn new(certificate: &Identity, key: &Identity) -> Arc<Self> {
        let key = provider().key_provider.load_private_key(key.key()).unwrap();
        Arc::new(Self(Arc::new(CertifiedKey::new(vec![certificate.certificate()], key))))
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> std::result::Result<(), rustls::Error> {
    let mut client = ClientConnection::new(client, ServerName::try_from("standbyfs").unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

fn book_with(peer: &Identity) -> Arc<dyn PeerBook> {
    let book = MemoryBook::default();
    let fingerprint = peer.fingerprint();
    let name = "b".to_owned();
    book.pin(&Peer { store: StoreId([2; 16]), name, fingerprint, addresses: vec![], port: 0 }).unwrap();
    Arc::new(book)
}

#[test]
fn a_certificate_without_its_key_opens_nothing() {
    let (a, b, thief) =
        (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
    let honest = || (client(&b, a.fingerprint()).unwrap().0, server(&a, book_with(&b)).unwrap());
    let (as_client, as_server) = honest();
    handshake(as_client, as_server).unwrap();

    // A client that shows b's certificate and signs with its own key.
    let (as_client, as_server) = honest();
    let mut stolen = Arc::unwrap_or_clone(as_client);
    stolen.client_auth_cert_resolver = Shows::new(&b, &thief);
    handshake(Arc::new(stolen.clone()), as_server).unwrap_err();
    // The control: with b's key the same way works.
    stolen.client_auth_cert_resolver = Shows::new(&b, &b);
    handshake(Arc::new(stolen), honest().1).unwrap();

    // A server that shows a's certificate and signs with its own key.
    let (as_client, as_server) = honest();
    let mut stolen = Arc::unwrap_or_clone(as_server);
    stolen.cert_resolver = Shows::new(&a, &thief);
    handshake(as_client, Arc::new(stolen)).unwrap_err();
}

#[test]
fn only_pinned_keys_pass_and_another_one_is_remembered() {
    let (a, b, stranger) =
        (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
    let (as_client, pinned) = client(&b, stranger.fingerprint()).unwrap();
    handshake(as_client, server(&a, book_with(&b)).unwrap()).unwrap_err();
    assert_eq!(pinned.other(), Some(a.fingerprint()));
    let (as_client, _) = client(&stranger, a.fingerprint()).unwrap();
    handshake(as_client, server(&a, book_with(&b)).unwrap()).unwrap_err();
}
