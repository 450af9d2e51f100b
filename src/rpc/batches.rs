//! A stream of cards, served batch by batch: whatever has arrived by the time the batch before is done.
//!
//! Nothing is read ahead of that, so a module that sends faster than the server works, or does not take its answers, is
//! slowed down by the wire itself.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use warifu_actors::House;
use warifu_actors::house::{Caller, TOGETHER};
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

/// Serves one stream.
pub(super) struct Batches {
    pub(super) house: House,
    pub(super) peer: Peer,
    pub(super) tell: mpsc::Sender<Result<v1::TokenizeManyResponse, Status>>,
}

impl Batches {
    /// Until the module has no more cards, breaks off, or is not to be served any more.
    pub(super) async fn serve(self, said: Streaming<v1::TokenizeRequest>) {
        let mut batches = said.ready_chunks(TOGETHER);
        loop {
            let batch = tokio::select! {
                () = self.tell.closed() => return,
                batch = tokio::time::timeout(SILENCE, batches.next()) => batch,
            };
            let served = match batch {
                Ok(None) => return,
                Ok(Some(batch)) => self.batch(batch).await,
                Err(_) => Err(status(Refusal::TimedOut, None)),
            };
            if let Err(said) = served {
                let _ = self.tell.send(Err(said)).await;
                return;
            }
        }
    }

    /// An error ends the stream: what was not answered is to be asked again.
    async fn batch(&self, batch: Vec<Result<v1::TokenizeRequest, Status>>) -> Result<(), Status> {
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
        let served = if wishes.is_empty() { Ok(Vec::new()) } else { self.house.tokenize_many(&caller, wishes).await };
        let mut served = served.map_err(|refusal| status(refusal, None))?.into_iter();
        let mut unreadable = unreadable.into_iter().peekable();
        let mut again = None;
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
            let answer = v1::TokenizeManyResponse { request_id, result: Some(result) };
            if self.tell.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
        }
        // What is to be asked again comes before whatever its device sent after it.
        match (again, broken) {
            (Some(refusal), _) => Err(status(refusal, None)),
            (None, Some(said)) => Err(self.broken(&caller, said).await),
            (None, None) => Ok(()),
        }
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
