//! Changes of keys that one custodian wants and another has yet to want, too.

use sea_orm::ActiveValue::Set;
use sea_orm::entity::prelude::*;
use warifu_core::custody::State;
use warifu_core::merchant::{BdkId, CustodianId};

use super::Store;
use super::error::{Failure, StoreError};
use super::registry::KeyReason;

/// A change one custodian wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyProposal {
    /// Of which key. There is one at a time.
    pub key: BdkId,
    /// To which state.
    pub to: State,
    /// Why.
    pub because: KeyReason,
    /// Who wants it.
    pub by: CustodianId,
    /// Since when, in milliseconds since 1970 UTC.
    pub at_ms: i64,
}

mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "key_proposal")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub key_id: String,
        pub to_state: String,
        pub compromised: i64,
        pub custodian_id: String,
        pub at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// What is proposed for a key.
    pub async fn key_proposal(&self, key: &BdkId) -> Result<Option<KeyProposal>, StoreError> {
        let row = self.one(row::Entity::find_by_id(key.as_str())).await?;
        Ok(row.map(KeyProposal::of).transpose()?)
    }
}

/// Puts a proposal in the place of any other for the key.
pub(super) async fn put(db: &impl ConnectionTrait, proposal: &KeyProposal) -> Result<(), Failure> {
    row::Entity::delete_by_id(proposal.key.as_str()).exec(db).await?;
    let row = row::ActiveModel {
        key_id: Set(proposal.key.to_string()),
        to_state: Set(proposal.to.name().to_owned()),
        compromised: Set((proposal.because == KeyReason::Compromised).into()),
        custodian_id: Set(proposal.by.to_string()),
        at_ms: Set(proposal.at_ms),
    };
    row::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

/// Takes exactly this proposal away; `false` if it is not there any more.
pub(super) async fn take(db: &impl ConnectionTrait, proposal: &KeyProposal) -> Result<bool, Failure> {
    let done = row::Entity::delete_many()
        .filter(row::Column::KeyId.eq(proposal.key.as_str()))
        .filter(row::Column::ToState.eq(proposal.to.name()))
        .filter(row::Column::CustodianId.eq(proposal.by.as_str()))
        .filter(row::Column::AtMs.eq(proposal.at_ms))
        .exec(db)
        .await?;
    Ok(done.rows_affected == 1)
}

impl KeyProposal {
    fn of(row: row::Model) -> Result<Self, Failure> {
        Ok(Self {
            key: BdkId::parse(&row.key_id).map_err(|_| Failure::Corrupt("key_proposal.key_id"))?,
            to: State::from_name(&row.to_state).ok_or(Failure::Corrupt("key_proposal.to_state"))?,
            because: if row.compromised == 0 { KeyReason::Planned } else { KeyReason::Compromised },
            by: CustodianId::parse(&row.custodian_id).map_err(|_| Failure::Corrupt("key_proposal.custodian_id"))?,
            at_ms: row.at_ms,
        })
    }
}
