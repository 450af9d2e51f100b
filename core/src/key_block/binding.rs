//! What binds a header to a key: the cipher and the MAC of each version (X9.143:2021 7).
//!
//! | version | MAC | over | cipher | its IV |
//! |---|---|---|---|---|
//! | A, C | TDES CBC-MAC, 4 bytes | header, sealed data | TDES-CBC | first 8 characters of the header |
//! | B | TDES-CMAC | header, clear data | TDES-CBC | MAC |
//! | D | AES-CMAC | header, clear data | AES-CBC | MAC |
//! | E | AES-CMAC | header, clear data | AES-CTR | MAC |

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::protection::Protection;
use super::version::Version;
use crate::cipher::{aes_cbc_decrypt, aes_cbc_encrypt, tdes_cbc_decrypt, tdes_cbc_encrypt};
use crate::mac::{aes_cmac, tdes_cmac};
use crate::secret::SecretBytes;

/// Key data as it stands in a block.
pub(super) struct Sealed {
    pub(super) data: Vec<u8>,
    pub(super) mac: Vec<u8>,
}

/// Seals clear key data, whole units of the version, under a header.
pub(super) fn seal(protection: &Protection, header: &str, mut clear: SecretBytes) -> Sealed {
    match protection.version() {
        Version::A | Version::C => {
            cbc_encrypt(protection, header.as_bytes(), clear.expose_mut());
            let mac = cbc_mac(protection, header, clear.expose());
            Sealed { data: clear.expose().to_vec(), mac }
        }
        Version::B | Version::D => {
            let mac = cmac(protection, header, &clear);
            cbc_encrypt(protection, &mac, clear.expose_mut());
            Sealed { data: clear.expose().to_vec(), mac }
        }
        Version::E => {
            let mac = cmac(protection, header, &clear);
            ctr(protection, &mac, clear.expose_mut());
            Sealed { data: clear.expose().to_vec(), mac }
        }
    }
}

/// Opens sealed key data, whole units of the version, if the MAC is right: nothing is told of what it would open to
/// otherwise.
pub(super) fn open(protection: &Protection, header: &str, sealed: &Sealed) -> Option<SecretBytes> {
    let mut data = SecretBytes::copied(&sealed.data);
    match protection.version() {
        Version::A | Version::C => {
            if !is_same(&cbc_mac(protection, header, data.expose()), &sealed.mac) {
                return None;
            }
            cbc_decrypt(protection, header.as_bytes(), data.expose_mut());
            Some(data)
        }
        Version::B | Version::D => {
            cbc_decrypt(protection, &sealed.mac, data.expose_mut());
            is_same(&cmac(protection, header, &data), &sealed.mac).then_some(data)
        }
        Version::E => {
            ctr(protection, &sealed.mac, data.expose_mut());
            is_same(&cmac(protection, header, &data), &sealed.mac).then_some(data)
        }
    }
}

/// Slices of unequal length, which is public, are not the same.
fn is_same(expected: &[u8], mac: &[u8]) -> bool {
    expected.ct_eq(mac).into()
}

/// The CMAC of header and clear data.
fn cmac(protection: &Protection, header: &str, clear: &SecretBytes) -> Vec<u8> {
    let message = SecretBytes::filled(header.len() + clear.len(), |message| {
        let (start, end) = message.split_at_mut(header.len());
        start.copy_from_slice(header.as_bytes());
        end.copy_from_slice(clear.expose());
    });
    match protection.version().block_len() {
        8 => tdes_cmac(protection.authentication(), message.expose()).to_vec(),
        _ => aes_cmac(protection.authentication(), message.expose()).to_vec(),
    }
}

/// The first bytes of the last block of header and sealed data under CBC. Both are whole blocks, so there is no filling.
fn cbc_mac(protection: &Protection, header: &str, sealed: &[u8]) -> Vec<u8> {
    let mut message = [header.as_bytes(), sealed].concat();
    tdes_cbc_encrypt(protection.authentication(), &[0; 8], &mut message).expect(WHOLE);
    let last = message.len() - Version::C.block_len();
    message[last..last + Version::C.mac_len()].to_vec()
}

/// Said where the lengths were looked at before.
const WHOLE: &str = "the block's parser and maker see to whole blocks and keys of the cipher";

fn cbc_encrypt(protection: &Protection, iv: &[u8], data: &mut [u8]) {
    let key = protection.encryption();
    match protection.version().block_len() {
        8 => tdes_cbc_encrypt(key, iv.first_chunk().expect(WHOLE), data),
        _ => aes_cbc_encrypt(key, iv.first_chunk().expect(WHOLE), data),
    }
    .expect(WHOLE);
}

fn cbc_decrypt(protection: &Protection, iv: &[u8], data: &mut [u8]) {
    let key = protection.encryption();
    match protection.version().block_len() {
        8 => tdes_cbc_decrypt(key, iv.first_chunk().expect(WHOLE), data),
        _ => aes_cbc_decrypt(key, iv.first_chunk().expect(WHOLE), data),
    }
    .expect(WHOLE);
}

/// AES in counter mode, from the MAC on (ISO 20038:2017 A.4). Encrypts and decrypts.
fn ctr(protection: &Protection, start: &[u8], data: &mut [u8]) {
    let start = u128::from_be_bytes(*start.first_chunk().expect(WHOLE));
    for (part, at) in data.chunks_mut(16).zip(0..) {
        let mut stream = Zeroizing::new(start.wrapping_add(at).to_be_bytes());
        // One block under a zero IV is the cipher itself.
        aes_cbc_encrypt(protection.encryption(), &[0; 16], stream.as_mut_slice()).expect(WHOLE);
        part.iter_mut().zip(stream.iter()).for_each(|(byte, stream)| *byte ^= stream);
    }
}
