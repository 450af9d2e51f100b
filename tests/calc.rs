//! `warifu calc` gives what is published, and refuses what cannot be: every vector that its commands cover.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "calc/keyblock.rs"]
mod keyblock;
mod stage;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use stage::program;

fn vectors(file: &str) -> Vec<Value> {
    let path = format!("{}/core/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let records = file["records"].as_array().unwrap().clone();
    assert_eq!(file["count"], records.len(), "every record is read");
    records
}

fn calc(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program("warifu"));
    command.arg("calc").args(arguments).arg("--json");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// What it computes; it must.
fn computed(what: &str, arguments: &[&str], input: &[u8]) -> Value {
    let output = calc(arguments, input);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what}: {arguments:?}: {said}");
    if arguments.iter().any(|argument| ["--bdk", "--ik", "--kbpk"].contains(argument)) {
        assert!(said.contains("TEST"), "{what}: it says what keys are for it");
    }
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// What it says when it refuses; it must, with its own exit code.
fn refused(what: &str, arguments: &[&str], input: &[u8]) -> String {
    ended(1, what, arguments, input)
}

/// What it says of a command line it cannot follow; it must, with its own exit code.
fn misused(what: &str, arguments: &[&str]) -> String {
    // No input could be right.
    ended(2, what, arguments, b"")
}

fn ended(code: i32, what: &str, arguments: &[&str], input: &[u8]) -> String {
    let output = calc(arguments, input);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{what}: {arguments:?}: {said}");
    assert_eq!(output.stdout, b"", "{what}: a refusal has no answer");
    said
}

fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap_or_else(|| panic!("{}: {field}", record["id"]))
}

/// Counts what ran, so that a kind nobody reads is seen.
#[derive(Default)]
struct Ran(BTreeMap<String, usize>);

impl Ran {
    fn count(&mut self, record: &Value) {
        *self.0.entry(text(record, "kind").to_owned()).or_default() += 1;
    }
}

/// The vectors name usages as the standard does, the command as people do.
fn aes_usage(usage: &str) -> String {
    match usage {
        "pin_encryption" => "pin".to_owned(),
        "data_encrypt" => "data-encryption".to_owned(),
        "data_decrypt" => "data-decryption".to_owned(),
        "key_encryption_key" => "key-encryption".to_owned(),
        other => other.replace('_', "-"),
    }
}

#[test]
fn aes_dukpt_gives_what_is_published() {
    let mut ran = Ran::default();
    for record in vectors("aes_dukpt") {
        let what = text(&record, "id");
        match text(&record, "kind") {
            "aes_dukpt_initial_key" => {
                let ksn = format!("{}00000001", text(&record, "initial_key_id"));
                let key =
                    computed(what, &["dukpt", "--scheme", "aes", "--bdk", text(&record, "bdk"), "--ksn", &ksn], b"");
                assert_eq!(key["ik"], record["initial_key"], "{what}");
            }
            "aes_dukpt_derivation_key" => {
                let arguments = ["--ik", text(&record, "initial_key"), "--ksn", text(&record, "ksn")];
                let key = computed(what, &[&["dukpt", "--scheme", "aes"], &arguments[..]].concat(), b"");
                assert_eq!(key["derivation_key"], record["derivation_key"], "{what}");
            }
            "aes_dukpt_working_key" => {
                let usage = aes_usage(text(&record, "usage"));
                let key_type = text(&record, "key_type").to_lowercase();
                let mut arguments = vec!["dukpt", "--scheme", "aes", "--ik", text(&record, "initial_key")];
                arguments.extend(["--ksn", text(&record, "ksn"), "--usage", &usage, "--type", &key_type]);
                let key = computed(what, &arguments, b"");
                assert_eq!(key["working_key"], record["working_key"], "{what}");
            }
            "aes_dukpt_working_key_series" => {
                let (usage, key_type) = (aes_usage(text(&record, "usage")), text(&record, "key_type").to_lowercase());
                for (counter, expected) in
                    (record["first_counter"].as_u64().unwrap()..).zip(record["keys"].as_array().unwrap())
                {
                    let ksn = format!("{}{counter:08X}", text(&record, "initial_key_id"));
                    let mut arguments = vec!["dukpt", "--scheme", "aes", "--ik", text(&record, "initial_key")];
                    arguments.extend(["--ksn", &ksn, "--usage", &usage, "--type", &key_type]);
                    assert_eq!(computed(what, &arguments, b"")["working_key"], *expected, "{what}, counter {counter}");
                }
            }
            "aes_ksn80" => {
                let ksn80 = text(&record, "ksn80");
                let key = computed(what, &["dukpt", "--scheme", "aes", "--bdk", stage::AES_BDK, "--ksn", ksn80], b"");
                let counter = record["counter"].as_u64().unwrap();
                assert_eq!(key["ksn"], format!("{}{counter:08X}", text(&record, "initial_key_id")), "{what}");
                assert_eq!(key["counter"], counter, "{what}");
            }
            "aes_counter_advance" => {
                let counter = counter_hex(&record);
                let next = computed(what, &["counter", "--scheme", "aes", "--counter", &counter], b"");
                check_next(&record, &next);
            }
            _ => continue,
        }
        ran.count(&record);
    }
    println!("vectors: calc aes_dukpt {:?}", ran.0);
    assert_eq!(ran.0.values().sum::<usize>(), 107, "{:?}", ran.0);
}

