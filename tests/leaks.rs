//! Canary cards through everything, then a search of everything that was written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use stage::desk::{keypad, old_reader};
use stage::scan::{self, Needle};
use stage::sealer::pan;
use stage::shop::folder;
use stage::till::Till;
use stage::{AES_BDK, Device, Options, OrderApp, Server, TDES_BDK, database, otlp};

const AES_KSN: &str = "12345678900AEA0100000000";
const TDES_KSN: &str = "FFFF98765480E0000000";
const STRIPE_KSN: &str = "FFFF98765481E0000000";
/// On the canaries' stripes and chips.
const NAME: &str = "CANARY/JANE";

/// Canary numbers, a new one each time, all of them remembered.
#[derive(Default)]
struct Canaries(Vec<String>);

impl Canaries {
    fn next(&mut self) -> String {
        let number = pan(770_000_000 + 7_919 * self.0.len());
        self.0.push(number.clone());
        number
    }

    /// The same with a wrong check digit.
    fn bad(&mut self) -> String {
        let mut number = self.next();
        let digit = number.pop().unwrap().to_digit(10).unwrap();
        number.push_str(&((digit + 1) % 10).to_string());
        self.0.push(number.clone());
        number
    }

    fn needles(&self) -> Vec<Needle> {
        let mut needles: Vec<Needle> = self.0.iter().flat_map(|number| Needle::card_number(number)).collect();
        needles.push(Needle::raw("name of the card's holder", NAME.as_bytes()));
        needles.push(Needle::raw("name, in hex", hex::encode(NAME).as_bytes()));
        needles
    }
}

/// Answers of the order app, kept as it said them.
struct Book {
    app: OrderApp,
    said: Vec<Value>,
}

impl Book {
    fn ask(&mut self, command: &Value) -> Value {
        let answer = self.app.ask(command);
        self.said.push(answer.clone());
        answer
    }

    fn collect(&mut self, device: &str) {
        let collected = self.ask(&json!({"op": "collect", "device": device, "as": "card", "timeout_ms": 5000}));
        assert!(collected.get("error").is_none(), "{device}: {collected}");
    }

    fn pay(&mut self, device: &str, amount: i64) -> Value {
        self.collect(device);
        let order = format!("order-{}", self.said.len());
        self.ask(&json!({"op": "authorize", "card": "card", "order": order, "amount": amount, "currency": "JPY",
                         "channel": "telephone"}))
    }

    fn sale(&mut self, device: &str, amount: i64, outcome: &str) {
        let answer = self.pay(device, amount);
        assert_eq!(answer["payment"]["outcome"], outcome, "{device}: {answer}");
    }

    fn refusal(&mut self, device: &str, reason: &str) {
        let answer = self.pay(device, 1200);
        assert_eq!(answer["refused"]["reason"], reason, "{device}: {answer}");
    }
}

/// Plays a day with every kind of card, way, end and mishap; gives the canaries.
fn play(server: &Server) -> (Canaries, Vec<Value>) {
    let mut canaries = Canaries::default();
    server.add_device(&keypad("aes", AES_KSN));
    server.add_device(&old_reader("tdes", TDES_KSN, "native"));
    server.add_device(&old_reader("stripe", STRIPE_KSN, "idtech-keyboard"));
    let started =
        |scheme, format, ksn, bdk| Device::start(&["--scheme", scheme, "--format", format, "--ksn", ksn, "--bdk", bdk]);
    let mut aes = started("aes", "native", AES_KSN, AES_BDK);
    let mut tdes = started("tdes", "native", TDES_KSN, TDES_BDK);
    let mut stripe = started("tdes", "idtech-keyboard", STRIPE_KSN, TDES_BDK);
    let mut app = OrderApp::start(server);
    app.attach("aes", &aes, "native");
    app.attach("tdes", &tdes, "native");
    app.attach("stripe", &stripe, "idtech-keyboard");
    let mut book = Book { app, said: Vec::new() };

    for (name, device) in [("aes", &mut aes), ("tdes", &mut tdes)] {
        device.say(&format!("key {} 3012 9471", canaries.next()));
        book.sale(name, 1200, "authorized");
        device.say(&format!("swipe {} 3012 {NAME}", canaries.next()));
        book.sale(name, 1200, "authorized");
        device.say(&format!("dip {} 3012 {NAME}", canaries.next()));
        book.sale(name, 1200, "authorized");
        device.say(&format!("key {} 3012 9471", canaries.next()));
        book.sale(name, 1251, "declined");
        device.say(&format!("key {} 2001 9471", canaries.next()));
        book.sale(name, 1200, "declined");
        device.say("replay");
        book.refusal(name, "FRAME_REPLAYED");
        device.say("flip 30");
        device.say(&format!("key {} 3012 9471", canaries.next()));
        book.refusal(name, "FRAME_REFUSED");
        device.say(&format!("key {} 3012 9471", canaries.bad()));
        book.refusal(name, "CARD_INVALID");
        device.say(&format!("swipe {} 3012 {NAME}", canaries.next()));
        book.collect(name);
        assert!(book.ask(&json!({"op": "tokenize", "card": "card"})).get("card").is_some());
    }
    stripe.say(&format!("swipe {} 3012 {NAME}", canaries.next()));
    book.sale("stripe", 1200, "authorized");
    stripe.say(&format!("key {} 3012 9471", canaries.next()));
    book.sale("stripe", 1200, "authorized");
    // A late answer: unknown, then taken back.
    aes.say(&format!("key {} 3012 9471", canaries.next()));
    let late = book.pay("aes", 1268);
    assert!(["unknown", "reversed"].contains(&late["payment"]["outcome"].as_str().unwrap()), "{late}");
    // A reader that was never switched to encryption sends its card in clear.
    let clear = canaries.next();
    stripe.say(&format!(
        "raw {}",
        hex::encode(format!("%B{clear}^{NAME}^30122010000012300?;{clear}=30122010000012300?\r"))
    ));
    let collected = book.ask(&json!({"op": "collect", "device": "stripe", "as": "card", "timeout_ms": 1500}));
    if collected.get("error").is_none() {
        let answer = book.ask(&json!({"op": "tokenize", "card": "card"}));
        assert_eq!(answer["refused"]["reason"], "FRAME_MALFORMED", "{answer}");
    }
    // As a program without the SDK would send it.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let till = Till::of(server).await;
        for frame in
            [format!("%B{clear}^{NAME}^30122010000012300?\r"), format!(";{clear}=30122010000012300?"), clear.clone()]
        {
            assert_eq!(till.tokenize("clear", frame.as_bytes()).await.unwrap_err().reason, "FRAME_MALFORMED");
        }
    });
    book.ask(&json!({"op": "find", "order": "order-2"}));
    (canaries, book.said)
}

