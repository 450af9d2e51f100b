//! Each mechanism the server needs, tried with a known answer. What a module says in its list is not believed.

use cryptoki_sys::{
    CK_KEY_TYPE, CKA_DECRYPT, CKA_DERIVE, CKA_EC_POINT, CKA_ENCRYPT, CKA_SIGN, CKA_UNWRAP, CKA_VALUE, CKA_WRAP,
    CKK_AES, CKK_DES3, CKK_GENERIC_SECRET,
};
use warifu_core::key::KeyLen;
use warifu_core::ksn::TdesKsn;

use super::mac::MacCheck;
use super::mechanism::Mechanism;
use super::raw::{Handle, Verdict};
use super::session::{HsmSession, SessionObject};
use super::template::{Attribute, Exposure, Life, aes_session_key, secret_key};
use super::{combine, provision, self_test, sign, tdes_ik};
use crate::doctor::Need;
use crate::{DecryptionMode, HsmError, Signature, verify_signature};

/// A mechanism, what it is needed for, and how it is tried.
pub(crate) struct Trial {
    /// As PKCS#11 writes it.
    pub(crate) mechanism: &'static str,
    /// What the server cannot do without it.
    pub(crate) needed_for: &'static str,
    /// And who cannot.
    pub(crate) need: Need,
    try_it: fn(&HsmSession) -> Result<(), HsmError>,
}

impl Trial {
    /// Tries it, and leaves nothing in the session.
    pub(crate) fn run(&self, session: &HsmSession) -> Result<(), HsmError> {
        let outcome = (self.try_it)(session);
        let swept = session.sweep();
        outcome.and(swept)
    }
}

const fn trial(
    mechanism: &'static str,
    needed_for: &'static str,
    need: Need,
    try_it: fn(&HsmSession) -> Result<(), HsmError>,
) -> Trial {
    Trial { mechanism, needed_for, need, try_it }
}

/// All of them.
pub(crate) const TRIALS: [Trial; 11] = [
    trial("CKM_AES_CMAC", "verifying frames", Need::Mode, cmac),
    trial("CKM_AES_CBC", "decrypting frames", Need::Mode, cbc),
    trial("CKM_DES3_ECB", "initial keys of TDES devices", Need::Mode, des3_ecb),
    trial("CKM_SHA256_HMAC", "fingerprints", Need::Server, hmac),
    trial("CKM_AES_GCM", "sealed card numbers", Need::Server, gcm),
    trial("CKM_AES_KEY_WRAP", "vault keys", Need::Server, key_wrap),
    trial("CKM_AES_KEY_GEN", "vault keys", Need::Server, aes_key_gen),
    trial("CKM_GENERIC_SECRET_KEY_GEN", "provisioning", Need::Provisioning, generic_secret_key_gen),
    trial("CKM_XOR_BASE_AND_DATA", "combining components inside", Need::Nobody, xor_base_and_data),
    trial("CKM_ECDSA", "the audit log", Need::Server, ecdsa),
    trial("C_GenerateRandom", "tokens and nonces", Need::Server, random),
];

/// `CKM_AES_ECB_ENCRYPT_DATA`: the keys of a known message at one key length, derived and not shown.
pub(crate) fn derivation(session: &HsmSession, len: KeyLen) -> Result<(), HsmError> {
    self_test::run_derivation(session, len)
}

/// A known message opened as a mode opens it, at one key length.
pub(crate) fn mode(session: &HsmSession, mode: DecryptionMode, len: KeyLen) -> Result<(), HsmError> {
    self_test::run_mode(session, mode, len)
}

/// The initial keys of TDES DUKPT.
pub(super) fn tdes(session: &HsmSession) -> Result<(), HsmError> {
    let outcome = des3_ecb(session);
    let swept = session.sweep();
    outcome.and(swept)
}

/// How the slot checks MACs.
pub(crate) fn mac_check(session: &HsmSession) -> Result<MacCheck, HsmError> {
    let way = MacCheck::of(session);
    let swept = session.sweep();
    way.and_then(|way| swept.map(|()| way))
}

