//! The longest time a call may take from its first byte: a caller who drips its message is refused like one whose
//! work takes too long. Work already begun goes on; asking again with the same request id finds its answer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};
use warifu_core::refusal::Refusal;

use super::status::status;

/// Puts a time limit on every call, up to its response's headers: a stream may last longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimit(pub(super) Duration);

impl<S> Layer<S> for TimeLimit {
    type Service = TimeLimited<S>;

    fn layer(&self, inner: S) -> TimeLimited<S> {
        TimeLimited { inner, limit: self.0 }
    }
}

/// A service with a time limit.
#[derive(Clone, Debug)]
pub(super) struct TimeLimited<S> {
    inner: S,
    limit: Duration,
}

impl<S, B> Service<Request<B>> for TimeLimited<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = tokio::time::timeout(self.limit, self.inner.call(request));
        Box::pin(async move { answer.await.unwrap_or_else(|_| Ok(status(Refusal::TimedOut, None).into_http())) })
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_call_that_never_ends_is_told_to_ask_again() {
        let stuck = tower::service_fn(|_: Request<()>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let limited = TimeLimit(Duration::from_millis(1)).layer(stuck);
        let response = limited.oneshot(Request::new(())).await.unwrap();
        let code = response.headers()["grpc-status"].to_str().unwrap().parse::<i32>().unwrap();
        assert_eq!(Code::from_i32(code), Code::DeadlineExceeded);
    }
}
