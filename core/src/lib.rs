//! The domain of Warifu: parse it, decide it, compute it.
//!
//! Architecture invariant: nothing here reads a clock, draws randomness, does I/O or waits. Time and
//! randomness come in as arguments, so every rule of the house can be tested exhaustively.

pub mod account_data;
pub mod audit;
pub mod card;
pub mod cipher;
pub mod component;
pub mod custody;
pub mod device;
pub mod dukpt;
pub mod frame;
pub mod kcv;
pub mod key;
pub mod key_block;
pub mod ksn;
pub mod mac;
pub mod merchant;
pub mod money;
pub mod opening;
pub mod payment;
pub mod reader;
pub mod refusal;
pub mod replay;
pub mod secret;
pub mod tlv;
pub mod token;
pub mod track;
