//! The listener of modules: TCP, then mutual TLS, then a connection that is cut when it falls silent.
//!
//! Handshakes run in tasks of their own with a time limit, so a caller who dawdles holds up nobody. They have places of
//! their own, few for each source, and whoever has shaken hands has few connections for each certificate, so a caller
//! who comes in a crowd holds up nobody either.

mod shares;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::config::Tls;
use crate::identity::{CertificateId, Peer};
use crate::private;
use shares::{Share, Shares};

/// Longest time a handshake may take, and again the HTTP/2 preface after it.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at once, and of one source.
const HANDSHAKES: usize = 256;
const HANDSHAKES_OF_ONE: usize = 64;
/// A caller whose certificate nobody registered, or whose module is blocked, is told so, and has this long to ask.
const STRANGER_STAY: Duration = Duration::from_secs(10);
/// How often it is asked whose the certificate of an open connection is.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Connections of strangers, and of one of them.
const STRANGERS: usize = 64;
const STRANGERS_OF_ONE: usize = 4;
/// Connections that have shaken hands and wait to be served.
const BACKLOG: usize = 64;
/// Length of the HTTP/2 connection preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Rest after an accept failed, so that a full file table does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Key files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("cannot read certificates or keys in {}", file.display())]
    Pem {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        cause: PemError,
    },
    /// Certificate and key do not go together, or use something this build does not have.
    #[error("the certificate and its key cannot be used")]
    Identity(#[from] rustls::Error),
    /// The authority's certificate cannot be used.
    #[error("the certificate authority in tls.client_ca cannot be used")]
    Authority(#[from] VerifierBuilderError),
}

/// Reads the key files: TLS 1.2 or 1.3, a client certificate of our authority required, HTTP/2 only.
pub fn server_config(tls: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.client_ca)? {
        roots.add(certificate)?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let failed = |cause| TlsError::Pem { file: tls.key.clone(), cause };
    let key = private::read(&tls.key).map_err(|cause| failed(PemError::Io(cause)))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(failed)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&tls.certificate)?, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // No connection begins where another one ended: each shows its certificate, which is checked each time.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Reads a chain of certificates.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |cause| TlsError::Pem { file: file.to_owned(), cause };
    let chain: Vec<_> = CertificateDer::pem_reader_iter(open(file)?).collect::<Result<_, _>>().map_err(failed)?;
    if chain.is_empty() { Err(failed(PemError::NoItemsFound)) } else { Ok(chain) }
}

fn open(file: &Path) -> Result<File, TlsError> {
    File::open(file).map_err(|cause| TlsError::Pem { file: file.to_owned(), cause: PemError::Io(cause) })
}

/// How connections are taken in.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most at once; more are closed at once.
    pub connections: usize,
    /// Most at once by one certificate.
    pub of_one: usize,
    /// One that sends nothing for so long is cut.
    pub idle: Duration,
}

/// Whom a certificate belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A module that may connect.
    Known,
    /// Nobody's, or a blocked module's: each call is refused, and the connection ends soon.
    Stranger,
}

/// Accepts connections until the stream is dropped, which also frees the port. `refused` hears why a caller was not let
/// in; `standing` says whose a certificate is.
pub fn incoming<F>(
    tcp: TcpListener,
    config: Arc<ServerConfig>,
    limits: Limits,
    refused: impl Fn(&'static str) + Clone + Send + Sync + 'static,
    standing: impl Fn(CertificateId) -> F + Clone + Send + Sync + 'static,
) -> ReceiverStream<io::Result<Wire>>
where
    F: Future<Output = Standing> + Send,
{
    let (ready, stream) = mpsc::channel(BACKLOG);
    let acceptor = TlsAcceptor::from(config);
    let (shaking, sources) = (Arc::new(Semaphore::new(HANDSHAKES)), Shares::<IpAddr>::new(HANDSHAKES_OF_ONE));
    let places = Arc::new(Places::new(limits));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = tcp.accept() => accepted,
                () = ready.closed() => return,
            };
            let Ok((stream, address)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Some(share) = sources.take(shares::source(address.ip())) else {
                turn_away("crowd");
                continue;
            };
            let Ok(turn) = shaking.clone().try_acquire_owned() else {
                turn_away("busy");
                continue;
            };
            let (acceptor, ready, refused) = (acceptor.clone(), ready.clone(), refused.clone());
            let (standing, places) = (standing.clone(), places.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE, handshake(&acceptor, stream)).await {
                    Ok(Ok((tls, certificate))) => {
                        let whose = standing(certificate).await;
                        drop((turn, share));
                        let Some(place) = places.take(certificate, whose) else {
                            return turn_away("full");
                        };
                        let peer = Peer { certificate, address };
                        let (cut, heard) = oneshot::channel();
                        let wire = Wire::new(tls, peer, limits.idle, place, whose, heard);
                        // Fails only while the server is stopping.
                        let _ = ready.send(Ok(wire)).await;
                        drop(ready);
                        watch(cut, move || standing(certificate)).await;
                    }
                    // A flood of these must not flood the log: they are counted, and the audit log has some of them.
                    Ok(Err(error)) => {
                        turn_away("handshake");
                        refused("the TLS handshake failed");
                        tracing::debug!(%address, %error, "connection refused: TLS handshake failed");
                    }
                    Err(_) => {
                        turn_away("slow");
                        refused("the TLS handshake took too long");
                        tracing::debug!(%address, "connection refused: TLS handshake took too long");
                    }
                }
            });
        }
    });
    ReceiverStream::new(stream)
}

