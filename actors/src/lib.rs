//! Who owns which state, and what they say to each other.
//!
//! ```text
//!  CommModule (one per connected module) ─► Cashier ─► Tokenizer ─► KeyManager ─► KeyDeriver × n (threads)
//!       │                                     └─► AcquirerLink
//!       ▼
//!   Directory                                                       all ─► Auditor ─► store writer
//! ```
//!
//! An arrow means "may ask". There is no cycle, so no two actors can wait for each other.
//!
//! Architecture invariant: actix is named only in [`gate`] and [`supervisor`] and the actors' own handlers; nothing
//! here knows gRPC, HTTP or configuration files.

pub mod acquirer;
pub mod auditor;
pub mod cashier;
pub mod clock;
pub mod comm_module;
pub mod directory;
pub mod gate;
pub mod house;
pub mod key_deriver;
pub mod key_manager;
pub mod record;
pub mod refused;
pub mod store;
pub mod supervisor;
pub mod tokenizer;

pub use house::House;
