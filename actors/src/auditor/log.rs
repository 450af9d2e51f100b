//! The way into the audit log: every use of the HSM gets its record there, whatever else goes wrong.
//!
//! A use of the HSM makes a [`Due`]: a record that must be written. It travels with the result, so that whoever makes
//! the result durable writes the record in the same transaction. If that fails, or the result is lost on the way (a
//! panic, a store that is away), the record falls back to the collector, which writes it as soon as the store can,
//! and nothing is opened before it has.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use warifu_core::merchant::RequestId;
use warifu_core::refusal::Refusal;

use crate::clock::Clock;
use crate::house::Caller;
use crate::record::{Kind, Record};
use crate::refused::{Recorded, Refused, with_source};
use crate::store::job::{Intent, Job, Outcome};
use crate::store::{Answer, Rejection, StoreError, Writer};
use crate::supervisor::{Supervisor, pause};

/// Records written together when they are late.
const TOGETHER: usize = 256;
/// Late records that can be held. More than all that can be in flight leave behind, so this is never reached in order:
/// 65,536 admissions at the most, each for so many cards of an upload as leave 16 records.
const MOST_OWED: usize = 1 << 20;
/// Records nobody waits for that may be on their way.
const UNWATCHED: usize = 64;
/// Pause between two tries to write late records.
const RETRY: Duration = Duration::from_millis(100);

/// The way into the audit log. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog(Arc<Inner>);

struct Inner {
    writer: Writer,
    clock: Arc<dyn Clock>,
    supervisor: Supervisor,
    late: mpsc::Sender<Record>,
    owed: watch::Sender<usize>,
    unwatched: Arc<Semaphore>,
}

/// A record that must be written. Dropping it hands it to the collector.
#[must_use]
pub struct Due {
    /// Boxed, since it travels through every result on the way.
    record: Option<Box<Record>>,
    log: AuditLog,
}

impl AuditLog {
    /// Opens the way, and starts the collector of late records.
    pub fn start(writer: Writer, clock: Arc<dyn Clock>, supervisor: Supervisor) -> Self {
        let (late, records) = mpsc::channel(MOST_OWED);
        let owed = watch::Sender::new(0);
        let collector = Collector { writer: writer.clone(), supervisor: supervisor.clone(), owed: owed.clone() };
        supervisor.runtime().spawn(collector.serve(records));
        let unwatched = Arc::new(Semaphore::new(UNWATCHED));
        Self(Arc::new(Inner { writer, clock, supervisor, late, owed, unwatched }))
    }

    /// A record of now.
    pub fn record(&self, kind: Kind) -> Record {
        Record::new(self.0.clock.now_ms(), kind)
    }

    /// The time records get.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// The store's writer.
    pub fn writer(&self) -> &Writer {
        &self.0.writer
    }

    /// How many records are late.
    pub fn owed(&self) -> watch::Receiver<usize> {
        self.0.owed.subscribe()
    }

    /// Whether the log was durably written within the window and no record is late.
    pub fn is_proven(&self, window: Duration) -> bool {
        let proven = self.0.writer.tree().borrow().last_durable_at;
        *self.0.owed.borrow() == 0 && proven.is_some_and(|at| at.elapsed() <= window)
    }

    /// Makes a record that must be written.
    pub fn due(&self, record: Record) -> Due {
        Due { record: Some(Box::new(record)), log: self.clone() }
    }

    /// Makes an intent durable together with what is due and further records. It is handed in before this returns, so
    /// intents become durable in the order of the calls.
    ///
    /// # Errors
    /// When the store cannot; what was due goes to the collector.
    pub fn submit(
        &self,
        intent: Intent,
        due: Vec<Due>,
        further: Vec<Record>,
    ) -> impl Future<Output = Result<Result<Outcome, Rejection>, StoreError>> + Send + use<> {
        let handed_in = self.0.writer.submit(job(intent, &due, further));
        self.clone().settled(handed_in, due)
    }

    /// As [`AuditLog::submit`] for many intents: all of them are handed in, in order, or none.
    pub fn submit_each(
        &self,
        intents: Vec<(Intent, Vec<Due>, Vec<Record>)>,
    ) -> Vec<impl Future<Output = Result<Result<Outcome, Rejection>, StoreError>> + Send + use<>> {
        let jobs = intents.into_iter().map(|(intent, due, further)| (job(intent, &due, further), due));
        let (jobs, due): (Vec<_>, Vec<_>) = jobs.unzip();
        let handed_in = self.0.writer.submit_each(jobs);
        handed_in.into_iter().zip(due).map(|(handed_in, due)| self.clone().settled(handed_in, due)).collect()
    }

