//! The house: all actors together, behind the few things a server asks of them.

mod expiry;
mod health;
mod keys;
mod link;
mod measures;
mod open;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tracing::Instrument;
use warifu_core::device;
use warifu_core::merchant::{DeviceId, MerchantId, ModuleId, OrderNumber, RequestId};
use warifu_core::money::Money;
use warifu_core::payment::Channel;
use warifu_core::refusal::Refusal;
use warifu_hsm::{BdkSpec, CallTally, HsmFactory};

pub use expiry::{End, KeyHealth};
pub use health::{Health, Vital};
pub use keys::{KeyChange, KeyChanged};
pub use link::Link;
pub use measures::describe_metrics;
pub use open::StartError;

use crate::acquirer::link::AcquirerLink;
use crate::auditor::{AuditLog, Auditor, Sign};
use crate::cashier::Cashier;
use crate::comm_module::{Card, Collect, CollectMany, CommModule, FindSale, Wish};
use crate::directory::{Announce, Directory, Find, RefusedCaller, identify};
use crate::gate::{Gate, GateError};
use crate::key_deriver::KeyDeriver;
use crate::key_manager::KeyManager;
use crate::record::Kind;
use crate::refused::{Refused, with_source};
use crate::store::job::{StoredCard, StoredPayment, Taken};
use crate::store::{Store, WriterSettings};
use crate::supervisor::Supervisor;
use crate::tokenizer::Tokenizer;
use crate::turn::Turn;

/// Most cards of one [`House::tokenize_many`]: enough to share what they can share, few enough not to keep others from
/// the HSM.
pub const TOGETHER: usize = 128;
/// Cards of an upload that take the room of one request.
const CARDS_OF_A_REQUEST: usize = 8;
/// How long the last record may take.
pub const LAST_RECORD: Duration = Duration::from_secs(2);

/// Who asks: a comm module, and through it a merchant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The merchant.
    pub merchant: MerchantId,
    /// The module.
    pub module: ModuleId,
}

/// How the house is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of this server process, unique among those of one store: its audit log has it too.
    pub instance: String,
    /// Derivers, each a thread with an HSM session.
    pub derivers: usize,
    /// Requests in flight; more are refused at once.
    pub admission: usize,
    /// How long a request waits for its turn inside.
    pub queue_wait: Duration,
    /// How long a caller waits for an answer.
    pub request_timeout: Duration,
    /// How long the acquirer may take.
    pub acquirer_timeout: Duration,
    /// How long a durable audit record is proof that the log can be written.
    pub audit_window: Duration,
    /// Whether `host-derived` decryption is allowed.
    pub accept_non_p2pe: bool,
    /// Whether this is a developer's throw-away server.
    pub dev: bool,
    /// The base derivation keys.
    pub bdks: Vec<BdkSpec>,
    /// What was found of the HSM when it was examined, by name; for the audit log.
    pub hsm_found: Vec<(&'static str, String)>,
    /// Bad frames in a row after which a device that makes no MACs is suspended.
    pub fault_limit: u32,
    /// How often the head of the audit log is signed.
    pub sign_every: Duration,
    /// How much the writer of the data store takes on.
    pub writer: WriterSettings,
}

/// Turn a card into a token. Not to be printed: a device that does not encrypt would show in it.
#[derive(Clone)]
pub struct Tokenize {
    /// The caller's name for it.
    pub request: RequestId,
    /// What the device sent.
    pub output: Bytes,
}

/// Turn a card into a token and authorize a payment with it. Not to be printed, as [`Tokenize`].
#[derive(Clone)]
pub struct Authorize {
    /// The caller's name for it.
    pub request: RequestId,
    /// What the device sent.
    pub output: Bytes,
    /// The merchant's order.
    pub order: OrderNumber,
    /// How much.
    pub amount: Money,
    /// How the buyer met the merchant.
    pub channel: Channel,
}

/// What a linked module hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A device of its merchant changed its state.
    DeviceChanged {
        /// Which.
        device: DeviceId,
        /// To which state.
        state: device::State,
    },
    /// The server is about to stop.
    Draining {
        /// When to dial again.
        retry_after: Duration,
    },
}

/// All actors together. Cheap to clone.
#[derive(Clone)]
pub struct House(Arc<Inner>);

struct Inner {
    settings: Settings,
    store: Store,
    log: AuditLog,
    supervisor: Supervisor,
    gates: Gates,
    /// Those the directory has found before.
    modules: Cache<ModuleId, Gate<CommModule>>,
    derivers: Vec<KeyDeriver>,
    factory: Arc<dyn HsmFactory>,
    admission: Arc<Semaphore>,
    draining: watch::Sender<bool>,
    /// Whether the drain itself has begun; a house that cannot go on refuses work before that.
    drain_begun: AtomicBool,
    store_up: watch::Receiver<bool>,
    acquirer_up: watch::Receiver<bool>,
    keys: watch::Receiver<Vec<KeyHealth>>,
    next_link: AtomicU64,
}

