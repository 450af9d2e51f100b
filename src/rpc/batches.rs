//! A stream of cards, served part by part: whatever has arrived by the time the part before is under way. While one part
//! becomes durable the next is opened; nothing of it is taken before that is over ([`Turn`]).
//!
//! Nothing is read ahead of that, so a module that sends faster than the server works, or does not take its answers, is
//! slowed down by the wire itself.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use warifu_actors::House;
use warifu_actors::house::{Caller, TOGETHER};
use warifu_actors::turn::{Next, Turn};
use warifu_core::merchant::RequestId;
use warifu_core::refusal::{Refusal, Retry};
use warifu_sdk::wire::v1;
use warifu_sdk::wire::v1::tokenize_many_response::Result as Told;

use super::convert;
use super::limits::unread;
use super::status::status;
use crate::identity::Peer;

/// Longest silence of a module between two cards.
const SILENCE: Duration = Duration::from_secs(30);
/// Parts of one stream that are under way at a time: one becomes durable while the next is opened.
const UNDER_WAY: usize = 2;

/// Serves one stream.
pub(super) struct Batches {
    pub(super) house: House,
    pub(super) peer: Peer,
    pub(super) tell: mpsc::Sender<Result<v1::TokenizeManyResponse, Status>>,
}

/// What a part of the stream came to.
struct Served {
    /// To be told in this order.
    answers: Vec<v1::TokenizeManyResponse>,
    /// Why the stream ends with it.
    ends: Option<Status>,
}

impl Batches {
    /// Until the module has no more cards, breaks off, or is not to be served any more.
    pub(super) async fn serve(self, said: Streaming<v1::TokenizeRequest>) {
        let mut parts = said.ready_chunks(TOGETHER);
        let mut under_way = FuturesOrdered::new();
        let (mut turn, mut more) = (Turn::first(), true);
        while more || !under_way.is_empty() {
            tokio::select! {
                () = self.tell.closed() => return,
                Some(served) = under_way.next(), if !under_way.is_empty() => {
                    if !self.told(served).await {
                        return;
                    }
                }
                part = tokio::time::timeout(SILENCE, parts.next()), if more && under_way.len() < UNDER_WAY => {
                    match part {
                        Ok(None) => more = false,
                        Ok(Some(part)) => {
                            let (next, its_turn) = Turn::after();
                            under_way.push_back(self.part(part, std::mem::replace(&mut turn, its_turn), next));
                        }
                        Err(_) => {
                            let _ = self.tell.send(Err(status(Refusal::TimedOut, None))).await;
                            return;
                        }
                    }
                }
            }
        }
    }

    /// `false` where that was the end.
    async fn told(&self, served: Result<Served, Status>) -> bool {
        let Served { answers, ends } = match served {
            Ok(served) => served,
            Err(said) => Served { answers: Vec::new(), ends: Some(said) },
        };
        for answer in answers {
            if self.tell.send(Ok(answer)).await.is_err() {
                return false;
            }
        }
        match ends {
            None => true,
            Some(said) => {
                let _ = self.tell.send(Err(said)).await;
                false
            }
        }
    }

    /// An error ends the stream: what was not answered is to be asked again.
    async fn part(
        &self,
        batch: Vec<Result<v1::TokenizeRequest, Status>>,
        turn: Turn,
        next: Next,
    ) -> Result<Served, Status> {
        // Each time anew: a module may be blocked while it sends.
        let caller = self.house.identify(self.peer.certificate.0).await.map_err(|refusal| status(refusal, None))?;
        let (mut names, mut wishes, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        let mut broken = None;
        for message in batch {
            let message = match message {
                Ok(message) => message,
                Err(said) => {
                    broken = Some(said);
                    break;
                }
            };
            let id = convert::request_id(&message.request_id);
            let name = message.request_id.clone();
            match id.clone().and_then(|id| convert::tokenize(id, message)) {
                Ok(wish) => wishes.push(wish),
                Err(refusal) => unreadable.push((names.len(), id.ok(), refusal)),
            }
            names.push(name);
        }
        let served = match wishes.is_empty() {
            true => turn.comes().await.then(Vec::new).ok_or(Refusal::Busy),
            false => self.house.tokenize_many(&caller, wishes, turn).await,
        };
        let mut served = served.map_err(|refusal| status(refusal, None))?.into_iter();
        let mut unreadable = unreadable.into_iter().peekable();
        let (mut again, mut answers) = (None, Vec::with_capacity(names.len()));
        for (at, request_id) in names.into_iter().enumerate() {
            let told = match unreadable.next_if(|(place, ..)| *place == at) {
                Some((_, id, refusal)) => Err(self.unread(&caller, id.as_ref(), refusal).await),
                None => served.next().unwrap_or(Err(Refusal::Internal)),
            };
            let result = match told {
                Ok(card) => Told::Card(convert::card(&card)),
                Err(refusal) => {
                    if refusal.retry() == Retry::SameRequest {
                        again.get_or_insert(refusal);
                    }
                    Told::Refused(convert::refused(refusal))
                }
            };
            answers.push(v1::TokenizeManyResponse { request_id, result: Some(result) });
        }
        // What is to be asked again comes before whatever its device sent after it.
        let ends = match (again, broken) {
            (Some(refusal), _) => Some(status(refusal, None)),
            (None, Some(said)) => Some(self.broken(&caller, said).await),
            (None, None) => {
                next.goes();
                None
            }
        };
        Ok(Served { answers, ends })
    }

    /// A message that cannot be read ends the stream, in the words a call of its own would be refused with.
    async fn broken(&self, caller: &Caller, said: Status) -> Status {
        match unread(&said) {
            None => said,
            Some(cause) => {
                let refusal = Refusal::FrameMalformed;
                status(self.house.note_refusal_because(caller, None, refusal, cause).await, None)
            }
        }
    }

    async fn unread(&self, caller: &Caller, request: Option<&RequestId>, refusal: Refusal) -> Refusal {
        self.house.note_refusal(caller, request, refusal).await
    }
}
