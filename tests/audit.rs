//! The audit log: nothing in it can be changed unseen, and without it no frame is opened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use stage::sealer::{Sealer, pan};
use stage::shop::{Shop, TILL_KSN};
use stage::spy::Spy;
use stage::till::phone;
use stage::{Options, database, program, until};

const VISA: &str = "4111111111111111";

/// What `warifu audit verify` says of a file.
struct Verdict {
    code: Option<i32>,
    report: Value,
}

impl Verdict {
    fn of(file: &Path, more: &[&str]) -> Self {
        let output = Command::new(program("warifu")).args(["audit", "verify", "--json"]).arg(file).args(more).output();
        let output = output.unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Self { code: output.status.code(), report }
    }

    fn is_clean(&self) -> bool {
        self.code == Some(0) && self.report["verified"] == true && self.report["findings"] == serde_json::json!([])
    }

    /// Whether something is found, and one of the findings is of this kind.
    fn finds(&self, kind: &str) -> bool {
        self.code == Some(1)
            && self.report["verified"] == false
            && self.findings().any(|finding| finding["finding"] == kind)
    }

    /// Whether something is found, and in this line, counted from 1.
    fn names_line(&self, line: usize) -> bool {
        self.code == Some(1) && self.findings().any(|finding| finding["line"] == line)
    }

    fn findings(&self) -> impl Iterator<Item = &Value> {
        self.report["findings"].as_array().into_iter().flatten()
    }
}

/// A shop after some sales and refusals, its server stopped in order.
async fn after_a_day() -> Shop {
    let mut shop = Shop::open().await;
    let mut device = Sealer::aes(TILL_KSN);
    for number in 0..12 {
        let order = format!("order-{number}");
        let frame = device.keyed(&pan(number));
        shop.till.authorize(&order, &frame, phone(&order, 1200)).await.unwrap();
        assert!(shop.till.tokenize(&format!("again-{number}"), &frame).await.is_err());
    }
    assert_eq!(shop.server.terminate(Duration::from_secs(15)), Some(0));
    shop
}

