//! The stage: a store in a temporary folder, devices that seal frames, an HSM and an acquirer that can be told to fail.

mod acquirer;
mod device;
mod hsm;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sea_orm::ConnectionTrait;
use tempfile::TempDir;
use warifu_core::custody::{self, Environment};
use warifu_core::device::{Format, Profile, State};
use warifu_core::ksn::Ksn;
use warifu_core::merchant::{DeviceId, MerchantId, ModuleId, OrderNumber, RequestId};
use warifu_core::money::{Currency, Money};
use warifu_core::payment::Channel;
use warifu_core::refusal::Refusal;
use warifu_core::replay::KsnGuard;
use warifu_core::token::LastFour;
use warifu_hsm::VaultGeneration;

pub(super) use acquirer::{Mood, Question, Scripted};
pub(super) use device::{Keypad, augusta, augusta_ksn, bdks};
pub(super) use hsm::{Fault, Watched};

use crate::acquirer::Acquirer;
use crate::clock::RuntimeClock;
use crate::house::{Authorize, Caller, House, Settings, StartError, Tokenize};
use crate::record::{Kind, Record};
use crate::store::job::{StoredCard, StoredPayment};
use crate::store::{
    BdkRecord, CardCheck, DeviceRecord, LogId, MerchantRecord, ModuleRecord, ModuleState, Store, Vault, WriterSettings,
};
use crate::supervisor::run;

/// 2026-11-18, in milliseconds.
pub(super) const TODAY_MS: u64 = 1_795_000_000_000;
/// A card that is good and has not ended.
pub(super) const CARD: &[u8] = b"4111111111111111=2812=123";

/// Where a scene plays. It stays when the house on it goes down.
pub(super) struct Stage {
    folder: TempDir,
    pub(super) hsm: Arc<Watched>,
    pub(super) settings: Settings,
}

impl Stage {
    /// An empty store.
    pub(super) fn new() -> Self {
        // Resolving backtraces takes longer than everything else here.
        std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
        let settings = Settings {
            instance: "test-1".to_owned(),
            derivers: 2,
            admission: 256,
            queue_wait: Duration::from_secs(2),
            request_timeout: Duration::from_secs(20),
            acquirer_timeout: Duration::from_secs(10),
            audit_window: Duration::from_secs(60),
            accept_non_p2pe: true,
            dev: true,
            bdks: bdks().into_iter().map(|(spec, _)| spec).collect(),
            hsm_found: Vec::new(),
            fault_limit: 3,
            sign_every: Duration::from_secs(3600),
            writer: WriterSettings::default(),
        };
        Self { folder: tempfile::tempdir().unwrap(), hsm: Arc::new(Watched::new()), settings }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self) -> String {
        format!("sqlite://{}?mode=rwc", self.file("store.db").display())
    }

    /// The store as another process sees it.
    pub(super) async fn store(&self) -> Store {
        Store::connect(&self.url()).await.unwrap()
    }

    /// Opens the house on it.
    pub(super) async fn start(&self, acquirer: Arc<dyn Acquirer>) -> Result<Scene, StartError> {
        let store = self.store().await;
        store.migrate().await.unwrap();
        let clock = Arc::new(RuntimeClock::starting_at(TODAY_MS));
        let hsm = Arc::clone(&self.hsm);
        let house = House::start(self.settings.clone(), store.clone(), hsm, acquirer, clock).await?;
        Ok(Scene { house, store, hsm: Arc::clone(&self.hsm), url: self.url() })
    }
}

/// A running house, and its store seen from outside.
pub(super) struct Scene {
    pub(super) house: House,
    pub(super) store: Store,
    pub(super) hsm: Arc<Watched>,
    url: String,
}

/// Plays a scene in a house with an approving acquirer, two merchants with a module each, and a keypad.
pub(super) fn play<F>(scene: impl FnOnce(Scene, Arc<Scripted>, Keypad) -> F)
where
    F: Future<Output = ()>,
{
    play_on(&Stage::new(), scene);
}

/// As [`play`], on a stage of its own.
pub(super) fn play_on<F>(stage: &Stage, scene: impl FnOnce(Scene, Arc<Scripted>, Keypad) -> F)
where
    F: Future<Output = ()>,
{
    run(async {
        let acquirer = Arc::new(Scripted::default());
        let open = stage.start(acquirer.clone()).await.unwrap();
        open.people().await;
        let keypad = open.keypad(1, "keypad-1", "shop-1").await;
        scene(open, acquirer, keypad).await;
    });
}

pub(super) fn caller(number: u32) -> Caller {
    Caller {
        merchant: MerchantId::parse(&format!("shop-{number}")).unwrap(),
        module: ModuleId::parse(&format!("pos-{number}")).unwrap(),
    }
}

pub(super) fn certificate(number: u8) -> [u8; 32] {
    [number; 32]
}

pub(super) fn request(name: &str) -> RequestId {
    RequestId::parse(name).unwrap()
}

pub(super) fn yen(minor: i64) -> Money {
    Money::new(minor, Currency::parse("JPY").unwrap()).unwrap()
}

pub(super) fn tokenize(name: &str, output: Bytes) -> Tokenize {
    Tokenize { request: request(name), output }
}

/// An order of that name over that many yen.
pub(super) fn authorize(name: &str, minor: i64, output: Bytes) -> Authorize {
    Authorize {
        request: request(name),
        output,
        order: OrderNumber::parse(&format!("order {name}")).unwrap(),
        amount: yen(minor),
        channel: Channel::Telephone,
    }
}

