//! The cashier: payments, from "sent" to the acquirer's last word.
//!
//! A payment is durably *sent* before the acquirer is asked, and asked once. What happens to it after that does not
//! depend on whether anybody still waits: silence makes it *unknown*, and the [`Settler`] takes it from there.

mod settler;

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use warifu_core::account_data::AccountData;
use warifu_core::merchant::OrderNumber;
use warifu_core::money::Money;
use warifu_core::payment::{Channel, Event, State};
use warifu_core::refusal::Refusal;

use settler::Stray;

pub use settler::{Left, Settler};

use crate::acquirer::link::{AcquirerLink, AskAuthorization, Inquire};
use crate::acquirer::{Decision, Inquiry};
use crate::auditor::AuditLog;
use crate::gate::{Agent, Answer, Gate};
use crate::refused::{Recorded, Refused, with_source};
use crate::store::job::{Intent, NewPayment, PaymentId, StoredPayment};
use crate::store::{Outcome, Store, StoreError};
use crate::supervisor::pause;
use crate::tokenizer::{Collected, IssueToken, Issued, OpenAgain, Standing, Tokenizer};

/// First pause between two looks at a payment somebody else is settling.
const LOOK: Duration = Duration::from_millis(10);
/// Longest such pause.
const LONGEST_LOOK: Duration = Duration::from_millis(250);

/// Keeps the payments.
pub struct Cashier {
    desk: Desk,
}

/// What its work needs.
#[derive(Clone)]
struct Desk {
    store: Store,
    log: AuditLog,
    tokenizer: Gate<Tokenizer>,
    link: Gate<AcquirerLink>,
    strays: mpsc::Sender<Left>,
    patience: Duration,
}

/// Take a card and authorize a payment with it.
pub struct Authorize {
    /// The card.
    pub collected: Collected,
    /// The merchant's order.
    pub order: OrderNumber,
    /// How much.
    pub amount: Money,
    /// How the buyer met the merchant.
    pub channel: Channel,
}

/// A request that was taken before came again: find out what became of its payment, and send it again if it is
/// certain that the acquirer never had it.
pub struct Resume {
    /// The payment as stored.
    pub payment: StoredPayment,
    /// The card, if the payment may have to be sent again.
    pub collected: Option<Collected>,
}

impl Cashier {
    /// A cashier. Whoever asks again about a payment that is not settled waits up to `patience` for it.
    pub fn new(
        store: Store,
        log: AuditLog,
        tokenizer: Gate<Tokenizer>,
        link: Gate<AcquirerLink>,
        strays: mpsc::Sender<Left>,
        patience: Duration,
    ) -> Self {
        Self { desk: Desk { store, log, tokenizer, link, strays, patience } }
    }
}

impl Agent for Cashier {
    const NAME: &'static str = "cashier";
}

impl Answer<Authorize> for Cashier {
    type Reply = StoredPayment;
    type Error = Refused;

    fn answer(&mut self, asked: Authorize) -> impl Future<Output = Result<StoredPayment, Refused>> + Send + 'static {
        let desk = self.desk.clone();
        async move { desk.authorize(asked).await }
    }
}

impl Answer<Resume> for Cashier {
    type Reply = StoredPayment;
    type Error = Refused;

    fn answer(&mut self, asked: Resume) -> impl Future<Output = Result<StoredPayment, Refused>> + Send + 'static {
        let desk = self.desk.clone();
        async move { desk.resume(asked).await }
    }
}

