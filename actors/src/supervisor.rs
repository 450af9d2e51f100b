//! Keeps actors alive: what panics is rebuilt from its factory, at once the first time, then with growing pauses,
//! and not for ever.
//!
//! actix restarts nothing after a panic; a panicking handler would close its mailbox for good. So the gate catches
//! the panic, rings here, and the successor takes the seat while the predecessor finishes what it had begun.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::Actor;
use actix_rt::{ArbiterHandle, System};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::gate::{Agent, Gate, Host, Limits, Seat};

/// Panics of one actor that are forgiven within [`MEMORY`].
const FORGIVEN: usize = 16;
/// How long a panic is remembered.
const MEMORY: Duration = Duration::from_secs(60);
/// Pause before the second restart in a row; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the process waits at its end for threads that do not want to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Runs the whole process: a multi-thread tokio runtime for the work, with an actix system on it for the mailboxes.
///
/// # Panics
/// If the operating system gives the process no threads.
pub fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = Arc::new(runtime.expect("the operating system gives a new process its threads"));
    let system = System::with_tokio_rt(|| Arc::clone(&runtime));
    let output = system.block_on(future);
    drop(system);
    if let Ok(runtime) = Arc::try_unwrap(runtime) {
        runtime.shutdown_timeout(SHUTDOWN_GRACE);
    }
    output
}

/// Builds and rebuilds actors. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    arbiter: ArbiterHandle,
    runtime: Handle,
    given_up: Arc<watch::Sender<Option<&'static str>>>,
    retired: Arc<AtomicBool>,
}

/// [`Supervisor::here`] was called outside [`run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("actors can only be started by the future that actors::supervisor::run runs")]
pub struct NoSystem;

impl Supervisor {
    /// A supervisor on the system of [`run`], from inside its future.
    ///
    /// # Errors
    /// Anywhere else.
    pub fn here() -> Result<Self, NoSystem> {
        let system = System::try_current().ok_or(NoSystem)?;
        let runtime = Handle::try_current().map_err(|_| NoSystem)?;
        let given_up = Arc::new(watch::Sender::new(None));
        Ok(Self { arbiter: system.arbiter().clone(), runtime, given_up, retired: Arc::default() })
    }

    /// The runtime everything works on.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Which actor panicked so often that it is not rebuilt any more: then the process must drain.
    pub fn given_up(&self) -> watch::Receiver<Option<&'static str>> {
        self.given_up.subscribe()
    }

    /// Says that something cannot be mended without a new process.
    pub fn give_up(&self, what: &'static str) {
        tracing::error!(what, "this process cannot go on and drains");
        self.given_up.send_if_modified(|given_up| given_up.is_none() && given_up.replace(what).is_none());
    }

    /// Starts an actor. It lives as long as somebody holds its gate.
    pub fn supervise<A: Agent>(&self, limits: Limits, factory: impl Fn() -> A + Send + Sync + 'static) -> Gate<A> {
        let factory = Arc::new(factory);
        let (panicked, rung) = mpsc::channel(1);
        let (seat, view) = watch::channel(Seat::Taken(self.start(&factory, panicked)));
        self.runtime.spawn(self.clone().keep(factory, seat, rung));
        Gate::new(limits, view)
    }

    /// Says that the process is at its end: an actor that goes now goes with the system and did not panic.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.retired.load(Ordering::SeqCst) || !self.arbiter.alive()
    }

    fn start<A: Agent, F: Fn() -> A + Send + Sync + 'static>(
        &self,
        factory: &Arc<F>,
        panicked: mpsc::Sender<()>,
    ) -> actix::Addr<Host<A>> {
        let (factory, runtime) = (Arc::clone(factory), self.runtime.clone());
        // A factory that panics drops `panicked`, which rings as well.
        Host::start_in_arbiter(&self.arbiter, move |_| Host::new(factory(), runtime, panicked))
    }

    async fn keep<A: Agent, F: Fn() -> A + Send + Sync + 'static>(
        self,
        factory: Arc<F>,
        seat: watch::Sender<Seat<A>>,
        mut rung: mpsc::Receiver<()>,
    ) {
        let mut budget = Budget::default();
        loop {
            tokio::select! {
                () = seat.closed() => return,
                _ = rung.recv() => if self.is_over() { return },
            }
            metrics::counter!("warifu_actor_restarts_total", "actor" => A::NAME).increment(1);
            let Some(pause) = budget.spend(Instant::now()) else {
                seat.send_replace(Seat::Closed);
                self.give_up(A::NAME);
                return;
            };
            tracing::error!(actor = A::NAME, pause_ms = pause.as_millis(), "an actor panicked and is rebuilt");
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let (panicked, next_rung) = mpsc::channel(1);
            rung = next_rung;
            seat.send_replace(Seat::Taken(self.start(&factory, panicked)));
        }
    }
}

