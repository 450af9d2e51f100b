//! Rows that every request looks up by key. What was read a moment ago is kept; who asks for something else while others
//! are being answered shares the next statement with all who do: a statement costs a change of threads or a round trip,
//! however many rows it brings.
//!
//! Architecture invariant: what is read here only saves work. Whatever must hold is decided by the writer, in the
//! transaction that acts on it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use quick_cache::sync::Cache;
use sea_orm::{ConnectionTrait, DbBackend, QueryResult};
use tokio::sync::{mpsc, oneshot};

use super::bulk::{Rows, Select};
use super::error::{Failure, StoreError};
use super::lease::{Lease, Read};
use super::pool::Pool;
use super::{bdk, device, merchant, module, token};

/// Most keys of one statement.
const TOGETHER: usize = 256;
/// Most lookups waiting; more are refused at once.
const WAITING: usize = 4096;

/// Most rows of a kind that are kept.
const KEPT: usize = 1 << 16;

/// For how long a row is true.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Truth {
    /// Until somebody changes the registry.
    Registry,
    /// For ever: such rows are never changed.
    Always,
}

/// One way to look rows up.
pub(super) trait Lookup: 'static {
    /// What they are known by.
    type Key: Clone + Eq + Hash + Send + Sync;
    /// What is read of a row.
    type Found: Clone + Send + Sync;
    /// For how long that is true.
    const TRUTH: Truth;

    /// The statement, up to and with `FROM`; the keys follow as `v`.
    const HEAD: &'static str;
    /// What follows the keys.
    fn tail(backend: DbBackend) -> &'static str;

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
    pub(super) bdks: Shared<bdk::ById>,
    pub(super) merchants: Shared<merchant::ById>,
    pub(super) cards: Shared<token::ByFingerprint>,
}

/// Where lookups of one kind are handed in; its task ends when it is dropped.
pub(super) struct Shared<L: Lookup> {
    asked: mpsc::Sender<Asked<L>>,
    shelf: Arc<Shelf<L>>,
}

/// What was found and still stands. That there was no row is not kept.
struct Shelf<L: Lookup> {
    rows: Cache<L::Key, (L::Found, Read)>,
    lease: Arc<Lease>,
}

struct Asked<L: Lookup> {
    key: L::Key,
    answer: oneshot::Sender<Result<Option<L::Found>, StoreError>>,
}

impl Lookups {
    /// Over these connections, on the runtime this is called on.
    pub(super) fn over(reading: &Pool, lease: &Arc<Lease>) -> Self {
        Self {
            modules: Shared::over(reading, lease),
            devices: Shared::over(reading, lease),
            bdks: Shared::over(reading, lease),
            merchants: Shared::over(reading, lease),
            cards: Shared::over(reading, lease),
        }
    }
}

impl<L: Lookup> Shared<L> {
    fn over(reading: &Pool, lease: &Arc<Lease>) -> Self {
        let (asked, queue) = mpsc::channel(WAITING);
        let shelf = Arc::new(Shelf { rows: Cache::new(KEPT), lease: Arc::clone(lease) });
        tokio::spawn(serve(reading.clone(), queue, Arc::clone(&shelf)));
        Self { asked, shelf }
    }

    /// What is known without asking anybody.
    pub(super) fn kept(&self, key: &L::Key) -> Option<L::Found> {
        let (found, read) = self.shelf.rows.get(key)?;
        (L::TRUTH == Truth::Always || self.shelf.lease.covers(read)).then_some(found)
    }

    /// Keeps a row that was written.
    pub(super) fn keep(&self, key: L::Key, found: L::Found) {
        self.shelf.rows.insert(key, (found, self.shelf.lease.read_now()));
    }

    /// The row with this key.
    pub(super) async fn find(&self, key: L::Key) -> Result<Option<L::Found>, StoreError> {
        if let Some(found) = self.kept(&key) {
            return Ok(Some(found));
        }
        let (answer, found) = oneshot::channel();
        match self.asked.try_send(Asked { key, answer }) {
            Ok(()) => found.await.unwrap_or(Err(StoreError::Stopped)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(StoreError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(StoreError::Stopped),
        }
    }
}

async fn serve<L: Lookup>(reading: Pool, mut queue: mpsc::Receiver<Asked<L>>, shelf: Arc<Shelf<L>>) {
    let mut asked = Vec::new();
    while queue.recv_many(&mut asked, TOGETHER).await > 0 {
        // Nothing is read for those who have gone.
        asked.retain(|asked| !asked.answer.is_closed());
        let now = shelf.lease.read_now();
        let found = read::<L>(&reading, &asked).await;
        for (key, found) in found.iter().flatten() {
            if let Ok(found) = found {
                shelf.rows.insert(key.clone(), (found.clone(), now));
            }
        }
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
    let select = Select::new(L::HEAD, keys, L::tail(reading.backend()));
    let Some(statement) = select.statement(reading.backend()) else { return Ok(HashMap::new()) };
    let statement = &statement;
    let rows = reading.read(|db| async move { db.query_all_raw(statement.clone()).await }).await?;
    // A row without a readable key is the answer to nobody's question.
    Ok(rows.iter().filter_map(|row| Some((L::key(row).ok()?, L::found(row)))).collect())
}
