//! Components that become a base derivation key inside the slot, one after another: the host never has two of them at a
//! time, nor the key (`CKM_XOR_BASE_AND_DATA`, PKCS#11 v3.1 §6.44).

use cryptoki_sys::{CKA_DERIVE, CKA_VALUE, CKK_AES};
use warifu_core::kcv::Kcv;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::merchant::BdkId;

use super::generate::NewBdk;
use super::mechanism::Mechanism;
use super::objects::BdkObjects;
use super::proof;
use super::session::{HsmSession, SessionObject};
use super::slot::Slot;
use super::template::{Attribute, Exposure, Life, aes_session_key, secret_key};
use crate::HsmError;

/// Takes components of an AES key. All of it dies with this value, unless the key is kept.
pub struct Combiner {
    len: KeyLen,
    /// All components until now; declared before the session, which destroys it.
    sum: Option<SessionObject>,
    session: HsmSession,
}

impl Slot {
    /// Where components of AES keys can be combined, if this slot can do that and show a check value of what came of it.
    /// Tried with known answers.
    ///
    /// # Errors
    /// When the slot is away; what it cannot do is no error.
    pub fn combiner(&self, len: KeyLen) -> Result<Option<Combiner>, HsmError> {
        let combiner = Combiner { len, sum: None, session: self.writing_session()? };
        match tried(&combiner.session, len) {
            Ok(()) => Ok(Some(combiner)),
            Err(HsmError::Pkcs11 { .. } | HsmError::SelfTest(_)) => {
                // A slot that is sick says so here.
                combiner.session.generate_random(&mut [0; 8]).map(|()| None)
            }
            Err(other) => Err(other),
        }
    }
}

impl Combiner {
    /// One more component. The caller still owns, and must wipe, it.
    ///
    /// # Errors
    /// When the slot refuses; [`HsmError::SelfTest`] for a component of another length.
    pub fn add(&mut self, component: &KeyBytes) -> Result<(), HsmError> {
        if component.key_len() != self.len {
            return Err(HsmError::SelfTest("a component is as long as its key"));
        }
        // The sum before is destroyed with the next sweep.
        self.sum = Some(added(&self.session, self.sum.as_ref(), component)?);
        self.session.sweep()
    }

    /// The key of all components, to be kept under the label of `id`.
    ///
    /// # Errors
    /// [`HsmError::SelfTest`] if there was no component.
    pub fn finish(self, id: &BdkId) -> Result<NewBdk, HsmError> {
        let Self { sum, session, .. } = self;
        let sum = sum.ok_or(HsmError::SelfTest("a key is made of components"))?;
        Ok(NewBdk::combined(id.clone(), sum, session))
    }
}

/// `sum` xor `component`; the component itself where there is no sum yet.
fn added(session: &HsmSession, sum: Option<&SessionObject>, component: &KeyBytes) -> Result<SessionObject, HsmError> {
    let made = match sum {
        None => {
            let mut template = secret_key(CKK_AES, Life::Session, Exposure::Never, &[CKA_DERIVE]).to_vec();
            template.push(Attribute::bytes(CKA_VALUE, component.expose()));
            session.create(&template)
        }
        Some(sum) => {
            let template = aes_session_key(component.key_len(), Exposure::Never, &[CKA_DERIVE]);
            session.derive(Mechanism::XorBaseAndData(component.expose()), **sum, &template)
        }
    };
    made.map(|handle| session.own(handle))
}

/// Three known components make the known key, which shows its check value.
pub(crate) fn tried(session: &HsmSession, len: KeyLen) -> Result<(), HsmError> {
    let filled = |byte: u8| KeyBytes::filled(len, |bytes| bytes.fill(byte));
    let combined = || {
        let mut sum = None;
        for component in [0x33, 0x55, 0x0F] {
            sum = Some(added(session, sum.as_ref(), &filled(component))?);
        }
        let sum = sum.ok_or(HsmError::SelfTest("it combines nothing"))?;
        proof::check_values(session, &BdkObjects::Aes(*sum))
    };
    let shown = combined();
    let swept = session.sweep();
    let shown = shown?;
    swept?;
    match shown.first() {
        Some(kcv) if *kcv == Kcv::aes_cmac(&filled(0x33 ^ 0x55 ^ 0x0F)) => Ok(()),
        Some(_) => Err(HsmError::SelfTest("it does not combine known components to the known key")),
        None => Err(HsmError::SelfTest("it does not show check values of keys that may only derive")),
    }
}
