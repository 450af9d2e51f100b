//! The life of slots and sessions.

use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
use warifu_hsm::pkcs11::{Pin, Slot, provision};
use warifu_hsm::{DecryptionMode, Hsm, HsmError};

use crate::support::device::Device;
use crate::support::slot::{self, PIN, SHARED, SO_PIN, config, module, new_slot, spec};

#[test]
fn a_module_a_token_or_a_pin_that_is_not_there_is_named() {
    let _shared = slot::shared();
    let mut no_module = config(SHARED);
    no_module.module = "/nowhere/libmodule.so".into();
    assert!(matches!(Slot::open(no_module), Err(HsmError::Module { path, .. }) if path.contains("nowhere")));
    assert!(matches!(Slot::open(config("no such token")), Err(HsmError::SlotMissing { .. })));
    drop(new_slot("guarded"));
    let mut wrong_pin = config("guarded");
    wrong_pin.pin = Pin::copied("000000");
    let refused = Slot::open(wrong_pin).err().unwrap();
    assert!(matches!(refused, HsmError::PinRefused { ckr: "CKR_PIN_INCORRECT", .. }), "{refused}");
}

#[test]
fn a_token_label_is_not_given_twice() {
    let _shared = slot::shared();
    let refused = provision::init_token(module(), SHARED, &Pin::copied(SO_PIN), &Pin::copied(PIN));
    assert!(matches!(refused, Err(HsmError::KeyExists { .. })));
}

#[test]
fn a_slot_in_use_says_so_and_closes_with_its_last_session() {
    let spec = spec(Scheme::Aes, KeyLen::K128, DecryptionMode::Hardware);
    let slot = slot::shared();
    let mut hsm = slot.session(std::slice::from_ref(&spec)).unwrap();
    assert!(matches!(slot.close(), Err(HsmError::StillInUse)));
    // The login lasts as long as the session.
    assert!(hsm.open(&spec.id, &Device::new(&spec, 1).frame(1)).is_ok());
    drop(hsm);
    assert!(slot::shared().close().unwrap().iter().any(|(function, _)| function == "C_CloseSession"));
}

#[test]
fn calls_are_accounted_for_once_by_session_or_slot() {
    let slot = slot::shared();
    slot.take_calls();
    let mut hsm = slot.session(&[]).unwrap();
    // Whether the login is still there is the slot's question.
    assert_eq!(slot.take_calls().to_string(), "C_GetSessionInfo=1");
    let opened = hsm.take_calls();
    assert!(opened.iter().any(|(function, times)| (function, times) == ("C_OpenSession", 1)), "{opened}");
    hsm.random(&mut [0; 4]).unwrap();
    drop(hsm);
    assert_eq!(slot.take_calls().to_string(), "C_GenerateRandom=1 C_CloseSession=1");
    assert_eq!(slot.take_calls().total(), 0);
}

#[test]
fn a_session_that_could_not_be_made_leaves_its_calls_with_the_slot() {
    let slot = slot::shared();
    slot.take_calls();
    let mut missing = spec(Scheme::Aes, KeyLen::K128, DecryptionMode::Hardware);
    missing.id = warifu_core::merchant::BdkId::parse("not-there").unwrap();
    assert!(slot.session(&[missing]).is_err());
    let tally = slot.take_calls();
    for function in ["C_OpenSession", "C_FindObjects", "C_CloseSession"] {
        assert!(tally.iter().any(|(name, _)| name == function), "{tally}");
    }
}

#[test]
fn threads_open_frames_side_by_side() {
    let slot = slot::shared();
    let specs = slot::specs();
    std::thread::scope(|scope| {
        for serial in 1..=4 {
            let (slot, specs) = (slot.clone(), &specs);
            scope.spawn(move || {
                let mut hsm = slot.session(specs).unwrap();
                for counter in 1..=20 {
                    for spec in specs {
                        hsm.open(&spec.id, &Device::new(spec, serial).frame(counter)).unwrap();
                    }
                }
            });
        }
    });
}
