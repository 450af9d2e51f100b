//! What a batch of jobs comes to: a pure function of the rows they touch.
//!
//! The jobs run one after the other over one [`View`], so a later one sees what an earlier one did, exactly as if
//! each had been a transaction of its own. What changed is collected and written once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use warifu_core::device;
use warifu_core::ksn::Counter;
use warifu_core::merchant::{DeviceId, MerchantId, RequestId};
use warifu_core::payment::{Event, State};
use warifu_core::replay::KsnGuard;
use warifu_core::token::Token;
use warifu_hsm::{Fingerprint, SealedPan};

use super::job::{
    Candidate, Intent, Job, Origin, Outcome, PaymentId, Rejection, StoredCard, StoredPayment, Take, Taken,
};
use super::vault::{Accepted, Fingerprints};
use crate::record::{Kind, Record};

/// A request by its merchant and the merchant's name for it.
pub(super) type RequestKey = (MerchantId, RequestId);

/// What a batch needs to know: everything its jobs name, as far as it exists.
#[derive(Clone, Default)]
pub(super) struct View {
    pub(super) devices: HashMap<DeviceId, DeviceView>,
    pub(super) requests: HashMap<RequestKey, RequestView>,
    /// Tokens of the fingerprints asked for.
    pub(super) cards: HashMap<(MerchantId, Fingerprint), CardView>,
    /// Tokens asked for as candidates that some card has.
    pub(super) held: HashSet<(MerchantId, Token)>,
    /// What the vaults accept that new tokens are for.
    pub(super) vaults: HashMap<MerchantId, Accepted>,
    pub(super) payments: HashMap<PaymentId, StoredPayment>,
}

/// A device, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceView {
    pub(super) merchant: MerchantId,
    pub(super) state: device::State,
    pub(super) window: u8,
    pub(super) guard: KsnGuard,
    pub(super) faults: u32,
}

/// A request that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestView {
    pub(super) digest: [u8; 32],
    pub(super) card: StoredCard,
    pub(super) payment: Option<PaymentId>,
}

/// A card that has a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CardView {
    pub(super) token: Token,
    pub(super) masked: warifu_core::card::MaskedPan,
    pub(super) brand: warifu_core::card::Brand,
}

/// The keys of everything a batch names.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    pub(super) devices: BTreeSet<&'a DeviceId>,
    pub(super) requests: BTreeSet<(&'a MerchantId, &'a RequestId)>,
    pub(super) fingerprints: BTreeSet<(&'a MerchantId, [u8; 32])>,
    pub(super) candidates: BTreeSet<(&'a MerchantId, Token)>,
    /// Vaults that new tokens are for, and of which generations those are.
    pub(super) vaults: BTreeMap<&'a MerchantId, Accepted>,
    pub(super) payments: BTreeSet<PaymentId>,
}

/// What is to be written, every row once, ordered by key so that no two writers wait for each other.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) devices: Vec<Changed<DeviceId, DeviceView>>,
    pub(super) tokens: BTreeMap<(MerchantId, Token), NewToken>,
    pub(super) requests: BTreeMap<RequestKey, NewRequest>,
    pub(super) new_payments: BTreeMap<PaymentId, StoredPayment>,
    pub(super) moved_payments: Vec<MovedPayment>,
    /// One line each, in the order of the jobs.
    pub(super) records: Vec<String>,
}

/// A row that was one thing and becomes another.
#[derive(Debug)]
pub(super) struct Changed<K, V> {
    pub(super) key: K,
    pub(super) before: V,
    pub(super) after: V,
}

pub(super) struct NewToken {
    pub(super) fingerprints: Fingerprints,
    pub(super) card: CardView,
    pub(super) sealed: SealedPan,
    pub(super) at_ms: i64,
}

#[derive(Debug)]
pub(super) struct NewRequest {
    pub(super) view: RequestView,
    pub(super) at_ms: i64,
}

#[derive(Debug)]
pub(super) struct MovedPayment {
    pub(super) id: PaymentId,
    pub(super) from: State,
    /// Since when it was there.
    pub(super) since_ms: i64,
    pub(super) to: State,
    pub(super) at_ms: i64,
}

/// What a batch came to.
pub(super) struct Decision {
    pub(super) effects: Effects,
    /// One for each job, in their order.
    pub(super) answers: Vec<Result<Outcome, Rejection>>,
}

