//! The initial key of a TDES device, made by two encryptions in the slot (X9.24-1:2009 A.6). The rest of TDES DUKPT is
//! done on the host: PKCS#11 has no mechanism for its steps.

use warifu_core::dukpt::tdes;
use warifu_core::key::KeyBytes;
use warifu_core::ksn::TdesKsn;

use super::mechanism::Mechanism;
use super::raw::Handle;
use super::session::HsmSession;
use crate::HsmError;

/// Length of a DES block.
const BLOCK: usize = 8;

/// Left half under the base derivation key, right half under the masked one.
pub(super) fn initial_key(
    session: &HsmSession,
    left: Handle,
    right: Handle,
    ksn: &TdesKsn,
) -> Result<KeyBytes, HsmError> {
    let [a, b, c, d, e, f, g, h, _, _] = *ksn.with_counter(0).bytes();
    let device = [a, b, c, d, e, f, g, h];
    let mut outcome = Ok(());
    let ik = KeyBytes::filled(tdes::KEY_LEN, |bytes| {
        let (left_half, right_half) = bytes.split_at_mut(BLOCK);
        outcome = session
            .encrypt(Mechanism::Des3Ecb, left, &device, left_half)
            .and_then(|()| session.encrypt(Mechanism::Des3Ecb, right, &device, right_half));
    });
    outcome.map(|()| ik)
}
