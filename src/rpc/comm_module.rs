//! What a comm module may ask: link, tokenize, authorize, find a sale.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;
use tracing::field::Empty;
use warifu_actors::House;
use warifu_actors::house::{Caller, Link, News, TOGETHER};
use warifu_core::merchant::RequestId;
use warifu_core::refusal::Refusal;
use warifu_sdk::wire::v1;
use warifu_sdk::wire::v1::comm_module_service_server::CommModuleService;

use super::batches::Batches;
use super::convert;
use super::status::status;
use crate::app::Posture;
use crate::identity::Peer;
use crate::trickle::Trickle;

/// News waiting for a module that does not read them; then its link is closed.
const NEWS_WAITING: usize = 32;
/// Messages a module may send on its link: as many at once as it can have devices, and then so often.
const SAID_BURST: u32 = 64;
const SAID_EVERY: Duration = Duration::from_millis(100);
/// Lines about unknown callers; the audit log counts them all.
const UNKNOWN_BURST: u32 = 10;
const UNKNOWN_EVERY: Duration = Duration::from_secs(1);
/// Longest name of a module's software that is kept.
const MAX_SOFTWARE: usize = 80;

/// The edge of the house for comm modules.
pub(super) struct CommModuleEdge {
    house: House,
    posture: Posture,
    /// Lines about unknown callers, who decide how often they call.
    unknown: Mutex<Trickle>,
}

impl CommModuleEdge {
    /// In front of this house.
    pub(super) fn new(house: House, posture: Posture) -> Self {
        let unknown = Mutex::new(Trickle::new(UNKNOWN_BURST, UNKNOWN_EVERY, Instant::now()));
        Self { house, posture, unknown }
    }

    async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Refusal> {
        let peer = request.extensions().get::<Peer>().ok_or(Refusal::Internal)?;
        let caller = self.house.identify(peer.certificate.0).await;
        if matches!(caller, Err(Refusal::ModuleUnknown)) && self.unknown_is_told() {
            tracing::warn!(address = %peer.address, certificate = %peer.certificate, "caller refused: unknown module");
        }
        caller
    }

