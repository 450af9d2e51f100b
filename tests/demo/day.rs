//! The demo: one working day of a small shop, with everything in its own process, as in life.
//!
//! It starts a throw-away server, emulated devices and an order app, plays sales and refusals, verifies the audit log
//! offline, and searches everything that was written for the card numbers it used.

#[path = "../stage/mod.rs"]
mod stage;

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stage::scan::{self, Needle};
use stage::{AES_BDK, Device, Options, OrderApp, Server, TDES_BDK, otlp};

/// Test cards of the brands' own documentation; none exists.
const VISA: &str = "4111111111111111";
const MASTERCARD: &str = "5555555555554444";
const JCB: &str = "3530111333300000";
const AMEX: &str = "378282246310005";

const RECORDED: &str = include_str!("../../core/tests/vectors/device_output.json");

/// A device of the demo: its name, its KSN, and how it is registered and started.
struct Cast {
    id: &'static str,
    what: &'static str,
    scheme: &'static str,
    ksn: &'static str,
    format: &'static str,
}

const CAST: [Cast; 6] = [
    Cast { id: "keypad", what: "keypad, AES DUKPT", scheme: "aes", ksn: "1234567890AB000100000000", format: "native" },
    Cast {
        id: "reader",
        what: "chip and stripe reader, AES DUKPT",
        scheme: "aes",
        ksn: "1234567890AB000200000000",
        format: "native",
    },
    Cast {
        id: "old-reader",
        what: "stripe reader, TDES DUKPT",
        scheme: "tdes",
        ksn: "FFFF9876543211000000",
        format: "idtech-binary",
    },
    Cast {
        id: "lost-keypad",
        what: "a keypad that was lost",
        scheme: "aes",
        ksn: "1234567890AB000300000000",
        format: "native",
    },
    Cast {
        id: "idtech-augusta",
        what: "ID TECH Augusta, published output",
        scheme: "tdes",
        ksn: "6299490000000A000000",
        format: "idtech-binary",
    },
    Cast {
        id: "magtek-hogan",
        what: "MagTek MagneSafe, published output",
        scheme: "tdes",
        ksn: "FFFF9876543210E00000",
        format: "magtek-keyboard",
    },
];

struct Day {
    app: OrderApp,
    sales: Vec<Value>,
    refusals: Vec<Value>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let json_wanted = std::env::args().skip(1).any(|argument| argument == "--json");
    let started = Instant::now();
    let folder = tempfile::Builder::new().prefix("warifu-demo-").tempdir()?;
    let dir = folder.path().join("server");

    say("starting a throw-away server: SoftHSM token, certificates, SQLite, acquirer simulator");
    std::fs::create_dir_all(&dir)?;
    let traces = otlp::collect(&dir.join("traces.otlp"));
    let environment = vec![("WARIFU__TELEMETRY__OTLP_ENDPOINT".to_owned(), format!("http://{traces}"))];
    let mut server = Server::dev(&dir, &Options { environment, ..Options::default() });

    say("registering and starting emulated devices, each its own process on its own wire");
    let mut devices = Vec::new();
    for cast in &CAST {
        let Cast { id, scheme, ksn, format, .. } = *cast;
        // The devices of the published outputs are registered by `warifu dev` itself.
        if !server.knows_published(id) {
            let (merchant, bdk) = (server.merchant(), server.bdk(scheme));
            let add = format!(
                "device add {id} --merchant {merchant} --scheme {scheme} --ksn {ksn} --bdk {bdk} --format {format}"
            );
            server.operated(&words(&add));
            server.operated(&["device", "activate", id]);
        }
        let key = if scheme == "aes" { AES_BDK } else { TDES_BDK };
        devices.push(Device::start(&words(&format!(
            "--name {id} --scheme {scheme} --format {format} --ksn {ksn} --bdk {key}"
        ))));
    }
    let [keypad, reader, old_reader, lost, idtech, magtek] = devices.as_mut_slice() else {
        unreachable!("six devices")
    };

    say("starting the order app, attaching the devices");
    let mut app = OrderApp::start(&server);
    for (cast, device) in CAST.iter().zip([&*keypad, &*reader, &*old_reader, &*lost, &*idtech, &*magtek]) {
        app.attach(cast.id, device, cast.format);
    }
    let mut day = Day { app, sales: Vec::new(), refusals: Vec::new() };

    say("a phone order, keyed on the keypad; then the same card again");
    keypad.say(&format!("key {VISA} 3012 123"));
    day.sale("keypad", "1001", 1200, "telephone");
    keypad.say(&format!("key {VISA} 3012 123"));
    day.sale("keypad", "1002", 3400, "telephone");

