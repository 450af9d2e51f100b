//! What the vault's keys are told apart by, and what fingerprints and seals are bound to: one encoding for every backend.

use std::fmt;
use std::num::NonZeroU32;

use warifu_core::card::Pan;
use warifu_core::custody::KeyProof;
use warifu_core::merchant::MerchantId;
use warifu_core::secret::SecretBytes;
use warifu_core::token::Token;

/// Bytes of a GCM nonce here (SP 800-38D 5.2.1.1).
pub(crate) const NONCE_LEN: usize = 12;
/// Bytes of a GCM tag here.
pub(crate) const TAG_LEN: usize = 16;

/// Says what a sealed value is, so that it can be taken for nothing else.
const PAN_CONTEXT: &[u8] = b"warifu pan v1";
/// What a fingerprint key proves itself with. It holds no byte 00, so it is no card's.
pub(crate) const FINGERPRINT_PROOF_DATA: &[u8] = b"warifu fingerprint key proof v1";

/// Which of a slot's vault keys: a root, under which merchants' vault keys are wrapped, and a fingerprint key. The first
/// are of generation 1; each rotation makes the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VaultGeneration(NonZeroU32);

/// A generation of vault keys, as the registry knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaultSpec {
    /// Which.
    pub generation: VaultGeneration,
    /// What tells its fingerprint key from every other one: the first half of a MAC it makes. A key with another proof is
    /// not used; `None` where nobody has registered one.
    pub proof: Option<KeyProof>,
}

impl VaultGeneration {
    /// The one every vault begins with.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before it; none before the first.
    pub fn former(self) -> Option<Self> {
        NonZeroU32::new(self.0.get() - 1).map(Self)
    }

    /// Its number, from 1.
    pub const fn number(self) -> u32 {
        self.0.get()
    }

    /// The inverse of [`VaultGeneration::number`].
    pub fn from_number(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

impl fmt::Display for VaultGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `merchant ‖ 00 ‖ PAN`. No merchant id contains the byte 00, so no two pairs give the same input.
pub(crate) fn fingerprint_input(merchant: &MerchantId, pan: &Pan) -> SecretBytes {
    let (merchant, digits) = (merchant.as_str().as_bytes(), pan.expose());
    SecretBytes::filled(merchant.len() + 1 + digits.len(), |input| {
        let (start, end) = input.split_at_mut(merchant.len() + 1);
        start[..merchant.len()].copy_from_slice(merchant);
        end.copy_from_slice(digits);
    })
}

/// The additional authenticated data of a sealed card number: `"warifu pan v1" ‖ merchant ‖ 00 ‖ token`.
pub(crate) fn pan_context(merchant: &MerchantId, token: &Token) -> Vec<u8> {
    [PAN_CONTEXT, merchant.as_str().as_bytes(), &[0], token.as_str().as_bytes()].concat()
}

/// The proof of a fingerprint key, out of the MAC it makes of [`FINGERPRINT_PROOF_DATA`].
pub(crate) fn fingerprint_proof(mac: &[u8; 32]) -> KeyProof {
    let mut half = [0; 16];
    half.copy_from_slice(&mac[..16]);
    KeyProof(half)
}
