//! What only the inside can show: settings of connections, plans of statements, a full disk.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use tempfile::TempDir;
use uuid::Uuid;
use warifu_core::card::{Brand, MaskedPan};
use warifu_core::device::{Format, Profile, State};
use warifu_core::frame::Entry;
use warifu_core::ksn::{Counter, Ksn, Scheme};
use warifu_core::merchant::{BdkId, DeviceId, MerchantId, OrderNumber, RequestId};
use warifu_core::money::{Currency, Money};
use warifu_core::payment;
use warifu_core::replay::KsnGuard;
use warifu_core::token::{LastFour, Token};
use warifu_hsm::{DecryptionMode, Fingerprint, SealedPan, VaultGeneration, WrappedVaultKey};

use super::job::{Candidate, Intent, NewPayment, Origin, PaymentId, Take, Taken};
use super::{
    CardCheck, DeviceRecord, Fingerprints, Job, LogId, MerchantRecord, Outcome, Store, StoreError, Vault, Writer,
    WriterSettings, bulk,
};
use crate::record::{Kind, Record};

async fn sqlite() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::connect(&format!("sqlite://{}/s.db?mode=rwc", dir.path().display())).await.unwrap();
    store.migrate().await.unwrap();
    (dir, store)
}

async fn ask(db: &DatabaseConnection, sql: &str) -> Vec<sea_orm::QueryResult> {
    db.query_all_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap()
}

/// Eight records that need some room.
fn note() -> Job {
    let record = Record::new(1, Kind::HsmWindowOpened).because("x".repeat(3000));
    Job { intent: Intent::Note, records: vec![record; 8] }
}

#[tokio::test]
async fn every_sqlite_connection_is_durable_and_forgets_what_is_deleted() {
    let (_dir, store) = sqlite().await;
    for db in [&store.writing().now(), &store.reading()] {
        // 2: FULL; 2: MEMORY.
        for (pragma, wanted) in [("synchronous", 2), ("secure_delete", 1), ("temp_store", 2), ("busy_timeout", 2000)] {
            let row = ask(db, &format!("PRAGMA {pragma}")).await.remove(0);
            assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), wanted, "{pragma}");
        }
        let row = ask(db, "PRAGMA journal_mode").await.remove(0);
        assert_eq!(row.try_get_by_index::<String>(0).unwrap(), "wal");
    }
    assert!(store.reading().execute_unprepared("DELETE FROM merchant").await.is_err(), "a reader can write");
}

#[tokio::test]
async fn a_full_disk_is_told_and_writing_goes_on_when_there_is_room() {
    let (_dir, store) = sqlite().await;
    let writer = store.start_writer(LogId::parse("one").unwrap(), WriterSettings::default()).await.unwrap();
    assert_eq!(writer.submit(note()).await.unwrap(), Ok(Outcome::Noted));
    let before = store.tree(writer.log()).await.unwrap();
    let pages: i64 = ask(&store.writing().now(), "PRAGMA page_count").await.remove(0).try_get_by_index(0).unwrap();
    ask(&store.writing().now(), &format!("PRAGMA max_page_count = {pages}")).await;
    let answer = writer.submit(note()).await;
    let Err(StoreError::Unavailable { source }) = answer else { panic!("{answer:?}") };
    assert_eq!(source.code(), Some("13"));
    assert_eq!(store.tree(writer.log()).await.unwrap(), before);
    ask(&store.writing().now(), "PRAGMA max_page_count = 1000000").await;
    assert_eq!(writer.submit(note()).await.unwrap(), Ok(Outcome::Noted));
    assert_eq!(store.tree(writer.log()).await.unwrap().size(), before.size() + 8);
    assert_eq!(store.records(writer.log(), 0, 100).await.unwrap().len(), 16);
}

#[tokio::test]
async fn sqlite_looks_every_row_of_a_batch_up_by_key() {
    let (_dir, store) = sqlite().await;
    let (writer, shop, pad) = writer_and_shop(&store).await;
    let id = PaymentId(Uuid::now_v7());
    let taking = Job { intent: Intent::Take(Box::new(paying(&shop, &pad, id))), records: Vec::new() };
    let taken = writer.submit(taking.clone()).await.unwrap();
    let Ok(Outcome::Taken(Taken { payment: Some(taken), .. })) = taken else { panic!("{taken:?}") };
    let moving = Intent::Move {
        payment: id,
        from: payment::State::Sent,
        since_ms: taken.updated_at_ms,
        to: payment::State::Unknown,
    };
    assert!(matches!(writer.submit(taking).await.unwrap(), Ok(Outcome::Repeated(_))));
    let moved = writer.submit(Job { intent: moving, records: Vec::new() }).await.unwrap();
    assert!(matches!(moved, Ok(Outcome::Moved(_))), "{moved:?}");
    writer.submit(note()).await.unwrap().unwrap();
    let seen = bulk::seen::take();
    assert_eq!(seen.len(), 14, "{seen:#?}");
    for sql in seen {
        let explained = format!("EXPLAIN QUERY PLAN {sql}");
        let explained = Statement::from_sql_and_values(DbBackend::Sqlite, explained, ["[]".into()]);
        let plan = store.writing().now().query_all_raw(explained).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.try_get("", "detail").unwrap()).collect();
        let scans = steps.iter().filter(|step| step.starts_with("SCAN") && !step.contains("json_each"));
        assert_eq!(scans.count(), 0, "{sql}: {steps:?}");
        // Half a key is all tokens of a merchant.
        assert!(steps.iter().all(|step| !step.ends_with("(merchant_id=?)")), "{sql}: {steps:?}");
    }
}

