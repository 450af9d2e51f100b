//! Whether a slot holds to what keys were made with: each restriction put on a public test key, and what it forbids tried.
//!
//! A refusal alone proves nothing, since a sick slot refuses everything: after each, what the restriction allows must
//! work.

use cryptoki_sys::{
    CK_MECHANISM_TYPE, CKA_ALLOWED_MECHANISMS, CKA_DECRYPT, CKA_DERIVE, CKA_DERIVE_TEMPLATE, CKA_ENCRYPT,
    CKA_EXTRACTABLE, CKA_SENSITIVE, CKA_UNWRAP, CKA_VALUE, CKA_WRAP, CKK_AES, CKM_AES_CBC, CKM_AES_CMAC,
    CKM_AES_ECB_ENCRYPT_DATA,
};
use warifu_core::dukpt::aes::DerivationData;
use warifu_core::key::KeyLen;

use super::mac::MacCheck;
use super::mechanism::Mechanism;
use super::raw::Handle;
use super::session::{HsmSession, SessionObject};
use super::template::{Attribute, Exposure, Life, Nested, aes_session_key, secret_key};
use crate::HsmError;
use crate::doctor::Enforcement;

/// The value of every key here: nothing is protected by it.
const VALUE: [u8; 32] = [0x0B; 32];

/// A key derived from one that may not leave: can it be had in a form that leaves?
pub(crate) fn derived_keys_stay(session: &HsmSession) -> Enforcement {
    tried(session, || {
        let base = key(session, KeyLen::K128, Exposure::Never, &[CKA_DERIVE], &[])?;
        let out = gives_out(session, *base);
        derive(session, *base, Exposure::Never)?;
        Ok(verdict(out))
    })
}

/// A key that may not leave: can it be wrapped under another?
pub(crate) fn wrapping_refused(session: &HsmSession) -> Enforcement {
    tried(session, || {
        let wrapping = key(session, KeyLen::K256, Exposure::Never, &[CKA_WRAP, CKA_UNWRAP], &[])?;
        let wrap = |exposure| {
            let wrapped = key(session, KeyLen::K256, exposure, &[CKA_ENCRYPT], &[])?;
            session.wrap(Mechanism::AesKeyWrap, *wrapping, *wrapped, &mut [0; 40])
        };
        let out = wrap(Exposure::Never).is_ok();
        wrap(Exposure::Wrapped)?;
        Ok(verdict(out))
    })
}

/// A key made with a list of mechanisms: does it do what the list leaves out?
pub(crate) fn allowed_mechanisms(session: &HsmSession) -> Enforcement {
    tried(session, || {
        let mut held = 0;
        for (task, its, another) in [
            (Task::Derive, CKM_AES_ECB_ENCRYPT_DATA, CKM_AES_CMAC),
            (Task::Decrypt, CKM_AES_CBC, CKM_AES_CMAC),
            (Task::CheckMac, CKM_AES_CMAC, CKM_AES_CBC),
        ] {
            if task.done(session, None).is_err() {
                // There is nothing to be allowed or left out.
                continue;
            }
            let without = match task.key(session, Some(another)) {
                Ok(key) => key,
                Err(cannot) => return Ok(Enforcement::NotSupported(cannot.to_string())),
            };
            if task.done_with(session, *without).is_ok() {
                return Ok(Enforcement::NotEnforced);
            }
            if let Err(cannot) = task.done(session, Some(its)) {
                return Ok(Enforcement::NotSupported(format!("it refuses what the list allows: {cannot}")));
            }
            held += 1;
        }
        Ok(match held {
            0 => Enforcement::Untried("none of the mechanisms works".to_owned()),
            _ => Enforcement::Enforced,
        })
    })
}

