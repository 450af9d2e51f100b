//! Merchants, each with the wrapped key of its vault.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue::Set, FromQueryResult, QueryOrder, QueryResult};
use warifu_core::merchant::MerchantId;
use warifu_core::token::LastFour;
use warifu_hsm::WrappedVaultKey;

use super::bulk::{Kind, Rows};
use super::error::{Failure, StoreError};
use super::lookup::{Lookup, Truth};
use super::{Store, words};

/// A merchant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MerchantRecord {
    /// Its id.
    pub id: MerchantId,
    /// How people call it.
    pub name: String,
    /// Whether its tokens end as its cards do.
    pub last_four: LastFour,
    /// The key of its vault, wrapped.
    pub vault_key: WrappedVaultKey,
    /// When it was registered, in milliseconds since 1970 UTC.
    pub created_at_ms: i64,
}

mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "merchant")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub name: String,
        pub last_four: String,
        pub wrapped_vault_key: Vec<u8>,
        pub created_at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// One merchant.
    pub async fn merchant(&self, id: &MerchantId) -> Result<Option<MerchantRecord>, StoreError> {
        self.lookups().merchants.find(id.clone()).await
    }

    /// Every merchant, by id.
    pub async fn merchants(&self) -> Result<Vec<MerchantRecord>, StoreError> {
        let rows = self.all(row::Entity::find().order_by_asc(row::Column::Id)).await?;
        Ok(rows.into_iter().map(MerchantRecord::of).collect::<Result<_, _>>()?)
    }
}

/// Merchants looked up by id.
pub(super) struct ById;

impl Lookup for ById {
    type Key = MerchantId;
    type Found = MerchantRecord;
    const TRUTH: Truth = Truth::Registry;

    const HEAD: &'static str = "SELECT m.* FROM";
    const TAIL: &'static str = "CROSS JOIN merchant AS m WHERE m.id = v.id";

    fn bind<'a>(keys: impl Iterator<Item = &'a MerchantId>) -> Rows {
        let mut rows = Rows::new(&[("id", Kind::Text)]);
        keys.for_each(|id| rows.push([id.as_str().into()]));
        rows
    }

    fn key(row: &QueryResult) -> Result<MerchantId, Failure> {
        MerchantId::parse(&row.try_get::<String>("", "id")?).map_err(|_| Failure::Corrupt("merchant.id"))
    }

    fn found(row: &QueryResult) -> Result<MerchantRecord, Failure> {
        MerchantRecord::of(row::Model::from_query_result(row, "")?)
    }
}

pub(super) async fn exists(db: &impl ConnectionTrait, id: &MerchantId) -> Result<bool, Failure> {
    Ok(row::Entity::find_by_id(id.as_str()).one(db).await?.is_some())
}

pub(super) async fn insert(db: &impl ConnectionTrait, merchant: &MerchantRecord) -> Result<(), Failure> {
    let row = row::ActiveModel {
        id: Set(merchant.id.to_string()),
        name: Set(merchant.name.clone()),
        last_four: Set(words::last_four_name(merchant.last_four).to_owned()),
        wrapped_vault_key: Set(merchant.vault_key.0.clone()),
        created_at_ms: Set(merchant.created_at_ms),
    };
    row::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

impl MerchantRecord {
    fn of(row: row::Model) -> Result<Self, Failure> {
        Ok(Self {
            id: MerchantId::parse(&row.id).map_err(|_| Failure::Corrupt("merchant.id"))?,
            name: row.name,
            last_four: words::last_four(&row.last_four).ok_or(Failure::Corrupt("merchant.last_four"))?,
            vault_key: WrappedVaultKey(row.wrapped_vault_key),
            created_at_ms: row.created_at_ms,
        })
    }
}
