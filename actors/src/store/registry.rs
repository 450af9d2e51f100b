//! Changes of the registry: merchants, modules, devices and keys. Each is one transaction with its own audit record.
//!
//! An operator's command is another process than the server, so it writes a log of its own.

use sea_orm::DatabaseTransaction;
use warifu_core::merchant::{BdkId, CustodianId, DeviceId, MerchantId, ModuleId};
use warifu_core::{custody, device};
use warifu_hsm::{VaultGeneration, WrappedVaultKey};

use super::audit::{self, LogId};
use super::bdk::{self, BdkRecord};
use super::custodian::{self, CustodianRecord};
use super::device::DeviceRecord;
use super::error::{Failure, StoreError};
use super::ik_export::{self, IkExport};
use super::key_proposal::{self, KeyProposal};
use super::merchant::MerchantRecord;
use super::module::{ModuleRecord, ModuleState};
use super::token::{self, Resealed};
use super::vault::{self, VaultGenerationRecord, VaultGenerationState};
use super::{Store, bulk, lease, merchant, module};
use crate::record::{Kind, Record};

/// Tries when another process was faster.
const TRIES: usize = 5;

/// Whoever may change the registry, and the log that tells of it.
#[derive(Clone)]
pub struct Registry {
    store: Store,
    log: LogId,
}

impl Store {
    /// Opens the registry for changes that are told in `log`.
    pub fn registry(&self, log: LogId) -> Registry {
        Registry { store: self.clone(), log }
    }
}

/// Why a change was not made, inside its transaction.
enum Undone {
    Failed(Failure),
    Refused(StoreError),
}