fn counter_hex(record: &Value) -> String {
    let counter = &record["counter"];
    counter.as_str().map_or_else(|| format!("{:X}", counter.as_u64().unwrap()), str::to_owned)
}

fn check_next(record: &Value, answer: &Value) {
    assert_eq!(answer["next_counter"], record["next_counter"], "{}", record["id"]);
    assert_eq!(answer["exhausted"], record["next_counter"].is_null(), "{}", record["id"]);
    assert_eq!(answer["next"] == "exhausted", record["next_counter"].is_null(), "{}", record["id"]);
}

#[test]
fn tdes_dukpt_gives_what_is_published() {
    let mut ran = Ran::default();
    for record in vectors("tdes_dukpt") {
        let what = text(&record, "id");
        let root = match (record["bdk"].as_str(), record["ipek"].as_str()) {
            (Some(bdk), _) => ["--bdk", bdk],
            (None, Some(ik)) => ["--ik", ik],
            (None, None) => ["", ""],
        };
        let with = |usage: &[&str]| -> Value {
            let arguments = [&["dukpt", "--scheme", "tdes", "--ksn", text(&record, "ksn")], &root[..], usage].concat();
            computed(what, &arguments, b"")
        };
        match text(&record, "kind") {
            "tdes_dukpt_transaction" => {
                let key = with(&[]);
                assert_eq!(
                    (&key["ik"], &key["transaction_key"]),
                    (&record["ipek"], &record["transaction_key"]),
                    "{what}"
                );
                for (usage, expected) in record["working_keys"].as_object().unwrap() {
                    let Some(usage) = tdes_usage(usage) else { continue };
                    assert_eq!(with(&["--usage", usage])["working_key"], *expected, "{what}, {usage}");
                }
            }
            "tdes_dukpt_key" => match tdes_usage(text(&record, "key_kind")) {
                Some(usage) => assert_eq!(with(&["--usage", usage])["working_key"], record["key"], "{what}"),
                None => {
                    let key = with(&[]);
                    assert!([&key["ik"], &key["transaction_key"]].contains(&&record["key"]), "{what}: {key}");
                }
            },
            "tdes_dukpt_pin" if record["pin_key"].is_string() => {
                assert_eq!(with(&["--usage", "pin"])["working_key"], record["pin_key"], "{what}");
            }
            "tdes_counter_advance" => {
                let counter = counter_hex(&record);
                let next = computed(what, &["counter", "--scheme", "tdes", "--counter", &counter], b"");
                check_next(&record, &next);
            }
            _ => continue,
        }
        ran.count(&record);
    }
    println!("vectors: calc tdes_dukpt {:?}", ran.0);
    assert_eq!(ran.0.values().sum::<usize>(), 45, "{:?}", ran.0);
}

fn tdes_usage(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "pin" => "pin",
        "mac_request" => "mac-request",
        "mac_response" => "mac-response",
        "data_request" => "data-request",
        "data_response" => "data-response",
        "data_request_variant" => "data-request-variant",
        "data_response_variant" => "data-response-variant",
        _ => return None,
    })
}

