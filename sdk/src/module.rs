//! The comm module: what an order app holds.

use std::borrow::Borrow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use warifu_core::device::Format;

use crate::answer::{Card, Outcome, Payment};
use crate::call::persist;
use crate::collected::Collected;
use crate::config::Config;
use crate::device::{Device, DeviceError};
use crate::error::SdkError;
use crate::link::{self, Events, Identity, Link, LinkState};
use crate::order::Order;
use crate::request_id::RequestId;
use crate::retry::{Backoff, Patience, Pauses};
use crate::transport::DeviceTransport;
use crate::upload::Upload;
use crate::wire::v1;
use crate::wire::v1::comm_module_service_client::CommModuleServiceClient;

/// Largest answer taken: an order with some thousand payments.
const MAX_ANSWER: usize = 1024 * 1024;
/// How often an unknown outcome is asked for: the server itself asks the acquirer every few seconds.
const POLL: Pauses = Pauses { first: Duration::from_millis(500), longest: Duration::from_secs(5) };

/// The merchant's side of Warifu: devices on one side, the server on the other.
///
/// Clones share one connection and one link; dropping the last one closes them. Calls made while the link is down
/// work as long as the server can be reached. A call dropped before it ends may still take effect: ask again with
/// the same request id.
#[derive(Clone)]
pub struct CommModule {
    inner: Arc<Inner>,
}

struct Inner {
    client: CommModuleServiceClient<Channel>,
    patience: Patience,
    link: Link,
}

impl CommModule {
    /// Dials the server, and waits for it to welcome the module: wrong addresses, certificates and unregistered
    /// modules fail here. Tries for as long as [`Config::give_up_after`] says.
    pub async fn connect(mut config: Config) -> Result<Self, SdkError> {
        let probe = config.probe();
        let client = client(&mut config)?;
        let open = persist(config.patience, None, |_| {
            let (client, probe) = (client.clone(), probe.clone());
            async move {
                match (link::dial(client).await, probe) {
                    (Err(status), Some(probe)) => Err(probe.explain(status).await),
                    (dialed, _) => dialed,
                }
            }
        });
        let open = open.await?;
        let link = Link::keep(client.clone(), config.redial, Some(open));
        Ok(Self { inner: Arc::new(Inner { client, patience: config.patience, link }) })
    }

    /// As [`CommModule::connect`], without waiting: for an order app that must start while the server is away. Must
    /// be called inside a tokio runtime.
    pub fn start(mut config: Config) -> Result<Self, SdkError> {
        let client = client(&mut config)?;
        let link = Link::keep(client.clone(), config.redial, None);
        Ok(Self { inner: Arc::new(Inner { client, patience: config.patience, link }) })
    }

    /// Who the server says this module is; `None` until its first link is up.
    pub fn identity(&self) -> Option<Identity> {
        match self.inner.link.state() {
            LinkState::NeverUp => None,
            LinkState::Up(identity) | LinkState::Lost(identity) => Some(identity),
        }
    }

    /// The merchant this module works for; `None` until its first link is up.
    pub fn merchant(&self) -> Option<String> {
        self.identity().map(|identity| identity.merchant)
    }

    /// Whether the link is up now.
    pub fn is_linked(&self) -> bool {
        matches!(self.inner.link.state(), LinkState::Up(_))
    }

    /// News of the link, from now on.
    pub fn events(&self) -> Events {
        self.inner.link.events()
    }

    /// Opens a device's wire and begins to cut its outputs, in the format the device is registered with.
    pub async fn attach(&self, transport: impl DeviceTransport, format: Format) -> Result<Device, DeviceError> {
        let attachment = self.inner.link.reserve(transport.name())?;
        Device::open(transport, format, attachment).await
    }

    /// Turns a card into a token. Moves no money.
    ///
    /// The same `request_id` and `output` again give the first answer again.
    pub async fn tokenize(&self, request_id: &RequestId, output: &Collected) -> Result<Card, SdkError> {
        let message = v1::TokenizeRequest { request_id: request_id.to_string(), output: Some(output.to_wire()) };
        let answer =
            self.ask(Some(request_id), message, |mut client, request| async move { client.tokenize(request).await });
        answer.await?.card.try_into()
    }

    /// Turns many cards into tokens, as after a time without a connection: as many answers, in the same order. Moves no
    /// money. Cards of one device must come in the order they were collected.
    ///
    /// What has no answer is asked again as long as [`Config::give_up_after`] says, counted from the last answer; the
    /// refusal of one card says nothing about the others. The same cards again give the same answers.
    pub async fn tokenize_many(&self, cards: &[(RequestId, Collected)]) -> Vec<Result<Card, SdkError>> {
        Upload::of(self.inner.client.clone(), self.inner.patience, cards).run().await
    }

    /// Turns a card into a token and asks the acquirer to authorize the order. A decline is an answer, not an error.
    ///
    /// The same order value and output again give the first answer again.
    pub async fn authorize(&self, order: impl Borrow<Order>, output: &Collected) -> Result<Payment, SdkError> {
        let order = order.borrow();
        let answer = self.ask(Some(order.request_id()), order.to_wire(output), |mut client, request| async move {
            client.authorize(request).await
        });
        answer.await?.payment.try_into()
    }

    /// The payments of an order, oldest first; none if this merchant has no such order.
    pub async fn find_sale(&self, order: &str) -> Result<Vec<Payment>, SdkError> {
        let message = v1::FindSaleRequest { order: order.to_owned() };
        let answer = self.ask(None, message, |mut client, request| async move { client.find_sale(request).await });
        answer.await?.payments.into_iter().map(|payment| Some(payment).try_into()).collect()
    }

    /// Asks for a payment whose outcome is [`Outcome::Unknown`] until it is known, at most `wait`. Gives the payment
    /// as it stands then, which may still be unknown.
    pub async fn wait_for_outcome(&self, payment: &Payment, wait: Duration) -> Result<Payment, SdkError> {
        let deadline = Instant::now() + wait;
        let mut latest = payment.clone();
        let mut backoff = Backoff::new(POLL);
        while latest.outcome == Outcome::Unknown {
            let pause = backoff.draw();
            if Instant::now() + pause > deadline {
                break;
            }
            sleep(pause).await;
            let found = self.find_sale(&payment.order).await?;
            if let Some(found) = found.into_iter().find(|found| found.payment_id == payment.payment_id) {
                latest = found;
            }
        }
        Ok(latest)
    }

    /// Sends one message, the same bytes each time, until it is answered.
    async fn ask<M, A, F>(
        &self,
        request_id: Option<&RequestId>,
        message: M,
        send: impl Fn(CommModuleServiceClient<Channel>, Request<M>) -> F,
    ) -> Result<A, SdkError>
    where
        M: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let attempt = |limit| {
            let mut request = Request::new(message.clone());
            request.set_timeout(limit);
            let answer = send(self.inner.client.clone(), request);
            async { answer.await.map(Response::into_inner) }
        };
        persist(self.inner.patience, request_id, attempt).await
    }
}

fn client(config: &mut Config) -> Result<CommModuleServiceClient<Channel>, SdkError> {
    Ok(CommModuleServiceClient::new(config.channel()?).max_decoding_message_size(MAX_ANSWER))
}
