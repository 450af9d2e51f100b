//! What a merchant wants to be paid for.

use warifu_core::payment::Channel;

use crate::collected::Collected;
use crate::request_id::RequestId;
use crate::wire::v1;

/// One order to authorize.
///
/// An order carries its [`RequestId`] from the start, so authorizing the same `Order` value again has one effect.
/// To try another card for the same order number make another `Order`. Number, amount and currency are sent as they
/// are: the server judges them, and its refusal says what to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    number: String,
    minor: i64,
    currency: String,
    channel: Option<Channel>,
    request_id: RequestId,
}

impl Order {
    /// An order by its number (1 to 64 printable ASCII characters, the merchant's own), its amount in the smallest
    /// unit of its currency (1 to 999,999,999,999), and the currency's ISO 4217 letters. It still needs a channel.
    pub fn new(number: impl Into<String>, minor: i64, currency: impl Into<String>) -> Self {
        Self { number: number.into(), minor, currency: currency.into(), channel: None, request_id: RequestId::new() }
    }

    /// The buyer is on the telephone.
    pub fn telephone(self) -> Self {
        self.channel(Channel::Telephone)
    }

    /// The buyer wrote.
    pub fn mail(self) -> Self {
        self.channel(Channel::Mail)
    }

    /// The buyer is at the counter.
    pub fn in_person(self) -> Self {
        self.channel(Channel::InPerson)
    }

    /// Sets how the buyer met the merchant.
    pub fn channel(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    /// Replaces the drawn request id, as when an order is taken up again after a crash.
    pub fn with_request_id(mut self, request_id: RequestId) -> Self {
        self.request_id = request_id;
        self
    }

    /// The order number.
    pub fn number(&self) -> &str {
        &self.number
    }

    /// What names this wish; write it down before authorizing to survive a crash.
    pub fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    pub(crate) fn to_wire(&self, output: &Collected) -> v1::AuthorizeRequest {
        let channel = match self.channel {
            None => v1::Channel::Unspecified,
            Some(Channel::Mail) => v1::Channel::Mail,
            Some(Channel::Telephone) => v1::Channel::Telephone,
            Some(Channel::InPerson) => v1::Channel::InPerson,
        };
        v1::AuthorizeRequest {
            request_id: self.request_id.to_string(),
            output: Some(output.to_wire()),
            order: self.number.clone(),
            amount: Some(v1::Money { minor: self.minor, currency: self.currency.clone() }),
            channel: channel.into(),
        }
    }
}