    fn unknown_is_told(&self) -> bool {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).takes(Instant::now())
    }

    /// What the house did not see is written down as what it refused itself.
    async fn read<T>(
        &self,
        caller: &Caller,
        request: Option<&RequestId>,
        read: Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        match read {
            Ok(read) => Ok(read),
            Err(refusal) => Err(self.house.note_refusal(caller, request, refusal).await),
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;
type AnswerStream = Pin<Box<dyn Stream<Item = Result<v1::TokenizeManyResponse, Status>> + Send>>;
type NewsStream = Pin<Box<dyn Stream<Item = Result<v1::LinkResponse, Status>> + Send>>;

#[tonic::async_trait]
impl CommModuleService for CommModuleEdge {
    type LinkStream = NewsStream;
    type TokenizeManyStream = AnswerStream;

    async fn tokenize(&self, request: Request<v1::TokenizeRequest>) -> Answer<v1::TokenizeResponse> {
        let id = convert::request_id(&request.get_ref().request_id);
        let known = id.as_ref().ok().cloned();
        observed("Tokenize", known.clone(), async {
            let caller = self.caller(&request).await?;
            let wish = id.and_then(|id| convert::tokenize(id, request.into_inner()));
            let wish = self.read(&caller, known.as_ref(), wish).await?;
            let card = self.house.tokenize(&caller, wish).await?;
            Ok(v1::TokenizeResponse { card: Some(convert::card(&card)) })
        })
        .await
    }

    async fn authorize(&self, request: Request<v1::AuthorizeRequest>) -> Answer<v1::AuthorizeResponse> {
        let id = convert::request_id(&request.get_ref().request_id);
        let known = id.as_ref().ok().cloned();
        observed("Authorize", known.clone(), async {
            let caller = self.caller(&request).await?;
            let wish = id.and_then(|id| convert::authorize(id, request.into_inner()));
            let wish = self.read(&caller, known.as_ref(), wish).await?;
            let payment = self.house.authorize(&caller, wish).await?;
            Ok(v1::AuthorizeResponse { payment: Some(convert::payment(&payment)) })
        })
        .await
    }

    async fn tokenize_many(&self, request: Request<Streaming<v1::TokenizeRequest>>) -> Answer<AnswerStream> {
        let (tell, told) = mpsc::channel(TOGETHER);
        observed("TokenizeMany", None, async {
            let peer = *request.extensions().get::<Peer>().ok_or(Refusal::Internal)?;
            self.caller(&request).await?;
            let batches = Batches { house: self.house.clone(), peer, tell };
            tokio::spawn(batches.serve(request.into_inner()));
            Ok::<AnswerStream, Refusal>(Box::pin(ReceiverStream::new(told)))
        })
        .await
    }

    async fn find_sale(&self, request: Request<v1::FindSaleRequest>) -> Answer<v1::FindSaleResponse> {
        observed("FindSale", None, async {
            let caller = self.caller(&request).await?;
            let order = self.read(&caller, None, convert::order(&request.get_ref().order)).await?;
            let payments = self.house.find_sale(&caller, order).await?;
            Ok(v1::FindSaleResponse { payments: payments.iter().map(convert::payment).collect() })
        })
        .await
    }

    async fn link(&self, request: Request<Streaming<v1::LinkRequest>>) -> Answer<NewsStream> {
        let (tell, told) = mpsc::channel(NEWS_WAITING);
        observed("Link", None, async {
            let peer = *request.extensions().get::<Peer>().ok_or(Refusal::Internal)?;
            self.caller(&request).await?;
            let mut said = request.into_inner();
            // Whatever comes first opens the link; a caller who says nothing runs into the call's time limit.
            let software = match said.message().await {
                Ok(Some(v1::LinkRequest { news: Some(v1::link_request::News::Hello(hello)) })) => {
                    printable(&hello.software)
                }
                _ => "unnamed".to_owned(),
            };
            // Again: it may have taken its time, and have been blocked meanwhile.
            let caller = self.house.identify(peer.certificate.0).await?;
            let link = self.house.link(&caller, software).await?;
            let welcome = v1::link_response::News::Welcome(v1::Welcome {
                merchant: caller.merchant.to_string(),
                module: caller.module.to_string(),
                dev: self.posture == Posture::Dev,
            });
            tokio::spawn(carry(link, said, tell, welcome));
            Ok::<NewsStream, Refusal>(Box::pin(ReceiverStream::new(told)))
        })
        .await
    }
}

/// Carries news both ways until one side ends; then the link is dropped, which unlinks the module.
async fn carry(
    mut link: Link,
    mut said: Streaming<v1::LinkRequest>,
    tell: mpsc::Sender<Result<v1::LinkResponse, Status>>,
    welcome: v1::link_response::News,
) {
    let send = |news| tell.try_send(Ok(v1::LinkResponse { news: Some(news) }));
    if send(welcome).is_err() {
        return;
    }
    let mut pace = Trickle::new(SAID_BURST, SAID_EVERY, Instant::now());
    loop {
        tokio::select! {
            news = link.next() => {
                let Some(news) = news else { return };
                let last = matches!(news, News::Draining { .. });
                // A module that does not read its news is cut: it dials again and learns how things are.
                if send(written(news)).is_err() || last {
                    return;
                }
            },
            message = said.message() => match message {
                Ok(Some(_)) if !pace.takes(Instant::now()) => {
                    tracing::warn!("a link was closed: its module says more than a module has to say");
                    return;
                }
                Ok(Some(message)) => heard(&message),
                Ok(None) | Err(_) => return,
            },
        }
    }
}

fn heard(message: &v1::LinkRequest) {
    match &message.news {
        Some(v1::link_request::News::DeviceAttached(device)) => {
            tracing::info!(connection = printable(&device.connection), "a device was attached");
        }
        Some(v1::link_request::News::DeviceDetached(device)) => {
            tracing::info!(connection = printable(&device.connection), "a device was taken off");
        }
        Some(v1::link_request::News::Hello(_)) | None => {}
    }
}

fn written(news: News) -> v1::link_response::News {
    match news {
        News::DeviceChanged { device, state } => v1::link_response::News::DeviceChanged(v1::DeviceChanged {
            device: device.to_string(),
            state: state.name().to_owned(),
        }),
        News::Draining { retry_after } => v1::link_response::News::Draining(v1::Draining {
            retry_after_ms: u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX),
        }),
    }
}

/// What a caller wrote, as it may stand in a log.
fn printable(text: &str) -> String {
    text.chars().filter(|character| (' '..='~').contains(character)).take(MAX_SOFTWARE).collect()
}

/// One call, with its span, metrics and status.
async fn observed<T>(
    method: &'static str,
    request: Option<RequestId>,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Answer<T> {
    let span = tracing::info_span!(
        "call",
        otel.name = format_args!("warifu.v1.CommModuleService/{method}"),
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = "warifu.v1.CommModuleService",
        rpc.method = method,
        request_id = request.as_ref().map(RequestId::as_str),
        refusal = Empty,
    );
    let begun = Instant::now();
    let result = work.instrument(span.clone()).await;
    let outcome = result.as_ref().err().map_or("OK", |refusal| refusal.reason());
    metrics::histogram!("warifu_grpc_duration_seconds", "method" => method).record(begun.elapsed().as_secs_f64());
    metrics::counter!("warifu_grpc_calls_total", "method" => method, "outcome" => outcome).increment(1);
    result.map(Response::new).map_err(|refusal| {
        span.record("refusal", refusal.reason());
        status(refusal, request.as_ref())
    })
}
