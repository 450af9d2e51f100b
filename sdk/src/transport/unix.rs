//! A device behind a Unix socket: a driver process on the same machine.

use std::io;
use std::path::PathBuf;

use tokio::net::UnixStream;

use crate::transport::DeviceTransport;

/// The path of a stream socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    path: PathBuf,
}

impl UnixSocket {
    /// A socket by its path.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl DeviceTransport for UnixSocket {
    type Wire = UnixStream;

    fn name(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    async fn open(&mut self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.path).await
    }
}
