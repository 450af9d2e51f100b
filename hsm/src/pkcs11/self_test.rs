//! Questions with known answers, asked before a slot is trusted: a frame opened as each mode opens it, at each key
//! length, under public test keys that exist in the slot for this moment only.

use cryptoki_sys::{CKA_DECRYPT, CKA_DERIVE, CKA_VALUE, CKK_AES};
use warifu_core::custody::KeyProof;
use warifu_core::dukpt::aes;
use warifu_core::dukpt::cache::TreeCache;
use warifu_core::key::{KeyBytes, KeyLen, KeyType, KeyUsage};
use warifu_core::ksn::{AesKsn, Scheme};
use warifu_core::{cipher, mac};

use super::mac::MacCheck;
use super::mechanism::Mechanism;
use super::objects::BdkObjects;
use super::raw::{Handle, Verdict};
use super::session::{HsmSession, SessionObject};
use super::template::{Attribute, Exposure, Life, secret_key};
use super::{derive, proof, trial};
use crate::{BdkSpec, DecryptionMode, HsmError};

/// The test key of X9.24-3:2017 annex B, its initial key id, and the first message of a published test that uses it.
const BDK: [u8; 16] = [0xFE, 0xDC, 0xBA, 0x98, 0x76, 0x54, 0x32, 0x10, 0xF1, 0xF1, 0xF1, 0xF1, 0xF1, 0xF1, 0xF1, 0xF1];
const KSN: AesKsn = AesKsn::new([0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56, 0, 0, 0, 1]);
const MESSAGE: &[u8; 17] = b"4012345678909D987";
/// Its CMAC under the MAC-generation key.
const MAC: [u8; 16] = [0xA2, 0xEB, 0x5C, 0x1C, 0x35, 0x80, 0x9E, 0x58, 0x40, 0x4E, 0x87, 0x3C, 0x3C, 0x41, 0x1E, 0x31];
/// The message, filled with zeros, under the data-encryption key.
const CIPHERTEXT: [u8; 32] = [
    0xE5, 0xAF, 0xA5, 0xB4, 0x08, 0xA3, 0x31, 0x0E, 0x3D, 0x77, 0x9C, 0x8A, 0x9A, 0x2A, 0xE2, 0x94, 0x48, 0xBD, 0x5B,
    0x42, 0x32, 0x58, 0x20, 0x90, 0xDB, 0x70, 0x3A, 0xF6, 0x47, 0x20, 0x5A, 0x79,
];

/// A counter with several one-bits, so that the way to its key has several steps.
const DEEP_COUNTER: u32 = 0b1011;

/// One question: what the device would have sent.
struct Question {
    bdk: KeyBytes,
    ksn: AesKsn,
    mac: [u8; 16],
    ciphertext: [u8; 32],
}

/// What a slot is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A message of AES DUKPT that was published.
    Published,
    /// A mode of AES DUKPT at one key length.
    Aes(DecryptionMode, KeyLen),
    /// The initial keys of TDES DUKPT.
    Tdes,
}

impl Asked {
    /// All that `hardware` mode lives on.
    pub(super) fn hardware() -> Vec<Self> {
        let lengths = [KeyLen::K128, KeyLen::K192, KeyLen::K256];
        let each = lengths.map(|len| Self::Aes(DecryptionMode::Hardware, len));
        [Self::Published].into_iter().chain(each).collect()
    }

    /// What these keys need.
    pub(super) fn of(bdks: &[BdkSpec]) -> Vec<Self> {
        let mut asked = Vec::new();
        for bdk in bdks {
            let question = match bdk.scheme {
                Scheme::Aes => Self::Aes(bdk.mode, bdk.len),
                Scheme::Tdes => Self::Tdes,
            };
            if !asked.contains(&question) {
                asked.push(question);
            }
        }
        asked
    }
}

/// Asks these questions.
pub(super) fn run(session: &HsmSession, questions: &[Asked]) -> Result<(), HsmError> {
    questions.iter().try_for_each(|asked| match asked {
        Asked::Published => {
            let outcome = published().ask(session, DecryptionMode::Hardware);
            let swept = session.sweep();
            outcome.and(swept)
        }
        Asked::Aes(mode, len) => run_mode(session, *mode, *len),
        Asked::Tdes => trial::tdes(session),
    })
}

/// Asks for one mode at one key length.
pub(super) fn run_mode(session: &HsmSession, mode: DecryptionMode, len: KeyLen) -> Result<(), HsmError> {
    let outcome = computed(len).and_then(|question| question.ask(session, mode));
    let swept = session.sweep();
    outcome.and(swept)
}

/// Asks for the derivation of keys that stay in the slot, and no more of what they are for than shows that they are right.
pub(super) fn run_derivation(session: &HsmSession, len: KeyLen) -> Result<(), HsmError> {
    let outcome = computed(len).and_then(|question| question.ask_derivation(session));
    let swept = session.sweep();
    outcome.and(swept)
}

/// An AES key of known bytes as a session object that can derive and nothing else, like a base derivation key.
pub(super) fn test_bdk(session: &HsmSession, bdk: &KeyBytes) -> Result<SessionObject, HsmError> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m] = secret_key(CKK_AES, Life::Session, Exposure::Never, &[CKA_DERIVE]);
    let value = Attribute::bytes(CKA_VALUE, bdk.expose());
    session.create(&[a, b, c, d, e, f, g, h, i, j, k, l, m, value]).map(|handle| session.own(handle))
}

/// The public test key, repeated to a length.
pub(super) fn test_key(len: KeyLen) -> KeyBytes {
    KeyBytes::filled(len, |bytes| bytes.iter_mut().zip(BDK.iter().cycle()).for_each(|(byte, test)| *byte = *test))
}

