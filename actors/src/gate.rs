//! The door of an actor: a bounded number of messages inside, a time limit, and no panic that gets out.
//!
//! Behind a gate sits an [`Agent`] on an actix mailbox. A message either comes to the agent once, or comes back and
//! is handed to its successor: a panic hurts the one request that caused it. Work is detached: once a message is
//! with the agent, it is carried through even if whoever asked has gone. Who is carried through already need not be
//! detached again ([`Gate::ask_within`]).
//!
//! Architecture invariant: besides [`crate::supervisor`] nothing names actix.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Context, Handler, Message};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tracing::{Instrument, Span};
use warifu_core::refusal::Refusal;

/// The state of an actor: what it owns. It has no lock, because only its own messages touch it.
pub trait Agent: Send + Sized + Unpin + 'static {
    /// Its name in logs and metrics.
    const NAME: &'static str;
}

/// A message an agent answers.
pub trait Answer<M: Send + 'static>: Agent {
    /// What it answers.
    type Reply: Send + 'static;
    /// How it fails.
    type Error: From<GateError> + Send + 'static;

    /// Takes the message. What must touch the agent's state happens before this returns; the future it returns runs
    /// beside those of other messages.
    fn answer(&mut self, message: M) -> impl Future<Output = Result<Self::Reply, Self::Error>> + Send + 'static;
}

/// What a gate says when the agent did not get to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// As many messages as may be are inside or waiting.
    #[error("too many messages are waiting for the {0}")]
    Full(&'static str),
    /// The answer did not come in time. The work goes on.
    #[error("the {0} did not answer in time")]
    TimedOut(&'static str),
    /// The agent panicked over this message.
    #[error("the {0} panicked")]
    Panicked(&'static str),
    /// The agent is not rebuilt any more.
    #[error("the {0} has stopped")]
    Stopped(&'static str),
}

/// How much passes a gate.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages worked on at a time.
    pub inside: usize,
    /// Messages that may wait beside them.
    pub waiting: usize,
    /// How long one waits before it is turned away.
    pub queue_wait: Duration,
    /// How long whoever asks waits for the answer; `None` where nobody may leave before it.
    pub timeout: Option<Duration>,
}

/// The door of one actor. Cheap to clone.
pub struct Gate<A: Agent> {
    limits: Limits,
    all: Arc<Semaphore>,
    inside: Arc<Semaphore>,
    seat: watch::Receiver<Seat<A>>,
}

/// Who answers at the moment.
pub(crate) enum Seat<A: Agent> {
    /// This one.
    Taken(Addr<Host<A>>),
    /// Nobody, for good.
    Closed,
}

/// Tells of new agents behind a gate.
pub(crate) struct Successors<A: Agent>(watch::Receiver<Seat<A>>);

/// The right to be inside.
struct Pass {
    _all: OwnedSemaphorePermit,
    _inside: OwnedSemaphorePermit,
}

/// What became of a message.
enum Verdict<A: Answer<M>, M: Send + 'static> {
    Answered(Result<A::Reply, A::Error>),
    /// Whoever asked carries it through.
    Begun(Begun<A, M>),
    Panicked,
    /// Nobody touched it.
    Returned(M, Pass),
}

/// Work that an agent has begun.
struct Begun<A: Answer<M>, M: Send + 'static> {
    work: BoxFuture<'static, Result<A::Reply, A::Error>>,
    panicked: Alarm,
    _pass: Pass,
}

/// Who carries work through.
#[derive(Clone, Copy)]
enum Carrier {
    /// A task of its own.
    Itself,
    /// Whoever asked.
    Asker,
}

impl<A: Agent> Gate<A> {
    pub(crate) fn new(limits: Limits, seat: watch::Receiver<Seat<A>>) -> Self {
        let all = Arc::new(Semaphore::new(limits.inside.saturating_add(limits.waiting).min(Semaphore::MAX_PERMITS)));
        let inside = Arc::new(Semaphore::new(limits.inside.min(Semaphore::MAX_PERMITS)));
        Self { limits, all, inside, seat }
    }

    /// Tells from now on whether the agent was replaced: a new one knows nothing of what the one before was told.
    pub(crate) fn successors(&self) -> Successors<A> {
        let mut seat = self.seat.clone();
        seat.mark_unchanged();
        Successors(seat)
    }