fn nothing_is_in(what: &str, roots: &[&Path], needles: &[Needle]) {
    let hits = scan::files(roots, needles);
    assert!(hits.is_empty(), "{what}:\n{}", hits.join("\n"));
}

fn has_something(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert!(bytes.len() > 100, "{} holds nothing to search", file.display());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Plays, and searches while the server runs and after it has stopped.
fn search(dir: &Path, store_url: Option<String>, elsewhere: &[PathBuf]) {
    fs::create_dir_all(dir).unwrap();
    let traces = otlp::collect(&dir.join("traces.otlp"));
    let environment = [
        ("RUST_LOG", "trace".to_owned()),
        ("WARIFU__TELEMETRY__OTLP_ENDPOINT", format!("http://{traces}")),
        ("WARIFU__ACQUIRER__TIMEOUT_MS", "300".to_owned()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let mut server = Server::dev(dir, &Options { store_url, environment, ..Options::default() });
    let (canaries, said) = play(&server);
    let needles = canaries.needles();
    assert!(scan::finds(&needles) && canaries.0.len() > 20);
    fs::write(dir.join("order-app.said"), said.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    for page in ["/metrics", "/healthz", "/readyz"] {
        fs::write(dir.join(format!("{}.page", &page[1..])), server.http(page).1).unwrap();
    }
    fs::write(dir.join("sales.json"), server.operated(&["sales", "list", "--json"])).unwrap();
    let roots: Vec<&Path> = std::iter::once(dir).chain(elsewhere.iter().map(PathBuf::as_path)).collect();
    nothing_is_in("while the server runs", &roots, &needles);
    server.export_audit("audit.log");
    assert_eq!(server.terminate(Duration::from_secs(15)), Some(0));
    nothing_is_in("after the server has stopped", &roots, &needles);

    // What was searched is what was meant to be.
    let log = has_something(&dir.join("server.log"));
    assert!(log.contains("TRACE"), "the log is at its most talkative");
    assert!(has_something(&dir.join("metrics.page")).contains("warifu_requests_total"));
    assert!(has_something(&dir.join("sales.json")).contains("400000******"));
    assert!(has_something(&dir.join("audit.log")).contains("frame.opened"));
    assert!(has_something(&dir.join("traces.otlp")).contains("CommModuleService"));
    assert!(has_something(&dir.join("order-app.said")).contains("\"token\""));
    has_something(&dir.join("acquirer.jsonl"));
}

#[test]
fn no_card_number_is_written_anywhere_on_sqlite() {
    let home = folder();
    let dir = home.path().join("server");
    search(&dir, None, &[]);
    has_something(&dir.join("warifu.db"));
}

#[test]
fn no_card_number_is_written_anywhere_on_postgresql() {
    let home = folder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (url, data) = runtime.block_on(async {
        let url = database::fresh_postgres().await;
        let data = database::ask(&url, "SELECT current_setting('data_directory')").await;
        (url, PathBuf::from(data))
    });
    // The whole cluster with its write-ahead log, which a commit has reached.
    assert!(data.join("pg_wal").read_dir().is_ok(), "{} cannot be read", data.display());
    search(&home.path().join("server"), Some(url), &[data]);
}
