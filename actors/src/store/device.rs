//! Devices: how each is read, whether it may be used, and which of its counters were.

use std::sync::Arc;

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue::Set, DbBackend, FromQueryResult, QueryOrder, QueryResult};
use warifu_core::device::{Format, Profile, State};
use warifu_core::ksn::Ksn;
use warifu_core::merchant::{BdkId, DeviceId, MerchantId};
use warifu_core::replay::KsnGuard;

use super::bulk::{Kind, Rows, Select, Write};
use super::decide::{Changed, DeviceView};
use super::error::{Failure, StoreError};
use super::lookup::{Lookup, Truth};
use super::{Store, words};

/// A registered device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its id.
    pub id: DeviceId,
    /// Whose it is.
    pub merchant: MerchantId,
    /// Its key serial number with the counter cleared ([`Ksn::device`]).
    pub ksn_device: Ksn,
    /// The base derivation key its keys come from.
    pub bdk: BdkId,
    /// How its output is read.
    pub profile: Profile,
    /// Whether it may be used.
    pub state: State,
    /// Which card numbers it may send.
    pub card_check: CardCheck,
    /// How far below the newest counter an unused one is still taken: 0 to 64.
    pub window: u8,
    /// Which counters were used.
    pub guard: KsnGuard,
    /// Frames that were not genuine since the last good one.
    pub faults: u32,
    /// The maker's name for the model, as far as known.
    pub model: Option<String>,
    /// Its firmware version, as far as known.
    pub firmware: Option<String>,
    /// Its PCI approval for secure reading and exchange of data, as far as known.
    pub sred: Option<Sred>,
    /// When it was registered, in milliseconds since 1970 UTC.
    pub created_at_ms: i64,
}

/// Which card numbers a device may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CardCheck {
    /// Those with a right check digit.
    Luhn,
    /// Any: for the makers' test cards.
    Any,
}

/// A PCI PTS approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sred {
    /// Its number in the council's list.
    pub approval: String,
    /// When it ends, in milliseconds since 1970 UTC.
    pub expires_at_ms: i64,
}

impl CardCheck {
    /// Its name in rows and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Luhn => "luhn",
            Self::Any => "any",
        }
    }

    /// The inverse of [`CardCheck::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Luhn, Self::Any].into_iter().find(|check| check.name() == name)
    }
}

mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "device")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub merchant_id: String,
        pub scheme: String,
        pub ksn_device: String,
        pub bdk_id: String,
        pub format: String,
        pub key_variant: Option<String>,
        pub state: String,
        pub card_check: String,
        pub ksn_window: i64,
        pub high_water: i64,
        pub used_below: i64,
        pub faults: i64,
        pub model: Option<String>,
        pub firmware: Option<String>,
        pub sred_approval: Option<String>,
        pub sred_expires_at_ms: Option<i64>,
        pub created_at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// The device whose key serial number, with the counter cleared, is this one; its guard as it was a while ago.
    pub async fn device_by_ksn(&self, ksn: &Ksn) -> Result<Option<Arc<DeviceRecord>>, StoreError> {
        // Key serial numbers of both schemes share the column; their lengths differ, so they never meet.
        let device = self.lookups().devices.find(ksn.device().to_string()).await?;
        Ok(device.filter(|device| device.ksn_device.scheme() == ksn.scheme()))
    }

    /// What this process last knew of the counters a device has used: of all of them, or fewer.
    pub fn guard_of(&self, device: &DeviceRecord) -> KsnGuard {
        let seen = self.memory().devices.get(&device.id).map(|seen| seen.guard);
        seen.filter(|seen| seen.high_water >= device.guard.high_water).unwrap_or(device.guard)
    }

    /// One device.
    pub async fn device(&self, id: &DeviceId) -> Result<Option<DeviceRecord>, StoreError> {
        let row = self.one(row::Entity::find_by_id(id.as_str())).await?;
        Ok(row.map(DeviceRecord::of).transpose()?)
    }

    /// Every device, by id. One that cannot be read does not hide the others.
    pub async fn devices(&self) -> Result<Vec<DeviceRecord>, StoreError> {
        let rows = self.all(row::Entity::find().order_by_asc(row::Column::Id)).await?;
        Ok(rows.into_iter().filter_map(DeviceRecord::readable).collect())
    }
}

