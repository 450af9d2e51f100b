//! What is asked of the writer: one job is everything one request must make durable together.

use warifu_core::card::{Brand, MaskedPan};
use warifu_core::frame::Entry;
use warifu_core::ksn::{Counter, Scheme};
use warifu_core::merchant::{DeviceId, MerchantId, OrderNumber, RequestId};
use warifu_core::money::Money;
use warifu_core::payment::{Channel, State};
use warifu_core::token::Token;
use warifu_hsm::{DecryptionMode, SealedPan};

use super::vault::Fingerprints;
use crate::record::Record;

/// One unit of durability: its effects and its audit records become durable together or not at all.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to do.
    pub intent: Intent,
    /// What to write into the audit log whatever the outcome. What the intent comes to the writer adds in its own
    /// words: a token issued, a payment sent or moved, a device quarantined, a request refused and why.
    pub records: Vec<Record>,
}

/// What a job does.
#[derive(Clone, Debug)]
pub enum Intent {
    /// Nothing but its audit records.
    Note,
    /// A card was opened: use the counter, claim the request, find or issue the token, write the payment down.
    Take(Box<Take>),
    /// A payment moves from one state to another, and is this server's from then on; rejected if it has moved since it
    /// was seen.
    Move {
        /// Which payment.
        payment: PaymentId,
        /// Where it was seen.
        from: State,
        /// When it had moved there: every move of a payment has a time of its own.
        since_ms: i64,
        /// Where it goes.
        to: State,
    },
    /// A frame was genuine and held no usable card: its counter is used, and nothing else happens.
    Spend {
        /// The device.
        device: DeviceId,
        /// Its counter, which must still be unused.
        counter: Counter,
    },
    /// A frame of this device was not genuine. After `limit` of these since the last good frame the device is
    /// suspended (only where `limit` is given: devices that make no MAC).
    Fault {
        /// The device.
        device: DeviceId,
        /// How many are too many.
        limit: Option<u32>,
    },
}

/// The effects of one opened card.
#[derive(Clone)]
pub struct Take {
    /// Whose.
    pub merchant: MerchantId,
    /// The caller's name for it.
    pub request: RequestId,
    /// SHA-256 over the canonical request: the same id with another digest is rejected.
    pub digest: [u8; 32],
    /// The device, which must still be active.
    pub device: DeviceId,
    /// Its counter, which must still be unused.
    pub counter: Counter,
    /// The card's fingerprints at this merchant.
    pub fingerprints: Fingerprints,
    /// The token to issue if the card has none yet.
    pub candidate: Option<Candidate>,
    /// How the card came in and was opened.
    pub origin: Origin,
    /// The payment to write down as sent.
    pub payment: Option<NewPayment>,
}

/// A token that may become one.
#[derive(Clone)]
pub struct Candidate {
    /// The digits.
    pub token: Token,
    /// The card number sealed for exactly this token.
    pub sealed: SealedPan,
    /// What may be shown of it.
    pub masked: MaskedPan,
    /// Its brand.
    pub brand: Brand,
}

/// How a card came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The device that read it.
    pub device: DeviceId,
    /// Keyed, swiped or dipped.
    pub entry: Entry,
    /// Which DUKPT.
    pub scheme: Scheme,
    /// Where the keys lived.
    pub mode: DecryptionMode,
}

/// A payment to be written down.
#[derive(Clone, Debug)]
pub struct NewPayment {
    /// Its id, made by the caller of the store.
    pub id: PaymentId,
    /// The merchant's order.
    pub order: OrderNumber,
    /// How much.
    pub amount: Money,
    /// How the buyer met the merchant.
    pub channel: Channel,
}

/// The server's id of a payment: a UUID version 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PaymentId(pub uuid::Uuid);

/// A card as a merchant may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCard {
    /// Its token at this merchant.
    pub token: Token,
    /// What may be shown.
    pub masked: MaskedPan,
    /// Its brand.
    pub brand: Brand,
    /// How it came in this time.
    pub origin: Origin,
}

/// A payment as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPayment {
    /// Its id.
    pub id: PaymentId,
    /// Whose.
    pub merchant: MerchantId,
    /// The merchant's order.
    pub order: OrderNumber,
    /// How much.
    pub amount: Money,
    /// How the buyer met the merchant.
    pub channel: Channel,
    /// Where it stands.
    pub state: State,
    /// The card it was paid with.
    pub card: StoredCard,
    /// When it was taken, in milliseconds since 1970 UTC.
    pub created_at_ms: i64,
    /// When it last moved, in milliseconds since 1970 UTC by the clock of the server that moved it, and later than the
    /// move before. So it tells one stay in a state from the next.
    pub updated_at_ms: i64,
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The card.
    pub card: StoredCard,
    /// The payment, if the request was to pay.
    pub payment: Option<StoredPayment>,
}

/// What a job came to. It is told only after everything is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The records are written.
    Noted,
    /// This job took the card: whatever follows (the acquirer) is this caller's to do.
    Taken(Taken),
    /// The same request with the same content had been taken before: nothing was done again.
    Repeated(Taken),
    /// The payment moved, and stands so now.
    Moved(StoredPayment),
    /// The counter is used.
    Spent,
    /// The fault was counted; `true` if it suspended the device.
    Faulted {
        /// Whether the device was suspended by this.
        suspended: bool,
    },
}

/// Why an intent was not carried out. Its records were written all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The request id was used with other content.
    #[error("the request id was used with other content")]
    RequestReused,
    /// The counter was used.
    #[error("the counter was used before or is too old")]
    Replayed,
    /// The device is not active any more.
    #[error("the device is not active")]
    DeviceNotActive,
    /// No such device at this merchant.
    #[error("no such device at this merchant")]
    DeviceUnknown,
    /// Another card has the candidate token: draw again.
    #[error("the drawn token belongs to another card")]
    TokenCollision,
    /// The card has no token and the job brought no candidate.
    #[error("the card has no token yet")]
    TokenWanted,
    /// The merchant's vault has other keys by now than those the card was sealed and known by: do both again.
    #[error("the merchant's vault moved to another key meanwhile")]
    VaultMoved,
    /// The payment is not where the move starts.
    #[error("the payment does not stand where the move starts")]
    WrongState,
}

impl std::fmt::Debug for Take {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Take")
            .field("merchant", &self.merchant)
            .field("request", &self.request)
            .field("device", &self.device)
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate").field("token", &self.token).finish_non_exhaustive()
    }
}

impl std::fmt::Display for PaymentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
