//! An acquirer that does as it is told, and remembers what it did.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
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

/// What is said to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Authorization,
    Inquiry,
    Reversal,
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

impl Did {
    /// Whether money moved, and was not given back.
    pub(crate) fn moved_money(&self) -> bool {
        matches!(self.decision, Some(Decision::Approved(_))) && !self.reversed
    }
}

/// The acquirer.
#[derive(Default)]
pub(crate) struct Scripted {
    state: Arc<Mutex<State>>,
    /// What does not reach it for now.
    held: watch::Sender<Option<Question>>,
}

#[derive(Default)]
struct State {
    mood: Mood,
    heard: u32,
    held_up: u32,
    missed: u32,
    did: HashMap<PaymentId, Did>,
}

impl Scripted {
    pub(crate) fn become_mood(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// What it did for a payment.
    pub(crate) fn did(&self, payment: PaymentId) -> Did {
        self.state.lock().unwrap().did.get(&payment).cloned().unwrap_or_default()
    }

    /// Decides a payment it has said it never had.
    pub(crate) fn approve_late(&self, payment: PaymentId) {
        let approved = Decision::Approved(ApprovalCode::parse("A1B2C3").unwrap());
        self.state.lock().unwrap().did.entry(payment).or_default().decision = Some(approved);
    }

    /// How many authorizations it received in all.
    pub(crate) fn authorizations(&self) -> u32 {
        self.state.lock().unwrap().did.values().map(|did| did.authorizations).sum()
    }

    /// How many authorizations were on their way to it, received or not.
    pub(crate) fn heard(&self) -> u32 {
        self.state.lock().unwrap().heard
    }

    /// From now on questions of this kind stay on their way.
    pub(crate) fn hold(&self, question: Question) {
        self.held.send_replace(Some(question));
    }

    /// Everything on its way arrives.
    pub(crate) fn let_go(&self) {
        self.held.send_replace(None);
    }

    /// How many questions were held up so far.
    pub(crate) fn held_up(&self) -> u32 {
        self.state.lock().unwrap().held_up
    }

    /// How many questions came while it was away.
    pub(crate) fn missed(&self) -> u32 {
        self.state.lock().unwrap().missed
    }

    /// What comes of a question when it arrives, which is at once if nothing holds it up.
    fn asked<T: Send + 'static>(
        &self,
        question: Question,
        payment: PaymentId,
        answer: impl FnOnce(&mut Did) -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T, AcquirerError>> {
        let state = Arc::clone(&self.state);
        let arrive = move || {
            let mut state = state.lock().unwrap();
            if state.mood == Mood::Away {
                state.missed += 1;
                return Err(AcquirerError::Unreachable);
            }
            Ok(answer(state.did.entry(payment).or_default()))
        };
        let mut held = self.held.subscribe();
        if *held.borrow() != Some(question) {
            return std::future::ready(arrive()).boxed();
        }
        self.state.lock().unwrap().held_up += 1;
        async move {
            held.wait_for(|held| *held != Some(question)).await.unwrap();
            arrive()
        }
        .boxed()
    }
}

impl Acquirer for Scripted {
    fn authorize(&self, request: AuthorizationRequest) -> BoxFuture<'static, Result<Decision, AcquirerError>> {
        let mood = {
            let mut state = self.state.lock().unwrap();
            state.heard += 1;
            state.mood
        };
        if mood == Mood::Deaf {
            return std::future::pending().boxed();
        }
        let decided = match mood {
            Mood::Declining => declined("51"),
            _ => Decision::Approved(ApprovalCode::parse("A1B2C3").unwrap()),
        };
        let had_code = request.card.security_code().is_some();
        let answer = self.asked(Question::Authorization, request.payment, move |did| {
            did.authorizations += 1;
            did.had_code |= had_code;
            match (did.decision, did.reversed) {
                (Some(decision), _) => decision,
                // What was taken back before it came gets no money.
                (None, true) => declined("12"),
                (None, false) => *did.decision.insert(decided),
            }
        });
        match mood {
            Mood::ApprovingSilently => answer.map(|answer| answer.and(Err(AcquirerError::Silent))).boxed(),
            Mood::ApprovingEndlessly => std::future::pending().boxed(),
            _ => answer,
        }
    }

    fn inquire(&self, payment: PaymentId) -> BoxFuture<'static, Result<Inquiry, AcquirerError>> {
        self.asked(Question::Inquiry, payment, |did| {
            did.inquiries += 1;
            match did.decision {
                _ if did.reversed => Inquiry::Reversed,
                Some(decision) => Inquiry::Decided(decision),
                None => Inquiry::NeverSeen,
            }
        })
    }

    fn reverse(&self, payment: PaymentId) -> BoxFuture<'static, Result<(), AcquirerError>> {
        self.asked(Question::Reversal, payment, |did| {
            did.reversals += 1;
            did.reversed = true;
        })
    }
}

fn declined(code: &str) -> Decision {
    Decision::Declined(ResponseCode::parse(code).unwrap())
}
