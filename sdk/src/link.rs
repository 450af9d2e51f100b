//! The link: one long call that shows the module as connected and brings it news.
//!
//! A task holds it and dials again when it is lost. Nothing else waits for it: cards are tokenized and payments
//! authorized with or without a link.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use warifu_core::device::State;

use crate::device::DeviceError;
use crate::retry::{Backoff, Pauses};
use crate::task::Task;
use crate::wire::v1;
use crate::wire::v1::comm_module_service_client::CommModuleServiceClient;
use crate::wire::v1::link_request::News as Tell;
use crate::wire::v1::link_response::News;

/// News kept for a slow listener.
const KEPT: usize = 64;
/// Longest wait for the server's welcome when a lost link is dialed again.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);
/// A link that lived this long was a good one: the next is dialed after the shortest pause. Two processes with one
/// certificate close each other's links at once, and so slow down.
const GOOD_LINK: Duration = Duration::from_secs(5);

/// Who the server says this module is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The merchant it works for.
    pub merchant: String,
    /// The module, as registered.
    pub module: String,
    /// True if the server is a developer's throw-away one: no real money.
    pub dev: bool,
}

/// News of the link.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The link is up.
    LinkUp(Identity),
    /// The link is gone and will be dialed again.
    LinkLost {
        /// Why, for a log.
        reason: String,
    },
    /// A device of this merchant changed its state.
    DeviceChanged {
        /// The device, as registered.
        device: String,
        /// Its state now.
        state: State,
    },
    /// The server is about to stop; the link is dialed again after this time.
    Draining {
        /// How long the server asks to wait.
        retry_after: Duration,
    },
    /// This listener was too slow and missed so many events.
    Missed(u64),
}

