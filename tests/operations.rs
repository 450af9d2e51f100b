//! What an operator relies on: pages, logs, exit codes, a quick and orderly end, and telemetry that never gets in the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stage::sealer::Sealer;
use stage::shop::{Shop, TILL_KSN, folder};
use stage::till::phone;
use stage::{Log, Options, Server, program, raw, until};
use warifu_sdk::wire::v1::Outcome;

const VISA: &str = "4111111111111111";
/// Longest time from the signal to the end of the process.
const LONGEST_DRAIN: Duration = Duration::from_secs(10);

fn settings<const N: usize>(settings: [(&str, &str); N]) -> Options {
    let environment = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Options { environment, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_say_how_it_stands_and_count_what_happened() {
    let shop = Shop::open().await;
    let mut device = Sealer::aes(TILL_KSN);
    let frame = device.keyed(VISA);
    shop.till.authorize("r1", &frame, phone("1001", 1200)).await.unwrap();
    shop.till.authorize("r2", &device.keyed(VISA), phone("1002", 1251)).await.unwrap();
    shop.till.authorize("r3", &frame, phone("1003", 1200)).await.unwrap_err();

    let (code, page) = shop.server.http("/healthz");
    let health: Value = serde_json::from_str(&page).unwrap();
    assert_eq!((code, &health["status"], &health["dev"]), (200, &json!("alive"), &json!(true)));
    assert_eq!(health["decryption_modes"], json!(["hardware", "host-derived"]));
    assert_eq!(health["accept_non_p2pe"], true);
    assert!(page.contains("not P2PE"), "what is not P2PE is said: {page}");
    let (code, page) = shop.server.http("/readyz");
    assert_eq!((code, serde_json::from_str::<Value>(&page).unwrap()), (200, json!({"ready": true, "down": []})));
    assert_eq!(shop.server.http("/nothing").0, 404);

    let (code, metrics) = shop.server.http("/metrics");
    assert_eq!(code, 200);
    let mut names = Vec::new();
    for line in metrics.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(name.starts_with("warifu_"), "{line}");
        // Bounded labels: never a device, token, merchant, order or request.
        for word in ["till-1", "demo-shop", "demo-pos", "1001", "r1", "123456"] {
            assert!(!name.contains(&format!("\"{word}\"")), "{line}");
        }
        names.push(name.split('{').next().unwrap().to_owned());
    }
    for wanted in
        ["warifu_requests_total", "warifu_payments_total", "warifu_hsm_open_seconds_count", "warifu_connections"]
    {
        assert!(names.iter().any(|name| name == wanted), "{wanted} is not in {names:?}");
    }
    let counted = |start: &str| metrics.lines().filter(|line| line.starts_with(start)).count();
    assert!(
        counted("warifu_payments_total{state=\"authorized\"} 1") == 1
            && counted("warifu_payments_total{state=\"declined\"} 1") == 1
    );
    assert!(metrics.contains("FRAME_REPLAYED"), "refusals are counted by their reason");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_told_to_stop_finishes_its_work_and_waits_for_no_silent_caller() {
    let mut shop = Shop::with(settings([("WARIFU__ACQUIRER__TIMEOUT_MS", "2000")])).await;
    let mut device = Sealer::aes(TILL_KSN);
    // Connections that will never say anything, at each stage of being one.
    let _silent = raw::tcp(&shop.server).await;
    let _mute = raw::tls(&shop.server).await;
    // A payment the acquirer is slow about: it is in flight when the signal comes.
    let (till, frame) = (shop.till.clone(), device.keyed(VISA));
    let asking = tokio::spawn(async move { till.authorize("slow", &frame, phone("slow", 1268)).await });
    until(Duration::from_secs(5), "the payment is at the acquirer", async || !shop.journal().is_empty()).await;

    let begun = Instant::now();
    let code = tokio::task::block_in_place(|| shop.server.terminate(Duration::from_secs(15)));
    let took = begun.elapsed();
    assert_eq!(code, Some(0), "after {took:?}");
    assert!(took < LONGEST_DRAIN, "{took:?}");
    let payment = asking.await.unwrap().expect("work in flight is finished and answered");
    assert_eq!(payment.outcome(), Outcome::Unknown);

    shop.serve(&Options::default()).await;
    until(Duration::from_secs(10), "the next server settles what was open", async || {
        shop.till.find_sale("slow").await.unwrap()[0].outcome() == Outcome::Reversed
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_outlasts_the_drain_is_left_to_the_next_server() {
    let slow = settings([("WARIFU__ACQUIRER__TIMEOUT_MS", "60000"), ("WARIFU__SERVER__DRAIN_MS", "1000")]);
    let mut shop = Shop::with(slow).await;
    let frame = Sealer::aes(TILL_KSN).keyed(VISA);
    let (till, sent) = (shop.till.clone(), frame.clone());
    let asking = tokio::spawn(async move { till.authorize("slow", &sent, phone("slow", 1268)).await });
    until(Duration::from_secs(5), "the payment is at the acquirer", async || !shop.journal().is_empty()).await;
    let begun = Instant::now();
    let code = tokio::task::block_in_place(|| shop.server.terminate(Duration::from_secs(15)));
    assert_eq!(code, Some(6), "it says that work was left");
    assert!(begun.elapsed() < LONGEST_DRAIN);
    assert!(asking.await.unwrap().is_err());
    shop.serve(&Options::default()).await;
    let payment = shop.till.authorize("slow", &frame, phone("slow", 1268)).await.unwrap();
    assert_eq!(payment.outcome(), Outcome::Authorized, "the acquirer had approved it");
}

/// Runs the program with these arguments and variables.
fn warifu(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program("warifu"));
    command.args(arguments).envs(environment.iter().copied());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_key_nobody_knows_is_an_error_wherever_it_stands_and_the_nearest_one_is_named() {
    let home = folder();
    let dir = home.path().join("server");
    let mut server = Server::dev(&dir, &Options::default());
    assert_eq!(server.terminate(Duration::from_secs(15)), Some(0));
    let config = dir.join("warifu.toml");
    let check = ["config", "check", "--config", text(&config)];
    assert_eq!(warifu(&check, &[]).status.code(), Some(0));

    let wrong = dir.join("wrong.toml");
    fs::write(&wrong, fs::read_to_string(&config).unwrap().replace("http_listen", "htpp_listen")).unwrap();
    let output = warifu(&["config", "check", "--config", text(&wrong)], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("server.htpp_listen") && said(&output).contains("did you mean \"server.http_listen\""),
        "{}",
        said(&output)
    );

    let output = warifu(&check, &[("WARIFU__SERVER__DRAIN_MSEC", "1")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("WARIFU__SERVER__DRAIN_MSEC") && said(&output).to_lowercase().contains("drain_ms\""),
        "{}",
        said(&output)
    );

    let output = warifu(&["serve", "--config", text(&config), "--set", "store.max_bach=9"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("store.max_batch"), "{}", said(&output));

    for (setting, value) in [
        ("WARIFU__SERVER__LISTEN", "nowhere"),
        ("WARIFU__SERVER__DRAIN_MS", "60000"),
        ("WARIFU__STORE__URL", "mysql://x"),
    ] {
        let output = warifu(&check, &[(setting, value)]);
        assert_eq!(output.status.code(), Some(2), "{setting}={value}: {}", said(&output));
    }
    fs::write(&wrong, "[server\n").unwrap();
    assert_eq!(warifu(&["config", "check", "--config", text(&wrong)], &[]).status.code(), Some(2));
    assert_eq!(warifu(&["config", "check", "--config", "/nonexistent.toml"], &[]).status.code(), Some(2));
}

#[test]
fn exit_codes_tell_what_was_in_the_way() {
    let home = folder();
    let dir = home.path().join("server");
    let mut server = Server::dev(&dir, &Options::default());
    assert_eq!(server.terminate(Duration::from_secs(15)), Some(0));
    let config = dir.join("warifu.toml");
    let serve = ["serve", "--config", text(&config), "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let operate = |arguments: &[&str]| warifu(&[arguments, &["--config", text(&config)]].concat(), &[]);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let in_use = ["serve", "--config", text(&config), "--listen", &address, "--http-listen", "127.0.0.1:0"];
    let wrong_pin = dir.join("wrong-pin");
    fs::write(&wrong_pin, "0000").unwrap();
    fs::set_permissions(&wrong_pin, Permissions::from_mode(0o600)).unwrap();
    let open_pin = dir.join("open-pin");
    fs::write(&open_pin, "0000").unwrap();
    fs::set_permissions(&open_pin, Permissions::from_mode(0o644)).unwrap();
    let not_a_database = dir.join("not-a-database");
    fs::write(&not_a_database, [b'x'; 8192]).unwrap();
    let not_a_database = format!("sqlite://{}", text(&not_a_database));
    let cases: [(&str, Output, i32); 12] = [
        ("an unknown device", operate(&["device", "suspend", "nobody"]), 1),
        ("a merchant twice", operate(&["merchant", "add", "demo-shop"]), 1),
        ("an illegal move", operate(&["device", "retire", "kp-1"]), 0),
        ("out of retirement", operate(&["device", "activate", "kp-1"]), 1),
        ("no such command", warifu(&["no-such-command"], &[]), 2),
        ("no PKCS#11 module", warifu(&serve, &[("WARIFU__HSM__MODULE", "/nonexistent.so")]), 3),
        ("a PIN others can read", warifu(&serve, &[("WARIFU__HSM__PIN_FILE", text(&open_pin))]), 2),
        ("a wrong PIN", warifu(&serve, &[("WARIFU__HSM__PIN_FILE", text(&wrong_pin))]), 3),
        ("no such token", warifu(&serve, &[("WARIFU__HSM__TOKEN_LABEL", "elsewhere")]), 3),
        ("no data store", warifu(&serve, &[("WARIFU__STORE__URL", "postgres://nobody@127.0.0.1:1/nothing")]), 4),
        ("a file that is no data store", warifu(&serve, &[("WARIFU__STORE__URL", &not_a_database)]), 4),
        ("an address in use", warifu(&in_use, &[]), 5),
    ];
    for (what, output, code) in cases {
        assert_eq!(output.status.code(), Some(code), "{what}: {}", said(&output));
        assert!(
            code == 0 || said(&output).contains(if what == "no such command" { "no-such-command" } else { "warifu: " }),
            "{what}: {}",
            said(&output)
        );
        assert!(!said(&output).contains("panic"), "{what}: {}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_service_every_log_line_is_json_and_names_no_secret() {
    let mut shop = Shop::open().await;
    assert_eq!(shop.server.terminate(Duration::from_secs(15)), Some(0));
    shop.serve(&Options::default()).await;
    let mut device = Sealer::aes(TILL_KSN);
    shop.till.authorize("r1", &device.keyed(VISA), phone("1001", 1200)).await.unwrap();
    shop.till.tokenize("r2", b"no frame").await.unwrap_err();
    assert_eq!(shop.server.terminate(Duration::from_secs(15)), Some(0));
    let log = fs::read_to_string(shop.server.dir().join("serve-1.log")).unwrap();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    assert!(lines.len() >= 4, "{log}");
    assert!(
        lines
            .iter()
            .all(|line| line["timestamp"].is_string() && line["level"].is_string() && line["target"].is_string())
    );
    for message in ["serving", "draining", "stopped"] {
        assert!(lines.iter().any(|line| line["message"] == message), "{message}: {log}");
    }
    let pin = fs::read_to_string(shop.server.dir().join("hsm-pin")).unwrap();
    assert!(!log.contains(pin.trim()) && !log.contains(VISA));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_or_hangs_has_no_effect() {
    // Takes connections into its queue and never answers one.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hung = format!("http://{}", listener.local_addr().unwrap());
    for endpoint in ["http://127.0.0.1:1", &hung] {
        let mut shop = Shop::with(settings([("WARIFU__TELEMETRY__OTLP_ENDPOINT", endpoint)])).await;
        let mut device = Sealer::aes(TILL_KSN);
        let begun = Instant::now();
        for number in 0..200 {
            let order = format!("order-{number}");
            shop.till.authorize(&order, &device.keyed(VISA), phone(&order, 1200)).await.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{endpoint}: {:?}", begun.elapsed());
        assert_eq!(shop.server.http("/readyz").0, 200);
        let begun = Instant::now();
        let code = tokio::task::block_in_place(|| shop.server.terminate(Duration::from_secs(15)));
        assert_eq!(code, Some(0), "{endpoint}");
        assert!(begun.elapsed() < LONGEST_DRAIN, "{endpoint}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody() {
    let environment = vec![("RUST_LOG".to_owned(), "trace".to_owned())];
    let shop = Shop::with(Options { environment, log: Log::Unread, ..Options::default() }).await;
    let mut device = Sealer::aes(TILL_KSN);
    // Each leaves lines enough to fill a pipe many times over.
    for number in 0..200 {
        shop.till.tokenize(&format!("good-{number}"), &device.keyed("4111111111111111")).await.unwrap();
        shop.till.tokenize(&format!("bad-{number}"), b"no frame").await.unwrap_err();
    }
}
