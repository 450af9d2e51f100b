//! Connections of one kind, and new ones in their place when the old ones fall silent.
//!
//! A connection whose other end is gone without a word (a firewall that forgot it, a machine that lost its power)
//! answers nothing and breaks only after minutes; its pool waits for it as long. A new one can work at once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbBackend, DbErr};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::error::{Cause, Failure};

/// Longest wait for PostgreSQL's answer, one second more than it gives itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for new connections.
const RENEW_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections are not replaced more often, nor is it tried.
const RENEW_PAUSE: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    options: ConnectOptions,
    /// Most of them at a time.
    connections: u32,
    backend: DbBackend,
    /// How often the connections were replaced, and those of now.
    open: watch::Sender<(u64, DatabaseConnection)>,
    /// Held while they are being replaced: when that was last tried.
    tried: Mutex<Option<Instant>>,
}

impl Pool {
    pub(super) async fn open(options: ConnectOptions) -> Result<Self, DbErr> {
        let first = Database::connect(options.clone()).await?;
        let backend = first.get_database_backend();
        let connections = options.get_max_connections().unwrap_or(1);
        let open = watch::Sender::new((0, first));
        Ok(Self(Arc::new(Inner { options, connections, backend, open, tried: Mutex::new(None) })))
    }

    pub(super) fn backend(&self) -> DbBackend {
        self.0.backend
    }

    /// The connections of now.
    pub(super) fn now(&self) -> DatabaseConnection {
        self.0.open.borrow().1.clone()
    }

    /// Does some work of which an answer is due within seconds, and once more over new connections if none came.
    pub(super) async fn ask<T, F: Future<Output = Result<T, DbErr>>>(
        &self,
        work: impl Fn(DatabaseConnection) -> F,
    ) -> Result<T, Failure> {
        let (number, connections) = self.0.open.borrow().clone();
        match self.in_time(work(connections)).await {
            Err(Failure::Outage(cause)) if cause.is_silence() && self.renew(number).await => {
                self.in_time(work(self.now())).await
            }
            answer => answer,
        }
    }

    /// As [`Pool::ask`] for work that only reads, which is done over another connection where one turns out to be
    /// dead.
    pub(super) async fn read<T, F: Future<Output = Result<T, DbErr>>>(
        &self,
        work: impl Fn(DatabaseConnection) -> F,
    ) -> Result<T, Failure> {
        let mut dead = 0;
        loop {
            match self.ask(&work).await {
                Err(Failure::Outage(cause)) if cause.is_broken_connection() && dead < self.0.connections => dead += 1,
                read => return read,
            }
        }
    }

    /// SQLite's own limits hold.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, Failure> {
        if self.0.backend == DbBackend::Sqlite {
            return Ok(work.await?);
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, work).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::Outage(Cause::silence())),
        }
    }

    /// Replaces the connections that `number` were, if new ones can be made; `false` if they stay.
    async fn renew(&self, number: u64) -> bool {
        if self.0.backend == DbBackend::Sqlite {
            return false;
        }
        let mut tried = self.0.tried.lock().await;
        if self.0.open.borrow().0 != number {
            return true;
        }
        // Whoever waited here while it was tried in vain does not try it again, one after the other.
        if tried.is_some_and(|at| at.elapsed() < RENEW_PAUSE) {
            return false;
        }
        let new = tokio::time::timeout(RENEW_TIMEOUT, Database::connect(self.0.options.clone())).await;
        *tried = Some(Instant::now());
        let Ok(Ok(new)) = new else { return false };
        tracing::warn!("connections to the database fell silent and were replaced");
        metrics::counter!("warifu_store_renewed_connections_total").increment(1);
        let (_, old) = self.0.open.send_replace((number + 1, new));
        // Work that still goes on over an old one ends; what is silent is not waited for.
        tokio::spawn(async move { tokio::time::timeout(ANSWER_TIMEOUT, old.close()).await });
        true
    }

    pub(super) async fn close(&self) {
        // There is nothing to be done about an error while closing.
        let _ = self.now().close_by_ref().await;
    }
}
