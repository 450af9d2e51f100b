//! The one task that writes: it makes everything that waits durable in one transaction, and only then answers.
//!
//! While one batch is being committed the next one collects, so the busier it is the larger its batches are; a lone
//! caller waits for nobody.

use std::future::Future;
use std::time::Duration;

use sea_orm::{DatabaseTransaction, DbBackend};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;
use warifu_core::audit::{Hash, Tree};

use super::audit::{self, Appended, LogId};
use super::decide::{Decision, Effects, RequestView, View, Wanted, decide};
use super::error::{Cause, Failure, StoreError};
use super::job::{Job, Outcome, Rejection};
use super::{Store, bulk, device, payment, request, token};

/// Tries when other processes are faster.
const TRIES: u32 = 4;
/// Longest wait for PostgreSQL to carry out a batch.
const BATCH_TIMEOUT: Duration = Duration::from_secs(15);

/// How much the writer takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterSettings {
    /// Most jobs in one transaction.
    pub max_batch: usize,
    /// Most jobs waiting; more are refused at once.
    pub queue: usize,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self { max_batch: 256, queue: 4096 }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeState {
    /// How many records.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
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
    pub async fn start_writer(&self, log: LogId, settings: WriterSettings) -> Result<Writer, StoreError> {
        let owner = Uuid::new_v4();
        let txn = self.begin().await?;
        let tree = audit::take_over(&txn, &log, owner).await?;
        txn.commit().await?;
        let (jobs, queue) = mpsc::channel(settings.queue.max(1));
        let (told, state) = watch::channel(TreeState { size: tree.size(), root: tree.root(), last_durable_at: None });
        let task = Task {
            store: self.clone(),
            log: log.clone(),
            owner,
            tree: Some(tree),
            taken_over: false,
            max_batch: settings.max_batch.max(1),
            told,
        };
        tokio::spawn(task.run(queue));
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

    /// The audit log as it is durable, and when that changes.
    pub fn tree(&self) -> watch::Receiver<TreeState> {
        self.tree.clone()
    }

    /// The audit log written to.
    pub fn log(&self) -> &LogId {
        &self.log
    }
}

struct Task {
    store: Store,
    log: LogId,
    /// Marks the log as this task's.
    owner: Uuid,
    /// The log's tree, or `None` when only the database knows it.
    tree: Option<Tree>,
    taken_over: bool,
    max_batch: usize,
    told: watch::Sender<TreeState>,
}

/// A batch that did not work out.
struct Failed {
    failure: Failure,
    /// The database may have carried it out all the same.
    ambiguous: bool,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Queued>) {
        loop {
            let mut batch = Vec::new();
            if queue.recv_many(&mut batch, self.max_batch).await == 0 {
                return;
            }
            if let Some(outage) = self.serve(batch).await {
                // Whoever waits would wait for the same in vain, one batch after the other.
                while let Ok(waiting) = queue.try_recv() {
                    tell(waiting.answer, Err(outage.clone()));
                }
            }
        }
    }

    /// Answers a batch, and says if the database turned out to be away.
    async fn serve(&mut self, batch: Vec<Queued>) -> Option<StoreError> {
        let (jobs, callers): (Vec<Job>, Vec<_>) = batch.into_iter().map(|queued| (queued.job, queued.answer)).unzip();
        let answers = self.carry_out(&jobs).await;
        let outage = match answers.last() {
            Some(Err(error @ StoreError::Unavailable { .. })) => Some(error.clone()),
            _ => None,
        };
        for (caller, answer) in callers.into_iter().zip(answers) {
            tell(caller, answer);
        }
        outage
    }

    /// Carries out all jobs together, or each alone where they do not work together.
    async fn carry_out(&mut self, jobs: &[Job]) -> Vec<Answer> {
        match self.persist(jobs).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(Failed { failure: Failure::Race(_) | Failure::Refusal(_) | Failure::Corrupt(_), ambiguous: false })
                if jobs.len() > 1 =>
            {
                let mut answers = Vec::with_capacity(jobs.len());
                for job in jobs {
                    let alone = self.persist(std::slice::from_ref(job)).await;
                    // One job, one answer.
                    let answer = alone.map(|mut answers| answers.pop());
                    answers.push(match answer {
                        Ok(Some(answer)) => Ok(answer),
                        Ok(None) => Err(StoreError::Stopped),
                        Err(failed) => Err(failed.failure.into()),
                    });
                }
                answers
            }
            Err(failed) => {
                let error = StoreError::from(failed.failure);
                jobs.iter().map(|_| Err(error.clone())).collect()
            }
        }
    }

    /// Tries until it works, another try is pointless, or other processes were faster too often.
    async fn persist(&mut self, jobs: &[Job]) -> Result<Vec<Result<Outcome, Rejection>>, Failed> {
        let mut tries = 0;
        loop {
            if self.taken_over {
                return Err(Failed { failure: Failure::LogTaken, ambiguous: false });
            }
            tries += 1;
            let failed = match self.attempt(jobs).await {
                Ok(answers) => return Ok(answers),
                Err(failed) => failed,
            };
            // Whatever happened, the database knows the tree better now.
            self.tree = None;
            self.told.send_modify(|state| state.last_durable_at = None);
            self.taken_over = matches!(failed.failure, Failure::LogTaken);
            metrics::counter!("warifu_store_failed_batches_total", "cause" => failed.failure.name()).increment(1);
            match &failed.failure {
                Failure::Race(_) if tries < TRIES => tokio::time::sleep(jitter(tries)).await,
                // A connection may have died unnoticed, and others with it.
                Failure::Outage(cause) if tries < TRIES && cause.is_broken_connection() && !failed.ambiguous => {}
                failure => {
                    tracing::warn!(jobs = jobs.len(), cause = %failure, "a batch could not be made durable");
                    return Err(failed);
                }
            }
        }
    }

    async fn attempt(&mut self, jobs: &[Job]) -> Result<Vec<Result<Outcome, Rejection>>, Failed> {
        let started = std::time::Instant::now();
        let attempt = self.transact(jobs);
        let (answers, tree) = if self.store.backend() == DbBackend::Sqlite {
            attempt.await?
        } else {
            let late =
                Failed { failure: Failure::Outage(Cause::new("the database did not answer in time")), ambiguous: true };
            tokio::time::timeout(BATCH_TIMEOUT, attempt).await.map_err(|_| late)??
        };
        let state = TreeState { size: tree.size(), root: tree.root(), last_durable_at: Some(Instant::now()) };
        self.tree = Some(tree);
        self.told.send_replace(state);
        metrics::histogram!("warifu_store_batch_seconds").record(started.elapsed().as_secs_f64());
        metrics::histogram!("warifu_store_batch_jobs").record(f64::from(u32::try_from(jobs.len()).unwrap_or(u32::MAX)));
        Ok(answers)
    }

    /// One transaction.
    async fn transact(&self, jobs: &[Job]) -> Result<(Vec<Result<Outcome, Rejection>>, Tree), Failed> {
        let txn = self.store.begin().await?;
        let tree = match &self.tree {
            Some(tree) => tree.clone(),
            None => self.reload(&txn).await?,
        };
        let view = read(&txn, &Wanted::by(jobs)).await?;
        let Decision { effects, answers } = decide(view, jobs, now_ms());
        let tree = self.write(&txn, &effects, &tree).await?;
        txn.commit().await.map_err(|error| Failed { failure: error.into(), ambiguous: true }.unless_told())?;
        Ok((answers, tree))
    }

    async fn reload(&self, txn: &DatabaseTransaction) -> Result<Tree, Failure> {
        let (tree, owner) = audit::tree_locked(txn, &self.log).await?;
        if owner == self.owner { Ok(tree) } else { Err(Failure::LogTaken) }
    }

    async fn write(&self, txn: &DatabaseTransaction, effects: &Effects, tree: &Tree) -> Result<Tree, Failure> {
        let Appended { tree, writes: [frontier, records] } =
            audit::append(&self.log, self.owner, tree, &effects.records)?;
        let writes = vec![
            frontier,
            device::update(&effects.devices),
            token::insert(effects.tokens.iter()),
            request::insert(effects.requests.iter()),
            payment::insert(effects.new_payments.values(), &self.log),
            payment::update(&effects.moved_payments),
            records,
        ];
        bulk::write(txn, writes).await?;
        Ok(tree)
    }
}

