//! The settler: asks the acquirer about payments nobody knows the outcome of, for as long as it takes.
//!
//! The state of a payment says what is to be done with it. One that is *sent* though nobody works on it was never
//! answered: the acquirer is asked what became of it. One that is *unknown* is taken back, whoever meets it: its caller
//! was told that nobody knows, and may sell again. So settlers never have opposite aims, and a restart forgets none.
//!
//! Nothing else has to agree between settlers. Each move names the payment as it was seen, so of two who saw the same
//! one moves it, and it is that server's from then on. A payment of another server is taken over when its last move is
//! long past by this server's clock, and it does not move either while this server watches it: clocks that differ make
//! work, but neither take a payment from a cashier nor move money.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;
use warifu_core::payment::State;

use super::move_payment;
use crate::acquirer::link::{AcquirerLink, Inquire, LinkError, Reverse};
use crate::acquirer::{Decision, Inquiry};
use crate::auditor::AuditLog;
use crate::gate::Gate;
use crate::refused::with_source;
use crate::store::job::{PaymentId, StoredPayment};
use crate::store::{Store, StoreError};

/// Payments asked about at a time.
const AT_A_TIME: usize = 8;
/// Payments asked about in one round: no stray waits for more.
const A_ROUND: usize = 64;
/// Payments looked up for a round.
const LOOKED_UP: u64 = 256;
/// First pause when something stays open; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often what other servers left is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a payment must be untouched to be anybody's.
const UNTOUCHED: Duration = Duration::from_secs(600);
/// How long a payment that may be written down is looked for. Longer than any transaction may take.
const LOOKED_FOR: Duration = Duration::from_secs(30);

/// A payment somebody stopped working on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It was about to be sent, or is.
    BeingSent(PaymentId),
    /// Whether it was ever written down is not known; it was not sent.
    Unheard(PaymentId),
}

/// A payment in hand. Whoever drops it unsettled leaves it to the settler.
pub(super) struct Stray {
    left: Left,
    settler: Option<mpsc::Sender<Left>>,
}

impl Stray {
    pub(super) fn new(left: Left, settler: mpsc::Sender<Left>) -> Self {
        Self { left, settler: Some(settler) }
    }

    /// From here on the acquirer may hear of it.
    pub(super) fn being_sent(mut self) -> Self {
        self.left = Left::BeingSent(self.left.payment());
        self
    }

    /// Nothing is left to be done.
    pub(super) fn settle(mut self) {
        self.settler = None;
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        if let Some(settler) = self.settler.take()
            && settler.try_send(self.left).is_err()
        {
            tracing::error!(payment = %self.left.payment(), "an open payment is left to the next sweep");
        }
    }
}

impl Left {
    const fn payment(self) -> PaymentId {
        match self {
            Self::BeingSent(payment) | Self::Unheard(payment) => payment,
        }
    }
}

/// Settles what is open and in nobody's hands.
pub struct Settler {
    desk: Desk,
    strays: mpsc::Receiver<Left>,
    /// How long after it was sent a request may still reach the acquirer.
    horizon: Duration,
    care: HashMap<PaymentId, Care>,
}

/// What its work needs.
#[derive(Clone)]
struct Desk {
    store: Store,
    log: AuditLog,
    link: Gate<AcquirerLink>,
}

/// A payment to look after.
struct Care {
    aim: Aim,
    tried: Instant,
}

/// What is to be done about a payment. Where it names a time, it is about a payment that has not moved since.
#[derive(Clone, Copy)]
enum Aim {
    /// Its caller may have sold again.
    TakeBack,
    /// Its caller was told nothing. That the acquirer never had it is believed from then on.
    FindOut { since_ms: i64, believed_from: Instant },
    /// It may not exist.
    Look { until: Instant },
    /// It is taken over if it stays where it is until then. Whoever had it may be slow, and send it yet.
    Watch { since_ms: i64, until: Instant },
}

/// What came of one try to settle a payment.
enum Came {
    /// It is settled, or somebody else's.
    ToItsEnd,
    ToNothing(Aim),
}

/// Why a payment could not be settled this time.
#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a round did.
struct Round {
    ended: usize,
    left: usize,
}

impl Settler {
    /// A settler for the payments of this server and those nobody else touches. A request sent to the acquirer may
    /// still reach it for as long as `horizon`.
    pub fn new(
        store: Store,
        log: AuditLog,
        link: Gate<AcquirerLink>,
        strays: mpsc::Receiver<Left>,
        horizon: Duration,
    ) -> Self {
        Self { desk: Desk { store, log, link }, strays, horizon, care: HashMap::new() }
    }

