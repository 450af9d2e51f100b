//! `calc keyblock`: published key blocks are opened and made again, changed ones refused.

use std::process::Command;

use serde_json::{Value, json};

use crate::stage::program;
use crate::{Ran, computed, misused, refused, text, vectors};

const KBPK: &str = "DD7515F2BFC17F85CE48F3CA25CB21F6";
const KEY: &str = "3F419E1CB7079442AA37474C2EFBF8B8";
const BLOCK: &str = "B0080P0TE00E000094B420079CC80BA3461F86FE26EFC4A3B8E4FA4C5F5341176EED7B727B8A248E";

fn opened(what: &str, kbpk: &str, block: &str) -> Value {
    computed(what, &["keyblock", "--kbpk", kbpk, "--block", block], b"")
}

fn made(what: &str, kbpk: &str, header: &str, key: &str, more: &[&str]) -> Value {
    let arguments = ["keyblock", "--wrap", "--kbpk", kbpk, "--header", header, "--key", key];
    computed(what, &[&arguments[..], more].concat(), b"")
}

#[test]
fn published_key_blocks_are_opened_and_made_again_or_refused() {
    let mut ran = Ran::default();
    for record in [vectors("tr31"), vectors("key_blocks")].concat() {
        let what = text(&record, "id");
        match text(&record, "kind") {
            "tr31_unwrap" => {
                let kbpk = text(&record, "kbpk");
                let open = opened(what, kbpk, text(&record, "key_block"));
                for field in ["version", "header", "header_fields", "key", "key_block"] {
                    assert_eq!(open[field], record[field], "{what}: {field}");
                }
                let kcv = record["kcv"].as_str().unwrap_or_default();
                assert!(open["kcv"].as_str().unwrap_or_default().starts_with(kcv), "{what}: {}", open["kcv"]);
                let mut optional = open["optional_blocks"].clone();
                for block in optional.as_array_mut().unwrap() {
                    block.as_object_mut().unwrap().remove("meaning");
                }
                assert_eq!(optional, record["optional_blocks"], "{what}");

                let (header, key) = (text(&record, "header"), text(&record, "key"));
                if let Some(padding) = record["random_pad"].as_str() {
                    let again = made(what, kbpk, header, key, &["--as-is", "--padding", padding]);
                    assert_eq!(again["key_block"], record["key_block"], "{what}");
                }
                let again = made(what, kbpk, header, key, &["--as-is"]);
                assert_eq!(opened(what, kbpk, text(&again, "key_block"))["key"], record["key"], "{what}");
            }
            "tr31_bad_header" => {
                let arguments =
                    ["keyblock", "--wrap", "--kbpk", KBPK, "--header", text(&record, "header"), "--key", KEY];
                let said = misused(what, &arguments);
                assert!(said.contains("--header: optional block "), "{what}: {said}");
            }
            "tr31_tampered" | "tr31_bad_key" => {
                let arguments = ["keyblock", "--kbpk", text(&record, "kbpk"), "--block", text(&record, "key_block")];
                let said = refused(what, &arguments, b"");
                let reasons = ["the key block is not authentic", "the length of the key does not fit"];
                assert!(reasons.iter().any(|reason| said.contains(&format!("refused: {reason}"))), "{what}: {said}");
            }
            other => panic!("{what}: {other}"),
        }
        ran.count(&record);
    }
    println!("vectors: calc keyblock {:?}", ran.0);
    let expected = [("tr31_unwrap", 28), ("tr31_bad_header", 24), ("tr31_tampered", 4), ("tr31_bad_key", 6)];
    assert_eq!(ran.0, expected.map(|(kind, count)| (kind.to_owned(), count)).into());
}