/// Reads everything a batch names, and locks what it may change.
async fn read(txn: &DatabaseTransaction, wanted: &Wanted<'_>) -> Result<View, Failure> {
    let mut view = View::default();
    view.devices.extend(device::read_locked(txn, wanted.devices.iter().copied()).await?);
    let payments = payment::read_locked(txn, wanted.payments.iter().copied()).await?;
    view.payments.extend(payments.into_iter().map(|payment| (payment.id, payment)));
    view.requests.extend(request::read(txn, wanted.requests.iter()).await?);
    let told: Vec<_> = view.requests.values().filter_map(|RequestView { payment, .. }| *payment).collect();
    let told = told.into_iter().filter(|id| !wanted.payments.contains(id));
    let payments = payment::read(txn, told).await?;
    view.payments.extend(payments.into_iter().map(|payment| (payment.id, payment)));
    for found in token::read(txn, wanted).await? {
        view.holders.insert((found.merchant.clone(), found.card.token), found.fingerprint);
        view.cards.insert((found.merchant, found.fingerprint), found.card);
    }
    Ok(view)
}

impl Failed {
    /// A database that names its reason for refusing a commit has not carried it out.
    fn unless_told(self) -> Self {
        let ambiguous = !matches!(self.failure, Failure::Race(_) | Failure::Refusal(_));
        Self { ambiguous, ..self }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, ambiguous: false }
    }
}

/// Up to 2, 4, 8... milliseconds, so that those in each other's way part.
fn jitter(tries: u32) -> Duration {
    let [random, ..] = *Uuid::new_v4().as_bytes();
    let most_us = 1000_u64 << tries.min(6);
    Duration::from_micros(most_us * u64::from(random) / 256)
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