    /// Takes up what an earlier life of this server left *sent*. Before any new payment is taken.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn recover(&mut self) -> Result<usize, StoreError> {
        let (now, before) = (Instant::now(), self.before(self.horizon));
        let mut open = self.desk.store.open_payments(self.desk.log.writer().log()).await?;
        open.retain(|payment| payment.state == State::Sent);
        for StoredPayment { id, updated_at_ms: since_ms, .. } in &open {
            let believed_from = if *since_ms < before { now } else { now + self.horizon };
            self.care.insert(*id, Care::of(Aim::FindOut { since_ms: *since_ms, believed_from }));
        }
        Ok(open.len())
    }

    /// Works until the last cashier has gone. A panic costs one round.
    pub async fn run(mut self) {
        let mut wait = Duration::ZERO;
        loop {
            let round = AssertUnwindSafe(self.round()).catch_unwind().await;
            let idle = matches!(round, Ok(Round { left: 0, .. }));
            wait = match round {
                Ok(Round { left: 0, .. }) => Duration::ZERO,
                // Where some came to their end, others may.
                Ok(Round { ended: 1.., .. }) => FIRST_PAUSE,
                Ok(Round { ended: 0, .. }) | Err(_) => (wait * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
            };
            // New work does not wait for old trouble to pass.
            match tokio::time::timeout(if idle { SWEEP } else { wait }, self.next_stray()).await {
                Ok(true) => return,
                Ok(false) => wait = Duration::ZERO,
                Err(_) => {}
            }
        }
    }

    /// Waits for the next stray and takes all that are there; `true` when there will be none any more.
    async fn next_stray(&mut self) -> bool {
        let Some(stray) = self.strays.recv().await else { return true };
        self.take_up(stray);
        loop {
            match self.strays.try_recv() {
                Ok(stray) => self.take_up(stray),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn take_up(&mut self, left: Left) {
        let aim = match left {
            Left::BeingSent(_) => Aim::TakeBack,
            Left::Unheard(_) => Aim::Look { until: Instant::now() + LOOKED_FOR },
        };
        self.care.insert(left.payment(), Care::of(aim));
    }

    /// Tries to settle what has waited longest.
    async fn round(&mut self) -> Round {
        if let Err(error) = self.look_around().await {
            tracing::error!(error = with_source(&error), "open payments cannot be read");
            return Round { ended: 0, left: self.care.len().max(1) };
        }
        let work = self.due().into_iter().map(|(id, aim)| {
            let desk = self.desk.clone();
            async move { (id, desk.settle(id, aim).await) }
        });
        let came: Vec<_> = stream::iter(work.collect::<Vec<_>>()).buffer_unordered(AT_A_TIME).collect().await;
        let before = self.care.len();
        for (id, came) in came {
            match came {
                Came::ToItsEnd => self.care.remove(&id),
                Came::ToNothing(aim) => self.care.insert(id, Care::of(aim)),
            };
        }
        let left = self.care.len();
        metrics::gauge!("warifu_payments_open").set(f64::from(u32::try_from(left).unwrap_or(u32::MAX)));
        Round { ended: before - left, left }
    }

    /// Takes up what is unknown here, and has an eye on what nobody touches.
    async fn look_around(&mut self) -> Result<(), StoreError> {
        let unknown = self.desk.store.unknown_payments(self.desk.log.writer().log(), LOOKED_UP).await?;
        let untouched = self.before(UNTOUCHED.max(self.horizon));
        let untouched = self.desk.store.open_payments_before(untouched, LOOKED_UP).await?;
        for payment in unknown {
            self.care.entry(payment.id).or_insert_with(|| Care::of(Aim::TakeBack));
        }
        let until = Instant::now() + self.horizon;
        for payment in untouched {
            let aim = Aim::Watch { since_ms: payment.updated_at_ms, until };
            self.care.entry(payment.id).or_insert_with(|| Care::of(aim));
        }
        Ok(())
    }

    /// What a round is to try, longest untried first.
    fn due(&self) -> Vec<(PaymentId, Aim)> {
        let now = Instant::now();
        let waits = |aim: &Aim| matches!(aim, Aim::Watch { until, .. } if now < *until);
        let mut due: Vec<_> = self.care.iter().filter(|(_, care)| !waits(&care.aim)).collect();
        due.sort_by_key(|(_, care)| care.tried);
        due.into_iter().take(A_ROUND).map(|(id, care)| (*id, care.aim)).collect()
    }

    /// So long ago, in milliseconds since 1970 UTC.
    fn before(&self, ago: Duration) -> i64 {
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        i64::try_from(self.desk.log.clock().now_ms().saturating_sub(ago)).unwrap_or(i64::MAX)
    }
}

impl Care {
    fn of(aim: Aim) -> Self {
        Self { aim, tried: Instant::now() }
    }
}

impl Aim {
    /// Whether the payment has moved since this was the aim for it.
    const fn is_about_another_stay(self, payment: &StoredPayment) -> bool {
        match self {
            Self::FindOut { since_ms, .. } | Self::Watch { since_ms, .. } => since_ms != payment.updated_at_ms,
            Self::TakeBack | Self::Look { .. } => false,
        }
    }
}

impl Desk {
    /// Tries to bring one payment to its end.
    async fn settle(&self, id: PaymentId, mut aim: Aim) -> Came {
        self.try_to_settle(id, &mut aim).await.unwrap_or_else(|error| {
            tracing::warn!(payment = %id, error = with_source(&error), "a payment stays open");
            Came::ToNothing(aim)
        })
    }

    async fn try_to_settle(&self, id: PaymentId, aim: &mut Aim) -> Result<Came, SettleError> {
        let payment = match (self.store.payment(id).await?, *aim) {
            (None, Aim::Look { until }) if Instant::now() < until => return Ok(Came::ToNothing(*aim)),
            (Some(payment), _) if !payment.state.is_settled() => payment,
            (_, Aim::TakeBack | Aim::FindOut { .. } | Aim::Look { .. } | Aim::Watch { .. }) => {
                return Ok(Came::ToItsEnd);
            }
        };
        if let Aim::Look { .. } = aim {
            // It exists. Nobody but its first caller could have sent it, and did not.
            *aim = Aim::FindOut { since_ms: payment.updated_at_ms, believed_from: Instant::now() };
        }
        if aim.is_about_another_stay(&payment) {
            // Whoever moved it looks after it.
            return Ok(Came::ToItsEnd);
        }
        if let Aim::Watch { .. } = aim {
            tracing::warn!(payment = %id, "an open payment nobody touched for long is taken over");
        }
        match (payment.state, *aim) {
            (State::Unknown, _) | (_, Aim::TakeBack) => self.take_back(payment).await,
            (_, aim) => self.find_out(payment, aim).await,
        }
    }

    /// Asks the acquirer what became of a payment that is sent.
    async fn find_out(&self, payment: StoredPayment, aim: Aim) -> Result<Came, SettleError> {
        match (self.link.ask(Inquire(payment.id)).await?, aim) {
            (Inquiry::Decided(Decision::Approved(code)), _) => self.end(payment, State::Authorized(code)).await,
            (Inquiry::Decided(Decision::Declined(code)), _) => self.end(payment, State::Declined(code)).await,
            (Inquiry::Reversed, _) => self.end(payment, State::Reversed).await,
            // What was sent a moment ago may still be on its way.
            (Inquiry::NeverSeen, Aim::FindOut { believed_from, .. }) if Instant::now() < believed_from => {
                Ok(Came::ToNothing(aim))
            }
            (Inquiry::NeverSeen, Aim::FindOut { .. }) => self.end(payment, State::Reversed).await,
            // Another server may send it after this inquiry: only a reversal makes sure that nothing comes of it.
            (Inquiry::NeverSeen, Aim::TakeBack | Aim::Look { .. } | Aim::Watch { .. }) => self.take_back(payment).await,
        }
    }

    /// Takes a payment back. The move before it makes sure that it is still open, and that everybody else who saw it
    /// open sees that it is not theirs any more.
    async fn take_back(&self, payment: StoredPayment) -> Result<Came, SettleError> {
        let Some(payment) = move_payment(&self.log, &payment, State::Unknown).await? else {
            return Ok(Came::ToItsEnd);
        };
        self.link.ask(Reverse(payment.id)).await?;
        self.end(payment, State::Reversed).await
    }

    async fn end(&self, mut payment: StoredPayment, end: State) -> Result<Came, SettleError> {
        if (payment.state, end) == (State::Sent, State::Reversed) {
            let Some(unknown) = move_payment(&self.log, &payment, State::Unknown).await? else {
                return Ok(Came::ToItsEnd);
            };
            payment = unknown;
        }
        if move_payment(&self.log, &payment, end).await?.is_none() {
            tracing::warn!(payment = %payment.id, to = end.name(), "a payment was moved by somebody else meanwhile");
        }
        Ok(Came::ToItsEnd)
    }
}
