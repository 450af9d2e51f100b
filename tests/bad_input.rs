//! What must not work: each with its exact answer, its true cause in the audit log, and nothing else disturbed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod stage;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use serde_json::Value;
use stage::desk::{self, NewDevice, keypad, old_reader};
use stage::sealer::Sealer;
use stage::shop::{Shop, TILL_KSN, approvals};
use stage::till::{No, Sale, Till, phone};
use stage::{Options, raw};
use tokio::io::AsyncWriteExt as _;
use tonic::Code;
use tonic::codegen::http;
use warifu_device_emu::format::Format;
use warifu_sdk::wire::v1;

const VISA: &str = "4111111111111111";

/// What a caller must be told, and what the audit log must hold.
struct Expected {
    reason: &'static str,
    code: Code,
    who: &'static str,
    retry: &'static str,
    cause: &'static str,
}

const fn expected(
    reason: &'static str,
    code: Code,
    who: &'static str,
    retry: &'static str,
    cause: &'static str,
) -> Expected {
    Expected { reason, code, who, retry, cause }
}

/// Refusals as they come, to be compared with the audit log at the end.
#[derive(Default)]
struct Refusals(Vec<(String, Expected)>);

impl Refusals {
    fn take<T: std::fmt::Debug>(&mut self, request: &str, answer: Result<T, No>, expected: Expected) {
        let no = answer.expect_err(request);
        assert_eq!(no.reason, expected.reason, "{request}: {no:?}");
        assert_eq!(
            (no.code, no.who.as_str(), no.retry.as_str()),
            (expected.code, expected.who, expected.retry),
            "{request}"
        );
        assert_eq!(no.request.as_deref(), Some(request), "{request}");
        assert!(!no.message.is_empty() && !no.message.contains(VISA), "{no:?}");
        self.0.push((request.to_owned(), expected));
    }

    /// Each has one record of a refusal, which says why.
    fn are_in(&self, records: &[Value]) {
        for (request, expected) in &self.0 {
            let own: Vec<&Value> = records.iter().filter(|record| record["request"] == **request).collect();
            let refusals: Vec<&&Value> = own
                .iter()
                .filter(|record| record["kind"] == "request.refused" || record["kind"] == "frame.refused")
                .collect();
            assert_eq!(refusals.len(), 1, "{request}: {own:?}");
            let cause = refusals[0]["cause"].as_str().unwrap_or_default();
            assert!(cause.contains(expected.cause), "{request}: {cause:?}");
        }
    }
}