/// SP 800-38B D.3, example 2 (AES-256), and the same with a byte changed.
fn cmac(session: &HsmSession) -> Result<(), HsmError> {
    let key = hex::<32>("603DEB1015CA71BE2B73AEF0857D77811F352C073B6108D72D9810A30914DFF4");
    let message = hex::<16>("6BC1BEE22E409F96E93D7E117393172A");
    let mut mac = hex::<16>("28A7023F452E8F82BD4BF28D8C37C35C");
    let way = MacCheck::of(session)?;
    let key = test_key(session, CKK_AES, &key, &[way.purpose()])?;
    let right = way.check(session, *key, &message, &mac)?;
    mac[0] ^= 1;
    let wrong = way.check(session, *key, &message, &mac)?;
    expect((right, wrong) == (Verdict::Right, Verdict::Wrong), "it does not tell a right MAC from a wrong one")
}

/// Components of the longest key.
fn xor_base_and_data(session: &HsmSession) -> Result<(), HsmError> {
    combine::tried(session, KeyLen::K256)
}

/// SP 800-38A F.2.2, first block.
fn cbc(session: &HsmSession) -> Result<(), HsmError> {
    let key = test_key(session, CKK_AES, &hex::<16>("2B7E151628AED2A6ABF7158809CF4F3C"), &[CKA_DECRYPT])?;
    let iv = hex::<16>("000102030405060708090A0B0C0D0E0F");
    let ciphertext = hex::<16>("7649ABAC8119B246CEE98E9B12E9197D");
    let mut clear = [0; 16];
    let written = session.decrypt(Mechanism::AesCbc(&iv), *key, &ciphertext, &mut clear)?;
    expect(written == 16 && clear == hex("6BC1BEE22E409F96E93D7E117393172A"), "it does not decrypt a known message")
}

/// X9.24-1:2009 A.6: the initial key of the standard's example device.
fn des3_ecb(session: &HsmSession) -> Result<(), HsmError> {
    let left = hex::<24>("0123456789ABCDEFFEDCBA98765432100123456789ABCDEF");
    let right = hex::<24>("C1E385A789ABCDEF3E1C7A5876543210C1E385A789ABCDEF");
    let left = test_key(session, CKK_DES3, &left, &[CKA_ENCRYPT])?;
    let right = test_key(session, CKK_DES3, &right, &[CKA_ENCRYPT])?;
    let ksn = TdesKsn::new(hex("FFFF9876543210E00008"));
    let ik = tdes_ik::initial_key(session, *left, *right, &ksn)?;
    let known = hex::<16>("6AC292FAA1315B4D858AB3A3D7D5933A");
    expect(ik.expose() == known, "it does not make a known initial key")
}

/// RFC 4868 2.7.1, test case PRF-1 for SHA-256: a key of 32 bytes, like the fingerprint key.
fn hmac(session: &HsmSession) -> Result<(), HsmError> {
    let key = test_key(session, CKK_GENERIC_SECRET, &[0x0B; 32], &[CKA_SIGN])?;
    let mut mac = [0; 32];
    session.sign(Mechanism::Sha256Hmac, *key, b"Hi There", &mut mac)?;
    let known = hex::<32>("198A607EB44BFBC69903A0F1CF2BBDC5BA0AA3F3D9AE3C1C7A3B1696A0B68CF7");
    expect(mac == known, "it does not make a known MAC")
}

/// The GCM specification's test case 14 (AES-256), and the same with other authenticated data.
fn gcm(session: &HsmSession) -> Result<(), HsmError> {
    let key = test_key(session, CKK_AES, &[0; 32], &[CKA_ENCRYPT, CKA_DECRYPT])?;
    let known = hex::<32>("CEA7403D4D606B6E074EC5D3BAF39D18D0D1C8A799996BF0265B98B5D48AB919");
    let mechanism = Mechanism::AesGcm { nonce: &[0; 12], aad: &[] };
    let mut sealed = [0; 32];
    session.encrypt(mechanism, *key, &[0; 16], &mut sealed)?;
    expect(sealed == known, "it does not seal a known message as known")?;
    let mut clear = [0xFF; 32];
    let written = session.decrypt(mechanism, *key, &sealed, &mut clear)?;
    expect(written == 16 && clear[..16] == [0; 16], "it does not open what it sealed")?;
    let elsewhere = Mechanism::AesGcm { nonce: &[0; 12], aad: b"another place" };
    let refused = session.decrypt(elsewhere, *key, &sealed, &mut clear);
    expect(refused.is_err(), "it opens a message that was moved to another place")
}

