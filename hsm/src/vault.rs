//! What fingerprints and seals are bound to: one encoding for every backend.

use warifu_core::card::Pan;
use warifu_core::merchant::MerchantId;
use warifu_core::secret::SecretBytes;
use warifu_core::token::Token;

/// Bytes of a GCM nonce here (SP 800-38D 5.2.1.1).
pub(crate) const NONCE_LEN: usize = 12;
/// Bytes of a GCM tag here.
pub(crate) const TAG_LEN: usize = 16;

/// Says what a sealed value is, so that it can be taken for nothing else.
const PAN_CONTEXT: &[u8] = b"warifu pan v1";

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
