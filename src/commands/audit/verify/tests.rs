//! Whatever is done to an export is found and named.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SigningKey as _};

use super::*;

/// An audit key outside any HSM.
struct Signer(KeyPair);

impl Signer {
    fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    fn public(&self) -> String {
        hex::encode(self.0.der_bytes())
    }

    /// r ‖ s out of the DER that certificates use.
    fn sign(&self, message: &[u8]) -> String {
        let der = self.0.sign(message).unwrap();
        let (r_len, r) = (usize::from(der[3]), &der[4..]);
        let (r, rest) = r.split_at(r_len);
        let s = &rest[2..];
        let fixed = |number: &[u8]| {
            let digits = &number[number.len().saturating_sub(32)..];
            let mut bytes = vec![0; 32 - digits.len()];
            bytes.extend(digits);
            bytes
        };
        hex::encode([fixed(r), fixed(s)].concat())
    }
}

fn text(log: &str, seq: u64) -> String {
    format!("{{\"at_ms\":{},\"kind\":\"frame.opened\",\"module\":\"{log}\"}}", 1_795_000_000_000 + seq)
}

/// The lines of an export of two logs with signed heads, sealed.
fn lines(signer: &Signer) -> Vec<Vec<u8>> {
    export(signer, &[("one", 5, 4), ("two", 3, 3)])
}

/// The lines of an export of logs with so many records and a head over so many.
fn export(signer: &Signer, logs: &[(&str, u64, u64)]) -> Vec<Vec<u8>> {
    let extents = logs.iter().map(|(log, records, _)| Extent { log: (*log).to_owned(), records: *records }).collect();
    let mut lines = vec![Line::Preface(Preface { version: VERSION, exported_at_ms: 7, logs: extents }).bytes()];
    for &(log, records, signed) in logs {
        let mut tree = Tree::default();
        for seq in 0..records {
            let record = text(log, seq);
            let leaf = leaf_hash(record.as_bytes());
            tree.append(leaf);
            lines.push(Line::Record(Entry { log: log.to_owned(), seq, leaf: leaf.to_string(), record }).bytes());
            if tree.size() == signed {
                let (root, public_key) = (tree.root().to_string(), signer.public());
                let mut head =
                    Head { log: log.to_owned(), size: signed, root, at_ms: 9, signature: String::new(), public_key };
                head.signature = signer.sign(&head.tree_head().unwrap().signed_bytes());
                lines.push(Line::Head(head).bytes());
            }
        }
    }
    let sha256 = hex::encode(Sha256::digest(lines.concat()));
    let signature = signer.sign(&Seal::signed_bytes(&sha256));
    lines.push(Line::Seal(Seal { sha256, signature, public_key: signer.public() }).bytes());
    lines
}

fn findings(file: &[u8], trusted: &[PublicKey]) -> Vec<&'static str> {
    verify(file, trusted, None).unwrap().findings.iter().map(|finding| finding.kind).collect()
}

fn named(lines: &[Vec<u8>]) -> Vec<&'static str> {
    findings(&lines.concat(), &[])
}

#[test]
fn an_untouched_export_verifies() {
    let signer = Signer::new();
    let file = lines(&signer).concat();
    let report = verify(file.as_slice(), &[PublicKey::parse(&signer.public()).unwrap()], None).unwrap();
    assert!(report.is_clean(), "{}", report.to_json());
    let counts: Vec<_> = report.logs.iter().map(|log| (log.records, log.signed)).collect();
    assert_eq!(counts, [(5, 4), (3, 3)]);
}

#[test]
fn a_change_of_any_byte_is_found() {
    let file = lines(&Signer::new()).concat();
    for place in 0..file.len() {
        for flip in [0x01, 0x20] {
            let mut changed = file.clone();
            changed[place] ^= flip;
            assert!(!findings(&changed, &[]).is_empty(), "byte {place} ^ {flip:#04x}");
        }
    }
}

#[test]
fn a_cut_anywhere_is_found() {
    let file = lines(&Signer::new()).concat();
    for length in 0..file.len() {
        assert!(findings(&file[..length], &[]).contains(&"cut_off"), "cut to {length} bytes");
    }
}

#[test]
fn any_line_dropped_doubled_or_swapped_is_found() {
    let lines = lines(&Signer::new());
    for place in 0..lines.len() {
        let mut dropped = lines.clone();
        dropped.remove(place);
        assert!(!named(&dropped).is_empty(), "line {place} dropped");
        let mut doubled = lines.clone();
        doubled.insert(place, lines[place].clone());
        assert!(!named(&doubled).is_empty(), "line {place} doubled");
        for other in place + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(place, other);
            assert!(!named(&swapped).is_empty(), "lines {place} and {other} swapped");
        }
    }
}

