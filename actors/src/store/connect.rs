//! Opening a data store: one writing and several reading connections to SQLite or PostgreSQL.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx::Executor;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, EntityTrait,
    QuerySelect, Select, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

use super::error::{Failure, StoreError};
use super::lease::Lease;
use super::lookup::Lookups;
use super::memory::Memory;
use super::pool::Pool;

/// Longest wait for a connection, and for SQLite's lock.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection unused for this long may have died unnoticed.
const IDLE: Duration = Duration::from_secs(1);
/// Reading connections.
const READERS: u32 = 4;

/// What each writing connection to PostgreSQL is told.
///
/// The writer's statements all go by key: without these a plan made while a table was small would go on reading
/// the whole of it, and each statement would be planned anew, which takes longer than carrying it out. The limits keep a hanging server from hanging this one. What is told to be durable must be.
const POSTGRES_WRITER: [&str; 9] = [
    "SET jit = off",
    "SET enable_seqscan = off",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    "SET plan_cache_mode = force_generic_plan",
    "SET statement_timeout = '10s'",
    "SET lock_timeout = '500ms'",
    "SET idle_in_transaction_session_timeout = '15s'",
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
];

/// What each reading connection to PostgreSQL is told: to go by key, as the writer, and to wait one second less than its
/// answer is waited for.
const POSTGRES_READER: [&str; 6] = [
    "SET jit = off",
    "SET enable_seqscan = off",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    "SET plan_cache_mode = force_generic_plan",
    "SET statement_timeout = '4s'",
];

/// The data store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// The one writing connection of SQLite; a few of PostgreSQL.
    writing: Pool,
    reading: Pool,
    lease: Arc<Lease>,
    lookups: Arc<Lookups>,
    memory: Arc<Memory>,
    /// How to connect for work of any length.
    unlimited: Arc<ConnectOptions>,
}

impl Store {
    /// Opens `sqlite:///path/file.db?mode=rwc` or `postgres://user@host/database`.
    ///
    /// # Errors
    /// `Address` for anything else, and for a PostgreSQL server on another machine unless the address says
    /// `sslmode=verify-full`; `Unavailable` when there is no answer within two seconds.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        if url.starts_with("sqlite:") {
            Self::connect_sqlite(url).await
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            Self::connect_postgres(url).await
        } else {
            Err(StoreError::Address("it must start with sqlite: or postgres:"))
        }
    }

    async fn connect_sqlite(url: &str) -> Result<Self, StoreError> {
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err(StoreError::Address("a database in memory forgets; name a file"));
        }
        let writer = writing(url);
        let mut readers = options(url, READERS);
        readers.map_sqlx_sqlite_opts(|options| durable(options).pragma("query_only", "ON"));
        // The writer first: it may have to make the file and turn it to WAL.
        let writing = Pool::open(writer).await?;
        let reading = Pool::open(readers).await?;
        Ok(Self::over(writing, reading, options(url, 1)))
    }

    async fn connect_postgres(url: &str) -> Result<Self, StoreError> {
        // sea-orm knows the scheme by this name only.
        let url = url.replacen("postgresql:", "postgres:", 1);
        refuse_open_wire(&url)?;
        // The pool pings a connection it gets back; meanwhile the next batch takes another one.
        let mut writer = writing(&url);
        writer.max_connections(3);
        let mut readers = options(&url, READERS);
        readers.map_sqlx_postgres_pool_opts(|options| told(options, &POSTGRES_READER));
        let writing = Pool::open(writer).await?;
        let reading = Pool::open(readers).await?;
        Ok(Self::over(writing, reading, options(&url, 1)))
    }

    fn over(writing: Pool, reading: Pool, unlimited: ConnectOptions) -> Self {
        let lease = Arc::new(Lease::new());
        let lookups = Arc::new(Lookups::over(&reading, &lease));
        let memory = Arc::new(Memory::default());
        Self { writing, reading, lease, lookups, memory, unlimited: Arc::new(unlimited) }
    }

    /// Asks the database for the least it can answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.reading.ask(|db| async move { db.ping().await }).await?)
    }

    /// Closes every connection; open work is finished first.
    pub async fn close(&self) {
        self.writing.close().await;
        self.reading.close().await;
    }

    /// Reads at most one row.
    pub(super) async fn one<E: EntityTrait>(&self, select: Select<E>) -> Result<Option<E::Model>, StoreError> {
        Ok(self.all(select.limit(1)).await?.pop())
    }

    /// Reads rows, over another connection where one turns out to be dead.
    pub(super) async fn all<E: EntityTrait>(&self, select: Select<E>) -> Result<Vec<E::Model>, StoreError> {
        let select = &select;
        // Boxed: the work of a driver is large, and would be part of every request that may ask something.
        Ok(Box::pin(self.reading.read(|db| async move { select.clone().all(&db).await })).await?)
    }

    pub(super) fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(super) fn reading_pool(&self) -> &Pool {
        &self.reading
    }

    pub(super) fn reading(&self) -> DatabaseConnection {
        self.reading.now()
    }

    pub(super) fn writing(&self) -> &Pool {
        &self.writing
    }

    /// A connection of its own for work of any length.
    pub(super) async fn unlimited(&self) -> Result<DatabaseConnection, StoreError> {
        Ok(Database::connect(ConnectOptions::clone(&self.unlimited)).await?)
    }

    pub(super) fn backend(&self) -> DbBackend {
        self.writing.backend()
    }

    /// Begins to write. On SQLite the lock is taken at once: a transaction that reads first and then wants to write
    /// fails whenever another one wrote in between.
    pub(super) async fn begin(&self) -> Result<DatabaseTransaction, Failure> {
        let mode = (self.backend() == DbBackend::Sqlite).then_some(SqliteTransactionMode::Immediate);
        self.writing
            .ask(|db| async move {
                let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
                db.begin_with_options(options).await
            })
            .await
    }

    /// Begins to write, and waits longer than a batch for what others have locked.
    pub(super) async fn begin_patiently(&self) -> Result<DatabaseTransaction, Failure> {
        let txn = self.begin().await?;
        if self.backend() == DbBackend::Postgres {
            txn.execute_unprepared("SET LOCAL lock_timeout = '5s'").await?;
        }
        Ok(txn)
    }
}

