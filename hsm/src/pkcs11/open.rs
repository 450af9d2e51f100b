//! Frames opened, in each of the three modes.
//!
//! In all of them the MAC is found right before anything is decrypted, and decryption is CBC with a zero IV into
//! buffers that are wiped. Which mode a key's frames are opened in is a setting of the key, never of the frame.

use cryptoki_sys::{CKA_DECRYPT, CKR_DATA_LEN_RANGE, CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE};
use warifu_core::account_data::AccountData;
use warifu_core::custody::KeyProof;
use warifu_core::dukpt::cache::TreeCache;
use warifu_core::frame::{FrameKey, SealedFrame};
use warifu_core::key::{KeyBytes, KeyLen, KeyUsage};
use warifu_core::ksn::{AesKsn, Ksn, Scheme};
use warifu_core::opening::{self, OpeningError};
use warifu_core::secret::SecretBytes;

use super::mac::MacCheck;
use super::mechanism::Mechanism;
use super::objects::{self, BdkObjects};
use super::raw::{Handle, Verdict};
use super::session::{HsmSession, SessionObject};
use super::tdes_ik::initial_key;
use super::{derive, proof};
use crate::{BdkSpec, DecryptionMode, HsmError, Opened, fit};

/// A base derivation key of a session, ready to open frames.
pub(super) struct Bdk {
    pub(super) spec: BdkSpec,
    keys: Keys,
}

/// Where its keys are, and the tree nodes kept of its devices.
enum Keys {
    /// `hardware` and `hybrid`: nodes are objects of the slot.
    InSlot { bdk: Handle, nodes: TreeCache<SessionObject> },
    /// `host-derived`: nodes are key bytes, wiped when they leave the cache.
    OnHost { bdk: BdkObjects, nodes: TreeCache<KeyBytes> },
}

/// Keeps a frame's own facts together once they are known to fit an AES key.
struct AesFrame<'a> {
    frame: &'a SealedFrame,
    ksn: AesKsn,
    /// Length of its working keys.
    len: KeyLen,
}

impl Bdk {
    /// Finds a key in the slot and prepares it for its mode.
    pub(super) fn load(session: &HsmSession, spec: &BdkSpec, cache_nodes: usize) -> Result<Self, HsmError> {
        let refused = |reason| Err(HsmError::ModeRefused { bdk: spec.id.clone(), mode: spec.mode, reason });
        match (spec.mode, spec.scheme) {
            (DecryptionMode::HostDerived, _) if !session.slot().accepts_non_p2pe() => {
                return refused("initial keys may not leave the slot unless accept_non_p2pe is set");
            }
            (DecryptionMode::Hardware | DecryptionMode::Hybrid, Scheme::Tdes) => {
                return refused("PKCS#11 has no mechanism for the derivation steps of TDES DUKPT");
            }
            (_, Scheme::Tdes) if spec.len != KeyLen::K128 => return refused("a TDES key has 16 bytes"),
            _ => {}
        }
        let keys = match (spec.mode, objects::bdk(session, spec)?) {
            (DecryptionMode::Hardware | DecryptionMode::Hybrid, BdkObjects::Aes(bdk)) => {
                Keys::InSlot { bdk, nodes: TreeCache::new(cache_nodes) }
            }
            (_, bdk) => Keys::OnHost { bdk, nodes: TreeCache::new(cache_nodes) },
        };
        Ok(Self { spec: spec.clone(), keys })
    }

    /// Opens a frame. Objects it is done with are in the session's bin afterwards, whatever came of it.
    pub(super) fn open(&mut self, session: &HsmSession, frame: &SealedFrame) -> Result<Opened, HsmError> {
        let spec = &self.spec;
        fit::check(spec, frame)?;
        let account_data = match &mut self.keys {
            Keys::OnHost { bdk, nodes } => {
                let ksn = frame.ksn();
                let key = nodes.key(&ksn, || initial_key_on_host(session, bdk, spec.len, &ksn))?;
                opening::open(frame, &key).map_err(|error| match error {
                    OpeningError::Suite => HsmError::SuiteMismatch(spec.id.clone()),
                    OpeningError::WrongMac => HsmError::WrongMac,
                    OpeningError::Card(cause) => HsmError::Card(cause),
                })?
            }
            Keys::InSlot { bdk, nodes } => {
                let frame = AesFrame::of(frame).ok_or_else(|| HsmError::SuiteMismatch(spec.id.clone()))?;
                let node = derive::derivation_key(session, nodes, *bdk, spec.len, &frame.ksn)?;
                frame.check_mac(session, **node)?;
                let clear = match spec.mode {
                    DecryptionMode::Hybrid => frame.decrypt_on_host(session, **node)?,
                    DecryptionMode::Hardware | DecryptionMode::HostDerived => frame.decrypt_in_slot(session, **node)?,
                };
                AccountData::open(frame.frame, &clear).map_err(HsmError::Card)?
            }
        };
        Ok(Opened { account_data, mode: spec.mode })
    }

