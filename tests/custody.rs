//! Keys from component to retirement: ceremonies, what a server refuses to start with, and keys taken out of use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stage::ceremony::{Custodian, Paper, aes_kcv, answers};
use stage::desk::{NewDevice, keypad};
use stage::sealer::Sealer;
use stage::shop::{TILL_KSN, folder};
use stage::till::Till;
use stage::{Options, Server, database, program, wait_for};
use tempfile::TempDir;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic_types::StatusExt as _;
use warifu_core::kcv::Kcv;
use warifu_core::key::KeyBytes;
use warifu_sdk::wire::v1;
use warifu_sdk::wire::v1::key_service_client::KeyServiceClient;

const VISA: &str = "4111111111111111";
const KEY: &str = "8D1F3B5597A2C4E60718293A4B5C6D7E";
const OTHER_KEY: &str = "E4B09C7A11D35F86A2C7E90B46D8F135";
const FIRST: &str = "0F1E2D3C4B5A69788796A5B4C3D2E1F0";
/// A proof no key has.
const NOBODYS: &str = "00112233445566778899AABBCCDDEEFF";
const KSN: &str = "5EA2C400C0FFEE0100000000";

/// What a dev server left, two custodians, and a key in the configuration that is not there yet.
struct Vault {
    _home: TempDir,
    server: Server,
    people: [Custodian; 2],
}

impl Vault {
    fn open() -> Self {
        let home = folder();
        let mut server = Server::dev(&home.path().join("server"), &Options::default());
        assert_eq!(server.terminate(Duration::from_secs(15)), Some(0));
        server.configure_bdk("till-2026", 128, "hardware");
        let people = ["aiko", "botan"].map(|name| server.add_custodian(name));
        Self { _home: home, server, people }
    }

    /// The whole dialogue of a ceremony for `KEY`.
    fn script(&self) -> String {
        let papers = Paper::two(KEY, FIRST);
        let said: String = self.people.iter().zip(&papers).map(|(person, paper)| answers(person, paper)).collect();
        said + &aes_kcv(KEY) + "\n"
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.server.dir().join("warifu.db").display())
    }

    /// A start that must fail: its exit code and last line.
    fn refused_start(&self, environment: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut command = Command::new(program("warifu"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--config"]);
        command.arg(self.server.dir().join("warifu.toml")).envs(environment.iter().copied());
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), last_line(&output))
    }

    fn states(&self) -> Value {
        serde_json::from_str(&self.server.operated(&["key", "list", "--json"])).unwrap()
    }

    fn knows(&self, id: &str) -> bool {
        self.states().as_array().unwrap().iter().any(|key| key["id"] == id)
    }
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().last().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_custodians_make_a_key_and_it_opens_its_first_frame() {
    let vault = Vault::open();
    let before = vault.server.hsm_objects();
    let held = vault.server.ceremony("till-2026", &vault.script());
    assert!(held.status.success(), "{}", String::from_utf8_lossy(&held.stderr));
    let said = String::from_utf8_lossy(&held.stdout) + String::from_utf8_lossy(&held.stderr);
    for secret in [KEY, FIRST, &Paper::two(KEY, FIRST)[1].component] {
        assert!(!said.to_ascii_uppercase().contains(secret), "a ceremony repeats no component");
    }
    assert_eq!(vault.server.hsm_objects(), before + 1);
    let again = vault.server.ceremony("till-2026", &vault.script());
    assert!(last_line(&again).contains("is there already"), "a transcript is never written over");

    // Until somebody takes it into use, its frames are refused.
    let server = Server::serve(vault.server.dir(), &vault.server.about, &Options::default());
    server.add_device(&NewDevice { bdk: "till-2026", ..keypad("kp-9", KSN) });
    let till = Till::of(&server).await;
    let mut device = Sealer::aes_under(KEY, KSN);
    let no = till.tokenize("too-early", &device.keyed(VISA)).await.unwrap_err();
    assert_eq!((no.reason.as_str(), no.who.as_str()), ("KEY_NOT_ACTIVE", "operator"));
    server.operated(&["key", "activate", "till-2026"]);
    till.tokenize("first", &device.keyed(VISA)).await.unwrap();

    transcript_holds(&vault, before + 1);
    let records = vault.server.audit_records();
    let of =
        |kind: &str| records.iter().filter(|record| record["kind"] == kind && record["key"] == "till-2026").count();
    assert_eq!(of("ceremony.held"), 1);
    assert_eq!(of("registry.changed"), 2, "registered, activated");
}

/// The transcript says who did what, and no changed byte passes.
fn transcript_holds(vault: &Vault, objects: usize) {
    let file = vault.server.transcript("till-2026");
    let path = file.to_str().unwrap();
    let public_key = vault.server.operated(&["audit", "key"]);
    let verify = ["key", "transcript", "verify", path, "--json", "--public-key", public_key.trim()];
    let transcript: Value = serde_json::from_str(&vault.server.operated(&verify)).unwrap();
    let people: Vec<&str> =
        transcript["custodians"].as_array().unwrap().iter().map(|part| part["custodian"].as_str().unwrap()).collect();
    assert_eq!(people, ["aiko", "botan"]);
    assert_eq!(transcript["kcv"], aes_kcv(KEY));
    assert_eq!(transcript["custodians"][0]["component_kcv"], aes_kcv(FIRST));

    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.to_ascii_uppercase().contains(FIRST) && !text.to_ascii_uppercase().contains(KEY));
    std::fs::write(&file, text.replace("botan", "boton")).unwrap();
    let changed = vault.server.operate(&verify);
    assert_eq!(changed.status.code(), Some(1));
    assert!(last_line(&changed).contains("it was changed since it was signed"), "{}", last_line(&changed));
    std::fs::write(&file, &text).unwrap();
    let foreign = "04".to_owned() + &"11".repeat(64);
    let foreign = vault.server.operate(&["key", "transcript", "verify", path, "--public-key", &foreign]);
    assert!(last_line(&foreign).contains("another key signed it"), "{}", last_line(&foreign));
    assert_eq!(vault.server.hsm_objects(), objects);
}

