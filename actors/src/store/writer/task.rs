//! The writer's task: batch after batch, each one transaction, each answered only when its fate is known.
//!
//! The tree of the log is what this task last made durable. The database is asked about it after every failure, and
//! believed only where it holds that tree, or the one that a commit whose answer was lost would have made: whatever
//! else it holds somebody else wrote, and the HSM would sign it.
//!
//! A batch is tried from memory first ([`at_once`]): nothing is read, and one call makes it durable. Where memory does
//! not do, it is read, locked, decided and written, in a transaction of several calls.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;
use warifu_core::audit::Tree;
use warifu_core::merchant::DeviceId;

use super::at_once::{Held, Unwritten};
use super::{Answer, Queued, TreeState, tell};
use crate::store::audit::{self, Appended, LogId};
use crate::store::decide::{Decision, Effects, RequestView, View, Wanted, decide};
use crate::store::error::{Cause, Failure, StoreError};
use crate::store::job::{Job, Outcome, PaymentId, Rejection};
use crate::store::{Store, bulk, device, lease, merchant, payment, request, token};

/// Tries when other processes are faster, or a connection is dead.
const TRIES: u32 = 4;
/// Longest wait for PostgreSQL to carry out a batch.
const BATCH_TIMEOUT: Duration = Duration::from_secs(15);
/// For how long the fate of a commit is asked for.
const FATE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two such questions.
const FATE_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection is kept at most: others want to write too, and SQLite has one connection for all.
const KEPT: Duration = Duration::from_millis(100);
/// Most batches in a row that are not tried from memory because such tries failed.
const MOST_WARY: u32 = 63;

type Answers = Vec<Result<Outcome, Rejection>>;

pub(super) struct Task {
    store: Store,
    log: LogId,
    /// Marks the log as this task's.
    owner: Uuid,
    /// The log's tree as it is known to be durable.
    tree: Tree,
    /// What a commit whose answer was lost would have made of it.
    attempted: Option<Tree>,
    /// Whether the database is to be asked first which of the two it has.
    unsure: bool,
    /// Why nothing can be written ever again.
    over: Option<Failure>,
    told: watch::Sender<TreeState>,
    /// Kept while batches follow each other, and since when.
    held: Option<(Held, Instant)>,
    /// Somebody else keeps changing the same rows, or asks for what was refused: how many batches are read the next time
    /// a try from memory fails, and how many still are.
    wary: u32,
    careful: u32,
}

/// How long a transaction waits for rows that somebody else has locked.
#[derive(Clone, Copy)]
enum Patience {
    /// As the connection was told: others are about to finish.
    Batch,
    /// Hardly: the batch has waited already.
    Alone,
}

/// A batch on its way to being durable.
struct Committing {
    tree: Tree,
    answers: Answers,
    effects: Effects,
}

/// A batch that did not work out.
struct Failed {
    failure: Failure,
    /// What the database may have carried out all the same.
    lost: Option<Committing>,
}

/// What a batch came to, and whether the database turned out to be away.
struct Served {
    answers: Vec<Answer>,
    outage: Option<StoreError>,
}

impl Task {
    pub(super) fn new(store: Store, log: LogId, owner: Uuid, tree: Tree, told: watch::Sender<TreeState>) -> Self {
        Self {
            store,
            log,
            owner,
            tree,
            attempted: None,
            unsure: false,
            over: None,
            told,
            held: None,
            wary: 0,
            careful: 0,
        }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Queued>, max_batch: usize) {
        loop {
            self.held.take_if(|(_, since)| queue.is_empty() || since.elapsed() >= KEPT);
            let mut batch = Vec::new();
            if queue.recv_many(&mut batch, max_batch).await == 0 {
                return;
            }
            let (jobs, callers): (Vec<Job>, Vec<_>) =
                batch.into_iter().map(|queued| (queued.job, queued.answer)).unzip();
            let Served { answers, outage } = self.serve(&jobs).await;
            for (caller, answer) in callers.into_iter().zip(answers) {
                tell(caller, answer);
            }
            if let Some(outage) = outage {
                // Whoever waits would wait for the same in vain, one batch after the other.
                while let Ok(waiting) = queue.try_recv() {
                    tell(waiting.answer, Err(outage.clone()));
                }
            }
        }
    }

    /// Carries out all jobs together, or each alone where they do not work together.
    async fn serve(&mut self, jobs: &[Job]) -> Served {
        match self.persist(jobs, Patience::Batch).await {
            Ok(answers) => Served { answers: answers.into_iter().map(Ok).collect(), outage: None },
            Err(failure) if jobs.len() > 1 && failure.may_be_of_one_job() => Box::pin(self.serve_each(jobs)).await,
            Err(failure) => {
                let outage = failure.is_outage().then(|| failure.clone().into());
                let error = StoreError::from(failure);
                Served { answers: jobs.iter().map(|_| Err(error.clone())).collect(), outage }
            }
        }
    }

