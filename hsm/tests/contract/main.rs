//! The contract every backend keeps, in every mode and key length it has.
//!
//! Each test runs against every [`subject::Subject`]: the software backend and a real SoftHSM, each with a base
//! derivation key for AES-128, -192 and -256 in `hardware`, `hybrid` and `host-derived` mode, and for TDES.
//! `tests/softokn` holds another module to the same tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![allow(unsafe_code, reason = "the environment is set once for SoftHSM, which takes its configuration from it")]

mod cache;
mod combining;
mod custody;
mod doctor;
mod keys;
mod opening;
mod refusing;
mod signing;
mod slots;
mod subject;
#[path = "../support/mod.rs"]
mod support;
mod vault;

/// The module under test.
const MODULE: support::slot::Module = support::slot::Module::SoftHsm;
