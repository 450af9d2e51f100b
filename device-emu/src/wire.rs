//! The wire: a TCP port, a Unix socket or a pseudo-terminal at which one host listens to the device.
//!
//! A device does not know who listens. Frames made while nobody does wait in a short queue; a new listener takes the
//! place of the one before; a frame that did not get through whole is sent again from its start to the next one.
//!
//! Architecture invariant: only sealed bytes come here. What a host sends is read and dropped: a device of this kind
//! takes no orders over its wire.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};

/// Frames that wait for a listener before the next is refused.
const QUEUE: usize = 4;
/// How long a frame waits for room in the queue while somebody listens.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a pseudo-terminal is asked whether somebody has it open: it does not tell by itself.
const LOOK: Duration = Duration::from_millis(20);
/// Looks after which a pseudo-terminal that somebody has opened is taken as set up.
const SETTLED: u8 = 2;
/// How long the last bytes may take to be read from a pseudo-terminal, which forgets them when it is closed.
const FAREWELL: Duration = Duration::from_millis(500);

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

/// Bytes to be sent, and how long to wait before each.
#[derive(Debug)]
struct Parcel {
    bytes: Vec<u8>,
    pace: Duration,
}

/// The end of the wire the device writes to; not to be used on a thread that runs the wire.
#[derive(Debug)]
pub struct Outbox {
    sender: mpsc::Sender<Parcel>,
    connected: Arc<AtomicBool>,
    runtime: Handle,
}

/// The other end, to be run.
pub struct Wire {
    port: Port,
    parcels: mpsc::Receiver<Parcel>,
    connected: Arc<AtomicBool>,
}

/// Room for one parcel, so that a frame is made only if it can be sent.
#[derive(Debug)]
pub struct Room<'a>(mpsc::Permit<'a, Parcel>);

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nobody listens and the queue is full.
    #[error("nobody is connected and {QUEUE} frames wait already; nothing was made or sent")]
    NobodyThere,
    /// Somebody listens but does not read.
    #[error("the host does not read; nothing was made or sent")]
    Stuck,
    /// The wire is down.
    #[error("the wire is closed; nothing was made or sent")]
    Closed,
}

/// How the wire should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// When everything was sent, however long nobody listens.
    Delivered,
    /// Soon: what waits is sent if somebody listens.
    Soon,
}

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

impl Outbox {
    /// Room for a parcel: at once if nobody listens, else within some seconds.
    pub fn room(&self) -> Result<Room<'_>, WireError> {
        match self.sender.try_reserve() {
            Ok(permit) => Ok(Room(permit)),
            Err(mpsc::error::TrySendError::Closed(())) => Err(WireError::Closed),
            Err(mpsc::error::TrySendError::Full(())) if self.is_connected() => {
                let reserved = self.runtime.block_on(async { timeout(PATIENCE, self.sender.reserve()).await });
                reserved.map_err(|_| WireError::Stuck)?.map(Room).map_err(|_| WireError::Closed)
            }
            Err(mpsc::error::TrySendError::Full(())) => Err(WireError::NobodyThere),
        }
    }

    /// Whether somebody listens.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// How many parcels wait.
    pub fn waiting(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }
}

impl Room<'_> {
    /// Sends bytes, waiting `pace` before each.
    pub fn send(self, bytes: Vec<u8>, pace: Duration) {
        self.0.send(Parcel { bytes, pace });
    }
}

impl Wire {
    /// Listens. To be called on the runtime that will run the wire.
    pub async fn open(listen: &Listen) -> io::Result<(Self, Outbox)> {
        let port = Port::open(listen).await?;
        let (sender, parcels) = mpsc::channel(QUEUE);
        let connected = Arc::new(AtomicBool::new(false));
        let outbox = Outbox { sender, connected: Arc::clone(&connected), runtime: Handle::current() };
        Ok((Self { port, parcels, connected }, outbox))
    }

