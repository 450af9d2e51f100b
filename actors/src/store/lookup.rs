//! Rows that every request looks up by key. Who asks while others are being answered shares the next statement with all
//! who do: a statement costs a change of threads or a round trip, however many rows it brings.
//!
//! Architecture invariant: what is read here only saves work. Whatever must hold is decided by the writer, in the
//! transaction that acts on it.

use std::collections::HashMap;
use std::hash::Hash;

use sea_orm::{ConnectionTrait, QueryResult};
use tokio::sync::{mpsc, oneshot};

use super::bulk::{Rows, Select};
use super::error::{Failure, StoreError};
use super::pool::Pool;
use super::{device, merchant, module, token};

/// Most keys of one statement.
const TOGETHER: usize = 256;
/// Most lookups waiting; more are refused at once.
const WAITING: usize = 4096;

/// One way to look rows up.
pub(super) trait Lookup: 'static {
    /// What they are known by.
    type Key: Clone + Eq + Hash + Send + Sync;
    /// What is read of a row.
    type Found: Clone + Send;

    /// The statement, up to and with `FROM`; the keys follow as `v`.
    const HEAD: &'static str;
    /// What follows the keys.
    const TAIL: &'static str;

    /// The keys as rows to bind.
    fn bind<'a>(keys: impl Iterator<Item = &'a Self::Key>) -> Rows;
    /// The key of a row.
    fn key(row: &QueryResult) -> Result<Self::Key, Failure>;
    /// What is read of a row.
    fn found(row: &QueryResult) -> Result<Self::Found, Failure>;
}

/// All lookups of a store.
pub(super) struct Lookups {
    pub(super) modules: Shared<module::ByCertificate>,
    pub(super) devices: Shared<device::ByKsn>,
    pub(super) merchants: Shared<merchant::ById>,
    pub(super) cards: Shared<token::ByFingerprint>,
}

/// Where lookups of one kind are handed in; its task ends when it is dropped.
pub(super) struct Shared<L: Lookup> {
    asked: mpsc::Sender<Asked<L>>,
}

struct Asked<L: Lookup> {
    key: L::Key,
    answer: oneshot::Sender<Result<Option<L::Found>, StoreError>>,
}

impl Lookups {
    /// Over these connections, on the runtime this is called on.
    pub(super) fn over(reading: &Pool) -> Self {
        Self {
            modules: Shared::over(reading),
            devices: Shared::over(reading),
            merchants: Shared::over(reading),
            cards: Shared::over(reading),
        }
    }
}

impl<L: Lookup> Shared<L> {
    fn over(reading: &Pool) -> Self {
        let (asked, queue) = mpsc::channel(WAITING);
        tokio::spawn(serve(reading.clone(), queue));
        Self { asked }
    }

    /// The row with this key.
    pub(super) async fn find(&self, key: L::Key) -> Result<Option<L::Found>, StoreError> {
        let (answer, found) = oneshot::channel();
        match self.asked.try_send(Asked { key, answer }) {
            Ok(()) => found.await.unwrap_or(Err(StoreError::Stopped)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(StoreError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(StoreError::Stopped),
        }
    }
}

async fn serve<L: Lookup>(reading: Pool, mut queue: mpsc::Receiver<Asked<L>>) {
    let mut asked = Vec::new();
    while queue.recv_many(&mut asked, TOGETHER).await > 0 {
        // Nothing is read for those who have gone.
        asked.retain(|asked| !asked.answer.is_closed());
        let found = read::<L>(&reading, &asked).await;
        for Asked { key, answer } in asked.drain(..) {
            let told = match &found {
                Ok(rows) => rows.get(&key).cloned().transpose(),
                Err(failure) => Err(failure.clone()),
            };
            let _ = answer.send(told.map_err(StoreError::from));
        }
    }
}

type Found<L> = HashMap<<L as Lookup>::Key, Result<<L as Lookup>::Found, Failure>>;

/// A row that cannot be read fails those who asked for it, and nobody else.
async fn read<L: Lookup>(reading: &Pool, asked: &[Asked<L>]) -> Result<Found<L>, Failure> {
    let keys = L::bind(asked.iter().map(|asked| &asked.key));
    let select = Select::new(L::HEAD, keys, L::TAIL);
    let Some(statement) = select.statement(reading.backend()) else { return Ok(HashMap::new()) };
    let statement = &statement;
    let rows = reading.read(|db| async move { db.query_all_raw(statement.clone()).await }).await?;
    // A row without a readable key is the answer to nobody's question.
    Ok(rows.iter().filter_map(|row| Some((L::key(row).ok()?, L::found(row)))).collect())
}
