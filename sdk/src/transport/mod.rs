//! The wires a device can hang on.

mod serial;
mod tcp;
#[cfg(unix)]
mod unix;

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;

use tokio::io::AsyncRead;

pub use serial::Serial;
pub use tcp::Tcp;
#[cfg(unix)]
pub use unix::UnixSocket;

use crate::config::ConfigError;

/// A wire that brings a device's output, and can be opened again after the device went away and came back.
///
/// Implement it to attach what is not built in, such as a USB HID reader.
pub trait DeviceTransport: Send + 'static {
    /// The open wire. End of stream and every error mean that the device went away.
    type Wire: AsyncRead + Unpin + Send;

    /// A name for logs and for the server: short, printable, the same each time.
    fn name(&self) -> String;

    /// Opens the wire, giving up after some seconds.
    fn open(&mut self) -> impl Future<Output = io::Result<Self::Wire>> + Send;
}

/// A built-in wire, as a text names it: `tcp:HOST:PORT`, `unix:PATH` or `serial:PATH[@BAUD]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connection {
    /// A device behind a TCP port.
    Tcp(Tcp),
    /// A device behind a Unix socket.
    #[cfg(unix)]
    Unix(UnixSocket),
    /// A device on a serial port, a USB serial adapter or a pty.
    Serial(Serial),
}

impl Connection {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let (kind, place) = text.split_once(':').ok_or(ConfigError::Connection)?;
        match kind {
            "tcp" => Ok(Self::Tcp(Tcp::parse(place)?)),
            #[cfg(unix)]
            "unix" if !place.is_empty() => Ok(Self::Unix(UnixSocket::new(PathBuf::from(place)))),
            "serial" => Ok(Self::Serial(Serial::parse(place)?)),
            _ => Err(ConfigError::Connection),
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(tcp) => f.write_str(&tcp.name()),
            #[cfg(unix)]
            Self::Unix(unix) => f.write_str(&unix.name()),
            Self::Serial(serial) => f.write_str(&serial.name()),
        }
    }
}

impl DeviceTransport for Connection {
    type Wire = Box<dyn AsyncRead + Unpin + Send>;

    fn name(&self) -> String {
        self.to_string()
    }

    async fn open(&mut self) -> io::Result<Self::Wire> {
        Ok(match self {
            Self::Tcp(tcp) => Box::new(tcp.open().await?),
            #[cfg(unix)]
            Self::Unix(unix) => Box::new(unix.open().await?),
            Self::Serial(serial) => Box::new(serial.open().await?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_read_and_written_alike() {
        for text in ["tcp:127.0.0.1:9001", "tcp:[::1]:9001", "tcp:reader.local:1", "unix:/run/kp1.sock"] {
            assert_eq!(Connection::parse(text).unwrap().to_string(), text);
        }
        let serial = |text| Connection::parse(text).unwrap().to_string();
        assert_eq!(serial("serial:/dev/ttyUSB0"), "serial:/dev/ttyUSB0@9600");
        assert_eq!(serial("serial:/dev/ttyUSB0@115200"), "serial:/dev/ttyUSB0@115200");
        assert_eq!(serial("serial:/dev/odd@name"), "serial:/dev/odd@name@9600");
    }

    #[test]
    fn what_names_no_wire_is_refused() {
        for text in
            ["", "tcp", "tcp:", "tcp:host", "tcp::9001", "tcp:host:port", "tcp:host:0", "unix:", "serial:", "usb:1"]
        {
            assert!(Connection::parse(text).is_err(), "{text:?}");
        }
    }
}