    async fn serve_each(&mut self, jobs: &[Job]) -> Served {
        let mut served = Served { answers: Vec::with_capacity(jobs.len()), outage: None };
        let mut stuck = Stuck::default();
        for job in jobs {
            let known = served.outage.clone().or_else(|| stuck.holds(job));
            let answer = match known {
                Some(error) => Err(error),
                None => match self.persist(std::slice::from_ref(job), Patience::Alone).await {
                    // One job, one answer.
                    Ok(mut answers) => answers.pop().ok_or(StoreError::Stopped),
                    Err(failure) => {
                        if let Failure::Locked(_) = &failure {
                            stuck.note(job, failure.clone().into());
                        }
                        if failure.is_outage() {
                            served.outage = Some(failure.clone().into());
                        }
                        Err(failure.into())
                    }
                },
            };
            served.answers.push(answer);
        }
        served
    }

    /// Tries until it works, another try is pointless, or other processes were faster too often.
    async fn persist(&mut self, jobs: &[Job], patience: Patience) -> Result<Answers, Failure> {
        let started = Instant::now();
        let mut recalled = self.recall(jobs, patience);
        let mut tries = 0;
        loop {
            if let Some(over) = &self.over {
                return Err(over.clone());
            }
            tries += 1;
            let from_memory = recalled.take();
            let guessed = from_memory.is_some();
            let attempt = match from_memory {
                Some(decision) => self.at_once(decision).await,
                None => {
                    // SQLite has one connection for all who write.
                    self.held = None;
                    self.attempt(jobs, patience).await
                }
            };
            let Failed { failure, lost } = match attempt {
                Ok(done) => return Ok(self.made(started, done)),
                Err(failed) => failed,
            };
            self.store.forget(&Wanted::by(jobs));
            self.held = None;
            if guessed && lost.is_none() && !failure.is_outage() {
                // Nothing happened: what is really there is read now, and for a while longer each time.
                self.wary = (2 * self.wary + 1).min(MOST_WARY);
                self.careful = self.wary;
                tries = 0;
                continue;
            }
            self.doubt(&failure);
            let again = match lost {
                None => failure.may_pass(),
                // Without a record there is no telling whether it happened.
                Some(lost) if lost.tree == self.tree => false,
                Some(lost) => match Box::pin(self.fate(&lost.tree)).await {
                    Ok(Fate::Committed) => {
                        tracing::warn!(jobs = jobs.len(), cause = %failure, "the answer to a commit was lost");
                        return Ok(self.made(started, lost));
                    }
                    Ok(Fate::Undone) => started.elapsed() < BATCH_TIMEOUT,
                    Err(found) if found.is_final() => return Err(found),
                    Err(_) => false,
                },
            };
            if !again || tries >= TRIES {
                tracing::warn!(jobs = jobs.len(), cause = %failure, "a batch could not be made durable");
                return Err(failure);
            }
            if let Failure::Race(_) = failure {
                tokio::time::sleep(jitter(tries)).await;
            }
        }
    }

    /// Whatever happened, the database is to be asked about the tree first.
    fn doubt(&mut self, failure: &Failure) {
        self.unsure = true;
        // That others were faster, or keep a row to themselves, says nothing against the log.
        if !matches!(failure, Failure::Race(_) | Failure::Locked(_)) {
            self.told.send_modify(|state| state.last_durable_at = None);
        }
        metrics::counter!("warifu_store_failed_batches_total", "cause" => failure.name()).increment(1);
        if failure.is_final() {
            tracing::error!(cause = %failure, "the audit log cannot be written any more");
            self.over = Some(failure.clone());
        }
    }

    /// What a batch comes to as far as is known without reading; none where that would refuse any of it, or anything is
    /// in doubt.
    fn recall(&mut self, jobs: &[Job], patience: Patience) -> Option<Decision> {
        if self.unsure || self.over.is_some() || matches!(patience, Patience::Alone) {
            return None;
        }
        if let Some(fewer) = self.careful.checked_sub(1) {
            self.careful = fewer;
            return None;
        }
        let view = self.store.recall(&Wanted::by(jobs));
        Some(decide(view, jobs, now_ms())).filter(|decision| decision.answers.iter().all(Result::is_ok))
    }

