//! The HSM over PKCS#11: a SoftHSM in every test, any module that has the mechanisms elsewhere.
//!
//! [`Slot::open`] loads the module and logs in; [`Slot::session`] gives one thread its [`Pkcs11Hsm`], and logs in anew if
//! the token was away meanwhile.
//! [`provision`] makes the keys; [`crate::doctor`] says what a slot can do.
//!
//! Architecture invariant: `unsafe` lives in `raw` alone. In `hardware` and `hybrid` mode no base derivation key,
//! initial key or tree node ever has bytes in this process, in `hardware` no working key either. Every call to the
//! module is counted, by function, where it is made.

mod ckr;
pub(crate) mod combine;
mod derive;
mod export;
mod generate;
mod hsm;
mod login;
mod mac;
mod mechanism;
mod module;
mod objects;
mod open;
pub(crate) mod pace;
mod pin;
pub(crate) mod policy;
mod proof;
pub mod provision;
mod raw;
mod seal;
mod self_test;
mod session;
mod sign;
mod slot;
mod softhsm;
mod tdes_ik;
mod template;
pub(crate) mod trial;

pub use combine::Combiner;
pub use export::KbpkSpec;
pub use generate::NewBdk;
pub use hsm::Pkcs11Hsm;
pub use mac::MacCheck;
pub use objects::{AUDIT_LABEL, bdk_label, fingerprint_label, kbpk_label, masked_bdk_label, vault_root_label};
pub use pin::Pin;
pub(crate) use session::HsmSession;
pub use slot::{Slot, SlotConfig, SlotFactory};
pub use softhsm::{SOFTHSM_MISSING, find_softhsm, softhsm_configuration};
