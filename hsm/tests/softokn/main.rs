//! The same contract, kept by a second module: the token of NSS, Mozilla's library. Nothing of it was written for SoftHSM,
//! so what passes here too is what PKCS#11 says, and not one module's habit.
//!
//! A process of its own: a module may keep what it likes for the whole process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![allow(unsafe_code, reason = "shared with tests that set SoftHSM's environment; these do not")]

#[path = "../contract/cache.rs"]
mod cache;
#[path = "../contract/combining.rs"]
mod combining;
#[path = "../contract/custody.rs"]
mod custody;
#[path = "../contract/doctor.rs"]
mod doctor;
#[path = "../contract/keys.rs"]
mod keys;
#[path = "../contract/opening.rs"]
mod opening;
#[path = "../contract/refusing.rs"]
mod refusing;
#[path = "../contract/signing.rs"]
mod signing;
#[path = "../contract/slots.rs"]
mod slots;
#[path = "../contract/subject.rs"]
mod subject;
#[path = "../support/mod.rs"]
mod support;
#[path = "../contract/vault.rs"]
mod vault;

/// The module under test.
const MODULE: support::slot::Module = support::slot::Module::Softokn;
