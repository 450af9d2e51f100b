//! A module that other code in the process has initialized is not shared: its login would be that code's as well.
//!
//! A process of its own, because nothing else in it may have opened the module before.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![allow(unsafe_code, reason = "the environment is set once for SoftHSM, which takes its configuration from it")]

mod support;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use support::slot::{self, SHARED, config, module};
use warifu_hsm::HsmError;
use warifu_hsm::pkcs11::Slot;

#[test]
fn a_module_initialized_by_others_is_refused_until_they_are_done() {
    slot::shared().close().unwrap();
    let foreign = Pkcs11::new(module()).unwrap();
    foreign.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let refused = Slot::open(config(SHARED)).err().unwrap();
    assert!(matches!(&refused, HsmError::Module { cause, .. } if cause.contains("other code")), "{refused}");
    foreign.finalize().unwrap();
    Slot::open(config(SHARED)).unwrap().close().unwrap();
}
