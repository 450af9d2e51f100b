//! The data store: one file for each table, one owner each, and one writer that makes many requests durable in one
//! transaction.
//!
//! Architecture invariant: rows never leave this module, no other module names sea-orm, and nothing here knows a
//! clear card number. Every truth that several server processes share (counters, requests, token uniqueness, payment
//! states) is decided here, inside the database.

pub mod audit;
pub mod bdk;
pub mod custodian;
pub mod device;
pub mod ik_export;
pub mod job;
pub mod key_proposal;
pub mod merchant;
pub mod migration;
pub mod module;
pub mod payment;
pub mod probe;
pub mod registry;
pub mod request;
pub mod token;
pub mod vault;
pub mod writer;

mod bulk;
mod connect;
mod decide;
mod error;
mod lease;
mod lookup;
mod memory;
mod pool;
mod takeover;
mod words;

pub use audit::{LogId, SignedHead, StoredRecord};
pub use bdk::BdkRecord;
pub use connect::Store;
pub use custodian::CustodianRecord;
pub use device::{CardCheck, DeviceRecord, Sred};
pub use error::{Cause, StoreError};
pub use ik_export::IkExport;
pub use job::{Job, Outcome, Rejection};
pub use key_proposal::KeyProposal;
pub use lease::LEASE;
pub use merchant::MerchantRecord;
pub use migration::SchemaState;
pub use module::{ModuleRecord, ModuleState};
pub use registry::{KeyReason, Registry};
pub use token::{Resealed, TokenRecord};
pub use vault::{Fingerprints, Vault, VaultGenerationRecord, VaultGenerationState, VaultStage};
pub use writer::{Answer, TreeState, Writer, WriterSettings};

#[cfg(test)]
mod tests;