/// A base key made with a template for what is derived from it, which says that no such key leaves: can one be had that
/// does?
pub(crate) fn derive_template(session: &HsmSession) -> Enforcement {
    tried(session, || {
        let stays = [Attribute::flag(CKA_SENSITIVE, true), Attribute::flag(CKA_EXTRACTABLE, false)];
        let stays = Nested::of(&stays);
        let demand = [Attribute::template(CKA_DERIVE_TEMPLATE, &stays)];
        derive(session, *key(session, KeyLen::K128, Exposure::Never, &[CKA_DERIVE], &[])?, Exposure::Never)?;
        let base = match key(session, KeyLen::K128, Exposure::Never, &[CKA_DERIVE], &demand) {
            Ok(base) => base,
            Err(cannot) => return Ok(Enforcement::NotSupported(cannot.to_string())),
        };
        let out = gives_out(session, *base);
        match derive(session, *base, Exposure::Never) {
            Ok(_) => Ok(verdict(out)),
            Err(cannot) => Ok(Enforcement::NotSupported(format!("it refuses what the template allows: {cannot}"))),
        }
    })
}

fn tried(session: &HsmSession, try_it: impl FnOnce() -> Result<Enforcement, HsmError>) -> Enforcement {
    let outcome = try_it();
    let swept = session.sweep();
    match outcome.and_then(|found| swept.map(|()| found)) {
        Ok(found) => found,
        Err(cannot) => Enforcement::Untried(cannot.to_string()),
    }
}

fn verdict(out: bool) -> Enforcement {
    if out { Enforcement::NotEnforced } else { Enforcement::Enforced }
}

/// Whether a derived key can be read, or be had so that it may be wrapped: under a key whose value one knows, that is as
/// good as reading it.
fn gives_out(session: &HsmSession, base: Handle) -> bool {
    let read =
        derive(session, base, Exposure::Readable).and_then(|derived| session.bytes(*derived, CKA_VALUE, &mut [0; 16]));
    let extractable =
        derive(session, base, Exposure::Wrapped).and_then(|derived| session.flags(*derived, [CKA_EXTRACTABLE]));
    read.is_ok() || matches!(extractable, Ok([true]))
}

fn derive(session: &HsmSession, base: Handle, exposure: Exposure) -> Result<SessionObject, HsmError> {
    let data = DerivationData::initial_key(KeyLen::K128, [0; 8]);
    let template = aes_session_key(KeyLen::K128, exposure, &[]);
    session.derive(Mechanism::AesEcbEncryptData(data.blocks()), base, &template).map(|handle| session.own(handle))
}

fn key(
    session: &HsmSession,
    len: KeyLen,
    exposure: Exposure,
    uses: &[u64],
    more: &[Attribute<'_>],
) -> Result<SessionObject, HsmError> {
    let mut template = secret_key(CKK_AES, Life::Session, exposure, uses).to_vec();
    template.push(Attribute::bytes(CKA_VALUE, &VALUE[..len.bytes()]));
    template.extend(more);
    session.create(&template).map(|handle| session.own(handle))
}

/// What a key of the service is for.
#[derive(Clone, Copy)]
enum Task {
    Derive,
    Decrypt,
    CheckMac,
}

impl Task {
    /// With a key made with such a list, or with none.
    fn done(self, session: &HsmSession, allowed: Option<CK_MECHANISM_TYPE>) -> Result<(), HsmError> {
        self.done_with(session, *self.key(session, allowed)?)
    }

    fn key(self, session: &HsmSession, allowed: Option<CK_MECHANISM_TYPE>) -> Result<SessionObject, HsmError> {
        let purpose = match self {
            Self::Derive => CKA_DERIVE,
            Self::Decrypt => CKA_DECRYPT,
            Self::CheckMac => MacCheck::of(session)?.purpose(),
        };
        let allowed = allowed.as_slice();
        let list = [Attribute::numbers(CKA_ALLOWED_MECHANISMS, allowed)];
        let list = if allowed.is_empty() { &[][..] } else { &list[..] };
        key(session, KeyLen::K128, Exposure::Never, &[purpose], list)
    }

    fn done_with(self, session: &HsmSession, key: Handle) -> Result<(), HsmError> {
        match self {
            Self::Derive => derive(session, key, Exposure::Never).map(drop),
            Self::Decrypt => session.decrypt(Mechanism::AesCbc(&[0; 16]), key, &[0; 16], &mut [0; 16]).map(drop),
            Self::CheckMac => MacCheck::of(session)?.check(session, key, &[0; 16], &[0; 16]).map(drop),
        }
    }
}
