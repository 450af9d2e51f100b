//! A slot that fails: each call in its turn, at random, by losing sessions, by going away, by refusing the PIN, by lying.
//!
//! A process of its own, since the module that fails is told by the environment which one to stand before. Its plan is one
//! for the whole process, so the tests take turns.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![allow(unsafe_code, reason = "the environment is set once for the modules, which take their configuration from it")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use support::device::{BODY, Device, PAN};
use support::slot::{self, PIN, SHARED, config, spec};
use tempfile::TempDir;
use warifu_core::card::Pan;
use warifu_core::key::KeyLen;
use warifu_core::ksn::Scheme;
use warifu_core::merchant::MerchantId;
use warifu_core::token::Token;
use warifu_faulty_module::{Steering, library};
use warifu_hsm::pkcs11::{Pkcs11Hsm, Slot, provision};
use warifu_hsm::{BdkSpec, CallTally, DecryptionMode, Fingerprint, Hsm, HsmError, VaultGeneration, verify_signature};

/// CKR_GENERAL_ERROR, which modules say of anything.
const GENERAL: u64 = 0x05;
/// CKR_DEVICE_ERROR.
const DEVICE: u64 = 0x30;
/// What else a call may fail with: of memory, of the device, of the session.
const OTHERS: [u64; 4] = [0x02, 0x32, 0xB3, 0x101];

/// The turn of one test.
struct Turn {
    steering: &'static Steering,
    _alone: MutexGuard<'static, ()>,
}

/// Takes the turn. The token was provisioned without the module that fails.
fn turn() -> Turn {
    static ALONE: Mutex<()> = Mutex::new(());
    static STEERING: OnceLock<(TempDir, Steering)> = OnceLock::new();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, steering) = STEERING.get_or_init(|| {
        slot::shared().close().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let steering = Steering::new(folder.path());
        for (name, value) in steering.environment(slot::module()) {
            // SAFETY: set before the module is loaded, the only reader, while every other test waits for its turn.
            unsafe { std::env::set_var(name, value) };
        }
        (folder, steering)
    });
    steering.plan("");
    Turn { steering, _alone: alone }
}

fn open() -> Slot {
    let mut config = config(SHARED);
    config.module = library();
    Slot::open(config).unwrap()
}

fn specs() -> Vec<BdkSpec> {
    vec![
        spec(Scheme::Aes, KeyLen::K128, DecryptionMode::Hardware),
        spec(Scheme::Aes, KeyLen::K256, DecryptionMode::Hybrid),
        spec(Scheme::Tdes, KeyLen::K128, DecryptionMode::HostDerived),
    ]
}

fn token() -> Token {
    (0..=u8::MAX).find_map(|draw| Token::draw([0, 7, draw, 1, 2, 3, 4, 5], None)).unwrap()
}

/// One of everything a server asks, in a session of its own. It may fail; what it answers must be right.
fn serve(slot: &Slot) -> Result<(), HsmError> {
    serve_in(slot.session(&specs())?)
}

fn serve_in(mut hsm: Pkcs11Hsm) -> Result<(), HsmError> {
    static KNOWN: OnceLock<Fingerprint> = OnceLock::new();
    let (shop, pan) = (MerchantId::parse("shop-1").unwrap(), Pan::parse(PAN.as_bytes()).unwrap());
    for spec in specs() {
        let opened = hsm.open(&spec.id, &Device::new(&spec, 1).frame(5))?;
        assert_eq!(opened.account_data.pan().expose(), PAN.as_bytes(), "another card");
    }
    let fingerprint = hsm.fingerprint(VaultGeneration::FIRST, &shop, &pan)?;
    assert!(*KNOWN.get_or_init(|| fingerprint) == fingerprint, "another fingerprint");
    let vault_key = hsm.create_vault_key(VaultGeneration::FIRST)?;
    let sealed = hsm.seal(&vault_key, &shop, &token(), &pan)?;
    assert_eq!(hsm.unseal(&vault_key, &shop, &token(), &sealed)?.expose(), PAN.as_bytes(), "another card unsealed");
    let (signature, key) = (hsm.sign(b"a head")?, hsm.audit_public_key()?);
    assert!(verify_signature(&key, b"a head", &signature), "a wrong signature");
    let mut random = [0; 16];
    hsm.random(&mut random)?;
    assert_ne!(random, [0; 16], "no random numbers");
    Ok(())
}

/// Session objects of all sessions, as another session of this process sees them.
fn live_objects() -> usize {
    let pkcs11 = Pkcs11::new(library()).unwrap();
    let labelled = |slot: &cryptoki::slot::Slot| pkcs11.get_token_info(*slot).unwrap().label() == SHARED;
    let slot = pkcs11.get_slots_with_token().unwrap().into_iter().find(labelled).unwrap();
    pkcs11.open_ro_session(slot).unwrap().find_objects(&[Attribute::Token(false)]).unwrap().len()
}

