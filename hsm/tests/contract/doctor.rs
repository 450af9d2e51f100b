//! What the doctor finds in a SoftHSM.

use warifu_hsm::DecryptionMode;
use warifu_hsm::doctor::{Extraction, Finding, Pace, Standing, examine, measure};

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

#[test]
fn a_measured_slot_is_left_as_it_was_and_a_number_of_derivers_is_proposed() {
    let slot = slot::shared();
    slot.take_calls();
    let mut told = Vec::new();
    let pace = measure(&slot, |what| told.push(what.to_owned())).unwrap();
    assert_eq!(told.len(), 1 + pace.sessions.len());
    for timing in &pace.timings {
        assert!(!timing.median.is_zero() && timing.median <= timing.p99, "{timing:?}");
    }
    assert!(pace.sessions.iter().all(|(_, rate)| *rate > 0.0), "{pace:?}");
    assert!(pace.to_string().ends_with(&format!("hsm.derivers = {}", pace.proposed_derivers())), "{pace}");
    let tally = slot.take_calls();
    let calls = |function| tally.iter().find(|(name, _)| *name == function).map_or(0, |(_, times)| times);
    let made = calls("C_CreateObject") + calls("C_DeriveKey") + 2 * calls("C_GenerateKeyPair");
    assert_eq!(made, calls("C_DestroyObject"), "{tally}");
    assert_eq!(calls("C_OpenSession"), calls("C_CloseSession"), "{tally}");
}

#[test]
fn no_more_derivers_are_proposed_than_make_it_faster() {
    let pace = |rates: &[(usize, f64)]| Pace { timings: Vec::new(), sessions: rates.to_vec() };
    assert_eq!(pace(&[(1, 100.0), (2, 190.0), (4, 200.0), (8, 205.0)]).proposed_derivers(), 2);
    assert_eq!(pace(&[(1, 100.0), (2, 99.0), (4, 98.0)]).proposed_derivers(), 1);
    assert_eq!(pace(&[]).proposed_derivers(), 1);
}
