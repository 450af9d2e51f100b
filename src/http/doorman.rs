//! Who may stay on the plain HTTP port: few at once, and nobody for long, so that a health check always finds a place.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at once; more wait to be accepted.
const PLACES: usize = 64;
/// Within this the first request's head must have come.
const ASKED: Duration = Duration::from_secs(5);
/// After this a connection is cut, whatever it does. A scraper opens another one.
const STAY: Duration = Duration::from_secs(15);
/// Rest after an accept failed, so that a full file table does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections, each with a place and an end.
pub(super) struct Doorman {
    tcp: TcpListener,
    places: Arc<Semaphore>,
}

/// A connection with an end.
pub(super) struct Visit<S = TcpStream> {
    stream: S,
    begun: Instant,
    /// An answer has begun, so a request has come.
    asked: bool,
    alarm: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Doorman {
    /// At this port.
    pub(super) fn new(tcp: TcpListener) -> Self {
        Self { tcp, places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl Listener for Doorman {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        // The semaphore is never closed.
        let place = self.places.clone().acquire_owned().await.ok();
        loop {
            match self.tcp.accept().await {
                Ok((stream, address)) => return (Visit::new(stream, place), address),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl<S> Visit<S> {
    fn new(stream: S, place: Option<OwnedSemaphorePermit>) -> Self {
        let begun = Instant::now();
        let alarm = Box::pin(tokio::time::sleep_until(begun + ASKED));
        Self { stream, begun, asked: false, alarm, _place: place }
    }

    /// Fails when its time is over; otherwise wakes the task when it will be.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let due = self.begun + if self.asked { STAY } else { ASKED };
            if due <= Instant::now() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.alarm.as_mut().reset(due);
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Visit<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Visit<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        self.poll_end(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_visitor_who_asks_nothing_is_cut_and_one_who_asks_stays_longer() {
        let cut = async |answered: bool| {
            let (mut client, server) = tokio::io::duplex(64);
            let begun = Instant::now();
            let mut visit = Visit::new(server, None);
            if answered {
                visit.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
            }
            let drip = async {
                // A request head that never ends.
                while client.write_all(b"a").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            };
            let error = tokio::select! {
                () = drip => panic!("the server hung up without a word"),
                error = async { loop { if let Err(error) = visit.read_u8().await { return error } } } => error,
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            begun.elapsed()
        };
        assert!((ASKED..ASKED + Duration::from_secs(1)).contains(&cut(false).await));
        assert!((STAY..STAY + Duration::from_secs(1)).contains(&cut(true).await));
    }
}
