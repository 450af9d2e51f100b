//! One thread and one HSM session: everything the server asks of the HSM happens on such a thread.
//!
//! Frames of one device always come to the same deriver, so that its session's tree of that device is warm. After a
//! panic or an outage the session is dropped and opened anew, at once the first time, then with growing pauses; while
//! there is none, whoever asks hears so at once. Only where the token refused the PIN nobody tries again: another wrong
//! one may lock it, so an operator has to look first.
//!
//! Architecture invariant: nothing here waits asynchronously, and no other file calls an [`Hsm`].

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use warifu_hsm::{CallTally, Hsm, HsmError, HsmFactory};

use crate::auditor::{AuditLog, Due};
use crate::record::{Kind, Record};
use crate::refused::with_source;
use crate::supervisor::pause;

/// Pause between two tries to tell a busy deriver to stop.
const STOP_RETRY: Duration = Duration::from_millis(10);

/// How long the first session may take to open.
const FIRST_SESSION: Duration = Duration::from_secs(60);

/// How long callers wait for a session that is opened anew. An HSM that is away may be slow to say so.
const NEXT_SESSION: Duration = Duration::from_millis(250);

/// How often whoever waits looks whether it is in vain.
const LOOK: Duration = Duration::from_millis(50);

/// Something to be done in the HSM.
pub trait Visit: Send + 'static {
    /// What comes of it.
    type Reply: Send + 'static;

    /// Does it, and says in its record what it learns.
    fn run(self, hsm: &mut dyn Hsm, record: &mut Record) -> Result<Self::Reply, HsmError>;
}

/// What a visit came to.
pub struct Visited<T> {
    /// Its result.
    pub result: Result<T, VisitError>,
    /// The record of the calls it made, if it got as far as to make any.
    pub due: Option<Due>,
}

impl<T> Visited<T> {
    /// It never got to the HSM.
    const fn nothing(error: VisitError) -> Self {
        Self { result: Err(error), due: None }
    }
}

/// Why a visit came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// Too many are waiting.
    #[error("too many requests are waiting for the HSM")]
    Busy,
    /// There is no session at the moment.
    #[error("there is no HSM session at the moment")]
    Away,
    /// The HSM has not come back from a call for too long.
    #[error("the HSM does not answer")]
    Hangs,
    /// The thread panicked over it.
    #[error("the key deriver panicked")]
    Panicked,
    /// The HSM said no, or failed.
    #[error(transparent)]
    Hsm(#[from] HsmError),
}

impl VisitError {
    /// The same for one more of many visits that did not get to the HSM.
    const fn away(&self) -> Self {
        match self {
            Self::Busy => Self::Busy,
            Self::Hangs => Self::Hangs,
            Self::Panicked => Self::Panicked,
            Self::Away | Self::Hsm(_) => Self::Away,
        }
    }
}

/// The way to one deriver. Cheap to clone; the thread ends when the last of them is gone.
#[derive(Clone)]
pub struct KeyDeriver {
    errands: SyncSender<Box<dyn Errand>>,
    standing: watch::Receiver<Standing>,
    busy: Arc<Busy>,
}

/// How a deriver stands with its HSM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has a session.
    Up,
    /// It has none at the moment.
    Away,
    /// It will have none: the token refused the PIN.
    LockedOut,
}

/// Until when the thread may be in the HSM, where it can hang.
struct Busy {
    epoch: Instant,
    /// Milliseconds after the epoch; 0 while it is not.
    until: AtomicU64,
    /// How long a visit may be.
    patience: Duration,
}

impl Busy {
    fn new(patience: Duration) -> Self {
        Self { epoch: Instant::now(), until: AtomicU64::new(0), patience }
    }

    /// Does something in the HSM that may take so long. What is done must not panic.
    fn during<T>(&self, limit: Duration, ask: impl FnOnce() -> T) -> T {
        let until = (self.epoch.elapsed() + limit).as_millis();
        self.until.store(u64::try_from(until).map_or(u64::MAX, |until| until.saturating_add(1)), Ordering::Relaxed);
        let answer = ask();
        self.until.store(0, Ordering::Relaxed);
        answer
    }

    /// How long until it hangs, if nothing comes of what it does now; zero when it does.
    fn left(&self) -> Duration {
        match self.until.load(Ordering::Relaxed) {
            0 => self.patience,
            until => Duration::from_millis(until).saturating_sub(self.epoch.elapsed()),
        }
    }

    fn hangs(&self) -> bool {
        self.left().is_zero()
    }
}

