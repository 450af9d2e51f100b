//! One connected comm module: its requests in flight, and the cheap checks that keep bad ones from the HSM.
//!
//! The counter's own truth is in the store, where every server process sees it: what is checked here beforehand only
//! saves work.

mod reading;

use std::collections::{HashMap, HashSet};
use std::future::Future;

use bytes::Bytes;
use futures_util::future::join_all;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use warifu_core::merchant::{OrderNumber, RequestId};
use warifu_core::money::Money;
use warifu_core::payment::Channel;
use warifu_core::refusal::{Refusal, Retry};

use crate::auditor::AuditLog;
use crate::cashier::{Authorize, Cashier, Resume};
use crate::gate::{Agent, Answer, Gate, GateError};
use crate::house::{Admission, Caller};
use crate::refused::{Recorded, Refused};
use crate::store::Store;
use crate::store::job::{StoredPayment, Taken};
use crate::tokenizer::{Collected, IssueToken, IssueTokens, Issued, Tokenizer};
use crate::turn::Turn;

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
pub struct Card {
    /// The caller's name for it.
    request: RequestId,
    /// What the device sent.
    output: Bytes,
    /// What is wanted.
    wish: Wish,
    /// SHA-256 over all that is asked for.
    digest: [u8; 32],
}

/// Serve a card.
pub struct Collect {
    /// The card.
    pub card: Card,
    /// The right to be here, given back when the work is done.
    pub(crate) admission: Option<Admission>,
}

/// Give many cards their tokens. As many answers, in the same order; cards of one device in the order of their counters.
pub struct CollectMany {
    /// The cards, of each of which a token is wanted.
    pub cards: Vec<Card>,
    /// When they may be taken.
    pub turn: Turn,
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
    answer: View,
}

impl CommModule {
    /// Serves a module.
    pub fn new(desk: Desk) -> Self {
        Self { desk, in_flight: HashMap::new() }
    }

    /// Joins a request of this name on its way, or puts this one on its way.
    fn join(&mut self, card: &Card) -> Place {
        let Card { request, digest, .. } = card;
        if self.in_flight.len() >= FORGET_AT {
            self.in_flight.retain(|_, flight| flight.is_going());
        }
        match self.in_flight.get(request).filter(|flight| flight.is_going()) {
            Some(flight) if flight.digest == *digest => Place::Behind(flight.answer.clone()),
            Some(_) => Place::Mistaken,
            None => {
                let (answer, view) = watch::channel(None);
                self.in_flight.insert(request.clone(), InFlight { digest: *digest, answer: view });
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
    Behind(View),
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
        let place = self.join(&asked.card);
        let desk = self.desk.clone();
        async move {
            match place {
                Place::First(answer) => {
                    let told = desk.serve(asked).await;
                    answer.send_replace(Some(told.clone()));
                    told
                }
                Place::Behind(answer) => {
                    // Waiting is no work: the right to be here goes to others meanwhile.
                    drop(asked);
                    behind(answer).await
                }
                Place::Mistaken => Err(mistaken()),
            }
        }
    }
}

impl Answer<CollectMany> for CommModule {
    type Reply = Vec<Result<Taken, Refused>>;
    type Error = Refused;

    fn answer(&mut self, asked: CollectMany) -> impl Future<Output = Result<Self::Reply, Refused>> + Send + 'static {
        let CollectMany { cards, turn, admission } = asked;
        let (mut first, mut tell, mut others, mut twice) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut names, len) = (HashSet::new(), cards.len());
        for (at, card) in cards.into_iter().enumerate() {
            match self.join(&card) {
                Place::First(answer) => {
                    names.insert(card.request.clone());
                    first.push(card);
                    tell.push((at, answer));
                }
                Place::Behind(answer) if names.contains(&card.request) => twice.push((at, answer)),
                Place::Behind(answer) => others.push((at, answer)),
                Place::Mistaken => {}
            }
        }
        let desk = self.desk.clone();
        async move {
            let mut told: Vec<_> = std::iter::repeat_with(|| Err(mistaken())).take(len).collect();
            // An earlier try of the same upload is still at work: what comes after it must not overtake it.
            for (at, answer) in others {
                told[at] = behind(answer).await;
            }
            for ((at, answer), served) in tell.into_iter().zip(desk.serve_many(first, turn).await) {
                answer.send_replace(Some(served.clone()));
                told[at] = served;
            }
            drop(admission);
            for (at, answer) in twice {
                told[at] = behind(answer).await;
            }
            Ok(told)
        }
    }
}

type View = watch::Receiver<Option<Result<Taken, Refused>>>;

/// Waits for what another request of the same name and content comes to.
async fn behind(mut answer: View) -> Result<Taken, Refused> {
    let told = answer.wait_for(Option::is_some).await;
    // Whoever was first panicked over it.
    let told = told.ok().and_then(|told| told.clone());
    told.unwrap_or_else(|| Err(GateError::Panicked(CommModule::NAME).into()))
}

