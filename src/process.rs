//! The process itself: no core dumps, no debugger, no text in panics, and the signals that stop it.

use std::fs;
use std::future::Future;
use std::io::{self, Write as _};
use std::panic;

use rustix::fs::Mode;
use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use tokio::signal::unix::{SignalKind, signal};

/// Whether other processes of this user may look into this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// No core dumps, no debugger: card data passes through this memory (PCI DSS 3.3.1).
    Sealed,
    /// As the system has it; for tests that look.
    Open,
}

/// Whatever this process writes from now on, its account alone may read, unless it says otherwise for one file.
pub fn keep_files_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Applies the privacy for the rest of the process's life. An `exec` undoes part of it, so this comes after.
pub fn harden(privacy: Privacy) -> io::Result<()> {
    match privacy {
        Privacy::Open => Ok(()),
        Privacy::Sealed => {
            rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
            Ok(())
        }
    }
}

/// Keeps this process's memory out of swap, where it can: whatever is touched stays in memory. With a limit on locked
/// memory nothing is locked, because what is allocated beyond the limit later would fail.
pub fn lock_memory() -> io::Result<()> {
    let limited = rustix::process::getrlimit(Resource::Memlock).current.is_some();
    if limited && !may_lock() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the memory this process may lock is limited"));
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    Ok(rustix::mm::mlockall(flags)?)
}

/// Whether the limit does not count for this process: CAP_IPC_LOCK, bit 14 of the effective set (capabilities(7)).
fn may_lock() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> 14 & 1 == 1)
}

/// Lets the process open as many files and connections as the system allows it.
pub fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Best effort: with the old limit the server still works, with fewer connections.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// From now on a panic reports where it happened and nothing else: its message may hold what was being worked on.
pub fn quiet_panics() {
    panic::set_hook(Box::new(|panic| {
        let (file, line) = panic.location().map_or(("unknown", 0), |place| (place.file(), place.line()));
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        if tracing::dispatcher::has_been_set() {
            tracing::error!(file, line, thread, "panic");
        } else {
            let _ = writeln!(io::stderr(), "panic at {file}:{line} in thread {thread}");
        }
    }));
}

/// Listens for SIGTERM and Ctrl-C from now on; what it gives completes when one comes and names it. Inside a runtime.
pub fn stop_signal() -> io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
