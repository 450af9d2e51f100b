//! Changes of the registry: merchants, modules and devices. Each is one transaction with its own audit record.
//!
//! An operator's command is another process than the server, so it writes a log of its own.

use sea_orm::DatabaseTransaction;
use warifu_core::device;
use warifu_core::merchant::{DeviceId, ModuleId};

use super::audit::{self, LogId};
use super::device::DeviceRecord;
use super::error::{Failure, StoreError};
use super::merchant::MerchantRecord;
use super::module::{ModuleRecord, ModuleState};
use super::{Store, bulk, merchant, module};
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

impl Registry {
    /// Registers a merchant. Its `created_at_ms` is the time of the record too.
    ///
    /// # Errors
    /// `Exists` if the id is taken.
    pub async fn register_merchant(&self, new: &MerchantRecord) -> Result<(), StoreError> {
        let mut record = changed(new.created_at_ms, "merchant registered");
        record.merchant = Some(new.id.to_string());
        self.change(&record, "merchant", async |txn| Ok(merchant::insert(txn, new).await?)).await
    }

    /// Registers a module of a merchant.
    ///
    /// # Errors
    /// `Exists` if its id or certificate is taken, `NotFound` if there is no such merchant.
    pub async fn register_module(&self, new: &ModuleRecord) -> Result<(), StoreError> {
        let mut record = changed(new.created_at_ms, "module registered");
        record.merchant = Some(new.merchant.to_string());
        record.module = Some(new.id.to_string());
        self.change(&record, "module", async |txn| {
            if !merchant::exists(txn, &new.merchant).await? {
                return Err(Undone::Refused(StoreError::NotFound("merchant")));
            }
            Ok(module::insert(txn, new).await?)
        })
        .await
    }

    /// Blocks a module for good; blocking it again changes nothing.
    ///
    /// # Errors
    /// `NotFound` if there is no such module.
    pub async fn block_module(&self, id: &ModuleId, at_ms: i64) -> Result<(), StoreError> {
        let mut record = changed(at_ms, "module blocked");
        record.module = Some(id.to_string());
        self.change(&record, "module", async |txn| {
            module::by_id(txn, id).await?.ok_or(Undone::Refused(StoreError::NotFound("module")))?;
            Ok(module::set_state(txn, id, ModuleState::Blocked).await?)
        })
        .await
    }

    /// Registers a device of a merchant.
    ///
    /// # Errors
    /// `Exists` if its id or key serial number is taken, `NotFound` if there is no such merchant.
    pub async fn register_device(&self, new: &DeviceRecord) -> Result<(), StoreError> {
        let mut record = changed(new.created_at_ms, "device registered");
        record.merchant = Some(new.merchant.to_string());
        record.device = Some(new.id.to_string());
        record.ksn = Some(new.ksn_device.device().to_string());
        self.change(&record, "device", async |txn| {
            if !merchant::exists(txn, &new.merchant).await? {
                return Err(Undone::Refused(StoreError::NotFound("merchant")));
            }
            Ok(super::device::insert(txn, new).await?)
        })
        .await
    }

    /// Moves a device to another state; its faults are forgotten.
    ///
    /// # Errors
    /// `IllegalMove` if the life of a device has no such move, `NotFound` if there is no such device.
    pub async fn set_device_state(&self, id: &DeviceId, to: device::State, at_ms: i64) -> Result<(), StoreError> {
        let mut record = changed(at_ms, become_cause(to));
        record.device = Some(id.to_string());
        self.change(&record, "device", async |txn| {
            let device = super::device::by_id(txn, id).await?;
            let device = device.ok_or(Undone::Refused(StoreError::NotFound("device")))?;
            let to = device.state.become_state(to).map_err(|error| Undone::Refused(error.into()))?;
            match super::device::move_state(txn, id, device.state, to).await? {
                true => Ok(()),
                false => Err(Undone::Failed(bulk::changed_meanwhile())),
            }
        })
        .await
    }

    /// Writes a record of something that changed nothing here, such as a use of the HSM by an operator's command.
    pub async fn note(&self, record: &Record) -> Result<(), StoreError> {
        self.change(record, "record", async |_| Ok(())).await
    }

    /// One change and its record, in one transaction; again when another process was faster.
    async fn change<F>(&self, record: &Record, what: &'static str, change: F) -> Result<(), StoreError>
    where
        F: AsyncFn(&DatabaseTransaction) -> Result<(), Undone>,
    {
        let mut raced = None;
        for _ in 0..TRIES {
            match self.try_change(record, &change).await {
                Ok(()) => return Ok(()),
                Err(Undone::Refused(error)) => return Err(error),
                Err(Undone::Failed(failure @ Failure::Race(_))) => raced = Some(failure),
                Err(Undone::Failed(failure)) => return Err(failure.into()),
            }
        }
        match raced {
            // A key that is there each time was not a race.
            Some(Failure::Race(cause)) if cause.is_unique_key() => Err(StoreError::Exists(what)),
            Some(failure) => Err(failure.into()),
            None => Err(StoreError::Stopped),
        }
    }

    async fn try_change<F>(&self, record: &Record, change: &F) -> Result<(), Undone>
    where
        F: AsyncFn(&DatabaseTransaction) -> Result<(), Undone>,
    {
        let txn = self.store.begin().await?;
        let (tree, owner) = audit::tree_locked(&txn, &self.log).await?;
        change(&txn).await?;
        let appended = audit::append(&self.log, owner, &tree, &[record.to_line()])?;
        bulk::write(&txn, appended.writes.into()).await?;
        Ok(txn.commit().await?)
    }
}

fn changed(at_ms: i64, what: &'static str) -> Record {
    Record::new(u64::try_from(at_ms).unwrap_or_default(), Kind::RegistryChanged).because(what)
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
