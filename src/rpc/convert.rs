//! Messages of the wire to words of the domain, once, at the edge. What cannot be said in the domain is refused here
//! with the reason its field has.

use bytes::Bytes;
use warifu_actors::house::{Authorize, Tokenize};
use warifu_actors::store::job::{StoredCard, StoredPayment};
use warifu_core::ksn::Scheme;
use warifu_core::merchant::{OrderNumber, RequestId};
use warifu_core::money::{Currency, Money, MoneyError};
use warifu_core::payment::{Channel, State};
use warifu_core::refusal::Refusal;
use warifu_sdk::wire::v1;

/// Longest device output.
const MAX_OUTPUT: usize = 4096;

/// Reads a request id.
pub(super) fn request_id(text: &str) -> Result<RequestId, Refusal> {
    RequestId::parse(text).map_err(|_| Refusal::RequestIdInvalid)
}

/// Reads an order number.
pub(super) fn order(text: &str) -> Result<OrderNumber, Refusal> {
    OrderNumber::parse(text).map_err(|_| Refusal::OrderInvalid)
}

/// Reads what is to be tokenized.
pub(super) fn tokenize(request: RequestId, message: v1::TokenizeRequest) -> Result<Tokenize, Refusal> {
    Ok(Tokenize { request, output: output(message.output)? })
}

/// Reads what is to be authorized.
pub(super) fn authorize(request: RequestId, message: v1::AuthorizeRequest) -> Result<Authorize, Refusal> {
    Ok(Authorize {
        request,
        order: order(&message.order)?,
        amount: money(message.amount.as_ref())?,
        channel: channel(message.channel)?,
        output: output(message.output)?,
    })
}

fn output(output: Option<v1::DeviceOutput>) -> Result<Bytes, Refusal> {
    match output {
        Some(output) if (1..=MAX_OUTPUT).contains(&output.frame.len()) => Ok(output.frame),
        _ => Err(Refusal::FrameMalformed),
    }
}

fn money(money: Option<&v1::Money>) -> Result<Money, Refusal> {
    let money = money.ok_or(Refusal::AmountInvalid)?;
    let refuse = |error| match error {
        MoneyError::Currency => Refusal::CurrencyInvalid,
        MoneyError::Amount => Refusal::AmountInvalid,
    };
    let currency = Currency::parse(&money.currency).map_err(refuse)?;
    Money::new(money.minor, currency).map_err(refuse)
}

fn channel(number: i32) -> Result<Channel, Refusal> {
    match v1::Channel::try_from(number) {
        Ok(v1::Channel::Mail) => Ok(Channel::Mail),
        Ok(v1::Channel::Telephone) => Ok(Channel::Telephone),
        Ok(v1::Channel::InPerson) => Ok(Channel::InPerson),
        Ok(v1::Channel::Unspecified) | Err(_) => Err(Refusal::ChannelInvalid),
    }
}

/// Writes a card as a merchant may know it.
pub(super) fn card(card: &StoredCard) -> v1::Card {
    v1::Card {
        token: card.token.to_string(),
        masked_pan: card.masked.to_string(),
        brand: card.brand.name().to_owned(),
        device: card.origin.device.to_string(),
        entry: card.origin.entry.name().to_owned(),
        decryption_mode: card.origin.mode.name().to_owned(),
        scheme: scheme_name(card.origin.scheme).to_owned(),
    }
}

/// Writes a refusal of one request among many.
pub(super) fn refused(refusal: Refusal) -> v1::Refused {
    v1::Refused {
        reason: refusal.reason().to_owned(),
        who: refusal.fixer().name().to_owned(),
        retry: refusal.retry().name().to_owned(),
        message: refusal.message().to_owned(),
    }
}

/// Writes a payment.
pub(super) fn payment(payment: &StoredPayment) -> v1::Payment {
    let (outcome, approval_code, response_code) = outcome(payment.state);
    v1::Payment {
        payment_id: payment.id.to_string(),
        order: payment.order.to_string(),
        amount: Some(v1::Money {
            minor: payment.amount.minor(),
            currency: payment.amount.currency().code().to_owned(),
        }),
        channel: match payment.channel {
            Channel::Mail => v1::Channel::Mail,
            Channel::Telephone => v1::Channel::Telephone,
            Channel::InPerson => v1::Channel::InPerson,
        }
        .into(),
        outcome: outcome.into(),
        approval_code,
        response_code,
        card: Some(card(&payment.card)),
        created_at_ms: payment.created_at_ms,
    }
}

/// A payment still on its way is, to the merchant, one nobody knows the end of.
fn outcome(state: State) -> (v1::Outcome, String, String) {
    match state {
        State::Sent | State::Unknown => (v1::Outcome::Unknown, String::new(), String::new()),
        State::Authorized(code) => (v1::Outcome::Authorized, code.to_string(), "00".to_owned()),
        State::Declined(code) => (v1::Outcome::Declined, String::new(), code.to_string()),
        State::Reversed => (v1::Outcome::Reversed, String::new(), String::new()),
    }
}

/// The name of a scheme on the wire and in lists.
pub(crate) const fn scheme_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Aes => "aes",
        Scheme::Tdes => "tdes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> v1::AuthorizeRequest {
        v1::AuthorizeRequest {
            request_id: "r1".to_owned(),
            output: Some(v1::DeviceOutput { frame: Bytes::from_static(b"WF") }),
            order: "42".to_owned(),
            amount: Some(v1::Money { minor: 1200, currency: "JPY".to_owned() }),
            channel: v1::Channel::Telephone.into(),
        }
    }

    fn refusal(change: impl FnOnce(&mut v1::AuthorizeRequest)) -> Option<Refusal> {
        let mut message = whole();
        change(&mut message);
        request_id(&message.request_id.clone()).and_then(|request| authorize(request, message)).err()
    }

    #[test]
    fn each_field_is_refused_for_its_own_reason() {
        assert_eq!(refusal(|_| {}), None);
        assert_eq!(refusal(|m| m.request_id = "two words".to_owned()), Some(Refusal::RequestIdInvalid));
        assert_eq!(refusal(|m| m.request_id = String::new()), Some(Refusal::RequestIdInvalid));
        assert_eq!(refusal(|m| m.order = String::new()), Some(Refusal::OrderInvalid));
        assert_eq!(refusal(|m| m.amount = None), Some(Refusal::AmountInvalid));
        for minor in [0, -1, i64::MAX] {
            let change = |m: &mut v1::AuthorizeRequest| m.amount.as_mut().unwrap().minor = minor;
            assert_eq!(refusal(change), Some(Refusal::AmountInvalid));
        }
        assert_eq!(refusal(|m| m.amount.as_mut().unwrap().currency = "jpy".to_owned()), Some(Refusal::CurrencyInvalid));
        for channel in [0, 4, -1] {
            assert_eq!(refusal(|m| m.channel = channel), Some(Refusal::ChannelInvalid));
        }
        assert_eq!(refusal(|m| m.output = None), Some(Refusal::FrameMalformed));
        for length in [0, MAX_OUTPUT + 1] {
            let change = |m: &mut v1::AuthorizeRequest| m.output.as_mut().unwrap().frame = vec![0; length].into();
            assert_eq!(refusal(change), Some(Refusal::FrameMalformed));
        }
    }
}
