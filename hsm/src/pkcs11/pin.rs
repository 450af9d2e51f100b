//! The PIN that opens a slot.

use cryptoki::types::{AuthPin, RawAuthPin};
use warifu_core::secret::SecretBytes;

use crate::HsmError;

/// A PIN. A secret.
pub struct Pin(SecretBytes);

impl Pin {
    /// Takes a PIN's bytes; most modules want UTF-8.
    pub fn new(bytes: SecretBytes) -> Self {
        Self(bytes)
    }

    /// Copies a PIN in. The caller still owns, and must wipe, the source.
    pub fn copied(text: &str) -> Self {
        Self(SecretBytes::copied(text.as_bytes()))
    }

    /// For C_Login; wiped when dropped.
    pub(super) fn raw(&self) -> RawAuthPin {
        RawAuthPin::new(Box::new(self.0.expose().to_vec()))
    }

    /// For C_InitToken and C_InitPIN, which cryptoki gives text only; wiped when dropped.
    pub(super) fn text(&self) -> Result<AuthPin, HsmError> {
        match std::str::from_utf8(self.0.expose()) {
            Ok(text) => Ok(AuthPin::from(text)),
            Err(_) => Err(super::ckr::error("C_InitPIN", cryptoki_sys::CKR_PIN_INVALID)),
        }
    }
}
