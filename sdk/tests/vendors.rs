//! Published outputs of real readers, two after each other on a wire, arrive as they were sent.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use serde_json::Value;
use support::certificates::Certificates;
use support::{SOON, config};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use warifu_sdk::{CommModule, Connection, Format};

/// Records of the formats this build cuts; an unread one fails the test.
const USED: usize = 13;

fn format(record: &Value) -> Option<Format> {
    match (record["kind"].as_str()?, record["format"].as_str()?) {
        ("device_output", "idtech_original_binary" | "idtech_enhanced_binary" | "idtech_manual85_binary")
        | ("device_vivotech2", "idtech_vivotech2") => Some(Format::IdTechBinary),
        ("device_output", "idtech_enhanced_keyboard" | "idtech_manual85_keyboard") => Some(Format::IdTechKeyboard),
        // A refused output must reach the server too: it is the server that refuses.
        ("device_output" | "device_output_bad" | "device_output_clear", "magtek_keyboard_v5") => {
            Some(Format::MagTekKeyboard)
        }
        _ => None,
    }
}

fn bytes(record: &Value, format: Format) -> Vec<u8> {
    match format {
        Format::IdTechBinary => hex::decode(record["raw_hex"].as_str().unwrap()).unwrap(),
        _ => record["raw_text"].as_str().unwrap().trim_end().as_bytes().to_vec(),
    }
}

#[tokio::test]
async fn real_outputs_pass_the_wire_unchanged() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../core/tests/vectors/device_output.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let module = CommModule::start(config("127.0.0.1:1".parse().unwrap(), &Certificates::new())).unwrap();
    let mut used = 0;
    for record in vectors["records"].as_array().unwrap() {
        let Some(format) = format(record) else { continue };
        let output = bytes(record, format);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = Connection::parse(&format!("tcp:{}", listener.local_addr().unwrap())).unwrap();
        let mut device = module.attach(connection, format).await.unwrap();
        let (mut wire, _) = listener.accept().await.unwrap();
        let end: &[u8] = if format == Format::IdTechBinary { b"" } else { b"\r\n" };
        wire.write_all(&[&output, end, &output, end].concat()).await.unwrap();
        for _ in 0..2 {
            let collected = device.collect_waiting(SOON).await.unwrap();
            assert_eq!(collected.as_bytes().trim_ascii_end(), output.trim_ascii_end(), "{}", record["id"]);
        }
        used += 1;
    }
    assert_eq!(used, USED);
}
