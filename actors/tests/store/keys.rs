//! Keys, the people who carry their parts, and initial keys that left, as the registry keeps them.

use warifu_actors::record::Kind;
use warifu_actors::store::custodian::Role;
use warifu_actors::store::{BdkRecord, CustodianRecord, IkExport, KeyReason, ModuleState, StoreError};
use warifu_core::custody::{Environment, KeyProof, Purpose, State};
use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
use warifu_core::merchant::{BdkId, CustodianId, MerchantId};

use crate::support::{AT_MS, device_id, everywhere, log};

/// Another proof for each id.
fn hex_of(id: &str) -> String {
    format!("{:X}", id.len())
}

fn bdk(id: &str) -> BdkRecord {
    BdkRecord {
        id: BdkId::parse(id).unwrap(),
        purpose: Purpose::Bdk,
        scheme: Scheme::Aes,
        len: KeyLen::K256,
        environment: Environment::Live,
        merchant: Some(MerchantId::parse("shop").unwrap()),
        kcv: Some("7AD386C376".to_owned()),
        proof: KeyProof::parse(&format!("{:0>32}", hex_of(id))).unwrap(),
        state: State::PreActive,
        created_at_ms: AT_MS,
        activated_at_ms: None,
        expires_at_ms: Some(AT_MS + 1),
    }
}

#[tokio::test]
async fn a_key_comes_back_as_it_was_registered_and_goes_where_its_life_goes() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        let new = bdk("till-2026");
        registry.register_bdk(&new).await.unwrap();
        assert_eq!(stage.store.bdk(&new.id).await.unwrap().as_deref(), Some(&new));
        let kbpk =
            BdkRecord { purpose: Purpose::Kbpk, merchant: None, kcv: None, expires_at_ms: None, ..bdk("factory") };
        registry.register_bdk(&kbpk).await.unwrap();
        assert_eq!(stage.store.bdks().await.unwrap(), [kbpk, new.clone()]);
        assert_eq!(stage.store.bdk(&BdkId::parse("other").unwrap()).await.unwrap(), None);

        let mv = async |to, because, at_ms| registry.set_bdk_state(&new.id, to, because, at_ms).await;
        let early = mv(State::Suspended, KeyReason::Planned, AT_MS).await;
        assert!(matches!(early, Err(StoreError::IllegalKeyMove(_))));
        mv(State::Active, KeyReason::Planned, AT_MS + 5).await.unwrap();
        mv(State::Suspended, KeyReason::Planned, AT_MS + 6).await.unwrap();
        mv(State::Active, KeyReason::Planned, AT_MS + 7).await.unwrap();
        let found = stage.store.bdk(&new.id).await.unwrap().unwrap();
        assert_eq!((found.state, found.activated_at_ms), (State::Active, Some(AT_MS + 5)), "the first time counts");
        mv(State::Deactivated, KeyReason::Compromised, AT_MS).await.unwrap();
        let back = mv(State::Active, KeyReason::Planned, AT_MS).await;
        assert!(matches!(back, Err(StoreError::IllegalKeyMove(_))));
        let nobody = BdkId::parse("nobody").unwrap();
        let nobodys = registry.set_bdk_state(&nobody, State::Active, KeyReason::Planned, AT_MS).await;
        assert!(matches!(nobodys, Err(StoreError::NotFound("key"))));

        let told = stage.check_log("cli").await;
        let causes: Vec<_> =
            told.iter().filter(|record| record.key.as_deref() == Some("till-2026")).flat_map(|it| &it.cause).collect();
        assert_eq!(
            causes,
            [
                "key registered, check value 7AD386C376, proof 00000000000000000000000000000009",
                "key became active",
                "key became suspended",
                "key became active",
                "key became deactivated: compromised",
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn a_key_and_a_person_are_registered_once_and_for_somebody() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        registry.register_bdk(&bdk("till-2026")).await.unwrap();
        assert!(matches!(registry.register_bdk(&bdk("till-2026")).await, Err(StoreError::Exists("key"))));
        // The same key under another name would come back from its end.
        let renamed = BdkRecord { id: BdkId::parse("till-2027").unwrap(), ..bdk("till-2026") };
        assert!(matches!(registry.register_bdk(&renamed).await, Err(StoreError::Exists("key"))));
        let nobodys = BdkRecord { merchant: Some(MerchantId::parse("nobody").unwrap()), ..bdk("other") };
        assert!(matches!(registry.register_bdk(&nobodys).await, Err(StoreError::NotFound("merchant"))));

        let person = |id: &str, certificate| CustodianRecord {
            id: CustodianId::parse(id).unwrap(),
            certificate_sha256: [certificate; 32],
            role: Role::Custodian,
            state: ModuleState::Active,
            created_at_ms: AT_MS,
        };
        registry.register_custodian(&person("aiko", 1)).await.unwrap();
        assert!(matches!(registry.register_custodian(&person("aiko", 2)).await, Err(StoreError::Exists("custodian"))));
        assert!(matches!(registry.register_custodian(&person("botan", 1)).await, Err(StoreError::Exists("custodian"))));
        registry.block_custodian(&person("aiko", 1).id, AT_MS).await.unwrap();
        let nobody = registry.block_custodian(&person("botan", 1).id, AT_MS).await;
        assert!(matches!(nobody, Err(StoreError::NotFound("custodian"))));
        let known = stage.store.custodians().await.unwrap();
        assert_eq!(known, [CustodianRecord { state: ModuleState::Blocked, ..person("aiko", 1) }]);
    })
    .await;
}

#[tokio::test]
async fn an_initial_key_leaves_once_under_each_number() {
    everywhere(|stage| async move {
        let registry = stage.store.registry(log("cli"));
        let export = |number| IkExport {
            device: device_id(0),
            number,
            under: "factory".to_owned(),
            at_ms: AT_MS,
            by: "aiko".to_owned(),
        };
        assert_eq!(stage.store.ik_exports(&device_id(0)).await.unwrap(), 0);
        registry.note_ik_export(&export(1)).await.unwrap();
        assert!(matches!(registry.note_ik_export(&export(1)).await, Err(StoreError::Exists("export"))));
        registry.note_ik_export(&export(2)).await.unwrap();
        assert_eq!(stage.store.ik_exports(&device_id(0)).await.unwrap(), 2);
        assert_eq!(stage.store.ik_exports(&device_id(1)).await.unwrap(), 0);
        let told = stage.check_log("cli").await;
        assert_eq!(told.iter().filter(|record| record.kind == Kind::InitialKeyExported).count(), 2);
    })
    .await;
}