    /// Asks the agent, and waits for its answer. The work goes on if whoever asks goes.
    ///
    /// # Errors
    /// The agent's own, or [`GateError`] turned into one.
    pub async fn ask<M>(&self, message: M) -> Result<A::Reply, A::Error>
    where
        M: Send + 'static,
        A: Answer<M>,
    {
        self.ask_by(message, Carrier::Itself).await
    }

    /// As [`Gate::ask`], without a task for the work: for who is carried through in any case, since the work ends with
    /// whoever asks.
    ///
    /// # Errors
    /// As [`Gate::ask`].
    pub async fn ask_within<M>(&self, message: M) -> Result<A::Reply, A::Error>
    where
        M: Send + 'static,
        A: Answer<M>,
    {
        self.ask_by(message, Carrier::Asker).await
    }

    async fn ask_by<M>(&self, message: M, carrier: Carrier) -> Result<A::Reply, A::Error>
    where
        M: Send + 'static,
        A: Answer<M>,
    {
        let pass = self.enter().await?;
        let answer = self.deliver(message, pass, carrier);
        match self.limits.timeout {
            None => answer.await,
            Some(limit) => match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(GateError::TimedOut(A::NAME).into()),
            },
        }
    }

    async fn enter(&self) -> Result<Pass, GateError> {
        let full = || {
            metrics::counter!("warifu_actor_full_total", "actor" => A::NAME).increment(1);
            GateError::Full(A::NAME)
        };
        let all = Arc::clone(&self.all).try_acquire_owned().map_err(|_| full())?;
        let inside = match Arc::clone(&self.inside).try_acquire_owned() {
            Ok(inside) => inside,
            Err(_) => {
                let waiting = Arc::clone(&self.inside).acquire_owned();
                let waited = tokio::time::timeout(self.limits.queue_wait, waiting).await;
                waited.ok().and_then(Result::ok).ok_or_else(full)?
            }
        };
        Ok(Pass { _all: all, _inside: inside })
    }

    /// Hands the message over, to the next agent if this one never touched it.
    async fn deliver<M>(&self, mut message: M, mut pass: Pass, carrier: Carrier) -> Result<A::Reply, A::Error>
    where
        M: Send + 'static,
        A: Answer<M>,
    {
        let mut seat = self.seat.clone();
        loop {
            let (verdict, told) = oneshot::channel();
            match &*seat.borrow_and_update() {
                Seat::Taken(address) => {
                    let content = Some(Content { message, pass, verdict, carrier });
                    address.do_send(Envelope { content, span: Span::current() });
                }
                Seat::Closed => return Err(GateError::Stopped(A::NAME).into()),
            }
            match told.await {
                Ok(Verdict::Answered(answer)) => return answer,
                Ok(Verdict::Begun(begun)) => {
                    let Begun { work, panicked, _pass } = begun;
                    return AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                        panicked.ring();
                        Err(GateError::Panicked(A::NAME).into())
                    });
                }
                Ok(Verdict::Returned(unread, its_pass)) => (message, pass) = (unread, its_pass),
                // Without a verdict the runtime itself is going down.
                Ok(Verdict::Panicked) | Err(_) => return Err(GateError::Panicked(A::NAME).into()),
            }
            if seat.changed().await.is_err() {
                return Err(GateError::Stopped(A::NAME).into());
            }
        }
    }

    /// Makes the agent panic over the next message it gets.
    #[cfg(any(test, feature = "fault-injection"))]
    pub fn panic_next(&self) {
        if let Seat::Taken(address) = &*self.seat.borrow() {
            address.do_send(PanicNext);
        }
    }
}

impl<A: Agent> Successors<A> {
    /// Whether one came since this was last asked.
    pub(crate) fn came(&mut self) -> bool {
        let came = self.0.has_changed().unwrap_or(false);
        self.0.mark_unchanged();
        came
    }
}

impl<A: Agent> Clone for Gate<A> {
    fn clone(&self) -> Self {
        Self {
            limits: self.limits,
            all: Arc::clone(&self.all),
            inside: Arc::clone(&self.inside),
            seat: self.seat.clone(),
        }
    }
}

/// The actix actor around an agent.
pub(crate) struct Host<A: Agent> {
    agent: A,
    runtime: Handle,
    panicked: Alarm,
    /// After a panic the state is not to be trusted: whatever still comes goes to the successor.
    spoiled: bool,
    #[cfg(any(test, feature = "fault-injection"))]
    panic_next: bool,
}

