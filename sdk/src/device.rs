//! One attached device: a task reads its wire, cuts it into outputs, and opens it again when it was lost.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use warifu_core::device::Format;

use crate::collected::Collected;
use crate::cutter::Cutter;
use crate::link::Attachment;
use crate::retry::{Backoff, Pauses};
use crate::task::Task;
use crate::transport::DeviceTransport;

/// Outputs kept until they are collected; of more, the oldest go.
const KEPT: usize = 16;
/// An output that began and brings nothing for so long was broken off: the cable was pulled, the card let go.
const SILENCE: Duration = Duration::from_secs(2);
/// So much noise since the last output is no accident.
const TOO_MUCH_NOISE: usize = 64 * 1024;
const REOPEN: Pauses = Pauses { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

/// An attached device. Dropping it takes the device off.
pub struct Device {
    name: String,
    format: Format,
    outputs: broadcast::Receiver<Output>,
    wire: watch::Receiver<Wire>,
    _reader: Task,
}

/// Why a device gave no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The wire cannot be opened.
    #[error("cannot open {connection}; check that the device is on, plugged in, and free, and that the name is right")]
    CannotOpen {
        /// Which wire.
        connection: String,
        /// Why not.
        source: io::Error,
    },
    /// This module holds the wire already.
    #[error("{connection} is attached already; use that device, or drop it first")]
    AlreadyAttached {
        /// Which wire.
        connection: String,
    },
    /// The device went away and did not come back while it was waited for.
    #[error("the device on {connection} is gone; check its cable and power, then collect again")]
    Gone {
        /// Which wire.
        connection: String,
    },
    /// No card came in time.
    #[error("no card came on {connection} within {waited:?}; collect again{}", hint(*noise, *format))]
    NoCard {
        /// Which wire.
        connection: String,
        /// How long it was waited for.
        waited: Duration,
        /// Bytes that came meanwhile and were no output.
        noise: usize,
        /// The format they were read in.
        format: Format,
    },
    /// The wire brings bytes without end that are no output.
    #[error("{connection} brought {bytes} bytes without one output; check the baud rate and the format ({})", format.name())]
    Noise {
        /// Which wire.
        connection: String,
        /// How many.
        bytes: usize,
        /// The format they were read in.
        format: Format,
    },
}

fn hint(noise: usize, format: Format) -> String {
    match noise {
        0 => String::new(),
        _ => format!(
            " ({noise} bytes came that are no {} output: check the device's format and its baud rate)",
            format.name()
        ),
    }
}

/// What the reading task hands over.
#[derive(Clone)]
enum Output {
    Whole(Collected),
    Noise(usize),
}

/// How the wire is.
#[derive(Clone, Copy)]
struct Wire {
    state: WireState,
    /// All bytes so far that were no output.
    noise: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WireState {
    Open,
    Lost,
}

impl Device {
    pub(crate) async fn open<T: DeviceTransport>(
        mut transport: T,
        format: Format,
        attachment: Attachment,
    ) -> Result<Self, DeviceError> {
        let name = transport.name();
        let first =
            transport.open().await.map_err(|source| DeviceError::CannotOpen { connection: name.clone(), source })?;
        attachment.present();
        let (outputs, receiver) = broadcast::channel(KEPT);
        let (wire, status) = watch::channel(Wire { state: WireState::Open, noise: 0 });
        let reader = Reader { name: name.clone(), cutter: Cutter::new(format), outputs, wire, attachment, noise: 0 };
        Ok(Self { name, format, outputs: receiver, wire: status, _reader: Task::spawn(reader.run(transport, first)) })
    }

    /// The wire's name, such as `tcp:127.0.0.1:9001`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The format its outputs are cut in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Waits for a card shown from now on, at most `wait`.
    ///
    /// What came before is forgotten, so that the second swipe of one buyer never pays the next one's order. A device
    /// that goes away is opened again as soon as it is back, also during the wait.
    pub async fn collect(&mut self, wait: Duration) -> Result<Collected, DeviceError> {
        self.discard_waiting();
        self.collect_waiting(wait).await
    }

