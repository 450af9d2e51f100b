//! Initial keys that left the slot in a key block: which device's, how often, and under which protection key.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue::Set, QuerySelect};
use warifu_core::merchant::DeviceId;

use super::Store;
use super::error::{Failure, StoreError};

/// An initial key that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkExport {
    /// Whose.
    pub device: DeviceId,
    /// The how-manieth time; whoever is second with a number is refused.
    pub number: u32,
    /// Under which protection key: its id, or `update key of DEVICE`.
    pub under: String,
    /// When, in milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// Who did it, as the audit log says it.
    pub by: String,
}

mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "ik_export")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub number: i64,
        pub kbpk_id: String,
        pub at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// How often a device's initial key has left.
    pub async fn ik_exports(&self, device: &DeviceId) -> Result<u32, StoreError> {
        let exports = row::Entity::find().filter(row::Column::DeviceId.eq(device.as_str()));
        let numbers = self.all(exports.limit(u64::from(u16::MAX))).await?;
        Ok(u32::try_from(numbers.len()).unwrap_or(u32::MAX))
    }
}

pub(super) async fn insert(db: &impl ConnectionTrait, export: &IkExport) -> Result<(), Failure> {
    let row = row::ActiveModel {
        device_id: Set(export.device.to_string()),
        number: Set(export.number.into()),
        kbpk_id: Set(export.under.clone()),
        at_ms: Set(export.at_ms),
    };
    row::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}
