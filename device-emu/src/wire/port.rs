//! The places a device can listen at, and the connections made there.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;

use super::pty::{self, Pty};

/// How long to wait after a connection that failed.
const AGAIN: Duration = Duration::from_millis(20);

/// Where a device listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `tcp:HOST:PORT`; port 0 takes a free one.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
    /// `pty`: a serial port to whoever opens it.
    Pty,
}

/// What is no place to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device listens at tcp:HOST:PORT, unix:PATH or pty")]
pub struct ListenError;

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        match text.split_once(':') {
            Some(("tcp", address)) if address.contains(':') => Ok(Self::Tcp(address.to_owned())),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            None if text == "pty" => Ok(Self::Pty),
            _ => Err(ListenError),
        }
    }
}

/// One connection. A pseudo-terminal has no reader here: what a host sends is dropped when its port is looked at.
pub(super) struct Listener {
    pub(super) reader: Option<Pin<Box<dyn AsyncRead>>>,
    pub(super) writer: Writer,
}

pub(super) enum Writer {
    Stream(Pin<Box<dyn AsyncWrite>>),
    Pty(Arc<OwnedFd>),
}

impl Writer {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.write(bytes).await,
            Self::Pty(device) => pty::write(device, bytes).await,
        }
    }
}

/// One place to listen.
pub(super) enum Port {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Pty(Pty),
}

impl Port {
    pub(super) async fn open(listen: &Listen) -> io::Result<Self> {
        Ok(match listen {
            Listen::Tcp(address) => Self::Tcp(TcpListener::bind(address).await?),
            Listen::Unix(path) => {
                remove_stale(path).await?;
                Self::Unix(UnixListener::bind(path)?, path.clone())
            }
            Listen::Pty => Self::Pty(Pty::open()?),
        })
    }

    /// The next change of listener; `None` when the one there was has gone. Safe to drop and ask again.
    pub(super) async fn listener(&mut self) -> Option<Listener> {
        loop {
            let accepted = match self {
                Self::Tcp(port) => port.accept().await.map(|(stream, _)| {
                    // Only a matter of speed.
                    let _ = stream.set_nodelay(true);
                    split(stream.into_split())
                }),
                Self::Unix(port, _) => port.accept().await.map(|(stream, _)| split(stream.into_split())),
                Self::Pty(pty) => return pty.change().await,
            };
            match accepted {
                Ok(listener) => return Some(listener),
                // Gone again before it was there, or too many open files: the next one may get through.
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    /// The listener was found gone by writing to it.
    pub(super) fn hung_up(&mut self) {
        if let Self::Pty(pty) = self {
            pty.hung_up();
        }
    }

    /// Gives the listener time to take what was sent.
    pub(super) async fn farewell(&self) {
        if let Self::Pty(pty) = self {
            pty.farewell().await;
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => match port.local_addr() {
                Ok(address) => write!(f, "tcp:{address}"),
                Err(_) => f.write_str("tcp:?"),
            },
            Self::Unix(_, path) => write!(f, "unix:{}", path.display()),
            Self::Pty(pty) => write!(f, "serial:{}", pty.path().display()),
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Somebody else may have tidied up; there is nobody to tell.
            let _ = fs::remove_file(path);
        }
    }
}

fn split((reader, writer): (impl AsyncRead + 'static, impl AsyncWrite + 'static)) -> Listener {
    Listener { reader: Some(Box::pin(reader)), writer: Writer::Stream(Box::pin(writer)) }
}

/// A socket file that nobody serves is left over from a killed device.
async fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_socket());
    if is_socket && tokio::net::UnixStream::connect(path).await.is_err() {
        fs::remove_file(path)?;
    }
    Ok(())
}
