//! The data store: one file for each table, one owner each, and one writer that makes many requests durable in one
//! transaction.
//!
//! Architecture invariant: rows never leave this module, no other module names sea-orm, and nothing here knows a
//! clear card number. Every truth that several server processes share (counters, requests, token uniqueness, payment
//! states) is decided here, inside the database.

pub mod audit;
pub mod device;
pub mod job;
pub mod merchant;
pub mod migration;
pub mod module;
pub mod payment;
pub mod request;
pub mod token;
pub mod writer;

mod connect;
mod decide;

pub use connect::{Store, StoreError};
pub use job::{Job, Outcome, Rejection};
