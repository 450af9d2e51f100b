//! Opening a frame with keys at hand: the MAC first, then the messages, then the card.
//!
//! This is for keys that are already on this host: the bench, the `host-derived` mode and the software backend.
//! Where the keys stay in an HSM, its backend does these steps inside.

use crate::account_data::{AccountData, AccountDataError};
use crate::cipher::{aes_cbc_decrypt, tdes_cbc_decrypt};
use crate::dukpt::aes::{self, DeriveError};
use crate::dukpt::tdes;
use crate::frame::{FrameKey, FrameMac, SealedFrame};
use crate::key::{KeyBytes, KeyType, KeyUsage, TdesKey};
use crate::ksn::Ksn;
use crate::mac::{verify_aes_cmac, verify_retail_mac};
use crate::secret::SecretBytes;

/// Why a frame did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// The frame's suite asks for stronger keys than these, or for the other DUKPT.
    #[error("the frame was not made under a key of this scheme and length")]
    Suite,
    /// The MAC is wrong: another key, or a change on the way.
    #[error("the frame's MAC is wrong")]
    WrongMac,
    /// It opens to no card.
    #[error(transparent)]
    Card(#[from] AccountDataError),
}

impl From<DeriveError> for OpeningError {
    fn from(_: DeriveError) -> Self {
        Self::Suite
    }
}

/// Opens a frame under the derivation key (AES) or transaction key (TDES) of its KSN.
///
/// # Errors
/// [`OpeningError`]; nothing was decrypted when the MAC is wrong.
pub fn open(frame: &SealedFrame, key: &KeyBytes) -> Result<AccountData, OpeningError> {
    let mut keys = Keys::blank();
    keys.fill(frame, key)?;
    if let Some((mac, covered, tag)) = frame.mac() {
        match mac {
            FrameMac::AesCmac => verify_aes_cmac(&keys.mac, covered, tag),
            FrameMac::Retail => verify_retail_mac(&keys.mac, covered, tag),
        }
        .map_err(|_| OpeningError::WrongMac)?;
    }
    let clear: Vec<SecretBytes> = frame
        .sections()
        .iter()
        .map(|section| {
            let mut clear = SecretBytes::copied(frame.ciphertext(section));
            decrypt(frame.key(), &keys.data, clear.expose_mut());
            clear
        })
        .collect();
    Ok(AccountData::open(frame, &clear)?)
}

/// Decrypts one section in place: CBC with a zero IV, since the key is used for this message alone or, in readers'
/// formats, for these few.
pub fn decrypt(key: FrameKey, data_key: &KeyBytes, section: &mut [u8]) {
    match key {
        FrameKey::Aes(_) | FrameKey::TdesAsAes(_) => aes_cbc_decrypt(data_key, &[0; 16], section),
        FrameKey::Tdes(_) => tdes_cbc_decrypt(data_key, &[0; 8], section),
    }
    .expect("a frame's sections are whole blocks of its cipher");
}

/// The keys of a frame, made where they stay: no move leaves any of them behind.
struct Keys {
    mac: KeyBytes,
    data: KeyBytes,
}

impl Keys {
    fn blank() -> Self {
        Self { mac: KeyBytes::zero(tdes::KEY_LEN), data: KeyBytes::zero(tdes::KEY_LEN) }
    }

    fn fill(&mut self, frame: &SealedFrame, key: &KeyBytes) -> Result<(), OpeningError> {
        match (frame.key(), frame.ksn()) {
            (FrameKey::Aes(len), Ksn::Aes(ksn)) => {
                let usages = [KeyUsage::MacGeneration, KeyUsage::DataEncryption];
                Ok(aes::two_working_keys(key, &ksn, usages, KeyType::aes(len), [&mut self.mac, &mut self.data])?)
            }
            (FrameKey::Tdes(data) | FrameKey::TdesAsAes(data), Ksn::Tdes(_)) if key.key_len() == tdes::KEY_LEN => {
                // Only the data key has anything encrypted; the MAC key is a variant.
                tdes::derive_working_key(key, TdesKey::MacRequest, &mut self.mac);
                tdes::derive_working_key(key, data, &mut self.data);
                Ok(())
            }
            (FrameKey::Aes(_), Ksn::Tdes(_)) | (FrameKey::Tdes(_) | FrameKey::TdesAsAes(_), _) => {
                Err(OpeningError::Suite)
            }
        }
    }
}