/// A payment without the moment of its last move: what callers who race are told alike.
pub(super) fn untimed(payment: StoredPayment) -> StoredPayment {
    StoredPayment { updated_at_ms: payment.created_at_ms, ..payment }
}

/// Waits for something that happens by itself. Real time passes, so it is looked at again and again.
pub(super) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

impl Scene {
    /// Does something to the database behind everybody's back.
    pub(super) async fn sabotage(&self, sql: &str) {
        let other = sea_orm::Database::connect(&self.url).await.unwrap();
        other.execute_unprepared(sql).await.unwrap();
        other.close().await.unwrap();
    }

    /// Where its database is.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Two merchants and their modules, and the keys.
    pub(super) async fn people(&self) {
        let registry = self.registry();
        for (spec, _) in device::bdks() {
            let bdk = BdkRecord {
                id: spec.id,
                purpose: custody::Purpose::Bdk,
                scheme: spec.scheme,
                len: spec.len,
                environment: Environment::Test,
                merchant: None,
                kcv: None,
                proof: spec.proof.unwrap(),
                state: custody::State::Active,
                created_at_ms: 1,
                activated_at_ms: None,
                expires_at_ms: None,
            };
            registry.register_bdk(&bdk).await.unwrap();
        }
        for number in 1..=2_u8 {
            let Caller { merchant, module } = caller(number.into());
            let vault = Vault::of(self.hsm.vault_key(VaultGeneration::FIRST));
            let last_four = if number == 1 { LastFour::Keep } else { LastFour::Random };
            let name = format!("Shop {number}");
            let record = MerchantRecord { id: merchant.clone(), name, last_four, vault, created_at_ms: 1 };
            registry.register_merchant(&record).await.unwrap();
            registry
                .register_module(&ModuleRecord {
                    id: module,
                    merchant,
                    certificate_sha256: certificate(number),
                    state: ModuleState::Active,
                    created_at_ms: 1,
                })
                .await
                .unwrap();
        }
    }

    pub(super) fn registry(&self) -> crate::store::Registry {
        self.store.registry(LogId::parse("test-cli").unwrap())
    }

    /// Registers an active keypad.
    pub(super) async fn keypad(&self, serial: u32, id: &str, merchant: &str) -> Keypad {
        let keypad = Keypad::new(serial);
        self.device(id, merchant, keypad.ksn(), "aes-1", Format::Native, CardCheck::Luhn).await;
        keypad
    }

    /// Registers an active device.
    pub(super) async fn device(&self, id: &str, merchant: &str, ksn: Ksn, bdk: &str, format: Format, check: CardCheck) {
        let id = DeviceId::parse(id).unwrap();
        let record = DeviceRecord {
            id: id.clone(),
            merchant: MerchantId::parse(merchant).unwrap(),
            ksn_device: ksn.device(),
            bdk: warifu_core::merchant::BdkId::parse(bdk).unwrap(),
            profile: Profile { format, key: None },
            state: State::Registered,
            card_check: check,
            window: 0,
            guard: KsnGuard::default(),
            faults: 0,
            model: None,
            firmware: None,
            sred: None,
            created_at_ms: 1,
        };
        self.registry().register_device(&record).await.unwrap();
        self.set_device(&id, State::Active).await;
    }

    pub(super) async fn set_device(&self, id: &DeviceId, state: State) {
        self.registry().set_device_state(id, state, 1).await.unwrap();
    }

    pub(super) async fn tokenize(&self, name: &str, output: Bytes) -> Result<StoredCard, Refusal> {
        self.house.tokenize(&caller(1), tokenize(name, output)).await
    }

    pub(super) async fn authorize(&self, name: &str, minor: i64, output: Bytes) -> Result<StoredPayment, Refusal> {
        self.house.authorize(&caller(1), authorize(name, minor, output)).await.map(untimed)
    }

    /// Everything in the house's audit log so far.
    pub(super) async fn records(&self) -> Vec<Record> {
        let log = LogId::parse(&self.house.settings().instance).unwrap();
        let stored = self.store.records(&log, 0, 100_000).await.unwrap();
        stored.iter().map(|record| serde_json::from_str(&record.line).unwrap()).collect()
    }

    /// The one record of this kind about a request.
    pub(super) async fn record_of(&self, name: &str, kind: Kind) -> Record {
        let records = self.records().await;
        let mut of = records.iter().filter(|record| record.kind == kind && record.request.as_deref() == Some(name));
        let found = of.next().unwrap_or_else(|| panic!("no {kind:?} of {name} in {records:#?}")).clone();
        assert_eq!(of.next(), None, "more than one {kind:?} of {name}");
        found
    }

    /// A record of this kind and cause, which may be written a little later.
    pub(super) async fn caused(&self, kind: Kind, cause: &str) -> Record {
        eventually("the record", async || {
            let is_it = |record: &Record| record.kind == kind && record.cause.as_deref() == Some(cause);
            self.records().await.into_iter().find(is_it)
        })
        .await
    }

    /// How the payment of a request stands in the store.
    pub(super) async fn stored(&self, name: &str) -> StoredPayment {
        let (_, taken) = self.store.request(&caller(1).merchant, &request(name)).await.unwrap().unwrap();
        untimed(taken.payment.unwrap())
    }
}
