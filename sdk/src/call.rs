//! One call, asked until it is answered, refused for good, or out of time.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::error::{Failure, SdkError};
use crate::request_id::RequestId;
use crate::retry::{Backoff, Patience};

/// Runs `attempt` until it succeeds, fails for good, or `patience` is over. Each attempt is told how long it may
/// take. Attempts must send the same bytes under the same request id: that is what makes repeating safe.
pub(crate) async fn persist<T, F>(
    patience: Patience,
    request_id: Option<&RequestId>,
    mut attempt: impl FnMut(Duration) -> F,
) -> Result<T, SdkError>
where
    F: Future<Output = Result<T, Status>>,
{
    let start = Instant::now();
    let mut backoff = Backoff::new(patience.pauses);
    loop {
        let limit = match patience.total.saturating_sub(start.elapsed()) {
            Duration::ZERO => patience.attempt,
            left => patience.attempt.min(left),
        };
        let failure = match timeout(limit, attempt(limit)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => Failure::read(status),
            Err(_) => Failure::Silent,
        };
        let pause = failure.may_repeat().map(|least| least.max(backoff.draw()));
        match pause {
            Some(pause) if start.elapsed() + pause < patience.total => {
                tracing::debug!(?pause, request_id = request_id.map(RequestId::as_str), "asking again");
                sleep(pause).await;
            }
            _ => return Err(failure.into_error(request_id, start.elapsed())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::retry::Pauses;

    fn patience(total: u64) -> Patience {
        Patience {
            attempt: Duration::from_secs(3),
            total: Duration::from_secs(total),
            pauses: Pauses { first: Duration::from_millis(100), longest: Duration::from_secs(1) },
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_way_is_tried_until_it_opens() {
        let tries = Cell::new(0);
        let answer = persist(patience(30), None, |_| {
            tries.set(tries.get() + 1);
            let tries = tries.get();
            async move { if tries < 4 { Err(Status::unavailable("")) } else { Ok(tries) } }
        });
        assert_eq!(answer.await.unwrap(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_bounded_by_the_total_and_not_only_by_the_attempt() {
        let start = Instant::now();
        let id = RequestId::new();
        let error = persist(patience(10), Some(&id), |_| std::future::pending::<Result<(), Status>>()).await;
        let Err(SdkError::Timeout { request_id, .. }) = error else { panic!("{error:?}") };
        assert_eq!(request_id, Some(id));
        assert!(start.elapsed() <= Duration::from_millis(10_050), "{:?}", start.elapsed());
        assert!(start.elapsed() >= Duration::from_secs(9), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_for_good_is_asked_once() {
        let tries = Cell::new(0);
        let answer: Result<(), _> = persist(patience(30), None, |_| {
            tries.set(tries.get() + 1);
            async { Err(Status::unimplemented("")) }
        })
        .await;
        assert!(matches!(answer, Err(SdkError::Refused { .. })));
        assert_eq!(tries.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_patience_still_means_one_attempt() {
        assert_eq!(persist(patience(0), None, |_| async { Ok(7) }).await.unwrap(), 7);
    }
}
