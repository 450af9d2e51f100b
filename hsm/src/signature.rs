//! Signatures of the audit key, checked without any HSM.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use crate::Signature;

/// Whether a signature over a message is that of the key with this public half: an uncompressed P-256 point.
/// A point that is not on the curve has signed nothing.
pub fn verify_signature(public_key: &[u8; 65], message: &[u8], signature: &Signature) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key).verify(message, &signature.0).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6979 A.2.5: P-256 with SHA-256, message "sample".
    #[test]
    fn a_published_signature_verifies_and_a_changed_one_does_not() {
        let public_key: [u8; 65] = hex::decode(
            "0460FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB67903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299",
        )
        .unwrap()
        .try_into()
        .unwrap();
        let signature: [u8; 64] = hex::decode(
            "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
        )
        .unwrap()
        .try_into()
        .unwrap();
        assert!(verify_signature(&public_key, b"sample", &Signature(signature)));
        assert!(!verify_signature(&public_key, b"simple", &Signature(signature)));
        let mut changed = signature;
        changed[63] ^= 1;
        assert!(!verify_signature(&public_key, b"sample", &Signature(changed)));
        let mut off_the_curve = public_key;
        off_the_curve[64] ^= 1;
        assert!(!verify_signature(&off_the_curve, b"sample", &Signature(signature)));
    }
}
