//! The operator's desk: the data store and its registry, opened for one command.
//!
//! A command is another process than the server, so what it changes is told in an audit log of its own,
//! `INSTANCE-cli`.

use std::future::Future;

use warifu_actors::clock::{Clock as _, SystemClock};
use warifu_actors::store::audit::LogId;
use warifu_actors::store::registry::Registry;
use warifu_actors::store::{LEASE, Store, StoreError};

use crate::app::open_store;
use crate::cli::ConfigFile;
use crate::config::Config;
use crate::exit::{Attempt as _, Exit, Failure};

/// What the name of a command's audit log ends with.
const LOG_SUFFIX: &str = "-cli";

/// Everything a command about merchants, modules, devices and sales needs.
pub(crate) struct Desk {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
}

impl Desk {
    /// Opens the data store of a configuration.
    pub(crate) async fn open(config: Config) -> Result<Self, Failure> {
        let log = LogId::parse(&format!("{}{LOG_SUFFIX}", config.server.instance))
            .or_exit(Exit::Usage, "name the audit log after server.instance")?;
        let store = open_store(&config.store).await?;
        let registry = store.registry(log);
        Ok(Self { config, store, registry })
    }

    /// Returns when every server follows what was just changed.
    pub(crate) async fn in_force(&self) {
        tokio::time::sleep(LEASE).await;
    }
}

/// Runs one command at the desk.
pub(crate) fn at_desk<F>(file: &ConfigFile, work: impl FnOnce(Desk) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let config = file.load(&[])?;
    on_runtime(async { work(Desk::open(config).await?).await })
}

/// Runs a future to its end.
pub(crate) fn on_runtime<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.or_exit(Exit::Internal, "start a runtime")?.block_on(future)
}

/// The time of a change.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(SystemClock.now_ms()).unwrap_or(i64::MAX)
}

/// Gives an error of the data store its exit code.
pub(crate) trait Stored<T> {
    /// `attempted` completes "could not ...".
    fn stored(self, attempted: &str) -> Result<T, Failure>;
}

impl<T> Stored<T> for Result<T, StoreError> {
    fn stored(self, attempted: &str) -> Result<T, Failure> {
        let exit = match &self {
            Err(
                StoreError::Exists(_)
                | StoreError::InUse(_)
                | StoreError::NotFound(_)
                | StoreError::IllegalMove(_)
                | StoreError::IllegalKeyMove(_),
            ) => Exit::Refused,
            _ => Exit::Store,
        };
        self.or_exit(exit, attempted)
    }
}
