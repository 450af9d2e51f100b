//! A PKCS#11 module that stands before a real one and fails when it is told to. For tests only.
//!
//! It is two things in one. As a shared library it is the module: every function a server uses goes through it to the
//! real one, named by [`REAL`], unless its plan has something else in mind. As a crate it is the hand that steers: a test
//! makes a [`Steering`], starts a process with its [`Steering::environment`], and from then on changes the plan and reads
//! the notes, whichever process the module is in.
//!
//! # Plan
//!
//! A text file, read again whenever it changed. One line is one fault; empty lines and those that begin with `#` say
//! nothing. Calls are counted from when the plan came into force.
//!
//! | line | what happens |
//! |---|---|
//! | `C_DeriveKey 3 error 0x30` | the third call is not made and gives this value |
//! | `C_Decrypt every 7 error 0x30` | so does each seventh |
//! | `C_Verify 2 delay 200ms` | the second call takes that much longer |
//! | `C_Sign 1 hang` | the first call comes back when the plan changes |
//! | `C_Verify 1 lose` | the session is closed behind its user's back, then used |
//! | `C_Decrypt 4 wrong 5` | the lowest bit of byte 5 of what it gives is wrong; `C_Encrypt` and `C_Sign` as well |
//! | `slot gone` | the token is out of its slot: its sessions, their objects and the login are dead, and stay so |
//! | `random 7 10` | of a thousand calls that ask the slot about ten fail with some error; 7 is the seed |
//!
//! The first line that fits a call is the one that counts. A plan nobody understands ends the process.
//!
//! # Notes
//!
//! The module writes down each fault (`fault FUNCTION ...`), each login (`call C_Login`) and, when it is finalized, how
//! often each function was called since it was loaded (`made FUNCTION TIMES`).

mod desk;
mod function;
mod plan;
mod stand_in;
mod steering;

pub use plan::{NotUnderstood, Plan};
pub use steering::{Notes, Steering, library};

/// The variable that names the real module.
pub const REAL: &str = "WARIFU_FAULTY_MODULE_REAL";
/// The variable that names the file with the plan.
pub const PLAN: &str = "WARIFU_FAULTY_MODULE_PLAN";
/// The variable that names the file for the notes.
pub const NOTES: &str = "WARIFU_FAULTY_MODULE_NOTES";