    /// Where it listens, in the words a host uses to attach the device: `tcp:HOST:PORT`, `unix:PATH`, `serial:PATH`.
    pub fn address(&self) -> String {
        self.port.to_string()
    }

    /// Carries parcels until told to end; dropping the sender of `ending` ends it at once.
    pub async fn run(mut self, mut ending: oneshot::Receiver<Ending>) -> io::Result<()> {
        let mut listener: Option<Listener> = None;
        let mut sending: Option<(Parcel, usize)> = None;
        let mut how_to_end = None;
        loop {
            self.connected.store(listener.is_some(), Ordering::Relaxed);
            let idle = sending.is_none() && self.parcels.is_empty();
            match how_to_end {
                Some(_) if idle => break,
                Some(Ending::Soon) if listener.is_none() => break,
                Some(_) | None => {}
            }
            let (reader, writer) = match &mut listener {
                Some(Listener { reader, writer }) => (reader.as_mut(), Some(writer)),
                None => (None, None),
            };
            let step = tokio::select! {
                told = &mut ending, if how_to_end.is_none() => Step::End(told.ok()),
                fresh = self.port.listener() => Step::Fresh(fresh?),
                () = gone(reader) => Step::Gone,
                parcel = self.parcels.recv(), if sending.is_none() && writer.is_some() => Step::Next(parcel),
                sent = sent(writer, &sending), if sending.is_some() => Step::Sent(sent),
            };
            match step {
                Step::End(None) => return Ok(()),
                Step::End(how) => how_to_end = how,
                Step::Fresh(fresh) => {
                    listener = fresh;
                    restart(&mut sending);
                }
                Step::Gone | Step::Sent(Err(_)) => {
                    listener = None;
                    self.port.hung_up();
                    restart(&mut sending);
                }
                Step::Next(Some(parcel)) => sending = Some((parcel, 0)),
                Step::Next(None) => how_to_end = Some(Ending::Delivered),
                Step::Sent(Ok(count)) => {
                    sending = sending
                        .map(|(parcel, at)| (parcel, at + count))
                        .filter(|(parcel, at)| *at < parcel.bytes.len());
                }
            }
        }
        self.port.farewell().await;
        Ok(())
    }
}

enum Step {
    End(Option<Ending>),
    Fresh(Option<Listener>),
    Gone,
    Next(Option<Parcel>),
    Sent(io::Result<usize>),
}

/// One connection. A pseudo-terminal has no reader here: what a host sends is dropped when its port is looked at.
struct Listener {
    reader: Option<Pin<Box<dyn AsyncRead>>>,
    writer: Writer,
}

enum Writer {
    Stream(Pin<Box<dyn AsyncWrite>>),
    Pty(Arc<OwnedFd>),
}

impl Writer {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.write(bytes).await,
            Self::Pty(device) => loop {
                match rustix::io::write(&*device, bytes) {
                    // Full: a serial line is slow, so there is no hurry to look again.
                    Err(Errno::AGAIN) => sleep(LOOK).await,
                    outcome => return Ok(outcome?),
                }
            },
        }
    }
}

fn restart(sending: &mut Option<(Parcel, usize)>) {
    if let Some((_, at)) = sending {
        *at = 0;
    }
}

/// Ends when the listener has hung up.
async fn gone(reader: Option<&mut Pin<Box<dyn AsyncRead>>>) {
    let Some(reader) = reader else { return std::future::pending().await };
    let mut dropped = [0; 256];
    while !matches!(reader.read(&mut dropped).await, Ok(0) | Err(_)) {}
}

async fn sent(writer: Option<&mut Writer>, sending: &Option<(Parcel, usize)>) -> io::Result<usize> {
    let (Some(writer), Some((parcel, at))) = (writer, sending) else { return std::future::pending().await };
    let rest = &parcel.bytes[*at..];
    if parcel.pace.is_zero() {
        return writer.write(rest).await;
    }
    sleep(parcel.pace).await;
    writer.write(&rest[..rest.len().min(1)]).await
}