impl KeyDeriver {
    /// Starts a deriver and waits for its first session. A call of the HSM may take as long as `patience`: then
    /// whoever waits is let go, and nobody let in until the HSM comes back.
    ///
    /// # Errors
    /// When the first session cannot be opened, or there is no thread to be had.
    pub fn start(
        index: usize,
        factory: Arc<dyn HsmFactory>,
        log: AuditLog,
        queue: usize,
        patience: Duration,
    ) -> Result<Self, VisitError> {
        let busy = Arc::new(Busy::new(patience));
        let (errands, asked) = sync_channel(queue.max(1));
        let (standing, stands) = watch::channel(Standing::Away);
        let (first, opened) = std::sync::mpsc::channel();
        let work_busy = Arc::clone(&busy);
        let work = move || {
            let mut bench = Bench { factory, log, session: None, failures: 0, standing, busy: work_busy };
            let ready = bench.open(FIRST_SESSION);
            let go_on = ready.is_ok();
            if first.send(ready).is_ok() && go_on {
                bench.serve(&asked);
            }
        };
        let thread = thread::Builder::new().name(format!("key-deriver-{index}"));
        thread.spawn(work).map_err(|_| VisitError::Away)?;
        match opened.recv_timeout(FIRST_SESSION) {
            Ok(Ok(())) => Ok(Self { errands, standing: stands, busy }),
            Ok(Err(error)) => Err(error),
            Err(RecvTimeoutError::Timeout) => Err(VisitError::Hangs),
            Err(RecvTimeoutError::Disconnected) => Err(VisitError::Panicked),
        }
    }

    /// Whether it has a session that answers.
    pub fn is_up(&self) -> bool {
        *self.standing.borrow() == Standing::Up && !self.busy.hangs()
    }

    /// Whether it was locked out: the token refused the PIN, and nobody tries it again before the next start.
    pub fn is_locked_out(&self) -> bool {
        *self.standing.borrow() == Standing::LockedOut
    }

    /// Visits the HSM. The record is written by whoever takes the result further, see [`Due`].
    pub async fn visit<V: Visit>(&self, visit: V, record: Record) -> Visited<V::Reply> {
        let (reply, told) = oneshot::channel();
        match self.send(Box::new(Asked { visit, record, reply }), told).await {
            Ok(visited) => visited,
            Err(error) => Visited::nothing(error),
        }
    }

    /// Visits the HSM many times in a row, with one change of threads; gives as many results, in the same order.
    pub async fn visit_each<V: Visit>(&self, visits: Vec<(V, Record)>) -> Vec<Visited<V::Reply>> {
        let len = visits.len();
        let (reply, told) = oneshot::channel();
        match self.send(Box::new(AskedEach { visits, reply }), told).await {
            Ok(visited) => visited,
            Err(error) => std::iter::repeat_with(|| Visited::nothing(error.away())).take(len).collect(),
        }
    }

    /// Hands an errand over and waits for its end, or until the HSM turns out to hang.
    async fn send<T>(&self, errand: Box<dyn Errand>, mut told: oneshot::Receiver<T>) -> Result<T, VisitError> {
        if self.busy.hangs() {
            return Err(VisitError::Hangs);
        }
        if !self.is_up() {
            return Err(VisitError::Away);
        }
        match self.errands.try_send(errand) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(VisitError::Busy),
            Err(TrySendError::Disconnected(_)) => return Err(VisitError::Away),
        }
        loop {
            match tokio::time::timeout(self.busy.left().min(LOOK), &mut told).await {
                Ok(Ok(told)) => return Ok(told),
                Ok(Err(_)) => return Err(VisitError::Panicked),
                // What comes late nobody takes: its record goes to the collector.
                Err(_) if self.busy.hangs() => return Err(VisitError::Hangs),
                Err(_) => {}
            }
        }
    }

    /// Finishes what is queued, closes the session and ends the thread; resolves when that is done.
    pub async fn stop(&self) {
        let mut standing = self.standing.clone();
        // A full queue empties, unless the HSM hangs: then the caller's patience ends this.
        while let Err(TrySendError::Full(_)) = self.errands.try_send(Box::new(Last)) {
            tokio::time::sleep(STOP_RETRY).await;
        }
        // The thread drops its side as the very last thing.
        while standing.changed().await.is_ok() {}
    }

    /// Makes the thread panic over its next errand.
    #[cfg(any(test, feature = "fault-injection"))]
    pub fn panic_next(&self) {
        // A full queue is a fault of the test, which then sees no panic.
        let _ = self.errands.try_send(Box::new(PanicNext));
    }
}

/// What the thread works with.
struct Bench {
    factory: Arc<dyn HsmFactory>,
    log: AuditLog,
    session: Option<Box<dyn Hsm>>,
    /// Sessions lost or not opened since the last visit that went well.
    failures: usize,
    standing: watch::Sender<Standing>,
    busy: Arc<Busy>,
}

