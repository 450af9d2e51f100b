//! The order app as its own process: what demos and scripts rely on.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use support::certificates::Certificates;
use support::{FakeServer, Reply, Script, TOKEN, Witness};
use warifu_sdk::Refusal;
use warifu_sdk::wire::v1;

/// Cargo builds the examples with the tests, one folder up from them.
fn order_app() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/order-app");
    assert!(path.exists(), "run `cargo build -p warifu-sdk --example order-app` first");
    path
}

struct Shop {
    _server: FakeServer,
    folder: tempfile::TempDir,
    url: String,
    _witness: Witness,
}

impl Shop {
    fn open(replies: impl IntoIterator<Item = Reply>) -> Self {
        let certificates = Certificates::new();
        let (script, witness) = Script::new(replies);
        let server = FakeServer::start(&certificates, &Arc::clone(&script));
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("ca.pem", &certificates.ca);
        write("cert.pem", &certificates.client.certificate);
        write("key.pem", &certificates.client.key);
        let url = format!("https://{}", server.address());
        Self { _server: server, folder, url, _witness: witness }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(order_app());
        command.args(["--server", &self.url]);
        for name in ["ca", "cert", "key"] {
            command.arg(format!("--{name}")).arg(self.folder.path().join(format!("{name}.pem")));
        }
        command.args(["--timeout", "10", "--json"]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, Value) {
        read(&self.command(arguments).output().unwrap())
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

fn read(output: &Output) -> (i32, Value) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "one object on one line: {text}");
    (output.status.code().unwrap(), serde_json::from_str(&text).unwrap())
}

const FRAME: &str = "5746010101000010";

#[test]
fn a_phone_order_is_paid_with_given_bytes() {
    let shop = Shop::open([]);
    let order = ["--order", "1001", "--amount", "1200", "--currency", "JPY", "--channel", "telephone"];
    let (code, answer) = shop.run(&[&["authorize", "--frame", FRAME, "--request-id", "r-1"], &order[..]].concat());
    assert_eq!(code, 0, "{answer}");
    assert_eq!(answer["payment"]["outcome"], "authorized");
    assert_eq!(answer["payment"]["approval_code"], "A00001");
    assert_eq!(answer["payment"]["card"]["token"], TOKEN);
    assert_eq!(answer["request_id"], "r-1");
    let (code, answer) = shop.run(&["find", "--order", "1001"]);
    assert_eq!((code, &answer["payments"][0]["order"]), (0, &json!("1001")));
}

#[test]
fn a_decline_exits_0_and_a_refusal_2_and_anything_else_1() {
    let shop = Shop::open([Reply::Well(v1::Outcome::Declined), Reply::Refuse(Refusal::CardInvalid)]);
    let order = ["--order", "1", "--amount", "51", "--currency", "JPY", "--channel", "mail", "--frame", FRAME];
    let (code, answer) = shop.run(&[&["authorize"], &order[..]].concat());
    assert_eq!((code, &answer["payment"]["response_code"]), (0, &json!("51")));
    let (code, answer) = shop.run(&["tokenize", "--frame", FRAME]);
    assert_eq!(code, 2);
    assert_eq!(answer["refused"]["reason"], "CARD_INVALID");
    assert_eq!(answer["refused"]["who"], "merchant");
    assert_eq!(answer["refused"]["retry"], "new-card");
    let (code, answer) = shop.run(&["tokenize", "--attach", "tcp:127.0.0.1:1"]);
    assert_eq!((code, &answer["error"]["kind"]), (1, &json!("device")));
    let (code, answer) = shop.run(&["tokenize", "--frame", "neither hex nor a file"]);
    assert_eq!((code, &answer["error"]["kind"]), (1, &json!("usage")));
}

#[test]
fn the_same_frame_can_be_sent_twice_on_purpose() {
    let shop = Shop::open([Reply::Well(v1::Outcome::Authorized), Reply::Refuse(Refusal::FrameReplayed)]);
    let (code, answer) = shop.run(&["tokenize", "--frame", FRAME, "--repeat-same-frame"]);
    assert_eq!((code, &answer["card"]["token"]), (0, &json!(TOKEN)));
    assert_eq!(answer["repeated"]["refused"]["reason"], "FRAME_REPLAYED");
}

/// A native output of the AES-128 suite, one block.
fn output() -> Vec<u8> {
    let mut output = vec![b'W', b'F', 1, 1, 1, 0, 0, 16];
    output.resize(8 + 12 + 16 + 16, 0xA5);
    output
}

#[test]
fn a_session_plays_a_working_day() {
    let shop = Shop::open([
        Reply::Well(v1::Outcome::Authorized),
        Reply::Well(v1::Outcome::Authorized),
        Reply::Refuse(Refusal::FrameRefused),
    ]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = format!("tcp:{}", listener.local_addr().unwrap());
    let mut app = shop.spawn(&["session"]);
    let commands = [
        json!({ "op": "attach", "name": "kp1", "connection": connection, "format": "native" }),
        json!({ "op": "collect", "device": "kp1", "as": "card1", "timeout_ms": 10_000 }),
        json!({ "op": "tokenize", "card": "card1" }),
        json!({ "op": "authorize", "card": "card1", "order": "1001", "amount": 1200, "currency": "JPY",
                "channel": "telephone", "request_id": "r-7" }),
        json!({ "op": "flip", "card": "card1", "offset": 40, "as": "bad" }),
        json!({ "op": "tokenize", "card": "bad" }),
        json!({ "op": "show", "card": "bad" }),
        json!({ "op": "find", "order": "1001" }),
        json!({ "op": "tokenize", "card": "nobody's" }),
        json!({ "op": "dance" }),
        json!({ "op": "load", "hex": "00ff", "as": "x" }),
    ];
    let mut input = app.stdin.take().unwrap();
    for command in &commands {
        writeln!(input, "{command}").unwrap();
    }
    drop(input);
    let (mut wire, _) = listener.accept().unwrap();
    wire.write_all(&output()).unwrap();
    let finished = app.wait_with_output().unwrap();
    assert!(finished.status.success());
    let text = String::from_utf8(finished.stdout).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), commands.len(), "{text}");
    assert_eq!(answers[0]["attached"]["connection"], connection);
    assert_eq!(answers[1]["collected"], json!({ "as": "card1", "bytes": 52 }));
    assert_eq!(answers[2]["card"]["token"], TOKEN);
    assert_eq!(answers[3]["request_id"], "r-7");
    assert_eq!(answers[3]["payment"]["outcome"], "authorized");
    assert_eq!(answers[5]["refused"]["reason"], "FRAME_REFUSED");
    let mut spoiled = output();
    spoiled[40] ^= 1;
    assert_eq!(answers[6]["shown"]["hex"], hex::encode(spoiled));
    assert_eq!(answers[7]["payments"][0]["payment_id"], "pay-1001");
    assert_eq!(answers[8]["error"]["kind"], "command");
    assert_eq!(answers[9]["error"]["kind"], "command");
    assert_eq!(answers[10]["collected"]["bytes"], 2);
}

#[test]
fn a_script_sees_when_the_card_can_be_shown() {
    use std::io::{BufRead, BufReader};

    let shop = Shop::open([]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = format!("tcp:{}", listener.local_addr().unwrap());
    let mut app = shop.spawn(&["tokenize", "--attach", &connection]);
    let mut line = String::new();
    BufReader::new(app.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), format!("waiting for a card on {connection}"));
    listener.accept().unwrap().0.write_all(&output()).unwrap();
    let (code, answer) = read(&app.wait_with_output().unwrap());
    assert_eq!((code, &answer["card"]["token"]), (0, &json!(TOKEN)));
}