impl Effects {
    /// Whether a device's state changes, which is the registry's business too.
    pub(super) fn move_the_registry(&self) -> bool {
        self.devices.iter().any(|changed| changed.before.state != changed.after.state)
    }
}

impl<'a> Wanted<'a> {
    pub(super) fn by(jobs: impl IntoIterator<Item = &'a Job>) -> Self {
        let mut wanted = Self::default();
        for job in jobs {
            match &job.intent {
                Intent::Note => {}
                Intent::Take(take) => wanted.take(take),
                Intent::Move { payment, .. } => {
                    wanted.payments.insert(*payment);
                }
                Intent::Spend { device, .. } | Intent::Fault { device, .. } => {
                    wanted.devices.insert(device);
                }
            }
        }
        wanted
    }

    fn take(&mut self, take: &'a Take) {
        self.devices.insert(&take.device);
        self.requests.insert((&take.merchant, &take.request));
        self.fingerprints.extend(take.fingerprints.each().map(|fingerprint| (&take.merchant, fingerprint.0)));
        if let Some(candidate) = &take.candidate {
            self.candidates.insert((&take.merchant, candidate.token));
            let generation = take.fingerprints.generation;
            let all = self.vaults.entry(&take.merchant).or_insert(Accepted::only(generation));
            *all = all.and(generation);
        }
        if let Some(payment) = &take.payment {
            self.payments.insert(payment.id);
        }
    }
}

/// Decides a batch. `now_ms` is when a job without records happened.
pub(super) fn decide<'a>(view: View, jobs: impl IntoIterator<Item = &'a Job>, now_ms: u64) -> Decision {
    let mut ledger = Ledger::over(view);
    let answers = jobs.into_iter().map(|job| ledger.run(job, now_ms)).collect();
    Decision { effects: ledger.close(), answers }
}

/// The view as the jobs change it, and what they changed.
struct Ledger {
    view: View,
    effects: Effects,
    devices_before: BTreeMap<DeviceId, DeviceView>,
    /// State before the batch, and since when.
    payments_before: BTreeMap<PaymentId, (State, i64)>,
}

impl Ledger {
    fn over(view: View) -> Self {
        Self { view, effects: Effects::default(), devices_before: BTreeMap::new(), payments_before: BTreeMap::new() }
    }

    fn run(&mut self, job: &Job, now_ms: u64) -> Result<Outcome, Rejection> {
        // A job happens when its newest record says.
        let at = job.records.iter().map(|record| record.at_ms).max().unwrap_or(now_ms);
        let at_ms = i64::try_from(at).unwrap_or(i64::MAX);
        let answer = match &job.intent {
            Intent::Note => Ok(Outcome::Noted),
            Intent::Take(take) => self.take(take, at_ms),
            Intent::Move { payment, from, since_ms, to } => self.move_payment(*payment, (*from, *since_ms), *to, at_ms),
            Intent::Spend { device, counter } => self.spend(device, *counter),
            Intent::Fault { device, limit } => self.fault(device, *limit),
        };
        self.effects.records.extend(job.records.iter().map(Record::to_line));
        self.effects.records.extend(own_record(&job.intent, &answer, at).as_ref().map(Record::to_line));
        answer
    }