fn mistaken() -> Refused {
    Refused::because(Refusal::RequestIdReused, "the request id is in use for another wish")
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
    async fn serve(&self, asked: Collect) -> Result<Taken, Refused> {
        let Collect { card, admission } = asked;
        let request = card.request.clone();
        let worked = self.work(card).await;
        drop(admission);
        match worked {
            Ok(taken) => Ok(taken),
            Err(refused) => Err(self.note(&request, refused).await),
        }
    }

    /// As [`Desk::serve`] for many of which a token is wanted.
    async fn serve_many(&self, cards: Vec<Card>, turn: Turn) -> Vec<Result<Taken, Refused>> {
        let names: Vec<_> = cards.iter().map(|card| card.request.clone()).collect();
        let looked_at = join_all(cards.into_iter().map(|card| self.look_at(card))).await;
        let (mut wanted, mut places) = (Vec::new(), Vec::new());
        let mut taken: Vec<Result<Taken, Refused>> = Vec::with_capacity(names.len());
        // A card that is to be asked for again, of whichever device: nothing after it is taken before it.
        let mut held: Option<Refused> = None;
        for (at, looked_at) in looked_at.into_iter().enumerate() {
            taken.push(match looked_at {
                Ok(Standing::Before(taken, _)) => Ok(taken),
                Err(refused) => {
                    if refused.refusal.retry() == Retry::SameRequest {
                        held.get_or_insert_with(|| refused.clone());
                    }
                    Err(refused)
                }
                Ok(Standing::New(..)) if held.is_some() => Err(held.clone().unwrap_or_else(mistaken)),
                Ok(Standing::New(collected, _)) => {
                    wanted.push(collected);
                    places.push(at);
                    // Its place is kept by a refusal that only a defect would let out.
                    Err(Refused::because(Refusal::Internal, "a card was lost on the way to its token"))
                }
            });
        }
        if !wanted.is_empty() {
            match self.tokenizer.ask_within(IssueTokens { collected: wanted, turn }).await {
                Ok(issued) => places.into_iter().zip(issued).for_each(|(at, issued)| taken[at] = issued),
                Err(refused) => places.into_iter().for_each(|at| taken[at] = Err(refused.clone())),
            }
        }
        let noted = names.iter().zip(taken).map(|(request, taken)| async move {
            match taken {
                Ok(taken) => Ok(taken),
                Err(refused) => Err(self.note(request, refused).await),
            }
        });
        join_all(noted).await
    }

    /// Writes a refusal down.
    async fn note(&self, request: &RequestId, refused: Refused) -> Refused {
        let cause = refused.cause.clone();
        let refusal = self.log.refuse(&self.caller, Some(request), refused).await;
        Refused { refusal, cause, recorded: Recorded::Yes }
    }

    async fn work(&self, card: Card) -> Result<Taken, Refused> {
        let (collected, wish) = match self.look_at(card).await? {
            Standing::Before(taken, card) => return self.again(card, taken).await,
            Standing::New(collected, wish) => (collected, wish),
        };
        match wish {
            Wish::Token => {
                let Issued { taken, .. } = self.tokenizer.ask_within(IssueToken { collected, payment: None }).await?;
                Ok(taken)
            }
            Wish::Payment { order, amount, channel } => {
                let payment = self.cashier.ask_within(Authorize { collected, order, amount, channel }).await?;
                Ok(Taken { card: payment.card.clone(), payment: Some(payment) })
            }
        }
    }

    /// Whether a request was taken before, and if not, its card as it can be taken.
    async fn look_at(&self, card: Card) -> Result<Standing, Refused> {
        let read = self.read(&card.output, &card.request, card.digest).await;
        let refused = match read.and_then(|collected| self.is_fresh(&collected).map(|()| collected)) {
            Ok(collected) => return Ok(Standing::New(collected, card.wish)),
            Err(refused) => refused,
        };
        if refused.refusal == Refusal::StoreUnavailable {
            return Err(refused);
        }
        // A request that was taken has used its counter, and its device may be out of use by now: so whether it was is
        // asked only where its card cannot be taken any more. For all others the writer knows.
        let taken = self.taken(&card.request, card.digest).await?.ok_or(refused)?;
        Ok(Standing::Before(taken, card))
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
    async fn again(&self, card: Card, taken: Taken) -> Result<Taken, Refused> {
        let Some(payment) = taken.payment else { return Ok(taken) };
        // Only a payment that may have to be sent again needs its frame.
        let collected = self.read(&card.output, &card.request, card.digest).await.ok();
        let payment = self.cashier.ask_within(Resume { payment, collected }).await?;
        Ok(Taken { card: taken.card, payment: Some(payment) })
    }
}

/// How a request stands to those taken before it.
enum Standing {
    /// It was taken, and came to this.
    Before(Taken, Card),
    /// It is new: the card to take, and what is wanted with it.
    New(Collected, Wish),
}

impl Card {
    /// Names a device output and a wish.
    pub fn of(request: RequestId, output: Bytes, wish: Wish) -> Self {
        let digest = wish.digest(&output);
        Self { request, output, wish, digest }
    }
}

impl Wish {
    /// SHA-256 over everything asked for, each part with its length before it.
    fn digest(&self, output: &[u8]) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(bytes);
        };
        part(output);
        match self {
            Self::Token => part(b"token"),
            Self::Payment { order, amount, channel } => {
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