/// Tells the supervisor that an agent must be replaced; does so too when the agent just vanishes.
pub(crate) struct Alarm(pub(crate) mpsc::Sender<()>);

impl Alarm {
    fn ring(&self) {
        // A full channel holds the same news already.
        let _ = self.0.try_send(());
    }
}

impl<A: Agent> Host<A> {
    pub(crate) fn new(agent: A, runtime: Handle, panicked: mpsc::Sender<()>) -> Self {
        Self {
            agent,
            runtime,
            panicked: Alarm(panicked),
            spoiled: false,
            #[cfg(any(test, feature = "fault-injection"))]
            panic_next: false,
        }
    }

    #[cfg(any(test, feature = "fault-injection"))]
    fn injected(&mut self) -> bool {
        std::mem::take(&mut self.panic_next)
    }

    #[cfg(not(any(test, feature = "fault-injection")))]
    fn injected(&mut self) -> bool {
        false
    }
}

impl<A: Agent> Drop for Host<A> {
    fn drop(&mut self) {
        self.panicked.ring();
    }
}

impl<A: Agent> Actor for Host<A> {
    type Context = Context<Self>;
}

/// A message with the way back. One that is dropped unread goes back by itself.
struct Envelope<A: Answer<M>, M: Send + 'static> {
    content: Option<Content<A, M>>,
    span: Span,
}

struct Content<A: Answer<M>, M: Send + 'static> {
    message: M,
    pass: Pass,
    verdict: oneshot::Sender<Verdict<A, M>>,
    carrier: Carrier,
}

impl<A: Answer<M>, M: Send + 'static> Drop for Envelope<A, M> {
    fn drop(&mut self) {
        if let Some(Content { message, pass, verdict, .. }) = self.content.take() {
            let _ = verdict.send(Verdict::Returned(message, pass));
        }
    }
}

impl<A: Answer<M>, M: Send + 'static> Message for Envelope<A, M> {
    type Result = ();
}

impl<A: Answer<M>, M: Send + 'static> Handler<Envelope<A, M>> for Host<A> {
    type Result = ();

    fn handle(&mut self, mut envelope: Envelope<A, M>, _: &mut Context<Self>) {
        if self.spoiled {
            return;
        }
        let Some(Content { message, pass, verdict, carrier }) = envelope.content.take() else { return };
        let injected = self.injected();
        let begun = catch_unwind(AssertUnwindSafe(|| {
            assert!(!injected, "injected fault");
            // At once, so that it is not moved again and again.
            self.agent.answer(message).boxed()
        }));
        match begun {
            Ok(work) if matches!(carrier, Carrier::Asker) => {
                let panicked = Alarm(self.panicked.0.clone());
                let begun = Begun { work, panicked, _pass: pass };
                let _ = verdict.send(Verdict::Begun(begun));
            }
            Ok(answer) => {
                let panicked = Alarm(self.panicked.0.clone());
                let work = async move {
                    let told = match AssertUnwindSafe(answer).catch_unwind().await {
                        Ok(answer) => Verdict::Answered(answer),
                        Err(_) => {
                            panicked.ring();
                            Verdict::Panicked
                        }
                    };
                    drop(pass);
                    let _ = verdict.send(told);
                };
                self.runtime.spawn(work.instrument(std::mem::replace(&mut envelope.span, Span::none())));
            }
            Err(_) => {
                self.spoiled = true;
                self.panicked.ring();
                let _ = verdict.send(Verdict::Panicked);
            }
        }
    }
}

/// Makes the next message panic.
#[cfg(any(test, feature = "fault-injection"))]
struct PanicNext;

#[cfg(any(test, feature = "fault-injection"))]
impl Message for PanicNext {
    type Result = ();
}

#[cfg(any(test, feature = "fault-injection"))]
impl<A: Agent> Handler<PanicNext> for Host<A> {
    type Result = ();

    fn handle(&mut self, _: PanicNext, _: &mut Context<Self>) {
        self.panic_next = true;
    }
}

impl From<GateError> for Refusal {
    fn from(error: GateError) -> Self {
        match error {
            GateError::Full(_) => Self::Busy,
            GateError::TimedOut(_) => Self::TimedOut,
            GateError::Panicked(_) => Self::Internal,
            GateError::Stopped(_) => Self::Draining,
        }
    }
}
