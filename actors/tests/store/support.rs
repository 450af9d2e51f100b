//! Databases to test on, and jobs to test with.

use std::future::Future;

use sea_orm::{ConnectionTrait, Database, DatabaseConnection, Statement};
use tempfile::TempDir;
use uuid::Uuid;
use warifu_actors::record::{Kind, Record};
use warifu_actors::store::job::{
    Candidate, Intent, Job, NewPayment, Origin, Outcome, PaymentId, Rejection, Take, Taken,
};
use warifu_actors::store::{
    Answer, CardCheck, DeviceRecord, Fingerprints, LogId, MerchantRecord, Store, Vault, Writer, WriterSettings,
};
use warifu_core::audit::{Tree, leaf_hash};
use warifu_core::card::{Brand, MaskedPan};
use warifu_core::device::{Format, Profile, State};
use warifu_core::frame::Entry;
use warifu_core::ksn::{Counter, Ksn, Scheme};
use warifu_core::merchant::{BdkId, DeviceId, MerchantId, OrderNumber, RequestId};
use warifu_core::money::{Currency, Money};
use warifu_core::payment::Channel;
use warifu_core::replay::KsnGuard;
use warifu_core::token::{LastFour, Token};
use warifu_hsm::{DecryptionMode, Fingerprint, SealedPan, VaultGeneration, WrappedVaultKey};

pub(crate) const AT_MS: i64 = 1_700_000_000_000;
/// Records of a card that was taken: the opened frame's, and the writer's own of what came of it.
pub(crate) const EACH: usize = 2;

/// A database of its own for one scene.
pub(crate) struct Place {
    pub(crate) url: String,
    kind: PlaceKind,
}

enum PlaceKind {
    Sqlite { _dir: TempDir },
    Postgres { admin: DatabaseConnection, name: String },
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/store.db?mode=rwc", dir.path().display());
        Self { url, kind: PlaceKind::Sqlite { _dir: dir } }
    }

    pub(crate) async fn postgres() -> Self {
        let server = std::env::var("WARIFU_TEST_POSTGRES")
            .expect("WARIFU_TEST_POSTGRES must name a PostgreSQL server; scripts/with-postgres starts one");
        let admin = plain(&server).await;
        let name = format!("warifu_{}", Uuid::new_v4().simple());
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        let (host, _) = server.rsplit_once('/').unwrap();
        Self { url: format!("{host}/{name}"), kind: PlaceKind::Postgres { admin, name } }
    }

    /// A connection that is not the store's.
    pub(crate) async fn outside(&self) -> DatabaseConnection {
        plain(&self.url).await
    }

    /// Asks something of the whole PostgreSQL server; `{}` stands for this database's name.
    pub(crate) async fn server(&self, sql: &str) {
        let PlaceKind::Postgres { admin, name } = &self.kind else { panic!("SQLite has no server") };
        admin.execute_unprepared(&sql.replace("{}", name)).await.unwrap();
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        matches!(self.kind, PlaceKind::Sqlite { .. })
    }

    async fn remove(self) {
        if let PlaceKind::Postgres { admin, name } = self.kind {
            admin.execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
        }
    }
}

