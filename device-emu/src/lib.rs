//! The other end: keypad and reader, the originating half of DUKPT, faults on demand.
//!
//! An emulated device takes a card typed on a keypad, drawn through a stripe reader or put into a chip reader,
//! encrypts it at once under the key of its next counter, wipes the clear data and behaves like hardware at the
//! other end of a wire. For tests, demonstrations and development; **for test keys and test cards only**.
//!
//! Architecture invariant: the server cannot act as a device. Its half of DUKPT is in `warifu-core`; this half is
//! here, and takes nothing from `core` but value types, key blocks and the native frame's header.

pub mod card;
pub mod command;
pub mod console;
pub mod device;
pub mod dukpt;
pub mod fault;
pub mod format;
pub mod injection;
pub mod keypad;
pub mod reader;
pub mod scrub;
pub mod sealing;
pub mod state;
pub mod typing;
pub mod wire;
