//! Why a connection broke that had just been made: a server that does not take the module's certificate says so in an
//! alert after the handshake (RFC 8446 §4.4.2), and closes. Whoever is writing by then hears of a broken pipe and never
//! reads the alert. So the question is put once more, by somebody who only listens.

use std::error::Error;
use std::io::{self, Read as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tonic::Status;

/// How long is listened.
const LISTENS: Duration = Duration::from_secs(2);

/// Listens at a server for what it says to a certificate.
#[derive(Clone)]
pub(crate) struct Probe {
    tls: Arc<ClientConfig>,
    address: String,
    name: ServerName<'static>,
    wait: Duration,
}

impl Probe {
    /// With these PEMs; none where they cannot be used, which the dialing itself tells.
    pub(crate) fn new(
        (ca, certificate, key): (&[u8], &[u8], &[u8]),
        (host, port): (&str, u16),
        name: &str,
        wait: Duration,
    ) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca).flatten() {
            roots.add(certificate).ok()?;
        }
        let chain = CertificateDer::pem_slice_iter(certificate).flatten().collect();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key).ok()?)
            .ok()?;
        let name = ServerName::try_from(name.to_owned()).ok()?;
        Some(Self { tls: Arc::new(tls), address: format!("{host}:{port}"), name, wait: wait.min(LISTENS) })
    }

    /// The failure of a dial, or what the server says to the certificate, where that is the reason.
    pub(crate) async fn explain(&self, status: Status) -> Status {
        if !is_cut_off(&status) {
            return status;
        }
        let probe = self.clone();
        match tokio::task::spawn_blocking(move || probe.listen()).await {
            Ok(Some(refused)) => Status::from_error(Box::new(refused)),
            Ok(None) | Err(_) => status,
        }
    }

    fn listen(&self) -> Option<rustls::Error> {
        let address = self.address.to_socket_addrs().ok()?.next()?;
        let socket = TcpStream::connect_timeout(&address, self.wait).ok()?;
        socket.set_read_timeout(Some(self.wait)).ok()?;
        socket.set_write_timeout(Some(self.wait)).ok()?;
        let connection = ClientConnection::new(Arc::clone(&self.tls), self.name.clone()).ok()?;
        // Reading shakes hands first.
        let error = StreamOwned::new(connection, socket).read(&mut [0]).err()?;
        error.into_inner()?.downcast::<rustls::Error>().ok().map(|error| *error)
    }
}

/// Whether the other side was gone before it was heard.
fn is_cut_off(status: &Status) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let mut cause = status.source();
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)) {
            return true;
        }
        cause = error.source();
    }
    false
}