async fn plain(url: &str) -> DatabaseConnection {
    let mut options = sea_orm::ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

/// Plays a scene on both databases.
pub(crate) async fn everywhere<F: Future<Output = ()>>(scene: impl Fn(Stage) -> F) {
    for place in [Place::sqlite(), Place::postgres().await] {
        play(place, &scene).await;
    }
}

pub(crate) async fn on_sqlite<F: Future<Output = ()>>(scene: impl Fn(Stage) -> F) {
    play(Place::sqlite(), &scene).await;
}

pub(crate) async fn on_postgres<F: Future<Output = ()>>(scene: impl Fn(Stage) -> F) {
    play(Place::postgres().await, &scene).await;
}

async fn play<F: Future<Output = ()>>(place: Place, scene: &impl Fn(Stage) -> F) {
    let place = std::sync::Arc::new(place);
    let stage = Stage::set(std::sync::Arc::clone(&place)).await;
    let store = stage.store.clone();
    scene(stage).await;
    store.close().await;
    if let Some(place) = std::sync::Arc::into_inner(place) {
        place.remove().await;
    }
}

/// A migrated store with a merchant `shop`, whose devices `pad-0` to `pad-3` are active, and a writer `one`.
pub(crate) struct Stage {
    pub(crate) place: std::sync::Arc<Place>,
    pub(crate) store: Store,
    pub(crate) writer: Writer,
}

impl Stage {
    async fn set(place: std::sync::Arc<Place>) -> Self {
        let store = Store::connect(&place.url).await.unwrap();
        store.migrate().await.unwrap();
        let registry = store.registry(log("cli"));
        registry.register_merchant(&merchant("shop")).await.unwrap();
        registry.register_merchant(&merchant("other")).await.unwrap();
        for number in 0..4 {
            registry.register_device(&device(number)).await.unwrap();
        }
        let writer = store.start_writer(log("one"), WriterSettings::default()).await.unwrap();
        Self { place, store, writer }
    }

    /// Another server process over the same database.
    pub(crate) async fn second(&self, name: &str) -> (Store, Writer) {
        let store = Store::connect(&self.place.url).await.unwrap();
        let writer = store.start_writer(log(name), WriterSettings::default()).await.unwrap();
        (store, writer)
    }

    /// Somebody else writes to the database.
    pub(crate) async fn meddle(&self, sql: &str) {
        let outside = self.place.outside().await;
        outside.execute_unprepared(sql).await.unwrap();
        outside.close().await.unwrap();
    }

    /// Blocks of the table of tokens and of its indexes that PostgreSQL has looked at until now. Sessions tell of it now and
    /// then, and when they end.
    pub(crate) async fn blocks_of_tokens(&self) -> i64 {
        tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
        let outside = self.place.outside().await;
        let sql = "SELECT heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit AS n FROM pg_statio_user_tables \
                   WHERE relname = 'token'";
        let row = outside.query_one_raw(Statement::from_string(outside.get_database_backend(), sql)).await.unwrap();
        let blocks = row.unwrap().try_get("", "n").unwrap();
        outside.close().await.unwrap();
        blocks
    }

    /// Hashes every record of a log again and compares with what the store keeps of the tree.
    pub(crate) async fn check_log(&self, name: &str) -> Vec<Record> {
        let log = log(name);
        let records = self.store.records(&log, 0, 1_000_000).await.unwrap();
        let mut tree = Tree::default();
        for (record, seq) in records.iter().zip(0..) {
            assert_eq!(record.seq, seq, "{name} has a gap");
            assert_eq!(record.leaf, leaf_hash(record.line.as_bytes()));
            tree.append(record.leaf);
        }
        assert_eq!(self.store.tree(&log).await.unwrap(), tree, "the frontier of {name} is not that of its records");
        records.iter().map(|record| serde_json::from_str(&record.line).unwrap()).collect()
    }
}

pub(crate) fn log(name: &str) -> LogId {
    LogId::parse(name).unwrap()
}

pub(crate) fn merchant(id: &str) -> MerchantRecord {
    MerchantRecord {
        id: MerchantId::parse(id).unwrap(),
        name: "Ein Laden".to_owned(),
        last_four: LastFour::Keep,
        vault: Vault::of(vault_key(VaultGeneration::FIRST)),
        created_at_ms: AT_MS,
    }
}

pub(crate) fn vault_key(generation: VaultGeneration) -> WrappedVaultKey {
    WrappedVaultKey { generation, blob: vec![6 + u8::try_from(generation.number()).unwrap(); 40] }
}

pub(crate) fn device(number: u8) -> DeviceRecord {
    let mut ksn = [0x11; 12];
    ksn[7] = number;
    DeviceRecord {
        id: device_id(number),
        merchant: MerchantId::parse("shop").unwrap(),
        ksn_device: Ksn::parse(Scheme::Aes, &ksn).unwrap().device(),
        bdk: BdkId::parse("bdk-1").unwrap(),
        profile: Profile { format: Format::Native, key: None },
        state: State::Active,
        card_check: CardCheck::Luhn,
        window: 0,
        guard: KsnGuard::default(),
        faults: 0,
        model: Some("WP-1".to_owned()),
        firmware: None,
        sred: None,
        created_at_ms: AT_MS,
    }
}

pub(crate) fn device_id(number: u8) -> DeviceId {
    DeviceId::parse(&format!("pad-{number}")).unwrap()
}

/// A card of `shop`: `card` tells cards apart, `draw` the tokens drawn for them.
pub(crate) fn take(request: &str, device: u8, counter: u32, card: u64, draw: u64) -> Take {
    Take {
        merchant: MerchantId::parse("shop").unwrap(),
        request: RequestId::parse(request).unwrap(),
        digest: digest(request),
        device: device_id(device),
        counter: Counter::new(Scheme::Aes, counter).unwrap(),
        fingerprints: Fingerprints { generation: VaultGeneration::FIRST, current: fingerprint(card), former: None },
        candidate: Some(candidate(draw)),
        origin: Origin {
            device: device_id(device),
            entry: Entry::Keyed,
            scheme: Scheme::Aes,
            mode: DecryptionMode::Hardware,
        },
        payment: None,
    }
}

pub(crate) fn paying(take: Take, order: &str) -> (Take, PaymentId) {
    let id = PaymentId(Uuid::now_v7());
    let payment = NewPayment {
        id,
        order: OrderNumber::parse(order).unwrap(),
        amount: Money::new(1200, Currency::parse("JPY").unwrap()).unwrap(),
        channel: Channel::Telephone,
    };
    (Take { payment: Some(payment), ..take }, id)
}

pub(crate) fn digest(of: &str) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.iter_mut().zip(of.bytes()).for_each(|(slot, byte)| *slot = byte);
    digest
}