    say("at the counter: a chip card dipped, a stripe swiped, an old TDES reader");
    reader.say(&format!("dip {MASTERCARD} 2911 DEMO/CHIP"));
    day.sale("reader", "1003", 5600, "in-person");
    reader.say(&format!("swipe {JCB} 3001 DEMO/STRIPE"));
    day.sale("reader", "1004", 7800, "in-person");
    old_reader.say(&format!("swipe {AMEX} 3006 DEMO/OLD"));
    day.sale("old-reader", "1005", 900, "in-person");

    say("outputs of real readers, as their makers and users published them; their cards are long expired");
    idtech.say(&format!("raw {}", recorded("dev-idtech-enh-augusta")));
    day.sale("idtech-augusta", "1006", 1000, "in-person");
    magtek.say(&format!("raw {}", recorded("dev-magtek-kb-hogan")));
    day.sale("magtek-hogan", "1007", 1000, "in-person");

    say("an amount ending in 51: the simulated issuer says insufficient funds");
    keypad.say(&format!("key {VISA} 3012 123"));
    day.sale("keypad", "1008", 1251, "telephone");

    say("what must not work: a replay, a changed byte, a device that was reported lost");
    keypad.say("replay");
    day.refusal("replayed frame", "keypad", "1009");
    keypad.say("flip 40");
    keypad.say(&format!("key {VISA} 3012 123"));
    day.refusal("one byte changed on the way", "keypad", "1010");
    server.operated(&["device", "suspend", "lost-keypad"]);
    lost.say(&format!("key {VISA} 3012 123"));
    day.refusal("suspended device", "lost-keypad", "1011");

    say("stopping the server in order, verifying its audit log offline");
    std::fs::write(dir.join("metrics.txt"), server.http("/metrics").1)?;
    let sales_book = server.operated(&["sales", "list", "--json"]);
    std::fs::write(dir.join("sales.json"), &sales_book)?;
    let code = server.terminate(Duration::from_secs(11));
    if code != Some(0) {
        return Err(format!("the server did not stop in order within 10 s: {code:?}").into());
    }
    let log = dir.join("audit.log");
    server.operated(&["audit", "export", "--out", path(&log)?]);
    // An auditor has had the key since the HSM was set up; here it is asked for.
    let key = server.operated(&["audit", "key"]);
    let verify = ["audit", "verify", path(&log)?, "--public-key", key.trim(), "--json"];
    let verified: Value = serde_json::from_str(&server.operated(&verify))?;

    say("searching database, logs, traces and metrics for every card number used, in every form");
    let pans = [VISA, MASTERCARD, JCB, AMEX, "5413330089604111", "5452300551227189", "5163499080020445"];
    let needles: Vec<Needle> = pans.iter().flat_map(|pan| Needle::card_number(pan)).collect();
    if !scan::finds(&needles) {
        return Err("the search does not find what is there".into());
    }
    for file in ["traces.otlp", "metrics.txt", "server.log", "audit.log", "order-app.log"] {
        let length = std::fs::metadata(dir.join(file)).map(|metadata| metadata.len()).unwrap_or(0);
        if length == 0 && file != "order-app.log" {
            return Err(format!("{file} is empty: there was nothing to search").into());
        }
    }
    let hits = scan::files(&[&dir], &needles);
    for hit in &hits {
        say(&format!("FOUND {hit}"));
    }

    let outcome = json!({
        "sales": day.sales,
        "refusals": day.refusals,
        "audit": { "records": verified["records"], "verified": verified["verified"] },
        "pan_scan": { "needles": needles.len(), "hits": hits.len() },
    });
    table(&outcome);
    let problems = problems(&outcome);
    for problem in &problems {
        say(&format!("PROBLEM {problem}"));
    }
    say(&format!("done in {:.1} s", started.elapsed().as_secs_f64()));
    if json_wanted {
        show(&outcome.to_string());
    } else {
        show("\nNext: `warifu dev` for a server of your own; README.md has the ten lines of an order app.");
    }
    if problems.is_empty() { Ok(()) } else { Err("the day did not go as it should".into()) }
}

impl Day {
    fn sale(&mut self, device: &str, order: &str, amount: i64, channel: &str) {
        self.app.collect(device, order);
        let answer = self.app.authorize(order, order, amount, channel);
        let payment = &answer["payment"];
        let card = &payment["card"];
        let outcome = payment["outcome"].as_str().map_or_else(|| answer.to_string(), str::to_owned);
        self.sales.push(json!({
            "order": order, "device": device, "entry": card["entry"], "scheme": card["scheme"],
            "mode": card["decryption_mode"], "outcome": outcome, "response_code": payment["response_code"],
            "token": card["token"], "masked_pan": card["masked_pan"], "amount": amount,
        }));
    }

