//! An independent witness between the server and its HSM: every call it saw is in the audit log, and no other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::collections::BTreeMap;
use std::time::Duration;

use stage::desk::{entries, keypad, old_reader};
use stage::sealer::{Sealer, pan};
use stage::shop::Shop;
use stage::spy::Spy;
use stage::till::{Till, phone};
use stage::{Options, Server};
use warifu_device_emu::format::Format;

/// Devices that work, each used by one caller.
const CALLERS: usize = 8;
/// Requests of a caller: an even mix.
const EACH: usize = 125;

/// What a caller asks for, one after the other; how often it asked for what.
async fn mixed(till: Till, caller: usize, ksn: String) -> BTreeMap<&'static str, usize> {
    let mut device = Sealer::aes(&ksn);
    let mut suspended = Sealer::aes("12345678900A5E0100000000");
    let mut old = Sealer::tdes(&format!("FFFF98765482{caller}0000000"), Format::Native);
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    // The newest authorization: under which request, with which frame, how much.
    let (mut named, mut last, mut minor) = (String::new(), Vec::new(), 0);
    for number in 0..EACH {
        let request = format!("{caller}-{number}");
        let card = pan((caller * EACH + number) % 300);
        let (what, answer) = match number % 8 {
            0 => {
                minor = if number % 3 == 0 { 1251 } else { 1200 };
                (named, last) = (request.clone(), device.keyed(&card));
                ("authorized", till.authorize(&request, &last, phone(&request, minor)).await.err())
            }
            1 => ("replayed", till.authorize(&request, &last, phone(&request, minor)).await.err()),
            2 => ("tokenized", till.tokenize(&request, &device.dipped(&card)).await.err()),
            3 => {
                let mut flipped = device.swiped(&card);
                let place = flipped.len() - 1 - number % 60;
                flipped[place] ^= 0x10;
                ("flipped", till.tokenize(&request, &flipped).await.err())
            }
            4 => ("suspended", till.tokenize(&request, &suspended.keyed(&card)).await.err()),
            5 => ("old", till.authorize(&request, &old.swiped(&card), phone(&request, 1200)).await.err()),
            6 => {
                let bad = format!("{}{}", &card[..15], (card.as_bytes()[15] - b'0' + 1) % 10);
                ("bad card", till.tokenize(&request, &device.keyed(&bad)).await.err())
            }
            _ => ("repeated", till.authorize(&named, &last, phone(&named, minor)).await.err()),
        };
        let expected = match what {
            "replayed" => Some("FRAME_REPLAYED"),
            "flipped" => Some("FRAME_REFUSED"),
            "suspended" => Some("DEVICE_NOT_ACTIVE"),
            "bad card" => Some("CARD_INVALID"),
            _ => None,
        };
        assert_eq!(answer.as_ref().map(|no| no.reason.as_str()), expected, "{request}, {what}: {answer:?}");
        *counts.entry(what).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_the_spy_saw_in_1000_mixed_requests_is_in_the_audit_log() {
    let mut shop = Shop::open().await;
    shop.server.add_device(&keypad("suspended", "12345678900A5E0100000000"));
    shop.server.operated(&["device", "suspend", "suspended"]);
    let ksn = |caller: usize| format!("12345678900A5F0{caller}00000000");
    for caller in 0..CALLERS {
        shop.server.add_device(&keypad(&format!("spied-{caller}"), &ksn(caller)));
        shop.server.add_device(&old_reader(
            &format!("old-{caller}"),
            &format!("FFFF98765482{caller}0000000"),
            "native",
        ));
    }
    assert_eq!(shop.server.terminate(Duration::from_secs(15)), Some(0));
    let before = own_records(&shop.server).len();

    let spy = Spy::new(shop.dir.path());
    let mut environment = spy.environment();
    environment.push(("WARIFU__AUDIT__SIGN_EVERY_MS".to_owned(), "500".to_owned()));
    shop.serve(&Options { environment, ..Options::default() }).await;
    let callers: Vec<_> =
        (0..CALLERS).map(|caller| tokio::spawn(mixed(shop.till.clone(), caller, ksn(caller)))).collect();
    let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
    for caller in callers {
        for (what, count) in caller.await.unwrap() {
            *asked.entry(what).or_default() += count;
        }
    }
    assert_eq!(asked.values().sum::<usize>(), 1000, "{asked:?}");
    assert_eq!(shop.server.terminate(Duration::from_secs(15)), Some(0));

    let seen = spy.calls();
    let mut recorded: BTreeMap<String, u64> = BTreeMap::new();
    for record in &own_records(&shop.server)[before..] {
        for (function, times) in record["calls"].as_object().into_iter().flatten() {
            *recorded.entry(function.clone()).or_default() += times.as_u64().unwrap();
        }
    }
    println!("requests: {asked:?}\ncalls the spy saw: {seen:?}");
    assert!(seen["C_Decrypt"] > 300 && seen["C_DeriveKey"] > 1000 && seen["C_Finalize"] == 1, "{seen:?}");
    let functions: std::collections::BTreeSet<&String> = seen.keys().chain(recorded.keys()).collect();
    let differences: Vec<String> = functions
        .into_iter()
        .map(|name| (name, seen.get(name).copied().unwrap_or(0), recorded.get(name).copied().unwrap_or(0)))
        .filter(|(_, seen, recorded)| seen != recorded)
        .map(|(name, seen, recorded)| format!("{name}: the spy saw {seen}, the log has {recorded}"))
        .collect();
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// The records of the server's own log, in order; those of operators' commands are in another.
fn own_records(server: &Server) -> Vec<serde_json::Value> {
    let export = server.export_audit("audit-spy.log");
    let text = std::fs::read_to_string(export).unwrap();
    entries(&text).into_iter().filter(|entry| entry.log == "dev").map(|entry| entry.record).collect()
}
