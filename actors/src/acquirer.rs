//! What is asked of an acquirer, whichever it is.
//!
//! The id of a payment is its idempotency key at the acquirer: asking twice to authorize one payment moves money
//! at most once.

pub mod link;
pub mod simulator;

use futures_util::future::BoxFuture;
use warifu_core::account_data::AccountData;
use warifu_core::merchant::MerchantId;
use warifu_core::money::Money;
use warifu_core::payment::{ApprovalCode, Channel, ResponseCode};

use crate::store::job::PaymentId;

/// An acquirer.
pub trait Acquirer: Send + Sync + 'static {
    /// Asks for an authorization. The card in the request is wiped when the request is dropped, which is as soon as
    /// it was sent.
    fn authorize(&self, request: AuthorizationRequest) -> BoxFuture<'static, Result<Decision, AcquirerError>>;

    /// Asks what became of an authorization. [`Inquiry::NeverSeen`] is a promise: nothing sent for this payment
    /// before this inquiry will be honoured later.
    fn inquire(&self, payment: PaymentId) -> BoxFuture<'static, Result<Inquiry, AcquirerError>>;

    /// Takes an authorization back, known or not. After `Ok` no money moves for it, whatever arrives later.
    fn reverse(&self, payment: PaymentId) -> BoxFuture<'static, Result<(), AcquirerError>>;
}

/// An authorization to be asked for. A secret.
pub struct AuthorizationRequest {
    /// Which payment.
    pub payment: PaymentId,
    /// System trace audit number, 1 to 999999 (ISO 8583 field 11).
    pub stan: u32,
    /// Whose.
    pub merchant: MerchantId,
    /// How much.
    pub amount: Money,
    /// How the buyer met the merchant.
    pub channel: Channel,
    /// The card.
    pub card: AccountData,
}

/// An acquirer's answer to an authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Approved by the issuer.
    Approved(ApprovalCode),
    /// Declined, and why.
    Declined(ResponseCode),
}

/// An acquirer's answer to an inquiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// It had the authorization and decided.
    Decided(Decision),
    /// It had the authorization and has taken it back.
    Reversed,
    /// It never had it.
    NeverSeen,
}

/// Why there is no answer. Whether bytes reached the acquirer is never known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcquirerError {
    /// No answer in time.
    #[error("the acquirer did not answer in time")]
    Silent,
    /// There is no connection.
    #[error("the acquirer cannot be reached")]
    Unreachable,
    /// Something answered that makes no sense.
    #[error("the acquirer's answer cannot be understood")]
    Garbled,
}

#[cfg(test)]
pub(crate) mod tests {
    use warifu_core::account_data::{AccountData, pad_7816};
    use warifu_core::frame::{Entry, SealedFrame, native_header};
    use warifu_core::key::KeyLen;
    use warifu_core::ksn::{AesKsn, Ksn};
    use warifu_core::money::{Currency, Money};

    /// A keyed card.
    pub(crate) fn card(typed: &[u8]) -> AccountData {
        let body = pad_7816(typed, 16);
        let ksn = Ksn::Aes(AesKsn::new([1; 12]));
        let length = u16::try_from(body.len()).unwrap();
        let mut frame = native_header(Some(KeyLen::K128), Entry::Keyed, &ksn, length);
        // Neither ciphertext nor MAC is looked at here.
        frame.resize(frame.len() + body.len() + 16, 0);
        AccountData::open(&SealedFrame::parse(&frame).unwrap(), &[body]).unwrap()
    }

    pub(crate) fn yen(minor: i64) -> Money {
        Money::new(minor, Currency::parse("JPY").unwrap()).unwrap()
    }
}
