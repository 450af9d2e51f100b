//! Who is calling: the client certificate, by its SHA-256.
//!
//! TLS has proved that the caller holds the certificate's key and that our authority issued it. Which module and
//! merchant that is, the registry says; this file deliberately does not know.

use std::fmt;
use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

/// SHA-256 over a certificate's DER: how modules are registered and recognised.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateId(pub [u8; 32]);

impl CertificateId {
    /// Of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateId({self})")
    }
}

/// The other end of a connection; every request on it carries this.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its certificate.
    pub certificate: CertificateId,
    /// Where it calls from.
    pub address: SocketAddr,
}
