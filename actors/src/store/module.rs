//! Comm modules: whose they are, and the certificate each is known by.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue::Set, DbBackend, FromQueryResult, QueryOrder, QueryResult};
use warifu_core::merchant::{MerchantId, ModuleId};

use super::bulk::{Kind, Rows};
use super::error::{Failure, StoreError};
use super::lookup::{Lookup, Truth};
use super::{Store, words};

/// A comm module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleRecord {
    /// Its id.
    pub id: ModuleId,
    /// Whose it is.
    pub merchant: MerchantId,
    /// SHA-256 of its certificate's DER form.
    pub certificate_sha256: [u8; 32],
    /// Whether it may connect.
    pub state: ModuleState,
    /// When it was registered, in milliseconds since 1970 UTC.
    pub created_at_ms: i64,
}

/// Whether a module may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModuleState {
    /// It may.
    Active,
    /// It may not any more.
    Blocked,
}

impl ModuleState {
    /// Its name in rows and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Blocked => "blocked",
        }
    }

    /// The inverse of [`ModuleState::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Blocked].into_iter().find(|state| state.name() == name)
    }
}

mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "module")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub merchant_id: String,
        pub certificate_sha256: String,
        pub state: String,
        pub created_at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// The module with a certificate, blocked or not.
    pub async fn module_by_certificate(&self, sha256: &[u8; 32]) -> Result<Option<ModuleRecord>, StoreError> {
        self.lookups().modules.find(*sha256).await
    }

    /// Every module, by id. One that cannot be read does not hide the others.
    pub async fn modules(&self) -> Result<Vec<ModuleRecord>, StoreError> {
        let rows = self.all(row::Entity::find().order_by_asc(row::Column::Id)).await?;
        Ok(rows.into_iter().filter_map(ModuleRecord::readable).collect())
    }
}

/// Modules looked up by the SHA-256 of their certificates.
pub(super) struct ByCertificate;

impl Lookup for ByCertificate {
    type Key = [u8; 32];
    type Found = ModuleRecord;
    const TRUTH: Truth = Truth::Registry;

    const HEAD: &'static str = "SELECT m.* FROM";

    fn tail(_: DbBackend) -> &'static str {
        "CROSS JOIN module AS m WHERE m.certificate_sha256 = v.certificate_sha256"
    }

    fn bind<'a>(keys: impl Iterator<Item = &'a [u8; 32]>) -> Rows {
        let mut rows = Rows::new(&[("certificate_sha256", Kind::Text)]);
        keys.for_each(|sha256| rows.push([words::hex(sha256).into()]));
        rows
    }

    fn key(row: &QueryResult) -> Result<[u8; 32], Failure> {
        certificate(&row.try_get::<String>("", "certificate_sha256")?)
    }

    fn found(row: &QueryResult) -> Result<ModuleRecord, Failure> {
        ModuleRecord::of(row::Model::from_query_result(row, "")?)
    }
}

pub(super) async fn by_id(db: &impl ConnectionTrait, id: &ModuleId) -> Result<Option<ModuleRecord>, Failure> {
    row::Entity::find_by_id(id.as_str()).one(db).await?.map(ModuleRecord::of).transpose()
}

pub(super) async fn insert(db: &impl ConnectionTrait, module: &ModuleRecord) -> Result<(), Failure> {
    let row = row::ActiveModel {
        id: Set(module.id.to_string()),
        merchant_id: Set(module.merchant.to_string()),
        certificate_sha256: Set(words::hex(&module.certificate_sha256)),
        state: Set(module.state.name().to_owned()),
        created_at_ms: Set(module.created_at_ms),
    };
    row::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

pub(super) async fn set_state(db: &impl ConnectionTrait, id: &ModuleId, state: ModuleState) -> Result<(), Failure> {
    row::Entity::update_many()
        .col_expr(row::Column::State, Expr::value(state.name()))
        .filter(row::Column::Id.eq(id.as_str()))
        .exec(db)
        .await?;
    Ok(())
}

fn certificate(text: &str) -> Result<[u8; 32], Failure> {
    let sha256 = words::unhex(text).and_then(|bytes| bytes.try_into().ok());
    sha256.ok_or(Failure::Corrupt("module.certificate_sha256"))
}

impl ModuleRecord {
    fn readable(row: row::Model) -> Option<Self> {
        let id = row.id.clone();
        Self::of(row).inspect_err(|_| tracing::warn!(?id, "a module in the data store cannot be read")).ok()
    }

    fn of(row: row::Model) -> Result<Self, Failure> {
        Ok(Self {
            id: ModuleId::parse(&row.id).map_err(|_| Failure::Corrupt("module.id"))?,
            merchant: MerchantId::parse(&row.merchant_id).map_err(|_| Failure::Corrupt("module.merchant_id"))?,
            certificate_sha256: certificate(&row.certificate_sha256)?,
            state: ModuleState::from_name(&row.state).ok_or(Failure::Corrupt("module.state"))?,
            created_at_ms: row.created_at_ms,
        })
    }
}