/// How often and how fast something may be rebuilt.
#[derive(Default)]
pub(crate) struct Budget {
    panics: VecDeque<Instant>,
}

impl Budget {
    /// The pause before the next restart, or `None` when it is enough.
    pub(crate) fn spend(&mut self, now: Instant) -> Option<Duration> {
        while self.panics.front().is_some_and(|at| now.duration_since(*at) > MEMORY) {
            self.panics.pop_front();
        }
        let before = self.panics.len();
        if before >= FORGIVEN {
            return None;
        }
        self.panics.push_back(now);
        Some(pause(before))
    }
}

/// The pause after `failures` earlier ones: none, then doubling.
pub(crate) fn pause(failures: usize) -> Duration {
    match u32::try_from(failures) {
        Ok(0) => Duration::ZERO,
        Ok(failures) => FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_PAUSE),
        Err(_) => LONGEST_PAUSE,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;

    use super::*;
    use crate::gate::{Answer, GateError};

    /// Counts what it was asked since it was built.
    struct Counter(usize);

    struct Count;
    struct PanicAtOnce;
    struct PanicLater;
    struct Wait(tokio::sync::oneshot::Receiver<()>);

    impl Agent for Counter {
        const NAME: &'static str = "counter";
    }

    impl Answer<Count> for Counter {
        type Reply = usize;
        type Error = GateError;

        fn answer(&mut self, _: Count) -> impl Future<Output = Result<usize, GateError>> + Send + 'static {
            self.0 += 1;
            std::future::ready(Ok(self.0))
        }
    }

    impl Answer<PanicAtOnce> for Counter {
        type Reply = ();
        type Error = GateError;

        #[allow(unreachable_code, reason = "the panic is the point")]
        fn answer(&mut self, _: PanicAtOnce) -> impl Future<Output = Result<(), GateError>> + Send + 'static {
            panic!("at once");
            std::future::ready(Ok(()))
        }
    }

    impl Answer<PanicLater> for Counter {
        type Reply = ();
        type Error = GateError;

        fn answer(&mut self, _: PanicLater) -> impl Future<Output = Result<(), GateError>> + Send + 'static {
            tokio::task::yield_now().map(|()| panic!("later"))
        }
    }

    impl Answer<Wait> for Counter {
        type Reply = ();
        type Error = GateError;

        fn answer(&mut self, wait: Wait) -> impl Future<Output = Result<(), GateError>> + Send + 'static {
            wait.0.map(|told| told.map_err(|_| GateError::Stopped("waiter")))
        }
    }

    const LIMITS: Limits =
        Limits { inside: 2, waiting: 1, queue_wait: Duration::from_millis(50), timeout: Some(Duration::from_secs(5)) };

    fn counter() -> (Gate<Counter>, Arc<AtomicUsize>, Supervisor) {
        let built = Arc::new(AtomicUsize::new(0));
        let supervisor = Supervisor::here().unwrap();
        let gate = supervisor.supervise(LIMITS, {
            let built = Arc::clone(&built);
            move || {
                built.fetch_add(1, Ordering::SeqCst);
                Counter(0)
            }
        });
        (gate, built, supervisor)
    }

    fn run_paused<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        System::with_tokio_rt(|| runtime).block_on(future)
    }

    #[test]
    fn a_panic_hurts_one_message_and_the_actor_is_rebuilt() {
        // Resolving a backtrace takes longer than the whole restart.
        std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
        run(async {
            let (gate, built, _) = counter();
            assert_eq!(gate.ask(Count).await, Ok(1));
            for panics in 1..=3 {
                let before = std::time::Instant::now();
                assert_eq!(gate.ask(PanicAtOnce).await, Err(GateError::Panicked("counter")));
                assert_eq!(gate.ask(Count).await, Ok(1), "a new one counts from the start");
                assert!(before.elapsed() < Duration::from_millis(100));
                assert_eq!(built.load(Ordering::SeqCst), 1 + panics);
            }
        });
    }

    #[test]
    fn a_panic_in_the_work_rebuilds_the_actor_as_well() {
        run(async {
            let (gate, built, _) = counter();
            assert_eq!(gate.ask(PanicLater).await, Err(GateError::Panicked("counter")));
            while built.load(Ordering::SeqCst) < 2 {
                tokio::task::yield_now().await;
            }
            assert_eq!(gate.ask(Count).await, Ok(1));
        });
    }

    #[test]
    fn messages_behind_a_panic_reach_the_successor() {
        run(async {
            let (gate, ..) = counter();
            let (panicked, first, second) =
                tokio::join!(gate.ask(PanicAtOnce), gate.ask(Count), async { gate.ask(Count).await });
            assert_eq!(panicked, Err(GateError::Panicked("counter")));
            assert!(first.is_ok() || first == Err(GateError::Full("counter")), "{first:?}");
            assert!(second.is_ok() || second == Err(GateError::Full("counter")), "{second:?}");
        });
    }

    #[test]
    fn work_that_had_begun_survives_the_panic_of_another_message() {
        run(async {
            let (gate, ..) = counter();
            let (finish, wait) = tokio::sync::oneshot::channel();
            let waiting = tokio::spawn({
                let gate = gate.clone();
                async move { gate.ask(Wait(wait)).await }
            });
            assert_eq!(gate.ask(PanicAtOnce).await, Err(GateError::Panicked("counter")));
            assert_eq!(gate.ask(Count).await, Ok(1));
            finish.send(()).unwrap();
            assert_eq!(waiting.await.unwrap(), Ok(()));
        });
    }

    #[test]
    fn a_full_gate_says_so_at_once_and_a_waiting_message_after_its_wait() {
        run_paused(async {
            let (gate, ..) = counter();
            let hold = || {
                let (finish, wait) = tokio::sync::oneshot::channel();
                let gate = gate.clone();
                (finish, tokio::spawn(async move { gate.ask(Wait(wait)).await }))
            };
            let (first, first_done) = hold();
            let (_second, _) = hold();
            let (_third, third_done) = hold();
            tokio::task::yield_now().await;
            let asked = Instant::now();
            assert_eq!(gate.ask(Count).await, Err(GateError::Full("counter")));
            assert_eq!(asked.elapsed(), Duration::ZERO);
            assert_eq!(third_done.await.unwrap(), Err(GateError::Full("counter")));
            assert!(asked.elapsed() >= LIMITS.queue_wait);
            first.send(()).unwrap();
            assert_eq!(first_done.await.unwrap(), Ok(()));
            assert!(gate.ask(Count).await.is_ok());
        });
    }

    #[test]
    fn whoever_waits_too_long_leaves_and_the_work_goes_on() {
        run_paused(async {
            let (gate, ..) = counter();
            let (finish, wait) = tokio::sync::oneshot::channel();
            assert_eq!(gate.ask(Wait(wait)).await, Err(GateError::TimedOut("counter")));
            assert!(finish.send(()).is_ok(), "the work still waits for this");
        });
    }

    #[test]
    fn an_actor_that_never_stops_panicking_is_given_up() {
        run_paused(async {
            let (gate, built, supervisor) = counter();
            for _ in 0..FORGIVEN {
                assert_eq!(gate.ask(PanicAtOnce).await, Err(GateError::Panicked("counter")));
            }
            assert_eq!(*supervisor.given_up().borrow(), None);
            assert_eq!(gate.ask(PanicAtOnce).await, Err(GateError::Panicked("counter")));
            supervisor.given_up().wait_for(Option::is_some).await.unwrap();
            assert_eq!(gate.ask(Count).await, Err(GateError::Stopped("counter")));
            assert_eq!(built.load(Ordering::SeqCst), 1 + FORGIVEN);
        });
    }

    #[test]
    fn panics_are_forgotten_after_a_while() {
        let mut budget = Budget::default();
        let start = Instant::now();
        for _ in 0..FORGIVEN {
            assert!(budget.spend(start).is_some());
        }
        assert_eq!(budget.spend(start), None);
        assert_eq!(budget.spend(start + MEMORY + Duration::from_millis(1)), Some(Duration::ZERO));
    }

    #[test]
    fn the_first_pause_is_none_and_none_is_too_long() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(2), FIRST_PAUSE * 2);
        assert_eq!(pause(1_000), LONGEST_PAUSE);
    }

    #[test]
    fn there_is_no_supervisor_outside_the_system() {
        assert!(std::thread::spawn(|| Supervisor::here().is_err()).join().unwrap());
    }
}
