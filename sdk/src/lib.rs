//! The wire and the comm module a merchant can hold.

pub mod wire;
