//! A module's link: as long as it is held, the module counts as connected and hears the news.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use warifu_core::refusal::Refusal;

use super::{Caller, House, News};
use crate::auditor::AuditLog;
use crate::directory::{Directory, Displaced, Register, Unregister};
use crate::gate::{Gate, GateError};
use crate::record::{Kind, Record};
use crate::refused::Refused;
use crate::supervisor::pause;

/// News that may wait for a module; one that does not listen loses its link.
const NEWS: usize = 16;
/// How long a registration must have lasted for the one before to be forgotten.
const LASTING: Duration = Duration::from_secs(1);
/// Longest name of a module's software that is kept.
const SOFTWARE: usize = 64;

/// A module's link. Dropping it closes it.
pub struct Link {
    news: mpsc::Receiver<News>,
}

impl Link {
    /// The next news; `None` when the link was closed: by the server, or by a newer link of the same module.
    pub async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }
}

impl House {
    /// Opens a module's link; its newest one closes an older one. `software` is what the module calls itself.
    ///
    /// # Errors
    /// Only those of a server that is busy, stopping or without its store.
    pub async fn link(&self, caller: &Caller, software: String) -> Result<Link, Refusal> {
        let linked = async {
            let admission = self.enter()?;
            let record = about(&self.0.log, Kind::ModuleLinked, caller).because(printable(&software));
            self.0.log.write(Vec::new(), vec![record]).await?;
            drop(admission);
            Ok::<(), Refused>(())
        };
        self.answered("link", caller, None, linked.await).await?;
        let (sender, news) = mpsc::channel(NEWS);
        let keeper = Keeper {
            link: self.0.next_link.fetch_add(1, Ordering::Relaxed),
            caller: caller.clone(),
            directory: self.0.gates.directory.clone(),
            log: self.0.log.clone(),
            news: sender,
        };
        let (ready, is_ready) = oneshot::channel();
        // Not in this call, which ends at once when its caller goes: what was begun is also taken off again.
        self.0.supervisor.runtime().spawn(async move {
            let registered = keeper.register().await;
            let _ = ready.send(());
            keeper.keep(registered).await;
        });
        let _ = is_ready.await;
        Ok(Link { news })
    }
}

/// Keeps a link registered, also with a directory that had to be rebuilt.
struct Keeper {
    link: u64,
    caller: Caller,
    directory: Gate<Directory>,
    log: AuditLog,
    news: mpsc::Sender<News>,
}

impl Keeper {
    async fn register(&self) -> Result<oneshot::Receiver<Displaced>, GateError> {
        let (displaced, told) = oneshot::channel();
        let (link, caller, news) = (self.link, self.caller.clone(), self.news.clone());
        let registered = self.directory.ask(Register { link, caller, news, displaced }).await;
        registered.map(|()| told).inspect_err(|error| {
            tracing::warn!(module = %self.caller.module, %error, "a link could not be registered");
        })
    }

    async fn keep(self, mut registered: Result<oneshot::Receiver<Displaced>, GateError>) {
        let mut failures = 0;
        let cause = loop {
            match registered {
                Ok(displaced) => {
                    let since = Instant::now();
                    tokio::select! {
                        () = self.news.closed() => break "the module closed it",
                        told = displaced => match told {
                            Ok(Displaced::ByNewer) => break "a newer link of the module took its place",
                            Ok(Displaced::ByBlock) => break "the module was blocked",
                            // The directory let go of it: it was rebuilt, or the module did not listen.
                            Err(_) if self.news.capacity() == 0 => break "the module did not listen",
                            Err(_) => {}
                        },
                    }
                    if since.elapsed() >= LASTING {
                        failures = 0;
                    }
                }
                Err(GateError::Stopped(_)) => break "the server is stopping",
                Err(_) => {}
            }
            tokio::select! {
                () = self.news.closed() => break "the module closed it",
                () = tokio::time::sleep(pause(failures)) => {}
            }
            failures += 1;
            registered = self.register().await;
        };
        let leaving = Unregister { link: self.link, module: self.caller.module.clone() };
        let mut left = self.directory.ask(leaving.clone()).await;
        // Many may leave at once, when a network goes.
        while let Err(GateError::Full(_)) = left {
            failures += 1;
            tokio::time::sleep(pause(failures)).await;
            left = self.directory.ask(leaving.clone()).await;
        }
        if let Err(error) = left {
            tracing::warn!(module = %self.caller.module, %error, "a link could not be taken off");
        }
        self.log.mention(about(&self.log, Kind::ModuleUnlinked, &self.caller).because(cause));
    }
}

fn about(log: &AuditLog, kind: Kind, caller: &Caller) -> Record {
    let mut record = log.record(kind);
    record.merchant = Some(caller.merchant.to_string());
    record.module = Some(caller.module.to_string());
    record
}

/// What a module calls itself, fit for a log.
fn printable(software: &str) -> String {
    software.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(SOFTWARE).collect()
}
