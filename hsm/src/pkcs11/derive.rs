//! AES DUKPT inside the slot: every key from BDK to working key is a session object derived from the one above it by
//! encrypting public derivation data (X9.24-3:2017 6.3.1, `CKM_AES_ECB_ENCRYPT_DATA`).

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CKA_DERIVE, CKA_SIGN, CKA_VALUE};
use warifu_core::dukpt::aes::{DerivationData, UPDATE_KEY_COUNTER};
use warifu_core::dukpt::cache::{Derived, TreeCache};
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage};
use warifu_core::ksn::{AesKsn, Ksn};

use super::mechanism::Mechanism;
use super::raw::Handle;
use super::session::{HsmSession, SessionObject};
use super::template::{Exposure, aes_session_key};
use crate::HsmError;

/// The derivation key of the KSN's counter. What the cache holds of its device is not derived again; nodes that leave
/// the cache wait in the session's bin.
pub(super) fn derivation_key<'cache>(
    session: &HsmSession,
    cache: &'cache mut TreeCache<SessionObject>,
    bdk: Handle,
    len: KeyLen,
    ksn: &AesKsn,
) -> Result<Derived<'cache, SessionObject>, HsmError> {
    let ik_id = ksn.ik_id();
    let node = |above: Handle, data: &DerivationData| derive(session, above, data, Exposure::Never, &[CKA_DERIVE]);
    cache.node(
        &Ksn::Aes(*ksn),
        || node(bdk, &DerivationData::initial_key(len, ik_id)),
        |above, counter| node(**above, &DerivationData::node(len, ik_id, counter)),
    )
}

/// A working key that never leaves the slot and can do one thing.
pub(super) fn working_key(
    session: &HsmSession,
    derivation_key: Handle,
    ksn: &AesKsn,
    usage: KeyUsage,
    len: KeyLen,
    purpose: CK_ATTRIBUTE_TYPE,
) -> Result<SessionObject, HsmError> {
    derive(session, derivation_key, &working_key_data(ksn, usage, len), Exposure::Never, &[purpose])
}

/// A working key given to the host: `hybrid` mode, for the data key of one transaction.
pub(super) fn exported_working_key(
    session: &HsmSession,
    derivation_key: Handle,
    ksn: &AesKsn,
    usage: KeyUsage,
    len: KeyLen,
) -> Result<KeyBytes, HsmError> {
    export(session, derivation_key, &working_key_data(ksn, usage, len))
}

/// An initial key given to the host: `host-derived` mode.
pub(super) fn exported_initial_key(
    session: &HsmSession,
    bdk: Handle,
    len: KeyLen,
    ksn: &AesKsn,
) -> Result<KeyBytes, HsmError> {
    export(session, bdk, &DerivationData::initial_key(len, ksn.ik_id()))
}

/// The update key of a device (X9.24-3:2017 6.5.3), 34 derivations down from the BDK: it never leaves the slot, and makes
/// CMACs, as the protection key of a key block.
pub(super) fn update_key(
    session: &HsmSession,
    bdk: Handle,
    len: KeyLen,
    ksn: &AesKsn,
) -> Result<SessionObject, HsmError> {
    let ik_id = ksn.ik_id();
    let node = |above: Handle, data: &DerivationData| derive(session, above, data, Exposure::Never, &[CKA_DERIVE]);
    let mut above = node(bdk, &DerivationData::initial_key(len, ik_id))?;
    for bit in (0..u32::BITS).rev() {
        above = node(*above, &DerivationData::node(len, ik_id, UPDATE_KEY_COUNTER << bit))?;
        // One node at a time: slots hold few objects.
        session.sweep()?;
    }
    let data = DerivationData::working_key(KeyUsage::KeyEncryption, KeyType::aes(len), ik_id, UPDATE_KEY_COUNTER);
    derive(session, *above, &data, Exposure::Never, &[CKA_SIGN])
}

fn working_key_data(ksn: &AesKsn, usage: KeyUsage, len: KeyLen) -> DerivationData {
    DerivationData::working_key(usage, KeyType::aes(len), ksn.ik_id(), ksn.raw_counter())
}

fn export(session: &HsmSession, above: Handle, data: &DerivationData) -> Result<KeyBytes, HsmError> {
    let object = derive(session, above, data, Exposure::Readable, &[])?;
    let mut read = Ok(0);
    let key = KeyBytes::filled(data.key_len(), |bytes| read = session.bytes(*object, CKA_VALUE, bytes));
    match read? {
        len if len == data.key_len().bytes() => Ok(key),
        _ => Err(HsmError::SelfTest("a derived key has not the length it was derived for")),
    }
}

/// For a key of 192 bits the slot encrypts two blocks and keeps the first 24 bytes, because the template says how long
/// the key is (PKCS#11 v3.1 §6.14.2: the result is cut from the left). The self-test holds every slot to that.
fn derive(
    session: &HsmSession,
    above: Handle,
    data: &DerivationData,
    exposure: Exposure,
    uses: &[CK_ATTRIBUTE_TYPE],
) -> Result<SessionObject, HsmError> {
    let template = aes_session_key(data.key_len(), exposure, uses);
    session.derive(Mechanism::AesEcbEncryptData(data.blocks()), above, &template).map(|handle| session.own(handle))
}
