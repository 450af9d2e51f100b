//! Modules that cannot do everything: SoftHSM told to leave a mechanism out. What is missing is named, what works without
//! it goes on working.
//!
//! A process of its own, because SoftHSM takes what it leaves out from its configuration, each time it is initialized.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![allow(unsafe_code, reason = "the environment is set once for SoftHSM, which takes its configuration from it")]

mod support;

use support::device::{Device, PAN};
use support::slot::{self, SHARED, config, spec, specs};
use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
use warifu_hsm::doctor::{Finding, Report, examine};
use warifu_hsm::pkcs11::Slot;
use warifu_hsm::{CallTally, DecryptionMode, Hsm, HsmError};

use DecryptionMode::{Hardware, HostDerived, Hybrid};

fn open_without(mechanism: &str) -> Slot {
    slot::leave_out(mechanism);
    Slot::open_untried(config(SHARED), &mut CallTally::default()).unwrap()
}

fn runs(report: &Report) -> Vec<DecryptionMode> {
    report.running().collect()
}

fn tdes_runs(report: &Report) -> bool {
    report.modes.iter().any(|mode| mode.scheme == Scheme::Tdes && mode.finding == Finding::Works)
}

/// One test, since there is one configuration in a process.
#[test]
fn what_a_module_lacks_is_named_and_the_rest_goes_on() {
    slot::shared().close().unwrap();
    let key = |mode| spec(Scheme::Aes, KeyLen::K128, mode);

    // Without the cipher, the data key must come out.
    let slot = open_without("CKM_AES_CBC");
    let report = examine(&slot).unwrap();
    assert_eq!(runs(&report), [Hybrid, HostDerived]);
    let said = report.shortfall(&key(Hardware)).unwrap().to_string();
    assert!(said.contains("aes128-hardware cannot be used in hardware mode: the slot has no CKM_AES_CBC"), "{said}");
    assert_eq!(report.shortfalls(&[key(Hybrid), key(HostDerived)]), []);
    assert!(report.is_usable() && tdes_runs(&report));
    let spec = key(Hybrid);
    let mut hsm = slot.session(std::slice::from_ref(&spec)).unwrap();
    let opened = hsm.open(&spec.id, &Device::new(&spec, 1).frame(1)).unwrap();
    assert_eq!(opened.account_data.pan().expose(), PAN.as_bytes());
    drop(hsm);
    slot.close().unwrap();
    // A slot that is opened to be trusted at once is not.
    assert!(matches!(Slot::open(config(SHARED)), Err(HsmError::Pkcs11 { function: "C_DecryptInit", .. })));

    // Without the MAC, neither made nor checked, no AES key can even be told from another.
    let slot = open_without("CKM_AES_CMAC");
    let report = examine(&slot).unwrap();
    assert_eq!((runs(&report), report.mac_check), (Vec::new(), None));
    assert_eq!(report.shortfalls(&specs()).len(), 9);
    assert!(report.to_string().contains("missing: CKM_AES_CMAC"), "{report}");
    assert!(report.is_usable() && tdes_runs(&report));
    slot.close().unwrap();

    let slot = open_without("CKM_DES3_ECB");
    let report = examine(&slot).unwrap();
    assert_eq!(runs(&report), DecryptionMode::ALL);
    assert!(report.is_usable() && !tdes_runs(&report));
    slot.close().unwrap();

    // Some things no server can do without, whatever its modes.
    for mechanism in ["CKM_AES_GCM", "CKM_SHA256_HMAC", "CKM_ECDSA", "CKM_AES_KEY_WRAP"] {
        let slot = open_without(mechanism);
        let report = examine(&slot).unwrap();
        assert_eq!(runs(&report), DecryptionMode::ALL);
        assert!(!report.is_usable());
        let [shortfall] = &report.shortfalls(&specs())[..] else { panic!("{report}") };
        assert!(shortfall.to_string().starts_with(&format!("the slot has no {mechanism}, needed for")), "{shortfall}");
        slot.close().unwrap();
    }
}
