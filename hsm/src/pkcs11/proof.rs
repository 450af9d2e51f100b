//! What a slot can tell of a base derivation key without letting it do anything but its work.

use cryptoki_sys::{CKA_SIGN, CKA_VALUE};
use warifu_core::custody::{AES_PROOF_DATA, KeyProof, TDES_PROOF_DATA};
use warifu_core::kcv::Kcv;
use warifu_core::key::KeyLen;
use zeroize::Zeroizing;

use super::mechanism::Mechanism;
use super::objects::BdkObjects;
use super::raw::Handle;
use super::session::HsmSession;
use super::template::{Exposure, aes_session_key};
use crate::HsmError;

/// Tells the key from every other one. What is derived for it waits in the session's bin.
pub(super) fn of(session: &HsmSession, bdk: &BdkObjects) -> Result<KeyProof, HsmError> {
    match bdk {
        BdkObjects::Aes(bdk) => {
            let template = aes_session_key(KeyLen::K128, Exposure::Never, &[CKA_SIGN]);
            let check_key = session.derive(Mechanism::AesEcbEncryptData(&AES_PROOF_DATA), *bdk, &template)?;
            let check_key = session.own(check_key);
            let mut mac = [0; 16];
            session.sign(Mechanism::AesCmac, *check_key, &[0; 16], &mut mac)?;
            Ok(KeyProof(mac))
        }
        BdkObjects::Tdes { left, right } => {
            let left = encrypted(session, *left, &TDES_PROOF_DATA)?;
            let right = encrypted(session, *right, &TDES_PROOF_DATA)?;
            Ok(KeyProof::of_tdes_blocks(&left, &right))
        }
    }
}

/// The key check values people may have on paper, first the one to write down: for AES the CMAC of a block of zeros, five
/// bytes (X9.24-1:2017), and that block encrypted, three bytes, as older papers and many HSMs have it; for TDES the
/// encrypted block. None where the slot does not show what it derives from a key that may not leave.
///
/// An AES key that may only derive makes no CMAC; but a derivation is an encryption, and a CMAC of one block is two:
/// of zeros, which gives the subkey, and of the block xor the subkey (SP 800-38B §6.1, §6.2).
pub(super) fn check_values(session: &HsmSession, bdk: &BdkObjects) -> Result<Vec<Kcv>, HsmError> {
    match bdk {
        BdkObjects::Aes(bdk) => {
            let Some(zeros) = shown(session, *bdk, &[0; 16])?.map(Zeroizing::new) else { return Ok(Vec::new()) };
            let subkey = Zeroizing::new(doubled(*zeros));
            let Some(mac) = shown(session, *bdk, &subkey)?.map(Zeroizing::new) else { return Ok(Vec::new()) };
            let cmac = Kcv::Cmac([mac[0], mac[1], mac[2], mac[3], mac[4]]);
            Ok(vec![cmac, Kcv::Legacy([zeros[0], zeros[1], zeros[2]])])
        }
        BdkObjects::Tdes { left, .. } => {
            let [a, b, c, ..] = encrypted(session, *left, &[0; 8])?;
            Ok(vec![Kcv::Legacy([a, b, c])])
        }
    }
}

fn encrypted(session: &HsmSession, key: Handle, block: &[u8; 8]) -> Result<[u8; 8], HsmError> {
    let mut encrypted = [0; 8];
    session.encrypt(Mechanism::Des3Ecb, key, block, &mut encrypted)?;
    Ok(encrypted)
}

/// A block encrypted under a key that may only derive, if the slot lets that be read.
fn shown(session: &HsmSession, bdk: Handle, block: &[u8; 16]) -> Result<Option<[u8; 16]>, HsmError> {
    let template = aes_session_key(KeyLen::K128, Exposure::Readable, &[]);
    let derived = match session.derive(Mechanism::AesEcbEncryptData(block), bdk, &template) {
        Ok(derived) => session.own(derived),
        Err(HsmError::Pkcs11 { .. }) => return Ok(None),
        Err(other) => return Err(other),
    };
    let mut value = [0; 16];
    match session.bytes(*derived, CKA_VALUE, &mut value) {
        Ok(16) => Ok(Some(value)),
        Ok(_) | Err(HsmError::Pkcs11 { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Twice a number in the field of CMAC.
fn doubled(block: [u8; 16]) -> [u8; 16] {
    const REDUCTION: u128 = 0x87;
    let number = u128::from_be_bytes(block);
    ((number << 1) ^ ((number >> 127) * REDUCTION)).to_be_bytes()
}