/// RFC 3394 4.6: 256 bits of key data under a 256-bit key.
fn key_wrap(session: &HsmSession) -> Result<(), HsmError> {
    let wrapping = hex::<32>("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F");
    let wrapping = test_key(session, CKK_AES, &wrapping, &[CKA_WRAP, CKA_UNWRAP])?;
    let value = hex::<32>("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F");
    let key = session.own(create(session, CKK_AES, &value, Exposure::Wrapped, &[CKA_ENCRYPT])?);
    let mut wrapped = [0; 40];
    session.wrap(Mechanism::AesKeyWrap, *wrapping, *key, &mut wrapped)?;
    let known = hex::<40>("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21");
    expect(wrapped == known, "it does not wrap a known key as known")?;
    let template = secret_key(CKK_AES, Life::Session, Exposure::Never, &[CKA_ENCRYPT]);
    let unwrapped = session.unwrap(Mechanism::AesKeyWrap, *wrapping, &wrapped, &template)?;
    drop(session.own(unwrapped));
    wrapped[20] ^= 1;
    let refused = session.unwrap(Mechanism::AesKeyWrap, *wrapping, &wrapped, &template);
    expect(refused.is_err(), "it unwraps a key that was changed")
}

fn aes_key_gen(session: &HsmSession) -> Result<(), HsmError> {
    let template = aes_session_key(KeyLen::K256, Exposure::Never, &[CKA_DERIVE]);
    session.generate_key(Mechanism::AesKeyGen, &template).map(|handle| drop(session.own(handle)))
}

fn generic_secret_key_gen(session: &HsmSession) -> Result<(), HsmError> {
    let template = provision::generic_session_secret();
    session.generate_key(Mechanism::GenericSecretKeyGen, &template).map(|handle| drop(session.own(handle)))
}

/// A signature of a new key pair, verified on the host.
fn ecdsa(session: &HsmSession) -> Result<(), HsmError> {
    let (public, private) = provision::signing_session_pair(session)?;
    let (public, private) = (session.own(public), session.own(private));
    let Signature(signature) = sign::sign(session, *private, b"warifu")?;
    let mut value = [0; 67];
    let len = session.bytes(*public, CKA_EC_POINT, &mut value)?;
    let point = sign::point(&value[..len]);
    let verified = point.is_some_and(|point| verify_signature(&point, b"warifu", &Signature(signature)));
    expect(verified, "its signature does not verify")
}

fn random(session: &HsmSession) -> Result<(), HsmError> {
    let (mut one, mut two) = ([0; 32], [0; 32]);
    session.generate_random(&mut one)?;
    session.generate_random(&mut two)?;
    expect(one != two, "it gives the same random bytes twice")
}

fn test_key(
    session: &HsmSession,
    key_type: CK_KEY_TYPE,
    value: &[u8],
    uses: &[u64],
) -> Result<SessionObject, HsmError> {
    create(session, key_type, value, Exposure::Never, uses).map(|handle| session.own(handle))
}

fn create(
    session: &HsmSession,
    key_type: CK_KEY_TYPE,
    value: &[u8],
    exposure: Exposure,
    uses: &[u64],
) -> Result<Handle, HsmError> {
    let mut template = secret_key(key_type, Life::Session, exposure, uses).to_vec();
    template.push(Attribute::bytes(CKA_VALUE, value));
    session.create(&template)
}

fn expect(holds: bool, otherwise: &'static str) -> Result<(), HsmError> {
    if holds { Ok(()) } else { Err(HsmError::SelfTest(otherwise)) }
}

/// A published value, written as in its source.
fn hex<const N: usize>(digits: &str) -> [u8; N] {
    let nibble = |at: usize| match digits.as_bytes()[at] {
        digit @ b'0'..=b'9' => digit - b'0',
        letter => letter - b'A' + 10,
    };
    std::array::from_fn(|at| nibble(2 * at) << 4 | nibble(2 * at + 1))
}