#[tokio::test]
async fn what_was_written_here_is_not_read_before_the_next_batch() {
    let (_dir, store) = sqlite().await;
    let (writer, shop, pad) = writer_and_shop(&store).await;
    let mut selects = Vec::new();
    for counter in 1..=3 {
        let take = Take {
            request: RequestId::parse(&format!("r{counter}")).unwrap(),
            counter: Counter::new(Scheme::Aes, counter).unwrap(),
            ..paying(&shop, &pad, PaymentId(Uuid::now_v7()))
        };
        bulk::seen::take();
        let taken = writer.submit(Job { intent: Intent::Take(Box::new(take)), records: Vec::new() }).await.unwrap();
        assert!(matches!(taken, Ok(Outcome::Taken(_))), "{taken:?}");
        selects.push(bulk::seen::take().into_iter().filter(|sql| sql.starts_with("SELECT")).count());
    }
    assert!(selects[0] > 0, "the device was not known before");
    assert_eq!(selects[1..], [0, 0]);
}

/// A writer, and a merchant with a device.
async fn writer_and_shop(store: &Store) -> (Writer, MerchantId, DeviceId) {
    let writer = store.start_writer(LogId::parse("one").unwrap(), WriterSettings::default()).await.unwrap();
    let registry = store.registry(LogId::parse("cli").unwrap());
    let shop = MerchantId::parse("shop").unwrap();
    let pad = DeviceId::parse("pad").unwrap();
    registry.register_merchant(&merchant(&shop)).await.unwrap();
    registry.register_device(&device(&pad, &shop)).await.unwrap();
    (writer, shop, pad)
}

fn merchant(id: &MerchantId) -> MerchantRecord {
    let vault = Vault::of(WrappedVaultKey { generation: VaultGeneration::FIRST, blob: vec![1; 40] });
    MerchantRecord { id: id.clone(), name: "Shop".to_owned(), last_four: LastFour::Keep, vault, created_at_ms: 1 }
}

fn device(id: &DeviceId, merchant: &MerchantId) -> DeviceRecord {
    DeviceRecord {
        id: id.clone(),
        merchant: merchant.clone(),
        ksn_device: Ksn::parse(Scheme::Aes, &[1; 12]).unwrap().device(),
        bdk: BdkId::parse("bdk").unwrap(),
        profile: Profile { format: Format::Native, key: None },
        state: State::Active,
        card_check: CardCheck::Luhn,
        window: 0,
        guard: KsnGuard::default(),
        faults: 0,
        model: None,
        firmware: None,
        sred: None,
        created_at_ms: 1,
    }
}

fn paying(merchant: &MerchantId, device: &DeviceId, id: PaymentId) -> Take {
    Take {
        merchant: merchant.clone(),
        request: RequestId::parse("r").unwrap(),
        digest: [1; 32],
        device: device.clone(),
        counter: Counter::new(Scheme::Aes, 1).unwrap(),
        fingerprints: Fingerprints { generation: VaultGeneration::FIRST, current: Fingerprint([1; 32]), former: None },
        candidate: Some(Candidate {
            token: (0_u64..).find_map(|number| Token::draw(number.to_be_bytes(), None)).unwrap(),
            sealed: SealedPan { nonce: [1; 12], ciphertext: vec![1; 32] },
            masked: MaskedPan::parse("411111******1111").unwrap(),
            brand: Brand::Visa,
        }),
        origin: Origin {
            device: device.clone(),
            entry: Entry::Keyed,
            scheme: Scheme::Aes,
            mode: DecryptionMode::Hardware,
        },
        payment: Some(NewPayment {
            id,
            order: OrderNumber::parse("order").unwrap(),
            amount: Money::new(1, Currency::parse("JPY").unwrap()).unwrap(),
            channel: payment::Channel::Mail,
        }),
    }
}
