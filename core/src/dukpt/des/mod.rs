//! DES (FIPS 46-3) for DUKPT alone: nearly every block has a key of its own, a public relation ties the keys of a
//! step together, and what comes out of one cipher is the next one's key.
//!
//! [`pair`] works on two blocks side by side and serves one record.
//!
//! Architecture invariant: constant time by construction. Secrets meet only AND, OR, XOR, NOT, shifts by public
//! amounts and, for turning one bit into four, a subtraction; they choose no branch and no address.
//! `docs/decisions/0007-des.md` says why this is not the `des` crate.

mod pair;
mod schedule;
mod standard;
mod triple;
mod walk;

pub(crate) use triple::{Single, Triple};
pub(super) use walk::Node;