/// What is to be changed.
enum Change<'a> {
    NewMerchant(&'a MerchantRecord),
    NewModule(&'a ModuleRecord),
    Block(&'a ModuleId),
    NewDevice(&'a DeviceRecord),
    Move {
        device: &'a DeviceId,
        to: device::State,
    },
    NewBdk(&'a BdkRecord),
    MoveBdk {
        bdk: &'a BdkId,
        to: custody::State,
        because: KeyReason,
    },
    NewCustodian(&'a CustodianRecord),
    BlockCustodian {
        id: &'a CustodianId,
    },
    ExportIk(&'a IkExport),
    Propose(&'a KeyProposal),
    Second {
        first: &'a KeyProposal,
        by: &'a CustodianId,
    },
    VaultGeneration {
        seen: Option<&'a VaultGenerationRecord>,
        new: &'a VaultGenerationRecord,
    },
    BeginMove {
        merchant: &'a MerchantId,
        from: &'a WrappedVaultKey,
        to: &'a WrappedVaultKey,
    },
    CloseMove {
        merchant: &'a MerchantId,
        to: VaultGeneration,
    },
    Reseal {
        merchant: &'a MerchantId,
        to: VaultGeneration,
        resealed: &'a [Resealed],
        record: &'a Record,
    },
    EndMove {
        merchant: &'a MerchantId,
        to: VaultGeneration,
    },
    /// Nothing: the record is all there is.
    Note(&'a Record),
}

impl Registry {
    /// Registers a merchant. Its `created_at_ms` is the time of the record too.
    ///
    /// # Errors
    /// `Exists` if the id is taken, `NotFound` if its vault key is not of the newest generation.
    pub async fn register_merchant(&self, new: &MerchantRecord) -> Result<(), StoreError> {
        self.make(Change::NewMerchant(new), new.created_at_ms).await
    }

    /// Registers a module of a merchant.
    ///
    /// # Errors
    /// `Exists` if its id or certificate is taken, `NotFound` if there is no such merchant.
    pub async fn register_module(&self, new: &ModuleRecord) -> Result<(), StoreError> {
        self.make(Change::NewModule(new), new.created_at_ms).await
    }

    /// Blocks a module for good; blocking it again changes nothing.
    ///
    /// # Errors
    /// `NotFound` if there is no such module.
    pub async fn block_module(&self, id: &ModuleId, at_ms: i64) -> Result<(), StoreError> {
        self.make(Change::Block(id), at_ms).await
    }

    /// Registers a device of a merchant.
    ///
    /// # Errors
    /// `Exists` if its id or key serial number is taken, `NotFound` if there is no such merchant.
    pub async fn register_device(&self, new: &DeviceRecord) -> Result<(), StoreError> {
        self.make(Change::NewDevice(new), new.created_at_ms).await
    }

    /// Moves a device to another state; its faults are forgotten.
    ///
    /// # Errors
    /// `IllegalMove` if the life of a device has no such move, `NotFound` if there is no such device.
    pub async fn set_device_state(&self, id: &DeviceId, to: device::State, at_ms: i64) -> Result<(), StoreError> {
        self.make(Change::Move { device: id, to }, at_ms).await
    }

    /// Registers a base derivation key.
    ///
    /// # Errors
    /// `Exists` if its id is taken, `NotFound` if there is no such merchant.
    pub async fn register_bdk(&self, new: &BdkRecord) -> Result<(), StoreError> {
        self.make(Change::NewBdk(new), new.created_at_ms).await
    }

    /// Moves a base derivation key to another state.
    ///
    /// # Errors
    /// `IllegalKeyMove` if the life of a key has no such move, `NotFound` if there is no such key.
    pub async fn set_bdk_state(
        &self,
        id: &BdkId,
        to: custody::State,
        because: KeyReason,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        self.make(Change::MoveBdk { bdk: id, to, because }, at_ms).await
    }

    /// Registers a key custodian. Its `created_at_ms` is the time of the record too.
    ///
    /// # Errors
    /// `Exists` if the id or certificate is taken.
    pub async fn register_custodian(&self, new: &CustodianRecord) -> Result<(), StoreError> {
        self.make(Change::NewCustodian(new), new.created_at_ms).await
    }

    /// Keeps a custodian from all ceremonies to come; again changes nothing.
    ///
    /// # Errors
    /// `NotFound` if there is no such custodian.
    pub async fn block_custodian(&self, id: &CustodianId, at_ms: i64) -> Result<(), StoreError> {
        self.make(Change::BlockCustodian { id }, at_ms).await
    }

    /// Writes down that a custodian wants a key changed.
    ///
    /// # Errors
    /// Those of the data store.
    pub async fn propose_key_change(&self, proposal: &KeyProposal) -> Result<(), StoreError> {
        self.make(Change::Propose(proposal), proposal.at_ms).await
    }

    /// Makes a change that one custodian proposed and another one wants, too.
    ///
    /// # Errors
    /// `NotFound` if it is not proposed any more; else as [`Registry::set_bdk_state`].
    pub async fn second_key_change(&self, first: &KeyProposal, by: &CustodianId, at_ms: i64) -> Result<(), StoreError> {
        self.make(Change::Second { first, by }, at_ms).await
    }

    /// Writes down that an initial key leaves, before it does.
    ///
    /// # Errors
    /// `Exists` if it has left with this number already.
    pub async fn note_ik_export(&self, export: &IkExport) -> Result<(), StoreError> {
        self.make(Change::ExportIk(export), export.at_ms).await
    }

    /// Registers a generation of vault keys, or writes down what became of one that was `seen`. Two commands that make the
    /// same keys are told apart by when they began.
    ///
    /// # Errors
    /// `Exists` if it is not as it was seen any more, or its life has no such move; `InUse` if it would be destroyed and a
    /// merchant's vault needs it.
    pub async fn note_vault_generation(
        &self,
        seen: Option<&VaultGenerationRecord>,
        new: &VaultGenerationRecord,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        self.make(Change::VaultGeneration { seen, new }, at_ms).await
    }

    /// Gives a merchant's vault the key of the next generation. Servers that do not know of it yet may still seal under the
    /// one it has.
    ///
    /// # Errors
    /// `NotFound` if no vault of such a merchant is at rest under `from`.
    pub async fn begin_vault_move(
        &self,
        merchant: &MerchantId,
        from: &WrappedVaultKey,
        to: &WrappedVaultKey,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        self.make(Change::BeginMove { merchant, from, to }, at_ms).await
    }

    /// From now on nothing is sealed under the key a merchant's vault moves from.
    ///
    /// # Errors
    /// `NotFound` if no vault of such a merchant moves to that generation.
    pub async fn close_vault_move(
        &self,
        merchant: &MerchantId,
        to: VaultGeneration,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        self.make(Change::CloseMove { merchant, to }, at_ms).await
    }

    /// Moves tokens of a merchant to the generation `to`, with the record of how they were sealed anew.
    ///
    /// # Errors
    /// `Unavailable` if any of them is not of the generation before it any more: another process was faster.
    pub async fn reseal(
        &self,
        merchant: &MerchantId,
        to: VaultGeneration,
        resealed: &[Resealed],
        record: &Record,
    ) -> Result<(), StoreError> {
        self.make(Change::Reseal { merchant, to, resealed, record }, 0).await
    }

    /// Throws the key away that a merchant's vault moved from.
    ///
    /// # Errors
    /// `NotFound` if no vault of such a merchant moves to that generation, or it still accepts the one before.
    pub async fn end_vault_move(
        &self,
        merchant: &MerchantId,
        to: VaultGeneration,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        self.make(Change::EndMove { merchant, to }, at_ms).await
    }

    /// Writes a record of something that changed nothing here, such as a use of the HSM by an operator's command.
    pub async fn note(&self, record: &Record) -> Result<(), StoreError> {
        self.make(Change::Note(record), 0).await
    }

    /// One change and its record, in one transaction; again when another process was faster.
    async fn make(&self, change: Change<'_>, at_ms: i64) -> Result<(), StoreError> {
        let line = change.record(at_ms).to_line();
        let mut tries = 1;
        loop {
            match self.try_to(&change, at_ms, &line).await {
                Ok(()) => return Ok(()),
                Err(Undone::Failed(Failure::Race(_) | Failure::Locked(_))) if tries < TRIES => tries += 1,
                // A key that is there each time was not a race.
                Err(Undone::Failed(Failure::Race(cause))) if cause.is_unique_key() => {
                    return Err(StoreError::Exists(change.subject()));
                }
                Err(Undone::Failed(failure)) => return Err(failure.into()),
                Err(Undone::Refused(error)) => return Err(error),
            }
        }
    }

    async fn try_to(&self, change: &Change<'_>, at_ms: i64, line: &String) -> Result<(), Undone> {
        let txn = self.store.begin().await?;
        let (tree, owner) = audit::tree_locked(&txn, &self.log).await?;
        change.apply(&txn, at_ms).await?;
        let appended = audit::append(&self.log, owner, &tree, std::slice::from_ref(line))?;
        let mut writes = Vec::from(appended.writes);
        match change {
            // No row that is looked up is another one for it.
            Change::Note(_) => {}
            Change::Reseal { merchant, to, resealed, .. } => writes.push(token::reseal(merchant, *to, resealed)),
            _ => writes.push(lease::count()),
        }
        bulk::write(&txn, writes).await?;
        txn.commit().await?;
        self.store.lease().end();
        Ok(())
    }
}

impl Change<'_> {
    async fn apply(&self, txn: &DatabaseTransaction, at_ms: i64) -> Result<(), Undone> {
        match self {
            Self::NewMerchant(new) => {
                known(vault::is_newest(txn, new.vault.key.generation).await?, "vault generation for new merchants")?;
                merchant::insert(txn, new).await?;
            }
            Self::NewModule(new) => {
                known(merchant::exists(txn, &new.merchant).await?, "merchant")?;
                module::insert(txn, new).await?;
            }
            Self::Block(id) => {
                known(module::by_id(txn, id).await?.is_some(), "module")?;
                module::set_state(txn, id, ModuleState::Blocked).await?;
            }
            Self::NewDevice(new) => {
                known(merchant::exists(txn, &new.merchant).await?, "merchant")?;
                super::device::insert(txn, new).await?;
            }
            Self::Move { device: id, to } => {
                let device = super::device::by_id(txn, id).await?;
                let device = device.ok_or(Undone::Refused(StoreError::NotFound("device")))?;
                let to = device.state.become_state(*to).map_err(|error| Undone::Refused(error.into()))?;
                if !super::device::move_state(txn, id, device.state, to).await? {
                    return Err(bulk::changed_meanwhile().into());
                }
            }
            Self::NewBdk(new) => {
                if let Some(merchant) = &new.merchant {
                    known(merchant::exists(txn, merchant).await?, "merchant")?;
                }
                bdk::insert(txn, new).await?;
            }
            Self::MoveBdk { bdk, to, .. } => move_bdk(txn, bdk, *to, at_ms).await?,
            Self::Propose(proposal) => key_proposal::put(txn, proposal).await?,
            Self::Second { first, .. } => {
                known(key_proposal::take(txn, first).await?, "proposal")?;
                move_bdk(txn, &first.key, first.to, at_ms).await?;
            }
            Self::NewCustodian(new) => custodian::insert(txn, new).await?,
            Self::BlockCustodian { id } => known(custodian::block(txn, id).await?, "custodian")?,
            Self::ExportIk(export) => ik_export::insert(txn, export).await?,
            Self::VaultGeneration { seen: None, new } => vault::insert(txn, new).await?,
            Self::VaultGeneration { seen: Some(seen), new } => {
                if !seen.state.may_become(new.state) || !vault::update(txn, seen, new).await? {
                    return Err(Undone::Refused(StoreError::Exists("vault generation")));
                }
                let gone = new.state == VaultGenerationState::Destroyed;
                if gone && merchant::needs_generation(txn, new.generation).await? {
                    return Err(Undone::Refused(StoreError::InUse("vault generation")));
                }
            }
            Self::BeginMove { merchant, from, to } => {
                known(merchant::begin_move(txn, merchant, from, to).await?, "vault")?;
            }
            Self::CloseMove { merchant, to } => known(merchant::close_move(txn, merchant, *to).await?, "vault")?,
            Self::EndMove { merchant, to } => known(merchant::end_move(txn, merchant, *to).await?, "vault")?,
            Self::Reseal { .. } | Self::Note(_) => {}
        }
        Ok(())
    }

    const fn subject(&self) -> &'static str {
        match self {
            Self::NewMerchant(_) => "merchant",
            Self::NewModule(_) | Self::Block(_) => "module",
            Self::NewDevice(_) | Self::Move { .. } => "device",
            Self::NewBdk(_) | Self::MoveBdk { .. } | Self::Propose(_) | Self::Second { .. } => "key",
            Self::NewCustodian(_) | Self::BlockCustodian { .. } => "custodian",
            Self::ExportIk(_) => "export",
            Self::VaultGeneration { .. } => "vault generation",
            Self::BeginMove { .. } | Self::CloseMove { .. } | Self::EndMove { .. } => "vault",
            Self::Reseal { .. } => "token",
            Self::Note(_) => "record",
        }
    }

    fn record(&self, at_ms: i64) -> Record {
        let mut record = Record::new(u64::try_from(at_ms).unwrap_or_default(), Kind::RegistryChanged);
        match self {
            Self::NewMerchant(new) => {
                record.merchant = Some(new.id.to_string());
                record.because("merchant registered")
            }
            Self::NewModule(new) => {
                record.merchant = Some(new.merchant.to_string());
                record.module = Some(new.id.to_string());
                record.because("module registered")
            }
            Self::Block(id) => {
                record.module = Some(id.to_string());
                record.because("module blocked")
            }
            Self::NewDevice(new) => {
                record.merchant = Some(new.merchant.to_string());
                record.device = Some(new.id.to_string());
                record.ksn = Some(new.ksn_device.device().to_string());
                record.because("device registered")
            }
            Self::Move { device, to } => {
                record.device = Some(device.to_string());
                record.because(become_cause(*to))
            }
            Self::NewBdk(new) => {
                record.merchant = new.merchant.as_ref().map(ToString::to_string);
                record.key = Some(new.id.to_string());
                let kcv = new.kcv.as_deref().unwrap_or("unknown");
                record.because(format_args!("key registered, check value {kcv}, proof {}", new.proof))
            }
            Self::MoveBdk { bdk, to, because } => {
                record.key = Some(bdk.to_string());
                record.because(format_args!("key became {}{}", to.name(), because.tail()))
            }
            Self::Propose(KeyProposal { key, to, because, by, .. }) => {
                record.key = Some(key.to_string());
                record.because(format_args!("key to become {}{}, proposed by {by}", to.name(), because.tail()))
            }
            Self::Second { first: KeyProposal { key, to, because, by: first, .. }, by } => {
                record.key = Some(key.to_string());
                record.because(format_args!("key became {}{}, by {first} and {by}", to.name(), because.tail()))
            }
            Self::NewCustodian(new) => {
                let certificate = super::words::hex(&new.certificate_sha256);
                record.because(format_args!("{} {} registered, certificate {certificate}", new.role.name(), new.id))
            }
            Self::BlockCustodian { id } => record.because(format_args!("custodian {id} blocked")),
            Self::ExportIk(export) => {
                let mut record = Record { kind: Kind::InitialKeyExported, ..record };
                record.device = Some(export.device.to_string());
                record.key = Some(export.under.clone());
                record.because(format_args!("number {}, by {}", export.number, export.by))
            }
            Self::VaultGeneration { new, .. } => {
                record.key = Some(format!("vault generation {}", new.generation));
                let state = new.state.name();
                match new.proof {
                    Some(proof) => record.because(format_args!("vault keys {state}, fingerprint key's proof {proof}")),
                    None => record.because(format_args!("vault keys {state}")),
                }
            }
            Self::BeginMove { merchant, to, .. } => {
                record.merchant = Some(merchant.to_string());
                record.because(format_args!("vault began to move to generation {}", to.generation))
            }
            Self::CloseMove { merchant, to } => {
                record.merchant = Some(merchant.to_string());
                record.because(format_args!("vault accepts nothing older than generation {to} any more"))
            }
            Self::EndMove { merchant, to } => {
                record.merchant = Some(merchant.to_string());
                record.because(format_args!("vault has moved to generation {to}; the former key is gone"))
            }
            Self::Reseal { record, .. } => (*record).clone(),
            Self::Note(note) => (*note).clone(),
        }
    }
}

/// Moves a key, if its life has that move.
async fn move_bdk(txn: &DatabaseTransaction, id: &BdkId, to: custody::State, at_ms: i64) -> Result<(), Undone> {
    let found = bdk::by_id(txn, id).await?;
    let found = found.ok_or(Undone::Refused(StoreError::NotFound("key")))?;
    let to = found.state.become_state(to).map_err(|error| Undone::Refused(error.into()))?;
    if !bdk::move_state(txn, &found, to, at_ms).await? {
        return Err(bulk::changed_meanwhile().into());
    }
    Ok(())
}

/// Why a key leaves its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyReason {
    /// It is the course of its life.
    Planned,
    /// Somebody may know it who should not.
    Compromised,
}

impl KeyReason {
    const fn tail(self) -> &'static str {
        match self {
            Self::Planned => "",
            Self::Compromised => ": compromised",
        }
    }
}

fn known(known: bool, what: &'static str) -> Result<(), Undone> {
    if known { Ok(()) } else { Err(Undone::Refused(StoreError::NotFound(what))) }
}

const fn become_cause(to: device::State) -> &'static str {
    match to {
        device::State::Registered => "device registered",
        device::State::Active => "device became active",
        device::State::Suspended => "device became suspended",
        device::State::Retired => "device became retired",
    }
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<sea_orm::DbErr> for Undone {
    fn from(error: sea_orm::DbErr) -> Self {
        Self::Failed(error.into())
    }
}
