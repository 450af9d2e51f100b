//! The native frame, version 1, from the device's side: header, ciphertext, MAC over both.

use warifu_core::frame::{Entry, native_header};
use warifu_core::key::{KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::Ksn;

use super::FormatError;
use crate::dukpt::{aes, tdes};
use crate::sealing::{Fill, Message, aes_cmac, retail_mac};

/// How account data is filled up in an AES frame.
pub const AES_FILL: Fill = Fill::Marked(16);
/// How account data is filled up in a TDES frame.
pub const TDES_FILL: Fill = Fill::Marked(8);

/// An AES frame in the suite of the device's key length: data key usage 3000, MAC key usage 2000.
pub fn sealed_aes(
    transaction: &aes::Transaction<'_>,
    entry: Entry,
    account_data: Message,
) -> Result<Vec<u8>, FormatError> {
    let key_type = KeyType::aes(transaction.key_len());
    let sealed = account_data.sealed_aes(&transaction.working_key(KeyUsage::DataEncryption, key_type));
    let mut frame = native_header(Some(transaction.key_len()), entry, &Ksn::Aes(*transaction.ksn()), length(&sealed)?);
    frame.extend(sealed);
    let tag = aes_cmac(&transaction.working_key(KeyUsage::MacGeneration, key_type), &frame);
    frame.extend(tag);
    Ok(frame)
}

/// A TDES frame: data-request key, retail MAC under the MAC-request key.
pub fn sealed_tdes(
    transaction: &tdes::Transaction<'_>,
    entry: Entry,
    account_data: Message,
) -> Result<Vec<u8>, FormatError> {
    let sealed = account_data.sealed_tdes(&transaction.key(TdesKey::DataRequest));
    let mut frame = native_header(None, entry, &Ksn::Tdes(*transaction.ksn()), length(&sealed)?);
    frame.extend(sealed);
    let tag = retail_mac(&transaction.key(TdesKey::MacRequest), &frame);
    frame.extend(tag);
    Ok(frame)
}

fn length(sealed: &[u8]) -> Result<u16, FormatError> {
    u16::try_from(sealed.len()).map_err(|_| FormatError::TooLong)
}
