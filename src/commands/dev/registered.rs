//! Who and what a dev server knows: a merchant, its module, three emulated devices, and the real readers whose
//! outputs were published under the public test key.

use warifu_actors::record::{Kind, Record};
use warifu_actors::store::device::{CardCheck, DeviceRecord};
use warifu_core::device::{Format, Profile, State};
use warifu_core::ksn::{Ksn, Scheme};
use warifu_core::merchant::{BdkId, DeviceId, MerchantId, ModuleId};
use warifu_core::replay::KsnGuard;
use warifu_core::token::LastFour;
use warifu_hsm::CallTally;

use super::folder::{AES_BDK_ID, Folder, MERCHANT, MODULE, TDES_BDK_ID, test_bdks};
use crate::commands::device::ksn;
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::commands::{key, merchant, module};
use crate::config::Config;
use crate::exit::{Exit, Failure};

/// A device a dev server knows.
pub(super) struct Known {
    /// Its id.
    pub(super) id: &'static str,
    /// What it is, for people.
    pub(super) what: &'static str,
    /// Its DUKPT.
    pub(super) scheme: Scheme,
    /// Its key serial number, at any counter.
    pub(super) ksn: &'static str,
    /// Its output.
    pub(super) format: Format,
    /// Which cards it may send.
    card_check: CardCheck,
}

const fn known(
    id: &'static str,
    what: &'static str,
    scheme: Scheme,
    ksn: &'static str,
    format: Format,
    card_check: CardCheck,
) -> Known {
    Known { id, what, scheme, ksn, format, card_check }
}

/// The emulated devices.
pub(super) static EMULATED: [Known; 3] = [
    known("kp-1", "keypad", Scheme::Aes, "123456789012000100000000", Format::Native, CardCheck::Luhn),
    known("rd-1", "chip and stripe reader", Scheme::Aes, "123456789012000200000000", Format::Native, CardCheck::Luhn),
    known("tr-1", "stripe reader", Scheme::Tdes, "FFFF9876543220E00000", Format::Native, CardCheck::Luhn),
];

/// Real readers whose outputs, published by their makers and users, open under the public test key. Their cards are
/// test cards, some without a right check digit.
pub(super) static PUBLISHED: [Known; 6] = [
    known(
        "idtech-ms246",
        "ID TECH SecureMag",
        Scheme::Tdes,
        "62994901190000000001",
        Format::IdTechBinary,
        CardCheck::Any,
    ),
    known(
        "idtech-augusta",
        "ID TECH Augusta S",
        Scheme::Tdes,
        "6299490000000A000002",
        Format::IdTechBinary,
        CardCheck::Any,
    ),
    known(
        "idtech-sredkey",
        "ID TECH SREDKey 2",
        Scheme::Tdes,
        "62994900000B00C00011",
        Format::IdTechBinary,
        CardCheck::Any,
    ),
    known(
        "idtech-vp3350",
        "ID TECH VP3350",
        Scheme::Tdes,
        "FFFFFF0200110940000F",
        Format::IdTechBinary,
        CardCheck::Any,
    ),
    known(
        "magtek-hogan",
        "MagTek MagneSafe V5",
        Scheme::Tdes,
        "FFFF9876543210E00008",
        Format::MagTekKeyboard,
        CardCheck::Any,
    ),
    known(
        "magtek-v5",
        "MagTek MagneSafe V5",
        Scheme::Tdes,
        "9010010B0C2472000400",
        Format::MagTekKeyboard,
        CardCheck::Any,
    ),
];

/// Registers whatever is not registered yet, after writing down the calls to the HSM that were made before.
pub(super) async fn register(config: Config, folder: &Folder, calls: &CallTally) -> Result<(), Failure> {
    let desk = Desk::open(config).await?;
    let at_ms = u64::try_from(now_ms()).unwrap_or_default();
    let record = Record::new(at_ms, Kind::HsmSessionOpened).because("dev keys made or found").with_calls(calls);
    desk.registry.note(&record).await.stored("write the audit record")?;
    key::register_test_keys(&desk, &test_bdks()).await?;
    let shop = plain(MerchantId::parse(MERCHANT))?;
    if desk.store.merchant(&shop).await.stored("look the merchant up")?.is_none() {
        merchant::add(&desk, shop.clone(), "Demo shop".to_owned(), LastFour::Keep).await?;
    }
    let pos = plain(ModuleId::parse(MODULE))?;
    let modules = desk.store.modules().await.stored("list the modules")?;
    if modules.iter().all(|module| module.id != pos) {
        let certificate = folder.pki().join(format!("{MODULE}.pem"));
        module::add(&desk, pos, shop.clone(), &certificate).await?;
    }
    for device in EMULATED.iter().chain(&PUBLISHED) {
        let id = plain(DeviceId::parse(device.id))?;
        if desk.store.device(&id).await.stored("look the device up")?.is_none() {
            let record = device.record(id.clone(), shop.clone())?;
            desk.registry.register_device(&record).await.stored("register a device")?;
            desk.registry.set_device_state(&id, State::Active, now_ms()).await.stored("activate a device")?;
        }
    }
    desk.store.close().await;
    Ok(())
}

impl Known {
    /// Its key serial number with the counter cleared.
    pub(super) fn ksn_device(&self) -> Result<Ksn, Failure> {
        ksn(self.scheme, self.ksn)
    }

    /// The base derivation key its keys come from.
    pub(super) fn bdk_id(&self) -> &'static str {
        match self.scheme {
            Scheme::Aes => AES_BDK_ID,
            Scheme::Tdes => TDES_BDK_ID,
        }
    }

    /// How its frames are opened.
    pub(super) fn mode(&self) -> &'static str {
        match self.scheme {
            Scheme::Aes => "hardware",
            Scheme::Tdes => "host-derived",
        }
    }

    fn record(&self, id: DeviceId, merchant: MerchantId) -> Result<DeviceRecord, Failure> {
        Ok(DeviceRecord {
            id,
            merchant,
            ksn_device: self.ksn_device()?,
            bdk: plain(BdkId::parse(self.bdk_id()))?,
            profile: Profile { format: self.format, key: None },
            state: State::Registered,
            card_check: self.card_check,
            window: 0,
            guard: KsnGuard::default(),
            faults: 0,
            model: Some(self.what.to_owned()),
            firmware: None,
            sred: None,
            created_at_ms: now_ms(),
        })
    }
}

fn plain<T, E: std::fmt::Display>(name: Result<T, E>) -> Result<T, Failure> {
    name.map_err(|error| Failure::new(Exit::Internal, error))
}