/// A listener to the link, from the moment it was made.
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` once the module is gone.
    pub async fn next(&mut self) -> Option<Event> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Event::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Where the link stands.
#[derive(Clone)]
pub(crate) enum LinkState {
    NeverUp,
    Up(Identity),
    Lost(Identity),
}

/// The module's side of the link.
pub(crate) struct Link {
    state: watch::Receiver<LinkState>,
    events: broadcast::Sender<Event>,
    attached: watch::Sender<Attached>,
    _task: Task,
}

/// Every wire the module holds, and whether its device is there.
type Attached = BTreeMap<String, Presence>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Away,
    There,
}

/// One wire's entry in what the server is told; dropping it takes the device off.
pub(crate) struct Attachment {
    name: String,
    attached: watch::Sender<Attached>,
}

impl Attachment {
    pub(crate) fn present(&self) {
        self.mark(Presence::There);
    }

    pub(crate) fn gone(&self) {
        self.mark(Presence::Away);
    }

    fn mark(&self, presence: Presence) {
        self.attached.send_modify(|attached| {
            attached.insert(self.name.clone(), presence);
        });
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.attached.send_modify(|attached| {
            attached.remove(&self.name);
        });
    }
}

impl Link {
    /// Keeps `open` up, or dials a first link.
    pub(crate) fn keep(client: CommModuleServiceClient<Channel>, redial: Pauses, open: Option<OpenLink>) -> Self {
        let (state, watching) = watch::channel(LinkState::NeverUp);
        let (events, _) = broadcast::channel(KEPT);
        let (attached, telling) = watch::channel(Attached::new());
        if let Some(open) = &open {
            state.send_replace(LinkState::Up(open.identity.clone()));
        }
        let keeper = Keeper { client, state, events: events.clone(), attached: telling, backoff: Backoff::new(redial) };
        Self { state: watching, events, attached, _task: Task::spawn(keeper.run(open)) }
    }

    pub(crate) fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    pub(crate) fn events(&self) -> Events {
        Events(self.events.subscribe())
    }

    /// Takes a wire's name: one wire, one reader.
    pub(crate) fn reserve(&self, name: String) -> Result<Attachment, DeviceError> {
        let free = self.attached.send_if_modified(|attached| {
            let free = !attached.contains_key(&name);
            if free {
                attached.insert(name.clone(), Presence::Away);
            }
            free
        });
        match free {
            true => Ok(Attachment { name, attached: self.attached.clone() }),
            false => Err(DeviceError::AlreadyAttached { connection: name }),
        }
    }
}

/// A link whose welcome has come.
pub(crate) struct OpenLink {
    identity: Identity,
    tell: mpsc::Sender<v1::LinkRequest>,
    news: Streaming<v1::LinkResponse>,
}

/// Opens a link and waits for its welcome. The caller bounds the time.
pub(crate) async fn dial(mut client: CommModuleServiceClient<Channel>) -> Result<OpenLink, Status> {
    let (tell, telling) = mpsc::channel(8);
    let hello = v1::Hello { software: concat!("warifu-sdk/", env!("CARGO_PKG_VERSION")).to_owned() };
    let _ = tell.send(v1::LinkRequest { news: Some(Tell::Hello(hello)) }).await;
    let mut news = client.link(ReceiverStream::new(telling)).await?.into_inner();
    match news.message().await?.and_then(|message| message.news) {
        Some(News::Welcome(v1::Welcome { merchant, module, dev })) => {
            Ok(OpenLink { identity: Identity { merchant, module, dev }, tell, news })
        }
        _ => Err(Status::unavailable("the server did not welcome the link")),
    }
}

/// How a link ended.
enum End {
    Lost(String),
    /// The server asked to dial again after this time.
    Drained(Duration),
}

/// The task's side of the link.
struct Keeper {
    client: CommModuleServiceClient<Channel>,
    state: watch::Sender<LinkState>,
    events: broadcast::Sender<Event>,
    attached: watch::Receiver<Attached>,
    backoff: Backoff,
}

impl Keeper {
    async fn run(mut self, mut open: Option<OpenLink>) {
        loop {
            let (reason, pause) = match open.take() {
                Some(link) => {
                    let since = Instant::now();
                    let identity = link.identity.clone();
                    self.enter(LinkState::Up(identity.clone()), Event::LinkUp(identity.clone()));
                    let end = self.hold(link).await;
                    if since.elapsed() >= GOOD_LINK {
                        self.backoff.reset();
                    }
                    let (reason, least) = match end {
                        End::Lost(reason) => (reason, Duration::ZERO),
                        End::Drained(least) => ("the server is stopping".to_owned(), least),
                    };
                    self.enter(LinkState::Lost(identity), Event::LinkLost { reason: reason.clone() });
                    (reason, least.max(self.backoff.draw()))
                }
                None => match timeout(WELCOME_LIMIT, dial(self.client.clone())).await {
                    Ok(Ok(link)) => {
                        open = Some(link);
                        continue;
                    }
                    Ok(Err(status)) => (status.to_string(), self.backoff.draw()),
                    Err(_) => ("no welcome in time".to_owned(), self.backoff.draw()),
                },
            };
            tracing::info!(%reason, ?pause, "no link; dialing again");
            sleep(pause).await;
        }
    }

    fn enter(&self, state: LinkState, event: Event) {
        self.state.send_replace(state);
        self.publish(event);
    }

    fn publish(&self, event: Event) {
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    /// Tells and hears until the link ends. Dropping its parts closes the call.
    async fn hold(&mut self, mut link: OpenLink) -> End {
        let mut told = Vec::new();
        self.attached.mark_changed();
        loop {
            tokio::select! {
                news = link.news.message() => match news {
                    Ok(Some(message)) => {
                        if let Some(retry_after) = self.hear(message.news) {
                            return End::Drained(retry_after);
                        }
                    }
                    Ok(None) => return End::Lost("the server closed the link".to_owned()),
                    Err(status) => return End::Lost(status.to_string()),
                },
                Ok(()) = self.attached.changed() => {
                    let there = self.present();
                    for news in changes(&told, &there) {
                        if link.tell.send(v1::LinkRequest { news: Some(news) }).await.is_err() {
                            return End::Lost("the link closed while it was told of a device".to_owned());
                        }
                    }
                    told = there;
                }
            }
        }
    }

    /// Passes news on; says how long to wait if the server asks for the link to end.
    fn hear(&self, news: Option<News>) -> Option<Duration> {
        match news {
            Some(News::DeviceChanged(v1::DeviceChanged { device, state })) => match State::from_name(&state) {
                Some(state) => self.publish(Event::DeviceChanged { device, state }),
                None => tracing::warn!(%device, %state, "a device state this build does not know"),
            },
            Some(News::Draining(v1::Draining { retry_after_ms })) => {
                let retry_after = Duration::from_millis(retry_after_ms.into());
                self.publish(Event::Draining { retry_after });
                return Some(retry_after);
            }
            // A second welcome, or news of a newer server.
            Some(News::Welcome(_)) | None => {}
        }
        None
    }

    fn present(&mut self) -> Vec<String> {
        let attached = self.attached.borrow_and_update();
        attached.iter().filter(|(_, presence)| **presence == Presence::There).map(|(name, _)| name.clone()).collect()
    }
}

fn changes(told: &[String], there: &[String]) -> Vec<Tell> {
    let gone = told.iter().filter(|name| !there.contains(name));
    let gone = gone.map(|name| Tell::DeviceDetached(v1::DeviceDetached { connection: name.clone() }));
    let new = there.iter().filter(|name| !told.contains(name));
    gone.chain(new.map(|name| Tell::DeviceAttached(v1::DeviceAttached { connection: name.clone() }))).collect()
}
