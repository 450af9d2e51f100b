//! What the doctor finds in each module, and that nothing is left of it.

use warifu_hsm::DecryptionMode;
use warifu_hsm::doctor::{Finding, MacCheck, Pace, Restriction, Standing, examine, measure};

use crate::MODULE;
use crate::support::slot::{Module, SHARED, specs};

/// What is known of a module.
struct Known {
    mac_check: MacCheck,
    /// How it keeps each of [`Restriction::ALL`].
    enforcement: [&'static str; 4],
    /// Calls that must make no object in an examination: a changed key is not unwrapped, and what it refuses of the
    /// restrictions.
    refused: u32,
    /// Whether it combines components.
    combines: bool,
    named: &'static str,
}

fn known() -> Known {
    match MODULE {
        Module::SoftHsm => Known {
            mac_check: MacCheck::Verified,
            enforcement: ["not enforced", "enforced", "enforced", "not supported"],
            refused: 4,
            combines: false,
            named: "SoftHSM",
        },
        Module::Softokn => Known {
            mac_check: MacCheck::Compared,
            enforcement: ["not enforced", "not enforced", "not enforced", "not enforced"],
            refused: 1,
            combines: true,
            named: "NSS",
        },
    }
}

#[test]
fn every_mechanism_gives_its_known_answer_and_every_mode_runs() {
    let report = examine(&MODULE.shared()).unwrap();
    for mechanism in &report.mechanisms {
        let works = mechanism.name != "CKM_XOR_BASE_AND_DATA" || known().combines;
        assert_eq!(mechanism.finding == Finding::Works, works, "{}", mechanism.name);
    }
    for mode in &report.modes {
        assert_eq!(mode.finding, Finding::Works, "{:?} {:?}", mode.mode, mode.len);
        assert!(mode.missing.is_empty());
    }
    assert_eq!((report.mechanisms.len(), report.modes.len()), (12, 3 * DecryptionMode::ALL.len() + 1));
    assert_eq!(report.mac_check, Some(known().mac_check));
    assert!(report.is_usable());
    assert_eq!(report.running().collect::<Vec<_>>(), DecryptionMode::ALL);
    assert_eq!(report.shortfalls(&specs()), []);
}

#[test]
fn a_soft_token_is_named_not_for_production_and_its_policy_holes_are_told() {
    let report = examine(&MODULE.shared()).unwrap();
    assert_eq!(report.standing, Standing::NotForProduction);
    assert_eq!(report.slot.token_label, SHARED);
    let found: Vec<_> = report.restrictions.iter().map(|found| (found.restriction, found.enforcement.name())).collect();
    let known = known();
    let expected: Vec<_> = Restriction::ALL.into_iter().zip(known.enforcement).collect();
    assert_eq!(found, expected, "{report}");
    for (restriction, name) in expected {
        assert_eq!(report.enforces(restriction), name == "enforced");
    }
    let table = report.to_string();
    let needles = ["NOT FOR PRODUCTION", "NOT ENFORCED", "CKM_AES_ECB_ENCRYPT_DATA", "AES-192 DUKPT", "firmware"];
    for needle in needles.into_iter().chain([known.named]) {
        assert!(table.contains(needle), "{needle} is missing from\n{table}");
    }
}

/// Each row of the table of two modules begins with a name of the report; a column is a module's.
#[test]
fn the_documentation_says_what_was_found() {
    let report = examine(&MODULE.shared()).unwrap();
    let works = |finding: &Finding| if *finding == Finding::Works { "works" } else { "fails" }.to_owned();
    let mechanisms = report.mechanisms.iter().map(|found| (format!("`{}`", found.name), works(&found.finding)));
    let modes =
        report.modes.iter().map(|mode| (format!("`{}`, {}", mode.mode.name(), mode.keys()), works(&mode.finding)));
    let restrictions = report.restrictions.iter().map(|found| {
        let (attribute, more) = found.restriction.name().split_once(',').unwrap_or((found.restriction.name(), ""));
        let comma = if more.is_empty() { "" } else { "," };
        (format!("`{attribute}`{comma}{more}"), found.enforcement.name().to_owned())
    });
    let macs = ("MACs of frames".to_owned(), report.mac_check.unwrap().to_string());
    let column = match MODULE {
        Module::SoftHsm => 1,
        Module::Softokn => 2,
    };
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/hsm.md")).unwrap();
    let told: Vec<(String, String)> = text
        .lines()
        .skip_while(|line| !line.starts_with("| what | SoftHSM"))
        .skip(2)
        .take_while(|line| line.starts_with("| "))
        .map(|line| line.trim_matches(|edge| edge == '|' || edge == ' ').split(" | ").collect::<Vec<_>>())
        .map(|cells| (cells[0].to_owned(), cells[column].to_owned()))
        .collect();
    let found: Vec<_> = mechanisms.chain([macs]).chain(modes).chain(restrictions).collect();
    assert_eq!(told, found);
}

/// A trial leaves nothing behind: what it made it destroyed, as the tally shows.
#[test]
fn an_examination_destroys_what_it_makes() {
    let slot = MODULE.shared();
    slot.take_calls();
    examine(&slot).unwrap();
    let tally = slot.take_calls();
    let calls = |function| tally.iter().find(|(name, _)| *name == function).map_or(0, |(_, times)| times);
    // A key pair is two objects.
    let asked = calls("C_CreateObject") + calls("C_DeriveKey") + calls("C_GenerateKey") + calls("C_UnwrapKey");
    let made = asked + 2 * calls("C_GenerateKeyPair") - known().refused;
    assert_eq!(made, calls("C_DestroyObject"), "{tally}");
}

#[test]
fn a_measured_slot_is_left_as_it_was_and_a_number_of_derivers_is_proposed() {
    let slot = MODULE.shared();
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