/// Writes lines, verifies them, removes them.
fn judged(dir: &Path, lines: &[&str]) -> Verdict {
    let file = dir.join("tampered.log");
    fs::write(&file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    Verdict::of(&file, &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_changed_dropped_moved_or_cut_off_in_an_export_is_found_and_named() {
    let shop = after_a_day().await;
    let export = shop.server.export_audit("audit.log");
    let text = fs::read_to_string(&export).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let whole = Verdict::of(&export, &[]);
    assert!(whole.is_clean(), "{}", whole.report);
    let records = whole.report["records"].as_u64().unwrap();
    assert!(records > 40, "{records} records");
    let dev = whole.report["logs"].as_array().unwrap().iter().find(|log| log["log"] == "dev").unwrap();
    let unsigned = dev["records"].as_u64().unwrap() - dev["signed"].as_u64().unwrap();
    assert!(unsigned <= 3, "the server has signed its log before it stopped: {dev}");

    let dir = shop.dir.path();
    let is_record = |line: usize| lines[line].starts_with("{\"record\"");
    let log_of = |line: usize| serde_json::from_str::<Value>(lines[line]).unwrap()["record"]["log"].clone();
    // One byte changed: a prime step visits every part of a line.
    let file = dir.join("tampered.log");
    let mut places = 0;
    for place in (0..text.len()).step_by(197) {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 0x01;
        fs::write(&file, &bytes).unwrap();
        let line = text[..place].matches('\n').count() + 1;
        let verdict = Verdict::of(&file, &[]);
        assert!(verdict.names_line(line), "byte {place}, line {line}: {}", verdict.report);
        places += 1;
    }
    assert!(places > 50);
    for line in (1..lines.len()).step_by(5).filter(|line| is_record(*line)) {
        let mut dropped = lines.clone();
        dropped.remove(line);
        assert!(
            judged(dir, &dropped).names_line(line + 1) || judged(dir, &dropped).finds("cut_off"),
            "line {line} dropped"
        );
        let mut doubled = lines.clone();
        doubled.insert(line, lines[line]);
        assert!(judged(dir, &doubled).finds("record_moved"), "line {line} doubled");
        if is_record(line + 1) && log_of(line) == log_of(line + 1) {
            let mut swapped = lines.clone();
            swapped.swap(line, line + 1);
            let verdict = judged(dir, &swapped);
            assert!(verdict.finds("record_dropped") || verdict.finds("record_moved"), "{line}: {}", verdict.report);
        }
    }
    for length in [1, 2, lines.len() / 2, lines.len() - 2, lines.len() - 1] {
        assert!(judged(dir, &lines[..length]).finds("cut_off"), "cut to {length} lines");
    }
    fs::write(&file, &text[..text.len() - 1]).unwrap();
    assert!(Verdict::of(&file, &[]).finds("cut_off"), "the last line's end is gone");
    assert!(judged(dir, &[&lines[..], &lines[3..4]].concat()).finds("after_the_seal"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_made_with_another_key_is_found_by_those_who_know_the_key() {
    let shop = after_a_day().await;
    let export = shop.server.export_audit("audit.log");
    let key_of = |file: &Path| -> String {
        let text = fs::read_to_string(file).unwrap();
        let seal: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        seal["seal"]["public_key"].as_str().unwrap().to_owned()
    };
    let key = key_of(&export);
    assert!(Verdict::of(&export, &["--public-key", &key]).is_clean());
    // A whole history, well-formed and signed, by an HSM of the forger's own.
    let other = after_a_day().await;
    let forged = other.server.export_audit("audit.log");
    assert_ne!(key_of(&forged), key);
    assert!(Verdict::of(&forged, &[]).is_clean(), "it is consistent in itself");
    assert!(Verdict::of(&forged, &["--public-key", &key]).finds("seal_not_genuine"));
}

/// Changes the stored log behind the server's back, exports and verifies.
async fn after_changing_the_store(change: &str) -> Verdict {
    let shop = after_a_day().await;
    let url = format!("sqlite://{}", shop.server.dir().join("warifu.db").display());
    database::execute(&url, change).await;
    let export: PathBuf = shop.server.dir().join("audit.log");
    let exported = shop.server.operate(&["audit", "export", "--out", export.to_str().unwrap()]);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    Verdict::of(&export, &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changes_the_stored_log_is_found_out_by_the_signed_head() {
    let text_only = "UPDATE audit_record SET record = replace(record, 'order-3', 'order-9') WHERE log = 'dev'";
    let verdict = after_changing_the_store(text_only).await;
    assert!(verdict.finds("record_changed"), "{}", verdict.report);
    let one_dropped = "DELETE FROM audit_record WHERE log = 'dev' AND seq = 20";
    let verdict = after_changing_the_store(one_dropped).await;
    assert!(verdict.finds("record_dropped"), "{}", verdict.report);
    // Swapped with their leaves, so that each record fits its own hash.
    let swapped = "UPDATE audit_record SET record = other.record, leaf = other.leaf FROM audit_record AS other \
                   WHERE audit_record.log = 'dev' AND other.log = 'dev' \
                   AND ((audit_record.seq = 20 AND other.seq = 21) OR (audit_record.seq = 21 AND other.seq = 20))";
    let verdict = after_changing_the_store(swapped).await;
    assert!(verdict.finds("history_changed"), "{}", verdict.report);
    let cut_off = "DELETE FROM audit_record WHERE log = 'dev' AND seq >= 30";
    let verdict = after_changing_the_store(cut_off).await;
    assert!(verdict.finds("cut_off") && verdict.finds("head_moved"), "{}", verdict.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_on_from_what_the_hsm_signed_and_from_nothing_else() {
    let mut shop = after_a_day().await;
    shop.serve(&Options::default()).await;
    let said = fs::read_to_string(shop.server.dir().join("serve-1.log")).unwrap();
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let taken = lines.into_iter().find(|line| line["message"] == "the audit log is taken over").unwrap();
    let [records, again] = ["records", "hashed_again"].map(|name| taken[name].as_u64().unwrap());
    assert!(records > 30 && again < 8, "{taken}");
    assert_eq!(shop.server.terminate(Duration::from_secs(15)), Some(0));

    let url = format!("sqlite://{}", shop.server.dir().join("warifu.db").display());
    database::execute(&url, "UPDATE audit_head SET at_ms = at_ms + 1 WHERE log = 'dev'").await;
    let refused = shop.server.operate(&["serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(said.contains("its newest head was not signed by the audit key"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_writable_audit_log_no_frame_is_opened_and_with_it_again_all_are() {
    let mut shop = Shop::open().await;
    assert_eq!(shop.server.terminate(Duration::from_secs(15)), Some(0));
    let spy = Spy::new(shop.dir.path());
    let mut environment = spy.environment();
    // The log must have been written within a millisecond: in effect, for each frame anew.
    environment.push(("WARIFU__AUDIT__WINDOW_MS".to_owned(), "1".to_owned()));
    environment.push(("WARIFU__AUDIT__SIGN_EVERY_MS".to_owned(), "3600000".to_owned()));
    shop.serve(&Options { environment, ..Options::default() }).await;
    let mut device = Sealer::aes(TILL_KSN);
    shop.till.authorize("before", &device.keyed(VISA), phone("before", 1200)).await.unwrap();

    let url = format!("sqlite://{}", shop.server.dir().join("warifu.db").display());
    let full = "CREATE TRIGGER full BEFORE INSERT ON audit_record BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    database::execute(&url, full).await;
    let opened = || (spy.count("C_Decrypt"), spy.count("C_DeriveKey"), spy.count("C_Verify"), spy.count("C_Sign"));
    let before = opened();
    assert!(before.0 > 0 && before.1 > 0);
    let frames: Vec<Vec<u8>> = (0..8).map(|_| device.keyed(VISA)).collect();
    for (number, frame) in frames.iter().enumerate() {
        let request = format!("during-{number}");
        let no = shop.till.authorize(&request, frame, phone(&request, 1200)).await.unwrap_err();
        assert_eq!((no.reason.as_str(), no.retry.as_str()), ("AUDIT_UNAVAILABLE", "same-request"), "{no:?}");
        let no = shop.till.tokenize(&format!("{request}-token"), frame).await.unwrap_err();
        assert_eq!(no.reason, "AUDIT_UNAVAILABLE");
    }
    assert_eq!(opened(), before, "the HSM was used without a log");
    assert_eq!(shop.journal().len(), 1, "the acquirer was asked without a log");
    until(Duration::from_secs(10), "the server says that it is not ready", async || {
        let (code, page) = shop.server.http("/readyz");
        code == 503 && page.contains("audit")
    })
    .await;

    database::execute(&url, "DROP TRIGGER full").await;
    until(Duration::from_secs(10), "the server is ready again by itself", async || {
        shop.server.http("/readyz").0 == 200
    })
    .await;
    // The same requests: each has one effect.
    for (number, frame) in frames.iter().enumerate() {
        let request = format!("during-{number}");
        let payment = shop.till.authorize(&request, frame, phone(&request, 1200)).await.unwrap();
        assert_eq!(payment.response_code, "00");
    }
    assert_eq!(shop.journal().len(), 1 + frames.len());
    assert!(opened().0 > before.0);
    assert_eq!(shop.server.terminate(Duration::from_secs(15)), Some(0));
    let export = shop.server.export_audit("audit.log");
    assert!(Verdict::of(&export, &[]).is_clean());
}
