//! The memory of a live server, searched from outside: in `hardware` mode it holds no key, and in no mode a card number
//! two seconds after the last answer.
//!
//! SoftHSM runs inside the server's process here, so this holds for the two together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::time::{Duration, Instant};

use stage::ceremony::Paper;
use stage::desk::{NewDevice, keypad, old_reader};
use stage::scan::{self, Needle};
use stage::sealer::{Sealer, pan};
use stage::shop::folder;
use stage::till::{Till, phone};
use stage::{Options, Server};
use warifu_core::dukpt::{aes, path};
use warifu_core::key::{KeyBytes, KeyType, KeyUsage};
use warifu_core::ksn::{AesKsn, Scheme};
use warifu_device_emu::format::Format;
use warifu_hsm::DecryptionMode;

/// A base derivation key of this test's own: none that stands in the program, as the public test keys do.
struct Known {
    id: &'static str,
    key: &'static str,
    /// What the first custodian brings; the other brings the rest.
    component: &'static str,
    mode: DecryptionMode,
    ksn: &'static str,
}

const KEYS: [Known; 3] = [
    Known {
        id: "known-128",
        key: "C2A1F09E4B7D3386550E1BD96A7CF412",
        component: "11C9E6A27F40B85D93062DDF81F45A3B",
        mode: DecryptionMode::Hardware,
        ksn: "5EA2C400A1B2C3D400000000",
    },
    Known {
        id: "known-256",
        key: "7D01E5B82F93AC4610D8C57E3B9A6F24E1804D2BB6597AF30C68912ED4F7A35B",
        component: "59D1C7F3026B8E4A9D35A0E8C417B62F83E1560B7CD9F4A29E0B37C65D81F8A4",
        mode: DecryptionMode::Hardware,
        ksn: "5EA2C400A1B2C3D500000000",
    },
    // Its keys are in memory, and must be found: this is how we know that the search can find any.
    Known {
        id: "on-host",
        key: "94B6D82CF13E07A5695BC0D41E8A7F33",
        component: "3AC2F95D604B8E17D2A97C0E5BF1468C",
        mode: DecryptionMode::HostDerived,
        ksn: "5EA2C400A1B2C3D600000000",
    },
];

/// How often a device's counter goes on by more than one, so that paths have several nodes.
const SKIPS: [u32; 6] = [0, 0, 3, 0, 18, 700];

/// Frames of each device after that: more than a thousand in `hardware` mode.
const MORE: usize = 500;

#[test]
fn a_live_server_holds_no_key_in_hardware_mode_and_no_card_number_after_two_seconds() {
    let home = folder();
    let dir = home.path().join("server");
    let mut made = Server::dev(&dir, &Options::default());
    assert_eq!(made.terminate(Duration::from_secs(15)), Some(0));
    stock(&made);
    let dumpable = ("WARIFU__SERVER__DUMPABLE".to_owned(), "true".to_owned());
    let server = Server::serve(&dir, &made.about, &Options { environment: vec![dumpable], ..Options::default() });
    for known in &KEYS {
        server.add_device(&NewDevice { bdk: known.id, ..keypad(known.id, known.ksn) });
    }
    server.add_device(&old_reader("old", "FFFF98765480D0000000", "idtech-binary"));

    let (pans, ended) =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work(&server));
    let cards: Vec<Needle> = pans.iter().flat_map(|pan| Needle::card_number(pan)).collect();
    let hardware: Vec<Needle> = KEYS[..2].iter().flat_map(keys_of).collect();
    let on_host: Vec<Needle> = keys_of(&KEYS[2]).collect();
    assert!(scan::finds(&cards) && scan::finds(&hardware) && hardware.len() > 40);

    let found = scan::memory(server.id(), &on_host);
    assert!(found.iter().any(|hit| hit.contains("initial key")), "the search does not find keys that are there");
    std::thread::sleep((ended + Duration::from_secs(2)).saturating_duration_since(Instant::now()));
    let hits = scan::memory(server.id(), &hardware);
    assert!(hits.is_empty(), "keys in memory:\n{}", hits.join("\n"));
    let hits = scan::memory(server.id(), &cards);
    assert!(hits.is_empty(), "card numbers in memory:\n{}", hits.join("\n"));
    // It was the memory of a server that still opens frames.
    assert_eq!(server.http("/readyz").0, 200);
}

