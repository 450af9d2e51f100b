//! Many cards at once, as after hours without a connection: each is answered, and what was not is asked again.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::answer::Card;
use crate::collected::Collected;
use crate::error::{Failure, SdkError};
use crate::request_id::RequestId;
use crate::retry::{Backoff, Patience};
use crate::wire::v1;
use crate::wire::v1::comm_module_service_client::CommModuleServiceClient;
use crate::wire::v1::tokenize_many_response::Result as Told;

/// Most cards of one call.
const TOGETHER: usize = 1000;

/// Cards on their way, and what has come of them.
pub(crate) struct Upload<'a> {
    client: CommModuleServiceClient<Channel>,
    patience: Patience,
    cards: &'a [(RequestId, Collected)],
    answers: Vec<Option<Result<Card, SdkError>>>,
}

impl<'a> Upload<'a> {
    pub(crate) fn of(
        client: CommModuleServiceClient<Channel>,
        patience: Patience,
        cards: &'a [(RequestId, Collected)],
    ) -> Self {
        Self { client, patience, cards, answers: cards.iter().map(|_| None).collect() }
    }

    /// Asks until each card has its answer. The patience counts anew with each answer that comes.
    pub(crate) async fn run(mut self) -> Vec<Result<Card, SdkError>> {
        let mut backoff = Backoff::new(self.patience.pauses);
        let mut since = Instant::now();
        loop {
            let open: Vec<usize> = (0..self.cards.len()).filter(|at| self.answers[*at].is_none()).collect();
            let Some(asked) = open.chunks(TOGETHER).next() else { break };
            let left = self.patience.total.saturating_sub(since.elapsed());
            let Err(failure) = self.ask(asked, left).await else {
                since = Instant::now();
                backoff.reset();
                continue;
            };
            if asked.iter().any(|at| self.answers[*at].is_some()) {
                since = Instant::now();
                backoff.reset();
            }
            let first = asked.iter().copied().find(|at| self.answers[*at].is_none());
            if let Some(first) = first.filter(|_| failure.is_of_one_card()) {
                // The stream ended at this card; those after it have not been looked at.
                self.answers[first] = Some(Err(failure.into_error(Some(&self.cards[first].0), since.elapsed())));
                continue;
            }
            let pause = failure.may_repeat().map(|least| least.max(backoff.draw()));
            match pause {
                Some(pause) if since.elapsed() + pause < self.patience.total => sleep(pause).await,
                _ => {
                    self.give_up(failure, since.elapsed());
                    break;
                }
            }
        }
        let lost = || SdkError::Answer { what: "no answer to one of the cards" };
        self.answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost()))).collect()
    }

    /// One call. A failure leaves some of its cards without an answer.
    async fn ask(&mut self, asked: &[usize], left: Duration) -> Result<(), Failure> {
        let limit = self.patience.attempt.min(left.max(self.patience.pauses.first));
        let messages: Vec<_> = asked.iter().map(|at| message(&self.cards[*at])).collect();
        let call = self.client.tokenize_many(futures_util::stream::iter(messages));
        let answers = timeout(limit, call).await.map_err(|_| Failure::Silent)?.map_err(Failure::read)?;
        self.read(asked, limit, answers.into_inner()).await
    }

    /// Answers come in the order of the questions. Of those to be asked again the last is told.
    async fn read(
        &mut self,
        asked: &[usize],
        limit: Duration,
        mut answers: Streaming<v1::TokenizeManyResponse>,
    ) -> Result<(), Failure> {
        let mut again = None;
        for at in asked {
            let answer = timeout(limit, answers.message()).await.map_err(|_| Failure::Silent)?;
            let answer = answer.map_err(Failure::read)?.ok_or(Failure::Silent)?;
            let request = &self.cards[*at].0;
            let told = match answer.result {
                _ if answer.request_id != request.as_str() => {
                    Some(Err(SdkError::Answer { what: "the answer to another request" }))
                }
                None => Some(Err(SdkError::Answer { what: "neither a card nor a refusal" })),
                Some(Told::Card(card)) => Some(Some(card).try_into()),
                Some(Told::Refused(refused)) => {
                    let failure = Failure::of_one(refused);
                    if failure.may_repeat().is_some() {
                        again = Some(failure);
                        None
                    } else {
                        Some(Err(failure.into_error(Some(request), Duration::ZERO)))
                    }
                }
            };
            self.answers[*at] = told;
        }
        again.map_or(Ok(()), Err)
    }

    /// Everybody without an answer gets this one.
    fn give_up(&mut self, failure: Failure, waited: Duration) {
        let error = |request: &RequestId| failure.clone().into_error(Some(request), waited);
        for ((request, _), answer) in self.cards.iter().zip(&mut self.answers) {
            answer.get_or_insert_with(|| Err(error(request)));
        }
    }
}

fn message((request, output): &(RequestId, Collected)) -> v1::TokenizeRequest {
    v1::TokenizeRequest { request_id: request.to_string(), output: Some(output.to_wire()) }
}
