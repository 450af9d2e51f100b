//! An acquirer that does as it is told, and remembers what it did.

use std::collections::HashMap;
use std::sync::Mutex;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use warifu_core::payment::{ApprovalCode, ResponseCode};

use crate::acquirer::{Acquirer, AcquirerError, AuthorizationRequest, Decision, Inquiry};
use crate::store::job::PaymentId;

/// How it is disposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It approves.
    #[default]
    Approving,
    /// It declines with 51.
    Declining,
    /// It approves, and its answer gets lost.
    ApprovingSilently,
    /// It approves, and never stops thinking about its answer.
    ApprovingEndlessly,
    /// The request gets lost, and whoever sent it waits for ever.
    Deaf,
    /// Nothing reaches it.
    Away,
}

/// What it did for a payment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Did {
    /// Authorizations it received.
    pub(crate) authorizations: u32,
    /// Inquiries.
    pub(crate) inquiries: u32,
    /// Reversals.
    pub(crate) reversals: u32,
    /// What it decided.
    pub(crate) decision: Option<Decision>,
    /// Whether it was taken back.
    pub(crate) reversed: bool,
    /// Whether the request carried a security code.
    pub(crate) had_code: bool,
}

/// The acquirer.
#[derive(Default)]
pub(crate) struct Scripted(Mutex<State>);

#[derive(Default)]
struct State {
    mood: Mood,
    heard: u32,
    did: HashMap<PaymentId, Did>,
}

impl Scripted {
    pub(crate) fn become_mood(&self, mood: Mood) {
        self.0.lock().unwrap().mood = mood;
    }

    /// What it did for a payment.
    pub(crate) fn did(&self, payment: PaymentId) -> Did {
        self.0.lock().unwrap().did.get(&payment).cloned().unwrap_or_default()
    }

    /// Decides a payment it has said it never had.
    pub(crate) fn approve_late(&self, payment: PaymentId) {
        let approved = Decision::Approved(ApprovalCode::parse("A1B2C3").unwrap());
        self.0.lock().unwrap().did.entry(payment).or_default().decision = Some(approved);
    }

    /// How many authorizations it received in all.
    pub(crate) fn authorizations(&self) -> u32 {
        self.0.lock().unwrap().did.values().map(|did| did.authorizations).sum()
    }

    /// How many authorizations were on their way to it, received or not.
    pub(crate) fn heard(&self) -> u32 {
        self.0.lock().unwrap().heard
    }

    fn asked<T>(&self, payment: PaymentId, answer: impl FnOnce(&mut Did) -> T) -> Result<T, AcquirerError> {
        let mut state = self.0.lock().unwrap();
        if state.mood == Mood::Away {
            return Err(AcquirerError::Unreachable);
        }
        Ok(answer(state.did.entry(payment).or_default()))
    }
}

impl Acquirer for Scripted {
    fn authorize(&self, request: AuthorizationRequest) -> BoxFuture<'static, Result<Decision, AcquirerError>> {
        let mood = {
            let mut state = self.0.lock().unwrap();
            state.heard += 1;
            state.mood
        };
        if mood == Mood::Deaf {
            return std::future::pending().boxed();
        }
        let decided = match mood {
            Mood::Declining => Decision::Declined(ResponseCode::parse("51").unwrap()),
            _ => Decision::Approved(ApprovalCode::parse("A1B2C3").unwrap()),
        };
        let had_code = request.card.security_code().is_some();
        let answer = self.asked(request.payment, |did| {
            did.authorizations += 1;
            did.had_code |= had_code;
            *did.decision.get_or_insert(decided)
        });
        match mood {
            Mood::ApprovingSilently => std::future::ready(answer.and(Err(AcquirerError::Silent))).boxed(),
            Mood::ApprovingEndlessly => std::future::pending().boxed(),
            _ => std::future::ready(answer).boxed(),
        }
    }

    fn inquire(&self, payment: PaymentId) -> BoxFuture<'static, Result<Inquiry, AcquirerError>> {
        let answer = self.asked(payment, |did| {
            did.inquiries += 1;
            match did.decision {
                _ if did.reversed => Inquiry::Reversed,
                Some(decision) => Inquiry::Decided(decision),
                None => Inquiry::NeverSeen,
            }
        });
        std::future::ready(answer).boxed()
    }

    fn reverse(&self, payment: PaymentId) -> BoxFuture<'static, Result<(), AcquirerError>> {
        let answer = self.asked(payment, |did| {
            did.reversals += 1;
            did.reversed = true;
        });
        std::future::ready(answer).boxed()
    }
}
