//! The whole house over a software HSM and a real SQLite file: what it promises, scene by scene.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a scene that cannot be set must fail, and panics are told in one line"
)]

mod audit;
mod links;
mod many;
mod money;
mod panics;
mod races;
mod refusals;
mod sales;
mod settling;
mod support;
mod vault;
