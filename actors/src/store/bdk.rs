//! Base derivation keys, and the keys they are handed over under, as the registry knows them: everything about a key but
//! the key.

use std::sync::Arc;

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue::Set, DbBackend, FromQueryResult, QueryOrder, QueryResult};
use warifu_core::custody::{Environment, KeyProof, Purpose, State};
use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
use warifu_core::merchant::{BdkId, MerchantId};

use super::bulk::{Kind, Rows};
use super::error::{Failure, StoreError};
use super::lookup::{Lookup, Truth};
use super::{Store, words};

/// A key in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BdkRecord {
    /// Its id; the slot object's label follows from it.
    pub id: BdkId,
    /// What it is for.
    pub purpose: Purpose,
    /// Which DUKPT; `Aes` for a protection key.
    pub scheme: Scheme,
    /// Its length.
    pub len: KeyLen,
    /// Where it may be used.
    pub environment: Environment,
    /// The one merchant whose devices may be loaded from it; `None` for all.
    pub merchant: Option<MerchantId>,
    /// Its key check value in hex, as custodians compare it, where it is known.
    pub kcv: Option<String>,
    /// What the slot is held to: another key under the label is found by it.
    pub proof: KeyProof,
    /// Where it is in its life.
    pub state: State,
    /// When it was registered, in milliseconds since 1970 UTC.
    pub created_at_ms: i64,
    /// When it was taken into use first.
    pub activated_at_ms: Option<i64>,
    /// When it should have been replaced.
    pub expires_at_ms: Option<i64>,
}

mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "bdk")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub purpose: String,
        pub scheme: String,
        pub bits: i64,
        pub environment: String,
        pub merchant_id: Option<String>,
        pub kcv: Option<String>,
        pub proof: String,
        pub state: String,
        pub created_at_ms: i64,
        pub activated_at_ms: Option<i64>,
        pub expires_at_ms: Option<i64>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// A base derivation key, as every request asks for it: as it was less than [`super::LEASE`] ago.
    pub async fn bdk(&self, id: &BdkId) -> Result<Option<Arc<BdkRecord>>, StoreError> {
        self.lookups().bdks.find(id.clone()).await
    }

    /// Every base derivation key, by id.
    pub async fn bdks(&self) -> Result<Vec<BdkRecord>, StoreError> {
        let rows = self.all(row::Entity::find().order_by_asc(row::Column::Id)).await?;
        Ok(rows.into_iter().map(BdkRecord::of).collect::<Result<_, _>>()?)
    }
}

/// Base derivation keys looked up by id.
pub(super) struct ById;

impl Lookup for ById {
    type Key = BdkId;
    type Found = Arc<BdkRecord>;
    const TRUTH: Truth = Truth::Registry;

    const HEAD: &'static str = "SELECT b.* FROM";

    fn tail(_: DbBackend) -> &'static str {
        "CROSS JOIN bdk AS b WHERE b.id = v.id"
    }

    fn bind<'a>(keys: impl Iterator<Item = &'a BdkId>) -> Rows {
        let mut rows = Rows::new(&[("id", Kind::Text)]);
        keys.for_each(|id| rows.push([id.as_str().into()]));
        rows
    }

    fn key(row: &QueryResult) -> Result<BdkId, Failure> {
        BdkId::parse(&row.try_get::<String>("", "id")?).map_err(|_| Failure::Corrupt("bdk.id"))
    }

    fn found(row: &QueryResult) -> Result<Arc<BdkRecord>, Failure> {
        BdkRecord::of(row::Model::from_query_result(row, "")?).map(Arc::new)
    }
}

pub(super) async fn by_id(db: &impl ConnectionTrait, id: &BdkId) -> Result<Option<BdkRecord>, Failure> {
    row::Entity::find_by_id(id.as_str()).one(db).await?.map(BdkRecord::of).transpose()
}

pub(super) async fn insert(db: &impl ConnectionTrait, bdk: &BdkRecord) -> Result<(), Failure> {
    let row = row::ActiveModel {
        id: Set(bdk.id.to_string()),
        purpose: Set(bdk.purpose.name().to_owned()),
        scheme: Set(words::scheme_name(bdk.scheme).to_owned()),
        bits: Set(bdk.len.bits().into()),
        environment: Set(bdk.environment.name().to_owned()),
        merchant_id: Set(bdk.merchant.as_ref().map(ToString::to_string)),
        kcv: Set(bdk.kcv.clone()),
        proof: Set(bdk.proof.to_string()),
        state: Set(bdk.state.name().to_owned()),
        created_at_ms: Set(bdk.created_at_ms),
        activated_at_ms: Set(bdk.activated_at_ms),
        expires_at_ms: Set(bdk.expires_at_ms),
    };
    row::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

/// Moves a key from one state to another; `false` if it is not in the first any more.
pub(super) async fn move_state(
    db: &impl ConnectionTrait,
    bdk: &BdkRecord,
    to: State,
    at_ms: i64,
) -> Result<bool, Failure> {
    let first_use = (to == State::Active && bdk.activated_at_ms.is_none()).then_some(at_ms);
    let done = row::Entity::update_many()
        .col_expr(row::Column::State, Expr::value(to.name()))
        .col_expr(row::Column::ActivatedAtMs, Expr::value(first_use.or(bdk.activated_at_ms)))
        .filter(row::Column::Id.eq(bdk.id.as_str()))
        .filter(row::Column::State.eq(bdk.state.name()))
        .exec(db)
        .await?;
    Ok(done.rows_affected == 1)
}

impl BdkRecord {
    fn of(row: row::Model) -> Result<Self, Failure> {
        let len = [KeyLen::K128, KeyLen::K192, KeyLen::K256].into_iter().find(|len| i64::from(len.bits()) == row.bits);
        let merchant = row.merchant_id.as_deref().map(MerchantId::parse).transpose();
        Ok(Self {
            id: BdkId::parse(&row.id).map_err(|_| Failure::Corrupt("bdk.id"))?,
            purpose: Purpose::from_name(&row.purpose).ok_or(Failure::Corrupt("bdk.purpose"))?,
            scheme: words::scheme(&row.scheme).ok_or(Failure::Corrupt("bdk.scheme"))?,
            len: len.ok_or(Failure::Corrupt("bdk.bits"))?,
            environment: Environment::from_name(&row.environment).ok_or(Failure::Corrupt("bdk.environment"))?,
            merchant: merchant.map_err(|_| Failure::Corrupt("bdk.merchant_id"))?,
            kcv: row.kcv,
            proof: KeyProof::parse(&row.proof).ok_or(Failure::Corrupt("bdk.proof"))?,
            state: State::from_name(&row.state).ok_or(Failure::Corrupt("bdk.state"))?,
            created_at_ms: row.created_at_ms,
            activated_at_ms: row.activated_at_ms,
            expires_at_ms: row.expires_at_ms,
        })
    }
}
