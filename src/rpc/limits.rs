//! Calls that break off before the house has seen them whole: too slow, too long, or no message at all. They are refused
//! in the words of every other refusal, and written down.
//!
//! Work already begun goes on when the time is over; asking again with the same request id finds its answer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use warifu_actors::House;
use warifu_core::refusal::Refusal;
use warifu_sdk::wire::v1::comm_module_service_server::SERVICE_NAME;

use super::status::status;
use crate::identity::Peer;

/// Who writes down what the house has not seen.
pub(super) trait Witness: Clone + Send + 'static {
    /// Writes it down and says what the caller is told.
    fn saw(&self, peer: Peer, refusal: Refusal, cause: &'static str) -> impl Future<Output = Refusal> + Send;
}

impl Witness for House {
    async fn saw(&self, peer: Peer, refusal: Refusal, cause: &'static str) -> Refusal {
        match self.identify(peer.certificate.0).await {
            Ok(caller) => self.note_refusal_because(&caller, None, refusal, cause).await,
            Err(refusal) => refusal,
        }
    }
}

/// Limits every call: its time from the first byte to its response's headers (a stream may last longer), and its
/// message, which the gRPC library has measured and decoded.
#[derive(Clone, Debug)]
pub(super) struct CallLimits<W> {
    pub(super) time: Duration,
    pub(super) house: W,
}

impl<S, W: Clone> Layer<S> for CallLimits<W> {
    type Service = Limited<S, W>;

    fn layer(&self, inner: S) -> Limited<S, W> {
        Limited { inner, limits: self.clone() }
    }
}

/// A service whose calls are limited.
#[derive(Clone, Debug)]
pub(super) struct Limited<S, W> {
    inner: S,
    limits: CallLimits<W>,
}

impl<S, B, W> Service<Request<B>> for Limited<S, W>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
    W: Witness + Sync,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().copied();
        let ours = is_ours(request.uri().path());
        let house = self.limits.house.clone();
        let answer = tokio::time::timeout(self.limits.time, self.inner.call(request));
        Box::pin(async move {
            let (refusal, cause) = match answer.await {
                Ok(Ok(response)) => match Status::from_header_map(response.headers()).filter(|_| ours) {
                    Some(said) => match unread(&said) {
                        Some(cause) => (Refusal::FrameMalformed, cause),
                        None => return Ok(response),
                    },
                    None => return Ok(response),
                },
                Ok(Err(never)) => match never {},
                Err(_) => (Refusal::TimedOut, "the call was not finished in time"),
            };
            let told = match peer {
                Some(peer) => house.saw(peer, refusal, cause).await,
                None => refusal,
            };
            Ok(status(told, None).into_http())
        })
    }
}

fn is_ours(path: &str) -> bool {
    path.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE_NAME)).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether the gRPC library refused the message before the service saw it: its own statuses carry no details.
pub(super) fn unread(said: &Status) -> Option<&'static str> {
    match said.code() {
        _ if !said.details().is_empty() => None,
        Code::OutOfRange => Some("the message is longer than this server takes"),
        Code::Internal => Some("the message cannot be decoded"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use tonic::Code;
    use tonic_types::StatusExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::identity::CertificateId;

    #[derive(Clone, Default)]
    struct Notebook(Arc<Mutex<Vec<(Refusal, &'static str)>>>);

    impl Notebook {
        fn pages(&self) -> Vec<(Refusal, &'static str)> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl Witness for Notebook {
        async fn saw(&self, _: Peer, refusal: Refusal, cause: &'static str) -> Refusal {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((refusal, cause));
            refusal
        }
    }

    fn request(path: &str) -> Request<()> {
        let mut request = Request::builder().uri(path).body(()).unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        request.extensions_mut().insert(Peer { certificate: CertificateId([0; 32]), address });
        request
    }

    async fn told(path: &str, said: Option<Status>) -> (Status, Vec<(Refusal, &'static str)>) {
        let inner = tower::service_fn(move |_: Request<()>| {
            let said = said.clone();
            async move {
                match said {
                    Some(said) => Ok(said.into_http()),
                    None => std::future::pending().await,
                }
            }
        });
        let house = Notebook::default();
        let limited = CallLimits { time: Duration::from_secs(10), house: house.clone() }.layer(inner);
        let response: Response<Body> = limited.oneshot(request(path)).await.unwrap();
        (Status::from_header_map(response.headers()).unwrap(), house.pages())
    }

    const OURS: &str = "https://h/warifu.v1.CommModuleService/Tokenize";

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ends_is_told_to_ask_again_and_written_down() {
        let (status, written) = told(OURS, None).await;
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "TIMED_OUT");
        assert_eq!(written.iter().map(|page| page.0).collect::<Vec<_>>(), [Refusal::TimedOut]);
    }

    #[tokio::test]
    async fn what_the_library_could_not_read_is_refused_in_our_words() {
        for code in [Code::OutOfRange, Code::Internal] {
            let (status, written) = told(OURS, Some(Status::new(code, "the library's words"))).await;
            assert_eq!(status.get_error_details().error_info().unwrap().reason, "FRAME_MALFORMED");
            assert_eq!(written.len(), 1);
        }
    }

    #[tokio::test]
    async fn our_own_refusals_and_other_services_answers_pass_as_they_are() {
        let own = status(Refusal::Internal, None);
        let (passed, written) = told(OURS, Some(own.clone())).await;
        assert_eq!((passed.code(), passed.message()), (own.code(), own.message()));
        assert_eq!(passed.get_error_details().error_info().unwrap().reason, "INTERNAL");
        let elsewhere = "https://h/grpc.health.v1.Health/Check";
        let (passed, _) = told(elsewhere, Some(Status::internal("its own"))).await;
        assert_eq!(passed.message(), "its own");
        assert_eq!(written, []);
    }
}