/// Devices looked up by the text of their key serial numbers, counters cleared.
pub(super) struct ByKsn;

impl Lookup for ByKsn {
    type Key = String;
    type Found = Arc<DeviceRecord>;
    const TRUTH: Truth = Truth::Registry;

    const HEAD: &'static str = "SELECT d.* FROM";

    fn tail(_: DbBackend) -> &'static str {
        "CROSS JOIN device AS d WHERE d.ksn_device = v.ksn_device"
    }

    fn bind<'a>(keys: impl Iterator<Item = &'a String>) -> Rows {
        let mut rows = Rows::new(&[("ksn_device", Kind::Text)]);
        keys.for_each(|ksn| rows.push([ksn.as_str().into()]));
        rows
    }

    fn key(row: &QueryResult) -> Result<String, Failure> {
        Ok(row.try_get("", "ksn_device")?)
    }

    fn found(row: &QueryResult) -> Result<Arc<DeviceRecord>, Failure> {
        DeviceRecord::of(row::Model::from_query_result(row, "")?).map(Arc::new)
    }
}

pub(super) async fn by_id(db: &impl ConnectionTrait, id: &DeviceId) -> Result<Option<DeviceRecord>, Failure> {
    row::Entity::find_by_id(id.as_str()).one(db).await?.map(DeviceRecord::of).transpose()
}