pub(crate) fn fingerprint(card: u64) -> Fingerprint {
    fingerprint_of(VaultGeneration::FIRST, card)
}

/// As the key of a generation makes it.
pub(crate) fn fingerprint_of(generation: VaultGeneration, card: u64) -> Fingerprint {
    let mut bytes = [0xF0 + u8::try_from(generation.number()).unwrap(); 32];
    bytes[..8].copy_from_slice(&card.to_be_bytes());
    Fingerprint(bytes)
}

pub(crate) fn candidate(draw: u64) -> Candidate {
    let token = (0..).find_map(|extra| Token::draw((draw * 1000 + extra).to_be_bytes(), Some(*b"1111"))).unwrap();
    Candidate {
        token,
        sealed: SealedPan { nonce: [3; 12], ciphertext: vec![0xAB; 32] },
        masked: MaskedPan::parse("411111******1111").unwrap(),
        brand: Brand::Visa,
    }
}

pub(crate) fn note() -> Job {
    Job { intent: Intent::Note, records: vec![record(Kind::HsmWindowOpened)] }
}

pub(crate) fn record(kind: Kind) -> Record {
    Record::new(AT_MS as u64, kind)
}

pub(crate) fn job(take: Take) -> Job {
    Job { intent: Intent::Take(Box::new(take)), records: vec![record(Kind::FrameOpened)] }
}

/// What a job came to, where nothing went wrong with the store.
pub(crate) async fn done(writer: &Writer, job: Job) -> Result<Outcome, Rejection> {
    writer.submit(job).await.unwrap()
}

pub(crate) fn taken(answer: Result<Outcome, Rejection>) -> Taken {
    match answer {
        Ok(Outcome::Taken(taken)) => taken,
        other => panic!("not taken: {other:?}"),
    }
}

pub(crate) fn count(answers: &[Answer], of: impl Fn(&Result<Outcome, Rejection>) -> bool) -> usize {
    answers.iter().filter(|answer| answer.as_ref().is_ok_and(&of)).count()
}
