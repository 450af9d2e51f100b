//! The store on real SQLite files and a real PostgreSQL server.
//!
//! `WARIFU_TEST_POSTGRES` names a superuser's connection to that server; `scripts/with-postgres` provides one. Without
//! it these tests fail: they never skip.
#![allow(clippy::unwrap_used, clippy::as_conversions, reason = "a test may fail where it stands")]

mod audit;
mod keys;
mod memory;
mod outage;
mod race;
mod registry;
mod support;
mod take;
mod vault;