/// Whether a session can be used again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Spoiled,
}

impl Bench {
    fn serve(mut self, asked: &Receiver<Box<dyn Errand>>) {
        let mut panic_next = false;
        while let Ok(errand) = asked.recv() {
            match errand.order() {
                Order::Work => {}
                Order::PanicNext => {
                    panic_next = true;
                    continue;
                }
                Order::Stop => break,
            }
            let fate = match &mut self.session {
                None => {
                    errand.refuse();
                    Fate::Spoiled
                }
                Some(session) => {
                    let panic = std::mem::take(&mut panic_next);
                    errand.run(At { hsm: session.as_mut(), log: &self.log, busy: &self.busy, panic })
                }
            };
            match fate {
                Fate::Kept => self.failures = 0,
                Fate::Spoiled if !self.renew(asked) => break,
                Fate::Spoiled => {}
            }
        }
        self.standing.send_replace(Standing::Away);
        self.close();
    }

    /// Gets a new session, however long it takes; `false` when nobody will ask any more.
    fn renew(&mut self, asked: &Receiver<Box<dyn Errand>>) -> bool {
        metrics::counter!("warifu_deriver_restarts_total").increment(1);
        self.close();
        loop {
            let wait = pause(self.failures);
            self.failures += 1;
            if !wait.is_zero() {
                self.standing.send_replace(Standing::Away);
                if !refuse_for(wait, asked) {
                    return false;
                }
            }
            match self.open(NEXT_SESSION) {
                Ok(()) => return true,
                Err(VisitError::Hsm(HsmError::PinRefused { .. })) => {
                    refuse_for_good(asked);
                    return false;
                }
                Err(_) => {}
            }
        }
    }

    fn open(&mut self, limit: Duration) -> Result<(), VisitError> {
        let opened = self.busy.during(limit, || catch_unwind(AssertUnwindSafe(|| self.factory.session())));
        let opened = match opened {
            Ok(opened) => opened.map_err(VisitError::Hsm),
            Err(_) => Err(VisitError::Panicked),
        };
        match opened {
            Ok(mut session) => {
                let mut calls = self.factory.take_calls();
                calls.add(&calls_of(session.as_mut()));
                self.owe(self.log.record(Kind::HsmSessionOpened).with_calls(&calls));
                self.session = Some(session);
                self.standing.send_replace(Standing::Up);
                Ok(())
            }
            Err(error) => {
                let locked_out = matches!(error, VisitError::Hsm(HsmError::PinRefused { .. }));
                self.standing.send_replace(if locked_out { Standing::LockedOut } else { Standing::Away });
                if locked_out {
                    metrics::gauge!("warifu_hsm_pin_refused").set(1.0);
                }
                tracing::error!(error = with_source(&error), "an HSM session could not be opened");
                let record = self.log.record(Kind::HsmFailed).with_calls(&self.factory.take_calls());
                self.owe(record.because(with_source(&error)));
                Err(error)
            }
        }
    }

    /// Drops the session, whatever it does about it.
    fn close(&mut self) {
        if let Some(session) = self.session.take()
            && self.busy.during(NEXT_SESSION, || catch_unwind(AssertUnwindSafe(|| drop(session)))).is_err()
        {
            tracing::error!("an HSM session panicked while it was closed");
        }
    }

    /// The collector writes it: a thread does not wait for the store.
    fn owe(&self, record: Record) {
        drop(self.log.due(record));
    }
}

/// Says no to whoever asks during a pause; `false` when nobody will any more.
fn refuse_for(wait: Duration, asked: &Receiver<Box<dyn Errand>>) -> bool {
    let until = Instant::now() + wait;
    loop {
        match asked.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(errand) if errand.order() == Order::Stop => return false,
            Ok(errand) => errand.refuse(),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// Says no until nobody asks any more.
fn refuse_for_good(asked: &Receiver<Box<dyn Errand>>) {
    while let Ok(errand) = asked.recv() {
        if errand.order() == Order::Stop {
            return;
        }
        errand.refuse();
    }
}

fn calls_of(session: &mut dyn Hsm) -> CallTally {
    catch_unwind(AssertUnwindSafe(|| session.take_calls())).unwrap_or_default()
}

/// Where errands are run.
struct At<'a> {
    hsm: &'a mut dyn Hsm,
    log: &'a AuditLog,
    busy: &'a Busy,
    /// Whether a fault is to be injected.
    panic: bool,
}

impl At<'_> {
    /// One visit, with its record of what it did.
    fn carry_out<V: Visit>(&mut self, visit: V, mut record: Record) -> (Visited<V::Reply>, Fate) {
        let panic = std::mem::take(&mut self.panic);
        let (done, calls) = self.busy.during(self.busy.patience, || {
            let done = catch_unwind(AssertUnwindSafe(|| {
                assert!(!panic, "injected fault");
                visit.run(self.hsm, &mut record)
            }));
            (done, calls_of(self.hsm))
        });
        metrics::histogram!("warifu_hsm_module_seconds").record(self.hsm.take_time().as_secs_f64());
        record.at_ms = self.log.clock().now_ms();
        let (result, record, fate) = told(done, record.with_calls(&calls));
        (Visited { result, due: Some(self.log.due(record)) }, fate)
    }
}

