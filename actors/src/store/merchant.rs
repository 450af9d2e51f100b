//! Merchants, each with the wrapped keys of its vault.

use std::collections::HashMap;
use std::sync::Arc;

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Condition, Expr};
use sea_orm::{ActiveValue::Set, DbBackend, FromQueryResult, QueryOrder, QueryResult, QuerySelect};
use warifu_core::merchant::MerchantId;
use warifu_core::token::LastFour;
use warifu_hsm::{VaultGeneration, WrappedVaultKey};

use super::bulk::{Kind, Rows, Select};
use super::error::{Failure, StoreError};
use super::lookup::{Lookup, Truth};
use super::vault::{self, Accepted, Vault};
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
    /// The keys of its vault.
    pub vault: Vault,
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
        pub vault_generation: i64,
        pub vault_accepts: i64,
        pub former_vault_key: Option<Vec<u8>>,
        pub created_at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// One merchant, as every request asks for it: as it was less than [`super::LEASE`] ago.
    pub async fn merchant(&self, id: &MerchantId) -> Result<Option<Arc<MerchantRecord>>, StoreError> {
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
    type Found = Arc<MerchantRecord>;
    const TRUTH: Truth = Truth::Registry;

    const HEAD: &'static str = "SELECT m.* FROM";

    fn tail(_: DbBackend) -> &'static str {
        "CROSS JOIN merchant AS m WHERE m.id = v.id"
    }

    fn bind<'a>(keys: impl Iterator<Item = &'a MerchantId>) -> Rows {
        let mut rows = Rows::new(&[("id", Kind::Text)]);
        keys.for_each(|id| rows.push([id.as_str().into()]));
        rows
    }

    fn key(row: &QueryResult) -> Result<MerchantId, Failure> {
        MerchantId::parse(&row.try_get::<String>("", "id")?).map_err(|_| Failure::Corrupt("merchant.id"))
    }

    fn found(row: &QueryResult) -> Result<Arc<MerchantRecord>, Failure> {
        MerchantRecord::of(row::Model::from_query_result(row, "")?).map(Arc::new)
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
        wrapped_vault_key: Set(merchant.vault.key.blob.clone()),
        vault_generation: Set(merchant.vault.key.generation.number().into()),
        vault_accepts: Set(merchant.vault.accepts.number().into()),
        former_vault_key: Set(merchant.vault.former.as_ref().map(|former| former.blob.clone())),
        created_at_ms: Set(merchant.created_at_ms),
    };
    row::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

/// Reads what the vaults of a batch accept, and keeps them so until its end.
pub(super) fn select_vaults<'a>(backend: DbBackend, ids: impl Iterator<Item = &'a MerchantId>) -> Select {
    let mut rows = Rows::new(&[("id", Kind::Text)]);
    ids.for_each(|id| rows.push([id.as_str().into()]));
    let tail = match backend {
        DbBackend::Sqlite => "CROSS JOIN merchant AS m WHERE m.id = v.id",
        _ => "CROSS JOIN merchant AS m WHERE m.id = v.id ORDER BY m.id FOR SHARE OF m",
    };
    Select::new("SELECT m.* FROM", rows, tail)
}

/// What [`select_vaults`] found.
pub(super) fn vaults(rows: &[QueryResult]) -> Result<HashMap<MerchantId, Accepted>, Failure> {
    let vault = |row| {
        let merchant = MerchantRecord::of(row::Model::from_query_result(row, "")?)?;
        Ok((merchant.id, merchant.vault.accepted()))
    };
    rows.iter().map(vault).collect()
}

/// Whether a merchant's vault is at rest under a generation, and keeps it so until the transaction's end.
pub(super) async fn rests(
    db: &impl ConnectionTrait,
    id: &MerchantId,
    generation: VaultGeneration,
) -> Result<bool, Failure> {
    let select = row::Entity::find_by_id(id.as_str())
        .filter(row::Column::VaultGeneration.eq(i64::from(generation.number())))
        .filter(row::Column::FormerVaultKey.is_null());
    Ok(select.lock_shared().one(db).await?.is_some())
}