    /// One call, if all is as it is remembered.
    async fn at_once(&mut self, decision: Decision) -> Result<Committing, Failed> {
        let nothing_done = |failure| Failed { failure, lost: None };
        let Decision { effects, answers } = decision;
        let (tree, writes) = self.writes(&effects).map_err(nothing_done)?;
        let (held, since) = match self.held.take() {
            Some(held) => held,
            None => (Held::of(self.store.writing()).await.map_err(nothing_done)?, Instant::now()),
        };
        let (done, held) = held.write(writes).await;
        self.held = held.map(|held| (held, since));
        let committing = Committing { tree, answers, effects };
        match done {
            Ok(()) => {
                self.wary = 0;
                Ok(committing)
            }
            Err(Unwritten { failure, undone: true }) => Err(nothing_done(failure)),
            Err(Unwritten { failure, undone: false }) => Err(Failed { failure, lost: Some(committing) }),
        }
    }

    /// It is durable.
    fn made(&mut self, started: Instant, done: Committing) -> Answers {
        self.tree = done.tree;
        // Until something else is durable, what was attempted may still come.
        self.attempted = None;
        self.store.remember(&done.effects);
        // A vault that stands otherwise than was read stands otherwise for all who ask.
        if done.effects.move_the_registry() || done.answers.contains(&Err(Rejection::VaultMoved)) {
            self.store.lease().end();
        }
        self.told.send_replace(TreeState { tree: self.tree.clone(), last_durable_at: Some(Instant::now()) });
        let jobs = u32::try_from(done.answers.len()).unwrap_or(u32::MAX);
        metrics::histogram!("warifu_store_batch_seconds").record(started.elapsed().as_secs_f64());
        metrics::histogram!("warifu_store_batch_jobs").record(f64::from(jobs));
        done.answers
    }

    async fn attempt(&mut self, jobs: &[Job], patience: Patience) -> Result<Committing, Failed> {
        let mut committing = None;
        let backend = self.store.backend();
        let done = within(backend, BATCH_TIMEOUT, Box::pin(self.transact(jobs, patience, &mut committing))).await;
        match (done, committing) {
            (Ok(()), Some(done)) => Ok(done),
            (Ok(()), None) => Err(Failed { failure: Failure::Corrupt("a batch"), lost: None }),
            // A database that names its reason for refusing a commit has not carried it out.
            (Err(failure @ (Failure::Race(_) | Failure::Refusal(_))), _) => Err(Failed { failure, lost: None }),
            (Err(failure), lost) => Err(Failed { failure, lost }),
        }
    }

    /// One transaction. `committing` is set before the commit is sent: from then on nobody but the database knows.
    async fn transact(
        &mut self,
        jobs: &[Job],
        patience: Patience,
        committing: &mut Option<Committing>,
    ) -> Result<(), Failure> {
        metrics::counter!("warifu_store_batches_read_total").increment(1);
        let txn = self.store.begin().await?;
        if self.unsure {
            self.look(&txn).await?;
        }
        if let (Patience::Alone, DbBackend::Postgres) = (patience, self.store.backend()) {
            txn.execute_unprepared("SET LOCAL lock_timeout = '50ms'").await?;
        }
        let view = read(&txn, &Wanted::by(jobs)).await?;
        let Decision { effects, answers } = decide(view, jobs, now_ms());
        let (tree, writes) = self.writes(&effects)?;
        bulk::write(&txn, writes).await?;
        *committing = Some(Committing { tree, answers, effects });
        Ok(txn.commit().await?)
    }

    /// Asks the database which tree it has, and locks it: a commit still under way is waited for.
    async fn look(&mut self, txn: &DatabaseTransaction) -> Result<(), Failure> {
        if self.store.backend() == DbBackend::Postgres {
            txn.execute_unprepared("SET LOCAL lock_timeout = '5s'").await?;
        }
        let (tree, owner) = audit::tree_locked(txn, &self.log).await.map_err(|failure| match failure {
            Failure::Corrupt(_) => Failure::LogChanged("its frontier is impossible"),
            // Without its log the server can do nothing at all.
            Failure::Locked(cause) => Failure::Outage(cause),
            other => other,
        })?;
        if self.store.backend() == DbBackend::Postgres {
            txn.execute_unprepared("SET LOCAL lock_timeout TO DEFAULT").await?;
        }
        if owner.is_nil() {
            return Err(Failure::LogChanged("its frontier was removed"));
        }
        if owner != self.owner {
            return Err(Failure::LogTaken);
        }
        if self.attempted.as_ref() != Some(&tree) && self.tree != tree {
            return Err(Failure::LogChanged("its frontier is not the one this server left"));
        }
        self.tree = tree;
        self.unsure = false;
        Ok(())
    }

