//! What can go wrong in the data store. No text of the driver is passed on: drivers repeat values.

use std::fmt;

use sea_orm::{DbErr, RuntimeErr, sqlx};
use warifu_core::{custody, device};

/// Why the data store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The writer's queue is full.
    #[error("too many jobs are waiting for the data store")]
    Busy,
    /// The database is away, full, locked or read-only. What was asked may have happened or not: ask again.
    #[error("the data store cannot be used")]
    Unavailable {
        /// What the database said.
        #[source]
        source: Cause,
    },
    /// The database works and refused what was asked of it, once and again.
    #[error("the database refuses what the server asks of it")]
    Refused {
        /// What the database said.
        #[source]
        source: Cause,
    },
    /// A row holds what no version of this server writes.
    #[error("the data store holds an impossible value in {0}")]
    Corrupt(&'static str),
    /// Another process writes the same audit log: two servers were given one instance name.
    #[error("another process has taken over this server's audit log; every server needs an instance name of its own")]
    LogTaken,
    /// The audit log is not what this server, or the one before it, left: nothing may be built on it.
    #[error("the audit log was changed behind the server: {0}")]
    LogChanged(&'static str),
    /// The writer has stopped.
    #[error("the writer of the data store has stopped")]
    Stopped,
    /// The registry has it already.
    #[error("the {0} is registered already")]
    Exists(&'static str),
    /// Something else needs it.
    #[error("the {0} is still needed")]
    InUse(&'static str),
    /// The registry does not have it.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The life of a device has no such move.
    #[error(transparent)]
    IllegalMove(#[from] device::IllegalMove),
    /// The life of a key has no such move.
    #[error(transparent)]
    IllegalKeyMove(#[from] custody::IllegalMove),
    /// A place that cannot be used as a data store.
    #[error("the data store cannot be at this address: {0}")]
    Address(&'static str),
}

/// What a database said, in our words, with its own code where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    what: &'static str,
    code: Option<Box<str>>,
}

/// What to do about an error.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Another transaction was faster: everything again from the start can succeed.
    Race(Cause),
    /// The database cannot be used at the moment, whatever is asked.
    Outage(Cause),
    /// Somebody keeps a row locked for longer than anybody waits.
    Locked(Cause),
    /// The database refused exactly this.
    Refusal(Cause),
    /// A row is impossible.
    Corrupt(&'static str),
    /// The log belongs to another process now.
    LogTaken,
    /// The log holds what its owner never wrote.
    LogChanged(&'static str),
}

/// SQLSTATE of a statement that took longer than it may.
const CANCELLED: &str = "57014";
/// SQLSTATE of a statement that would have written where nothing may be.
const READ_ONLY: &str = "25006";
const BROKEN: &str = "the connection to the database broke";
const SILENT: &str = "the database did not answer";
const NO_CONNECTION: &str = "no connection to the database in time";
const UNIQUE_KEY: &str = "a unique key exists already";
const DISK: &str = "the database file cannot be used";

impl Cause {
    pub(super) const fn new(what: &'static str) -> Self {
        Self { what, code: None }
    }

    fn coded(what: &'static str, code: &str) -> Self {
        // SQLSTATEs are five letters and digits, SQLite's codes are numbers: neither can carry a value.
        let plain = code.len() <= 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Self { what, code: plain.then(|| code.into()) }
    }

    pub(super) fn is_broken_connection(&self) -> bool {
        self.what == BROKEN
    }

    /// Not even a word that something is wrong.
    pub(super) const fn silence() -> Self {
        Self::new(SILENT)
    }

    /// Whether connections may be silent: their own answer did not come, or that of all of them.
    pub(super) fn is_silence(&self) -> bool {
        self.what == SILENT || self.what == NO_CONNECTION
    }

    pub(super) fn is_unique_key(&self) -> bool {
        self.what == UNIQUE_KEY
    }

    /// The SQLSTATE of PostgreSQL or the extended result code of SQLite.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{} (code {code})", self.what),
            None => f.write_str(self.what),
        }
    }
}

impl std::error::Error for Cause {}

impl Failure {
    /// For metrics.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Race(_) => "race",
            Self::Outage(_) => "outage",
            Self::Locked(_) => "locked",
            Self::Refusal(_) => "refusal",
            Self::Corrupt(_) => "corrupt",
            Self::LogTaken => "log-taken",
            Self::LogChanged(_) => "log-changed",
        }
    }

    /// Whether every other job would fail too, for now.
    pub(super) const fn is_outage(&self) -> bool {
        matches!(self, Self::Outage(_))
    }

    /// Whether every other job would fail too, for ever.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self, Self::LogTaken | Self::LogChanged(_))
    }

    /// Whether SQLite could not read or write its file.
    pub(super) fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Outage(cause) if cause.what == DISK)
    }

    /// Whether PostgreSQL itself said that it has not carried out a statement, and why.
    pub(super) fn is_an_answer(&self) -> bool {
        match self {
            Self::Race(_) | Self::Refusal(_) | Self::Locked(_) => true,
            Self::Outage(cause) => cause.code().is_some_and(|code| [CANCELLED, READ_ONLY].contains(&code)),
            Self::Corrupt(_) | Self::LogTaken | Self::LogChanged(_) => false,
        }
    }

    /// Whether the other jobs of a batch may well work without the one that caused this.
    pub(super) const fn may_be_of_one_job(&self) -> bool {
        matches!(self, Self::Race(_) | Self::Locked(_) | Self::Refusal(_) | Self::Corrupt(_))
    }

    /// Whether the same can work at once.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Race(_) => true,
            // A connection may have died unnoticed, and others with it.
            Self::Outage(cause) => cause.is_broken_connection(),
            Self::Locked(_) | Self::Refusal(_) | Self::Corrupt(_) | Self::LogTaken | Self::LogChanged(_) => false,
        }
    }

    fn postgres(code: &str) -> Self {
        match code {
            "23505" => Self::Race(Cause::coded(UNIQUE_KEY, code)),
            "40001" | "40P01" => Self::Race(Cause::coded("two transactions were in each other's way", code)),
            "55P03" => Self::Locked(Cause::coded("a row stays locked by another transaction", code)),
            CANCELLED => Self::Outage(Cause::coded("the database did not answer in time", code)),
            READ_ONLY => Self::Outage(Cause::coded("the database is read-only", code)),
            "40003" => Self::Outage(Cause::coded("the database does not know what became of a statement", code)),
            // The server told this connection to go; the next one may be let in.
            "57P01" | "57P02" => Self::Outage(Cause::coded(BROKEN, code)),
            _ if code.starts_with("53") => Self::Outage(Cause::coded("the database has run out of something", code)),
            _ if ["08", "57", "58", "XX"].iter().any(|class| code.starts_with(class)) => {
                Self::Outage(Cause::coded("the database is not well", code))
            }
            _ => Self::Refusal(Cause::coded("the database refused a statement", code)),
        }
    }

    fn sqlite(code: &str) -> Self {
        let extended: u32 = code.parse().unwrap_or_default();
        match (extended & 0xFF, extended) {
            (_, 1555 | 2067) => Self::Race(Cause::coded(UNIQUE_KEY, code)),
            (5 | 6, _) => Self::Outage(Cause::coded("the database is locked by another process", code)),
            (8, _) => Self::Outage(Cause::coded("the database is read-only", code)),
            (13, _) => Self::Outage(Cause::coded("the disk is full", code)),
            (10 | 11 | 14 | 26, _) => Self::Outage(Cause::coded(DISK, code)),
            _ => Self::Refusal(Cause::coded("the database refused a statement", code)),
        }
    }

    pub(super) fn driver(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(said) => {
                let code = said.code().unwrap_or_default();
                if said.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
                    Self::sqlite(&code)
                } else {
                    Self::postgres(&code)
                }
            }
            sqlx::Error::PoolTimedOut => Self::Outage(Cause::new(NO_CONNECTION)),
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => Self::Outage(Cause::new(BROKEN)),
            sqlx::Error::Configuration(_) => Self::Outage(Cause::new("the database address is not understood")),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => {
                Self::Corrupt("a column")
            }
            _ => Self::Outage(Cause::new("the database driver failed")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Race(cause) | Self::Outage(cause) | Self::Locked(cause) | Self::Refusal(cause) => cause.fmt(f),
            Self::Corrupt(what) => write!(f, "an impossible value in {what}"),
            Self::LogTaken => f.write_str("another process has taken over the audit log"),
            Self::LogChanged(what) => write!(f, "the audit log was changed behind the server: {what}"),
        }
    }
}

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        match error {
            DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
                Self::driver(&error)
            }
            // Whatever a database says to a newcomer, it has not let it in.
            DbErr::Conn(RuntimeErr::SqlxError(error)) => match Self::driver(&error) {
                Self::Refusal(Cause { code, .. }) => {
                    Self::Outage(Cause { what: "the database does not let the server in", code })
                }
                other => other,
            },
            DbErr::ConnectionAcquire(_) => Self::Outage(Cause::new(NO_CONNECTION)),
            DbErr::Type(_) | DbErr::TryIntoErr { .. } => Self::Corrupt("a column"),
            DbErr::Migration(_) | DbErr::Custom(_) => {
                Self::Refusal(Cause::new("the schema does not belong to this version of the server"))
            }
            _ => Self::Outage(Cause::new("the database driver failed")),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            // Whoever gives up on a race leaves it to the caller's next try.
            Failure::Race(source) | Failure::Outage(source) | Failure::Locked(source) => Self::Unavailable { source },
            Failure::Refusal(source) => Self::Refused { source },
            Failure::Corrupt(what) => Self::Corrupt(what),
            Failure::LogTaken => Self::LogTaken,
            Failure::LogChanged(what) => Self::LogChanged(what),
        }
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        Failure::from(error).into()
    }
}
