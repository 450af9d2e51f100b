//! The people who keep keys, each known by a certificate: custodians, who carry components and act in pairs, and
//! operators, who see.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue::Set, QueryOrder};
use warifu_core::merchant::CustodianId;

use super::error::{Failure, StoreError};
use super::module::ModuleState;
use super::{Store, words};

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// See the keys.
    Operator,
    /// And, together with another one, make, change and destroy them.
    Custodian,
}

impl Role {
    /// Its name in rows and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Custodian => "custodian",
        }
    }

    /// The inverse of [`Role::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Operator, Self::Custodian].into_iter().find(|role| role.name() == name)
    }
}

/// A key custodian, or an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustodianRecord {
    /// The person, once.
    pub id: CustodianId,
    /// SHA-256 of the certificate's DER form.
    pub certificate_sha256: [u8; 32],
    /// What the person may do.
    pub role: Role,
    /// Whether the person may do it still.
    pub state: ModuleState,
    /// When the person was registered, in milliseconds since 1970 UTC.
    pub created_at_ms: i64,
}

mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "custodian")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub certificate_sha256: String,
        pub role: String,
        pub state: String,
        pub created_at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// The person with a certificate, blocked or not.
    pub async fn custodian_by_certificate(&self, sha256: &[u8; 32]) -> Result<Option<CustodianRecord>, StoreError> {
        let found = row::Entity::find().filter(row::Column::CertificateSha256.eq(words::hex(sha256)));
        Ok(self.one(found).await?.map(CustodianRecord::of).transpose()?)
    }

    /// Every custodian, by id.
    pub async fn custodians(&self) -> Result<Vec<CustodianRecord>, StoreError> {
        let rows = self.all(row::Entity::find().order_by_asc(row::Column::Id)).await?;
        Ok(rows.into_iter().map(CustodianRecord::of).collect::<Result<_, _>>()?)
    }
}

pub(super) async fn insert(db: &impl ConnectionTrait, custodian: &CustodianRecord) -> Result<(), Failure> {
    let row = row::ActiveModel {
        id: Set(custodian.id.to_string()),
        certificate_sha256: Set(words::hex(&custodian.certificate_sha256)),
        role: Set(custodian.role.name().to_owned()),
        state: Set(custodian.state.name().to_owned()),
        created_at_ms: Set(custodian.created_at_ms),
    };
    row::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

/// `false` if there is no such custodian.
pub(super) async fn block(db: &impl ConnectionTrait, id: &CustodianId) -> Result<bool, Failure> {
    let done = row::Entity::update_many()
        .col_expr(row::Column::State, Expr::value(ModuleState::Blocked.name()))
        .filter(row::Column::Id.eq(id.as_str()))
        .exec(db)
        .await?;
    Ok(done.rows_affected == 1)
}

impl CustodianRecord {
    fn of(row: row::Model) -> Result<Self, Failure> {
        let sha256 = words::unhex(&row.certificate_sha256).and_then(|bytes| bytes.try_into().ok());
        Ok(Self {
            id: CustodianId::parse(&row.id).map_err(|_| Failure::Corrupt("custodian.id"))?,
            certificate_sha256: sha256.ok_or(Failure::Corrupt("custodian.certificate_sha256"))?,
            role: Role::from_name(&row.role).ok_or(Failure::Corrupt("custodian.role"))?,
            state: ModuleState::from_name(&row.state).ok_or(Failure::Corrupt("custodian.state"))?,
            created_at_ms: row.created_at_ms,
        })
    }
}
