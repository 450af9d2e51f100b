//! Keys put into a slot: by hand in development and tests, by a ceremony command elsewhere.
//!
//! Nothing here replaces: a label that is taken is refused (a key that exists may have opened frames). What is destroyed,
//! its caller answers for.

use std::path::Path;

use cryptoki::session::UserType;
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CKA_DECRYPT, CKA_DERIVE, CKA_EC_PARAMS, CKA_ENCRYPT, CKA_EXTRACTABLE, CKA_KEY_TYPE, CKA_PRIVATE,
    CKA_SENSITIVE, CKA_SIGN, CKA_SIGN_RECOVER, CKA_TOKEN, CKA_UNWRAP, CKA_VALUE, CKA_VALUE_LEN, CKA_VERIFY,
    CKA_VERIFY_RECOVER, CKA_WRAP, CKK_AES, CKK_DES3, CKK_EC, CKK_GENERIC_SECRET, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY,
    CKO_SECRET_KEY,
};
use warifu_core::custody::masked_tdes_bdk;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Scheme;
use warifu_core::merchant::BdkId;

use super::ckr;
use super::mechanism::Mechanism;
use super::module::ModuleUse;
use super::objects::{
    AUDIT_LABEL, bdk_label, fingerprint_label, kbpk_label, lookup, masked_bdk_label, vault_root_label,
};
use super::pin::Pin;
use super::raw::Handle;
use super::session::HsmSession;
use super::slot::{self, Slot};
use super::template::{Attribute, Exposure, Life, secret_key, ulong};
use crate::{BdkSpec, CallTally, HsmError, VaultGeneration};

/// `prime256v1`, DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

/// Initializes the first empty slot of a module as a token with this label and PINs, and tells the calls that took. Where
/// the module names its tokens itself (NSS does, in its arguments), the label must be such a name; NSS knows no security
/// officer, whose PIN is then empty.
///
/// # Errors
/// [`HsmError::KeyExists`] if a token has the label, [`HsmError::SlotMissing`] if no slot is empty.
pub fn init_token(
    module: &Path,
    arguments: Option<&str>,
    label: &str,
    so_pin: &Pin,
    pin: &Pin,
) -> Result<CallTally, HsmError> {
    let mut calls = CallTally::default();
    let module = ModuleUse::acquire(module, arguments, &mut calls)?;
    let pkcs11 = &module.pkcs11;
    if slot::find(&module, label, &mut calls).is_ok() {
        return Err(HsmError::KeyExists { label: label.to_owned() });
    }
    let mut empty = Vec::new();
    for slot in slot::with_token(&module, &mut calls)? {
        calls.count("C_GetTokenInfo");
        if let Ok(token) = pkcs11.get_token_info(slot)
            && !token.token_initialized()
        {
            empty.push((slot, token));
        }
    }
    let chosen = empty.iter().find(|(_, token)| token.label() == label).or(empty.first());
    let Some(&(empty, _)) = chosen else {
        return Err(HsmError::SlotMissing { label: "(not initialized)".to_owned() });
    };
    let so_pin = so_pin.text()?;
    calls.count("C_InitToken");
    pkcs11.init_token(empty, &so_pin, label).map_err(|cause| ckr::of_cryptoki("C_InitToken", cause))?;
    // Some modules, SoftHSM among them, move a token to another slot number once it has a serial. Others call it
    // initialized only when it has a PIN, and leave it where it is.
    let slot = match slot::find(&module, label, &mut calls) {
        Err(HsmError::SlotMissing { .. }) => empty,
        found => found?,
    };
    calls.count("C_OpenSession");
    let session = pkcs11.open_rw_session(slot).map_err(|cause| ckr::of_cryptoki("C_OpenSession", cause))?;
    calls.count("C_Login");
    session.login(UserType::So, Some(&so_pin)).map_err(|cause| ckr::of_cryptoki("C_Login", cause))?;
    calls.count("C_InitPIN");
    session.init_pin(&pin.text()?).map_err(|cause| ckr::of_cryptoki("C_InitPIN", cause))?;
    calls.count("C_CloseSession");
    session.close().map_err(|cause| ckr::of_cryptoki("C_CloseSession", cause))?;
    module.release(&mut calls)?;
    Ok(calls)
}