/// What is absorbed at once, because something else can be done instead.
fn may_be_absorbed(function: &str, code: u64) -> bool {
    match function {
        // Another session takes the login over; a session that does not close is given up.
        "C_GetSessionInfo" | "C_CloseSession" => true,
        // It may mean bad data, so it is asked again.
        "C_UnwrapKey" => code == GENERAL,
        _ => false,
    }
}

#[test]
fn any_call_of_the_service_that_fails_is_an_outage_and_the_next_session_serves() {
    let turn = turn();
    let slot = open();
    slot.take_calls();
    serve(&slot).unwrap();
    let calls = slot.take_calls();
    assert!(calls.total() > 90 && calls.iter().count() > 20, "{calls}");
    let mut failed = 0;
    for (function, times) in calls.iter() {
        let once = OTHERS.into_iter().chain([GENERAL]).map(|code| (1, code));
        for (nth, code) in (1..=times).map(|nth| (nth, DEVICE)).chain(once) {
            let (before, faults) = (live_objects(), turn.steering.notes().faults());
            turn.steering.plan(&format!("{function} {nth} error {code:#x}"));
            let outcome = serve(&slot);
            assert_eq!(turn.steering.notes().faults(), faults + 1, "{function} {nth} was not called");
            turn.steering.plan("");
            let case = format!("{function} {nth} {code:#x}: {outcome:?}");
            match outcome {
                Ok(()) => assert!(may_be_absorbed(function, code), "{case}"),
                Err(error) => {
                    assert!(error.is_outage(), "{case}");
                    let named = matches!(error, HsmError::Pkcs11 { function: of, code: with, .. }
                        if of == function && with == code);
                    assert!(named || may_be_absorbed(function, code), "{case}");
                }
            }
            serve(&slot).unwrap_or_else(|error| panic!("after {case}: {error}"));
            // Objects go with their session; one that the module did not close is left to it.
            if function != "C_CloseSession" {
                assert_eq!(live_objects(), before, "{case}");
            }
            failed += 1;
        }
    }
    println!("{failed} calls of {} functions failed in turn", calls.iter().count());
    slot.close().unwrap();
}

#[test]
fn any_call_of_the_way_back_that_fails_only_makes_it_longer() {
    let turn = turn();
    let slot = open();
    let come_back = |plan: &str| {
        turn.steering.plan("slot gone");
        assert!(serve(&slot).is_err_and(|error| error.is_outage()));
        turn.steering.plan(plan);
        serve(&slot)
    };
    slot.take_calls();
    come_back("").unwrap();
    let calls = slot.take_calls();
    for function in ["C_GetSlotList", "C_GetTokenInfo", "C_OpenSession", "C_Login", "C_FindObjects", "C_CopyObject"] {
        assert!(calls.iter().any(|(name, _)| name == function), "{function}: {calls}");
    }
    for (function, times) in calls.iter() {
        for nth in 1..=times.min(3) {
            let outcome = come_back(&format!("{function} {nth} error {DEVICE:#x}"));
            turn.steering.plan("");
            assert!(outcome.is_ok() || outcome.is_err_and(|error| error.is_outage()), "{function} {nth}");
            serve(&slot).unwrap_or_else(|error| panic!("after {function} {nth}: {error}"));
        }
    }
    slot.close().unwrap();
}

#[test]
fn a_token_that_went_and_came_back_is_logged_in_to_once_and_old_sessions_are_dead() {
    let turn = turn();
    let slot = open();
    let mut old = slot.session(&specs()).unwrap();
    let mut older = slot.session(&specs()).unwrap();
    turn.steering.plan("slot gone");
    assert!(matches!(old.random(&mut [0; 4]), Err(HsmError::Pkcs11 { ckr: "CKR_DEVICE_REMOVED", .. })));
    assert!(matches!(slot.session(&specs()), Err(HsmError::SlotMissing { .. })));

    turn.steering.plan("");
    assert!(matches!(old.random(&mut [0; 4]), Err(HsmError::Pkcs11 { ckr: "CKR_SESSION_HANDLE_INVALID", .. })));
    let logins = turn.steering.notes().logins();
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| serve(&slot).unwrap()))));
    serve(&slot).unwrap();
    assert_eq!(turn.steering.notes().logins(), logins + 1);

    // Their numbers may be another's by now: nothing is asked with them, not even to close them.
    older.take_calls();
    assert!(older.random(&mut [0; 4]).is_err_and(|error| error.is_outage()));
    assert_eq!(older.take_calls().total(), 0);
    slot.take_calls();
    drop((old, older));
    assert!(slot.take_calls().iter().all(|(function, _)| function != "C_CloseSession"));
    serve(&slot).unwrap();
    slot.close().unwrap();
}