/// Every kind of answer, on every device; the card numbers used, and when the last answer came.
async fn work(server: &Server) -> (Vec<String>, Instant) {
    let till = Till::of(server).await;
    let mut cards = (0..).map(|number| pan(550_000_000 + 104_729 * number));
    let mut pans = Vec::new();
    let mut card = || {
        pans.push(cards.next().unwrap());
        pans.last().unwrap().clone()
    };
    for known in &KEYS {
        let mut device = Sealer::aes_under(known.key, known.ksn);
        for (number, skip) in SKIPS.into_iter().enumerate() {
            device.skip(skip);
            let request = |what| format!("{}-{number}-{what}", known.id);
            till.authorize(&request("keyed"), &device.keyed(&card()), phone("keyed", 1200)).await.unwrap();
            till.tokenize(&request("dipped"), &device.dipped(&card())).await.unwrap();
            let swiped = device.swiped(&card());
            till.authorize(&request("swiped"), &swiped, phone("swiped", 1251)).await.unwrap();
            till.authorize(&request("replayed"), &swiped, phone("replayed", 1200)).await.unwrap_err();
        }
        let again = card();
        for number in 0..MORE {
            till.tokenize(&format!("{}-more-{number}", known.id), &device.keyed(&again)).await.unwrap();
        }
    }
    let mut old = Sealer::tdes("FFFF98765480D0000000", Format::IdTechBinary);
    for number in 0..10 {
        till.authorize(&format!("old-{number}"), &old.swiped(&card()), phone("old", 1200)).await.unwrap();
    }
    (pans, Instant::now())
}

/// The counters a device of this test has used.
fn counters() -> Vec<u32> {
    let mut at = 0;
    let mut used = Vec::new();
    for skip in SKIPS {
        for _ in 0..skip {
            at = next(at);
        }
        for _ in 0..3 {
            at = next(at);
            used.push(at);
        }
    }
    for _ in 0..MORE {
        at = next(at);
        used.push(at);
    }
    used
}

fn next(counter: u32) -> u32 {
    Scheme::Aes.next_counter(counter).expect("counters are left").get()
}

/// The key, the initial key, every node on the way to a counter used, and the MAC and data keys there.
fn keys_of(known: &Known) -> impl Iterator<Item = Needle> {
    let bdk = key(known.key);
    let device = AesKsn::parse(&hex::decode(known.ksn).unwrap()).unwrap();
    let initial = aes::initial_key(&bdk, device.ik_id());
    let mut needles = vec![
        Needle::raw(format!("{} base derivation key", known.id), bdk.expose()),
        Needle::raw(format!("{} initial key", known.id), initial.expose()),
    ];
    for (number, paper) in Paper::two(known.key, known.component).iter().enumerate() {
        needles.push(Needle::raw(format!("{} component {number}", known.id), &hex::decode(&paper.component).unwrap()));
        needles.push(Needle::raw(format!("{} component {number}, typed", known.id), paper.component.as_bytes()));
    }
    let used = counters();
    let nodes: std::collections::BTreeSet<u32> = used.iter().flat_map(|counter| path(*counter)).collect();
    for node in nodes {
        let key = aes::derivation_key(&initial, &device.with_counter(node));
        needles.push(Needle::raw(format!("{} node {node:X}", known.id), key.expose()));
    }
    for counter in used {
        let ksn = device.with_counter(counter);
        let node = aes::derivation_key(&initial, &ksn);
        for (name, usage) in [("MAC", KeyUsage::MacGeneration), ("data", KeyUsage::DataEncryption)] {
            let key = aes::working_key(&node, &ksn, usage, KeyType::aes(bdk.key_len())).unwrap();
            needles.push(Needle::raw(format!("{} {name} key {counter:X}", known.id), key.expose()));
        }
    }
    needles.into_iter()
}

fn key(hex: &str) -> KeyBytes {
    KeyBytes::copied(&hex::decode(hex).unwrap()).unwrap()
}

/// Has two custodians put the keys into the slot of a dev server.
fn stock(server: &Server) {
    for known in &KEYS {
        server.configure_bdk(known.id, known.key.len() * 4, known.mode.name());
    }
    let people = ["aiko", "botan"].map(|name| server.add_custodian(name));
    for known in &KEYS {
        server.load_bdk(&people, known.id, known.key, known.component);
    }
}