    fn take(&mut self, take: &Take, at_ms: i64) -> Result<Outcome, Rejection> {
        let key = (take.merchant.clone(), take.request.clone());
        if let Some(known) = self.view.requests.get(&key) {
            let same = known.digest == take.digest;
            return if same { Ok(Outcome::Repeated(self.taken(known))) } else { Err(Rejection::RequestReused) };
        }
        let device = self.view.devices.get(&take.device).filter(|device| device.merchant == take.merchant);
        let device = device.ok_or(Rejection::DeviceUnknown)?;
        if device.state != device::State::Active {
            return Err(Rejection::DeviceNotActive);
        }
        let guard = device.guard.admit(take.counter, device.window).map_err(|_| Rejection::Replayed)?;
        if take.payment.as_ref().is_some_and(|payment| self.view.payments.contains_key(&payment.id)) {
            return Err(Rejection::WrongState);
        }
        let card = self.card(take)?;
        // Nothing can be refused any more: from here on everything happens.
        let after = DeviceView { guard, faults: 0, ..device.clone() };
        self.change_device(&take.device, after);
        let card = match card {
            Card::Known(card) => card,
            Card::New(candidate) => self.issue(take, candidate, at_ms),
        };
        let card = stored_card(card, &take.origin);
        let payment = take.payment.as_ref().map(|new| StoredPayment {
            id: new.id,
            merchant: take.merchant.clone(),
            order: new.order.clone(),
            amount: new.amount,
            channel: new.channel,
            state: State::Sent,
            card: card.clone(),
            created_at_ms: at_ms,
            updated_at_ms: at_ms,
        });
        let view = RequestView { digest: take.digest, card: card.clone(), payment: payment.as_ref().map(|new| new.id) };
        self.view.requests.insert(key.clone(), view.clone());
        self.effects.requests.insert(key, NewRequest { view, at_ms });
        if let Some(payment) = &payment {
            self.view.payments.insert(payment.id, payment.clone());
            self.effects.new_payments.insert(payment.id, payment.clone());
        }
        Ok(Outcome::Taken(Taken { card, payment }))
    }

    /// Which token the card has, or may have.
    fn card<'a>(&self, take: &'a Take) -> Result<Card<'a>, Rejection> {
        let mut keys = take.fingerprints.each().map(|fingerprint| (take.merchant.clone(), fingerprint));
        if let Some(card) = keys.find_map(|key| self.view.cards.get(&key)) {
            return Ok(Card::Known(card.clone()));
        }
        let candidate = take.candidate.as_ref().ok_or(Rejection::TokenWanted)?;
        let accepted = self.view.vaults.get(&take.merchant);
        if !accepted.is_some_and(|accepted| accepted.has(take.fingerprints.generation)) {
            return Err(Rejection::VaultMoved);
        }
        match self.view.held.contains(&(take.merchant.clone(), candidate.token)) {
            true => Err(Rejection::TokenCollision),
            false => Ok(Card::New(candidate)),
        }
    }

    fn issue(&mut self, take: &Take, candidate: &Candidate, at_ms: i64) -> CardView {
        let Candidate { token, sealed, masked, brand } = candidate;
        let card = CardView { token: *token, masked: *masked, brand: *brand };
        for fingerprint in take.fingerprints.each() {
            self.view.cards.insert((take.merchant.clone(), fingerprint), card.clone());
        }
        self.view.held.insert((take.merchant.clone(), *token));
        let sealed = sealed.clone();
        let row = NewToken { fingerprints: take.fingerprints, card: card.clone(), sealed, at_ms };
        self.effects.tokens.insert((take.merchant.clone(), *token), row);
        card
    }

    fn taken(&self, request: &RequestView) -> Taken {
        let payment = request.payment.and_then(|id| self.view.payments.get(&id)).cloned();
        Taken { card: request.card.clone(), payment }
    }

    fn move_payment(&mut self, id: PaymentId, seen: (State, i64), to: State, at_ms: i64) -> Result<Outcome, Rejection> {
        let payment = self.view.payments.get_mut(&id);
        let payment = payment.filter(|payment| (payment.state, payment.updated_at_ms) == seen);
        let payment = payment.ok_or(Rejection::WrongState)?;
        let (from, since_ms) = seen;
        if from.apply(event_to(to)) != Ok(to) {
            return Err(Rejection::WrongState);
        }
        // Clocks differ and step back: a time met twice would make two stays in one state look like one.
        let at_ms = at_ms.max(since_ms.saturating_add(1));
        payment.state = to;
        payment.updated_at_ms = at_ms;
        match self.effects.new_payments.get_mut(&id) {
            Some(new) => new.clone_from(payment),
            None => {
                self.payments_before.entry(id).or_insert(seen);
            }
        }
        Ok(Outcome::Moved(payment.clone()))
    }

    fn spend(&mut self, id: &DeviceId, counter: Counter) -> Result<Outcome, Rejection> {
        let device = self.view.devices.get(id).ok_or(Rejection::DeviceUnknown)?;
        let guard = device.guard.admit(counter, device.window).map_err(|_| Rejection::Replayed)?;
        // The frame was genuine, whatever it held.
        let after = DeviceView { guard, faults: 0, ..device.clone() };
        self.change_device(id, after);
        Ok(Outcome::Spent)
    }

    fn fault(&mut self, id: &DeviceId, limit: Option<u32>) -> Result<Outcome, Rejection> {
        let device = self.view.devices.get(id).ok_or(Rejection::DeviceUnknown)?;
        let faults = device.faults.saturating_add(1);
        let suspended = device.state == device::State::Active && limit.is_some_and(|limit| faults >= limit);
        let state = if suspended { device::State::Suspended } else { device.state };
        let after = DeviceView { faults, state, ..device.clone() };
        self.change_device(id, after);
        Ok(Outcome::Faulted { suspended })
    }

    fn change_device(&mut self, id: &DeviceId, after: DeviceView) {
        if let Some(before) = self.view.devices.insert(id.clone(), after) {
            self.devices_before.entry(id.clone()).or_insert(before);
        }
    }

    fn close(mut self) -> Effects {
        for (key, before) in self.devices_before {
            // Only devices of the view are ever changed.
            if let Some(after) = self.view.devices.remove(&key) {
                self.effects.devices.push(Changed { key, before, after });
            }
        }
        for (id, (from, since_ms)) in self.payments_before {
            if let Some(payment) = self.view.payments.get(&id) {
                let (to, at_ms) = (payment.state, payment.updated_at_ms);
                self.effects.moved_payments.push(MovedPayment { id, from, since_ms, to, at_ms });
            }
        }
        self.effects
    }
}

