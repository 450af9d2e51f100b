//! A certificate authority, a server and a module, made for one test.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate and its key, PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

/// One authority and its two leaves.
pub struct Certificates {
    pub ca: String,
    pub server: Leaf,
    pub client: Leaf,
}

impl Certificates {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let server = leaf("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth, &issuer);
        let client = leaf("till-1", ExtendedKeyUsagePurpose::ClientAuth, &issuer);
        Self { ca, server, client }
    }
}

fn leaf(name: &str, usage: ExtendedKeyUsagePurpose, issuer: &Issuer<'_, KeyPair>) -> Leaf {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap().pem();
    Leaf { certificate, key: key.serialize_pem() }
}