    /// Waits until it is durable; then what was due is written.
    async fn settled(
        self,
        handed_in: impl Future<Output = Answer>,
        due: Vec<Due>,
    ) -> Result<Result<Outcome, Rejection>, StoreError> {
        let outcome = handed_in.await;
        if let Err(StoreError::LogTaken | StoreError::LogChanged(_) | StoreError::Stopped) = outcome {
            self.0.supervisor.give_up("audit log");
        }
        let outcome = outcome?;
        due.into_iter().for_each(Due::settle);
        Ok(outcome)
    }

    /// Writes records and waits until they are durable.
    ///
    /// # Errors
    /// When the store cannot; what was due goes to the collector.
    pub async fn write(&self, due: Vec<Due>, further: Vec<Record>) -> Result<(), StoreError> {
        self.submit(Intent::Note, due, further).await.map(|_| ())
    }

    /// Writes a record if that is possible soon; nobody waits. For what can happen too often to be waited for:
    /// beyond a bound it is only counted.
    pub fn mention(&self, record: Record) {
        let Ok(pass) = Arc::clone(&self.0.unwatched).try_acquire_owned() else {
            metrics::counter!("warifu_audit_mentions_dropped_total").increment(1);
            return;
        };
        let log = self.clone();
        self.runtime().spawn(async move {
            if let Err(error) = log.write(Vec::new(), vec![record]).await {
                tracing::warn!(%error, "a record could not be written");
            }
            drop(pass);
        });
    }

    /// Waits until everything that was only mentioned is written.
    pub async fn fall_silent(&self) {
        // The semaphore is never closed.
        let _ = self.0.unwatched.acquire_many(u32::try_from(UNWATCHED).unwrap_or(u32::MAX)).await;
    }

    /// Writes a refusal down, if it is not yet, and says what the caller is told.
    pub async fn refuse(&self, caller: &Caller, request: Option<&RequestId>, refused: Refused) -> Refusal {
        let Refused { refusal, cause, recorded } = refused;
        if recorded == Recorded::Yes {
            return refusal;
        }
        let mut record = self.record(Kind::RequestRefused).because(cause);
        record.merchant = Some(caller.merchant.to_string());
        record.module = Some(caller.module.to_string());
        record.request = request.map(ToString::to_string);
        match refusal {
            // These come in floods, or because there is nothing to write to: nobody waits for their record.
            Refusal::Busy
            | Refusal::TimedOut
            | Refusal::StoreUnavailable
            | Refusal::AuditUnavailable
            | Refusal::Draining => {
                self.mention(record);
                refusal
            }
            _ => match self.write(Vec::new(), vec![record]).await {
                Ok(()) => refusal,
                Err(error) => {
                    tracing::error!(error = with_source(&error), "a refusal could not be written down");
                    Refusal::AuditUnavailable
                }
            },
        }
    }

    fn runtime(&self) -> &Handle {
        self.0.supervisor.runtime()
    }

    fn owe(&self, record: Record) {
        self.0.owed.send_modify(|owed| *owed += 1);
        if self.0.late.try_send(record).is_err() {
            self.0.supervisor.give_up("audit log");
        }
    }
}

fn job(intent: Intent, due: &[Due], further: Vec<Record>) -> Job {
    let records = due.iter().filter_map(|due| due.record.as_deref().cloned()).chain(further).collect();
    Job { intent, records }
}

impl Due {
    /// It is written.
    fn settle(mut self) {
        self.record = None;
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.log.owe(*record);
        }
    }
}

/// Writes what could not be written in its place.
struct Collector {
    writer: Writer,
    supervisor: Supervisor,
    owed: watch::Sender<usize>,
}

impl Collector {
    async fn serve(self, mut records: mpsc::Receiver<Record>) {
        let mut late = Vec::new();
        while records.recv_many(&mut late, TOGETHER).await > 0 {
            if !self.write(&late).await {
                return;
            }
            self.owed.send_modify(|owed| *owed = owed.saturating_sub(late.len()));
            late.clear();
        }
    }

    /// Tries until it is done; `false` if it never will be.
    async fn write(&self, late: &[Record]) -> bool {
        let mut failures = 0;
        loop {
            match self.writer.submit(Job { intent: Intent::Note, records: late.to_vec() }).await {
                Ok(_) => return true,
                Err(StoreError::Stopped | StoreError::LogTaken | StoreError::LogChanged(_)) => {
                    self.supervisor.give_up("audit log");
                    return false;
                }
                Err(_) => {
                    failures += 1;
                    tokio::time::sleep(RETRY.max(pause(failures))).await;
                }
            }
        }
    }
}