/// How one connection that writes is opened.
pub(super) fn writing(url: &str) -> ConnectOptions {
    let mut writer = options(url, 1);
    // 64 MiB: tokens and requests are written all over their trees.
    writer.map_sqlx_sqlite_opts(|options| durable(options).pragma("cache_size", "-65536"));
    writer.map_sqlx_postgres_pool_opts(|options| told(options, &POSTGRES_WRITER));
    writer
}

/// Nothing of a statement goes to a log or span: its values are a merchant's business.
fn options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_timeout(ACQUIRE_TIMEOUT)
        .sqlx_logging(false)
        .record_stmt_in_spans(false)
        // A connection in use is not asked each time whether it lives: that is a round trip for each transaction.
        .test_before_acquire(false)
        .test_before_acquire_if_idle_for(IDLE);
    options
}

fn durable(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(ACQUIRE_TIMEOUT)
        .pragma("secure_delete", "ON")
        .pragma("temp_store", "MEMORY")
}

/// What a server elsewhere is sent passes through other hands, and anybody may answer in its place.
fn refuse_open_wire(url: &str) -> Result<(), StoreError> {
    let options: PgConnectOptions =
        url.parse().map_err(|_| StoreError::Address("it is no address of a PostgreSQL database"))?;
    let host = options.get_host().trim_start_matches('[').trim_end_matches(']');
    let here = options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if here || matches!(options.get_ssl_mode(), PgSslMode::VerifyFull) {
        return Ok(());
    }
    Err(StoreError::Address(
        "a PostgreSQL server on another machine must prove who it is; add sslmode=verify-full (and \
         sslrootcert=FILE for a certificate authority of your own)",
    ))
}

fn told(options: PgPoolOptions, settings: &'static [&'static str]) -> PgPoolOptions {
    options.after_connect(move |connection, _| {
        Box::pin(async move {
            for setting in settings {
                // Engines that only speak PostgreSQL's language may not know a setting; they do without it.
                if let Err(error) = connection.execute(*setting).await
                    && error.as_database_error().is_none()
                {
                    return Err(error);
                }
            }
            Ok(())
        })
    })
}
