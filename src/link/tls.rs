//! Mutual TLS 1.3 with pinned keys.
//!
//! L1. A handshake succeeds only if the other side proves by its signature that it holds the key of its
//!     certificate; comparing fingerprints without that would prove nothing.
//! L2. The dialling side accepts exactly one key. The listening side accepts the keys of its peers, and, while
//!     it remembers tokens, an unknown one: such a connection is for the pairing exchange only (`node`).
//! L3. Names, chains and expiry of certificates mean nothing here. TLS 1.2, tickets and early data are off:
//!     each connection is a full handshake with the present state of the book.

use crate::link::{Fingerprint, Identity, PeerBook};
use crate::vocab::{Error, Kind, Result};
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use std::sync::Arc;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn tls_error(error: &rustls::Error) -> Error {
    Error::new(Kind::Invalid, format!("can't set up TLS: {error}"))
}

fn refused() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

fn fingerprint(certificate: &CertificateDer<'_>) -> std::result::Result<Fingerprint, rustls::Error> {
    Fingerprint::of_certificate(certificate)
        .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// For dialling the site with this key. The verifier remembers another key that was shown instead.
pub(super) fn client(identity: &Identity, expected: Fingerprint) -> Result<(Arc<ClientConfig>, Arc<Pinned>)> {
    let pinned = Arc::new(Pinned { expected, other: Mutex::new(None), provider: provider() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| tls_error(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&pinned) as _)
        .with_client_auth_cert(vec![identity.certificate()], identity.key())
        .map_err(|e| tls_error(&e))?;
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok((Arc::new(config), pinned))
}

/// For listening.
pub(super) fn server(identity: &Identity, book: Arc<dyn PeerBook>) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| tls_error(&e))?
        .with_client_cert_verifier(Arc::new(Known { book, provider: provider() }))
        .with_single_cert(vec![identity.certificate()], identity.key())
        .map_err(|e| tls_error(&e))?;
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Accepts one key.
#[derive(Debug)]
pub(super) struct Pinned {
    expected: Fingerprint,
    other: Mutex<Option<Fingerprint>>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    /// The key that was shown instead of the expected one.
    pub(super) fn other(&self) -> Option<Fingerprint> {
        *self.other.lock()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let shown = fingerprint(end_entity)?;
        if shown == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        *self.other.lock() = Some(shown);
        Err(refused())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts the keys of peers; any key while tokens are remembered.
struct Known {
    book: Arc<dyn PeerBook>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Known")
    }
}

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        let shown = fingerprint(end_entity)?;
        if self.book.by_fingerprint(&shown).is_some() || !self.book.tokens().is_empty() {
            return Ok(ClientCertVerified::assertion());
        }
        Err(refused())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
