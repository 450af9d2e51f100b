//! A whole server on another PKCS#11 module than the one everything else here runs on: NSS's token.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use stage::ceremony::{Paper, aes_kcv, answers};
use stage::desk::{NewDevice, entries, keypad, old_reader};
use stage::sealer::Sealer;
use stage::shop::Shop;
use stage::till::{Till, phone};
use stage::{AES_BDK, Options, Server, TDES_BDK, softokn};
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Scheme;
use warifu_core::merchant::BdkId;
use warifu_device_emu::format::Format;
use warifu_hsm::pkcs11::{Pin, Slot, SlotConfig, provision};
use warifu_hsm::{BdkSpec, DecryptionMode};
use warifu_sdk::wire::v1::Outcome;

const LABEL: &str = "second";
const VISA: &str = "4111111111111111";
const MASTERCARD: &str = "5555555555554444";
const KSN: &str = "12345678900A770100000000";
const OLD_KSN: &str = "FFFF9876548277000000";

/// Makes a token of NSS in a server's folder, with the keys of a server and those its configuration names.
fn stock(server: &Server) -> String {
    // One process has NSS with one text at a time.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let database = server.dir().join("nss");
    fs::create_dir(&database).unwrap();
    let arguments = format!(
        "configdir='' flags=noCertDB,noModDB,forceOpen tokens=<0x4=[configdir='sql:{}' tokenDescription='{LABEL}']>",
        database.display()
    );
    let pin = || Pin::copied(fs::read_to_string(server.dir().join("hsm-pin")).unwrap().trim());
    provision::init_token(&softokn(), Some(&arguments), LABEL, &Pin::copied(""), &pin()).unwrap();
    let slot = Slot::open(SlotConfig {
        module: softokn(),
        module_arguments: Some(arguments.clone()),
        token_label: LABEL.to_owned(),
        pin: pin(),
        cache_nodes: 0,
        accept_non_p2pe: true,
    })
    .unwrap();
    provision::create_service_keys(&slot).unwrap();
    for (name, scheme, mode, key) in [
        ("aes", Scheme::Aes, DecryptionMode::Hardware, AES_BDK),
        ("tdes", Scheme::Tdes, DecryptionMode::HostDerived, TDES_BDK),
    ] {
        let id = BdkId::parse(server.bdk(name)).unwrap();
        let key = KeyBytes::copied(&hex::decode(key).unwrap()).unwrap();
        provision::import_bdk(&slot, &BdkSpec { id, scheme, len: KeyLen::K128, mode, proof: None }, &key).unwrap();
    }
    slot.close().unwrap();
    arguments
}