enum Port {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Pty(Pty),
}

impl Port {
    async fn open(listen: &Listen) -> io::Result<Self> {
        Ok(match listen {
            Listen::Tcp(address) => Self::Tcp(TcpListener::bind(address).await?),
            Listen::Unix(path) => {
                remove_stale(path).await?;
                Self::Unix(UnixListener::bind(path)?, path.clone())
            }
            Listen::Pty => Self::Pty(Pty::open()?),
        })
    }

    /// The next change of listener. Safe to drop and ask again.
    async fn listener(&mut self) -> io::Result<Option<Listener>> {
        Ok(match self {
            Self::Tcp(port) => {
                let (stream, _) = port.accept().await?;
                stream.set_nodelay(true)?;
                Some(split(stream.into_split()))
            }
            Self::Unix(port, _) => Some(split(port.accept().await?.0.into_split())),
            Self::Pty(pty) => pty.change().await,
        })
    }

    /// The listener was found gone by writing to it.
    fn hung_up(&mut self) {
        if let Self::Pty(pty) = self {
            pty.is_open = false;
        }
    }

    async fn farewell(&self) {
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
            Self::Pty(pty) => write!(f, "serial:{}", pty.path.display()),
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

/// The device's end of a pseudo-terminal; the host opens `path` as a serial port.
struct Pty {
    device: Arc<OwnedFd>,
    path: PathBuf,
    is_open: bool,
    seen_open: u8,
    look: Interval,
}

impl Pty {
    fn open() -> io::Result<Self> {
        let device = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&device)?;
        rustix::pty::unlockpt(&device)?;
        let path = rustix::pty::ptsname(&device, Vec::new())?;
        let path: PathBuf = path.into_string().map_err(|_| io::Error::other("a pseudo-terminal without name"))?.into();
        // Raw from the start: no echo of what the host sends, no bytes eaten as control characters. Opening it once
        // also makes "nobody has it open" visible.
        let host = open_host_side(&path)?;
        let mut settings = tcgetattr(&host)?;
        settings.make_raw();
        tcsetattr(&host, OptionalActions::Now, &settings)?;
        drop(host);
        rustix::fs::fcntl_setfl(&device, OFlags::RDWR | OFlags::NONBLOCK)?;
        let device = Arc::new(device);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { device, path, is_open: false, seen_open: 0, look })
    }

    /// Ends when somebody has opened the port, or closed it.
    async fn change(&mut self) -> Option<Listener> {
        loop {
            self.look.tick().await;
            match (self.is_open, self.has_listener()) {
                (true, true) | (false, false) => self.seen_open = 0,
                (true, false) => {
                    self.is_open = false;
                    return None;
                }
                // A host that has just opened a serial port sets it up next, which may throw away what has come in.
                (false, true) if self.seen_open < SETTLED => self.seen_open += 1,
                (false, true) => {
                    self.is_open = true;
                    self.seen_open = 0;
                    return Some(Listener { reader: None, writer: Writer::Pty(Arc::clone(&self.device)) });
                }
            }
        }
    }

    /// Reading without a listener is an error; with one there is something, or nothing yet.
    fn has_listener(&self) -> bool {
        let mut dropped = [0; 256];
        let read = rustix::io::read(&self.device, &mut dropped);
        !matches!(read, Err(error) if error != Errno::AGAIN)
    }

    /// Waits until the host has read everything: a pseudo-terminal forgets it when the device's end is closed.
    async fn farewell(&self) {
        let Ok(host) = open_host_side(&self.path) else { return };
        let until = Instant::now() + FAREWELL;
        while Instant::now() < until && rustix::io::ioctl_fionread(&host).is_ok_and(|unread| unread > 0) {
            sleep(LOOK).await;
        }
    }
}

fn open_host_side(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?)
}