impl Desk {
    async fn authorize(&self, asked: Authorize) -> Result<StoredPayment, Refused> {
        let Authorize { collected, order, amount, channel } = asked;
        let id = PaymentId(uuid::Uuid::now_v7());
        let payment = Some(NewPayment { id, order, amount, channel });
        // Until the answer is there nobody knows whether the payment is written down.
        let stray = Stray::new(Left::Unheard(id), self.strays.clone());
        let Issued { taken, standing, card } = match self.tokenizer.ask_within(IssueToken { collected, payment }).await
        {
            Ok(issued) => issued,
            Err(refused) => {
                if !may_have_happened(&refused) {
                    stray.settle();
                }
                return Err(refused);
            }
        };
        let payment = taken.payment.ok_or_else(|| Refused::because(Refusal::Internal, "a payment was not stored"))?;
        match standing {
            Standing::First => {
                count(payment.state);
                self.charge(payment, card, stray.being_sent()).await
            }
            Standing::Repeated => {
                stray.settle();
                drop(card);
                self.settled(payment).await
            }
        }
    }

    async fn resume(&self, asked: Resume) -> Result<StoredPayment, Refused> {
        let Resume { payment, collected } = asked;
        let payment = self.settled(payment).await?;
        match (payment.state, collected) {
            (State::Reversed, Some(collected)) => self.send_again(payment, collected).await,
            (State::Sent | State::Authorized(_) | State::Declined(_) | State::Unknown | State::Reversed, _) => {
                Ok(payment)
            }
        }
    }

    /// Asks the acquirer. The payment is durably sent, and nobody else works on it: if this work dies here, the
    /// settler hears of it from `stray`.
    async fn charge(&self, payment: StoredPayment, card: AccountData, stray: Stray) -> Result<StoredPayment, Refused> {
        let asking = AskAuthorization {
            payment: payment.id,
            merchant: payment.merchant.clone(),
            amount: payment.amount,
            channel: payment.channel,
            card,
        };
        let event = match self.link.ask_within(asking).await {
            Ok(Decision::Approved(code)) => Event::Approved(code),
            Ok(Decision::Declined(code)) => Event::Declined(code),
            Err(error) => {
                tracing::warn!(payment = %payment.id, error = with_source(&error), "the acquirer gave no answer");
                Event::Silent
            }
        };
        self.conclude(payment, event, stray).await
    }

    /// Makes what came of asking the acquirer durable, wherever the payment has gone meanwhile: the acquirer's word
    /// counts, whoever looks after the payment now, and is not lost to a store that is away.
    async fn conclude(&self, held: StoredPayment, heard: Event, stray: Stray) -> Result<StoredPayment, Refused> {
        let mut payment = held.clone();
        let mut failures = 0;
        while let Some(to) = next_move(&held, &payment, heard) {
            match self.move_or_look(&payment, to).await {
                Ok(now) => payment = now,
                Err(
                    error @ (StoreError::Stopped
                    | StoreError::LogTaken
                    | StoreError::LogChanged(_)
                    | StoreError::NotFound(_)
                    | StoreError::Corrupt(_)),
                ) => return Err(error.into()),
                Err(error) => {
                    failures += 1;
                    tracing::error!(payment = %payment.id, error = with_source(&error), "a payment could not be moved");
                    tokio::time::sleep(pause(failures).max(LOOK)).await;
                }
            }
        }
        // What is unknown is the settler's. What is sent is in other hands.
        if payment.state != State::Unknown {
            stray.settle();
        }
        Ok(payment)
    }

    /// Moves a payment, or finds where it has gone since it was seen.
    async fn move_or_look(&self, seen: &StoredPayment, to: State) -> Result<StoredPayment, StoreError> {
        match move_payment(&self.log, seen, to).await? {
            Some(moved) => Ok(moved),
            None => self.store.payment(seen.id).await?.ok_or(StoreError::NotFound("payment")),
        }
    }

    async fn stored(&self, id: PaymentId) -> Result<StoredPayment, Refused> {
        let payment = self.store.payment(id).await?;
        payment.ok_or_else(|| Refused::because(Refusal::Internal, "a payment is not stored any more"))
    }

