//! The registry: what is written comes back, and every change is told.

use warifu_actors::record::Kind;
use warifu_actors::store::{CardCheck, ModuleRecord, ModuleState, SchemaState, Sred, Store, StoreError};
use warifu_core::device::{Format, Profile, State};
use warifu_core::key::TdesKey;
use warifu_core::ksn::{Ksn, Scheme};
use warifu_core::merchant::{DeviceId, MerchantId, ModuleId};
use warifu_core::replay::KsnGuard;

use crate::support::{AT_MS, Place, device, device_id, everywhere, log, merchant};

fn module(id: &str, certificate: u8) -> ModuleRecord {
    ModuleRecord {
        id: ModuleId::parse(id).unwrap(),
        merchant: MerchantId::parse("shop").unwrap(),
        certificate_sha256: [certificate; 32],
        state: ModuleState::Active,
        created_at_ms: AT_MS,
    }
}

#[tokio::test]
async fn what_is_registered_is_found_again() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        assert_eq!(stage.store.merchant(&merchant("shop").id).await.unwrap(), Some(merchant("shop").into()));
        registry.register_module(&module("till-1", 1)).await.unwrap();
        assert_eq!(stage.store.module_by_certificate(&[1; 32]).await.unwrap(), Some(module("till-1", 1)));
        assert_eq!(stage.store.module_by_certificate(&[2; 32]).await.unwrap(), None);
        let mut reader = device(9);
        reader.id = DeviceId::parse("reader").unwrap();
        reader.ksn_device = Ksn::parse(Scheme::Tdes, &[0x62, 0x99, 0x49, 0x01, 0x19, 0, 0, 0]).unwrap();
        reader.profile = Profile { format: Format::MagTekHid, key: Some(TdesKey::Pin) };
        reader.card_check = CardCheck::Any;
        reader.window = 64;
        reader.guard = KsnGuard { high_water: u32::MAX, used_below: u64::MAX };
        reader.faults = 3;
        reader.sred = Some(Sred { approval: "4-20001".to_owned(), expires_at_ms: AT_MS });
        registry.register_device(&reader).await.unwrap();
        let Ksn::Tdes(ksn) = reader.ksn_device else { panic!("a TDES reader") };
        let sent = Ksn::Tdes(ksn.with_counter(5));
        assert_eq!(stage.store.device_by_ksn(&sent).await.unwrap(), Some(reader.clone().into()));
        assert_eq!(stage.store.device(&reader.id).await.unwrap(), Some(reader));
        assert_eq!(stage.store.devices().await.unwrap().len(), 5);
        assert_eq!(stage.store.merchants().await.unwrap().len(), 2);
        assert_eq!(stage.store.modules().await.unwrap(), [module("till-1", 1)]);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_registered_twice_or_for_nobody() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        let before = stage.check_log("cli").await.len();
        assert!(matches!(registry.register_merchant(&merchant("shop")).await, Err(StoreError::Exists("merchant"))));
        registry.register_module(&module("till-1", 1)).await.unwrap();
        assert!(matches!(registry.register_module(&module("till-1", 2)).await, Err(StoreError::Exists("module"))));
        assert!(matches!(registry.register_module(&module("till-2", 1)).await, Err(StoreError::Exists("module"))));
        let mut same_ksn = device(0);
        same_ksn.id = DeviceId::parse("twin").unwrap();
        assert!(matches!(registry.register_device(&same_ksn).await, Err(StoreError::Exists("device"))));
        let mut nobodys = device(7);
        nobodys.merchant = MerchantId::parse("nobody").unwrap();
        assert!(matches!(registry.register_device(&nobodys).await, Err(StoreError::NotFound("merchant"))));
        // Only what happened is told.
        assert_eq!(stage.check_log("cli").await.len(), before + 1);
    })
    .await;
}

