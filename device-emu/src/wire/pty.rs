//! A pseudo-terminal: to the host a serial port, opened by its name.
//!
//! It does not tell by itself whether somebody has it open, nor when there is room again, so it is looked at.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::port::{Listener, Writer};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Looks after which one that somebody has opened is taken as set up.
const SETTLED: u8 = 2;
/// Looks at which nothing was left unread, after which the host has read everything.
const QUIET: u8 = 5;
/// How long the last bytes may take to be read, which are forgotten when the device's end is closed.
const FAREWELL: Duration = Duration::from_secs(2);

/// The device's end of a pseudo-terminal; the host opens `path` as a serial port.
pub(super) struct Pty {
    device: Arc<OwnedFd>,
    path: PathBuf,
    is_open: bool,
    seen_open: u8,
    look: Interval,
}

impl Pty {
    pub(super) fn open() -> io::Result<Self> {
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

    /// What the host opens.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writing to it has shown that nobody has it open.
    pub(super) fn hung_up(&mut self) {
        self.is_open = false;
    }

    /// Ends when somebody has opened the port, or closed it.
    pub(super) async fn change(&mut self) -> Option<Listener> {
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
    pub(super) async fn farewell(&self) {
        let Ok(host) = open_host_side(&self.path) else { return };
        let until = Instant::now() + FAREWELL;
        let mut quiet = 0;
        while quiet < QUIET && Instant::now() < until {
            // Bytes on their way through the kernel are not counted as unread yet, so one look proves nothing.
            quiet = if rustix::io::ioctl_fionread(&host).is_ok_and(|unread| unread > 0) { 0 } else { quiet + 1 };
            sleep(LOOK).await;
        }
    }
}

/// Writes what there is room for, once there is room.
pub(super) async fn write(device: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(device, bytes) {
            // Full: a serial line is slow, so there is no hurry to look again.
            Err(Errno::AGAIN) => sleep(LOOK).await,
            outcome => return Ok(outcome?),
        }
    }
}

fn open_host_side(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?)
}