fn published() -> Question {
    Question { bdk: test_key(KeyLen::K128), ksn: KSN, mac: MAC, ciphertext: CIPHERTEXT }
}

/// The answer of the other implementation at hand, the domain's, which the published vectors hold to account.
fn computed(len: KeyLen) -> Result<Question, HsmError> {
    let bdk = test_key(len);
    let ksn = KSN.with_counter(DEEP_COUNTER);
    let ik = aes::initial_key(&bdk, ksn.ik_id());
    let mac = mac::aes_cmac(&working_key(&ik, &ksn, KeyUsage::MacGeneration)?, MESSAGE);
    let mut ciphertext = padded();
    cipher::aes_cbc_encrypt(&working_key(&ik, &ksn, KeyUsage::DataEncryption)?, &[0; 16], &mut ciphertext)
        .map_err(|_| HsmError::SelfTest("the test message is not whole blocks"))?;
    Ok(Question { bdk, ksn, mac, ciphertext })
}

fn working_key(ik: &KeyBytes, ksn: &AesKsn, usage: KeyUsage) -> Result<KeyBytes, HsmError> {
    aes::working_key(&aes::derivation_key(ik, ksn), ksn, usage, KeyType::aes(ik.key_len()))
        .map_err(|_| HsmError::SelfTest("no working key of the length of its base derivation key"))
}

fn padded() -> [u8; 32] {
    let mut message = [0; 32];
    message[..MESSAGE.len()].copy_from_slice(MESSAGE);
    message
}

impl Question {
    fn ask(&self, session: &HsmSession, mode: DecryptionMode) -> Result<(), HsmError> {
        let len = self.bdk.key_len();
        let bdk = test_bdk(session, &self.bdk)?;
        // No session opens over a key that cannot be told from others.
        if proof::of(session, &BdkObjects::Aes(*bdk))? != KeyProof::of(Scheme::Aes, &self.bdk) {
            return Err(HsmError::SelfTest("it does not make the known proof of a key"));
        }
        if mode == DecryptionMode::HostDerived {
            let ik = derive::exported_initial_key(session, *bdk, len, &self.ksn)?;
            return self.ask_on_host(&working_key(&ik, &self.ksn, KeyUsage::DataEncryption)?);
        }
        let mut nodes = TreeCache::new(1);
        let kept = derive::derivation_key(session, &mut nodes, *bdk, len, &self.ksn)?;
        let node = **kept;
        never_shown(session, node, len)?;
        self.ask_for_mac(session, node)?;
        match mode {
            DecryptionMode::Hybrid => {
                let usage = KeyUsage::DataEncryption;
                self.ask_on_host(&derive::exported_working_key(session, node, &self.ksn, usage, len)?)
            }
            DecryptionMode::Hardware | DecryptionMode::HostDerived => self.ask_in_slot(session, node),
        }
    }

    /// A slot that can do nothing else with the key need only do one of the two.
    fn ask_derivation(&self, session: &HsmSession) -> Result<(), HsmError> {
        let len = self.bdk.key_len();
        let bdk = test_bdk(session, &self.bdk)?;
        let mut nodes = TreeCache::new(1);
        let kept = derive::derivation_key(session, &mut nodes, *bdk, len, &self.ksn)?;
        let node = **kept;
        never_shown(session, node, len)?;
        self.ask_for_mac(session, node).or_else(|cannot| self.ask_in_slot(session, node).map_err(|_| cannot))
    }

    fn ask_for_mac(&self, session: &HsmSession, node: Handle) -> Result<(), HsmError> {
        let (len, way) = (self.bdk.key_len(), MacCheck::of(session)?);
        let key = derive::working_key(session, node, &self.ksn, KeyUsage::MacGeneration, len, way.purpose())?;
        if way.check(session, *key, MESSAGE, &self.mac)? == Verdict::Wrong {
            return Err(HsmError::SelfTest("it does not derive the known MAC key, or does not know its CMAC"));
        }
        let mut changed = self.mac;
        changed[15] ^= 1;
        if way.check(session, *key, MESSAGE, &changed)? == Verdict::Right {
            return Err(HsmError::SelfTest("it takes a wrong MAC for right"));
        }
        Ok(())
    }

    fn ask_in_slot(&self, session: &HsmSession, node: Handle) -> Result<(), HsmError> {
        let (usage, len) = (KeyUsage::DataEncryption, self.bdk.key_len());
        let key = derive::working_key(session, node, &self.ksn, usage, len, CKA_DECRYPT)?;
        let mut clear = [0; 32];
        let written = session.decrypt(Mechanism::AesCbc(&[0; 16]), *key, &self.ciphertext, &mut clear)?;
        if written == clear.len() && clear == padded() {
            Ok(())
        } else {
            Err(HsmError::SelfTest("it does not decrypt a known message"))
        }
    }

    /// With a key the slot gave out.
    fn ask_on_host(&self, data_key: &KeyBytes) -> Result<(), HsmError> {
        let mut clear = self.ciphertext;
        let decrypted = cipher::aes_cbc_decrypt(data_key, &[0; 16], &mut clear);
        if decrypted.is_ok() && clear == padded() {
            Ok(())
        } else {
            Err(HsmError::SelfTest("the key it gives out does not decrypt a known message"))
        }
    }
}

/// The template said that it must not be shown; the slot must also hold to that.
fn never_shown(session: &HsmSession, key: Handle, len: KeyLen) -> Result<(), HsmError> {
    let mut shown = Ok(0);
    drop(KeyBytes::filled(len, |bytes| shown = session.bytes(key, CKA_VALUE, bytes)));
    match shown {
        Ok(_) => Err(HsmError::SelfTest("it shows a derived key that was made never to be shown")),
        Err(_) => Ok(()),
    }
}
