//! Any batching of any jobs comes to what the jobs come to one by one, and breaks none of the house's promises.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use uuid::Uuid;
use warifu_core::card::{Brand, MaskedPan};
use warifu_core::frame::Entry;
use warifu_core::ksn::{Counter, Scheme};
use warifu_core::merchant::OrderNumber;
use warifu_core::money::{Currency, Money};
use warifu_core::payment::{ApprovalCode, Channel, ResponseCode};
use warifu_hsm::{DecryptionMode, VaultGeneration};

use super::*;
use crate::store::job::NewPayment;

/// All tables, with the promises their keys and conditions make.
#[derive(Clone, Default, PartialEq)]
struct Database {
    devices: HashMap<DeviceId, DeviceView>,
    requests: HashMap<RequestKey, RequestView>,
    tokens: HashMap<(MerchantId, Token), (Fingerprints, CardView)>,
    vaults: HashMap<MerchantId, Accepted>,
    payments: HashMap<PaymentId, StoredPayment>,
    records: Vec<String>,
}

impl Database {
    fn new() -> Self {
        let device = |merchant: &str, window, state| DeviceView {
            merchant: MerchantId::parse(merchant).unwrap(),
            state,
            window,
            guard: KsnGuard::default(),
            faults: 0,
        };
        let devices = [
            (device_id(0), device("shop", 0, device::State::Active)),
            (device_id(1), device("shop", 8, device::State::Active)),
            (device_id(2), device("other", 64, device::State::Active)),
            (device_id(3), device("shop", 0, device::State::Registered)),
            (device_id(4), device("third", 8, device::State::Active)),
        ];
        let second = VaultGeneration::FIRST.next();
        // One vault at rest, one that has begun to move, one that is closed for the key it moves from.
        let begun = Accepted::only(VaultGeneration::FIRST).and(second);
        let vaults =
            [("shop", Accepted::only(VaultGeneration::FIRST)), ("other", begun), ("third", Accepted::only(second))];
        let vaults = vaults.map(|(id, accepted)| (MerchantId::parse(id).unwrap(), accepted));
        Self { devices: devices.into(), vaults: vaults.into(), ..Self::default() }
    }

    /// What the writer reads for a batch.
    fn view(&self, wanted: &Wanted<'_>) -> View {
        let mut view = View::default();
        let devices = self.devices.iter().filter(|(id, _)| wanted.devices.contains(id));
        view.devices.extend(devices.map(|(id, device)| (id.clone(), device.clone())));
        let requests = self.requests.iter().filter(|((merchant, id), _)| wanted.requests.contains(&(merchant, id)));
        view.requests.extend(requests.map(|(key, request)| (key.clone(), request.clone())));
        let told: HashSet<_> = view.requests.values().filter_map(|request| request.payment).collect();
        let payments = self.payments.iter().filter(|(id, _)| wanted.payments.contains(id) || told.contains(id));
        view.payments.extend(payments.map(|(id, payment)| (*id, payment.clone())));
        for ((merchant, token), (fingerprints, card)) in &self.tokens {
            let wanted_of = |fingerprint: &Fingerprint| wanted.fingerprints.contains(&(merchant, fingerprint.0));
            let found = fingerprints.each().filter(wanted_of);
            view.cards.extend(found.map(|fingerprint| ((merchant.clone(), fingerprint), card.clone())));
            if wanted.candidates.contains(&(merchant, *token)) {
                view.held.insert((merchant.clone(), *token));
            }
        }
        let vaults = wanted.vaults.keys().filter_map(|merchant| self.vaults.get_key_value(*merchant));
        view.vaults.extend(vaults.map(|(merchant, stage)| (merchant.clone(), *stage)));
        view
    }

