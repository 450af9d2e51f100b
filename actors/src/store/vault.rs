//! The vault between its keys: the generations a slot has keys of, and how far a merchant's vault has moved from one to
//! the next.
//!
//! Architecture invariant: a merchant's tokens are of the generation of its vault key or, while it moves, of the one
//! before; from a moment on, no new one is of that. Generations take turns in two columns of fingerprints, odd and even, so a card is found by either while its
//! vault moves.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue::Set, QueryOrder, QuerySelect};
use warifu_core::custody::KeyProof;
use warifu_hsm::{Fingerprint, VaultGeneration, WrappedVaultKey};

use super::Store;
use super::error::{Failure, StoreError};

/// The keys of a merchant's vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vault {
    /// The one that seals.
    pub key: WrappedVaultKey,
    /// The one before it, until every token has moved.
    pub former: Option<WrappedVaultKey>,
    /// The oldest generation new tokens may be of: the one before, as long as servers may not know of the new key.
    pub accepts: VaultGeneration,
}

/// The generations new tokens of a vault may be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) oldest: VaultGeneration,
    pub(super) newest: VaultGeneration,
}

impl Accepted {
    /// None but this one.
    pub(super) const fn only(generation: VaultGeneration) -> Self {
        Self { oldest: generation, newest: generation }
    }

    /// This one too.
    pub(super) fn and(self, generation: VaultGeneration) -> Self {
        Self { oldest: self.oldest.min(generation), newest: self.newest.max(generation) }
    }

    pub(super) fn has(self, generation: VaultGeneration) -> bool {
        self.oldest <= generation && generation <= self.newest
    }
}

/// By which keys a card is known at a merchant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaultStage {
    /// The generation of the key that seals.
    pub generation: VaultGeneration,
    /// Whether there are tokens of the one before.
    pub moving: bool,
}

/// A card's fingerprints at a merchant: one, or two while its vault moves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprints {
    /// The generation of the key that seals.
    pub generation: VaultGeneration,
    /// By that generation's key.
    pub current: Fingerprint,
    /// By the key of the one before.
    pub former: Option<Fingerprint>,
}

/// A generation of vault keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultGenerationRecord {
    /// Which.
    pub generation: VaultGeneration,
    /// How far it is.
    pub state: VaultGenerationState,
    /// What tells its fingerprint key from every other one, once it is made.
    pub proof: Option<KeyProof>,
    /// When its keys were made, or begun to be made, in milliseconds since 1970 UTC.
    pub created_at_ms: i64,
}

/// The life of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultGenerationState {
    /// Its keys are being made: what the slot has of them is nobody's.
    Making,
    /// It can be used.
    Ready,
    /// Its keys are gone, or about to be.
    Destroyed,
}

impl VaultGenerationState {
    const ALL: [Self; 3] = [Self::Making, Self::Ready, Self::Destroyed];

    /// Its name everywhere.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Ready => "ready",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether it may become that.
    pub(super) fn may_become(self, to: Self) -> bool {
        matches!((self, to), (Self::Making, Self::Making | Self::Ready) | (Self::Ready, Self::Destroyed))
    }
}

impl Vault {
    /// A vault at rest.
    pub const fn of(key: WrappedVaultKey) -> Self {
        let accepts = key.generation;
        Self { key, former: None, accepts }
    }

    /// The generations its new tokens may be of.
    pub(super) const fn accepted(&self) -> Accepted {
        Accepted { oldest: self.accepts, newest: self.key.generation }
    }

    /// By which keys its cards are known.
    pub const fn stage(&self) -> VaultStage {
        VaultStage { generation: self.key.generation, moving: self.former.is_some() }
    }
}

impl VaultStage {
    /// The generation it moves from.
    pub fn former(self) -> Option<VaultGeneration> {
        if self.moving { self.generation.former() } else { None }
    }
}

impl Fingerprints {
    /// All of them.
    pub fn each(&self) -> impl Iterator<Item = Fingerprint> + use<> {
        std::iter::once(self.current).chain(self.former)
    }

