//! Whether a frame can have been made under a key: the same answer from every backend.

use warifu_core::frame::{FrameKey, FrameMac, SealedFrame};
use warifu_core::ksn::{Ksn, Scheme};

use crate::{BdkSpec, HsmError};

/// A frame names its own scheme, key length and kind of MAC. What does not fit the registered key is refused before any
/// key is derived: another DUKPT, working keys stronger than the key they would come from (X9.24-3:2017 6.3).
pub(crate) fn check(spec: &BdkSpec, frame: &SealedFrame) -> Result<(), HsmError> {
    let fits = match (spec.scheme, frame.key(), frame.ksn(), frame.mac()) {
        (Scheme::Aes, FrameKey::Aes(len), Ksn::Aes(_), Some((FrameMac::AesCmac, ..))) => {
            len.bytes() <= spec.len.bytes()
        }
        (
            Scheme::Tdes,
            FrameKey::Tdes(_) | FrameKey::TdesAsAes(_),
            Ksn::Tdes(_),
            None | Some((FrameMac::Retail, ..)),
        ) => true,
        _ => false,
    };
    if fits { Ok(()) } else { Err(HsmError::SuiteMismatch(spec.id.clone())) }
}
