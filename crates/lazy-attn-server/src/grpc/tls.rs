//! Certificates and keys from PEM files, checked when they are read: what is wrong with a file is told with its name,
//! not in a handshake later.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use tonic::transport::{self, Certificate, ServerTlsConfig};

use crate::ServeError;

/// How long a client may take for its part of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A certificate with its chain, and its key.
#[derive(Clone)]
pub struct Identity {
    certificate_pem: Vec<u8>,
    key_pem: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

impl Identity {
    /// Reads the file `certificate`, leaf first, and the file `key`. A key that everybody on this machine can read is
    /// warned of.
    ///
    /// # Errors
    /// [`ServeError::Tls`] naming the file that cannot be read or holds something else, or the key that belongs to another
    /// certificate.
    pub fn load(certificate: &Path, key: &Path) -> Result<Identity, ServeError> {
        let (certificate_pem, chain) = certificates(certificate)?;
        let key_pem = read(key)?;
        let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| no_key(key, &key_pem))?;
        match CertifiedKey::from_der(chain, private, &ring::default_provider()) {
            Ok(_) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(refused(
                    key,
                    format!("is not the key of the certificate in {}", certificate.display()),
                ));
            }
            Err(error @ Error::InvalidCertificate(_)) => {
                return Err(refused(
                    certificate,
                    format!("holds a certificate that cannot be used: {error}"),
                ));
            }
            Err(error) => return Err(refused(key, format!("holds a key that cannot be used: {error}"))),
        }
        if is_readable_by_everybody(key) {
            let file = key.display();
            tracing::warn!(%file, "everybody on this machine can read the private key; take the right with chmod o-r");
        }
        Ok(Identity { certificate_pem, key_pem })
    }

    /// The certificate and the key, both in PEM.
    #[must_use]
    pub fn into_pem(self) -> (Vec<u8>, Vec<u8>) {
        (self.certificate_pem, self.key_pem)
    }
}

/// Authorities whose signature on the other side's certificate is believed.
#[derive(Debug, Clone)]
pub struct Authorities(Vec<u8>);

impl Authorities {
    /// Reads the certificates in `file`.
    ///
    /// # Errors
    /// [`ServeError::Tls`] if the file cannot be read, holds no certificate, or one that is no authority's.
    pub fn load(file: &Path) -> Result<Authorities, ServeError> {
        let (pem, certificates) = certificates(file)?;
        let mut roots = RootCertStore::empty();
        for (index, certificate) in certificates.into_iter().enumerate() {
            roots.add(certificate).map_err(|error| {
                refused(file, format!("certificate {} cannot be an authority's: {error}", index + 1))
            })?;
        }
        Ok(Authorities(pem))
    }

    /// The certificates in PEM.
    #[must_use]
    pub fn into_pem(self) -> Vec<u8> {
        self.0
    }
}

/// What a server encrypts with.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Who the server is.
    pub identity: Identity,
    /// Whose clients may connect, with a certificate of theirs; without it anyone may.
    pub client_authorities: Option<Authorities>,
}

impl ServerTls {
    pub(super) fn config(self) -> ServerTlsConfig {
        let (certificate, key) = self.identity.into_pem();
        let config = ServerTlsConfig::new()
            .identity(transport::Identity::from_pem(certificate, key))
            .timeout(HANDSHAKE_TIMEOUT);
        match self.client_authorities {
            Some(authorities) => config.client_ca_root(Certificate::from_pem(authorities.into_pem())),
            None => config,
        }
    }
}

fn refused(file: &Path, problem: impl Into<String>) -> ServeError {
    ServeError::Tls { file: PathBuf::from(file), problem: problem.into() }
}

fn read(file: &Path) -> Result<Vec<u8>, ServeError> {
    fs::read(file).map_err(|error| refused(file, format!("cannot be read: {error}")))
}

/// The file as it is and the certificates in it, at least one.
fn certificates(file: &Path) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), ServeError> {
    let pem = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| refused(file, format!("is not well-formed PEM: {error}")))?;
    if found.is_empty() {
        return Err(refused(file, "holds no certificate; one begins with -----BEGIN CERTIFICATE-----"));
    }
    Ok((pem, found))
}

fn no_key(file: &Path, pem: &[u8]) -> ServeError {
    let is_encrypted = String::from_utf8_lossy(pem).contains("ENCRYPTED");
    refused(
        file,
        match is_encrypted {
            true => "holds an encrypted private key; decrypt it, for example with openssl pkey",
            false => "holds no private key; one begins with -----BEGIN PRIVATE KEY-----",
        },
    )
}

#[cfg(unix)]
fn is_readable_by_everybody(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_readable_by_everybody(_file: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../lazy-attn-testkit/certs")).join(name)
    }

    /// A file with this content, in a folder of its own.
    fn scratch(name: &str, content: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("lazyattn-tls-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), content).unwrap();
        folder.join(name)
    }

    #[test]
    fn whatever_is_wrong_with_a_file_is_told_with_its_name() {
        let [cert, key] = ["server.pem", "server.key"].map(file);
        assert!(Identity::load(&cert, &key).is_ok());
        let text = fs::read_to_string(&cert).unwrap();
        let cut = scratch("cut.pem", &text[..text.len() / 2]);
        let junk = scratch("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let locked = scratch(
            "locked.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        let odd = scratch("odd.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        let cases = [
            (&file("no-such.pem"), &key, "no-such.pem cannot be read"),
            (&key, &key, "server.key holds no certificate"),
            (&cut, &key, "cut.pem is not well-formed PEM"),
            (&junk, &key, "junk.pem holds a certificate that cannot be used"),
            (&cert, &cert, "server.pem holds no private key"),
            (&cert, &locked, "locked.key holds an encrypted private key"),
            (&cert, &odd, "odd.key holds a key that cannot be used"),
            (&cert, &file("client.key"), "client.key is not the key of the certificate in"),
        ];
        for (cert, key, expected) in cases {
            let error = Identity::load(cert, key).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        for (file, expected) in
            [(&key, "holds no certificate"), (&junk, "certificate 1 cannot be an authority's")]
        {
            let error = Authorities::load(file).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        assert!(Authorities::load(&file("ca.pem")).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_everybody_can_read_is_noticed() {
        use std::os::unix::fs::PermissionsExt;
        let key = scratch("modes.key", "");
        for (mode, expected) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_readable_by_everybody(&key), expected, "{mode:o}");
        }
    }
}