    /// As [`Device::collect`], but outputs that came since the last call are given first, in their order; the newest
    /// 16 are kept. For uploads and tests, where each output stands for itself. Nothing is lost if this future is
    /// dropped.
    pub async fn collect_waiting(&mut self, wait: Duration) -> Result<Collected, DeviceError> {
        let deadline = Instant::now() + wait;
        let noise_before = self.wire.borrow().noise;
        loop {
            match timeout_at(deadline, self.outputs.recv()).await {
                Ok(Ok(Output::Whole(collected))) => return Ok(collected),
                Ok(Ok(Output::Noise(bytes))) => {
                    return Err(DeviceError::Noise { connection: self.name.clone(), bytes, format: self.format });
                }
                Ok(Err(broadcast::error::RecvError::Lagged(outputs))) => {
                    tracing::warn!(device = %self.name, outputs, "outputs nobody collected were dropped");
                }
                Ok(Err(broadcast::error::RecvError::Closed)) => {
                    return Err(DeviceError::Gone { connection: self.name.clone() });
                }
                Err(_) => return Err(self.no_card(wait, noise_before)),
            }
        }
    }

    /// Forgets the outputs that came and were not collected.
    pub fn discard_waiting(&mut self) {
        self.outputs = self.outputs.resubscribe();
    }

    fn no_card(&self, waited: Duration, noise_before: usize) -> DeviceError {
        let connection = self.name.clone();
        let wire = *self.wire.borrow();
        match wire.state {
            WireState::Lost => DeviceError::Gone { connection },
            WireState::Open => {
                DeviceError::NoCard { connection, waited, noise: wire.noise - noise_before, format: self.format }
            }
        }
    }
}

/// The task's side of a device.
struct Reader {
    name: String,
    cutter: Cutter,
    outputs: broadcast::Sender<Output>,
    wire: watch::Sender<Wire>,
    attachment: Attachment,
    /// Noise since the last output.
    noise: usize,
}

impl Reader {
    async fn run<T: DeviceTransport>(mut self, mut transport: T, mut wire: T::Wire) {
        let mut backoff = Backoff::new(REOPEN);
        loop {
            if self.read(&mut wire).await > 0 {
                backoff.reset();
            }
            drop(wire);
            self.note(WireState::Lost);
            self.attachment.gone();
            wire = loop {
                // Pausing also before the first try keeps a wire that opens and closes at once from spinning.
                sleep(backoff.draw()).await;
                match transport.open().await {
                    Ok(wire) => break wire,
                    Err(error) => tracing::debug!(device = %self.name, %error, "still gone"),
                }
            };
            self.note(WireState::Open);
            self.attachment.present();
        }
    }

    /// Reads until the wire is lost; says how many bytes came.
    async fn read<W: tokio::io::AsyncRead + Unpin>(&mut self, wire: &mut W) -> usize {
        let mut chunk = [0; 2048];
        let mut total = 0;
        loop {
            let room = self.cutter.room().min(chunk.len());
            let read = wire.read(&mut chunk[..room]);
            let read = if self.cutter.is_waiting() {
                let Ok(read) = timeout(SILENCE, read).await else {
                    tracing::debug!(device = %self.name, "an output was broken off");
                    self.cutter.abandon();
                    self.note(WireState::Open);
                    continue;
                };
                read
            } else {
                read.await
            };
            match read {
                Ok(0) => tracing::info!(device = %self.name, "the device closed its wire"),
                Err(error) => tracing::info!(device = %self.name, %error, "the device's wire broke"),
                Ok(count) => {
                    total += count;
                    self.cutter.push(&chunk[..count]);
                    self.hand_over();
                    continue;
                }
            }
            self.cutter.abandon();
            return total;
        }
    }

    fn hand_over(&mut self) {
        while let Some(collected) = self.cutter.next() {
            self.note(WireState::Open);
            self.noise = 0;
            // Without a receiver the device is being dropped, and this task with it.
            let _ = self.outputs.send(Output::Whole(collected));
        }
        self.note(WireState::Open);
        if self.noise > TOO_MUCH_NOISE {
            let _ = self.outputs.send(Output::Noise(self.noise));
            self.noise = 0;
        }
    }

    fn note(&mut self, state: WireState) {
        let noise = self.cutter.take_noise();
        self.noise += noise;
        self.wire.send_modify(|wire| *wire = Wire { state, noise: wire.noise + noise });
    }
}