/// The doors of all actors.
#[derive(Clone)]
struct Gates {
    directory: Gate<Directory>,
    auditor: Gate<Auditor>,
    #[cfg_attr(not(any(test, feature = "fault-injection")), expect(dead_code, reason = "fault injection asks for it"))]
    keys: Gate<KeyManager>,
    #[cfg_attr(not(any(test, feature = "fault-injection")), expect(dead_code, reason = "fault injection asks for it"))]
    tokenizer: Gate<Tokenizer>,
    #[cfg_attr(not(any(test, feature = "fault-injection")), expect(dead_code, reason = "fault injection asks for it"))]
    cashier: Gate<Cashier>,
    #[cfg_attr(not(any(test, feature = "fault-injection")), expect(dead_code, reason = "fault injection asks for it"))]
    acquirer: Gate<AcquirerLink>,
}

/// The right to be in the house, kept until the work is done, whoever waits for it.
pub(crate) struct Admission {
    _permit: OwnedSemaphorePermit,
}

impl House {
    /// Who has this certificate.
    ///
    /// # Errors
    /// `ModuleUnknown` for nobody who may connect, which is written down.
    pub async fn identify(&self, certificate_sha256: [u8; 32]) -> Result<Caller, Refusal> {
        match identify(&self.0.store, &certificate_sha256).await {
            Ok(caller) => Ok(caller),
            Err(Refused { refusal: refusal @ Refusal::ModuleUnknown, cause, .. }) => {
                self.refuse_caller(cause, Some(certificate_sha256)).await;
                Err(refusal)
            }
            Err(Refused { refusal, cause, .. }) => {
                tracing::warn!(cause, "a caller could not be identified");
                Err(refusal)
            }
        }
    }

    /// Writes down that somebody was not let in, as far as that happens at a bounded rate.
    pub async fn note_refused_caller(&self, cause: &'static str, certificate_sha256: Option<[u8; 32]>) {
        self.refuse_caller(cause.to_owned(), certificate_sha256).await;
    }

    async fn refuse_caller(&self, cause: String, certificate_sha256: Option<[u8; 32]>) {
        if let Err(error) = self.0.gates.directory.ask(RefusedCaller { cause, certificate_sha256 }).await {
            tracing::warn!(%error, "a refused caller could not be counted");
        }
    }

    /// Writes down a refusal that was made before the house was asked, and gives it back; where the house is full or
    /// closed, that is what it says instead.
    pub async fn note_refusal(&self, caller: &Caller, request: Option<&RequestId>, refusal: Refusal) -> Refusal {
        self.note_refusal_because(caller, request, refusal, refusal.message()).await
    }

    /// As [`House::note_refusal`], where the true cause says more than the refusal.
    pub async fn note_refusal_because(
        &self,
        caller: &Caller,
        request: Option<&RequestId>,
        refusal: Refusal,
        cause: &'static str,
    ) -> Refusal {
        // Writing it down is work, too: a flood of bad requests is let in as slowly as one of good ones.
        let (admission, refused) = match self.enter() {
            Ok(admission) => (Some(admission), Refused::because(refusal, cause)),
            Err(refused) => (None, refused),
        };
        let refusal = self.0.log.refuse(caller, request, refused).await;
        drop(admission);
        count_refusal(refusal);
        refusal
    }

    /// Turns a card into a token.
    ///
    /// # Errors
    /// Every [`Refusal`]; those to be retried have at most one effect.
    pub async fn tokenize(&self, caller: &Caller, asked: Tokenize) -> Result<StoredCard, Refusal> {
        let Tokenize { request, output } = asked;
        self.collect("tokenize", caller, request, output, Wish::Token).await.map(|taken| taken.card)
    }