#[test]
fn a_session_that_is_lost_costs_itself_and_no_login() {
    let turn = turn();
    let slot = open();
    let logins = turn.steering.notes().logins();
    for function in ["C_FindObjects", "C_DeriveKey", "C_Verify", "C_DestroyObject", "C_Sign", "C_WrapKey"] {
        turn.steering.plan(&format!("{function} 1 lose"));
        let lost = serve(&slot).err().unwrap();
        assert!(matches!(lost, HsmError::Pkcs11 { ckr: "CKR_SESSION_HANDLE_INVALID", .. }), "{function}: {lost}");
        turn.steering.plan("");
        serve(&slot).unwrap();
    }
    assert_eq!(turn.steering.notes().logins(), logins);
    // The one that holds the login: with it the login goes, and is made anew without anybody noticing.
    turn.steering.plan("C_GetSessionInfo 1 lose");
    serve(&slot).unwrap();
    assert_eq!(turn.steering.notes().logins(), logins + 1);
    slot.close().unwrap();
}

#[test]
fn a_pin_that_is_refused_is_not_tried_again_by_this_slot() {
    let turn = turn();
    for code in [0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0x102] {
        let slot = open();
        turn.steering.plan("slot gone");
        assert!(serve(&slot).is_err());
        let logins = turn.steering.notes().logins();
        turn.steering.plan(&format!("C_Login every 1 error {code:#x}"));
        let refused = serve(&slot).err().unwrap();
        assert!(matches!(refused, HsmError::PinRefused { code: with, .. } if with == code), "{refused}");
        assert!(refused.is_outage());
        // Whatever the token would say now.
        turn.steering.plan("");
        slot.take_calls();
        for _ in 0..5 {
            assert!(matches!(serve(&slot), Err(HsmError::PinRefused { .. })));
        }
        assert_eq!(slot.take_calls().total(), 0);
        assert_eq!(turn.steering.notes().logins(), logins + 1);
        slot.close().unwrap();
    }
    // Who starts anew tries it.
    let slot = open();
    serve(&slot).unwrap();
    slot.close().unwrap();
}

#[test]
fn a_pin_that_was_changed_while_the_token_was_away_is_tried_once() {
    const LABEL: &str = "changed";
    let turn = turn();
    let provisioned = slot::new_slot(LABEL);
    provision::create_service_keys(&provisioned).unwrap();
    provisioned.close().unwrap();
    let mut config = config(LABEL);
    config.module = library();
    let slot = Slot::open(config).unwrap();
    drop(slot.session(&[]).unwrap());
    turn.steering.plan("slot gone");
    assert!(matches!(slot.session(&[]), Err(HsmError::SlotMissing { .. })));

    // Somebody else, past the module that fails.
    let elsewhere = Pkcs11::new(slot::module()).unwrap();
    let labelled = |slot: &cryptoki::slot::Slot| elsewhere.get_token_info(*slot).unwrap().label() == LABEL;
    let there = elsewhere.get_slots_with_token().unwrap().into_iter().find(labelled).unwrap();
    let session = elsewhere.open_rw_session(there).unwrap();
    let (old, new) = (AuthPin::from(PIN), AuthPin::from("another 648219"));
    session.login(UserType::User, Some(&old)).unwrap();
    session.set_pin(&old, &new).unwrap();
    session.close().unwrap();

    turn.steering.plan("");
    let logins = turn.steering.notes().logins();
    for _ in 0..3 {
        assert!(matches!(slot.session(&[]), Err(HsmError::PinRefused { ckr: "CKR_PIN_INCORRECT", .. })));
    }
    assert_eq!(turn.steering.notes().logins(), logins + 1);
    slot.close().unwrap();
}

#[test]
fn a_token_that_came_back_and_lies_is_not_trusted_until_it_stops() {
    let turn = turn();
    let slot = open();
    for lie in ["C_Decrypt every 1 wrong 0", "C_Verify every 1 error 0xc0"] {
        turn.steering.plan("slot gone");
        assert!(serve(&slot).is_err());
        turn.steering.plan(lie);
        for _ in 0..2 {
            assert!(matches!(serve(&slot), Err(HsmError::SelfTest(_))), "{lie}");
        }
        turn.steering.plan("");
        serve(&slot).unwrap();
    }
    slot.close().unwrap();
}