#[tokio::test]
async fn modules_are_blocked_and_devices_moved_only_as_they_may() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        registry.register_module(&module("till-1", 1)).await.unwrap();
        registry.block_module(&module("till-1", 1).id, AT_MS).await.unwrap();
        let blocked = stage.store.module_by_certificate(&[1; 32]).await.unwrap().unwrap();
        assert_eq!(blocked.state, ModuleState::Blocked);
        assert!(matches!(
            registry.block_module(&ModuleId::parse("till-9").unwrap(), AT_MS).await,
            Err(StoreError::NotFound("module"))
        ));
        let id = device_id(0);
        registry.set_device_state(&id, State::Suspended, AT_MS).await.unwrap();
        registry.set_device_state(&id, State::Active, AT_MS).await.unwrap();
        registry.set_device_state(&id, State::Retired, AT_MS).await.unwrap();
        let back = registry.set_device_state(&id, State::Active, AT_MS).await;
        assert!(matches!(back, Err(StoreError::IllegalMove(_))));
        assert_eq!(stage.store.device(&id).await.unwrap().unwrap().state, State::Retired);
        let told = stage.check_log("cli").await;
        assert!(told.iter().all(|record| record.kind == Kind::RegistryChanged));
        let about_it = told.iter().filter(|record| record.device.as_deref() == Some("pad-0")).count();
        assert_eq!(about_it, 4);
    })
    .await;
}

#[tokio::test]
async fn a_store_is_migrated_once_whoever_comes_first() {
    for place in [Place::sqlite(), Place::postgres().await] {
        let store = Store::connect(&place.url).await.unwrap();
        assert_eq!(store.schema_state().await.unwrap(), SchemaState::Behind { steps: 5 });
        if place.is_sqlite() {
            store.migrate().await.unwrap();
        } else {
            let other = Store::connect(&place.url).await.unwrap();
            let (one, two) = tokio::join!(store.migrate(), other.migrate());
            one.unwrap();
            two.unwrap();
        }
        assert_eq!(store.schema_state().await.unwrap(), SchemaState::Current);
        store.migrate().await.unwrap();
        store.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_store_that_forgets_or_is_no_store_is_refused() {
    for address in ["sqlite::memory:", "sqlite://x?mode=memory", "mysql://root@localhost/x", ""] {
        assert!(matches!(Store::connect(address).await.err(), Some(StoreError::Address(_))), "{address}");
    }
    let nobody = Store::connect("postgres://postgres@127.0.0.1:1/nothing").await;
    assert!(matches!(nobody.err(), Some(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn a_postgres_server_elsewhere_must_prove_who_it_is() {
    // Nobody answers under this address: it is for documentation (RFC 5737).
    let elsewhere = "postgres://warifu@192.0.2.1/warifu";
    let others = ["prefer", "require", "verify-ca", "disable", "nonsense"].map(|mode| format!("?sslmode={mode}"));
    let tricks = ["?host=127.0.0.1&host=192.0.2.1".to_owned(), "?hostaddr=192.0.2.1".to_owned()];
    for query in others.iter().chain(&tricks).map(String::as_str).chain([""]) {
        let refused = Store::connect(&format!("{elsewhere}{query}")).await.err();
        let Some(StoreError::Address(why)) = refused else { panic!("{query}: {refused:?}") };
        assert!(query.contains("nonsense") || why.contains("sslmode=verify-full"), "{why}");
    }
    for near in ["localhost:1", "127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "%2Fnowhere"] {
        let away = Store::connect(&format!("postgresql://warifu@{near}/warifu")).await.err();
        assert!(matches!(away, Some(StoreError::Unavailable { .. })), "{near}: {away:?}");
    }
    let away = Store::connect(&format!("{elsewhere}?sslmode=verify-full")).await.err();
    assert!(matches!(away, Some(StoreError::Unavailable { .. })), "{away:?}");
}

#[tokio::test]
async fn a_row_nobody_can_read_does_not_hide_the_others() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        registry.register_module(&module("till-1", 1)).await.unwrap();
        registry.register_module(&module("till-2", 2)).await.unwrap();
        stage.meddle("UPDATE device SET state = 'lost' WHERE id = 'pad-2'").await;
        stage.meddle("UPDATE module SET certificate_sha256 = 'none' WHERE id = 'till-1'").await;
        let devices: Vec<_> = stage.store.devices().await.unwrap().into_iter().map(|device| device.id).collect();
        assert_eq!(devices, [device_id(0), device_id(1), device_id(3)]);
        assert_eq!(stage.store.modules().await.unwrap(), [module("till-2", 2)]);
        // Whoever needs just that row is told.
        assert!(matches!(stage.store.device(&device_id(2)).await, Err(StoreError::Corrupt("device.state"))));
    })
    .await;
}

#[tokio::test]
async fn the_store_serves_any_thread() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        let store = stage.store.clone();
        let elsewhere = tokio::spawn(async move {
            registry.set_device_state(&device_id(0), State::Suspended, AT_MS).await.unwrap();
            store.device(&device_id(0)).await.unwrap()
        });
        assert_eq!(elsewhere.await.unwrap().unwrap().state, State::Suspended);
    })
    .await;
}
