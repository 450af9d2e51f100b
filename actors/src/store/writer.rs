//! The one task that writes: it makes everything that waits durable in one transaction, and only then answers.
//!
//! While one batch is being committed the next one collects, so the busier it is the larger its batches are; a lone
//! caller waits for nobody.

use std::future::Future;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;
use warifu_core::audit::Tree;

use super::Store;
use super::audit::LogId;
use super::error::StoreError;
use super::job::{Job, Outcome, Rejection};

mod at_once;
mod task;

/// How much the writer takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterSettings {
    /// Most jobs in one transaction.
    pub max_batch: usize,
    /// Most jobs waiting; more are refused at once.
    pub queue: usize,
    /// The HSM's audit key, an uncompressed P-256 point: records before the newest head it has signed are not hashed again
    /// when a log is taken over. Without one all are.
    pub audit_key: Option<[u8; 65]>,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self { max_batch: 256, queue: 4096, audit_key: None }
    }
}

/// Where jobs are handed in. Cheap to clone; the task ends when the last one is gone.
#[derive(Clone)]
pub struct Writer {
    log: LogId,
    jobs: mpsc::Sender<Queued>,
    tree: watch::Receiver<TreeState>,
}

/// The audit log as it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeState {
    /// The tree over its records.
    pub tree: Tree,
    /// When records last became durable; `None` before the first, and after a failure.
    pub last_durable_at: Option<Instant>,
}

/// What a job comes to once everything it did is durable.
pub type Answer = Result<Result<Outcome, Rejection>, StoreError>;

struct Queued {
    job: Job,
    answer: oneshot::Sender<Answer>,
}

/// A caller that has gone does not matter: its job is done all the same.
fn tell(caller: oneshot::Sender<Answer>, answer: Answer) {
    let _ = caller.send(answer);
}

impl Store {
    /// Takes the audit log `log` over and starts to write. Whoever wrote to that log before cannot any more.
    ///
    /// Every record that no head of [`WriterSettings::audit_key`] covers is hashed again first: millions take seconds.
    ///
    /// # Errors
    /// `LogChanged` if the log is not the one that was left, or not the one its newest head was signed over, or if that
    /// signature is not the audit key's.
    pub async fn start_writer(&self, log: LogId, settings: WriterSettings) -> Result<Writer, StoreError> {
        let owner = Uuid::new_v4();
        let tree = self.take_over(&log, owner, settings.audit_key.as_ref()).await?;
        let (jobs, queue) = mpsc::channel(settings.queue.max(1));
        let (told, state) = watch::channel(TreeState { tree: tree.clone(), last_durable_at: None });
        let task = task::Task::new(self.clone(), log.clone(), owner, tree, told);
        tokio::spawn(task.run(queue, settings.max_batch.max(1)));
        Ok(Writer { log, jobs, tree: state })
    }
}

impl Writer {
    /// Hands a job in; the answer comes when it is durable. Jobs are carried out in the order they are handed in, also
    /// when nobody waits for the answer any more.
    ///
    /// # Errors
    /// `Busy` at once when the queue is full. After `Unavailable` the job may have happened or not.
    pub fn submit(&self, job: Job) -> impl Future<Output = Answer> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let queued = self.jobs.try_send(Queued { job, answer });
        async move {
            match queued {
                Ok(()) => answered.await.unwrap_or(Err(StoreError::Stopped)),
                Err(mpsc::error::TrySendError::Full(_)) => Err(StoreError::Busy),
                Err(mpsc::error::TrySendError::Closed(_)) => Err(StoreError::Stopped),
            }
        }
    }

    /// As [`Writer::submit`] for many jobs, in order: all of them are handed in, or none.
    pub fn submit_each(&self, jobs: Vec<Job>) -> Vec<impl Future<Output = Answer> + Send + use<>> {
        let queued = jobs.into_iter().map(|job| {
            let (answer, answered) = oneshot::channel();
            (Queued { job, answer }, answered)
        });
        let (queued, answered): (Vec<_>, Vec<_>) = queued.unzip();
        let refused = match self.jobs.try_reserve_many(queued.len()) {
            Ok(places) => {
                places.zip(queued).for_each(|(place, queued)| place.send(queued));
                None
            }
            Err(mpsc::error::TrySendError::Full(())) => Some(StoreError::Busy),
            Err(mpsc::error::TrySendError::Closed(())) => Some(StoreError::Stopped),
        };
        let answers = answered.into_iter().map(|answered| {
            let refused = refused.clone();
            async move {
                match refused {
                    None => answered.await.unwrap_or(Err(StoreError::Stopped)),
                    Some(error) => Err(error),
                }
            }
        });
        answers.collect()
    }

    /// The audit log as it is durable, and when that changes.
    pub fn tree(&self) -> watch::Receiver<TreeState> {
        self.tree.clone()
    }

    /// The audit log written to.
    pub fn log(&self) -> &LogId {
        &self.log
    }
}