enum Card<'a> {
    Known(CardView),
    New(&'a Candidate),
}

pub(super) fn stored_card(card: CardView, origin: &Origin) -> StoredCard {
    StoredCard { token: card.token, masked: card.masked, brand: card.brand, origin: origin.clone() }
}

/// The event that leads to a state: each has one.
const fn event_to(to: State) -> Event {
    match to {
        State::Sent => Event::SentAgain,
        State::Authorized(code) => Event::Approved(code),
        State::Declined(code) => Event::Declined(code),
        State::Unknown => Event::Silent,
        State::Reversed => Event::ReversalAccepted,
    }
}

/// What a job came to, in the writer's own words: only the writer knows.
fn own_record(intent: &Intent, answer: &Result<Outcome, Rejection>, at_ms: u64) -> Option<Record> {
    let about = |kind| about(intent, at_ms, kind);
    match (answer, intent) {
        (Err(rejection), _) => Some(about(Kind::RequestRefused).because(rejection)),
        (Ok(Outcome::Taken(Taken { payment: Some(_), .. })), _) => Some(about(Kind::PaymentSent)),
        (Ok(Outcome::Taken(Taken { payment: None, .. })), _) => Some(about(Kind::TokenIssued)),
        (Ok(Outcome::Moved(_)), Intent::Move { to: State::Sent, .. }) => {
            Some(about(Kind::PaymentSent).because("taken up to be sent again"))
        }
        (Ok(Outcome::Moved(_)), Intent::Move { from: State::Unknown, to: State::Unknown, .. }) => {
            Some(about(Kind::PaymentMoved).because("about to be taken back"))
        }
        (Ok(Outcome::Moved(_)), Intent::Move { to, .. }) => Some(about(Kind::PaymentMoved).because(to.name())),
        (Ok(Outcome::Faulted { suspended: true }), _) => {
            Some(about(Kind::DeviceQuarantined).because("too many frames were not genuine"))
        }
        (
            Ok(
                Outcome::Noted
                | Outcome::Repeated(_)
                | Outcome::Moved(_)
                | Outcome::Spent
                | Outcome::Faulted { suspended: false },
            ),
            _,
        ) => None,
    }
}

/// A record of the writer's own about a job.
fn about(intent: &Intent, at_ms: u64, kind: Kind) -> Record {
    let mut record = Record::new(at_ms, kind);
    match intent {
        Intent::Note => {}
        Intent::Take(take) => {
            record.merchant = Some(take.merchant.to_string());
            record.request = Some(take.request.to_string());
            record.device = Some(take.device.to_string());
            record.payment = take.payment.as_ref().map(|payment| payment.id.to_string());
        }
        Intent::Move { payment, .. } => record.payment = Some(payment.to_string()),
        Intent::Spend { device, .. } | Intent::Fault { device, .. } => record.device = Some(device.to_string()),
    }
    record
}

#[cfg(test)]
mod tests;
