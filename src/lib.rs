//! The server: configuration → app → serve → drain, its gRPC and HTTP edges, and the operator's commands.
//!
//! Architecture invariant: no business rule lives here. What is decided, `warifu-core` decides; who owns which state,
//! `warifu-actors` says.

pub mod app;
pub mod ca;
pub mod cli;
pub mod config;
pub mod exit;
pub mod identity;
pub mod process;
pub mod telemetry;
pub mod tls;

mod ceremony;
mod commands;
mod custody;
mod hsm;
mod http;
mod private;
mod readiness;
mod rpc;
mod trickle;