    /// What the writer writes of a batch; panics where a database would refuse.
    fn apply(&mut self, effects: Effects) {
        for Changed { key, before, after } in effects.devices {
            assert!(self.devices.insert(key, after) == Some(before), "a device changed under the batch");
        }
        for ((merchant, token), new) in effects.tokens {
            let new_ones: Vec<_> = new.fingerprints.each().collect();
            let same = |known: &Fingerprints| known.each().any(|known| new_ones.contains(&known));
            let twin = self.tokens.iter().any(|((of, _), (known, _))| *of == merchant && same(known));
            assert!(!twin, "a card has two tokens");
            assert!(self.vaults[&merchant].has(new.fingerprints.generation), "a token of a key that is over");
            let row = (new.fingerprints, new.card);
            assert!(self.tokens.insert((merchant, token), row).is_none(), "a token has two cards");
        }
        for (key, new) in effects.requests {
            assert!(self.requests.insert(key, new.view).is_none(), "a request was taken twice");
        }
        for (id, new) in effects.new_payments {
            assert!(self.payments.insert(id, new).is_none(), "a payment was made twice");
        }
        for moved in effects.moved_payments {
            let payment = self.payments.get_mut(&moved.id).expect("a payment that is there");
            assert_eq!(payment.state, moved.from);
            payment.state = moved.to;
            payment.updated_at_ms = moved.at_ms;
        }
        self.records.extend(effects.records);
    }

    fn run(&mut self, batch: &[Job]) -> Vec<Result<Outcome, Rejection>> {
        let Decision { effects, answers } = decide(self.view(&Wanted::by(batch)), batch, 77);
        assert_eq!(answers.len(), batch.len());
        self.apply(effects);
        answers
    }
}

/// A card's fingerprints as a vault at rest under the first keys makes them, or one that moves on from those.
fn fingerprints(card: u8, moving: bool) -> Fingerprints {
    let (first, second) = (Fingerprint([card; 32]), Fingerprint([card + 100; 32]));
    match moving {
        false => Fingerprints { generation: VaultGeneration::FIRST, current: first, former: None },
        true => Fingerprints { generation: VaultGeneration::FIRST.next(), current: second, former: Some(first) },
    }
}

fn device_id(number: u8) -> DeviceId {
    DeviceId::parse(&format!("pad-{number}")).unwrap()
}

fn token(number: u8) -> Token {
    (0..).find_map(|extra| Token::draw((u64::from(number) * 100 + extra).to_be_bytes(), None)).unwrap()
}

fn payment_id(number: u8) -> PaymentId {
    PaymentId(Uuid::from_u128(u128::from(number) + 1))
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        4 => Just(State::Sent),
        4 => Just(State::Unknown),
        2 => Just(State::Authorized(ApprovalCode::parse("A00001").unwrap())),
        1 => Just(State::Authorized(ApprovalCode::parse("A00002").unwrap())),
        2 => Just(State::Declined(ResponseCode::parse("51").unwrap())),
        3 => Just(State::Reversed),
    ]
}

prop_compose! {
    fn taking()(
        merchant in prop_oneof![5 => Just("shop"), 1 => Just("other"), 2 => Just("third")],
        request in 0..20_u8,
        digest in prop_oneof![5 => Just(0_u8), 1 => Just(1)],
        device in 0..6_u8,
        counter in 1..30_u32,
        card in 0..5_u8,
        draw in prop::option::weighted(0.8, 0..6_u8),
        payment in prop::option::of(0..8_u8),
        // Seen a while ago, when the vault stood otherwise.
        outdated in prop::bool::weighted(0.1),
    ) -> Intent {
        Intent::Take(Box::new(Take {
            merchant: MerchantId::parse(merchant).unwrap(),
            request: RequestId::parse(&format!("r{request}")).unwrap(),
            digest: [digest; 32],
            device: device_id(device),
            counter: Counter::new(Scheme::Aes, counter).unwrap(),
            fingerprints: fingerprints(card, (merchant != "shop") != outdated),
            candidate: draw.map(|draw| Candidate {
                token: token(draw),
                sealed: SealedPan { nonce: [draw; 12], ciphertext: vec![draw; 32] },
                masked: MaskedPan::parse("411111******1111").unwrap(),
                brand: Brand::Visa,
            }),
            origin: Origin {
                device: device_id(device),
                entry: Entry::Keyed,
                scheme: Scheme::Aes,
                mode: DecryptionMode::Hardware,
            },
            payment: payment.map(|number| NewPayment {
                id: payment_id(number),
                order: OrderNumber::parse("order").unwrap(),
                amount: Money::new(1200, Currency::parse("JPY").unwrap()).unwrap(),
                channel: Channel::Mail,
            }),
        }))
    }
}

