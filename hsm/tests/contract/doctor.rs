//! What the doctor finds in a SoftHSM.

use warifu_hsm::DecryptionMode;
use warifu_hsm::doctor::{Extraction, Finding, Standing, examine};

use crate::support::slot::{self, SHARED};

#[test]
fn every_mechanism_gives_its_known_answer_and_every_mode_runs() {
    let report = examine(&slot::shared()).unwrap();
    for mechanism in &report.mechanisms {
        assert_eq!(mechanism.finding, Finding::Works, "{}", mechanism.name);
    }
    for mode in &report.modes {
        assert_eq!(mode.finding, Finding::Works, "{:?} {:?}", mode.mode, mode.len);
    }
    assert_eq!((report.mechanisms.len(), report.modes.len()), (11, 3 * DecryptionMode::ALL.len() + 1));
    assert!(report.is_usable());
}

#[test]
fn a_soft_token_is_named_not_for_production_and_its_policy_hole_is_told() {
    let report = examine(&slot::shared()).unwrap();
    assert_eq!(report.standing, Standing::NotForProduction);
    assert_eq!(report.extraction, Extraction::NotEnforced);
    assert_eq!(report.slot.token_label, SHARED);
    let table = report.to_string();
    for needle in ["NOT FOR PRODUCTION", "NOT ENFORCED", "CKM_AES_ECB_ENCRYPT_DATA", "AES-192 DUKPT", "SoftHSM"] {
        assert!(table.contains(needle), "{needle} is missing from\n{table}");
    }
}

/// A trial leaves nothing behind: what it made it destroyed, as the tally shows.
#[test]
fn an_examination_destroys_what_it_makes() {
    let slot = slot::shared();
    slot.take_calls();
    examine(&slot).unwrap();
    let tally = slot.take_calls();
    let calls = |function| tally.iter().find(|(name, _)| *name == function).map_or(0, |(_, times)| times);
    // One unwrapping is refused: it made nothing. A key pair is two objects.
    let made = calls("C_CreateObject") + calls("C_DeriveKey") + calls("C_GenerateKey") + calls("C_UnwrapKey") - 1;
    assert_eq!(made + 2 * calls("C_GenerateKeyPair"), calls("C_DestroyObject"), "{tally}");
}
