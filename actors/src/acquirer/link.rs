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

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use tokio::time::Instant;

    use super::*;
    use crate::acquirer::tests::card;

    /// Never answers, and tells the trace numbers it saw.
    struct Silence(tokio::sync::mpsc::UnboundedSender<u32>);

    impl Acquirer for Silence {
        fn authorize(&self, asked: AuthorizationRequest) -> BoxFuture<'static, Result<Decision, AcquirerError>> {
            self.0.send(asked.stan).unwrap();
            Box::pin(std::future::pending())
        }

        fn inquire(&self, _: PaymentId) -> BoxFuture<'static, Result<Inquiry, AcquirerError>> {
            Box::pin(std::future::ready(Ok(Inquiry::NeverSeen)))
        }

        fn reverse(&self, _: PaymentId) -> BoxFuture<'static, Result<(), AcquirerError>> {
            Box::pin(std::future::ready(Err(AcquirerError::Unreachable)))
        }
    }

    fn asking() -> AskAuthorization {
        AskAuthorization {
            payment: PaymentId(uuid::Uuid::now_v7()),
            merchant: MerchantId::parse("shop-1").unwrap(),
            amount: crate::acquirer::tests::yen(1200),
            channel: Channel::Mail,
            card: card(b"4111111111111111=2812="),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_the_time_limit_and_is_told_of_the_acquirer() {
        let (stans, _seen) = tokio::sync::mpsc::unbounded_channel();
        let (up, is_up) = watch::channel(true);
        let mut link = AcquirerLink::new(Arc::new(Silence(stans)), Duration::from_secs(30), 0, up);
        let asked = Instant::now();
        assert_eq!(link.answer(asking()).await, Err(LinkError::Acquirer(AcquirerError::Silent)));
        assert!((30_000..30_010).contains(&asked.elapsed().as_millis()));
        assert!(!*is_up.borrow());
        assert_eq!(link.answer(Inquire(PaymentId(uuid::Uuid::nil()))).await, Ok(Inquiry::NeverSeen));
        assert!(*is_up.borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn trace_numbers_follow_each_other_and_are_never_zero() {
        let (stans, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let last = u64::from(MAX_STAN) * 10 - 30;
        let mut link = AcquirerLink::new(Arc::new(Silence(stans)), Duration::ZERO, last, watch::Sender::new(true));
        for _ in 0..5 {
            assert!(link.answer(asking()).await.is_err());
        }
        let mut stans = Vec::new();
        seen.recv_many(&mut stans, 5).await;
        assert_eq!(stans, [999_997, 999_998, 999_999, 1, 2]);
    }
}
