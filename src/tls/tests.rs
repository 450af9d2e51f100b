//! One caller cannot keep the others out, and each connection shows its certificate.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;

use super::*;
use crate::ca::{Authority, Identity, Purpose};

struct Stage {
    server: Arc<ServerConfig>,
    authority: Authority,
    _folder: tempfile::TempDir,
}

fn stage() -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create("test authority").unwrap();
    let (client_ca, _) = authority.identity().write(folder.path(), "ca").unwrap();
    let server = authority.issue("server", &Purpose::Server(vec!["localhost".to_owned()])).unwrap();
    let (certificate, key) = server.write(folder.path(), "server").unwrap();
    Stage { server: server_config(&Tls { certificate, key, client_ca }).unwrap(), authority, _folder: folder }
}

impl Stage {
    /// A module's TLS, by a certificate of its own.
    fn module(&self, name: &str) -> TlsConnector {
        let Identity { certificate, .. } = self.authority.identity();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (leaf, key) = self.authority.issue(name, &Purpose::Module).unwrap().write(folder.path(), name).unwrap();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&leaf).unwrap(), key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    async fn open(&self, limits: Limits) -> (SocketAddr, ReceiverStream<io::Result<Wire>>) {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        (address, incoming(tcp, self.server.clone(), limits, |_| {}, async |_| Standing::Known))
    }
}

const LIMITS: Limits = Limits { connections: 64, of_one: 2, idle: Duration::from_secs(30) };

async fn dial(tls: &TlsConnector, server: SocketAddr, from: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let tcp = socket.connect(server).await.unwrap();
    tls.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap()
}

#[tokio::test]
async fn one_certificate_has_its_share_of_connections() {
    let stage = stage();
    let (server, mut connections) = stage.open(LIMITS).await;
    let (greedy, other) = (stage.module("greedy"), stage.module("other"));
    let mut kept = Vec::new();
    for _ in 0..2 {
        let client = dial(&greedy, server, "127.0.0.1").await;
        kept.push((client, connections.next().await.unwrap().unwrap()));
    }
    let mut third = dial(&greedy, server, "127.0.0.1").await;
    assert!(matches!(third.read(&mut [0; 1]).await, Ok(0) | Err(_)), "the third is closed");
    let _other = dial(&other, server, "127.0.0.1").await;
    connections.next().await.unwrap().unwrap();

    // Its own place comes back when it goes.
    kept.pop();
    let _again = dial(&greedy, server, "127.0.0.1").await;
    connections.next().await.unwrap().unwrap();
}

#[tokio::test]
async fn callers_who_do_not_shake_hands_take_no_connection_and_keep_nobody_else_out() {
    let stage = stage();
    let (server, mut connections) = stage.open(Limits { connections: 1, ..LIMITS }).await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_OF_ONE {
        silent.push(TcpStream::connect(server).await.unwrap());
    }
    // From the same address there is no place for one more.
    let mut late = TcpStream::connect(server).await.unwrap();
    assert!(matches!(late.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    // From another there is.
    let _client = dial(&stage.module("till"), server, "127.0.0.2").await;
    connections.next().await.unwrap().unwrap();
}

#[tokio::test]
async fn every_connection_shows_its_certificate_again() {
    let stage = stage();
    let (server, mut connections) = stage.open(LIMITS).await;
    let till = stage.module("till");
    for _ in 0..2 {
        let mut client = dial(&till, server, "127.0.0.1").await;
        let wire = connections.next().await.unwrap().unwrap();
        assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        drop(wire);
        // Whatever the server still sends after the handshake has come by now.
        let _ = client.read(&mut [0; 1]).await;
    }
}

#[tokio::test]
async fn a_stranger_stays_for_a_short_time_only() {
    let stage = stage();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = tcp.local_addr().unwrap();
    let mut connections = incoming(tcp, stage.server.clone(), LIMITS, |_| {}, async |_| Standing::Stranger);
    let _client = dial(&stage.module("nobody"), server, "127.0.0.1").await;
    let mut wire = connections.next().await.unwrap().unwrap();
    // It has begun HTTP/2, so nothing but its standing ends it.
    wire.preface_left = 0;
    tokio::time::pause();
    let begun = Instant::now();
    let error = wire.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(
        (STRANGER_STAY - Duration::from_secs(1)..STRANGER_STAY + Duration::from_secs(1)).contains(&begun.elapsed())
    );
}

#[tokio::test]
async fn a_module_that_is_blocked_loses_the_connections_it_has() {
    let stage = stage();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = tcp.local_addr().unwrap();
    let patient = Limits { idle: Duration::from_secs(3600), ..LIMITS };
    let blocked = Arc::new(AtomicBool::new(false));
    let asked = blocked.clone();
    let standing = move |_| {
        let blocked = asked.load(Ordering::Relaxed);
        async move { if blocked { Standing::Stranger } else { Standing::Known } }
    };
    let mut connections = incoming(tcp, stage.server.clone(), patient, |_| {}, standing);
    let _client = dial(&stage.module("till"), server, "127.0.0.1").await;
    let mut wire = connections.next().await.unwrap().unwrap();
    wire.preface_left = 0;
    tokio::time::pause();
    let read = tokio::time::timeout(ASK_AGAIN * 2 + Duration::from_secs(1), wire.read_u8());
    assert!(read.await.is_err(), "a module that is not blocked stays");
    blocked.store(true, Ordering::Relaxed);
    let error = tokio::time::timeout(ASK_AGAIN * 2, wire.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}
