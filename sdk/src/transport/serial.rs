//! A device on a serial port: RS-232, a USB serial adapter, or a pty.

use std::io;
use std::path::PathBuf;

use serial2_tokio::SerialPort;

use crate::config::ConfigError;
use crate::transport::DeviceTransport;

/// What most RS-232 readers leave the factory with.
const USUAL_BAUD: u32 = 9600;

/// `PATH[@BAUD]`: 8 data bits, no parity, 1 stop bit, no flow control, raw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial {
    path: PathBuf,
    baud: u32,
}

impl Serial {
    /// Reads `PATH[@BAUD]`; 9600 baud if none is given.
    pub fn parse(place: &str) -> Result<Self, ConfigError> {
        let with_baud = place.rsplit_once('@').and_then(|(path, baud)| Some((path, baud.parse().ok()?)));
        match with_baud.unwrap_or((place, USUAL_BAUD)) {
            ("", _) | (_, 0) => Err(ConfigError::Connection),
            (path, baud) => Ok(Self { path: PathBuf::from(path), baud }),
        }
    }
}

impl DeviceTransport for Serial {
    type Wire = SerialPort;

    fn name(&self) -> String {
        format!("serial:{}@{}", self.path.display(), self.baud)
    }

    async fn open(&mut self) -> io::Result<SerialPort> {
        // A number stands for raw mode, 8N1 and no flow control at that speed: no byte is taken for a control
        // character or changed on its way.
        SerialPort::open(&self.path, self.baud)
    }
}
