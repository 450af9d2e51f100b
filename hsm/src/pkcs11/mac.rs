//! How a slot checks a MAC: the key stays in it either way.
//!
//! Some modules make CMACs and do not check them (NSS softokn). There the slot makes the MAC of what came, and it is
//! compared here, in constant time. Which of the two is found by trying, once for each slot.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CKA_SIGN, CKA_VALUE, CKA_VERIFY, CKK_AES, CKR_FUNCTION_NOT_SUPPORTED,
    CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_KEY_TYPE_INCONSISTENT, CKR_MECHANISM_INVALID,
};

use super::mechanism::Mechanism;
use super::raw::{Handle, Verdict};
use super::session::HsmSession;
use super::template::{Attribute, Exposure, Life, secret_key};
use crate::HsmError;

/// A way to check a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacCheck {
    /// The slot does (`C_Verify`).
    Verified,
    /// The slot makes it (`C_Sign`), and it is compared here.
    Compared,
}

/// SP 800-38B D.1, example 2: key, message, MAC.
const KNOWN: ([u8; 16], [u8; 16], [u8; 16]) = (
    [0x2B, 0x7E, 0x15, 0x16, 0x28, 0xAE, 0xD2, 0xA6, 0xAB, 0xF7, 0x15, 0x88, 0x09, 0xCF, 0x4F, 0x3C],
    [0x6B, 0xC1, 0xBE, 0xE2, 0x2E, 0x40, 0x9F, 0x96, 0xE9, 0x3D, 0x7E, 0x11, 0x73, 0x93, 0x17, 0x2A],
    [0x07, 0x0A, 0x16, 0xB4, 0x6B, 0x4D, 0x41, 0x44, 0xF7, 0x9B, 0xDD, 0x9D, 0xD0, 0x4A, 0x28, 0x7C],
);

impl MacCheck {
    /// The way of a session's slot.
    ///
    /// # Errors
    /// When the slot has neither, or does not answer; then it is tried again the next time.
    pub(super) fn of(session: &HsmSession) -> Result<Self, HsmError> {
        let place = session.slot().mac_check();
        match place.get() {
            Some(known) => Ok(*known),
            None => learned(session).inspect(|learned| {
                // Another session may have learned the same meanwhile.
                let _ = place.set(*learned);
            }),
        }
    }

    /// The one use of a key whose MACs are checked so.
    pub(super) fn purpose(self) -> CK_ATTRIBUTE_TYPE {
        match self {
            Self::Verified => CKA_VERIFY,
            Self::Compared => CKA_SIGN,
        }
    }

    /// Checks an AES-CMAC. Two calls.
    pub(super) fn check(
        self,
        session: &HsmSession,
        key: Handle,
        message: &[u8],
        mac: &[u8],
    ) -> Result<Verdict, HsmError> {
        match self {
            Self::Verified => session.verify(Mechanism::AesCmac, key, message, mac),
            Self::Compared => {
                let mut made = [0; 16];
                session.sign(Mechanism::AesCmac, key, message, &mut made)?;
                // Of another length is not equal.
                let equal = verify_slices_are_equal(&made, mac).is_ok();
                Ok(if equal { Verdict::Right } else { Verdict::Wrong })
            }
        }
    }

    fn tried(self, session: &HsmSession) -> Result<Self, HsmError> {
        let (value, message, mac) = KNOWN;
        let mut template = secret_key(CKK_AES, Life::Session, Exposure::Never, &[self.purpose()]).to_vec();
        template.push(Attribute::bytes(CKA_VALUE, &value));
        let key = session.create(&template).map(|handle| session.own(handle))?;
        match self.check(session, *key, &message, &mac)? {
            Verdict::Right => Ok(self),
            Verdict::Wrong => Err(HsmError::SelfTest("it does not know a known MAC")),
        }
    }
}

/// What a module that cannot check says need not mean that it cannot make: both are tried. The key of a trial goes into
/// the session's bin.
fn learned(session: &HsmSession) -> Result<MacCheck, HsmError> {
    match MacCheck::Verified.tried(session) {
        Err(
            cannot @ HsmError::Pkcs11 {
                code:
                    CKR_MECHANISM_INVALID
                    | CKR_FUNCTION_NOT_SUPPORTED
                    | CKR_KEY_FUNCTION_NOT_PERMITTED
                    | CKR_KEY_TYPE_INCONSISTENT,
                ..
            },
        ) => MacCheck::Compared.tried(session).map_err(|_| cannot),
        learned => learned,
    }
}

impl fmt::Display for MacCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verified => "checked by the slot",
            Self::Compared => "made by the slot and compared here",
        })
    }
}