/// A frame with its counter changed, its MAC left as it was.
fn with_counter(frame: &[u8], counter: u32) -> Vec<u8> {
    let mut changed = frame.to_vec();
    changed[16..20].copy_from_slice(&counter.to_be_bytes());
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_frame_is_refused_for_its_reason_and_the_audit_log_has_the_cause() {
    let shop = Shop::open().await;
    let server = &shop.server;
    server.register_device(&keypad("in-a-box", "12345678900A010100000000"));
    server.add_device(&keypad("lost", "12345678900A010200000000"));
    server.operated(&["device", "suspend", "lost"]);
    server.add_device(&keypad("scrapped", "12345678900A010300000000"));
    server.operated(&["device", "retire", "scrapped"]);
    server.add_device(&old_reader("stripe", "FFFF987654A100000000", "magtek-hid"));
    server.add_merchant("bakery", "bakery-till");
    server.add_device(&NewDevice { merchant: "bakery", ..keypad("foreign", "12345678900A010400000000") });

    let mut device = Sealer::aes(TILL_KSN);
    let used = device.keyed(VISA);
    shop.till.tokenize("good", &used).await.unwrap();
    let good = device.keyed(VISA);
    let mut wrong_mac = good.clone();
    *wrong_mac.last_mut().unwrap() ^= 1;
    let mut clear_card = b"%B4111111111111111^A/CARD^30122010000012300?".to_vec();
    clear_card.push(b'\r');
    let many_ones = with_counter(&good, 0x0001_FFFF);
    let zero = with_counter(&good, 0);
    let of = |ksn: &str| Sealer::aes(ksn).keyed(VISA);
    let wrong_format = Sealer::tdes("FFFF987654A100000000", Format::IdTechBinary).swiped(VISA);
    let mut stranger = Sealer::aes_under("00112233445566778899AABBCCDDEEFF", TILL_KSN);
    stranger.skip(10);
    let forged = stranger.keyed(VISA);

    let malformed = |cause| expected("FRAME_MALFORMED", Code::InvalidArgument, "merchant", "new-card", cause);
    let unknown = |cause| expected("DEVICE_UNKNOWN", Code::NotFound, "operator", "no", cause);
    let inactive = |cause| expected("DEVICE_NOT_ACTIVE", Code::FailedPrecondition, "operator", "no", cause);
    let illegal = |cause| expected("COUNTER_ILLEGAL", Code::InvalidArgument, "merchant", "new-card", cause);
    let refused = |cause| expected("FRAME_REFUSED", Code::InvalidArgument, "merchant", "new-card", cause);
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("garbage", vec![0xA5; 100], malformed("does not start")),
        ("nothing", Vec::new(), malformed("damaged or not in its device's format")),
        ("cut-off", good[..good.len() - 1].to_vec(), malformed("ends too early")),
        ("too-long", [good.as_slice(), b"x"].concat(), malformed("longer than its own length")),
        ("version", [&good[..2], &[9], &good[3..]].concat(), malformed("version 9")),
        ("oversized-output", vec![0x57; 5000], malformed("damaged or not in its device's format")),
        ("clear-card", clear_card, malformed("")),
        ("wrong-format", wrong_format, malformed("another format")),
        ("unknown-device", of("12345678900A01FF00000000"), unknown("no device")),
        ("foreign-device", of("12345678900A010400000000"), unknown("another merchant")),
        ("registered", of("12345678900A010100000000"), inactive("not in use yet")),
        ("suspended", of("12345678900A010200000000"), inactive("suspended")),
        ("retired", of("12345678900A010300000000"), inactive("retired")),
        ("counter-zero", zero, illegal("counter 0")),
        ("counter-ones", many_ones, illegal("17 one-bits")),
        ("used", used, expected("FRAME_REPLAYED", Code::AlreadyExists, "merchant", "new-card", "used before")),
        ("wrong-mac", wrong_mac, refused("MAC is wrong")),
        ("wrong-key", forged, refused("MAC is wrong")),
    ];
    let mut refusals = Refusals::default();
    for (request, frame, expected) in cases {
        refusals.take(request, shop.till.authorize(request, &frame, phone(request, 1200)).await, expected);
    }
    let luhn = device.keyed("4111111111111112");
    let invalid = expected("CARD_INVALID", Code::InvalidArgument, "merchant", "new-card", "check digit");
    refusals.take("luhn", shop.till.authorize("luhn", &luhn, phone("luhn", 1200)).await, invalid);

    // The refusals used nothing up but the counter of the card that was genuine.
    let payment = shop.till.authorize("next", &device.keyed(VISA), phone("next", 1200)).await.unwrap();
    assert_eq!(payment.response_code, "00");
    assert_eq!(approvals(&shop.journal()), 1, "nothing refused has reached the acquirer");
    refusals.are_in(&shop.server.audit_records());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_frame_with_a_bad_card_has_used_its_counter() {
    let shop = Shop::open().await;
    let luhn = Sealer::aes(TILL_KSN).keyed("4111111111111112");
    assert_eq!(shop.till.tokenize("first", &luhn).await.unwrap_err().reason, "CARD_INVALID");
    assert_eq!(shop.till.tokenize("second", &luhn).await.unwrap_err().reason, "FRAME_REPLAYED");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_field_is_refused_for_its_reason_and_uses_no_frame() {
    let shop = Shop::open().await;
    let frame = Sealer::aes(TILL_KSN).keyed(VISA);
    let whole = |request: &str| v1::AuthorizeRequest {
        request_id: request.to_owned(),
        output: Some(v1::DeviceOutput { frame: Bytes::from(frame.clone()) }),
        order: "1001".to_owned(),
        amount: Some(v1::Money { minor: 1200, currency: "JPY".to_owned() }),
        channel: v1::Channel::Telephone.into(),
    };
    let developer = |reason, cause| expected(reason, Code::InvalidArgument, "developer", "no", cause);
    let amount = || developer("AMOUNT_INVALID", "minor units");
    let currency = || developer("CURRENCY_INVALID", "ISO 4217");
    let order = || developer("ORDER_INVALID", "printable");
    let channel = || developer("CHANNEL_INVALID", "channel");
    type Change = Box<dyn Fn(&mut v1::AuthorizeRequest)>;
    let money = |minor: i64, currency: &'static str| -> Change {
        Box::new(move |ask| ask.amount = Some(v1::Money { minor, currency: currency.to_owned() }))
    };
    let cases: Vec<(&str, Change, Expected)> = vec![
        ("no-amount", Box::new(|ask| ask.amount = None), amount()),
        ("zero", money(0, "JPY"), amount()),
        ("negative", money(-1, "JPY"), amount()),
        ("huge", money(1_000_000_000_000, "JPY"), amount()),
        ("overflow", money(i64::MIN, "JPY"), amount()),
        ("no-currency", money(1200, ""), currency()),
        ("small-letters", money(1200, "jpy"), currency()),
        ("not-iso", money(1200, "ZZZ"), currency()),
        ("no-order", Box::new(|ask| ask.order.clear()), order()),
        ("long-order", Box::new(|ask| ask.order = "1".repeat(65)), order()),
        ("odd-order", Box::new(|ask| ask.order = "10\n01".to_owned()), order()),
        ("no-channel", Box::new(|ask| ask.channel = 0), channel()),
        ("new-channel", Box::new(|ask| ask.channel = 99), channel()),
        (
            "no-output",
            Box::new(|ask| ask.output = None),
            expected("FRAME_MALFORMED", Code::InvalidArgument, "merchant", "new-card", "damaged"),
        ),
    ];
    let mut refusals = Refusals::default();
    for (request, change, expected) in cases {
        let mut ask = whole(request);
        change(&mut ask);
        refusals.take(request, shop.till.ask(ask).await, expected);
    }
    for request in ["", "two words", "slash/slash", &"x".repeat(65)] {
        let no = shop.till.ask(whole(request)).await.unwrap_err();
        assert_eq!(
            (no.reason.as_str(), no.code, no.who.as_str()),
            ("REQUEST_ID_INVALID", Code::InvalidArgument, "developer")
        );
        assert_eq!(no.request, None, "an unreadable id is not repeated");
    }
    assert_eq!(shop.till.find_sale("").await.unwrap_err().reason, "ORDER_INVALID");
    shop.till.ask(whole("good")).await.unwrap();
    refusals.are_in(&shop.server.audit_records());
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_a_registered_certificate_are_not_let_in() {
    let shop = Shop::open().await;
    let frame = Sealer::aes(TILL_KSN).keyed(VISA);
    let unregistered = shop.server.issue("nobody");
    let nobody = Till::as_module(&shop.server, &unregistered.certificate, &unregistered.key).await;
    let no = nobody.authorize("r1", &frame, phone("1001", 1200)).await.unwrap_err();
    assert_eq!((no.reason.as_str(), no.code), ("MODULE_UNKNOWN", Code::Unauthenticated));
    assert_eq!((no.who.as_str(), no.retry.as_str()), ("operator", "no"));
    assert_eq!(nobody.find_sale("1001").await.unwrap_err(), No { request: None, ..no.clone() });

    let blocked = shop.server.add_merchant("bakery", "bakery-till");
    let bakery = Till::as_module(&shop.server, &blocked.certificate, &blocked.key).await;
    bakery.find_sale("1001").await.unwrap();
    // When the command returns, it is in force.
    shop.server.operated(&["module", "block", "bakery-till"]);
    assert_eq!(bakery.find_sale("1001").await.unwrap_err().reason, "MODULE_UNKNOWN");

    // Certificates of another authority, and none at all, do not pass TLS.
    let elsewhere = shop.dir.path().join("elsewhere");
    desk::run(&["pki", "init", "--dir", elsewhere.to_str().unwrap()]);
    let foreign = desk::issue(&elsewhere, "demo-pos");
    let dialled =
        [Till::dial(&shop.server, &foreign.certificate, &foreign.key).await, Till::dial_unnamed(&shop.server).await];
    // TLS 1.3 tells a client of its refused certificate with the first answer, so dialling may have gone well.
    for till in dialled.into_iter().flatten() {
        let no = till.authorize("r1", &frame, phone("1001", 1200)).await.unwrap_err();
        assert_eq!(no.reason, "", "the application has not even seen it: {no:?}");
    }
    let (_, metrics) = shop.server.http("/metrics");
    let counted =
        metrics.lines().find_map(|line| line.strip_prefix("warifu_connections_refused_total{cause=\"handshake\"} "));
    assert!(counted.is_some_and(|count| count.parse::<u32>().unwrap() >= 2), "{counted:?}");

    shop.till.authorize("r1", &frame, phone("1001", 1200)).await.unwrap();
    let records = shop.server.audit_records();
    let refused: Vec<&Value> = records.iter().filter(|record| record["kind"] == "caller.refused").collect();
    for cause in ["certificate", "blocked", "TLS handshake failed"] {
        assert!(refused.iter().any(|record| record["cause"].as_str().unwrap().contains(cause)), "{cause}: {refused:?}");
    }
    assert_eq!(approvals(&shop.journal()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_message_is_refused_and_the_next_one_is_served() {
    let shop = Shop::open().await;
    let mut device = Sealer::aes(TILL_KSN);
    let no = shop.till.authorize("big", &vec![0x57; 70_000], phone("1001", 1200)).await.unwrap_err();
    assert_eq!(no.reason, "FRAME_MALFORMED", "{no:?}");
    let order = "1".repeat(60_000);
    let long = Sale { order: &order, ..phone("", 1200) };
    let no = shop.till.authorize("long", &device.keyed(VISA), long).await.unwrap_err();
    assert_eq!(no.reason, "ORDER_INVALID", "{no:?}");
    shop.till.authorize("next", &device.keyed(VISA), phone("1002", 1200)).await.unwrap();
}

/// The server's limits in tests of slowness.
fn impatient() -> Options {
    let settings = [("REQUEST_TIMEOUT_MS", "1500"), ("IDLE_TIMEOUT_MS", "2000")];
    let environment = settings.map(|(name, value)| (format!("WARIFU__SERVER__{name}"), value.to_owned())).to_vec();
    Options { environment, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_callers_are_cut_and_others_are_served_meanwhile() {
    let shop = Shop::with(impatient()).await;
    let limit = Duration::from_secs(25);
    let (brisk, lazy) = (Duration::from_millis(150), Duration::from_millis(1500));
    // The head of a TLS record that announces a ClientHello of 508 bytes.
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..], &[0; 500]].concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // A header block of 16,000 bytes that takes hours to arrive.
    let headers = [0, 0x3E, 0x80, 1, 4, 0, 0, 0, 1];
    let mut begun = raw::tls(&shop.server).await;
    begun.write_all(&[&preface[..], &settings, &headers].concat()).await.unwrap();
    let (silent, mute) = (raw::tcp(&shop.server).await, raw::tls(&shop.server).await);
    let (dripping, creeping) = (raw::tcp(&shop.server).await, raw::tls(&shop.server).await);
    let slow = [
        ("TCP and nothing else", tokio::spawn(raw::stay_silent(silent, limit))),
        ("a dripping ClientHello", tokio::spawn(async move { raw::drip(dripping, &hello, brisk, limit).await })),
        ("TLS and nothing else", tokio::spawn(raw::stay_silent(mute, limit))),
        ("a creeping preface", tokio::spawn(async move { raw::drip(creeping, preface, lazy, limit).await })),
        ("a creeping header block", tokio::spawn(async move { raw::drip(begun, &[0], lazy, limit).await })),
    ];

    let mut device = Sealer::aes(TILL_KSN);
    let mut sales = 0;
    while slow.iter().any(|(_, client)| !client.is_finished()) {
        let asked = Instant::now();
        let request = format!("meanwhile-{sales}");
        shop.till.authorize(&request, &device.keyed(VISA), phone(&request, 1200)).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "a sale took {:?}", asked.elapsed());
        sales += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    for (what, client) in slow {
        println!("{what}: cut after {:?}", client.await.unwrap_or_else(|error| panic!("{what}: {error}")));
    }
    assert!(sales > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_drips_is_answered_in_time_and_written_down() {
    let shop = Shop::with(impatient()).await;
    let (client, connection) = h2::client::handshake(raw::tls(&shop.server).await).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("https://localhost/warifu.v1.CommModuleService/Tokenize")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let begun = Instant::now();
    let (answer, mut body) = client.ready().await.unwrap().send_request(request, false).unwrap();
    // A message of 200 bytes is announced.
    body.send_data(Bytes::from_static(&[0, 0, 0, 0, 200]), false).unwrap();
    let drip = tokio::spawn(async move {
        while body.send_data(Bytes::from_static(&[0x0A]), false).is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.expect("an answer").unwrap();
    drip.abort();
    assert!(begun.elapsed() < Duration::from_secs(5), "answered after {:?}", begun.elapsed());
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("grpc-status"), "4", "deadline exceeded");
    let details = STANDARD_NO_PAD.decode(header("grpc-status-details-bin").trim_end_matches('=')).unwrap();
    assert!(memchr::memmem::find(&details, b"TIMED_OUT").is_some());
    let records = shop.server.audit_records();
    assert!(
        records.iter().any(|record| record["cause"].as_str().unwrap_or_default().contains("in time")),
        "{records:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_changed_at_any_place_of_a_native_frame_is_refused() {
    let shop = Shop::open().await;
    shop.server.add_device(&old_reader("old", "FFFF987654A200000000", "native"));
    let mut aes = Sealer::aes(TILL_KSN);
    aes.skip(5);
    let mut tdes = Sealer::tdes("FFFF987654A200000000", Format::Native);
    tdes.skip(5);
    for (name, frame, next) in
        [("aes", aes.keyed(VISA), aes.keyed(VISA)), ("tdes", tdes.swiped(VISA), tdes.keyed(VISA))]
    {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for place in 0..frame.len() {
            for mask in [0x01, 0x80, 0xFF] {
                let mut changed = frame.clone();
                changed[place] ^= mask;
                let request = format!("{name}-{place}-{mask:02X}");
                let no = shop.till.tokenize(&request, &changed).await.expect_err(&request);
                assert_eq!(no.retry.is_empty(), no.reason.is_empty(), "{no:?}");
                *reasons.entry(no.reason).or_default() += 1;
            }
        }
        let known = ["COUNTER_ILLEGAL", "DEVICE_UNKNOWN", "FRAME_MALFORMED", "FRAME_REFUSED", "FRAME_REPLAYED"];
        assert!(reasons.keys().all(|reason| known.contains(&reason.as_str())), "{reasons:?}");
        assert!(reasons["FRAME_REFUSED"] > frame.len(), "most changes are found by the MAC: {reasons:?}");
        // None of them has used the frame's counter, or hurt the device.
        let card = shop.till.tokenize(&format!("{name}-whole"), &frame).await.unwrap();
        assert_eq!(shop.till.tokenize(&format!("{name}-next"), &next).await.unwrap().token, card.token);
    }
    assert_eq!(shop.server.http("/readyz").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_changed_at_any_place_of_a_vendors_frame_gives_no_other_card() {
    let environment = vec![("WARIFU__SERVER__FAULT_LIMIT".to_owned(), "1000".to_owned())];
    let shop = Shop::with(Options { environment, ..Options::default() }).await;
    let formats = [
        ("idtech-binary", Format::IdTechBinary, "FFFF987654B100000000"),
        ("idtech-keyboard", Format::IdTechKeyboard, "FFFF987654B200000000"),
        ("magtek-keyboard", Format::MagTekKeyboard, "FFFF987654B300000000"),
    ];
    for (name, format, ksn) in formats {
        shop.server.add_device(&old_reader(name, ksn, name));
        let mut device = Sealer::tdes(ksn, format);
        let whole = device.swiped(VISA);
        let card = shop.till.tokenize(&format!("{name}-whole"), &whole).await.unwrap();
        let mut accepted = 0;
        for place in 0..whole.len() {
            // Each on a frame of its own, so that a change that is taken does not hide the next ones.
            let mut changed = device.swiped(VISA);
            changed[place] ^= 1 << (place % 8);
            let request = format!("{name}-{place}");
            match shop.till.tokenize(&request, &changed).await {
                Ok(taken) => {
                    accepted += 1;
                    assert_eq!(
                        (taken.token, taken.masked_pan),
                        (card.token.clone(), card.masked_pan.clone()),
                        "{request}"
                    );
                }
                Err(no) => assert!(!no.reason.is_empty() && no.reason != "INTERNAL", "{request}: {no:?}"),
            }
        }
        println!("{name}: of {} changes {accepted} were taken as the same card", whole.len());
        assert!(accepted < whole.len() / 2);
        let next = device.swiped(VISA);
        assert_eq!(shop.till.tokenize(&format!("{name}-next"), &next).await.unwrap().token, card.token);
    }
    assert_eq!(shop.server.http("/readyz").0, 200);
}