#[test]
fn a_key_block_is_described_in_words() {
    let header = "B0000P0TE00E0200LB0Bbooth 7KS18FFFF9876543210E00000";
    let block = made("made", KBPK, header, KEY, &[]);
    let open = opened("opened", KBPK, text(&block, "key_block"));
    assert_eq!(open["meaning"]["key_usage"], "PIN encryption");
    assert_eq!(open["meaning"]["exportability"], "under a key of X9.24 in a trusted key block");
    let optional = json!([
        {"id": "LB", "data": "booth 7", "meaning": "label"},
        {"id": "KS", "data": "FFFF9876543210E00000", "meaning": "key serial number"},
        {"id": "PB", "data": "0", "meaning": "padding"},
    ]);
    assert_eq!(open["optional_blocks"], optional);
    assert_eq!((&open["key"], &open["kcv"], &open["key_bits"]), (&json!(KEY), &json!("57C409"), &json!(128)));
    assert_eq!((&block["kcv"], &block["warnings"]), (&json!("57C409"), &json!([])));
    let other = made("again", KBPK, header, KEY, &[]);
    assert_ne!(other["key_block"], block["key_block"], "the padding is random");
    assert_eq!(text(&other, "key_block").len(), text(&block, "key_block").len());
}

#[test]
fn the_answer_is_json_without_being_asked() {
    let mut command = Command::new(program("warifu"));
    let output = command.args(["calc", "keyblock", "--kbpk", KBPK, "--block", BLOCK]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["key"], KEY);
}

#[test]
fn a_key_block_that_does_not_open_says_why() {
    let stronger = "3F419E1CB7079442AA37474C2EFBF8B83F419E1CB7079442";
    let weak = made("weak", KBPK, "B0000P0TE00E0000", stronger, &["--as-is"]);
    assert_eq!(weak["warnings"], json!(["the protection key is weaker than the key"]));
    let (longer, other) = (format!("{BLOCK}00"), KBPK.replace("DD75", "DD73"));
    let (mixed, odd) = (BLOCK.replace("9CC8", "9cC8"), BLOCK.replace("B0080", "B0078"));
    for (what, kbpk, block, more, said) in [
        ("weak protection", KBPK, text(&weak, "key_block"), &[][..], "weaker than the key"),
        ("another protection key", &other, BLOCK, &[], "not authentic"),
        ("another usage", KBPK, BLOCK, &["--usage", "D0"], "of usage P0, not D0"),
        ("more text", KBPK, &longer, &[], "says 80 characters, the key block has 82"),
        ("less text", KBPK, &odd, &[], "says 78 characters"),
        ("two cases", KBPK, &mixed, &[], "mixed"),
        ("no key block", KBPK, "hello", &[], "16 characters"),
        ("no such version", KBPK, &BLOCK.replace('B', "F"), &[], "none of A, B, C, D, E"),
    ] {
        let arguments = [&["keyblock", "--kbpk", kbpk, "--block", block], more].concat();
        let reason = refused(what, &arguments, b"");
        assert!(reason.contains("refused: ") && reason.contains(said), "{what}: {reason}");
        assert!(!reason.contains(KEY), "{what}: the key is not told");
    }
    computed("right usage", &["keyblock", "--kbpk", KBPK, "--block", BLOCK, "--usage", "P0"], b"");
}

#[test]
fn what_the_standard_does_not_have_is_not_made() {
    let stronger = "3F419E1CB7079442AA37474C2EFBF8B83F419E1CB7079442";
    for (what, header, key, said) in [
        ("mode", "B0000P0TC00E0000", KEY, "a key of usage P0 has no mode of use C"),
        ("algorithm", "B0000M3AC00E0000", KEY, "a key of usage M3 is not of algorithm A"),
        ("usage", "B0000Z9TC00E0000", KEY, "key usage Z9 is not known"),
        ("hash", "D0000M7HC00N0000", KEY, "without an optional block HM"),
        ("optional block", "B0000P0TE00E0100QQ04", KEY, "the optional block QQ is not known"),
        ("exportability", "B0000P0TE00X0000", KEY, "exportability"),
        ("superseded", "A0000P0TE00E0000", KEY, "version A is read only"),
        ("not of X9.143", "E0000P0TE00E0000", KEY, "version E is read only"),
        ("key length", "B0000P0TE00E0000", "3F419E", "24 bits are no key length of algorithm T"),
        ("weak protection", "B0000P0TE00E0000", stronger, "weaker than the key"),
        ("check value", "B0000P0TE00E0100KC0C00000000", KEY, "KC is not that of the key"),
    ] {
        let arguments = ["keyblock", "--wrap", "--kbpk", KBPK, "--header", header, "--key", key];
        let reason = refused(what, &arguments, b"");
        assert!(reason.contains(said), "{what}: {reason}");
    }
}

