//! The audit key's public half, and signatures made with the private one.

use std::fmt;
use std::fs;

use warifu_hsm::{Signature, verify_signature};

use crate::exit::{Attempt as _, Exit, Failure};

/// An uncompressed P-256 point.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) struct PublicKey([u8; 65]);

impl PublicKey {
    /// Reads hex digits, or a file holding them.
    pub(in crate::commands) fn read(text: &str) -> Result<Self, Failure> {
        if let Some(key) = Self::parse(text) {
            return Ok(key);
        }
        let content = fs::read_to_string(text).or_exit(Exit::Usage, &format!("read the public key in {text}"))?;
        Self::parse(content.trim())
            .ok_or_else(|| Failure::new(Exit::Usage, "a public key has 130 hex digits, 04 first"))
    }

    /// Reads 130 hex digits.
    pub(in crate::commands) fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 65] = hex::decode(text).ok()?.try_into().ok()?;
        // X9.62 4.3.6: 04 says that both coordinates follow.
        (bytes[0] == 0x04).then_some(Self(bytes))
    }

    /// Whether this key made the signature (ECDSA over SHA-256, r ‖ s in hex) of these bytes.
    pub(in crate::commands) fn made(&self, signature_hex: &str, message: &[u8]) -> bool {
        let Some(signature) = hex::decode(signature_hex).ok().and_then(|bytes| bytes.try_into().ok()) else {
            return false;
        };
        // One spelling only, so that no byte of a file can change unnoticed.
        hex::encode(signature) == signature_hex && verify_signature(&self.0, message, &Signature(signature))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
