//! The comm module a merchant can hold: it takes sealed output from a card device, asks the server for a token or
//! an authorization, and finds sales again by their order number.
//!
//! ```no_run
//! # async fn sale() -> Result<(), warifu_sdk::SdkError> {
//! use std::time::Duration;
//! use warifu_sdk::{CommModule, Config, Connection, Format, Order, Outcome};
//!
//! let config = Config::from_files("https://127.0.0.1:7443", "ca.pem", "module.pem", "module-key.pem")?;
//! let module = CommModule::connect(config).await?;
//! let mut device = module.attach(Connection::parse("tcp:127.0.0.1:9001")?, Format::Native).await?;
//! let output = device.collect(Duration::from_secs(60)).await?;
//! let payment = module.authorize(Order::new("1001", 1200, "JPY").telephone(), &output).await?;
//! match payment.outcome {
//!     Outcome::Authorized { approval_code } => println!("{} approved: {approval_code}", payment.card.token),
//!     Outcome::Declined { response_code } => println!("declined: {response_code}"),
//!     Outcome::Unknown => println!("not known yet: see CommModule::wait_for_outcome"),
//!     Outcome::Reversed => println!("no money moved"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Architecture invariant: this crate opens nothing. It has no key, no parser of card data and no type able to hold
//! a clear card number; what a device sent stays sealed from the wire to the server. A test reads the sources for it.

mod answer;
mod call;
mod collected;
mod config;
mod cutter;
mod device;
mod error;
mod link;
mod module;
mod order;
mod probe;
mod request_id;
mod retry;
mod task;
pub mod transport;
mod upload;
pub mod wire;

pub use answer::{Card, Outcome, Payment};
pub use collected::Collected;
pub use config::{Config, ConfigError};
pub use device::{Device, DeviceError};
pub use error::SdkError;
pub use link::{Event, Events, Identity};
pub use module::CommModule;
pub use order::Order;
pub use request_id::RequestId;
pub use transport::{Connection, DeviceTransport};
pub use warifu_core::device::{Format, State as DeviceState};
pub use warifu_core::payment::Channel;
pub use warifu_core::refusal::{Fixer, Refusal, Retry};
pub use warifu_core::token::Token;

/// The README's example is compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
