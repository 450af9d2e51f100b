//! A small certificate authority for mutual TLS: for development, for a first installation, and for tests.
//!
//! The authority and what it issues have different common names, and every certificate says what it is for and whose
//! key signed it (authority key identifier, extended key usage): OpenSSL-based clients insist on that.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::private;

/// How long an authority lives.
const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// How long what it issues lives.
const LEAF_LIFE: Duration = Duration::days(397);
/// How far clocks may differ.
const SKEW: Duration = Duration::hours(1);

/// Certificates that cannot be made or written.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The generator refused.
    #[error("cannot make the certificate")]
    Make(#[from] rcgen::Error),
    /// A file cannot be read or written.
    #[error("cannot use {}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The server, reached under these names or addresses.
    Server(Vec<String>),
    /// A comm module.
    Module,
}

/// A certificate and its private key, as PEM. A secret.
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    key: Zeroizing<String>,
}

/// An authority that can issue.
pub struct Authority {
    identity: Identity,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority.
    pub fn create(common_name: &str) -> Result<Self, CaError> {
        let mut params = params(common_name, AUTHORITY_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        let identity = Identity { certificate, key: Zeroizing::new(key.serialize_pem()) };
        Ok(Self { identity, issuer: Issuer::new(params, key) })
    }

    /// Reads an authority back from its two files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, CaError> {
        let identity = Identity {
            certificate: read(certificate)?,
            key: private::read_text(key).map_err(|cause| CaError::File { file: key.to_owned(), cause })?,
        };
        let issuer = Issuer::from_ca_cert_pem(&identity.certificate, KeyPair::from_pem(&identity.key)?)?;
        Ok(Self { identity, issuer })
    }

    /// Issues a certificate with a new key.
    pub fn issue(&self, common_name: &str, purpose: &Purpose) -> Result<Identity, CaError> {
        let mut params = params(common_name, LEAF_LIFE)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        match purpose {
            Purpose::Module => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Purpose::Server(names) => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params.subject_alt_names = names.iter().map(|name| alternative(name)).collect::<Result<_, _>>()?;
            }
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: Zeroizing::new(key.serialize_pem()) })
    }

    /// Its own certificate and key.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Identity {
    /// The private key, as PEM. A secret.
    pub(crate) fn key_pem(&self) -> &str {
        &self.key
    }

    /// Writes `NAME.pem` and `NAME.key` (mode 0600) into a folder and returns their paths. Existing files stay: an
    /// authority overwritten by mistake is gone.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(PathBuf, PathBuf), CaError> {
        let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        write(&key, self.key.as_bytes(), 0o600)?;
        write(&certificate, self.certificate.as_bytes(), 0o644)?;
        Ok((certificate, key))
    }
}

fn params(common_name: &str, life: Duration) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::new(Vec::new())?;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + life;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn alternative(name: &str) -> Result<SanType, CaError> {
    Ok(match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}

fn read(file: &Path) -> Result<String, CaError> {
    fs::read_to_string(file).map_err(|cause| CaError::File { file: file.to_owned(), cause })
}

fn write(file: &Path, bytes: &[u8], mode: u32) -> Result<(), CaError> {
    let failed = |cause| CaError::File { file: file.to_owned(), cause };
    let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(file).map_err(failed)?;
    // Whatever the process's mask says: a certificate is for everybody to read.
    let set = out.set_permissions(Permissions::from_mode(mode));
    set.and_then(|()| out.write_all(bytes)).and_then(|()| out.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create("test authority").unwrap();
        let (certificate, key) = authority.identity().write(folder.path(), "ca").unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(authority.identity().write(folder.path(), "ca"), Err(CaError::File { .. })));

        let again = Authority::load(&certificate, &key).unwrap();
        let leaf = again.issue("till-1", &Purpose::Module).unwrap();
        assert!(leaf.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