/// The MAC is made over the ciphertext and cannot tell whether the clear text belongs to it. The check digit can, which is
/// the server's to ask for.
#[test]
fn a_wrong_bit_in_the_clear_text_never_makes_another_card_number_with_a_right_check_digit() {
    let turn = turn();
    let slot = open();
    let spec = spec(Scheme::Aes, KeyLen::K128, DecryptionMode::Hardware);
    let device = Device::new(&spec, 3);
    let mut hsm = slot.session(std::slice::from_ref(&spec)).unwrap();
    let mut unseen = Vec::new();
    for (byte, counter) in (0..32).zip(1..) {
        turn.steering.plan(&format!("C_Decrypt 1 wrong {byte}"));
        match hsm.open(&spec.id, &device.frame(counter)) {
            Ok(opened) if opened.account_data.pan().expose() == PAN.as_bytes() => unseen.push(byte),
            Ok(opened) => assert!(byte < PAN.len() && !opened.account_data.pan().passes_luhn(), "byte {byte}"),
            Err(error) => assert!(matches!(error, HsmError::Card(_)), "byte {byte}: {error}"),
        }
    }
    // In `4012888888881881=3012=123` these are the expiry and the security code, which the issuer checks.
    let (expiry, code) = (PAN.len() + 1, PAN.len() + 6);
    assert!(unseen.iter().all(|byte| (expiry..expiry + 4).contains(byte) || (code..BODY.len()).contains(byte)));
    println!("a wrong bit was not noticed in the bytes {unseen:?}");
    drop(hsm);
    slot.close().unwrap();
}

#[test]
fn a_slot_that_is_sick_for_a_moment_is_not_taken_for_changed_data() {
    let turn = turn();
    let slot = open();
    for (plan, sealed) in [
        ("C_UnwrapKey every 1 error 0x5", true),
        ("C_UnwrapKey every 1 error 0x5\nC_GenerateRandom every 1 error 0x5", false),
    ] {
        let (shop, pan) = (MerchantId::parse("shop-1").unwrap(), Pan::parse(PAN.as_bytes()).unwrap());
        let mut hsm = slot.session(&[]).unwrap();
        let key = hsm.create_vault_key(VaultGeneration::FIRST).unwrap();
        turn.steering.plan(plan);
        let refused = hsm.seal(&key, &shop, &token(), &pan).err().unwrap();
        // For good, and while all else works: then the wrapped key is to blame.
        assert_eq!(matches!(refused, HsmError::Sealed), sealed, "{plan}: {refused}");
        turn.steering.plan("C_UnwrapKey 1 error 0x5");
        hsm.seal(&key, &shop, &token(), &pan).unwrap();
        turn.steering.plan("");
    }
    slot.close().unwrap();
}

#[test]
fn errors_at_random_under_four_threads_make_outages_and_nothing_else_and_all_calls_are_counted() {
    let turn = turn();
    let before = turn.steering.notes().made();
    let slot = open();
    turn.steering.plan("random 7 4");
    let faults = turn.steering.notes().faults();
    let served = std::thread::scope(|scope| {
        let work = || {
            let outcomes = (0..60).map(|_| match serve(&slot) {
                Ok(()) => 1,
                Err(error) if error.is_outage() => 0,
                Err(error) => panic!("{error}"),
            });
            outcomes.sum::<usize>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    let faults = turn.steering.notes().faults() - faults;
    // A session that does not close is asked once; a search for slots that fails halfway is one call.
    for plan in ["C_CloseSession every 2 error 0x30", "C_GetSessionInfo every 1 lose\nC_GetSlotList every 3 error 0x30"]
    {
        turn.steering.plan(plan);
        (0..12).for_each(|_| drop(serve(&slot)));
    }
    turn.steering.plan("");
    serve(&slot).unwrap();
    let mut tally = slot.take_calls();
    tally.add(&slot.close().unwrap());
    println!("{faults} faults; {served} of 240 served all the same");
    assert!(faults > 50 && served > 0);
    let after = turn.steering.notes().made();
    let mut told = told(&tally);
    // The module is loaded once, by the first test.
    told.retain(|function, _| function != "C_GetFunctionList");
    let made = |function: &String, times: &u64| times - before.get(function).copied().unwrap_or(0);
    let witnessed: BTreeMap<String, u64> = after
        .iter()
        .map(|(function, times)| (function.clone(), made(function, times)))
        .filter(|(function, times)| *times > 0 && function != "C_GetFunctionList")
        .collect();
    assert_eq!(witnessed, told, "left: what the module saw; right: what the tallies say");
}

fn told(tally: &CallTally) -> BTreeMap<String, u64> {
    tally.iter().map(|(function, times)| (function.to_owned(), u64::from(times))).collect()
}