/// Asks now and then whose a connection's certificate is, for as long as the connection is there, and cuts it when its
/// module was blocked meanwhile.
async fn watch<F: Future<Output = Standing>>(mut cut: oneshot::Sender<()>, standing: impl Fn() -> F) {
    loop {
        tokio::select! {
            () = cut.closed() => return,
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
        if standing().await == Standing::Stranger {
            // It may have ended by itself.
            let _ = cut.send(());
            return;
        }
    }
}

/// The places of connections. Strangers have their own: they cannot take a module's.
struct Places {
    all: Arc<Semaphore>,
    modules: Shares<CertificateId>,
    strangers: Arc<Semaphore>,
    of_strangers: Shares<CertificateId>,
}

/// A place of a connection, given back when it is dropped.
struct Place {
    _one: OwnedSemaphorePermit,
    _share: Share<CertificateId>,
}

impl Places {
    fn new(limits: Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            modules: Shares::new(limits.of_one),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            of_strangers: Shares::new(STRANGERS_OF_ONE),
        }
    }

    fn take(&self, certificate: CertificateId, standing: Standing) -> Option<Place> {
        let (all, shares) = match standing {
            Standing::Known => (&self.all, &self.modules),
            Standing::Stranger => (&self.strangers, &self.of_strangers),
        };
        let share = shares.take(certificate)?;
        Some(Place { _one: all.clone().try_acquire_owned().ok()?, _share: share })
    }
}

fn turn_away(cause: &'static str) {
    metrics::counter!("warifu_connections_refused_total", "cause" => cause).increment(1);
}

async fn handshake(acceptor: &TlsAcceptor, tcp: TcpStream) -> io::Result<(TlsStream<TcpStream>, CertificateId)> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.accept(tcp).await?;
    let (_, connection) = tls.get_ref();
    let certificate = connection.peer_certificates().and_then(|chain| chain.first()).map(CertificateId::of);
    // The verifier requires one; without it there is no caller.
    let certificate = certificate.ok_or(io::ErrorKind::PermissionDenied)?;
    Ok((tls, certificate))
}

/// A connection: fails its next read when nothing came for too long, or when HTTP/2 has not begun in good time. A live
/// module answers HTTP/2 pings; before its preface has come there is nothing to ping.
pub struct Wire {
    tls: TlsStream<TcpStream>,
    peer: Peer,
    idle: Duration,
    last_read: Instant,
    /// Bytes of the preface that have not come, and when they must have.
    preface_left: usize,
    preface_due: Instant,
    /// When it is cut whatever comes.
    end: Option<Instant>,
    /// Rings when its module was blocked.
    cut: oneshot::Receiver<()>,
    alarm: Pin<Box<Sleep>>,
    _place: Place,
}

impl Wire {
    fn new(
        tls: TlsStream<TcpStream>,
        peer: Peer,
        idle: Duration,
        place: Place,
        standing: Standing,
        cut: oneshot::Receiver<()>,
    ) -> Self {
        let now = Instant::now();
        let preface_due = now + HANDSHAKE;
        let alarm = Box::pin(tokio::time::sleep_until(preface_due.min(now + idle)));
        metrics::gauge!("warifu_connections").increment(1.0);
        let end = (standing == Standing::Stranger).then(|| now + STRANGER_STAY);
        let preface_left = PREFACE;
        Self { tls, peer, idle, last_read: now, preface_left, preface_due, end, cut, alarm, _place: place }
    }

    /// When it is cut if nothing more comes.
    fn due(&self) -> Instant {
        let idle = self.last_read + self.idle;
        let due = if self.preface_left > 0 { idle.min(self.preface_due) } else { idle };
        self.end.map_or(due, |end| due.min(end))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        metrics::gauge!("warifu_connections").decrement(1.0);
    }
}

impl Connected for Wire {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(Ok(())) = Pin::new(&mut self.cut).poll(cx) {
            return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
        }
        if let Poll::Ready(read) = Pin::new(&mut self.tls).poll_read(cx, buffer) {
            self.last_read = Instant::now();
            if self.end.is_some_and(|end| end <= self.last_read) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.preface_left = self.preface_left.saturating_sub(buffer.filled().len() - before);
            return Poll::Ready(read);
        }
        // The alarm is moved only when it rings, not at each read.
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let due = self.due();
            if due <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.alarm.as_mut().reset(due);
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