/// Points a server's configuration at the token, and at a data store of its own: vault keys belong to one HSM.
fn point(dir: &Path, arguments: &str) {
    let path = dir.join("warifu.toml");
    let mut config: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    config["store"]["url"] = "sqlite://second.db?mode=rwc".into();
    let hsm = config["hsm"].as_table_mut().unwrap();
    hsm.remove("softhsm_config");
    hsm.insert("module".to_owned(), softokn().to_str().unwrap().into());
    hsm.insert("module_arguments".to_owned(), arguments.into());
    hsm.insert("token_label".to_owned(), LABEL.into());
    fs::write(path, config.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_the_second_module_opens_frames_seals_cards_and_signs_its_log() {
    let mut shop = Shop::open().await;
    assert_eq!(tokio::task::block_in_place(|| shop.server.terminate(Duration::from_secs(15))), Some(0));
    let arguments = stock(&shop.server);
    point(shop.server.dir(), &arguments);
    for scheme in ["aes", "tdes"] {
        let id = shop.server.bdk(scheme);
        shop.server.operated(&["key", "register", id]);
        shop.server.operated(&["key", "activate", id]);
    }
    let mut server = Server::serve(shop.server.dir(), &shop.server.about, &Options::default());

    let files = server.add_merchant("second-shop", "second-pos");
    server.add_device(&NewDevice { merchant: "second-shop", ..keypad("second-1", KSN) });
    server.add_device(&NewDevice { merchant: "second-shop", ..old_reader("second-2", OLD_KSN, "native") });
    let till = Till::as_module(&server, &files.certificate, &files.key).await;
    let (mut device, mut old) = (Sealer::aes(KSN), Sealer::tdes(OLD_KSN, Format::Native));
    let keyed = till.authorize("r1", &device.keyed(VISA), phone("1001", 1200)).await.unwrap();
    assert_eq!(keyed.outcome(), Outcome::Authorized);
    let card = till.tokenize("r2", &device.dipped(MASTERCARD)).await.unwrap();
    let swiped = till.tokenize("r3", &old.swiped(MASTERCARD)).await.unwrap();
    assert_eq!(card.token, swiped.token, "one card, one fingerprint");
    let mut flipped = device.keyed(VISA);
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(till.tokenize("r4", &flipped).await.unwrap_err().reason, "FRAME_REFUSED");
    assert_eq!(server.http("/readyz").0, 200);
    assert_eq!(tokio::task::block_in_place(|| server.terminate(Duration::from_secs(15))), Some(0));

    let export = server.export_audit("second.log");
    let text = fs::read_to_string(&export).unwrap();
    let records: Vec<_> = entries(&text).into_iter().map(|entry| entry.record).collect();
    let opened = records.iter().filter(|record| record["kind"] == "frame.opened");
    let modes: Vec<_> = opened.map(|record| record["mode"].clone()).collect();
    assert_eq!(modes, [json!("hardware"), json!("hardware"), json!("host-derived")]);
    let examined = records.iter().find(|record| record["kind"] == "hsm.examined").unwrap();
    assert!(examined["found"]["module"].as_str().unwrap().contains("Mozilla"), "{examined}");
    assert_eq!(examined["found"]["enforces"], "");
    let verified = server.operated(&["audit", "verify", export.to_str().unwrap(), "--json"]);
    assert!(verified.contains("\"verified\":true") || verified.contains("\"verified\": true"), "{verified}");
}

/// Where the slot can, it puts components together itself, each as it comes.
#[tokio::test(flavor = "multi_thread")]
async fn components_are_combined_inside_the_second_module_and_open_a_first_frame() {
    const KEY: &str = "8D1F3B5597A2C4E60718293A4B5C6D7E";
    const FIRST: &str = "0F1E2D3C4B5A69788796A5B4C3D2E1F0";
    let mut shop = Shop::open().await;
    assert_eq!(tokio::task::block_in_place(|| shop.server.terminate(Duration::from_secs(15))), Some(0));
    point(shop.server.dir(), &stock(&shop.server));
    for scheme in ["aes", "tdes"] {
        let id = shop.server.bdk(scheme);
        shop.server.operated(&["key", "register", id]);
        shop.server.operated(&["key", "activate", id]);
    }
    shop.server.configure_bdk("till-2026", 128, "hardware");
    let people = ["aiko", "botan"].map(|name| shop.server.add_custodian(name));
    let [one, two] = Paper::two(KEY, FIRST);
    let (first, second) = (answers(&people[0], &one), answers(&people[1], &two));
    let same = answers(&people[1], &one);
    for (script, says) in [
        (first.clone() + &second + "0123456789\n", "not the expected one"),
        (first.clone() + &same, "two components are the same"),
        (first.clone(), "the ceremony was given up"),
    ] {
        let held = shop.server.ceremony("till-2026", &script);
        let said = String::from_utf8_lossy(&held.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(held.status.code(), Some(1), "{said}");
        assert!(last.contains(says) && last.ends_with("nothing was left behind"), "{last}");
        assert!(!shop.server.operated(&["key", "list"]).contains("till-2026"));
    }
    shop.server.load_bdk(&people, "till-2026", KEY, FIRST);
    let transcript = shop.server.transcript("till-2026");
    let verified = shop.server.operated(&["key", "transcript", "verify", transcript.to_str().unwrap()]);
    assert!(verified.contains("made of components, combined in the HSM"), "{verified}");
    assert!(verified.contains(&aes_kcv(KEY)), "{verified}");

    let server = Server::serve(shop.server.dir(), &shop.server.about, &Options::default());
    let files = server.add_merchant("second-shop", "second-pos");
    let device = NewDevice { merchant: "second-shop", bdk: "till-2026", ..keypad("second-3", KSN) };
    server.add_device(&device);
    let till = Till::as_module(&server, &files.certificate, &files.key).await;
    till.tokenize("r1", &Sealer::aes_under(KEY, KSN).keyed(VISA)).await.unwrap();
    let told = serde_json::to_string(&server.audit_records()).unwrap();
    assert!(told.contains("components combined in the HSM, for nothing") && !told.contains(FIRST), "{told}");
}