/// Visits with their records and the way back.
trait Errand: Send {
    fn run(self: Box<Self>, at: At<'_>) -> Fate;
    fn refuse(self: Box<Self>);

    fn order(&self) -> Order {
        Order::Work
    }
}

/// What an errand is to the thread itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Work,
    #[cfg_attr(not(any(test, feature = "fault-injection")), expect(dead_code, reason = "fault injection orders it"))]
    PanicNext,
    Stop,
}

/// The last errand.
struct Last;

impl Errand for Last {
    fn run(self: Box<Self>, _: At<'_>) -> Fate {
        Fate::Kept
    }

    fn refuse(self: Box<Self>) {}

    fn order(&self) -> Order {
        Order::Stop
    }
}

struct Asked<V: Visit> {
    visit: V,
    record: Record,
    reply: oneshot::Sender<Visited<V::Reply>>,
}

impl<V: Visit> Errand for Asked<V> {
    fn run(self: Box<Self>, mut at: At<'_>) -> Fate {
        let Self { visit, record, reply } = *self;
        if reply.is_closed() {
            // Let go while the HSM hung: it is not asked for nobody.
            return Fate::Kept;
        }
        let (visited, fate) = at.carry_out(visit, record);
        // Who no longer waits for the result leaves its record to the collector.
        let _ = reply.send(visited);
        fate
    }

    fn refuse(self: Box<Self>) {
        let _ = self.reply.send(Visited::nothing(VisitError::Away));
    }
}

/// Many visits for one caller.
struct AskedEach<V: Visit> {
    visits: Vec<(V, Record)>,
    reply: oneshot::Sender<Vec<Visited<V::Reply>>>,
}

impl<V: Visit> Errand for AskedEach<V> {
    fn run(self: Box<Self>, mut at: At<'_>) -> Fate {
        let Self { visits, reply } = *self;
        let mut fate = Fate::Kept;
        let visited = visits.into_iter().map(|(visit, record)| {
            // A spoiled session serves nobody any more, and nobody is served for one who has gone.
            if fate == Fate::Spoiled || reply.is_closed() {
                return Visited::nothing(VisitError::Away);
            }
            let (visited, its_fate) = at.carry_out(visit, record);
            fate = its_fate;
            visited
        });
        let visited = visited.collect();
        let _ = reply.send(visited);
        fate
    }

    fn refuse(self: Box<Self>) {
        let nothing = || Visited::nothing(VisitError::Away);
        let _ = self.reply.send(std::iter::repeat_with(nothing).take(self.visits.len()).collect());
    }
}

/// The result, what the record says of it, and whether the session survives it.
fn told<T>(
    done: Result<Result<T, HsmError>, Box<dyn Any + Send>>,
    mut record: Record,
) -> (Result<T, VisitError>, Record, Fate) {
    match done {
        Ok(Ok(reply)) => (Ok(reply), record, Fate::Kept),
        Ok(Err(error)) => {
            let fate = if error.is_outage() { Fate::Spoiled } else { Fate::Kept };
            let refused_frame = fate == Fate::Kept && record.kind == Kind::FrameOpened;
            record.kind = if refused_frame { Kind::FrameRefused } else { Kind::HsmFailed };
            let record = record.because(with_source(&error));
            (Err(VisitError::Hsm(error)), record, fate)
        }
        Err(_) => {
            record.kind = Kind::HsmFailed;
            let record = record.because(VisitError::Panicked);
            (Err(VisitError::Panicked), record, Fate::Spoiled)
        }
    }
}

/// Makes the next errand panic.
#[cfg(any(test, feature = "fault-injection"))]
struct PanicNext;

#[cfg(any(test, feature = "fault-injection"))]
impl Errand for PanicNext {
    fn run(self: Box<Self>, _: At<'_>) -> Fate {
        Fate::Kept
    }

    fn refuse(self: Box<Self>) {}

    fn order(&self) -> Order {
        Order::PanicNext
    }
}
