//! The keys a slot holds: their labels, how they are found, what they must be, and their session copies.

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_KEY_TYPE, CK_OBJECT_CLASS, CKA_DECRYPT, CKA_DERIVE, CKA_ENCRYPT, CKA_EXTRACTABLE,
    CKA_KEY_TYPE, CKA_SENSITIVE, CKA_SIGN, CKA_TOKEN, CKA_UNWRAP, CKA_VALUE_LEN, CKA_VERIFY, CKA_WRAP, CKK_AES,
    CKK_DES3, CKK_EC, CKK_GENERIC_SECRET, CKO_PRIVATE_KEY, CKO_SECRET_KEY, CKR_ACTION_PROHIBITED,
    CKR_ATTRIBUTE_READ_ONLY, CKR_FUNCTION_NOT_SUPPORTED, CKR_TEMPLATE_INCONSISTENT,
};
use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
use warifu_core::merchant::BdkId;

use super::raw::Handle;
use super::session::HsmSession;
use super::template::{Attribute, USES, ulong};
use crate::{BdkSpec, HsmError, VaultGeneration};

/// The key pair that signs the audit log.
pub const AUDIT_LABEL: &str = "warifu/audit";

/// The label of the key that wraps the merchants' vault keys of a generation: `warifu/vault-root`, `warifu/vault-root/2` ...
pub fn vault_root_label(generation: VaultGeneration) -> String {
    of_generation("warifu/vault-root", generation)
}

/// The label of the key of card fingerprints of a generation.
pub fn fingerprint_label(generation: VaultGeneration) -> String {
    of_generation("warifu/fingerprint", generation)
}

fn of_generation(label: &str, generation: VaultGeneration) -> String {
    match generation {
        VaultGeneration::FIRST => label.to_owned(),
        later => format!("{label}/{later}"),
    }
}

/// The label of a base derivation key's object.
pub fn bdk_label(id: &BdkId) -> String {
    format!("warifu/bdk/{id}")
}

/// The label of a TDES base derivation key's second object: the key xor `C0C0C0C000000000C0C0C0C000000000`, which gives
/// the right half of an initial key (X9.24-1:2009 A.6).
pub fn masked_bdk_label(id: &BdkId) -> String {
    format!("{}/c0", bdk_label(id))
}

/// The label of a key block protection key's object.
pub fn kbpk_label(id: &BdkId) -> String {
    format!("warifu/kbpk/{id}")
}

/// What a key must be to be used at all.
struct Fitness {
    key_type: CK_KEY_TYPE,
    /// Its length in bytes, where the type does not say.
    len: Option<usize>,
    /// All it may be used for.
    uses: &'static [CK_ATTRIBUTE_TYPE],
}

/// The session copies of a base derivation key.
pub(super) enum BdkObjects {
    /// Derives initial keys.
    Aes(Handle),
    /// Encrypt the two halves of an initial key.
    Tdes {
        /// The key itself.
        left: Handle,
        /// The masked key.
        right: Handle,
    },
}

/// The session copies of the vault keys of a generation.
#[derive(Clone, Copy)]
pub(super) struct VaultObjects {
    pub(super) root: Handle,
    pub(super) fingerprint: Handle,
}

/// Finds, checks and copies a base derivation key.
pub(super) fn bdk(session: &HsmSession, spec: &BdkSpec) -> Result<BdkObjects, HsmError> {
    let label = bdk_label(&spec.id);
    match spec.scheme {
        Scheme::Aes => {
            let fitness = Fitness { key_type: CKK_AES, len: Some(spec.len.bytes()), uses: &[CKA_DERIVE] };
            secret_key(session, &label, &fitness).map(BdkObjects::Aes)
        }
        Scheme::Tdes => {
            let fitness = Fitness { key_type: CKK_DES3, len: None, uses: &[CKA_ENCRYPT] };
            Ok(BdkObjects::Tdes {
                left: secret_key(session, &label, &fitness)?,
                right: secret_key(session, &masked_bdk_label(&spec.id), &fitness)?,
            })
        }
    }
}

/// Finds, checks and copies a key block protection key: its CMACs are the keys of the blocks (X9.143:2021 7.2.2).
pub(super) fn kbpk(session: &HsmSession, id: &BdkId, len: KeyLen) -> Result<Handle, HsmError> {
    let fitness = Fitness { key_type: CKK_AES, len: Some(len.bytes()), uses: &[CKA_SIGN] };
    secret_key(session, &kbpk_label(id), &fitness)
}

/// Finds, checks and copies the vault keys of a generation.
pub(super) fn vault(session: &HsmSession, generation: VaultGeneration) -> Result<VaultObjects, HsmError> {
    let root = Fitness { key_type: CKK_AES, len: Some(32), uses: &[CKA_WRAP, CKA_UNWRAP] };
    let fingerprint = Fitness { key_type: CKK_GENERIC_SECRET, len: Some(32), uses: &[CKA_SIGN] };
    Ok(VaultObjects {
        root: secret_key(session, &vault_root_label(generation), &root)?,
        fingerprint: secret_key(session, &fingerprint_label(generation), &fingerprint)?,
    })
}

