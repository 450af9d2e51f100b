//! A keypad that seals what is typed, and a real reader's published output.

use bytes::Bytes;
use warifu_core::account_data::pad_7816;
use warifu_core::cipher::aes_cbc_encrypt;
use warifu_core::custody::KeyProof;
use warifu_core::dukpt::aes;
use warifu_core::frame::{Entry, native_header};
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage};
use warifu_core::ksn::{AesKsn, Ksn, Scheme, TdesKsn};
use warifu_core::mac::aes_cmac;
use warifu_core::merchant::BdkId;
use warifu_hsm::{BdkSpec, DecryptionMode};

const AES_BDK: [u8; 16] = *b"\xFE\xDC\xBA\x98\x76\x54\x32\x10\xF1\xF1\xF1\xF1\xF1\xF1\xF1\xF1";
/// The public test key of ANSI X9.24-1.
const TDES_BDK: [u8; 16] = *b"\x01\x23\x45\x67\x89\xAB\xCD\xEF\xFE\xDC\xBA\x98\x76\x54\x32\x10";

/// Output of an ID TECH Augusta, as the makers' documentation prints it; it makes no MACs.
const AUGUSTA: &str = "\
    023201801F4F2800A39B252A353431332A2A2A2A2A2A2A2A343131315E444920544553542F434152442030342020202020202020202020\
    5E2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A3F2A3B353431332A2A2A2A2A2A2A2A343131313D2A2A2A\
    2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A2A3F2A6F0F25415970287199A844F416AE153B45F3838F6FA0FEDA6399AF0DB5E23880335FA511\
    20A7EC89CA3D946AD27FF773C32D1D90F462EEDD17173E2E373895FAB6C4CCEB83ACEF900B81FAFBC25E87291BAB6D5740844AC8AF35B8\
    8EBA06BDC359DC6128B2F0867556C5CDA29CCBD1B86BD8835E2796531E0000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000373136543439343031306299490000000A0000022B2303";

/// The keys of the slot: AES, and TDES for vendors' readers; `tdes-2` is the wrong one for them.
pub(crate) fn bdks() -> Vec<(BdkSpec, KeyBytes)> {
    let bdk = |id: &str, scheme, mode, key: &[u8; 16]| {
        let key = KeyBytes::copied(key).unwrap();
        let proof = Some(KeyProof::of(scheme, &key));
        (BdkSpec { id: BdkId::parse(id).unwrap(), scheme, len: KeyLen::K128, mode, proof }, key)
    };
    vec![
        bdk("aes-1", Scheme::Aes, DecryptionMode::Hardware, &AES_BDK),
        bdk("tdes-1", Scheme::Tdes, DecryptionMode::HostDerived, &TDES_BDK),
        bdk("tdes-2", Scheme::Tdes, DecryptionMode::HostDerived, &AES_BDK),
    ]
}

/// The originating side of AES DUKPT, with the initial key at hand instead of future keys.
pub(crate) struct Keypad {
    ksn: AesKsn,
    ik: KeyBytes,
}

impl Keypad {
    pub(crate) fn new(serial: u32) -> Self {
        let [a, b, c, d] = serial.to_be_bytes();
        let ksn = AesKsn::new([0x12, 0x34, 0x56, 0x78, a, b, c, d, 0, 0, 0, 0]);
        Self { ksn, ik: aes::initial_key(&KeyBytes::copied(&AES_BDK).unwrap(), ksn.ik_id()) }
    }

    pub(crate) fn ksn(&self) -> Ksn {
        Ksn::Aes(self.ksn)
    }

    /// Seals `PAN=YYMM=CVV` under a counter.
    pub(crate) fn seal(&self, counter: u32, typed: &[u8]) -> Bytes {
        let ksn = self.ksn.with_counter(counter);
        let node = aes::derivation_key(&self.ik, &ksn);
        let key = |usage| aes::working_key(&node, &ksn, usage, KeyType::Aes128).unwrap();
        let mut body = pad_7816(typed, 16);
        aes_cbc_encrypt(&key(KeyUsage::DataEncryption), &[0; 16], body.expose_mut()).unwrap();
        let length = u16::try_from(body.len()).unwrap();
        let mut frame = native_header(Some(KeyLen::K128), Entry::Keyed, &Ksn::Aes(ksn), length);
        frame.extend(body.expose());
        frame.extend(aes_cmac(&key(KeyUsage::MacGeneration), &frame));
        frame.into()
    }
}

/// The published output, of counter 2; any other counter makes it noise.
pub(crate) fn augusta(counter: u8) -> Bytes {
    let mut frame = hex::decode(AUGUSTA).unwrap();
    let [.., ksn, lrc, sum, _] = frame.as_mut_slice() else { unreachable!("a published output") };
    *lrc ^= *ksn ^ counter;
    *sum = sum.wrapping_sub(*ksn).wrapping_add(counter);
    *ksn = counter;
    frame.into()
}

pub(crate) fn augusta_ksn() -> Ksn {
    Ksn::Tdes(TdesKsn::new([0x62, 0x99, 0x49, 0, 0, 0, 0x0A, 0, 0, 0]))
}
