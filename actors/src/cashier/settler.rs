//! The settler: asks the acquirer about payments nobody knows the outcome of, for as long as it takes.
//!
//! A payment that fell silent is taken back: its caller was told that nobody knows, and may sell again. A payment
//! that a crash of this server left unfinished was never answered, so the acquirer is asked what became of it.

use std::collections::HashSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
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

/// A payment in hand. Whoever drops it unsettled leaves it to the settler.
pub(super) struct Stray {
    payment: PaymentId,
    settler: Option<mpsc::Sender<PaymentId>>,
}

impl Stray {
    pub(super) fn new(payment: PaymentId, settler: mpsc::Sender<PaymentId>) -> Self {
        Self { payment, settler: Some(settler) }
    }

    /// Nothing is left to be done.
    pub(super) fn settle(mut self) {
        self.settler = None;
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        if let Some(settler) = self.settler.take()
            && settler.try_send(self.payment).is_err()
        {
            tracing::error!(payment = %self.payment, "an open payment is left to the next start");
        }
    }
}

/// Settles what is unknown.
pub struct Settler {
    store: Store,
    log: AuditLog,
    link: Gate<AcquirerLink>,
    strays: mpsc::Receiver<PaymentId>,
    /// Payments whose work died before they were moved: still sent, and nobody's.
    abandoned: HashSet<PaymentId>,
    /// Payments a crash left unfinished.
    unanswered: HashSet<PaymentId>,
}

impl Settler {
    /// A settler for the payments of this server.
    pub fn new(store: Store, log: AuditLog, link: Gate<AcquirerLink>, strays: mpsc::Receiver<PaymentId>) -> Self {
        Self { store, log, link, strays, abandoned: HashSet::new(), unanswered: HashSet::new() }
    }

    /// Marks what an earlier life of this server left *sent* as *unknown*. Before any new payment is taken.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn recover(&mut self) -> Result<usize, StoreError> {
        for payment in self.open().await?.into_iter().filter(|payment| payment.state == State::Sent) {
            if move_payment(&self.log, &payment, State::Unknown).await? {
                self.unanswered.insert(payment.id);
            }
        }
        Ok(self.unanswered.len())
    }

    /// Works until the last cashier has gone. A panic costs one round.
    pub async fn run(mut self) {
        let mut wait = Duration::ZERO;
        loop {
            let left = AssertUnwindSafe(self.round()).catch_unwind().await;
            let gone = match left {
                Ok(0) => self.next_stray().await,
                Ok(_) | Err(_) => {
                    wait = (wait * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                    // New work does not wait for old trouble to pass.
                    match tokio::time::timeout(wait, self.next_stray()).await {
                        Ok(gone) => gone,
                        Err(_) => continue,
                    }
                }
            };
            if gone {
                return;
            }
            wait = Duration::ZERO;
        }
    }

    /// Waits for the next stray and takes all that are there; `true` when there will be none any more.
    async fn next_stray(&mut self) -> bool {
        let Some(stray) = self.strays.recv().await else { return true };
        self.abandoned.insert(stray);
        loop {
            match self.strays.try_recv() {
                Ok(stray) => {
                    self.abandoned.insert(stray);
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
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
        let mine = |payment: &StoredPayment| match payment.state {
            State::Unknown => true,
            // Any other sent payment is in the hands of a cashier.
            State::Sent => self.abandoned.contains(&payment.id),
            State::Authorized(_) | State::Declined(_) | State::Reversed => false,
        };
        let work: Vec<_> = open
            .into_iter()
            .filter(mine)
            .map(|payment| {
                let unanswered = self.unanswered.contains(&payment.id);
                settle(self.log.clone(), self.link.clone(), payment, unanswered)
            })
            .collect();
        let asked = work.len();
        let settled: Vec<PaymentId> =
            stream::iter(work).buffer_unordered(AT_A_TIME).filter_map(std::future::ready).collect().await;
        for id in &settled {
            self.abandoned.remove(id);
            self.unanswered.remove(id);
        }
        let left = asked - settled.len();
        metrics::gauge!("warifu_payments_open").set(f64::from(u32::try_from(left).unwrap_or(u32::MAX)));
        left
    }

    fn open(&self) -> impl Future<Output = Result<Vec<StoredPayment>, StoreError>> + Send + use<> {
        let (store, instance) = (self.store.clone(), self.log.writer().log().clone());
        async move { store.open_payments(&instance).await }
    }
}

/// Brings one payment to its end; gives back its id if it is there.
async fn settle(
    log: AuditLog,
    link: Gate<AcquirerLink>,
    mut payment: StoredPayment,
    unanswered: bool,
) -> Option<PaymentId> {
    if payment.state == State::Sent {
        match move_payment(&log, &payment, State::Unknown).await {
            Ok(true) => payment.state = State::Unknown,
            Ok(false) | Err(_) => return None,
        }
    }
    let end = if unanswered {
        match link.ask(Inquire(payment.id)).await {
            Ok(Inquiry::Decided(Decision::Approved(code))) => Ok(State::Authorized(code)),
            Ok(Inquiry::Decided(Decision::Declined(code))) => Ok(State::Declined(code)),
            Ok(Inquiry::Reversed | Inquiry::NeverSeen) => Ok(State::Reversed),
            Err(error) => Err(error),
        }
    } else {
        link.ask(Reverse(payment.id)).await.map(|()| State::Reversed)
    };
    match end {
        Ok(end) => match move_payment(&log, &payment, end).await {
            Ok(_) => Some(payment.id),
            Err(error) => {
                tracing::error!(payment = %payment.id, error = with_source(&error), "a payment could not be moved");
                None
            }
        },
        Err(error) => {
            tracing::warn!(payment = %payment.id, error = with_source(&error), "a payment stays unknown");
            None
        }
    }
}
