//! Who owns which state, and what they say to each other.
//!
//! ```text
//!  House ─► CommModule (one per module) ─► Cashier ─► Tokenizer ─► KeyManager ─► KeyDeriver × n (threads)
//!    │           └────────────────────────────│────────▲   │            ▲
//!    ▼                                        ▼            ▼            │
//!  Directory                            AcquirerLink     Auditor ───────┘             all ─► store writer
//! ```
//!
//! An arrow means "may ask". There is no cycle, so no two actors can wait for each other. The auditor admits what the
//! tokenizer wants opened and has tree heads signed; records reach the log by way of the writer, not of an actor.
//!
//! Architecture invariant: actix is named only in [`gate`] and [`supervisor`]; nothing here knows gRPC, HTTP or
//! configuration files.

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
pub mod turn;

pub use house::House;