    /// Finds out whether a commit whose answer was lost made `tree`.
    async fn fate(&mut self, tree: &Tree) -> Result<Fate, Failure> {
        self.attempted = Some(tree.clone());
        let until = Instant::now() + FATE_TIMEOUT;
        loop {
            let asked = within(self.store.backend(), FATE_TIMEOUT, async {
                let txn = self.store.begin().await?;
                self.look(&txn).await?;
                // It only read.
                let _ = txn.rollback().await;
                Ok(())
            });
            match asked.await {
                Ok(()) => return Ok(if self.tree == *tree { Fate::Committed } else { Fate::Undone }),
                Err(failure) if failure.is_final() || Instant::now() >= until => {
                    self.doubt(&failure);
                    return Err(failure);
                }
                Err(_) => tokio::time::sleep(FATE_PAUSE).await,
            }
        }
    }

    /// What a batch writes, and the tree it leaves.
    fn writes(&self, effects: &Effects) -> Result<(Tree, Vec<bulk::Write>), Failure> {
        let Appended { tree, writes: [frontier, records] } =
            audit::append(&self.log, self.owner, &self.tree, &effects.records)?;
        let mut writes = vec![
            frontier,
            // In the order in which reading locks them.
            device::update(&effects.devices),
            payment::update(&effects.moved_payments, &self.log),
            request::insert(effects.requests.iter()),
            token::insert(self.store.backend(), effects.tokens.iter()),
            payment::insert(effects.new_payments.values(), &self.log),
            records,
        ];
        if effects.move_the_registry() {
            writes.push(lease::count());
        }
        Ok((tree, writes))
    }
}

/// What became of a commit.
enum Fate {
    Committed,
    Undone,
}

/// Devices and payments that somebody else keeps locked: no use waiting for them again and again.
#[derive(Default)]
struct Stuck<'a> {
    devices: BTreeSet<&'a DeviceId>,
    payments: BTreeSet<PaymentId>,
    error: Option<StoreError>,
}

impl<'a> Stuck<'a> {
    fn note(&mut self, job: &'a Job, error: StoreError) {
        let wanted = Wanted::by(std::slice::from_ref(job));
        self.devices.extend(wanted.devices);
        self.payments.extend(wanted.payments);
        self.error = Some(error);
    }

    fn holds(&self, job: &Job) -> Option<StoreError> {
        let wanted = Wanted::by(std::slice::from_ref(job));
        let free = wanted.devices.is_disjoint(&self.devices) && wanted.payments.is_disjoint(&self.payments);
        if free { None } else { self.error.clone() }
    }
}

/// Reads everything a batch names, and locks what it may change.
async fn read(txn: &DatabaseTransaction, wanted: &Wanted<'_>) -> Result<View, Failure> {
    let backend = txn.get_database_backend();
    let [by_fingerprint, by_digits] = token::selects(backend, wanted);
    // What is locked comes first: the others must be read as they are once the locks are held.
    let selects = [
        device::select_locked(backend, wanted.devices.iter().copied()),
        payment::select_locked(backend, wanted.payments.iter().copied()),
        merchant::select_vaults(backend, wanted.vaults.keys().copied()),
        request::select(wanted.requests.iter()),
        by_fingerprint,
        by_digits,
    ];
    let [devices, payments, vaults, requests, by_fingerprint, by_digits] = bulk::read(txn, selects).await?;
    let mut view = View { vaults: merchant::vaults(&vaults)?, ..View::default() };
    for device in device::views(&devices) {
        view.devices.extend([device?]);
    }
    for request in request::views(&requests) {
        view.requests.extend([request?]);
    }
    let told: Vec<_> = view.requests.values().filter_map(|RequestView { payment, .. }| *payment).collect();
    let told = told.into_iter().filter(|id| !wanted.payments.contains(id));
    let [told] = bulk::read(txn, [payment::select(told)]).await?;
    for payment in payment::found(&payments).chain(payment::found(&told)) {
        let payment = payment?;
        view.payments.insert(payment.id, payment);
    }
    for found in token::found(&by_fingerprint) {
        let found = found?;
        view.cards.insert((found.merchant, found.fingerprint), found.card);
    }
    for held in token::taken(&by_digits) {
        view.held.extend([held?]);
    }
    Ok(view)
}

/// Waits so long for PostgreSQL; SQLite's own limits hold, and nothing but a broken disk is slower.
async fn within(
    backend: DbBackend,
    limit: Duration,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    if backend == DbBackend::Sqlite {
        return work.await;
    }
    let late = Failure::Outage(Cause::new("the database did not answer in time"));
    tokio::time::timeout(limit, work).await.unwrap_or(Err(late))
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
