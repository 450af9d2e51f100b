//! Who is let into a ceremony: a registered person who holds the private key of the certificate, each once.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use warifu_actors::store::CustodianRecord;
use warifu_actors::store::custodian::Role;
use warifu_actors::store::module::ModuleState;
use warifu_core::merchant::CustodianId;

use crate::identity::CertificateId;
use crate::private;
use crate::tls::{self, TlsError};

/// Why a person is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// A file is not there, holds something else, or others may read the private key.
    #[error("the files hold no certificate, or no private key that is its holder's alone")]
    Unreadable,
    /// The authority does not vouch for the certificate, or not any more.
    #[error("the certificate is not one of the authority in tls.client_ca, or not valid now")]
    NotIssued,
    /// The private key is another certificate's.
    #[error("the private key does not belong to the certificate")]
    NotTheHolder,
    /// Nobody registered it.
    #[error("no custodian is registered with this certificate")]
    Unknown,
    /// The person sees keys, and takes no part.
    #[error("{0} is an operator, not a custodian")]
    Operator(CustodianId),
    /// The person may take part no more.
    #[error("the custodian {0} is blocked")]
    Blocked(CustodianId),
    /// The same person cannot be two.
    #[error("the custodian {0} has taken part already: a key takes different people")]
    Again(CustodianId),
}

/// A person who was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// Who.
    pub(crate) id: CustodianId,
    /// By which certificate.
    pub(crate) certificate: CertificateId,
}

impl Admitted {
    /// Whether the person may still take part, as the roster is now.
    pub(crate) fn still(&self, roster: &[CustodianRecord]) -> Result<(), NotAdmitted> {
        match roster.iter().find(|person| person.id == self.id && person.certificate_sha256 == self.certificate.0) {
            Some(person) if person.state == ModuleState::Active => Ok(()),
            Some(person) => Err(NotAdmitted::Blocked(person.id.clone())),
            None => Err(NotAdmitted::Unknown),
        }
    }
}

/// Whom to let in.
pub(crate) struct Door {
    roster: Vec<CustodianRecord>,
    authority: Arc<dyn ClientCertVerifier>,
    inside: Vec<CustodianId>,
}

impl Door {
    /// For these people, with certificates of the authority in this file.
    pub(crate) fn new(roster: Vec<CustodianRecord>, client_ca: &Path) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in tls::certificates(client_ca)? {
            roots.add(certificate)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authority = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { roster, authority, inside: Vec::new() })
    }

    /// Lets a person in who shows both files.
    pub(crate) fn admit(&mut self, certificate: &Path, key: &Path) -> Result<Admitted, NotAdmitted> {
        let chain = tls::certificates(certificate).map_err(|_| NotAdmitted::Unreadable)?;
        let (leaf, intermediates) = chain.split_first().ok_or(NotAdmitted::NotIssued)?;
        let vouched = self.authority.verify_client_cert(leaf, intermediates, UnixTime::now());
        vouched.map_err(|_| NotAdmitted::NotIssued)?;
        let pem = private::read(key).map_err(|_| NotAdmitted::Unreadable)?;
        let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| NotAdmitted::Unreadable)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::from_der(chain.clone(), secret, &provider)
            .and_then(|held| held.keys_match())
            .map_err(|_| NotAdmitted::NotTheHolder)?;
        let certificate = CertificateId::of(leaf);
        let person = self.roster.iter().find(|person| person.certificate_sha256 == certificate.0);
        let person = person.ok_or(NotAdmitted::Unknown)?;
        if person.role != Role::Custodian {
            return Err(NotAdmitted::Operator(person.id.clone()));
        }
        if person.state == ModuleState::Blocked {
            return Err(NotAdmitted::Blocked(person.id.clone()));
        }
        if self.inside.contains(&person.id) {
            return Err(NotAdmitted::Again(person.id.clone()));
        }
        self.inside.push(person.id.clone());
        Ok(Admitted { id: person.id.clone(), certificate })
    }
}