fn intent() -> impl Strategy<Value = Intent> {
    prop_oneof![
        1 => Just(Intent::Note),
        8 => taking(),
        6 => (0..8_u8, state(), since(), state()).prop_map(|(payment, from, since_ms, to)| Intent::Move {
            payment: payment_id(payment),
            from,
            since_ms,
            to,
        }),
        2 => (0..5_u8, 1..30_u32).prop_map(|(device, counter)| Intent::Spend {
            device: device_id(device),
            counter: Counter::new(Scheme::Aes, counter).unwrap(),
        }),
        2 => (0..5_u8, prop::option::of(2..5_u32))
            .prop_map(|(device, limit)| Intent::Fault { device: device_id(device), limit }),
    ]
}

/// Stands for the time since when a payment stands where it stands.
const AS_IT_STANDS: i64 = -1;

fn since() -> impl Strategy<Value = i64> {
    prop_oneof![9 => Just(AS_IT_STANDS), 1 => 0..9_i64]
}

/// Lets every move start from what its payment was like just before.
fn seen(mut jobs: Vec<Job>) -> Vec<Job> {
    let mut database = Database::new();
    for job in &mut jobs {
        if let Intent::Move { payment, since_ms, .. } = &mut job.intent
            && *since_ms == AS_IT_STANDS
            && let Some(stands) = database.payments.get(payment)
        {
            *since_ms = stands.updated_at_ms;
        }
        database.run(std::slice::from_ref(job));
    }
    jobs
}

fn jobs() -> impl Strategy<Value = Vec<Job>> {
    let records = prop::collection::vec(0..9_u64, 0..3)
        .prop_map(|times| times.into_iter().map(|at| Record::new(at, Kind::HsmWindowOpened)).collect());
    prop::collection::vec((intent(), records).prop_map(|(intent, records)| Job { intent, records }), 1..120)
        .prop_map(seen)
}