#[test]
fn published_device_outputs_are_opened_or_refused() {
    let mut ran = Ran::default();
    for record in vectors("device_output") {
        let what = text(&record, "id");
        let input = match (record["raw_hex"].as_str(), record["raw_text"].as_str()) {
            (Some(hex), _) => hex.as_bytes().to_vec(),
            (None, Some(text)) => text.as_bytes().to_vec(),
            (None, None) => continue,
        };
        match text(&record, "kind") {
            "device_output" | "device_vivotech2" if record["decryptable"] == true => {
                let bdk = text(&record["key"], "bdk");
                let card = computed(what, &["frame", "--bdk", bdk, "-"], &input);
                let pan = card["account_data"]["pan"].as_str().unwrap();
                assert!(
                    (12..=19).contains(&pan.len()) && pan.bytes().all(|digit| digit.is_ascii_digit()),
                    "{what}: {card}"
                );
                assert!(record["plaintext"].to_string().contains(pan), "{what}: {pan} is not what was published");
                let published = &record["plaintext"];
                let track3 = if published["track3"].is_null() { "track3_clear" } else { "track3" };
                for (track, of_sample) in [("track1", "track1"), ("track2", "track2"), ("track3", track3)] {
                    assert_eq!(card["account_data"][track], published[of_sample], "{what}, {track}");
                }
                let parsed = computed(what, &["frame", "--no-key", "-"], &input);
                assert_eq!((&parsed["format"], &parsed["ksn"]), (&card["format"], &card["ksn"]), "{what}");
                assert!(
                    parsed.get("account_data").is_none_or(Value::is_null),
                    "{what}: nothing is opened without a key"
                );
            }
            "device_output_bad" | "device_output_clear" => {
                let said = refused(what, &["frame", "--bdk", stage::TDES_BDK, "-"], &input);
                assert!(said.contains("warifu:"), "{what}: {said}");
            }
            _ => continue,
        }
        ran.count(&record);
    }
    println!("vectors: calc device_output {:?}", ran.0);
    let expected =
        [("device_output", 6), ("device_output_bad", 3), ("device_output_clear", 1), ("device_vivotech2", 1)];
    assert_eq!(ran.0, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
}

const AES_KSN: &str = "123456789012345600000001";
const TDES_KSN: &str = "FFFF9876543210E00001";

fn dukpt<'a>(scheme: &'a str, bdk: &'a str, ksn: &'a str) -> Vec<&'a str> {
    vec!["dukpt", "--scheme", scheme, "--bdk", bdk, "--ksn", ksn]
}

#[test]
fn what_cannot_be_is_refused_with_a_reason_and_an_exit_code_of_its_own() {
    let stronger = [&dukpt("aes", stage::AES_BDK, AES_KSN)[..], &["--type", "aes256"]].concat();
    assert!(refused("stronger working key", &stronger, b"").contains("256"));
    let frame = refused("no frame", &["frame", "--bdk", stage::AES_BDK, "-"], b"00112233");
    assert!(frame.contains("refused:"), "{frame}");
    let long = refused("far too long", &["frame", "--no-key"], &[b'0'; 30_000]);
    assert!(long.contains("longer than any output"), "{long}");
}

#[test]
fn a_command_line_nobody_can_follow_has_an_exit_code_of_its_own() {
    let aes = dukpt("aes", stage::AES_BDK, AES_KSN);
    let tdes = dukpt("tdes", stage::TDES_BDK, TDES_KSN);
    let long_key = [stage::TDES_BDK, &stage::TDES_BDK[..16]].concat();
    let also = |line: &[&'static str], more: &[&'static str]| -> Vec<&'static str> { [line, more].concat() };
    for (what, arguments, said) in [
        ("short KSN", dukpt("aes", stage::AES_BDK, "1234"), "12 bytes"),
        ("KSN without a counter", dukpt("aes", stage::AES_BDK, "1234567890123456"), "12 bytes"),
        ("KSN that is no hex", dukpt("aes", stage::AES_BDK, "XY"), "--ksn: not hex"),
        ("two prefixes", dukpt("aes", stage::AES_BDK, "0x0x1234"), "--ksn: not hex"),
        ("short key", dukpt("aes", "0123", AES_KSN), "16, 24 nor 32"),
        ("key that is no hex", dukpt("aes", "key", AES_KSN), "--bdk: not hex"),
        ("TDES key of 24 bytes", dukpt("tdes", &long_key, TDES_KSN), "16 bytes"),
        ("no key", vec!["dukpt", "--scheme", "aes", "--ksn", AES_KSN], "--bdk"),
        ("two keys", also(&aes, &["--ik", stage::AES_BDK]), "--ik"),
        ("no such scheme", dukpt("rsa", "00", "00"), "rsa"),
        ("no such usage", also(&aes, &["--usage", "fun"]), "fun"),
        ("usage of TDES", also(&aes, &["--usage", "mac-request"]), "--usage: AES DUKPT has"),
        ("usage of AES", also(&tdes, &["--usage", "data-encryption"]), "--usage: TDES DUKPT has"),
        ("usage of an update key", also(&aes, &["--update-key", "--usage", "pin"]), "--usage"),
        ("no such type", also(&aes, &["--type", "rsa"]), "rsa"),
        ("type for TDES", also(&tdes, &["--type", "aes128"]), "--type"),
        ("TDES update key", also(&tdes, &["--update-key"]), "--update-key"),
        ("no such format", vec!["frame", "--no-key", "--format", "fax"], "fax"),
        ("no such key", vec!["frame", "--no-key", "--key", "master"], "master"),
        ("bad key for a frame", vec!["frame", "--bdk", "key", "/nowhere/at/all"], "--bdk: not hex"),
        ("short key for a frame", vec!["frame", "--ik", "0123", "/nowhere/at/all"], "--ik: a key of 2 bytes"),
        ("signed counter", vec!["counter", "--scheme", "aes", "--counter", "+1"], "not hex"),
        ("two prefixes", vec!["counter", "--scheme", "aes", "--counter", "0x0x1"], "not hex"),
        ("no counter", vec!["counter", "--scheme", "aes", "--counter", ""], "not hex"),
        ("wide counter", vec!["counter", "--scheme", "aes", "--counter", "100000000"], "too large"),
        ("wide TDES counter", vec!["counter", "--scheme", "tdes", "--counter", "200000"], "21 bits"),
    ] {
        let reason = misused(what, &arguments);
        assert!(reason.contains(said), "{what}: {reason}");
    }
}

