//! What ends a conversation from outside it: Ctrl-C, a terminal that hangs up, whoever stops the program. Left to themselves
//! they would end the process at once: a component would stay on the screen, and what the HSM did would be in no record.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::{flag, low_level};

/// Ctrl-Z is one of them: it would leave the screen as it is, too.
const SIGNALS: [i32; 5] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP];

static SIGNS: OnceLock<Signs> = OnceLock::new();

/// Where signals are heard, for the life of the process.
struct Signs {
    heard: UnixStream,
    /// While nobody listens, signals do what they always do.
    unattended: Arc<AtomicBool>,
}

impl Signs {
    fn set_up() -> io::Result<Self> {
        let (heard, told) = UnixStream::pair()?;
        heard.set_nonblocking(true)?;
        let unattended = Arc::new(AtomicBool::new(true));
        for signal in SIGNALS {
            flag::register_conditional_default(signal, Arc::clone(&unattended))?;
            low_level::pipe::register(signal, told.try_clone()?)?;
        }
        Ok(Self { heard, unattended })
    }
}

/// While this lives, signals end the conversation and not the process.
pub(super) struct Attention(&'static Signs);

impl Attention {
    pub(super) fn begin() -> io::Result<Self> {
        let signs = match SIGNS.get() {
            Some(signs) => signs,
            None => {
                let made = Signs::set_up()?;
                SIGNS.get_or_init(|| made)
            }
        };
        // What was heard before was meant for another conversation.
        let _ = (&signs.heard).read(&mut [0; 64]);
        signs.unattended.store(false, Ordering::SeqCst);
        Ok(Self(signs))
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        self.0.unattended.store(true, Ordering::SeqCst);
    }
}

/// Waits for the next key; `false` if a signal came first.
pub(super) fn key_comes() -> io::Result<bool> {
    look(true)
}

/// Whether a signal has come.
pub(super) fn is_over() -> io::Result<bool> {
    Ok(!look(false)?)
}

fn look(wait: bool) -> io::Result<bool> {
    let Some(signs) = SIGNS.get() else { return Ok(true) };
    let keys = stdin();
    let mut both = [PollFd::new(&signs.heard, PollFlags::IN), PollFd::new(&keys, PollFlags::IN)];
    let watched = if wait { &mut both[..] } else { &mut both[..1] };
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(watched, (!wait).then_some(&at_once)) {
            Ok(_) => return Ok(watched[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
