//! A bench for readers: finds the output in a record, and opens frames under a test key in software.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; the bench must work or fail the run")]

pub(crate) mod build;

use serde_json::Value;
use warifu_core::account_data::{AccountData, AccountDataError};
use warifu_core::cipher::{aes_cbc_decrypt, tdes_cbc_decrypt};
use warifu_core::device::Format;
use warifu_core::dukpt::tdes;
use warifu_core::frame::{FrameKey, SealedFrame};
use warifu_core::key::{KeyBytes, TdesKey};
use warifu_core::ksn::{Ksn, TdesKsn};
use warifu_core::secret::SecretBytes;

/// The ANSI test BDK all public samples are sealed under.
pub(crate) const TEST_BDK: &str = "0123456789ABCDEFFEDCBA9876543210";

/// One device output and its format.
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) bytes: Vec<u8>,
}

/// The output in a record.
pub(crate) fn output(record: &Value) -> Output {
    let format = match record["format"].as_str().unwrap() {
        "idtech_original_binary" | "idtech_enhanced_binary" | "idtech_manual85_binary" | "idtech_vivotech2" => {
            Format::IdTechBinary
        }
        "idtech_original_keyboard" | "idtech_enhanced_keyboard" | "idtech_manual85_keyboard" => Format::IdTechKeyboard,
        "magtek_keyboard_v5" => Format::MagTekKeyboard,
        "magtek_hid_v5" => Format::MagTekHid,
        other => panic!("unknown format {other}"),
    };
    let bytes = match record["raw_text"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => hex::decode(record["raw_hex"].as_str().unwrap()).unwrap(),
    };
    Output { format, bytes }
}

/// The working key of a transaction.
pub(crate) fn tdes_key(bdk: &str, ksn: &TdesKsn, key: TdesKey) -> KeyBytes {
    let bdk = KeyBytes::copied(&hex::decode(bdk).unwrap()).unwrap();
    tdes::working_key(&tdes::transaction_key(&tdes::initial_key(&bdk, ksn), ksn), key)
}

/// The clear sections of a vendor's frame.
pub(crate) fn sections(frame: &SealedFrame, bdk: &str) -> Vec<SecretBytes> {
    let Ksn::Tdes(ksn) = frame.ksn() else { panic!("vendors' frames are TDES DUKPT") };
    let decrypt = |clear: &mut SecretBytes| match frame.key() {
        FrameKey::Tdes(key) => tdes_cbc_decrypt(&tdes_key(bdk, &ksn, key), &[0; 8], clear.expose_mut()),
        FrameKey::TdesAsAes(key) => aes_cbc_decrypt(&tdes_key(bdk, &ksn, key), &[0; 16], clear.expose_mut()),
        FrameKey::Aes(_) => panic!("an AES DUKPT frame"),
    };
    frame
        .sections()
        .iter()
        .map(|section| {
            let mut clear = SecretBytes::copied(frame.ciphertext(section));
            decrypt(&mut clear).unwrap();
            clear
        })
        .collect()
}

/// Opens a vendor's frame.
pub(crate) fn open(frame: &SealedFrame, bdk: &str) -> Result<AccountData, AccountDataError> {
    AccountData::open(frame, &sections(frame, bdk))
}
