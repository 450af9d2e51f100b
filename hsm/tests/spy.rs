//! An independent witness: OpenSC's spy module between this crate and SoftHSM writes down every call; the tallies must
//! tell the same, function by function.
//!
//! A process of its own, since the spy is told by the environment what to load and where to write.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![allow(unsafe_code, reason = "the environment is set once for the modules, which take their configuration from it")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use support::device::Device;
use support::slot::{self, PIN, SHARED, config, specs};
use warifu_core::card::Pan;
use warifu_core::frame::SealedFrame;
use warifu_core::merchant::MerchantId;
use warifu_core::token::Token;
use warifu_hsm::pkcs11::{Pin, Slot, provision};
use warifu_hsm::{CallTally, Hsm, VaultGeneration};

const SPY_MISSING: &str = "the PKCS#11 spy is not installed. Type: sudo apt-get install opensc-pkcs11";

fn find_spy() -> PathBuf {
    ["x86_64-linux-gnu", "aarch64-linux-gnu", ""]
        .iter()
        .flat_map(|triplet| {
            ["", "pkcs11"].map(|folder| Path::new("/usr/lib").join(triplet).join(folder).join("pkcs11-spy.so"))
        })
        .chain([PathBuf::from("/usr/lib64/pkcs11/pkcs11-spy.so")])
        .find(|path| path.is_file())
        .expect(SPY_MISSING)
}

/// Counts what the spy wrote: a line for each call, numbered, such as `12: C_DeriveKey`.
fn witnessed(log: &Path) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for line in String::from_utf8_lossy(&std::fs::read(log).unwrap()).lines() {
        let Some((number, function)) = line.split_once(": ") else { continue };
        if number.parse::<u32>().is_ok() && function.starts_with("C_") {
            *counts.entry(function.trim().to_owned()).or_default() += 1;
        }
    }
    counts
}

fn told(tally: &CallTally) -> BTreeMap<String, u32> {
    tally.iter().map(|(function, times)| (function.to_owned(), times)).collect()
}

fn token(seed: u8) -> Token {
    (0..=u8::MAX).find_map(|draw| Token::draw([0, seed, draw, 1, 2, 3, 4, 5], None)).unwrap()
}

#[test]
fn every_call_the_spy_saw_is_in_a_tally_and_the_other_way_round() {
    let spy = find_spy();
    // Keys are made without the spy; what it must witness is service.
    slot::shared().close().unwrap();

    let log = tempfile::NamedTempFile::new().unwrap();
    // SAFETY: set before the spy is loaded, by the only test of this process.
    unsafe {
        std::env::set_var("PKCS11SPY", slot::module());
        std::env::set_var("PKCS11SPY_OUTPUT", log.path());
    }
    // Slots that cannot be opened were asked, too.
    let mut tally = CallTally::default();
    for (label, pin) in [("no such token", PIN), (SHARED, "000000")] {
        let mut config = config(label);
        config.module = spy.clone();
        config.pin = Pin::copied(pin);
        assert!(Slot::open_counted(config, &mut tally).is_err());
    }
    let mut config = config(SHARED);
    config.module = spy;
    config.cache_nodes = 150;
    let slot = Slot::open(config).unwrap();
    tally.add(&slot.take_calls());

    // A slot provisioned twice, and a session that cannot be made, are calls too.
    assert!(provision::create_service_keys(&slot).is_err());
    let mut missing = specs()[1].clone();
    missing.id = warifu_core::merchant::BdkId::parse("not-there").unwrap();
    assert!(slot.session(&[missing]).is_err());

    let specs = specs();
    let mut hsm = slot.session(&specs).unwrap();
    let (shop, pan) = (MerchantId::parse("shop-1").unwrap(), Pan::parse(b"4012888888881881").unwrap());
    let vault_key = hsm.create_vault_key(VaultGeneration::FIRST).unwrap();
    let sealed = hsm.seal(&vault_key, &shop, &token(1), &pan).unwrap();
    let mut requests = 0;
    for round in 0u8..20 {
        for (number, spec) in specs.iter().enumerate() {
            let device = Device::new(spec, u16::from(round % 3));
            let mut frame = device.seal(u32::from(round) * 5 + 1);
            let damaged = (usize::from(round) + number) % 7 == 0;
            if damaged {
                *frame.last_mut().unwrap() ^= 1;
            }
            let opened = hsm.open(&spec.id, &SealedFrame::parse(&frame).unwrap());
            assert_eq!(opened.is_ok(), !damaged);
            requests += 1;
        }
        match round % 5 {
            0 => drop(hsm.fingerprint(VaultGeneration::FIRST, &shop, &pan).unwrap()),
            1 => drop(hsm.seal(&vault_key, &shop, &token(round), &pan).unwrap()),
            2 => assert_eq!(hsm.unseal(&vault_key, &shop, &token(2), &sealed).is_ok(), token(1) == token(2)),
            3 => drop(hsm.sign(&[round]).unwrap()),
            _ => hsm.random(&mut [0; 9]).unwrap(),
        }
        requests += 1;
        tally.add(&hsm.take_calls());
    }
    hsm.audit_public_key().unwrap();
    assert!(requests >= 200);
    // The rest of the session's calls are left with the slot when it closes.
    drop(hsm);
    tally.add(&slot.take_calls());
    tally.add(&slot.close().unwrap());

    let (witnessed, told) = (witnessed(log.path()), told(&tally));
    assert_eq!(witnessed, told, "left: what the spy saw; right: what the tallies say");
    assert!(told["C_DeriveKey"] > 200 && told["C_Decrypt"] > 30 && told["C_Finalize"] == 3);
}