#[test]
fn hex_arguments_are_taken_as_people_write_them() {
    let plain = computed("plain", &dukpt("tdes", stage::TDES_BDK, TDES_KSN), b"");
    let bdk = format!("0x{}", stage::TDES_BDK.to_lowercase());
    let written = computed("written", &dukpt("tdes", &bdk, " 0XFFFF 9876 5432 10E0 0001"), b"");
    assert_eq!(written, plain);
    for counter in ["FF800", "0x0ff800", "0X0FF800", " 0F F8 00 "] {
        let next = computed(counter, &["counter", "--scheme", "tdes", "--counter", counter], b"");
        assert_eq!((&next["counter"], &next["next"]), (&"0FF800".into(), &"0FF801".into()), "{counter}");
    }
}

#[test]
fn an_update_key_is_described_as_every_other_key() {
    let line = dukpt("aes", stage::AES_BDK, AES_KSN);
    let usual = computed("usual", &line, b"");
    for ksn in [AES_KSN, &AES_KSN[..16]] {
        let line = dukpt("aes", stage::AES_BDK, ksn);
        let update = computed("update key", &[&line[..], &["--update-key"]].concat(), b"");
        for key in usual.as_object().unwrap().keys() {
            assert!(update.get(key).is_some(), "{key} is not said of an update key");
        }
        assert_eq!((&update["ik"], &update["ik_kcv"]), (&usual["ik"], &usual["ik_kcv"]));
        assert_eq!(update["counter"], 0xFFFF_FFFFu32);
        assert_eq!(update["legal_counter"], false);
        assert!(update["note"].as_str().unwrap().contains("update key"));
    }
}

#[test]
fn a_frame_is_read_through_what_editors_put_around_it() {
    for record in vectors("device_output") {
        if record["decryptable"] != true || record["kind"] != "device_output" {
            continue;
        }
        let around: &[(&str, &str)] = match (record["raw_hex"].as_str(), record["raw_text"].as_str()) {
            (Some(_), _) => &[("0x", ""), ("\u{FEFF}", "\r\n"), (" \t0X", " \n\n"), ("\u{FEFF}0x ", "")],
            (None, Some(_)) => &[(" ", ""), ("", " \t\r\n"), ("\u{FEFF}", "\n"), ("\r\n ", "\t")],
            (None, None) => continue,
        };
        let written = record["raw_hex"].as_str().or(record["raw_text"].as_str()).unwrap();
        let arguments = ["frame", "--bdk", text(&record["key"], "bdk")];
        let plain = computed(text(&record, "id"), &arguments, written.as_bytes());
        for (before, behind) in around {
            let read = computed(text(&record, "id"), &arguments, format!("{before}{written}{behind}").as_bytes());
            assert_eq!(read, plain, "{}: {before:?} {behind:?}", record["id"]);
        }
    }
    let spaced = |hex: &str| hex.as_bytes().chunks(2).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
    let record = &vectors("device_output")[0];
    let input = spaced(text(record, "raw_hex"));
    let card = computed("spaced", &["frame", "--bdk", text(&record["key"], "bdk")], input.as_bytes());
    assert_eq!(card["account_data"]["track1"], record["plaintext"]["track1"]);
}
