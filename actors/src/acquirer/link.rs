//! The connection to one acquirer: trace numbers, time limits, and how it is doing.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use warifu_core::account_data::AccountData;
use warifu_core::merchant::MerchantId;
use warifu_core::money::Money;
use warifu_core::payment::Channel;

use super::{Acquirer, AcquirerError, AuthorizationRequest, Decision, Inquiry};
use crate::gate::{Agent, Answer, GateError};
use crate::store::job::PaymentId;

/// Largest system trace audit number (ISO 8583 field 11).
const MAX_STAN: u32 = 999_999;

/// Speaks to one acquirer.
pub struct AcquirerLink {
    acquirer: Arc<dyn Acquirer>,
    timeout: Duration,
    last_stan: u32,
    reachable: watch::Sender<bool>,
}

/// Ask for an authorization. A secret.
pub struct AskAuthorization {
    /// Which payment.
    pub payment: PaymentId,
    /// Whose.
    pub merchant: MerchantId,
    /// How much.
    pub amount: Money,
    /// How the buyer met the merchant.
    pub channel: Channel,
    /// The card, which ends here.
    pub card: AccountData,
}

/// Ask what became of a payment.
pub struct Inquire(pub PaymentId);

/// Take a payment back.
pub struct Reverse(pub PaymentId);

/// Why the link has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The acquirer gave none.
    #[error(transparent)]
    Acquirer(#[from] AcquirerError),
    /// The link did not get to ask.
    #[error(transparent)]
    Gate(#[from] GateError),
}

impl AcquirerLink {
    /// A link that waits at most `timeout` for each answer. `now_ms` spreads trace numbers over restarts, so that
    /// those of a dead link are not soon met again.
    pub fn new(acquirer: Arc<dyn Acquirer>, timeout: Duration, now_ms: u64, reachable: watch::Sender<bool>) -> Self {
        let last_stan = u32::try_from(now_ms / 10 % u64::from(MAX_STAN)).unwrap_or(0);
        Self { acquirer, timeout, last_stan, reachable }
    }

    fn next_stan(&mut self) -> u32 {
        self.last_stan = self.last_stan % MAX_STAN + 1;
        self.last_stan
    }

    fn timed<T: Send + 'static>(
        &self,
        asked: impl Future<Output = Result<T, AcquirerError>> + Send + 'static,
    ) -> impl Future<Output = Result<T, LinkError>> + Send + 'static {
        let (timeout, reachable) = (self.timeout, self.reachable.clone());
        async move {
            let answer = tokio::time::timeout(timeout, asked).await.unwrap_or(Err(AcquirerError::Silent));
            reachable.send_if_modified(|up| std::mem::replace(up, answer.is_ok()) != answer.is_ok());
            Ok(answer?)
        }
    }
}

impl Agent for AcquirerLink {
    const NAME: &'static str = "acquirer link";
}

impl Answer<AskAuthorization> for AcquirerLink {
    type Reply = Decision;
    type Error = LinkError;

    fn answer(
        &mut self,
        asked: AskAuthorization,
    ) -> impl Future<Output = Result<Decision, LinkError>> + Send + 'static {
        let AskAuthorization { payment, merchant, amount, channel, card } = asked;
        let stan = self.next_stan();
        self.timed(self.acquirer.authorize(AuthorizationRequest { payment, stan, merchant, amount, channel, card }))
    }
}

impl Answer<Inquire> for AcquirerLink {
    type Reply = Inquiry;
    type Error = LinkError;

    fn answer(&mut self, asked: Inquire) -> impl Future<Output = Result<Inquiry, LinkError>> + Send + 'static {
        self.timed(self.acquirer.inquire(asked.0))
    }
}

impl Answer<Reverse> for AcquirerLink {
    type Reply = ();
    type Error = LinkError;

    fn answer(&mut self, asked: Reverse) -> impl Future<Output = Result<(), LinkError>> + Send + 'static {
        self.timed(self.acquirer.reverse(asked.0))
    }
}
