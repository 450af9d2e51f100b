//! The settler: asks the acquirer about payments nobody knows the outcome of, for as long as it takes.
//!
//! A payment that fell silent is taken back: its caller was told that nobody knows, and may sell again. A payment
//! that a crash left unfinished was never answered, so the acquirer is asked what became of it. Payments of a server
//! that never comes back are taken over when nobody has touched them for a while; the moves of payments, each from
//! one state to another, decide between settlers.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;
use warifu_core::payment::State;

use super::move_payment;
use crate::acquirer::link::{AcquirerLink, Inquire, Reverse};
use crate::acquirer::{Decision, Inquiry};
use crate::auditor::AuditLog;
use crate::gate::Gate;
use crate::refused::with_source;
use crate::store::job::{PaymentId, StoredPayment};
use crate::store::{Store, StoreError};

/// Payments asked about at a time.
const AT_A_TIME: usize = 8;
/// First pause when something stays open; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often what other servers left is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How long a payment must be untouched to be anybody's.
const UNTOUCHED: Duration = Duration::from_secs(600);
/// How often a payment in hand is touched, so that no other server takes it over.
const TOUCH: Duration = Duration::from_secs(240);
/// Payments of other servers taken over at a time.
const TAKEN_OVER: u64 = 256;
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

/// Settles what is unknown.
pub struct Settler {
    store: Store,
    log: AuditLog,
    link: Gate<AcquirerLink>,
    strays: mpsc::Receiver<Left>,
    /// How long after it was sent a request may still reach the acquirer.
    horizon: Duration,
    care: HashMap<PaymentId, Care>,
}

/// What is to be done about a payment.
#[derive(Clone, Copy)]
struct Care {
    aim: Aim,
    /// When this settler moved it last, or took it into its care.
    touched: Instant,
}

#[derive(Clone, Copy)]
enum Aim {
    /// Its caller may have sold again.
    TakeBack,
    /// Its caller was told nothing. That the acquirer never had it is believed from then on.
    FindOut { believed_from: Instant },
    /// It may not exist.
    Look { until: Instant },
}