    /// Waits a while for a payment that others are settling, and gives it back as it then is.
    async fn settled(&self, mut payment: StoredPayment) -> Result<StoredPayment, Refused> {
        let until = Instant::now() + self.patience;
        let mut look = LOOK;
        while !payment.state.is_settled() && Instant::now() < until {
            tokio::time::sleep(look).await;
            look = (look * 2).min(LONGEST_LOOK);
            payment = self.stored(payment.id).await?;
        }
        Ok(payment)
    }

    /// Sends a payment again if its first sending, as the acquirer itself says, never arrived. The payment is claimed
    /// before the acquirer hears anything, so that of many tries one speaks.
    async fn send_again(&self, payment: StoredPayment, collected: Collected) -> Result<StoredPayment, Refused> {
        let stray = Stray::new(Left::BeingSent(payment.id), self.strays.clone());
        let id = payment.id;
        let Some(payment) = move_payment(&self.log, &payment, State::Sent).await? else {
            // Another try of the same request was faster.
            stray.settle();
            let payment = self.stored(id).await?;
            return self.settled(payment).await;
        };
        let card = match self.link.ask_within(Inquire(payment.id)).await {
            Ok(Inquiry::NeverSeen) => self.tokenizer.ask_within(OpenAgain(collected)).await.map(Some),
            // It was taken back, or was to have no effect and has one after all: the settler takes it back.
            Ok(Inquiry::Decided(_) | Inquiry::Reversed) => Ok(None),
            Err(error) => {
                tracing::warn!(payment = %payment.id, error = with_source(&error), "the acquirer gave no answer");
                Ok(None)
            }
        };
        match card {
            Ok(Some(card)) => self.charge(payment, card, stray).await,
            Ok(None) => {
                let payment = self.conclude(payment, Event::Silent, stray).await?;
                self.settled(payment).await
            }
            Err(refused) => {
                self.conclude(payment, Event::Silent, stray).await?;
                Err(refused)
            }
        }
    }
}

/// Whether a payment may be written down although its request was refused.
fn may_have_happened(refused: &Refused) -> bool {
    // Everything else is said before the card is taken, or by the writer, who then knows.
    let unclear = matches!(
        refused.refusal,
        Refusal::StoreUnavailable | Refusal::Internal | Refusal::TimedOut | Refusal::Draining
    );
    unclear && refused.recorded == Recorded::No
}

fn count(state: State) {
    metrics::counter!("warifu_payments_total", "state" => state.name()).increment(1);
}

/// Where a payment goes from where it stands now, by what was heard of it while it stood as `held`.
fn next_move(held: &StoredPayment, now: &StoredPayment, heard: Event) -> Option<State> {
    match (now.state, heard) {
        // Silence says nothing about what others do with it.
        (State::Sent, Event::Silent) if now != held => None,
        // It may have been taken back in between, and sent again: an approval of before that is worth nothing.
        (State::Sent, Event::Approved(_)) if now != held => Some(State::Unknown),
        (State::Sent, heard) => State::Sent.apply(heard).ok(),
        // Somebody believed that it was never sent, and told so: it is taken back.
        (State::Reversed, Event::Approved(_)) => Some(State::Unknown),
        // A reversal may be under way, and nothing stops it.
        (State::Unknown, _) => None,
        (State::Authorized(_) | State::Declined(_) | State::Reversed, _) => None,
    }
}

/// Moves a payment from where it was seen, and gives it back as it then stands; `None` if it has moved since.
async fn move_payment(log: &AuditLog, seen: &StoredPayment, to: State) -> Result<Option<StoredPayment>, StoreError> {
    let intent = Intent::Move { payment: seen.id, from: seen.state, since_ms: seen.updated_at_ms, to };
    match log.submit(intent, Vec::new(), Vec::new()).await? {
        Ok(Outcome::Moved(moved)) => {
            if moved.state != seen.state {
                count(to);
            }
            Ok(Some(moved))
        }
        Ok(_) | Err(_) => Ok(None),
    }
}