pub(super) async fn insert(db: &impl ConnectionTrait, device: &DeviceRecord) -> Result<(), Failure> {
    let row = row::ActiveModel {
        id: Set(device.id.to_string()),
        merchant_id: Set(device.merchant.to_string()),
        scheme: Set(words::scheme_name(device.ksn_device.scheme()).to_owned()),
        ksn_device: Set(device.ksn_device.device().to_string()),
        bdk_id: Set(device.bdk.to_string()),
        format: Set(device.profile.format.name().to_owned()),
        key_variant: Set(device.profile.key.map(|key| words::key_name(key).to_owned())),
        state: Set(device.state.name().to_owned()),
        card_check: Set(device.card_check.name().to_owned()),
        ksn_window: Set(device.window.into()),
        high_water: Set(device.guard.high_water.into()),
        used_below: Set(bits_to_row(device.guard.used_below)),
        faults: Set(device.faults.into()),
        model: Set(device.model.clone()),
        firmware: Set(device.firmware.clone()),
        sred_approval: Set(device.sred.as_ref().map(|sred| sred.approval.clone())),
        sred_expires_at_ms: Set(device.sred.as_ref().map(|sred| sred.expires_at_ms)),
        created_at_ms: Set(device.created_at_ms),
    };
    row::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

/// Moves a device from one state to another, forgetting its faults; `false` if it is not in the first any more.
pub(super) async fn move_state(
    db: &impl ConnectionTrait,
    id: &DeviceId,
    from: State,
    to: State,
) -> Result<bool, Failure> {
    let done = row::Entity::update_many()
        .col_expr(row::Column::State, Expr::value(to.name()))
        .col_expr(row::Column::Faults, Expr::value(0_i64))
        .filter(row::Column::Id.eq(id.as_str()))
        .filter(row::Column::State.eq(from.name()))
        .exec(db)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Reads the devices of a batch and locks their rows until its end, in the order of their ids so that two writers
/// never wait for each other.
pub(super) fn select_locked<'a>(backend: DbBackend, ids: impl Iterator<Item = &'a DeviceId>) -> Select {
    let mut rows = Rows::new(&[("id", Kind::Text)]);
    ids.for_each(|id| rows.push([id.as_str().into()]));
    let tail = match backend {
        DbBackend::Sqlite => "CROSS JOIN device AS d WHERE d.id = v.id",
        _ => "CROSS JOIN device AS d WHERE d.id = v.id ORDER BY d.id FOR UPDATE OF d",
    };
    Select::new("SELECT d.* FROM", rows, tail)
}

/// What [`select_locked`] found.
pub(super) fn views(rows: &[QueryResult]) -> impl Iterator<Item = Result<(DeviceId, DeviceView), Failure>> {
    rows.iter().map(|row| {
        let device = DeviceRecord::of(row::Model::from_query_result(row, "")?)?;
        let view = DeviceView {
            merchant: device.merchant,
            state: device.state,
            window: device.window,
            guard: device.guard,
            faults: device.faults,
        };
        Ok((device.id, view))
    })
}

/// Writes what a batch changed, each row only if it still is what the batch took it for.
pub(super) fn update(changed: &[Changed<DeviceId, DeviceView>]) -> Write {
    let mut rows = Rows::new(&[
        ("id", Kind::Text),
        ("state", Kind::Text),
        ("high_water", Kind::Int),
        ("used_below", Kind::Int),
        ("faults", Kind::Int),
        ("old_state", Kind::Text),
        ("old_high_water", Kind::Int),
        ("old_used_below", Kind::Int),
        ("old_faults", Kind::Int),
        ("merchant_id", Kind::Text),
        ("ksn_window", Kind::Int),
    ]);
    for Changed { key, before, after } in changed {
        rows.push([
            key.as_str().into(),
            after.state.name().into(),
            i64::from(after.guard.high_water).into(),
            bits_to_row(after.guard.used_below).into(),
            i64::from(after.faults).into(),
            before.state.name().into(),
            i64::from(before.guard.high_water).into(),
            bits_to_row(before.guard.used_below).into(),
            i64::from(before.faults).into(),
            before.merchant.as_str().into(),
            i64::from(before.window).into(),
        ]);
    }
    Write::new(
        "UPDATE device SET state = v.state, high_water = v.high_water, used_below = v.used_below, faults = v.faults \
         FROM",
        rows,
        "WHERE device.id = v.id AND device.state = v.old_state AND device.high_water = v.old_high_water \
         AND device.used_below = v.old_used_below AND device.faults = v.old_faults \
         AND device.merchant_id = v.merchant_id AND device.ksn_window = v.ksn_window",
    )
}

/// 64 bits as the signed number databases have.
const fn bits_to_row(bits: u64) -> i64 {
    i64::from_ne_bytes(bits.to_ne_bytes())
}

const fn bits_of_row(number: i64) -> u64 {
    u64::from_ne_bytes(number.to_ne_bytes())
}

impl DeviceRecord {
    fn readable(row: row::Model) -> Option<Self> {
        let id = row.id.clone();
        Self::of(row).inspect_err(|_| tracing::warn!(?id, "a device in the data store cannot be read")).ok()
    }

    fn of(row: row::Model) -> Result<Self, Failure> {
        let scheme = words::scheme(&row.scheme).ok_or(Failure::Corrupt("device.scheme"))?;
        let ksn = words::unhex(&row.ksn_device.to_ascii_lowercase()).and_then(|ksn| Ksn::parse(scheme, &ksn).ok());
        let format = Format::from_name(&row.format).ok_or(Failure::Corrupt("device.format"))?;
        let key = match row.key_variant {
            None => None,
            Some(name) => Some(words::key(&name).ok_or(Failure::Corrupt("device.key_variant"))?),
        };
        let sred = row.sred_approval.zip(row.sred_expires_at_ms);
        Ok(Self {
            id: DeviceId::parse(&row.id).map_err(|_| Failure::Corrupt("device.id"))?,
            merchant: MerchantId::parse(&row.merchant_id).map_err(|_| Failure::Corrupt("device.merchant_id"))?,
            ksn_device: ksn.ok_or(Failure::Corrupt("device.ksn_device"))?,
            bdk: BdkId::parse(&row.bdk_id).map_err(|_| Failure::Corrupt("device.bdk_id"))?,
            profile: Profile { format, key },
            state: State::from_name(&row.state).ok_or(Failure::Corrupt("device.state"))?,
            card_check: CardCheck::from_name(&row.card_check).ok_or(Failure::Corrupt("device.card_check"))?,
            window: row.ksn_window.try_into().map_err(|_| Failure::Corrupt("device.ksn_window"))?,
            guard: KsnGuard {
                high_water: row.high_water.try_into().map_err(|_| Failure::Corrupt("device.high_water"))?,
                used_below: bits_of_row(row.used_below),
            },
            faults: row.faults.try_into().map_err(|_| Failure::Corrupt("device.faults"))?,
            model: row.model,
            firmware: row.firmware,
            sred: sred.map(|(approval, expires_at_ms)| Sred { approval, expires_at_ms }),
            created_at_ms: row.created_at_ms,
        })
    }
}
