//! Judgement on findings no module of the tests gives.

use warifu_core::merchant::BdkId;

use super::*;

fn found(restriction: Restriction, enforcement: Enforcement) -> RestrictionFinding {
    RestrictionFinding { restriction, enforcement }
}

fn mechanism(name: &'static str, need: Need, finding: Finding) -> MechanismFinding {
    MechanismFinding { name, needed_for: "something", need, finding }
}

fn failed() -> Finding {
    Finding::Fails("C_DeriveKey failed".to_owned())
}

fn aes(mode: DecryptionMode, finding: Finding) -> ModeFinding {
    ModeFinding { mode, scheme: Scheme::Aes, len: KeyLen::K128, finding, missing: Vec::new() }
}

fn bdk(mode: DecryptionMode, scheme: Scheme, len: KeyLen) -> BdkSpec {
    BdkSpec { id: BdkId::parse("till").unwrap(), scheme, len, mode, proof: None }
}

/// A slot that enforces what it should: nothing derived in it comes out.
fn strict() -> Report {
    let text = String::new;
    let mechanisms = vec![
        mechanism(DERIVATION, Need::Mode, Finding::Works),
        mechanism("CKM_AES_CMAC", Need::Mode, Finding::Works),
        mechanism("CKM_AES_CBC", Need::Mode, Finding::Works),
        mechanism("CKM_AES_GCM", Need::Server, Finding::Works),
        mechanism("CKM_GENERIC_SECRET_KEY_GEN", Need::Provisioning, failed()),
    ];
    let restrictions = vec![found(Restriction::DerivedKeysStay, Enforcement::Enforced)];
    let mut modes = vec![
        aes(DecryptionMode::Hardware, Finding::Works),
        aes(DecryptionMode::Hybrid, failed()),
        aes(DecryptionMode::HostDerived, failed()),
    ];
    for mode in &mut modes {
        mode.missing = missing(mode, &mechanisms, &restrictions);
    }
    Report {
        module: ModuleFacts {
            path: text(),
            description: text(),
            manufacturer: text(),
            version: text(),
            pkcs11: text(),
        },
        slot: SlotFacts {
            id: 0,
            description: text(),
            token_label: text(),
            model: text(),
            manufacturer: text(),
            serial: text(),
            firmware: text(),
        },
        standing: Standing::HardwareSlot,
        mechanisms,
        mac_check: Some(MacCheck::Verified),
        modes,
        restrictions,
    }
}

#[test]
fn a_slot_that_keeps_derived_keys_runs_hardware_mode_only_and_says_why() {
    let report = strict();
    assert_eq!(report.running().collect::<Vec<_>>(), [DecryptionMode::Hardware]);
    assert!(report.is_usable() && report.enforces(Restriction::DerivedKeysStay));
    assert!(report.shortfall(&bdk(DecryptionMode::Hardware, Scheme::Aes, KeyLen::K128)).is_none());
    let shortfall = report.shortfall(&bdk(DecryptionMode::Hybrid, Scheme::Aes, KeyLen::K128)).unwrap();
    assert_eq!(
        shortfall.to_string(),
        "till cannot be used in hybrid mode: the slot has no derived keys that can be read (C_DeriveKey failed)"
    );
}

#[test]
fn a_mode_that_was_never_tried_does_not_run() {
    let report = strict();
    for never in [
        bdk(DecryptionMode::Hardware, Scheme::Tdes, KeyLen::K128),
        bdk(DecryptionMode::HostDerived, Scheme::Tdes, KeyLen::K128),
        bdk(DecryptionMode::Hardware, Scheme::Aes, KeyLen::K256),
    ] {
        assert!(report.shortfall(&never).is_some());
    }
}

#[test]
fn what_is_not_enforced_or_was_not_tried_does_not_count_as_enforced() {
    let mut report = strict();
    let others =
        [Enforcement::NotEnforced, Enforcement::NotSupported(String::new()), Enforcement::Untried(String::new())];
    for enforcement in others {
        report.restrictions = vec![found(Restriction::DerivedKeysStay, enforcement)];
        assert!(!report.enforces(Restriction::DerivedKeysStay));
    }
    assert!(!report.enforces(Restriction::DeriveTemplate));
}

#[test]
fn provisioning_is_not_the_servers_need_and_sealing_is() {
    let mut report = strict();
    assert_eq!(report.shortfalls(&[]), []);
    report.mechanisms[3].finding = failed();
    assert!(!report.is_usable());
    let [shortfall] = &report.shortfalls(&[])[..] else { panic!() };
    assert_eq!(shortfall.to_string(), "the slot has no CKM_AES_GCM, needed for something (C_DeriveKey failed)");
}
