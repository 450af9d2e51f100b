//! `warifu calc` gives what is published, and refuses what cannot be: every vector that its commands cover.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

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
    if arguments.iter().any(|argument| ["--bdk", "--ik"].contains(argument)) {
        assert!(said.contains("TEST"), "{what}: it says what keys are for it");
    }
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// What it says when it refuses; it must, with its own exit code.
fn refused(what: &str, arguments: &[&str], input: &[u8]) -> String {
    let output = calc(arguments, input);
    assert_eq!(output.status.code(), Some(1), "{what}: {arguments:?}");
    assert_eq!(output.stdout, b"", "{what}: a refusal has no answer");
    String::from_utf8_lossy(&output.stderr).into_owned()
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
    assert_eq!(ran.0.values().sum::<usize>(), 106, "{:?}", ran.0);
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
                for track in ["track1", "track2"] {
                    let (published, said) = (record["plaintext"][track].as_str(), card["account_data"][track].as_str());
                    if let (Some(published), Some(said)) = (published, said) {
                        assert!(
                            published.starts_with(said) && said.len() > 10,
                            "{what}, {track}: {said} is not {published}"
                        );
                    }
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

#[test]
fn what_cannot_be_is_refused_with_a_reason_and_an_exit_code_of_its_own() {
    let aes = ["dukpt", "--scheme", "aes", "--ksn", "123456789012345600000001"];
    let bdk = ["--bdk", stage::AES_BDK];
    for (what, arguments, said) in [
        ("short KSN", vec!["dukpt", "--scheme", "aes", "--ksn", "1234", "--bdk", stage::AES_BDK], "12 bytes"),
        ("KSN that is no hex", vec!["dukpt", "--scheme", "aes", "--ksn", "XY", "--bdk", stage::AES_BDK], "hex"),
        ("short key", [&aes[..], &["--bdk", "0123"]].concat(), "16, 24 nor 32"),
        ("stronger working key", [&aes[..], &bdk, &["--usage", "data-encryption", "--type", "aes256"]].concat(), "256"),
        ("usage of the other scheme", [&aes[..], &bdk, &["--usage", "mac-request"]].concat(), ""),
        (
            "TDES key of 24 bytes",
            vec![
                "dukpt",
                "--scheme",
                "tdes",
                "--ksn",
                "FFFF9876543210E00001",
                "--bdk",
                "0123456789ABCDEFFEDCBA98765432100123456789ABCDEF",
            ],
            "16 bytes",
        ),
        ("counter too wide", vec!["counter", "--scheme", "tdes", "--counter", "FFFFFFFF"], ""),
        ("no frame", vec!["frame", "--bdk", stage::AES_BDK, "-"], ""),
    ] {
        let reason = refused(what, &arguments, b"00112233");
        assert!(reason.contains(said), "{what}: {reason}");
    }
    for (what, arguments) in [
        ("no key", vec!["dukpt", "--scheme", "aes", "--ksn", "123456789012345600000001"]),
        ("two keys", [&aes[..], &bdk, &["--ik", stage::AES_BDK]].concat()),
        ("no such scheme", vec!["dukpt", "--scheme", "rsa", "--ksn", "00", "--bdk", "00"]),
    ] {
        assert_eq!(calc(&arguments, b"").status.code(), Some(2), "{what}: wrong usage has its own code");
    }
}