#[test]
fn a_ceremony_that_goes_wrong_leaves_nothing() {
    let vault = Vault::open();
    let [aiko, botan] = &vault.people;
    let [one, two] = Paper::two(KEY, FIRST);
    let (first, second, kcv) = (answers(aiko, &one), answers(botan, &two), aes_kcv(KEY) + "\n");
    let wrong = Paper { component: one.component.replacen('F', "E", 1), kcv: one.kcv.clone() };
    let thrice = {
        let typed = format!("{}\n{}\n", wrong.component, wrong.kcv);
        answers(aiko, &wrong) + &typed + &typed
    };
    let half = Paper { component: one.component[..16].to_owned(), kcv: one.kcv.clone() };
    // Registered, and gone before the ceremony.
    let chiyo = vault.server.add_custodian("chiyo");
    vault.server.operated(&["custodian", "block", "chiyo"]);
    let stranger = {
        let files = vault.server.issue("daiki");
        Custodian { name: "daiki".to_owned(), certificate: files.certificate, key: files.key }
    };
    let thief = Custodian { name: String::new(), certificate: botan.certificate.clone(), key: aiko.key.clone() };
    let cases = [
        ("one digit wrong, three times", thrice, "the component of aiko was not typed right"),
        ("half a component, then silence", answers(aiko, &half), "the ceremony was given up"),
        ("the same person twice", first.clone() + &answers(aiko, &two) + &kcv, "aiko has taken part already"),
        ("the same component twice", first.clone() + &answers(botan, &one) + &kcv, "two components are the same"),
        ("another's certificate", first.clone() + &answers(&thief, &two) + &kcv, "does not belong to the certificate"),
        ("somebody blocked", first.clone() + &answers(&chiyo, &two) + &kcv, "the custodian chiyo is blocked"),
        ("somebody unknown", first.clone() + &answers(&stranger, &two) + &kcv, "no custodian is registered"),
        ("a component typed too early", KEY.to_owned() + "\n" + FIRST + "\n", "the ceremony was given up"),
        ("silence", first.clone(), "the ceremony was given up"),
        ("another key than expected", first.clone() + &second + &aes_kcv(OTHER_KEY) + "\n", "not the expected one"),
    ];
    let before = vault.server.hsm_objects();
    for (what, script, says) in cases {
        let held = vault.server.ceremony("till-2026", &script);
        let last = last_line(&held);
        assert_eq!(held.status.code(), Some(1), "{what}: {last}");
        assert!(last.contains(says) && last.ends_with("nothing was left behind"), "{what}: {last}");
        assert_eq!(vault.server.hsm_objects(), before, "{what}");
        assert!(!vault.knows("till-2026") && !vault.server.transcript("till-2026").exists(), "{what}");
    }
    let told = serde_json::to_string(&vault.server.audit_records()).unwrap();
    assert!(!told.contains(KEY) && !told.contains(FIRST), "what was typed at the wrong place stands in the log");

    // A power cut while the second custodian types.
    let mut ceremony = vault.server.begin_ceremony("till-2026", &[]);
    let mut typing = ceremony.stdin.take().unwrap();
    let half_way = second.split_inclusive('\n').take(2).collect::<String>() + &two.component[..20];
    typing.write_all((first + &half_way).as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    ceremony.kill().unwrap();
    ceremony.wait().unwrap();
    assert_eq!(vault.server.hsm_objects(), before);
    assert!(!vault.knows("till-2026"));
    let held = vault.server.ceremony("till-2026", &vault.script());
    assert!(held.status.success(), "{}", last_line(&held));
}

#[test]
fn what_no_ceremony_can_make_is_refused_before_anybody_comes() {
    let vault = Vault::open();
    let mut file = std::fs::OpenOptions::new().append(true).open(vault.server.dir().join("warifu.toml")).unwrap();
    writeln!(file, "\n[[bdk]]\nid = \"till-tdes\"\nscheme = \"tdes\"\nmode = \"host-derived\"").unwrap();
    let cases: [(&str, &[&str], &str); 4] = [
        ("till-2026", &["--from", "drawn", "--kcv", "8D1F3B"], "nobody knows the check value"),
        ("till-2026", &["--from", "hsm", "--kcv", "8D1F3B"], "nobody knows the check value"),
        ("till-tdes", &["--from", "hsm"], "an HSM makes no TDES key"),
        ("factory", &["--from", "hsm", "--kbpk"], "is shared with another party"),
    ];
    for (id, arguments, why) in cases {
        let refused = vault.server.ceremony_with(id, arguments, "");
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {}", last_line(&refused));
        assert!(last_line(&refused).contains(why), "{arguments:?}: {}", last_line(&refused));
    }
}

/// A drawn ceremony at a terminal, in the middle.
struct AtTerminal {
    terminal: Child,
    keys: ChildStdin,
    screen: ChildStdout,
}

impl AtTerminal {
    fn begin(vault: &Vault) -> Self {
        // The shell outlives the keys that end programs, and tells how the terminal was left.
        let command = format!(
            "trap : INT QUIT TSTP; {} key ceremony till-2026 --from drawn --transcript {} --config {}; \
             code=$?; stty -a; exit $code",
            program("warifu").display(),
            vault.server.transcript("till-2026").display(),
            vault.server.dir().join("warifu.toml").display()
        );
        // `script` is a terminal for a program that wants one.
        let mut terminal = Command::new("script");
        terminal.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
        let terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut terminal = terminal.expect("util-linux has `script`");
        let (keys, screen) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
        Self { terminal, keys, screen }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    fn until(&mut self, words: &str) {
        let (mut shown, mut more) = (Vec::new(), [0; 256]);
        while !String::from_utf8_lossy(&shown).contains(words) {
            let len = self.screen.read(&mut more).unwrap();
            assert!(len > 0, "{}", String::from_utf8_lossy(&shown));
            shown.extend(&more[..len]);
        }
    }

    /// What is shown from here on, and the exit code.
    fn end(mut self) -> (String, Option<i32>) {
        drop(self.keys);
        let mut after = String::new();
        self.screen.read_to_string(&mut after).unwrap();
        (after, self.terminal.wait().unwrap().code())
    }
}

/// The keys that end programs.
const ENDINGS: [(u8, &str); 3] = [(b'\x03', "Ctrl-C"), (b'\x1a', "Ctrl-Z"), (b'\x1c', "Ctrl-\\")];

/// A component is on the screen when its custodian gives up, by the key that ends programs.
#[test]
fn whoever_gives_up_leaves_nothing_on_the_screen_and_a_record() {
    let vault = Vault::open();
    let objects = vault.server.hsm_objects();
    let [aiko, _] = &vault.people;
    for (key, name) in ENDINGS {
        let mut held = AtTerminal::begin(&vault);
        held.press(format!("{}\n{}\n", aiko.certificate.display(), aiko.key.display()).as_bytes());
        held.until("Press Enter when it is on paper");
        held.press(&[key]);
        let (after, code) = held.end();
        assert_eq!(code, Some(1), "{name}: {after}");
        assert!(after.contains("\x1b[2J\x1b[3J") && after.contains("the ceremony was given up"), "{name}: {after:?}");
        let last = vault.server.audit_records();
        let last = last.iter().rev().find(|record| record["kind"] == "ceremony.abandoned");
        assert_eq!(last.unwrap()["cause"], "the ceremony was given up", "{name}");
    }
    // Whoever stops the program from outside.
    let mut held = vault.server.begin_ceremony("till-2026", &[]);
    held.stderr.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
    assert!(Command::new("kill").arg(held.id().to_string()).status().unwrap().success());
    let held = held.wait_with_output().unwrap();
    assert_eq!(held.status.code(), Some(1), "{}", last_line(&held));
    let records = vault.server.audit_records();
    assert_eq!(records.iter().filter(|record| record["kind"] == "ceremony.abandoned").count(), 4);
    assert_eq!(vault.server.hsm_objects(), objects);
}

/// There the terminal sends these keys as they are, and shows nothing: it must be as before afterwards.
#[test]
fn the_keys_that_end_programs_end_a_hidden_question_too() {
    let vault = Vault::open();
    let [aiko, _] = &vault.people;
    for (key, name) in ENDINGS {
        let mut held = AtTerminal::begin(&vault);
        held.press(format!("{}\n{}\n", aiko.certificate.display(), aiko.key.display()).as_bytes());
        held.until("Press Enter when it is on paper");
        held.press(b"\n");
        held.until("(not shown):");
        // What comes before the terminal is silent would be a signal.
        std::thread::sleep(Duration::from_millis(300));
        held.press(&[key, b'\n']);
        let (after, code) = held.end();
        assert!(!after.contains("Not taken"), "{name} is part of an answer: {after:?}");
        assert!(after.contains("the ceremony was given up"), "{name}: {after:?}");
        assert_eq!(code, Some(1), "{name}: {after}");
        let left: Vec<&str> = after.split_whitespace().collect();
        assert!(["isig", "icanon", "echo"].iter().all(|mode| left.contains(mode)), "{name}: {after}");
    }
    let records = vault.server.audit_records();
    assert_eq!(records.iter().filter(|record| record["kind"] == "ceremony.abandoned").count(), ENDINGS.len());
}

/// As a ceremony leaves things that is cut off between its steps.
#[tokio::test(flavor = "multi_thread")]
async fn a_ceremony_cut_off_at_its_end_is_held_again() {
    let vault = Vault::open();
    let objects = vault.server.hsm_objects();
    assert!(vault.server.ceremony("till-2026", &vault.script()).status.success());
    // Cut off before the transcript was written.
    std::fs::remove_file(vault.server.transcript("till-2026")).unwrap();
    let held = vault.server.ceremony("till-2026", &vault.script());
    assert!(held.status.success(), "{}", last_line(&held));
    assert_eq!(vault.server.hsm_objects(), objects + 1);
    // The key is registered: components of another are not taken for it.
    std::fs::remove_file(vault.server.transcript("till-2026")).unwrap();
    let papers = Paper::two(OTHER_KEY, FIRST);
    let said: String = vault.people.iter().zip(&papers).map(|(person, paper)| answers(person, paper)).collect();
    let other = vault.server.ceremony("till-2026", &(said + &aes_kcv(OTHER_KEY) + "\n"));
    assert_eq!(other.status.code(), Some(1));
    assert!(last_line(&other).contains("is registered already, and is another one"), "{}", last_line(&other));
    let drawn = vault.server.ceremony_with("till-2026", &["--from", "drawn"], "");
    assert!(last_line(&drawn).contains("hold its ceremony again --from components"), "{}", last_line(&drawn));
    // A registry that was lost does not make the slot's key anybody's.
    database::execute(&vault.url(), "DELETE FROM bdk WHERE id = 'till-2026'").await;
    let orphan = vault.server.ceremony("till-2026", &vault.script());
    assert!(last_line(&orphan).contains("a key under this label that no registry knows"), "{}", last_line(&orphan));
    assert_eq!(vault.server.hsm_objects(), objects + 1);
    // What is shown is not told to whoever states another: retyped, it would compare nothing.
    let wrong = vault.server.operate(&["key", "register", "till-2026", "--kcv", &aes_kcv(OTHER_KEY)]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(last_line(&wrong).contains("has another check value"), "{}", last_line(&wrong));
    assert!(!last_line(&wrong).contains(&aes_kcv(KEY)), "{}", last_line(&wrong));
    let unseen = vault.server.operate(&["key", "register", "till-2026", "--kcv-compared"]);
    assert!(last_line(&unseen).contains("shows the key's check value"), "{}", last_line(&unseen));
    // The short kind stands on older papers, in groups, and is what many HSMs show.
    let key = KeyBytes::copied(&hex::decode(KEY).unwrap()).unwrap();
    let short = Kcv::aes(&key).to_string();
    vault.server.operated(&["key", "register", "till-2026", "--kcv", &format!("{} {}", &short[..4], &short[4..])]);
    assert!(vault.knows("till-2026"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_start_with_other_keys_than_the_registry_has() {
    let vault = Vault::open();
    let says = |environment: &[(&str, &str)], code: i32, text: &str| {
        let (exit, last) = vault.refused_start(environment);
        assert!(exit == Some(code) && last.contains(text), "{text}: {exit:?} {last}");
    };
    let live = [("WARIFU__SERVER__ENVIRONMENT", "live")];
    says(&[], 2, "the key till-2026 is not in the registry: `warifu key register till-2026` puts it there");
    vault.server.load_bdk(&vault.people, "till-2026", KEY, FIRST);
    says(&live, 2, "the key TEST-aes-128 is a test key, and this is a live server");
    database::execute(&vault.url(), "UPDATE bdk SET environment = 'live'").await;
    says(&[], 2, "the key TEST-aes-128 is a live key, and this is a test server");
    says(&live, 2, "the key TEST-aes-128 is a published test key, which a live server never uses");
    database::execute(&vault.url(), "UPDATE bdk SET environment = 'test'").await;

    // Two labels swapped in the slot are as two rows swapped in the registry.
    let proof = |id: &str| format!("SELECT proof FROM bdk WHERE id = '{id}'");
    let [one, other] = [
        database::ask(&vault.url(), &proof("TEST-aes-128")).await,
        database::ask(&vault.url(), &proof("till-2026")).await,
    ];
    let set = async |id: &str, proof: &str| {
        let statement = format!("UPDATE bdk SET proof = '{proof}' WHERE id = '{id}'");
        database::execute(&vault.url(), &statement).await;
    };
    // No two rows have the same proof, not for a moment.
    set("till-2026", NOBODYS).await;
    set("TEST-aes-128", &other).await;
    set("till-2026", &one).await;
    says(&[], 3, "it is the key registered as till-2026: labels were swapped");
    set("till-2026", NOBODYS).await;
    set("TEST-aes-128", &one).await;
    says(&[], 3, "the key labelled \"warifu/bdk/till-2026\" is not the registered one");
    set("till-2026", &other).await;

    database::execute(&vault.url(), "UPDATE bdk SET bits = 256 WHERE id = 'till-2026'").await;
    says(&[], 2, "the key till-2026 is registered with another scheme or length");
    database::execute(&vault.url(), "UPDATE bdk SET bits = 128 WHERE id = 'till-2026'").await;

    // Merchants' keys that another vault root has wrapped are as another vault root in the slot.
    vault.server.operated(&["merchant", "add", "second-shop"]);
    database::execute(&vault.url(), "CREATE TABLE kept AS SELECT id, wrapped_vault_key AS blob FROM merchant").await;
    database::execute(&vault.url(), "UPDATE merchant SET wrapped_vault_key = zeroblob(40) WHERE id <> 'second-shop'")
        .await;
    vault.server.operated(&["merchant", "add", "one-spoiled-row-stops-nobody"]);
    database::execute(&vault.url(), "UPDATE merchant SET wrapped_vault_key = zeroblob(40)").await;
    let other_root = "the key labelled \"warifu/vault-root\" must not be used: it is not the one merchants' vault keys";
    says(&[], 3, other_root);
    let third = vault.server.operate(&["merchant", "add", "third-shop"]);
    assert_eq!(third.status.code(), Some(3));
    assert!(last_line(&third).contains(other_root), "{}", last_line(&third));
    let back = "UPDATE merchant SET wrapped_vault_key = kept.blob FROM kept WHERE kept.id = merchant.id";
    database::execute(&vault.url(), back).await;

    // SoftHSM's own tool makes keys that may do everything.
    vault.server.configure_bdk("too-able", 128, "hardware");
    let dir = vault.server.dir();
    std::fs::write(dir.join("key.bin"), hex::decode(OTHER_KEY).unwrap()).unwrap();
    let pin = std::fs::read_to_string(dir.join("hsm-pin")).unwrap();
    let mut tool = Command::new("softhsm2-util");
    tool.args(["--import", "key.bin", "--aes", "--token", "warifu-dev", "--label", "warifu/bdk/too-able"]);
    tool.args(["--id", "0A", "--pin", pin.trim()]).current_dir(dir).env("SOFTHSM2_CONF", dir.join("softhsm2.conf"));
    let imported = tool.output().unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let register = vault.server.operate(&["key", "register", "too-able"]);
    assert_eq!(register.status.code(), Some(3));
    assert!(last_line(&register).contains("must not be used"), "{}", last_line(&register));
    let row = "INSERT INTO bdk (id, purpose, scheme, environment, proof, state, merchant_id, kcv, bits, \
               created_at_ms, activated_at_ms, expires_at_ms) SELECT 'too-able', purpose, scheme, environment, 'FFEEDDCCBBAA99887766554433221100', state, merchant_id, kcv, bits, \
               created_at_ms, activated_at_ms, expires_at_ms FROM bdk WHERE id = 'till-2026'";
    database::execute(&vault.url(), row).await;
    says(&[], 3, "CKA_ENCRYPT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_within_a_second_on_both_servers_of_a_store() {
    let home = folder();
    let options = Options { store_url: Some(database::fresh_postgres().await), ..Options::default() };
    let one = Server::dev(&home.path().join("server"), &options);
    let environment = vec![
        ("WARIFU__SERVER__INSTANCE".to_owned(), "second".to_owned()),
        ("WARIFU__ACQUIRER__JOURNAL".to_owned(), "second.jsonl".to_owned()),
    ];
    let two = Server::serve(one.dir(), &one.about, &Options { environment, ..Options::default() });
    one.add_device(&NewDevice { window: "64", ..keypad("kp-1r", TILL_KSN) });
    let tills = [Till::of(&one).await, Till::of(&two).await];
    let mut device = Sealer::aes(TILL_KSN);
    for (number, till) in tills.iter().enumerate() {
        till.tokenize(&format!("before-{number}"), &device.keyed(VISA)).await.unwrap();
    }

    let begun = Instant::now();
    let server = std::thread::scope(|scope| {
        let revoking = scope.spawn(|| one.operated(&["key", "deactivate", "TEST-aes-128", "--compromised"]));
        wait_for(Duration::from_secs(10), || revoking.is_finished().then_some(()));
        revoking.join().unwrap()
    });
    assert!(server.contains("deactivated") && begun.elapsed() < Duration::from_secs(5));
    // The command has returned: from now on no server opens a frame.
    for (number, till) in tills.iter().enumerate() {
        let no = till.tokenize(&format!("after-{number}"), &device.keyed(VISA)).await.unwrap_err();
        assert_eq!((no.reason.as_str(), no.retry.as_str()), ("KEY_NOT_ACTIVE", "no"));
    }
    let back = one.operate(&["key", "activate", "TEST-aes-128"]);
    assert_eq!(back.status.code(), Some(1));
    assert!(last_line(&back).contains("it can become: destroyed"), "{}", last_line(&back));
    let said = one.audit_records().iter().any(|record| record["cause"] == "key became deactivated: compromised");
    assert!(said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_end_is_near_is_told_of_and_still_used() {
    let home = folder();
    let mut server = Server::dev(&home.path().join("server"), &Options::default());
    assert_eq!(server.terminate(Duration::from_secs(15)), Some(0));
    let url = format!("sqlite://{}", server.dir().join("warifu.db").display());
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() + 864_000_000;
    database::execute(&url, &format!("UPDATE bdk SET expires_at_ms = {soon} WHERE id = 'TEST-aes-128'")).await;
    let server = Server::serve(server.dir(), &server.about, &Options::default());
    server.add_device(&keypad("kp-1e", TILL_KSN));
    let page: Value = wait_for(Duration::from_secs(5), || {
        let page: Value = serde_json::from_str(&server.http("/healthz").1).unwrap();
        (!page["keys"].as_array().unwrap().is_empty()).then_some(page)
    });
    let warnings = page["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning == "the key TEST-aes-128 is to be replaced in 9 days"), "{page}");
    let metrics = server.http("/metrics").1;
    assert!(metrics.lines().any(|line| line.starts_with("warifu_key_expires_seconds{key=\"TEST-aes-128\"} 86")));
    let till = Till::of(&server).await;
    till.tokenize("still", &Sealer::aes(TILL_KSN).keyed(VISA)).await.unwrap();
}

const FACILITY: &str = "3B7E151628AED2A6ABF7158809CF4F3C603DEB1015CA71BE2B73AEF0857D7781";
const FACILITY_FIRST: &str = "A0B1C2D3E4F5061728394A5B6C7D8E9FA1B2C3D4E5F60718293A4B5C6D7E8F90";

#[test]
fn an_initial_key_leaves_once_in_a_block_that_a_device_takes() {
    let vault = Vault::open();
    vault.server.load_bdk(&vault.people, "till-2026", KEY, FIRST);
    let papers = Paper::two(FACILITY, FACILITY_FIRST);
    let said: String = vault.people.iter().zip(&papers).map(|(person, paper)| answers(person, paper)).collect();
    let held = vault.server.ceremony_with("factory", &["--kbpk"], &(said + &aes_kcv(FACILITY) + "\n"));
    assert!(held.status.success(), "{}", last_line(&held));
    vault.server.add_device(&NewDevice { bdk: "till-2026", ..keypad("kp-9", KSN) });

    let block = vault.server.dir().join("kp-9.tr31");
    let begin = |out: &std::path::Path, more: &[&str]| {
        let mut command = Command::new(program("warifu"));
        command.args(["key", "export-ik", "--device", "kp-9", "--kbpk", "factory", "--script", "--out"]).arg(out);
        command.args(more).arg("--config").arg(vault.server.dir().join("warifu.toml"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let export = |out: &std::path::Path, more: &[&str], script: &str| {
        let mut export = begin(out, more);
        let _ = export.stdin.take().unwrap().write_all(script.as_bytes());
        export.wait_with_output().unwrap()
    };
    let shows = |person: &Custodian| format!("{}\n{}\n", person.certificate.display(), person.key.display());
    let [aiko, botan] = &vault.people;
    let early = export(&block, &[], &shows(aiko));
    assert!(last_line(&early).contains("the key factory is pre-active"), "{}", last_line(&early));
    vault.server.operated(&["key", "activate", "factory"]);
    let first = export(&block, &[], &shows(aiko));
    assert!(first.status.success(), "{}", last_line(&first));

    let second = vault.server.dir().join("again.tr31");
    let refused = export(&second, &[], &shows(aiko));
    assert!(last_line(&refused).contains("has left already; --again takes a second custodian"));
    let alone = export(&second, &["--again"], &(shows(aiko) + &shows(aiko)));
    assert!(last_line(&alone).contains("aiko has taken part already"), "{}", last_line(&alone));
    assert!(!second.exists());
    let together = export(&second, &["--again"], &(shows(aiko) + &shows(botan)));
    assert!(together.status.success(), "{}", last_line(&together));

    // Somebody takes the key out of use while the custodians are on their way.
    let late = vault.server.dir().join("late.tr31");
    let mut waiting = begin(&late, &["--again"]);
    let mut prompt = [0; 1];
    waiting.stderr.as_mut().unwrap().read_exact(&mut prompt).unwrap();
    vault.server.operated(&["key", "suspend", "till-2026"]);
    waiting.stdin.take().unwrap().write_all((shows(aiko) + &shows(botan)).as_bytes()).unwrap();
    let refused = waiting.wait_with_output().unwrap();
    assert!(last_line(&refused).contains("the key till-2026 is suspended"), "{}", last_line(&refused));
    assert!(!late.exists());
    vault.server.operated(&["key", "activate", "till-2026"]);

    // The factory's key and the block are all the device needs.
    let server = Server::serve(vault.server.dir(), &vault.server.about, &Options::default());
    let path = block.to_str().unwrap();
    let device = ["--scheme", "aes", "--ksn", KSN, "--ik-block", path, "--kbpk", FACILITY, "--key-bits", "128"];
    let mut device = stage::Device::start(&device);
    let mut app = stage::OrderApp::start(&server);
    app.attach("kp-9", &device, "native");
    device.say(&format!("key {VISA} 3012 123"));
    app.collect("kp-9", "card");
    let answer = app.authorize("card", "2001", 1200, "telephone");
    assert_eq!(answer["payment"]["outcome"], "authorized", "{answer}");
    let exports: Vec<Value> =
        server.audit_records().into_iter().filter(|record| record["kind"] == "initial_key.exported").collect();
    let causes: Vec<&str> = exports.iter().map(|record| record["cause"].as_str().unwrap()).collect();
    assert_eq!(causes, ["number 1, by aiko", "number 2, by aiko, botan"]);
}

/// It would be refused by the key block itself, after the one export a custodian may make alone was used up.
#[test]
fn an_initial_key_leaves_under_no_weaker_key() {
    let home = folder();
    let mut server = Server::dev(&home.path().join("server"), &Options::default());
    assert_eq!(server.terminate(Duration::from_secs(15)), Some(0));
    let people = ["aiko", "botan"].map(|name| server.add_custodian(name));
    server.configure_bdk("till-256", 256, "hardware");
    server.load_bdk(&people, "till-256", FACILITY, FACILITY_FIRST);
    let papers = Paper::two(KEY, FIRST);
    let said: String = people.iter().zip(&papers).map(|(person, paper)| answers(person, paper)).collect();
    let held = server.ceremony_with("thin", &["--kbpk", "--bits", "128"], &(said + &aes_kcv(KEY) + "\n"));
    assert!(held.status.success(), "{}", last_line(&held));
    server.operated(&["key", "activate", "thin"]);
    server.add_device(&NewDevice { bdk: "till-256", ..keypad("kp-9", KSN) });
    let out = server.dir().join("kp-9.tr31");
    let refused = server.operate(&[
        "key",
        "export-ik",
        "--device",
        "kp-9",
        "--kbpk",
        "thin",
        "--script",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(refused.status.code(), Some(1));
    let why = "thin is weaker than the initial key: 128 bits of 256";
    assert!(last_line(&refused).contains(why), "{}", last_line(&refused));
    assert!(server.audit_records().iter().all(|record| record["kind"] != "initial_key.exported"));
}

/// Rotation of a base derivation key without bringing the devices in.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_moves_to_a_new_key_by_its_update_key() {
    let home = folder();
    let server = Server::dev(&home.path().join("server"), &Options::default());
    let vault = Vault { people: ["aiko", "botan"].map(|name| server.add_custodian(name)), server, _home: home };
    let server = &vault.server;
    server.add_device(&keypad("kp-1u", TILL_KSN));
    server.register_device(&keypad("kp-2u", KSN));
    let next = server.dir().join("kp-2u.update");
    let export = |device: &str, update_of: &str, out: &std::path::Path, more: &[&str]| {
        let mut command = Command::new(program("warifu"));
        command.args(["key", "export-ik", "--device", device, "--update-of", update_of, "--script", "--out"]).arg(out);
        command.args(more).arg("--config").arg(server.dir().join("warifu.toml"));
        let mut export = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let person = &vault.people[0];
        let said = format!("{}\n{}\n", person.certificate.display(), person.key.display());
        let _ = export.stdin.take().unwrap().write_all(said.as_bytes());
        export.wait_with_output().unwrap()
    };
    for (device, of, why) in [
        ("kp-1u", "kp-1u", "has this initial key already"),
        ("kp-2u", "nobody", "there is no device nobody"),
        ("kp-2u", "reader-tdes", "there is no device reader-tdes"),
    ] {
        let refused = export(device, of, &server.dir().join("no"), &[]);
        assert_eq!(
            (refused.status.code(), last_line(&refused).contains(why)),
            (Some(1), true),
            "{}",
            last_line(&refused)
        );
    }
    let sealed = export("kp-2u", "kp-1u", &next, &[]);
    assert!(sealed.status.success(), "{}", last_line(&sealed));

    let mut device = stage::Device::start(&["--scheme", "aes", "--ksn", TILL_KSN, "--bdk", stage::AES_BDK]);
    let mut app = stage::OrderApp::start(server);
    app.attach("kp", &device, "native");
    let mut sale = |device: &mut stage::Device, order: &str| {
        device.say(&format!("key {VISA} 3012 123"));
        app.collect("kp", order);
        app.authorize(order, order, 1200, "telephone")
    };
    let before = sale(&mut device, "1");
    assert!(device.say(&format!("update @{}", next.display())).contains("5EA2C400C0FFEE01"));
    // The new identity is taken into use, the old one out of it.
    let early = sale(&mut device, "2");
    assert_eq!(early["refused"]["reason"], "DEVICE_NOT_ACTIVE", "{early}");
    server.operated(&["device", "activate", "kp-2u"]);
    server.operated(&["device", "retire", "kp-1u"]);
    let after = sale(&mut device, "3");
    assert_eq!(after["payment"]["outcome"], "authorized", "{after}");
    assert_eq!(after["payment"]["card"]["token"], before["payment"]["card"]["token"]);
    let retired = export("kp-2u", "kp-1u", &server.dir().join("late"), &["--again"]);
    assert!(last_line(&retired).contains("the device kp-1u is retired"), "{}", last_line(&retired));
    let told = server.audit_records().into_iter().filter(|record| record["kind"] == "initial_key.exported");
    let told: Vec<_> = told.map(|record| (record["device"].clone(), record["key"].clone())).collect();
    assert_eq!(told.last().unwrap(), &("kp-2u".into(), "update key of kp-1u".into()));
}

#[test]
fn a_key_the_hsm_makes_is_known_to_nobody_and_is_destroyed_by_two() {
    let vault = Vault::open();
    let before = vault.server.hsm_objects();
    let shows = |person: &Custodian| format!("{}\n{}\n", person.certificate.display(), person.key.display());
    let [aiko, botan] = &vault.people;
    let both = shows(aiko) + &shows(botan);
    let held = vault.server.ceremony_with("till-2026", &["--from", "hsm"], &both);
    assert!(held.status.success(), "{}", last_line(&held));
    assert_eq!(vault.server.hsm_objects(), before + 1);
    vault.server.operated(&["key", "activate", "till-2026"]);

    let destroy = |transcript: &str, script: &str| {
        let mut command = Command::new(program("warifu"));
        command.args(["key", "destroy", "till-2026", "--script", "--transcript"]);
        command.arg(vault.server.dir().join(transcript)).arg("--config").arg(vault.server.dir().join("warifu.toml"));
        let mut destroy = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = destroy.stdin.take().unwrap().write_all(script.as_bytes());
        destroy.wait_with_output().unwrap()
    };
    let active = destroy("gone", &both);
    assert!(last_line(&active).contains("it can become: suspended, deactivated"), "{}", last_line(&active));
    vault.server.operated(&["key", "deactivate", "till-2026"]);
    let looked_for = destroy("gone", &both);
    assert!(last_line(&looked_for).contains("take its [[bdk]] out"), "{}", last_line(&looked_for));
    let config = vault.server.dir().join("warifu.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let (without, _) = text.rsplit_once("[[bdk]]").unwrap();
    std::fs::write(&config, without).unwrap();
    let alone = destroy("gone", &(shows(aiko) + &shows(aiko)));
    assert!(last_line(&alone).contains("aiko has taken part already"), "{}", last_line(&alone));
    assert_eq!(vault.server.hsm_objects(), before + 1);
    let gone = destroy("gone", &both);
    assert!(gone.status.success(), "{}", last_line(&gone));
    assert_eq!(vault.server.hsm_objects(), before);
    std::fs::write(&config, &text).unwrap();
    let again = vault.server.ceremony_with("till-2026", &["--from", "hsm"], &both);
    assert!(last_line(&again).contains("a new key takes a new id"), "{}", last_line(&again));
    let path = vault.server.dir().join("gone");
    let text = vault.server.operated(&["key", "transcript", "verify", path.to_str().unwrap()]);
    assert!(text.contains("destroyed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_token_gets_its_service_keys_from_two_people_once() {
    let vault = Vault::open();
    let dir = vault.server.dir();
    let pin = std::fs::read_to_string(dir.join("hsm-pin")).unwrap();
    let mut tool = Command::new("softhsm2-util");
    tool.args(["--init-token", "--free", "--label", "empty", "--so-pin", "12345678", "--pin", pin.trim()]);
    let made = tool.env("SOFTHSM2_CONF", dir.join("softhsm2.conf")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let before = vault.server.hsm_objects();
    let init = |transcript: &str, people: &[&Custodian]| {
        let script: String =
            people.iter().map(|who| format!("{}\n{}\n", who.certificate.display(), who.key.display())).collect();
        let mut command = Command::new(program("warifu"));
        command.args(["key", "init", "--script", "--transcript"]).arg(dir.join(transcript));
        command.arg("--config").arg(dir.join("warifu.toml")).env("WARIFU__HSM__TOKEN_LABEL", "empty");
        let mut init = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = init.stdin.take().unwrap().write_all(script.as_bytes());
        init.wait_with_output().unwrap()
    };
    let [aiko, botan] = &vault.people;
    // Labels are free where the keys that were there are retired, too.
    let known = init("known", &[aiko, botan]);
    assert_eq!(known.status.code(), Some(1));
    assert!(last_line(&known).contains("this registry has vault keys already"), "{}", last_line(&known));
    assert_eq!(vault.server.hsm_objects(), before);
    database::execute(&vault.url(), "DELETE FROM vault_generation").await;
    let alone = init("alone", &[aiko, aiko]);
    assert!(last_line(&alone).contains("nothing was left behind"), "{}", last_line(&alone));
    assert_eq!(vault.server.hsm_objects(), before);
    let done = init("done", &[aiko, botan]);
    assert!(done.status.success(), "{}", last_line(&done));
    assert_eq!(vault.server.hsm_objects(), before + 4, "two secrets and a pair");
    let path = dir.join("done");
    let text = vault.server.operated(&["key", "transcript", "verify", path.to_str().unwrap()]);
    assert!(text.contains("token \"empty\"") && text.contains("botan"), "{text}");
    let again = init("again", &[aiko, botan]);
    assert_eq!(again.status.code(), Some(1));
    assert!(last_line(&again).contains("the token has these keys already"), "{}", last_line(&again));
}

type Keeper = KeyServiceClient<tonic::transport::Channel>;

/// A person at the network, with a certificate.
async fn at_the_network(server: &Server, person: &Custodian) -> Keeper {
    let read = |file: &std::path::Path| std::fs::read_to_string(file).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&server.file("ca"))))
        .identity(Identity::from_pem(read(&person.certificate), read(&person.key)))
        .domain_name("localhost");
    let channel = Endpoint::from_shared(server.url()).unwrap().tls_config(tls).unwrap().connect().await.unwrap();
    KeyServiceClient::new(channel)
}

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_keys_and_two_custodians_change_one_over_the_network() {
    let home = folder();
    let server = Server::dev(&home.path().join("server"), &Options::default());
    server.add_device(&keypad("kp-1n", TILL_KSN));
    let [aiko, botan] = ["aiko", "botan"].map(|name| server.add_custodian(name));
    let files = server.issue("olga");
    server.operated(&["custodian", "add", "olga", "--operator", "--cert", files.certificate.to_str().unwrap()]);
    let olga = Custodian { name: "olga".to_owned(), certificate: files.certificate, key: files.key };
    let module = Custodian {
        name: "the till".to_owned(),
        certificate: server.file("module_cert"),
        key: server.file("module_key"),
    };

    let mut operator = at_the_network(&server, &olga).await;
    let keys = operator.list_keys(v1::ListKeysRequest {}).await.unwrap().into_inner().keys;
    let ids: Vec<(&str, v1::KeyState)> = keys.iter().map(|key| (key.id.as_str(), key.state())).collect();
    assert_eq!(ids, [("TEST-aes-128", v1::KeyState::Active), ("TEST-tdes", v1::KeyState::Active)]);
    let suspend = || v1::ChangeKeyRequest {
        key: "TEST-aes-128".to_owned(),
        to: v1::KeyState::Suspended.into(),
        compromised: false,
    };
    assert_eq!(reason(&operator.change_key(suspend()).await.unwrap_err()), "NOT_PERMITTED");
    let stranger = at_the_network(&server, &module).await.list_keys(v1::ListKeysRequest {}).await.unwrap_err();
    assert_eq!((reason(&stranger).as_str(), stranger.code()), ("NOT_PERMITTED", tonic::Code::PermissionDenied));

    let (mut one, mut other) = (at_the_network(&server, &aiko).await, at_the_network(&server, &botan).await);
    for wrong in [
        v1::ChangeKeyRequest { key: "nobody".to_owned(), ..suspend() },
        v1::ChangeKeyRequest { to: v1::KeyState::Destroyed.into(), ..suspend() },
        v1::ChangeKeyRequest { compromised: true, ..suspend() },
    ] {
        let expected = if wrong.key == "nobody" { "KEY_UNKNOWN" } else { "KEY_MOVE_ILLEGAL" };
        assert_eq!(reason(&one.change_key(wrong).await.unwrap_err()), expected);
    }
    let till = Till::of(&server).await;
    let mut device = Sealer::aes(TILL_KSN);
    // One custodian, however often, is one.
    for _ in 0..2 {
        let proposed = one.change_key(suspend()).await.unwrap().into_inner();
        assert!(!proposed.changed && proposed.custodians == ["aiko"]);
    }
    till.tokenize("still", &device.keyed(VISA)).await.unwrap();
    // Another change is another proposal.
    let deactivate = v1::ChangeKeyRequest { to: v1::KeyState::Deactivated.into(), ..suspend() };
    assert!(!other.change_key(deactivate).await.unwrap().into_inner().changed);
    assert!(!one.change_key(suspend()).await.unwrap().into_inner().changed);
    let done = other.change_key(suspend()).await.unwrap().into_inner();
    assert!(done.changed && done.custodians == ["aiko", "botan"], "{done:?}");
    assert_eq!(done.key.unwrap().state(), v1::KeyState::Suspended);
    let no = till.tokenize("stopped", &device.keyed(VISA)).await.unwrap_err();
    assert_eq!(no.reason, "KEY_NOT_ACTIVE");

    // A proposal waits for ten minutes, and a custodian who was blocked seconds nothing.
    let resume = || v1::ChangeKeyRequest { to: v1::KeyState::Active.into(), ..suspend() };
    assert!(!one.change_key(resume()).await.unwrap().into_inner().changed);
    let url = format!("sqlite://{}", server.dir().join("warifu.db").display());
    database::execute(&url, "UPDATE key_proposal SET at_ms = at_ms - 600000").await;
    assert!(!other.change_key(resume()).await.unwrap().into_inner().changed);
    database::execute(&url, "DELETE FROM key_proposal").await;
    assert!(!one.change_key(resume()).await.unwrap().into_inner().changed);
    server.operated(&["custodian", "block", "aiko"]);
    let second = other.change_key(resume()).await.unwrap().into_inner();
    assert!(!second.changed && second.custodians == ["botan"], "the wish of somebody blocked counts no more");
    assert_eq!(reason(&one.change_key(resume()).await.unwrap_err()), "NOT_PERMITTED");
    let told: Vec<String> = server
        .audit_records()
        .iter()
        .filter(|record| record["key"] == "TEST-aes-128")
        .filter_map(|record| record["cause"].as_str().map(str::to_owned))
        .collect();
    assert!(told.contains(&"key to become suspended, proposed by aiko".to_owned()), "{told:?}");
    assert!(told.contains(&"key became suspended, by aiko and botan".to_owned()), "{told:?}");
    assert!(told.contains(&"the caller may not do this, asked by olga".to_owned()), "{told:?}");
}