    /// What tells the key from every other one.
    pub(super) fn proof(&self, session: &HsmSession) -> Result<KeyProof, HsmError> {
        match &self.keys {
            Keys::InSlot { bdk, .. } => proof::of(session, &BdkObjects::Aes(*bdk)),
            Keys::OnHost { bdk, .. } => proof::of(session, bdk),
        }
    }

    /// How many tree nodes are kept.
    pub(super) fn cached_nodes(&self) -> usize {
        match &self.keys {
            Keys::InSlot { nodes, .. } => nodes.len(),
            Keys::OnHost { nodes, .. } => nodes.len(),
        }
    }
}

impl<'a> AesFrame<'a> {
    fn of(frame: &'a SealedFrame) -> Option<Self> {
        match (frame.key(), frame.ksn()) {
            (FrameKey::Aes(len), Ksn::Aes(ksn)) => Some(Self { frame, ksn, len }),
            _ => None,
        }
    }

    fn check_mac(&self, session: &HsmSession, node: Handle) -> Result<(), HsmError> {
        let Some((_, covered, tag)) = self.frame.mac() else { return Ok(()) };
        let (usage, way) = (KeyUsage::MacGeneration, MacCheck::of(session)?);
        let key = derive::working_key(session, node, &self.ksn, usage, self.len, way.purpose())?;
        match way.check(session, *key, covered, tag)? {
            Verdict::Right => Ok(()),
            Verdict::Wrong => Err(HsmError::WrongMac),
        }
    }

    fn decrypt_in_slot(&self, session: &HsmSession, node: Handle) -> Result<Vec<SecretBytes>, HsmError> {
        let usage = KeyUsage::DataEncryption;
        let key = derive::working_key(session, node, &self.ksn, usage, self.len, CKA_DECRYPT)?;
        let mut clear = Vec::with_capacity(self.frame.sections().len());
        for section in self.frame.sections() {
            let ciphertext = self.frame.ciphertext(section);
            let mut written = Ok(0);
            clear.push(SecretBytes::filled(ciphertext.len(), |buffer| {
                written = session.decrypt(Mechanism::AesCbc(&[0; 16]), *key, ciphertext, buffer);
            }));
            match written {
                // Without padding there is as much clear text as ciphertext.
                Ok(len) if len == ciphertext.len() => {}
                Ok(_) => return Err(HsmError::SelfTest("C_Decrypt gave too few bytes")),
                // NSS says of ciphertext what the standard says of clear text.
                Err(HsmError::Pkcs11 {
                    code: CKR_ENCRYPTED_DATA_INVALID | CKR_ENCRYPTED_DATA_LEN_RANGE | CKR_DATA_LEN_RANGE,
                    ..
                }) => return Err(HsmError::WrongMac),
                Err(other) => return Err(other),
            }
        }
        Ok(clear)
    }

    fn decrypt_on_host(&self, session: &HsmSession, node: Handle) -> Result<Vec<SecretBytes>, HsmError> {
        let key = derive::exported_working_key(session, node, &self.ksn, KeyUsage::DataEncryption, self.len)?;
        let decrypted = |section| {
            let mut clear = SecretBytes::copied(self.frame.ciphertext(section));
            opening::decrypt(self.frame.key(), &key, clear.expose_mut());
            clear
        };
        Ok(self.frame.sections().iter().map(decrypted).collect())
    }
}

fn initial_key_on_host(session: &HsmSession, bdk: &BdkObjects, len: KeyLen, ksn: &Ksn) -> Result<KeyBytes, HsmError> {
    match (bdk, ksn) {
        (BdkObjects::Aes(bdk), Ksn::Aes(ksn)) => derive::exported_initial_key(session, *bdk, len, ksn),
        (BdkObjects::Tdes { left, right }, Ksn::Tdes(ksn)) => initial_key(session, *left, *right, ksn),
        // The frame was checked against the key's scheme before any key is asked for.
        (BdkObjects::Aes(_), Ksn::Tdes(_)) | (BdkObjects::Tdes { .. }, Ksn::Aes(_)) => {
            Err(HsmError::SelfTest("a key of one scheme was asked for the other"))
        }
    }
}
