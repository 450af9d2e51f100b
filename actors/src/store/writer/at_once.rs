//! A batch that reads nothing first: one call to the database, which is a transaction of its own.
//!
//! It is decided from memory, so its statement fails as a whole where a row is not what it was taken for
//! ([`bulk::at_once`]).

use std::time::Duration;

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::{self, AssertSqlSafe, Postgres, Sqlite, query, query_with};
use sea_orm::{ConnAcquireErr, DbBackend, DbErr, RuntimeErr};
use sea_query_sqlx::SqlxValues;

use crate::store::bulk::{self, AtOnce, Write};
use crate::store::error::{Cause, Failure};
use crate::store::pool::Pool;

/// Longest wait for PostgreSQL's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that is kept from batch to batch while there are any: a pool asks each one it gets back whether it
/// still lives, and nobody has it meanwhile.
pub(super) enum Held {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// Why nothing came of it, as far as is known.
pub(super) struct Unwritten {
    pub(super) failure: Failure,
    /// Whether nothing of it can be durable.
    pub(super) undone: bool,
}

impl Held {
    /// Takes one out of a pool.
    pub(super) async fn of(pool: &Pool) -> Result<Self, Failure> {
        pool.ask(|db| async move {
            let held = match db.get_database_backend() {
                DbBackend::Sqlite => db.get_sqlite_connection_pool().acquire().await.map(Self::Sqlite),
                _ => db.get_postgres_connection_pool().acquire().await.map(Self::Postgres),
            };
            held.map_err(|error| match error {
                sqlx::Error::PoolTimedOut => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
                error => DbErr::Conn(RuntimeErr::SqlxError(error.into())),
            })
        })
        .await
    }

    const fn backend(&self) -> DbBackend {
        match self {
            Self::Sqlite(_) => DbBackend::Sqlite,
            Self::Postgres(_) => DbBackend::Postgres,
        }
    }

    /// Carries out all writes, or none. Gives the connection back if it can be used again.
    pub(super) async fn write(self, writes: Vec<Write>) -> (Result<(), Unwritten>, Option<Self>) {
        let Some(AtOnce { sql, values, rows }) = bulk::at_once(writes, self.backend()) else {
            return (Ok(()), Some(self));
        };
        match self {
            Self::Sqlite(mut connection) => {
                let done = query_with(AssertSqlSafe(sql), SqlxValues(values)).fetch_all(&mut *connection).await;
                let error = match done {
                    Ok(brought) if brought.len() == rows => return (Ok(()), Some(Self::Sqlite(connection))),
                    // Its thread has gone: nobody knows how far it came.
                    Ok(_) => sqlx::Error::WorkerCrashed,
                    Err(error) => error,
                };
                // Whichever part of it failed: there is nothing to roll back only if that was the first or the last.
                let _ = query("ROLLBACK").execute(&mut *connection).await;
                let failure = Failure::driver(&error);
                // A disk that fails may have got the commit all the same.
                let undone = matches!(error, sqlx::Error::Database(_)) && !failure.is_of_the_disk();
                (Err(Unwritten { failure, undone }), Some(Self::Sqlite(connection)))
            }
            Self::Postgres(mut connection) => {
                let asked = query_with(AssertSqlSafe(sql), SqlxValues(values)).execute(&mut *connection);
                match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
                    Ok(Ok(_)) => (Ok(()), Some(Self::Postgres(connection))),
                    Ok(Err(error)) => {
                        let failure = Failure::driver(&error);
                        let undone = failure.is_an_answer();
                        (Err(Unwritten { failure, undone }), None)
                    }
                    Err(_) => {
                        // Its answer may still come: nobody else must read it.
                        drop(connection.detach());
                        (Err(Unwritten { failure: Failure::Outage(Cause::silence()), undone: false }), None)
                    }
                }
            }
        }
    }
}