/// Imports a base derivation key that was put together on this host: one object for AES, two for TDES.
///
/// # Errors
/// [`HsmError::KeyExists`] if its label is taken; [`HsmError::KeyUnfit`] if `key` has not the registered length.
pub fn import_bdk(slot: &Slot, spec: &BdkSpec, key: &KeyBytes) -> Result<(), HsmError> {
    let label = bdk_label(&spec.id);
    let fits = match spec.scheme {
        Scheme::Aes => key.key_len() == spec.len,
        Scheme::Tdes => key.key_len() == KeyLen::K128 && spec.len == KeyLen::K128,
    };
    if !fits {
        return Err(HsmError::KeyUnfit { label, reason: "its length is not the registered one" });
    }
    let session = slot.writing_session()?;
    let _lookups = session.slot().module().lookups();
    match spec.scheme {
        Scheme::Aes => {
            refuse_taken(&session, &label)?;
            create_secret(&session, &label, CKK_AES, key.expose(), CKA_DERIVE)
        }
        Scheme::Tdes => {
            let masked_label = masked_bdk_label(&spec.id);
            refuse_taken(&session, &label)?;
            refuse_taken(&session, &masked_label)?;
            let masked = masked_tdes_bdk(key);
            create_secret(&session, &label, CKK_DES3, three_keys(key).expose(), CKA_ENCRYPT)?;
            create_secret(&session, &masked_label, CKK_DES3, three_keys(&masked).expose(), CKA_ENCRYPT)
        }
    }
}

/// Imports a key block protection key that was put together on this host.
///
/// # Errors
/// [`HsmError::KeyExists`] if its label is taken.
pub fn import_kbpk(slot: &Slot, id: &BdkId, key: &KeyBytes) -> Result<(), HsmError> {
    let session = slot.writing_session()?;
    let _lookups = session.slot().module().lookups();
    let label = kbpk_label(id);
    refuse_taken(&session, &label)?;
    create_secret(&session, &label, CKK_AES, key.expose(), CKA_SIGN)
}

/// Destroys a base derivation key, both its objects if there are two. That it may be is the caller's to know; what is
/// not there counts as destroyed.
///
/// # Errors
/// When the slot refuses; then some of it may be left.
pub fn destroy_bdk(slot: &Slot, id: &BdkId) -> Result<(), HsmError> {
    destroy(slot, &[bdk_label(id), masked_bdk_label(id)])
}

/// Destroys a key block protection key, as [`destroy_bdk`].
///
/// # Errors
/// When the slot refuses.
pub fn destroy_kbpk(slot: &Slot, id: &BdkId) -> Result<(), HsmError> {
    destroy(slot, &[kbpk_label(id)])
}

fn destroy(slot: &Slot, labels: &[String]) -> Result<(), HsmError> {
    let session = slot.writing_session()?;
    let _lookups = session.slot().module().lookups();
    for label in labels {
        while let (Some(object), _) = lookup(&session, label, CKO_SECRET_KEY)? {
            session.destroy(object)?;
        }
    }
    Ok(())
}

/// Makes those of the keys every server needs, in the slot, that are not there: vault root, fingerprint and audit. Again
/// after it was cut off, it makes the rest.
///
/// # Errors
/// [`HsmError::KeyExists`] if all of their labels are taken.
pub fn create_service_keys(slot: &Slot) -> Result<(), HsmError> {
    let session = slot.writing_session()?;
    let _lookups = session.slot().module().lookups();
    let vault_made = create_missing_vault_keys(&session, VaultGeneration::FIRST)?;
    let audit_made = is_free(&session, AUDIT_LABEL)?;
    if audit_made {
        generate_audit_pair(&session)?;
    }
    match vault_made || audit_made {
        true => Ok(()),
        false => Err(HsmError::KeyExists { label: vault_root_label(VaultGeneration::FIRST) }),
    }
}

