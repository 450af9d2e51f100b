//! What a device does: derives the keys of its counter, encrypts, and makes the MAC, in the native format.

use warifu_core::account_data::pad_7816;
use warifu_core::cipher::{aes_cbc_encrypt, tdes_cbc_encrypt};
use warifu_core::dukpt::{aes, tdes};
use warifu_core::frame::{Entry, SealedFrame, native_header};
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::{AesKsn, Ksn, Scheme, TdesKsn};
use warifu_core::mac::{aes_cmac, retail_mac};
use warifu_hsm::BdkSpec;

use super::slot::test_key;

pub(crate) const PAN: &str = "4012888888881881";
pub(crate) const BODY: &[u8] = b"4012888888881881=3012=123";

/// A device under a base derivation key. Its serial tells it from others.
pub(crate) struct Device {
    ik: KeyBytes,
    ksn: Ksn,
}

impl Device {
    pub(crate) fn new(spec: &BdkSpec, serial: u16) -> Self {
        Self::under(spec.scheme, &test_key(spec), serial)
    }

    fn under(scheme: Scheme, bdk: &KeyBytes, serial: u16) -> Self {
        let [high, low] = serial.to_be_bytes();
        match scheme {
            Scheme::Aes => {
                let ksn = AesKsn::new([0x57, 0x41, 0x52, 0x49, 0, 0, high, low, 0, 0, 0, 0]);
                Self { ik: aes::initial_key(bdk, ksn.ik_id()), ksn: Ksn::Aes(ksn) }
            }
            Scheme::Tdes => {
                let ksn = TdesKsn::new([0xFF, 0xFF, 0x57, 0x41, 0x52, high, low, 0, 0, 0]);
                Self { ik: tdes::initial_key(bdk, &ksn), ksn: Ksn::Tdes(ksn) }
            }
        }
    }

    /// The wire bytes of a keyed card at a counter, under the keys of the device's own length.
    pub(crate) fn seal(&self, counter: u32) -> Vec<u8> {
        self.seal_as(counter, self.ik.key_len(), BODY)
    }

    pub(crate) fn frame(&self, counter: u32) -> SealedFrame {
        SealedFrame::parse(&self.seal(counter)).unwrap()
    }

    /// As [`Device::seal`], with working keys of another length (AES).
    pub(crate) fn seal_as(&self, counter: u32, len: KeyLen, body: &[u8]) -> Vec<u8> {
        match self.ksn {
            Ksn::Aes(ksn) => self.seal_aes(&ksn.with_counter(counter), len, body),
            Ksn::Tdes(ksn) => self.seal_tdes(&ksn.with_counter(counter), body),
        }
    }

    fn seal_aes(&self, ksn: &AesKsn, len: KeyLen, body: &[u8]) -> Vec<u8> {
        let node = aes::derivation_key(&self.ik, ksn);
        let key = |usage| aes::working_key(&node, ksn, usage, KeyType::aes(len)).unwrap();
        seal_with(ksn, &key(KeyUsage::DataEncryption), &key(KeyUsage::MacGeneration), body)
    }

    fn seal_tdes(&self, ksn: &TdesKsn, body: &[u8]) -> Vec<u8> {
        let node = tdes::transaction_key(&self.ik, ksn);
        let mut data = padded(body, 8);
        tdes_cbc_encrypt(&tdes::working_key(&node, TdesKey::DataRequest), &[0; 8], &mut data).unwrap();
        let mut frame = native_header(None, Entry::Keyed, &Ksn::Tdes(*ksn), data.len().try_into().unwrap());
        frame.extend(&data);
        let mac = retail_mac(&tdes::working_key(&node, TdesKey::MacRequest), &frame);
        frame.extend(mac);
        frame
    }
}

/// A native AES frame made with working keys at hand.
pub(crate) fn seal_with(ksn: &AesKsn, data_key: &KeyBytes, mac_key: &KeyBytes, body: &[u8]) -> Vec<u8> {
    let mut data = padded(body, 16);
    aes_cbc_encrypt(data_key, &[0; 16], &mut data).unwrap();
    let len = Some(data_key.key_len());
    let mut frame = native_header(len, Entry::Keyed, &Ksn::Aes(*ksn), data.len().try_into().unwrap());
    frame.extend(&data);
    let mac = aes_cmac(mac_key, &frame);
    frame.extend(mac);
    frame
}

fn padded(body: &[u8], block: usize) -> Vec<u8> {
    pad_7816(body, block).expose().to_vec()
}