#[test]
fn what_was_done_is_named() {
    // Lines: preface, one 0 1 2 3, head, one 4, two 0 1 2, head, seal.
    let signer = Signer::new();
    let lines = lines(&signer);
    let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        named(&lines)
    };
    let replace =
        |line: &[u8], from: &str, to: &str| String::from_utf8(line.to_vec()).unwrap().replace(from, to).into_bytes();

    assert_eq!(
        with(&|lines| lines[2] = replace(&lines[2], "frame.opened", "frame.closed")),
        ["record_changed", "history_changed", "file_changed"]
    );
    assert_eq!(with(&|lines| drop(lines.remove(2))), ["record_dropped", "file_changed"]);
    assert_eq!(with(&|lines| lines.swap(2, 3))[..2], ["record_dropped", "record_moved"]);
    assert_eq!(with(&|lines| drop(lines.remove(6))), ["file_changed", "cut_off"]);
    assert_eq!(with(&|lines| drop(lines.pop())), ["cut_off"]);
    assert_eq!(
        with(&|lines| lines[5] = replace(&lines[5], "\"at_ms\":9", "\"at_ms\":8")),
        ["head_not_genuine", "file_changed"]
    );
    assert_eq!(with(&|lines| lines.push(lines[1].clone())), ["after_the_seal"]);
}

#[test]
fn a_history_rewritten_with_its_hashes_fails_at_the_signed_head() {
    let signer = Signer::new();
    let mut lines = lines(&signer);
    let record = text("one", 99);
    let leaf = leaf_hash(record.as_bytes()).to_string();
    lines[2] = Line::Record(Entry { log: "one".to_owned(), seq: 1, leaf, record }).bytes();
    assert_eq!(named(&lines), ["history_changed", "file_changed"]);
}

#[test]
fn another_key_is_not_believed() {
    let forged = lines(&Signer::new()).concat();
    let trusted = PublicKey::parse(&Signer::new().public()).unwrap();
    assert_eq!(findings(&forged, &[trusted]), ["head_not_genuine", "head_not_genuine", "seal_not_genuine"]);
}

fn after(signer: &Signer, earlier_logs: &[(&str, u64, u64)], later: &[Vec<u8>]) -> Vec<&'static str> {
    let known = earlier(export(signer, earlier_logs).concat().as_slice(), &[]).unwrap();
    verify(later.concat().as_slice(), &[], Some(known)).unwrap().findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn records_that_the_hsm_never_signed_are_no_proof() {
    let signer = Signer::new();
    assert_eq!(named(&export(&signer, &[("one", 5, 4), ("one-cli", 2, 0)])), ["unsigned"]);
    assert_eq!(named(&export(&signer, &[("one", 5, 4), ("two", 0, 0)])), [""; 0]);
}

#[test]
fn a_log_cut_back_or_rewritten_since_an_earlier_export_is_found() {
    let signer = Signer::new();
    let before = [("one", 5, 4), ("two", 3, 3)];
    assert_eq!(after(&signer, &before, &export(&signer, &[("one", 9, 9), ("two", 3, 3), ("new", 1, 1)])), [""; 0]);
    // Whole in itself, sealed by the right key, and older.
    assert_eq!(after(&signer, &before, &export(&signer, &[("one", 3, 3), ("two", 3, 3)])), ["cut_back"]);
    assert_eq!(after(&signer, &before, &export(&signer, &[("one", 5, 4)])), ["cut_back"]);
    // Other records under a head of the right key: the names of the logs are in their records.
    let mut other = export(&signer, &[("uno", 5, 5), ("two", 3, 3)]);
    for line in &mut other {
        *line = String::from_utf8(line.clone()).unwrap().replace("\"log\":\"uno\"", "\"log\":\"one\"").into_bytes();
    }
    assert!(after(&signer, &before, &other).contains(&"history_changed"));
    // An earlier export that was itself changed proves nothing.
    let mut changed = export(&signer, &before);
    changed.swap(1, 2);
    let known = earlier(changed.concat().as_slice(), &[]).unwrap();
    let report = verify(export(&signer, &before).concat().as_slice(), &[], Some(known)).unwrap();
    assert_eq!(report.findings[0].kind, "previous_unsound");
}

#[test]
fn a_report_says_whose_key_it_trusted() {
    let signer = Signer::new();
    let file = lines(&signer).concat();
    let pinned = PublicKey::parse(&signer.public()).unwrap();
    for (trusted, said, flag) in [(&[][..], "not pinned", false), (&[pinned][..], "pinned", true)] {
        let report = verify(file.as_slice(), trusted, None).unwrap().to_json();
        assert_eq!((&report["verified"], &report["key"]), (&json!(true), &json!(said)));
        assert_eq!(report["key_pinned"], json!(flag));
    }
}