/// Objects of vault keys, as they were found or made. Others that come under their labels are not meant: somebody who slept
/// destroys nothing that was made meanwhile.
pub struct VaultKeys {
    objects: Vec<Handle>,
    session: HsmSession,
}

impl VaultKeys {
    /// Makes those of a generation in the slot.
    ///
    /// # Errors
    /// [`HsmError::KeyExists`] if either of their labels is taken: nothing is made then.
    pub fn create(slot: &Slot, generation: VaultGeneration) -> Result<Self, HsmError> {
        let session = slot.writing_session()?;
        let lookups = session.slot().module().lookups();
        refuse_taken(&session, &vault_root_label(generation))?;
        refuse_taken(&session, &fingerprint_label(generation))?;
        let objects = vec![generate_root(&session, generation)?, generate_fingerprint(&session, generation)?];
        drop(lookups);
        Ok(Self { objects, session })
    }

    /// Those of a generation that the slot has now: what a try left that was cut off. Two under a label at the most.
    ///
    /// # Errors
    /// When the slot does not say.
    pub fn left(slot: &Slot, generation: VaultGeneration) -> Result<Self, HsmError> {
        let session = slot.writing_session()?;
        let lookups = session.slot().module().lookups();
        let mut objects = Vec::new();
        for label in [vault_root_label(generation), fingerprint_label(generation)] {
            let (first, second) = lookup(&session, &label, CKO_SECRET_KEY)?;
            objects.extend(first.into_iter().chain(second));
        }
        drop(lookups);
        Ok(Self { objects, session })
    }

    /// Destroys them, and nothing else.
    ///
    /// # Errors
    /// When the slot refuses; then some of them may be left.
    pub fn destroy(self) -> Result<(), HsmError> {
        self.objects.iter().try_for_each(|object| self.session.destroy(*object))
    }
}

/// Destroys the vault keys of a generation. That nothing is sealed under them any more is the caller's to know; what is
/// not there counts as destroyed.
///
/// # Errors
/// When the slot refuses; then some of it may be left.
pub fn destroy_vault_keys(slot: &Slot, generation: VaultGeneration) -> Result<(), HsmError> {
    destroy(slot, &[vault_root_label(generation), fingerprint_label(generation)])
}

/// Whether there was anything to make.
fn create_missing_vault_keys(session: &HsmSession, generation: VaultGeneration) -> Result<bool, HsmError> {
    let root_free = is_free(session, &vault_root_label(generation))?;
    let fingerprint_free = is_free(session, &fingerprint_label(generation))?;
    if root_free {
        generate_root(session, generation)?;
    }
    if fingerprint_free {
        generate_fingerprint(session, generation)?;
    }
    Ok(root_free || fingerprint_free)
}

fn generate_root(session: &HsmSession, generation: VaultGeneration) -> Result<Handle, HsmError> {
    let label = vault_root_label(generation);
    generate_secret(session, &label, CKK_AES, Mechanism::AesKeyGen, &[CKA_WRAP, CKA_UNWRAP])
}

fn generate_fingerprint(session: &HsmSession, generation: VaultGeneration) -> Result<Handle, HsmError> {
    let label = fingerprint_label(generation);
    generate_secret(session, &label, CKK_GENERIC_SECRET, Mechanism::GenericSecretKeyGen, &[CKA_SIGN])
}