    fn refusal(&mut self, case: &str, device: &str, order: &str) {
        self.app.collect(device, order);
        let answer = self.app.authorize(order, order, 1000, "telephone");
        let reason = answer["refused"]["reason"].as_str().map_or_else(|| answer.to_string(), str::to_owned);
        self.refusals.push(json!({ "case": case, "reason": reason }));
    }
}

/// The bytes of a published output, in hex.
fn recorded(id: &str) -> String {
    let file: Value = serde_json::from_str(RECORDED).expect("the vectors are JSON");
    let record = file["records"].as_array().and_then(|records| records.iter().find(|record| record["id"] == id));
    let record = record.unwrap_or_else(|| panic!("{id} is a vector"));
    match (record["raw_hex"].as_str(), record["raw_text"].as_str()) {
        (Some(bytes), _) => bytes.to_owned(),
        // A keyboard reader ends its line with ENTER.
        (None, Some(text)) => hex::encode(format!("{text}\r")),
        (None, None) => panic!("{id} has bytes"),
    }
}

/// What a newcomer should know went wrong; empty on a good day.
fn problems(outcome: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut expect = |what: &str, holds: bool| {
        if !holds {
            problems.push(what.to_owned());
        }
    };
    let sale = |order: &str| {
        let mut sales = outcome["sales"].as_array().into_iter().flatten();
        sales.find(|sale| sale["order"] == order).cloned().unwrap_or_default()
    };
    for (order, expected) in [
        ("1001", "authorized"),
        ("1002", "authorized"),
        ("1003", "authorized"),
        ("1004", "authorized"),
        ("1005", "authorized"),
        ("1006", "declined"),
        ("1007", "declined"),
        ("1008", "declined"),
    ] {
        expect(&format!("order {order} is {expected}"), sale(order)["outcome"] == expected);
        let token = sale(order)["token"].as_str().unwrap_or_default().to_owned();
        expect(&format!("order {order} has a token of 16 digits"), token.len() == 16 && token.starts_with('9'));
    }
    expect("the same card has the same token", sale("1001")["token"] == sale("1002")["token"]);
    expect("another card has another token", sale("1001")["token"] != sale("1003")["token"]);
    expect("the keypad is opened in hardware mode", sale("1001")["mode"] == "hardware");
    expect("the TDES reader is opened in host-derived mode", sale("1005")["mode"] == "host-derived");
    let reasons: Vec<_> =
        outcome["refusals"].as_array().into_iter().flatten().map(|refusal| &refusal["reason"]).collect();
    expect(
        "replay, changed byte and suspended device are refused",
        reasons == ["FRAME_REPLAYED", "FRAME_REFUSED", "DEVICE_NOT_ACTIVE"],
    );
    expect("the audit log verifies", outcome["audit"]["verified"] == true);
    expect("no card number was written anywhere", outcome["pan_scan"]["hits"] == 0);
    problems
}

fn table(outcome: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    show("\norder  device         entry   DUKPT  mode          outcome         token             card");
    for sale in outcome["sales"].as_array().into_iter().flatten() {
        let result = match sale["response_code"].as_str() {
            Some(code) if code != "00" => format!("{} ({code})", text(&sale["outcome"])),
            _ => text(&sale["outcome"]),
        };
        show(&format!(
            "{:6} {:14} {:7} {:6} {:13} {:15} {:17} {}",
            text(&sale["order"]),
            text(&sale["device"]),
            text(&sale["entry"]),
            text(&sale["scheme"]),
            text(&sale["mode"]),
            result,
            text(&sale["token"]),
            text(&sale["masked_pan"]),
        ));
    }
    show("\nrefused");
    for refusal in outcome["refusals"].as_array().into_iter().flatten() {
        show(&format!("  {:30} {}", text(&refusal["case"]), text(&refusal["reason"])));
    }
    let devices = CAST.map(|cast| format!("{} ({})", cast.id, cast.what)).join(", ");
    show(&format!("\ndevices: {devices}"));
    show(&format!(
        "audit log: {} records, verified: {}. Card numbers found in files, logs, traces, metrics: {} ({} needles).",
        outcome["audit"]["records"],
        outcome["audit"]["verified"],
        outcome["pan_scan"]["hits"],
        outcome["pan_scan"]["needles"],
    ));
}

fn words(line: &str) -> Vec<&str> {
    line.split_ascii_whitespace().collect()
}

fn path(path: &Path) -> Result<&str, Box<dyn Error>> {
    path.to_str().ok_or_else(|| "a path that is no text".into())
}

#[expect(clippy::print_stdout, reason = "the demo's result")]
fn show(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "the demo's progress")]
fn say(line: &str) {
    eprintln!("demo: {line}");
}
