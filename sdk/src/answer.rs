//! What the server says of cards and payments.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use warifu_core::payment::Channel;
use warifu_core::token::Token;

use crate::error::SdkError;
use crate::wire::v1;

/// What a merchant may know of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Card {
    /// Stands for the card at this merchant.
    pub token: Token,
    /// First six and last four digits at most; stars between.
    pub masked_pan: String,
    /// `visa`, `mastercard`, `jcb`, `amex`, `diners`, `discover`, `unionpay` or `other`.
    pub brand: String,
    /// The device that read it, as registered.
    pub device: String,
    /// `keyed`, `swiped` or `dipped`.
    pub entry: String,
    /// Where the working key lived: `hardware`, `hybrid` or `host-derived`.
    pub decryption_mode: String,
    /// `aes` or `tdes`.
    pub scheme: String,
}

/// One payment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Payment {
    /// The server's id of the payment.
    pub payment_id: String,
    /// The merchant's order number.
    pub order: String,
    /// Amount in the smallest unit of the currency.
    pub minor: i64,
    /// ISO 4217 letters.
    pub currency: String,
    /// How the buyer met the merchant.
    pub channel: Channel,
    /// Where the money stands.
    pub outcome: Outcome,
    /// The card it was made with.
    pub card: Card,
    /// When the server took it, to the millisecond.
    pub created_at: SystemTime,
}

/// Where the money of a payment stands. A decline is an answer, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The acquirer approved.
    Authorized {
        /// Six characters (ISO 8583 field 38).
        approval_code: String,
    },
    /// The acquirer declined.
    Declined {
        /// The reason, two characters (ISO 8583 field 39): `51` insufficient funds, `54` expired card.
        response_code: String,
    },
    /// Nobody knows yet, and the server keeps asking the acquirer: do not sell again, ask again
    /// ([`wait_for_outcome`](crate::CommModule::wait_for_outcome), [`find_sale`](crate::CommModule::find_sale)).
    Unknown,
    /// No money moved: the acquirer never had the request, or took it back.
    Reversed,
}

impl Outcome {
    /// Its name in lists: `authorized`, `declined`, `unknown`, `reversed`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Authorized { .. } => "authorized",
            Self::Declined { .. } => "declined",
            Self::Unknown => "unknown",
            Self::Reversed => "reversed",
        }
    }
}

impl TryFrom<Option<v1::Card>> for Card {
    type Error = SdkError;

    fn try_from(card: Option<v1::Card>) -> Result<Self, SdkError> {
        let card = card.ok_or(SdkError::Answer { what: "no card" })?;
        Ok(Self {
            token: Token::parse(&card.token).map_err(|_| SdkError::Answer { what: "no well-formed token" })?,
            masked_pan: card.masked_pan,
            brand: card.brand,
            device: card.device,
            entry: card.entry,
            decryption_mode: card.decryption_mode,
            scheme: card.scheme,
        })
    }
}

impl TryFrom<Option<v1::Payment>> for Payment {
    type Error = SdkError;

    fn try_from(payment: Option<v1::Payment>) -> Result<Self, SdkError> {
        let payment = payment.ok_or(SdkError::Answer { what: "no payment" })?;
        let outcome = outcome(&payment);
        let channel = match payment.channel() {
            v1::Channel::Mail => Channel::Mail,
            v1::Channel::Telephone => Channel::Telephone,
            v1::Channel::InPerson => Channel::InPerson,
            v1::Channel::Unspecified => return Err(SdkError::Answer { what: "no known channel" }),
        };
        let amount = payment.amount.ok_or(SdkError::Answer { what: "no amount" })?;
        let since_1970 = u64::try_from(payment.created_at_ms).map_err(|_| SdkError::Answer { what: "no time" })?;
        Ok(Self {
            payment_id: payment.payment_id,
            order: payment.order,
            minor: amount.minor,
            currency: amount.currency,
            channel,
            outcome,
            card: payment.card.try_into()?,
            created_at: UNIX_EPOCH + Duration::from_millis(since_1970),
        })
    }
}

/// A state this build does not know is `Unknown`: the one reading that never claims money moved or did not.
fn outcome(payment: &v1::Payment) -> Outcome {
    match payment.outcome() {
        v1::Outcome::Authorized => Outcome::Authorized { approval_code: payment.approval_code.clone() },
        v1::Outcome::Declined => Outcome::Declined { response_code: payment.response_code.clone() },
        v1::Outcome::Reversed => Outcome::Reversed,
        v1::Outcome::Unknown | v1::Outcome::Unspecified => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payment(outcome: i32) -> v1::Payment {
        v1::Payment {
            payment_id: "p1".to_owned(),
            order: "1001".to_owned(),
            amount: Some(v1::Money { minor: 1200, currency: "JPY".to_owned() }),
            channel: v1::Channel::Telephone.into(),
            outcome,
            card: Some(v1::Card { token: "9000000000000000".to_owned(), ..v1::Card::default() }),
            created_at_ms: 1_700_000_000_123,
            ..v1::Payment::default()
        }
    }

    #[test]
    fn an_outcome_of_a_newer_server_is_never_taken_for_approval_or_decline() {
        for outcome in [0, 3, 99, -1] {
            assert_eq!(Payment::try_from(Some(payment(outcome))).unwrap().outcome, Outcome::Unknown);
        }
    }

    #[test]
    fn an_answer_without_a_well_formed_token_is_an_error() {
        for token in ["", "4111111111111111", "900000000000000x"] {
            let card = v1::Card { token: token.to_owned(), ..v1::Card::default() };
            assert!(matches!(Card::try_from(Some(card)), Err(SdkError::Answer { .. })), "{token:?}");
        }
        assert!(matches!(Card::try_from(None), Err(SdkError::Answer { .. })));
    }

    #[test]
    fn time_and_money_come_through_whole() {
        let payment = Payment::try_from(Some(payment(1))).unwrap();
        assert_eq!((payment.minor, payment.currency.as_str()), (1200, "JPY"));
        assert_eq!(payment.created_at, UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
    }
}