fn is_free(session: &HsmSession, label: &str) -> Result<bool, HsmError> {
    match refuse_taken(session, label) {
        Ok(()) => Ok(true),
        Err(HsmError::KeyExists { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

fn refuse_taken(session: &HsmSession, label: &str) -> Result<(), HsmError> {
    for class in [CKO_SECRET_KEY, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY] {
        if lookup(session, label, class)?.0.is_some() {
            return Err(HsmError::KeyExists { label: label.to_owned() });
        }
    }
    Ok(())
}

/// Two-key triple DES as the three keys of `CKK_DES3`: the first again for the third.
fn three_keys(key: &KeyBytes) -> KeyBytes {
    KeyBytes::filled(KeyLen::K192, |bytes| {
        let (two, third) = bytes.split_at_mut(16);
        two.copy_from_slice(key.expose());
        third.copy_from_slice(&key.expose()[..8]);
    })
}

fn create_secret(
    session: &HsmSession,
    label: &str,
    key_type: u64,
    value: &[u8],
    usage: CK_ATTRIBUTE_TYPE,
) -> Result<(), HsmError> {
    let mut template = secret_key(key_type, Life::Token, Exposure::Never, &[usage]).to_vec();
    template.extend([Attribute::label(label), Attribute::bytes(CKA_VALUE, value)]);
    session.create(&template).map(drop)
}

fn generate_secret(
    session: &HsmSession,
    label: &str,
    key_type: u64,
    mechanism: Mechanism<'_>,
    uses: &[CK_ATTRIBUTE_TYPE],
) -> Result<Handle, HsmError> {
    let mut template = secret_key(key_type, Life::Token, Exposure::Never, uses).to_vec();
    let len = Attribute::number(CKA_VALUE_LEN, ulong(KeyLen::K256.bytes()));
    template.extend([Attribute::label(label), len]);
    session.generate_key(mechanism, &template)
}

fn generate_audit_pair(session: &HsmSession) -> Result<(), HsmError> {
    generate_pair(session, AUDIT_LABEL, Life::Token).map(drop)
}

/// A signing pair for a trial, which dies with the session.
pub(super) fn signing_session_pair(session: &HsmSession) -> Result<(Handle, Handle), HsmError> {
    generate_pair(session, "warifu/trial", Life::Session)
}

/// The template of a secret for a trial, which dies with the session: 14 attributes.
pub(super) fn generic_session_secret() -> Vec<Attribute<'static>> {
    let mut template = secret_key(CKK_GENERIC_SECRET, Life::Session, Exposure::Never, &[CKA_SIGN]).to_vec();
    template.push(Attribute::number(CKA_VALUE_LEN, ulong(KeyLen::K256.bytes())));
    template
}

fn generate_pair(session: &HsmSession, label: &str, life: Life) -> Result<(Handle, Handle), HsmError> {
    let public = [
        Attribute::class(CKO_PUBLIC_KEY),
        Attribute::number(CKA_KEY_TYPE, CKK_EC),
        Attribute::label(label),
        Attribute::flag(CKA_TOKEN, life == Life::Token),
        Attribute::flag(CKA_PRIVATE, false),
        Attribute::flag(CKA_VERIFY, true),
        Attribute::flag(CKA_VERIFY_RECOVER, false),
        Attribute::flag(CKA_ENCRYPT, false),
        Attribute::flag(CKA_WRAP, false),
        Attribute::flag(CKA_DERIVE, false),
        Attribute::bytes(CKA_EC_PARAMS, &P256),
    ];
    let private = [
        Attribute::class(CKO_PRIVATE_KEY),
        Attribute::number(CKA_KEY_TYPE, CKK_EC),
        Attribute::label(label),
        Attribute::flag(CKA_TOKEN, life == Life::Token),
        Attribute::flag(CKA_PRIVATE, true),
        Attribute::flag(CKA_SENSITIVE, true),
        Attribute::flag(CKA_EXTRACTABLE, false),
        Attribute::flag(CKA_SIGN, true),
        Attribute::flag(CKA_SIGN_RECOVER, false),
        Attribute::flag(CKA_DECRYPT, false),
        Attribute::flag(CKA_UNWRAP, false),
        Attribute::flag(CKA_DERIVE, false),
    ];
    session.generate_key_pair(Mechanism::EcKeyPairGen, &public, &private)
}
