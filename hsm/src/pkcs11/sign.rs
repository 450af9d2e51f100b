//! The audit key: signatures, and its public half.

use cryptoki_sys::{CKA_EC_POINT, CKO_PUBLIC_KEY};
use sha2::{Digest, Sha256};

use super::mechanism::Mechanism;
use super::objects::{self, AUDIT_LABEL};
use super::raw::Handle;
use super::session::HsmSession;
use crate::{HsmError, Signature};

/// An uncompressed P-256 point.
const POINT_LEN: usize = 65;

/// Signs the SHA-256 of a message, which is made on the host: it is public.
pub(super) fn sign(session: &HsmSession, audit: Handle, message: &[u8]) -> Result<Signature, HsmError> {
    let mut signature = [0; 64];
    session.sign(Mechanism::Ecdsa, audit, &Sha256::digest(message), &mut signature)?;
    Ok(Signature(signature))
}

/// Reads the public point: an octet string in DER (PKCS#11 v3.1 §6.3.3), or bare from modules older than that rule.
pub(super) fn audit_public_key(session: &HsmSession) -> Result<[u8; POINT_LEN], HsmError> {
    let object = objects::find(session, AUDIT_LABEL, CKO_PUBLIC_KEY)?;
    let mut value = [0; POINT_LEN + 2];
    let len = session.bytes(object, CKA_EC_POINT, &mut value)?;
    point(&value[..len]).ok_or_else(|| HsmError::KeyUnfit {
        label: AUDIT_LABEL.to_owned(),
        reason: "CKA_EC_POINT is no uncompressed point of P-256",
    })
}

/// The point in a `CKA_EC_POINT`.
pub(super) fn point(value: &[u8]) -> Option<[u8; POINT_LEN]> {
    let point = match value {
        [0x04, 0x41, point @ ..] if point.len() == POINT_LEN => point,
        bare => bare,
    };
    <[u8; POINT_LEN]>::try_from(point).ok().filter(|point| point[0] == 0x04)
}