/// Whether any vault needs the keys of a generation.
pub(super) async fn needs_generation(db: &impl ConnectionTrait, generation: VaultGeneration) -> Result<bool, Failure> {
    let number = i64::from(generation.number());
    let moves_from = Condition::all()
        .add(row::Column::VaultGeneration.eq(number + 1))
        .add(row::Column::FormerVaultKey.is_not_null());
    let needs = Condition::any().add(row::Column::VaultGeneration.lte(number)).add(moves_from);
    Ok(row::Entity::find().filter(needs).limit(1).one(db).await?.is_some())
}

/// Gives a merchant's vault the key of the next generation, beside the one it has; `false` if it is not at rest under `from`.
pub(super) async fn begin_move(
    db: &impl ConnectionTrait,
    id: &MerchantId,
    from: &WrappedVaultKey,
    to: &WrappedVaultKey,
) -> Result<bool, Failure> {
    let done = row::Entity::update_many()
        .col_expr(row::Column::FormerVaultKey, Expr::value(from.blob.clone()))
        .col_expr(row::Column::WrappedVaultKey, Expr::value(to.blob.clone()))
        .col_expr(row::Column::VaultGeneration, Expr::value(i64::from(to.generation.number())))
        .filter(row::Column::Id.eq(id.as_str()))
        .filter(row::Column::VaultGeneration.eq(i64::from(from.generation.number())))
        .filter(row::Column::WrappedVaultKey.eq(from.blob.clone()))
        .filter(row::Column::FormerVaultKey.is_null())
        .exec(db)
        .await?;
    Ok(done.rows_affected == 1)
}

/// From now on no new token is of an older generation than the one the vault moves to; `false` if that is not this one.
pub(super) async fn close_move(
    db: &impl ConnectionTrait,
    id: &MerchantId,
    generation: VaultGeneration,
) -> Result<bool, Failure> {
    let done = row::Entity::update_many()
        .col_expr(row::Column::VaultAccepts, Expr::value(i64::from(generation.number())))
        .filter(row::Column::Id.eq(id.as_str()))
        .filter(row::Column::VaultGeneration.eq(i64::from(generation.number())))
        .filter(row::Column::FormerVaultKey.is_not_null())
        .exec(db)
        .await?;
    Ok(done.rows_affected == 1)
}

/// Throws the former key of a vault away: nothing is sealed under it any more. `false` if the vault does not move to
/// `generation`, or is not closed for the one before.
pub(super) async fn end_move(
    db: &impl ConnectionTrait,
    id: &MerchantId,
    generation: VaultGeneration,
) -> Result<bool, Failure> {
    let done = row::Entity::update_many()
        .col_expr(row::Column::FormerVaultKey, Expr::value(Option::<Vec<u8>>::None))
        .filter(row::Column::Id.eq(id.as_str()))
        .filter(row::Column::VaultGeneration.eq(i64::from(generation.number())))
        .filter(row::Column::VaultAccepts.eq(i64::from(generation.number())))
        .filter(row::Column::FormerVaultKey.is_not_null())
        .exec(db)
        .await?;
    Ok(done.rows_affected == 1)
}

impl MerchantRecord {
    fn of(row: row::Model) -> Result<Self, Failure> {
        let generation = vault::generation(row.vault_generation)?;
        let accepts = vault::generation(row.vault_accepts)?;
        let former = match row.former_vault_key {
            None => None,
            Some(blob) => {
                let generation = generation.former().ok_or(Failure::Corrupt("merchant.former_vault_key"))?;
                Some(WrappedVaultKey { generation, blob })
            }
        };
        Ok(Self {
            id: MerchantId::parse(&row.id).map_err(|_| Failure::Corrupt("merchant.id"))?,
            name: row.name,
            last_four: words::last_four(&row.last_four).ok_or(Failure::Corrupt("merchant.last_four"))?,
            vault: Vault { key: WrappedVaultKey { generation, blob: row.wrapped_vault_key }, former, accepts },
            created_at_ms: row.created_at_ms,
        })
    }
}