    /// Turns cards into tokens, at most [`TOGETHER`] of them. As many answers, in the same order; a refusal of one says
    /// nothing about the others. Cards of one device must come in the order of their counters. Nothing is taken before it
    /// is their `turn`; those after them are to have theirs where nothing of these has to be asked again.
    ///
    /// # Errors
    /// For all of them: only those of a server that is busy or stopping.
    pub async fn tokenize_many(
        &self,
        caller: &Caller,
        asked: Vec<Tokenize>,
        turn: Turn,
    ) -> Result<Vec<Result<StoredCard, Refusal>>, Refusal> {
        let names: Vec<RequestId> = asked.iter().map(|asked| asked.request.clone()).collect();
        let cards: Vec<Card> =
            asked.into_iter().map(|asked| Card::of(asked.request, asked.output, Wish::Token)).collect();
        let span = tracing::info_span!(
            "requests",
            call = "tokenize_many",
            merchant = caller.merchant.as_str(),
            module = caller.module.as_str(),
            count = cards.len()
        );
        let work = async {
            let taken = async {
                let admission = self.enter_with(cards.len().div_ceil(CARDS_OF_A_REQUEST))?;
                let module = self.module(caller).await?;
                module.ask(CollectMany { cards, turn, admission: Some(admission) }).await
            };
            let taken = match taken.await {
                Ok(taken) => taken,
                Err(refused) => return self.answered("tokenize_many", caller, None, Err(refused)).await,
            };
            let answers = names.iter().zip(taken).map(|(name, taken)| async move {
                let taken: Result<Taken, Refused> = taken;
                self.answered("tokenize_many", caller, Some(name), taken).await.map(|taken| taken.card)
            });
            Ok(join_all(answers).await)
        };
        work.instrument(span).await
    }

    /// Turns a card into a token and authorizes a payment with it. A decline is a payment too.
    ///
    /// # Errors
    /// Every [`Refusal`]; those to be retried have at most one effect.
    pub async fn authorize(&self, caller: &Caller, asked: Authorize) -> Result<StoredPayment, Refusal> {
        let Authorize { request, output, order, amount, channel } = asked;
        let wish = Wish::Payment { order, amount, channel };
        let taken = self.collect("authorize", caller, request, output, wish).await?;
        taken.payment.ok_or(Refusal::Internal)
    }

    /// The payments of an order, oldest first.
    ///
    /// # Errors
    /// Only those of a server that is busy, stopping or without its store.
    pub async fn find_sale(&self, caller: &Caller, order: OrderNumber) -> Result<Vec<StoredPayment>, Refusal> {
        let found = async {
            let admission = self.enter()?;
            let module = self.module(caller).await?;
            let found = module.ask(FindSale(order)).await;
            drop(admission);
            found
        };
        self.answered("find_sale", caller, None, found.await).await
    }

    async fn collect(
        &self,
        call: &'static str,
        caller: &Caller,
        request: RequestId,
        output: Bytes,
        wish: Wish,
    ) -> Result<Taken, Refusal> {
        let span = tracing::info_span!(
            "request",
            call,
            merchant = caller.merchant.as_str(),
            module = caller.module.as_str(),
            request = request.as_str()
        );
        let name = request.clone();
        let taken = async {
            let admission = self.enter()?;
            let module = self.module(caller).await?;
            module.ask(Collect { card: Card::of(request, output, wish), admission: Some(admission) }).await
        };
        let taken = taken.instrument(span.clone()).await;
        self.answered(call, caller, Some(&name), taken).instrument(span).await
    }

    /// The actor of a module.
    async fn module(&self, caller: &Caller) -> Result<Gate<CommModule>, GateError> {
        if let Some(module) = self.0.modules.get(&caller.module) {
            return Ok(module);
        }
        let module = self.0.gates.directory.ask_within(Find(caller.clone())).await?;
        self.0.modules.insert(caller.module.clone(), module.clone());
        Ok(module)
    }

    /// Lets a request in, or not, at once.
    fn enter(&self) -> Result<Admission, Refused> {
        self.enter_with(1)
    }

