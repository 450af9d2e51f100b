//! One connected comm module: its requests in flight, and the cheap checks that keep bad ones from the HSM.
//!
//! The counter's own truth is in the store, where every server process sees it: what is checked here beforehand only
//! saves work.

mod reading;

use std::collections::HashMap;
use std::future::Future;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use warifu_core::merchant::{OrderNumber, RequestId};
use warifu_core::money::Money;
use warifu_core::payment::Channel;
use warifu_core::refusal::Refusal;

use crate::auditor::AuditLog;
use crate::cashier::{Authorize, Cashier, Resume};
use crate::gate::{Agent, Answer, Gate, GateError};
use crate::house::{Admission, Caller};
use crate::refused::{Recorded, Refused};
use crate::store::Store;
use crate::store::job::{StoredPayment, Taken};
use crate::tokenizer::{IssueToken, Issued, Tokenizer};

/// Requests in flight that are remembered before the finished ones among them are forgotten.
const FORGET_AT: usize = 256;

/// Serves one comm module.
pub struct CommModule {
    desk: Desk,
    in_flight: HashMap<RequestId, InFlight>,
}

/// What its work needs.
#[derive(Clone)]
pub struct Desk {
    /// Whose module it is.
    pub caller: Caller,
    /// Where requests and devices are looked up.
    pub store: Store,
    /// Where refusals are written down.
    pub log: AuditLog,
    /// Issues tokens.
    pub tokenizer: Gate<Tokenizer>,
    /// Takes payments.
    pub cashier: Gate<Cashier>,
}

/// A card collected at a device, and what is wanted with it.
pub struct Collect {
    /// The caller's name for it.
    pub request: RequestId,
    /// What the device sent.
    pub output: Bytes,
    /// What is wanted.
    pub wish: Wish,
    /// The right to be here, given back when the work is done.
    pub(crate) admission: Option<Admission>,
}

/// What is wanted with a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A token.
    Token,
    /// A token and a payment.
    Payment {
        /// The merchant's order.
        order: OrderNumber,
        /// How much.
        amount: Money,
        /// How the buyer met the merchant.
        channel: Channel,
    },
}

/// Find the payments of an order.
pub struct FindSale(pub OrderNumber);

/// A request on its way, for those who ask for the same.
struct InFlight {
    digest: [u8; 32],
    answer: watch::Receiver<Option<Result<Taken, Refused>>>,
}

impl CommModule {
    /// Serves a module.
    pub fn new(desk: Desk) -> Self {
        Self { desk, in_flight: HashMap::new() }
    }

    /// Joins a request of this name on its way, or puts this one on its way.
    fn join(&mut self, request: &RequestId, digest: [u8; 32]) -> Place {
        if self.in_flight.len() >= FORGET_AT {
            self.in_flight.retain(|_, flight| flight.is_going());
        }
        match self.in_flight.get(request).filter(|flight| flight.is_going()) {
            Some(flight) if flight.digest == digest => Place::Behind(flight.answer.clone()),
            Some(_) => Place::Mistaken,
            None => {
                let (answer, view) = watch::channel(None);
                self.in_flight.insert(request.clone(), InFlight { digest, answer: view });
                Place::First(answer)
            }
        }
    }
}

impl InFlight {
    fn is_going(&self) -> bool {
        self.answer.has_changed().is_ok()
    }
}

/// Where a request stands among those of its name.
enum Place {
    First(watch::Sender<Option<Result<Taken, Refused>>>),
    Behind(watch::Receiver<Option<Result<Taken, Refused>>>),
    /// The name is taken by another wish.
    Mistaken,
}

impl Agent for CommModule {
    const NAME: &'static str = "comm module";
}

impl Answer<Collect> for CommModule {
    type Reply = Taken;
    type Error = Refused;