    /// Those of odd and of even generations.
    pub(super) fn by_parity(&self) -> [Option<Fingerprint>; 2] {
        match Parity::of(self.generation) {
            Parity::Odd => [Some(self.current), self.former],
            Parity::Even => [self.former, Some(self.current)],
        }
    }
}

/// In which column the fingerprints of a generation are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Parity {
    Odd,
    Even,
}

impl Parity {
    pub(super) const fn of(generation: VaultGeneration) -> Self {
        if generation.number() % 2 == 1 { Self::Odd } else { Self::Even }
    }
}

mod row {
    #![allow(unreachable_pub, missing_docs, reason = "sea-orm derives public items")]
    use super::*;

    #[sea_orm::model]
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "vault_generation")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub generation: i64,
        pub state: String,
        pub proof: Option<String>,
        pub created_at_ms: i64,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

impl Store {
    /// Every generation of vault keys that was registered, the first one first.
    pub async fn vault_generations(&self) -> Result<Vec<VaultGenerationRecord>, StoreError> {
        let rows = self.all(row::Entity::find().order_by_asc(row::Column::Generation)).await?;
        Ok(rows.into_iter().map(VaultGenerationRecord::of).collect::<Result<_, _>>()?)
    }
}

/// Whether new vaults are of this generation; it stays ready until the transaction's end. Where nobody has registered any,
/// the first one is.
pub(super) async fn is_newest(db: &impl ConnectionTrait, generation: VaultGeneration) -> Result<bool, Failure> {
    let ready = row::Entity::find()
        .filter(row::Column::State.eq(VaultGenerationState::Ready.name()))
        .order_by_desc(row::Column::Generation)
        .limit(1)
        .lock_shared()
        .one(db)
        .await?;
    match ready {
        Some(newest) => Ok(newest.generation == i64::from(generation.number())),
        None => Ok(generation == VaultGeneration::FIRST),
    }
}

/// Writes a new generation down.
pub(super) async fn insert(db: &impl ConnectionTrait, record: &VaultGenerationRecord) -> Result<(), Failure> {
    row::Entity::insert(record.row()).exec_without_returning(db).await?;
    Ok(())
}

/// Writes down what became of a generation; `false` if it is not as it was seen any more.
pub(super) async fn update(
    db: &impl ConnectionTrait,
    seen: &VaultGenerationRecord,
    record: &VaultGenerationRecord,
) -> Result<bool, Failure> {
    let done = row::Entity::update_many()
        .set(record.row())
        .filter(row::Column::Generation.eq(i64::from(record.generation.number())))
        .filter(row::Column::State.eq(seen.state.name()))
        .filter(row::Column::CreatedAtMs.eq(seen.created_at_ms))
        .exec(db)
        .await?;
    Ok(done.rows_affected == 1)
}

/// A generation as a row has it.
pub(super) fn generation(number: i64) -> Result<VaultGeneration, Failure> {
    let number = u32::try_from(number).ok().and_then(VaultGeneration::from_number);
    number.ok_or(Failure::Corrupt("a vault generation"))
}

impl VaultGenerationRecord {
    fn row(&self) -> row::ActiveModel {
        row::ActiveModel {
            generation: Set(self.generation.number().into()),
            state: Set(self.state.name().to_owned()),
            proof: Set(self.proof.map(|proof| proof.to_string())),
            created_at_ms: Set(self.created_at_ms),
        }
    }

    fn of(row: row::Model) -> Result<Self, Failure> {
        let proof = match &row.proof {
            None => None,
            Some(proof) => Some(KeyProof::parse(proof).ok_or(Failure::Corrupt("vault_generation.proof"))?),
        };
        let state = VaultGenerationState::ALL.into_iter().find(|state| state.name() == row.state);
        Ok(Self {
            generation: generation(row.generation)?,
            state: state.ok_or(Failure::Corrupt("vault_generation.state"))?,
            proof,
            created_at_ms: row.created_at_ms,
        })
    }
}
