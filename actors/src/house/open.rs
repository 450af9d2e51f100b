//! Opening the house: first the log, then the HSM, then what an earlier life left open, then the doors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::{Semaphore, mpsc, watch};
use warifu_hsm::{CallTally, HsmFactory};

use super::health::pulse;
use super::{Gates, House, Inner, Settings, expiry};
use crate::acquirer::Acquirer;
use crate::acquirer::link::AcquirerLink;
use crate::auditor::{AuditLog, Auditor, Sign};
use crate::cashier::{Cashier, Left, Settler};
use crate::clock::Clock;
use crate::directory::{Directory, MOST_MODULES, Staff, watch_registry};
use crate::gate::{Gate, GateError, Limits};
use crate::key_deriver::{KeyDeriver, VisitError};
use crate::key_manager::{KeyManager, NonP2pe};
use crate::record::{Kind, Record};
use crate::store::audit::LogIdError;
use crate::store::job::{Intent, Job};
use crate::store::{LogId, Store, StoreError, WriterSettings};
use crate::supervisor::{NoSystem, Supervisor};
use crate::tokenizer::Tokenizer;

/// How long one call of the HSM may take before whoever waits for it is let go.
const HSM_PATIENCE: Duration = Duration::from_secs(10);
/// Visits one deriver may have waiting.
const EACH_DERIVER: usize = 64;
/// Messages beyond the requests in flight: signing, settling, links.
const BESIDES: usize = 64;
/// How many modules it takes to fill the house: each may have as many requests in flight as its share.
const SHARE: usize = 4;
/// Links that open and close at a time, and callers that are not let in; and as many that wait.
const LINKS: usize = 256;
/// How long the records of the start may take.
const FIRST_RECORDS: Duration = Duration::from_secs(10);
/// How long beyond all time limits a request may take to reach the acquirer.
const MARGIN: Duration = Duration::from_secs(2);
/// How often the registry is looked at for news: several times in a lease.
const REGISTRY: Duration = Duration::from_millis(250);
/// How long whoever asks again about an open payment waits for it at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the house could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Called outside [`crate::supervisor::run`].
    #[error(transparent)]
    System(#[from] NoSystem),
    /// The instance name cannot be that of an audit log.
    #[error("the instance name cannot be used")]
    Instance(#[from] LogIdError),
    /// A number that must be at least one is not.
    #[error("the setting {0} must be at least 1")]
    Setting(&'static str),
    /// The store or the audit log in it cannot be used.
    #[error("the data store cannot be used")]
    Store(#[from] StoreError),
    /// The first records could not be written in time.
    #[error("the audit log could not be written in time")]
    Audit,
    /// The HSM cannot be used.
    #[error("the HSM cannot be used")]
    Hsm(#[source] VisitError),
}

impl House {
    /// Opens the house. What an earlier life of this instance left unfinished is taken up before the first request.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        settings: Settings,
        store: Store,
        hsm: Arc<dyn HsmFactory>,
        acquirer: Arc<dyn Acquirer>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        for (setting, value) in [("derivers", settings.derivers), ("admission", settings.admission)] {
            if value == 0 {
                return Err(StartError::Setting(setting));
            }
        }
        let supervisor = Supervisor::here()?;
        let instance = LogId::parse(&settings.instance)?;
        let writer = store.start_writer(instance, settings.writer).await?;
        let log = AuditLog::start(writer, Arc::clone(&clock), supervisor.clone());
        let mut first = vec![started(&log, &settings)];
        first.extend(examined(&log, &settings, hsm.as_ref()));
        log.write(Vec::new(), first).await?;
        let mut office = Office { settings, store, log, supervisor, derivers: Vec::new() };
        let built = match office.open_sessions(&hsm).await {
            Ok(()) => office.build(acquirer, clock).await,
            Err(error) => Err(error),
        };
        match built {
            Ok((gates, acquirer_is_up)) => Ok(office.open(gates, hsm, acquirer_is_up)),
            Err(error) => {
                office.close(&hsm).await;
                Err(error)
            }
        }
    }

    /// Writes down that a server did not start, and the calls to the HSM nobody else tells of.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn not_started(
        instance: &str,
        store: &Store,
        clock: &dyn Clock,
        calls: &CallTally,
        cause: &str,
    ) -> Result<(), StartError> {
        let log = LogId::parse(instance)?;
        // The HSM is not there to be asked for its key. Nothing is signed over this record before a start that has asked.
        let audit_key = store.newest_head(&log).await?.map(|signed| signed.public_key);
        let writer = store.start_writer(log, WriterSettings { audit_key, ..WriterSettings::default() }).await?;
        let record = Record::new(clock.now_ms(), Kind::HsmFailed).with_calls(calls).because(cause);
        let written = writer.submit(Job { intent: Intent::Note, records: vec![record] });
        match tokio::time::timeout(FIRST_RECORDS, written).await {
            Ok(written) => Ok(written.map(drop)?),
            Err(_) => Err(StartError::Audit),
        }
    }
}

fn started(log: &AuditLog, settings: &Settings) -> Record {
    let mut modes: Vec<_> = settings.bdks.iter().map(|bdk| bdk.mode.name()).collect();
    modes.sort_unstable();
    modes.dedup();
    let mut record = log.record(Kind::ServerStarted).because(concat!("version ", env!("CARGO_PKG_VERSION")));
    record.mode = Some(modes.join(" "));
    record
}

/// What was found of the HSM before it was trusted, and the calls that took.
fn examined(log: &AuditLog, settings: &Settings, hsm: &dyn HsmFactory) -> Option<Record> {
    let found = settings.hsm_found.clone();
    (!found.is_empty()).then(|| log.record(Kind::HsmExamined).with_found(found).with_calls(&hsm.take_calls()))
}

/// What the actors are made with.
struct Office {
    settings: Settings,
    store: Store,
    log: AuditLog,
    supervisor: Supervisor,
    derivers: Vec<KeyDeriver>,
}

impl Office {
    /// Opens the sessions and waits until their records are durable.
    async fn open_sessions(&mut self, hsm: &Arc<dyn HsmFactory>) -> Result<(), StartError> {
        let queue = EACH_DERIVER.saturating_mul(self.settings.derivers);
        metrics::gauge!("warifu_hsm_pin_refused").set(0.0);
        for index in 0..self.settings.derivers {
            let (factory, log) = (Arc::clone(hsm), self.log.clone());
            let start = move || KeyDeriver::start(index, factory, log, queue, HSM_PATIENCE);
            let opening = tokio::task::spawn_blocking(start).await;
            self.derivers.push(opening.unwrap_or(Err(VisitError::Panicked)).map_err(StartError::Hsm)?);
        }
        if self.is_written().await { Ok(()) } else { Err(StartError::Audit) }
    }

    /// Whether every use of the HSM has its record, after a while.
    async fn is_written(&self) -> bool {
        tokio::time::timeout(FIRST_RECORDS, self.log.owed().wait_for(|owed| *owed == 0)).await.is_ok()
    }

    /// After a start that failed: closes the sessions, and writes down what was done with them.
    async fn close(&self, hsm: &Arc<dyn HsmFactory>) {
        for deriver in &self.derivers {
            if tokio::time::timeout(FIRST_RECORDS, deriver.stop()).await.is_err() {
                tracing::error!("a key deriver did not stop in time");
            }
        }
        let calls = hsm.take_calls();
        if calls.total() > 0 {
            let record = self.log.record(Kind::HsmFailed).with_calls(&calls);
            drop(self.log.due(record.because("the server did not start")));
        }
        if !self.is_written().await {
            tracing::error!("the records of a start that failed could not be written");
        }
    }

    /// Makes the actors, and takes up what an earlier life left open.
    async fn build(
        &self,
        acquirer: Arc<dyn Acquirer>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Gates, watch::Receiver<bool>), StartError> {
        let (acquirer_up, acquirer_is_up) = watch::channel(true);
        let link = self.link(acquirer, clock, acquirer_up);
        let keys = self.keys();
        let auditor = self.auditor(&keys);
        let tokenizer = self.tokenizer(&auditor, &keys);
        let (strays, left) = mpsc::channel(self.settings.admission.saturating_mul(4).max(1024));
        let horizon = self.settings.acquirer_timeout + self.settings.queue_wait + MARGIN;
        let mut settler = Settler::new(self.store.clone(), self.log.clone(), link.clone(), left, horizon);
        let recovered = settler.recover().await?;
        if recovered > 0 {
            tracing::warn!(payments = recovered, "payments an earlier process left open are being settled");
        }
        self.supervisor.runtime().spawn(settler.run());
        let cashier = self.cashier(&tokenizer, &link, strays);
        let directory = self.directory(&tokenizer, &cashier);
        Ok((Gates { directory, auditor, keys, tokenizer, cashier, acquirer: link }, acquirer_is_up))
    }

    /// For actors that are asked on behalf of admitted requests: nobody leaves before their answer, because it may
    /// carry what must be written down.
    fn inside(&self) -> Limits {
        Limits {
            inside: self.settings.admission.saturating_add(BESIDES),
            waiting: BESIDES,
            queue_wait: self.settings.queue_wait,
            timeout: None,
        }
    }

    fn link(&self, acquirer: Arc<dyn Acquirer>, clock: Arc<dyn Clock>, up: watch::Sender<bool>) -> Gate<AcquirerLink> {
        let timeout = self.settings.acquirer_timeout;
        self.supervisor.supervise(self.inside(), move || {
            AcquirerLink::new(Arc::clone(&acquirer), timeout, clock.now_ms(), up.clone())
        })
    }

    fn keys(&self) -> Gate<KeyManager> {
        let (bdks, derivers) = (self.settings.bdks.clone(), self.derivers.clone());
        let non_p2pe = if self.settings.accept_non_p2pe { NonP2pe::Accepted } else { NonP2pe::Refused };
        // Here requests queue: the HSM is what there is least of.
        let limits = Limits {
            inside: EACH_DERIVER.saturating_mul(self.settings.derivers),
            waiting: self.settings.admission.saturating_add(BESIDES),
            ..self.inside()
        };
        self.supervisor.supervise(limits, move || KeyManager::new(&bdks, derivers.clone(), non_p2pe))
    }

    fn auditor(&self, keys: &Gate<KeyManager>) -> Gate<Auditor> {
        let (log, store, keys) = (self.log.clone(), self.store.clone(), keys.clone());
        let (window, signed) = (self.settings.audit_window, watch::Sender::new(0));
        self.supervisor.supervise(self.inside(), move || {
            Auditor::new(log.clone(), store.clone(), keys.clone(), window, signed.clone())
        })
    }

    fn tokenizer(&self, auditor: &Gate<Auditor>, keys: &Gate<KeyManager>) -> Gate<Tokenizer> {
        let (log, store, auditor, keys) = (self.log.clone(), self.store.clone(), auditor.clone(), keys.clone());
        let (fault_limit, window) = (self.settings.fault_limit, self.settings.audit_window);
        self.supervisor.supervise(self.inside(), move || {
            Tokenizer::new(store.clone(), log.clone(), auditor.clone(), keys.clone(), fault_limit, window)
        })
    }

    fn cashier(
        &self,
        tokenizer: &Gate<Tokenizer>,
        link: &Gate<AcquirerLink>,
        strays: mpsc::Sender<Left>,
    ) -> Gate<Cashier> {
        let (log, store, tokenizer, link) = (self.log.clone(), self.store.clone(), tokenizer.clone(), link.clone());
        let patience = PATIENCE.min(self.settings.request_timeout / 2);
        self.supervisor.supervise(self.inside(), move || {
            Cashier::new(store.clone(), log.clone(), tokenizer.clone(), link.clone(), strays.clone(), patience)
        })
    }

    fn directory(&self, tokenizer: &Gate<Tokenizer>, cashier: &Gate<Cashier>) -> Gate<Directory> {
        let staff = Staff {
            supervisor: self.supervisor.clone(),
            // One module, whatever it sends, leaves room for the others.
            limits: Limits {
                inside: (self.settings.admission / SHARE).max(1),
                waiting: 0,
                timeout: Some(self.settings.request_timeout),
                ..self.inside()
            },
            store: self.store.clone(),
            log: self.log.clone(),
            tokenizer: tokenizer.clone(),
            cashier: cashier.clone(),
        };
        let limits = Limits {
            inside: self.settings.admission.saturating_add(LINKS),
            waiting: LINKS,
            timeout: Some(self.settings.request_timeout),
            ..self.inside()
        };
        self.supervisor.supervise(limits, move || Directory::new(staff.clone()))
    }

    /// Starts what works by itself, and opens the doors.
    fn open(self, gates: Gates, factory: Arc<dyn HsmFactory>, acquirer_up: watch::Receiver<bool>) -> House {
        let Self { settings, store, log, supervisor, derivers } = self;
        let (up, store_up) = watch::channel(true);
        let runtime = supervisor.runtime();
        runtime.spawn(pulse(store.clone(), log.clone(), gates.auditor.clone(), up));
        runtime.spawn(sign_again_and_again(gates.auditor.clone(), settings.sign_every));
        let (told, keys) = watch::channel(Vec::new());
        let ours = settings.bdks.iter().map(|bdk| bdk.id.clone()).collect();
        runtime.spawn(expiry::watch(store.clone(), log.clone(), ours, told));
        runtime.spawn(watch_registry(gates.directory.clone(), store.clone(), REGISTRY));
        let admission = Arc::new(Semaphore::new(settings.admission.min(Semaphore::MAX_PERMITS)));
        let draining = watch::Sender::new(false);
        runtime.spawn(drain_when_given_up(supervisor.clone(), draining.clone()));
        let next_link = AtomicU64::new(0);
        let modules = Cache::new(MOST_MODULES);
        House(Arc::new(Inner {
            settings,
            store,
            log,
            supervisor,
            gates,
            modules,
            derivers,
            factory,
            admission,
            draining,
            drain_begun: AtomicBool::new(false),
            store_up,
            acquirer_up,
            keys,
            next_link,
        }))
    }
}

async fn sign_again_and_again(auditor: Gate<Auditor>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        if let Err(refused) = auditor.ask(Sign).await {
            if refused == GateError::Stopped(<Auditor as crate::gate::Agent>::NAME).into() {
                return;
            }
            tracing::warn!(cause = refused.cause, "the audit log's head could not be signed");
        }
    }
}

/// A process that cannot go on takes no new requests.
async fn drain_when_given_up(supervisor: Supervisor, draining: watch::Sender<bool>) {
    if supervisor.given_up().wait_for(Option::is_some).await.is_ok() {
        draining.send_replace(true);
    }
}
