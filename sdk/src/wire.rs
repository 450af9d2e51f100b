//! The wire: what `proto/` compiles to.
//!
//! No message has a field for a card number, a track or a security code.

mod codec;

pub use codec::LeanCodec;

/// The compiled protos, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/warifu_descriptor.bin"));

/// Package `warifu.v1`: messages, and for each service a client and a server (`comm_module_service_client`,
/// `key_service_client`, ...).
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::as_conversions, reason = "generated code")]
pub mod v1 {
    use std::fmt;

    tonic::include_proto!("warifu.v1");

    /// Length only: a vendor's output carries masked tracks, which belong in no log.
    impl fmt::Debug for DeviceOutput {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "DeviceOutput({} bytes)", self.frame.len())
        }
    }
}
