//! Who a site is on the link: a key made at the first start.
//!
//! I1. The key alone is kept (`key.pem`, mode 0600). The certificate is made from it at each start, because
//!     what a peer pins is the public key: two files could disagree, and a certificate could expire.
//! I2. A key is durable before it is used, and never replaced by this code: a new one would end every pairing.
//! I3. The fingerprint is BLAKE3 of the SubjectPublicKeyInfo (DER), shown as 64 hexadecimal digits.

use crate::vocab::{Error, Kind, Result};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;

const KEY_FILE: &str = "key.pem";

/// BLAKE3 of a public key: what a peer pins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a DER certificate's key. `Invalid` if it is no certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self> {
        let parsed = rustls::server::ParsedCertificate::try_from(certificate)
            .map_err(|e| Error::new(Kind::Invalid, format!("the peer's certificate can't be read: {e}")))?;
        Ok(Self(*blake3::hash(parsed.subject_public_key_info().as_ref()).as_bytes()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", &self.to_string()[..8])
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::new(Kind::Invalid, format!("`{text}` is no fingerprint: 64 hexadecimal digits"));
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| wrong())
    }
}

impl serde::Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The key of this site and a certificate made from it.
pub struct Identity {
    fingerprint: Fingerprint,
    key: Vec<u8>,
    certificate: CertificateDer<'static>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.fingerprint)
    }
}

impl Identity {
    /// A new key, kept nowhere.
    pub fn generate() -> Result<Self> {
        Self::from_key(&new_key()?)
    }

    /// Reads the key below `dir` (`NotFound` if there is none). A key that others may read is made private
    /// again, with a warning.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(KEY_FILE);
        let io = |e, what| Error::io(e, what).at(&path);
        let pem = std::fs::read_to_string(&path).map_err(|e| io(e, "can't read the site's key"))?;
        let mode = std::fs::metadata(&path).map_err(|e| io(e, "can't read the site's key"))?.permissions();
        if mode.mode() & 0o077 != 0 {
            tracing::warn!(path = %path.display(), mode = format!("{:o}", mode.mode() & 0o777),
                "the site's key was open to others; its mode is 0600 again");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))
                .map_err(|e| io(e, "can't make the site's key private"))?;
        }
        let key = rcgen::KeyPair::from_pem(&pem).map_err(|e| {
            Error::new(Kind::Damaged, format!("the site's key can't be read ({e})"))
                .at(&path)
                .advice("Restore the file; with a new key every peer has to be paired again")
        })?;
        Self::from_key(&key)
    }

    /// Makes a key below `dir`, durable when this returns. `Exists` if there is one.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join(KEY_FILE);
        let io = |e, what| Error::io(e, what).at(&path);
        if path.exists() {
            return Err(Error::new(Kind::Exists, "the site has a key").at(&path));
        }
        let key = new_key()?;
        // A fixed name: what a crash left behind is overwritten, since no peer ever saw it.
        let temporary = dir.join("key.pem.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|e| io(e, "can't write the site's key"))?;
        file.set_permissions(PermissionsExt::from_mode(0o600))
            .and_then(|()| file.write_all(key.serialize_pem().as_bytes()))
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&temporary, &path))
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(|e| io(e, "can't write the site's key"))?;
        Self::from_key(&key)
    }

    /// What peers pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    fn from_key(key: &rcgen::KeyPair) -> Result<Self> {
        let certificate = rcgen::CertificateParams::new(vec!["standbyfs".to_owned()])
            .and_then(|params| params.self_signed(key))
            .map_err(|e| Error::new(Kind::Invalid, format!("can't make a certificate: {e}")))?;
        let certificate = certificate.der().clone();
        Ok(Self {
            fingerprint: Fingerprint::of_certificate(&certificate)?,
            key: key.serialize_der(),
            certificate,
        })
    }
}

fn new_key() -> Result<rcgen::KeyPair> {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
        .map_err(|e| Error::new(Kind::Invalid, format!("can't make a key: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::open(dir.path()).unwrap_err().kind(), Kind::NotFound);
        let made = Identity::create(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        assert_eq!(Identity::create(dir.path()).unwrap_err().kind(), Kind::Exists);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let read = Identity::open(dir.path()).unwrap();
        assert_eq!(mode(), 0o600, "a key open to others is made private");
        assert_eq!(read.fingerprint(), made.fingerprint());
        assert_ne!(Identity::generate().unwrap().fingerprint(), made.fingerprint());
        let text = made.fingerprint().to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(text.parse::<Fingerprint>().unwrap(), made.fingerprint());
        std::fs::write(&path, "not a key").unwrap();
        assert_eq!(Identity::open(dir.path()).unwrap_err().kind(), Kind::Damaged);
    }
}
