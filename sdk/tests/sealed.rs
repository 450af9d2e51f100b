//! The merchant's side cannot hold a clear card: it does not even name a type that could.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Types and modules of the domain that hold or parse clear card data, and the keys that open it.
const FORBIDDEN: [&str; 22] = [
    "Pan",
    "Track1",
    "Track2",
    "Track3",
    "TrackData",
    "Discretionary",
    "AccountData",
    "SecurityCode",
    "Expiry",
    "SecretBytes",
    "WorkingKey",
    "SealedFrame",
    "account_data",
    "track",
    "card::",
    "dukpt",
    "secret",
    "cipher",
    "tlv",
    "reader::parse",
    "reader::idtech",
    "reader::magtek",
];

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The names code uses: without comments, `use` lines of tests included.
fn code(source: &str) -> String {
    source.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn names(code: &str) -> BTreeSet<&str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').collect()
}

#[test]
fn the_sdk_names_no_type_that_can_hold_a_clear_card() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 15, "the sources were not found");
    for (path, source) in &found {
        let code = code(source);
        let names = names(&code);
        for word in FORBIDDEN {
            let there = if word.contains(':') { code.contains(word) } else { names.contains(word) };
            assert!(!there, "{path} names {word}");
        }
    }
}

#[test]
fn the_search_would_find_one() {
    let code = code("use warifu_core::card::Pan; // SecurityCode");
    assert!(names(&code).contains("Pan"));
    assert!(!names(&code).contains("SecurityCode"));
}

#[test]
fn no_message_on_the_wire_has_a_field_for_clear_card_data() {
    let mut protos = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("proto"), &mut protos);
    assert!(!protos.is_empty());
    for (path, source) in &protos {
        for field in code(source).split(|c: char| !c.is_alphanumeric() && c != '_') {
            let clear =
                ["pan", "cvv", "cvc", "cvv2", "track", "track1", "track2", "security_code", "card_number", "expiry"];
            assert!(!clear.contains(&field), "{path} has a field {field}");
        }
    }
}