/// What came of one try to settle a payment.
enum Came {
    ToItsEnd,
    ToNothing(Care),
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
        Self { store, log, link, strays, horizon, care: HashMap::new() }
    }

    /// Marks what an earlier life of this server left *sent* as *unknown*. Before any new payment is taken.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn recover(&mut self) -> Result<usize, StoreError> {
        let (now, before) = (Instant::now(), self.before(self.horizon));
        let open = self.store.open_payments(self.log.writer().log()).await?;
        let mut recovered = 0;
        for payment in open.into_iter().filter(|payment| payment.state == State::Sent) {
            if move_payment(&self.log, &payment, State::Unknown).await?.is_some() {
                let believed_from = if payment.updated_at_ms < before { now } else { now + self.horizon };
                self.care.insert(payment.id, Care::of(Aim::FindOut { believed_from }));
                recovered += 1;
            }
        }
        Ok(recovered)
    }

    /// Works until the last cashier has gone. A panic costs one round.
    pub async fn run(mut self) {
        let mut wait = Duration::ZERO;
        loop {
            let left = AssertUnwindSafe(self.round()).catch_unwind().await;
            let idle = matches!(left, Ok(0));
            wait = if idle { Duration::ZERO } else { (wait * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) };
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

    /// Goes through everything open once; gives back how much of it stays open.
    async fn round(&mut self) -> usize {
        let open = match self.open().await {
            Ok(open) => open,
            Err(error) => {
                tracing::error!(error = with_source(&error), "open payments cannot be read");
                return 1;
            }
        };
        let work: Vec<_> = open
            .into_iter()
            .filter_map(|payment| Some((*self.care.get(&payment.id)?, payment)))
            .map(|(care, payment)| {
                let (id, log, link) = (payment.id, self.log.clone(), self.link.clone());
                async move { (id, settle(log, link, payment, care).await) }
            })
            .collect();
        let came: Vec<_> = stream::iter(work).buffer_unordered(AT_A_TIME).collect().await;
        for (id, came) in came {
            match came {
                Came::ToItsEnd => self.care.remove(&id),
                Came::ToNothing(care) => self.care.insert(id, care),
            };
        }
        let left = self.care.len();
        metrics::gauge!("warifu_payments_open").set(f64::from(u32::try_from(left).unwrap_or(u32::MAX)));
        left
    }

    /// The open payments in this settler's care. What is not open any more, or never was, leaves it.
    async fn open(&mut self) -> Result<Vec<StoredPayment>, StoreError> {
        let own = self.store.open_payments(self.log.writer().log()).await?;
        let untouched = self.store.open_payments_before(self.before(UNTOUCHED.max(self.horizon)), TAKEN_OVER).await?;
        let mut open: HashMap<PaymentId, StoredPayment> = HashMap::new();
        for payment in own {
            // Any other sent payment is in the hands of a cashier.
            if payment.state == State::Unknown {
                self.care.entry(payment.id).or_insert_with(|| Care::of(Aim::TakeBack));
            }
            open.insert(payment.id, payment);
        }
        for payment in untouched {
            let aim = match payment.state {
                State::Unknown => Aim::TakeBack,
                _ => Aim::FindOut { believed_from: Instant::now() },
            };
            self.care.entry(payment.id).or_insert_with(|| {
                tracing::warn!(payment = %payment.id, "an open payment nobody touched for long is taken over");
                Care { aim, touched: Instant::now().checked_sub(TOUCH).unwrap_or_else(Instant::now) }
            });
            open.insert(payment.id, payment);
        }
        let elsewhere: Vec<_> = self.care.keys().filter(|id| !open.contains_key(*id)).copied().collect();
        for id in elsewhere {
            if let Some(payment) = self.store.payment(id).await?.filter(|payment| !payment.state.is_settled()) {
                open.insert(id, payment);
            }
        }
        let now = Instant::now();
        self.care.retain(|id, care| open.contains_key(id) || matches!(care.aim, Aim::Look { until } if now < until));
        Ok(open.into_values().collect())
    }

    /// So long ago, in milliseconds since 1970 UTC.
    fn before(&self, ago: Duration) -> i64 {
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        i64::try_from(self.log.clock().now_ms().saturating_sub(ago)).unwrap_or(i64::MAX)
    }
}

impl Care {
    fn of(aim: Aim) -> Self {
        Self { aim, touched: Instant::now() }
    }
}

/// Tries to bring one payment to its end.
async fn settle(log: AuditLog, link: Gate<AcquirerLink>, mut payment: StoredPayment, mut care: Care) -> Came {
    if let Aim::Look { .. } = care.aim {
        // It exists. Nobody but its first caller could have sent it, and did not.
        care.aim = Aim::FindOut { believed_from: Instant::now() };
    }
    // Nothing is said to the acquirer by a settler that could not move the payment.
    if payment.state == State::Sent || care.touched.elapsed() >= TOUCH {
        match move_payment(&log, &payment, State::Unknown).await {
            Ok(Some(moved)) => {
                payment = moved;
                care.touched = Instant::now();
            }
            Ok(None) | Err(_) => return Came::ToNothing(care),
        }
    }
    let end = match care.aim {
        Aim::TakeBack => link.ask(Reverse(payment.id)).await.map(|()| Some(State::Reversed)),
        Aim::FindOut { believed_from } | Aim::Look { until: believed_from } => {
            link.ask(Inquire(payment.id)).await.map(|inquiry| match inquiry {
                Inquiry::Decided(Decision::Approved(code)) => Some(State::Authorized(code)),
                Inquiry::Decided(Decision::Declined(code)) => Some(State::Declined(code)),
                Inquiry::Reversed => Some(State::Reversed),
                // What was sent a moment ago may still be on its way.
                Inquiry::NeverSeen => (Instant::now() >= believed_from).then_some(State::Reversed),
            })
        }
    };
    match end {
        Ok(None) => Came::ToNothing(care),
        Ok(Some(end)) => match move_payment(&log, &payment, end).await {
            Ok(Some(_)) => Came::ToItsEnd,
            Ok(None) => {
                tracing::error!(payment = %payment.id, to = end.name(), "a payment was settled by somebody else meanwhile");
                Came::ToItsEnd
            }
            Err(error) => {
                tracing::error!(payment = %payment.id, error = with_source(&error), "a payment could not be moved");
                Came::ToNothing(care)
            }
        },
        Err(error) => {
            tracing::warn!(payment = %payment.id, error = with_source(&error), "a payment stays unknown");
            Came::ToNothing(care)
        }
    }
}
