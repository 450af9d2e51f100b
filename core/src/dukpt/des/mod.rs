//! DES (FIPS 46-3) for DUKPT alone: nearly every block has a key of its own, a public relation ties the keys of a
//! step together, and what comes out of one cipher is the next one's key.
//!
//! One record goes through [`pair`], two blocks side by side; a batch through [`lanes`], one record in each bit of the
//! processor's widest words.
//!
//! Architecture invariant: constant time by construction. Secrets meet only AND, OR, XOR, NOT, shifts by public
//! amounts and, for turning one bit into four, a subtraction; they choose no branch and no address.
//! `docs/decisions/0009-des.md` says why this is not the `des` crate.

mod bitslice;
mod boxes;
mod check;
mod engine;
mod job;
mod lanes;
mod pair;
mod schedule;
mod standard;
mod transpose;
mod triple;
mod walk;
mod word;

pub use engine::Path;
pub(super) use engine::work;
pub(super) use job::{Job, is_sealed, variant};
pub(crate) use triple::{Single, Triple};
pub(super) use walk::Node;
