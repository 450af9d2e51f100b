//! The throw-away shop: a merchant, its module, and as many devices as there are callers.

use warifu_actors::record::{Kind, Record};
use warifu_actors::store::device::{CardCheck, DeviceRecord};
use warifu_actors::store::{MerchantRecord, Vault};
use warifu_core::device::{Format, Profile, State};
use warifu_core::ksn::{Ksn, Scheme};
use warifu_core::merchant::{BdkId, DeviceId, MerchantId, ModuleId};
use warifu_core::replay::KsnGuard;
use warifu_core::token::LastFour;
use warifu_hsm::software::SoftwareSlot;
use warifu_hsm::{CallTally, Hsm as _, VaultGeneration};

use crate::commands::dev::folder::{AES_BDK_ID, Folder, MERCHANT, MODULE, test_bdks};
use crate::commands::device::ksn;
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::commands::{key, merchant, module};
use crate::config::Config;
use crate::exit::{Attempt as _, Exit, Failure};

/// The key serial number of a caller's device, its counter at 0.
pub(super) fn ksn_of(caller: usize) -> Result<Ksn, Failure> {
    ksn(Scheme::Aes, &format!("12345678{:08X}00000000", 0xB000_0000_usize + caller))
}

/// Registers all of it.
pub(super) async fn furnish(
    config: Config,
    folder: &Folder,
    software: Option<&SoftwareSlot>,
    calls: Option<&CallTally>,
    devices: usize,
) -> Result<(), Failure> {
    let desk = Desk::open(config).await?;
    key::register_test_keys(&desk, &test_bdks()).await?;
    let shop = plain(MerchantId::parse(MERCHANT))?;
    match software {
        Some(keys) => {
            let vault_key =
                keys.session().create_vault_key(VaultGeneration::FIRST).or_exit(Exit::Hsm, "make a vault key")?;
            let record = MerchantRecord {
                id: shop.clone(),
                name: MERCHANT.to_owned(),
                last_four: LastFour::Keep,
                vault: Vault::of(vault_key),
                created_at_ms: now_ms(),
            };
            desk.registry.register_merchant(&record).await.stored("register a merchant")?;
        }
        None => {
            let at_ms = u64::try_from(now_ms()).unwrap_or_default();
            let made = Record::new(at_ms, Kind::HsmSessionOpened).because("bench keys made");
            let made = calls.map_or(made.clone(), |calls| made.with_calls(calls));
            desk.registry.note(&made).await.stored("write the audit record")?;
            merchant::add(&desk, shop.clone(), MERCHANT.to_owned(), LastFour::Keep).await?;
        }
    }
    let certificate = folder.pki().join(format!("{MODULE}.pem"));
    module::add(&desk, plain(ModuleId::parse(MODULE))?, shop.clone(), &certificate).await?;
    for caller in 0..devices {
        let id = plain(DeviceId::parse(&format!("bench-{caller}")))?;
        let device = DeviceRecord {
            id: id.clone(),
            merchant: shop.clone(),
            ksn_device: ksn_of(caller)?,
            bdk: plain(BdkId::parse(AES_BDK_ID))?,
            profile: Profile { format: Format::Native, key: None },
            state: State::Registered,
            card_check: CardCheck::Luhn,
            window: 0,
            guard: KsnGuard::default(),
            faults: 0,
            model: None,
            firmware: None,
            sred: None,
            created_at_ms: now_ms(),
        };
        desk.registry.register_device(&device).await.stored("register a device")?;
        desk.registry.set_device_state(&id, State::Active, now_ms()).await.stored("activate a device")?;
    }
    desk.store.close().await;
    Ok(())
}

fn plain<T, E: std::fmt::Display>(name: Result<T, E>) -> Result<T, Failure> {
    name.map_err(|error| Failure::new(Exit::Internal, error))
}