/// The one resident object of a class and label.
pub(super) fn find(session: &HsmSession, label: &str, class: CK_OBJECT_CLASS) -> Result<Handle, HsmError> {
    match lookup(session, label, class)? {
        (None, _) => Err(HsmError::KeyMissing { label: label.to_owned() }),
        (Some(object), None) => Ok(object),
        (Some(_), Some(_)) => Err(HsmError::KeyAmbiguous { label: label.to_owned() }),
    }
}

/// The first two resident objects of a class and label. Session copies, of any session, carry the same label.
pub(super) fn lookup(
    session: &HsmSession,
    label: &str,
    class: CK_OBJECT_CLASS,
) -> Result<(Option<Handle>, Option<Handle>), HsmError> {
    session.find_two(&[Attribute::class(class), Attribute::flag(CKA_TOKEN, true), Attribute::label(label)])
}

fn secret_key(session: &HsmSession, label: &str, fitness: &Fitness) -> Result<Handle, HsmError> {
    let object = find(session, label, CKO_SECRET_KEY)?;
    let unfit = |reason| Err(HsmError::KeyUnfit { label: label.to_owned(), reason });
    if session.number(object, CKA_KEY_TYPE)? != fitness.key_type {
        return unfit("CKA_KEY_TYPE is of another algorithm");
    }
    if let Some(len) = fitness.len
        && session.number(object, CKA_VALUE_LEN)? != ulong(len)
    {
        return unfit("CKA_VALUE_LEN is not the registered length");
    }
    let [sensitive, extractable] = session.flags(object, [CKA_SENSITIVE, CKA_EXTRACTABLE])?;
    if !sensitive {
        return unfit("CKA_SENSITIVE is false");
    }
    if extractable {
        return unfit("CKA_EXTRACTABLE is true");
    }
    let allowed = session.flags(object, USES)?;
    for (usage, allowed) in USES.into_iter().zip(allowed) {
        match (fitness.uses.contains(&usage), allowed) {
            (true, false) => return unfit("it may not be used for its one purpose"),
            (false, true) => return unfit(too_able(usage)),
            (true, true) | (false, false) => {}
        }
    }
    session_copy(session, object)
}

/// Which use an object is allowed that it must not have.
const fn too_able(usage: CK_ATTRIBUTE_TYPE) -> &'static str {
    match usage {
        CKA_ENCRYPT => "CKA_ENCRYPT is true: it may be used for more than its one purpose",
        CKA_DECRYPT => "CKA_DECRYPT is true: it may be used for more than its one purpose",
        CKA_SIGN => "CKA_SIGN is true: it may be used for more than its one purpose",
        CKA_VERIFY => "CKA_VERIFY is true: it may be used for more than its one purpose",
        CKA_WRAP => "CKA_WRAP is true: it may be used for more than its one purpose",
        CKA_UNWRAP => "CKA_UNWRAP is true: it may be used for more than its one purpose",
        _ => "CKA_DERIVE is true: it may be used for more than its one purpose",
    }
}

/// Finds, checks and copies the audit key.
pub(super) fn audit_key(session: &HsmSession) -> Result<Handle, HsmError> {
    let object = find(session, AUDIT_LABEL, CKO_PRIVATE_KEY)?;
    let unfit = |reason| Err(HsmError::KeyUnfit { label: AUDIT_LABEL.to_owned(), reason });
    if session.number(object, CKA_KEY_TYPE)? != CKK_EC {
        return unfit("CKA_KEY_TYPE is of another algorithm");
    }
    match session.flags(object, [CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_SIGN])? {
        [true, false, true] => session_copy(session, object),
        [false, ..] => unfit("CKA_SENSITIVE is false"),
        [_, true, _] => unfit("CKA_EXTRACTABLE is true"),
        [_, _, false] => unfit("CKA_SIGN is false"),
    }
}

/// A copy that dies with the session. Every attribute but its life is the original's; nothing leaves the slot. Where
/// the slot's policy does not let a key be copied, the resident key serves: slower on some modules, no different.
fn session_copy(session: &HsmSession, object: Handle) -> Result<Handle, HsmError> {
    match session.copy(object, &[Attribute::flag(CKA_TOKEN, false)]) {
        Err(HsmError::Pkcs11 {
            code:
                CKR_ACTION_PROHIBITED | CKR_ATTRIBUTE_READ_ONLY | CKR_TEMPLATE_INCONSISTENT | CKR_FUNCTION_NOT_SUPPORTED,
            ..
        }) => Ok(object),
        copied => copied,
    }
}
