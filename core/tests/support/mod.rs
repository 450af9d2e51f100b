//! Reads the published vectors under `core/tests/vectors/` and counts what ran, so that an unread record fails.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "each test file uses its part of this; a vector that cannot be read must fail the run"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

/// All records of `vectors/<file>.json`, whose own `count`, and `expected_count`, must be the number read.
pub(crate) fn records(file: &str, expected_count: usize) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(format!("{file}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut whole: Value = serde_json::from_str(&text).unwrap();
    let count = whole["count"].as_u64().unwrap();
    let Value::Array(records) = whole["records"].take() else { panic!("{file}: no list of records") };
    assert_eq!(u64::try_from(records.len()).unwrap(), count, "{file}: its own count");
    assert_eq!(records.len(), expected_count, "{file}: expected count");
    records
}

/// Runs `check` on every record of a file, then asserts and prints how many of each kind ran. `check` must panic
/// on a kind it does not know; `kinds` lists the kinds that must have run and how often.
pub(crate) fn run(file: &str, kinds: &[(&str, usize)], mut check: impl FnMut(&str, &Value)) {
    let total = kinds.iter().map(|(_, count)| count).sum();
    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    for record in records(file, total) {
        let kind = text(&record, "kind");
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(kind, &record)));
        assert!(outcome.is_ok(), "{file}: record {} of kind {kind} failed (its own message is above)", record["id"]);
        *ran.entry(kind.to_owned()).or_default() += 1;
    }
    for (kind, count) in &ran {
        println!("vectors: {file}.json {kind} {count} ran");
    }
    let expected: BTreeMap<String, usize> =
        kinds.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    assert_eq!(ran, expected, "{file}: records per kind");
}

/// A text field that must be there.
pub(crate) fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record[field].as_str().unwrap_or_else(|| panic!("{}: no text field {field}", record["id"]))
}

/// A hex field that must be there.
pub(crate) fn bytes(record: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(record, field)).unwrap_or_else(|error| panic!("{}: {field}: {error}", record["id"]))
}

/// A hex field that may be absent or null.
pub(crate) fn bytes_if_any(record: &Value, field: &str) -> Option<Vec<u8>> {
    record[field].as_str().map(|_| bytes(record, field))
}

/// A whole number that must be there.
pub(crate) fn number(record: &Value, field: &str) -> u64 {
    record[field].as_u64().unwrap_or_else(|| panic!("{}: no number {field}", record["id"]))
}

/// A flag: absent means `default`.
pub(crate) fn flag(record: &Value, field: &str, default: bool) -> bool {
    record[field].as_bool().unwrap_or(default)
}
