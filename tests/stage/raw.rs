//! A connection by hand: for clients that do what no library would.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Server;

/// Where a server listens.
pub fn address(server: &Server) -> SocketAddr {
    server.url().trim_start_matches("https://").parse().expect("an address")
}

/// A TCP connection.
pub async fn tcp(server: &Server) -> TcpStream {
    TcpStream::connect(address(server)).await.expect("the server accepts")
}

/// A TLS connection as the server's own module, HTTP/2 not begun.
pub async fn tls(server: &Server) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    certificates(&server.file("ca")).into_iter().for_each(|one| roots.add(one).expect("a certificate"));
    let key = PrivateKeyDer::from_pem_file(server.file("module_key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&server.file("module_cert")), key)
        .expect("an identity");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp(server).await).await.expect("a handshake")
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).expect("a file").map(|one| one.expect("a certificate")).collect()
}

/// Sends byte after byte with pauses, `bytes` again and again, until the other side cuts the connection; how long that
/// took.
pub async fn drip<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    bytes: &[u8],
    pause: Duration,
    limit: Duration,
) -> Duration {
    let begun = Instant::now();
    let mut taken = [0; 4096];
    for byte in bytes.iter().cycle() {
        assert!(begun.elapsed() < limit, "still connected after {limit:?}");
        if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
            break;
        }
        if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(pause, stream.read(&mut taken)).await {
            break;
        }
    }
    begun.elapsed()
}

/// Sends nothing until the other side cuts the connection; how long that took.
pub async fn stay_silent<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, limit: Duration) -> Duration {
    let begun = Instant::now();
    let mut taken = [0; 4096];
    loop {
        match tokio::time::timeout(limit.saturating_sub(begun.elapsed()), stream.read(&mut taken)).await {
            Ok(Ok(0) | Err(_)) => return begun.elapsed(),
            Ok(Ok(_)) => {}
            Err(_) => panic!("still connected after {limit:?}"),
        }
    }
}