    fn answer(&mut self, asked: Collect) -> impl Future<Output = Result<Taken, Refused>> + Send + 'static {
        let digest = asked.digest();
        let place = self.join(&asked.request, digest);
        let desk = self.desk.clone();
        async move {
            match place {
                Place::First(answer) => {
                    let told = desk.serve(asked, digest).await;
                    answer.send_replace(Some(told.clone()));
                    told
                }
                Place::Behind(mut answer) => {
                    // Waiting is no work: the right to be here goes to others meanwhile.
                    drop(asked);
                    let told = answer.wait_for(Option::is_some).await;
                    // Whoever was first panicked over it.
                    let told = told.ok().and_then(|told| told.clone());
                    told.unwrap_or_else(|| Err(GateError::Panicked(Self::NAME).into()))
                }
                Place::Mistaken => {
                    Err(Refused::because(Refusal::RequestIdReused, "the request id is in use for another wish"))
                }
            }
        }
    }
}

impl Answer<FindSale> for CommModule {
    type Reply = Vec<StoredPayment>;
    type Error = Refused;

    fn answer(
        &mut self,
        asked: FindSale,
    ) -> impl Future<Output = Result<Vec<StoredPayment>, Refused>> + Send + 'static {
        let desk = self.desk.clone();
        async move { Ok(desk.store.payments_by_order(&desk.caller.merchant, &asked.0).await?) }
    }
}

impl Desk {
    /// Serves a request to its end. Its refusal is in the log before anybody hears of it.
    async fn serve(&self, asked: Collect, digest: [u8; 32]) -> Result<Taken, Refused> {
        let request = asked.request.clone();
        match self.work(asked, digest).await {
            Ok(taken) => Ok(taken),
            Err(refused) => {
                let cause = refused.cause.clone();
                let refusal = self.log.refuse(&self.caller, Some(&request), refused).await;
                Err(Refused { refusal, cause, recorded: Recorded::Yes })
            }
        }
    }

    async fn work(&self, mut asked: Collect, digest: [u8; 32]) -> Result<Taken, Refused> {
        let _admission = asked.admission.take();
        if let Some(taken) = self.taken(&asked.request, digest).await? {
            return self.again(asked, digest, taken).await;
        }
        let collected = self.read(&asked.output, &asked.request, digest).await?;
        if let Err(replayed) = reading::is_fresh(&collected) {
            // The request was looked up before the device: meanwhile this very request may have used the counter.
            let taken = self.taken(&asked.request, digest).await?.ok_or(replayed)?;
            return self.again(asked, digest, taken).await;
        }
        match asked.wish {
            Wish::Token => {
                let Issued { taken, .. } = self.tokenizer.ask(IssueToken { collected, payment: None }).await?;
                Ok(taken)
            }
            Wish::Payment { order, amount, channel } => {
                let payment = self.cashier.ask(Authorize { collected, order, amount, channel }).await?;
                Ok(Taken { card: payment.card.clone(), payment: Some(payment) })
            }
        }
    }

    /// What a request came to, if it was taken before.
    async fn taken(&self, request: &RequestId, digest: [u8; 32]) -> Result<Option<Taken>, Refused> {
        match self.store.request(&self.caller.merchant, request).await? {
            None => Ok(None),
            Some((known, taken)) if known == digest => Ok(Some(taken)),
            Some(_) => Err(Refused::because(Refusal::RequestIdReused, "the request id was used with other content")),
        }
    }

    /// Answers a request that was taken before.
    async fn again(&self, asked: Collect, digest: [u8; 32], taken: Taken) -> Result<Taken, Refused> {
        let Some(payment) = taken.payment else { return Ok(taken) };
        // Only a payment that may have to be sent again needs its frame.
        let collected = self.read(&asked.output, &asked.request, digest).await.ok();
        let payment = self.cashier.ask(Resume { payment, collected }).await?;
        Ok(Taken { card: taken.card, payment: Some(payment) })
    }
}

impl Collect {
    /// SHA-256 over everything asked for, each part with its length before it.
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(bytes);
        };
        part(&self.output);
        match &self.wish {
            Wish::Token => part(b"token"),
            Wish::Payment { order, amount, channel } => {
                part(b"payment");
                part(order.as_str().as_bytes());
                part(&amount.minor().to_be_bytes());
                part(amount.currency().code().as_bytes());
                part(channel.name().as_bytes());
            }
        }
        digest.finalize().into()
    }
}