    /// Lets something in that takes the room of so many requests.
    fn enter_with(&self, room: usize) -> Result<Admission, Refused> {
        if *self.0.draining.borrow() {
            return Err(Refused::because(Refusal::Draining, "the server is stopping"));
        }
        let room = u32::try_from(room.clamp(1, self.0.settings.admission.max(1))).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0.admission).try_acquire_many_owned(room);
        let permit = permit.map_err(|_| Refused::because(Refusal::Busy, "too many requests are in flight"))?;
        metrics::gauge!("warifu_requests_in_flight").increment(1.0);
        Ok(Admission { _permit: permit })
    }

    /// Counts an answer, and writes a refusal down that is not yet.
    async fn answered<T>(
        &self,
        call: &'static str,
        caller: &Caller,
        request: Option<&RequestId>,
        answer: Result<T, Refused>,
    ) -> Result<T, Refusal> {
        let outcome = if answer.is_ok() { "ok" } else { "refused" };
        metrics::counter!("warifu_requests_total", "call" => call, "outcome" => outcome).increment(1);
        match answer {
            Ok(answer) => Ok(answer),
            Err(refused) => {
                tracing::info!(reason = refused.refusal.reason(), cause = refused.cause, "refused");
                let refusal = self.0.log.refuse(caller, request, refused).await;
                count_refusal(refusal);
                Err(refusal)
            }
        }
    }

    /// Resolves when something cannot be mended without a new process, which must then drain; names it.
    pub async fn given_up(&self) -> &'static str {
        let mut given_up = self.0.supervisor.given_up();
        match given_up.wait_for(Option::is_some).await {
            Ok(what) => what.unwrap_or("supervisor"),
            // The supervisor lives as long as this house does.
            Err(_) => "supervisor",
        }
    }

    /// How the house is run.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Refuses new work, waits for the work in flight, signs the log's head and closes the HSM sessions, all within
    /// `limit`. What is then still open at the acquirer is settled after the next start.
    pub async fn drain(&self, limit: Duration) {
        let until = Instant::now() + limit;
        self.0.draining.send_replace(true);
        if self.0.drain_begun.swap(true, Ordering::SeqCst) {
            return;
        }
        let news = News::Draining { retry_after: limit };
        let _ = tokio::time::timeout_at(until, self.0.gates.directory.ask(Announce(news))).await;
        let all = u32::try_from(self.0.settings.admission.max(1)).unwrap_or(u32::MAX);
        match tokio::time::timeout_at(until, self.0.admission.acquire_many(all)).await {
            Ok(_) => tracing::info!("no request is in flight any more"),
            Err(_) => tracing::warn!("requests are still in flight at the end of the drain"),
        }
        // What is signed last is worth a little more time than there is.
        let until = until.max(Instant::now() + Duration::from_millis(500));
        let _ = tokio::time::timeout_at(until, self.0.log.owed().wait_for(|owed| *owed == 0)).await;
        match tokio::time::timeout_at(until, self.0.gates.auditor.ask(Sign)).await {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => tracing::error!(cause = refused.cause, "the last tree head could not be signed"),
            Err(_) => tracing::error!("the last tree head could not be signed in time"),
        }
        for deriver in &self.0.derivers {
            if tokio::time::timeout_at(until, deriver.stop()).await.is_err() {
                tracing::error!("a key deriver did not stop in time");
            }
        }
    }

    /// Writes the last record: the server stops, and these calls were made to close the HSM. After [`House::drain`].
    /// A store that does not answer holds up the end for [`LAST_RECORD`] at most.
    pub async fn stopped(&self, last_calls: &CallTally) {
        let written = tokio::time::timeout(LAST_RECORD, async {
            self.0.log.fall_silent().await;
            let mut calls = self.0.factory.take_calls();
            calls.add(last_calls);
            let record = self.0.log.record(Kind::ServerStopped).with_calls(&calls);
            self.0.log.write(Vec::new(), vec![record]).await
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = with_source(&error), "the last record could not be written"),
            Err(_) => tracing::error!("the last record could not be written in time"),
        }
        self.0.supervisor.retire();
    }
}

fn count_refusal(refusal: Refusal) {
    metrics::counter!("warifu_refusals_total", "reason" => refusal.reason()).increment(1);
}

impl Drop for Admission {
    fn drop(&mut self) {
        metrics::gauge!("warifu_requests_in_flight").decrement(1.0);
    }
}

/// The actors, for tests that make one of them panic.
#[cfg(any(test, feature = "fault-injection"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The actor of a module.
    CommModule,
    /// The directory.
    Directory,
    /// The key manager.
    KeyManager,
    /// The key derivers, all of them.
    KeyDeriver,
    /// The tokenizer.
    Tokenizer,
    /// The cashier.
    Cashier,
    /// The link to the acquirer.
    AcquirerLink,
    /// The auditor.
    Auditor,
}

#[cfg(any(test, feature = "fault-injection"))]
impl Actor {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::CommModule,
        Self::Directory,
        Self::KeyManager,
        Self::KeyDeriver,
        Self::Tokenizer,
        Self::Cashier,
        Self::AcquirerLink,
        Self::Auditor,
    ];
}

#[cfg(any(test, feature = "fault-injection"))]
impl House {
    /// Makes an actor panic over the next message it gets; `caller` says which comm module.
    pub async fn panic_next(&self, actor: Actor, caller: &Caller) {
        let gates = &self.0.gates;
        match actor {
            Actor::CommModule => {
                if let Ok(module) = self.module(caller).await {
                    module.panic_next();
                }
            }
            Actor::Directory => {
                self.0.modules.clear();
                gates.directory.panic_next();
            }
            Actor::KeyManager => gates.keys.panic_next(),
            Actor::KeyDeriver => self.0.derivers.iter().for_each(KeyDeriver::panic_next),
            Actor::Tokenizer => gates.tokenizer.panic_next(),
            Actor::Cashier => gates.cashier.panic_next(),
            Actor::AcquirerLink => gates.acquirer.panic_next(),
            Actor::Auditor => gates.auditor.panic_next(),
        }
    }
}