/// What the answers alone must tell of the house's promises.
fn check_promises(jobs: &[Job], answers: &[Result<Outcome, Rejection>]) -> Result<(), TestCaseError> {
    let mut used = HashSet::new();
    let mut requests: HashMap<_, (&Take, &Taken)> = HashMap::new();
    let mut tokens: HashMap<_, Fingerprint> = HashMap::new();
    let mut payments: HashMap<PaymentId, (State, i64)> = HashMap::new();
    for (job, answer) in jobs.iter().zip(answers) {
        match (&job.intent, answer) {
            (Intent::Take(take), Ok(Outcome::Taken(taken))) => {
                prop_assert!(used.insert((&take.device, take.counter)), "a counter was used twice");
                let before = requests.insert((&take.merchant, &take.request), (take, taken));
                prop_assert!(before.is_none(), "a request had two effects");
                // The first key's is made in either stage.
                let first = take.fingerprints.former.unwrap_or(take.fingerprints.current);
                let holder = tokens.entry((&take.merchant, taken.card.token)).or_insert(first);
                prop_assert!(*holder == first, "a token has two cards");
                if let Some(payment) = &taken.payment {
                    prop_assert_eq!(payment.state, State::Sent);
                    let before = payments.insert(payment.id, (State::Sent, payment.updated_at_ms));
                    prop_assert!(before.is_none(), "a payment was made twice");
                }
            }
            (Intent::Take(take), Ok(Outcome::Repeated(again))) => {
                let (first, taken) = requests[&(&take.merchant, &take.request)];
                prop_assert_eq!(first.digest, take.digest);
                prop_assert_eq!(&again.card, &taken.card);
                prop_assert_eq!(again.payment.as_ref().map(|payment| payment.id), taken.payment.as_ref().map(|p| p.id));
                let now = again.payment.as_ref().map(|payment| payment.state);
                prop_assert_eq!(now, taken.payment.as_ref().map(|payment| payments[&payment.id].0));
            }
            (Intent::Take(take), Err(Rejection::RequestReused)) => {
                prop_assert_ne!(requests[&(&take.merchant, &take.request)].0.digest, take.digest);
            }
            (Intent::Take(take), Err(_)) => {
                prop_assert!(!requests.contains_key(&(&take.merchant, &take.request)), "a retry was refused");
            }
            (Intent::Move { payment, from, since_ms, to }, Ok(Outcome::Moved(moved))) => {
                let before = payments.insert(*payment, (*to, moved.updated_at_ms));
                prop_assert_eq!(before, Some((*from, *since_ms)));
                prop_assert_eq!((moved.id, moved.state), (*payment, *to));
                prop_assert!(moved.updated_at_ms > *since_ms, "two stays in a state look alike");
                let events = [State::Sent, State::Unknown, State::Reversed, *to].map(event_to);
                prop_assert!(events.into_iter().any(|event| from.apply(event) == Ok(*to)), "an illegal move");
            }
            (Intent::Move { payment, from, since_ms, to }, Err(Rejection::WrongState)) => {
                let legal = payments.get(payment) == Some(&(*from, *since_ms)) && from.apply(event_to(*to)) == Ok(*to);
                prop_assert!(!legal, "a legal move was refused");
            }
            (Intent::Spend { device, counter }, Ok(Outcome::Spent)) => {
                prop_assert!(used.insert((device, *counter)), "a counter was used twice");
            }
            (Intent::Note, Ok(Outcome::Noted))
            | (Intent::Spend { .. }, Err(Rejection::Replayed | Rejection::DeviceUnknown))
            | (Intent::Fault { .. }, Ok(Outcome::Faulted { .. }) | Err(Rejection::DeviceUnknown)) => {}
            (intent, answer) => return Err(TestCaseError::fail(format!("{intent:?} came to {answer:?}"))),
        }
    }
    let cards: HashSet<_> = tokens.iter().map(|((merchant, _), fingerprint)| (merchant, fingerprint.0)).collect();
    prop_assert_eq!(cards.len(), tokens.len(), "a card has two tokens");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn batches_come_to_what_their_jobs_come_to_one_by_one(jobs in jobs(), cuts in prop::collection::vec(1..40_usize, 1..40)) {
        let mut alone = Database::new();
        let one_by_one: Vec<_> = jobs.iter().flat_map(|job| alone.run(std::slice::from_ref(job))).collect();
        let mut together = Database::new();
        let mut answers = Vec::new();
        let mut rest = jobs.as_slice();
        for cut in cuts.iter().cycle() {
            let (batch, later) = rest.split_at((*cut).min(rest.len()));
            answers.extend(together.run(batch));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(&answers, &one_by_one);
        prop_assert!(together == alone, "the tables differ");
        check_promises(&jobs, &one_by_one)?;
        // Every record is there, and one more for each refusal and each job that changed something for good.
        let own = one_by_one.iter().filter(|answer| {
            matches!(answer, Err(_) | Ok(Outcome::Taken(_) | Outcome::Moved(_) | Outcome::Faulted { suspended: true }))
        });
        let given: usize = jobs.iter().map(|job| job.records.len()).sum();
        prop_assert_eq!(alone.records.len(), given + own.count());
    }

    #[test]
    fn a_refused_take_changes_nothing(jobs in jobs(), last in taking()) {
        let mut database = Database::new();
        database.run(&jobs);
        let mut before = database.clone();
        let last = Job { intent: last, records: Vec::new() };
        let answer = database.run(std::slice::from_ref(&last));
        if let [Err(_) | Ok(Outcome::Repeated(_))] = answer.as_slice() {
            before.records.clone_from(&database.records);
            prop_assert!(database == before);
        }
    }
}
