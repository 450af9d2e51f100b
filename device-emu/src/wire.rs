//! The wire: a TCP port, a Unix socket or a pseudo-terminal at which one host listens to the device.
//!
//! A device does not know who listens. Frames made while nobody does wait in a short queue; a new listener takes the
//! place of the one before; a frame that did not get through whole is sent again from its start to the next one.
//!
//! Architecture invariant: only sealed bytes come here. What a host sends is read and dropped: a device of this kind
//! takes no orders over its wire.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

mod port;
mod pty;

pub use port::{Listen, ListenError};
use port::{Listener, Port, Writer};

/// Frames that wait for a listener before the next is refused.
const QUEUE: usize = 4;
/// How long a frame waits for room in the queue while somebody listens.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long "soon" may take.
const SOON: Duration = Duration::from_secs(2);

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
    /// Within two seconds: what waits is sent if somebody listens.
    Soon,
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

    /// Carries parcels until told to end, and gives back how; `None`, at once, when the sender of `ending` is dropped.
    pub async fn run(mut self, mut ending: oneshot::Receiver<Ending>) -> Option<Ending> {
        let mut listener: Option<Listener> = None;
        let mut sending: Option<(Parcel, usize)> = None;
        let mut how_to_end = None;
        let mut leave_by: Option<Instant> = None;
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
                fresh = self.port.listener() => Step::Fresh(fresh),
                () = overdue(leave_by) => Step::Overdue,
                () = gone(reader) => Step::Gone,
                parcel = self.parcels.recv(), if sending.is_none() && writer.is_some() => Step::Next(parcel),
                sent = sent(writer, &sending), if sending.is_some() => Step::Sent(sent),
            };
            match step {
                Step::End(None) => return None,
                Step::End(how) => {
                    how_to_end = how;
                    leave_by = (how == Some(Ending::Soon)).then(|| Instant::now() + SOON);
                }
                Step::Overdue => break,
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
        how_to_end
    }
}

enum Step {
    End(Option<Ending>),
    Overdue,
    Fresh(Option<Listener>),
    Gone,
    Next(Option<Parcel>),
    Sent(io::Result<usize>),
}

fn restart(sending: &mut Option<(Parcel, usize)>) {
    if let Some((_, at)) = sending {
        *at = 0;
    }
}

async fn overdue(leave_by: Option<Instant>) {
    match leave_by {
        Some(leave_by) => sleep_until(leave_by).await,
        None => std::future::pending().await,
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
