//! What a device gave: sealed bytes, and nothing this crate could open.

use std::fmt;

use bytes::Bytes;

use crate::wire::v1;

/// One output of a device, as it came from its wire: a native frame, or a reader's own format.
///
/// Cloning shares the bytes. `Debug` prints the length only: vendors' outputs carry masked tracks, which belong in
/// no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Collected(Bytes);

impl Collected {
    /// Takes bytes collected elsewhere, as from a file or from an own driver. Nothing is checked here: the server
    /// judges, and takes at most 4096 bytes.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn to_wire(&self) -> v1::DeviceOutput {
        v1::DeviceOutput { frame: self.0.clone() }
    }
}

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collected({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_the_length_and_no_byte() {
        let collected = Collected::from_bytes(&b";4111********1111=1912?*"[..]);
        assert_eq!(format!("{collected:?}"), "Collected(24 bytes)");
        assert_eq!(format!("{:?}", collected.to_wire()), "DeviceOutput(24 bytes)");
    }
}
