//! A device behind a TCP port: a network reader, or a serial server.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::ConfigError;
use crate::transport::DeviceTransport;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A reader whose power was cut sends no FIN: after 10 s of silence it is asked 3 times, 3 s apart.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(3)).with_retries(3);

/// `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    host: String,
    port: u16,
}

impl Tcp {
    /// Reads `HOST:PORT`; an IPv6 address stands in brackets.
    pub fn parse(place: &str) -> Result<Self, ConfigError> {
        let (host, port) = place.rsplit_once(':').ok_or(ConfigError::Connection)?;
        match port.parse() {
            Ok(port) if port > 0 && !host.is_empty() => Ok(Self { host: host.to_owned(), port }),
            _ => Err(ConfigError::Connection),
        }
    }
}

impl DeviceTransport for Tcp {
    type Wire = TcpStream;

    fn name(&self) -> String {
        format!("tcp:{}:{}", self.host, self.port)
    }

    async fn open(&mut self) -> io::Result<TcpStream> {
        let place = format!("{}:{}", self.host, self.port);
        let wire = timeout(CONNECT_LIMIT, TcpStream::connect(place)).await??;
        SockRef::from(&wire).set_tcp_keepalive(&KEEPALIVE)?;
        Ok(wire)
    }
}