#[test]
fn spaces_at_the_end_of_a_header_are_its_own() {
    let block = made("made", KBPK, "B0000P0TE00E0100LB08ab  \r\n", KEY, &[]);
    assert_eq!(block["optional_blocks"][0]["data"], "ab  ");
    assert_eq!(opened("opened", KBPK, text(&block, "key_block"))["optional_blocks"][0]["data"], "ab  ");
}

#[test]
fn a_component_is_told_by_its_number_or_letter() {
    for (version, component) in [("c3", json!("3")), ("cA", json!("A")), ("12", Value::Null)] {
        let block = made(version, KBPK, &format!("B0000P0TE{version}E0000"), KEY, &[]);
        assert_eq!(block["meaning"]["component"], component, "{version}");
    }
}

#[test]
fn a_protection_key_of_equal_parts_makes_nothing_but_as_is() {
    let kbpk = KBPK[..16].repeat(2);
    let arguments = ["keyblock", "--wrap", "--kbpk", &kbpk, "--header", "B0000P0TE00E0000", "--key", KEY];
    let reason = refused("equal parts", &arguments, b"");
    assert!(reason.contains("parts of the protection key are equal: it is worth 56 bits"), "{reason}");
    let block = made("as is", &kbpk, "B0000P0TE00E0000", KEY, &["--as-is"]);
    let told = json!(["parts of the protection key are equal: it is worth 56 bits, less than its length says"]);
    assert_eq!(opened("opened", &kbpk, text(&block, "key_block"))["warnings"], told);
}

#[test]
fn an_hmac_key_may_end_within_a_byte() {
    let kbpk = KBPK.repeat(2);
    let block = made("made", &kbpk, "D0000M7HC00N0100HM0621", "FFE0", &["--bits", "11"]);
    let open = opened("opened", &kbpk, text(&block, "key_block"));
    assert_eq!((&open["key"], &open["key_bits"], &open["kcv"]), (&json!("FFE0"), &json!(11), &Value::Null));
}

#[test]
fn a_command_line_for_key_blocks_that_nobody_can_follow_is_told() {
    let wrap = ["keyblock", "--wrap", "--kbpk", KBPK];
    for (what, arguments, said) in [
        ("nothing to do", &["keyblock", "--kbpk", KBPK][..], "--block"),
        ("no protection key", &["keyblock", "--block", BLOCK], "--kbpk"),
        ("both", &[&wrap[..], &["--block", BLOCK]].concat(), "--block"),
        ("no key", &[&wrap[..], &["--header", "B0000P0TE00E0000"]].concat(), "--key"),
        ("no header", &[&wrap[..], &["--key", KEY]].concat(), "--header"),
        ("short protection key", &["keyblock", "--kbpk", "0123", "--block", BLOCK], "--kbpk: a key of 2 bytes"),
        ("no hex", &["keyblock", "--kbpk", "key", "--block", BLOCK], "--kbpk: not hex"),
        ("of AES alone", &["keyblock", "--kbpk", &KBPK.repeat(2), "--block", BLOCK], "16 or 24 bytes, not 32"),
        ("long usage", &["keyblock", "--kbpk", KBPK, "--block", BLOCK, "--usage", "PIN"], "two characters"),
        ("usage in small letters", &["keyblock", "--kbpk", KBPK, "--block", BLOCK, "--usage", "p0"], "capitals"),
        ("usage of other characters", &["keyblock", "--kbpk", KBPK, "--block", BLOCK, "--usage", "P "], "capitals"),
        ("key no hex", &[&wrap[..], &["--header", "B0000P0TE00E0000", "--key", "key"]].concat(), "--key: not hex"),
        (
            "bits",
            &[&wrap[..], &["--header", "B0000P0TE00E0000", "--key", KEY, "--bits", "8"]].concat(),
            "16 bytes does not have 8 bits",
        ),
    ] {
        let reason = misused(what, arguments);
        assert!(reason.contains(said), "{what}: {reason}");
    }
}
