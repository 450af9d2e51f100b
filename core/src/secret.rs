//! Bytes that must never be seen: boxed, made in place, wiped on drop, opened by one door.
//!
//! Architecture invariant: nothing here prints, clones, compares by value or serialises a secret.
//! A type built on these inherits that.
//!
//! ```compile_fail
//! let secret = warifu_core::secret::SecretBytes::filled(4, |buffer| buffer.fill(7));
//! println!("{secret:?}"); // A secret has no Debug.
//! ```
//! ```compile_fail
//! let secret = warifu_core::secret::SecretBytes::filled(4, |buffer| buffer.fill(7));
//! let twin = secret.clone(); // A secret has no Clone.
//! ```

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret of any length, on the heap at exact capacity so that growing never leaves a copy behind.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes(Box<[u8]>);

impl SecretBytes {
    /// Makes `len` zero bytes in place and lets `fill` write the secret into them.
    pub fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut bytes = vec![0u8; len].into_boxed_slice();
        fill(&mut bytes);
        Self(bytes)
    }

    /// Copies a secret in. The caller still owns, and must wipe, the source.
    pub fn copied(source: &[u8]) -> Self {
        Self::filled(source.len(), |bytes| bytes.copy_from_slice(source))
    }

    /// The one door.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The one door, to change it in place.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Length in bytes, which is public.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares in constant time for equal lengths.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
